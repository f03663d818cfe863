//! The leader: replication, commit, reads, and stepping down.
//!
//! Its work is one loop per entry, and every step may overlap with those of later entries:
//!
//! ```text
//! client ──> propose ──> log ──┬──> ready: write   ──> own disk  ──> persisted ──┐
//!                              └──> ready: appends ──> followers ──> responses ──┴──> advance: commit
//! ```
//!
//! The leader sends an entry before its own disk holds it (thesis §10.2.1): the disks of the leader and of the
//! followers then work at the same time, and an entry takes one round trip and one sync, not two syncs. It is safe
//! because the leader counts its own copy like any other, once it is durable: a majority of disks holds a committed
//! entry, with or without the leader's.
//!
//! [`Raft`](super::raft::Raft) calls `receive`, `tick` and `propose` as events come in, then [`Leader::advance`] and
//! [`Leader::advance_membership`], and at the end of a turn [`Leader::ready`]. No message leaves before `ready`, so
//! that all acknowledgments and proposals of one turn share one append, one commit message and one round of reads.

mod appends;
mod invariants;
mod members;
mod transfer;

use self::appends::{handle_heartbeat_response, handle_rejection, learn_disk_from_ack, lose, stream};
use self::transfer::LeaderTransfer;
use super::message::{Envelope, Message, Round};
use super::next::Next;
use super::note::{Note, StepDown};
use super::progress::{Progress, ProgressState};
use super::quorum;
use super::reads::{ReadId, ReadRequester, Reads};
use super::ready::Ready;
use super::replica::Replica;
use super::rules::{election, membership, replication};
use crate::types::{Index, LogId, NodeId, Payload, Position, Time, Vote};
use std::collections::BTreeMap;

/// A leader that commits nothing for this many of the longest election timeouts steps down.
const COMMIT_PATIENCE: u32 = 10;

/// The state of the leader of its term.
#[derive(Clone, Debug)]
pub struct Leader {
    progress: BTreeMap<NodeId, Progress>,
    reads: Reads,
    /// Index of the first entry of this term. Until it is committed, the leader cannot tell what is committed (§5.4.2,
    /// §8).
    term_start_index: Index,
    heartbeat_due: Time,
    /// When to send the commit index to followers that were sent nothing else.
    commit_due: Time,
    /// Whether a round of reads is to be sent with the next heartbeats.
    ask_round: bool,
    /// Reports of followers on their snapshots: peer, snapshot, bytes received, whether it was damaged.
    chunked: Vec<(NodeId, Position, u64, bool)>,
    /// Whether the operator was warned that the disk does not respond.
    warned: bool,
    /// Removed members, and until when the leader tries to notify them.
    leaving: BTreeMap<NodeId, Time>,
    /// Index of the configuration that `progress` reflects.
    arranged: Index,
    /// The leadership transfer under way, if any.
    transfer: Option<LeaderTransfer>,
    /// Like [`Progress::counted_from`], for this node's own copy.
    counted_from: Option<Index>,
    /// The number of probes sent in this term.
    probes: u64,
    /// When this node became leader.
    began: Time,
    /// The commit index, and since when it has not moved although entries wait to be committed.
    waits: Option<(Index, Time)>,
}

impl Leader {
    /// Starts the term with a no-op, so that entries of earlier terms commit with it (§5.4.2), and with the
    /// configuration, if no entry of the log holds one yet. The voters that granted their vote count as having
    /// responded.
    pub fn new(me: &mut Replica, now: Time, votes: &[NodeId]) -> Leader {
        me.clock.start(now, me.options.heartbeat, me.term());
        let first = me.log.last().index.next();
        // The first entry of a new log is the configuration itself, with a log id of its own: it starts the term as
        // well.
        if replication::needs_noop(me.log.last(), me.options.mutants) {
            me.append(now, Payload::Noop);
        }
        if me.configs.since() == Index::ZERO && me.log.base() == Position::ZERO {
            let mut founding = Box::new(me.configs.current().clone());
            me.name_disks(&mut founding);
            founding.log_id = Some(LogId(me.draw_number() | 1));
            me.append(now, Payload::Membership(founding));
        }
        let others = me.configs.current().ids().filter(|id| *id != me.id);
        let mut progress: BTreeMap<_, _> = others.map(|id| (id, Progress::new(now, first))).collect();
        for (id, progress) in &mut progress {
            // A vote is a message of this term. Without it, a leader that was just elected would refuse membership
            // changes until the first responses to its heartbeats, and would know no disk of its voters to name.
            progress.responded_this_term = votes.contains(id);
            progress.disk = me.met(*id).filter(|_| progress.responded_this_term);
        }
        let mut leader = Leader {
            progress,
            leaving: BTreeMap::new(),
            arranged: me.configs.since(),
            transfer: None,
            reads: Reads::default(),
            term_start_index: first,
            heartbeat_due: now,
            commit_due: Time::NEVER,
            ask_round: false,
            chunked: Vec::new(),
            warned: false,
            counted_from: None,
            probes: 0,
            began: now,
            waits: None,
        };
        leader.update_counted_from(me);
        leader
    }

    /// Sets from which index on each copy counts, by the configuration in force.
    ///
    /// Called after each change of the configuration, for every member: a change may name a disk, name another one, or
    /// bring a member back that was removed with its old disk. A copy that counted under the old configuration must not
    /// go on to count under the new one by an index that was computed before.
    pub(super) fn update_counted_from(&mut self, me: &Replica) {
        self.counted_from = me.counted_from(me.id, me.disk());
        for (id, progress) in &mut self.progress {
            progress.counted_from = me.counted_from(*id, progress.disk);
        }
    }

    /// Whether commands are accepted: the log is agreed to be this cluster's.
    ///
    /// A leader elects itself in a new log, appends the first entry, and then waits for one more commit. The delay is
    /// paid once in the life of a cluster.
    pub fn takes_commands(&self, me: &Replica) -> bool {
        membership::log_takes_commands(me.configs.current().log_agreed, me.options.mutants)
    }

    /// The replication progress of each follower.
    pub fn progress(&self) -> &BTreeMap<NodeId, Progress> {
        &self.progress
    }

    /// When `tick` next has something to do.
    pub fn deadline(&self) -> Time {
        self.heartbeat_due.min(self.commit_due).min(self.transfer.as_ref().map_or(Time::NEVER, LeaderTransfer::until))
    }

    /// Whether this leader's first entry of this term is committed.
    ///
    /// Its commit index may be behind what the last leader committed and acknowledged: followers learn of a commit only
    /// with a later message. Once an entry of its own term is committed, every earlier entry in its log is, and Leader
    /// Completeness (§5.4.3) says that no other committed entries exist.
    fn current_term_committed(&self, me: &Replica) -> bool {
        replication::term_start_committed(me.log.commit(), self.term_start_index, me.options.mutants)
    }

    /// Runs the timers that are due: sends heartbeats, and checks whether this node should still lead.
    ///
    /// All periodic work hangs on the heartbeat, so that an idle leader wakes up once per heartbeat and not once per
    /// timer. The transfer alone has a deadline of its own: clients wait for it.
    pub fn tick(&mut self, me: &mut Replica, now: Time) -> Next {
        self.end_handover(me, now);
        if now < self.heartbeat_due {
            return Next::Stay;
        }
        self.heartbeat_due = now + me.options.heartbeat;
        // The clock advances with every reading by a limited step only, so it is read even when nothing is written: a
        // leader without load would otherwise look frozen.
        me.clock.read(now);
        if let next @ Next::StepDown(_) = self.check_quorum(me, now) {
            return next;
        }
        self.drop_removed(me, now);
        // A heartbeat is a round of reads as well. Its answers prove that this node leads, and there is no second kind
        // of message with a second kind of proof.
        self.ask_round = true;
        let patience = me.options.election_max;
        let last = me.log.last().index;
        for (peer, progress) in &mut self.progress {
            progress.chase(now, last, me.options.election_min);
            let since = now.since(progress.last_contact);
            if since > patience && !progress.silent {
                progress.silent = true;
                me.notes.push(Note::Silent { peer: *peer, since });
            }
            if let ProgressState::Probe { asked: Some(at) } = progress.stage
                && now.since(at) >= me.options.election_min
            {
                // The probe or its answer was lost.
                progress.stage = ProgressState::Probe { asked: None };
            }
        }
        Next::Stay
    }

    /// Steps down if no quorum responds, nothing commits, or the disk does not respond (thesis §6.2).
    ///
    /// Clients of a leader that was cut off would wait for as long as the partition lasts, and followers on its side,
    /// still hearing heartbeats, would elect no other (Cloudflare, November 2020: six and a half hours). Pre-vote alone
    /// does not help, and makes this check necessary: it lets no follower depose a leader that the follower hears.
    fn check_quorum(&mut self, me: &mut Replica, now: Time) -> Next {
        let responds = self.has_quorum_contact(me, now) || self.revert_change(me, now);
        if !election::keeps_leadership(responds, me.options.mutants) {
            return Next::StepDown(StepDown::NoQuorum);
        }
        if election::yields_leadership(self.cannot_commit(me, now), me.options.mutants) {
            return Next::StepDown(StepDown::CommitStalled);
        }
        // Heartbeats wait for no disk, so a leader with a dead disk would keep its followers content forever while it
        // accepts writes that it can never count (tarantool#12292).
        if me.disk_age(now) >= me.options.election_max {
            return Next::StepDown(StepDown::DiskStalled);
        }
        let stands = me.disk_stalled(now);
        if stands && !self.warned {
            me.notes.push(Note::DiskStalled { since: me.disk_age(now) });
        }
        self.warned = stands;
        Next::Stay
    }

    /// Whether the followers that respond are not enough to commit the log: nothing was committed, and no follower
    /// acknowledged anything new, for ten election timeouts. (A follower that responds may hold nothing that counts:
    /// its disk does not write, or it has lost entries that it acknowledged.) False while too few disks for a quorum
    /// have room: any leader would have to wait.
    fn cannot_commit(&mut self, me: &Replica, now: Time) -> bool {
        let commit = me.log.commit();
        if commit == me.log.last().index {
            self.waits = None;
            return false;
        }
        let (at, since) = *self.waits.get_or_insert((commit, now));
        if at != commit {
            self.waits = Some((commit, now));
            return false;
        }
        // An acknowledgment that does not commit yet is progress all the same: a follower that receives a long log
        // needs more than ten election timeouts, and a new leader would serve it no faster.
        let moved = self.progress.values().map(|progress| progress.acknowledged_at).max().unwrap_or(Time::ZERO);
        let has_room = |id: NodeId| match self.progress.get(&id) {
            Some(progress) => !progress.room.low,
            None => !me.room.low,
        };
        now.since(since.max(moved)) >= me.options.election_max * COMMIT_PATIENCE
            && quorum::decides(me.configs.current(), has_room)
    }

    /// By the configuration in force, joint or not: a leader that reaches a majority of the old voters only cannot
    /// commit anything either.
    fn has_quorum_contact(&self, me: &Replica, now: Time) -> bool {
        quorum::decides(me.configs.current(), |id| self.is_recent(me, now, id))
    }

    /// Whether a message from that node came within the longest election timeout; always true for this node.
    ///
    /// Any message counts, not only an acknowledgment: a follower with a slow disk still recognizes this leader, and
    /// would vote for no other.
    fn is_recent(&self, me: &Replica, now: Time, id: NodeId) -> bool {
        id == me.id || self.progress.get(&id).is_some_and(|p| now.since(p.last_contact) < me.options.election_max)
    }

    /// Whether that node has responded recently, and in this term. At the start of a term none has; each is given time
    /// to respond.
    ///
    /// Contact alone is not enough for a decision about quorums. At the start of a term `last_contact` is the moment of
    /// the election for every member, also for those that are down.
    fn answers(&self, me: &Replica, now: Time, id: NodeId) -> bool {
        self.is_recent(me, now, id) && self.progress.get(&id).is_none_or(|progress| progress.responded_this_term)
    }

    /// Handles a broken link: messages in flight may be lost.
    ///
    /// The connection was ordered and reliable up to here, which is why the leader streams without waiting. What was in
    /// flight may be lost now, and the leader goes back to a probe.
    pub fn lost(&mut self, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            progress.lost();
        }
    }

    /// Whether `more` bytes fit on this node's disk and on those of a responding quorum, with `keep` bytes left over.
    ///
    /// An entry that a quorum has no room for can be neither committed nor taken back, and a delete that would free
    /// room queues up behind it. So the check comes before the append ([`super::room`]).
    pub fn has_room_for(&self, me: &Replica, now: Time, more: u64, keep: u64) -> bool {
        // The usual case, without a look at the log: this runs once per command.
        if me.room.is_ample() && self.progress.values().all(|progress| progress.room.is_ample()) {
            return true;
        }
        let last = me.log.last().index;
        let fits = |id: NodeId| match self.progress.get(&id) {
            Some(progress) => self.is_recent(me, now, id) && progress.room.fits(&me.log, last, more, keep),
            None => id == me.id && me.room.fits(&me.log, last, more, keep),
        };
        fits(me.id) && quorum::decides(me.configs.current(), fits)
    }

    /// Appends one entry. The caller has checked that there is room for it.
    ///
    /// The entry goes to no disk and to no follower yet. `ready` does both, with everything else that was proposed in
    /// the same turn.
    pub fn propose(&mut self, me: &mut Replica, now: Time, payload: Payload) -> Position {
        me.append(now, payload)
    }

    /// Adds a read to the next round. Returns false if too many reads wait.
    ///
    /// No entry is written: a round of heartbeats proves that this node still led when the read began (thesis §6.4).
    /// The limit bounds the memory of a leader that is cut off, whose reads gather until it steps down.
    pub fn read(&mut self, me: &Replica, read: ReadId) -> bool {
        if self.reads.waiting() >= me.options.reads_waiting || self.transfer.is_some() {
            return false;
        }
        self.reads.push(ReadRequester::Own(read));
        true
    }

    /// Adds a follower's read index request to the next round. If it gets no answer, the follower retries.
    ///
    /// It joins the same rounds as the leader's own reads, so that reads on followers cost the leader no extra
    /// heartbeats.
    fn asked_index(&mut self, me: &Replica, peer: NodeId, number: u64) {
        if self.reads.waiting() < me.options.reads_waiting && self.transfer.is_none() {
            self.reads.push(ReadRequester::Peer(peer, number));
        }
    }

    /// Fails all waiting reads: this node no longer leads.
    pub fn abandon(&mut self) -> Vec<ReadId> {
        self.reads.abandon()
    }

    /// Handles a message of this term.
    ///
    /// A message that counts comes from the disk that the configuration names for the peer, or from any disk if it
    /// names none.
    pub fn receive(&mut self, me: &mut Replica, now: Time, envelope: Envelope) -> Next {
        let peer = envelope.from;
        if let Message::RequestVote { last, ask } = envelope.message {
            me.handle_request_vote(Vote::new(peer, envelope.origin.disk), last, ask);
            return Next::Stay;
        }
        let Some(progress) = self.progress.get_mut(&peer) else { return Next::Stay };
        // The configuration names the disk that counts. A message of another disk is accepted only where none is named
        // yet, and then the new disk starts with nothing: what the old disk acknowledged says nothing about it.
        if envelope.message.is_counted() && progress.disk != envelope.origin.disk {
            // Another disk under that id acknowledged entries that this disk does not hold.
            if progress.disk.is_some() {
                *progress = Progress::new(now, me.log.last().index.next());
            }
            progress.disk = envelope.origin.disk;
            progress.counted_from = me.counted_from(peer, progress.disk);
        }
        // After the check of the disk, which may have replaced `progress`: a new disk that speaks is in contact too.
        (progress.last_contact, progress.responded_this_term) = (now, true);
        if std::mem::take(&mut progress.silent) {
            me.notes.push(Note::FollowerRecovered { peer });
        }
        match envelope.message {
            // No correct follower sends this. Counted, it would commit entries that this leader has yet to write.
            Message::AppendResponse { matched } if matched > me.log.last().index => {
                me.notes.push(Note::InvalidMessage { peer, what: "it acknowledges entries beyond the leader's log" });
            }
            Message::AppendResponse { matched } => {
                progress.acknowledged(now, matched);
                learn_disk_from_ack(me, peer, progress);
            }
            Message::AppendRejected { refused, hint, probe } => {
                if replication::shows_loss(progress, refused, probe, me.options.mutants) {
                    lose(me, peer, progress, hint);
                } else if let Err(what) = handle_rejection(me, progress, refused, hint) {
                    me.notes.push(Note::InvalidMessage { peer, what });
                }
            }
            // Only the promise for the loss that is known now: a follower may lose entries twice, and a late promise
            // for the first loss covers less.
            Message::Promised { upto } => {
                if progress.has_lost == Some(upto) {
                    progress.resume_after_loss();
                }
            }
            Message::HeartbeatResponse { round, seen, room } => {
                handle_heartbeat_response(me, now, progress, (round, seen, room));
            }
            Message::InstallSnapshotResponse { snapshot, next, damaged } => {
                progress.acknowledged_at = now;
                self.chunked.push((peer, snapshot, next, damaged));
            }
            Message::ReadIndexRequest { number } => self.asked_index(me, peer, number),
            Message::RequestVote { .. }
            | Message::RequestVoteResponse { .. }
            | Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow
            | Message::LostAcknowledged { .. }
            | Message::Reminder { .. }
            | Message::ReadIndexResponse { .. }
            | Message::StaleTerm => {}
        }
        Next::Stay
    }

    /// Commits the entries that a majority holds durably; this node counts like any other. An entry of an earlier term
    /// commits only with a later entry of this term (§5.4.2, Figure 8).
    ///
    /// Called after every step, whatever it was: an acknowledgment, a report of the own disk and a change of the
    /// configuration may each complete a majority.
    pub fn advance(&self, me: &mut Replica) {
        let held = self.held(me);
        if held > me.log.commit() && replication::may_commit(me.log.term(held), me.term(), me.options.mutants) {
            me.log.commit_to(held);
        }
    }

    fn held(&self, me: &Replica) -> Index {
        let mutants = me.options.mutants;
        let by = |id: NodeId| match self.progress.get(&id) {
            Some(progress) => progress.counted(),
            None if id == me.id => replication::own_copy(&me.log, self.counted_from, mutants),
            None => Index::ZERO,
        };
        // Read by a mutant alone: the rule uses the latest configuration in the log, committed or not (§6).
        let committed = me.configs.since() <= me.log.commit();
        let deciding = membership::deciding(me.configs.current(), me.configs.before(), committed, mutants);
        replication::quorum_index(deciding, by, mutants)
    }

    /// Collects everything to send: entries, probes, heartbeats, the commit index, confirmed reads.
    ///
    /// The order matters. A round begins before reads are confirmed, because a single voter confirms its round at once.
    /// The commit index goes out last, because an append of the same turn may have carried it already.
    pub fn ready(&mut self, me: &mut Replica, now: Time, ready: &mut Ready) {
        if self.current_term_committed(me) && self.reads.begin(&mut me.round, me.log.commit()) {
            self.ask_round = true;
        }
        self.confirm_reads(me, ready);
        if std::mem::take(&mut self.ask_round) {
            self.send_heartbeats(me, now, me.round);
        }
        self.send_timeout_now(me);
        // An append is sent in this term, so it waits until the term is durable.
        if me.term_is_durable() {
            for (peer, progress) in &mut self.progress {
                // It holds less than this leader counts for it. Entries sent now would make its log look whole again,
                // before it has promised to vote as if it were.
                if progress.has_lost.is_some() {
                    continue;
                }
                if progress.stage != ProgressState::Snapshot
                    && replication::needs_snapshot(progress.next, me.log.base().index, me.options.mutants)
                {
                    // The next entry for it is no longer in the log (§7).
                    progress.start_snapshot();
                    me.notes.push(Note::SendsSnapshot { peer: *peer });
                    ready.ships.push(*peer);
                }
                stream(me, now, *peer, (progress, &mut self.probes), ready);
            }
        }
        ready.chunked.append(&mut self.chunked);
        self.send_commit(me, now);
    }

    /// This node counts as one voice only if its disk is named, as for votes and copies: a node that does not count in
    /// a quorum does not count in this one.
    fn confirm_reads(&mut self, me: &mut Replica, ready: &mut Ready) {
        let mutants = me.options.mutants;
        let progress = &self.progress;
        let confirmed = |round: Round| {
            let heard = |id: NodeId| {
                let counts =
                    |p: &Progress| p.counted_from.is_some() && replication::round_confirms(p.round, round, mutants);
                // A node that is removed while it leads has no vote in its own round: `decides` looks at the voters
                // only.
                (id == me.id && self.counted_from.is_some()) || progress.get(&id).is_some_and(counts)
            };
            replication::reads_confirmed(me.configs.current(), heard, mutants)
        };
        let mut out = Vec::new();
        self.reads.confirmed(confirmed, &mut out);
        for (asker, index) in out {
            match asker {
                ReadRequester::Own(read) => ready.reads.push((read, index)),
                ReadRequester::Peer(peer, number) => me.send(peer, Message::ReadIndexResponse { number, index }),
            }
        }
    }

    fn send_heartbeats(&mut self, me: &mut Replica, now: Time, round: Round) {
        let time = me.clock.read(now);
        for (peer, progress) in &mut self.progress {
            let commit = me.log.commit();
            // The heartbeat contains the commit index itself, even beyond the follower's log: a follower that catches
            // up then knows which configurations on its way are long outdated. It commits no further than its log is
            // known to match, and only that much counts as sent.
            progress.commit_sent = commit.min(progress.matched).max(progress.commit_sent);
            // Repeated with every heartbeat: the notice, or the promise that answers it, may be lost, and the follower
            // is sent nothing else meanwhile.
            if let Some(upto) = progress.has_lost {
                me.send(*peer, Message::LostAcknowledged { upto });
            }
            me.send(*peer, Message::Heartbeat { commit, round, time });
        }
    }

    /// Sends the commit index to followers that are sent nothing else, after a delay in which the next append would
    /// have carried it.
    ///
    /// Without it an idle follower would learn of the last commit only with the next heartbeat, and a read on it would
    /// wait that long. A message at once would double the messages of a busy leader, whose next append carries the
    /// commit index anyway.
    fn send_commit(&mut self, me: &mut Replica, now: Time) {
        let commit = me.log.commit();
        let untold = |p: &Progress| p.commit_sent < commit.min(p.matched);
        if !self.progress.values().any(untold) {
            self.commit_due = Time::NEVER;
        } else if self.commit_due == Time::NEVER {
            self.commit_due = now + me.options.commit_told_within;
        } else if now >= self.commit_due {
            self.commit_due = Time::NEVER;
            for (peer, progress) in self.progress.iter_mut().filter(|(_, p)| untold(p)) {
                progress.commit_sent = commit.min(progress.matched);
                me.send(*peer, Message::Committed { upto: progress.commit_sent });
            }
        }
    }
}
