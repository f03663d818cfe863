//! The follower.
//!
//! A follower never acts on its own but for one thing, the election timeout. Four indexes describe how far it is, and
//! each answers another question:
//!
//! ```text
//! log.last()       what is in the log          may be another leader's, and be truncated
//! matched_prefix   what matches this leader    shown by an append of this term; limits commits and acknowledgments
//! log.durable()    what the disk holds         limits acknowledgments
//! acked            what the leader was told    min(matched_prefix, durable), in one message for all appends of a turn
//! ```
//!
//! To confuse two of them loses entries: cowsql 446f8d21 acknowledged the end of its log although the append had shown
//! less, and ra#637 acknowledged entries that were not durable yet because a truncation had replaced those that were.

use super::clock::LeaderTime;
use super::message::{Envelope, Message, VoteKind};
use super::next::Next;
use super::note::{Note, Reason};
use super::replica::Replica;
use super::rules::{election, replication};
use crate::types::{Entry, Index, NodeId, Position, Time, Vote};

/// The state of a node that follows a leader, or waits for one.
#[derive(Clone, Debug)]
pub struct Follower {
    leader: Option<NodeId>,
    /// When the last message from the leader came.
    last_contact: Time,
    /// The end of the election timeout.
    deadline: Time,
    reason: Reason,
    /// The last index acknowledged to this leader.
    // It only suppresses repeated acknowledgments. What counts is always computed from the log.
    acked: Index,
    /// Whether an append is not fully acknowledged yet.
    ack_due: bool,
}

impl Follower {
    /// A follower without a leader.
    ///
    /// The timeout is drawn anew each time: two nodes that collided once would otherwise collide in every election
    /// (§5.2).
    pub fn new(me: &mut Replica, now: Time) -> Follower {
        Follower {
            leader: None,
            last_contact: Time::ZERO,
            deadline: now + me.random_election_timeout(),
            reason: Reason::Timeout,
            acked: Index::ZERO,
            ack_due: false,
        }
    }

    /// A follower of that leader, from which a message has just come (§5.2).
    pub fn of(me: &mut Replica, now: Time, leader: NodeId) -> Follower {
        me.notes.push(Note::Follows { leader, term: me.term() });
        me.last_leader = Some((leader, now));
        Follower { leader: Some(leader), last_contact: now, ..Follower::new(me, now) }
    }

    /// Sets the end of the election timeout.
    pub fn with_deadline(self, deadline: Time) -> Follower {
        Follower { deadline, ..self }
    }

    /// The leader that it follows, if any.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// When `tick` next has something to do.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// Whether a message from a leader came within the shortest election timeout (thesis §4.2.3).
    ///
    /// The *shortest* timeout: within it no correct follower campaigns, so that a candidate that appears is one that
    /// the leader does not reach, such as a removed member.
    pub fn has_recent_leader(&self, me: &Replica, now: Time) -> bool {
        self.leader.is_some() && now.since(self.last_contact) < me.options.election_min
    }

    /// Campaigns if the election timeout has passed.
    pub fn tick(&mut self, me: &mut Replica, now: Time) -> Next {
        if now < self.deadline {
            return Next::Stay;
        }
        // Also if it does not campaign below: a node that may not would otherwise be called again at once, in a busy
        // loop.
        self.deadline = now + me.random_election_timeout();
        if me.disk_stalled(now) {
            // A candidate whose disk does not respond could neither record its vote nor lead.
            me.notes.push(Note::DiskStalled { since: me.disk_age(now) });
            return Next::Stay;
        }
        // Dropped even if this node may not campaign: its clients must not wait for a leader that is gone.
        self.leader = None;
        if !me.promotable() {
            return Next::Stay;
        }
        Next::Campaign(election::first_vote_kind(me.options.mutants), self.reason)
    }

    /// Handles a broken link. If it was the leader's, the leader has most likely died; pre-vote decides whether it has,
    /// because a majority must have lost it.
    ///
    /// A short random delay, and not at once: all followers lose their leader in the same moment, and would split the
    /// vote. The delay of an election timeout is for what shows no sign, such as a cable that was cut.
    pub fn lost(&mut self, me: &mut Replica, now: Time, peer: NodeId) {
        if self.leader == Some(peer) {
            self.leader = None;
            self.reason = Reason::LinkClosed;
            self.deadline = now + me.random_link_loss_delay();
        }
    }

    /// Recognizes the sender as leader of this term (§5.2), and resets the election timeout.
    ///
    /// The `acked` index stays: it belongs to the term, and the term has one leader.
    fn recognize_leader(&mut self, me: &mut Replica, now: Time, from: NodeId) {
        if self.leader != Some(from) {
            *self = Follower { acked: self.acked, ..Follower::of(me, now, from) };
        }
        self.last_contact = now;
        me.last_leader = Some((from, now));
        self.deadline = now + me.random_election_timeout();
        self.reason = Reason::Timeout;
    }

    /// Handles a message of this term.
    pub fn receive(&mut self, me: &mut Replica, now: Time, envelope: Envelope) -> Next {
        let from = envelope.from;
        match envelope.message {
            Message::RequestVote { last, ask } => {
                if me.handle_request_vote(Vote::new(from, envelope.origin.disk), last, ask) {
                    self.deadline = now + me.random_election_timeout();
                }
            }
            Message::AppendEntries { prev, commit, probe, entries } => {
                self.recognize_leader(me, now, from);
                self.append(me, from, (prev, probe), commit, entries);
            }
            Message::Heartbeat { commit, round, time } => {
                self.recognize_leader(me, now, from);
                // The time of a leader that has written nothing for an hour is known to its followers all the same, so
                // that its successor does not start an hour behind.
                if replication::heartbeat_sets_time(me.options.mutants) {
                    me.clock.observe(LeaderTime { term: me.term(), time });
                }
                commit_to(me, commit);
                // It relies on nothing but the term, and so waits for no disk: a slow disk must not look like a
                // partition.
                me.send(from, Message::HeartbeatResponse { round, seen: me.matched_prefix, room: me.room });
            }
            Message::Committed { upto } => {
                self.recognize_leader(me, now, from);
                commit_to(me, upto);
            }
            Message::InstallSnapshot(chunk) => {
                self.recognize_leader(me, now, from);
                if !replication::accepts_chunks(me.options.mutants) {
                    return Next::Stay;
                }
                // The leader sent it before it learned how far this log reaches, or the chunks were late. An
                // acknowledgment ends the transfer.
                if chunk.snapshot.index <= me.log.commit() {
                    // The log holds everything that the snapshot covers: committed entries are in every later leader's
                    // log.
                    me.matched_prefix = me.matched_prefix.max(me.log.commit());
                    self.ack_due = true;
                } else {
                    me.chunks.push((from, chunk));
                }
            }
            // The request may be old and its sender deposed, so this node checks again whether it may campaign.
            Message::TimeoutNow if self.leader == Some(from) && me.promotable() && !me.disk_stalled(now) => {
                return Next::Campaign(VoteKind::Transfer, Reason::Transfer);
            }
            Message::LostAcknowledged { upto } => {
                self.recognize_leader(me, now, from);
                me.promise_lost(upto);
                // Also if this node promised it before, or holds it after all: the leader repeats its notice until it
                // gets the answer.
                me.promise(from, Message::Promised { upto });
            }
            Message::TimeoutNow | Message::ReadIndexRequest { .. } | Message::Reminder { .. } => {}
            // Answers to requests that this node sent in another role.
            Message::RequestVoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::HeartbeatResponse { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::Promised { .. }
            | Message::ReadIndexResponse { .. }
            | Message::StaleTerm => {}
        }
        Next::Stay
    }

    /// Panics if an invariant is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check(&self, me: &Replica) {
        assert!(self.leader != Some(me.id), "a follower follows another node");
        // The leader counts an acknowledged entry as a copy of its own (§5.3).
        assert!(self.acked <= me.matched_prefix, "only entries that match the leader's log are acknowledged (§5.3)");
    }

    /// Records that a snapshot from this leader, or an earlier one, is installed: it is acknowledged like entries.
    pub fn restored(&mut self) {
        self.ack_due = true;
    }

    /// Appends entries after `prev` (§5.3).
    ///
    /// An append never shortens the log by itself. It may be old: a shorter append that was delayed would remove
    /// entries that were acknowledged since (hashicorp/raft#113, akka-raft#66). Only an entry of another term at the
    /// same index proves a conflict.
    fn append(
        &mut self,
        me: &mut Replica,
        from: NodeId,
        (prev, probe): (Position, u64),
        commit: Index,
        entries: Vec<Entry>,
    ) {
        if !replication::holds_prev(&me.log, prev, me.options.mutants) {
            // The answer costs the leader one probe for each term in which the logs differ, and not one for each entry
            // (end of §5.3).
            let hint = me.log.at_or_below(prev);
            return me.send(from, Message::AppendRejected { refused: prev.index, hint, probe });
        }
        let upto = Index(prev.index.0 + entries.len() as u64);
        // Set before the entries are appended: it shows which of their configurations are old.
        me.leader_commit = me.leader_commit.max(commit);
        // Entries that the log holds already are skipped one by one, so that an append that overlaps with an earlier
        // one is harmless.
        for entry in entries {
            if let Err(what) = take_entry(me, entry) {
                return me.notes.push(Note::InvalidMessage { peer: from, what });
            }
        }
        // Only the part that this append has shown to match: the log may continue with another leader's entries.
        me.matched_prefix = me.matched_prefix.max(upto.min(me.log.last().index));
        self.ack_due = true;
        commit_to(me, commit);
    }

    /// Sends one acknowledgment for all appends received, as far as they are durable.
    ///
    /// An acknowledgment repeats nothing that was acknowledged before, unless all of an append is durable: the leader
    /// waits for that answer to a probe even if it holds nothing new.
    pub fn ready(&mut self, me: &mut Replica) {
        let Some(leader) = self.leader.filter(|_| self.ack_due) else { return };
        let verified = replication::verified_index(&me.log, me.matched_prefix, me.options.mutants);
        let matched = replication::ack_index(&me.log, verified, me.options.mutants);
        if matched == verified || matched > self.acked {
            // Sent without waiting, because `matched` goes no further than what is durable already. The rest is
            // acknowledged when the disk has it.
            me.send(leader, Message::AppendResponse { matched });
            self.acked = matched;
            self.ack_due = matched < verified;
        }
    }
}

/// Commits up to the leader's commit index, but no further than the log is known to match the leader's.
///
/// The leader's commit index alone proves nothing about this log: there may be an entry of another leader at that
/// index.
fn commit_to(me: &mut Replica, commit: Index) {
    me.leader_commit = me.leader_commit.max(commit);
    me.log.commit_to(replication::follower_commit(&me.log, me.matched_prefix, commit, me.options.mutants));
    me.warn_if_removed();
}

/// Appends one entry of a leader's append, unless the log holds it already.
///
/// An error is an error of the leader. It is reported as such, and the node goes on: a panic here would let one faulty
/// leader stop all of its followers.
fn take_entry(me: &mut Replica, entry: Entry) -> Result<(), &'static str> {
    let Position { index, term } = entry.position;
    // Compacted, and so committed. It cannot conflict (akka-entity-replication#152: it was taken for a conflict, and
    // committed entries were deleted).
    if index <= me.log.base().index {
        return Ok(());
    }
    let ours = me.log.term(index);
    if replication::entry_agrees(ours, term, me.options.mutants) {
        return Ok(());
    }
    if ours.is_some() {
        // The leader lacks an entry that was committed, which no election allows. Whatever the cause is, this copy must
        // survive.
        if index <= me.log.commit() {
            return Err("an entry conflicts with a committed one");
        }
        // A conflict: this entry and all that follow it are not in the leader's log (§5.3).
        me.truncate(index);
    }
    if index != me.log.last().index.next() || term < me.log.last().term || term > me.term() {
        return Err("entries out of order");
    }
    me.take(entry);
    Ok(())
}
