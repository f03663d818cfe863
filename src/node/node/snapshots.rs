//! The node's handling of snapshots: it takes them, compacts the log behind them, sends them, and restores from them.
//!
//! The files are the driver's. The node decides when, and knows each snapshot by the position of its last entry. What
//! must hold between the two:
//!
//! 1. A snapshot is taken between two batches. The driver freezes the machine at the index that the node reported last,
//!    and the membership that goes into the header is that of the same index.
//! 2. The log is compacted behind a snapshot only when the driver has reported it durable and read back.
//! 3. A received snapshot is installed in three places, in this order: the driver's file and machine, then the log
//!    here, then the journal, with the next write. A crash between them leaves a snapshot that is newer than the log,
//!    which a start recognizes and completes; the reverse order would leave a log without a beginning.

use super::Node;
use crate::api::{Refusal, Reply};
use crate::apply::Report as Applied;
use crate::node::event::{Action, DurableSnapshot};
use crate::types::{ClusterTime, Position, SnapshotPoint, Time};

impl Node {
    /// Handles a snapshot that is durable, or `None` if there was no room for it. With `None` nothing can satisfy the
    /// callers before the next attempt, so they are answered now.
    pub(super) fn taken(&mut self, now: Time, kept: Option<DurableSnapshot>) {
        let given_up = kept.is_none();
        // An older snapshot than the newest is ignored below, but it ends the attempt all the same.
        self.stats.ends_snapshot(now, !given_up);
        self.compaction.taken(now, kept, &self.options);
        if given_up {
            // The operator has to make room. The next attempt comes by itself, later and later.
            let refused = self.compaction.take_all_waiters().into_iter();
            self.replies.extend(refused.map(|(from, id)| (from, id, Reply::Refused(Refusal::NoSpace))));
        }
        self.answer_snapshot();
    }

    /// Handles the result of reading a snapshot file again: a damaged one is no longer sent, to no follower and to no
    /// reader. If it is undamaged, the damage was on the way or at the follower, and it is sent again.
    pub(super) fn inspected(&mut self, now: Time, snapshot: Position, whole: bool) {
        // The sender first: it must not send another chunk of it, whatever the policy makes due.
        self.snapshot_sender.inspected(now, snapshot, whole);
        if !whole {
            self.compaction.discard(snapshot);
            self.snapshot_reads.discard(snapshot);
        }
    }

    /// Answers the callers that the newest snapshot satisfies. It may hold more than a caller asked for, and it may
    /// have been received from a leader: in either case it is the state that the caller wanted, or a later one.
    pub(super) fn answer_snapshot(&mut self) {
        let Some(kept) = self.compaction.kept() else { return };
        let reply = Reply::Snapshot { position: kept.position, bytes: kept.bytes.len() as u64 };
        self.replies.extend(self.compaction.take_satisfied().into_iter().map(|(from, id)| (from, id, reply.clone())));
    }

    /// Handles a leader's snapshot that the machine was restored from: the log is replaced by it, or continues behind
    /// it.
    ///
    /// The driver restores a snapshot only if it is ahead of the machine. The node compares again, with what it has
    /// submitted: a log that restarted below that would lack entries which this node has counted as committed, and may
    /// be needed for (Figure 13, rule 6). Proposals up to the snapshot are answered *unknown*: their entries are
    /// applied inside it, without an outcome.
    pub(super) fn restored(
        &mut self,
        now: Time,
        kept: DurableSnapshot,
        base: SnapshotPoint,
        time: ClusterTime,
        report: Applied,
    ) {
        let position = base.position;
        assert_eq!(kept.position, position, "the log restarts exactly where the received snapshot ends (§7)");
        assert_eq!(report.upto, position.index, "the machine is restored to exactly the snapshot's last entry (§7)");
        assert!(self.applying.is_none(), "a snapshot replaces the machine between two batches");
        if position.index > self.submitted_to_apply {
            self.raft.restored(now, base, time);
            let commit = self.raft.log().commit();
            assert!(commit >= position.index, "a snapshot holds committed entries only (§7)");
            self.submitted_to_apply = report.upto;
            self.proposals.pass(report.upto, &mut self.replies);
            self.applied = report;
        }
        // In the same event as the log: between the two the log begins after the newest snapshot known here.
        self.compaction.adopt(now, kept);
        self.answer_snapshot();
    }

    /// Takes a snapshot when it is due, compacts the log behind the newest one, and sends snapshots to followers that
    /// need them.
    ///
    /// Chunks are sent before the log is compacted: a transfer that ends in this turn no longer holds the log back. The
    /// ordinal is set each turn, because it depends on the membership in force, which any event may have changed.
    pub(super) fn keep(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.snapshot_sender.pump(now, &self.raft, self.compaction.sendable(), actions);
        let (id, voters) = (self.raft.id(), self.raft.membership());
        let before = voters.all_voters().take_while(|voter| *voter < id).count();
        self.compaction.set_ordinal(before as u64, voters.all_voters().count() as u64);
        let log = self.raft.log();
        let applied = self.applied.upto;
        // Between two batches, or the state frozen would be that of an index which this node does not know yet.
        if self.applying.is_none()
            && self.compaction.is_due(now, log, applied, self.space.is_low(), &self.options)
            && let Some((configured, membership)) = self.raft.membership_at(applied).cloned()
        {
            self.compaction.begin();
            self.stats.begins_snapshot(now);
            actions.push(Action::TakeSnapshot { configured, membership });
        }
        if let Some(upto) = self.compaction.release(log, applied, self.snapshot_sender.oldest(now), &self.options) {
            // Memory first, then the file: the journal may take its time, and nothing reads what is released.
            self.raft.compact(upto);
            let begins = self.raft.log().base().index;
            assert_eq!(begins, upto, "the core, the view and the journal discard the same entries");
            self.view.release(upto);
            actions.push(Action::CompactJournal(self.raft.log().base()));
        }
    }
}
