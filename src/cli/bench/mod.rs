//! `drave bench`: latency and throughput of a cluster, and of the disk and the network under it.

pub mod args;
pub mod axis;
pub mod draw;
pub mod failover;
pub mod gaps;
pub mod hgrm;
pub mod load;
pub mod outcome;
pub mod page;
pub mod proxy;
pub mod raw;
pub mod report;
pub mod steady;
pub mod sweep;
pub mod trio;
pub mod verify;
