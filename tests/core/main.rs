//! Tests of the Raft core without journal, sockets and state machine: the paper sentence by sentence, membership
//! changes, faults of one node, a model of promised positions, and recorded traces in readable text.

mod cluster;
mod faults;
mod feature_levels;
mod members;
mod paper;
mod promises;
mod trace_script;
mod trace_text;
mod traces;
mod voters;
