//! Connects the state machine with its snapshot files: reconciles snapshot and journal at a start, writes the frozen
//! state to a file, and restores a state from a file.

pub mod faults;
pub mod restore;
pub mod start;
pub mod worker;

pub use faults::to_node_fault;
pub use restore::SnapshotRestore;
pub use start::reconcile_with_log;
pub use worker::{Job, JobResult, SnapshotWorker};
