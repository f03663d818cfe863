//! Draws the tasks of simulated clients, and checks and records their results.

use super::history::{GROUP_PREFIX, History, Input, KEY_PREFIX};
use super::tasks::{Task, TaskBody, TaskForm};
use super::values::ValueHistory;
use crate::types::{Index, Time};
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many clients there are, and what they request.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many plain clients there are, which have no connections.
    pub clients: u64,
    /// How many clients have a connection with several requests in progress, like the library's `Mux`.
    pub mux_clients: u64,
    /// How many clients have a connection with one request in progress, like the library's blocking `Client`.
    pub call_clients: u64,
    /// The largest number of outstanding commands of a client.
    pub outstanding_max: usize,
    /// How many keys the clients share.
    pub keys: u64,
    /// The longest pause of a client between two new requests.
    pub think_time_max: Duration,
    /// How long a plain client waits for an answer before the client retries, perhaps at another node.
    pub reply_timeout: Duration,
    /// The percentage of operations that are reads.
    pub read_percent: u32,
    /// Whether followers forward the requests of plain clients to the leader, instead of naming the leader.
    pub followers_forward: bool,
    /// The percentage of values that are large, to fill segments and windows.
    pub large_value_percent: u32,
    /// The percentage of values that have a deadline.
    pub expiring_value_percent: u32,
    /// The percentage of tasks that use several keys at once, or are local reads.
    pub mixed_task_percent: u32,
}

/// How a task ended for its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskEnd {
    /// The state machine's answer; for a read also the index of the last entry applied before it.
    Answered(Bytes, Option<Index>),
    /// Nothing was applied, and nothing will be.
    Refused,
    /// The task may have been applied, or may be applied later.
    Unknown,
}

/// Draws the tasks of one client.
#[derive(Clone, Debug)]
pub struct Workload {
    client: u64,
    load: Load,
    /// How many values were drawn. Each drawn value contains this count, so that it is unique.
    drawn_value_count: u64,
}

impl Workload {
    /// The workload of a client that has drawn no task yet.
    pub fn new(client: u64, load: Load) -> Workload {
        Workload { client, load, drawn_value_count: 0 }
    }

    /// Draws the next task. Local reads are only drawn with `stays_with_node`, for clients whose connections belong to
    /// one node each.
    pub fn draw(&mut self, rng: &mut SmallRng, history: &History, stays_with_node: bool) -> Task {
        if rng.random_range(0..100) < self.load.mixed_task_percent {
            return self.draw_mixed(rng, history, stays_with_node);
        }
        let key = history.current_key(KEY_PREFIX, rng.random_range(0..self.load.keys));
        let input = self.draw_input(rng, &key);
        Task { form: TaskForm::Single, parts: vec![(key, input)] }
    }

    fn draw_mixed(&mut self, rng: &mut SmallRng, history: &History, stays_with_node: bool) -> Task {
        let on_each_key = |inputs: Input| {
            let keys = (0..self.load.keys).map(|slot| history.current_key(KEY_PREFIX, slot));
            keys.map(|key| (key, inputs.clone())).collect::<Vec<_>>()
        };
        let group = history.current_key(GROUP_PREFIX, 0);
        let form = match rng.random_range(0..10) {
            0 | 1 => TaskForm::Block,
            2 => return Task { form: TaskForm::Values, parts: on_each_key(Input::Get) },
            3 => return Task { form: TaskForm::Scan, parts: on_each_key(Input::Get) },
            4 if stays_with_node => return Task { form: TaskForm::LocalValues, parts: on_each_key(Input::Get) },
            5 if stays_with_node => return Task { form: TaskForm::LocalGroup, parts: vec![(group, Input::Get)] },
            4..=6 => return Task { form: TaskForm::Group, parts: vec![(group, Input::Get)] },
            _ => return Task { form: TaskForm::Group, parts: vec![(group, self.draw_group(rng))] },
        };
        let mut parts = on_each_key(Input::Get);
        parts.shuffle(rng);
        parts.truncate(rng.random_range(1..=3));
        for (key, input) in &mut parts {
            *input = self.draw_input(rng, key);
        }
        Task { form, parts }
    }

    /// Draws an operation for all keys of a group.
    fn draw_group(&mut self, rng: &mut SmallRng) -> Input {
        self.drawn_value_count += 1;
        let number = |n: u64| Bytes::from(n.to_string());
        match rng.random_range(0..8) {
            0 => Input::Del,
            1 => Input::Put(number(self.drawn_value_count)),
            2 => Input::Cas(None, number(self.drawn_value_count)),
            3 => Input::Cas(Some(number(rng.random_range(1..20))), number(self.drawn_value_count)),
            _ => Input::Incr(rng.random_range(1..4)),
        }
    }

    /// Draws an operation for a key. Keys with even numbers hold numbers, the others hold text, so that increments
    /// mostly find a number.
    fn draw_input(&mut self, rng: &mut SmallRng, key: &Bytes) -> Input {
        if rng.random_range(0..100) < self.load.read_percent {
            return Input::Get;
        }
        let holds_number = key.last().is_some_and(|digit| digit % 2 == 0);
        self.drawn_value_count += 1;
        let padding = if rng.random_range(0..100) < self.load.large_value_percent { 3000 } else { 0 };
        let value = Bytes::from(format!("{}.{}{}", self.client, self.drawn_value_count, "x".repeat(padding)));
        match (holds_number, rng.random_range(0..10)) {
            (true, 0) => Input::Del,
            (true, 1) => Input::Put(Bytes::from(self.drawn_value_count.to_string())),
            (true, _) => Input::Incr(rng.random_range(1..4)),
            (false, 0) => Input::Del,
            (false, 1) => Input::Cas(None, value),
            (false, 2) => {
                Input::Cas(Some(Bytes::from(format!("{}.{}", self.client, self.drawn_value_count / 2))), value)
            }
            (false, _)
                if self.load.expiring_value_percent > 0
                    && rng.random_range(0..100) < self.load.expiring_value_percent =>
            {
                Input::PutWithTtl(value, Duration::from_millis(rng.random_range(1..1500)))
            }
            (false, _) => Input::Put(value),
        }
    }
}

/// The tasks of one client with connections: draws them, and checks and records their results.
#[derive(Clone, Debug)]
pub struct TaskClient {
    /// The number of the client.
    pub client: u64,
    workload: Workload,
    /// The tasks in progress by their tags, with the numbers of their operations in the history.
    pending_tasks: BTreeMap<u64, (Task, Vec<usize>)>,
    /// The connection of the last answered local read, and the applied index that it reported.
    last_local_read: Option<(u64, Index)>,
    last_tag: u64,
    /// The earliest time of the next task.
    pub next_task_at: Time,
    /// Whether the client begins no more tasks.
    pub stopping: bool,
}

impl TaskClient {
    /// A client without a task in progress.
    pub fn new(client: u64, load: Load) -> TaskClient {
        let workload = Workload::new(client, load);
        TaskClient {
            client,
            workload,
            pending_tasks: BTreeMap::new(),
            last_local_read: None,
            last_tag: 0,
            next_task_at: Time::ZERO,
            stopping: false,
        }
    }

    /// Whether all tasks of the client have ended.
    pub fn is_done(&self) -> bool {
        self.pending_tasks.is_empty()
    }

    /// Begins a task if one is due. Returns its tag and its encoded body.
    pub fn begin_task(&mut self, now: Time, rng: &mut SmallRng, history: &mut History) -> Option<(u64, TaskBody)> {
        if self.stopping || now < self.next_task_at {
            return None;
        }
        let task = self.workload.draw(rng, history, true);
        let body = task.encode(rng);
        let operations = task.record_requests(self.client, now, history);
        self.last_tag += 1;
        self.pending_tasks.insert(self.last_tag, (task, operations));
        self.next_task_at =
            now + Duration::from_nanos(rng.random_range(0..=self.workload.load.think_time_max.as_nanos() as u64));
        Some((self.last_tag, body))
    }

    /// Ends the task with the tag `tag`: checks the task's answer, and records it in the history. `link` is the
    /// connection on which the answer arrived. The error describes an answer that no correct node gives.
    pub fn end_task(
        &mut self,
        now: Time,
        (tag, link): (u64, Option<u64>),
        end: TaskEnd,
        (history, values): (&mut History, &ValueHistory),
    ) -> Result<(), String> {
        let Some((task, operations)) = self.pending_tasks.remove(&tag) else { return Ok(()) };
        let (answer, applied) = match end {
            TaskEnd::Answered(answer, applied) => (answer, applied),
            TaskEnd::Refused => {
                operations.into_iter().for_each(|operation| history.record_refusal(operation));
                return Ok(());
            }
            TaskEnd::Unknown => {
                operations.into_iter().for_each(|operation| history.record_unknown_outcome(operation));
                return Ok(());
            }
        };
        let answers = task.split_answer(answer)?;
        if let Some(applied) = applied {
            task.keys().zip(&answers).try_for_each(|(key, answer)| values.check(&key, applied, answer))?;
        }
        if task.form.is_local() {
            return link.zip(applied).map_or(Ok(()), |(link, applied)| self.check_local_read(link, applied));
        }
        operations
            .into_iter()
            .zip(answers)
            .for_each(|(operation, answer)| history.record_answer(operation, now, answer));
        Ok(())
    }

    /// Checks that no local read is older than the previous local read on the same connection, which always reads from
    /// the same process.
    fn check_local_read(&mut self, link: u64, applied_index: Index) -> Result<(), String> {
        let previous_read = self.last_local_read.replace((link, applied_index));
        match previous_read {
            Some((previous_link, seen)) if previous_link == link && applied_index < seen => Err(format!(
                "client {} reads at applied index {applied_index}, but its last read on that connection was at {seen}",
                self.client
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scenario;
    use super::*;

    #[test]
    fn local_read_older_than_the_last_is_detected() {
        let load = Scenario::draw(1, Duration::from_secs(1)).load;
        let mut tasks = TaskClient::new(1, load);
        assert!(tasks.check_local_read(7, Index(5)).is_ok());
        assert!(tasks.check_local_read(7, Index(5)).is_ok());
        assert!(tasks.check_local_read(8, Index(3)).is_ok(), "another node may have applied less of the log");
        assert!(tasks.check_local_read(8, Index(2)).is_err());
    }
}
