//! The node's handling of snapshots: it takes them, compacts the log behind them, sends them, and restores from them.
//!
//! The driver owns the files. The node decides when a snapshot is taken, and knows each snapshot by the position of its
//! last entry. Rules between the two:
//!
//! 1. A snapshot is taken between two batches. The driver freezes the machine at the index that the node reported last,
//!    and the membership that goes into the header is that of the same index.
//! 2. The log is compacted behind a snapshot only when the driver has reported it durable and read back.
//! 3. A received snapshot is installed in three places, in this order: the driver's file and machine, then the node's
//!    log in memory, then the journal, with the next write. A crash between these steps leaves a snapshot that is newer
//!    than the log, which the next start detects and completes. The reverse order would leave a log that begins after
//!    the newest snapshot.

use super::Node;
use crate::api::{Refusal, Reply};
use crate::apply::Report as ApplierReport;
use crate::node::event::{Action, DurableSnapshot};
use crate::types::{ClusterTime, Position, SnapshotPoint, Time};

impl Node {
    /// Handles the end of an attempt to take a snapshot: the durable snapshot, or `None` if there was no disk space for
    /// it. With `None` the callers that requested a snapshot are refused now: the next attempt may be minutes away.
    pub(super) fn handle_snapshot_taken(&mut self, now: Time, snapshot: Option<DurableSnapshot>) {
        let has_failed = snapshot.is_none();
        // The attempt ends even if its snapshot is older than the newest one, and is ignored below.
        self.stats.record_snapshot_ended(now, !has_failed);
        self.compaction.record_taken(now, snapshot, &self.options);
        if has_failed {
            // The operator has to free disk space. Further attempts follow at growing intervals, without a request.
            let waiters = self.compaction.take_all_waiters().into_iter();
            self.replies.extend(waiters.map(|(from, id)| (from, id, Reply::Refused(Refusal::NoSpace))));
        }
        self.answer_snapshot_waiters();
    }

    /// Handles the end of an attempt to take a snapshot that was damaged when it was read back.
    pub(super) fn handle_snapshot_damaged(&mut self, now: Time) {
        self.stats.record_snapshot_ended(now, false);
        self.compaction.record_damaged(now, &self.options);
    }

    /// Handles the result of verifying a snapshot file of this node that a follower received damaged. A damaged file is
    /// no longer sent to any follower or client. If the file is undamaged, the damage happened in transit or at the
    /// follower, and the file is sent again.
    pub(super) fn handle_snapshot_inspected(&mut self, now: Time, snapshot: Position, undamaged: bool) {
        // The sender is informed first: it must not send another chunk of a damaged file.
        self.snapshot_sender.record_inspected(now, snapshot, undamaged);
        if !undamaged {
            self.compaction.mark_damaged(snapshot);
            self.snapshot_reads.discard_snapshot(snapshot);
        }
    }

    /// Answers the callers that the newest snapshot satisfies. It may hold more than a caller requested, and it may
    /// have been received from a leader: in either case it is the state that the caller requested, or a later one.
    pub(super) fn answer_snapshot_waiters(&mut self) {
        let Some(newest) = self.compaction.newest() else { return };
        let reply = Reply::Snapshot { position: newest.position, bytes: newest.bytes.len() as u64 };
        self.replies
            .extend(self.compaction.take_satisfied_waiters().into_iter().map(|(from, id)| (from, id, reply.clone())));
    }

    /// Handles a leader's snapshot that the machine was restored from: the snapshot replaces the log, or the log
    /// continues after the snapshot.
    ///
    /// The driver restores a snapshot only if it is ahead of the machine. The node compares the snapshot again, with
    /// the last index that it has submitted to the applier: a log that restarted below that index would lack committed
    /// entries, of which this node's copy may be needed for a majority (Figure 13, rule 6). Proposals up to the
    /// snapshot are answered *unknown*: their entries are applied inside it, without an outcome.
    pub(super) fn handle_snapshot_restored(
        &mut self,
        now: Time,
        snapshot: DurableSnapshot,
        base: SnapshotPoint,
        time: ClusterTime,
        report: ApplierReport,
    ) {
        let position = base.position;
        assert_eq!(snapshot.position, position, "the log restarts exactly where the received snapshot ends (§7)");
        assert_eq!(report.upto, position.index, "the machine is restored to exactly the snapshot's last entry (§7)");
        assert!(self.applying_since.is_none(), "a snapshot replaces the machine between two batches");
        if position.index > self.submitted_to_apply {
            self.raft.install_snapshot(now, base, time);
            let commit = self.raft.log().commit();
            assert!(commit >= position.index, "a snapshot holds committed entries only (§7)");
            self.submitted_to_apply = report.upto;
            self.proposals.fail_up_to(report.upto, &mut self.replies);
            self.applier_report = report;
        }
        // The snapshot becomes the newest in the same event in which it replaces the log: otherwise the log would begin
        // after the newest snapshot.
        self.compaction.adopt_snapshot(now, snapshot);
        self.answer_snapshot_waiters();
    }

    /// Takes a snapshot when it is due, compacts the log behind the newest one, and sends snapshots to followers that
    /// need them.
    ///
    /// Chunks are sent before the log is compacted: a transfer that ends in this call no longer delays the compaction.
    /// The voter ordinal is set in each call, because it depends on the membership in force, which any event may have
    /// changed.
    pub(super) fn maintain_snapshots(&mut self, now: Time, actions: &mut Vec<Action>) {
        if let Some(newest) = self.compaction.snapshot_for_followers() {
            // Without a snapshot, no transfer could begin when the core found that a follower needs one: the log is
            // damaged from its beginning on.
            for (peer, progress) in self.raft.progress() {
                if self.raft.is_sending_snapshot(peer) && self.snapshot_sender.progress(peer).is_none() {
                    self.snapshot_sender.begin_transfer(now, peer, newest, progress.matched);
                }
            }
        }
        self.snapshot_sender.send_due_chunks(now, &self.raft, self.compaction.snapshot_for_followers(), actions);
        let (id, voters) = (self.raft.id(), self.raft.membership());
        let voter_ordinal = voters.all_voters().take_while(|voter| *voter < id).count();
        self.compaction.set_voter_ordinal(voter_ordinal as u64, voters.all_voters().count() as u64);
        let log = self.raft.log();
        let applied = self.applier_report.upto;
        // A snapshot is taken between two batches: during a batch the index of the frozen state is not known.
        if self.applying_since.is_none()
            && self.compaction.is_due(now, log, applied, self.disk_space.is_low(), &self.options)
            && let Some((configured, membership)) = self.raft.membership_at(applied).cloned()
        {
            self.compaction.begin_snapshot();
            self.stats.record_snapshot_started(now);
            actions.push(Action::TakeSnapshot { configured, membership });
        }
        let was_damaged = self.compaction.damaged_log_upto().is_some();
        if let Some(upto) =
            self.compaction.release(log, applied, self.snapshot_sender.oldest_snapshot(now), &self.options)
        {
            // The core drops the entries first, then the journal discards its files, perhaps later: no dropped entry is
            // read again.
            self.raft.compact(upto);
            let log_start = self.raft.log().base().index;
            assert_eq!(
                log_start, upto,
                "the log files are released only up to the index up to which the core has released its log"
            );
            self.view.release(upto);
            // Any of these files may be the damaged one.
            actions.push(Action::CompactJournal { upto: self.raft.log().base(), reuses_files: !was_damaged });
        }
    }
}
