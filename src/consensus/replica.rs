//! A node's state in any role: term, vote, log, configurations, and messages that wait for the disk.
//!
//! A message may be sent once one numbered write is durable. Each call of [`Replica::ready`] issues at most one write:
//!
//! ```text
//!             write 7          write 8                    next_write = 9
//! ──────────────┴────────────────┴──────────────────────────────────────> time
//!    durable_write = 7   issued: 8   unwritten entries, term, vote
//!    send:              waits for the write with the current term, which is durable most of the time
//!    send_when_durable: waits for 9, if anything is unwritten, otherwise for 8
//! ```
//!
//! Writes become durable in order, so "durable up to 8" includes every earlier write. One number per message therefore
//! covers everything that the message depends on.

mod identity;
mod invariants;
mod lost_entries;

use super::claims::PeerClaims;
use super::clock::{Clock, LeaderTime};
use super::configs::Configs;
use super::disk_room::DiskRoom;
use super::founding::Founding;
use super::gate::DurabilityGate;
use super::log::Log;
use super::message::{Envelope, Message, Origin, Round, SnapshotChunk, VoteKind};
use super::note::Note;
use super::options::Options;
use super::ready::{LostEntriesToSend, Ready};
use super::rules::election::{self, VoteWeight};
use super::rules::{membership, replication};
use crate::codec;
use crate::types::{
    ClusterTime, DiskId, Entry, HardState, Index, Membership, NodeId, Payload, Position, SnapshotPoint, Term, Time,
    Versions, Vote, Write, WriteId,
};
pub use lost_entries::{KeptEntries, KeptFragment};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The state from which a node starts or restarts.
///
/// The state contains no commit index: a leader reports it within a heartbeat. A stored commit index could contradict
/// the log (ra ffe3016a: the stored index was beyond the end of the log, and the node could not start).
#[derive(Clone, Debug)]
pub struct RecoveredState {
    /// The id of this node's disk; `None` where disks have no ids, as in some tests.
    pub disk: Option<DiskId>,
    /// The term, vote and promised position on the disk.
    pub hard_state: HardState,
    /// Where the log starts, and the membership there.
    pub base: SnapshotPoint,
    /// Term and size in bytes of each entry after the base, all of them durable.
    pub entries: Vec<(Term, u64)>,
    /// The configurations among `entries`, each with the index of its entry.
    pub configurations: Vec<(Index, Membership)>,
    /// The cluster time of the last entry.
    pub time: ClusterTime,
    /// The last index that a snapshot of this node covers. The entries up to it are committed.
    pub applied_index: Index,
    /// Intact entries after damage to the log, as long as the log does not reach the promised position.
    pub kept_fragments: Vec<KeptFragment>,
}

/// A write that the journal has not yet reported durable.
#[derive(Clone, Copy, Debug)]
struct IssuedWrite {
    id: WriteId,
    /// The last index that the write makes durable; lowered when the log is truncated below it.
    // An index and not a number of entries, because a truncation may invalidate a part of the entries of a write that
    // is not durable yet.
    log_end: Index,
    /// When the write was handed to the driver.
    issued_at: Time,
}

/// The state of a node that does not depend on its role: term, vote, log, configurations, and held messages.
///
/// There are two ways to send a message, and the choice between them is the only decision about durability in the core.
/// [`Replica::send`] waits until the current term is durable. [`Replica::send_when_durable`] waits until all state
/// changed so far is durable.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The id of this node, a member or not.
    pub id: NodeId,
    /// Timeouts and limits, the same for the life of the process.
    pub options: Options,
    /// The log: the term and the size of each entry.
    pub log: Log,
    /// The last index that this node cannot send because entries up to there are damaged on its disk; zero if none is.
    pub unreadable_upto: Index,
    /// The configurations of the log; the latest is in force.
    pub configs: Configs,
    /// The index up to which this node's log matches that of this term's leader, as the leader's appends have proved.
    /// Neither acknowledgments nor commits go beyond this index. A term has one leader, so the index holds for the
    /// whole term, whatever role this node takes meanwhile.
    pub matched_prefix: Index,
    /// The highest index that a leader reported committed, whether this node's log has reached it or not.
    pub leader_commit: Index,
    /// The index of the configuration that removed this node, as long as the operator has not been warned of the
    /// removal: the log still lacks committed entries, which may add the node again.
    pub unreported_removal: Option<Index>,
    /// The latest round of reads in this process. The number never decreases, not even with a new term, so that no
    /// round number is used twice.
    pub latest_round: Round,
    /// The cluster time, which advances while this node leads.
    pub clock: Clock,
    /// Events to log for the operator, until the next `ready`.
    pub notes: Vec<Note>,
    /// Chunks of a leader's snapshot with their senders, until the next `ready`.
    pub snapshot_chunks: Vec<(NodeId, SnapshotChunk)>,
    /// The last known leader and the time of its last message; used in notes on elections only.
    pub last_leader: Option<(NodeId, Time)>,
    /// The room on this node's disk, as the driver reported it last.
    pub room: DiskRoom,
    /// Whether this node is in the founding configuration and its log starts there: only such a node votes before the
    /// log names its disk.
    is_founder: bool,
    /// Vetoes and waiting time for the founding of a log.
    pub founding: Founding,
    /// The disk ids of this node and of the peers that presented theirs.
    known_disks: BTreeMap<NodeId, DiskId>,
    /// The versions that each connected member announced.
    announced_versions: BTreeMap<NodeId, Versions>,
    /// The claims of each peer about its disk, since this process started.
    claims: PeerClaims,
    /// The term at the start of the process.
    recovered_term: Term,
    /// Term, vote and promised position; possibly newer than on the disk.
    hard_state: HardState,
    /// Whether `hard_state` has changes that are in no write yet.
    hard_state_changed: bool,
    /// The new base of the log after a snapshot was installed, until it is in a write.
    unwritten_base: Option<SnapshotPoint>,
    /// Entries that are in the log and not in a write yet.
    unwritten_entries: Vec<Entry>,
    /// The id of the next write that [`Replica::ready`] issues.
    next_write: WriteId,
    /// The last write that is durable; all earlier ones are too.
    durable_write: WriteId,
    /// The write that contains the current term.
    term_write: WriteId,
    /// The write that contains the vote in this term.
    vote_write: WriteId,
    /// The writes that are not durable yet, in order.
    issued_writes: VecDeque<IssuedWrite>,
    gate: DurabilityGate,
    /// Intact entries that are on the disk and not in the log, because entries before them were lost.
    kept: KeptEntries,
    /// The latest request of each peer for entries that it has lost, until the next `ready`: the end of the peer's log,
    /// and positions that it held.
    lost_entries_requests: BTreeMap<NodeId, (Position, Vec<Position>)>,
    /// Lost entries to send, until the next `ready`.
    lost_entries_to_send: Vec<LostEntriesToSend>,
    /// Messages that wait for no write, until the next `ready`.
    ready_messages: Vec<Envelope>,
    // The only source of randomness. The driver seeds it, so that the simulator can repeat a run.
    rng: SmallRng,
}

impl Replica {
    /// Restores a node from its disk. Nothing beyond the base and the applied index is known to be committed.
    ///
    /// All recovered state is durable: the journal syncs the files before it returns the state, because bytes that it
    /// read may have been only in the page cache.
    pub fn recover(id: NodeId, options: Options, recovered: RecoveredState, seed: u64) -> Replica {
        let starts_at_founding = recovered.base.position == Position::ZERO;
        let is_founder = starts_at_founding && recovered.base.membership.members.contains_key(&id);
        let mut log = Log::new(recovered.base.position);
        for (term, size) in &recovered.entries {
            log.append(*term, *size);
        }
        log.advance_durable(log.last().index);
        log.commit_to(recovered.applied_index.max(log.commit()));
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
            unreadable_upto: Index::ZERO,
            configs,
            matched_prefix: Index::ZERO,
            leader_commit: Index::ZERO,
            unreported_removal: None,
            latest_round: Round::default(),
            clock,
            notes: Vec::new(),
            snapshot_chunks: Vec::new(),
            last_leader: None,
            room: DiskRoom::AMPLE,
            is_founder,
            founding: Founding::default(),
            announced_versions: BTreeMap::new(),
            claims: PeerClaims::default(),
            recovered_term: recovered.hard_state.term,
            known_disks: recovered.disk.map(|disk| (id, disk)).into_iter().collect(),
            hard_state: recovered.hard_state,
            hard_state_changed: false,
            unwritten_base: None,
            unwritten_entries: Vec::new(),
            next_write: WriteId(1),
            durable_write: WriteId::ZERO,
            term_write: WriteId::ZERO,
            vote_write: WriteId::ZERO,
            issued_writes: VecDeque::new(),
            gate: DurabilityGate::default(),
            kept: KeptEntries::new(recovered.kept_fragments),
            lost_entries_requests: BTreeMap::new(),
            lost_entries_to_send: Vec::new(),
            ready_messages: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The current term, durable or not.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// The vote in the current term, durable or not; `None` before this node votes in the term.
    pub fn vote(&self) -> Option<Vote> {
        self.hard_state.vote
    }

    /// The position that this node acknowledged and no longer holds, if there is one
    /// ([`HardState::promised_position`]).
    pub fn promised_position(&self) -> Position {
        self.hard_state.promised_position
    }

    /// Moves to a new term, without a vote (§5.1).
    ///
    /// Messages that are held in the gate are of the old term, and are dropped: their receivers would ignore them.
    pub fn advance_term(&mut self, term: Term) {
        assert!(term > self.term(), "a new term is higher than the current term (§5.1)");
        self.hard_state = HardState { term, vote: None, ..self.hard_state };
        // The leader of the new term may have another log, so no prefix is known to match it.
        self.matched_prefix = Index::ZERO;
        self.gate.drop_messages_before_term(term);
        if election::persists_term(self.options.mutants) {
            self.hard_state_changed = true;
            self.term_write = self.next_write;
        }
    }

    /// Records the one vote of this term (§5.2): for that node on that disk.
    ///
    /// The vote stays for the whole term whatever happens to the candidate: a second vote in the term may make a second
    /// leader. A repeated request of the same candidate gets the same vote again.
    pub fn record_vote(&mut self, candidate: Vote) {
        assert!(
            election::agrees_with_recorded_vote(self.vote(), candidate, self.options.mutants),
            "a node casts at most one vote in a term (§5.2)"
        );
        if self.vote() != Some(candidate) {
            self.hard_state.vote = Some(candidate);
            self.hard_state_changed = true;
            self.vote_write = self.next_write;
        }
    }

    /// A random number, different in each run of the process.
    pub fn random_number(&mut self) -> u64 {
        self.rng.random()
    }

    /// Sends a message that relies on no durable state but the term on the envelope.
    ///
    /// The message is held if the term is not durable yet, because receivers rely on a durable term (§5.1). Otherwise a
    /// crashed node could return to an earlier term, and contradict messages that it has sent.
    pub fn send(&mut self, to: NodeId, message: Message) {
        self.send_or_hold(self.term_write, to, message);
    }

    /// Sends a message that is true only once everything written so far is durable.
    ///
    /// The message waits for all changed state, not only for the state that it promises: a forgotten dependency would
    /// show only after a power failure.
    pub fn send_when_durable(&mut self, to: NodeId, message: Message) {
        // Waits for the next write only if `ready` will issue one: otherwise the message would wait forever.
        let needed_write = if self.has_unwritten_state() { self.next_write } else { self.last_issued_write() };
        let waits_for_disk = election::waits_for_disk(&message, self.options.mutants);
        self.send_or_hold(if waits_for_disk { needed_write } else { WriteId::ZERO }, to, message);
    }

    /// Sends a message, or holds it until the write `after` is durable. Every message is sent through this function.
    fn send_or_hold(&mut self, after: WriteId, to: NodeId, message: Message) {
        assert_ne!(to, self.id, "a node sends no message to itself");
        let envelope = self.envelope(to, self.term(), message);
        if after <= self.durable_write {
            self.ready_messages.push(envelope);
        } else {
            self.gate.hold(after, envelope);
        }
    }

    /// An envelope from this node in that term, with this node's disk id and log id.
    pub fn envelope(&self, to: NodeId, term: Term, message: Message) -> Envelope {
        let log = membership::sender_log_id(self.configs.current(), &message, self.options.mutants);
        let origin = Origin { disk: self.disk(), log };
        Envelope { from: self.id, to, term, origin, message }
    }

    /// Whether the current vote is durable.
    ///
    /// A candidate counts its own vote only once it is durable, like the vote of another voter.
    pub fn vote_is_durable(&self) -> bool {
        self.vote_write <= self.durable_write
    }

    /// Whether the current term is durable. Until then this node sends no message in the term.
    pub fn term_is_durable(&self) -> bool {
        self.term_write <= self.durable_write
    }

    /// Whether the next `ready` will issue a write.
    fn has_unwritten_state(&self) -> bool {
        self.hard_state_changed || !self.unwritten_entries.is_empty() || self.unwritten_base.is_some()
    }

    fn last_issued_write(&self) -> WriteId {
        WriteId(self.next_write.0 - 1)
    }

    /// Appends a new entry that this leader creates (Leader Append-Only, §5.3).
    ///
    /// The clock is read for each entry: no entry has an earlier time than the entry before it.
    pub fn append(&mut self, now: Time, payload: Payload) -> Position {
        let position = Position::new(self.log.last().index.next(), self.term());
        let entry = codec::entry(position, self.clock.read(now), payload);
        self.append_entry(entry);
        position
    }

    /// Appends an entry, received or created. A configuration in it is in force at once.
    pub fn append_entry(&mut self, entry: Entry) {
        let position = self.log.append(entry.position.term, codec::entry_size(&entry) as u64);
        assert_eq!(position, entry.position, "an appended entry has the index after the last entry");
        self.clock.observe_entry(entry.position.term, entry.time);
        if let Payload::Membership(membership) = &entry.payload {
            self.adopt_configuration(position.index, (**membership).clone());
        }
        self.unwritten_entries.push(entry);
    }

    /// Adopts a configuration: it is in force as soon as it is in the log (§6).
    ///
    /// A configuration is adopted at the append and not at the commit: otherwise the entry itself would commit by a
    /// majority of the old configuration (etcd#7625 and #5004). So a truncation has to restore the previous
    /// configuration.
    fn adopt_configuration(&mut self, index: Index, membership: Membership) {
        if !membership::configuration_takes_effect(index, self.configs.current_index(), self.options.mutants) {
            return;
        }
        self.forget_replaced_disks(&membership);
        let is_removed =
            self.configs.current().members.contains_key(&self.id) && !membership.members.contains_key(&self.id);
        if is_removed {
            // A node that was removed and added again receives its own removal while it catches up. The operator is
            // warned only if no later entry is known.
            let log_is_behind = index < self.leader_commit;
            self.unreported_removal = log_is_behind.then_some(index);
            self.notes.push(Note::NotMember { node: self.id, configuration_index: index, log_is_behind });
        }
        self.configs.push(index, membership.clone());
        self.notes.push(Note::ConfigurationInForce { index, membership: Box::new(membership) });
    }

    /// Warns that this node was removed, once its log has reached the commit index of the leader: a node that catches
    /// up receives old configurations, and a later one may add it again.
    pub fn warn_if_removed(&mut self) {
        if self.log.last().index >= self.leader_commit
            && let Some(configuration_index) = self.unreported_removal.take()
            && !self.configs.current().members.contains_key(&self.id)
        {
            self.notes.push(Note::NotMember { node: self.id, configuration_index, log_is_behind: false });
        }
    }

    /// Forgets the known disks of peers that `next` removes, or that were removed and added again before `next`.
    ///
    /// A member that was removed and added again may come with a new disk. With the disk known from before, the leader
    /// would name the old disk.
    fn forget_replaced_disks(&mut self, next: &Membership) {
        let (me, current) = (self.id, self.configs.current());
        self.known_disks.retain(|id, _| *id == me || current.keeps_member(*id, next));
    }

    /// Truncates the log from `from` on: the entries conflict with a leader's (§5.3).
    ///
    /// Three records of the entries are removed as well: their configurations, the entries in the next write, and the
    /// part of each issued write that would make them durable. Each of the three was a bug in some implementation
    /// (canonical/raft#250, mofa#1151, ra#637).
    pub fn truncate(&mut self, from: Index) {
        self.notes.push(Note::LogTruncated { from, last: self.log.last() });
        self.log.truncate(from);
        if membership::truncation_drops_configs(self.options.mutants) && self.configs.truncate(from) {
            let membership = Box::new(self.configs.current().clone());
            self.notes.push(Note::ConfigurationInForce { index: self.configs.current_index(), membership });
        }
        self.unwritten_entries.retain(|entry| entry.position.index < from);
        if !replication::truncation_lowers_durable(self.options.mutants) {
            return;
        }
        self.log.clamp_durable(from);
        // A report of a write that was issued before the truncation must not count for entries that are appended after
        // the truncation.
        for issued in &mut self.issued_writes {
            issued.log_end = issued.log_end.min(from.prev());
        }
    }

    /// The last index that a follower can get only with a snapshot: its entry is compacted, or damaged.
    pub fn snapshot_needed_upto(&self) -> Index {
        self.log.base().index.max(self.unreadable_upto)
    }

    /// Compacts the log and its configurations: a snapshot covers everything up to `upto`.
    pub fn compact(&mut self, upto: Index) {
        self.log.compact(upto);
        self.configs.compact(self.log.base().index);
    }

    /// Installs a leader's snapshot. A snapshot covers all entries up to its position, which is committed and so in the
    /// log of every leader of this term or a later one. A log that holds that position keeps the entries after it; any
    /// other log is replaced as a whole (Figure 13, rules 6 and 7): an entry it has at that index was never committed.
    ///
    /// No acknowledgment is sent yet: it waits until the journal has recorded the new base. Until then a crashed node
    /// restarts with the old log, which the leader must not count as the snapshot (cowsql e514f78f).
    pub fn install_snapshot(&mut self, base: SnapshotPoint, time: ClusterTime) {
        let Position { index, .. } = base.position;
        if replication::snapshot_is_old(index, self.log.commit(), self.options.mutants) {
            return;
        }
        // The time is observed even if the log is kept, because a leader's clock counted it.
        self.clock.observe_leader_time(LeaderTime { term: base.position.term, time });
        self.matched_prefix = self.matched_prefix.max(index);
        if replication::snapshot_keeps_log(&self.log, base.position, self.options.mutants) {
            return self.log.commit_to(index);
        }
        self.clock.observe_entry(base.position.term, time);
        self.log.restart(base.position);
        // The configurations of the replaced log are dropped, even one with a higher index: it was never committed, and
        // its voters may be disjoint from those of the cluster (openraft#1808).
        self.forget_replaced_disks(&base.membership);
        if membership::snapshot_sets_config(self.options.mutants) {
            self.configs.replace_all(base.configured, base.membership.clone());
        }
        self.notes.push(Note::LogRestarted { base: base.position });
        self.notes
            .push(Note::ConfigurationInForce { index: base.configured, membership: Box::new(base.membership.clone()) });
        // The unwritten entries belong to the replaced log. After the new base they would leave a gap, or contradict
        // the leader.
        self.unwritten_entries.clear();
        // Reports of writes that were issued before the installation must not count for the log that starts at the new
        // base.
        for issued in &mut self.issued_writes {
            issued.log_end = Index::ZERO;
        }
        self.unwritten_base = Some(base);
    }

    /// Handles the journal's report that every write up to `upto` is durable. Returns whether the log's durable index
    /// advanced.
    ///
    /// The durable index advances to the end of each reported write and not to the end of the log: entries may have
    /// been appended since.
    pub fn handle_persisted(&mut self, upto: WriteId) -> bool {
        let durable_index_before = self.log.durable();
        while let Some(issued) = self.issued_writes.front().copied()
            && issued.id <= upto
        {
            self.log.advance_durable(issued.log_end);
            self.issued_writes.pop_front();
        }
        assert!(upto < self.next_write, "the journal reports only issued writes as durable");
        self.durable_write = self.durable_write.max(upto);
        self.gate.release(self.durable_write, &mut self.ready_messages);
        self.log.durable() > durable_index_before
    }

    /// The age of the oldest write that is not yet durable.
    pub fn oldest_write_age(&self, now: Time) -> Duration {
        self.issued_writes.front().map_or(Duration::ZERO, |issued| now.since(issued.issued_at))
    }

    /// Whether the oldest write has waited so long that this node should not lead (`Options::election_min`).
    ///
    /// A follower then does not campaign, and a candidate steps down: the node could not store its own vote.
    pub fn disk_stalled(&self, now: Time) -> bool {
        self.oldest_write_age(now) >= self.options.election_min
    }

    /// A new random election timeout, from `election_min` to `election_max` (§5.2).
    pub fn random_election_timeout(&mut self) -> Duration {
        let (min, max) = (self.options.election_min, self.options.election_max);
        self.rng.random_range(min..=max.max(min))
    }

    /// A random delay before a campaign after the leader's connection closed, at most `link_loss_delay_max`.
    pub fn random_link_loss_delay(&mut self) -> Duration {
        self.rng.random_range(Duration::ZERO..=self.options.link_loss_delay_max)
    }

    /// Answers a vote request of this term (§5.2, §5.4.1). Returns whether this node voted for the candidate.
    ///
    /// The note contains the first reason to reject the candidate, so that an operator sees why no leader is elected. A
    /// pre-vote passes the same checks, except that this term's vote need not be free: the pre-vote is for the next
    /// term.
    pub fn handle_request_vote(&mut self, candidate: Vote, last: Position, kind: VoteKind) -> bool {
        let mutants = self.options.mutants;
        let from = candidate.node;
        let is_up_to_date = election::log_up_to_date(kind, last, self.log.last(), mutants);
        let keeps_promise = election::reaches_promised_position(last, self.promised_position(), mutants);
        let vote_is_free = election::vote_is_free(kind, self.vote(), candidate, mutants);
        let own_vote_weight = self.vote_weight();
        let rejection = match kind {
            _ if own_vote_weight == VoteWeight::None => Some("this node's log does not name its disk yet"),
            _ if !is_up_to_date => Some("the candidate's log is behind"),
            _ if !keeps_promise => Some("the candidate's log lacks entries that this node acknowledged and lost"),
            VoteKind::Vote | VoteKind::Transfer if !vote_is_free => Some("voted for another candidate"),
            VoteKind::PreVote | VoteKind::Vote | VoteKind::Transfer => None,
        };
        self.notes.push(Note::VoteAnswered { candidate: from, kind, term: self.term(), rejection });
        // A rejection is sent as well: a candidate that is behind learns the term and the log id from it.
        let granted = rejection.is_none();
        let response = Message::RequestVoteResponse {
            granted,
            maybe_emptied: own_vote_weight == VoteWeight::Founder,
            kind,
            leader_time: self.clock.latest_leader_time(),
        };
        if granted && kind.is_real() {
            // The vote is recorded before the response is sent, so that the response waits for the write that contains
            // the vote.
            self.record_vote(candidate);
            self.send_when_durable(from, response);
            return true;
        }
        self.send(from, response);
        false
    }

    /// Moves the output that does not depend on the role into `ready`: messages, the next write, notes, chunks, the
    /// commit index.
    ///
    /// All changes since the last call are one write, so that a thousand proposals between two calls cost one sync.
    pub fn ready(&mut self, now: Time, ready: &mut Ready) {
        if self.has_unwritten_state() {
            let hard_state = self.hard_state_changed.then_some(self.hard_state);
            self.hard_state_changed = false;
            let entries = std::mem::take(&mut self.unwritten_entries);
            let base = self.unwritten_base.take();
            ready.write = Some(Write { id: self.next_write, hard_state, base, entries });
            self.issued_writes.push_back(IssuedWrite {
                id: self.next_write,
                log_end: self.log.last().index,
                issued_at: now,
            });
            self.next_write = self.next_write.next();
        }
        ready.messages.append(&mut self.ready_messages);
        self.answer_lost_entries_requests();
        ready.lost_entries.append(&mut self.lost_entries_to_send);
        ready.notes.append(&mut self.notes);
        ready.snapshot_chunks.append(&mut self.snapshot_chunks);
        ready.commit = self.log.commit();
    }
}
