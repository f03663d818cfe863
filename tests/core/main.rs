//! Raft on bare cores: the paper sentence by sentence, membership changes in scenarios, and faults of one node.

mod cluster;
mod faults;
mod members;
mod paper;
mod promises;
mod voters;
