//! The tasks of simulated clients, and the checks of their results.

use super::history::{GROUP, History, Input, KEY};
use super::tasks::{Body, Task, TaskForm};
use super::values::Values;
use crate::types::{Index, Time};
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::time::Duration;

/// The workload of the clients.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many plain clients there are.
    pub clients: u64,
    /// How many clients have a connection with several requests in progress, like `Mux`.
    pub muxes: u64,
    /// How many clients have a connection with one request in progress, like `Client`.
    pub callers: u64,
    /// How many outstanding commands each has at most.
    pub outstanding: usize,
    /// How many keys they share.
    pub keys: u64,
    /// How long each waits at most between an answer and its next request.
    pub think: Duration,
    /// How long it waits for an answer before it retries, perhaps at another node.
    pub patience: Duration,
    /// How many of a hundred operations are reads.
    pub reads: u32,
    /// Whether followers forward requests, instead of naming the leader.
    pub forward: bool,
    /// How many of a hundred values are large, to fill segments and windows.
    pub large: u32,
    /// How many of a hundred values have a deadline.
    pub mortal: u32,
    /// How many of a hundred tasks use several keys at once, or are local reads.
    pub mixed: u32,
}

/// How a task ended for its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskEnd {
    /// The state machine's answer; for a read also the index of the last entry applied before it.
    Answered(Bytes, Option<Index>),
    /// Nothing was applied, and nothing will be.
    Refused,
    /// It may have been applied, or be applied later.
    Unknown,
}

/// The tasks of one client.
#[derive(Clone, Debug)]
pub struct Workload {
    client: u64,
    load: Load,
    values: u64,
}

impl Workload {
    /// The tasks of this client.
    pub fn new(client: u64, load: Load) -> Workload {
        Workload { client, load, values: 0 }
    }

    /// Draws the next task. Local reads are only for a client that stays with one node (`stays`).
    pub fn draw(&mut self, rng: &mut SmallRng, history: &History, stays: bool) -> Task {
        if rng.random_range(0..100) < self.load.mixed {
            return self.draw_mixed(rng, history, stays);
        }
        let key = history.key(KEY, rng.random_range(0..self.load.keys));
        let input = self.draw_input(rng, &key);
        Task { form: TaskForm::Single, parts: vec![(key, input)] }
    }

    fn draw_mixed(&mut self, rng: &mut SmallRng, history: &History, stays: bool) -> Task {
        let all = |inputs: Input| {
            let keys = (0..self.load.keys).map(|place| history.key(KEY, place));
            keys.map(|key| (key, inputs.clone())).collect::<Vec<_>>()
        };
        let group = history.key(GROUP, 0);
        let form = match rng.random_range(0..10) {
            0 | 1 => TaskForm::Block,
            2 => return Task { form: TaskForm::Values, parts: all(Input::Get) },
            3 => return Task { form: TaskForm::Scan, parts: all(Input::Get) },
            4 if stays => return Task { form: TaskForm::Local, parts: all(Input::Get) },
            5 if stays => return Task { form: TaskForm::LocalGroup, parts: vec![(group, Input::Get)] },
            4..=6 => return Task { form: TaskForm::Group, parts: vec![(group, Input::Get)] },
            _ => return Task { form: TaskForm::Group, parts: vec![(group, self.draw_group(rng))] },
        };
        let mut parts = all(Input::Get);
        parts.shuffle(rng);
        parts.truncate(rng.random_range(1..=3));
        for (key, input) in &mut parts {
            *input = self.draw_input(rng, key);
        }
        Task { form, parts }
    }

    /// Draws an operation that is applied to all keys of a group alike.
    fn draw_group(&mut self, rng: &mut SmallRng) -> Input {
        self.values += 1;
        let number = |n: u64| Bytes::from(n.to_string());
        match rng.random_range(0..8) {
            0 => Input::Del,
            1 => Input::Put(number(self.values)),
            2 => Input::Cas(None, number(self.values)),
            3 => Input::Cas(Some(number(rng.random_range(1..20))), number(self.values)),
            _ => Input::Incr(rng.random_range(1..4)),
        }
    }

    /// Numbers are on even keys and words on odd ones, so that increments mostly find a number.
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

/// A client that runs one task after another, whatever protocol it uses.
#[derive(Clone, Debug)]
pub struct TaskClient {
    /// Its number.
    pub client: u64,
    workload: Workload,
    /// The tasks in progress by their tags, with their operations in the history.
    pending: BTreeMap<u64, (Task, Vec<usize>)>,
    /// The connection of the last answered local read, and the index of its state.
    read: Option<(u64, Index)>,
    tags: u64,
    /// When it begins the next task.
    pub next_at: Time,
    /// Whether it begins nothing new.
    pub stopping: bool,
}

impl TaskClient {
    /// A client with nothing in progress.
    pub fn new(client: u64, load: Load) -> TaskClient {
        let workload = Workload::new(client, load);
        TaskClient {
            client,
            workload,
            pending: BTreeMap::new(),
            read: None,
            tags: 0,
            next_at: Time::ZERO,
            stopping: false,
        }
    }

    /// Whether it waits for no answers.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Begins a task if one is due. Returns its tag and its encoded body.
    pub fn begin(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> Option<(u64, Body)> {
        if self.stopping || now < self.next_at {
            return None;
        }
        let task = self.workload.draw(rng, history, true);
        let body = task.body(rng);
        let operations = task.invoke(self.client, now, history);
        self.tags += 1;
        self.pending.insert(self.tags, (task, operations));
        self.next_at = now + Duration::from_nanos(rng.random_range(0..=self.workload.load.think.as_nanos() as u64));
        Some((self.tags, body))
    }

    /// Ends a task, over this connection if it was answered. The error describes an answer that no correct node gives.
    pub fn ends(
        &mut self,
        now: Time,
        (tag, link): (u64, Option<u64>),
        ending: TaskEnd,
        (history, values): (&mut History, &Values),
    ) -> Result<(), String> {
        let Some((task, operations)) = self.pending.remove(&tag) else { return Ok(()) };
        let (answer, applied) = match ending {
            TaskEnd::Answered(answer, applied) => (answer, applied),
            TaskEnd::Refused => {
                operations.into_iter().for_each(|operation| history.refuse(operation));
                return Ok(());
            }
            TaskEnd::Unknown => {
                operations.into_iter().for_each(|operation| history.record_unknown(operation));
                return Ok(());
            }
        };
        let answers = task.split(answer)?;
        if let Some(applied) = applied {
            task.keys().zip(&answers).try_for_each(|(key, answer)| values.check(&key, applied, answer))?;
        }
        if task.form.is_local() {
            return link.zip(applied).map_or(Ok(()), |(link, applied)| self.reads_on(link, applied));
        }
        operations.into_iter().zip(answers).for_each(|(operation, answer)| history.answer(operation, now, answer));
        Ok(())
    }

    /// On one connection, and so with one process, no local read is older than the one before it.
    fn reads_on(&mut self, link: u64, applied: Index) -> Result<(), String> {
        let before = self.read.replace((link, applied));
        match before {
            Some((same, seen)) if same == link && applied < seen => {
                Err(format!("client {} reads as of {applied}, and read as of {seen} before", self.client))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scenario;
    use super::*;

    #[test]
    fn local_read_going_back_is_detected() {
        let load = Scenario::draw(1, Duration::from_secs(1)).load;
        let mut asker = TaskClient::new(1, load);
        assert!(asker.reads_on(7, Index(5)).is_ok());
        assert!(asker.reads_on(7, Index(5)).is_ok());
        assert!(asker.reads_on(8, Index(3)).is_ok(), "another node may be behind");
        assert!(asker.reads_on(8, Index(2)).is_err());
    }
}
