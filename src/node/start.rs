//! Creates a node from the state that the journal recovered.
//!
//! A start combines three states that were made durable at different times: hard state and log from the journal, the
//! machine from the newest snapshot, and the disk's identity. The caller has reconciled the first two
//! (`snapshotting::start`), so that the log begins no later than the snapshot ends.

use super::node::{Node, NodeStart};
use super::options::Options;
use crate::consensus::replica::{RecoveredState, Replica};
use crate::consensus::{Options as RaftOptions, Raft};
use crate::types::{NodeId, Position};
use crate::wal;

/// Creates a node from its recovered state: a follower without a leader, which knows no entry to be committed beyond
/// those applied to its machine.
///
/// The commit index is not stored: the leader sends it, and storing it would cost a sync for nothing (Figure 2 lists
/// it as volatile). All entries of the log are durable here, because the journal has synced what it recovered: an entry
/// that was only in the kernel's page cache must not be acknowledged.
pub fn start(
    id: NodeId,
    recovered: wal::RecoveredLog,
    raft_options: RaftOptions,
    options: Options,
    node_start: NodeStart,
) -> Node {
    // The core gets each entry's term and its size in bytes; the payloads stay in the view.
    let entries = recovered.entries.iter().map(|head| (head.term, u64::from(head.bytes))).collect();
    let to_fragment = |(before, summaries): (Position, &[wal::EntrySummary])| {
        (before, summaries.iter().map(|summary| (summary.term, u64::from(summary.bytes))).collect())
    };
    let kept_fragments = recovered.kept_entries.summaries().map(to_fragment).collect();
    let raft_state = RecoveredState {
        disk: node_start.disk,
        hard_state: recovered.hard_state,
        base: recovered.base,
        entries,
        configurations: recovered.configurations,
        time: recovered.last_time,
        applied_index: node_start.applied.upto,
        kept_fragments,
    };
    let replica = Replica::recover(id, raft_options, raft_state, node_start.random);
    Node::new(Raft::new(replica, node_start.now), (recovered.view, recovered.kept_entries), options, node_start)
        .with_repaired_damage(recovered.repaired_damage)
}
