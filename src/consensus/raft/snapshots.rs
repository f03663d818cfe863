//! The log's beginning, and the snapshot that covers what is before it: compaction, damage, sending and installing.

use super::Raft;
use crate::consensus::message::Message;
use crate::consensus::next::NextRole;
use crate::consensus::progress::ProgressState;
use crate::consensus::role::Role;
use crate::types::{ClusterTime, Index, NodeId, Position, SnapshotPoint, Time};

impl Raft {
    /// Compacts the log up to `upto`. The caller must hold a durable snapshot that covers `upto`.
    ///
    /// If the log were compacted first, a crash before the snapshot is durable would lose the state.
    pub fn compact(&mut self, upto: Index) {
        self.me.compact(upto);
        self.check_invariants();
    }

    /// Installs a leader's snapshot that is durable and that the state machine has restored. The snapshot replaces the
    /// log, unless the log already holds the position of the snapshot (Figure 13). The snapshot is acknowledged once
    /// the journal has recorded the new base.
    ///
    /// The state machine is restored before this call, so that the log never starts after entries that the machine
    /// lacks.
    pub fn install_snapshot(&mut self, now: Time, base: SnapshotPoint, time: ClusterTime) {
        self.me.install_snapshot(base, time);
        if let Role::Follower(follower) = &mut self.role {
            follower.handle_installed_snapshot();
        }
        self.apply_next_role(now, NextRole::Stay);
    }

    /// Acknowledges the first `received_bytes` bytes of the leader's snapshot, or reports that it is complete and
    /// `damaged`.
    ///
    /// Sent only if `to` is the leader of this term: an earlier leader would drop the response by its term.
    pub fn ack_chunk(&mut self, to: NodeId, snapshot: Position, received_bytes: u64, damaged: bool) {
        if self.leader() == Some(to) && to != self.me.id {
            self.me.send(to, Message::InstallSnapshotResponse { snapshot, received_bytes, damaged });
        }
    }

    /// Whether this node leads and is sending a snapshot to that follower.
    pub fn is_sending_snapshot(&self, peer: NodeId) -> bool {
        self.progress().any(|(id, progress)| id == peer && progress.state == ProgressState::Snapshot)
    }

    /// Records that committed entries up to `upto` are damaged on this node's disk. As leader this node sends none of
    /// them any more: a follower that needs one gets a snapshot, as if the log were compacted up to there. The index is
    /// kept when this node loses the leadership, and the end of a repair, a compaction, makes it irrelevant.
    pub fn stop_reading_up_to(&mut self, upto: Index) {
        assert!(upto <= self.me.log.commit(), "a snapshot can replace committed entries only (§7)");
        self.me.unreadable_upto = self.me.unreadable_upto.max(upto);
        self.check_invariants();
    }
}
