//! Checks on an incoming message before its role handles it: disk, log, term, leader.

use super::Raft;
use crate::consensus::follower::Follower;
use crate::consensus::message::{Envelope, Message, VoteKind};
use crate::consensus::note::{Note, StepDown};
use crate::consensus::role::Role;
use crate::consensus::rules::{election, membership};
use crate::types::{LogId, NodeId, Position, Term, Time};

impl Raft {
    /// Handles a peer's reminder of what this node's disk has promised. If the disk holds less, it is an older copy:
    /// the node adopts the term and the position, and its vote of that term is spent, because it cannot know its
    /// candidate.
    pub(super) fn handle_reminder(&mut self, now: Time, term: Term, position: Position) {
        if !election::reminder_binds(self.me.options.mutants) {
            return;
        }
        if term > self.me.term() {
            self.step_down(now, StepDown::OlderCopy);
            self.me.advance_term(term);
            self.me.forfeit_vote();
        } else if term == self.me.term() && self.me.is_as_recovered() {
            self.me.forfeit_vote();
        }
        self.me.promise_lost(position);
    }

    /// Handles a peer that knows this node by id and address and holds another log. Returns whether this node must stop
    /// serving: a founder that was alone in its list learns that it was a member of that log and has lost its
    /// directory.
    pub fn named_by_other_log(&mut self, peer: NodeId, log: LogId) -> bool {
        if self.membership().agreed_log() == Some(log) {
            return false;
        }
        self.me.founding.veto(peer, log);
        self.me.is_sole_founder()
    }

    /// Whether a message is accepted, by its disk and log. Checked first: not even the term of another log has a
    /// meaning here.
    pub(super) fn is_accepted(&mut self, envelope: &Envelope) -> bool {
        let Envelope { from, origin, message, .. } = envelope;
        let same_log = self.membership().agreed_log().is_none_or(|log| origin.log == Some(log));
        let class = self.me.class_of(*from, *origin);
        membership::accepts(class, message, same_log, self.me.options.mutants).unwrap_or_else(|why| {
            self.me.notes.push(Note::PeerRejected { peer: *from, why });
            false
        })
    }

    /// Compares terms (§5.1). Returns whether the message is still to be handled.
    pub(super) fn compare_terms(&mut self, now: Time, envelope: &Envelope) -> bool {
        if envelope.term < self.me.term() {
            match envelope.message {
                Message::RequestVote { .. }
                | Message::AppendEntries { .. }
                | Message::Heartbeat { .. }
                | Message::Committed { .. }
                | Message::InstallSnapshot(_) => self.me.send(envelope.from, Message::StaleTerm),
                Message::RequestVoteResponse { .. } => return election::stale_vote_counts(self.me.options.mutants),
                Message::LostAcknowledged { .. } => self.me.send(envelope.from, Message::StaleTerm),
                Message::AppendResponse { .. }
                | Message::AppendRejected { .. }
                | Message::Promised { .. }
                | Message::Reminder { .. }
                | Message::HeartbeatResponse { .. }
                | Message::InstallSnapshotResponse { .. }
                | Message::TimeoutNow
                | Message::ReadIndexRequest { .. }
                | Message::ReadIndexResponse { .. }
                | Message::StaleTerm => {}
            }
            return false;
        }
        if let Message::RequestVote { ask, .. } = envelope.message
            && (envelope.term > self.me.term() || ask == VoteKind::PreVote)
            && ask != VoteKind::Transfer
            && election::contact_shields_leader(self.has_recent_leader(now), self.me.options.mutants)
        {
            // A voter in contact with a leader does not help to depose it, and does not adopt the candidate's term
            // (thesis §4.2.3).
            let denied = Some("this node is in contact with a leader");
            self.me.notes.push(Note::Votes { candidate: envelope.from, ask, term: envelope.term, denied });
            return false;
        }
        if envelope.term > self.me.term() {
            let (term, from) = (envelope.term, envelope.from);
            let transferred = self.transfer_target() == Some(from);
            let why =
                if transferred { StepDown::Transferred { to: from } } else { StepDown::HigherTerm { term, from } };
            self.step_down(now, why);
            self.me.advance_term(envelope.term);
        }
        true
    }

    pub(super) fn has_recent_leader(&self, now: Time) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.has_recent_leader(&self.me, now),
            Role::Candidate(_) => false,
            Role::Leader(_) => true,
        }
    }

    /// Accepts the sender of a leader's message as leader of this term; a candidate that receives one has lost (§5.2).
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
            Role::Candidate(_) => self.role = Role::Follower(Follower::of(&mut self.me, now, envelope.from)),
            // Election Safety (§5.2): a term has one leader, so one of the two claims is false.
            Role::Follower(_) | Role::Leader(_) => return Err("it claims a term that has another leader"),
        }
        Ok(())
    }
}
