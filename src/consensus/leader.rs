//! The leader: replicates entries, commits them, confirms reads, and steps down.
//!
//! Each entry passes through these steps, and the steps of many entries overlap:
//!
//! ```text
//! client ──> propose ──> log ──┬──> ready: write   ──> own disk  ──> persisted ──┐
//!                              └──> ready: appends ──> followers ──> responses ──┴──> advance_commit
//! ```
//!
//! The leader sends an entry before its own disk holds it (thesis §10.2.1): the disks of the leader and of the
//! followers then work at the same time, and an entry takes one round trip and one sync, not two syncs. This is safe
//! because the leader counts its own copy like any other, once it is durable: a majority of disks holds a committed
//! entry, with or without the leader's disk.
//!
//! [`Raft`](super::raft::Raft) calls `receive`, `tick` and `propose` as events arrive, then [`Leader::advance_commit`]
//! and [`Leader::advance_membership`], and after a batch of events [`Leader::ready`]. No message leaves before `ready`,
//! so that all acknowledgments and proposals of one batch share one append, one commit message and one round of reads.

mod appends;
mod feature_level;
mod invariants;
mod members;
mod transfer;

use self::appends::{
    begin_with_other_disk, handle_heartbeat_response, handle_lost_entries, handle_rejection, learn_disk_from_ack,
    send_entries,
};
use self::transfer::LeaderTransfer;
use super::message::{Envelope, Message, Round};
use super::next::NextRole;
use super::note::{Note, StepDownReason};
use super::progress::{Progress, ProgressState};
use super::quorum;
use super::reads::{LeaderReads, ReadId, ReadRequester};
use super::ready::Ready;
use super::replica::Replica;
use super::rules::{election, membership, replication};
use crate::types::{Index, LogId, NodeId, Payload, Position, Time, Vote};
use std::collections::BTreeMap;

/// A leader that commits nothing for this many times the longest election timeout steps down.
const COMMIT_STALL_ELECTION_TIMEOUTS: u32 = 10;

/// The state of a node that leads its term.
#[derive(Clone, Debug)]
pub struct Leader {
    /// The replication progress of every other member, and of removed members that are not notified of their removal
    /// yet.
    progress: BTreeMap<NodeId, Progress>,
    /// Reads that wait for a quorum to confirm this leader.
    reads: LeaderReads,
    /// Index of the first entry of this term. Until it is committed, the leader cannot tell what is committed (§5.4.2,
    /// §8).
    term_start_index: Index,
    /// When the next round of heartbeats is sent, to all members at once.
    next_heartbeat_at: Time,
    /// The time at which the commit index is sent to followers that received no append since it advanced; `NEVER` if
    /// there are none.
    send_commit_at: Time,
    /// Whether the next `ready` sends heartbeats. They also confirm a round of reads.
    heartbeats_due: bool,
    /// Responses of followers to snapshot chunks, until the next `ready`: peer, position of the snapshot, bytes
    /// received, and whether the complete snapshot is damaged.
    snapshot_reports: Vec<(NodeId, Position, u64, bool)>,
    /// Whether the operator was warned that the disk does not respond.
    disk_stall_warned: bool,
    /// Removed members, each with the time until which the leader tries to notify it.
    removed_members: BTreeMap<NodeId, Time>,
    /// The index of the configuration whose members are tracked in `progress`.
    applied_configuration_index: Index,
    /// The leadership transfer under way, if any.
    transfer: Option<LeaderTransfer>,
    /// This node's own copy counts once it includes the entry at this index (like [`Progress::copy_counts_from`]).
    own_copy_counts_from: Option<Index>,
    /// How many probes were sent in this term, which is also the number of the last one.
    probe_count: u64,
    /// When this node became leader.
    leader_since: Time,
    /// The commit index, and since when it has not advanced although entries wait; `None` if no entry waits.
    stalled_commit: Option<(Index, Time)>,
}

impl Leader {
    /// Starts the term. Appends a no-op, with which the entries of earlier terms commit (§5.4.2). If the log is empty,
    /// the configuration is appended instead. `votes` are the voters that elected this node: they count as having
    /// responded.
    pub fn new(me: &mut Replica, now: Time, votes: &[NodeId]) -> Leader {
        me.clock.start(now, me.options.heartbeat, me.term());
        let first_index = me.log.last().index.next();
        // In a new log, the first entry is the configuration with a new log id, and no no-op is needed.
        if replication::needs_noop(me.log.last(), me.options.mutants) {
            me.append(now, Payload::Noop);
        }
        if me.configs.current_index() == Index::ZERO && me.log.base() == Position::ZERO {
            let mut configuration = Box::new(me.configs.current().clone());
            me.name_disks(&mut configuration);
            configuration.log_id = Some(LogId(me.random_number() | 1));
            me.append(now, Payload::Membership(configuration));
        }
        let followers = me.configs.current().ids().filter(|id| *id != me.id);
        let mut progress: BTreeMap<_, _> = followers.map(|id| (id, Progress::new(now, first_index))).collect();
        for (id, progress) in &mut progress {
            // A vote counts as a message of this term. Otherwise a new leader would refuse membership changes until the
            // first responses to its heartbeats, and could not name the disks of its voters.
            progress.responded_this_term = votes.contains(id);
            progress.disk = me.presented_disk(*id).filter(|_| progress.responded_this_term);
        }
        let mut leader = Leader {
            progress,
            removed_members: BTreeMap::new(),
            applied_configuration_index: me.configs.current_index(),
            transfer: None,
            reads: LeaderReads::default(),
            term_start_index: first_index,
            next_heartbeat_at: now,
            send_commit_at: Time::NEVER,
            heartbeats_due: false,
            snapshot_reports: Vec::new(),
            disk_stall_warned: false,
            own_copy_counts_from: None,
            probe_count: 0,
            leader_since: now,
            stalled_commit: None,
        };
        leader.update_copy_counts_from(me);
        leader
    }

    /// Computes for every node, by the configuration in force, the index that its log must include before its copies of
    /// entries count for a quorum.
    ///
    /// Called after each change of the configuration, for every member: a change may name a disk, name another one, or
    /// bring a member back that was removed with its old disk. An index that was computed under the old configuration
    /// must not let a copy count under the new one.
    pub(super) fn update_copy_counts_from(&mut self, me: &Replica) {
        self.own_copy_counts_from = me.copy_counts_from(me.id, me.disk());
        for (id, progress) in &mut self.progress {
            progress.copy_counts_from = me.copy_counts_from(*id, progress.disk);
        }
    }

    /// Whether commands are accepted: the log is agreed, so no other log can replace it.
    ///
    /// In a new log, commands are accepted only after the first entry is committed. This delay occurs once in the life
    /// of a cluster.
    pub fn accepts_commands(&self, me: &Replica) -> bool {
        membership::log_accepts_commands(me.configs.current().log_agreed, me.options.mutants)
    }

    /// The replication progress of every other member, and of each removed member that is not notified yet.
    pub fn progress(&self) -> &BTreeMap<NodeId, Progress> {
        &self.progress
    }

    /// When the next timer of [`Leader::tick`] or [`Leader::ready`] is due.
    pub fn deadline(&self) -> Time {
        self.next_heartbeat_at
            .min(self.send_commit_at)
            .min(self.transfer.as_ref().map_or(Time::NEVER, LeaderTransfer::deadline))
    }

    /// Whether this leader's first entry of this term is committed.
    ///
    /// Before that, its commit index may be behind what the last leader committed and acknowledged: followers learn of
    /// a commit only with a later message. Once an entry of its own term is committed, every earlier entry in its log
    /// is, and Leader Completeness (§5.4.3) says that no other committed entries exist.
    fn current_term_committed(&self, me: &Replica) -> bool {
        replication::term_start_committed(me.log.commit(), self.term_start_index, me.options.mutants)
    }

    /// Runs the timers that are due: sends heartbeats, and checks whether this node should still lead.
    ///
    /// All periodic checks run at the heartbeat, so that an idle leader wakes up once per heartbeat. Only a leadership
    /// transfer has its own deadline, because clients wait for its end.
    pub fn tick(&mut self, me: &mut Replica, now: Time) -> NextRole {
        self.abort_overdue_transfer(me, now);
        if now < self.next_heartbeat_at {
            return NextRole::Stay;
        }
        self.next_heartbeat_at = now + me.options.heartbeat;
        // The cluster clock advances by a limited time per reading, so it is read even if no entry is appended: the
        // clock of a leader without load would otherwise lag.
        me.clock.read(now);
        if let next @ NextRole::StepDown(_) = self.check_quorum(me, now) {
            return next;
        }
        self.drop_removed_members(me, now);
        // Heartbeats are a round of reads as well: the same responses confirm the leader and its reads.
        self.heartbeats_due = true;
        let silence_max = me.options.election_max;
        let last = me.log.last().index;
        for (peer, progress) in &mut self.progress {
            progress.update_caught_up(now, last, me.options.election_min);
            let silence = now.since(progress.last_contact);
            if silence > silence_max && !progress.silence_warned {
                progress.silence_warned = true;
                me.notes.push(Note::FollowerSilent { peer: *peer, silence });
            }
            if let ProgressState::Probe { sent_at: Some(at) } = progress.state
                && now.since(at) >= me.options.election_min
            {
                // The probe or its answer was lost: another probe may be sent.
                progress.state = ProgressState::Probe { sent_at: None };
            }
        }
        NextRole::Stay
    }

    /// Steps down if no quorum responds, nothing commits, or the disk does not respond (thesis §6.2).
    ///
    /// Otherwise clients of a leader that was cut off would wait for as long as the partition lasts, and followers on
    /// its side of the partition, which still receive heartbeats, would elect no other leader (Cloudflare, November
    /// 2020: six and a half hours). Pre-vote makes this check necessary: with it a follower never deposes a leader from
    /// which it receives heartbeats.
    fn check_quorum(&mut self, me: &mut Replica, now: Time) -> NextRole {
        let quorum_responds = self.has_quorum_contact(me, now) || self.revert_change(me, now);
        if !election::keeps_leadership(quorum_responds, me.options.mutants) {
            return NextRole::StepDown(StepDownReason::NoQuorum);
        }
        if election::yields_leadership(self.is_commit_stalled(me, now), me.options.mutants) {
            return NextRole::StepDown(StepDownReason::CommitStalled);
        }
        // Heartbeats wait for no disk, so the followers of a leader with a dead disk would never campaign, while the
        // leader accepts writes that it can never count (tarantool#12292).
        if me.oldest_write_age(now) >= me.options.election_max {
            return NextRole::StepDown(StepDownReason::DiskStalled);
        }
        let disk_is_stalled = me.disk_stalled(now);
        if disk_is_stalled && !self.disk_stall_warned {
            me.notes.push(Note::DiskStalled { write_age: me.oldest_write_age(now) });
        }
        self.disk_stall_warned = disk_is_stalled;
        NextRole::Stay
    }

    /// Whether commits have stalled: for ten times the longest election timeout no entry was committed, and no follower
    /// acknowledged a new entry. (A follower may respond although its copy does not count: its disk does not write, or
    /// it has lost entries that it acknowledged.) False while no quorum of disks has room: any leader would have to
    /// wait.
    fn is_commit_stalled(&mut self, me: &Replica, now: Time) -> bool {
        let commit = me.log.commit();
        if commit == me.log.last().index {
            self.stalled_commit = None;
            return false;
        }
        let (stalled_index, stalled_since) = *self.stalled_commit.get_or_insert((commit, now));
        if stalled_index != commit {
            self.stalled_commit = Some((commit, now));
            return false;
        }
        // An acknowledgment that does not commit yet is progress all the same: a follower that receives a long log
        // needs more than ten election timeouts, and a new leader would serve it no faster.
        let last_ack_at = self.progress.values().map(|progress| progress.last_new_ack).max().unwrap_or(Time::ZERO);
        let has_room = |id: NodeId| match self.progress.get(&id) {
            Some(progress) => !progress.room.is_low,
            None => !me.room.is_low,
        };
        now.since(stalled_since.max(last_ack_at)) >= me.options.election_max * COMMIT_STALL_ELECTION_TIMEOUTS
            && quorum::decides(me.configs.current(), has_room)
    }

    /// Whether a quorum of the configuration in force is in contact with this leader. In a joint configuration a
    /// majority of each half is needed, as for a commit.
    fn has_quorum_contact(&self, me: &Replica, now: Time) -> bool {
        quorum::decides(me.configs.current(), |id| self.is_in_contact(me, now, id))
    }

    /// Whether a message from that node arrived within the longest election timeout; always true for this node itself.
    ///
    /// Any message counts, not only an acknowledgment: a follower with a slow disk still recognizes this leader, and
    /// would vote for no other.
    fn is_in_contact(&self, me: &Replica, now: Time, id: NodeId) -> bool {
        id == me.id || self.progress.get(&id).is_some_and(|p| now.since(p.last_contact) < me.options.election_max)
    }

    /// Whether that node is in contact and has sent a message in this term. At the start of a term only the voters that
    /// elected this node have.
    ///
    /// Contact alone is not enough for a decision about quorums. At the start of a term `last_contact` is the moment of
    /// the election for every member, also for those that are down.
    fn has_responded(&self, me: &Replica, now: Time, id: NodeId) -> bool {
        self.is_in_contact(me, now, id) && self.progress.get(&id).is_none_or(|progress| progress.responded_this_term)
    }

    /// Handles a broken link: messages in flight may be lost.
    ///
    /// The leader streams entries without waiting for answers, because a connection is ordered and reliable. After the
    /// connection broke, entries in flight may be lost, and the leader probes again.
    pub fn handle_lost_link(&mut self, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            progress.handle_lost_link();
        }
    }

    /// Whether `new_bytes` bytes fit on this node's disk and on the disks of a responding quorum, with
    /// `bytes_kept_free` bytes left over.
    ///
    /// An entry that fits on no quorum of disks can be neither committed nor removed, and a delete that would free room
    /// waits behind it. So the check comes before the append ([`super::disk_room`]).
    pub fn has_room_for(&self, me: &Replica, now: Time, new_bytes: u64, bytes_kept_free: u64) -> bool {
        // Usually all disks have ample room, and no entry sizes need to be summed: this code runs once per command.
        if me.room.is_ample() && self.progress.values().all(|progress| progress.room.is_ample()) {
            return true;
        }
        let last = me.log.last().index;
        let has_room = |id: NodeId| match self.progress.get(&id) {
            Some(progress) => {
                self.is_in_contact(me, now, id) && progress.room.fits(&me.log, last, new_bytes, bytes_kept_free)
            }
            None => id == me.id && me.room.fits(&me.log, last, new_bytes, bytes_kept_free),
        };
        has_room(me.id) && quorum::decides(me.configs.current(), has_room)
    }

    /// Appends one entry. The caller has checked that there is room for it.
    ///
    /// The entry is written and sent in the next `ready`, together with all other entries appended since the last one.
    pub fn propose(&mut self, me: &mut Replica, now: Time, payload: Payload) -> Position {
        me.append(now, payload)
    }

    /// Adds a read to the next round. Returns false if too many reads wait.
    ///
    /// No entry is written: a round of heartbeats proves that this node still led when the read began (thesis §6.4).
    /// The limit bounds the memory of a leader that is cut off: its reads wait until it steps down.
    pub fn start_read(&mut self, me: &Replica, read: ReadId) -> bool {
        if self.reads.waiting_count() >= me.options.waiting_reads_max || self.transfer.is_some() {
            return false;
        }
        self.reads.push(ReadRequester::Own(read));
        true
    }

    /// Adds a follower's read index request to the next round. If too many reads wait, or during a leadership transfer,
    /// the request gets no answer and times out on the follower.
    ///
    /// The request shares the rounds of the leader's own reads, so that reads on followers cost no extra heartbeats.
    fn add_read_index_request(&mut self, me: &Replica, peer: NodeId, number: u64) {
        if self.reads.waiting_count() < me.options.waiting_reads_max && self.transfer.is_none() {
            self.reads.push(ReadRequester::Peer(peer, number));
        }
    }

    /// Removes all waiting reads when this node stops leading. Returns the reads of this node's own clients.
    pub fn abandon_reads(&mut self) -> Vec<ReadId> {
        self.reads.abandon_all_reads()
    }

    /// Handles a message of this term.
    ///
    /// A message that counts for a quorum comes from the disk that the configuration names for the peer, or from any
    /// disk if none is named: messages from other disks were rejected before.
    pub fn receive(&mut self, me: &mut Replica, now: Time, envelope: Envelope) -> NextRole {
        let peer = envelope.from;
        if let Message::RequestVote { last, kind } = envelope.message {
            me.handle_request_vote(Vote::new(peer, envelope.origin.disk), last, kind);
            return NextRole::Stay;
        }
        let Some(progress) = self.progress.get_mut(&peer) else { return NextRole::Stay };
        if envelope.message.counts_for_quorum() && progress.disk != envelope.origin.disk {
            begin_with_other_disk(me, now, (peer, envelope.origin.disk), progress);
        }
        // These fields are set after the check of the disk, because that check may replace `progress`.
        (progress.last_contact, progress.responded_this_term) = (now, true);
        if std::mem::take(&mut progress.silence_warned) {
            me.notes.push(Note::FollowerRecovered { peer });
        }
        match envelope.message {
            // No correct follower acknowledges entries beyond the leader's log. If the acknowledgment counted, it would
            // commit entries that this leader has not appended yet.
            Message::AppendResponse { matched } if matched > me.log.last().index => {
                me.notes.push(Note::InvalidMessage { peer, error: "it acknowledges entries beyond the leader's log" });
            }
            Message::AppendResponse { matched } => {
                progress.record_ack(now, matched);
                learn_disk_from_ack(me, peer, progress);
            }
            Message::AppendRejected { index, hint, probe_number } => {
                if replication::rejection_shows_loss(progress, index, probe_number, me.options.mutants) {
                    handle_lost_entries(me, peer, progress, hint);
                } else if let Err(error) = handle_rejection(me, progress, index, hint) {
                    me.notes.push(Note::InvalidMessage { peer, error });
                }
            }
            // Only the response to the latest detected loss counts: a follower may lose entries twice, and a late
            // response to the first loss may be for a lower position.
            Message::LostAcknowledgedResponse { upto } => {
                if progress.lost_upto == Some(upto) {
                    progress.resume_after_loss();
                }
            }
            Message::HeartbeatResponse { round, matched_prefix, room } => {
                handle_heartbeat_response(me, now, progress, (round, matched_prefix, room));
            }
            Message::InstallSnapshotResponse { snapshot, received_bytes, damaged } => {
                progress.last_new_ack = now;
                self.snapshot_reports.push((peer, snapshot, received_bytes, damaged));
            }
            Message::ReadIndexRequest { number } => self.add_read_index_request(me, peer, number),
            Message::RequestVote { .. }
            | Message::RequestVoteResponse { .. }
            | Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow
            | Message::LostAcknowledged { .. }
            | Message::RecordedClaim { .. }
            | Message::RequestLostEntries { .. }
            | Message::LostEntries { .. }
            | Message::ReadIndexResponse { .. }
            | Message::StaleTerm => {}
            #[cfg(feature = "next-version")]
            Message::NextVersionNotice => {}
        }
        NextRole::Stay
    }

    /// Commits the entries that a majority holds durably; this node counts like any other. An entry of an earlier term
    /// commits only with a later entry of this term (§5.4.2, Figure 8).
    ///
    /// Called after every event: an acknowledgment, a durable write of this node and a change of the configuration may
    /// each complete a majority.
    pub fn advance_commit(&self, me: &mut Replica) {
        let quorum_index = self.quorum_index(me);
        if quorum_index > me.log.commit()
            && replication::may_commit(me.log.term(quorum_index), me.term(), me.options.mutants)
        {
            me.log.commit_to(quorum_index);
        }
    }

    /// The highest index that a quorum holds durably.
    fn quorum_index(&self, me: &Replica) -> Index {
        let mutants = me.options.mutants;
        let counted_index = |id: NodeId| match self.progress.get(&id) {
            Some(progress) => progress.counted_index(),
            None if id == me.id => replication::own_counted_index(&me.log, self.own_copy_counts_from, mutants),
            None => Index::ZERO,
        };
        // Only a mutant uses `configuration_is_committed`: the rule uses the latest configuration in the log, committed
        // or not (§6).
        let configuration_is_committed = me.configs.current_index() <= me.log.commit();
        let configuration = membership::commit_configuration(
            me.configs.current(),
            me.configs.previous(),
            configuration_is_committed,
            mutants,
        );
        replication::quorum_index(configuration, counted_index, mutants)
    }

    /// Moves the leader's output into `ready`: entries, probes, heartbeats, the commit index, confirmed reads.
    ///
    /// The order matters. A round begins before reads are confirmed, because a single voter confirms its round at once.
    /// The commit index is sent last, because an append of the same `ready` may have carried it already.
    pub fn ready(&mut self, me: &mut Replica, now: Time, ready: &mut Ready) {
        if self.current_term_committed(me) && self.reads.begin_round(&mut me.latest_round, me.log.commit()) {
            self.heartbeats_due = true;
        }
        self.confirm_reads(me, ready);
        if std::mem::take(&mut self.heartbeats_due) {
            self.send_heartbeats(me, now, me.latest_round);
        }
        self.send_timeout_now(me);
        // An append is sent in this term, so it waits until the term is durable.
        if me.term_is_durable() {
            for (peer, progress) in &mut self.progress {
                // This follower has lost acknowledged entries. It is sent no entries until it has promised to vote as
                // if it held all acknowledged entries.
                if progress.lost_upto.is_some() {
                    continue;
                }
                if progress.state != ProgressState::Snapshot
                    && replication::needs_snapshot(progress.next, me.snapshot_needed_upto(), me.options.mutants)
                {
                    // The entry before the next one to send is compacted (§7), or it is damaged on this disk.
                    progress.start_snapshot();
                    me.notes.push(Note::SendsSnapshot { peer: *peer });
                    ready.snapshot_targets.push(*peer);
                }
                send_entries(me, now, *peer, (progress, &mut self.probe_count), ready);
            }
        }
        ready.snapshot_reports.append(&mut self.snapshot_reports);
        self.send_commit(me, now);
    }

    /// Confirms the reads of every round that a quorum has answered. This node and its followers count only if their
    /// disks are named in the configuration, as for votes and copies.
    fn confirm_reads(&mut self, me: &mut Replica, ready: &mut Ready) {
        let mutants = me.options.mutants;
        let progress = &self.progress;
        let is_confirmed = |round: Round| {
            let confirms_round = |id: NodeId| {
                let response_counts = |p: &Progress| {
                    p.copy_counts_from.is_some() && replication::round_confirms(p.confirmed_round, round, mutants)
                };
                // A leader that is being removed does not count in its own round: `decides` counts voters only.
                (id == me.id && self.own_copy_counts_from.is_some()) || progress.get(&id).is_some_and(response_counts)
            };
            replication::reads_confirmed(me.configs.current(), confirms_round, mutants)
        };
        let mut confirmed_reads = Vec::new();
        self.reads.take_confirmed_reads(is_confirmed, &mut confirmed_reads);
        for (requester, index) in confirmed_reads {
            match requester {
                ReadRequester::Own(read) => ready.confirmed_reads.push((read, index)),
                ReadRequester::Peer(peer, number) => me.send(peer, Message::ReadIndexResponse { number, index }),
            }
        }
    }

    /// Sends a heartbeat of `round` to every follower, and repeats [`Message::LostAcknowledged`] to followers that lost
    /// entries.
    fn send_heartbeats(&mut self, me: &mut Replica, now: Time, round: Round) {
        let time = me.clock.read(now);
        for (peer, progress) in &mut self.progress {
            let commit = me.log.commit();
            // The heartbeat carries the whole commit index, even beyond the follower's log: a follower that catches up
            // then knows which configurations are outdated. The follower commits no further than its log is known to
            // match, and only that part counts as sent.
            progress.commit_sent = commit.min(progress.matched).max(progress.commit_sent);
            // `LostAcknowledged` is repeated with every heartbeat: the message or its response may be lost, and the
            // follower is sent no entries until the response arrives.
            if let Some(upto) = progress.lost_upto {
                me.send(*peer, Message::LostAcknowledged { upto });
            }
            me.send(*peer, Message::Heartbeat { commit, round, time });
            #[cfg(feature = "next-version")]
            if me.options.versions == crate::types::Versions::NEXT {
                me.send(*peer, Message::NextVersionNotice);
            }
        }
    }

    /// Sends the commit index to followers that lack it, after a delay in which an append may carry it.
    ///
    /// Without this message an idle follower would learn of the last commit only with the next heartbeat, and a read on
    /// the follower would wait for that. Without the delay the messages of a busy leader would double, although its
    /// next append carries the commit index.
    fn send_commit(&mut self, me: &mut Replica, now: Time) {
        let commit = me.log.commit();
        let lacks_commit = |p: &Progress| p.commit_sent < commit.min(p.matched);
        if !self.progress.values().any(lacks_commit) {
            self.send_commit_at = Time::NEVER;
        } else if self.send_commit_at == Time::NEVER {
            self.send_commit_at = now + me.options.commit_delay_max;
        } else if now >= self.send_commit_at {
            self.send_commit_at = Time::NEVER;
            for (peer, progress) in self.progress.iter_mut().filter(|(_, p)| lacks_commit(p)) {
                progress.commit_sent = commit.min(progress.matched);
                me.send(*peer, Message::Committed { upto: progress.commit_sent });
            }
        }
    }
}
