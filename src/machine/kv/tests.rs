//! Tests of the key-value machine: by example, and against a naive map.

use super::*;
use crate::limits::{CHUNK_BYTES, PIECE_EXCESS_MAX};
use crate::machine::commands::{Deadline, Expiration, SetCondition, TimeToLive};
use crate::types::{ClusterTime, Index, Term};
use proptest::prelude::*;

fn apply(kv: &mut Kv, command: &Command<'_>) -> Answer {
    let context = Context { index: Index(1), term: Term(1), time: ClusterTime(0) };
    Answer::decode(kv.apply(&context, &command.encode())).unwrap()
}

fn query(kv: &Kv, query: Query<'_>) -> Answer {
    Answer::decode(kv.query(ClusterTime(0), &query.encode())).unwrap()
}

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Put { key, value }
}

#[test]
fn time_to_live_is_counted_from_the_query_time() {
    let mut kv = Kv::new();
    kv.advance(ClusterTime(1000));
    let life = Expiration::Until(Deadline::In(500));
    let command = Command::Set { key: b"k", value: b"v", only_if: SetCondition::Either, life, tells: false };
    kv.apply(&Context { index: Index(1), term: Term(1), time: ClusterTime(1000) }, &command.encode());
    let left = |time| Answer::decode(kv.query(ClusterTime(time), &Query::Left { key: b"k" }.encode())).unwrap();
    let told = [900, 1000, 1200, 1499, 1600].map(left);
    assert_eq!(
        told,
        [500, 500, 300, 1, 0].map(|ms| Answer::Left(TimeToLive::Ms(ms))),
        "only an entry removes an expired key"
    );
}

#[test]
fn failed_compare_and_swap_returns_the_actual_value() {
    let mut kv = Kv::new();
    let swap = |expected, new| Command::Cas { key: b"k", expected, new };
    assert_eq!(apply(&mut kv, &swap(Some(b"a"), b"b")), Answer::Kept { actual: None });
    assert_eq!(apply(&mut kv, &swap(None, b"b")), Answer::Done);
    assert_eq!(apply(&mut kv, &swap(None, b"c")), Answer::Kept { actual: Some(Bytes::from_static(b"b")) });
    assert_eq!(apply(&mut kv, &swap(Some(b"b"), b"c")), Answer::Done);
    assert_eq!(kv.get(b"k"), Some(&b"c"[..]));
}

#[test]
fn increment_leaves_other_values_unchanged() {
    let mut kv = Kv::new();
    assert_eq!(apply(&mut kv, &Command::Incr { key: b"n", by: 5 }), Answer::Number(5));
    assert_eq!(apply(&mut kv, &Command::Incr { key: b"n", by: -7 }), Answer::Number(-2));
    assert_eq!(kv.get(b"n"), Some(&b"-2"[..]));
    assert_eq!(apply(&mut kv, &Command::Incr { key: b"n", by: i64::MIN }), Answer::Overflow);
    for text in ["ten", "+1", "007", "00", "-0", "-01", " 1", "1 ", "", "9223372036854775808"] {
        apply(&mut kv, &put(b"t", text.as_bytes()));
        assert_eq!(apply(&mut kv, &Command::Incr { key: b"t", by: 1 }), Answer::NotANumber, "{text}");
        assert_eq!(kv.get(b"t"), Some(text.as_bytes()));
    }
}

#[test]
fn batch_is_atomic_and_sees_its_own_writes() {
    let mut kv = Kv::new();
    let batch = Command::Batch(vec![
        put(b"a", b"1"),
        Command::Incr { key: b"a", by: 1 },
        Command::Del { key: b"a" },
        Command::Cas { key: b"a", expected: None, new: b"9" },
    ]);
    let answers = vec![Answer::Done, Answer::Number(2), Answer::Deleted { existed: true }, Answer::Done];
    assert_eq!(apply(&mut kv, &batch), Answer::All(answers));
    assert_eq!(kv.get(b"a"), Some(&b"9"[..]));

    let digest = kv.digest();
    let fails = Command::Batch(vec![put(b"b", b"x"), Command::Incr { key: b"b", by: 1 }, put(b"c", b"y")]);
    assert_eq!(apply(&mut kv, &fails), Answer::None { at: 1, why: Box::new(Answer::NotANumber) });
    assert_eq!((kv.get(b"b"), kv.len(), kv.digest()), (None, 1, digest));
}

#[test]
fn scan_resumes_after_its_last_key() {
    let mut kv = Kv::new();
    for key in ["a", "user:1", "user:2", "user:3", "v"] {
        apply(&mut kv, &put(key.as_bytes(), b"x"));
    }
    let keys = |answer| match answer {
        Answer::Pairs { pairs, more } => (pairs.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), more),
        other => panic!("{other:?}"),
    };
    let (first, more) = keys(query(&kv, Query::Scan { prefix: b"user:", after: None, limit: 2 }));
    assert_eq!((first, more), (vec![Bytes::from("user:1"), Bytes::from("user:2")], true));
    let (rest, more) = keys(query(&kv, Query::Scan { prefix: b"user:", after: Some(b"user:2"), limit: 2 }));
    assert_eq!((rest, more), (vec![Bytes::from("user:3")], false));
    // `after` need not lie within the prefix.
    let (all, _) = keys(query(&kv, Query::Scan { prefix: b"user:", after: Some(b"a"), limit: 9 }));
    assert_eq!(all.len(), 3);
    let (none, _) = keys(query(&kv, Query::Scan { prefix: b"user:", after: Some(b"z"), limit: 9 }));
    assert!(none.is_empty());
    assert_eq!(query(&kv, Query::Count), Answer::Count(5));
}

#[test]
fn scan_never_exceeds_the_maximum_answer_size() {
    let mut kv = Kv::new();
    let value = vec![7; 1 << 20];
    for key in 0..4u8 {
        apply(&mut kv, &put(&[key], &value));
    }
    let answer = kv.query(ClusterTime(0), &Query::Scan { prefix: b"", after: None, limit: u32::MAX }.encode());
    assert!(answer.len() as u64 <= ANSWER_BYTES_MAX);
    let Ok(Answer::Pairs { pairs, more }) = Answer::decode(answer) else { panic!("pairs") };
    assert_eq!((pairs.len(), more), (1, true));
}

#[test]
fn malformed_command_gets_a_malformed_answer() {
    let context = Context { index: Index(1), term: Term(1), time: ClusterTime(0) };
    let mut kv = Kv::new();
    assert_eq!(Answer::decode(kv.apply(&context, b"")), Ok(Answer::Malformed));
    assert_eq!(Answer::decode(kv.query(ClusterTime(0), &[99])), Ok(Answer::Malformed));
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<u8>),
    Del(u8),
    Cas(u8, Option<Vec<u8>>, Vec<u8>),
    Incr(u8, i64),
}

impl Step {
    fn key(&self) -> u8 {
        match self {
            Step::Put(key, _) | Step::Del(key) | Step::Cas(key, ..) | Step::Incr(key, _) => *key,
        }
    }

    fn run(&self, kv: &mut Kv) {
        let key = [self.key()];
        let command = match self {
            Step::Put(_, value) => put(&key, value),
            Step::Del(_) => Command::Del { key: &key },
            Step::Cas(_, expected, new) => Command::Cas { key: &key, expected: expected.as_deref(), new },
            Step::Incr(_, by) => Command::Incr { key: &key, by: *by },
        };
        let _answer = apply(kv, &command);
    }

    fn run_naively(&self, map: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        let key = vec![self.key()];
        match self {
            Step::Put(_, value) => drop(map.insert(key, value.clone())),
            Step::Del(_) => drop(map.remove(&key)),
            Step::Cas(_, expected, new) => {
                if map.get(&key) == expected.as_ref() {
                    map.insert(key, new.clone());
                }
            }
            Step::Incr(_, by) => {
                let held = map.get(&key).map_or("0".into(), |held| String::from_utf8_lossy(held).into_owned());
                let number = held.parse::<i64>().ok().filter(|number| number.to_string() == held);
                if let Some(sum) = number.and_then(|number| number.checked_add(*by)) {
                    map.insert(key, sum.to_string().into_bytes());
                }
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop::collection::vec(b'0'..b'4', 0..3);
    prop_oneof![
        (0..4u8, value.clone()).prop_map(|(key, value)| Step::Put(key, value)),
        (0..4u8).prop_map(Step::Del),
        (0..4u8, prop::option::of(value.clone()), value).prop_map(|(key, old, new)| Step::Cas(key, old, new)),
        (0..4u8, any::<i64>()).prop_map(|(key, by)| Step::Incr(key, by)),
    ]
}

proptest! {
    #[test]
    fn prefetch_changes_no_state(commands: Vec<Vec<u8>>, steps in prop::collection::vec(step(), 0..60)) {
        let mut kv = Kv::new();
        steps.iter().for_each(|step| step.run(&mut kv));
        let before = kv.digest();
        let known = (0..4u8).map(|key| Command::Del { key: &[key] }.encode().to_vec());
        let all: Vec<Vec<u8>> = commands.into_iter().chain(known.cycle().take(40)).collect();
        kv.prefetch(&mut all.iter().map(Vec::as_slice));
        prop_assert_eq!(kv.digest(), before);
    }

    #[test]
    fn machine_matches_a_naive_map(steps in prop::collection::vec(step(), 0..60)) {
        let mut kv = Kv::new();
        let mut naive = BTreeMap::new();
        for step in &steps {
            step.run(&mut kv);
            step.run_naively(&mut naive);
        }
        prop_assert!(kv.iter().eq(naive.iter().map(|(key, value)| (&key[..], &value[..]))));

        // The digest depends on the state, not on its history.
        let mut fresh = Kv::new();
        for (key, value) in naive.iter().rev() {
            apply(&mut fresh, &put(key, value));
        }
        prop_assert_eq!(fresh.digest(), kv.digest());
        apply(&mut fresh, &put(b"one", b"more"));
        prop_assert_ne!(fresh.digest(), kv.digest());
    }
}

/// The chunks of the frozen state, of at least `bytes` each, and a machine restored from them.
fn serialize(kv: &mut Kv, bytes: usize) -> (Vec<u8>, Kv) {
    let mut restored = kv.empty();
    let mut whole = Vec::new();
    while let Some(piece) = kv.next_chunk(bytes) {
        restored.restore(&piece).unwrap();
        whole.extend_from_slice(&piece);
    }
    (whole, restored)
}

#[test]
fn frozen_state_is_serialized_once() {
    let mut kv = Kv::new();
    assert_eq!(kv.next_chunk(100), None, "nothing is frozen");
    apply(&mut kv, &put(b"a", b"1"));
    kv.freeze();
    apply(&mut kv, &Command::Del { key: b"a" });
    apply(&mut kv, &put(b"b", b"2"));
    assert_eq!(serialize(&mut kv, 100).0, b"\x01\0\0\0a\x01\0\0\x001");
    assert_eq!(kv.next_chunk(100), None, "the snapshot has ended");
    kv.freeze();
    kv.end_snapshot();
    assert_eq!(kv.next_chunk(100), None);
    assert_eq!(kv.get(b"b"), Some(&b"2"[..]));
}

#[test]
fn chunk_exceeds_its_limit_by_at_most_one_pair() {
    let mut kv = Kv::new();
    for key in 0..9u8 {
        apply(&mut kv, &put(&[key], &vec![key; 1 << 20]));
    }
    kv.freeze();
    while let Some(piece) = kv.next_chunk(CHUNK_BYTES) {
        assert!(piece.len() <= CHUNK_BYTES + PIECE_EXCESS_MAX);
    }
}

#[test]
fn restore_rejects_invalid_chunks() {
    let mut kv = Kv::new();
    let pair = |key: &[u8]| {
        let mut out = BytesMut::new();
        commands::put_pair(&mut out, Pair { key, value: b"x", deadline: None });
        out
    };
    assert_eq!(kv.restore(&pair(b"b")), Ok(()));
    assert_eq!(kv.restore(&pair(b"b")), Err(Malformed("keys out of order")));
    assert!(kv.restore(&pair(b"c")[..9]).is_err());
    assert!(kv.restore(&[255; 8]).is_err());
    assert!(kv.restore(&pair(&vec![b'd'; 70_000])).is_err(), "no key is that long");
    assert_eq!(kv.restore(&[]), Ok(()));
    // With a deadline: a node that does not support deadlines sees a key that is too long.
    let mut dated = BytesMut::new();
    commands::put_pair(&mut dated, Pair { key: b"e", value: b"x", deadline: Some(ClusterTime(7)) });
    assert!(dated[3] >= 0x80);
    assert!(kv.restore(&dated[..dated.len() - 1]).is_err());
    assert_eq!((kv.restore(&dated), kv.due()), (Ok(()), Some(ClusterTime(7))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn frozen_state_equals_a_clone(
        before in prop::collection::vec(step(), 0..40),
        after in prop::collection::vec((step(), prop::option::of(0..40usize)), 0..60),
        bytes in 1..60usize,
    ) {
        let mut kv = Kv::new();
        before.iter().for_each(|step| step.run(&mut kv));
        let mut clone = kv.clone();
        kv.freeze();
        let mut restored = kv.empty();
        let mut whole = Vec::new();
        for (step, bytes) in &after {
            step.run(&mut kv);
            if let Some(piece) = bytes.and_then(|bytes| kv.next_chunk(bytes)) {
                restored.restore(&piece).unwrap();
                whole.extend_from_slice(&piece);
            }
        }
        while let Some(piece) = kv.next_chunk(bytes) {
            restored.restore(&piece).unwrap();
            whole.extend_from_slice(&piece);
        }
        // In one go, without commands in between: the same bytes.
        clone.freeze();
        let (same, _) = serialize(&mut clone, 7);
        prop_assert_eq!(whole, same);
        prop_assert!(restored.iter().eq(clone.iter()));
        prop_assert_eq!(restored.digest(), clone.digest());
        // The restored machine continues like the original.
        for (step, _) in &after {
            step.run(&mut restored);
        }
        prop_assert!(restored.iter().eq(kv.iter()));
        prop_assert_eq!(restored.digest(), kv.digest());
    }

    #[test]
    fn restore_of_garbage_does_not_panic(bytes: Vec<u8>) {
        let _either = Kv::new().restore(&bytes);
    }
}
