//! Creates a node from the state that the journal recovered.
//!
//! A start joins three things that were made durable at different times: hard state and log from the journal, the
//! machine from the newest snapshot, and the disk's identity. The caller has reconciled the first two
//! (`snapshotting::start`), so that the log begins no later than the snapshot ends.

use super::node::{Node, NodeStart};
use super::options::Options;
use crate::consensus::replica::{Recovered, Replica};
use crate::consensus::{Options as RaftOptions, Raft};
use crate::types::NodeId;
use crate::wal;

/// Creates a node from its recovered state: a follower without a leader, which knows no entry to be committed beyond
/// those applied to its machine.
///
/// The commit index is not stored: a leader tells it, and a stored one would cost a sync for nothing (Figure 2 lists
/// it as volatile). Entries of the log are durable here, because the journal has synced what it recovered; a page that
/// only the kernel's cache held must not be acknowledged.
pub fn start(
    id: NodeId,
    recovered: wal::Recovered,
    raft_options: RaftOptions,
    options: Options,
    begun: NodeStart,
) -> Node {
    // The core knows terms and sizes; the payloads stay in the view.
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
