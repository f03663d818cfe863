//! # drave
//!
//! A replicated log and key-value server, and the Raft library inside it.
//!
//! ## A state machine of your own
//!
//! The replicated part is a [`StateMachine`]: it applies commands and returns answers, the same on every node.
//! Sessions around it apply each command exactly once; below it is a log on the disks of a majority.
//!
//! ```
//! use bytes::Bytes;
//! use drave::{ClusterTime, Context, Malformed, StateMachine};
//!
//! /// Counts bytes. The second number is the frozen count, until it is serialized.
//! #[derive(Default)]
//! struct Counter(u64, Option<u64>);
//!
//! impl StateMachine for Counter {
//!     fn apply(&mut self, _context: &Context, command: &[u8]) -> Bytes {
//!         self.0 += command.len() as u64;
//!         Bytes::from(self.0.to_string())
//!     }
//!     fn query(&self, _time: ClusterTime, _query: &[u8]) -> Bytes {
//!         Bytes::from(self.0.to_string())
//!     }
//!     fn digest(&self) -> u64 {
//!         self.0
//!     }
//!
//!     // Snapshots replace the log:
//!     fn freeze(&mut self) {
//!         self.1 = Some(self.0);
//!     }
//!     fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
//!         self.1.take().map(|count| Bytes::copy_from_slice(&count.to_le_bytes()))
//!     }
//!     fn end_snapshot(&mut self) {
//!         self.1 = None;
//!     }
//!     fn empty(&self) -> Counter {
//!         Counter::default()
//!     }
//!     fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
//!         let count = chunk.try_into().map_err(|_| Malformed("not a count"))?;
//!         self.0 = u64::from_le_bytes(count);
//!         Ok(())
//!     }
//! }
//! ```
//!
//! [`Server::open`] serves the state machine on a socket; `examples/counter.rs` is a complete program.
//!
//! ## What to read
//!
//! | for | read |
//! |---|---|
//! | a node in your process | [`Config`], [`Server`], [`Handle`], [`Leadership`] |
//! | a state machine | [`StateMachine`], [`Context`], [`Digest`] |
//! | a client | [`Client`] (one call at a time), [`Mux`] (many, on an event loop of yours), [`ClientError`], [`Refusal`] |
//! | Raft alone, without I/O | [`consensus`] |
//! | many hours of faults in a second | [`sim`] |
//! | how drave is built | `docs/architecture.md`, `wal-format.md`, and the comments in the source |
//!
//! ## Simulation
//!
//! The same node, journal and codec run in a simulated world, where one seed determines a whole history:
//!
//! ```
//! use drave::sim::{Scenario, run};
//! use std::time::Duration;
//!
//! let outcome = run(Scenario::draw(7, Duration::from_secs(2)), None).expect("no invariant is violated");
//! assert_eq!(Ok(outcome), run(Scenario::draw(7, Duration::from_secs(2)), None));
//! ```
//!
//! ## Stability
//!
//! What this page shows is the library. The other modules are public for the program `drave` and for the tests, hidden
//! in this documentation, and change without notice.

#[doc(hidden)]
pub mod admission;
#[doc(hidden)]
pub mod api;
#[doc(hidden)]
pub mod apply;
#[doc(hidden)]
pub mod client;
#[doc(hidden)]
pub mod codec;
#[doc(hidden)]
pub mod config;
pub mod consensus;
#[doc(hidden)]
pub mod disk;
#[doc(hidden)]
pub mod driver;
#[doc(hidden)]
pub mod gateway;
#[doc(hidden)]
pub mod inspect;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod node;
#[doc(hidden)]
pub mod pipeline;
#[doc(hidden)]
pub mod scrub;
#[doc(hidden)]
pub mod secure;
#[doc(hidden)]
pub mod server;
pub mod sim;
#[doc(hidden)]
pub mod snapshot;
#[doc(hidden)]
pub mod snapshotting;
pub mod types;
#[doc(hidden)]
pub mod wal;
#[doc(hidden)]
pub mod wire;

#[doc(inline)]
pub use api::{Consistency, Refusal, Status};
#[doc(inline)]
pub use client::{
    CallError, Client, ClientError, CommandResult, Completion, Connection, FailedAttempts, Fleet, Mux, MuxOptions,
    Options as ClientOptions, QueryResult, Readiness,
};
#[doc(inline)]
pub use codec::Malformed;
#[doc(inline)]
pub use config::{BindAddress, Config, ConfigError, JoinTarget, SEGMENT_BYTES_MIN};
#[doc(inline)]
pub use machine::{Context, StateMachine};
#[doc(inline)]
pub use server::{Handle, Leadership, Server, ServerError, handle::Session};
#[doc(inline)]
pub use types::digest::{Digest, hash};
#[doc(inline)]
pub use types::{Change, ClusterId, ClusterTime, Index, Member, Membership, NodeId, Position, Term};
