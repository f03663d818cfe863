//! Connects the state machine with its snapshot files: reconciles snapshot and journal at a start, writes a frozen
//! state to a snapshot, and restores a state from one.

pub mod faults;
pub mod restore;
pub mod start;
pub mod worker;

pub use faults::fault;
pub use restore::Restore;
pub use start::reconcile_with_log;
pub use worker::{Job, JobResult, SnapshotWorker};
