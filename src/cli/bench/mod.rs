//! `drave bench`: latency and throughput of a cluster, and of the disk and the network under it.

pub mod args;
pub mod failover;
pub mod gaps;
pub mod load;
pub mod proxy;
pub mod raw;
pub mod report;
pub mod steady;
pub mod trio;
pub mod verify;
