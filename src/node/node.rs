//! The node: the whole server without its I/O.
//!
//! A write at the leader passes through here five times:
//!
//! ```text
//!   1 handle(Request)   propose: the core appends a position, the caller waits in `proposals`
//!   2 turn              Action::Write to the journal, AppendEntries to the followers, in one go
//!   3 handle(Journal)   the leader's copy is durable; handle(Peer): so are the followers' copies
//!   4 turn              a quorum holds the entry: Action::Apply
//!   5 handle(Applied)   the outcome meets its proposal; the next turn replies
//! ```
//!
//! No reply is made at any step before the fifth: neither an append nor a commit has an outcome, and only an applied
//! entry is one that no later leader can contradict *and* whose result is known.
//!
//! Request handling is here; what follows from a change of leader is in `leadership`, snapshots are in `snapshots`,
//! queries in `queries`, the core's output
//! becomes actions in `output`, and the laws that tie the parts together in `invariants`.

mod invariants;
mod leadership;
mod output;
mod queries;
mod snapshots;
mod status;

use super::admin_waiters::AdminWaiters;
use super::applier_queries::Queries;
use super::compaction::CompactionPolicy;
use super::event::{Action, Caller, DurableSnapshot, Event};
use super::expiry_ticker::ExpiryTicker;
use super::options::Options;
use super::prefetch::Prefetch;
use super::requests::{ClientRequest, Forwarded, LinearizableReads, Parked, Proposals};
use super::snapshot_reads::SnapshotReads;
use super::snapshot_sender::SnapshotSender;
use super::space::{self, Space};
use super::stats::Stats;
use crate::api::{Consistency, Refusal, Reply, Request};
use crate::apply::Report as Applied;
use crate::consensus::Raft;
use crate::types::{DiskId, Index, LogId, Mutant, NodeId, Term, Time, WriteId};
use crate::wal::report::{Fault, Report};
use crate::wal::view::View;
use bytes::Bytes;

/// The whole server without its I/O: no clock, thread, socket or file.
///
/// [`Node::handle`] records an event and sends nothing. [`Node::turn`] performs the work that is due. They are separate
/// so that a node batches at its own pace: a wake-up with two hundred readable sockets is two hundred `handle`s and one
/// `turn`, so one write, one append per follower, one sync.
///
/// Invariants, at the end of each turn: log start ≤ snapshot ≤ applied ≤ submitted ≤ commit; at most one batch is being
/// applied; writes reach the journal in the order of their numbers, each once; a write is answered with an outcome only
/// by the applier's report of its own position. `invariants.rs` checks them.
#[derive(Debug)]
pub struct Node {
    raft: Raft,
    /// The payloads of the log, which the core does not keep. It begins and ends where the core's log does, once a turn
    /// has handed over the core's write.
    view: View,
    beforehand: Prefetch,
    options: Options,
    /// Measurements only: no decision depends on them.
    stats: Stats,
    /// The requests that wait, each in the table of what it waits for.
    proposals: Proposals,
    parked: Parked,
    linearizable_reads: LinearizableReads,
    forwarded: Forwarded,
    queries: Queries,
    /// The last index submitted to the applier. `applied` is how far the applier has reported. Between the two, a query
    /// submitted now already sees the entries, and a snapshot would not know what it holds.
    submitted_to_apply: Index,
    applied: Applied,
    /// When the batch that is being applied was submitted. There is one at a time: a snapshot is taken between two
    /// batches, of a state whose index this node knows.
    applying: Option<Time>,
    /// The last write that was handed to the journal.
    written: WriteId,
    compaction: CompactionPolicy,
    snapshot_sender: SnapshotSender,
    snapshot_reads: SnapshotReads,
    space: Space,
    admin_waiters: AdminWaiters,
    expiry_ticker: ExpiryTicker,
    /// The term this node led at the last check, if it led.
    led_term: Option<Term>,
    /// The leader at the last check.
    leader: Option<NodeId>,
    /// Answers and forwarded requests, until the turn. They are not sent from `handle`, so that a hundred events cost
    /// the driver one pass over its connections.
    replies: Vec<(Caller, u64, Reply)>,
    forwards: Vec<Action>,
    /// A failure that ends the process, until the turn. It leaves as the last action of that turn, and the first one
    /// counts no more than a later one: any of them stops the process.
    fault: Option<Fault>,
}

/// The state from which a node starts. All else is forgotten: the waiting callers, the leader, the requests in flight.
/// Each of them is found again, or fails at its client.
#[derive(Debug)]
pub struct NodeStart {
    /// The time of the start.
    pub now: Time,
    /// This node's disk id.
    pub disk: Option<DiskId>,
    /// How far the restored machine has applied the log.
    pub applied: Applied,
    /// The snapshot from which the machine was restored, if any.
    pub kept: Option<DurableSnapshot>,
    /// A random number, different for each run of a process: forwarded requests are numbered from it, and a late answer
    /// to an earlier run must match none of this one's.
    pub chance: u64,
    /// Entries behind the applied ones, which another thread reads from the log.
    pub beforehand: Prefetch,
}

impl Node {
    /// Creates a node around the consensus core `raft`, which reads its log through `view`. Nothing is applied beyond
    /// the base of the log.
    pub fn new(raft: Raft, view: View, options: Options, begun: NodeStart) -> Node {
        // The disk's id is the core's: it decides whose votes and copies count.
        let NodeStart { now, applied, kept, chance, beforehand, disk: _ } = begun;
        let snapshot = kept.as_ref().map_or(Index::ZERO, |kept| kept.position.index);
        assert_eq!(snapshot, applied.upto, "a machine starts in the state of its newest snapshot (§7)");
        let first = if options.mutants.breaks(Mutant::ReuseNumbers) { 0 } else { chance };
        Node {
            raft,
            view,
            beforehand,
            stats: Stats::default(),
            proposals: Proposals::default(),
            parked: Parked::default(),
            linearizable_reads: LinearizableReads::default(),
            forwarded: Forwarded::after(first),
            queries: Queries::default(),
            submitted_to_apply: applied.upto,
            applied,
            compaction: CompactionPolicy::new(now, kept),
            snapshot_sender: SnapshotSender::new(&options),
            snapshot_reads: SnapshotReads::new(&options),
            options,
            space: Space::default(),
            admin_waiters: AdminWaiters::default(),
            expiry_ticker: ExpiryTicker::new(),
            applying: None,
            written: WriteId::ZERO,
            led_term: None,
            leader: None,
            replies: Vec::new(),
            forwards: Vec::new(),
            fault: None,
        }
    }

    /// Processes an event. Nothing is sent before [`Node::turn`].
    ///
    /// Peers and clients decide what arrives here and in which order: nothing about it is asserted, except of the
    /// reports of this node's own threads.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Peer(envelope) => {
                self.stats.receives(now, &envelope);
                self.raft.receive(now, envelope);
            }
            Event::PeerLost(peer) => {
                // The core first: a retried read below must find the leader that is left.
                self.raft.lost(now, peer);
                self.stats.lost(peer);
                let lost = self.forwarded.lost(peer);
                self.fail_in_flight(now, lost);
            }
            Event::Request { from, id, forward, request } => {
                // A wake-up is many events and one turn. Requests parked for a leader are older than this one and must
                // be handled first, or this one would overtake earlier requests of the same caller.
                if self.leadership_changed() {
                    self.follow_leadership(now);
                }
                let until = now + self.options.parked_for;
                self.handle_request(now, ClientRequest { from, id, forward, until, request });
            }
            Event::Answered { from, id, reply } => self.answered(now, from, id, reply),
            // The request had no effect. A retry at once would find the same link, as full or as broken.
            Event::NotSent { to, id } => {
                self.forwarded.answered(to, id).into_iter().for_each(|asked| self.refuse(asked, Refusal::Busy));
            }
            // The peer itself is up, and may lead: the core need not know of it.
            Event::AnswersLost(peer) => {
                let lost = self.forwarded.lost(peer);
                self.fail_in_flight(now, lost);
            }
            // Its proposals and queries stay: the log and the applier hold them, and their answers lead nowhere.
            Event::CallerGone(caller) => {
                self.parked.forget(caller);
                self.compaction.forget(caller);
                self.snapshot_reads.forget(caller);
                self.admin_waiters.forget(caller);
                self.linearizable_reads.forget(caller);
                self.forwarded.forget(caller);
            }
            Event::Journal(report) => self.handle_journal_report(now, report),
            Event::Space { low } => {
                self.space.is(low);
                // The core avoids transfers to nodes without room, and learns of its own here.
                self.raft.set_low_space(low);
                if !low {
                    self.compaction.room();
                }
            }
            Event::DiskLearned { peer, disk } => self.raft.learn_disk_id(peer, disk),
            Event::OtherLog { peer, log } => self.named_by_other_log(peer, log),
            // Without a possible transfer target the other nodes detect the loss of the leader by themselves.
            Event::Stopping => drop(self.raft.transfer(now, None)),
            Event::Applied(report) => self.record_applied(now, report),
            Event::SnapshotTaken(kept) => self.taken(now, kept),
            Event::TakenDamaged => {
                self.stats.ends_snapshot(now, false);
                self.compaction.taken_damaged(now, &self.options);
            }
            Event::Inspected { snapshot, whole } => self.inspected(now, snapshot, whole),
            Event::ChunkStored { from, snapshot, next, damaged } => self.raft.chunked(from, snapshot, next, damaged),
            Event::Restored { kept, base, time, report } => self.restored(now, kept, base, time, report),
            Event::Queried { ticket, applied, answer } => {
                // The applier may be ahead of the report that this node has seen, never behind it.
                if let Some((from, id)) = self.queries.answered(ticket) {
                    self.replies.push((from, id, self.query_reply(applied, answer)));
                }
            }
        }
    }

    /// Stops this node if a peer that knows it as a member holds another log. A node that founded its log because no
    /// peer answered it was a member of the peer's log and lost its directory: it stops, rather than answer that
    /// nothing is stored. The core decides whether that is the case: the claim alone is a peer's word, and a node that
    /// could be stopped by a message would be easy to stop.
    fn named_by_other_log(&mut self, peer: NodeId, log: LogId) {
        if self.raft.named_by_other_log(peer, log) {
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
    /// The order of the arms is the order of the checks. What needs no leader comes first, then limits that hold
    /// everywhere, then reasons to wait, then what a leader does, then what a follower does. An arm that moves up
    /// answers requests that an earlier reason to wait should have held back.
    fn handle_request(&mut self, now: Time, asked: ClientRequest) {
        match &asked.request {
            // Always, and at once: the status is how an operator finds out why nothing else is answered.
            Request::Status => {
                let status = Box::new(self.status(now));
                self.replies.push((asked.from, asked.id, Reply::Status(status)));
            }
            // Nothing was ever committed here, because there was no leader: a snapshot would be empty.
            Request::Snapshot if self.applied.upto == Index::ZERO => self.refuse(asked, Refusal::NoLeader),
            // Each node has snapshots of its own, so a request for one is neither forwarded nor in need of a leader.
            Request::Snapshot => {
                self.compaction.add_waiter(asked.from, asked.id, self.applied.upto);
                // The newest snapshot may already hold everything applied.
                self.answer_snapshot();
            }
            Request::ReadSnapshot { snapshot, offset } => {
                let (what, newest) = ((*snapshot, *offset), self.compaction.sendable());
                let read = self.snapshot_reads.request(now, (asked.from, asked.id), what, newest);
                read.unwrap_or_else(|refusal| self.refuse(asked, refusal));
            }
            // Before all else that may wait: no later state of this node makes it small enough.
            Request::Propose { .. } | Request::Query { .. } if asked.bytes() > self.options.entry_bytes => {
                let (bytes, limit) = (asked.bytes(), self.options.entry_bytes);
                self.refuse(asked, Refusal::TooLarge { bytes, limit });
            }
            Request::Query { consistency: Consistency::Local, .. } if self.reads_are_full() => {
                self.refuse(asked, Refusal::Busy);
            }
            // Also without a leader, and on a node that is cut off: that is what a local read is for.
            Request::Query { consistency: Consistency::Local, .. } => self.queries.push_local(asked),
            // A leader could not finish a request that it accepts during a leadership transfer. The request is parked,
            // for the next leader or, if the transfer fails, for this one.
            Request::Propose { .. } | Request::Query { .. } | Request::Change { .. }
                if self.raft.transfer_target().is_some() || self.log_not_agreed() =>
            {
                self.park(asked);
            }
            // Before the log, where it would take the room that it must not take. A follower forwards the command
            // unjudged, because the leader alone knows the disks of the others.
            Request::Propose { op } if self.raft.leads() && !self.admits(now, op) => {
                self.refuse(asked, Refusal::NoSpace);
            }
            // Until this turn's write the entry exists in memory only, and is promised to no client.
            Request::Propose { op } if self.raft.leads() => {
                let op = op.clone();
                match self.raft.propose(now, op) {
                    Ok(position) => {
                        self.stats.proposed(now);
                        self.proposals.push(position, asked.from, asked.id);
                    }
                    Err(refusal) => self.refuse(asked, refusal),
                }
            }
            // Not refused as busy while there is no leader: the limit on reads is for reads that make progress.
            Request::Query { .. } if self.raft.leader().is_none() => self.forward_or_redirect(asked),
            Request::Query { .. } if self.reads_are_full() => {
                self.refuse(asked, Refusal::Busy);
            }
            // A follower requests the read index from its leader, and answers the query itself.
            Request::Query { .. } => match self.raft.read() {
                Ok(read) => self.linearizable_reads.push(read, asked),
                Err(refusal) => self.refuse(asked, refusal),
            },
            // The process answers this for its own clients; peers do not forward it.
            Request::LogLevel(_) => self.refuse(asked, Refusal::NotOffered),
            Request::Change { .. } | Request::Transfer { .. } if self.raft.leads() => self.handle_admin(now, asked),
            Request::Propose { .. } | Request::Change { .. } | Request::Transfer { .. } => {
                self.forward_or_redirect(asked)
            }
        }
    }

    /// Whether this node leads a log that is not yet confirmed as this cluster's log. Commands are parked until it is:
    /// until then another founder's log may replace this one, and a command acknowledged here would be lost
    /// (docs/voters.md, rule 8).
    fn log_not_agreed(&self) -> bool {
        self.raft.leads() && !self.raft.accepts_commands()
    }

    /// Whether there is room for the command `op`, on this disk and on enough other disks. A command that frees room
    /// may use the last of it: without that exception a full cluster could not be emptied by its clients.
    fn admits(&self, now: Time, op: &Bytes) -> bool {
        let fits = |frees| self.raft.has_room_for(now, op.len() as u64, frees);
        (!self.space.is_low() && fits(false)) || (space::frees(op, self.options.frees) && fits(true))
    }

    /// Starts a membership change or a leadership transfer. This node is the leader.
    fn handle_admin(&mut self, now: Time, asked: ClientRequest) {
        assert!(self.raft.leads(), "only a leader changes the membership or hands over its leadership (§6)");
        let outcome = match &asked.request {
            Request::Change { change, force } => self.raft.reconfigure(now, change, *force).map(|position| {
                self.admin_waiters.began(&self.raft, asked.from, asked.id, position);
            }),
            Request::Transfer { to } => self.raft.transfer(now, *to).map(|to| {
                self.admin_waiters.hands_over(asked.from, asked.id, to);
            }),
            _ => Ok(()),
        };
        // A change that was refused has appended nothing; one that began is answered by its waiter.
        if let Err(refusal) = outcome {
            self.refuse(asked, refusal);
        }
    }

    /// Parks a request until there is a leader that can take it. The deadline was set when it arrived.
    fn park(&mut self, asked: ClientRequest) {
        let parked = self.parked.push(asked, self.options.parked, self.options.parked_bytes);
        if let Err(refused) = parked {
            let (asked, refusal) = *refused;
            self.refuse(asked, refusal);
        }
    }

    /// Forwards a request to the leader, redirects the caller, or parks the request. This node is not the leader.
    ///
    /// A peer's request is not forwarded again: two nodes that each take the other for the leader would send it back
    /// and forth. Its sender is told the leader instead, and decides.
    fn forward_or_redirect(&mut self, asked: ClientRequest) {
        assert!(!self.raft.leads(), "a leader handles a request itself: it has nowhere to forward it to");
        let passed_on = matches!(asked.from, Caller::Peer(_));
        match self.raft.leader() {
            Some(leader) if asked.forward && !passed_on => {
                let full = self.forwarded.len() >= self.options.forwarded;
                if full || self.forwarded.bytes() >= self.options.forwarded_bytes {
                    return self.refuse(asked, Refusal::Busy);
                }
                let request = asked.request.clone();
                // The table keeps the request too: if the leader refuses it without effect, it is handled again.
                let id = self.forwarded.push(leader, asked);
                self.forwards.push(Action::Forward { to: leader, id, request });
            }
            // The caller did not ask for forwarding, or is a node that forwards itself: it is told where to go.
            Some(_) => {
                let refusal = self.raft.not_leader();
                self.refuse(asked, refusal);
            }
            None => match self.not_member_refusal() {
                Some(refusal) => self.refuse(asked, refusal),
                None => self.park(asked),
            },
        }
    }

    /// The refusal if this node is not a member and knows no leader: it names the members that the caller should try.
    /// (It applies also to a node that may still be needed as leader, as long as the node does not know that it was
    /// removed for good: the request had no effect.)
    fn not_member_refusal(&self) -> Option<Refusal> {
        let (node, members) = (self.raft.id(), &self.raft.membership().members);
        // A leader that sends to this node would also take its requests.
        let outside = !members.contains_key(&node) && self.raft.leader().is_none();
        let addresses = members.values().map(|member| member.address.clone()).filter(|address| !address.is_empty());
        outside.then(|| Refusal::NotMember { node, members: addresses.collect() })
    }

    /// Answers that a request had no effect, and why. No request may be refused after an attempt that could be in a
    /// log.
    fn refuse(&mut self, asked: ClientRequest, refusal: Refusal) {
        self.stats.figures.proposals_failed += u64::from(asked.is_write());
        self.replies.push((asked.from, asked.id, Reply::Refused(refusal)));
    }

    /// Handles requests whose answers are lost: reads are retried, writes are answered *unknown*, because they may have
    /// been applied. A retry of the write here would apply a command without a session twice; only the client knows
    /// whether it has one.
    fn fail_in_flight(&mut self, now: Time, asked: Vec<ClientRequest>) {
        for asked in asked {
            if asked.is_write() {
                self.replies.push((asked.from, asked.id, Reply::Unknown));
            } else if asked.until <= now {
                // Its client has waited for long enough. A read that lost a round at each change of leader would go on
                // for as long as leaders change.
                self.refuse(asked, Refusal::NoLeader);
            } else {
                self.handle_request(now, asked);
            }
        }
    }

    /// Handles a peer's answer to a forwarded request. Only *not leader* and *not a member* lead to another attempt:
    /// each says that nothing happened, and that another node would have been right. Any other refusal is the leader's
    /// last word, which the caller must see.
    fn answered(&mut self, now: Time, from: NodeId, id: u64, reply: Reply) {
        let Some(asked) = self.forwarded.answered(from, id) else { return };
        match reply {
            // The peer had lost leadership: the request had no effect, so it is retried before its deadline. While this
            // node still takes that peer for the leader, a retry would go there again, and be refused again, at once.
            Reply::Refused(Refusal::NotLeader { .. } | Refusal::NotMember { .. })
                if asked.until > now && self.raft.leader() != Some(from) =>
            {
                self.handle_request(now, asked);
            }
            reply => self.replies.push((asked.from, asked.id, reply)),
        }
    }

    fn handle_journal_report(&mut self, now: Time, report: Report) {
        // A report may cover many writes: the journal syncs all that it has once.
        self.stats.synced(&report);
        self.raft.persisted(now, report.durable);
        self.raft.set_room(report.room);
        // The entries of a sealed segment can be read from its mapping from now on, and need no memory.
        for sealed in report.sealed {
            if let Err(fault) = self.view.seal(sealed) {
                self.fault = Some(fault);
            }
        }
    }

    /// Records the applier's report and answers its proposals.
    ///
    /// This is the only place where a write is answered with its outcome. An entry that is committed but not yet
    /// applied has none, and an answer before this report would be a guess at what the machine will do.
    fn record_applied(&mut self, now: Time, mut report: Applied) {
        assert_eq!(report.upto, self.submitted_to_apply, "a batch is applied as a whole, before the next is submitted");
        // Taken, not read: the next batch may be submitted in the turn that follows.
        if let Some(at) = self.applying.take() {
            self.stats.applied(now.since(at));
        }
        let by_index = self.options.mutants.breaks(Mutant::AnswerByIndex);
        for (position, outcome) in report.outcomes.drain(..) {
            let is_applied = self.applied.upto < position.index && position.index <= report.upto;
            assert!(is_applied, "an outcome is that of an entry of its batch: a reply tells of applied entries only");
            self.proposals.settle(position, outcome, by_index, &mut self.replies);
        }
        // The entry applied at a remaining proposal's index has no outcome: for example, the next leader's no-op.
        self.proposals.pass(report.upto, &mut self.replies);
        self.stats.figures.session_duplicates += report.duplicates;
        self.applied = report;
    }

    /// Performs the work that is due and appends the resulting actions.
    ///
    /// The order is part of the meaning. Time first, so that everything below sees the role of now. Then leadership, so
    /// that no request is handled for a leader that is gone. Then the core's output, which hands entries to the view
    /// before anything reads them there. Snapshots, entries and queries follow in the order in which the applier must
    /// see them. Replies are last: all of the above may add some.
    pub fn turn(&mut self, now: Time, actions: &mut Vec<Action>) {
        // A timer that is late is handled once, however many intervals have passed.
        if self.raft.deadline() <= now {
            self.raft.tick(now);
        }
        self.follow_leadership(now);
        // On a full disk no expiry tick is proposed: expired keys are absent with the next entry that frees room.
        let due = self.applied.due.filter(|_| !self.space.is_low());
        self.expiry_ticker.turn(now, &mut self.raft, (self.applied.upto, self.applied.time), due);
        // After the ticker, so that its entry leaves with this turn's write.
        let ready = self.raft.ready(now);
        self.emit_actions(now, ready, actions);
        // Before more entries are submitted to the applier: a snapshot holds the applied state, and names the members
        // as of the same index.
        self.keep(now, actions);
        self.submit_entries(now, actions);
        // After the entries: a query submitted behind them sees them, and a read waits for nothing else.
        self.query(now, actions);
        self.snapshot_reads.answer(now, &mut self.replies);
        actions.append(&mut self.forwards);
        for (to, id, reply) in self.replies.drain(..) {
            self.stats.figures.proposals_failed += u64::from(matches!(reply, Reply::Unknown));
            actions.push(Action::Reply { to, id, reply });
        }
        actions.extend(self.fault.take().map(Action::Stop));
        self.check();
    }

    /// When `turn` next has work to do. Earlier calls are harmless. A later one is not: nothing else wakes a node to
    /// which no event happens, so a part that is forgotten here is a timer that never rings.
    pub fn deadline(&self) -> Time {
        // What the last batch left is due now, and no event announces it.
        let unfed = self.applying.is_none() && self.submitted_to_apply < self.raft.log().commit();
        if unfed || !self.replies.is_empty() || !self.forwards.is_empty() {
            return Time::ZERO;
        }
        // No snapshot is taken while a batch is being applied: the applier's report wakes the node.
        let due = if self.applying.is_none() { self.applied.upto } else { Index::ZERO };
        let snapshots = self.snapshot_sender.deadline().min(self.compaction.deadline(due, &self.options));
        let snapshots = snapshots.min(self.snapshot_reads.deadline());
        self.raft.deadline().min(self.parked.deadline()).min(snapshots).min(self.expiry_ticker.deadline())
    }
}

#[cfg(test)]
mod tests;
