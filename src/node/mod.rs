//! The whole server, minus its I/O: `handle(event)`, then `turn() -> actions`.
//!
//! [`Node`] stands between the algorithm and the world: it knows who waits for which index, read,
//! leader or answer ([`requests`]), fills the core's ranges with payloads from the journal's view,
//! and feeds the applier. Two drivers carry its [`Action`]s out: the reactor with sockets and
//! threads, the simulator with virtual ones.

pub mod event;
pub mod node;
pub mod options;
pub mod requests;
pub mod start;
pub mod stats;

pub use event::{Action, Caller, Event};
pub use node::Node;
pub use options::Options;
pub use start::start;
