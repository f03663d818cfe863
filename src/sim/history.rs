//! Checks that the clients' history is linearizable.
//!
//! Operations on different keys are independent, so each key is checked by itself (linearizability is local). The
//! search is Wing and Gong's with Lowe's memoization: pick any operation that could come first, check that its answer
//! is right, and continue with the remaining operations. The model of a key is written here a second time,
//! independently of the state machine whose answers it checks.

use crate::machine::commands::Answer;
use crate::types::Time;
use crate::types::digest::{hash, hash_numbers};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// What an operation requests: a command or a read on one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Set the key to this value.
    Put(Bytes),
    /// Set the key to this value, with a time to live by the cluster's clock.
    PutWithTtl(Bytes, Duration),
    /// Delete the key.
    Del,
    /// Set the key to the second value if the key holds the first. `None` stands for an absent key.
    Cas(Option<Bytes>, Bytes),
    /// Add to the number that the key holds.
    Incr(i64),
    /// Read the key.
    Get,
}

/// One operation of a client: its request and, if one arrived, its answer.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The number of the client that sent the request.
    pub client: u64,
    /// The key that the operation reads or writes.
    pub key: Bytes,
    /// What the operation does: read, write, delete, compare and swap, or increment.
    pub input: Input,
    /// When the request was first sent.
    pub invoked_at: Time,
    /// When the answer arrived, and the answer. `None` if no answer arrived: the operation may or may not have taken
    /// effect.
    pub response: Option<(Time, Answer)>,
    /// Whether the client received a refusal: the operation has not taken effect and never will.
    pub refused: bool,
}

/// How many operations on one key may have an unknown outcome before the clients use another key instead: the search
/// tries each such operation at every position of the order.
const UNKNOWN_OUTCOMES_MAX: u32 = 4;

/// The first letter of the names of keys that are written one by one.
pub const KEY_PREFIX: char = 'k';
/// The first letter of the names of groups of keys; the keys of a group are only written together.
pub const GROUP_PREFIX: char = 'g';

/// All operations of the clients and their answers.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    /// How many operations on each key have an outcome that will never be known.
    unknown_outcome_counts: BTreeMap<Bytes, u32>,
    /// How many keys of each slot were replaced, by the first letter and the number of the slot. Clients address slots;
    /// each slot has one key at a time.
    replaced_key_counts: BTreeMap<(char, u64), u32>,
}

impl History {
    /// Records a request. Returns the number of its operation, which is its position in the history.
    pub fn record_request(&mut self, client: u64, key: Bytes, input: Input, now: Time) -> usize {
        self.operations.push(Operation { client, key, input, invoked_at: now, response: None, refused: false });
        self.operations.len() - 1
    }

    /// The current key, or group of keys, of a slot. The slot gets another key when [`UNKNOWN_OUTCOMES_MAX`] operations
    /// on the current key have unknown outcomes.
    pub fn current_key(&self, prefix: char, slot: u64) -> Bytes {
        match self.replaced_key_counts.get(&(prefix, slot)) {
            None => Bytes::from(format!("{prefix}{slot}")),
            Some(before) => Bytes::from(format!("{prefix}{before}.{slot}")),
        }
    }

    /// Records that an operation's answer arrived at the time `now`.
    pub fn record_answer(&mut self, operation: usize, now: Time, answer: Answer) {
        self.operations[operation].response = Some((now, answer));
    }

    /// Records a refusal: the operation has not taken effect and never will.
    pub fn record_refusal(&mut self, operation: usize) {
        self.operations[operation].refused = true;
    }

    /// Records that no answer will ever arrive: the operation may have taken effect, may do so later, or never.
    pub fn record_unknown_outcome(&mut self, operation: usize) {
        let Operation { key, input, .. } = &self.operations[operation];
        if *input == Input::Get {
            return;
        }
        let (key, unknown_count) = (key.clone(), self.unknown_outcome_counts.entry(key.clone()).or_default());
        *unknown_count += 1;
        let must_replace_key = *unknown_count >= UNKNOWN_OUTCOMES_MAX;
        let prefix = if key.starts_with(b"g") { GROUP_PREFIX } else { KEY_PREFIX };
        let slot = std::str::from_utf8(&key).ok().and_then(|key| key.rsplit([prefix, '.']).next()?.parse().ok());
        if let Some(slot) = slot.filter(|slot| must_replace_key && self.current_key(prefix, *slot) == key) {
            *self.replaced_key_counts.entry((prefix, slot)).or_default() += 1;
        }
    }

    /// The number of recorded operations, including those without an answer.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether no operation was recorded yet.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The number of operations with an answer; a refusal is not an answer.
    pub fn answered_count(&self) -> usize {
        self.operations.iter().filter(|operation| operation.response.is_some()).count()
    }

    /// Checks that there is an order of all operations in which each takes effect between its request and its answer,
    /// and every answer is right. The error names a key without such an order. Returns the number of keys whose search
    /// was too large to complete.
    pub fn check(&self) -> Result<u64, String> {
        let mut unchecked_key_count = 0;
        let mut operations_by_key: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
        // A refused operation has no effect, and a read without an answer has none either, so neither restricts the
        // order.
        let restricts_order = |o: &&Operation| !o.refused && (o.response.is_some() || o.input != Input::Get);
        for operation in self.operations.iter().filter(restricts_order) {
            operations_by_key.entry(&operation.key).or_default().push(operation);
        }
        for (key, operations) in operations_by_key {
            match is_linearizable(&operations) {
                Some(true) => {}
                Some(false) => return Err(describe_violation(key, &operations)),
                None => unchecked_key_count += 1,
            }
        }
        Ok(unchecked_key_count)
    }
}

/// Describes the shortest prefix of a key's history that is not linearizable.
fn describe_violation(key: &Bytes, operations: &[&Operation]) -> String {
    let mut answer_times: Vec<Time> =
        operations.iter().filter_map(|o| o.response.as_ref().map(|(at, _)| *at)).collect();
    answer_times.sort_unstable();
    let prefix_until = |end: Time| -> Vec<Operation> {
        let mut prefix_operations: Vec<Operation> =
            operations.iter().filter(|o| o.invoked_at <= end).map(|o| (*o).clone()).collect();
        for operation in &mut prefix_operations {
            operation.response.take_if(|(at, _)| *at > end);
        }
        prefix_operations
    };
    let first_violating_prefix = answer_times
        .partition_point(|end| is_linearizable(&prefix_until(*end).iter().collect::<Vec<_>>()) != Some(false));
    let end = answer_times[first_violating_prefix.min(answer_times.len() - 1)];
    let prefix_operations = prefix_until(end);
    let last_operations: Vec<String> = prefix_operations.iter().rev().take(8).rev().map(|o| format!("{o:?}")).collect();
    format!(
        "no order of {} operations on {:?} explains the answer at {end:?}; the last operations:\n  {}",
        prefix_operations.len(),
        key,
        last_operations.join("\n  ")
    )
}

/// A key's value and, if the key has a deadline, the earliest time at which the key can have expired. `None` if the key
/// does not exist.
type KeyState = Option<(Bytes, Option<Time>)>;

/// By how many percent of its time to live a key may expire early: every clock of the simulation runs fast by less than
/// this.
const EARLY_EXPIRY_PERCENT: u32 = 10;

/// The possible outcomes of an operation: the state after it, and the required answer. A key whose deadline may have
/// passed has two outcomes, expired or not: the cluster's clock may lag by any amount, but never runs ahead.
fn possible_outcomes(state: &KeyState, operation: &Operation) -> Vec<(KeyState, Answer)> {
    let end = operation.response.as_ref().map_or(Time::NEVER, |(at, _)| *at);
    let may_have_expired = state
        .as_ref()
        .is_some_and(|(_, earliest_expiry)| earliest_expiry.is_some_and(|earliest_expiry| earliest_expiry <= end));
    let outcome_from = |state: &KeyState| {
        let value_before = state.as_ref().map(|(value, _)| value.clone());
        let (after, answer) = apply_operation(&value_before, &operation.input);
        let earliest_expiry = match &operation.input {
            Input::PutWithTtl(_, ttl) => Some(operation.invoked_at + *ttl * (100 - EARLY_EXPIRY_PERCENT) / 100),
            Input::Put(_) => None,
            Input::Cas(..) if answer == Answer::Done => None,
            _ => state.as_ref().and_then(|(_, earliest_expiry)| *earliest_expiry),
        };
        (after.map(|value| (value, earliest_expiry)), answer)
    };
    if may_have_expired { vec![outcome_from(state), outcome_from(&None)] } else { vec![outcome_from(state)] }
}

/// Applies an operation to a key's value. Returns the new value and the required answer.
fn apply_operation(state: &Option<Bytes>, input: &Input) -> (Option<Bytes>, Answer) {
    match input {
        Input::PutWithTtl(value, _) => (Some(value.clone()), Answer::Done),
        Input::Put(value) => (Some(value.clone()), Answer::Done),
        Input::Del => (None, Answer::Deleted { existed: state.is_some() }),
        Input::Cas(expected, new) if state == expected => (Some(new.clone()), Answer::Done),
        Input::Cas(..) => (state.clone(), Answer::CasMismatch { actual: state.clone() }),
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

/// The set of operations that already have a position in the order. Two sets are compared by a hash of 128 bits, since
/// each set is as long as the history.
#[derive(Clone)]
struct PlacedOperations {
    /// One bit for each operation, by its number: set if the operation is placed.
    bits: Vec<u64>,
    /// The hash of the set, by which two sets are compared.
    hash: (u64, u64),
}

impl PlacedOperations {
    fn contains(&self, i: usize) -> bool {
        self.bits[i / 64] >> (i % 64) & 1 == 1
    }

    fn with_operation(&self, i: usize) -> PlacedOperations {
        let mut placed_operations = self.clone();
        placed_operations.bits[i / 64] |= 1 << (i % 64);
        placed_operations.hash.0 ^= hash_numbers([i as u64, 1]);
        placed_operations.hash.1 ^= hash_numbers([i as u64, 2]);
        placed_operations
    }

    /// A hash of the placed operations and the key's state, which identifies a state of the search.
    fn search_state_hash(&self, state: &KeyState) -> (u64, u64) {
        let (bytes, expires_at) = state.as_ref().map_or((&[][..], u64::MAX), |(bytes, expires_at)| {
            (&bytes[..], expires_at.map_or(u64::MAX - 1, |expires_at| expires_at.0))
        });
        let state_hash = hash(expires_at, bytes);
        (self.hash.0 ^ hash_numbers([state_hash, 3]), self.hash.1 ^ hash_numbers([state_hash, 4]))
    }
}

/// How many states a search visits before it is abandoned, for each search order. If a history is linearizable, the
/// search mostly needs only as many steps as there are operations.
const VISITED_STATES_MAX: usize = 2_000_000;

/// Which of several possible next operations the search tries first: the one requested last, or the one answered first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SearchOrder {
    LatestRequestFirst,
    EarliestAnswerFirst,
}

/// Whether there is an order of the operations in which every answer is right; `None` if the search was too large.
fn is_linearizable(operations: &[&Operation]) -> Option<bool> {
    let search = LinearizationSearch::new(operations);
    search.find_order(SearchOrder::LatestRequestFirst).or_else(|| search.find_order(SearchOrder::EarliestAnswerFirst))
}

/// The search for an order of one key's operations.
struct LinearizationSearch<'a> {
    /// Answered operations, in the order of their requests.
    answered_operations: Vec<(&'a Operation, Time, &'a Answer)>,
    /// Unanswered operations, which are few: each may take effect at any time after its request, or never. Their
    /// numbers follow those of the answered operations.
    unanswered_operations: Vec<&'a Operation>,
    /// Whether any operation sets the key with a time to live.
    has_expiry: bool,
}

impl<'a> LinearizationSearch<'a> {
    fn new(operations: &[&'a Operation]) -> LinearizationSearch<'a> {
        let mut sorted_operations: Vec<&Operation> = operations.to_vec();
        sorted_operations.sort_by_key(|operation| operation.invoked_at);
        let with_answer = |o: &&'a Operation| o.response.as_ref().map(|(at, answer)| (*o, *at, answer));
        LinearizationSearch {
            answered_operations: sorted_operations.iter().filter_map(with_answer).collect(),
            unanswered_operations: sorted_operations
                .iter()
                .copied()
                .filter(|operation| operation.response.is_none())
                .collect(),
            has_expiry: sorted_operations.iter().any(|operation| matches!(operation.input, Input::PutWithTtl(..))),
        }
    }

    fn find_order(&self, order: SearchOrder) -> Option<bool> {
        let operation_count = self.answered_operations.len() + self.unanswered_operations.len();
        let none_placed = PlacedOperations { bits: vec![0; operation_count.div_ceil(64)], hash: (0, 0) };
        let mut visited_states = HashSet::from([none_placed.search_state_hash(&None)]);
        // Each state of the search has the placed operations, the key's state after them, and the first answered
        // operation that is not placed.
        let mut stack: Vec<(PlacedOperations, KeyState, usize)> = vec![(none_placed, None, 0)];
        while let Some((placed, state, first_unplaced)) = stack.pop() {
            if first_unplaced == self.answered_operations.len() {
                return Some(true);
            }
            for (i, after) in self.next_operations(&placed, &state, first_unplaced, order) {
                let next_placed = placed.with_operation(i);
                if visited_states.insert(next_placed.search_state_hash(&after)) {
                    let first_unplaced = (first_unplaced..self.answered_operations.len())
                        .find(|j| !next_placed.contains(*j))
                        .unwrap_or(self.answered_operations.len());
                    stack.push((next_placed, after, first_unplaced));
                }
            }
            if visited_states.len() > VISITED_STATES_MAX {
                return None;
            }
        }
        Some(false)
    }

    /// Whether an operation with this answer certainly changed nothing. If keys have deadlines, an operation that finds
    /// no key may be the one before which the key expired, which is a change of the key's state.
    fn changed_nothing(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Value(value_before) | Answer::CasMismatch { actual: value_before } => {
                value_before.is_some() || !self.has_expiry
            }
            Answer::Deleted { existed } => !existed && !self.has_expiry,
            Answer::NotANumber | Answer::Overflow => true,
            _ => false,
        }
    }

    /// The operations that may take effect next, each with the key's state after it. The operation to try first is the
    /// last in the list. `first_unplaced` is the first answered operation that is not placed.
    fn next_operations(
        &self,
        placed: &PlacedOperations,
        state: &KeyState,
        first_unplaced: usize,
        order: SearchOrder,
    ) -> Vec<(usize, KeyState)> {
        let mut earliest_answer_time = Time::NEVER;
        let mut concurrent_operations = Vec::new();
        for (i, (operation, end, _)) in self.answered_operations.iter().enumerate().skip(first_unplaced) {
            // An operation requested after the earliest answer also ends after that answer.
            if operation.invoked_at > earliest_answer_time {
                break;
            }
            if !placed.contains(i) {
                earliest_answer_time = earliest_answer_time.min(*end);
                concurrent_operations.push(i);
            }
        }
        concurrent_operations.retain(|i| self.answered_operations[*i].0.invoked_at <= earliest_answer_time);
        if order == SearchOrder::EarliestAnswerFirst {
            concurrent_operations.sort_by_key(|i| std::cmp::Reverse(self.answered_operations[*i].1));
        }
        let mut next_operations = Vec::new();
        for (n, operation) in
            self.unanswered_operations.iter().enumerate().filter(|(_, o)| o.invoked_at <= earliest_answer_time)
        {
            let i = self.answered_operations.len() + n;
            // Of several equal unanswered operations, only the one requested first has to be tried.
            let is_equal_and_earlier = |j: usize| {
                self.unanswered_operations[j].input == operation.input
                    && !placed.contains(self.answered_operations.len() + j)
            };
            if !placed.contains(i) && !(0..n).any(is_equal_and_earlier) {
                // An unanswered operation that would change nothing need not be tried.
                let new_states = possible_outcomes(state, operation)
                    .into_iter()
                    .map(|(after, _)| after)
                    .filter(|after| after != state);
                next_operations.extend(new_states.map(|after| (i, after)));
            }
        }
        for i in concurrent_operations {
            let (operation, _, expected) = self.answered_operations[i];
            for (after, answer) in possible_outcomes(state, operation) {
                if answer == *expected && after == *state && self.changed_nothing(expected) {
                    // The operation can come next, and it changes nothing. Every order of the other operations
                    // therefore remains possible after it, so that no alternative has to be tried.
                    return vec![(i, after)];
                }
                if answer == *expected {
                    next_operations.push((i, after));
                }
            }
        }
        next_operations
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
        for (input, invoked_at, response) in operations {
            let number = history.record_request(1, value("k"), input.clone(), Time(*invoked_at));
            if let Some((at, answer)) = response {
                history.record_answer(number, Time(*at), answer.clone());
            }
        }
        history
    }

    #[test]
    fn overlapping_operations_may_take_effect_in_either_order() {
        let get = |at, end, text| (Input::Get, at, Some((end, Answer::Value(Some(value(text))))));
        let put_a = (Input::Put(value("a")), 0, Some((10, Answer::Done)));
        let put_b = (Input::Put(value("b")), 5, Some((15, Answer::Done)));
        for last in ["a", "b"] {
            assert!(history(&[put_a.clone(), put_b.clone(), get(20, 21, last)]).check().is_ok());
        }
        assert!(history(&[put_a, put_b, get(20, 21, "a"), get(22, 23, "b")]).check().is_err());
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
        let get_absent = (Input::Get, 30, Some((31, Answer::Value(None))));
        let get_present = (Input::Get, 40, Some((41, Answer::Value(Some(value("a"))))));
        assert!(history(&[put.clone(), get_absent.clone()]).check().is_ok());
        assert!(history(&[put.clone(), get_absent.clone(), get_present.clone()]).check().is_ok());
        let get_absent = (Input::Get, 50, Some((51, Answer::Value(None))));
        assert!(history(&[put, get_present, get_absent]).check().is_err());
    }

    #[test]
    fn refused_operation_that_took_effect_is_detected() {
        let mut history = history(&[(Input::Put(value("a")), 0, None)]);
        history.record_refusal(0);
        assert!(history.check().is_ok());
        let read_number = history.record_request(1, value("k"), Input::Get, Time(30));
        history.record_answer(read_number, Time(31), Answer::Value(Some(value("a"))));
        assert!(history.check().is_err());
    }

    #[test]
    fn key_with_many_unknown_outcomes_is_replaced() {
        let mut history = History::default();
        assert_eq!(history.current_key(KEY_PREFIX, 12), "k12");
        for n in 0..UNKNOWN_OUTCOMES_MAX {
            let operation = history.record_request(1, history.current_key(KEY_PREFIX, 12), Input::Del, Time(n.into()));
            history.record_unknown_outcome(operation);
        }
        assert_eq!(
            (history.current_key(KEY_PREFIX, 12), history.current_key(KEY_PREFIX, 2)),
            (value("k1.12"), value("k2"))
        );
        let read_number = history.record_request(1, value("k1.12"), Input::Get, Time(9));
        history.record_unknown_outcome(read_number);
        let late_operation = history.record_request(1, value("k12"), Input::Del, Time(9));
        history.record_unknown_outcome(late_operation);
        assert_eq!(
            history.current_key(KEY_PREFIX, 12),
            "k1.12",
            "unknown outcomes on an already replaced key do not replace the current key"
        );
    }

    #[test]
    fn key_expires_at_its_deadline_or_later() {
        let put = (Input::PutWithTtl(value("a"), Duration::from_nanos(100)), 0, Some((10, Answer::Done)));
        let get = |at, value_before: Option<&'static str>| {
            (Input::Get, at, Some((at + 1, Answer::Value(value_before.map(value)))))
        };
        let increment = (Input::Incr(1), 150, Some((151, Answer::Number(1))));
        assert!(history(&[put.clone(), get(20, Some("a")), get(120, None)]).check().is_ok());
        assert!(
            history(&[put.clone(), get(120, Some("a"))]).check().is_ok(),
            "the cluster's clock may stand still, so that the key does not expire"
        );
        assert!(
            history(&[put.clone(), get(20, None)]).check().is_err(),
            "a key may not expire before its time to live has passed"
        );
        assert!(
            history(&[put.clone(), get(120, None), get(140, Some("a"))]).check().is_err(),
            "a key that has expired does not exist again"
        );
        assert!(history(&[put.clone(), increment.clone(), get(200, Some("1")), get(900, None)]).check().is_err());
        // A key without a deadline never expires.
        let repeated_put = (Input::Put(value("a")), 12, Some((13, Answer::Done)));
        assert!(history(&[put, repeated_put, get(900, None)]).check().is_err());
    }

    /// Whether all answers are right in some order of `operations`, from the state `state` on: tries every order.
    fn some_order_fits(operations: &[&Operation], state: &KeyState) -> bool {
        let end = |o: &Operation| o.response.as_ref().map_or(Time::NEVER, |(at, _)| *at);
        let earliest_answer_time = operations.iter().map(|o| end(o)).min().unwrap_or(Time::NEVER);
        earliest_answer_time == Time::NEVER
            || (0..operations.len()).filter(|i| operations[*i].invoked_at <= earliest_answer_time).any(|i| {
                let remaining_operations: Vec<&Operation> = [&operations[..i], &operations[i + 1..]].concat();
                let fits_answer =
                    |answer: &Answer| operations[i].response.as_ref().is_none_or(|(_, recorded)| recorded == answer);
                possible_outcomes(state, operations[i])
                    .iter()
                    .any(|(after, answer)| fits_answer(answer) && some_order_fits(&remaining_operations, after))
            })
    }

    #[test]
    fn search_agrees_with_exhaustive_search() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut verdict_counts = [0; 2];
        for _ in 0..20_000 {
            let mut recorded_operations: Vec<RecordedOperation> = Vec::new();
            for _ in 0..rng.random_range(2..7) {
                let (input, answer) = match rng.random_range(0..6) {
                    0 => (Input::Put(value(["1", "x"][rng.random_range(0..2)])), Answer::Done),
                    1 => (Input::PutWithTtl(value("1"), Duration::from_nanos(10)), Answer::Done),
                    2 => (Input::Del, Answer::Deleted { existed: rng.random() }),
                    3 => (Input::Cas(Some(value("1")), value("x")), Answer::Done),
                    4 => (Input::Incr(1), Answer::Number(rng.random_range(1..3))),
                    _ => (
                        Input::Get,
                        Answer::Value([None, Some(value("1")), Some(value("x"))][rng.random_range(0..3)].clone()),
                    ),
                };
                let (invoked_at, duration) = (rng.random_range(0..30), rng.random_range(1..15));
                let is_unanswered = input != Input::Get && rng.random_range(0..4) == 0;
                recorded_operations.push((
                    input,
                    invoked_at,
                    (!is_unanswered).then_some((invoked_at + duration, answer)),
                ));
            }
            let history = history(&recorded_operations);
            let operations: Vec<&Operation> = history.operations.iter().collect();
            let expected_verdict = some_order_fits(&operations, &None);
            verdict_counts[usize::from(expected_verdict)] += 1;
            for order in [SearchOrder::LatestRequestFirst, SearchOrder::EarliestAnswerFirst] {
                assert_eq!(
                    LinearizationSearch::new(&operations).find_order(order),
                    Some(expected_verdict),
                    "{recorded_operations:?}"
                );
            }
        }
        assert!(
            verdict_counts.iter().all(|count| *count > 2000),
            "too few random histories of one kind: {verdict_counts:?} (not linearizable, linearizable)"
        );
    }

    #[test]
    fn double_increment_is_detected() {
        let incr = |at, end, sum| (Input::Incr(1), at, Some((end, Answer::Number(sum))));
        assert!(history(&[incr(0, 5, 1), incr(1, 6, 2), incr(10, 11, 3)]).check().is_ok());
        assert!(history(&[incr(0, 5, 1), incr(10, 11, 3)]).check().is_err());
    }
}
