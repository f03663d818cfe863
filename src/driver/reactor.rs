//! The event loop: it reads ready sockets, runs the node, and executes the node's actions.
//!
//! The loop batches. A wake-up with two hundred readable sockets leads to two hundred calls of `handle` and one of
//! `turn`: one write to the journal, one AppendEntries to each follower, one write to each socket with output.

use super::applying::Applying;
use super::busy_poll::BusyPoll;
use super::inbox::{Inbox, LoopMessage};
use super::leaderless::{self, Leaderless};
use super::leadership::Leadership;
use super::log_control::{self, LogControl};
use super::replaying::{ReplayEvent, Replaying};
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
const TURNS_MAX: usize = 16;
/// After this long the sockets are polled again, whatever work is left: a heartbeat may be due.
const TURNS_FOR: Duration = Duration::from_millis(5);
/// A wake-up that takes this long is logged at debug level.
const TURN_LONG: Duration = Duration::from_millis(10);
/// A wake-up that takes this long endangers the leadership; it is logged as a warning.
const TURN_SLOW: Duration = Duration::from_millis(100);
/// Before a batch of entries larger than this, in bytes, is applied, all pending output is written to the sockets.
const APPLY_QUICKLY: usize = 32 << 10;
/// The caller id of all threads that have a handle. No connection has this number.
const LOCAL: Caller = Caller::Client(u64::MAX);

/// How often, at most, the requests of local threads that have timed out are removed; checked at each new request.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// Options of the event loop.
#[derive(Clone, Debug)]
pub struct Options {
    /// Maximum time to busy-poll before sleeping. Zero disables it.
    pub look: Duration,
    /// At a stop, how long requests in progress may take to finish.
    pub grace: Duration,
    /// Whether the data directory is in memory (reported in `status`).
    pub in_memory: bool,
    /// The file system of the data directory (reported in `status`).
    pub file_system: &'static str,
    /// Changes the process's log level at a client's request. Without it such requests are refused.
    pub log_control: Option<LogControl>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            look: Duration::from_micros(60),
            grace: Duration::from_secs(5),
            in_memory: false,
            file_system: "",
            log_control: None,
        }
    }
}

/// Why the loop ended without being stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The journal failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Polling the sockets failed.
    #[error("cannot wait for sockets: {0}")]
    Poll(#[from] io::Error),
    /// A thread of the node has ended.
    #[error("the {0} thread has ended")]
    Gone(&'static str),
}

/// The event loop, with the node, the state machine and the sockets that it drives.
pub struct Reactor<M> {
    net: Net,
    node: Node,
    id: NodeId,
    machine: Applying<M>,
    journal: Sender<Task>,
    inbox: Inbox,
    options: Options,
    look: BusyPoll,
    clock: Clock,
    /// Requests of threads with a handle that are not answered yet, by request id.
    locals: BTreeMap<u64, Local>,
    next_local: u64,
    /// When requests that have timed out are removed from `locals` next.
    forget_at: Time,
    /// Set once the node is stopping: the deadline for everything in progress.
    stop_by: Option<Time>,
    actions: Vec<Action>,
    events: Vec<Event>,
    /// Whether the node has handled an event since its last `turn`. The loop must not sleep before the next `turn`: the
    /// node sets no timer for events that remain when the budget of a wake-up is used up.
    unturned: bool,
    /// Histogram of how long each iteration of the loop took.
    turns: Buckets,
    /// Whether there is no leader, and since when.
    leaderless: Leaderless,
    /// Progress of replaying the log found at startup, until all of it is applied.
    replaying: Option<Replaying>,
}

/// A request of a thread with a handle that waits for its answer.
struct Local {
    answer: Sender<Reply>,
    /// When the thread stops waiting. It sends no notice of that.
    until: Time,
}

/// The monotonic clock of the node and of the process.
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
    /// Creates the event loop of a node. `journal` is the queue of the log thread, which sends its reports to `inbox`.
    pub fn new(
        net: Net,
        node: Node,
        machine: Applying<M>,
        journal: Sender<Task>,
        inbox: Inbox,
        options: Options,
        clock: Clock,
    ) -> Reactor<M> {
        let (log, applied) = (node.raft().log(), machine.applied());
        let replaying = Replaying::new(log.last().index, log.bytes(applied, log.last().index));
        Reactor {
            id: node.raft().id(),
            net,
            node,
            machine,
            journal,
            inbox,
            look: BusyPoll::new(options.look),
            options,
            clock,
            locals: BTreeMap::new(),
            next_local: 0,
            forget_at: Time::ZERO,
            stop_by: None,
            actions: Vec::new(),
            events: Vec::new(),
            unturned: false,
            turns: Buckets::of_durations(),
            leaderless: Leaderless::default(),
            replaying,
        }
    }

    /// Runs until the node has stopped, or until a thread, the journal or polling fails. `rung` is called when the
    /// event source registered under the sockets' free token is ready; it returns true to stop the node.
    pub fn run(mut self, mut rung: impl FnMut() -> bool) -> Result<(), Broken> {
        self.net.set_members(self.clock.now(), self.node.membership(), self.node.raft().configured_at());
        loop {
            let now = self.clock.now();
            self.net.poll_io(now);
            if self.net.signalled() && rung() {
                self.stop(now);
            }
            self.drain_inbox(now)?;
            if let Some(event) = self.machine.continue_restore()? {
                self.handle(now, event);
            }
            let works = self.unturned || self.node.deadline() <= now || self.machine.has_work();
            if works {
                self.turn()?;
            }
            self.net.set_leader(self.node.raft().leader());
            self.publish_leadership();
            self.log_no_leader(now);
            self.net.flush(now);
            self.record_iteration(now);
            if self.is_finished(now) {
                return Ok(());
            }
            self.sleep(works)?;
        }
    }

    /// Passes an event to the node, and marks that the node needs a `turn` before the loop sleeps.
    fn handle(&mut self, now: Time, event: Event) {
        // The log level belongs to the process, not to the node. Peers never forward this request.
        if let Event::Request { from: from @ Caller::Client(_), id, request: Request::LogLevel(request), .. } = event {
            return self.reply(now, from, id, log_control::answer(self.options.log_control, request));
        }
        self.node.handle(now, event);
        self.unturned = true;
    }

    /// Passes the events of the sockets to the node.
    fn handle_net_events(&mut self, now: Time) {
        let mut events = std::mem::take(&mut self.events);
        self.net.events(&mut events);
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
        let waits = || self.stop_by.is_none() && raft.membership().members.contains_key(&self.id);
        let Some(since) = self.leaderless.update(now, raft.leader().is_some() || !waits()) else { return };
        let (mut heard, mut unheard) = (Vec::new(), Vec::new());
        for voter in raft.membership().all_voters().filter(|voter| *voter != self.id) {
            let (is_heard, words) = self.net.reach(now, voter);
            if is_heard { heard.push(words) } else { unheard.push(words) }
        }
        log::warn!(node = self.id.get(); "{}", leaderless::line(since, &heard, &unheard));
    }

    /// Records how long this iteration took, and logs a slow one: no request was answered and no heartbeat sent during
    /// it.
    fn record_iteration(&mut self, begun: Time) {
        let took = self.clock.now().since(begun);
        self.turns.took(took);
        if took >= TURN_SLOW {
            log::warn!(node = self.id.get(); "one iteration of the event loop took {} ms", took.as_millis());
        } else if took >= TURN_LONG {
            log::debug!(node = self.id.get(); "one iteration of the event loop took {} ms", took.as_millis());
        }
    }

    /// Passes the node the events of the sockets and the messages in the inbox.
    fn drain_inbox(&mut self, now: Time) -> Result<(), Broken> {
        self.handle_net_events(now);
        while let Some(message) = self.inbox.take() {
            match message {
                LoopMessage::Journal(report) => self.handle(now, Event::Journal(report)),
                LoopMessage::Request { request, answer, until } => {
                    let until = now + until.saturating_duration_since(Instant::now());
                    self.ask(now, request, Local { answer, until });
                }
                LoopMessage::Snapshot(done) => {
                    if let Some(event) = self.machine.done(done?) {
                        self.handle(now, event);
                    }
                }
                LoopMessage::Space { low } => {
                    self.log_disk_space(low);
                    self.handle(now, Event::Space { low });
                }
                LoopMessage::Credentials(fresh) => self.net.set_credentials(*fresh),
                LoopMessage::Stop => self.stop(now),
                LoopMessage::Gone(which) => return Err(Broken::Gone(which)),
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

    fn ask(&mut self, now: Time, request: Request, local: Local) {
        if self.stop_by.is_some() && request != Request::Status {
            // If the receiver is gone, the answer is not needed.
            let _taken_or_not = local.answer.send(Reply::Refused(Refusal::Stopping));
            return;
        }
        if self.forget_at <= now {
            self.forget_at = now + FORGET_EVERY;
            self.locals.retain(|_, local| local.until > now);
        }
        let id = self.next_local;
        self.next_local += 1;
        self.locals.insert(id, local);
        self.handle(now, Event::Request { from: LOCAL, id, forward: true, request });
    }

    /// Runs the node and executes its actions, and repeats while that produces more events, within the budget. If
    /// events are left when the budget is used up, `unturned` stays set.
    fn turn(&mut self) -> Result<(), Broken> {
        let begun = self.clock.now();
        for _ in 0..TURNS_MAX {
            let now = self.clock.now();
            self.unturned = false;
            self.node.turn(now, &mut self.actions);
            if self.actions.is_empty() && !self.machine.is_asked() {
                return Ok(());
            }
            let mut actions = std::mem::take(&mut self.actions);
            self.execute(now, &mut actions)?;
            self.actions = actions;
            self.net.pump_all(now);
            self.handle_net_events(now);
            if !(self.unturned || self.machine.is_asked()) || now.since(begun) >= TURNS_FOR {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Executes actions, the most urgent first: messages to peers, then writes to the journal, then replies.
    /// Applying comes last so that it does not delay an AppendEntries.
    fn execute(&mut self, now: Time, actions: &mut Vec<Action>) -> Result<(), Broken> {
        let mut writes = Vec::new();
        let mut batches = Vec::new();
        let mut release = None;
        for action in actions.drain(..) {
            match action {
                Action::Send(envelope) => self.net.send(envelope),
                Action::Forward { to, id, request } => self.net.forward(to, id, request),
                Action::Reply { to, id, reply } => self.reply(now, to, id, reply),
                Action::Write(write) => writes.push(write),
                Action::Note(note) => self.note(now, &note),
                Action::Stop(fault) => return Err(fault.into()),
                Action::Apply(entries) => batches.push(entries),
                Action::Query { ticket, query, time } => self.machine.ask(ticket, query, time),
                Action::TakeSnapshot { configured, membership } => {
                    if !self.machine.take(configured, membership) {
                        return Err(Broken::Gone("snapshot"));
                    }
                }
                Action::Inspect { follower, snapshot, times } => {
                    if !self.machine.inspect(follower, snapshot, times) {
                        return Err(Broken::Gone("snapshot"));
                    }
                }
                Action::StoreChunk { from, chunk } => {
                    if !self.machine.receive(from, chunk) {
                        return Err(Broken::Gone("snapshot"));
                    }
                }
                Action::CompactJournal(upto) => release = Some(upto),
            }
        }
        if !writes.is_empty() {
            self.net.flush_peers(now);
            for write in writes {
                self.journal.send(Task::Write(write)).map_err(|_| Broken::Gone("log"))?;
            }
        }
        if let Some(upto) = release {
            self.journal.send(Task::Release(upto)).map_err(|_| Broken::Gone("log"))?;
        }
        for entries in batches {
            self.apply(now, &entries);
        }
        let (node, unturned) = (&mut self.node, &mut self.unturned);
        self.machine.answer(|event| {
            node.handle(now, event);
            *unturned = true;
        });
        Ok(())
    }

    fn apply(&mut self, now: Time, entries: &[Entry]) {
        let bytes: usize = entries.iter().map(payload_size).sum();
        if bytes > APPLY_QUICKLY {
            self.net.flush(now);
        }
        let begun = self.replaying.as_ref().map(|_| self.clock.now());
        let report = self.machine.apply(entries);
        let now = self.clock.now();
        if let Some(begun) = begun {
            self.replayed(begun, now, entries);
        }
        self.handle(now, Event::Applied(report));
    }

    /// Reports progress after entries were applied, some of which may be from the log found at startup.
    fn replayed(&mut self, begun: Time, now: Time, entries: &[Entry]) {
        let last = self.node.raft().log().last().index;
        let told = self.replaying.as_mut().map_or(ReplayEvent::Nothing, |it| it.applied(begun, now, entries, last));
        let node = self.id.get();
        match told {
            ReplayEvent::Nothing => {}
            ReplayEvent::SoFar(line) => log::info!(node; "{line}"),
            ReplayEvent::Ended(line) => {
                log::info!(node; "{line}");
                self.replaying = None;
            }
        }
    }

    fn reply(&mut self, now: Time, to: Caller, id: u64, mut reply: Reply) {
        match &mut reply {
            Reply::Status(status) => self.complete(now, status),
            Reply::Refused(Refusal::NotLeader { leader: Some(leader), address, .. }) => {
                *address = self.net.place(*leader).map(str::to_owned).or_else(|| address.take());
            }
            _ => {}
        }
        if to != LOCAL {
            self.net.answer(now, to, id, reply);
        } else if let Some(local) = self.locals.remove(&id) {
            // If the receiver is gone, the answer is not needed.
            let _taken_or_not = local.answer.send(reply);
        }
    }

    /// Fills in the fields of a status that only the process knows.
    fn complete(&self, now: Time, status: &mut Status) {
        let peers = status.peers.iter_mut().map(|peer| (peer.node, &mut peer.address));
        let members = status.members.iter_mut().map(|member| (member.node, &mut member.address));
        for (id, address) in peers.chain(members) {
            if let Some(place) = NodeId::new(id).and_then(|member| self.net.place(member)) {
                place.clone_into(address);
            }
        }
        for peer in &mut status.peers {
            if let Some(why) = NodeId::new(peer.node).and_then(|id| self.net.why_unheard(now, id)) {
                why.clone_into(&mut peer.uncounted);
            }
        }
        status.in_memory = self.options.in_memory;
        self.options.file_system.clone_into(&mut status.file_system);
        status.figures.turn_ns.clone_from(&self.turns);
        self.net.complete(&mut status.figures);
        let validity = self.net.validity();
        (status.certificate_expires, status.authority_expires) = (validity.own, validity.authority);
        status.machine = self.net.machine().to_owned();
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        status.cpu_ns = cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64;
        status.uptime_ms = now.since(Time::ZERO).as_millis() as u64;
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        status.version = format!("{} ({profile})", env!("CARGO_PKG_VERSION"));
    }

    fn note(&mut self, now: Time, note: &Note) {
        let node = self.id.get();
        match note.level() {
            Level::Warn => log::warn!(node; "{note}"),
            Level::Info => log::info!(node; "{note}"),
            Level::Debug => log::debug!(node; "{note}"),
        }
        if let Note::Configured { membership, .. } = note {
            self.net.set_members(now, membership, self.node.raft().configured_at());
            let mut status = Box::new(self.node.status(now));
            self.complete(now, &mut status);
            self.net.announce(&Reply::Status(status));
        }
    }

    /// Begins to stop: the node accepts no new requests and finishes those in progress.
    fn stop(&mut self, now: Time) {
        if self.stop_by.is_none() {
            log::info!(node = self.id.get(); "stopping");
            self.stop_by = Some(now + self.options.grace);
            self.net.stop_listening();
            // Leadership is transferred first, so that the cluster need not wait for an election timeout.
            self.handle(now, Event::Stopping);
        }
    }

    fn is_finished(&mut self, now: Time) -> bool {
        let Some(stop_by) = self.stop_by else { return false };
        self.locals.retain(|_, local| local.until > now);
        let hands_over = self.node.raft().transfer_target().is_some();
        let idle = self.locals.is_empty() && self.net.unanswered() == 0 && self.net.unwritten() == 0 && !hands_over;
        idle || stop_by <= now
    }

    /// When a stopping node has to check again whether it is finished.
    fn end(&self) -> Time {
        let Some(stop_by) = self.stop_by else { return Time::NEVER };
        self.locals.values().map(|local| local.until).min().unwrap_or(Time::NEVER).min(stop_by)
    }

    /// Waits for an event or the next deadline. After an iteration with work it busy-polls for a short while first.
    fn sleep(&mut self, worked: bool) -> Result<(), Broken> {
        if self.net.has_events() {
            self.net.wait(Some(Duration::ZERO))?;
            return Ok(());
        }
        let work = if self.unturned || self.machine.has_work() { Time::ZERO } else { Time::NEVER };
        let deadline = self.node.deadline().min(self.net.deadline()).min(self.end()).min(work);
        let deadline = deadline.min(self.leaderless.deadline());
        if worked && deadline > self.clock.now() && self.look()? {
            return Ok(());
        }
        self.net.waker().sleeping();
        if self.inbox.has_message() || self.net.has_mail() {
            self.net.waker().awake();
            self.net.wait(Some(Duration::ZERO))?;
            return Ok(());
        }
        let timeout = (deadline < Time::NEVER).then(|| deadline.since(self.clock.now()));
        self.net.wait(timeout)?;
        self.net.waker().awake();
        Ok(())
    }

    /// Busy-polls for events; returns whether there are any.
    fn look(&mut self) -> Result<bool, Broken> {
        let mut looks = self.look.begin();
        while looks {
            if self.net.wait(Some(Duration::ZERO))? || self.inbox.has_message() || self.net.has_mail() {
                self.look.found();
                return Ok(true);
            }
            looks = self.look.goes_on();
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
