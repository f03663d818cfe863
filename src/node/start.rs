//! From what the journal remembers to a node that takes part.

use super::node::Node;
use super::options::Options;
use crate::consensus::replica::{Recovered, Replica};
use crate::consensus::{Options as RaftOptions, Raft};
use crate::types::{NodeId, Time};
use crate::wal;

/// A node as its disk remembers it: everything durable, nothing known to be committed beyond the
/// base, a follower of nobody.
///
/// `seed` is all the chance it will ever have; draw another for each run of a process.
pub fn start(
    id: NodeId,
    recovered: wal::Recovered,
    raft_options: RaftOptions,
    options: Options,
    now: Time,
    seed: u64,
) -> Node {
    let entries = recovered.heads.iter().map(|head| (head.term, u64::from(head.bytes))).collect();
    let remembered = Recovered {
        hard_state: recovered.hard_state,
        base: recovered.base,
        entries,
        configurations: recovered.configurations,
        time: recovered.last_time,
    };
    let replica = Replica::recover(id, raft_options.clone(), remembered, seed);
    Node::new(Raft::new(replica, now), recovered.view, options, &raft_options, seed)
}
