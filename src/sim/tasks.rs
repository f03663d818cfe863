//! The tasks of simulated clients. A task consists of one or several operations. This module encodes tasks for the
//! state machine, and splits an answer into the answers to the operations.
//!
//! A *group* is several keys that are only ever written together, all with the same value. In the history a group is
//! one key: a read must find the same value at all keys of the group, and an answer with two values is a violation by
//! itself.

use super::history::{History, Input};
use crate::api::Consistency;
use crate::machine::commands::{Answer, Command, CommandOrQuery, Deadline, Expiration, Query, SetCondition};
use crate::types::Time;
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;

/// The number of keys of a group.
const GROUP_KEY_COUNT: usize = 3;

/// How a task is requested from the state machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskForm {
    /// One operation on one key.
    Single,
    /// Operations on several keys in one atomic command (`Command::Block`), each with an answer of its own.
    Block,
    /// Reads of several keys by name.
    Values,
    /// Reads of several keys as a range.
    Scan,
    /// Local reads of several keys by name.
    LocalValues,
    /// One operation on all keys of a group.
    Group,
    /// A local read of all keys of a group.
    LocalGroup,
}

impl TaskForm {
    /// Whether the task reads the node's applied state, which may be arbitrarily old.
    pub fn is_local(self) -> bool {
        matches!(self, TaskForm::LocalValues | TaskForm::LocalGroup)
    }
}

/// One or several operations that a client requests at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// With which kind of command or query the operations are requested.
    pub form: TaskForm,
    /// The key and input of each operation, as in the history. A group is one key.
    pub parts: Vec<(Bytes, Input)>,
}

/// An encoded task for the state machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskBody {
    /// A command of the state machine, which goes through the log.
    Command(Bytes),
    /// A query of the state machine, which does not go through the log.
    Query(Bytes, Consistency),
}

/// The state machine's keys of a group: the name of the group, followed by `/0`, `/1` and so on.
fn group_keys(group: &Bytes) -> Vec<Bytes> {
    (0..GROUP_KEY_COUNT).map(|n| Bytes::from([&group[..], format!("/{n}").as_bytes()].concat())).collect()
}

impl Task {
    /// The key of each operation in the state machine. For a group, the first key stands for all keys of the group,
    /// since they hold the same value.
    pub fn keys(&self) -> impl Iterator<Item = Bytes> {
        let is_group = matches!(self.form, TaskForm::Group | TaskForm::LocalGroup);
        self.parts.iter().map(move |(key, _)| if is_group { group_keys(key).swap_remove(0) } else { key.clone() })
    }

    /// Records the operations in the history, unless they are local reads. Returns their numbers.
    pub fn record_requests(&self, client: u64, now: Time, history: &mut History) -> Vec<usize> {
        let parts = self.parts.iter().filter(|_| !self.form.is_local());
        parts.map(|(key, input)| history.record_request(client, key.clone(), input.clone(), now)).collect()
    }

    /// Encodes the task for the state machine. Where several commands have the same effect, one is chosen at random.
    pub fn encode(&self, rng: &mut SmallRng) -> TaskBody {
        let consistency = if self.form.is_local() { Consistency::Local } else { Consistency::Linearizable };
        let (key, input) = &self.parts[0];
        let keys: Vec<&[u8]> = self.parts.iter().map(|(key, _)| &key[..]).collect();
        match self.form {
            TaskForm::Single if *input == Input::Get => TaskBody::Query(Query::Get { key }.encode(), consistency),
            TaskForm::Single => TaskBody::Command(command_for(key, input).encode()),
            TaskForm::Block => {
                TaskBody::Command(Command::Block(self.parts.iter().map(step_for_part).collect()).encode())
            }
            TaskForm::Values | TaskForm::LocalValues => TaskBody::Query(Query::Values(keys).encode(), consistency),
            TaskForm::Scan => {
                let prefix = &key[..1];
                TaskBody::Query(Query::Scan { prefix, after: None, limit: u32::MAX }.encode(), consistency)
            }
            TaskForm::Group | TaskForm::LocalGroup => encode_group(&group_keys(key), input, consistency, rng),
        }
    }

    /// Splits the state machine's answer into one answer for each operation. The error describes an answer that no
    /// correct node gives.
    pub fn split_answer(&self, answer: Bytes) -> Result<Vec<Answer>, String> {
        let answer =
            Answer::decode(answer).map_err(|error| format!("the state machine's answer cannot be decoded: {error}"))?;
        let unexpected_answer_error =
            |answer: &Answer| Err(format!("{self:?} receives the unexpected answer {answer:?}"));
        let answers = match (self.form, answer) {
            (TaskForm::Single, answer) => vec![answer],
            (TaskForm::Block, Answer::List(answers)) => answers,
            (TaskForm::Values | TaskForm::LocalValues, Answer::Values(values)) => {
                values.into_iter().map(Answer::Value).collect()
            }
            (TaskForm::Scan, Answer::Pairs { pairs, has_more: false }) => self.scanned_values(pairs)?,
            (TaskForm::Group | TaskForm::LocalGroup, answer) => vec![self.agreed_answer(answer)?],
            (_, answer) => return unexpected_answer_error(&answer),
        };
        if answers.len() == self.parts.len() { Ok(answers) } else { unexpected_answer_error(&Answer::Batch(answers)) }
    }

    /// The value of each key in the answer to a range read.
    fn scanned_values(&self, pairs: Vec<(Bytes, Bytes)>) -> Result<Vec<Answer>, String> {
        let is_in_order = pairs.is_sorted_by(|(one, _), (other, _)| one < other);
        let key_prefix = &self.parts[0].0[..1];
        if !is_in_order || !pairs.iter().all(|(key, _)| key.starts_with(key_prefix)) {
            return Err(format!("{self:?} receives pairs out of order, or of keys that it does not read: {pairs:?}"));
        }
        let mut pairs: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
        Ok(self.parts.iter().map(|(key, _)| Answer::Value(pairs.remove(key))).collect())
    }

    /// The answer that all keys of a group agree on. The error describes answers that differ, which is a violation
    /// because operations on a group are atomic.
    fn agreed_answer(&self, answer: Answer) -> Result<Answer, String> {
        let differing_answers_error = |answers: &dyn std::fmt::Debug| {
            Err(format!("{self:?} receives answers that differ between the keys of a group: {answers:?}"))
        };
        let (key, input) = &self.parts[0];
        let answers = match answer {
            Answer::List(answers) | Answer::Batch(answers) => answers,
            Answer::Values(values) => values.into_iter().map(Answer::Value).collect(),
            Answer::Pairs { pairs, has_more: false } => {
                let mut values_by_key: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
                let values = group_keys(key).iter().map(|key| Answer::Value(values_by_key.remove(key))).collect();
                if !values_by_key.is_empty() {
                    return differing_answers_error(&values_by_key);
                }
                values
            }
            // No command of the failed batch was applied. Since all keys hold the same value, the command for each key
            // would have failed for the same reason.
            Answer::BatchFailed { why, .. } => vec![*why; GROUP_KEY_COUNT],
            Answer::Number(removed) if *input == Input::Del => match removed {
                0 => vec![Answer::Deleted { existed: false }; GROUP_KEY_COUNT],
                all if all == GROUP_KEY_COUNT as i64 => vec![Answer::Deleted { existed: true }; GROUP_KEY_COUNT],
                some => return differing_answers_error(&some),
            },
            Answer::Done => vec![Answer::Done; GROUP_KEY_COUNT],
            answer => return differing_answers_error(&answer),
        };
        match answers.split_first() {
            Some((first, other_answers))
                if other_answers.len() + 1 == GROUP_KEY_COUNT && other_answers.iter().all(|other| other == first) =>
            {
                Ok(first.clone())
            }
            _ => differing_answers_error(&answers),
        }
    }
}

/// Encodes one operation on all keys of a group.
fn encode_group(keys: &[Bytes], input: &Input, consistency: Consistency, rng: &mut SmallRng) -> TaskBody {
    let key_slices: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let command = match input {
        Input::Get if consistency == Consistency::Local || rng.random_range(0..3) > 0 => {
            let prefix = &key_slices[0][..key_slices[0].len() - 1];
            let query = match rng.random() {
                true => Query::Scan { prefix, after: None, limit: u32::MAX },
                false => Query::Values(key_slices),
            };
            return TaskBody::Query(query.encode(), consistency);
        }
        Input::Put(value) if rng.random() => {
            Command::PutAll(key_slices.into_iter().map(|key| (key, &value[..])).collect()).encode()
        }
        Input::Del if rng.random() => Command::DelKeys(key_slices).encode(),
        // The compare-and-swap is the last command of the batch: if it fails, the commands before it must have no
        // effect.
        Input::Cas(_, value) => {
            let (last, other_keys) = keys.split_last().expect("a group has at least one key");
            let puts = other_keys.iter().map(|key| Command::Put { key, value });
            Command::Batch(puts.chain([command_for(last, input)]).collect()).encode()
        }
        Input::Put(_) | Input::PutWithTtl(..) | Input::Incr(_) if rng.random() => {
            Command::Batch(keys.iter().map(|key| command_for(key, input)).collect()).encode()
        }
        input => Command::Block(keys.iter().map(|key| step_for_operation(key, input)).collect()).encode(),
    };
    TaskBody::Command(command)
}

/// The step of a `Command::Block` for one operation of a task.
fn step_for_part((key, input): &(Bytes, Input)) -> CommandOrQuery<'_> {
    step_for_operation(key, input)
}

fn step_for_operation<'a>(key: &'a Bytes, input: &'a Input) -> CommandOrQuery<'a> {
    if *input == Input::Get {
        CommandOrQuery::Query(Query::Get { key })
    } else {
        CommandOrQuery::Command(command_for(key, input))
    }
}

/// The state machine's command for a client's operation on a key.
fn command_for<'a>(key: &'a Bytes, input: &'a Input) -> Command<'a> {
    match input {
        Input::Put(value) => Command::Put { key, value },
        Input::PutWithTtl(value, ttl) => {
            let expiration = Expiration::Until(Deadline::InMs(ttl.as_millis() as u64));
            Command::Set { key, value, only_if: SetCondition::Always, expiration, returns_previous: false }
        }
        Input::Del => Command::Del { key },
        Input::Cas(expected, new) => Command::Cas { key, expected: expected.as_deref(), new },
        Input::Incr(by) => Command::Incr { key, by: *by },
        Input::Get => panic!("a read is encoded as a query, not as a command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn group_task(input: Input) -> Task {
        Task { form: TaskForm::Group, parts: vec![(bytes("g0"), input)] }
    }

    fn pair(key: &'static str, value: &'static str) -> (Bytes, Bytes) {
        (bytes(key), bytes(value))
    }

    #[test]
    fn group_with_differing_values_is_detected() {
        let read = group_task(Input::Get);
        let split_pairs = |pairs| read.split_answer(Answer::Pairs { pairs, has_more: false }.encode());
        let value_one = Answer::Value(Some(bytes("1")));
        assert_eq!(
            split_pairs(vec![pair("g0/0", "1"), pair("g0/1", "1"), pair("g0/2", "1")]),
            Ok(vec![value_one.clone()])
        );
        assert_eq!(split_pairs(vec![]), Ok(vec![Answer::Value(None)]));
        assert!(
            split_pairs(vec![pair("g0/0", "1"), pair("g0/1", "1")]).is_err(),
            "a group with one key missing is a violation"
        );
        assert!(split_pairs(vec![pair("g0/0", "2"), pair("g0/1", "1"), pair("g0/2", "1")]).is_err());
        let split_sums = |sums: [i64; 3]| {
            group_task(Input::Incr(1)).split_answer(Answer::List(sums.map(Answer::Number).into()).encode())
        };
        assert_eq!(split_sums([4, 4, 4]), Ok(vec![Answer::Number(4)]));
        assert!(split_sums([4, 4, 5]).is_err());
        let split_removed_count = |n| group_task(Input::Del).split_answer(Answer::Number(n).encode());
        assert_eq!(split_removed_count(3), Ok(vec![Answer::Deleted { existed: true }]));
        assert!(split_removed_count(1).is_err());
    }

    #[test]
    fn failed_batch_reports_answer_of_failed_command() {
        let mismatch = Answer::CasMismatch { actual: Some(bytes("7")) };
        let answer = Answer::BatchFailed { index: 2, why: Box::new(mismatch.clone()) };
        assert_eq!(group_task(Input::Cas(None, bytes("8"))).split_answer(answer.encode()), Ok(vec![mismatch]));
    }

    #[test]
    fn scan_with_pairs_out_of_order_is_detected() {
        let parts = ["k0", "k1"].map(|key| (bytes(key), Input::Get)).into();
        let scan = Task { form: TaskForm::Scan, parts };
        let split_pairs = |pairs| scan.split_answer(Answer::Pairs { pairs, has_more: false }.encode());
        let values = vec![Answer::Value(None), Answer::Value(Some(bytes("b")))];
        assert_eq!(split_pairs(vec![pair("k1", "b"), pair("k7", "c")]), Ok(values));
        assert!(split_pairs(vec![pair("k1", "b"), pair("k0", "a")]).is_err());
        assert!(split_pairs(vec![pair("g0/0", "b")]).is_err());
    }
}
