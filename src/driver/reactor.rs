//! The event loop: it reads ready sockets, runs the node, and executes the node's actions.
//!
//! The loop batches. A wake-up with two hundred readable sockets leads to two hundred calls of `Node::handle` and one
//! of `Node::turn`: one write to the journal, one AppendEntries to each follower, one write to each socket with output.

use super::busy_poll::BusyPoll;
use super::inbox::{Inbox, LoopMessage};
use super::leaderless::{self, LeaderAbsence};
use super::leadership::Leadership;
use super::log_control::{self, LogControl};
use super::machine_runner::MachineRunner;
use super::replaying::{ReplayEvent, ReplayProgress};
use super::scrub_queue::ScrubQueue;
use crate::api::figures::Buckets;
use crate::api::{Refusal, Reply, Request, Status};
use crate::consensus::note::{Level, Note};
use crate::machine::state_machine::StateMachine;
use crate::net::sockets::Net;
use crate::node::event::{Action, Caller, Event};
use crate::node::node::Node;
use crate::types::{Entry, NodeId, Payload, Time};
use crate::wal::Task;
use crate::wal::report::Fault;
use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Maximum calls of `Node::turn` in one wake-up before the sockets are polled again.
const TURNS_PER_WAKEUP_MAX: usize = 16;
/// Once the calls of `Node::turn` in one wake-up took this long together, the sockets are polled again even if work is
/// left: a heartbeat may be due.
const TURNS_TIME_MAX: Duration = Duration::from_millis(5);
/// An iteration of the event loop that takes this long is logged at debug level.
const ITERATION_DEBUG_LOG_MIN: Duration = Duration::from_millis(10);
/// An iteration that takes this long endangers the leadership, and is logged as a warning.
const ITERATION_WARNING_MIN: Duration = Duration::from_millis(100);
/// Before a batch of entries larger than this, in bytes, is applied, all pending output is written to the sockets.
const APPLY_WITHOUT_FLUSH_BYTES_MAX: usize = 32 << 10;
/// The caller id of all threads that have a handle. No connection has this number.
const LOCAL_CALLER: Caller = Caller::Client(u64::MAX);

/// The shortest interval between two removals of local requests that have timed out. A new request triggers a removal.
const LOCAL_EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// The options of the event loop, and facts about the process that `status` reports.
#[derive(Clone, Debug)]
pub struct Options {
    /// Maximum time to busy-poll before the event loop sleeps. Zero disables busy-polling.
    pub busy_poll: Duration,
    /// How long requests in progress may take to finish when the node stops.
    pub stop_grace_period: Duration,
    /// Whether the data directory is in memory (reported in `status`).
    pub in_memory: bool,
    /// The file system of the data directory (reported in `status`).
    pub file_system: &'static str,
    /// Changes the process's log level at a client's request. If it is `None`, such requests are refused.
    pub log_control: Option<LogControl>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            busy_poll: Duration::from_micros(60),
            stop_grace_period: Duration::from_secs(5),
            in_memory: false,
            file_system: "",
            log_control: None,
        }
    }
}

/// The failure that ended the event loop before it was stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReactorError {
    /// The journal failed, or the node found a fault that it must not ignore.
    #[error(transparent)]
    NodeFault(#[from] Fault),
    /// Polling the sockets failed.
    #[error("cannot wait for sockets: {0}")]
    Poll(#[from] io::Error),
    /// A thread of the node, with this name, has ended.
    #[error("the {0} thread has ended")]
    ThreadEnded(&'static str),
}

/// The event loop, which owns the node, the state machine and the sockets that it drives.
pub struct Reactor<M> {
    net: Net,
    node: Node,
    id: NodeId,
    machine: MachineRunner<M>,
    journal_tasks: Sender<Task>,
    scrub_queue: ScrubQueue,
    inbox: Inbox,
    options: Options,
    busy_poll: BusyPoll,
    clock: Clock,
    /// Requests of threads with a handle that are not answered yet, by request id.
    local_requests: BTreeMap<u64, LocalRequest>,
    next_local_request_id: u64,
    /// When requests that have timed out are removed from `local_requests` next.
    next_local_expiry_at: Time,
    /// When a stopping node stops without waiting any longer for requests in progress; `None` before it is told to
    /// stop.
    stop_forced_at: Option<Time>,
    actions: Vec<Action>,
    events: Vec<Event>,
    /// Whether the node has handled an event since its last `turn`. The loop must not sleep before the next `turn`: the
    /// node sets no timer for events that remain after `TURNS_PER_WAKEUP_MAX` or `TURNS_TIME_MAX`.
    needs_turn: bool,
    /// Histogram of how long each iteration of the loop took.
    iteration_durations: Buckets,
    /// How long there has been no leader, and when to log a warning about that.
    leader_absence: LeaderAbsence,
    /// Progress of replaying the log found at startup, until all of it is applied.
    replay_progress: Option<ReplayProgress>,
}

/// A request that a thread of this process sent through a handle, and that is not answered yet.
struct LocalRequest {
    answer: Sender<Reply>,
    /// When the requesting thread stops waiting, without notice.
    deadline: Time,
}

/// A monotonic clock that starts at zero: the source of the node's time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts the clock at zero.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// The time since the clock was started.
    pub fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }
}

impl<M: StateMachine> Reactor<M> {
    /// Creates the event loop of a node. `journal_tasks` is the queue of the log thread, and `scrub_queue` that of the
    /// thread that checks files; both send their reports to `inbox`.
    pub fn new(
        net: Net,
        node: Node,
        machine: MachineRunner<M>,
        (journal_tasks, scrub_queue): (Sender<Task>, ScrubQueue),
        inbox: Inbox,
        options: Options,
        clock: Clock,
    ) -> Reactor<M> {
        let (log, applied) = (node.raft().log(), machine.applied());
        let replay_progress = ReplayProgress::new(log.last().index, log.bytes(applied, log.last().index));
        Reactor {
            id: node.raft().id(),
            net,
            node,
            machine,
            journal_tasks,
            scrub_queue,
            inbox,
            busy_poll: BusyPoll::new(options.busy_poll),
            options,
            clock,
            local_requests: BTreeMap::new(),
            next_local_request_id: 0,
            next_local_expiry_at: Time::ZERO,
            stop_forced_at: None,
            actions: Vec::new(),
            events: Vec::new(),
            needs_turn: false,
            iteration_durations: Buckets::of_durations(),
            leader_absence: LeaderAbsence::default(),
            replay_progress,
        }
    }

    /// Runs until the node has stopped, or until a thread, the journal or polling fails. `is_stop_signalled` is called
    /// when the event source outside the sockets (the process's signals) is ready; it returns true to stop the node.
    pub fn run(mut self, mut is_stop_signalled: impl FnMut() -> bool) -> Result<(), ReactorError> {
        self.net.set_members(self.clock.now(), self.node.membership(), self.node.raft().configuration_position());
        loop {
            let now = self.clock.now();
            self.net.poll_io(now);
            if self.net.external_source_ready() && is_stop_signalled() {
                self.stop(now);
            }
            self.drain_inbox(now)?;
            if let Some(event) = self.machine.continue_restore()? {
                self.handle(now, event);
            }
            let had_work = self.needs_turn || self.node.deadline() <= now || self.machine.has_work();
            if had_work {
                self.run_turns()?;
            }
            self.net.set_leader(self.node.raft().leader());
            self.publish_leadership();
            self.log_no_leader(now);
            self.net.flush(now);
            self.record_iteration(now);
            if self.is_finished(now) {
                return Ok(());
            }
            self.sleep(had_work)?;
        }
    }

    /// Passes an event to the node, and marks that the node needs a `turn` before the loop sleeps.
    fn handle(&mut self, now: Time, event: Event) {
        // The log level belongs to the process, not to the node. Peers never forward a request for the log level.
        if let Event::Request { from: from @ Caller::Client(_), id, request: Request::LogLevel(request), .. } = event {
            return self.reply(now, from, id, log_control::answer_log_level_request(self.options.log_control, request));
        }
        self.node.handle(now, event);
        self.needs_turn = true;
    }

    /// Passes the events of the sockets to the node.
    fn handle_net_events(&mut self, now: Time) {
        let mut events = std::mem::take(&mut self.events);
        self.net.take_events(&mut events);
        events.drain(..).for_each(|event| self.handle(now, event));
        self.events = events;
    }

    /// Publishes the current leader and term to other threads.
    fn publish_leadership(&self) {
        let raft = self.node.raft();
        let leads = raft.accepts_commands() && raft.transfer_target().is_none();
        self.inbox.publish(Leadership { term: raft.term(), leader: raft.leader(), leads });
    }

    /// Logs a warning when there has been no leader for long, with the voters that are reachable and those that are
    /// not.
    fn log_no_leader(&mut self, now: Time) {
        let raft = self.node.raft();
        // A node that is not a member, or is stopping, expects no leader.
        let expects_leader = || self.stop_forced_at.is_none() && raft.membership().members.contains_key(&self.id);
        let Some(since) = self.leader_absence.record_leader(now, raft.leader().is_some() || !expects_leader()) else {
            return;
        };
        let (mut heard, mut unheard) = (Vec::new(), Vec::new());
        for voter in raft.membership().all_voters().filter(|voter| *voter != self.id) {
            let (is_heard, words) = self.net.reachability(now, voter);
            if is_heard { heard.push(words) } else { unheard.push(words) }
        }
        log::warn!(node = self.id.get(); "{}", leaderless::format_warning(since, &heard, &unheard));
    }

    /// Records how long this iteration took, and logs a slow one: during an iteration no request is answered and no
    /// heartbeat sent.
    fn record_iteration(&mut self, started_at: Time) {
        let took = self.clock.now().since(started_at);
        self.iteration_durations.record_duration(took);
        if took >= ITERATION_WARNING_MIN {
            log::warn!(node = self.id.get(); "one iteration of the event loop took {} ms", took.as_millis());
        } else if took >= ITERATION_DEBUG_LOG_MIN {
            log::debug!(node = self.id.get(); "one iteration of the event loop took {} ms", took.as_millis());
        }
    }

    /// Handles the events of the sockets and the messages in the inbox.
    fn drain_inbox(&mut self, now: Time) -> Result<(), ReactorError> {
        self.handle_net_events(now);
        while let Some(message) = self.inbox.try_receive() {
            match message {
                LoopMessage::Journal(report) => self.handle(now, Event::Journal(report)),
                LoopMessage::Request { request, answer, deadline } => {
                    let deadline = now + deadline.saturating_duration_since(Instant::now());
                    self.handle_local_request(now, request, LocalRequest { answer, deadline });
                }
                LoopMessage::Snapshot(result) => {
                    if let Some(event) = self.machine.handle_job_result(result?) {
                        self.handle(now, event);
                    }
                }
                LoopMessage::Scrub(report) => self.handle(now, Event::Scrub(report)),
                LoopMessage::DiskSpace { low } => {
                    self.log_disk_space(low);
                    self.handle(now, Event::DiskSpace { low });
                }
                LoopMessage::Credentials(fresh) => self.net.set_credentials(*fresh),
                LoopMessage::Stop => self.stop(now),
                LoopMessage::ThreadEnded(which) => return Err(ReactorError::ThreadEnded(which)),
            }
        }
        Ok(())
    }

    fn log_disk_space(&self, low: bool) {
        let node = self.id.get();
        if low {
            log::warn!(node; "disk space is low: as leader this node rejects writes, except those that free space");
        } else {
            log::info!(node; "disk space is available again: writes are accepted");
        }
    }

    fn handle_local_request(&mut self, now: Time, request: Request, local: LocalRequest) {
        if self.stop_forced_at.is_some() && request != Request::Status {
            // If the receiver is gone, the answer is not needed.
            let _receiver_may_be_gone = local.answer.send(Reply::Refused(Refusal::Stopping));
            return;
        }
        if self.next_local_expiry_at <= now {
            self.next_local_expiry_at = now + LOCAL_EXPIRY_INTERVAL;
            self.local_requests.retain(|_, local| local.deadline > now);
        }
        let id = self.next_local_request_id;
        self.next_local_request_id += 1;
        self.local_requests.insert(id, local);
        self.handle(now, Event::Request { from: LOCAL_CALLER, id, forward: true, request });
    }

    /// Calls `Node::turn` and executes its actions, again while these produce more events, up to `TURNS_PER_WAKEUP_MAX`
    /// and `TURNS_TIME_MAX`. If events are left at that limit, `needs_turn` stays set.
    fn run_turns(&mut self) -> Result<(), ReactorError> {
        let started_at = self.clock.now();
        for _ in 0..TURNS_PER_WAKEUP_MAX {
            let now = self.clock.now();
            self.needs_turn = false;
            self.node.turn(now, &mut self.actions);
            if self.actions.is_empty() && !self.machine.has_queries() {
                return Ok(());
            }
            let mut actions = std::mem::take(&mut self.actions);
            self.execute_actions(now, &mut actions)?;
            self.actions = actions;
            self.net.pump_scheduled(now);
            self.handle_net_events(now);
            if !(self.needs_turn || self.machine.has_queries()) || now.since(started_at) >= TURNS_TIME_MAX {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Executes actions. Messages and replies go to the output buffers of the sockets. Then the buffers of the peers
    /// are flushed and writes are handed to the log thread. Entries are applied last: they must delay no AppendEntries.
    fn execute_actions(&mut self, now: Time, actions: &mut Vec<Action>) -> Result<(), ReactorError> {
        let mut writes = Vec::new();
        let mut apply_batches = Vec::new();
        let mut journal_release = None;
        for action in actions.drain(..) {
            match action {
                Action::Send(envelope) => self.net.send(envelope),
                Action::Forward { to, id, request } => self.net.forward(to, id, request),
                Action::Reply { to, id, reply } => self.reply(now, to, id, reply),
                Action::Write(write) => writes.push(write),
                Action::Note(note) => self.handle_note(now, &note),
                Action::Warn(line) => log::warn!(node = self.id.get(); "{line}"),
                Action::Scrub(order) => {
                    if !self.scrub_queue.order(order) {
                        return Err(ReactorError::ThreadEnded("scrub"));
                    }
                }
                Action::Stop(fault) => return Err(fault.into()),
                Action::Apply(entries) => apply_batches.push(entries),
                Action::Query { ticket, query, time } => self.machine.push_query(ticket, query, time),
                Action::TakeSnapshot { configured, membership } => {
                    if !self.machine.take_snapshot(configured, membership) {
                        return Err(ReactorError::ThreadEnded("snapshot"));
                    }
                }
                Action::InspectSnapshot { follower, snapshot, damaged_count } => {
                    if !self.machine.inspect_snapshot(follower, snapshot, damaged_count) {
                        return Err(ReactorError::ThreadEnded("snapshot"));
                    }
                }
                Action::StoreChunk { from, chunk } => {
                    if !self.machine.store_chunk(from, chunk) {
                        return Err(ReactorError::ThreadEnded("snapshot"));
                    }
                }
                Action::CompactJournal { upto, reuses_files } => {
                    journal_release = Some(Task::Release { upto, reuses_files });
                }
            }
        }
        if !writes.is_empty() {
            self.net.flush_peers(now);
            for write in writes {
                self.journal_tasks.send(Task::Write(write)).map_err(|_| ReactorError::ThreadEnded("log"))?;
            }
        }
        if let Some(release) = journal_release {
            self.journal_tasks.send(release).map_err(|_| ReactorError::ThreadEnded("log"))?;
        }
        for entries in apply_batches {
            self.apply_entries(now, &entries);
        }
        let (node, needs_turn) = (&mut self.node, &mut self.needs_turn);
        self.machine.answer_queries(|event| {
            node.handle(now, event);
            *needs_turn = true;
        });
        Ok(())
    }

    fn apply_entries(&mut self, now: Time, entries: &[Entry]) {
        let bytes: usize = entries.iter().map(payload_size).sum();
        if bytes > APPLY_WITHOUT_FLUSH_BYTES_MAX {
            self.net.flush(now);
        }
        let batch_started_at = self.replay_progress.as_ref().map(|_| self.clock.now());
        let report = self.machine.apply(entries);
        let now = self.clock.now();
        if let Some(batch_started_at) = batch_started_at {
            self.log_replay(batch_started_at, now, entries);
        }
        self.handle(now, Event::Applied(report));
    }

    /// Logs the progress after entries were applied, some of which may be from the log found at startup.
    fn log_replay(&mut self, batch_started_at: Time, now: Time, entries: &[Entry]) {
        let last = self.node.raft().log().last().index;
        let event = self
            .replay_progress
            .as_mut()
            .map_or(ReplayEvent::NoLineDue, |replay| replay.record_applied(batch_started_at, now, entries, last));
        let node = self.id.get();
        match event {
            ReplayEvent::NoLineDue => {}
            ReplayEvent::Progress(line) => log::info!(node; "{line}"),
            ReplayEvent::Finished(line) => {
                log::info!(node; "{line}");
                self.replay_progress = None;
            }
        }
    }

    fn reply(&mut self, now: Time, to: Caller, id: u64, mut reply: Reply) {
        match &mut reply {
            Reply::Status(status) => self.fill_status(now, status),
            Reply::Refused(Refusal::NotLeader { leader: Some(leader), address, .. }) => {
                *address = self.net.address_of(*leader).map(str::to_owned).or_else(|| address.take());
            }
            _ => {}
        }
        if to != LOCAL_CALLER {
            self.net.answer(now, to, id, reply);
        } else if let Some(local) = self.local_requests.remove(&id) {
            // If the receiver is gone, the answer is not needed.
            let _receiver_may_be_gone = local.answer.send(reply);
        }
    }

    /// Fills in the fields of a status that only the process knows.
    fn fill_status(&self, now: Time, status: &mut Status) {
        let peer_addresses = status.peers.iter_mut().map(|peer| (peer.node, &mut peer.address));
        let member_addresses = status.members.iter_mut().map(|member| (member.node, &mut member.address));
        for (id, address) in peer_addresses.chain(member_addresses) {
            if let Some(known_address) = NodeId::new(id).and_then(|member| self.net.address_of(member)) {
                known_address.clone_into(address);
            }
        }
        for peer in &mut status.peers {
            if let Some(why) = NodeId::new(peer.node).and_then(|id| self.net.rejection_reason(now, id)) {
                why.clone_into(&mut peer.uncounted);
            }
        }
        status.in_memory = self.options.in_memory;
        self.options.file_system.clone_into(&mut status.file_system);
        status.figures.turn_ns.clone_from(&self.iteration_durations);
        self.net.add_network_counters(&mut status.figures);
        let certificate_expiry = self.net.certificate_expiry();
        (status.certificate_expires, status.authority_expires) =
            (certificate_expiry.own_expires_at, certificate_expiry.authority_expires_at);
        status.machine = self.net.machine_kind().to_owned();
        let cpu_time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        status.cpu_ns = cpu_time.tv_sec as u64 * 1_000_000_000 + cpu_time.tv_nsec as u64;
        status.uptime_ms = now.since(Time::ZERO).as_millis() as u64;
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        status.version = format!("{} ({profile})", env!("CARGO_PKG_VERSION"));
    }

    fn handle_note(&mut self, now: Time, note: &Note) {
        let node = self.id.get();
        match note.level() {
            Level::Warn => log::warn!(node; "{note}"),
            Level::Info => log::info!(node; "{note}"),
            Level::Debug => log::debug!(node; "{note}"),
        }
        if let Note::ConfigurationInForce { membership, .. } = note {
            self.net.set_members(now, membership, self.node.raft().configuration_position());
            let mut status = Box::new(self.node.status(now));
            self.fill_status(now, &mut status);
            self.net.broadcast_status(&Reply::Status(status));
        }
    }

    /// Begins to stop: the node accepts no new requests and finishes those in progress.
    fn stop(&mut self, now: Time) {
        if self.stop_forced_at.is_none() {
            log::info!(node = self.id.get(); "stopping");
            self.stop_forced_at = Some(now + self.options.stop_grace_period);
            self.net.stop_listening();
            // Leadership is transferred first, so that the cluster need not wait for an election timeout.
            self.handle(now, Event::Stopping);
        }
    }

    fn is_finished(&mut self, now: Time) -> bool {
        let Some(stop_forced_at) = self.stop_forced_at else { return false };
        self.local_requests.retain(|_, local| local.deadline > now);
        let is_transferring = self.node.raft().transfer_target().is_some();
        let is_idle = self.local_requests.is_empty()
            && self.net.unanswered_requests() == 0
            && self.net.unwritten_bytes() == 0
            && !is_transferring;
        is_idle || stop_forced_at <= now
    }

    /// When a stopping node has to check again whether it is finished; `NEVER` if the node is not stopping.
    fn stop_deadline(&self) -> Time {
        let Some(stop_forced_at) = self.stop_forced_at else { return Time::NEVER };
        self.local_requests.values().map(|local| local.deadline).min().unwrap_or(Time::NEVER).min(stop_forced_at)
    }

    /// Waits for an event or the next deadline. After an iteration with work it busy-polls for a short while first.
    fn sleep(&mut self, had_work: bool) -> Result<(), ReactorError> {
        if self.net.has_events() {
            self.net.wait(Some(Duration::ZERO))?;
            return Ok(());
        }
        let work_due_at = if self.needs_turn || self.machine.has_work() { Time::ZERO } else { Time::NEVER };
        let deadline = self.node.deadline().min(self.net.deadline()).min(self.stop_deadline()).min(work_due_at);
        let deadline = deadline.min(self.leader_absence.deadline());
        if had_work && deadline > self.clock.now() && self.busy_poll_events()? {
            return Ok(());
        }
        self.net.waker().mark_sleeping();
        if self.inbox.has_message() || self.net.has_lookup_result() {
            self.net.waker().mark_awake();
            self.net.wait(Some(Duration::ZERO))?;
            return Ok(());
        }
        let timeout = (deadline < Time::NEVER).then(|| deadline.since(self.clock.now()));
        self.net.wait(timeout)?;
        self.net.waker().mark_awake();
        Ok(())
    }

    /// Busy-polls for events; returns whether there are any.
    fn busy_poll_events(&mut self) -> Result<bool, ReactorError> {
        let mut should_poll = self.busy_poll.begin();
        while should_poll {
            if self.net.wait(Some(Duration::ZERO))? || self.inbox.has_message() || self.net.has_lookup_result() {
                self.busy_poll.record_work();
                return Ok(true);
            }
            should_poll = self.busy_poll.should_continue();
        }
        Ok(false)
    }
}

fn payload_size(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Opaque(bytes) => bytes.len(),
        Payload::Noop | Payload::Membership(_) => 0,
    }
}
