//! Between the machine and the files its snapshots stand in: what a start makes of them and of the
//! journal, how a frozen state is written down, and how one is taken in again.

pub mod restore;
pub mod start;
pub mod trouble;
pub mod worker;

pub use restore::Reviving;
pub use start::bring_together;
pub use trouble::fault;
pub use worker::{Job, JobResult, Keeper};
