//! # drave
//!
//! A replicated log and key-value server, and the Raft library inside it.
//!
//! ## A machine of your own
//!
//! What is replicated is a [`machine::StateMachine`]: commands in, answers out, the same on every
//! node. Around it stand sessions, so each command takes effect once; under it a log on the disks of
//! a majority.
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
//! [`server::Server::open`] puts it behind a socket; `examples/counter.rs` is the whole program.
//!
//! ## A storm for it
//!
//! The same node, journal and codec run in a simulated world, where a seed is a whole history:
//!
//! ```
//! use drave::sim::{Scenario, run};
//! use std::time::Duration;
//!
//! let outcome = run(Scenario::draw(7, Duration::from_secs(2)), None).expect("nothing is violated");
//! assert_eq!(Ok(outcome), run(Scenario::draw(7, Duration::from_secs(2)), None));
//! ```
//!
//! ## The rooms, from the ground up
//!
//! Each uses only what stands below it; `tests/house.rs` sees to that.
//!
//! | room | what it is |
//! |---|---|
//! | [`types`], [`limits`] | nouns, and every bound |
//! | [`codec`], [`api`] | bytes; what may be asked of a cluster |
//! | [`disk`] | the few promises we need of a filesystem |
//! | [`secure`] | byte streams that may be encrypted |
//! | [`consensus`] | the algorithm: no clock, thread, socket or file |
//! | [`wal`] | the journal: entries and hard state in one ordered stream |
//! | [`snapshot`] | what takes the place of a log: one file, published whole |
//! | [`machine`], [`apply`] | the state machine, and the sessions around it |
//! | [`shelf`] | between those two and the snapshots: how a state is written down, and taken in |
//! | [`pipeline`] | the requests of one gateway connection: in order, once |
//! | [`wire`], [`client`] | what travels; who asks |
//! | [`node`] | the whole server, minus its I/O |
//! | [`net`], [`sim`] | two worlds to live in |
//! | [`config`], [`server`], [`cli`] | every knob; assembly; the command line |

pub mod admission;
pub mod api;
pub mod apply;
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod consensus;
pub mod disk;
pub mod limits;
pub mod machine;
pub mod net;
pub mod node;
pub mod pipeline;
pub mod secure;
pub mod server;
pub mod shelf;
pub mod sim;
pub mod snapshot;
pub mod types;
pub mod wal;
pub mod wire;
