//! `drave bench`: latency and throughput of a cluster, and of the disk and the network under it.

pub mod args;
pub mod load;
pub mod raw;
pub mod report;
pub mod verify;
