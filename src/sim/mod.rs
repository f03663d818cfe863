//! A simulated world around the real node: the simulated disk loses data, the simulated network delays and loses
//! messages, and every run can be repeated exactly.
//!
//! Nothing here has its own clock, thread or random generator: time and randomness are passed in, so that a seed
//! determines the whole run. [`scenario`] draws the parameters of a world from its seed, [`world`] handles its events,
//! [`faults`] injects faults, [`operator`] changes the members, [`checks`] checks every step, and [`history`] checks
//! whether the results that the clients saw are linearizable.

mod applier_input;
mod applying;
mod call_client;
mod call_clients;
#[doc(hidden)]
pub mod checks;
mod client_calls;
mod client_link;
mod client_links;
#[doc(hidden)]
pub mod clients;
mod damage;
#[doc(hidden)]
pub mod disk;
mod disk_loss;
mod event;
#[doc(hidden)]
pub mod faults;
#[doc(hidden)]
pub mod history;
#[doc(hidden)]
pub mod host;
mod linked_client;
mod linked_clients;
mod logs;
mod mux_client;
mod mux_clients;
#[doc(hidden)]
pub mod network;
#[doc(hidden)]
pub mod node_history;
#[doc(hidden)]
pub mod operator;
mod operator_actions;
#[doc(hidden)]
pub mod operator_profile;
mod order;
mod pair_damage;
mod peer_connection;
mod peer_links;
mod pipelined_connection;
mod pipelines;
mod progress;
mod progress_law;
mod quorums;
mod recovery;
mod rest;
#[doc(hidden)]
pub mod run;
#[doc(hidden)]
pub mod scenario;
mod scrubs;
mod snapshot_jobs;
mod snapshots;
mod tasks;
mod upgrades;
mod values;
#[doc(hidden)]
pub mod violation;
#[doc(hidden)]
pub mod workload;
#[doc(hidden)]
pub mod world;

pub use run::{Violation, WorldReport, run};
pub use scenario::Scenario;
pub use snapshots::SnapshotCounts;
pub use world::Trace;
