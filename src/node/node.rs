//! The node: the whole server without its I/O.
//!
//! A write at the leader passes through here five times:
//!
//! ```text
//!   1 handle(Request)   propose: the core appends a position, the caller waits in `proposals`
//!   2 turn              Action::Write to the journal, AppendEntries to the followers
//!   3 handle(Journal)   the leader's copy is durable; handle(Peer): so are the followers' copies
//!   4 turn              a quorum holds the entry: Action::Apply
//!   5 handle(Applied)   the outcome is matched with its proposal; the next turn replies
//! ```
//!
//! No reply is made at any step before the fifth: neither an append nor a commit has an outcome, and only an applied
//! entry is one that no later leader can contradict *and* whose result is known.
//!
//! This file handles requests. `leadership` reacts to a change of leader, `snapshots` takes and restores snapshots,
//! `damage` mends damaged files, `queries` submits queries, `output` turns the core's output into actions, and
//! `invariants` checks invariants that concern several of these parts.

mod damage;
mod invariants;
mod leadership;
mod output;
mod queries;
mod snapshots;
mod status;
mod versions;

use super::admin_waiters::AdminWaiters;
use super::applier_queries::ApplierQueries;
use super::compaction::CompactionPolicy;
use super::event::{Action, Caller, DurableSnapshot, Event};
use super::expiry_ticker::ExpiryTicker;
use super::options::Options;
use super::prefetch::Prefetch;
use super::repair_progress::RepairProgress;
use super::requests::{ClientRequest, ForwardedRequests, LinearizableReads, ParkedRequests, Proposals};
use super::scrub_schedule::ScrubSchedule;
use super::snapshot_reads::SnapshotReads;
use super::snapshot_sender::SnapshotSender;
use super::space::{self, DiskSpace};
use super::stats::Stats;
use crate::api::{Consistency, Refusal, Reply, Request};
use crate::apply::Report as ApplierReport;
use crate::consensus::Raft;
use crate::types::{DiskId, Index, LogId, Mutant, NodeId, Term, Time, WriteId};
use crate::wal::kept_entries::KeptEntries;
use crate::wal::report::{Fault, RepairedDamage, Report};
use crate::wal::view::View;
use bytes::Bytes;

/// The whole server without its I/O: no clock, thread, socket or file.
///
/// [`Node::handle`] records an event and sends nothing. [`Node::turn`] performs the work that is due. They are separate
/// so that the node batches: a wake-up with two hundred readable sockets is two hundred `handle`s and one `turn`, so
/// one write, one append per follower, one sync.
///
/// Invariants, at the end of each turn: log start ≤ snapshot ≤ applied ≤ submitted ≤ commit; at most one batch is being
/// applied; writes reach the journal in the order of their numbers, each once; a write is answered with an outcome only
/// by the applier's report of its own position. `invariants.rs` checks them.
#[derive(Debug)]
pub struct Node {
    raft: Raft,
    /// The payloads of the log, which the core does not keep. The view begins and ends where the core's log does, once
    /// `turn` has handed the core's write to the journal.
    view: View,
    /// Intact entries of a damaged log, until the log reaches the promised position.
    kept_entries: KeptEntries,
    prefetch: Prefetch,
    options: Options,
    /// Measurements only: no decision depends on them.
    stats: Stats,
    /// The waiting requests: each table holds those that wait for the same kind of event.
    proposals: Proposals,
    parked_requests: ParkedRequests,
    linearizable_reads: LinearizableReads,
    forwarded_requests: ForwardedRequests,
    queries: ApplierQueries,
    /// The last index submitted to the applier. A query submitted now sees all entries up to it. A snapshot must not be
    /// taken while the applier has not reported it: the index of the frozen state would not be known.
    submitted_to_apply: Index,
    /// The applier's last report: the index up to which the log is applied, and the state's digest and next deadline.
    applier_report: ApplierReport,
    /// When the batch that is being applied was submitted; `None` if none is. There is one at a time: a snapshot is
    /// taken between two batches, of a state whose index this node knows.
    applying_since: Option<Time>,
    /// The last write that was handed to the journal.
    last_write: WriteId,
    compaction: CompactionPolicy,
    snapshot_sender: SnapshotSender,
    snapshot_reads: SnapshotReads,
    scrub_schedule: ScrubSchedule,
    disk_space: DiskSpace,
    /// The repair that is under way, if the log lacks entries that this node acknowledged.
    repair: RepairProgress,
    admin_waiters: AdminWaiters,
    expiry_ticker: ExpiryTicker,
    /// The term that this node led at the last call of `handle_leadership_change`, if it led.
    led_term: Option<Term>,
    /// The leader at the last call of `handle_leadership_change`, if any.
    handled_leader: Option<NodeId>,
    /// Replies and forwarded requests to send at the next call of `turn`. They are not sent from `handle`, so that a
    /// hundred events cost the driver one pass over its connections.
    replies: Vec<(Caller, u64, Reply)>,
    forward_actions: Vec<Action>,
    /// Lines for the operator, to be logged at the next call of `turn`.
    warnings: Vec<String>,
    /// A failure that stops the process, to be returned as the last action of the next `turn`. A later failure may
    /// replace it: either one stops the process.
    fault: Option<Fault>,
}

/// The state from which a node starts. Nothing else survives a restart: not the waiting callers, not the leader, not
/// the requests in flight. The node learns the leader again; requests fail at their clients.
#[derive(Debug)]
pub struct NodeStart {
    /// The time of the start, on the driver's clock.
    pub now: Time,
    /// This node's disk id; `None` in tests that do not depend on it.
    pub disk: Option<DiskId>,
    /// How far the restored machine has applied the log.
    pub applied: ApplierReport,
    /// The snapshot from which the machine was restored, if any.
    pub snapshot: Option<DurableSnapshot>,
    /// A random number, different for each run of a process: forwarded requests are numbered from it, and a late answer
    /// to an earlier run must match none of this one's.
    pub random: u64,
    /// Entries behind the applied ones, which another thread reads ahead from the log.
    pub prefetch: Prefetch,
}

impl Node {
    /// Creates a node around the consensus core `raft`, which reads its log through `view`, and lost entries from the
    /// kept ones. Nothing is applied beyond the base of the log.
    pub fn new(raft: Raft, (view, kept_entries): (View, KeptEntries), options: Options, node_start: NodeStart) -> Node {
        // The disk id belongs to the core, which decides whose votes and copies count.
        let NodeStart { now, applied, snapshot, random, prefetch, disk: _ } = node_start;
        let snapshot_index = snapshot.as_ref().map_or(Index::ZERO, |snapshot| snapshot.position.index);
        assert_eq!(snapshot_index, applied.upto, "a machine starts in the state of its newest snapshot (§7)");
        let last_forward_id = if options.mutants.breaks(Mutant::ReuseNumbers) { 0 } else { random };
        Node {
            compaction: CompactionPolicy::new(now, snapshot),
            snapshot_sender: SnapshotSender::new(&options),
            snapshot_reads: SnapshotReads::new(&options),
            scrub_schedule: ScrubSchedule::new(now, raft.id(), options.scrub_interval),
            raft,
            view,
            kept_entries,
            prefetch,
            stats: Stats::default(),
            proposals: Proposals::default(),
            parked_requests: ParkedRequests::default(),
            linearizable_reads: LinearizableReads::default(),
            forwarded_requests: ForwardedRequests::with_ids_after(last_forward_id),
            queries: ApplierQueries::default(),
            submitted_to_apply: applied.upto,
            applier_report: applied,
            options,
            disk_space: DiskSpace::default(),
            repair: RepairProgress::default(),
            admin_waiters: AdminWaiters::default(),
            expiry_ticker: ExpiryTicker::new(),
            applying_since: None,
            last_write: WriteId::ZERO,
            led_term: None,
            handled_leader: None,
            replies: Vec::new(),
            forward_actions: Vec::new(),
            warnings: Vec::new(),
            fault: None,
        }
    }

    /// The same node, which reports the damage that its start has repaired.
    pub fn with_repaired_damage(self, damage: Option<RepairedDamage>) -> Node {
        Node { repair: RepairProgress::new(damage), ..self }
    }

    /// Handles an event. Nothing is sent before [`Node::turn`].
    ///
    /// Peers and clients decide which events arrive and in which order, so nothing about them is asserted, except about
    /// the reports of this node's own threads.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Peer(envelope) => {
                self.stats.record_received(now, &envelope);
                self.raft.receive(now, envelope);
            }
            Event::PeerLost(peer) => {
                // The core handles the loss first, so that a read that is retried below is not sent to the lost leader.
                self.raft.handle_lost_link(now, peer);
                self.stats.record_link_lost(peer);
                let lost_requests = self.forwarded_requests.take_lost(peer);
                self.fail_in_flight(now, lost_requests);
            }
            Event::Request { from, id, forward, request } => {
                // An earlier event since the last `turn` may have brought a new leader. Requests parked for a leader
                // are older than this request and must be handled first, or it would overtake earlier requests of the
                // same caller.
                if self.leadership_changed() {
                    self.handle_leadership_change(now);
                }
                let deadline = now + self.options.park_timeout;
                self.handle_request(now, ClientRequest { from, id, forward, deadline, request });
            }
            Event::ForwardAnswered { from, id, reply } => self.handle_forward_answer(now, from, id, reply),
            // The request had no effect. A retry at once would find the same link, as full or as broken.
            Event::ForwardNotSent { to, id } => {
                if let Some(client_request) = self.forwarded_requests.take_answered(to, id) {
                    self.refuse(client_request, Refusal::Busy);
                }
            }
            // The peer is running, and may still lead: the core need not know that the connection was replaced.
            Event::AnswersLost(peer) => {
                let lost_requests = self.forwarded_requests.take_lost(peer);
                self.fail_in_flight(now, lost_requests);
            }
            Event::CallerGone(caller) => self.forget_caller(caller),
            Event::Journal(report) => self.handle_journal_report(now, report),
            Event::DiskSpace { low } => {
                self.disk_space.set_low(low);
                // The core transfers leadership to no node without disk space; here it learns whether this node has space.
                self.raft.set_low_space(low);
                if !low {
                    self.compaction.record_disk_has_room();
                }
            }
            Event::PeerVersionsLearned { peer, versions } => self.raft.learn_versions(peer, versions),
            Event::PeerInboundClosed(peer) => self.raft.forget_versions(peer),
            Event::PeerDiskLearned { peer, disk } => self.raft.learn_disk_id(peer, disk),
            Event::PeerLogDiffers { peer, log } => self.handle_differing_log(peer, log),
            // Without a possible transfer target the other nodes detect the loss of the leader by themselves.
            Event::Stopping => drop(self.raft.transfer(now, None)),
            Event::Applied(report) => self.record_applied(now, report),
            Event::SnapshotTaken(snapshot) => self.handle_snapshot_taken(now, snapshot),
            Event::SnapshotDamaged => self.handle_snapshot_damaged(now),
            Event::SnapshotInspected { snapshot, undamaged } => {
                self.handle_snapshot_inspected(now, snapshot, undamaged)
            }
            Event::Scrub(report) => self.handle_scrub_report(now, report),
            Event::ChunkStored { from, snapshot, next, damaged } => self.raft.ack_chunk(from, snapshot, next, damaged),
            Event::Restored { snapshot, base, time, report } => {
                self.handle_snapshot_restored(now, snapshot, base, time, report)
            }
            Event::Queried { ticket, applied, answer } => {
                // The applier may be ahead of the report that this node has seen, never behind it.
                if let Some((from, id)) = self.queries.take_answered(ticket) {
                    self.replies.push((from, id, self.query_reply(applied, answer)));
                }
            }
        }
    }

    /// Drops the requests of a caller that is gone. Its proposals and queries stay: the log and the applier hold them,
    /// and their answers are dropped by the driver.
    fn forget_caller(&mut self, caller: Caller) {
        self.parked_requests.forget(caller);
        self.compaction.forget(caller);
        self.snapshot_reads.forget(caller);
        self.admin_waiters.forget(caller);
        self.linearizable_reads.forget(caller);
        self.forwarded_requests.forget(caller);
    }

    /// Stops this node if a peer that knows it as a member holds another log. A node that founded its log because no
    /// peer answered it was a member of the peer's log and lost its directory: it stops, rather than answer that
    /// nothing is stored. The core decides whether that is the case: a peer's claim alone is not enough, or any peer
    /// could stop a node with one message.
    fn handle_differing_log(&mut self, peer: NodeId, log: LogId) {
        if self.raft.learn_other_log(peer, log) {
            let (me, id) = (self.raft.id(), self.raft.id().get());
            self.fault = Some(Fault::Foreign(format!(
                "{peer} holds log {log} and knows this node as its member {me}, but this directory founded a log of \
                 its own: this node serves nothing from it. Bring back the directory that {me} had; or, if it is lost, \
                 run at a node of that log: drave member remove {id}, and: drave member add {id}=HOST:PORT, and start \
                 this node with --join on an empty directory"
            )));
        }
    }

    /// Handles a request: answers it now, or queues it.
    ///
    /// The order of the arms is the order of the checks. Requests that need no leader come first, then limits that hold
    /// on every node, then reasons to park a request, then the leader's part, then the follower's part. An arm that is
    /// moved up would answer requests that should have been refused or parked before.
    fn handle_request(&mut self, now: Time, client_request: ClientRequest) {
        match &client_request.request {
            // The status is answered always and at once: it shows an operator why nothing else is answered.
            Request::Status => self.reply_with_status(now, &client_request),
            // Each node checks its own files, and the status tells how far the pass is.
            Request::Scrub => {
                self.scrub_schedule.request();
                self.reply_with_status(now, &client_request);
            }
            // This node has applied no entry yet, because there was no leader: a snapshot would be empty.
            Request::Snapshot if self.applied() == Index::ZERO => self.refuse(client_request, Refusal::NoLeader),
            // Each node has snapshots of its own, so a request for a snapshot is not forwarded, and needs no leader.
            Request::Snapshot => {
                self.compaction.add_waiter(client_request.from, client_request.id, self.applier_report.upto);
                // The newest snapshot may already hold everything applied.
                self.answer_snapshot_waiters();
            }
            Request::ReadSnapshot { snapshot, offset } => {
                let (chunk, newest) = ((*snapshot, *offset), self.compaction.sendable_snapshot());
                let result = self.snapshot_reads.push(now, (client_request.from, client_request.id), chunk, newest);
                result.unwrap_or_else(|refusal| self.refuse(client_request, refusal));
            }
            // Checked before all reasons to wait: a request that is too large never becomes small enough.
            Request::Propose { .. } | Request::Query { .. } if client_request.bytes() > self.options.op_bytes_max => {
                let (bytes, limit) = (client_request.bytes(), self.options.op_bytes_max);
                self.refuse(client_request, Refusal::TooLarge { bytes, limit });
            }
            Request::Query { consistency: Consistency::Local, .. } => self.handle_local_read(client_request),
            // During a leadership transfer the leader accepts no such request. It is parked until there is another
            // leader, or until the transfer fails.
            Request::Propose { .. } | Request::Query { .. } | Request::Change { .. }
                if self.raft.transfer_target().is_some() || self.log_not_agreed() =>
            {
                self.park(client_request);
            }
            // Checked before the command is appended, because an entry takes disk space. A follower forwards the
            // command unchecked, because only the leader knows the disks of the other nodes.
            Request::Propose { op } if self.raft.leads() && !self.has_room_for_command(now, op) => {
                self.refuse(client_request, Refusal::NoSpace);
            }
            Request::Propose { op } if self.raft.leads() => {
                let op = op.clone();
                self.propose(now, client_request, op);
            }
            // A read is not refused as busy while there is no leader: the limit is for reads that make progress.
            Request::Query { .. } if self.raft.leader().is_none() => self.forward_or_redirect(client_request),
            Request::Query { .. } if self.is_read_limit_reached() => self.refuse(client_request, Refusal::Busy),
            // A follower requests the read index from its leader, and answers the query itself.
            Request::Query { .. } => match self.raft.read() {
                Ok(read) => self.linearizable_reads.push(read, client_request),
                Err(refusal) => self.refuse(client_request, refusal),
            },
            // The driver answers this request for its own clients, and peers do not forward it.
            Request::LogLevel(_) => self.refuse(client_request, Refusal::NotSupported),
            Request::Change { .. } | Request::Transfer { .. } if self.raft.leads() => {
                self.handle_admin_request(now, client_request)
            }
            Request::Propose { .. } | Request::Change { .. } | Request::Transfer { .. } => {
                self.forward_or_redirect(client_request)
            }
        }
    }

    /// Answers a request with the status of this node.
    fn reply_with_status(&mut self, now: Time, client_request: &ClientRequest) {
        let status = Box::new(self.status(now));
        self.replies.push((client_request.from, client_request.id, Reply::Status(status)));
    }

    /// Whether this node leads a log that is not yet confirmed as this cluster's log. Commands are parked until it is:
    /// until then another founder's log may replace this one, and a command acknowledged here would be lost
    /// (docs/voters.md, rule 8).
    fn log_not_agreed(&self) -> bool {
        self.raft.leads() && !self.raft.accepts_commands()
    }

    /// Whether there is space for the command `op`, on this disk and on enough other disks. A command that frees space
    /// may use the last of it: without that exception, clients could not delete anything on a full cluster.
    fn has_room_for_command(&self, now: Time, op: &Bytes) -> bool {
        let fits_disks = |frees_space| self.raft.has_room_for(now, op.len() as u64, frees_space);
        (!self.disk_space.is_low() && fits_disks(false))
            || (space::op_frees_room(op, self.options.frees_space) && fits_disks(true))
    }

    /// Proposes an operation, which the caller's answer waits for. This node is the leader.
    fn propose(&mut self, now: Time, client_request: ClientRequest, op: Bytes) {
        match self.check_enabled(&op).and_then(|()| self.raft.propose(now, op)) {
            // No client is told of success before a quorum has the entry on disk.
            Ok(position) => {
                self.stats.record_proposal(now);
                self.proposals.push(position, client_request.from, client_request.id);
            }
            Err(refusal) => self.refuse(client_request, refusal),
        }
    }

    /// Starts a membership change or a leadership transfer. This node is the leader.
    fn handle_admin_request(&mut self, now: Time, client_request: ClientRequest) {
        assert!(self.raft.leads(), "only a leader changes the membership or transfers its leadership (§6)");
        let outcome = match &client_request.request {
            Request::Change { change, force } => self.raft.reconfigure(now, change, *force).map(|position| {
                self.admin_waiters.push_change(&self.raft, client_request.from, client_request.id, position);
            }),
            Request::Transfer { to } => self.raft.transfer(now, *to).map(|to| {
                self.admin_waiters.push_transfer(client_request.from, client_request.id, to);
            }),
            _ => Ok(()),
        };
        // A refused change has appended nothing. A change that began is answered when it is complete.
        if let Err(refusal) = outcome {
            self.refuse(client_request, refusal);
        }
    }

    /// Parks a request until there is a leader that can handle it. The deadline was set when the request arrived.
    fn park(&mut self, client_request: ClientRequest) {
        let result =
            self.parked_requests.push(client_request, self.options.parked_requests_max, self.options.parked_bytes_max);
        if let Err(refused) = result {
            let (client_request, refusal) = *refused;
            self.refuse(client_request, refusal);
        }
    }

    /// Handles a local read, which is answered without a leader too, also on a partitioned node.
    fn handle_local_read(&mut self, client_request: ClientRequest) {
        if self.is_read_limit_reached() {
            self.refuse(client_request, Refusal::Busy);
        } else if self.lacks_promised() {
            // A node in repair may have shown a client what it has lost.
            let refusal = self.raft.not_leader();
            self.refuse(client_request, refusal);
        } else {
            self.queries.push_local(client_request);
        }
    }

    /// Forwards a request to the leader, redirects the caller, or parks the request. This node is not the leader.
    ///
    /// A peer's request is not forwarded again: two nodes that each take the other for the leader would send it back
    /// and forth. The peer receives the leader's id instead, and decides.
    fn forward_or_redirect(&mut self, client_request: ClientRequest) {
        assert!(!self.raft.leads(), "only a node that does not lead forwards requests");
        let is_forwarded = matches!(client_request.from, Caller::Peer(_));
        match self.raft.leader() {
            Some(leader) if client_request.forward && !is_forwarded => {
                let is_full = self.forwarded_requests.len() >= self.options.forwarded_requests_max;
                if is_full || self.forwarded_requests.bytes() >= self.options.forwarded_bytes_max {
                    return self.refuse(client_request, Refusal::Busy);
                }
                let request = client_request.request.clone();
                // The table keeps the request too: if the leader refuses it without effect, it is handled again.
                let id = self.forwarded_requests.push(leader, client_request);
                self.forward_actions.push(Action::Forward { to: leader, id, request });
            }
            // The caller did not request forwarding, or is a node that forwards itself: the refusal names the leader.
            Some(_) => {
                let refusal = self.raft.not_leader();
                self.refuse(client_request, refusal);
            }
            None => match self.not_member_refusal() {
                Some(refusal) => self.refuse(client_request, refusal),
                None => self.park(client_request),
            },
        }
    }

    /// The refusal if this node is not a member and knows no leader: it names the members that the caller should try.
    /// (It applies also to a node that may still be needed as leader, as long as the node does not know that it was
    /// removed for good: the request had no effect.)
    fn not_member_refusal(&self) -> Option<Refusal> {
        let (node, members) = (self.raft.id(), &self.raft.membership().members);
        // A leader that sends entries to this node also accepts requests that it forwards.
        let is_outside = !members.contains_key(&node) && self.raft.leader().is_none();
        let addresses = members.values().map(|member| member.address.clone()).filter(|address| !address.is_empty());
        is_outside.then(|| Refusal::NotMember { node, members: addresses.collect() })
    }

    /// Answers that a request had no effect, and why. No request may be refused after an attempt that could be in a
    /// log.
    fn refuse(&mut self, client_request: ClientRequest, refusal: Refusal) {
        self.stats.counters.proposals_failed += u64::from(client_request.is_write());
        self.replies.push((client_request.from, client_request.id, Reply::Refused(refusal)));
    }

    /// Handles requests whose answers are lost: reads are retried, writes are answered *unknown*, because they may have
    /// been applied. A retry of the write here would apply a command without a session twice; only the client knows
    /// whether it has one.
    fn fail_in_flight(&mut self, now: Time, client_requests: Vec<ClientRequest>) {
        for client_request in client_requests {
            if client_request.is_write() {
                self.replies.push((client_request.from, client_request.id, Reply::Unknown));
            } else if client_request.deadline <= now {
                // The read's deadline has passed. Without this check, a read whose heartbeat round fails at each change
                // of leader would be retried for as long as leaders change.
                self.refuse(client_request, Refusal::NoLeader);
            } else {
                self.handle_request(now, client_request);
            }
        }
    }

    /// Handles a peer's answer to a forwarded request. Only *not leader* and *not a member* lead to another attempt:
    /// each means that the request had no effect and that another node may accept it. Any other refusal is final, and
    /// is returned to the caller.
    fn handle_forward_answer(&mut self, now: Time, from: NodeId, id: u64, reply: Reply) {
        let Some(client_request) = self.forwarded_requests.take_answered(from, id) else { return };
        match reply {
            // The peer had lost leadership: the request had no effect, so it is retried before its deadline. While this
            // node still takes that peer for the leader, a retry would go there again, and be refused again, at once.
            Reply::Refused(Refusal::NotLeader { .. } | Refusal::NotMember { .. })
                if client_request.deadline > now && self.raft.leader() != Some(from) =>
            {
                self.handle_request(now, client_request);
            }
            reply => self.replies.push((client_request.from, client_request.id, reply)),
        }
    }

    fn handle_journal_report(&mut self, now: Time, report: Report) {
        // A report may cover many writes: the journal makes all queued writes durable with one sync.
        self.stats.record_sync(&report);
        self.raft.handle_persisted(now, report.last_durable);
        self.raft.set_room(report.room_bytes);
        // The entries of a sealed segment can be read from its mapping from now on, and need no memory.
        for sealed in report.sealed_segments {
            if let Err(fault) = self.view.add_sealed(sealed) {
                self.fault = Some(fault);
            }
        }
    }

    /// Records the applier's report and answers its proposals.
    ///
    /// This is the only place where a write is answered with its outcome. An entry that is committed but not yet
    /// applied has none, and an answer before this report would be a guess at what the machine will do.
    fn record_applied(&mut self, now: Time, mut report: ApplierReport) {
        assert_eq!(report.upto, self.submitted_to_apply, "a batch is applied as a whole, before the next is submitted");
        // `applying_since` is cleared, so that the next call of `turn` may submit the next batch.
        if let Some(at) = self.applying_since.take() {
            self.stats.record_apply(now.since(at));
        }
        let answers_by_index = self.options.mutants.breaks(Mutant::AnswerByIndex);
        for (position, outcome) in report.outcomes.drain(..) {
            let is_applied = self.applier_report.upto < position.index && position.index <= report.upto;
            assert!(is_applied, "each reported outcome belongs to an entry of the batch that was applied");
            self.proposals.answer_applied(position, outcome, answers_by_index, &mut self.replies);
        }
        // The entry applied at a remaining proposal's index has no outcome: for example, the next leader's no-op.
        self.proposals.fail_up_to(report.upto, &mut self.replies);
        self.stats.counters.session_duplicates += report.duplicates;
        self.applier_report = report;
    }

    /// Performs the work that is due and appends the resulting actions.
    ///
    /// The order matters. Timers come first, so that everything below sees the current role. Then leadership, so that
    /// no request is handled for a leader that is gone. Then the core's output, which hands entries to the view before
    /// anything reads them there. Snapshots, entries and queries follow in the order in which the applier must see
    /// them. Replies are last, since each of the steps before may add some.
    pub fn turn(&mut self, now: Time, actions: &mut Vec<Action>) {
        // A timer that is late is handled once, however many intervals have passed.
        if self.raft.deadline() <= now {
            self.raft.tick(now);
        }
        self.handle_leadership_change(now);
        // On a full disk no expiry tick is proposed: keys then expire with the next accepted command.
        let next_key_deadline = self.applier_report.next_deadline.filter(|_| !self.disk_space.is_low());
        self.expiry_ticker.propose_if_due(
            now,
            &mut self.raft,
            (self.applier_report.upto, self.applier_report.time),
            next_key_deadline,
        );
        // Called after the ticker, so that the write of this turn includes the tick.
        let ready = self.raft.ready(now);
        if let Err(fault) = self.emit_actions(now, ready, actions) {
            return actions.push(Action::Stop(fault));
        }
        let (promised, last) = (self.raft.promised_position(), self.raft.log().last());
        actions.extend(self.repair.update(now, promised, last, self.raft.leader()).map(Action::Note));
        // Called before more entries are submitted to the applier: a snapshot holds the applied state, and names the
        // members as of the same index.
        self.maintain_snapshots(now, actions);
        self.maintain_files(now, actions);
        self.submit_entries(now, actions);
        // Called after the entries are submitted: a query behind them sees them, and a read waits for nothing else.
        self.submit_queries(now, actions);
        self.snapshot_reads.answer_waiting(now, &mut self.replies);
        actions.append(&mut self.forward_actions);
        for (to, id, reply) in self.replies.drain(..) {
            self.stats.counters.proposals_failed += u64::from(matches!(reply, Reply::Unknown));
            actions.push(Action::Reply { to, id, reply });
        }
        actions.extend(self.fault.take().map(Action::Stop));
        self.check_invariants();
    }
}

#[cfg(test)]
mod tests;
