//! The consensus core's output as actions: messages, writes, and entries for the applier.
//!
//! The core knows positions, never payloads (`consensus/ready.rs`). Here they meet: a range of indexes becomes an
//! append with its entries, and a commit index becomes a batch to apply. Both read the journal's view, which holds an
//! entry from the moment it is handed to the journal, durable or not.
//!
//! ```text
//!   Ready.write     ──▶ view, journal               before anything below reads the view
//!   Ready.messages  ──▶ peers                       those that need a durable write were held back by the core
//!   Ready.appends   ──▶ view.entries ──▶ peers      a leader's entries, before its own sync
//!   Ready.commit    ──▶ view.entries ──▶ applier    one batch at a time
//!   Ready.reads     ──▶ the table of reads          a read index is known; the entries up to it may not be here yet
//!   Ready.ships, .chunked ──▶ snapshot sender       .chunks ──▶ the driver's file
//! ```

use super::Node;
use crate::consensus::message::{Envelope, Message, VoteKind};
use crate::consensus::note::Note;
use crate::consensus::ready::{EntriesToSend, Ready};
use crate::node::event::Action;
use crate::types::{Index, Time};

impl Node {
    /// Converts the consensus core's output into actions.
    ///
    /// The messages among them may leave before the write: the core holds back those that speak of what must be durable
    /// first. Entries may leave before it too, so that the leader's sync and the followers' run at the same time
    /// (thesis §10.2.1).
    pub(super) fn emit_actions(&mut self, now: Time, ready: Ready, actions: &mut Vec<Action>) {
        self.stats.committed(now, ready.commit);
        if let Some(write) = ready.write {
            if let (Some(entry), true) = (write.entries.last(), self.led_term.is_some()) {
                self.stats.sent(now, entry.position.index);
            }
            assert_eq!(write.id, self.written.next(), "writes reach the journal in order, each once");
            self.written = write.id;
            // Before the journal has it: an entry that is not durable yet is replicated already.
            self.view.push(&write);
            actions.push(Action::Write(write));
        }
        // Each heartbeat is timed from here: what the driver and the network add is what the figure is about.
        ready.messages.iter().for_each(|envelope| self.stats.sends(now, envelope));
        actions.extend(ready.messages.into_iter().map(Action::Send));
        for order in ready.appends {
            if let Some(envelope) = self.build_append(order) {
                actions.push(Action::Send(envelope));
            }
        }
        for (read, index) in ready.reads {
            self.linearizable_reads.confirm(read, index);
        }
        // A new leader, or none: the round can confirm nothing any more. The reads are tried again at once.
        let lost = ready.reads_lost.into_iter().filter_map(|read| self.linearizable_reads.lose(read)).collect();
        self.fail_in_flight(now, lost);
        if let Some(newest) = self.compaction.kept().cloned() {
            // What the follower has matched tells whether a transfer under way is still of use to it.
            for peer in ready.ships {
                let matched = self.raft.progress().find(|(id, _)| *id == peer).map_or(Index::ZERO, |(_, p)| p.matched);
                self.snapshot_sender.begin(now, peer, &newest, matched);
            }
            // The newest was found damaged before: the transfer exists, so that the follower is remembered, and waits.
            if self.compaction.sendable().is_none() {
                self.snapshot_sender.inspected(now, newest.position, false);
            }
        }
        for (follower, snapshot, next, damaged) in ready.chunked {
            if !damaged {
                self.snapshot_sender.chunked(now, follower, snapshot, next);
            } else if let Some(times) = self.snapshot_sender.damaged(now, follower, snapshot) {
                actions.push(Action::Inspect { follower, snapshot, times });
            }
        }
        for (from, chunk) in ready.chunks {
            self.stats.received += chunk.bytes.len() as u64;
            // Not judged here: the driver's file knows which bytes it lacks.
            actions.push(Action::StoreChunk { from, chunk });
        }
        for note in ready.notes {
            // The step from pre-votes to votes is the same election.
            if let Note::Campaigns { reason, ask: VoteKind::PreVote, .. } = &note {
                *self.stats.elections.entry(reason.name().to_owned()).or_default() += 1;
            }
            actions.push(Action::Note(note));
        }
    }

    /// The AppendEntries message that `order` describes, with its entries. The core knows positions only: it orders a
    /// range, and the view has the bytes. An entry that cannot be read back stops the node, since a leader that leaves
    /// a follower without it would do so at each attempt.
    fn build_append(&mut self, order: EntriesToSend) -> Option<Envelope> {
        let EntriesToSend { to, term, prev, upto, commit, probe } = order;
        let range = prev.index.next()..=upto;
        // The consensus core has bounded the range: no further limit is needed. A second limit here could end an append
        // before the index that the core counts as sent.
        let entries = if range.is_empty() { Ok(Vec::new()) } else { self.view.entries(range, u64::MAX) };
        match entries {
            Ok(entries) => {
                let ordered = upto.0.saturating_sub(prev.index.0);
                assert_eq!(entries.len() as u64, ordered, "the view holds every entry of the log (§5.3)");
                Some(self.raft.envelope(to, term, Message::AppendEntries { prev, commit, probe, entries }))
            }
            Err(fault) => {
                // The process stops with this turn. The other appends of the turn are as good as before.
                self.fault = Some(fault);
                None
            }
        }
    }

    /// Submits committed entries to the applier, one batch at a time.
    ///
    /// A batch is bounded in bytes, because the driver may apply it on the thread that also sends heartbeats. After a
    /// start, another thread has read the next batches from the log already; a batch that is not of the current log is
    /// read here instead.
    pub(super) fn submit_entries(&mut self, now: Time, actions: &mut Vec<Action>) {
        let commit = self.raft.log().commit();
        // One batch at a time, though the applier could queue several: a snapshot is taken between two batches, and
        // each report wakes the node for the next one.
        if self.applying.is_some() || self.submitted_to_apply >= commit {
            return;
        }
        let range = self.submitted_to_apply.next()..=commit;
        // Entries read ahead count only if the log still holds them: a leader may have replaced them since the start.
        let read = self.beforehand.take(range.clone(), |position| self.raft.log().holds(position));
        match read.map_or_else(|| self.view.entries(range, self.options.apply_bytes), Ok) {
            Ok(entries) => {
                let last = entries.last().expect("a range that is not empty holds an entry");
                assert!(last.position.index <= commit, "only committed entries are applied (§5.3)");
                self.submitted_to_apply = last.position.index;
                self.applying = Some(now);
                actions.push(Action::Apply(entries));
            }
            Err(fault) => self.fault = Some(fault),
        }
    }
}
