//! The whole server without its I/O: `handle(event)`, then `turn() -> actions`.
//!
//! ```text
//!                    ┌──────────────────────── Node ─────────────────────────┐
//!   Event::Request ─▶│ requests ──▶ consensus: positions ──▶ view: payloads  │─▶ Action::Write, Send
//!   Event::Peer    ─▶│                  │ commit                             │
//!   Event::Journal ─▶│                  ▼                                    │─▶ Action::Apply, Query
//!   Event::Applied ─▶│ requests ◀── outcomes   compaction, snapshot_sender   │─▶ Action::Reply, TakeSnapshot
//!                    └───────────────────────────────────────────────────────┘
//! ```
//!
//! A driver calls [`Node::handle`] for each event, then [`Node::turn`] once, and executes the actions, which cause
//! further events. It also calls `turn` at [`Node::deadline`] if no event happens before. Three rules hold for a
//! driver:
//!
//! 1. Writes are executed in order, and so is everything for the applier: batches, queries, snapshots. All other
//!    actions may be executed concurrently, late, or (messages) not at all.
//! 2. A report of the journal, the applier or the snapshot thread is handed in only after the work is done: the node
//!    relies on *durable* and *applied* being true.
//! 3. A crash may come at any point. State that is held in memory only is promised to no peer and no client.
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
pub mod repair_progress;
pub mod requests;
pub mod scrub_schedule;
pub mod snapshot_reads;
pub mod snapshot_sender;
pub mod space;
pub mod start;
pub mod stats;

pub use event::{Action, Caller, DurableSnapshot, Event};
pub use node::Node;
pub use options::Options;
pub use start::start;
