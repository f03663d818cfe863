//! The follower: appends, acknowledgments, and the election timeout.
//!
//! A follower acts without a message in one case only, the election timeout. Four indexes describe the state of its
//! log, and each has another meaning:
//!
//! ```text
//! log.last()       end of the log               may hold another leader's entries, which will be truncated
//! matched_prefix   matches this leader's log    proved by an append of this term; limits commits and acknowledgments
//! log.durable()    durable on this disk         limits acknowledgments
//! acked_index      acknowledged to the leader   min(matched_prefix, durable), in one message for each `ready`
//! ```
//!
//! Confusing two of these indexes loses entries: cowsql 446f8d21 acknowledged the end of its log although the append
//! had proved a match only for a part of it, and ra#637 acknowledged entries that were not durable yet because a
//! truncation had replaced the durable ones.

use super::clock::LeaderTime;
use super::message::{Envelope, Message, Round, VoteKind};
use super::next::NextRole;
use super::note::{CampaignReason, Note};
use super::replica::Replica;
use super::rules::{election, replication};
use crate::types::{ClusterTime, Entry, Index, NodeId, Position, Time, Vote};

/// The state of a node that follows a leader, or waits for one.
#[derive(Clone, Debug)]
pub struct Follower {
    /// The leader of this term; `None` until this node knows the leader, and after the link to the leader broke.
    leader: Option<NodeId>,
    /// When the last message from the leader arrived.
    last_contact: Time,
    /// The end of the election timeout, when [`Follower::tick`] campaigns.
    election_deadline: Time,
    /// The reason that this node logs when it campaigns next.
    campaign_reason: CampaignReason,
    /// The last index acknowledged to this leader. It only suppresses repeated acknowledgments: the index to
    /// acknowledge is always computed from the log.
    acked_index: Index,
    /// Whether an append or an installed snapshot still has to be acknowledged, at least in part.
    ack_due: bool,
    /// Whether lost entries were appended without a leader, and are not durable yet.
    awaits_lost_entries: bool,
}

impl Follower {
    /// A follower that knows no leader yet.
    ///
    /// Each timeout is a new random value: two nodes that split a vote would otherwise split every vote (§5.2).
    pub fn new(me: &mut Replica, now: Time) -> Follower {
        Follower {
            leader: None,
            last_contact: Time::ZERO,
            election_deadline: now + me.random_election_timeout(),
            campaign_reason: CampaignReason::Timeout,
            acked_index: Index::ZERO,
            ack_due: false,
            awaits_lost_entries: false,
        }
    }

    /// A follower of `leader`, from which a message has just arrived (§5.2).
    pub fn following(me: &mut Replica, now: Time, leader: NodeId) -> Follower {
        me.notes.push(Note::Follows { leader, term: me.term() });
        me.last_leader = Some((leader, now));
        Follower { leader: Some(leader), last_contact: now, ..Follower::new(me, now) }
    }

    /// Replaces the random end of the election timeout: a change of term keeps the previous deadline, and a single
    /// voter campaigns at once.
    pub fn with_election_deadline(self, election_deadline: Time) -> Follower {
        Follower { election_deadline, ..self }
    }

    /// The leader of this term, if this node knows one.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The end of the election timeout, when [`Follower::tick`] campaigns.
    pub fn election_deadline(&self) -> Time {
        self.election_deadline
    }

    /// Whether a message from a leader came within the shortest election timeout (thesis §4.2.3).
    ///
    /// The *shortest* timeout counts: within it no correct follower campaigns, so that a candidate is a node that the
    /// leader does not reach, such as a removed member.
    pub fn has_recent_leader(&self, me: &Replica, now: Time) -> bool {
        self.leader.is_some() && now.since(self.last_contact) < me.options.election_min
    }

    /// Campaigns if the election timeout has passed.
    pub fn tick(&mut self, me: &mut Replica, now: Time) -> NextRole {
        if now < self.election_deadline {
            return NextRole::Stay;
        }
        // The deadline is set even if this node does not campaign below: the driver would otherwise call `tick` in a
        // busy loop.
        self.election_deadline = now + me.random_election_timeout();
        if me.disk_stalled(now) {
            // A candidate whose disk does not respond could neither record its vote nor lead.
            me.notes.push(Note::DiskStalled { write_age: me.oldest_write_age(now) });
            return NextRole::Stay;
        }
        // The leader is dropped even if this node may not campaign: clients must not wait for a dead leader.
        self.leader = None;
        if !me.promotable() {
            me.request_lost_entries();
            return NextRole::Stay;
        }
        NextRole::Campaign(election::first_vote_kind(me.options.mutants), self.campaign_reason)
    }

    /// Handles a broken link to a peer. If the peer is the leader, its process has most likely died, and this node
    /// campaigns with a pre-vote. The pre-vote succeeds only if a majority has lost contact with the leader.
    ///
    /// The follower campaigns after a short random delay and not at once: all followers lose their leader in the same
    /// moment, and would split the vote. A whole election timeout is needed only for failures that close no connection,
    /// such as a cut cable.
    pub fn handle_lost_link(&mut self, me: &mut Replica, now: Time, peer: NodeId) {
        if self.leader == Some(peer) {
            self.leader = None;
            self.campaign_reason = CampaignReason::LinkClosed;
            self.election_deadline = now + me.random_link_loss_delay();
        }
    }

    /// Recognizes the sender as leader of this term (§5.2), and resets the election timeout.
    ///
    /// `acked_index` does not change: it is valid for the whole term, because a term has one leader.
    fn recognize_leader(&mut self, me: &mut Replica, now: Time, from: NodeId) {
        if self.leader != Some(from) {
            *self = Follower { acked_index: self.acked_index, ..Follower::following(me, now, from) };
        }
        self.last_contact = now;
        me.last_leader = Some((from, now));
        self.election_deadline = now + me.random_election_timeout();
        self.campaign_reason = CampaignReason::Timeout;
    }

    /// Handles a message of this term, after [`super::raft::Raft`] has checked its sender.
    pub fn receive(&mut self, me: &mut Replica, now: Time, envelope: Envelope) -> NextRole {
        let from = envelope.from;
        match envelope.message {
            Message::RequestVote { last, kind } => {
                if me.handle_request_vote(Vote::new(from, envelope.origin.disk), last, kind) {
                    self.election_deadline = now + me.random_election_timeout();
                }
            }
            Message::AppendEntries { prev, commit, probe_number, entries } => {
                self.recognize_leader(me, now, from);
                self.handle_append(me, from, (prev, probe_number), commit, entries);
            }
            Message::Heartbeat { commit, round, time } => {
                self.recognize_leader(me, now, from);
                handle_heartbeat(me, from, commit, round, time);
            }
            Message::Committed { upto } => {
                self.recognize_leader(me, now, from);
                commit_to(me, upto);
            }
            Message::InstallSnapshot(chunk) => {
                self.recognize_leader(me, now, from);
                if !replication::accepts_snapshot_chunks(me.options.mutants) {
                    return NextRole::Stay;
                }
                // The leader may send a snapshot that this node does not need: it sent the chunk before it learned the
                // end of this log, or the chunk was delayed. An acknowledgment ends the transfer.
                if chunk.snapshot.index <= me.log.commit() {
                    // The log holds everything that the snapshot covers: committed entries are in every later leader's
                    // log.
                    me.matched_prefix = me.matched_prefix.max(me.log.commit());
                    self.ack_due = true;
                } else {
                    me.snapshot_chunks.push((from, chunk));
                }
            }
            // The request may be old and its sender deposed, so this node checks again whether it may campaign.
            Message::TimeoutNow if self.leader == Some(from) && me.promotable() && !me.disk_stalled(now) => {
                return NextRole::Campaign(VoteKind::Transfer, CampaignReason::Transfer);
            }
            Message::LostAcknowledged { upto } => {
                self.recognize_leader(me, now, from);
                me.promise_lost_position(upto);
                // This node answers even if it promised this position before, or holds the entries: the leader repeats
                // its message until it receives the answer.
                me.send_when_durable(from, Message::LostAcknowledgedResponse { upto });
            }
            Message::TimeoutNow | Message::ReadIndexRequest { .. } => {}
            #[cfg(feature = "next-version")]
            Message::NextVersionNotice => {}
            // Handled before, in whatever role.
            Message::RequestLostEntries { .. } | Message::LostEntries { .. } | Message::RecordedClaim { .. } => {}
            // Answers to requests that this node sent in another role.
            Message::RequestVoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::HeartbeatResponse { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::LostAcknowledgedResponse { .. }
            | Message::ReadIndexResponse { .. }
            | Message::StaleTerm => {}
        }
        NextRole::Stay
    }

    /// Appends entries that this node has lost, if no leader sends them ([`Replica::append_lost_entries`]). The next ones
    /// are requested once these are durable, so that not all of them are in memory at once.
    pub fn append_lost_entries(&mut self, me: &mut Replica, after: Position, entries: Vec<Entry>) {
        if self.leader.is_none() {
            self.awaits_lost_entries |= me.append_lost_entries(after, entries);
        }
    }

    /// Handles the report that writes are durable: requests the next lost entries, if the last ones were appended and
    /// are durable. If none are missing any more, this node campaigns at the end of its election timeout.
    pub fn handle_persisted(&mut self, me: &mut Replica) -> NextRole {
        if self.awaits_lost_entries && me.log.durable() == me.log.last().index {
            self.awaits_lost_entries = false;
            if self.leader.is_none() {
                me.request_lost_entries();
            }
        }
        NextRole::Stay
    }

    /// Panics if an invariant of the follower is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check_invariants(&self, me: &Replica) {
        assert!(self.leader != Some(me.id), "a follower does not follow itself");
        // The leader counts an acknowledged entry as a copy of the entry in its own log (§5.3).
        assert!(
            self.acked_index <= me.matched_prefix,
            "the acknowledged index is at or below the matched prefix (§5.3)"
        );
    }

    /// Records that a snapshot is installed: this node has to acknowledge it like entries.
    pub fn handle_installed_snapshot(&mut self) {
        self.ack_due = true;
    }

    /// Appends entries after `prev` (§5.3).
    ///
    /// An append never shortens the log by itself, because it may be old: a shorter append that was delayed would
    /// remove entries that were acknowledged since (hashicorp/raft#113, akka-raft#66). Only an entry of another term at
    /// the same index proves a conflict.
    fn handle_append(
        &mut self,
        me: &mut Replica,
        from: NodeId,
        (prev, probe_number): (Position, u64),
        commit: Index,
        entries: Vec<Entry>,
    ) {
        if !replication::holds_prev(&me.log, prev, me.options.mutants) {
            // With the hint the leader needs one probe for each term in which the logs differ, not one for each entry
            // (end of §5.3).
            let hint = me.log.last_at_or_below(prev);
            return me.send(from, Message::AppendRejected { index: prev.index, hint, probe_number });
        }
        let append_end = Index(prev.index.0 + entries.len() as u64);
        // `leader_commit` is raised before the entries are appended: a configuration among them that removes this node
        // is old if its index is below `leader_commit`.
        me.leader_commit = me.leader_commit.max(commit);
        // Entries that the log holds already are skipped one by one, so that an append that overlaps with an earlier
        // one is harmless.
        for entry in entries {
            if let Err(error) = append_entry(me, entry) {
                return me.notes.push(Note::InvalidMessage { peer: from, error });
            }
        }
        // `matched_prefix` is raised only as far as this append has proved a match: the log may continue with another
        // leader's entries.
        me.matched_prefix = me.matched_prefix.max(append_end.min(me.log.last().index));
        self.ack_due = true;
        commit_to(me, commit);
    }

    /// Sends one acknowledgment for all appends received, as far as they are durable.
    ///
    /// An index that is acknowledged already is acknowledged again only if everything that is verified to match is
    /// durable: the leader waits for the answer to a probe even if the answer acknowledges no new entry.
    pub fn send_ack(&mut self, me: &mut Replica) {
        let Some(leader) = self.leader.filter(|_| self.ack_due) else { return };
        let verified_index = replication::verified_index(&me.log, me.matched_prefix, me.options.mutants);
        let matched = replication::ack_index(&me.log, verified_index, me.options.mutants);
        if matched == verified_index || matched > self.acked_index {
            // All entries up to `matched` are durable already. The entries between `matched` and `verified_index` are
            // acknowledged once they are durable.
            me.send(leader, Message::AppendResponse { matched });
            self.acked_index = matched;
            self.ack_due = matched < verified_index;
        }
    }
}

/// Learns commit index and time from the leader's heartbeat, and responds to it.
fn handle_heartbeat(me: &mut Replica, leader: NodeId, commit: Index, round: Round, time: ClusterTime) {
    // A heartbeat carries the time even if the leader has appended nothing for an hour, so that the next leader does not
    // start an hour behind.
    if replication::heartbeat_sets_time(me.options.mutants) {
        me.clock.observe_leader_time(LeaderTime { term: me.term(), time });
    }
    commit_to(me, commit);
    // The response relies on the durable term only, and waits for no other write: a slow disk must not look like a
    // partition.
    me.send(leader, Message::HeartbeatResponse { round, matched_prefix: me.matched_prefix, room: me.room });
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
/// An error means that the leader is faulty. The follower reports the error and does not panic: otherwise one faulty
/// leader would stop all of its followers.
fn append_entry(me: &mut Replica, entry: Entry) -> Result<(), &'static str> {
    let Position { index, term } = entry.position;
    // A compacted entry is committed, and cannot conflict (akka-entity-replication#152: such an entry was taken for a
    // conflict, and committed entries were deleted).
    if index <= me.log.base().index {
        return Ok(());
    }
    let held_term = me.log.term(index);
    if replication::entry_agrees(held_term, term, me.options.mutants) {
        return Ok(());
    }
    if held_term.is_some() {
        // The leader lacks an entry that was committed, which no correct election allows. This copy of the entry must
        // survive.
        if index <= me.log.commit() {
            return Err("an entry conflicts with a committed one");
        }
        // A conflict: this entry and all that follow it are not in the leader's log (§5.3).
        me.truncate(index);
    }
    if index != me.log.last().index.next() || term < me.log.last().term || term > me.term() {
        return Err("an entry does not continue the log by index and term");
    }
    me.append_entry(entry);
    Ok(())
}
