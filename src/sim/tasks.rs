//! The tasks of simulated clients, of one operation or several: their encoding for the state machine, and the answer to
//! each operation.
//!
//! A *group* is several keys that are only ever written together, all with one value. In the history it is one key: a
//! read must find the same value everywhere, and an answer that shows two values is a violation by itself.

use super::history::{History, Input};
use crate::api::Consistency;
use crate::machine::commands::{Answer, Command, Deadline, Expiration, Query, SetCondition, Step};
use crate::types::Time;
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;

/// How many keys a group has.
const GROUP_KEYS: usize = 3;

/// The requests by which a client reads or writes the keys of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskForm {
    /// One operation on one key.
    Single,
    /// Operations on several keys, each a step of one block.
    Block,
    /// Reads of several keys by name.
    Values,
    /// Reads of several keys as a range.
    Scan,
    /// Local reads of several keys by name.
    Local,
    /// One operation on all keys of a group.
    Group,
    /// A local read of all keys of a group.
    LocalGroup,
}

impl TaskForm {
    /// Whether it is a local read: of the node's applied state, however old that is.
    pub fn is_local(self) -> bool {
        matches!(self, TaskForm::Local | TaskForm::LocalGroup)
    }
}

/// The operations that a client requests at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// How they are requested.
    pub form: TaskForm,
    /// The operations, as in the history.
    pub parts: Vec<(Bytes, Input)>,
}

/// An encoded task for the state machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Goes through the log.
    Command(Bytes),
    /// Does not go through the log.
    Query(Bytes, Consistency),
}

/// The keys of a group.
fn members(group: &Bytes) -> Vec<Bytes> {
    (0..GROUP_KEYS).map(|n| Bytes::from([&group[..], format!("/{n}").as_bytes()].concat())).collect()
}

impl Task {
    /// The keys that it names, as the state machine knows them. Each key of a group holds the same value as the first.
    pub fn keys(&self) -> impl Iterator<Item = Bytes> {
        let is_group = matches!(self.form, TaskForm::Group | TaskForm::LocalGroup);
        self.parts.iter().map(move |(key, _)| if is_group { members(key).swap_remove(0) } else { key.clone() })
    }

    /// Records the request in the history, unless it is a local read.
    pub fn invoke(&self, client: u64, now: Time, history: &mut History) -> Vec<usize> {
        let parts = self.parts.iter().filter(|_| !self.form.is_local());
        parts.map(|(key, input)| history.invoke(client, key.clone(), input.clone(), now)).collect()
    }

    /// Encodes the task for the state machine. Where there are several encodings, one is chosen at random.
    pub fn body(&self, rng: &mut SmallRng) -> Body {
        let consistency = if self.form.is_local() { Consistency::Local } else { Consistency::Linearizable };
        let (key, input) = &self.parts[0];
        let keys: Vec<&[u8]> = self.parts.iter().map(|(key, _)| &key[..]).collect();
        match self.form {
            TaskForm::Single if *input == Input::Get => Body::Query(Query::Get { key }.encode(), consistency),
            TaskForm::Single => Body::Command(command(key, input).encode()),
            TaskForm::Block => Body::Command(Command::Block(self.parts.iter().map(step).collect()).encode()),
            TaskForm::Values | TaskForm::Local => Body::Query(Query::Values(keys).encode(), consistency),
            TaskForm::Scan => {
                let prefix = &key[..1];
                Body::Query(Query::Scan { prefix, after: None, limit: u32::MAX }.encode(), consistency)
            }
            TaskForm::Group | TaskForm::LocalGroup => group_body(&members(key), input, consistency, rng),
        }
    }

    /// Splits the state machine's answer into one for each part. The error describes an answer that no correct node
    /// gives.
    pub fn split(&self, answer: Bytes) -> Result<Vec<Answer>, String> {
        let answer = Answer::decode(answer).map_err(|error| format!("an answer that cannot be decoded: {error}"))?;
        let wrong = |answer: &Answer| Err(format!("{self:?} receives {answer:?}"));
        let answers = match (self.form, answer) {
            (TaskForm::Single, answer) => vec![answer],
            (TaskForm::Block, Answer::Each(answers)) => answers,
            (TaskForm::Values | TaskForm::Local, Answer::Values(values)) => {
                values.into_iter().map(Answer::Value).collect()
            }
            (TaskForm::Scan, Answer::Pairs { pairs, more: false }) => self.scanned_values(pairs)?,
            (TaskForm::Group | TaskForm::LocalGroup, answer) => vec![self.agreed_answer(answer)?],
            (_, answer) => return wrong(&answer),
        };
        if answers.len() == self.parts.len() { Ok(answers) } else { wrong(&Answer::All(answers)) }
    }

    /// The value of each key in the answer to a range read.
    fn scanned_values(&self, pairs: Vec<(Bytes, Bytes)>) -> Result<Vec<Answer>, String> {
        let in_order = pairs.is_sorted_by(|(one, _), (other, _)| one < other);
        let first = &self.parts[0].0[..1];
        if !in_order || !pairs.iter().all(|(key, _)| key.starts_with(first)) {
            return Err(format!("{self:?} receives pairs out of order, or of other keys: {pairs:?}"));
        }
        let mut pairs: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
        Ok(self.parts.iter().map(|(key, _)| Answer::Value(pairs.remove(key))).collect())
    }

    /// The one answer that all keys of a group gave. The error describes answers that differ:
    /// operations on a group are atomic.
    fn agreed_answer(&self, answer: Answer) -> Result<Answer, String> {
        let torn = |answers: &dyn std::fmt::Debug| Err(format!("{self:?} splits a group: {answers:?}"));
        let (key, input) = &self.parts[0];
        let answers = match answer {
            Answer::Each(answers) | Answer::All(answers) => answers,
            Answer::Values(values) => values.into_iter().map(Answer::Value).collect(),
            Answer::Pairs { pairs, more: false } => {
                let mut found: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
                let values = members(key).iter().map(|key| Answer::Value(found.remove(key))).collect();
                if !found.is_empty() {
                    return torn(&found);
                }
                values
            }
            // Nothing of a batch was applied; all its commands would have failed for the reason of the one that did.
            Answer::None { why, .. } => vec![*why; GROUP_KEYS],
            Answer::Number(removed) if *input == Input::Del => match removed {
                0 => vec![Answer::Deleted { existed: false }; GROUP_KEYS],
                all if all == GROUP_KEYS as i64 => vec![Answer::Deleted { existed: true }; GROUP_KEYS],
                some => return torn(&some),
            },
            Answer::Done => vec![Answer::Done; GROUP_KEYS],
            answer => return torn(&answer),
        };
        match answers.split_first() {
            Some((first, rest)) if rest.len() + 1 == GROUP_KEYS && rest.iter().all(|other| other == first) => {
                Ok(first.clone())
            }
            _ => torn(&answers),
        }
    }
}

/// Encodes one operation on all keys of a group.
fn group_body(keys: &[Bytes], input: &Input, consistency: Consistency, rng: &mut SmallRng) -> Body {
    let names: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let command = match input {
        Input::Get if consistency == Consistency::Local || rng.random_range(0..3) > 0 => {
            let prefix = &names[0][..names[0].len() - 1];
            let query = match rng.random() {
                true => Query::Scan { prefix, after: None, limit: u32::MAX },
                false => Query::Values(names),
            };
            return Body::Query(query.encode(), consistency);
        }
        Input::Put(value) if rng.random() => {
            Command::PutAll(names.into_iter().map(|key| (key, &value[..])).collect()).encode()
        }
        Input::Del if rng.random() => Command::Forget(names).encode(),
        // The failing command is the last of its batch: nothing of the commands before it may stay.
        Input::Cas(_, value) => {
            let (last, rest) = keys.split_last().expect("a group has keys");
            let puts = rest.iter().map(|key| Command::Put { key, value });
            Command::Batch(puts.chain([command(last, input)]).collect()).encode()
        }
        Input::Put(_) | Input::PutFor(..) | Input::Incr(_) if rng.random() => {
            Command::Batch(keys.iter().map(|key| command(key, input)).collect()).encode()
        }
        input => Command::Block(keys.iter().map(|key| step_of(key, input)).collect()).encode(),
    };
    Body::Command(command)
}

fn step((key, input): &(Bytes, Input)) -> Step<'_> {
    step_of(key, input)
}

fn step_of<'a>(key: &'a Bytes, input: &'a Input) -> Step<'a> {
    if *input == Input::Get { Step::Ask(Query::Get { key }) } else { Step::Do(command(key, input)) }
}

/// The state machine's command for a client's operation on a key.
fn command<'a>(key: &'a Bytes, input: &'a Input) -> Command<'a> {
    match input {
        Input::Put(value) => Command::Put { key, value },
        Input::PutFor(value, ttl) => {
            let life = Expiration::Until(Deadline::In(ttl.as_millis() as u64));
            Command::Set { key, value, only_if: SetCondition::Either, life, tells: false }
        }
        Input::Del => Command::Del { key },
        Input::Cas(expected, new) => Command::Cas { key, expected: expected.as_deref(), new },
        Input::Incr(by) => Command::Incr { key, by: *by },
        Input::Get => panic!("a read is not a command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn group(input: Input) -> Task {
        Task { form: TaskForm::Group, parts: vec![(bytes("g0"), input)] }
    }

    fn pair(key: &'static str, value: &'static str) -> (Bytes, Bytes) {
        (bytes(key), bytes(value))
    }

    #[test]
    fn torn_group_is_detected() {
        let read = group(Input::Get);
        let found = |pairs| read.split(Answer::Pairs { pairs, more: false }.encode());
        let one = Answer::Value(Some(bytes("1")));
        assert_eq!(found(vec![pair("g0/0", "1"), pair("g0/1", "1"), pair("g0/2", "1")]), Ok(vec![one.clone()]));
        assert_eq!(found(vec![]), Ok(vec![Answer::Value(None)]));
        assert!(found(vec![pair("g0/0", "1"), pair("g0/1", "1")]).is_err(), "half of a block");
        assert!(found(vec![pair("g0/0", "2"), pair("g0/1", "1"), pair("g0/2", "1")]).is_err());
        let sums = |sums: [i64; 3]| group(Input::Incr(1)).split(Answer::Each(sums.map(Answer::Number).into()).encode());
        assert_eq!(sums([4, 4, 4]), Ok(vec![Answer::Number(4)]));
        assert!(sums([4, 4, 5]).is_err());
        let removed = |n| group(Input::Del).split(Answer::Number(n).encode());
        assert_eq!(removed(3), Ok(vec![Answer::Deleted { existed: true }]));
        assert!(removed(1).is_err());
    }

    #[test]
    fn failed_batch_reports_value_of_its_key() {
        let why = Answer::Kept { actual: Some(bytes("7")) };
        let answer = Answer::None { at: 2, why: Box::new(why.clone()) };
        assert_eq!(group(Input::Cas(None, bytes("8"))).split(answer.encode()), Ok(vec![why]));
    }

    #[test]
    fn range_out_of_order_is_detected() {
        let parts = ["k0", "k1"].map(|key| (bytes(key), Input::Get)).into();
        let scan = Task { form: TaskForm::Scan, parts };
        let found = |pairs| scan.split(Answer::Pairs { pairs, more: false }.encode());
        let values = vec![Answer::Value(None), Answer::Value(Some(bytes("b")))];
        assert_eq!(found(vec![pair("k1", "b"), pair("k7", "c")]), Ok(values));
        assert!(found(vec![pair("k1", "b"), pair("k0", "a")]).is_err());
        assert!(found(vec![pair("g0/0", "b")]).is_err());
    }
}
