//! The requests of one gateway connection: answered in order, executed once, and retried when they are lost.
//!
//! Commands of one connection take effect in order. Reads wait until all writes before them are answered, and writes
//! until all reads before them are; within a run of reads or of writes, many are in flight. The session is ordered
//! ([`Op::Open`]): the cluster executes a write only after all writes before it, whichever proposals were lost or
//! repeated. A write that was lost, or arrived out of order, is proposed again under its number once no request is in
//! flight. A write is answered *unknown* only if an attempt may be in a log when [`RETRY_TIMEOUT`] has passed. The next
//! write then raises the session's first outstanding number above it, after which it can never execute. Each gateway
//! encodes the replies itself.

use crate::api::figures::{Failure, RequestError};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::limits::SESSION_WINDOW_MAX;
use crate::types::{SessionId, Time};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Duration;

/// The longest queue whose counters are compared with its commands after each change, in builds with debug assertions.
/// Recounting a longer queue at each change would make tests quadratic.
const CHECKED_QUEUE_LENGTH_MAX: usize = 64;

/// Maximum commands that wait for their replies. At this number no more commands are read from the connection.
pub const QUEUED_COMMANDS_MAX: usize = SESSION_WINDOW_MAX as usize;
/// Maximum bytes of the queued commands and replies of a connection. At this size no more commands are read from it.
pub const QUEUED_BYTES_MAX: usize = 4 << 20;
/// Maximum reads of a connection in flight at the node: the answer to each may be long.
pub const READS_IN_FLIGHT_MAX: usize = 30;
/// How long a command is retried. After that it is answered *unknown* if an attempt may be in a log, otherwise refused.
pub const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before a request is retried.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The session of a connection, which its first write opens. A connection that only reads opens none: a session costs
/// an entry in the log, and counts against the limit of open sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PipelineSession {
    /// No session is open, and none was requested.
    None,
    /// A session was requested, and the cluster has not answered yet.
    Opening,
    /// The open session, and the sequence number of the next command in it.
    Open(SessionId, u64),
}

/// What a gateway connection needs from the node now.
#[derive(Debug)]
pub enum NodeRequest {
    /// An ordered session is to be opened. [`RequestPipeline::handle_session_opened`] receives the result.
    OpenSession,
    /// This request is to be sent. [`RequestPipeline::handle_reply`] receives the reply, under the same number.
    Send(u64, Request),
}

/// The kind of a request, which decides what is sent to the node, and whether the request waits for the requests before
/// it.
#[derive(Debug)]
pub enum RequestKind {
    /// A write, with its session and sequence number once they are assigned.
    Write(Option<(SessionId, u64)>),
    /// A query of the state machine.
    Read(Consistency),
    /// A request for the status of the node.
    Status,
    /// A request for the status of the node, which is stored here, followed by a local read.
    StatusThenRead(Option<Box<Status>>),
}

/// A request that is not answered yet. `R` is what its gateway needs to encode the answer.
#[derive(Debug)]
pub struct PendingRequest<R> {
    /// Whether the request is a write, a read or a request for the status, and how far it has come.
    pub kind: RequestKind,
    /// The command or query for the state machine; empty if there is none.
    pub body: Bytes,
    /// What the gateway needs to encode the answer, such as the protocol version.
    pub format: R,
    /// When the request was received: it is retried until [`RETRY_TIMEOUT`] after that.
    received_at: Time,
    /// Whether an attempt is in flight. Only one attempt may be: a second attempt under the same number would be
    /// harmless, but its reply could not be told from that of the first.
    in_flight: bool,
    /// Whether an earlier attempt may be in a log. From then on *refused* is no answer: that attempt may still execute.
    maybe_logged: bool,
    /// Why the last refused attempt was refused; `None` if none was.
    refusal: Option<Refusal>,
}

/// The result of a request, as its gateway has to report it to the client.
#[derive(Debug)]
pub enum RequestFate<'a> {
    /// The state machine's answer.
    Answer(Bytes),
    /// The command was executed, and the state machine's answer exceeds the maximum size.
    AnswerTooLong,
    /// The node's status, which the client requested.
    Status(Box<Status>),
    /// The request had no effect, for this reason.
    Refused(&'a Refusal),
    /// The request may have taken effect, or may still take effect.
    Unknown,
    /// A reply of the wrong kind, and which side sent it: a bug in this node, or in a node of another version.
    UnexpectedReply(&'static str),
}

/// Encodes the result of a request in a gateway's protocol.
pub type ReplyEncoder<'a, R> = dyn FnMut(&PendingRequest<R>, RequestFate<'_>) -> BytesMut + 'a;

/// One command in the queue. The order of the queue is the order in which replies are sent.
#[derive(Debug)]
enum Slot<R> {
    /// The encoded reply, which waits for the replies before it.
    Reply(BytesMut),
    /// A command without a reply yet.
    Pending(Box<PendingRequest<R>>),
}

impl<R> PendingRequest<R> {
    /// Creates a request received at `now`, not yet sent to the node.
    pub fn new(now: Time, kind: RequestKind, body: Bytes, format: R) -> PendingRequest<R> {
        PendingRequest { kind, body, format, received_at: now, in_flight: false, maybe_logged: false, refusal: None }
    }

    fn is_write(&self) -> bool {
        matches!(self.kind, RequestKind::Write(_))
    }

    /// Whether to propose the request again after `refusal`. If an earlier attempt may be in a log, temporary
    /// refusals are retried too: only an answer under the same number shows the outcome of that attempt.
    fn should_retry(&self, refusal: &Refusal) -> bool {
        match refusal {
            Refusal::NotLeader { .. } | Refusal::Busy | Refusal::Stopping => true,
            // The request has already waited as long as a request may wait for a leader.
            Refusal::NoLeader | Refusal::NoSpace | Refusal::NotMember { .. } => self.maybe_logged,
            _ => false,
        }
    }

    /// Whether the request had no effect, and has waited as long as a request may wait for a leader.
    fn found_no_leader(&self) -> bool {
        !self.maybe_logged && self.refusal == Some(Refusal::NoLeader)
    }

    /// Encodes the request for the node. `first_outstanding` is the lowest sequence number in the session whose answer
    /// is still awaited.
    fn to_request(&self, first_outstanding: u64) -> Request {
        match &self.kind {
            RequestKind::Write(number) => {
                let (session, seq) = number.expect("a write has a sequence number before it is sent");
                let op = Op::Execute {
                    session,
                    seq,
                    first_outstanding: first_outstanding.min(seq),
                    command: self.body.clone(),
                };
                Request::Propose { op: op.encode() }
            }
            RequestKind::Read(consistency) => Request::Query { query: self.body.clone(), consistency: *consistency },
            RequestKind::Status | RequestKind::StatusThenRead(None) => Request::Status,
            RequestKind::StatusThenRead(Some(_)) => {
                Request::Query { query: self.body.clone(), consistency: Consistency::Local }
            }
        }
    }
}

/// Counts of requests and failures since the last collection, for the counters of the whole gateway.
#[derive(Debug, Default)]
pub struct RequestTally {
    /// All requests received, including those that need no answer of the node.
    pub requests: u32,
    /// Requests that go through the log.
    pub writes: u32,
    /// Requests that query the state machine.
    pub reads: u32,
    /// The failed requests, each with its reason.
    pub failures: Vec<Failure>,
}

/// The requests of one gateway connection, in the order in which they were received.
///
/// Invariants: the command in front is unanswered, or the queue is empty; `queued_bytes` is the size of the queued
/// commands and replies; `requests_in_flight` is the number of requests in flight.
#[derive(Debug)]
pub struct RequestPipeline<R> {
    /// Whether the connection closes once all queued requests are answered. No more requests are read then.
    pub closes_when_empty: bool,
    /// The counts of this connection since the gateway last collected them.
    pub tally: RequestTally,
    session: PipelineSession,
    slots: VecDeque<Slot<R>>,
    /// The number of the slot in front; the slots of a connection are numbered from 0.
    front_slot_number: u64,
    queued_bytes: usize,
    requests_in_flight: usize,
    /// Whether a request has to be retried. No request is sent until all requests in flight have returned: the retried
    /// request must come before those behind it, and the session executes them in the order of their numbers.
    retry_pending: bool,
    /// When the retry is sent; `NEVER` while requests are in flight, and if no retry is pending.
    retry_at: Time,
}

impl<R> Default for RequestPipeline<R> {
    fn default() -> RequestPipeline<R> {
        RequestPipeline {
            closes_when_empty: false,
            tally: RequestTally::default(),
            session: PipelineSession::None,
            slots: VecDeque::new(),
            front_slot_number: 0,
            queued_bytes: 0,
            requests_in_flight: 0,
            retry_pending: false,
            retry_at: Time::NEVER,
        }
    }
}

impl<R> RequestPipeline<R> {
    /// Number of queued commands, including answered ones whose reply waits for the replies before it.
    pub fn queued_commands(&self) -> usize {
        self.slots.len()
    }

    /// Size of the queued requests and replies, in bytes.
    pub fn bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether so much is queued that no more commands should be read from the connection.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= QUEUED_COMMANDS_MAX || self.queued_bytes >= QUEUED_BYTES_MAX
    }

    /// Frees the queue's memory if it is empty: an idle connection should hold none.
    pub fn free_empty_queue(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }

    /// The connection's session, if it is open.
    pub fn session(&self) -> Option<SessionId> {
        match self.session {
            PipelineSession::Open(id, _) => Some(id),
            PipelineSession::None | PipelineSession::Opening => None,
        }
    }

    /// When [`RequestPipeline::pump`] is due even without an event.
    pub fn deadline(&self) -> Time {
        self.retry_at
    }

    /// Adds the reply to a command that needs no answer of the node. It is written at once if no command waits.
    pub fn push_reply(&mut self, out: &mut BytesMut, reply: BytesMut) {
        if self.slots.is_empty() {
            out.extend_from_slice(&reply);
        } else {
            self.queued_bytes += reply.len();
            self.slots.push_back(Slot::Reply(reply));
        }
        self.check();
    }

    /// Adds a command that the node has to answer. [`RequestPipeline::pump`] sends it.
    pub fn push_request(&mut self, pending: PendingRequest<R>) {
        match pending.kind {
            RequestKind::Write(_) => self.tally.writes += 1,
            RequestKind::Read(_) => self.tally.reads += 1,
            RequestKind::Status | RequestKind::StatusThenRead(_) => {}
        }
        self.queued_bytes += pending.body.len();
        self.slots.push_back(Slot::Pending(Box::new(pending)));
        self.check();
    }

    /// Writes to `out` the replies that have no unanswered command before them, and adds the requests to send now to
    /// `requests`. None are added while `is_output_full`: the client is slow to read the replies that it has.
    pub fn pump(
        &mut self,
        now: Time,
        out: &mut BytesMut,
        is_output_full: bool,
        requests: &mut Vec<NodeRequest>,
        encode: &mut ReplyEncoder<'_, R>,
    ) {
        if self.retry_pending && self.requests_in_flight == 0 && self.retry_at == Time::NEVER {
            self.retry_at = now + RETRY_INTERVAL;
        }
        if self.retry_pending && self.requests_in_flight == 0 && self.retry_at <= now {
            self.handle_expired_session(encode);
            self.fail_timed_out(now, encode);
            (self.retry_pending, self.retry_at) = (false, Time::NEVER);
        }
        self.write_replies(out);
        if !is_output_full && !self.retry_pending {
            self.collect_requests(requests);
        }
        let is_replied = matches!(self.slots.front(), Some(Slot::Reply(_)));
        assert!(
            !is_replied,
            "no reply waits in front of the queue: a reply is written once all replies before it are written"
        );
        self.check();
    }

    /// Panics if the counts disagree with the queue.
    ///
    /// A request that stays counted as in flight would hold back every later retry. A byte that stays counted would
    /// stop the reading from the connection for good. To the client both look like a slow cluster.
    fn check(&self) {
        let len = self.slots.len();
        assert!(self.requests_in_flight <= len, "there are at most as many requests in flight as queued commands");
        assert!(len > 0 || self.queued_bytes == 0, "the byte counter of an empty queue is zero");
        let is_small = len <= CHECKED_QUEUE_LENGTH_MAX;
        let is_in_flight = |slot: &&Slot<R>| matches!(slot, Slot::Pending(pending) if pending.in_flight);
        debug_assert!(
            !is_small || self.slots.iter().filter(is_in_flight).count() == self.requests_in_flight,
            "the counter of requests in flight equals the number of queued requests that are in flight"
        );
        let slot_bytes = |slot: &Slot<R>| match slot {
            Slot::Reply(reply) => reply.len(),
            Slot::Pending(pending) => pending.body.len(),
        };
        let total_bytes = || self.slots.iter().map(slot_bytes).sum::<usize>();
        debug_assert!(
            !is_small || total_bytes() == self.queued_bytes,
            "the byte counter equals the total size of the queued commands and replies"
        );
    }

    /// Writes the known replies up to the first unanswered command. The protocols have no ids: a client matches replies
    /// to requests by their order alone.
    fn write_replies(&mut self, out: &mut BytesMut) {
        while let Some(Slot::Reply(_)) = self.slots.front() {
            if let Some(Slot::Reply(reply)) = self.slots.pop_front() {
                self.front_slot_number += 1;
                self.queued_bytes -= reply.len();
                out.extend_from_slice(&reply);
            }
        }
    }

    /// Adds the requests that may be sent now, in order.
    ///
    /// Writes in a row are sent without waiting, since the ordered session keeps their order even if one is lost. A
    /// read behind a write must wait for the write's reply: the state that answers the read need not contain a write
    /// that is still under way.
    fn collect_requests(&mut self, requests: &mut Vec<NodeRequest>) {
        let mut first_outstanding = None;
        let mut previous_is_write = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Slot::Pending(pending) = slot else { continue };
            let is_write = pending.is_write();
            // Reads wait for the writes before them, and writes for the reads before them.
            if previous_is_write.is_some_and(|previous_is_write| previous_is_write != is_write) {
                return;
            }
            previous_is_write = Some(is_write);
            if pending.in_flight {
                if let RequestKind::Write(Some((_, seq))) = pending.kind {
                    first_outstanding = first_outstanding.or(Some(seq));
                }
                continue;
            }
            if !is_write && self.requests_in_flight >= READS_IN_FLIGHT_MAX {
                return;
            }
            if let RequestKind::Write(number) = &mut pending.kind {
                match &mut self.session {
                    PipelineSession::None => {
                        self.session = PipelineSession::Opening;
                        return requests.push(NodeRequest::OpenSession);
                    }
                    PipelineSession::Opening => return,
                    PipelineSession::Open(id, next) => {
                        let (_, seq) = *number.get_or_insert_with(|| {
                            *next += 1;
                            (*id, *next - 1)
                        });
                        first_outstanding = first_outstanding.or(Some(seq));
                    }
                }
            }
            pending.in_flight = true;
            self.requests_in_flight += 1;
            requests.push(NodeRequest::Send(
                self.front_slot_number + index as u64,
                pending.to_request(first_outstanding.unwrap_or(1)),
            ));
        }
    }

    /// Handles the result of opening a session: its id, the refusal, or `None` if the outcome is unknown. In the last
    /// case the retry opens another session, and the first one, if there is one, expires unused.
    pub fn handle_session_opened(&mut self, now: Time, opened: Result<SessionId, Option<Refusal>>) {
        match opened {
            Ok(id) => self.session = PipelineSession::Open(id, 1),
            Err(refusal) => {
                self.session = PipelineSession::None;
                for slot in &mut self.slots {
                    if let Slot::Pending(pending) = slot
                        && pending.is_write()
                        && !pending.in_flight
                    {
                        pending.refusal.clone_from(&refusal);
                    }
                }
                self.retry_pending = true;
                self.retry_at = now + RETRY_INTERVAL;
            }
        }
    }

    /// Handles the node's reply to request `number`. An answer to a command that is not in flight is
    /// ignored.
    pub fn handle_reply(&mut self, number: u64, reply: Reply, encode: &mut ReplyEncoder<'_, R>) {
        let Some(index) = number.checked_sub(self.front_slot_number).map(|index| index as usize) else { return };
        let Some(Slot::Pending(pending)) = self.slots.get_mut(index) else { return };
        if !std::mem::take(&mut pending.in_flight) {
            return;
        }
        self.requests_in_flight -= 1;
        let fate = match reply {
            Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } => RequestFate::Answer(answer),
            Reply::Done { outcome: Outcome::AnswerTooLong, .. } => RequestFate::AnswerTooLong,
            // This attempt had no effect, but an earlier one may still execute: the write is proposed again under the
            // same number, after the writes before it.
            Reply::Done { outcome: Outcome::OutOfOrder, .. } => return self.retry_pending = true,
            Reply::Done { outcome: Outcome::SessionExpired, .. } => {
                if let (RequestKind::Write(Some((expired, _))), PipelineSession::Open(id, _)) =
                    (&pending.kind, self.session)
                    && *expired == id
                {
                    self.session = PipelineSession::None;
                }
                return self.retry_pending = true;
            }
            Reply::Done { .. } => RequestFate::UnexpectedReply("the cluster"),
            Reply::Answer { answer, .. } => RequestFate::Answer(answer),
            Reply::Status(status) => match &mut pending.kind {
                RequestKind::StatusThenRead(known) => {
                    *known = Some(status);
                    return;
                }
                _ => RequestFate::Status(status),
            },
            Reply::Unknown => {
                pending.maybe_logged = true;
                return self.retry_pending = true;
            }
            Reply::Refused(refusal) if pending.should_retry(&refusal) => {
                pending.refusal = Some(refusal);
                return self.retry_pending = true;
            }
            Reply::Refused(_) if pending.maybe_logged => RequestFate::Unknown,
            Reply::Refused(refusal) => {
                self.tally.failures.push(Failure::Refused(refusal.name()));
                let encoded = encode(pending, RequestFate::Refused(&refusal));
                return self.store_reply(index, encoded);
            }
            _ => RequestFate::UnexpectedReply("the node"),
        };
        self.tally.failures.extend(failure_of(&fate));
        let encoded = encode(pending, fate);
        self.store_reply(index, encoded);
    }

    /// Stores the reply to the command at `index`, whose body is freed: it is not sent again.
    fn store_reply(&mut self, index: usize, reply: BytesMut) {
        self.queued_bytes += reply.len();
        if let Slot::Pending(pending) = std::mem::replace(&mut self.slots[index], Slot::Reply(reply)) {
            self.queued_bytes -= pending.body.len();
        }
        self.check();
    }

    /// Handles writes that were proposed in a session that has expired. None of them can execute any more. A write
    /// without an attempt in a log gets a number in the next session, in the same order; the outcome of any other is
    /// unknown.
    fn handle_expired_session(&mut self, encode: &mut ReplyEncoder<'_, R>) {
        let current_session = self.session();
        for index in 0..self.slots.len() {
            let Slot::Pending(pending) = &mut self.slots[index] else { continue };
            let RequestKind::Write(number) = &mut pending.kind else { continue };
            if number.is_none_or(|(session, _)| Some(session) == current_session) {
                continue;
            }
            *number = None;
            if pending.maybe_logged {
                self.fail_request(index, encode);
            }
        }
    }

    /// Answers requests that were retried until [`RETRY_TIMEOUT`]. These are the oldest: every remaining write has a
    /// higher number and raises the first outstanding number above them.
    fn fail_timed_out(&mut self, now: Time, encode: &mut ReplyEncoder<'_, R>) {
        for index in 0..self.slots.len() {
            if let Slot::Pending(pending) = &self.slots[index]
                && (now.since(pending.received_at) >= RETRY_TIMEOUT || pending.found_no_leader())
            {
                self.fail_request(index, encode);
            }
        }
    }

    fn fail_request(&mut self, index: usize, encode: &mut ReplyEncoder<'_, R>) {
        let Slot::Pending(pending) = &self.slots[index] else { return };
        assert!(
            !pending.in_flight,
            "no request fails while an attempt is in flight: the reply to the attempt may be an answer"
        );
        let fate = match &pending.refusal {
            _ if pending.maybe_logged => RequestFate::Unknown,
            Some(refusal) => RequestFate::Refused(refusal),
            None => RequestFate::Refused(&Refusal::NoLeader),
        };
        self.tally.failures.extend(failure_of(&fate));
        let encoded = encode(pending, fate);
        self.store_reply(index, encoded);
    }
}

/// The failure that a result counts as in the metrics; `None` for a success.
fn failure_of(fate: &RequestFate<'_>) -> Option<Failure> {
    match fate {
        RequestFate::Answer(_) | RequestFate::Status(_) => None,
        RequestFate::Refused(refusal) => Some(Failure::Refused(refusal.name())),
        RequestFate::Unknown => Some(Failure::Error(RequestError::UnknownOutcome)),
        RequestFate::AnswerTooLong | RequestFate::UnexpectedReply(_) => {
            Some(Failure::Error(RequestError::UnusableAnswer))
        }
    }
}
