//! Tests of deadlines: examples, and random commands compared with a simple model, whose clock is an argument.

use crate::machine::Kv;
use crate::machine::commands::{
    Answer, Command, CommandOrQuery, Deadline, Expiration, ExpireCondition, Query, SetCondition, TimeToLive,
};
use crate::machine::state_machine::{Context, StateMachine};
use crate::types::{ClusterTime, Index, Term};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn apply(kv: &mut Kv, now: u64, command: &Command<'_>) -> Answer {
    kv.advance(ClusterTime(now));
    let context = Context { index: Index(1), term: Term(1), time: ClusterTime(now), feature_level: 1 };
    Answer::decode(kv.apply(&context, &command.encode())).unwrap()
}

fn query(kv: &Kv, query: &Query<'_>) -> Answer {
    Answer::decode(kv.query(ClusterTime(0), &query.encode())).unwrap()
}

fn set<'a>(key: &'a [u8], value: &'a [u8], expiration: Expiration) -> Command<'a> {
    Command::Set { key, value, only_if: SetCondition::Always, expiration, returns_previous: false }
}

fn expire_after(ms: u64) -> Expiration {
    Expiration::Until(Deadline::InMs(ms))
}

#[test]
fn key_expires_with_the_first_entry_at_its_deadline() {
    let mut kv = Kv::new();
    assert_eq!(apply(&mut kv, 100, &set(b"k", b"v", expire_after(50))), Answer::Done);
    assert_eq!(kv.next_deadline(), Some(ClusterTime(150)));
    kv.advance(ClusterTime(149));
    assert_eq!(query(&kv, &Query::TimeToLive { key: b"k" }), Answer::TimeToLive(TimeToLive::Ms(1)));
    assert_eq!(query(&kv, &Query::Count), Answer::Count(1));
    kv.advance(ClusterTime(150));
    assert_eq!(kv.get(b"k"), None);
    assert_eq!(query(&kv, &Query::TimeToLive { key: b"k" }), Answer::TimeToLive(TimeToLive::Absent));
    assert_eq!((kv.len(), kv.digest(), kv.next_deadline()), (0, Kv::new().digest(), None));
}

#[test]
fn simultaneous_expirations_are_freed_in_batches() {
    let mut kv = Kv::new();
    for number in 0..5000u32 {
        apply(&mut kv, 0, &set(&number.to_le_bytes(), b"v", expire_after(10)));
    }
    apply(&mut kv, 0, &Command::Put { key: b"stays", value: b"v" });
    kv.advance(ClusterTime(10));
    assert_eq!(kv.len(), 1);
    assert!(kv.iter().eq([(&b"stays"[..], &b"v"[..])]));
    let walk_answer = query(&kv, &Query::Walk { prefix: b"", from: 0, limit: 9 });
    assert_eq!(walk_answer, Answer::WalkPage { keys: vec![Bytes::from_static(b"stays")], next: 0 });
    let mut fresh_kv = Kv::new();
    apply(&mut fresh_kv, 10, &Command::Put { key: b"stays", value: b"v" });
    assert_eq!(kv.digest(), fresh_kv.digest());
    let mut entry_count = 0;
    while let Some(due) = kv.next_deadline() {
        assert!(due <= ClusterTime(10), "expired keys in memory are due at once");
        kv.expire_due();
        entry_count += 1;
    }
    assert!((2..=5).contains(&entry_count), "expired keys are freed in several entries: {entry_count}");
    assert_eq!(kv.digest(), fresh_kv.digest());
}

#[test]
fn overwrite_clears_the_deadline_and_update_keeps_it() {
    let mut kv = Kv::new();
    let time_to_live = |kv: &Kv| query(kv, &Query::TimeToLive { key: b"k" });
    let ten_ms = Answer::TimeToLive(TimeToLive::Ms(10));
    apply(&mut kv, 0, &set(b"k", b"1", expire_after(10)));
    for command in [
        Command::Incr { key: b"k", by: 1 },
        Command::Append { key: b"k", tail: b"0" },
        set(b"k", b"7", Expiration::KeepTtl),
    ] {
        apply(&mut kv, 0, &command);
        assert_eq!(time_to_live(&kv), ten_ms, "{command:?}");
    }
    for command in [
        Command::Put { key: b"k", value: b"1" },
        Command::Cas { key: b"k", expected: Some(b"1"), new: b"2" },
        set(b"k", b"3", Expiration::Endless),
        Command::PutAll(vec![(b"k", b"4")]),
        Command::Persist { key: b"k" },
    ] {
        apply(&mut kv, 0, &command);
        assert_eq!(time_to_live(&kv), Answer::TimeToLive(TimeToLive::Endless), "{command:?}");
        let condition = ExpireCondition::default();
        apply(&mut kv, 0, &Command::Expire { key: b"k", deadline: Deadline::InMs(10), condition });
        assert_eq!(time_to_live(&kv), ten_ms);
        apply(&mut kv, 0, &set(b"k", b"1", expire_after(10)));
    }
}

#[test]
fn deadline_changes_only_if_its_condition_holds() {
    let condition =
        |must_have_deadline, must_be_later| ExpireCondition { must_have_deadline, must_be_later, from_date: false };
    // Each condition, and the answers to three changes of the deadline: none to 10, 10 to 5, 10 to 20.
    for (condition, answers) in [
        (condition(None, None), [1, 1, 1]),
        (condition(Some(false), None), [1, 0, 0]),
        (condition(Some(true), None), [0, 1, 1]),
        (condition(None, Some(true)), [0, 0, 1]),
        (condition(None, Some(false)), [1, 1, 0]),
        (condition(Some(true), Some(false)), [0, 1, 0]),
    ] {
        for ((before, after), expected) in [(None, 10), (Some(10), 5), (Some(10), 20)].into_iter().zip(answers) {
            let mut kv = Kv::new();
            apply(&mut kv, 0, &set(b"k", b"v", before.map_or(Expiration::Endless, expire_after)));
            let answer = apply(&mut kv, 0, &Command::Expire { key: b"k", deadline: Deadline::InMs(after), condition });
            assert_eq!(answer, Answer::Number(expected), "{condition:?} from {before:?} to {after}");
        }
    }
}

#[test]
fn date_within_tolerance_of_present_deadline_counts_as_equal() {
    for (ms, must_be_later, expected) in [
        (10_003, Some(true), 0),
        (9_997, Some(false), 0),
        (10_003, None, 1),
        (11_000, Some(true), 1),
        (9_000, Some(false), 1),
    ] {
        let mut kv = Kv::new();
        apply(&mut kv, 0, &set(b"k", b"v", expire_after(10_000)));
        let expire = |from_date| {
            let condition = ExpireCondition { must_have_deadline: None, must_be_later, from_date };
            Command::Expire { key: b"k", deadline: Deadline::InMs(ms), condition }
        };
        assert_eq!(
            apply(&mut kv, 0, &expire(must_be_later.is_some())),
            Answer::Number(expected),
            "{ms} {must_be_later:?}"
        );
        let mut kv = Kv::new();
        apply(&mut kv, 0, &set(b"k", b"v", expire_after(10_000)));
        assert_eq!(apply(&mut kv, 0, &expire(false)), Answer::Number(1), "a relative time is taken exactly");
    }
}

#[test]
fn block_executes_all_commands_after_one_fails() {
    let mut kv = Kv::new();
    let block = Command::Block(vec![
        CommandOrQuery::Command(set(b"a", b"x", Expiration::Endless)),
        CommandOrQuery::Command(Command::Incr { key: b"a", by: 1 }),
        CommandOrQuery::Query(Query::Get { key: b"a" }),
        CommandOrQuery::Command(Command::DelKeys(vec![b"a", b"a", b"b"])),
        CommandOrQuery::Query(Query::CountPresent(vec![b"a"])),
    ]);
    let value_answer = Answer::Value(Some(Bytes::from_static(b"x")));
    let expected_answers = vec![Answer::Done, Answer::NotANumber, value_answer, Answer::Number(1), Answer::Number(0)];
    assert_eq!(apply(&mut kv, 0, &block), Answer::List(expected_answers));
}

#[test]
fn oversized_answers_of_a_block_are_omitted() {
    let mut kv = Kv::new();
    apply(&mut kv, 0, &Command::Put { key: b"k", value: &vec![7; 1 << 20] });
    let steps: Vec<CommandOrQuery<'_>> = (0..5)
        .map(|_| CommandOrQuery::Query(Query::Get { key: b"k" }))
        .chain([CommandOrQuery::Command(Command::Put { key: b"n", value: b"1" })])
        .collect();
    let Answer::List(answers) = apply(&mut kv, 0, &Command::Block(steps)) else {
        panic!("a block is answered by a list")
    };
    assert!(matches!(answers[0], Answer::Value(Some(_))));
    assert_eq!(answers[1..5], vec![Answer::Omitted; 4]);
    assert_eq!((&answers[5], kv.get(b"n")), (&Answer::Done, Some(&b"1"[..])));
    assert_eq!(query(&kv, &Query::Values(vec![b"k"; 3])), Answer::Omitted);
    let set_if_absent = Command::Set {
        key: b"k",
        value: b"",
        only_if: SetCondition::Absent,
        expiration: Expiration::Endless,
        returns_previous: true,
    };
    let Answer::Batch(answers) = apply(&mut kv, 0, &Command::Batch(vec![set_if_absent; 3])) else {
        panic!("a batch is answered by its list")
    };
    assert_eq!(answers[2], Answer::Omitted);
}

#[test]
fn append_is_bounded_by_the_maximum_value_size() {
    let mut kv = Kv::new();
    let half_maximum_value = vec![7; 1 << 19];
    for (tail, answer) in [
        (&half_maximum_value[..], Answer::Number(1 << 19)),
        (&half_maximum_value[..], Answer::Number(1 << 20)),
        (b"x", Answer::TooLong),
    ] {
        assert_eq!(apply(&mut kv, 0, &Command::Append { key: b"k", tail }), answer);
    }
    assert_eq!(kv.get(b"k").map(<[u8]>::len), Some(1 << 20));
}

/// A random command on one of a few keys of one byte, which the machine and the model both execute.
#[derive(Clone, Debug)]
enum KeyOp {
    /// The key, its new value, the condition, the expiration, and whether the answer is the previous value.
    Set(u8, u8, SetCondition, Expiration, bool),
    /// The key, and the byte to append.
    Append(u8, u8),
    /// The key, and the summand.
    Incr(u8, i64),
    Expire(u8, Deadline, ExpireCondition),
    Persist(u8),
    DelKeys(Vec<u8>),
    ExpireDue,
}

/// The model of the machine: each key with its value and deadline. An expired key stays until it is overwritten.
#[derive(Clone, Default)]
struct Model(BTreeMap<u8, (Vec<u8>, Option<u64>)>);

impl Model {
    fn live_value(&self, now: u64, key: u8) -> Option<(Vec<u8>, Option<u64>)> {
        self.0.get(&key).filter(|(_, deadline)| deadline.is_none_or(|deadline| deadline > now)).cloned()
    }

    fn put(&mut self, key: u8, value: Vec<u8>, deadline: Option<u64>) {
        self.0.insert(key, (value, deadline));
    }

    fn apply(&mut self, now: u64, op: &KeyOp) -> Option<Answer> {
        let resolve = |deadline: &Deadline| match deadline {
            Deadline::At(time) => time.0,
            Deadline::InMs(ms) => now + ms,
        };
        match op {
            KeyOp::Set(key, value, only_if, expiration, returns_previous) => {
                let current = self.live_value(now, *key);
                let condition_is_met =
                    *only_if == SetCondition::Always || (*only_if == SetCondition::Present) == current.is_some();
                if condition_is_met {
                    let deadline = match expiration {
                        Expiration::Endless => None,
                        Expiration::KeepTtl => current.as_ref().and_then(|current| current.1),
                        Expiration::Until(deadline) => Some(resolve(deadline)),
                    };
                    self.put(*key, vec![*value], deadline);
                }
                let answer = if condition_is_met { Answer::Done } else { Answer::ConditionUnmet };
                Some(if *returns_previous { Answer::Value(current.map(|current| current.0.into())) } else { answer })
            }
            KeyOp::Append(key, tail) => {
                let (mut value, deadline) = self.live_value(now, *key).unwrap_or_default();
                value.push(*tail);
                let length = value.len() as i64;
                self.put(*key, value, deadline);
                Some(Answer::Number(length))
            }
            KeyOp::Incr(key, by) => {
                let (value, deadline) = self.live_value(now, *key).unwrap_or((b"0".to_vec(), None));
                let text = String::from_utf8_lossy(&value);
                let Some(number) = text.parse::<i64>().ok().filter(|number| number.to_string() == text) else {
                    return Some(Answer::NotANumber);
                };
                self.put(*key, (number + by).to_string().into_bytes(), deadline);
                Some(Answer::Number(number + by))
            }
            KeyOp::Expire(key, deadline, condition) => {
                let Some((value, current_deadline)) = self.live_value(now, *key) else {
                    return Some(Answer::Number(0));
                };
                let new_deadline = resolve(deadline);
                let old_deadline = current_deadline.unwrap_or(u64::MAX);
                let permitted =
                    condition.must_have_deadline.is_none_or(|required| required == current_deadline.is_some())
                        && condition.must_be_later.is_none_or(|later| {
                            if later { new_deadline > old_deadline } else { new_deadline < old_deadline }
                        });
                if permitted {
                    self.put(*key, value, Some(new_deadline));
                }
                Some(Answer::Number(i64::from(permitted)))
            }
            KeyOp::Persist(key) => {
                let Some((value, current_deadline)) = self.live_value(now, *key) else {
                    return Some(Answer::Number(0));
                };
                self.put(*key, value, None);
                Some(Answer::Number(i64::from(current_deadline.is_some())))
            }
            KeyOp::DelKeys(keys) => {
                let removed_keys = keys.iter().filter(|key| {
                    let was_present = self.live_value(now, **key).is_some();
                    self.0.remove(key);
                    was_present
                });
                Some(Answer::Number(removed_keys.count() as i64))
            }
            KeyOp::ExpireDue => None,
        }
    }
}

impl KeyOp {
    fn apply_to_kv(&self, kv: &mut Kv, now: u64) -> Option<Answer> {
        let key_bytes = |key: &u8| [*key];
        let answer = match self {
            KeyOp::Set(key, value, only_if, expiration, returns_previous) => {
                let (only_if, expiration, returns_previous) = (*only_if, *expiration, *returns_previous);
                apply(
                    kv,
                    now,
                    &Command::Set { key: &key_bytes(key), value: &[*value], only_if, expiration, returns_previous },
                )
            }
            KeyOp::Append(key, tail) => apply(kv, now, &Command::Append { key: &key_bytes(key), tail: &[*tail] }),
            KeyOp::Incr(key, by) => apply(kv, now, &Command::Incr { key: &key_bytes(key), by: *by }),
            KeyOp::Expire(key, deadline, condition) => {
                apply(kv, now, &Command::Expire { key: &key_bytes(key), deadline: *deadline, condition: *condition })
            }
            KeyOp::Persist(key) => apply(kv, now, &Command::Persist { key: &key_bytes(key) }),
            KeyOp::DelKeys(keys) => apply(kv, now, &Command::DelKeys(keys.chunks(1).collect())),
            KeyOp::ExpireDue => {
                kv.advance(ClusterTime(now));
                kv.expire_due();
                return None;
            }
        };
        Some(answer)
    }
}

fn deadline() -> impl Strategy<Value = Deadline> {
    prop_oneof![(0..40u64).prop_map(Deadline::InMs), (0..200u64).prop_map(|at| Deadline::At(ClusterTime(at)))]
}

fn expiration() -> impl Strategy<Value = Expiration> {
    prop_oneof![
        Just(Expiration::Endless),
        Just(Expiration::KeepTtl),
        deadline().prop_map(Expiration::Until),
        deadline().prop_map(Expiration::Until)
    ]
}

fn key_op() -> impl Strategy<Value = KeyOp> {
    let only_if = prop_oneof![Just(SetCondition::Always), Just(SetCondition::Absent), Just(SetCondition::Present)];
    let condition = (any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|(must_have_deadline, must_be_later)| {
        ExpireCondition { must_have_deadline, must_be_later, from_date: false }
    });
    prop_oneof![
        4 => (0..5u8, b'0'..b':', only_if, expiration(), any::<bool>())
            .prop_map(|(key, value, only_if, expiration, returns_previous)| {
                KeyOp::Set(key, value, only_if, expiration, returns_previous)
            }),
        1 => (0..5u8, b'0'..b'<').prop_map(|(key, tail)| KeyOp::Append(key, tail)),
        1 => (0..5u8, -9..9i64).prop_map(|(key, by)| KeyOp::Incr(key, by)),
        3 => (0..5u8, deadline(), condition)
            .prop_map(|(key, deadline, condition)| KeyOp::Expire(key, deadline, condition)),
        1 => (0..5u8).prop_map(KeyOp::Persist),
        1 => prop::collection::vec(0..5u8, 0..4).prop_map(KeyOp::DelKeys),
        1 => Just(KeyOp::ExpireDue),
    ]
}

/// A machine restored from the frozen state of `kv`, in chunks of about `bytes`, with the clock at `now`.
fn restored_copy(kv: &mut Kv, bytes: usize, now: u64) -> Kv {
    let mut restored_kv = kv.empty();
    while let Some(chunk) = kv.next_chunk(bytes) {
        restored_kv.restore(&chunk).unwrap();
    }
    restored_kv.advance(ClusterTime(now));
    restored_kv
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn machine_matches_a_model_with_deadlines(ops in prop::collection::vec((0..15u64, key_op()), 0..60)) {
        let (mut kv, mut model, mut now) = (Kv::new(), Model::default(), 0);
        for (delay, op) in &ops {
            now += delay;
            prop_assert_eq!(op.apply_to_kv(&mut kv, now), model.apply(now, op), "{:?} at {}", op, now);
            let live_pairs: Vec<_> = (0..5u8).filter_map(|key| Some((key, model.live_value(now, key)?))).collect();
            let live_values = live_pairs.iter().map(|(key, (value, _))| (*key, value.clone()));
            prop_assert!(kv.iter().map(|(key, value)| (key[0], value.to_vec())).eq(live_values));
            prop_assert_eq!(kv.len(), live_pairs.len());
            for key in 0..5u8 {
                let time_to_live = match model.live_value(now, key) {
                    None => TimeToLive::Absent,
                    Some((_, None)) => TimeToLive::Endless,
                    Some((_, Some(deadline))) => TimeToLive::Ms(deadline - now),
                };
                prop_assert_eq!(query(&kv, &Query::TimeToLive { key: &[key] }), Answer::TimeToLive(time_to_live));
            }
            // The digest depends on present keys and their deadlines, not on their history or on expired keys in
            // memory.
            let mut fresh_kv = Kv::new();
            for (key, (value, deadline)) in live_pairs.iter().rev() {
                let until = |time| Expiration::Until(Deadline::At(ClusterTime(time)));
                let expiration = deadline.map_or(Expiration::Endless, until);
                apply(&mut fresh_kv, now, &set(&[*key], value, expiration));
            }
            prop_assert_eq!(kv.digest(), fresh_kv.digest());
            let earliest_deadline = live_pairs.iter().filter_map(|(_, (_, deadline))| *deadline).min();
            prop_assert!(kv.next_deadline().is_none_or(|due| due.0 <= now || Some(due.0) == earliest_deadline));
            prop_assert!(earliest_deadline.is_none() || kv.next_deadline().is_some());
        }
    }

    #[test]
    fn frozen_state_keeps_keys_that_expire_during_serialization(
        before in prop::collection::vec((0..9u64, key_op()), 0..40),
        after in prop::collection::vec((0..9u64, key_op(), prop::option::of(0..40usize)), 0..60),
        bytes in 1..60usize,
    ) {
        let (mut kv, mut now) = (Kv::new(), 0);
        for (delay, op) in &before {
            now += delay;
            op.apply_to_kv(&mut kv, now);
        }
        let mut clone = kv.clone();
        let (frozen_at, digest) = (now, kv.digest());
        kv.freeze();
        let mut restored_kv = kv.empty();
        for (delay, op, bytes) in &after {
            now += delay;
            op.apply_to_kv(&mut kv, now);
            if let Some(chunk) = bytes.and_then(|bytes| kv.next_chunk(bytes)) {
                restored_kv.restore(&chunk).unwrap();
            }
        }
        while let Some(chunk) = kv.next_chunk(bytes) {
            restored_kv.restore(&chunk).unwrap();
        }
        restored_kv.advance(ClusterTime(frozen_at));
        prop_assert_eq!(restored_kv.digest(), digest);
        clone.freeze();
        prop_assert_eq!(restored_copy(&mut clone, 7, frozen_at).digest(), digest);
        // The restored machine continues like the original.
        now = frozen_at;
        for (delay, op, _) in &after {
            now += delay;
            op.apply_to_kv(&mut restored_kv, now);
        }
        prop_assert_eq!(restored_kv.digest(), kv.digest());
        prop_assert!(restored_kv.iter().eq(kv.iter()));
    }
}
