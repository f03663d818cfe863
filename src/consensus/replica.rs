//! A node's state in any role: term, vote, log, configurations, and messages that wait for the disk.
//!
//! The durability of every message is decided here, by one number. Each call of [`Replica::ready`] that has something
//! to store makes it one write, and the writes are numbered:
//!
//! ```text
//!             write 7          write 8                    next_write = 9
//! ──────────────┴────────────────┴──────────────────────────────────────> time
//!    durable = 7   issued: 8        unwritten entries, term, vote
//!    send:         leaves once the write with the current term is durable: at once, most of the time
//!    promise:      waits for 9, if anything is unwritten, otherwise for 8
//! ```
//!
//! The journal keeps the order of the writes, so that "durable up to 8" says everything. Neither a message nor an entry
//! has to know which bytes it depends on, and a new kind of message cannot forget one of its dependencies.

mod identity;
mod invariants;

use super::claims::PeerClaims;
use super::clock::{Clock, LeaderTime};
use super::configs::Configs;
use super::founding::Founding;
use super::gate::Gate;
use super::log::Log;
use super::message::{Envelope, Message, Origin, Round, SnapshotChunk, VoteKind};
use super::note::Note;
use super::options::Options;
use super::ready::Ready;
use super::room::Room;
use super::rules::election::{self, VoteWeight};
use super::rules::{membership, replication};
use crate::codec;
use crate::types::{
    ClusterTime, DiskId, Entry, HardState, Index, Membership, NodeId, Payload, Position, SnapshotPoint, Term, Time,
    Vote, Write, WriteId,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The state a node starts or restarts from.
///
/// It contains no commit index: a leader reports it within a heartbeat. A stored one would be a second truth beside the
/// log (ra ffe3016a: a stored index beyond the end of the log, and the node could not start).
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The id of this node's disk, if it has one.
    pub disk: Option<DiskId>,
    /// Term and vote, as stored on disk.
    pub hard_state: HardState,
    /// Where the log starts, and the membership there.
    pub base: SnapshotPoint,
    /// Term and size in bytes of each entry after the base, all of them durable.
    pub entries: Vec<(Term, u64)>,
    /// The configurations among these entries.
    pub configurations: Vec<(Index, Membership)>,
    /// The time of the last of these entries.
    pub time: ClusterTime,
    /// Everything up to here was applied, and so is committed: a snapshot proves it.
    pub applied: Index,
}

/// A write that the journal has not yet reported durable.
#[derive(Clone, Copy, Debug)]
struct Issued {
    id: WriteId,
    /// The end of the log that it makes durable; lowered when the log is truncated before it.
    // Not the number of entries: a truncation has to be able to take back a part of what a write under way will make
    // durable.
    last: Index,
    at: Time,
}

/// A node's state in any role.
///
/// It sends messages in two ways, and choosing between them is the only decision about durability in the core. A
/// message by [`Replica::send`] relies on a durable term only; a message by [`Replica::promise`] is true only once
/// everything written so far is durable.
#[derive(Clone, Debug)]
pub struct Replica {
    /// This node's id.
    pub id: NodeId,
    /// Its options.
    pub options: Options,
    /// Its log.
    pub log: Log,
    /// The configurations of its log.
    pub configs: Configs,
    /// This node's log matches the log of this term's leader up to here, as the leader's appends have shown. Neither
    /// acknowledgments nor commits go beyond it. A term has one leader, so it holds for the whole term, whatever role
    /// this node takes meanwhile.
    pub matched_prefix: Index,
    /// The highest index that a leader reported committed, whether this node's log has reached it or not.
    pub leader_commit: Index,
    /// The index of the configuration that removed this node last, if the log had more committed entries to receive
    /// then, and the removal is not logged yet.
    pub left_at: Option<Index>,
    /// The latest round of reads. It never decreases while the process lives, so that no round is used twice.
    pub round: Round,
    /// The cluster's clock.
    pub clock: Clock,
    /// Notes for the operator.
    pub notes: Vec<Note>,
    /// Chunks of a snapshot from the leader.
    pub chunks: Vec<(NodeId, SnapshotChunk)>,
    /// The last known leader and the time of its last message; used in notes on elections only.
    pub last_leader: Option<(NodeId, Time)>,
    /// How much room this node's disk has.
    pub room: Room,
    /// Whether its directory was created to found the log: only such a node sends votes before its disk is named.
    founder: bool,
    /// Whether a log may begin here.
    pub founding: Founding,
    /// The disk ids of this node and of the peers it has met.
    disks: BTreeMap<NodeId, DiskId>,
    /// What each peer has claimed of its disk, since this process started.
    claims: PeerClaims,
    /// The term at the start of the process.
    recovered_term: Term,
    hard_state: HardState,
    hard_state_changed: bool,
    /// Where the log was restarted from a snapshot, not in a write yet.
    restarted: Option<SnapshotPoint>,
    /// Entries that are in the log and not in a write yet.
    unwritten: Vec<Entry>,
    /// The id of the next write.
    next_write: WriteId,
    /// Everything up to this write is durable.
    durable: WriteId,
    /// The write that contains the current term.
    term_write: WriteId,
    /// The write that contains the vote in this term.
    vote_write: WriteId,
    issued: VecDeque<Issued>,
    gate: Gate,
    out: Vec<Envelope>,
    // The only source of chance. It is seeded by the driver, so that the simulator repeats a run.
    rng: SmallRng,
}

impl Replica {
    /// Restores a node from its disk. Nothing beyond the base and the applied index is known to be committed.
    ///
    /// What the journal has recovered is durable, because it syncs before it reports: bytes that are only in the page
    /// cache may have been read back, and a power failure would still take them.
    pub fn recover(id: NodeId, options: Options, recovered: Recovered, seed: u64) -> Replica {
        let begins = recovered.base.position == Position::ZERO;
        let founder = begins && recovered.base.membership.members.contains_key(&id);
        let mut log = Log::new(recovered.base.position);
        for (term, size) in &recovered.entries {
            log.append(*term, *size);
        }
        log.persisted(log.last().index);
        log.commit_to(recovered.applied.max(log.commit()));
        let mut configs = Configs::new(recovered.base.configured, recovered.base.membership);
        for (index, membership) in recovered.configurations {
            configs.push(index, membership);
        }
        let mut clock = Clock::default();
        clock.observe_entry(log.last().term, recovered.time);
        Replica {
            id,
            options,
            log,
            configs,
            matched_prefix: Index::ZERO,
            leader_commit: Index::ZERO,
            left_at: None,
            round: Round::default(),
            clock,
            notes: Vec::new(),
            chunks: Vec::new(),
            last_leader: None,
            room: Room::AMPLE,
            founder,
            founding: Founding::default(),
            claims: PeerClaims::default(),
            recovered_term: recovered.hard_state.term,
            disks: recovered.disk.map(|disk| (id, disk)).into_iter().collect(),
            hard_state: recovered.hard_state,
            hard_state_changed: false,
            restarted: None,
            unwritten: Vec::new(),
            next_write: WriteId(1),
            durable: WriteId::ZERO,
            term_write: WriteId::ZERO,
            vote_write: WriteId::ZERO,
            issued: VecDeque::new(),
            gate: Gate::default(),
            out: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// The vote in the current term.
    pub fn vote(&self) -> Option<Vote> {
        self.hard_state.vote
    }

    /// The position that this node acknowledged and no longer holds, if there is one ([`HardState::promised`]).
    pub fn promised(&self) -> Position {
        self.hard_state.promised
    }

    /// Moves to a new term, without a vote (§5.1).
    ///
    /// Messages that still wait in the gate belong to the old term. Sent now, they would carry answers to questions
    /// that are over.
    pub fn advance_term(&mut self, term: Term) {
        assert!(term > self.term(), "terms only grow (§5.1)");
        self.hard_state = HardState { term, vote: None, ..self.hard_state };
        // The next leader may have another log. What matched the last one says nothing about it.
        self.matched_prefix = Index::ZERO;
        self.gate.forget_before(term);
        if election::persists_term(self.options.mutants) {
            self.hard_state_changed = true;
            self.term_write = self.next_write;
        }
    }

    /// Records the one vote of this term (§5.2): for that node on that disk.
    ///
    /// The vote stays for the whole term whatever happens to the candidate: a second vote in the term may make a second
    /// leader. It is repeated to the same candidate, whose request may have been sent twice.
    pub fn record_vote(&mut self, candidate: Vote) {
        assert!(election::is_only_vote(self.vote(), candidate, self.options.mutants), "one vote a term (§5.2)");
        if self.vote() != Some(candidate) {
            self.hard_state.vote = Some(candidate);
            self.hard_state_changed = true;
            self.vote_write = self.next_write;
        }
    }

    /// A random number, different in each run of the process.
    pub fn draw_number(&mut self) -> u64 {
        self.rng.random()
    }

    /// Sends a message that relies on nothing durable but the term on the envelope.
    ///
    /// It may still wait: a term that was just adopted is not durable yet, and a message of that term tells its
    /// receiver that it is (§5.1). After a crash the node would otherwise be back in a term whose messages it has
    /// already answered differently.
    pub fn send(&mut self, to: NodeId, message: Message) {
        self.post(self.term_write, to, message);
    }

    /// Sends a message that is true only once everything written so far is durable.
    ///
    /// It waits for everything and not for the one record that it is about: all of it is in the same write or an
    /// earlier one, and a dependency that is left out by mistake would show only at a power failure.
    pub fn promise(&mut self, to: NodeId, message: Message) {
        // The write that `ready` has yet to issue, if it will issue one. To wait for a write that never comes would
        // hold the message for ever.
        let everything = if self.is_dirty() { self.next_write } else { self.last_issued() };
        let waits = election::waits_for_disk(&message, self.options.mutants);
        self.post(if waits { everything } else { WriteId::ZERO }, to, message);
    }

    /// The only way out: no message leaves without a comparison of its number.
    fn post(&mut self, after: WriteId, to: NodeId, message: Message) {
        assert_ne!(to, self.id, "a node sends no message to itself");
        let envelope = self.envelope(to, self.term(), message);
        if after <= self.durable {
            self.out.push(envelope);
        } else {
            self.gate.hold(after, envelope);
        }
    }

    /// An envelope from this node in that term, with its origin.
    pub fn envelope(&self, to: NodeId, term: Term, message: Message) -> Envelope {
        let log = membership::named_log(self.configs.current(), &message, self.options.mutants);
        let origin = Origin { disk: self.disk(), log };
        Envelope { from: self.id, to, term, origin, message }
    }

    /// Whether the current vote is durable.
    ///
    /// The candidate counts its own vote like that of another voter, and so from the same moment: once a crash cannot
    /// take it back.
    pub fn vote_is_durable(&self) -> bool {
        self.vote_write <= self.durable
    }

    /// Whether the current term is durable. Until then this node sends nothing in it.
    pub fn term_is_durable(&self) -> bool {
        self.term_write <= self.durable
    }

    fn is_dirty(&self) -> bool {
        self.hard_state_changed || !self.unwritten.is_empty() || self.restarted.is_some()
    }

    fn last_issued(&self) -> WriteId {
        WriteId(self.next_write.0 - 1)
    }

    /// Appends an entry of this node's own (Leader Append-Only, §5.3).
    ///
    /// The time is read per entry: keys that are set in one turn may still differ by a millisecond, and no entry has an
    /// earlier time than the one before it.
    pub fn append(&mut self, now: Time, payload: Payload) -> Position {
        let position = Position::new(self.log.last().index.next(), self.term());
        let entry = codec::entry(position, self.clock.read(now), payload);
        self.take(entry);
        position
    }

    /// Appends an entry.
    pub fn take(&mut self, entry: Entry) {
        let position = self.log.append(entry.position.term, codec::entry_size(&entry) as u64);
        assert_eq!(position, entry.position, "entries are consecutive");
        self.clock.observe_entry(entry.position.term, entry.time);
        if let Payload::Membership(membership) = &entry.payload {
            self.configure(position.index, (**membership).clone());
        }
        self.unwritten.push(entry);
    }

    /// Adopts a configuration: it is in force as soon as it is in the log (§6).
    ///
    /// At the append and not at the commit, because a leader that waited for the commit would count the very entry by
    /// the old majority (etcd#7625 and #5004). The price is that a truncation has to take it back.
    fn configure(&mut self, index: Index, membership: Membership) {
        if !membership::takes_effect(index, self.configs.since(), self.options.mutants) {
            return;
        }
        self.forget_disks(&membership);
        let leaves =
            self.configs.current().members.contains_key(&self.id) && !membership.members.contains_key(&self.id);
        if leaves {
            // While it catches up, a node that was removed and added again passes its own removal. It is news only if
            // no later entry is known.
            let behind = index < self.leader_commit;
            self.left_at = behind.then_some(index);
            self.notes.push(Note::Outside { me: self.id, since: index, behind });
        }
        self.configs.push(index, membership.clone());
        self.notes.push(Note::Configured { index, membership: Box::new(membership) });
    }

    /// Warns that this node was removed, once its log has reached the commit index of the leader: a node that catches
    /// up passes configurations that were in force long ago.
    pub fn warn_if_removed(&mut self) {
        if self.log.last().index >= self.leader_commit
            && let Some(since) = self.left_at.take()
            && !self.configs.current().members.contains_key(&self.id)
        {
            self.notes.push(Note::Outside { me: self.id, since, behind: false });
        }
    }

    /// Forgets the disks of peers that do not stay the same members in `next`.
    ///
    /// A member that was removed and added again may come with a new disk. The disk known from before would make the
    /// leader name the old one.
    fn forget_disks(&mut self, next: &Membership) {
        let (me, current) = (self.id, self.configs.current());
        self.disks.retain(|id, _| *id == me || current.stays(*id, next));
    }

    /// Truncates the log from `from` on: the entries conflict with a leader's (§5.3).
    ///
    /// Everything that was derived from the truncated entries goes with them: their configurations, their bytes in the
    /// next write, and the part of each write under way that would make them durable. Each of the three was a bug of
    /// its own in some implementation (canonical/raft#250, mofa#1151, ra#637).
    pub fn truncate(&mut self, from: Index) {
        self.notes.push(Note::Truncated { from, last: self.log.last() });
        self.log.truncate(from);
        if membership::truncation_drops_configs(self.options.mutants) && self.configs.truncate(from) {
            let membership = Box::new(self.configs.current().clone());
            self.notes.push(Note::Configured { index: self.configs.since(), membership });
        }
        self.unwritten.retain(|entry| entry.position.index < from);
        if !replication::truncation_lowers_durable(self.options.mutants) {
            return;
        }
        self.log.clamp_durable(from);
        // A later report of a write made before the truncation does not cover the entries that follow it.
        for issued in &mut self.issued {
            issued.last = issued.last.min(from.prev());
        }
    }

    /// Compacts the log and its configurations: a snapshot covers everything up to `upto`.
    pub fn compact(&mut self, upto: Index) {
        self.log.compact(upto);
        self.configs.forget(self.log.base().index);
    }

    /// Installs a leader's snapshot. It covers everything up to its position, which is committed and so in the log of
    /// every leader of this term or a later one. A log that holds that position keeps the entries after it; any other
    /// log is replaced as a whole (Figure 13, rules 6 and 7): an entry it has at that index was never committed.
    ///
    /// It answers nothing: the acknowledgment waits until the journal has recorded the new base. Until then a crash
    /// leads back to the old log, which the leader must not count as the snapshot (cowsql e514f78f).
    pub fn restore(&mut self, base: SnapshotPoint, time: ClusterTime) {
        let Position { index, .. } = base.position;
        if replication::snapshot_is_old(index, self.log.commit(), self.options.mutants) {
            return;
        }
        // Also if the log stays: the snapshot's time was read by a leader.
        self.clock.observe(LeaderTime { term: base.position.term, time });
        self.matched_prefix = self.matched_prefix.max(index);
        if replication::snapshot_keeps_log(&self.log, base.position, self.options.mutants) {
            return self.log.commit_to(index);
        }
        self.clock.observe_entry(base.position.term, time);
        self.log.restart(base.position);
        // The configuration of the replaced log goes in any case, even one with a higher index: it was never committed,
        // and its voters may be disjoint from those of the cluster (openraft#1808).
        self.forget_disks(&base.membership);
        if membership::snapshot_sets_config(self.options.mutants) {
            self.configs.restart(base.configured, base.membership.clone());
        }
        self.notes.push(Note::LogRestarted { base: base.position });
        self.notes.push(Note::Configured { index: base.configured, membership: Box::new(base.membership.clone()) });
        // They belong to the replaced log. Behind the new base they would be a gap, or contradict the leader.
        self.unwritten.clear();
        // A later report of an earlier write does not cover the log that starts here.
        for issued in &mut self.issued {
            issued.last = Index::ZERO;
        }
        self.restarted = Some(base);
    }

    /// Handles the journal's report that every write up to `upto` is durable. Returns whether the log's durable index
    /// advanced.
    ///
    /// The durable index advances by the writes themselves and not by the end of the log: entries may have been
    /// appended since.
    pub fn persisted(&mut self, upto: WriteId) -> bool {
        let before = self.log.durable();
        while let Some(issued) = self.issued.front().copied()
            && issued.id <= upto
        {
            self.log.persisted(issued.last);
            self.issued.pop_front();
        }
        assert!(upto < self.next_write, "the journal reports only writes that it was given");
        self.durable = self.durable.max(upto);
        self.gate.open(self.durable, &mut self.out);
        self.log.durable() > before
    }

    /// The age of the oldest write that is not yet durable.
    pub fn disk_age(&self, now: Time) -> Duration {
        self.issued.front().map_or(Duration::ZERO, |issued| now.since(issued.at))
    }

    /// Whether the oldest write has waited so long that this node should not lead (`Options::election_min`).
    ///
    /// A follower does not campaign, and a candidate gives up: with a disk like that the node could not store its own
    /// vote.
    pub fn disk_stalled(&self, now: Time) -> bool {
        self.disk_age(now) >= self.options.election_min
    }

    /// A random election timeout, drawn anew each time (§5.2).
    pub fn random_election_timeout(&mut self) -> Duration {
        let (min, max) = (self.options.election_min, self.options.election_max);
        self.rng.random_range(min..=max.max(min))
    }

    /// A random delay before a campaign after the leader's connection closed.
    pub fn random_link_loss_delay(&mut self) -> Duration {
        self.rng.random_range(Duration::ZERO..=self.options.link_closed_within)
    }

    /// Answers a vote request of this term (§5.2, §5.4.1). Returns whether this node voted for the candidate.
    ///
    /// All reasons to deny are looked at, and the first is reported: an operator who asks why no leader is elected
    /// reads it here. A pre-vote compares the same things, except that this term's vote need not be free: it is for the
    /// next term.
    pub fn handle_request_vote(&mut self, candidate: Vote, last: Position, ask: VoteKind) -> bool {
        let mutants = self.options.mutants;
        let from = candidate.node;
        let up_to_date = election::log_up_to_date(ask, last, self.log.last(), mutants);
        let keeps_promise = election::reaches_promised(last, self.promised(), mutants);
        let free = election::vote_is_free(ask, self.vote(), candidate, mutants);
        let voice = self.vote_weight();
        let denied = match ask {
            _ if voice == VoteWeight::None => Some("this node's log does not name its disk yet"),
            _ if !up_to_date => Some("the candidate's log is behind"),
            _ if !keeps_promise => Some("the candidate's log lacks entries that this node acknowledged and lost"),
            VoteKind::Vote | VoteKind::Transfer if !free => Some("voted for another candidate"),
            VoteKind::PreVote | VoteKind::Vote | VoteKind::Transfer => None,
        };
        self.notes.push(Note::Votes { candidate: from, ask, term: self.term(), denied });
        // The refusal goes back as well: by its term and its log id a candidate that is behind learns of both.
        let granted = denied.is_none();
        let vote = Message::RequestVoteResponse {
            granted,
            void: voice == VoteWeight::Founder,
            ask,
            heard: self.clock.known(),
        };
        if granted && ask.is_real() {
            // Recorded before it is promised, so that the promise waits for the write that contains it.
            self.record_vote(candidate);
            self.promise(from, vote);
            return true;
        }
        self.send(from, vote);
        false
    }

    /// Moves the output of every role into `ready`: messages, the next write, notes.
    ///
    /// One write for all that happened since the last call, so that a turn with a thousand proposals costs one sync.
    pub fn ready(&mut self, now: Time, ready: &mut Ready) {
        if self.is_dirty() {
            let hard_state = self.hard_state_changed.then_some(self.hard_state);
            self.hard_state_changed = false;
            let entries = std::mem::take(&mut self.unwritten);
            let base = self.restarted.take();
            ready.write = Some(Write { id: self.next_write, hard_state, base, entries });
            self.issued.push_back(Issued { id: self.next_write, last: self.log.last().index, at: now });
            self.next_write = self.next_write.next();
        }
        ready.messages.append(&mut self.out);
        ready.notes.append(&mut self.notes);
        ready.chunks.append(&mut self.chunks);
        ready.commit = self.log.commit();
    }
}
