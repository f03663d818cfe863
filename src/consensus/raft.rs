//! The spine: every way in, every change of role.

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

/// One node's share of the consensus algorithm, as a pure state machine.
///
/// Tell it what happens (`tick`, `receive`, `persisted`, `lost`), ask things of it (`propose`,
/// `read`), and carry out what [`Raft::ready`] hands over. Time is an argument, chance is a seed,
/// and nothing that [`Ready`] holds has to wait for anything.
#[derive(Clone, Debug)]
pub struct Raft {
    me: Replica,
    role: Role,
    reads_given: u64,
    reads_lost: Vec<ReadId>,
    /// Reads that we answer ourselves when our leader has said up to where, and those it has.
    inquiries: FollowerReads,
    inquired: Vec<(ReadId, Index)>,
}

impl Raft {
    /// A node begins, or begins again, as a follower of nobody.
    pub fn new(mut replica: Replica, now: Time) -> Raft {
        replica.founding.begins(now, &replica.options);
        let mut follower = Follower::new(&mut replica, now);
        let membership = replica.configs.current();
        let alone = membership.is_voter(replica.id) && membership.all_voters().count() == 1;
        if alone && replica.promotable() {
            // Nobody to wait for.
            follower = follower.with_deadline(now);
        }
        let inquiries = FollowerReads::after(replica.draw_number());
        Raft {
            me: replica,
            role: Role::Follower(follower),
            reads_given: 0,
            reads_lost: Vec::new(),
            inquiries,
            inquired: Vec::new(),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        let next = match &mut self.role {
            Role::Follower(follower) => follower.tick(&mut self.me, now),
            Role::Candidate(candidate) => candidate.tick(&mut self.me, now),
            Role::Leader(leader) => leader.tick(&mut self.me, now),
        };
        self.inquiries.overdue(now, self.me.options.election_min, &mut self.reads_lost);
        self.turn(now, next);
    }

    /// A message has come.
    pub fn receive(&mut self, now: Time, envelope: Envelope) {
        if envelope.to != self.me.id || envelope.from == self.me.id {
            let nonsense = Note::InvalidMessage { peer: envelope.from, what: "it writes to somebody else" };
            return self.me.notes.push(nonsense);
        }
        if !self.is_heard(&envelope) {
            return;
        }
        self.me.remember(&envelope);
        if let Message::Reminder { term, position } = envelope.message {
            return self.reminded(now, term, position);
        }
        if !self.meet_terms(now, &envelope) {
            return;
        }
        if let Err(what) = self.recognise_leader(now, &envelope) {
            return self.me.notes.push(Note::InvalidMessage { peer: envelope.from, what });
        }
        if let Message::ReadIndexResponse { number, index } = envelope.message {
            return self.inquiries.answered(envelope.from, number, index, &mut self.inquired);
        }
        let leader = envelope.origin.disk.filter(|_| envelope.message.is_leaders()).map(|disk| (envelope.from, disk));
        let next = match &mut self.role {
            Role::Follower(follower) => follower.receive(&mut self.me, now, envelope),
            Role::Candidate(candidate) => candidate.receive(&mut self.me, envelope),
            Role::Leader(leader) => leader.receive(&mut self.me, now, envelope),
        };
        if let Some((leader, disk)) = leader {
            self.me.remember_leader(leader, disk);
        }
        self.turn(now, next);
    }

    /// The journal has made everything up to this write durable.
    pub fn persisted(&mut self, now: Time, upto: WriteId) {
        self.me.persisted(upto);
        let next = match &mut self.role {
            Role::Candidate(candidate) => candidate.persisted(&self.me),
            Role::Follower(_) | Role::Leader(_) => Next::Stay,
        };
        self.turn(now, next);
    }

    /// The link with a peer broke: what was on its way, either way, may be lost.
    pub fn lost(&mut self, now: Time, peer: NodeId) {
        match &mut self.role {
            Role::Follower(follower) => follower.lost(&mut self.me, now, peer),
            Role::Candidate(_) => {}
            Role::Leader(leader) => leader.lost(peer),
        }
    }

    /// A snapshot of ours, up to that index at least, is durable: the log may forget so much.
    pub fn compact(&mut self, upto: Index) {
        self.me.compact(upto);
    }

    /// A snapshot that a leader sent is durable, and the machine holds it: it takes the place of the
    /// log, as far as that does not hold it already (Figure 13). Acknowledged when the journal knows.
    pub fn restored(&mut self, now: Time, base: SnapshotPoint, time: ClusterTime) {
        self.me.restore(base, time);
        if let Role::Follower(follower) = &mut self.role {
            follower.restored();
        }
        self.turn(now, Next::Stay);
    }

    /// Tells the leader how much of its snapshot is here, or that all of it came and it was `damaged`.
    pub fn chunked(&mut self, to: NodeId, snapshot: Position, next: u64, damaged: bool) {
        if self.leader() == Some(to) && to != self.me.id {
            self.me.send(to, Message::InstallSnapshotResponse { snapshot, next, damaged });
        }
    }

    /// Whether we lead, and that follower needs a snapshot.
    pub fn ships_to(&self, peer: NodeId) -> bool {
        self.progress().any(|(id, progress)| id == peer && progress.stage == ProgressState::Snapshot)
    }

    /// The configuration that held at that index, and since which; if the log still knows.
    pub fn membership_at(&self, index: Index) -> Option<&(Index, Membership)> {
        self.me.configs.at(index)
    }

    /// That peer came with that disk: it is known by it from now on, once a leader has written it down.
    pub fn met(&mut self, peer: NodeId, disk: DiskId) {
        self.me.remind(peer, disk);
        if self.me.learn_disk_id(peer, disk)
            && let Role::Leader(leader) = &mut self.role
        {
            leader.forget(&self.me, peer);
        }
    }

    /// Whether our own disk has too little room: one without makes no leader.
    pub fn lacks_room(&mut self, low: bool) {
        self.me.room.low = low;
    }

    /// Our own log can take that many bytes more, behind all that is durable.
    pub fn can_take(&mut self, bytes: u64) {
        self.me.room = Room { bytes, behind: self.me.log.durable(), ..self.me.room };
    }

    /// Whether a command of that many bytes may go into the log we lead: there is room for it on a majority of
    /// disks, and what is to be kept there is kept; half of that much for one that frees room.
    pub fn has_room_for(&self, now: Time, bytes: u64, frees: bool) -> bool {
        let keep = self.me.options.reserve_bytes / if frees { 2 } else { 1 };
        match &self.role {
            Role::Leader(leader) => leader.has_room_for(&self.me, now, bytes, keep),
            Role::Follower(_) | Role::Candidate(_) => true,
        }
    }

    /// Changes the members (§6), if that is sound, and, unless `force`d, if it puts nothing at risk. A new
    /// voter is a learner first; learners that are to rise do so by themselves.
    pub fn reconfigure(&mut self, now: Time, change: &Change, force: bool) -> Result<Position, Refusal> {
        let refusal = self.not_leader();
        let Role::Leader(leader) = &mut self.role else { return Err(refusal) };
        let position = leader.reconfigure(&mut self.me, now, change, force)?;
        self.turn(now, Next::Stay);
        Ok(position)
    }

    /// Hands over to that voter, or to the one that is best placed (thesis §3.10); to whom.
    pub fn transfer(&mut self, now: Time, to: Option<NodeId>) -> Result<NodeId, Refusal> {
        let refusal = self.not_leader();
        let Role::Leader(leader) = &mut self.role else { return Err(refusal) };
        let (to, mut lost) = leader.hand_over(&mut self.me, now, to)?;
        self.reads_lost.append(&mut lost);
        Ok(to)
    }

    /// Whether commands can be put into the log here: this node leads, and its log is agreed to be the log of this
    /// cluster, so that nothing that is acknowledged ever gives way to another.
    pub fn takes_commands(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.takes_commands(&self.me),
            Role::Follower(_) | Role::Candidate(_) => false,
        }
    }

    /// To whom this leader is handing over: it takes no new work meanwhile.
    pub fn transfer_target(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.transfer_target(),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Hands over to one whose disk has room, if there is one that answers, for ours has none.
    pub fn make_room(&mut self, now: Time) {
        if let Role::Leader(leader) = &self.role
            && leader.has_roomy_heir(&self.me, now)
        {
            // It was just seen that somebody can.
            let _to = self.transfer(now, None);
        }
    }

    /// Puts a command into the log, if we lead and have room; it commits if we keep leading.
    pub fn propose(&mut self, now: Time, op: Bytes) -> Result<Position, Refusal> {
        let refusal = self.not_leader();
        let Role::Leader(leader) = &mut self.role else { return Err(refusal) };
        let log = &self.me.log;
        if !leader.takes_commands(&self.me) {
            return Err(Refusal::Busy);
        }
        if leader.transfer_target().is_some()
            || log.bytes(log.commit(), log.last().index) >= self.me.options.uncommitted_bytes
        {
            return Err(Refusal::Busy);
        }
        Ok(leader.propose(&mut self.me, now, Payload::Opaque(op)))
    }

    /// The cluster's clock: it runs while this node leads, and else stands where the log has it.
    pub fn cluster_time(&mut self, now: Time) -> ClusterTime {
        self.me.clock.read(now)
    }

    /// Asks for a linearizable read; [`Ready::reads`] or [`Ready::reads_lost`] will name it. A follower asks
    /// its leader for the index, and can then answer itself.
    pub fn read(&mut self) -> Result<ReadId, Refusal> {
        let refusal = self.not_leader();
        let read = ReadId(self.reads_given + 1);
        match &mut self.role {
            Role::Leader(leader) => {
                if !leader.read(&self.me, read) {
                    return Err(Refusal::Busy);
                }
            }
            Role::Follower(follower) if follower.leader().is_some() => {
                if self.inquiries.waiting() >= self.me.options.reads_waiting {
                    return Err(Refusal::Busy);
                }
                self.inquire();
                self.inquiries.push(read);
            }
            Role::Follower(_) | Role::Candidate(_) => return Err(refusal),
        }
        self.reads_given = read.0;
        Ok(read)
    }

    /// What was asked of a leader that we follow no more comes to nothing.
    fn inquire(&mut self) {
        let term = self.me.term();
        let of = match &self.role {
            Role::Follower(follower) => follower.leader().map(|leader| (leader, term)),
            Role::Candidate(_) | Role::Leader(_) => None,
        };
        self.inquiries.follow(of, &mut self.reads_lost);
    }

    /// Why only another node can do it, and who that may be.
    pub fn not_leader(&self) -> Refusal {
        let leader = self.leader();
        let address = leader.and_then(|id| self.membership().address(id)).map(str::to_owned);
        Refusal::NotLeader { leader, address, term: self.term() }
    }

    /// Everything there is to do since this was last asked.
    pub fn ready(&mut self, now: Time) -> Ready {
        let mut ready = Ready::default();
        self.inquire();
        if let Some((leader, number)) = self.inquiries.ask(now) {
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
        ready
    }

    /// Changes role as the role itself asked, and sees what that leads to.
    fn turn(&mut self, now: Time, next: Next) {
        self.become_next(now, next);
        if let Role::Leader(leader) = &mut self.role {
            leader.advance(&mut self.me);
            let next = leader.govern(&mut self.me, now);
            self.become_next(now, next);
        }
        if self.me.options.mutants == Default::default() {
            invariants::check(&self.me, &self.role);
        }
    }

    /// Figure 4.
    fn become_next(&mut self, now: Time, mut next: Next) {
        loop {
            next = match next {
                Next::Stay => break,
                Next::Campaign(ask, reason) => {
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
            panic!("only a candidate comes to lead (Figure 4)");
        };
        let (votes, after) = (candidate.votes(), now.since(candidate.since()));
        self.me.notes.push(Note::Leads { term: self.term(), votes: votes.clone(), after });
        self.role = Role::Leader(Leader::new(&mut self.me, now, &votes));
    }

    /// A follower of nobody in particular, whatever it was.
    fn step_down(&mut self, now: Time, why: StepDown) {
        if let Role::Leader(leader) = &mut self.role {
            self.reads_lost.append(&mut leader.abandon());
            self.me.clock.stop();
            self.me.notes.push(Note::StepsDown { term: self.me.term(), why });
        }
        let follower = Follower::new(&mut self.me, now);
        // Only a leader's word, or a vote given, buys time (§5.2): a candidate that nobody elects
        // must not keep the others from campaigning by the mere height of its term.
        let follower = match &self.role {
            Role::Follower(before) => follower.with_deadline(before.deadline()),
            Role::Candidate(_) | Role::Leader(_) => follower,
        };
        self.role = Role::Follower(follower);
    }

    /// When `tick` next has something to do. Earlier calls are harmless.
    pub fn deadline(&self) -> Time {
        let role = match &self.role {
            Role::Follower(follower) => follower.deadline(),
            Role::Candidate(candidate) => candidate.deadline(),
            Role::Leader(leader) => leader.deadline(),
        };
        role.min(self.inquiries.deadline(self.me.options.election_min))
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.me.id
    }

    /// Its knobs.
    pub fn options(&self) -> &super::options::Options {
        &self.me.options
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.me.term()
    }

    /// Its vote in that term.
    pub fn vote(&self) -> Option<Vote> {
        self.me.vote()
    }

    /// The position that it acknowledged and does not hold; zero if there is none.
    pub fn promised(&self) -> Position {
        self.me.promised()
    }

    /// A message of this node in that term, with where it comes from: for whoever fills in what an append holds.
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

    /// The index of the entry that brought it.
    pub fn configured(&self) -> Index {
        self.me.configs.since()
    }

    /// The position of the entry that brought the configuration in force.
    pub fn configured_at(&self) -> Position {
        self.me.configured()
    }

    /// How far it has to come: the highest index that is committed, as far as it was ever told.
    pub fn goal(&self) -> Index {
        self.me.leader_commit.max(self.me.log.commit())
    }

    /// Who leads, as far as this node knows.
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

    /// On a leader, each follower as it sees it.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader.progress()),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        leader.into_iter().flatten().map(|(id, progress)| (*id, progress))
    }

    /// What this node does.
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

    /// On a leader, the commit index by its definition, for whoever checks it (`invariants`).
    pub fn commit_by_definition(&self) -> Option<Index> {
        invariants::commit_by_definition(&self.me, &self.role)
    }
}
