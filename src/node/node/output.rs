//! The consensus core's output as actions: messages, writes, and entries for the applier.
//!
//! The core knows positions, never payloads (`consensus/ready.rs`). Here payloads are added: a range of indexes becomes
//! an append with its entries, and a commit index becomes a batch to apply. Both are read from the journal's view,
//! which holds an entry from the moment it is handed to the journal, durable or not.
//!
//! ```text
//!   Ready.write     ──▶ view, journal               before anything below reads the view
//!   Ready.messages  ──▶ peers                       the core holds back messages that need a durable write
//!   Ready.appends   ──▶ view.entries ──▶ peers      a leader's entries, before its own sync
//!   Ready.lost_entries ──▶ view or kept entries ──▶ peers, or back into the core
//!   Ready.commit    ──▶ view.entries ──▶ applier    one batch at a time
//!   Ready.confirmed_reads ──▶ the table of reads    a read index is known; the entries up to it may not be here yet
//!   Ready.snapshot_targets, .snapshot_reports ──▶ snapshot sender   .snapshot_chunks ──▶ the driver's file
//! ```

use super::Node;
use crate::consensus::message::{Envelope, Message, VoteKind};
use crate::consensus::note::Note;
use crate::consensus::ready::{EntriesToSend, LostEntriesToSend, Ready};
use crate::node::event::Action;
use crate::types::{Index, Time};
use crate::wal::Fault;
use crate::wal::newer_format::check_write;

impl Node {
    /// Converts the consensus core's output into actions.
    ///
    /// Messages may leave before the write: the core holds back each message about state that must be durable first.
    /// Entries may leave before the write too, so that the leader's sync and the followers' run at the same time
    /// (thesis §10.2.1).
    ///
    /// # Errors
    ///
    /// [`Fault::Foreign`] if the write has a configuration that this program does not know. Then nothing of it, and no
    /// message that may depend on it, leaves this node, which must stop.
    pub(super) fn emit_actions(&mut self, now: Time, ready: Ready, actions: &mut Vec<Action>) -> Result<(), Fault> {
        if let Some(write) = &ready.write {
            check_write(write, self.raft.options().versions.feature_level_max, self.options.mutants)?;
        }
        self.stats.record_commit(now, ready.commit);
        if let Some(write) = ready.write {
            if let (Some(entry), true) = (write.entries.last(), self.led_term.is_some()) {
                self.stats.record_write(now, entry.position.index);
            }
            assert_eq!(write.id, self.last_write.next(), "writes reach the journal in order, each once");
            self.last_write = write.id;
            // The view gets the write before the journal: entries are replicated before they are durable.
            self.view.push(&write);
            actions.push(Action::Write(write));
        }
        // Each heartbeat is timed from here: the measured round trip includes the delays of driver and network.
        ready.messages.iter().for_each(|envelope| self.stats.record_sent(now, envelope));
        actions.extend(ready.messages.into_iter().map(Action::Send));
        for to_send in ready.appends {
            if let Some(envelope) = self.build_append(to_send) {
                actions.push(Action::Send(envelope));
            }
        }
        for lost_entries in ready.lost_entries {
            self.send_lost_entries(now, lost_entries, actions)?;
        }
        for (read, index) in ready.confirmed_reads {
            self.linearizable_reads.confirm(read, index);
        }
        // The leader has changed or is lost, so the heartbeat round of these reads can confirm nothing any more. The
        // reads are retried at once.
        let failed_reads =
            ready.lost_reads.into_iter().filter_map(|read| self.linearizable_reads.take_failed(read)).collect();
        self.fail_in_flight(now, failed_reads);
        if let Some(newest) = self.compaction.newest().cloned() {
            // The follower's matched index shows whether a snapshot transfer in progress is still of use to the
            // follower.
            for peer in ready.snapshot_targets {
                let matched = self.raft.progress().find(|(id, _)| *id == peer).map_or(Index::ZERO, |(_, p)| p.matched);
                self.snapshot_sender.begin_transfer(now, peer, &newest, matched);
            }
            // The newest snapshot's file was found damaged, or the log is damaged behind it. The transfer is created all
            // the same, and waits for the next snapshot.
            if self.compaction.snapshot_for_followers().is_none() {
                self.snapshot_sender.record_inspected(now, newest.position, false);
            }
        }
        for (follower, snapshot, next, damaged) in ready.snapshot_reports {
            if !damaged {
                self.snapshot_sender.record_progress(now, follower, snapshot, next);
            } else if let Some(damaged_count) = self.snapshot_sender.record_damaged(now, follower, snapshot) {
                actions.push(Action::InspectSnapshot { follower, snapshot, damaged_count });
            }
        }
        for (from, chunk) in ready.snapshot_chunks {
            self.stats.received_snapshot_bytes += chunk.bytes.len() as u64;
            // The chunk is passed on unchecked: the driver knows which bytes its file lacks.
            actions.push(Action::StoreChunk { from, chunk });
        }
        for note in ready.notes {
            // Only pre-votes are counted: the votes after them belong to the same election.
            if let Note::Campaigns { reason, kind: VoteKind::PreVote, .. } = &note {
                *self.stats.elections.entry(reason.name().to_owned()).or_default() += 1;
            }
            actions.push(Action::Note(note));
        }
        Ok(())
    }

    /// The AppendEntries message that `to_send` describes, with its entries. The core knows positions only: it names a
    /// range, and the view has the bytes. An append with an entry that cannot be read back is dropped, like a message that
    /// is lost: the follower gets a snapshot instead, if the entry is committed (`damage.rs`).
    fn build_append(&mut self, to_send: EntriesToSend) -> Option<Envelope> {
        let EntriesToSend { to, term, prev, upto, commit, probe_number } = to_send;
        let range = prev.index.next()..=upto;
        // The consensus core has bounded the range: no further limit is needed. A second limit here could end the
        // message before the index that the core has recorded as sent.
        let entries = if range.is_empty() { Ok(Vec::new()) } else { self.view.entries(range, u64::MAX) };
        match entries {
            Ok(entries) => {
                let entry_count = upto.0.saturating_sub(prev.index.0);
                assert_eq!(entries.len() as u64, entry_count, "the view holds every entry of the log (§5.3)");
                Some(self.raft.envelope(to, term, Message::AppendEntries { prev, commit, probe_number, entries }))
            }
            Err(fault) => {
                self.handle_unreadable_entries(fault);
                None
            }
        }
    }

    /// Sends entries that another node has lost, or appends kept entries that this node itself has lost.
    ///
    /// If the entries cannot be read, the request is dropped: the other node repeats it, and asks others too. Damage in this
    /// node's log is handled as in an append (`damage.rs`). A file that was set aside is no part of the log.
    fn send_lost_entries(
        &mut self,
        now: Time,
        lost_entries: LostEntriesToSend,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        let LostEntriesToSend { to, term, after, upto, fragment } = lost_entries;
        let range = after.index.next()..=upto;
        let entries = match fragment {
            Some(fragment) => self.kept_entries.entries(fragment, range),
            None => self.view.entries(range, u64::MAX),
        };
        match (entries, fragment) {
            (Ok(entries), _) if to == self.raft.id() => {
                self.raft.append_kept_entries(after, entries);
                // The core requests further entries only once these are durable, so this call is not repeated.
                let ready = self.raft.ready(now);
                self.emit_actions(now, ready, actions)?;
            }
            (Ok(entries), _) => {
                let message = Message::LostEntries { after, entries };
                actions.push(Action::Send(self.raft.envelope(to, term, message)));
            }
            (Err(fault), Some(fragment)) => {
                self.raft.discard_kept_fragment(fragment);
                self.warnings.push(match fault {
                    Fault::Corrupt { file, offset, description, .. } => format!(
                        "the part of {file} that a repair has set aside is not used any more: byte {offset}: {description}"
                    ),
                    fault => format!("a file that a repair has set aside is not used any more: {fault}"),
                });
            }
            (Err(fault), None) => self.handle_unreadable_entries(fault),
        }
        Ok(())
    }

    /// Submits committed entries to the applier, one batch at a time.
    ///
    /// A batch is bounded in bytes, because the driver may apply it on the thread that also sends heartbeats. After a
    /// start, the next batches may have been prefetched from the log by another thread; a prefetched batch that the
    /// current log no longer holds is read again here.
    pub(super) fn submit_entries(&mut self, now: Time, actions: &mut Vec<Action>) {
        let commit = self.raft.log().commit();
        // One batch at a time, though the applier could queue several: a snapshot is taken between two batches, and the
        // applier's report of each batch wakes the node for the next batch.
        if self.applying_since.is_some() || self.submitted_to_apply >= commit {
            return;
        }
        let range = self.submitted_to_apply.next()..=commit;
        // Prefetched entries are used only if the log still holds them: a leader may have replaced them since this node
        // started.
        let prefetched = self.prefetch.take_entries(range.clone(), |position| self.raft.log().holds(position));
        match prefetched.map_or_else(|| self.view.entries(range, self.options.apply_batch_bytes_max), Ok) {
            Ok(entries) => {
                let last = entries.last().expect("a batch that is not empty has a last entry");
                assert!(last.position.index <= commit, "only committed entries are applied (§5.3)");
                self.submitted_to_apply = last.position.index;
                self.applying_since = Some(now);
                actions.push(Action::Apply(entries));
            }
            Err(fault) => self.fault = Some(fault),
        }
    }

    /// When `turn` next has work to do. Earlier calls are harmless. A later one is not: nothing else wakes a node to
    /// which no event happens, so a deadline that is left out here never wakes it.
    pub fn deadline(&self) -> Time {
        // Committed entries that the last batch did not include are due now, and no event announces them.
        let has_unsubmitted_entries =
            self.applying_since.is_none() && self.submitted_to_apply < self.raft.log().commit();
        if has_unsubmitted_entries || !self.replies.is_empty() || !self.forward_actions.is_empty() {
            return Time::ZERO;
        }
        // No snapshot is taken while a batch is being applied: the applier's report wakes the node.
        let snapshot_applied_upto = if self.applying_since.is_none() { self.applier_report.upto } else { Index::ZERO };
        let snapshot_deadline =
            self.snapshot_sender.deadline().min(self.compaction.deadline(snapshot_applied_upto, &self.options));
        let snapshot_deadline =
            snapshot_deadline.min(self.snapshot_reads.deadline()).min(self.scrub_schedule.deadline());
        self.raft
            .deadline()
            .min(self.parked_requests.deadline())
            .min(snapshot_deadline)
            .min(self.expiry_ticker.deadline())
    }
}
