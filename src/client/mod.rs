//! Clients of a cluster.
//!
//! [`Client`] blocks and has one call at a time; [`Fleet`] drives many connections, with many requests in flight on
//! each, from one thread. Both open a session in the log, number their commands, and retry under the same number until
//! the outcome is known: each command takes effect once, whatever fails in between. An outcome that is not known at the
//! timeout is reported as unknown. Both start with the given endpoints and learn the members' addresses over time:
//! a cluster may replace all of them.
//!
//! A [`Connection`] is a connection to one particular node.

mod blocking;
pub(crate) mod call_protocol;
mod clock;
mod connection;
mod dialing;
mod error;
mod fleet;
mod in_flight;
mod known;
mod leader_query;
mod leader_query_protocol;
mod mux;
pub(crate) mod mux_protocol;
mod snapshot_reader;

pub use blocking::{Client, CommandResult, QueryResult};
pub use call_protocol::Options;
pub use connection::{CallError, Connection, deadline};
pub use error::{ClientError, FailedAttempts};
pub use fleet::Fleet;
pub use mux::{Mux, Readiness};
pub use mux_protocol::{Completion, MuxOptions, RequestResult};
pub use snapshot_reader::SnapshotReader;
