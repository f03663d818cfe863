//! The requests of one gateway connection: answered in order, executed once, and retried when they are lost.
//!
//! Commands of one connection take effect in order. Reads wait until all writes before them are answered, and writes
//! until all reads before them are; within a run of reads or of writes, many are in flight. The session is ordered
//! ([`Op::Open`]): the cluster executes a write only after all writes before it, whichever proposals were lost or
//! repeated. A write that was lost, or arrived out of order, is proposed again under its number once nothing is in
//! flight. A write is answered *unknown* only when [`PATIENCE`] has run out while an attempt may be in a log. The next
//! write then raises the session's first outstanding number above it, after which it can never execute. Each gateway
//! encodes the replies itself.

use crate::api::figures::{Failure, RequestError};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::limits::SESSION_WINDOW_MAX;
use crate::types::{SessionId, Time};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Duration;

/// How many commands may be queued for their counts to be taken again after each change, in builds with debug
/// assertions.
const COUNTED_MAX: usize = 64;

/// Maximum commands waiting for answers. At this number the connection is not read from.
pub const COMMANDS_MAX: usize = SESSION_WINDOW_MAX as usize;
/// Maximum bytes of the waiting commands, likewise.
pub const BYTES_MAX: usize = 4 << 20;
/// Maximum reads in flight: the answer to each may be long.
pub const READS_MAX: usize = 30;
/// How long a command is retried. Then it is answered with what is known of it.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a retry.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The session of a connection, opened for its first write. A connection that only reads needs none, and a session
/// costs an entry in the log and a place in a table of bounded size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PipelineSession {
    /// Not open.
    None,
    /// Requested from the cluster.
    Opening,
    /// Open, with the sequence number of the next command.
    Open(SessionId, u64),
}

/// A request of a gateway connection to the node.
#[derive(Debug)]
pub enum NodeRequest {
    /// Opens an ordered session.
    Session,
    /// A request whose answer is expected under that number.
    Answer(u64, Request),
}

/// The kind of a request.
#[derive(Debug)]
pub enum RequestKind {
    /// A write, with its session and sequence number once assigned.
    Write(Option<(SessionId, u64)>),
    /// A read.
    Read(Consistency),
    /// The status of the node.
    Status,
    /// The status of the node, stored here once it is known, followed by a local read.
    StatusAnd(Option<Box<Status>>),
}

/// A request that is not answered yet. `R` is what its gateway needs to encode the answer.
#[derive(Debug)]
pub struct PendingRequest<R> {
    /// The kind of request.
    pub kind: RequestKind,
    /// The command or query for the state machine.
    pub body: Bytes,
    /// How the answer is encoded.
    pub format: R,
    /// When the request was received.
    since: Time,
    /// Whether an attempt is in flight. One at a time: a second attempt under the same number would be harmless, but
    /// its reply could not be told from that of the first.
    asked: bool,
    /// Whether an earlier attempt may be in a log. From then on *refused* is no answer: that attempt may still execute.
    maybe_logged: bool,
    /// Why the last attempt was refused.
    refusal: Option<Refusal>,
}

/// The result of a request.
#[derive(Debug)]
pub enum RequestFate<'a> {
    /// The state machine's answer.
    Answer(Bytes),
    /// The command was executed, and the state machine's answer exceeds the maximum size.
    TooLong,
    /// The status of the node.
    Status(Box<Status>),
    /// The request had no effect, for this reason.
    Refused(&'a Refusal),
    /// The request may have taken effect, or may yet.
    Unknown,
    /// An answer of the wrong kind: a bug in this node, or in a node of another version.
    OutOfTurn(&'static str),
}

/// Encodes the result of a request in a gateway's protocol.
pub type ReplyEncoder<'a, R> = dyn FnMut(&PendingRequest<R>, RequestFate<'_>) -> BytesMut + 'a;

/// One command, in the order in which replies are sent.
#[derive(Debug)]
enum Slot<R> {
    /// The reply is known.
    Said(BytesMut),
    /// The reply is not known yet.
    Waits(Box<PendingRequest<R>>),
}

impl<R> PendingRequest<R> {
    /// A request received at `now`.
    pub fn new(now: Time, kind: RequestKind, body: Bytes, reading: R) -> PendingRequest<R> {
        PendingRequest { kind, body, format: reading, since: now, asked: false, maybe_logged: false, refusal: None }
    }

    fn is_write(&self) -> bool {
        matches!(self.kind, RequestKind::Write(_))
    }

    /// Whether to propose the request again after that refusal. If an earlier attempt may be in a log, temporary
    /// refusals are retried too: only an answer under the same number shows the outcome of that attempt.
    fn retries(&self, refusal: &Refusal) -> bool {
        match refusal {
            Refusal::NotLeader { .. } | Refusal::Busy | Refusal::Stopping => true,
            // The request has already waited as long as a request may wait for a leader.
            Refusal::NoLeader | Refusal::NoSpace | Refusal::NotMember { .. } => self.maybe_logged,
            _ => false,
        }
    }

    /// Whether the request had no effect, and has waited as long as a request may wait for a leader.
    fn is_hopeless(&self) -> bool {
        !self.maybe_logged && self.refusal == Some(Refusal::NoLeader)
    }

    /// Encodes the request for the node. `lowest` is the lowest sequence number in the session that is still awaited.
    fn request(&self, lowest: u64) -> Request {
        match &self.kind {
            RequestKind::Write(number) => {
                let (session, seq) = number.expect("a write has a sequence number before it is sent");
                let op = Op::Execute { session, seq, first_outstanding: lowest.min(seq), command: self.body.clone() };
                Request::Propose { op: op.encode() }
            }
            RequestKind::Read(consistency) => Request::Query { query: self.body.clone(), consistency: *consistency },
            RequestKind::Status | RequestKind::StatusAnd(None) => Request::Status,
            RequestKind::StatusAnd(Some(_)) => {
                Request::Query { query: self.body.clone(), consistency: Consistency::Local }
            }
        }
    }
}

/// Counts of requests and failures since the last collection, for statistics over all connections.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests, including those answered at once.
    pub requests: u32,
    /// Writes among them.
    pub writes: u32,
    /// Reads among them.
    pub reads: u32,
    /// Requests that failed.
    pub failures: Vec<Failure>,
}

/// The requests of one connection.
///
/// Invariants: the command in front is unanswered, or the queue is empty; `bytes` is the size of the queued commands
/// and replies; `in_flight` is the number of commands in flight.
#[derive(Debug)]
pub struct RequestPipeline<R> {
    /// No more requests are read. The connection closes once everything is answered.
    pub leaving: bool,
    /// Counts since they were last collected.
    pub tally: Tally,
    session: PipelineSession,
    slots: VecDeque<Slot<R>>,
    /// The number of the front command.
    front: u64,
    bytes: usize,
    in_flight: usize,
    /// A request has to be retried. Nothing is proposed until all requests in flight have returned: the retried one
    /// must come before those behind it, and the session executes them in the order of their numbers.
    retry_pending: bool,
    again_at: Time,
}

impl<R> Default for RequestPipeline<R> {
    fn default() -> RequestPipeline<R> {
        RequestPipeline {
            leaving: false,
            tally: Tally::default(),
            session: PipelineSession::None,
            slots: VecDeque::new(),
            front: 0,
            bytes: 0,
            in_flight: 0,
            retry_pending: false,
            again_at: Time::NEVER,
        }
    }
}

impl<R> RequestPipeline<R> {
    /// How many commands wait for their replies.
    pub fn waiting(&self) -> usize {
        self.slots.len()
    }

    /// Size of the waiting requests, and of the replies behind them, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether so much is queued that the connection should not be read from.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= COMMANDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Frees the queue's memory if it is empty.
    pub fn rest(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }

    /// The session, if one is open.
    pub fn session(&self) -> Option<SessionId> {
        match self.session {
            PipelineSession::Open(id, _) => Some(id),
            PipelineSession::None | PipelineSession::Opening => None,
        }
    }

    /// When [`RequestPipeline::pump`] is due even without an event.
    pub fn deadline(&self) -> Time {
        self.again_at
    }

    /// Adds a reply that is known, behind the commands before it.
    pub fn push_reply(&mut self, out: &mut BytesMut, said: BytesMut) {
        if self.slots.is_empty() {
            out.extend_from_slice(&said);
        } else {
            self.bytes += said.len();
            self.slots.push_back(Slot::Said(said));
        }
        self.check();
    }

    /// Adds a command that the node has to answer.
    pub fn push_request(&mut self, pending: PendingRequest<R>) {
        match pending.kind {
            RequestKind::Write(_) => self.tally.writes += 1,
            RequestKind::Read(_) => self.tally.reads += 1,
            RequestKind::Status | RequestKind::StatusAnd(_) => {}
        }
        self.bytes += pending.body.len();
        self.slots.push_back(Slot::Waits(Box::new(pending)));
        self.check();
    }

    /// Writes the replies that are due to `out`, and adds the requests to send now to `wants`. `rests` is whether the
    /// client has too much output to read.
    pub fn pump(
        &mut self,
        now: Time,
        out: &mut BytesMut,
        rests: bool,
        wants: &mut Vec<NodeRequest>,
        tell: &mut ReplyEncoder<'_, R>,
    ) {
        if self.retry_pending && self.in_flight == 0 && self.again_at == Time::NEVER {
            self.again_at = now + RETRY_INTERVAL;
        }
        if self.retry_pending && self.in_flight == 0 && self.again_at <= now {
            self.leave_expired_session(tell);
            self.give_up_overdue(now, tell);
            (self.retry_pending, self.again_at) = (false, Time::NEVER);
        }
        self.emit(out);
        if !rests && !self.retry_pending {
            self.ask(wants);
        }
        let answered = matches!(self.slots.front(), Some(Slot::Said(_)));
        assert!(!answered, "a reply leaves as soon as all replies before it have left");
        self.check();
    }

    /// Panics if the counts disagree with the queue.
    ///
    /// A lost command in flight would hold back every later retry, and a byte too many would stop reading from the
    /// connection for good: both look like a slow cluster from outside.
    fn check(&self) {
        let len = self.slots.len();
        assert!(self.in_flight <= len, "only queued commands are in flight");
        assert!(len > 0 || self.bytes == 0, "an empty queue holds no bytes");
        let known = len <= COUNTED_MAX;
        let asked = |slot: &&Slot<R>| matches!(slot, Slot::Waits(pending) if pending.asked);
        debug_assert!(
            !known || self.slots.iter().filter(asked).count() == self.in_flight,
            "in flight is what was sent"
        );
        let size = |slot: &Slot<R>| match slot {
            Slot::Said(said) => said.len(),
            Slot::Waits(pending) => pending.body.len(),
        };
        let sum = || self.slots.iter().map(size).sum::<usize>();
        debug_assert!(!known || sum() == self.bytes, "the bytes are those of the queued commands and replies");
    }

    /// Writes the known replies up to the first unanswered command. The protocols have no ids: a client matches replies
    /// to requests by their order alone.
    fn emit(&mut self, out: &mut BytesMut) {
        while let Some(Slot::Said(_)) = self.slots.front() {
            if let Some(Slot::Said(said)) = self.slots.pop_front() {
                self.front += 1;
                self.bytes -= said.len();
                out.extend_from_slice(&said);
            }
        }
    }

    /// Adds the requests that may be sent now, in order.
    ///
    /// A run of writes needs no waiting between them, since the ordered session keeps their order even if one is lost.
    /// A read behind a write must wait for its reply: the read is answered from a state of its own choice, which need
    /// not hold a write that is still under way.
    fn ask(&mut self, wants: &mut Vec<NodeRequest>) {
        let mut lowest = None;
        let mut writes = None;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Slot::Waits(pending) = slot else { continue };
            let write = pending.is_write();
            // Reads wait for the writes before them, and writes for the reads before them.
            if writes.is_some_and(|writes| writes != write) {
                return;
            }
            writes = Some(write);
            if pending.asked {
                if let RequestKind::Write(Some((_, seq))) = pending.kind {
                    lowest = lowest.or(Some(seq));
                }
                continue;
            }
            if !write && self.in_flight >= READS_MAX {
                return;
            }
            if let RequestKind::Write(number) = &mut pending.kind {
                match &mut self.session {
                    PipelineSession::None => {
                        self.session = PipelineSession::Opening;
                        return wants.push(NodeRequest::Session);
                    }
                    PipelineSession::Opening => return,
                    PipelineSession::Open(id, next) => {
                        let (_, seq) = *number.get_or_insert_with(|| {
                            *next += 1;
                            (*id, *next - 1)
                        });
                        lowest = lowest.or(Some(seq));
                    }
                }
            }
            pending.asked = true;
            self.in_flight += 1;
            wants.push(NodeRequest::Answer(self.front + at as u64, pending.request(lowest.unwrap_or(1))));
        }
    }

    /// The session was opened, or was refused for that reason, without effect. (If the answer was lost, the next
    /// attempt opens another session, and the first expires unused.)
    pub fn opened(&mut self, now: Time, opened: Result<SessionId, Option<Refusal>>) {
        match opened {
            Ok(id) => self.session = PipelineSession::Open(id, 1),
            Err(refusal) => {
                self.session = PipelineSession::None;
                for slot in &mut self.slots {
                    if let Slot::Waits(pending) = slot
                        && pending.is_write()
                        && !pending.asked
                    {
                        pending.refusal.clone_from(&refusal);
                    }
                }
                self.retry_pending = true;
                self.again_at = now + RETRY_INTERVAL;
            }
        }
    }

    /// Handles the node's answer to the request of that number. An answer to a command that is not in flight is
    /// ignored.
    pub fn handle_reply(&mut self, number: u64, reply: Reply, tell: &mut ReplyEncoder<'_, R>) {
        let Some(at) = number.checked_sub(self.front).map(|at| at as usize) else { return };
        let Some(Slot::Waits(pending)) = self.slots.get_mut(at) else { return };
        if !std::mem::take(&mut pending.asked) {
            return;
        }
        self.in_flight -= 1;
        let fate = match reply {
            Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } => RequestFate::Answer(answer),
            Reply::Done { outcome: Outcome::AnswerTooLong, .. } => RequestFate::TooLong,
            // This attempt executed nothing, but an earlier one still may: the number is proposed again in order.
            Reply::Done { outcome: Outcome::OutOfOrder, .. } => return self.retry_pending = true,
            Reply::Done { outcome: Outcome::SessionExpired, .. } => {
                if let (RequestKind::Write(Some((gone, _))), PipelineSession::Open(id, _)) =
                    (&pending.kind, self.session)
                    && *gone == id
                {
                    self.session = PipelineSession::None;
                }
                return self.retry_pending = true;
            }
            Reply::Done { .. } => RequestFate::OutOfTurn("the cluster"),
            Reply::Answer { answer, .. } => RequestFate::Answer(answer),
            Reply::Status(status) => match &mut pending.kind {
                RequestKind::StatusAnd(known) => {
                    *known = Some(status);
                    return;
                }
                _ => RequestFate::Status(status),
            },
            Reply::Unknown => {
                pending.maybe_logged = true;
                return self.retry_pending = true;
            }
            Reply::Refused(refusal) if pending.retries(&refusal) => {
                pending.refusal = Some(refusal);
                return self.retry_pending = true;
            }
            Reply::Refused(_) if pending.maybe_logged => RequestFate::Unknown,
            Reply::Refused(refusal) => {
                self.tally.failures.push(Failure::Refused(refusal.name()));
                let said = tell(pending, RequestFate::Refused(&refusal));
                return self.complete(at, said);
            }
            _ => RequestFate::OutOfTurn("the node"),
        };
        self.tally.failures.extend(failure(&fate));
        let said = tell(pending, fate);
        self.complete(at, said);
    }

    /// Stores the reply to a command. Its body is freed: it is not sent again.
    fn complete(&mut self, at: usize, said: BytesMut) {
        self.bytes += said.len();
        if let Slot::Waits(pending) = std::mem::replace(&mut self.slots[at], Slot::Said(said)) {
            self.bytes -= pending.body.len();
        }
        self.check();
    }

    /// Handles writes that were proposed in a session that has expired. None of them can execute any more. A write
    /// without an attempt in a log gets a number in the next session, in the same order; the outcome of any other is
    /// unknown.
    fn leave_expired_session(&mut self, tell: &mut ReplyEncoder<'_, R>) {
        let current = self.session();
        for at in 0..self.slots.len() {
            let Slot::Waits(pending) = &mut self.slots[at] else { continue };
            let RequestKind::Write(number) = &mut pending.kind else { continue };
            if number.is_none_or(|(session, _)| Some(session) == current) {
                continue;
            }
            *number = None;
            if pending.maybe_logged {
                self.give_up(at, tell);
            }
        }
    }

    /// Answers requests that have been retried for long enough. These are the oldest: every remaining write has a
    /// higher number and raises the first outstanding number above them.
    fn give_up_overdue(&mut self, now: Time, tell: &mut ReplyEncoder<'_, R>) {
        for at in 0..self.slots.len() {
            if let Slot::Waits(pending) = &self.slots[at]
                && (now.since(pending.since) >= PATIENCE || pending.is_hopeless())
            {
                self.give_up(at, tell);
            }
        }
    }

    fn give_up(&mut self, at: usize, tell: &mut ReplyEncoder<'_, R>) {
        let Slot::Waits(pending) = &self.slots[at] else { return };
        assert!(!pending.asked, "no outcome is settled while an attempt is in flight: its reply may tell more");
        let fate = match &pending.refusal {
            _ if pending.maybe_logged => RequestFate::Unknown,
            Some(refusal) => RequestFate::Refused(refusal),
            None => RequestFate::Refused(&Refusal::NoLeader),
        };
        self.tally.failures.extend(failure(&fate));
        let said = tell(pending, fate);
        self.complete(at, said);
    }
}

/// The failure that a result counts as, if it is one.
fn failure(fate: &RequestFate<'_>) -> Option<Failure> {
    match fate {
        RequestFate::Answer(_) | RequestFate::Status(_) => None,
        RequestFate::Refused(refusal) => Some(Failure::Refused(refusal.name())),
        RequestFate::Unknown => Some(Failure::Wrong(RequestError::UnknownOutcome)),
        RequestFate::TooLong | RequestFate::OutOfTurn(_) => Some(Failure::Wrong(RequestError::Answer)),
    }
}
