//! The whole server, minus its I/O: `handle(event)`, then `turn() -> actions`.
//!
//! [`Node`] stands between the algorithm and the world: it knows who waits for which index, read,
//! leader or answer ([`requests`]), fills the core's ranges with payloads from the journal's view,
//! feeds the applier, and lets snapshots take the log's place ([`keeping`], [`shipping`]). Two drivers carry its [`Action`]s out: the reactor with sockets and
//! threads, the simulator with virtual ones.

pub mod beforehand;
pub mod event;
pub mod governing;
pub mod keeping;
pub mod node;
pub mod options;
pub mod requests;
pub mod shipping;
pub mod snapshot_reads;
pub mod space;
pub mod start;
pub mod stats;
mod ticking;

pub use event::{Action, Caller, Event, Kept};
pub use node::Node;
pub use options::Options;
pub use start::start;
