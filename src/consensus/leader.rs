//! The leader: replication, commit, reads, and stepping down.

mod invariants;
mod members;
mod transfer;

use self::transfer::LeaderTransfer;
use super::message::{Envelope, Message, Round};
use super::next::Next;
use super::note::{Note, StepDown};
use super::progress::{Progress, ProgressState};
use super::quorum;
use super::reads::{ReadId, ReadRequester, Reads};
use super::ready::{EntriesToSend, Ready};
use super::replica::Replica;
use super::rules::{election, membership, replication};
use crate::types::{Index, LogId, NodeId, Payload, Position, Time, Vote};
use std::collections::BTreeMap;

/// A probe carries entries only up to this size in bytes: most probes find that the logs do not match there.
const PROBE_BYTES: u64 = 64 << 10;

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
    pub(super) fn update_counted_from(&mut self, me: &Replica) {
        self.counted_from = me.counted_from(me.id, me.disk());
        for (id, progress) in &mut self.progress {
            progress.counted_from = me.counted_from(*id, progress.disk);
        }
    }

    /// Whether commands are accepted: the log is agreed to be this cluster's.
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
    fn current_term_committed(&self, me: &Replica) -> bool {
        replication::term_start_committed(me.log.commit(), self.term_start_index, me.options.mutants)
    }

    /// Runs the timers that are due: sends heartbeats, and checks whether this node should still lead.
    pub fn tick(&mut self, me: &mut Replica, now: Time) -> Next {
        self.end_handover(me, now);
        if now < self.heartbeat_due {
            return Next::Stay;
        }
        self.heartbeat_due = now + me.options.heartbeat;
        me.clock.read(now);
        if let next @ Next::StepDown(_) = self.check_quorum(me, now) {
            return next;
        }
        self.drop_removed(me, now);
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
    fn check_quorum(&mut self, me: &mut Replica, now: Time) -> Next {
        let responds = self.has_quorum_contact(me, now) || self.revert_change(me, now);
        if !election::keeps_leadership(responds, me.options.mutants) {
            return Next::StepDown(StepDown::NoQuorum);
        }
        if election::yields_leadership(self.cannot_commit(me, now), me.options.mutants) {
            return Next::StepDown(StepDown::CommitStalled);
        }
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
        let moved = self.progress.values().map(|progress| progress.acknowledged_at).max().unwrap_or(Time::ZERO);
        let has_room = |id: NodeId| match self.progress.get(&id) {
            Some(progress) => !progress.room.low,
            None => !me.room.low,
        };
        now.since(since.max(moved)) >= me.options.election_max * COMMIT_PATIENCE
            && quorum::decides(me.configs.current(), has_room)
    }

    fn has_quorum_contact(&self, me: &Replica, now: Time) -> bool {
        quorum::decides(me.configs.current(), |id| self.is_recent(me, now, id))
    }

    /// Whether a message from that node came within the longest election timeout; always true for this node.
    fn is_recent(&self, me: &Replica, now: Time, id: NodeId) -> bool {
        id == me.id || self.progress.get(&id).is_some_and(|p| now.since(p.last_contact) < me.options.election_max)
    }

    /// Whether that node has responded recently, and in this term. At the start of a term none has; each is given time
    /// to respond.
    fn answers(&self, me: &Replica, now: Time, id: NodeId) -> bool {
        self.is_recent(me, now, id) && self.progress.get(&id).is_none_or(|progress| progress.responded_this_term)
    }

    /// Handles a broken link: messages in flight may be lost.
    pub fn lost(&mut self, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            progress.lost();
        }
    }

    /// Whether `more` bytes fit on this node's disk and on those of a responding quorum, with `keep` bytes left over.
    pub fn has_room_for(&self, me: &Replica, now: Time, more: u64, keep: u64) -> bool {
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
    pub fn propose(&mut self, me: &mut Replica, now: Time, payload: Payload) -> Position {
        me.append(now, payload)
    }

    /// Adds a read to the next round. Returns false if too many reads wait.
    pub fn read(&mut self, me: &Replica, read: ReadId) -> bool {
        if self.reads.waiting() >= me.options.reads_waiting || self.transfer.is_some() {
            return false;
        }
        self.reads.push(ReadRequester::Own(read));
        true
    }

    /// Adds a follower's read index request to the next round. If it gets no answer, the follower retries.
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
        if envelope.message.is_counted() && progress.disk != envelope.origin.disk {
            // Another disk under that id acknowledged entries that this disk does not hold.
            if progress.disk.is_some() {
                *progress = Progress::new(now, me.log.last().index.next());
            }
            progress.disk = envelope.origin.disk;
            progress.counted_from = me.counted_from(peer, progress.disk);
        }
        (progress.last_contact, progress.responded_this_term) = (now, true);
        if std::mem::take(&mut progress.silent) {
            me.notes.push(Note::FollowerRecovered { peer });
        }
        match envelope.message {
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
            Message::Promised { upto } => {
                if progress.has_lost == Some(upto) {
                    progress.resume_after_loss();
                }
            }
            Message::HeartbeatResponse { round, seen, room } => {
                progress.room = room;
                progress.round = progress.round.max(round);
                progress.seen = seen.min(me.log.last().index);
                // Entries are in flight, or the acknowledgment of entries that it holds already; or it was restarted,
                // and no longer knows that its log matches the leader's.
                let waits = progress.matched.next() < progress.next || progress.seen < progress.matched;
                let streams = progress.stage == ProgressState::Stream;
                if streams && waits && now.since(progress.last_progress) >= me.options.election_min {
                    // A message was lost, or the follower's disk is slow: probe.
                    progress.probe(progress.agreed.next());
                }
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
        let committed = me.configs.since() <= me.log.commit();
        let deciding = membership::deciding(me.configs.current(), me.configs.before(), committed, mutants);
        replication::quorum_index(deciding, by, mutants)
    }

    /// Collects everything to send: entries, probes, heartbeats, the commit index, confirmed reads.
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

    fn confirm_reads(&mut self, me: &mut Replica, ready: &mut Ready) {
        let mutants = me.options.mutants;
        let progress = &self.progress;
        let confirmed = |round: Round| {
            let heard = |id: NodeId| {
                let counts =
                    |p: &Progress| p.counted_from.is_some() && replication::round_confirms(p.round, round, mutants);
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
            progress.commit_sent = commit.min(progress.matched).max(progress.commit_sent);
            if let Some(upto) = progress.has_lost {
                me.send(*peer, Message::LostAcknowledged { upto });
            }
            me.send(*peer, Message::Heartbeat { commit, round, time });
        }
    }

    /// Sends the commit index to followers that are sent nothing else, after a delay in which the next append would
    /// have carried it.
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

/// Learns the disk of a member that the configuration does not name yet, once the member has acknowledged that
/// configuration from the disk. The connection may be older than the membership; its hello was ignored then.
fn learn_disk_from_ack(me: &mut Replica, peer: NodeId, progress: &Progress) {
    let is_held = progress.counted_from.is_none() && progress.matched >= me.configs.since();
    if let Some(disk) = progress.disk.filter(|_| is_held) {
        me.learn_disk_id(peer, disk);
    }
}

/// Handles a follower's loss of acknowledged entries: notifies it, and sends it no entries until it has promised to
/// vote as if it held them ([`Message::LostAcknowledged`]).
fn lose(me: &mut Replica, peer: NodeId, progress: &mut Progress, hint: Position) {
    let upto = progress.matched;
    me.notes.push(Note::LostAcknowledged { peer, held: hint.index, upto });
    let Some(term) = me.log.term(upto) else { return };
    let upto = Position::new(upto, term);
    progress.has_lost = Some(upto);
    progress.losses += 1;
    if !replication::promise_precedes_entries(me.options.mutants) {
        return progress.resume_after_loss();
    }
    me.send(peer, Message::LostAcknowledged { upto });
}

/// Handles a rejected append: goes back by whole terms (§5.3).
fn handle_rejection(me: &Replica, progress: &mut Progress, refused: Index, hint: Position) -> Result<(), &'static str> {
    if refused <= progress.matched {
        return Ok(()); // late
    }
    if hint.index > refused {
        return Err("its hint is beyond the rejected index");
    }
    let ours = me.log.at_or_below(hint);
    match progress.stage {
        ProgressState::Probe { .. } if refused.next() != progress.next => {} // late: for an earlier probe
        // The hint is in the leader's log, so the logs match up to there (Log Matching), and no probe is needed.
        ProgressState::Probe { .. } if ours == hint => progress.stream(ours.index.next()),
        ProgressState::Snapshot => {}
        ProgressState::Probe { .. } | ProgressState::Stream => progress.probe(ours.index.next().min(refused)),
    }
    Ok(())
}

/// Sends a follower the entries that its state and window allow.
fn stream(me: &Replica, now: Time, peer: NodeId, (progress, probes): (&mut Progress, &mut u64), ready: &mut Ready) {
    let (log, options) = (&me.log, &me.options);
    let last = log.last().index;
    let mut order = |progress: &mut Progress, upto: Index, probe: u64| {
        let prev = progress.next.prev();
        let term = log.term(prev).expect("the entry before the next one to send is in the log");
        let commit = log.commit();
        assert!(prev <= upto && upto <= last, "an append ends in the leader's log (§5.3)");
        ready.appends.push(EntriesToSend {
            to: peer,
            term: me.term(),
            prev: Position::new(prev, term),
            upto,
            commit,
            probe,
        });
        progress.commit_sent = progress.commit_sent.max(commit.min(upto));
        progress.last_progress = now;
    };
    match progress.stage {
        ProgressState::Probe { asked: Some(_) } | ProgressState::Snapshot => {}
        ProgressState::Probe { asked: None } => {
            let few = log.bytes(progress.next.prev(), last) <= PROBE_BYTES
                && progress.room.fits(log, last, 0, options.reserve_bytes / 4);
            *probes += 1;
            order(progress, if few { last.max(progress.next.prev()) } else { progress.next.prev() }, *probes);
            progress.probe = *probes;
            progress.probes += 1;
            progress.stage = ProgressState::Probe { asked: Some(now) };
        }
        ProgressState::Stream => {
            while progress.next <= last
                && progress.in_flight.len() < options.window_appends
                && log.bytes(progress.agreed.max(log.base().index), progress.next.prev()) < options.window_bytes
            {
                let upto = log.reach(progress.next.prev(), options.append_bytes, options.append_entries);
                if !progress.room.fits(log, upto, 0, options.reserve_bytes / 4) {
                    // The entries could only wait there, and block its log for entries that free room. Its heartbeat
                    // response reports new room.
                    break;
                }
                order(progress, upto, 0);
                progress.in_flight.push_back(upto);
                progress.next = upto.next();
            }
        }
    }
}
