//! One connection: commands in, answers out, in the order of the commands.
//!
//! Commands of one connection take effect in their order, as they would one after the other: those that only
//! ask wait until those before them that do something are answered, and the other way round; between the two
//! as many are under way as may be. What the cluster lost is asked again under its number, once everything
//! that was under way has come back, so that nothing overtakes it; what cannot be asked again without that is
//! answered *unknown*.

use super::about;
use super::door::Cursors;
use super::pending::{Element, Kind, Pending, Reading, Slot};
use super::small::Guest;
use super::telling;
use crate::api::{Outcome, Refusal, Reply, Request};
use crate::limits::SESSION_WINDOW_MAX;
use crate::machine::words::Answer;
use crate::types::{SessionId, Time};
use crate::wire::resp::{Reader, Version, Words, Writer};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Duration;

/// So many commands may wait for their answers; whoever has more is not read from.
pub const COMMANDS_MAX: usize = SESSION_WINDOW_MAX as usize;
/// So many bytes of them.
pub const BYTES_MAX: usize = 4 << 20;
/// So many questions may be under way: each may be answered at length.
const READS_MAX: usize = 30;
/// A command is asked again for so long; then it is answered, whatever is known.
const PATIENCE: Duration = Duration::from_secs(5);
/// It is asked again after so long.
const AGAIN: Duration = Duration::from_millis(20);

/// The session of a connection: opened with the first command that does something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
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

/// A transaction that is being said.
#[derive(Debug, Default)]
pub struct Block {
    /// Its commands.
    pub commands: Vec<Words>,
    /// How many bytes they have.
    pub bytes: usize,
    /// Whether one of them was wrong, so that none is carried out.
    pub spoiled: bool,
}

/// One connection.
///
/// Invariants: the command in front is not answered, or nothing is waited for; `bytes` is what the commands
/// that wait hold; `flying` is how many of them are asked.
#[derive(Debug)]
pub struct Talk {
    /// What comes in.
    pub reader: Reader,
    /// Who it is with.
    pub guest: Guest,
    /// The transaction that is being said.
    pub block: Option<Block>,
    /// Nothing more is heard: it closes when everything is answered.
    pub leaving: bool,
    session: Session,
    slots: VecDeque<Slot>,
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

impl Talk {
    /// A connection that has said nothing yet.
    pub fn new(guest: Guest) -> Talk {
        Talk {
            reader: Reader::default(),
            guest,
            block: None,
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

    /// How many commands wait for their answers.
    pub fn waiting(&self) -> usize {
        self.slots.len()
    }

    /// Whether so much waits that nothing more should be read.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= COMMANDS_MAX || self.bytes >= BYTES_MAX
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

    /// An error, in its turn.
    pub fn complain(&mut self, out: &mut BytesMut, error: &str) {
        let said = self.said(|out| out.error(error));
        self.say(out, said);
    }

    /// A reply, not yet in its turn.
    pub fn said(&self, say: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
        said(self.guest.version, say)
    }

    /// A command that the node has to answer.
    pub fn wait(&mut self, pending: Pending) {
        self.bytes += pending.body.len();
        self.slots.push_back(Slot::Waits(Box::new(pending)));
    }

    /// Says what is due, and what is wanted of the node now. `rests` is whether the client has too much to read.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, rests: bool, wants: &mut Vec<Want>) {
        if self.stuck && self.flying == 0 && self.again_at == Time::NEVER {
            self.again_at = now + AGAIN;
            self.give_up_overtaken();
        }
        if self.stuck && self.flying == 0 && self.again_at <= now {
            self.give_up_overdue(now);
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
    pub fn hear(&mut self, number: u64, reply: Reply, cursors: &mut Cursors) {
        let Some(at) = number.checked_sub(self.front).map(|at| at as usize) else { return };
        let Some(Slot::Waits(pending)) = self.slots.get_mut(at) else { return };
        let version = pending.version;
        if !std::mem::take(&mut pending.asked) {
            return;
        }
        self.flying -= 1;
        let verdict = match reply {
            Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } => {
                self.executed = self.executed.max(Some(number));
                Verdict::Said(read(version, pending, answer, cursors))
            }
            Reply::Done { outcome: Outcome::AnswerTooLong, .. } => {
                self.executed = self.executed.max(Some(number));
                Verdict::error(version, "ERR the answer is too long to be told; what was asked is done")
            }
            Reply::Done { outcome: Outcome::Lapsed, .. } => {
                if let (Kind::Write(Some((gone, _))), Session::Open(id, _)) = (&pending.kind, self.session)
                    && *gone == id
                {
                    self.session = Session::None;
                }
                pending.kind = Kind::Write(None);
                // Nobody will ever say what became of an earlier attempt in a session that is gone.
                if pending.doubt { Verdict::error(version, telling::UNKNOWN) } else { Verdict::Again }
            }
            Reply::Done { .. } => Verdict::error(version, "ERR the cluster answered out of turn"),
            Reply::Answer { answer, .. } => Verdict::Said(read(version, pending, answer, cursors)),
            Reply::Status(status) => {
                pending.kind = Kind::Info(Some(status));
                return;
            }
            Reply::Unknown => {
                pending.doubt = true;
                Verdict::Again
            }
            Reply::Refused(Refusal::NotLeader { .. } | Refusal::Busy | Refusal::Stopping) => {
                if let Reply::Refused(refusal) = reply {
                    pending.refusal = Some(refusal);
                }
                Verdict::Again
            }
            // It has waited as long as anything may wait for a leader.
            Reply::Refused(_) if pending.doubt => Verdict::error(version, telling::UNKNOWN),
            Reply::Refused(refusal) => Verdict::error(version, &telling::refusal(&refusal)),
            _ => Verdict::error(version, "ERR the node answered out of turn"),
        };
        match verdict {
            Verdict::Said(said) => self.settle(at, said),
            Verdict::Again => self.stuck = true,
        }
    }

    fn settle(&mut self, at: usize, said: BytesMut) {
        self.bytes += said.len();
        if let Slot::Waits(pending) = std::mem::replace(&mut self.slots[at], Slot::Said(said)) {
            self.bytes -= pending.body.len();
        }
    }

    /// What came back and would take effect after something that was said later: it is not asked again.
    fn give_up_overtaken(&mut self) {
        let Some(upto) = self.executed else { return };
        let overtaken = upto.saturating_sub(self.front).min(self.slots.len() as u64) as usize;
        (0..overtaken).for_each(|at| self.give_up(at));
    }

    /// What has been asked for long enough.
    fn give_up_overdue(&mut self, now: Time) {
        for at in 0..self.slots.len() {
            if let Slot::Waits(pending) = &self.slots[at]
                && (now.since(pending.since) >= PATIENCE || pending.refusal == Some(Refusal::NoLeader))
            {
                self.give_up(at);
            }
        }
    }

    fn give_up(&mut self, at: usize) {
        let Slot::Waits(pending) = &self.slots[at] else { return };
        let why = match &pending.refusal {
            _ if pending.doubt => telling::UNKNOWN.to_owned(),
            Some(refusal) => telling::refusal(refusal),
            None => telling::NO_LEADER.to_owned(),
        };
        let said = said(pending.version, |out| out.error(&why));
        self.settle(at, said);
    }
}

enum Verdict {
    Said(BytesMut),
    Again,
}

impl Verdict {
    fn error(version: Version, error: &str) -> Verdict {
        Verdict::Said(said(version, |out| out.error(error)))
    }
}

fn said(version: Version, say: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
    let mut said = BytesMut::new();
    say(&mut Writer::new(&mut said, version));
    said
}

/// What is made of the machine's answer.
fn read(version: Version, pending: &Pending, answer: Bytes, cursors: &mut Cursors) -> BytesMut {
    let Ok(answer) = Answer::decode(answer) else {
        return said(version, |out| out.error("ERR an answer that cannot be read"));
    };
    let mut cursor = |key| cursors.keep(key);
    said(version, |out| match (&pending.reading, answer) {
        (Reading::One(shape), answer) => telling::tell(out, shape, &answer, &mut cursor),
        (Reading::Block(elements), Answer::Each(answers)) => {
            let mut answers = answers.iter();
            out.array(elements.len());
            for element in elements {
                match element {
                    Element::Said(said) => out.raw(said),
                    Element::Shape(shape) => {
                        let answer = answers.next().unwrap_or(&Answer::Malformed);
                        telling::tell(out, shape, answer, &mut cursor);
                    }
                }
            }
        }
        (Reading::Info(words, scene), Answer::Count(keys)) => match &pending.kind {
            Kind::Info(Some(status)) => out.bulk(about::tell(words, scene, status, keys).as_bytes()),
            _ => out.error("ERR the node answered out of turn"),
        },
        _ => out.error("ERR the cluster answered out of turn"),
    })
}

#[cfg(test)]
mod tests;
