//! What simulated clients ask for, one task after the other, and what they see of each.

use super::history::{History, Input};
use crate::api::Consistency;
use crate::machine::words::{Answer, Command, Deadline, Life, Presence, Query};
use crate::types::Time;
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many plain clients there are.
    pub clients: u64,
    /// How many clients have a connection with many things under way, as `Mux` has.
    pub muxes: u64,
    /// How many clients have a connection with one thing under way, as `Client` has.
    pub callers: u64,
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

/// One thing that a client asks for: an operation on one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// On which key.
    pub key: Bytes,
    /// What.
    pub input: Input,
}

/// A task as the state machine is asked for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Through the log.
    Command(Bytes),
    /// Beside it.
    Query(Bytes, Consistency),
}

/// How a task ended, as its client was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With that answer of the machine.
    Answered(Bytes),
    /// Nothing was applied, and nothing will be.
    Refused,
    /// It may have been applied, or be yet.
    Unknown,
}

impl Task {
    /// As the state machine is asked for it.
    pub fn body(&self) -> Body {
        match &self.input {
            Input::Get => Body::Query(Query::Get { key: &self.key }.encode(), Consistency::Linearizable),
            input => Body::Command(command(&self.key, input).encode()),
        }
    }
}

/// The command of the state machine for what a client does to a key.
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

/// The tasks of one client.
#[derive(Clone, Debug)]
pub struct Workload {
    client: u64,
    load: Load,
    values: u64,
}

impl Workload {
    /// The tasks of that client.
    pub fn new(client: u64, load: Load) -> Workload {
        Workload { client, load, values: 0 }
    }

    /// The next one.
    pub fn draw(&mut self, rng: &mut SmallRng, history: &History) -> Task {
        let key = history.key(rng.random_range(0..self.load.keys));
        let input = self.draw_input(rng, &key);
        Task { key, input }
    }

    /// Numbers live on even keys, words on odd ones, so that increments mostly find a number.
    fn draw_input(&mut self, rng: &mut SmallRng, key: &Bytes) -> Input {
        if rng.random_range(0..100) < self.load.reads {
            return Input::Get;
        }
        let even = key.last().is_some_and(|digit| digit % 2 == 0);
        self.values += 1;
        let padding = if rng.random_range(0..100) < self.load.large { 3000 } else { 0 };
        let value = Bytes::from(format!("{}.{}{}", self.client, self.values, "x".repeat(padding)));
        match (even, rng.random_range(0..10)) {
            (true, 0) => Input::Del,
            (true, 1) => Input::Put(Bytes::from(self.values.to_string())),
            (true, _) => Input::Incr(rng.random_range(1..4)),
            (false, 0) => Input::Del,
            (false, 1) => Input::Cas(None, value),
            (false, 2) => Input::Cas(Some(Bytes::from(format!("{}.{}", self.client, self.values / 2))), value),
            (false, _) if self.load.mortal > 0 && rng.random_range(0..100) < self.load.mortal => {
                Input::PutFor(value, Duration::from_millis(rng.random_range(1..1500)))
            }
            (false, _) => Input::Put(value),
        }
    }
}

/// A client that goes from task to task, whatever protocol it asks with.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Its number.
    pub client: u64,
    workload: Workload,
    /// The tasks under way, by their tags, and their operations in the history.
    pending: BTreeMap<u64, (Task, usize)>,
    tags: u64,
    /// When it begins the next one.
    pub next_at: Time,
    /// It begins nothing new.
    pub stopping: bool,
}

impl Asker {
    /// That client, with nothing under way.
    pub fn new(client: u64, load: Load) -> Asker {
        let workload = Workload::new(client, load);
        Asker { client, workload, pending: BTreeMap::new(), tags: 0, next_at: Time::ZERO, stopping: false }
    }

    /// Whether it waits for nothing.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Begins a task, if it is time for one: its tag, and what to ask for.
    pub fn begin(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> Option<(u64, Body)> {
        if self.stopping || now < self.next_at {
            return None;
        }
        let task = self.workload.draw(rng, history);
        let body = task.body();
        let operation = history.invoke(self.client, task.key.clone(), task.input.clone(), now);
        self.tags += 1;
        self.pending.insert(self.tags, (task, operation));
        self.next_at = now + Duration::from_nanos(rng.random_range(0..=self.workload.load.think.as_nanos() as u64));
        Some((self.tags, body))
    }

    /// A task has ended. An error says what no correct node answers.
    pub fn ends(&mut self, now: Time, tag: u64, ending: Ending, history: &mut History) -> Result<(), String> {
        let Some((_, operation)) = self.pending.remove(&tag) else { return Ok(()) };
        match ending {
            Ending::Answered(answer) => {
                let answer =
                    Answer::decode(answer).map_err(|error| format!("an answer that cannot be read: {error}"))?;
                history.answer(operation, now, answer);
            }
            Ending::Refused => history.refuse(operation),
            Ending::Unknown => history.doubt(operation),
        }
        Ok(())
    }
}
