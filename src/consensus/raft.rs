//! The Raft state machine's entry points, and every change of role.
//!
//! An event takes this path, and no other module changes the role:
//!
//! ```text
//! receive ─> is_accepted      disk and log of the sender: no other cluster, no emptied disk (peer_class)
//!         ─> record_claim     what the sender has claimed of its disk (claims)
//!         ─> compare_terms    a higher term makes this node a follower, a message of a lower term ends here (§5.1)
//!         ─> recognize_leader one leader a term (§5.2)
//!         ─> role.receive     returns the change of role that it requests (NextRole)
//!         ─> apply_next_role  changes the role, commits, adapts the membership, checks the invariants
//! ready   ─> everything to write, send, answer and report since the last call
//! ```
//!
//! A role returns a [`NextRole`] and does not replace itself. So no role handles the rest of a message after it was
//! replaced, and all transitions of Figure 4 are in one function (`become_next_role`).

mod receiving;
mod snapshots;
mod versions;

use super::candidate::Candidate;
use super::disk_room::DiskRoom;
use super::follower::Follower;
use super::follower_reads::FollowerReads;
use super::invariants;
use super::leader::Leader;
use super::message::{Envelope, Message, VoteKind};
use super::next::NextRole;
use super::note::{Note, StepDownReason};
use super::progress::Progress;
use super::reads::ReadId;
use super::ready::Ready;
use super::replica::Replica;
use super::role::Role;
use crate::api::{Refusal, RoleName};
use crate::types::{
    Change, ClusterTime, DiskId, Index, Membership, NodeId, Payload, Position, Term, Time, Vote, WriteId,
};
use bytes::Bytes;
use std::time::Duration;

/// One node's consensus state machine. Pure: no clock, I/O or threads.
///
/// The driver reports events (`tick`, `receive`, `handle_persisted`, `handle_lost_link`), makes requests (`propose`,
/// `read`), and performs the work that [`Raft::ready`] returns. Time is an argument and randomness comes from a seed.
/// All work in a [`Ready`] may be done at once.
///
/// The core writes no log lines but returns notes. One seed therefore repeats a run exactly.
#[derive(Clone, Debug)]
pub struct Raft {
    /// The state of this node in any role.
    me: Replica,
    role: Role,
    // The number is never reset, not even with a new term: the driver maps read ids to clients, and the answer to an
    // earlier read must not reach another client.
    last_read_id: u64,
    lost_reads: Vec<ReadId>,
    /// Reads that this node serves as a follower, while they wait for the leader's read index.
    follower_reads: FollowerReads,
    /// Reads of this node as a follower for which the leader has sent the read index, each with that index.
    confirmed_reads: Vec<(ReadId, Index)>,
}

impl Raft {
    /// Starts or restarts a node as a follower without a leader.
    pub fn new(mut replica: Replica, now: Time) -> Raft {
        replica.founding.start_wait(now, &replica.options);
        let mut follower = Follower::new(&mut replica, now);
        let membership = replica.configs.current();
        let is_only_voter = membership.is_voter(replica.id) && membership.all_voters().count() == 1;
        if is_only_voter && replica.promotable() {
            // A single voter does not wait for an election timeout. There is no leader to disturb, and a restart of a
            // single node should not cost its clients an election timeout.
            follower = follower.with_election_deadline(now);
        }
        // The first request number is random, so that no answer to a request of an earlier process matches a request of
        // this process.
        let follower_reads = FollowerReads::with_last_request_number(replica.random_number());
        Raft {
            me: replica,
            role: Role::Follower(follower),
            last_read_id: 0,
            lost_reads: Vec::new(),
            follower_reads,
            confirmed_reads: Vec::new(),
        }
    }

    /// Advances the time, and runs the timers that are due.
    ///
    /// A late call only makes this node slower to react. No promise depends on a timer: there are no leases.
    pub fn tick(&mut self, now: Time) {
        let next_role = match &mut self.role {
            Role::Follower(follower) => follower.tick(&mut self.me, now),
            Role::Candidate(candidate) => candidate.tick(&mut self.me, now),
            Role::Leader(leader) => leader.tick(&mut self.me, now),
        };
        self.follower_reads.fail_overdue_reads(now, self.me.options.election_min, &mut self.lost_reads);
        self.apply_next_role(now, next_role);
    }

    /// Handles a message from a peer.
    ///
    /// The order of the checks matters. The log is checked before the term, because the terms of two logs cannot be
    /// compared: a term that was adopted from another cluster would depose the leader of this one.
    pub fn receive(&mut self, now: Time, envelope: Envelope) {
        if envelope.to != self.me.id || envelope.from == self.me.id {
            let note = Note::InvalidMessage { peer: envelope.from, error: "its sender or receiver id is wrong" };
            return self.me.notes.push(note);
        }
        if !self.is_accepted(&envelope) {
            return;
        }
        // The claim is recorded before the terms are compared: a message of an old term also proves what its sender's
        // disk held.
        self.me.record_claim(&envelope);
        if let Message::RecordedClaim { term, position } = envelope.message {
            // The claim is about this node's own disk, so the term of the sender does not matter.
            return self.handle_recorded_claim(now, term, position);
        }
        if !self.compare_terms(now, &envelope) {
            return;
        }
        assert!(
            envelope.term <= self.me.term(),
            "a node adopts a higher term before it handles a message of that term (§5.1)"
        );
        if let Err(error) = self.recognize_leader(now, &envelope) {
            return self.me.notes.push(Note::InvalidMessage { peer: envelope.from, error });
        }
        if let Message::ReadIndexResponse { number, index } = envelope.message {
            return self.follower_reads.handle_response(envelope.from, number, index, &mut self.confirmed_reads);
        }
        if matches!(envelope.message, Message::RequestLostEntries { .. } | Message::LostEntries { .. }) {
            return self.handle_lost_entries(envelope);
        }
        // The leader's claim is recorded after the role has handled the message: then the commit index includes what
        // the leader has just reported.
        let leader_and_disk =
            envelope.origin.disk.filter(|_| envelope.message.is_from_leader()).map(|disk| (envelope.from, disk));
        let next_role = match &mut self.role {
            Role::Follower(follower) => follower.receive(&mut self.me, now, envelope),
            Role::Candidate(candidate) => candidate.receive(&mut self.me, envelope),
            Role::Leader(leader) => leader.receive(&mut self.me, now, envelope),
        };
        if let Some((leader, disk)) = leader_and_disk {
            self.me.record_leader_claim(leader, disk);
        }
        self.apply_next_role(now, next_role);
    }

    /// Reports that the journal has made every write up to `upto` durable.
    ///
    /// A candidate may win by its own vote, a leader may commit by its own copy, and a follower acknowledges in the
    /// next `ready`.
    pub fn handle_persisted(&mut self, now: Time, upto: WriteId) {
        self.me.handle_persisted(upto);
        let next_role = match &mut self.role {
            Role::Candidate(candidate) => candidate.handle_persisted(&self.me),
            Role::Follower(follower) => follower.handle_persisted(&mut self.me),
            Role::Leader(_) => NextRole::Stay,
        };
        self.apply_next_role(now, next_role);
    }

    /// Reports that the link with a peer broke: messages in flight in either direction may be lost.
    ///
    /// A closed connection is the fastest sign of a dead process, but no proof. So a follower campaigns with a
    /// pre-vote, and a leader only probes its follower again.
    pub fn handle_lost_link(&mut self, now: Time, peer: NodeId) {
        match &mut self.role {
            Role::Follower(follower) => follower.handle_lost_link(&mut self.me, now, peer),
            Role::Candidate(_) => {}
            Role::Leader(leader) => leader.handle_lost_link(peer),
        }
        self.check_invariants();
    }

    /// The configuration in force at `index`, with the index of its own entry; `None` if it is compacted.
    pub fn membership_at(&self, index: Index) -> Option<&(Index, Membership)> {
        self.me.configs.configuration_at(index)
    }

    /// Records the disk id that a peer presented on a new connection, and sends the peer the claims recorded for that
    /// disk.
    pub fn learn_disk_id(&mut self, peer: NodeId, disk: DiskId) {
        // The claim is the first message on the new connection: the peer must receive it before it grants a vote.
        self.me.send_recorded_claim(peer, disk);
        if self.me.learn_disk_id(peer, disk)
            && let Role::Leader(leader) = &mut self.role
        {
            leader.reset_progress(&self.me, peer);
        }
    }

    /// Sets whether this node's disk is so full that the node should not lead.
    pub fn set_low_space(&mut self, low: bool) {
        self.me.room.is_low = low;
    }

    /// Sets how many more bytes this node's log can hold beyond the durable entries.
    ///
    /// The bytes are counted from the durable index: entries after it still have to fit.
    pub fn set_room(&mut self, bytes: u64) {
        self.me.room = DiskRoom { free_bytes: bytes, counted_after: self.me.log.durable(), ..self.me.room };
    }

    /// Whether a command of `bytes` bytes fits: on a leader, a majority of disks has room for it besides the reserve,
    /// or besides half of the reserve for a command that frees room.
    ///
    /// Without this difference a full cluster could not free space: a delete needs a log entry like any other command.
    pub fn has_room_for(&self, now: Time, bytes: u64, frees_room: bool) -> bool {
        let bytes_kept_free = self.me.options.reserve_bytes / if frees_room { 2 } else { 1 };
        match &self.role {
            Role::Leader(leader) => leader.has_room_for(&self.me, now, bytes, bytes_kept_free),
            Role::Follower(_) | Role::Candidate(_) => true,
        }
    }

    /// Changes the membership (§6) if the change is valid and, unless `force` is set, does not put the cluster at risk.
    /// A new voter is a learner first; learners that wait for a promotion are promoted automatically.
    pub fn reconfigure(&mut self, now: Time, change: &Change, force: bool) -> Result<Position, Refusal> {
        let Role::Leader(leader) = &mut self.role else { return Err(self.not_leader()) };
        let position = leader.reconfigure(&mut self.me, now, change, force)?;
        self.apply_next_role(now, NextRole::Stay);
        Ok(position)
    }

    /// Transfers leadership to that voter, or to the best target (thesis §3.10). Returns the target.
    pub fn transfer(&mut self, now: Time, to: Option<NodeId>) -> Result<NodeId, Refusal> {
        let Role::Leader(leader) = &mut self.role else { return Err(self.not_leader()) };
        let (to, mut lost) = leader.start_transfer(&mut self.me, now, to)?;
        self.lost_reads.append(&mut lost);
        Ok(to)
    }

    /// Whether this node accepts commands: it leads, and its log is agreed, so that no other log ever replaces an
    /// acknowledged entry.
    ///
    /// False on followers: their clients are redirected before this check.
    pub fn accepts_commands(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.accepts_commands(&self.me),
            Role::Follower(_) | Role::Candidate(_) => false,
        }
    }

    /// The target of this leader's transfer, if one is under way. The leader rejects new work meanwhile.
    pub fn transfer_target(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.transfer_target(),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Transfers leadership to a responding voter whose disk has room, if there is one: this node's disk is full.
    pub fn transfer_to_node_with_room(&mut self, now: Time) {
        if let Role::Leader(leader) = &self.role
            && leader.has_target_with_room(&self.me, now)
        {
            // The result needs no check: `has_target_with_room` has just found a target.
            let _target = self.transfer(now, None);
        }
    }

    /// Appends a command, if this node leads and accepts commands. Its entry commits if this node remains the leader.
    ///
    /// An error means that no entry was appended, so that a client may retry at once. After success the outcome is
    /// unknown until the commit: a later leader may overwrite the entry, or commit it.
    pub fn propose(&mut self, now: Time, op: Bytes) -> Result<Position, Refusal> {
        let Role::Leader(leader) = &mut self.role else { return Err(self.not_leader()) };
        let log = &self.me.log;
        if !leader.accepts_commands(&self.me) {
            return Err(Refusal::Busy);
        }
        // A command during a transfer is refused and not queued: the target must reach the end of the log.
        if leader.transfer_target().is_some()
            || log.bytes(log.commit(), log.last().index) >= self.me.options.uncommitted_bytes_max
        {
            return Err(Refusal::Busy);
        }
        Ok(leader.propose(&mut self.me, now, Payload::Opaque(op)))
    }

    /// The cluster time. It advances while this node leads; otherwise it is the latest time that this node knows.
    pub fn cluster_time(&mut self, now: Time) -> ClusterTime {
        self.me.clock.read(now)
    }

    /// Starts a linearizable read; [`Ready::confirmed_reads`] or [`Ready::lost_reads`] will contain it. A follower
    /// requests the read index from its leader, and then serves the read itself.
    ///
    /// A follower does not forward the read but requests only the index: one request serves all reads since the last
    /// `ready`.
    pub fn read(&mut self) -> Result<ReadId, Refusal> {
        let read_id = ReadId(self.last_read_id + 1);
        match &mut self.role {
            Role::Leader(leader) => {
                if !leader.start_read(&self.me, read_id) {
                    return Err(Refusal::Busy);
                }
            }
            Role::Follower(follower) if follower.leader().is_some() => {
                if self.follower_reads.waiting_count() >= self.me.options.waiting_reads_max {
                    return Err(Refusal::Busy);
                }
                // The leader may have changed since the last `ready`. Without this call the read would join requests
                // that are about to fail.
                self.follow_current_leader();
                self.follower_reads.push(read_id);
            }
            Role::Follower(_) | Role::Candidate(_) => return Err(self.not_leader()),
        }
        // `last_read_id` is set last, so that a refused read uses no id.
        self.last_read_id = read_id.0;
        Ok(read_id)
    }

    /// Makes `follower_reads` send to the current leader; unanswered requests to an earlier leader fail.
    ///
    /// Called before each use and not at each change of role: if one change of role lacked the call, the answer of one
    /// leader would serve reads under the next leader.
    fn follow_current_leader(&mut self) {
        let term = self.me.term();
        let leader = match &self.role {
            Role::Follower(follower) => follower.leader().map(|leader| (leader, term)),
            Role::Candidate(_) | Role::Leader(_) => None,
        };
        self.follower_reads.follow_leader(leader, &mut self.lost_reads);
    }

    /// The refusal that redirects a request to the leader, if one is known.
    pub fn not_leader(&self) -> Refusal {
        let leader = self.leader();
        let address = leader.and_then(|id| self.membership().address(id)).map(str::to_owned);
        Refusal::NotLeader { leader, address, term: self.term() }
    }

    /// Returns all work since the last call: a write, messages, reads and notes.
    ///
    /// The write is collected last, in [`Replica::ready`], with all entries that the roles have appended, so that one
    /// call costs one sync. The driver may start the messages and the write at the same time, because messages that
    /// depend on the write are held in the gate.
    pub fn ready(&mut self, now: Time) -> Ready {
        let mut ready = Ready::default();
        self.follow_current_leader();
        if let Some((leader, number)) = self.follower_reads.next_request(now) {
            self.me.send(leader, Message::ReadIndexRequest { number });
        }
        ready.confirmed_reads.append(&mut self.confirmed_reads);
        match &mut self.role {
            Role::Follower(follower) => follower.send_ack(&mut self.me),
            Role::Candidate(_) => {}
            Role::Leader(leader) => leader.ready(&mut self.me, now, &mut ready),
        }
        ready.lost_reads.append(&mut self.lost_reads);
        self.me.ready(now, &mut ready);
        self.check_invariants();
        ready
    }

    /// Makes the change of role that the current role requested. A leader then commits entries and makes automatic
    /// membership changes.
    ///
    /// A leader commits after every step and not only after an acknowledgment: the report of its own disk and a new
    /// configuration may complete a majority as well. The second change of role is the step down of a removed leader,
    /// which may follow from that commit.
    fn apply_next_role(&mut self, now: Time, next_role: NextRole) {
        self.become_next_role(now, next_role);
        if let Role::Leader(leader) = &mut self.role {
            leader.advance_commit(&mut self.me);
            let next_role = leader.advance_membership(&mut self.me, now);
            self.become_next_role(now, next_role);
        }
        self.check_invariants();
    }

    /// Checks the state at the end of an entry point ([`invariants`]).
    fn check_invariants(&self) {
        invariants::check(&self.me, &self.role);
        self.follower_reads.check_invariants();
    }

    /// Makes the role transitions of Figure 4.
    ///
    /// This is a loop, because a candidate may win at once: a single voter needs no answer to its pre-vote.
    fn become_next_role(&mut self, now: Time, mut next_role: NextRole) {
        loop {
            next_role = match next_role {
                NextRole::Stay => break,
                NextRole::Campaign(kind, reason) => {
                    // If a leader campaigned, its waiting reads would never be answered, and its cluster clock would
                    // not be stopped.
                    assert!(!self.leads(), "a leader does not campaign (Figure 4)");
                    // A campaign continues from pre-vote to vote and through retries, so that the note shows how long
                    // the cluster was without a leader.
                    let campaign_start = match &self.role {
                        Role::Candidate(candidate) => candidate.campaign_start(),
                        Role::Follower(_) | Role::Leader(_) => now,
                    };
                    let candidate = Candidate::new(&mut self.me, now, kind, reason, campaign_start);
                    let next_role = candidate.tally(&self.me);
                    self.role = Role::Candidate(candidate);
                    next_role
                }
                NextRole::Lead => {
                    self.lead(now);
                    NextRole::Stay
                }
                NextRole::StepDown(why) => {
                    self.step_down(now, why);
                    NextRole::Stay
                }
            };
        }
    }

    /// Becomes leader. Panics if this node is no candidate, or if no quorum has voted for it.
    fn lead(&mut self, now: Time) {
        let Role::Candidate(candidate) = &self.role else {
            panic!("only a candidate becomes leader (Figure 4)");
        };
        // Voters grant any number of pre-votes for one term, so two nodes may both have a majority of pre-votes.
        assert!(candidate.vote_kind().is_real(), "a pre-vote elects no leader (thesis §9.6)");
        let (votes, campaign_time) = (candidate.votes(), now.since(candidate.campaign_start()));
        invariants::check_election(&self.me, &votes);
        self.me.notes.push(Note::Leads { term: self.term(), votes: votes.clone(), campaign_time });
        self.role = Role::Leader(Leader::new(&mut self.me, now, &votes));
    }

    /// Becomes a follower without a leader, from any role.
    ///
    /// Commands that wait for a commit are not failed here: the next leader may commit them, and only the driver can
    /// tell from the log whether it did (consul#2893).
    fn step_down(&mut self, now: Time, why: StepDownReason) {
        if let Role::Leader(leader) = &mut self.role {
            self.lost_reads.append(&mut leader.abandon_reads());
            self.me.clock.stop();
            self.me.notes.push(Note::StepsDown { term: self.me.term(), why });
        }
        let follower = Follower::new(&mut self.me, now);
        // Only a message from the leader, or a vote granted, resets the election timeout (§5.2). A candidate that
        // cannot win must not keep other nodes from campaigning just because of its higher term.
        let follower = match &self.role {
            Role::Follower(before) => follower.with_election_deadline(before.election_deadline()),
            Role::Candidate(_) | Role::Leader(_) => follower,
        };
        self.role = Role::Follower(follower);
    }

    /// When `tick` is due next. Earlier calls are harmless.
    ///
    /// The driver sleeps until then. A deadline that is too late would miss an election timeout; one that is too early
    /// only costs a wakeup.
    pub fn deadline(&self) -> Time {
        let role_deadline = match &self.role {
            Role::Follower(follower) => follower.election_deadline(),
            Role::Candidate(candidate) => candidate.election_deadline(),
            Role::Leader(leader) => leader.deadline(),
        };
        role_deadline.min(self.follower_reads.deadline(self.me.options.election_min))
    }

    /// The id of this node, which may not be a member.
    pub fn id(&self) -> NodeId {
        self.me.id
    }

    /// The options that this node was started with.
    pub fn options(&self) -> &super::options::Options {
        &self.me.options
    }

    /// The current term of this node, which may not be durable yet.
    pub fn term(&self) -> Term {
        self.me.term()
    }

    /// This node's vote in the current term, if it has voted.
    pub fn vote(&self) -> Option<Vote> {
        self.me.vote()
    }

    /// The position that this node acknowledged and has lost; zero if there is none.
    pub fn promised_position(&self) -> Position {
        self.me.promised_position()
    }

    /// An envelope from this node in that term, with this node's disk id and log id; for the driver, which fills in
    /// the entries of an append.
    pub fn envelope(&self, to: NodeId, term: Term, message: Message) -> Envelope {
        self.me.envelope(to, term, message)
    }

    /// This node's log: the term and the size of each entry. The entries themselves are in the journal.
    pub fn log(&self) -> &super::log::Log {
        &self.me.log
    }

    /// The configuration in force: the latest in the log, committed or not.
    pub fn membership(&self) -> &Membership {
        self.me.configs.current()
    }

    /// The index of the entry with the configuration in force.
    pub fn configuration_index(&self) -> Index {
        self.me.configs.current_index()
    }

    /// The position of the entry with the configuration in force.
    pub fn configuration_position(&self) -> Position {
        self.me.configuration_position()
    }

    /// The highest index known to be committed, whether the log has reached it or not. A node that was disconnected may
    /// still lack entries up to this index.
    pub fn known_commit(&self) -> Index {
        self.me.leader_commit.max(self.me.log.commit())
    }

    /// The leader of the current term, if this node knows one.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader(),
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.me.id),
        }
    }

    /// Whether this node is the leader of its term.
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// On a leader, the replication progress of each follower; otherwise empty.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader.progress()),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        leader.into_iter().flatten().map(|(id, progress)| (*id, progress))
    }

    /// This node's role, as the API reports it.
    pub fn role(&self) -> RoleName {
        match &self.role {
            Role::Follower(_) if !self.membership().members.contains_key(&self.me.id) => RoleName::Outside,
            Role::Follower(_) if !self.membership().is_voter(self.me.id) => RoleName::Learner,
            Role::Follower(_) => RoleName::Follower,
            Role::Candidate(candidate) if candidate.vote_kind() == VoteKind::PreVote => RoleName::Precandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// The age of the oldest write that is not yet durable.
    pub fn oldest_write_age(&self, now: Time) -> Duration {
        self.me.oldest_write_age(now)
    }

    /// On a leader, the commit index computed from its definition, for checks (`invariants`).
    pub fn commit_by_definition(&self) -> Option<Index> {
        invariants::commit_by_definition(&self.me, &self.role)
    }
}
