//! Who asks: clients of a cluster.
//!
//! [`Client`] blocks and has one thing under way; [`Fleet`] drives many connections with many things
//! under way on each, from one thread. Both open a session in the log, number what they ask, and ask
//! again under the same number until they know: each command takes effect once, whatever breaks in
//! between. What is not known when time runs out is said to be unknown. Both begin with the endpoints they
//! were given, and learn where the members are by and by: a cluster may replace all of them.
//!
//! A [`Connection`] leads to one node, for whoever means that one and no other.

mod blocking;
pub(crate) mod call_protocol;
mod clock;
mod connection;
mod dialing;
mod error;
mod fleet;
mod in_flight;
mod known;
mod mux;
pub(crate) mod mux_protocol;
mod scout;
mod scout_protocol;
mod snapshot_reader;

pub use blocking::{Client, Executed, Queried};
pub use call_protocol::Options;
pub use connection::{CallError, Connection, deadline};
pub use error::{ClientError, Tried};
pub use fleet::Fleet;
pub use mux::Mux;
pub use mux_protocol::{Completion, MuxOptions, Result};
pub use snapshot_reader::SnapshotReader;
