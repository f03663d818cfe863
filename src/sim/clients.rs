//! Clients of the simulated cluster: each in a session, several commands outstanding, asking again
//! under the same number whatever happens, and writing down what it saw.

use super::history::{History, Input};
use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request};
use crate::machine::words::{Answer, Command, Deadline, Life, Presence, Query};
use crate::types::{NodeId, SessionId, Time};
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::time::Duration;

/// The window of every session.
const WINDOW: u32 = 8;

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many there are.
    pub clients: u64,
    /// How many commands each has outstanding, at most.
    pub outstanding: usize,
    /// How many keys they share.
    pub keys: u64,
    /// How long each waits between an answer and its next question, at most.
    pub think: Duration,
    /// How long it waits for an answer before it asks again, perhaps elsewhere.
    pub patience: Duration,
    /// How many of a hundred operations are reads.
    pub reads: u32,
    /// Whether followers pass requests on, rather than name the leader.
    pub forward: bool,
    /// How many of a hundred values are large, to fill segments and windows.
    pub large: u32,
    /// How many of a hundred values have a deadline.
    pub mortal: u32,
}

/// One command that waits for its answer.
#[derive(Clone, Debug)]
struct Waiting {
    /// Its number in the session; none for a read.
    seq: Option<u64>,
    operation: usize,
    key: Bytes,
    input: Input,
    asked: Time,
    /// How many attempts have not been refused: any of them may have happened.
    open_attempts: u32,
}

/// What a client sends next.
#[derive(Clone, Debug)]
pub struct Asking {
    /// To whom.
    pub to: NodeId,
    /// The client's number for this attempt.
    pub id: u64,
    /// Whether to pass it on.
    pub forward: bool,
    /// What.
    pub request: Request,
}

/// One client.
#[derive(Clone, Debug)]
pub struct Client {
    id: u64,
    load: Load,
    nodes: Vec<NodeId>,
    target: NodeId,
    session: Option<SessionId>,
    /// When the session was last asked for.
    opening: Option<(u64, Time)>,
    next_seq: u64,
    attempts: u64,
    /// The attempts under way, and which command each is for.
    tries: BTreeMap<u64, u64>,
    waiting: BTreeMap<u64, Waiting>,
    tickets: u64,
    next_at: Time,
    values: u64,
    /// No new commands: what is outstanding is finished.
    pub stopping: bool,
}

impl Client {
    /// A client of those nodes.
    pub fn new(id: u64, load: Load, nodes: Vec<NodeId>) -> Client {
        let target = nodes[id as usize % nodes.len()];
        Client {
            id,
            load,
            nodes,
            target,
            session: None,
            opening: None,
            next_seq: 1,
            attempts: 0,
            tries: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tickets: 0,
            next_at: Time::ZERO,
            values: 0,
            stopping: false,
        }
    }

    /// Whether it waits for nothing.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When it next has something to do.
    pub fn deadline(&self) -> Time {
        if self.stopping && self.is_done() {
            return Time::NEVER;
        }
        let again = self.waiting.values().map(|waiting| waiting.asked + self.load.patience).min();
        let open = self.opening.map(|(_, at)| at + self.load.patience);
        let next = if self.may_begin() || self.session.is_none() { self.next_at } else { Time::NEVER };
        next.min(again.unwrap_or(Time::NEVER)).min(open.unwrap_or(Time::NEVER))
    }

    fn may_begin(&self) -> bool {
        let in_window = self.next_seq < self.lowest() + u64::from(WINDOW);
        !self.stopping && self.session.is_some() && self.waiting.len() < self.load.outstanding && in_window
    }

    /// The lowest number it waits for.
    fn lowest(&self) -> u64 {
        self.waiting.values().filter_map(|waiting| waiting.seq).min().unwrap_or(self.next_seq)
    }

    /// Time has passed: begins what it may, and asks again what was not answered.
    pub fn wake(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> Vec<Asking> {
        let mut out = Vec::new();
        if self.session.is_none() {
            if (self.stopping && self.waiting.is_empty()) || now < self.next_at {
                self.next_at = self.next_at.max(now + Duration::from_millis(1));
                return out;
            }
            if self.opening.is_none_or(|(_, at)| at + self.load.patience <= now) {
                self.look_elsewhere(rng);
                let asking = self.ask(Request::Propose { op: Op::Open { window: WINDOW, ordered: false }.encode() });
                self.opening = Some((asking.id, now));
                out.push(asking);
            }
            self.next_at = now + self.load.patience;
            return out;
        }
        let late: Vec<u64> =
            self.waiting.iter().filter(|(_, w)| w.asked + self.load.patience <= now).map(|(t, _)| *t).collect();
        if !late.is_empty() {
            self.look_elsewhere(rng);
        }
        for ticket in late {
            out.push(self.try_again(now, ticket));
        }
        if self.may_begin() && now >= self.next_at {
            let ticket = self.begin(now, rng, history);
            out.push(self.try_again(now, ticket));
            self.next_at = now + Duration::from_nanos(rng.random_range(0..=self.load.think.as_nanos() as u64));
        }
        out
    }

    fn look_elsewhere(&mut self, rng: &mut SmallRng) {
        self.target = self.nodes[rng.random_range(0..self.nodes.len())];
    }

    fn ask(&mut self, request: Request) -> Asking {
        self.attempts += 1;
        Asking { to: self.target, id: self.attempts, forward: self.load.forward, request }
    }

    fn begin(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> u64 {
        let key = Bytes::from(format!("k{}", rng.random_range(0..self.load.keys)));
        let input = self.draw(rng, &key);
        let is_read = input == Input::Get;
        let seq = (!is_read).then_some(self.next_seq);
        self.next_seq += u64::from(!is_read);
        let operation = history.invoke(self.id, key.clone(), input.clone(), now);
        self.tickets += 1;
        self.waiting.insert(self.tickets, Waiting { seq, operation, key, input, asked: now, open_attempts: 0 });
        self.tickets
    }

    /// Numbers live on even keys, words on odd ones, so that increments mostly find a number.
    fn draw(&mut self, rng: &mut SmallRng, key: &Bytes) -> Input {
        if rng.random_range(0..100) < self.load.reads {
            return Input::Get;
        }
        let even = key.last().is_some_and(|digit| digit % 2 == 0);
        self.values += 1;
        let padding = if rng.random_range(0..100) < self.load.large { 3000 } else { 0 };
        let value = Bytes::from(format!("{}.{}{}", self.id, self.values, "x".repeat(padding)));
        match (even, rng.random_range(0..10)) {
            (true, 0) => Input::Del,
            (true, 1) => Input::Put(Bytes::from(self.values.to_string())),
            (true, _) => Input::Incr(rng.random_range(1..4)),
            (false, 0) => Input::Del,
            (false, 1) => Input::Cas(None, value),
            (false, 2) => Input::Cas(Some(Bytes::from(format!("{}.{}", self.id, self.values / 2))), value),
            (false, _) if self.load.mortal > 0 && rng.random_range(0..100) < self.load.mortal => {
                Input::PutFor(value, Duration::from_millis(rng.random_range(1..1500)))
            }
            (false, _) => Input::Put(value),
        }
    }

    fn try_again(&mut self, now: Time, ticket: u64) -> Asking {
        let lowest = self.lowest();
        let session = self.session.expect("commands are asked in a session");
        let waiting = self.waiting.get_mut(&ticket).expect("what is tried waits");
        waiting.asked = now;
        waiting.open_attempts += 1;
        let request = match waiting.seq {
            None => {
                let query = Query::Get { key: &waiting.key }.encode();
                Request::Query { query, consistency: Consistency::Linearizable }
            }
            Some(seq) => {
                let command = command(&waiting.key, &waiting.input).encode();
                Request::Propose { op: Op::Execute { session, seq, lowest, command }.encode() }
            }
        };
        let asking = self.ask(request);
        self.tries.insert(asking.id, ticket);
        asking
    }

    /// An answer has come. An error says what no correct node answers.
    pub fn hear(
        &mut self,
        now: Time,
        id: u64,
        reply: Reply,
        rng: &mut SmallRng,
        history: &mut History,
    ) -> Result<(), String> {
        if self.opening.is_some_and(|(opening, _)| opening == id) {
            self.opened(now, reply, rng);
            return Ok(());
        }
        let Some(ticket) = self.tries.remove(&id) else { return Ok(()) };
        let Some(waiting) = self.waiting.get(&ticket).cloned() else { return Ok(()) };
        let answer = match reply {
            Reply::Answer { answer, .. } if waiting.seq.is_none() => answer,
            Reply::Done { outcome: Outcome::Executed { answer, .. }, .. } if waiting.seq.is_some() => answer,
            Reply::Done { outcome: Outcome::Lapsed, .. } => {
                self.lapse();
                return Ok(());
            }
            Reply::Refused(refusal) => {
                self.refused(now, ticket, refusal, rng);
                return Ok(());
            }
            Reply::Unknown => {
                self.soon(now, ticket);
                return Ok(());
            }
            other => return Err(format!("client {} was answered {other:?} to {:?}", self.id, waiting.input)),
        };
        let answer = Answer::decode(answer).map_err(|error| format!("an answer that cannot be read: {error}"))?;
        history.answer(waiting.operation, now, answer);
        self.waiting.remove(&ticket);
        Ok(())
    }

    fn opened(&mut self, now: Time, reply: Reply, rng: &mut SmallRng) {
        self.opening = None;
        match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => {
                self.session = Some(session);
                self.next_at = now;
            }
            Reply::Refused(Refusal::NotLeader { leader: Some(leader), .. }) => self.target = leader,
            _ => self.look_elsewhere(rng),
        }
        if self.session.is_none() {
            self.next_at = now + Duration::from_millis(10);
        }
    }

    fn refused(&mut self, now: Time, ticket: u64, refusal: Refusal, rng: &mut SmallRng) {
        match refusal {
            Refusal::NotLeader { leader: Some(leader), .. } => self.target = leader,
            _ => self.look_elsewhere(rng),
        }
        let in_window = self.next_seq < self.lowest() + u64::from(WINDOW);
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.open_attempts -= 1;
            if waiting.open_attempts == 0 && waiting.seq.is_some() && in_window {
                // "Nothing has happened" is taken at its word: the command is a new one.
                waiting.seq = Some(self.next_seq);
                self.next_seq += 1;
            }
        }
        self.soon(now, ticket);
    }

    /// Asks again in a moment.
    fn soon(&mut self, now: Time, ticket: u64) {
        let ago = self.load.patience.saturating_sub(Duration::from_millis(10));
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.asked = Time(now.0.saturating_sub(ago.as_nanos() as u64));
        }
    }

    /// The session is gone: what was outstanding may have happened, and nobody will ever say. Begins
    /// nothing new: of too much that may have happened or not, nobody can tell whether it is right.
    fn lapse(&mut self) {
        self.session = None;
        self.opening = None;
        self.waiting.clear();
        self.next_seq = 1;
        self.stopping = true;
    }
}

fn command<'a>(key: &'a Bytes, input: &'a Input) -> Command<'a> {
    match input {
        Input::Put(value) => Command::Put { key, value },
        Input::PutFor(value, ttl) => {
            let life = Life::Until(Deadline::In(ttl.as_millis() as u64));
            Command::Set { key, value, only_if: Presence::Either, life, tells: false }
        }
        Input::Del => Command::Del { key },
        Input::Cas(expected, new) => Command::Cas { key, expected: expected.as_deref(), new },
        Input::Incr(by) => Command::Incr { key, by: *by },
        Input::Get => panic!("a read is no command"),
    }
}
