//! Tests of the key-value machine: examples, and random commands compared with a `BTreeMap`.

use super::*;
use crate::limits::{CHUNK_BYTES, CHUNK_EXCESS_BYTES_MAX};
use crate::machine::commands::{Deadline, Expiration, SetCondition, TimeToLive};
use crate::types::{ClusterTime, Index, Term};
use proptest::prelude::*;

fn apply(kv: &mut Kv, command: &Command<'_>) -> Answer {
    let context = Context { index: Index(1), term: Term(1), time: ClusterTime(0), feature_level: 1 };
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
    let expiration = Expiration::Until(Deadline::InMs(500));
    let command =
        Command::Set { key: b"k", value: b"v", only_if: SetCondition::Always, expiration, returns_previous: false };
    kv.apply(&Context { index: Index(1), term: Term(1), time: ClusterTime(1000), feature_level: 1 }, &command.encode());
    let time_to_live =
        |time| Answer::decode(kv.query(ClusterTime(time), &Query::TimeToLive { key: b"k" }.encode())).unwrap();
    let time_to_live_answers = [900, 1000, 1200, 1499, 1600].map(time_to_live);
    assert_eq!(
        time_to_live_answers,
        [500, 500, 300, 1, 0].map(|ms| Answer::TimeToLive(TimeToLive::Ms(ms))),
        "only an entry removes an expired key"
    );
}

/// Every node must answer a command of a later level in the same way, whatever its program knows.
#[cfg(feature = "next-version")]
#[test]
fn command_of_a_later_feature_level_is_malformed_until_the_level_is_raised() {
    let mut command = put(b"k", b"v").encode().to_vec();
    command[0] = super::commands::COMMAND_KIND_PUT_LEVEL_2;
    for (feature_level, answer, value) in [(1, Answer::Malformed, None), (2, Answer::Done, Some(&b"v"[..]))] {
        let context = Context { index: Index(1), term: Term(1), time: ClusterTime(0), feature_level };
        let mut kv = Kv::new();
        assert_eq!(Answer::decode(kv.apply(&context, &command)), Ok(answer), "level {feature_level}");
        assert_eq!(kv.get(b"k"), value, "level {feature_level}");
    }
}

#[test]
fn failed_compare_and_swap_returns_the_actual_value() {
    let mut kv = Kv::new();
    let swap = |expected, new| Command::Cas { key: b"k", expected, new };
    assert_eq!(apply(&mut kv, &swap(Some(b"a"), b"b")), Answer::CasMismatch { actual: None });
    assert_eq!(apply(&mut kv, &swap(None, b"b")), Answer::Done);
    assert_eq!(apply(&mut kv, &swap(None, b"c")), Answer::CasMismatch { actual: Some(Bytes::from_static(b"b")) });
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
    assert_eq!(apply(&mut kv, &batch), Answer::Batch(answers));
    assert_eq!(kv.get(b"a"), Some(&b"9"[..]));

    let digest_before = kv.digest();
    let failing_batch = Command::Batch(vec![put(b"b", b"x"), Command::Incr { key: b"b", by: 1 }, put(b"c", b"y")]);
    assert_eq!(apply(&mut kv, &failing_batch), Answer::BatchFailed { index: 1, why: Box::new(Answer::NotANumber) });
    assert_eq!((kv.get(b"b"), kv.len(), kv.digest()), (None, 1, digest_before));
}

#[test]
fn scan_resumes_after_its_last_key() {
    let mut kv = Kv::new();
    for key in ["a", "user:1", "user:2", "user:3", "v"] {
        apply(&mut kv, &put(key.as_bytes(), b"x"));
    }
    let keys_and_has_more = |answer| match answer {
        Answer::Pairs { pairs, has_more } => (pairs.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), has_more),
        other => panic!("{other:?}"),
    };
    let (first, has_more) = keys_and_has_more(query(&kv, Query::Scan { prefix: b"user:", after: None, limit: 2 }));
    assert_eq!((first, has_more), (vec![Bytes::from("user:1"), Bytes::from("user:2")], true));
    let (rest, has_more) =
        keys_and_has_more(query(&kv, Query::Scan { prefix: b"user:", after: Some(b"user:2"), limit: 2 }));
    assert_eq!((rest, has_more), (vec![Bytes::from("user:3")], false));
    // The key in `after` need not begin with the prefix.
    let (all, _) = keys_and_has_more(query(&kv, Query::Scan { prefix: b"user:", after: Some(b"a"), limit: 9 }));
    assert_eq!(all.len(), 3);
    let (none, _) = keys_and_has_more(query(&kv, Query::Scan { prefix: b"user:", after: Some(b"z"), limit: 9 }));
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
    let Ok(Answer::Pairs { pairs, has_more }) = Answer::decode(answer) else { panic!("pairs") };
    assert_eq!((pairs.len(), has_more), (1, true));
}

#[test]
fn malformed_command_gets_a_malformed_answer() {
    let context = Context { index: Index(1), term: Term(1), time: ClusterTime(0), feature_level: 1 };
    let mut kv = Kv::new();
    assert_eq!(Answer::decode(kv.apply(&context, b"")), Ok(Answer::Malformed));
    assert_eq!(Answer::decode(kv.query(ClusterTime(0), &[99])), Ok(Answer::Malformed));
}

#[derive(Clone, Debug)]
enum KvOp {
    Put(u8, Vec<u8>),
    Del(u8),
    Cas(u8, Option<Vec<u8>>, Vec<u8>),
    Incr(u8, i64),
}

impl KvOp {
    fn key(&self) -> u8 {
        match self {
            KvOp::Put(key, _) | KvOp::Del(key) | KvOp::Cas(key, ..) | KvOp::Incr(key, _) => *key,
        }
    }

    fn apply_to_kv(&self, kv: &mut Kv) {
        let key = [self.key()];
        let command = match self {
            KvOp::Put(_, value) => put(&key, value),
            KvOp::Del(_) => Command::Del { key: &key },
            KvOp::Cas(_, expected, new) => Command::Cas { key: &key, expected: expected.as_deref(), new },
            KvOp::Incr(_, by) => Command::Incr { key: &key, by: *by },
        };
        let _answer = apply(kv, &command);
    }

    fn apply_to_map(&self, map: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        let key = vec![self.key()];
        match self {
            KvOp::Put(_, value) => drop(map.insert(key, value.clone())),
            KvOp::Del(_) => drop(map.remove(&key)),
            KvOp::Cas(_, expected, new) => {
                if map.get(&key) == expected.as_ref() {
                    map.insert(key, new.clone());
                }
            }
            KvOp::Incr(_, by) => {
                let text = map.get(&key).map_or("0".into(), |value| String::from_utf8_lossy(value).into_owned());
                let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
                if let Some(sum) = number.and_then(|number| number.checked_add(*by)) {
                    map.insert(key, sum.to_string().into_bytes());
                }
            }
        }
    }
}

fn kv_op() -> impl Strategy<Value = KvOp> {
    let value = prop::collection::vec(b'0'..b'4', 0..3);
    prop_oneof![
        (0..4u8, value.clone()).prop_map(|(key, value)| KvOp::Put(key, value)),
        (0..4u8).prop_map(KvOp::Del),
        (0..4u8, prop::option::of(value.clone()), value).prop_map(|(key, old, new)| KvOp::Cas(key, old, new)),
        (0..4u8, any::<i64>()).prop_map(|(key, by)| KvOp::Incr(key, by)),
    ]
}

proptest! {
    #[test]
    fn prefetch_changes_no_state(commands: Vec<Vec<u8>>, ops in prop::collection::vec(kv_op(), 0..60)) {
        let mut kv = Kv::new();
        ops.iter().for_each(|op| op.apply_to_kv(&mut kv));
        let digest_before = kv.digest();
        let valid_commands = (0..4u8).map(|key| Command::Del { key: &[key] }.encode().to_vec());
        let prefetched_commands: Vec<Vec<u8>> = commands.into_iter().chain(valid_commands.cycle().take(40)).collect();
        kv.prefetch(&mut prefetched_commands.iter().map(Vec::as_slice));
        prop_assert_eq!(kv.digest(), digest_before);
    }

    #[test]
    fn machine_matches_a_btree_map(ops in prop::collection::vec(kv_op(), 0..60)) {
        let mut kv = Kv::new();
        let mut map = BTreeMap::new();
        for op in &ops {
            op.apply_to_kv(&mut kv);
            op.apply_to_map(&mut map);
        }
        prop_assert!(kv.iter().eq(map.iter().map(|(key, value)| (&key[..], &value[..]))));

        // The digest depends on the state, not on its history.
        let mut fresh_kv = Kv::new();
        for (key, value) in map.iter().rev() {
            apply(&mut fresh_kv, &put(key, value));
        }
        prop_assert_eq!(fresh_kv.digest(), kv.digest());
        apply(&mut fresh_kv, &put(b"one", b"more"));
        prop_assert_ne!(fresh_kv.digest(), kv.digest());
    }
}

/// Serializes the frozen state in chunks of about `bytes`; returns the concatenated chunks and a machine restored from
/// them.
fn serialize_and_restore(kv: &mut Kv, bytes: usize) -> (Vec<u8>, Kv) {
    let mut restored_kv = kv.empty();
    let mut serialized_bytes = Vec::new();
    while let Some(chunk) = kv.next_chunk(bytes) {
        restored_kv.restore(&chunk).unwrap();
        serialized_bytes.extend_from_slice(&chunk);
    }
    (serialized_bytes, restored_kv)
}

#[test]
fn frozen_state_is_serialized_once() {
    let mut kv = Kv::new();
    assert_eq!(kv.next_chunk(100), None, "nothing is frozen");
    apply(&mut kv, &put(b"a", b"1"));
    kv.freeze();
    apply(&mut kv, &Command::Del { key: b"a" });
    apply(&mut kv, &put(b"b", b"2"));
    assert_eq!(serialize_and_restore(&mut kv, 100).0, b"\x01\0\0\0a\x01\0\0\x001");
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
    while let Some(chunk) = kv.next_chunk(CHUNK_BYTES) {
        assert!(chunk.len() <= CHUNK_BYTES + CHUNK_EXCESS_BYTES_MAX);
    }
}

#[test]
fn restore_rejects_invalid_chunks() {
    let mut kv = Kv::new();
    let encoded_pair = |key: &[u8]| {
        let mut out = BytesMut::new();
        commands::put_pair(&mut out, Pair { key, value: b"x", deadline: None });
        out
    };
    assert_eq!(kv.restore(&encoded_pair(b"b")), Ok(()));
    assert_eq!(kv.restore(&encoded_pair(b"b")), Err(Malformed("keys out of order")));
    assert!(kv.restore(&encoded_pair(b"c")[..9]).is_err());
    assert!(kv.restore(&[255; 8]).is_err());
    assert!(kv.restore(&encoded_pair(&vec![b'd'; 70_000])).is_err(), "no key is that long");
    assert_eq!(kv.restore(&[]), Ok(()));
    // A node without support for deadlines sees a key that is too long, and rejects the pair.
    let mut pair_with_deadline = BytesMut::new();
    commands::put_pair(&mut pair_with_deadline, Pair { key: b"e", value: b"x", deadline: Some(ClusterTime(7)) });
    assert!(pair_with_deadline[3] >= 0x80);
    assert!(kv.restore(&pair_with_deadline[..pair_with_deadline.len() - 1]).is_err());
    assert_eq!((kv.restore(&pair_with_deadline), kv.next_deadline()), (Ok(()), Some(ClusterTime(7))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn frozen_state_equals_a_clone(
        before in prop::collection::vec(kv_op(), 0..40),
        after in prop::collection::vec((kv_op(), prop::option::of(0..40usize)), 0..60),
        bytes in 1..60usize,
    ) {
        let mut kv = Kv::new();
        before.iter().for_each(|op| op.apply_to_kv(&mut kv));
        let mut clone = kv.clone();
        kv.freeze();
        let mut restored_kv = kv.empty();
        let mut serialized_bytes = Vec::new();
        for (op, bytes) in &after {
            op.apply_to_kv(&mut kv);
            if let Some(chunk) = bytes.and_then(|bytes| kv.next_chunk(bytes)) {
                restored_kv.restore(&chunk).unwrap();
                serialized_bytes.extend_from_slice(&chunk);
            }
        }
        while let Some(chunk) = kv.next_chunk(bytes) {
            restored_kv.restore(&chunk).unwrap();
            serialized_bytes.extend_from_slice(&chunk);
        }
        // The clone is serialized without commands in between, and yields the same bytes.
        clone.freeze();
        let (expected, _) = serialize_and_restore(&mut clone, 7);
        prop_assert_eq!(serialized_bytes, expected);
        prop_assert!(restored_kv.iter().eq(clone.iter()));
        prop_assert_eq!(restored_kv.digest(), clone.digest());
        // The restored machine continues like the original.
        for (op, _) in &after {
            op.apply_to_kv(&mut restored_kv);
        }
        prop_assert!(restored_kv.iter().eq(kv.iter()));
        prop_assert_eq!(restored_kv.digest(), kv.digest());
    }

    #[test]
    fn restore_of_garbage_does_not_panic(bytes: Vec<u8>) {
        let _any_result = Kv::new().restore(&bytes);
    }
}
