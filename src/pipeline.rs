//! The requests of one gateway connection: in order, each once, proposed again where the cluster lost them.
//!
//! Commands of one connection take effect in their order. Reads wait until the writes before them are answered, and
//! writes for the reads before them; between the two as many are in flight as may be. The session is ordered
//! ([`Op::Open`]): the cluster executes a write only behind all before it, whatever was lost on the way and whatever
//! is proposed again. A write that was lost, or came out of order, is proposed again under its number once nothing is
//! in flight. A write is answered *unknown* only when [`PATIENCE`] has run out while an attempt may be in a log; the
//! next write raises the session's lowest number above it, and then it never executes. How an answer is put into words
//! is each gateway's own.

use crate::api::figures::{Failure, WrongRequest};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::limits::SESSION_WINDOW_MAX;
use crate::types::{SessionId, Time};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Duration;

/// So many commands may wait for their answers; a connection that has more is not read from.
pub const COMMANDS_MAX: usize = SESSION_WINDOW_MAX as usize;
/// So many bytes of them.
pub const BYTES_MAX: usize = 4 << 20;
/// So many reads may be in flight: each may be answered at length.
pub const READS_MAX: usize = 30;
/// A command is retried for so long; then it is answered with what is known.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a retry.
pub const AGAIN: Duration = Duration::from_millis(20);

/// The session of a connection: opened with its first write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PipelineSession {
    /// None yet.
    None,
    /// Requested.
    Opening,
    /// Open; the number of the next command.
    Open(SessionId, u64),
}

/// A request of a connection to its node.
#[derive(Debug)]
pub enum NodeRequest {
    /// A session, an ordered one.
    Session,
    /// An answer, under that number.
    Answer(u64, Request),
}

/// The kind of a request.
#[derive(Debug)]
pub enum RequestKind {
    /// A write, under that number in the session once it has one.
    Write(Option<(SessionId, u64)>),
    /// A read.
    Read(Consistency),
    /// The status of the node.
    Status,
    /// The status of the node, which stands here once it is known, and then a local read.
    StatusAnd(Option<Box<Status>>),
}

/// A request without its answer. `R` is what its gateway needs to put the answer into words.
#[derive(Debug)]
pub struct PendingRequest<R> {
    /// Its kind.
    pub kind: RequestKind,
    /// The command, or query, of the state machine.
    pub body: Bytes,
    /// How the answer is put into words.
    pub reading: R,
    /// When it came.
    since: Time,
    /// Whether an attempt is in flight.
    asked: bool,
    /// Whether an attempt may be in a log.
    doubt: bool,
    /// Why the last attempt was refused.
    refusal: Option<Refusal>,
}

/// The end of a request.
#[derive(Debug)]
pub enum RequestFate<'a> {
    /// The machine's answer.
    Answer(Bytes),
    /// It is done, and the machine's answer was longer than one may be.
    TooLong,
    /// How the node is.
    Status(Box<Status>),
    /// Nothing has happened, and why.
    Refused(&'a Refusal),
    /// It may have taken effect, or may yet.
    Unknown,
    /// Something that answers no such question: a bug, of ours or of a node of another version.
    OutOfTurn(&'static str),
}

/// How a gateway puts the end of a request into words.
pub type ReplyEncoder<'a, R> = dyn FnMut(&PendingRequest<R>, RequestFate<'_>) -> BytesMut + 'a;

/// One command whose answer is due: answers leave in the order of the commands.
#[derive(Debug)]
enum Slot<R> {
    /// The reply is here.
    Said(BytesMut),
    /// It is not.
    Waits(Box<PendingRequest<R>>),
}

impl<R> PendingRequest<R> {
    /// A request that came just now.
    pub fn new(now: Time, kind: RequestKind, body: Bytes, reading: R) -> PendingRequest<R> {
        PendingRequest { kind, body, reading, since: now, asked: false, doubt: false, refusal: None }
    }

    fn is_write(&self) -> bool {
        matches!(self.kind, RequestKind::Write(_))
    }

    /// Whether to propose it again after that refusal. In doubt all that may pass is waited for: only an answer under
    /// the same number says what became of the earlier attempt.
    fn retries(&self, refusal: &Refusal) -> bool {
        match refusal {
            Refusal::NotLeader { .. } | Refusal::Busy | Refusal::Stopping => true,
            // It has waited as long as a request may wait for a leader.
            Refusal::NoLeader | Refusal::NoSpace | Refusal::NotMember { .. } => self.doubt,
            _ => false,
        }
    }

    /// Whether nothing has happened, and it has waited as long as a request may wait for a leader.
    fn is_hopeless(&self) -> bool {
        !self.doubt && self.refusal == Some(Refusal::NoLeader)
    }

    /// What is asked of the node; `lowest` is the lowest number in the session that is waited for.
    fn request(&self, lowest: u64) -> Request {
        match &self.kind {
            RequestKind::Write(number) => {
                let (session, seq) = number.expect("a write has its number before it is asked");
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

/// What was asked, and what came to nothing, since it was last taken: for whoever counts over all connections.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests, those that were answered at once among them.
    pub requests: u32,
    /// Writes among them.
    pub writes: u32,
    /// Reads among them.
    pub reads: u32,
    /// What came to nothing.
    pub failures: Vec<Failure>,
}

/// What one connection has asked.
///
/// Invariants: the command in front is not answered, or nothing is waited for; `bytes` is what the commands
/// that wait hold; `flying` is how many of them are asked.
#[derive(Debug)]
pub struct RequestPipeline<R> {
    /// Nothing more is heard: it closes when everything is answered.
    pub leaving: bool,
    /// What was asked since that was last taken.
    pub tally: Tally,
    session: PipelineSession,
    slots: VecDeque<Slot<R>>,
    /// The number of the one in front.
    front: u64,
    bytes: usize,
    flying: usize,
    /// A request came back that is to be retried: until all have come back, nothing is proposed.
    stuck: bool,
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
            flying: 0,
            stuck: false,
            again_at: Time::NEVER,
        }
    }
}

impl<R> RequestPipeline<R> {
    /// How many commands wait for their answers.
    pub fn waiting(&self) -> usize {
        self.slots.len()
    }

    /// How many bytes the requests hold, and the answers that wait for others before them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether so much waits that nothing more should be read.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= COMMANDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Lets go of the room that many commands waited in.
    pub fn rest(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }

    /// Its session, if one is open.
    pub fn session(&self) -> Option<SessionId> {
        match self.session {
            PipelineSession::Open(id, _) => Some(id),
            PipelineSession::None | PipelineSession::Opening => None,
        }
    }

    /// When it wants to be pumped even if nothing comes.
    pub fn deadline(&self) -> Time {
        self.again_at
    }

    /// A reply that is known, in its turn.
    pub fn say(&mut self, out: &mut BytesMut, said: BytesMut) {
        if self.slots.is_empty() {
            out.extend_from_slice(&said);
        } else {
            self.bytes += said.len();
            self.slots.push_back(Slot::Said(said));
        }
    }

    /// A command that the node has to answer.
    pub fn wait(&mut self, pending: PendingRequest<R>) {
        match pending.kind {
            RequestKind::Write(_) => self.tally.writes += 1,
            RequestKind::Read(_) => self.tally.reads += 1,
            RequestKind::Status | RequestKind::StatusAnd(_) => {}
        }
        self.bytes += pending.body.len();
        self.slots.push_back(Slot::Waits(Box::new(pending)));
    }

    /// Says what is due, and what is wanted of the node now. `rests` is whether the client has too much to read.
    pub fn pump(
        &mut self,
        now: Time,
        out: &mut BytesMut,
        rests: bool,
        wants: &mut Vec<NodeRequest>,
        tell: &mut ReplyEncoder<'_, R>,
    ) {
        if self.stuck && self.flying == 0 && self.again_at == Time::NEVER {
            self.again_at = now + AGAIN;
        }
        if self.stuck && self.flying == 0 && self.again_at <= now {
            self.leave_lapsed_session(tell);
            self.give_up_overdue(now, tell);
            (self.stuck, self.again_at) = (false, Time::NEVER);
        }
        self.emit(out);
        if !rests && !self.stuck {
            self.ask(wants);
        }
    }

    /// Says the replies that are here, up to the first that is not.
    fn emit(&mut self, out: &mut BytesMut) {
        while let Some(Slot::Said(_)) = self.slots.front() {
            if let Some(Slot::Said(said)) = self.slots.pop_front() {
                self.front += 1;
                self.bytes -= said.len();
                out.extend_from_slice(&said);
            }
        }
    }

    /// Asks what may be asked now, in order.
    fn ask(&mut self, wants: &mut Vec<NodeRequest>) {
        let mut lowest = None;
        let mut writes = None;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Slot::Waits(pending) = slot else { continue };
            let write = pending.is_write();
            // What only asks waits for what does something, and the other way round.
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
            if !write && self.flying >= READS_MAX {
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
            self.flying += 1;
            wants.push(NodeRequest::Answer(self.front + at as u64, pending.request(lowest.unwrap_or(1))));
        }
    }

    /// The session is open, or was refused for that reason: then nothing has happened.
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
                self.stuck = true;
                self.again_at = now + AGAIN;
            }
        }
    }

    /// The node answers what was asked under that number.
    pub fn hear(&mut self, number: u64, reply: Reply, tell: &mut ReplyEncoder<'_, R>) {
        let Some(at) = number.checked_sub(self.front).map(|at| at as usize) else { return };
        let Some(Slot::Waits(pending)) = self.slots.get_mut(at) else { return };
        if !std::mem::take(&mut pending.asked) {
            return;
        }
        self.flying -= 1;
        let fate = match reply {
            Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } => RequestFate::Answer(answer),
            Reply::Done { outcome: Outcome::AnswerTooLong, .. } => RequestFate::TooLong,
            // This attempt executed nothing, and an earlier one may yet: the number is proposed again in its order.
            Reply::Done { outcome: Outcome::OutOfOrder, .. } => return self.stuck = true,
            Reply::Done { outcome: Outcome::SessionExpired, .. } => {
                if let (RequestKind::Write(Some((gone, _))), PipelineSession::Open(id, _)) =
                    (&pending.kind, self.session)
                    && *gone == id
                {
                    self.session = PipelineSession::None;
                }
                return self.stuck = true;
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
                pending.doubt = true;
                return self.stuck = true;
            }
            Reply::Refused(refusal) if pending.retries(&refusal) => {
                pending.refusal = Some(refusal);
                return self.stuck = true;
            }
            Reply::Refused(_) if pending.doubt => RequestFate::Unknown,
            Reply::Refused(refusal) => {
                self.tally.failures.push(Failure::Refused(refusal.name()));
                let said = tell(pending, RequestFate::Refused(&refusal));
                return self.settle(at, said);
            }
            _ => RequestFate::OutOfTurn("the node"),
        };
        self.tally.failures.extend(failure(&fate));
        let said = tell(pending, fate);
        self.settle(at, said);
    }

    fn settle(&mut self, at: usize, said: BytesMut) {
        self.bytes += said.len();
        if let Slot::Waits(pending) = std::mem::replace(&mut self.slots[at], Slot::Said(said)) {
            self.bytes -= pending.body.len();
        }
    }

    /// Writes that were proposed in a session that lapsed since. None of them executes any more: a write without
    /// doubt gets a number in the next session, behind those before it; of another nobody knows the outcome.
    fn leave_lapsed_session(&mut self, tell: &mut ReplyEncoder<'_, R>) {
        let current = self.session();
        for at in 0..self.slots.len() {
            let Slot::Waits(pending) = &mut self.slots[at] else { continue };
            let RequestKind::Write(number) = &mut pending.kind else { continue };
            if number.is_none_or(|(session, _)| Some(session) == current) {
                continue;
            }
            *number = None;
            if pending.doubt {
                self.give_up(at, tell);
            }
        }
    }

    /// Requests that have been retried for long enough. They are the oldest ones: every write that stays has a higher
    /// number than those that are given up, and raises the lowest number above them.
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
        let fate = match &pending.refusal {
            _ if pending.doubt => RequestFate::Unknown,
            Some(refusal) => RequestFate::Refused(refusal),
            None => RequestFate::Refused(&Refusal::NoLeader),
        };
        self.tally.failures.extend(failure(&fate));
        let said = tell(pending, fate);
        self.settle(at, said);
    }
}

/// How a request with that fate failed, if it did.
fn failure(fate: &RequestFate<'_>) -> Option<Failure> {
    match fate {
        RequestFate::Answer(_) | RequestFate::Status(_) => None,
        RequestFate::Refused(refusal) => Some(Failure::Refused(refusal.name())),
        RequestFate::Unknown => Some(Failure::Wrong(WrongRequest::UnknownOutcome)),
        RequestFate::TooLong | RequestFate::OutOfTurn(_) => Some(Failure::Wrong(WrongRequest::Answer)),
    }
}
