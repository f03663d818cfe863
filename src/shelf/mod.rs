//! Between the machine and the files its snapshots stand in: what a start makes of them and of the
//! journal, how a frozen state is written down, and how one is taken in again.

pub mod keeper;
pub mod reviving;
pub mod start;
pub mod trouble;

pub use keeper::{Done, Job, Keeper};
pub use reviving::Reviving;
pub use start::bring_together;
pub use trouble::fault;
