//! The whole server without its I/O: `handle(event)`, then `turn() -> actions`.
//!
//! [`Node`] connects the consensus core with the machine and the clients: it queues the requests that wait for an
//! index, a read, a leader or an answer ([`requests`]), fills the core's index ranges with payloads from the journal's
//! view, submits entries to the applier, and compacts the log behind snapshots ([`compaction`], [`snapshot_sender`]).
//! Two drivers perform its [`Action`]s: the reactor with sockets and threads, the simulator with virtual ones.

pub mod admin_waiters;
pub mod applier_queries;
pub mod compaction;
pub mod event;
mod expiry_ticker;
pub mod node;
pub mod options;
pub mod prefetch;
pub mod requests;
pub mod snapshot_reads;
pub mod snapshot_sender;
pub mod space;
pub mod start;
pub mod stats;

pub use event::{Action, Caller, DurableSnapshot, Event};
pub use node::Node;
pub use options::Options;
pub use start::start;
