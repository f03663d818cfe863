//! Checks on an incoming message before its role handles it: disk, log, term, leader.
//!
//! Each check protects the ones after it. A message of another log is dropped before its term is read; a term is
//! adopted before a leader of that term is recognized; and only then does a role see the message, which can rely on
//! both. A rejected message leaves no trace but a note: a peer that is wrong about itself must be able to change
//! nothing here.

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
    ///
    /// A copy of a directory, restored from a backup, has forgotten votes and acknowledgments that others rely on, and
    /// nothing on its disk shows that. Only the peers can know it. So each peer that had contact with this disk reminds
    /// it on every new connection, before it can do any harm on that connection.
    pub(super) fn handle_reminder(&mut self, now: Time, term: Term, position: Position) {
        if !election::reminder_binds(self.me.options.mutants) {
            return;
        }
        if term > self.me.term() {
            self.step_down(now, StepDown::OlderCopy);
            self.me.advance_term(term);
            self.me.forfeit_vote();
        // In the term of the start only: a later term began after the start, and this process remembers its own vote in
        // it.
        } else if term == self.me.term() && self.me.is_as_recovered() {
            self.me.forfeit_vote();
        }
        self.me.promise_lost(position);
    }

    /// Handles a peer that knows this node by id and address and holds another log. Returns whether this node must stop
    /// serving: a founder that was alone in its list learns that it was a member of that log and has lost its
    /// directory.
    ///
    /// Nothing is deleted and nothing merged here. Which of two logs holds the data is for the operator to decide.
    pub fn named_by_other_log(&mut self, peer: NodeId, log: LogId) -> bool {
        if self.membership().agreed_log() == Some(log) {
            return false;
        }
        self.me.founding.veto(peer, log);
        self.me.is_sole_founder()
    }

    /// Whether a message is accepted, by its disk and log. Checked first: not even the term of another log has a
    /// meaning here.
    ///
    /// Checked per message and not once per connection: a membership change may name another disk while the connection
    /// stays open.
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
                // A candidate or leader of an old term stops only when it learns of a newer one. A dropped request
                // would leave a node that was cut off in its old term until its own timeout.
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
                // An answer to a question of an old term. It needs no answer itself: its sender waits for nothing.
                | Message::StaleTerm => {}
            }
            return false;
        }
        // A transfer is exempt: the leader itself wants the candidate to win. All other rules of voting apply to it
        // (cowsql ad19f79a: a vote that was granted merely to the transfer target, beside another one in the same
        // term).
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
            // Not an error for the operator then: it is what was asked for.
            let transferred = self.transfer_target() == Some(from);
            let why =
                if transferred { StepDown::Transferred { to: from } } else { StepDown::HigherTerm { term, from } };
            self.step_down(now, why);
            self.me.advance_term(envelope.term);
        }
        true
    }

    /// A leader counts itself: it steps down by `check_quorum` and not because a node that it cannot reach asks for
    /// votes.
    pub(super) fn has_recent_leader(&self, now: Time) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.has_recent_leader(&self.me, now),
            Role::Candidate(_) => false,
            Role::Leader(_) => true,
        }
    }

    /// Accepts the sender of a leader's message as leader of this term; a candidate that receives one has lost (§5.2).
    ///
    /// The append itself is proof enough: a leader sends it only after a majority has voted in that term. Which disk it
    /// comes from does not matter (`peer_class`).
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
