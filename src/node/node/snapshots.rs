//! The node's handling of snapshots: it takes them, compacts the log behind them, sends them, and restores from them.

use super::Node;
use crate::api::{Refusal, Reply};
use crate::apply::Report as Applied;
use crate::node::event::{Action, DurableSnapshot};
use crate::types::{ClusterTime, Position, SnapshotPoint, Time};

impl Node {
    /// Handles a snapshot that is durable, or `None` if there was no room for it.
    pub(super) fn taken(&mut self, now: Time, kept: Option<DurableSnapshot>) {
        let given_up = kept.is_none();
        self.stats.ends_snapshot(now, !given_up);
        self.compaction.taken(now, kept, &self.options);
        if given_up {
            let refused = self.compaction.take_all_waiters().into_iter();
            self.replies.extend(refused.map(|(from, id)| (from, id, Reply::Refused(Refusal::NoSpace))));
        }
        self.answer_snapshot();
    }

    /// Handles the result of reading a snapshot file again: a damaged one is no longer sent.
    pub(super) fn inspected(&mut self, now: Time, snapshot: Position, whole: bool) {
        self.snapshot_sender.inspected(now, snapshot, whole);
        if !whole {
            self.compaction.discard(snapshot);
            self.snapshot_reads.discard(snapshot);
        }
    }

    /// Answers the callers that the newest snapshot satisfies.
    pub(super) fn answer_snapshot(&mut self) {
        let Some(kept) = self.compaction.kept() else { return };
        let reply = Reply::Snapshot { position: kept.position, bytes: kept.bytes.len() as u64 };
        self.replies.extend(self.compaction.take_satisfied().into_iter().map(|(from, id)| (from, id, reply.clone())));
    }

    /// Handles a leader's snapshot that the machine was restored from: the log is replaced by it, or continues behind
    /// it.
    pub(super) fn restored(
        &mut self,
        now: Time,
        kept: DurableSnapshot,
        base: SnapshotPoint,
        time: ClusterTime,
        report: Applied,
    ) {
        if base.position.index > self.submitted_to_apply {
            self.raft.restored(now, base, time);
            self.submitted_to_apply = report.upto;
            self.proposals.pass(report.upto, &mut self.replies);
            self.applied = report;
        }
        self.compaction.adopt(now, kept);
        self.answer_snapshot();
    }

    /// Takes a snapshot when it is due, compacts the log behind the newest one, and sends snapshots to followers that
    /// need them.
    pub(super) fn keep(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.snapshot_sender.pump(now, &self.raft, self.compaction.sendable(), actions);
        let (id, voters) = (self.raft.id(), self.raft.membership());
        let before = voters.all_voters().take_while(|voter| *voter < id).count();
        self.compaction.set_ordinal(before as u64, voters.all_voters().count() as u64);
        let log = self.raft.log();
        let applied = self.applied.upto;
        if self.applying.is_none()
            && self.compaction.is_due(now, log, applied, self.space.is_low(), &self.options)
            && let Some((configured, membership)) = self.raft.membership_at(applied).cloned()
        {
            self.compaction.begin();
            self.stats.begins_snapshot(now);
            actions.push(Action::TakeSnapshot { configured, membership });
        }
        if let Some(upto) = self.compaction.release(log, applied, self.snapshot_sender.oldest(now), &self.options) {
            self.raft.compact(upto);
            self.view.release(upto);
            actions.push(Action::CompactJournal(self.raft.log().base()));
        }
    }
}
