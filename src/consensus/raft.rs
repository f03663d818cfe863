//! The Raft state machine's entry points, and every change of role.
//!
//! An event takes this path, and no other module changes the role:
//!
//! ```text
//! receive ─> is_accepted      disk and log of the sender: no other cluster, no emptied disk (peer_class)
//!         ─> remember         what the sender has claimed of its disk (claims)
//!         ─> compare_terms    a higher term makes this node a follower, an older one ends here (§5.1)
//!         ─> recognize_leader one leader a term (§5.2)
//!         ─> role.receive     returns the role that it wants next (Next)
//!         ─> apply_next       changes the role, commits, adapts the membership, checks the invariants
//! ready   ─> everything that the steps since the last call have to write, send, answer and report
//! ```
//!
//! The roles return a wish ([`Next`]) and do not change themselves. A role that replaced itself in the middle of a
//! message would go on to handle the rest of it in a role that no longer exists, and Figure 4 could not be read in one
//! place (`become_next`).

mod receiving;

use super::candidate::Candidate;
use super::follower::Follower;
use super::follower_reads::FollowerReads;
use super::invariants;
use super::leader::Leader;
use super::message::{Envelope, Message, VoteKind};
use super::next::Next;
use super::note::{Note, StepDown};
use super::progress::{Progress, ProgressState};
use super::reads::ReadId;
use super::ready::Ready;
use super::replica::Replica;
use super::role::Role;
use super::room::Room;
use crate::api::{Refusal, RoleName};
use crate::types::{
    Change, ClusterTime, DiskId, Index, Membership, NodeId, Payload, Position, SnapshotPoint, Term, Time, Vote, WriteId,
};
use bytes::Bytes;
use std::time::Duration;

/// One node's consensus state machine. Pure: no clock, I/O or threads.
///
/// The driver reports events (`tick`, `receive`, `persisted`, `lost`), makes requests (`propose`, `read`), and performs
/// the work that [`Raft::ready`] returns. Time is an argument and randomness comes from a seed. Nothing in a [`Ready`]
/// has to wait.
///
/// No log line leaves the core either: it reports notes. One seed so repeats a run exactly.
#[derive(Clone, Debug)]
pub struct Raft {
    me: Replica,
    role: Role,
    // Never reset, not even with a new term: the driver maps ids to clients, and an old answer must not find a new
    // client.
    last_read_id: u64,
    reads_lost: Vec<ReadId>,
    /// Reads that this node serves as a follower while they wait for the leader's read index, and those that have it.
    follower_reads: FollowerReads,
    inquired: Vec<(ReadId, Index)>,
}

impl Raft {
    /// Starts or restarts a node as a follower without a leader.
    pub fn new(mut replica: Replica, now: Time) -> Raft {
        replica.founding.begins(now, &replica.options);
        let mut follower = Follower::new(&mut replica, now);
        let membership = replica.configs.current();
        let alone = membership.is_voter(replica.id) && membership.all_voters().count() == 1;
        if alone && replica.promotable() {
            // A single voter does not wait for an election timeout.
            // There is no leader that it could disturb, and a restart of a single node should not cost its clients an
            // election timeout.
            follower = follower.with_deadline(now);
        }
        // At random: after a restart, an answer to a request of the last process must match none of this one.
        let inquiries = FollowerReads::after(replica.draw_number());
        Raft {
            me: replica,
            role: Role::Follower(follower),
            last_read_id: 0,
            reads_lost: Vec::new(),
            follower_reads: inquiries,
            inquired: Vec::new(),
        }
    }

    /// Advances the time, and runs the timers that are due.
    ///
    /// Called too late, it only makes this node slower to react. No promise depends on a timer: there are no leases.
    pub fn tick(&mut self, now: Time) {
        let next = match &mut self.role {
            Role::Follower(follower) => follower.tick(&mut self.me, now),
            Role::Candidate(candidate) => candidate.tick(&mut self.me, now),
            Role::Leader(leader) => leader.tick(&mut self.me, now),
        };
        self.follower_reads.overdue(now, self.me.options.election_min, &mut self.reads_lost);
        self.apply_next(now, next);
    }

    /// Handles a message from a peer.
    ///
    /// The checks come in the order in which they make the next one meaningful. The log comes before the term, because
    /// the terms of two logs cannot be compared; a term that was adopted from another cluster would depose the leader
    /// of this one.
    pub fn receive(&mut self, now: Time, envelope: Envelope) {
        if envelope.to != self.me.id || envelope.from == self.me.id {
            let nonsense = Note::InvalidMessage { peer: envelope.from, what: "its sender or receiver id is wrong" };
            return self.me.notes.push(nonsense);
        }
        if !self.is_accepted(&envelope) {
            return;
        }
        // Before the terms are compared: what a message of an old term says about its sender's disk is true all the
        // same.
        self.me.remember(&envelope);
        if let Message::Reminder { term, position } = envelope.message {
            // It speaks of this node's past and not of a term, so that the term of its sender does not matter.
            return self.handle_reminder(now, term, position);
        }
        if !self.compare_terms(now, &envelope) {
            return;
        }
        assert!(envelope.term <= self.me.term(), "a node adopts a higher term before it handles its message (§5.1)");
        if let Err(what) = self.recognize_leader(now, &envelope) {
            return self.me.notes.push(Note::InvalidMessage { peer: envelope.from, what });
        }
        if let Message::ReadIndexResponse { number, index } = envelope.message {
            return self.follower_reads.answered(envelope.from, number, index, &mut self.inquired);
        }
        // After the role has handled the message, the commit index includes what the leader has just reported.
        let leader = envelope.origin.disk.filter(|_| envelope.message.is_leaders()).map(|disk| (envelope.from, disk));
        let next = match &mut self.role {
            Role::Follower(follower) => follower.receive(&mut self.me, now, envelope),
            Role::Candidate(candidate) => candidate.receive(&mut self.me, envelope),
            Role::Leader(leader) => leader.receive(&mut self.me, now, envelope),
        };
        if let Some((leader, disk)) = leader {
            self.me.remember_leader(leader, disk);
        }
        self.apply_next(now, next);
    }

    /// Reports that the journal has made every write up to `upto` durable.
    ///
    /// A candidate may have won with its own vote, a leader may commit with its own copy, and a follower acknowledges
    /// in the next `ready`.
    pub fn persisted(&mut self, now: Time, upto: WriteId) {
        self.me.persisted(upto);
        let next = match &mut self.role {
            Role::Candidate(candidate) => candidate.persisted(&self.me),
            Role::Follower(_) | Role::Leader(_) => Next::Stay,
        };
        self.apply_next(now, next);
    }

    /// Reports that the link with a peer broke: messages in flight in either direction may be lost.
    ///
    /// A connection that closes is the fastest sign of a dead process. It is a hint and no proof, so a follower
    /// campaigns with a pre-vote, and the leader only sends again.
    pub fn lost(&mut self, now: Time, peer: NodeId) {
        match &mut self.role {
            Role::Follower(follower) => follower.lost(&mut self.me, now, peer),
            Role::Candidate(_) => {}
            Role::Leader(leader) => leader.lost(peer),
        }
        self.check();
    }

    /// Compacts the log. A snapshot of this node that covers `upto` is durable.
    ///
    /// The snapshot comes first. A log that was cut before the snapshot was durable could restore no state at all after
    /// a crash.
    pub fn compact(&mut self, upto: Index) {
        self.me.compact(upto);
        self.check();
    }

    /// Installs a leader's snapshot that is durable and that the state machine has restored: it replaces the log,
    /// unless that holds its position already (Figure 13). It is acknowledged once the journal has recorded it.
    ///
    /// The state machine was restored before this call, so that the log never claims entries that the machine lacks.
    pub fn restored(&mut self, now: Time, base: SnapshotPoint, time: ClusterTime) {
        self.me.restore(base, time);
        if let Role::Follower(follower) = &mut self.role {
            follower.restored();
        }
        self.apply_next(now, Next::Stay);
    }

    /// Sends the leader how many bytes of its snapshot are here, or that it is complete and `damaged`.
    ///
    /// Only to the leader of this term: a report to an earlier leader would be dropped there by its term.
    pub fn chunked(&mut self, to: NodeId, snapshot: Position, next: u64, damaged: bool) {
        if self.leader() == Some(to) && to != self.me.id {
            self.me.send(to, Message::InstallSnapshotResponse { snapshot, next, damaged });
        }
    }

    /// Whether this node leads and that follower needs a snapshot.
    pub fn needs_snapshot(&self, peer: NodeId) -> bool {
        self.progress().any(|(id, progress)| id == peer && progress.stage == ProgressState::Snapshot)
    }

    /// The configuration in force at that index, and the index it is in force from; none if it is compacted.
    pub fn membership_at(&self, index: Index) -> Option<&(Index, Membership)> {
        self.me.configs.at(index)
    }

    /// Records the disk id that a peer presented. The peer is known by it once a leader has logged it.
    pub fn learn_disk_id(&mut self, peer: NodeId, disk: DiskId) {
        // First on the new connection, before the peer can ask for a vote: a vote that it should not have given cannot
        // be taken back.
        self.me.remind(peer, disk);
        if self.me.learn_disk_id(peer, disk)
            && let Role::Leader(leader) = &mut self.role
        {
            leader.forget(&self.me, peer);
        }
    }

    /// Sets whether this node's disk is too full for it to lead.
    pub fn set_low_space(&mut self, low: bool) {
        self.me.room.low = low;
    }

    /// Sets how many more bytes this node's log can hold beyond the durable entries.
    ///
    /// The room is counted from the durable index: entries that are on their way to the disk take their room from it.
    pub fn set_room(&mut self, bytes: u64) {
        self.me.room = Room { bytes, behind: self.me.log.durable(), ..self.me.room };
    }

    /// Whether a command of `bytes` bytes fits: on a leader, a majority of disks has room for it besides the reserve,
    /// or besides half of the reserve for a command that frees room.
    ///
    /// A command that frees room may use half of the reserve. Without this difference a full cluster could never be
    /// emptied: a delete is an entry like any other.
    pub fn has_room_for(&self, now: Time, bytes: u64, frees: bool) -> bool {
        let keep = self.me.options.reserve_bytes / if frees { 2 } else { 1 };
        match &self.role {
            Role::Leader(leader) => leader.has_room_for(&self.me, now, bytes, keep),
            Role::Follower(_) | Role::Candidate(_) => true,
        }
    }

    /// Changes the membership (§6) if the change is valid and, unless `force` is set, puts nothing at risk. A new voter
    /// is a learner first; learners that wait for a promotion are promoted automatically.
    pub fn reconfigure(&mut self, now: Time, change: &Change, force: bool) -> Result<Position, Refusal> {
        let Role::Leader(leader) = &mut self.role else { return Err(self.not_leader()) };
        let position = leader.reconfigure(&mut self.me, now, change, force)?;
        self.apply_next(now, Next::Stay);
        Ok(position)
    }

    /// Transfers leadership to that voter, or to the best target (thesis §3.10). Returns the target.
    pub fn transfer(&mut self, now: Time, to: Option<NodeId>) -> Result<NodeId, Refusal> {
        let Role::Leader(leader) = &mut self.role else { return Err(self.not_leader()) };
        let (to, mut lost) = leader.hand_over(&mut self.me, now, to)?;
        self.reads_lost.append(&mut lost);
        Ok(to)
    }

    /// Whether this node accepts commands: it leads, and its log is agreed to be the log of this cluster, so that no
    /// other log ever replaces an acknowledged entry.
    ///
    /// A follower answers false too, and its clients are redirected before they get here.
    pub fn accepts_commands(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.takes_commands(&self.me),
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
    pub fn make_room(&mut self, now: Time) {
        if let Role::Leader(leader) = &self.role
            && leader.has_target_with_room(&self.me, now)
        {
            // `has_target_with_room` has just found a target.
            let _to = self.transfer(now, None);
        }
    }

    /// Appends a command, if this node leads and has room. It commits if this node remains the leader.
    ///
    /// An error means that nothing was appended, so that a client may retry at once. After success the outcome is open
    /// until the commit: a later leader may overwrite the entry, or commit it.
    pub fn propose(&mut self, now: Time, op: Bytes) -> Result<Position, Refusal> {
        let Role::Leader(leader) = &mut self.role else { return Err(self.not_leader()) };
        let log = &self.me.log;
        if !leader.takes_commands(&self.me) {
            return Err(Refusal::Busy);
        }
        // Refused and not queued: the target needs an end of the log that it can reach.
        if leader.transfer_target().is_some()
            || log.bytes(log.commit(), log.last().index) >= self.me.options.uncommitted_bytes
        {
            return Err(Refusal::Busy);
        }
        Ok(leader.propose(&mut self.me, now, Payload::Opaque(op)))
    }

    /// The cluster's clock. It advances while this node leads; otherwise it is the latest time known to this node.
    pub fn cluster_time(&mut self, now: Time) -> ClusterTime {
        self.me.clock.read(now)
    }

    /// Starts a linearizable read; [`Ready::reads`] or [`Ready::reads_lost`] will contain it. A follower requests the
    /// read index from its leader, and then serves the read itself.
    ///
    /// A follower does not forward the read but requests the index only: the values come from its own state, and one
    /// request serves all reads of a turn.
    pub fn read(&mut self) -> Result<ReadId, Refusal> {
        let read = ReadId(self.last_read_id + 1);
        match &mut self.role {
            Role::Leader(leader) => {
                if !leader.read(&self.me, read) {
                    return Err(Refusal::Busy);
                }
            }
            Role::Follower(follower) if follower.leader().is_some() => {
                if self.follower_reads.waiting() >= self.me.options.reads_waiting {
                    return Err(Refusal::Busy);
                }
                // The leader may have changed since the last `ready`. The read would otherwise join requests that are
                // about to fail.
                self.follow_current_leader();
                self.follower_reads.push(read);
            }
            Role::Follower(_) | Role::Candidate(_) => return Err(self.not_leader()),
        }
        // Only now: a refused read uses up no id.
        self.last_read_id = read.0;
        Ok(read)
    }

    /// Follows the current leader; requests to an earlier leader fail.
    ///
    /// Called before each use, not at each change of role: a missed call would let the answer of one leader serve reads
    /// under the next.
    fn follow_current_leader(&mut self) {
        let term = self.me.term();
        let of = match &self.role {
            Role::Follower(follower) => follower.leader().map(|leader| (leader, term)),
            Role::Candidate(_) | Role::Leader(_) => None,
        };
        self.follower_reads.follow(of, &mut self.reads_lost);
    }

    /// The refusal that redirects a request to the leader, if one is known.
    pub fn not_leader(&self) -> Refusal {
        let leader = self.leader();
        let address = leader.and_then(|id| self.membership().address(id)).map(str::to_owned);
        Refusal::NotLeader { leader, address, term: self.term() }
    }

    /// Everything to do since the last call.
    ///
    /// The write comes last, in [`Replica::ready`]: it contains whatever the roles have appended on the way, and one
    /// turn so costs one sync. The driver may start the messages and the write at the same time, because messages that
    /// depend on the write are still in the gate.
    pub fn ready(&mut self, now: Time) -> Ready {
        let mut ready = Ready::default();
        self.follow_current_leader();
        if let Some((leader, number)) = self.follower_reads.ask(now) {
            self.me.send(leader, Message::ReadIndexRequest { number });
        }
        ready.reads.append(&mut self.inquired);
        match &mut self.role {
            Role::Follower(follower) => follower.ready(&mut self.me),
            Role::Candidate(_) => {}
            Role::Leader(leader) => leader.ready(&mut self.me, now, &mut ready),
        }
        ready.reads_lost.append(&mut self.reads_lost);
        self.me.ready(now, &mut ready);
        self.check();
        ready
    }

    /// Changes role as the role requested. A leader then commits and applies the automatic membership changes.
    ///
    /// A leader commits after every step and not only after an acknowledgment: the report of its own disk and a new
    /// configuration may complete a majority as well. The second change of role is its removal, which may follow from
    /// that commit.
    fn apply_next(&mut self, now: Time, next: Next) {
        self.become_next(now, next);
        if let Role::Leader(leader) = &mut self.role {
            leader.advance(&mut self.me);
            let next = leader.advance_membership(&mut self.me, now);
            self.become_next(now, next);
        }
        self.check();
    }

    /// Checks the state at the end of an entry point ([`invariants`]).
    fn check(&self) {
        invariants::check(&self.me, &self.role);
        self.follower_reads.check();
    }

    /// Makes the role transitions of Figure 4.
    ///
    /// A loop, because a candidate may win at once: the only voter needs no answer to its pre-vote, and none to its
    /// vote but that of its own disk.
    fn become_next(&mut self, now: Time, mut next: Next) {
        loop {
            next = match next {
                Next::Stay => break,
                Next::Campaign(ask, reason) => {
                    // Its reads would wait forever, and its clock would run on beside that of the next leader.
                    assert!(!self.leads(), "a leader does not campaign (Figure 4)");
                    // A campaign goes on from pre-vote to vote, and to the next try. The operator sees how long the
                    // cluster was without a leader, and not the time of the last try.
                    let since = match &self.role {
                        Role::Candidate(candidate) => candidate.since(),
                        Role::Follower(_) | Role::Leader(_) => now,
                    };
                    let candidate = Candidate::new(&mut self.me, now, ask, reason, since);
                    let next = candidate.tally(&self.me);
                    self.role = Role::Candidate(candidate);
                    next
                }
                Next::Lead => {
                    self.lead(now);
                    Next::Stay
                }
                Next::StepDown(why) => {
                    self.step_down(now, why);
                    Next::Stay
                }
            };
        }
    }

    fn lead(&mut self, now: Time) {
        let Role::Candidate(candidate) = &self.role else {
            panic!("only a candidate becomes leader (Figure 4)");
        };
        // Voters grant any number of pre-votes for one term, so two nodes may both hold a majority of them.
        assert!(candidate.ask().is_real(), "a pre-vote elects no leader (thesis §9.6)");
        let (votes, after) = (candidate.votes(), now.since(candidate.since()));
        invariants::check_election(&self.me, &votes);
        self.me.notes.push(Note::Leads { term: self.term(), votes: votes.clone(), after });
        self.role = Role::Leader(Leader::new(&mut self.me, now, &votes));
    }

    /// Becomes a follower without a leader, from any role.
    ///
    /// Writes that wait for a commit are not failed here. The next leader may commit them, and only the driver can tell
    /// from the log which it was: to answer that they failed would be a lie (consul#2893).
    fn step_down(&mut self, now: Time, why: StepDown) {
        if let Role::Leader(leader) = &mut self.role {
            self.reads_lost.append(&mut leader.abandon());
            self.me.clock.stop();
            self.me.notes.push(Note::StepsDown { term: self.me.term(), why });
        }
        let follower = Follower::new(&mut self.me, now);
        // Only a message from the leader, or a vote granted, resets the election timeout (§5.2). A candidate that
        // cannot win must not keep others from campaigning by its higher term alone.
        let follower = match &self.role {
            Role::Follower(before) => follower.with_deadline(before.deadline()),
            Role::Candidate(_) | Role::Leader(_) => follower,
        };
        self.role = Role::Follower(follower);
    }

    /// When `tick` next has something to do. Earlier calls are harmless.
    ///
    /// The driver sleeps until then. A deadline that is too late would be a missed election timeout, one that is too
    /// early only costs a wakeup.
    pub fn deadline(&self) -> Time {
        let role = match &self.role {
            Role::Follower(follower) => follower.deadline(),
            Role::Candidate(candidate) => candidate.deadline(),
            Role::Leader(leader) => leader.deadline(),
        };
        role.min(self.follower_reads.deadline(self.me.options.election_min))
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.me.id
    }

    /// Its options.
    pub fn options(&self) -> &super::options::Options {
        &self.me.options
    }

    /// Its current term.
    pub fn term(&self) -> Term {
        self.me.term()
    }

    /// Its vote in that term.
    pub fn vote(&self) -> Option<Vote> {
        self.me.vote()
    }

    /// The position that it acknowledged and no longer holds; zero if there is none.
    pub fn promised(&self) -> Position {
        self.me.promised()
    }

    /// An envelope from this node in that term, with its origin; for the driver, which fills in the entries of an
    /// append.
    pub fn envelope(&self, to: NodeId, term: Term, message: Message) -> Envelope {
        self.me.envelope(to, term, message)
    }

    /// Its log.
    pub fn log(&self) -> &super::log::Log {
        &self.me.log
    }

    /// The configuration in force.
    pub fn membership(&self) -> &Membership {
        self.me.configs.current()
    }

    /// The index of the entry with that configuration.
    pub fn configured(&self) -> Index {
        self.me.configs.since()
    }

    /// The position of the entry with the configuration in force.
    pub fn configured_at(&self) -> Position {
        self.me.configured()
    }

    /// The highest index known to be committed, whether the log has reached it or not.
    ///
    /// The distance from the log to this index is what a node that was away still has to receive.
    pub fn goal(&self) -> Index {
        self.me.leader_commit.max(self.me.log.commit())
    }

    /// The leader, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader(),
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.me.id),
        }
    }

    /// Whether this node leads.
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
            Role::Candidate(candidate) if candidate.ask() == VoteKind::PreVote => RoleName::Precandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// The age of the oldest write that is not yet durable.
    pub fn disk_age(&self, now: Time) -> Duration {
        self.me.disk_age(now)
    }

    /// On a leader, the commit index computed from its definition, for checks (`invariants`).
    pub fn commit_by_definition(&self) -> Option<Index> {
        invariants::commit_by_definition(&self.me, &self.role)
    }
}
