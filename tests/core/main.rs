//! Raft on bare cores: the paper sentence by sentence, membership changes in scenarios, faults of one node, and traces
//! that a person can read.

mod cluster;
mod faults;
mod members;
mod paper;
mod promises;
mod trace_script;
mod trace_text;
mod traces;
mod voters;
