//! What one connection of a door has asked: in order, once, and again where the cluster lost it.
//!
//! Commands of one connection take effect in their order, as they would one after the other: those that only
//! ask wait until those before them that do something are answered, and the other way round; between the two
//! as many are under way as may be. What the cluster lost is asked again under its number, once everything
//! that was under way has come back, so that nothing overtakes it; what cannot be asked again without that is
//! answered *unknown*. How an answer is put into words is each door's own.

use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request, Status};
use crate::limits::SESSION_WINDOW_MAX;
use crate::types::{SessionId, Time};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Duration;

/// So many commands may wait for their answers; whoever has more is not read from.
pub const COMMANDS_MAX: usize = SESSION_WINDOW_MAX as usize;
/// So many bytes of them.
pub const BYTES_MAX: usize = 4 << 20;
/// So many questions may be under way: each may be answered at length.
pub const READS_MAX: usize = 30;
/// A command is asked again for so long; then it is answered, whatever is known.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// It is asked again after so long.
pub const AGAIN: Duration = Duration::from_millis(20);

/// The session of a connection: opened with the first command that does something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Session {
    /// None yet.
    None,
    /// Asked for.
    Opening,
    /// Open; the number of the next command.
    Open(SessionId, u64),
}

/// What a connection wants of the node.
#[derive(Debug)]
pub enum Want {
    /// A session.
    Session,
    /// An answer, under that number.
    Answer(u64, Request),
}

/// What kind of question it is.
#[derive(Debug)]
pub enum Kind {
    /// Something to do, under that number in the session once it has one.
    Write(Option<(SessionId, u64)>),
    /// Something to answer.
    Read(Consistency),
    /// How the node is.
    Status,
    /// How the node is, which stands here once that is known, and then something to answer.
    StatusAnd(Option<Box<Status>>),
}

/// A command whose answer is not here. `R` says what is made of it.
#[derive(Debug)]
pub struct Pending<R> {
    /// What kind of question it is.
    pub kind: Kind,
    /// What the machine is told, or asked.
    pub body: Bytes,
    /// What is made of the answer.
    pub reading: R,
    /// When it came.
    since: Time,
    /// Whether it is under way.
    asked: bool,
    /// Whether some attempt may have taken effect.
    doubt: bool,
    /// Why the last attempt came to nothing.
    refusal: Option<Refusal>,
}

/// What became of a command.
#[derive(Debug)]
pub enum Fate<'a> {
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

/// How a door puts what became of a command into words.
pub type Tell<'a, R> = dyn FnMut(&Pending<R>, Fate<'_>) -> BytesMut + 'a;

/// One command whose answer is due: answers leave in the order of the commands.
#[derive(Debug)]
enum Slot<R> {
    /// The reply is here.
    Said(BytesMut),
    /// It is not.
    Waits(Box<Pending<R>>),
}

impl<R> Pending<R> {
    /// A command that came just now.
    pub fn new(now: Time, kind: Kind, body: Bytes, reading: R) -> Pending<R> {
        Pending { kind, body, reading, since: now, asked: false, doubt: false, refusal: None }
    }

    fn is_write(&self) -> bool {
        matches!(self.kind, Kind::Write(_))
    }

    /// What is asked of the node; `lowest` is the lowest number in the session that is waited for.
    fn request(&self, lowest: u64) -> Request {
        match &self.kind {
            Kind::Write(number) => {
                let (session, seq) = number.expect("a write has its number before it is asked");
                let op = Op::Execute { session, seq, lowest: lowest.min(seq), command: self.body.clone() };
                Request::Propose { op: op.encode() }
            }
            Kind::Read(consistency) => Request::Query { query: self.body.clone(), consistency: *consistency },
            Kind::Status | Kind::StatusAnd(None) => Request::Status,
            Kind::StatusAnd(Some(_)) => Request::Query { query: self.body.clone(), consistency: Consistency::Local },
        }
    }
}

/// What one connection has asked.
///
/// Invariants: the command in front is not answered, or nothing is waited for; `bytes` is what the commands
/// that wait hold; `flying` is how many of them are asked.
#[derive(Debug)]
pub struct Turns<R> {
    /// Nothing more is heard: it closes when everything is answered.
    pub leaving: bool,
    session: Session,
    slots: VecDeque<Slot<R>>,
    /// The number of the one in front.
    front: u64,
    bytes: usize,
    flying: usize,
    /// Something came back that is to be asked again: until all has, nothing is asked.
    stuck: bool,
    again_at: Time,
    /// The highest number of a command that took effect.
    executed: Option<u64>,
}

impl<R> Default for Turns<R> {
    fn default() -> Turns<R> {
        Turns {
            leaving: false,
            session: Session::None,
            slots: VecDeque::new(),
            front: 0,
            bytes: 0,
            flying: 0,
            stuck: false,
            again_at: Time::NEVER,
            executed: None,
        }
    }
}

impl<R> Turns<R> {
    /// How many commands wait for their answers.
    pub fn waiting(&self) -> usize {
        self.slots.len()
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
            Session::Open(id, _) => Some(id),
            Session::None | Session::Opening => None,
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
    pub fn wait(&mut self, pending: Pending<R>) {
        self.bytes += pending.body.len();
        self.slots.push_back(Slot::Waits(Box::new(pending)));
    }

    /// Says what is due, and what is wanted of the node now. `rests` is whether the client has too much to read.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, rests: bool, wants: &mut Vec<Want>, tell: &mut Tell<'_, R>) {
        if self.stuck && self.flying == 0 && self.again_at == Time::NEVER {
            self.again_at = now + AGAIN;
            self.give_up_overtaken(tell);
        }
        if self.stuck && self.flying == 0 && self.again_at <= now {
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
    fn ask(&mut self, wants: &mut Vec<Want>) {
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
                if let Kind::Write(Some((_, seq))) = pending.kind {
                    lowest = lowest.or(Some(seq));
                }
                continue;
            }
            if !write && self.flying >= READS_MAX {
                return;
            }
            if let Kind::Write(number) = &mut pending.kind {
                match &mut self.session {
                    Session::None => {
                        self.session = Session::Opening;
                        return wants.push(Want::Session);
                    }
                    Session::Opening => return,
                    Session::Open(id, next) => {
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
            wants.push(Want::Answer(self.front + at as u64, pending.request(lowest.unwrap_or(1))));
        }
    }

    /// The session is open, or was refused for that reason: then nothing has happened.
    pub fn opened(&mut self, now: Time, opened: Result<SessionId, Option<Refusal>>) {
        match opened {
            Ok(id) => self.session = Session::Open(id, 1),
            Err(refusal) => {
                self.session = Session::None;
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
    pub fn hear(&mut self, number: u64, reply: Reply, tell: &mut Tell<'_, R>) {
        let Some(at) = number.checked_sub(self.front).map(|at| at as usize) else { return };
        let Some(Slot::Waits(pending)) = self.slots.get_mut(at) else { return };
        if !std::mem::take(&mut pending.asked) {
            return;
        }
        self.flying -= 1;
        let fate = match reply {
            Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } => {
                self.executed = self.executed.max(Some(number));
                Fate::Answer(answer)
            }
            Reply::Done { outcome: Outcome::AnswerTooLong, .. } => {
                self.executed = self.executed.max(Some(number));
                Fate::TooLong
            }
            Reply::Done { outcome: Outcome::Lapsed, .. } => {
                if let (Kind::Write(Some((gone, _))), Session::Open(id, _)) = (&pending.kind, self.session)
                    && *gone == id
                {
                    self.session = Session::None;
                }
                pending.kind = Kind::Write(None);
                if !pending.doubt {
                    self.stuck = true;
                    return;
                }
                // Nobody will ever say what became of an earlier attempt in a session that is gone.
                Fate::Unknown
            }
            Reply::Done { .. } => Fate::OutOfTurn("the cluster"),
            Reply::Answer { answer, .. } => Fate::Answer(answer),
            Reply::Status(status) => match &mut pending.kind {
                Kind::StatusAnd(known) => {
                    *known = Some(status);
                    return;
                }
                _ => Fate::Status(status),
            },
            Reply::Unknown => {
                pending.doubt = true;
                self.stuck = true;
                return;
            }
            Reply::Refused(refusal @ (Refusal::NotLeader { .. } | Refusal::Busy | Refusal::Stopping)) => {
                pending.refusal = Some(refusal);
                self.stuck = true;
                return;
            }
            // It has waited as long as anything may wait for a leader.
            Reply::Refused(_) if pending.doubt => Fate::Unknown,
            Reply::Refused(refusal) => {
                let said = tell(pending, Fate::Refused(&refusal));
                return self.settle(at, said);
            }
            _ => Fate::OutOfTurn("the node"),
        };
        let said = tell(pending, fate);
        self.settle(at, said);
    }

    fn settle(&mut self, at: usize, said: BytesMut) {
        self.bytes += said.len();
        if let Slot::Waits(pending) = std::mem::replace(&mut self.slots[at], Slot::Said(said)) {
            self.bytes -= pending.body.len();
        }
    }

    /// What came back and would take effect after something that was said later: it is not asked again.
    fn give_up_overtaken(&mut self, tell: &mut Tell<'_, R>) {
        let Some(upto) = self.executed else { return };
        let overtaken = upto.saturating_sub(self.front).min(self.slots.len() as u64) as usize;
        (0..overtaken).for_each(|at| self.give_up(at, tell));
    }

    /// What has been asked for long enough.
    fn give_up_overdue(&mut self, now: Time, tell: &mut Tell<'_, R>) {
        for at in 0..self.slots.len() {
            if let Slot::Waits(pending) = &self.slots[at]
                && (now.since(pending.since) >= PATIENCE || pending.refusal == Some(Refusal::NoLeader))
            {
                self.give_up(at, tell);
            }
        }
    }

    fn give_up(&mut self, at: usize, tell: &mut Tell<'_, R>) {
        let Slot::Waits(pending) = &self.slots[at] else { return };
        let fate = match &pending.refusal {
            _ if pending.doubt => Fate::Unknown,
            Some(refusal) => Fate::Refused(refusal),
            None => Fate::Refused(&Refusal::NoLeader),
        };
        let said = tell(pending, fate);
        self.settle(at, said);
    }
}
