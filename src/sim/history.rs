//! Checks that the clients' history is linearizable.
//!
//! Operations on different keys are independent, so each key is checked by itself (linearizability is local). The
//! search is Wing and Gong's with Lowe's memoization: pick any operation that could come first, check that its answer
//! fits, and go on with the rest. The model of a key is written here a second time, independent of the state machine
//! that it checks.

use crate::machine::commands::Answer;
use crate::types::Time;
use crate::types::digest::{hash, hash_numbers};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// An operation's request on one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Set the key.
    Put(Bytes),
    /// Set the key, with a time to live by the cluster's clock.
    PutFor(Bytes, Duration),
    /// Delete the key.
    Del,
    /// Set the key to the second value if it holds the first.
    Cas(Option<Bytes>, Bytes),
    /// Add to the number that the key holds.
    Incr(i64),
    /// Read the key.
    Get,
}

/// One operation as its client saw it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The client's number.
    pub client: u64,
    /// The key that it reads or writes.
    pub key: Bytes,
    /// What it does to the key.
    pub input: Input,
    /// When the request was first sent.
    pub invoked: Time,
    /// When the answer arrived, and the answer. `None` if none arrived: the operation may or may not have taken effect.
    pub returned: Option<(Time, Answer)>,
    /// Whether its client received a refusal: the operation has not taken effect and never will.
    pub refused: bool,
}

/// How many operations of one key may be in doubt: the search tries each of them at each place. After that many the
/// clients go on with another key in its place.
const DOUBTS_MAX: u32 = 4;

/// First letter of keys that are written one by one.
pub const KEY: char = 'k';
/// First letter of groups of keys, which are only written together.
pub const GROUP: char = 'g';

/// All operations of the clients and their answers.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    /// How many operations of each key will stay in doubt.
    doubts: BTreeMap<Bytes, u32>,
    /// How many keys were used in each place before the current one.
    before: BTreeMap<(char, u64), u32>,
}

impl History {
    /// Records a request; returns the number of the operation.
    pub fn invoke(&mut self, client: u64, key: Bytes, input: Input, now: Time) -> usize {
        self.operations.push(Operation { client, key, input, invoked: now, returned: None, refused: false });
        self.operations.len() - 1
    }

    /// The current key, or group of keys, in that place.
    pub fn key(&self, kind: char, place: u64) -> Bytes {
        match self.before.get(&(kind, place)) {
            None => Bytes::from(format!("{kind}{place}")),
            Some(before) => Bytes::from(format!("{kind}{before}.{place}")),
        }
    }

    /// Records an operation's answer.
    pub fn answer(&mut self, operation: usize, now: Time, answer: Answer) {
        self.operations[operation].returned = Some((now, answer));
    }

    /// Records a refusal: the operation has not taken effect and never will.
    pub fn refuse(&mut self, operation: usize) {
        self.operations[operation].refused = true;
    }

    /// Records that no answer will ever arrive: the operation may have taken effect, may do so later, or never.
    pub fn record_unknown(&mut self, operation: usize) {
        let Operation { key, input, .. } = &self.operations[operation];
        if *input == Input::Get {
            return;
        }
        let (key, doubts) = (key.clone(), self.doubts.entry(key.clone()).or_default());
        *doubts += 1;
        let many = *doubts >= DOUBTS_MAX;
        let kind = if key.starts_with(b"g") { GROUP } else { KEY };
        let place = std::str::from_utf8(&key).ok().and_then(|key| key.rsplit([kind, '.']).next()?.parse().ok());
        if let Some(place) = place.filter(|place| many && self.key(kind, *place) == key) {
            *self.before.entry((kind, place)).or_default() += 1;
        }
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The number of answered operations.
    pub fn answered(&self) -> usize {
        self.operations.iter().filter(|operation| operation.returned.is_some()).count()
    }

    /// Checks that there is an order of all operations in which each takes effect between its request and its answer,
    /// and every answer is right. Otherwise the error names the key without such an order. Returns the number of keys
    /// for which the search was too large to complete.
    pub fn check(&self) -> Result<u64, String> {
        let mut unjudged = 0;
        let mut keys: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
        // A read without an answer changed nothing and showed nothing.
        let told = |o: &&Operation| !o.refused && (o.returned.is_some() || o.input != Input::Get);
        for operation in self.operations.iter().filter(told) {
            keys.entry(&operation.key).or_default().push(operation);
        }
        for (key, operations) in keys {
            match linearizable(&operations) {
                Some(true) => {}
                Some(false) => return Err(explain(key, &operations)),
                None => unjudged += 1,
            }
        }
        Ok(unjudged)
    }
}

/// Describes the shortest prefix of a key's history that has no order.
fn explain(key: &Bytes, operations: &[&Operation]) -> String {
    let mut returns: Vec<Time> = operations.iter().filter_map(|o| o.returned.as_ref().map(|(at, _)| *at)).collect();
    returns.sort_unstable();
    let upto = |end: Time| -> Vec<Operation> {
        let mut cut: Vec<Operation> = operations.iter().filter(|o| o.invoked <= end).map(|o| (*o).clone()).collect();
        for operation in &mut cut {
            operation.returned.take_if(|(at, _)| *at > end);
        }
        cut
    };
    let broken = returns.partition_point(|end| linearizable(&upto(*end).iter().collect::<Vec<_>>()) != Some(false));
    let end = returns[broken.min(returns.len() - 1)];
    let cut = upto(end);
    let tail: Vec<String> = cut.iter().rev().take(8).rev().map(|o| format!("{o:?}")).collect();
    format!(
        "no order of {} operations on {:?} explains the answer at {end:?}; the last:\n  {}",
        cut.len(),
        key,
        tail.join("\n  ")
    )
}

/// A key's value and, if the key has a deadline, the earliest time at which it can have expired.
type KeyState = Option<(Bytes, Option<Time>)>;

/// By how many percent of its time to live a key may expire early: clocks run fast by less than that.
const EARLY: u32 = 10;

/// The possible outcomes of an operation: the state after it, and the required answer. A key whose deadline may have
/// passed is either gone or still there: no clock of the simulation is the cluster's clock, but the cluster's clock
/// never runs ahead.
fn outcomes(state: &KeyState, operation: &Operation) -> Vec<(KeyState, Answer)> {
    let end = operation.returned.as_ref().map_or(Time::NEVER, |(at, _)| *at);
    let ended = state.as_ref().is_some_and(|(_, until)| until.is_some_and(|until| until <= end));
    let from = |state: &KeyState| {
        let held = state.as_ref().map(|(value, _)| value.clone());
        let (after, answer) = step(&held, &operation.input);
        let until = match &operation.input {
            Input::PutFor(_, ttl) => Some(operation.invoked + *ttl * (100 - EARLY) / 100),
            Input::Put(_) => None,
            Input::Cas(..) if answer == Answer::Done => None,
            _ => state.as_ref().and_then(|(_, until)| *until),
        };
        (after.map(|value| (value, until)), answer)
    };
    if ended { vec![from(state), from(&None)] } else { vec![from(state)] }
}

/// Applies the operation to a key's value; returns the new value and the required answer.
fn step(state: &Option<Bytes>, input: &Input) -> (Option<Bytes>, Answer) {
    match input {
        Input::PutFor(value, _) => (Some(value.clone()), Answer::Done),
        Input::Put(value) => (Some(value.clone()), Answer::Done),
        Input::Del => (None, Answer::Deleted { existed: state.is_some() }),
        Input::Cas(expected, new) if state == expected => (Some(new.clone()), Answer::Done),
        Input::Cas(..) => (state.clone(), Answer::Kept { actual: state.clone() }),
        Input::Get => (state.clone(), Answer::Value(state.clone())),
        Input::Incr(by) => {
            let number = match state {
                None => Some(0),
                Some(text) => std::str::from_utf8(text)
                    .ok()
                    .and_then(|text| text.parse::<i64>().ok().filter(|number| number.to_string() == text)),
            };
            match number {
                None => (state.clone(), Answer::NotANumber),
                Some(number) => match number.checked_add(*by) {
                    None => (state.clone(), Answer::Overflow),
                    Some(sum) => (Some(Bytes::from(sum.to_string())), Answer::Number(sum)),
                },
            }
        }
    }
}

/// The operations that have their place in the order. Sets are compared by 128 bits of hash: a set itself is as long as
/// the history.
#[derive(Clone)]
struct PlacedSet {
    bits: Vec<u64>,
    hash: (u64, u64),
}

impl PlacedSet {
    fn has(&self, i: usize) -> bool {
        self.bits[i / 64] >> (i % 64) & 1 == 1
    }

    fn with(&self, i: usize) -> PlacedSet {
        let mut placed = self.clone();
        placed.bits[i / 64] |= 1 << (i % 64);
        placed.hash.0 ^= hash_numbers([i as u64, 1]);
        placed.hash.1 ^= hash_numbers([i as u64, 2]);
        placed
    }

    /// A hash of the set together with the key's state.
    fn key(&self, state: &KeyState) -> (u64, u64) {
        let (bytes, ends) = state
            .as_ref()
            .map_or((&[][..], u64::MAX), |(bytes, ends)| (&bytes[..], ends.map_or(u64::MAX - 1, |ends| ends.0)));
        let known = hash(ends, bytes);
        (self.hash.0 ^ hash_numbers([known, 3]), self.hash.1 ^ hash_numbers([known, 4]))
    }
}

/// How many sets of placed operations are tried, in each search order. A history that has an order mostly shows it in
/// as many steps as it has operations.
const SETS_MAX: usize = 2_000_000;

/// The operations that the search tries first: those requested last, or those answered first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SearchOrder {
    LatestRequestFirst,
    EarliestAnswerFirst,
}

/// Whether there is an order; `None` if the search was too large.
fn linearizable(operations: &[&Operation]) -> Option<bool> {
    let search = Search::new(operations);
    search.run(SearchOrder::LatestRequestFirst).or_else(|| search.run(SearchOrder::EarliestAnswerFirst))
}

/// The search for an order of one key's operations.
struct Search<'a> {
    /// Answered operations, in the order of their requests.
    answered: Vec<(&'a Operation, Time, &'a Answer)>,
    /// Unanswered operations: there are few, and each may take effect at any time after its request, or never. They are
    /// numbered after the answered ones.
    doubtful: Vec<&'a Operation>,
    /// Whether any operation sets the key with a time to live.
    is_mortal: bool,
}

impl<'a> Search<'a> {
    fn new(operations: &[&'a Operation]) -> Search<'a> {
        let mut sorted: Vec<&Operation> = operations.to_vec();
        sorted.sort_by_key(|operation| operation.invoked);
        let told = |o: &&'a Operation| o.returned.as_ref().map(|(at, answer)| (*o, *at, answer));
        Search {
            answered: sorted.iter().filter_map(told).collect(),
            doubtful: sorted.iter().copied().filter(|operation| operation.returned.is_none()).collect(),
            is_mortal: sorted.iter().any(|operation| matches!(operation.input, Input::PutFor(..))),
        }
    }

    fn run(&self, trying: SearchOrder) -> Option<bool> {
        let count = self.answered.len() + self.doubtful.len();
        let nothing = PlacedSet { bits: vec![0; count.div_ceil(64)], hash: (0, 0) };
        let mut seen = HashSet::from([nothing.key(&None)]);
        // (placed operations, the key's state, the first answered operation that is not placed)
        let mut stack: Vec<(PlacedSet, KeyState, usize)> = vec![(nothing, None, 0)];
        while let Some((placed, state, first)) = stack.pop() {
            if first == self.answered.len() {
                return Some(true);
            }
            for (i, after) in self.next(&placed, &state, first, trying) {
                let next = placed.with(i);
                if seen.insert(next.key(&after)) {
                    let first = (first..self.answered.len()).find(|j| !next.has(*j)).unwrap_or(self.answered.len());
                    stack.push((next, after, first));
                }
            }
            if seen.len() > SETS_MAX {
                return None;
            }
        }
        Some(false)
    }

    /// Whether an operation with this answer changed nothing. If keys have deadlines, an operation that finds the key
    /// gone may be the one that fixes its expiry.
    fn only_reads(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Value(held) | Answer::Kept { actual: held } => held.is_some() || !self.is_mortal,
            Answer::Deleted { existed } => !existed && !self.is_mortal,
            Answer::NotANumber | Answer::Overflow => true,
            _ => false,
        }
    }

    /// The operations that may take effect next, each with the key's state after it. The one to try first comes last.
    fn next(&self, placed: &PlacedSet, state: &KeyState, first: usize, trying: SearchOrder) -> Vec<(usize, KeyState)> {
        let mut earliest = Time::NEVER;
        let mut window = Vec::new();
        for (i, (operation, end, _)) in self.answered.iter().enumerate().skip(first) {
            // An operation requested after `earliest` also ends after it.
            if operation.invoked > earliest {
                break;
            }
            if !placed.has(i) {
                earliest = earliest.min(*end);
                window.push(i);
            }
        }
        window.retain(|i| self.answered[*i].0.invoked <= earliest);
        if trying == SearchOrder::EarliestAnswerFirst {
            window.sort_by_key(|i| std::cmp::Reverse(self.answered[*i].1));
        }
        let mut next = Vec::new();
        for (n, operation) in self.doubtful.iter().enumerate().filter(|(_, o)| o.invoked <= earliest) {
            let i = self.answered.len() + n;
            // Of equal unanswered operations, the one requested first may as well take effect first.
            let is_before =
                |j: usize| self.doubtful[j].input == operation.input && !placed.has(self.answered.len() + j);
            if !placed.has(i) && !(0..n).any(is_before) {
                // An unanswered operation that would change nothing may as well never take effect.
                let changes =
                    outcomes(state, operation).into_iter().map(|(after, _)| after).filter(|after| after != state);
                next.extend(changes.map(|after| (i, after)));
            }
        }
        for i in window {
            let (operation, _, told) = self.answered[i];
            for (after, answer) in outcomes(state, operation) {
                if answer == *told && after == *state && self.only_reads(told) {
                    // It fits here and changes nothing at any place: whatever the order of the other operations, it may
                    // come before them.
                    return vec![(i, after)];
                }
                if answer == *told {
                    next.push((i, after));
                }
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    type RecordedOperation = (Input, u64, Option<(u64, Answer)>);

    fn history(operations: &[RecordedOperation]) -> History {
        let mut history = History::default();
        for (input, invoked, returned) in operations {
            let number = history.invoke(1, value("k"), input.clone(), Time(*invoked));
            if let Some((at, answer)) = returned {
                history.answer(number, Time(*at), answer.clone());
            }
        }
        history
    }

    #[test]
    fn overlapping_operations_may_take_effect_in_either_order() {
        let get = |at, end, text| (Input::Get, at, Some((end, Answer::Value(Some(value(text))))));
        let a = (Input::Put(value("a")), 0, Some((10, Answer::Done)));
        let b = (Input::Put(value("b")), 5, Some((15, Answer::Done)));
        for last in ["a", "b"] {
            assert!(history(&[a.clone(), b.clone(), get(20, 21, last)]).check().is_ok());
        }
        assert!(history(&[a, b, get(20, 21, "a"), get(22, 23, "b")]).check().is_err());
    }

    #[test]
    fn stale_read_is_detected() {
        let put = |text, at, end| (Input::Put(value(text)), at, Some((end, Answer::Done)));
        let get = (Input::Get, 30, Some((31, Answer::Value(Some(value("a"))))));
        assert!(history(&[put("a", 0, 1), put("b", 10, 11), get]).check().is_err());
    }

    #[test]
    fn unanswered_operation_may_or_may_not_take_effect() {
        let put = (Input::Put(value("a")), 0, None);
        let absent = (Input::Get, 30, Some((31, Answer::Value(None))));
        let present = (Input::Get, 40, Some((41, Answer::Value(Some(value("a"))))));
        assert!(history(&[put.clone(), absent.clone()]).check().is_ok());
        assert!(history(&[put.clone(), absent.clone(), present.clone()]).check().is_ok());
        let absent = (Input::Get, 50, Some((51, Answer::Value(None))));
        assert!(history(&[put, present, absent]).check().is_err());
    }

    #[test]
    fn refused_operation_that_took_effect_is_detected() {
        let mut history = history(&[(Input::Put(value("a")), 0, None)]);
        history.refuse(0);
        assert!(history.check().is_ok());
        let read = history.invoke(1, value("k"), Input::Get, Time(30));
        history.answer(read, Time(31), Answer::Value(Some(value("a"))));
        assert!(history.check().is_err());
    }

    #[test]
    fn key_with_many_unknown_outcomes_is_replaced() {
        let mut history = History::default();
        assert_eq!(history.key(KEY, 12), "k12");
        for n in 0..DOUBTS_MAX {
            let operation = history.invoke(1, history.key(KEY, 12), Input::Del, Time(n.into()));
            history.record_unknown(operation);
        }
        assert_eq!((history.key(KEY, 12), history.key(KEY, 2)), (value("k1.12"), value("k2")));
        let read = history.invoke(1, value("k1.12"), Input::Get, Time(9));
        history.record_unknown(read);
        let late = history.invoke(1, value("k12"), Input::Del, Time(9));
        history.record_unknown(late);
        assert_eq!(history.key(KEY, 12), "k1.12", "operations on a replaced key do not count");
    }

    #[test]
    fn key_expires_at_its_deadline_or_later() {
        let put = (Input::PutFor(value("a"), Duration::from_nanos(100)), 0, Some((10, Answer::Done)));
        let get = |at, held: Option<&'static str>| (Input::Get, at, Some((at + 1, Answer::Value(held.map(value)))));
        let add = (Input::Incr(1), 150, Some((151, Answer::Number(1))));
        assert!(history(&[put.clone(), get(20, Some("a")), get(120, None)]).check().is_ok());
        assert!(history(&[put.clone(), get(120, Some("a"))]).check().is_ok(), "the cluster's time may stand still");
        assert!(history(&[put.clone(), get(20, None)]).check().is_err(), "the key expires too early");
        assert!(
            history(&[put.clone(), get(120, None), get(140, Some("a"))]).check().is_err(),
            "an expired key does not return"
        );
        assert!(history(&[put.clone(), add.clone(), get(200, Some("1")), get(900, None)]).check().is_err());
        // Without a deadline the key stays.
        let again = (Input::Put(value("a")), 12, Some((13, Answer::Done)));
        assert!(history(&[put, again, get(900, None)]).check().is_err());
    }

    /// Tries every order.
    fn any_order(left: &[&Operation], state: &KeyState) -> bool {
        let end = |o: &Operation| o.returned.as_ref().map_or(Time::NEVER, |(at, _)| *at);
        let earliest = left.iter().map(|o| end(o)).min().unwrap_or(Time::NEVER);
        earliest == Time::NEVER
            || (0..left.len()).filter(|i| left[*i].invoked <= earliest).any(|i| {
                let rest: Vec<&Operation> = [&left[..i], &left[i + 1..]].concat();
                let fits = |answer: &Answer| left[i].returned.as_ref().is_none_or(|(_, told)| told == answer);
                outcomes(state, left[i]).iter().any(|(after, answer)| fits(answer) && any_order(&rest, after))
            })
    }

    #[test]
    fn search_agrees_with_exhaustive_search() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut judged = [0; 2];
        for _ in 0..20_000 {
            let mut told: Vec<RecordedOperation> = Vec::new();
            for _ in 0..rng.random_range(2..7) {
                let (input, answer) = match rng.random_range(0..6) {
                    0 => (Input::Put(value(["1", "x"][rng.random_range(0..2)])), Answer::Done),
                    1 => (Input::PutFor(value("1"), Duration::from_nanos(10)), Answer::Done),
                    2 => (Input::Del, Answer::Deleted { existed: rng.random() }),
                    3 => (Input::Cas(Some(value("1")), value("x")), Answer::Done),
                    4 => (Input::Incr(1), Answer::Number(rng.random_range(1..3))),
                    _ => (
                        Input::Get,
                        Answer::Value([None, Some(value("1")), Some(value("x"))][rng.random_range(0..3)].clone()),
                    ),
                };
                let (asked, took) = (rng.random_range(0..30), rng.random_range(1..15));
                let doubtful = input != Input::Get && rng.random_range(0..4) == 0;
                told.push((input, asked, (!doubtful).then_some((asked + took, answer))));
            }
            let history = history(&told);
            let operations: Vec<&Operation> = history.operations.iter().collect();
            let expected = any_order(&operations, &None);
            judged[usize::from(expected)] += 1;
            for trying in [SearchOrder::LatestRequestFirst, SearchOrder::EarliestAnswerFirst] {
                assert_eq!(Search::new(&operations).run(trying), Some(expected), "{told:?}");
            }
        }
        assert!(judged.iter().all(|judged| *judged > 2000), "{judged:?} histories without an order and with one");
    }

    #[test]
    fn double_increment_is_detected() {
        let incr = |at, end, sum| (Input::Incr(1), at, Some((end, Answer::Number(sum))));
        assert!(history(&[incr(0, 5, 1), incr(1, 6, 2), incr(10, 11, 3)]).check().is_ok());
        assert!(history(&[incr(0, 5, 1), incr(10, 11, 3)]).check().is_err());
    }
}
