//! Checks on an incoming message before its role handles it: disk, log, term, leader.
//!
//! Each check protects the ones after it. A message of another log is dropped before its term is used. A higher term is
//! adopted before the leader of that term is recognized. Only then a role handles the message, and relies on both. A
//! rejected message changes no state and only adds a note.

use super::Raft;
use crate::consensus::follower::Follower;
use crate::consensus::message::{Envelope, Message, VoteKind};
use crate::consensus::note::{Note, StepDownReason};
use crate::consensus::role::Role;
use crate::consensus::rules::{election, membership};
use crate::types::{Entry, LogId, NodeId, Position, Term, Time};

impl Raft {
    /// Handles the term and position that a peer has received from this node's disk. If the disk holds less, the disk
    /// is an older copy, and the node adopts both. The node does not vote in that term, because it may have voted
    /// before.
    ///
    /// A directory that was restored from a backup lacks votes and acknowledgments that other nodes rely on, and
    /// nothing on the disk shows that. Only peers know the later claims. So each peer that had contact with this disk
    /// sends its recorded claim first on every new connection.
    pub(super) fn handle_recorded_claim(&mut self, now: Time, term: Term, position: Position) {
        if !election::adopts_recorded_claim(self.me.options.mutants) {
            return;
        }
        if term > self.me.term() {
            self.step_down(now, StepDownReason::OlderCopy);
            self.me.advance_term(term);
            self.me.forfeit_vote();
        // The vote is forfeited only in the term that the disk had at the start: this process knows its own votes in
        // later terms.
        } else if term == self.me.term() && self.me.may_have_forgotten_vote() {
            self.me.forfeit_vote();
        }
        self.me.promise_lost_position(position);
        // Before it learned the claim, this node may have become a candidate, or a leader of nodes that lack the same
        // entries.
        if !matches!(self.role, Role::Follower(_)) && !self.me.promotable() {
            self.step_down(now, StepDownReason::OlderCopy);
        }
    }

    /// Records that a peer, which dialed this node by its id and address, holds another log. Returns whether this node
    /// must stop: if it founded its log alone, it was a member of the peer's log and has lost its directory.
    ///
    /// No data is deleted or merged: the operator decides which of the two logs to keep.
    pub fn learn_other_log(&mut self, peer: NodeId, log: LogId) -> bool {
        if self.membership().agreed_log_id() == Some(log) {
            return false;
        }
        self.me.founding.record_veto(peer, log);
        self.me.is_sole_founder()
    }

    /// Whether a message is accepted, by its sender's disk and log. This is the first check, because terms of another
    /// log cannot be compared with this node's term.
    ///
    /// The check runs for every message, not once per connection: a membership change may name another disk while a
    /// connection stays open.
    pub(super) fn is_accepted(&mut self, envelope: &Envelope) -> bool {
        let Envelope { from, origin, message, .. } = envelope;
        let is_same_log = self.membership().agreed_log_id().is_none_or(|log| origin.log == Some(log));
        let peer_class = self.me.classify_origin(*from, *origin);
        membership::accepts_message(peer_class, message, is_same_log, self.me.options.mutants).unwrap_or_else(|why| {
            self.me.notes.push(Note::PeerRejected { peer: *from, why });
            false
        })
    }

    /// Compares the term of a message with this node's term, and adopts a higher one (§5.1). Returns whether the
    /// message is still to be handled: not if its term is old, or if this node ignores a candidate because of its
    /// contact with a leader.
    pub(super) fn compare_terms(&mut self, now: Time, envelope: &Envelope) -> bool {
        if envelope.term < self.me.term() {
            match envelope.message {
                Message::RequestVote { .. }
                | Message::AppendEntries { .. }
                | Message::Heartbeat { .. }
                | Message::Committed { .. }
                // The answer makes a candidate or leader of an old term step down. Without the answer, a node that was
                // cut off would stay in its old term until its own timeout.
                | Message::InstallSnapshot(_) => self.me.send(envelope.from, Message::StaleTerm),
                Message::RequestVoteResponse { .. } => return election::stale_vote_counts(self.me.options.mutants),
                Message::LostAcknowledged { .. } | Message::RequestLostEntries { .. } => {
                    self.me.send(envelope.from, Message::StaleTerm)
                }
                Message::AppendResponse { .. }
                | Message::AppendRejected { .. }
                | Message::LostAcknowledgedResponse { .. }
                | Message::RecordedClaim { .. }
                | Message::LostEntries { .. }
                | Message::HeartbeatResponse { .. }
                | Message::InstallSnapshotResponse { .. }
                | Message::TimeoutNow
                | Message::ReadIndexRequest { .. }
                | Message::ReadIndexResponse { .. }
                // The remaining messages of an old term need no answer.
                | Message::StaleTerm => {}
                #[cfg(feature = "next-version")]
                Message::NextVersionNotice => {}
            }
            return false;
        }
        // A vote request of a leadership transfer is exempt from this check: the leader requested the campaign. All
        // other rules of voting apply to it (cowsql ad19f79a: a vote was granted to the transfer target in addition to
        // another vote in the same term).
        if let Message::RequestVote { kind, .. } = envelope.message
            && (envelope.term > self.me.term() || kind == VoteKind::PreVote)
            && kind != VoteKind::Transfer
            && election::contact_shields_leader(self.has_recent_leader(now), self.me.options.mutants)
        {
            // A voter in contact with a leader does not help to depose it, and does not adopt the candidate's term
            // (thesis §4.2.3).
            let rejection = Some("this node is in contact with a leader");
            self.me.notes.push(Note::VoteAnswered { candidate: envelope.from, kind, term: envelope.term, rejection });
            return false;
        }
        if envelope.term > self.me.term() {
            let (term, from) = (envelope.term, envelope.from);
            // The reason decides the log level: a requested transfer is logged at a lower level than other step downs.
            let is_transfer = self.transfer_target() == Some(from);
            let step_down_reason = if is_transfer {
                StepDownReason::Transferred { to: from }
            } else {
                StepDownReason::HigherTerm { term, from }
            };
            self.step_down(now, step_down_reason);
            self.me.advance_term(envelope.term);
        }
        true
    }

    /// Handles a request for entries that a peer has lost, or the answer to one of this node.
    ///
    /// Nodes in all roles answer: a candidate and a leader hold entries too. Only a follower has requested some.
    pub(super) fn handle_lost_entries(&mut self, envelope: Envelope) {
        let Envelope { from, origin, message, .. } = envelope;
        match (&mut self.role, message) {
            (_, Message::RequestLostEntries { after, known }) => {
                self.me.record_lost_entries_request(from, origin.log, after, known);
            }
            (Role::Follower(follower), Message::LostEntries { after, entries }) if self.me.is_own_log(origin.log) => {
                follower.append_lost_entries(&mut self.me, after, entries);
            }
            _ => {}
        }
        self.check_invariants();
    }

    /// Reports that a fragment of the kept entries can be read no longer.
    pub fn discard_kept_fragment(&mut self, fragment: usize) {
        self.me.discard_kept_fragment(fragment);
    }

    /// Reports kept entries that the core has requested ([`crate::consensus::ready::LostEntriesToSend::fragment`]).
    pub fn append_kept_entries(&mut self, after: Position, entries: Vec<Entry>) {
        if let Role::Follower(follower) = &mut self.role {
            follower.append_lost_entries(&mut self.me, after, entries);
        }
        self.check_invariants();
    }

    /// Whether this node is, or is in contact with, a leader. A leader steps down by `check_quorum`, not because
    /// another node requests votes.
    pub(super) fn has_recent_leader(&self, now: Time) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.has_recent_leader(&self.me, now),
            Role::Candidate(_) => false,
            Role::Leader(_) => true,
        }
    }

    /// Accepts the sender of a leader's message as leader of this term; a candidate that receives one has lost (§5.2).
    ///
    /// The message is proof enough: only a node with a majority of the votes of its term sends it, from whichever disk
    /// (`peer_class`).
    pub(super) fn recognize_leader(&mut self, now: Time, envelope: &Envelope) -> Result<(), &'static str> {
        match envelope.message {
            Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_) => {}
            Message::LostAcknowledged { .. } => {}
            _ => return Ok(()),
        }
        match &self.role {
            Role::Follower(follower) if follower.leader().is_none_or(|leader| leader == envelope.from) => {}
            Role::Candidate(_) => self.role = Role::Follower(Follower::following(&mut self.me, now, envelope.from)),
            // A term has one leader (Election Safety, §5.2), so either the sender or the known leader is faulty.
            Role::Follower(_) | Role::Leader(_) => return Err("it claims a term that has another leader"),
        }
        Ok(())
    }
}
