//! Tests of deadlines: the machine against a naive map with deadlines, whose clock is an argument.

use crate::machine::Kv;
use crate::machine::commands::{
    Answer, Command, Deadline, Expiration, ExpireCondition, Query, SetCondition, Step, TimeToLive,
};
use crate::machine::state_machine::{Context, StateMachine};
use crate::types::{ClusterTime, Index, Term};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn apply(kv: &mut Kv, now: u64, command: &Command<'_>) -> Answer {
    kv.advance(ClusterTime(now));
    let context = Context { index: Index(1), term: Term(1), time: ClusterTime(now) };
    Answer::decode(kv.apply(&context, &command.encode())).unwrap()
}

fn ask(kv: &Kv, query: &Query<'_>) -> Answer {
    Answer::decode(kv.query(ClusterTime(0), &query.encode())).unwrap()
}

fn set<'a>(key: &'a [u8], value: &'a [u8], life: Expiration) -> Command<'a> {
    Command::Set { key, value, only_if: SetCondition::Either, life, tells: false }
}

fn within(ms: u64) -> Expiration {
    Expiration::Until(Deadline::In(ms))
}

#[test]
fn key_expires_with_the_first_entry_at_its_deadline() {
    let mut kv = Kv::new();
    assert_eq!(apply(&mut kv, 100, &set(b"k", b"v", within(50))), Answer::Done);
    assert_eq!(kv.due(), Some(ClusterTime(150)));
    kv.advance(ClusterTime(149));
    assert_eq!(ask(&kv, &Query::Left { key: b"k" }), Answer::Left(TimeToLive::Ms(1)));
    assert_eq!(ask(&kv, &Query::Count), Answer::Count(1));
    kv.advance(ClusterTime(150));
    assert_eq!(kv.get(b"k"), None);
    assert_eq!(ask(&kv, &Query::Left { key: b"k" }), Answer::Left(TimeToLive::Absent));
    assert_eq!((kv.len(), kv.digest(), kv.due()), (0, Kv::new().digest(), None));
}

#[test]
fn simultaneous_expirations_are_freed_in_batches() {
    let mut kv = Kv::new();
    for number in 0..5000u32 {
        apply(&mut kv, 0, &set(&number.to_le_bytes(), b"v", within(10)));
    }
    apply(&mut kv, 0, &Command::Put { key: b"stays", value: b"v" });
    kv.advance(ClusterTime(10));
    assert_eq!(kv.len(), 1);
    assert!(kv.iter().eq([(&b"stays"[..], &b"v"[..])]));
    let keys = ask(&kv, &Query::Walk { prefix: b"", from: 0, limit: 9 });
    assert_eq!(keys, Answer::Walked { keys: vec![Bytes::from_static(b"stays")], next: 0 });
    let mut fresh = Kv::new();
    apply(&mut fresh, 10, &Command::Put { key: b"stays", value: b"v" });
    assert_eq!(kv.digest(), fresh.digest());
    let mut entries = 0;
    while let Some(due) = kv.due() {
        assert!(due <= ClusterTime(10), "expired keys in memory are due at once");
        kv.expire_due();
        entries += 1;
    }
    assert!((2..=5).contains(&entries), "not freed all at once: {entries}");
    assert_eq!(kv.digest(), fresh.digest());
}

#[test]
fn set_clears_the_deadline_and_update_keeps_it() {
    let mut kv = Kv::new();
    let left = |kv: &Kv| ask(kv, &Query::Left { key: b"k" });
    let counted = Answer::Left(TimeToLive::Ms(10));
    apply(&mut kv, 0, &set(b"k", b"1", within(10)));
    for keeps in [
        Command::Incr { key: b"k", by: 1 },
        Command::Append { key: b"k", tail: b"0" },
        set(b"k", b"7", Expiration::Kept),
    ] {
        apply(&mut kv, 0, &keeps);
        assert_eq!(left(&kv), counted, "{keeps:?}");
    }
    for takes in [
        Command::Put { key: b"k", value: b"1" },
        Command::Cas { key: b"k", expected: Some(b"1"), new: b"2" },
        set(b"k", b"3", Expiration::Endless),
        Command::PutAll(vec![(b"k", b"4")]),
        Command::Persist { key: b"k" },
    ] {
        apply(&mut kv, 0, &takes);
        assert_eq!(left(&kv), Answer::Left(TimeToLive::Endless), "{takes:?}");
        let bar = ExpireCondition::default();
        apply(&mut kv, 0, &Command::Expire { key: b"k", deadline: Deadline::In(10), bar });
        assert_eq!(left(&kv), counted);
        apply(&mut kv, 0, &set(b"k", b"1", within(10)));
    }
}

#[test]
fn deadline_changes_only_if_its_condition_holds() {
    let bars = |has_one, later| ExpireCondition { has_one, later, dated: false };
    // (the bar, which changes it permits: none to 10, 10 to 5, 10 to 20)
    for (bar, lets) in [
        (bars(None, None), [1, 1, 1]),
        (bars(Some(false), None), [1, 0, 0]),
        (bars(Some(true), None), [0, 1, 1]),
        (bars(None, Some(true)), [0, 0, 1]),
        (bars(None, Some(false)), [1, 1, 0]),
        (bars(Some(true), Some(false)), [0, 1, 0]),
    ] {
        for ((before, after), lets) in [(None, 10), (Some(10), 5), (Some(10), 20)].into_iter().zip(lets) {
            let mut kv = Kv::new();
            apply(&mut kv, 0, &set(b"k", b"v", before.map_or(Expiration::Endless, within)));
            let answer = apply(&mut kv, 0, &Command::Expire { key: b"k", deadline: Deadline::In(after), bar });
            assert_eq!(answer, Answer::Number(lets), "{bar:?} from {before:?} to {after}");
        }
    }
}

#[test]
fn date_close_to_the_deadline_is_neither_later_nor_earlier() {
    for (ms, later, lets) in [
        (10_003, Some(true), 0),
        (9_997, Some(false), 0),
        (10_003, None, 1),
        (11_000, Some(true), 1),
        (9_000, Some(false), 1),
    ] {
        let mut kv = Kv::new();
        apply(&mut kv, 0, &set(b"k", b"v", within(10_000)));
        let expire = |dated| {
            let bar = ExpireCondition { has_one: None, later, dated };
            Command::Expire { key: b"k", deadline: Deadline::In(ms), bar }
        };
        assert_eq!(apply(&mut kv, 0, &expire(later.is_some())), Answer::Number(lets), "{ms} {later:?}");
        let mut kv = Kv::new();
        apply(&mut kv, 0, &set(b"k", b"v", within(10_000)));
        assert_eq!(apply(&mut kv, 0, &expire(false)), Answer::Number(1), "a relative time is taken exactly");
    }
}

#[test]
fn block_continues_after_a_failure_and_answers_each_step() {
    let mut kv = Kv::new();
    let block = Command::Block(vec![
        Step::Do(set(b"a", b"x", Expiration::Endless)),
        Step::Do(Command::Incr { key: b"a", by: 1 }),
        Step::Ask(Query::Get { key: b"a" }),
        Step::Do(Command::Forget(vec![b"a", b"a", b"b"])),
        Step::Ask(Query::Present(vec![b"a"])),
    ]);
    let x = Answer::Value(Some(Bytes::from_static(b"x")));
    let answers = vec![Answer::Done, Answer::NotANumber, x, Answer::Number(1), Answer::Number(0)];
    assert_eq!(apply(&mut kv, 0, &block), Answer::Each(answers));
}

#[test]
fn oversized_answers_are_omitted_and_all_steps_execute() {
    let mut kv = Kv::new();
    apply(&mut kv, 0, &Command::Put { key: b"k", value: &vec![7; 1 << 20] });
    let steps: Vec<Step<'_>> = (0..5)
        .map(|_| Step::Ask(Query::Get { key: b"k" }))
        .chain([Step::Do(Command::Put { key: b"n", value: b"1" })])
        .collect();
    let Answer::Each(answers) = apply(&mut kv, 0, &Command::Block(steps)) else { panic!("a block has answers") };
    assert!(matches!(answers[0], Answer::Value(Some(_))));
    assert_eq!(answers[1..5], vec![Answer::Omitted; 4]);
    assert_eq!((&answers[5], kv.get(b"n")), (&Answer::Done, Some(&b"1"[..])));
    assert_eq!(ask(&kv, &Query::Values(vec![b"k"; 3])), Answer::Omitted);
    let tells =
        Command::Set { key: b"k", value: b"", only_if: SetCondition::Absent, life: Expiration::Endless, tells: true };
    let Answer::All(answers) = apply(&mut kv, 0, &Command::Batch(vec![tells; 3])) else {
        panic!("a batch has answers")
    };
    assert_eq!(answers[2], Answer::Omitted);
}

#[test]
fn append_is_bounded_by_the_maximum_value_size() {
    let mut kv = Kv::new();
    let half = vec![7; 1 << 19];
    for (tail, answer) in
        [(&half[..], Answer::Number(1 << 19)), (&half[..], Answer::Number(1 << 20)), (b"x", Answer::TooLong)]
    {
        assert_eq!(apply(&mut kv, 0, &Command::Append { key: b"k", tail }), answer);
    }
    assert_eq!(kv.get(b"k").map(<[u8]>::len), Some(1 << 20));
}

/// A command on one of a few keys.
#[derive(Clone, Debug)]
enum Op {
    Set(u8, u8, SetCondition, Expiration, bool),
    Append(u8, u8),
    Incr(u8, i64),
    Expire(u8, Deadline, ExpireCondition),
    Persist(u8),
    Forget(Vec<u8>),
    ExpireDue,
}

/// A naive map with deadlines.
#[derive(Clone, Default)]
struct Naive(BTreeMap<u8, (Vec<u8>, Option<u64>)>);

impl Naive {
    fn live(&self, now: u64, key: u8) -> Option<(Vec<u8>, Option<u64>)> {
        self.0.get(&key).filter(|(_, deadline)| deadline.is_none_or(|deadline| deadline > now)).cloned()
    }

    fn put(&mut self, key: u8, value: Vec<u8>, deadline: Option<u64>) {
        self.0.insert(key, (value, deadline));
    }

    fn run(&mut self, now: u64, op: &Op) -> Option<Answer> {
        let moment = |deadline: &Deadline| match deadline {
            Deadline::At(time) => time.0,
            Deadline::In(ms) => now + ms,
        };
        match op {
            Op::Set(key, value, only_if, life, tells) => {
                let held = self.live(now, *key);
                let meets = *only_if == SetCondition::Either || (*only_if == SetCondition::Present) == held.is_some();
                if meets {
                    let deadline = match life {
                        Expiration::Endless => None,
                        Expiration::Kept => held.as_ref().and_then(|held| held.1),
                        Expiration::Until(deadline) => Some(moment(deadline)),
                    };
                    self.put(*key, vec![*value], deadline);
                }
                let done = if meets { Answer::Done } else { Answer::Unmet };
                Some(if *tells { Answer::Value(held.map(|held| held.0.into())) } else { done })
            }
            Op::Append(key, tail) => {
                let (mut value, deadline) = self.live(now, *key).unwrap_or_default();
                value.push(*tail);
                let length = value.len() as i64;
                self.put(*key, value, deadline);
                Some(Answer::Number(length))
            }
            Op::Incr(key, by) => {
                let (value, deadline) = self.live(now, *key).unwrap_or((b"0".to_vec(), None));
                let text = String::from_utf8_lossy(&value);
                let Some(number) = text.parse::<i64>().ok().filter(|number| number.to_string() == text) else {
                    return Some(Answer::NotANumber);
                };
                self.put(*key, (number + by).to_string().into_bytes(), deadline);
                Some(Answer::Number(number + by))
            }
            Op::Expire(key, deadline, bar) => {
                let Some((value, has)) = self.live(now, *key) else { return Some(Answer::Number(0)) };
                let new = moment(deadline);
                let old = has.unwrap_or(u64::MAX);
                let lets = bar.has_one.is_none_or(|must| must == has.is_some())
                    && bar.later.is_none_or(|later| if later { new > old } else { new < old });
                if lets {
                    self.put(*key, value, Some(new));
                }
                Some(Answer::Number(i64::from(lets)))
            }
            Op::Persist(key) => {
                let Some((value, has)) = self.live(now, *key) else { return Some(Answer::Number(0)) };
                self.put(*key, value, None);
                Some(Answer::Number(i64::from(has.is_some())))
            }
            Op::Forget(keys) => {
                let gone = keys.iter().filter(|key| {
                    let there = self.live(now, **key).is_some();
                    self.0.remove(key);
                    there
                });
                Some(Answer::Number(gone.count() as i64))
            }
            Op::ExpireDue => None,
        }
    }
}

impl Op {
    fn run(&self, kv: &mut Kv, now: u64) -> Option<Answer> {
        let one = |key: &u8| [*key];
        let answer = match self {
            Op::Set(key, value, only_if, life, tells) => {
                let (only_if, life, tells) = (*only_if, *life, *tells);
                apply(kv, now, &Command::Set { key: &one(key), value: &[*value], only_if, life, tells })
            }
            Op::Append(key, tail) => apply(kv, now, &Command::Append { key: &one(key), tail: &[*tail] }),
            Op::Incr(key, by) => apply(kv, now, &Command::Incr { key: &one(key), by: *by }),
            Op::Expire(key, deadline, bar) => {
                apply(kv, now, &Command::Expire { key: &one(key), deadline: *deadline, bar: *bar })
            }
            Op::Persist(key) => apply(kv, now, &Command::Persist { key: &one(key) }),
            Op::Forget(keys) => apply(kv, now, &Command::Forget(keys.chunks(1).collect())),
            Op::ExpireDue => {
                kv.advance(ClusterTime(now));
                kv.expire_due();
                return None;
            }
        };
        Some(answer)
    }
}

fn deadline() -> impl Strategy<Value = Deadline> {
    prop_oneof![(0..40u64).prop_map(Deadline::In), (0..200u64).prop_map(|at| Deadline::At(ClusterTime(at)))]
}

fn life() -> impl Strategy<Value = Expiration> {
    prop_oneof![
        Just(Expiration::Endless),
        Just(Expiration::Kept),
        deadline().prop_map(Expiration::Until),
        deadline().prop_map(Expiration::Until)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let presence = prop_oneof![Just(SetCondition::Either), Just(SetCondition::Absent), Just(SetCondition::Present)];
    let bar = (any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|(has_one, later)| ExpireCondition {
        has_one,
        later,
        dated: false,
    });
    prop_oneof![
        4 => (0..5u8, b'0'..b':', presence, life(), any::<bool>())
            .prop_map(|(key, value, only_if, life, tells)| Op::Set(key, value, only_if, life, tells)),
        1 => (0..5u8, b'0'..b'<').prop_map(|(key, tail)| Op::Append(key, tail)),
        1 => (0..5u8, -9..9i64).prop_map(|(key, by)| Op::Incr(key, by)),
        3 => (0..5u8, deadline(), bar).prop_map(|(key, deadline, bar)| Op::Expire(key, deadline, bar)),
        1 => (0..5u8).prop_map(Op::Persist),
        1 => prop::collection::vec(0..5u8, 0..4).prop_map(Op::Forget),
        1 => Just(Op::ExpireDue),
    ]
}

/// A machine restored from the chunks, as of that time.
fn restored_copy(kv: &mut Kv, bytes: usize, now: u64) -> Kv {
    let mut restored = kv.empty();
    while let Some(piece) = kv.next_chunk(bytes) {
        restored.restore(&piece).unwrap();
    }
    restored.advance(ClusterTime(now));
    restored
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn machine_matches_a_naive_map_with_deadlines(ops in prop::collection::vec((0..15u64, op()), 0..60)) {
        let (mut kv, mut naive, mut now) = (Kv::new(), Naive::default(), 0);
        for (later, op) in &ops {
            now += later;
            prop_assert_eq!(op.run(&mut kv, now), naive.run(now, op), "{:?} at {}", op, now);
            let live: Vec<_> = (0..5u8).filter_map(|key| Some((key, naive.live(now, key)?))).collect();
            prop_assert!(kv.iter().map(|(k, v)| (k[0], v.to_vec())).eq(live.iter().map(|(k, (v, _))| (*k, v.clone()))));
            prop_assert_eq!(kv.len(), live.len());
            for key in 0..5u8 {
                let left = match naive.live(now, key) {
                    None => TimeToLive::Absent,
                    Some((_, None)) => TimeToLive::Endless,
                    Some((_, Some(deadline))) => TimeToLive::Ms(deadline - now),
                };
                prop_assert_eq!(ask(&kv, &Query::Left { key: &[key] }), Answer::Left(left));
            }
            // The digest depends on present keys and their deadlines, not on their history or on expired keys in
            // memory.
            let mut fresh = Kv::new();
            for (key, (value, deadline)) in live.iter().rev() {
                let life = deadline.map_or(Expiration::Endless, |at| Expiration::Until(Deadline::At(ClusterTime(at))));
                apply(&mut fresh, now, &set(&[*key], value, life));
            }
            prop_assert_eq!(kv.digest(), fresh.digest());
            let ends = live.iter().filter_map(|(_, (_, deadline))| *deadline).min();
            prop_assert!(kv.due().is_none_or(|due| due.0 <= now || Some(due.0) == ends));
            prop_assert!(ends.is_none() || kv.due().is_some());
        }
    }

    #[test]
    fn frozen_state_keeps_deadlines_that_pass_meanwhile(
        before in prop::collection::vec((0..9u64, op()), 0..40),
        after in prop::collection::vec((0..9u64, op(), prop::option::of(0..40usize)), 0..60),
        bytes in 1..60usize,
    ) {
        let (mut kv, mut now) = (Kv::new(), 0);
        for (later, op) in &before {
            now += later;
            op.run(&mut kv, now);
        }
        let mut clone = kv.clone();
        let (frozen, digest) = (now, kv.digest());
        kv.freeze();
        let mut restored = kv.empty();
        for (later, op, bytes) in &after {
            now += later;
            op.run(&mut kv, now);
            if let Some(piece) = bytes.and_then(|bytes| kv.next_chunk(bytes)) {
                restored.restore(&piece).unwrap();
            }
        }
        while let Some(piece) = kv.next_chunk(bytes) {
            restored.restore(&piece).unwrap();
        }
        restored.advance(ClusterTime(frozen));
        prop_assert_eq!(restored.digest(), digest);
        clone.freeze();
        prop_assert_eq!(restored_copy(&mut clone, 7, frozen).digest(), digest);
        // The restored machine continues like the original.
        now = frozen;
        for (later, op, _) in &after {
            now += later;
            op.run(&mut restored, now);
        }
        prop_assert_eq!(restored.digest(), kv.digest());
        prop_assert!(restored.iter().eq(kv.iter()));
    }
}
