//! # drave
//!
//! A replicated log and key-value server, and the Raft library inside it.
//!
//! ## A state machine of your own
//!
//! The replicated part is a [`machine::StateMachine`]: it applies commands and returns answers, the same on every node.
//! Sessions around it apply each command exactly once; below it is a log on the disks of a majority.
//!
//! ```
//! use bytes::Bytes;
//! use drave::codec::Malformed;
//! use drave::machine::{Context, StateMachine};
//! use drave::types::ClusterTime;
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
//! [`server::Server::open`] serves it on a socket; `examples/counter.rs` is a complete program.
//!
//! ## Simulating it
//!
//! The same node, journal and codec run in a simulated world, where one seed determines a whole history:
//!
//! ```
//! use drave::sim::{Scenario, run};
//! use std::time::Duration;
//!
//! let outcome = run(Scenario::draw(7, Duration::from_secs(2)), None).expect("nothing is violated");
//! assert_eq!(Ok(outcome), run(Scenario::draw(7, Duration::from_secs(2)), None));
//! ```
//!
//! ## The modules, bottom up
//!
//! Each module uses only modules above it in this table, or in its row; `tests/house.rs` checks this.
//!
//! | module | contents |
//! |---|---|
//! | [`types`], [`limits`] | data types; every limit |
//! | [`codec`], [`api`] | encoding; the requests and replies of a cluster |
//! | [`disk`] | the few guarantees required of a file system |
//! | [`secure`] | byte streams that may be encrypted |
//! | [`consensus`] | Raft: no clock, thread, socket or file |
//! | [`wal`] | the journal: entries and hard state in one ordered stream |
//! | [`snapshot`] | snapshot files, which replace a log prefix, each published as a whole |
//! | [`machine`], [`apply`] | the state machine, and the sessions around it |
//! | [`snapshotting`] | takes snapshots of a state, and restores a state from them |
//! | [`pipeline`] | the requests of one gateway connection: in order, once |
//! | [`wire`], [`client`] | messages and frames; clients |
//! | [`node`] | the whole server without its I/O |
//! | [`net`], [`sim`] | the two drivers of a node: sockets and threads, and the simulator |
//! | [`config`], [`server`] | configuration; assembly |
//! | [`inspect`] | data directories, read offline |

pub mod admission;
pub mod api;
pub mod apply;
pub mod client;
pub mod codec;
pub mod config;
pub mod consensus;
pub mod disk;
pub mod inspect;
pub mod limits;
pub mod machine;
pub mod net;
pub mod node;
pub mod pipeline;
pub mod secure;
pub mod server;
pub mod sim;
pub mod snapshot;
pub mod snapshotting;
pub mod types;
pub mod wal;
pub mod wire;
