//! `drave bench`: latency and throughput of a cluster, and of the disk and the network under it.

pub mod args;
pub mod axis;
pub mod baseline;
pub mod bench;
pub mod chart;
pub mod failover;
pub mod failover_args;
pub mod hgrm;
pub mod html;
pub mod load;
pub mod outage;
pub mod proxy;
pub mod report;
pub mod result;
pub mod steady_load;
pub mod sweep;
pub mod three_nodes;
pub mod verify;
