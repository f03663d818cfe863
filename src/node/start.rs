//! Creates a node from the state that the journal recovered.

use super::node::{Node, NodeStart};
use super::options::Options;
use crate::consensus::replica::{Recovered, Replica};
use crate::consensus::{Options as RaftOptions, Raft};
use crate::types::NodeId;
use crate::wal;

/// Creates a node from its recovered state: a follower without a leader, which knows no entry to be committed beyond
/// those applied to its machine.
pub fn start(
    id: NodeId,
    recovered: wal::Recovered,
    raft_options: RaftOptions,
    options: Options,
    begun: NodeStart,
) -> Node {
    let entries = recovered.heads.iter().map(|head| (head.term, u64::from(head.bytes))).collect();
    let remembered = Recovered {
        disk: begun.disk,
        hard_state: recovered.hard_state,
        base: recovered.base,
        entries,
        configurations: recovered.configurations,
        time: recovered.last_time,
        applied: begun.applied.upto,
    };
    let replica = Replica::recover(id, raft_options, remembered, begun.chance);
    Node::new(Raft::new(replica, begun.now), recovered.view, options, begun)
}
