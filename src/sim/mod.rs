//! A simulated world around the real node: a disk that loses, a network that delays, and chance
//! that repeats.
//!
//! Nothing here has a clock, a thread or a generator of its own: time and chance are handed in, so
//! that a seed is a whole history. [`scenario`] draws what a world is like from its seed; [`world`]
//! lets it happen, [`troubles`] makes it hard, [`checks`] looks at every step, and [`history`] asks
//! of what the clients saw whether one machine could have answered it.

mod applying;
mod call_clients;
mod calm;
pub mod checks;
mod client_calls;
mod client_links;
pub mod clients;
mod damage;
pub mod disk;
pub mod history;
pub mod host;
mod linked_clients;
mod logs;
mod members;
mod mux_clients;
pub mod network;
pub mod operator;
mod order;
mod peer_links;
mod pipelines;
mod progress;
mod quorums;
mod recovery;
pub mod run;
pub mod scenario;
mod snapshots;
mod tasks;
pub mod troubles;
mod values;
pub mod workload;
pub mod world;

pub use run::{Violation, WorldReport, run};
pub use scenario::Scenario;
pub use snapshots::SnapshotCounts;
pub use world::Trace;
