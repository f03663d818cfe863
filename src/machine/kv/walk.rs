//! Walks all keys in the order of their hashes, a page per answer: the counterpart of Redis' `SCAN`.
//!
//! A walk keeps no state between two answers: a key's position follows from the key alone, so a number suffices to
//! continue, on every node and at any later time. The end of an answer depends on the present keys and never on the
//! size of the hash table, because replicas with the same keys must give the same answer.

use super::{Kv, Slot};
use crate::limits::ANSWER_BYTES_MAX;
use crate::machine::commands::Answer;
use crate::types::digest::hash;
use bytes::Bytes;
use std::ops::Bound;

/// The number of bits in a position: clients may read it as a floating-point number, which has 53.
const POSITION_BITS: u32 = 52;
/// The maximum number of keys that one answer examines, whatever its limit: that takes some milliseconds.
const EXAMINED_KEYS_MAX: usize = 64 << 10;
/// With a prefix, an answer examines at least this many keys before it ends with fewer keys than its limit.
const EXAMINED_KEYS_MIN: usize = 4 << 10;
/// If at most this many keys have the prefix, one answer returns all of them.
const SINGLE_PAGE_KEYS_MAX: usize = 1 << 10;
/// An upper bound of the bytes that the answer adds to those of its keys.
const PAGE_OVERHEAD_BYTES: usize = 32;

/// The position in a walk of a key with the hash `hash`; never 0, which is the start. Positions are ordered like the
/// index (see `HashIndex::collect_bucket`), then by the lowest bits of the hash.
fn position(hash: u64) -> u64 {
    let reversed_upper_bits = ((hash >> 32) as u32).reverse_bits();
    let lower_bit_count = POSITION_BITS - 32;
    (u64::from(reversed_upper_bits) << lower_bit_count | hash & ((1 << lower_bit_count) - 1)).max(1)
}

impl Kv {
    /// A page of about `limit` keys with the prefix `prefix`, from the position `from` on.
    pub(super) fn walk(&self, prefix: &[u8], from: u64, limit: u32) -> Answer {
        let limit = (limit as usize).clamp(1, EXAMINED_KEYS_MAX);
        if from == 0
            && let Some(keys) = self.single_page(prefix, limit)
        {
            return Answer::WalkPage { keys, next: 0 };
        }
        let examined_max = if prefix.is_empty() { limit } else { limit.max(EXAMINED_KEYS_MIN) };
        let (mut keys, mut examined_keys, mut bytes_left) =
            (Vec::new(), 0, ANSWER_BYTES_MAX as usize - PAGE_OVERHEAD_BYTES);
        let (mut slots, mut bucket) = (Vec::new(), Vec::new());
        let mut next_bucket_start = u32::try_from(from >> (POSITION_BITS - 32)).ok();
        while let Some(bucket_start) = next_bucket_start {
            slots.clear();
            next_bucket_start = self.index.collect_bucket(bucket_start, &mut slots);
            self.fill_bucket(&slots, from, &mut bucket);
            for group in bucket.chunk_by(|left, right| left.0 == right.0) {
                let group_position = group[0].0;
                if keys.len() >= limit || examined_keys >= examined_max {
                    return Answer::WalkPage { keys, next: group_position };
                }
                let matching_keys = group.iter().filter(|(_, key)| key.starts_with(prefix));
                let size: usize = matching_keys.clone().map(|(_, key)| 4 + key.len()).sum();
                if size > bytes_left {
                    // Two megabytes of keys with one position occur only if an attacker constructs them.
                    return if keys.is_empty() {
                        Answer::Omitted
                    } else {
                        Answer::WalkPage { keys, next: group_position }
                    };
                }
                bytes_left -= size;
                examined_keys += group.len();
                keys.extend(matching_keys.map(|(_, key)| Bytes::copy_from_slice(key)));
            }
        }
        Answer::WalkPage { keys, next: 0 }
    }

    /// Fills `bucket` with the keys in those slots that are present and not before the position `from`, each with its
    /// position, in the order of positions.
    fn fill_bucket<'a>(&'a self, slots: &[u32], from: u64, bucket: &mut Vec<(u64, &'a [u8])>) {
        let live_slots = slots.iter().map(|slot| &self.slots[*slot as usize]).filter(|slot| slot.is_live(self.now));
        bucket.clear();
        bucket.extend(live_slots.map(Slot::key).map(|key| (position(hash(0, key)), key)).filter(|(at, _)| *at >= from));
        bucket.sort_unstable();
    }

    /// All keys with the prefix `prefix`, if a single answer can hold them.
    fn single_page(&self, prefix: &[u8], limit: usize) -> Option<Vec<Bytes>> {
        let key_count_max = if prefix.is_empty() { limit } else { limit.max(SINGLE_PAGE_KEYS_MAX) };
        let mut bytes_left = ANSWER_BYTES_MAX as usize - PAGE_OVERHEAD_BYTES;
        let mut keys = Vec::new();
        for (key, _) in self.range(Bound::Included(prefix)).take_while(|(key, _)| key.starts_with(prefix)) {
            bytes_left = bytes_left.checked_sub(4 + key.len()).filter(|_| keys.len() < key_count_max)?;
            keys.push(Bytes::copy_from_slice(key));
        }
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::commands::Command;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn put(kv: &mut Kv, key: &str) {
        kv.execute(&Command::Put { key: key.as_bytes(), value: b"v" });
    }

    fn del(kv: &mut Kv, key: &str) {
        kv.execute(&Command::Del { key: key.as_bytes() });
    }

    fn read_page(answer: Answer) -> (Vec<Bytes>, u64) {
        let Answer::WalkPage { keys, next } = answer else { panic!("{answer:?}") };
        assert!(next < 1 << POSITION_BITS);
        (keys, next)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Each page is read from both nodes. The hash table of one node was large and has shrunk; the table of the
        /// other node was never large.
        #[test]
        fn walk_over_two_nodes_returns_each_undeleted_key_once(
            limit in 1u32..40,
            prefix in prop::sample::select(vec!["", "k", "k1", "none"]),
            changes in prop::collection::vec((any::<bool>(), 0..3000u32), 0..300),
        ) {
            let (mut once_large, mut always_small) = (Kv::new(), Kv::new());
            (0..20_000).for_each(|n| put(&mut once_large, &format!("gone{n}")));
            (0..20_000).for_each(|n| del(&mut once_large, &format!("gone{n}")));
            let never_deleted_keys: BTreeSet<String> = (0..1500).map(|n| format!("k{}", n * 2)).collect();
            for kv in [&mut once_large, &mut always_small] {
                never_deleted_keys.iter().for_each(|key| put(kv, key));
            }
            let (mut seen, mut at, mut changes) = (Vec::new(), 0, changes.into_iter());
            loop {
                let (keys, next) = read_page(once_large.walk(prefix.as_bytes(), at, limit));
                prop_assert_eq!((&keys, next), (&read_page(always_small.walk(prefix.as_bytes(), at, limit)).0, next));
                seen.extend(keys.iter().map(|key| String::from_utf8(key.to_vec()).unwrap()));
                at = next;
                if at == 0 {
                    break;
                }
                for (add, n) in changes.by_ref().take(3) {
                    let key = format!("k{}", n * 2 + 1);
                    for kv in [&mut once_large, &mut always_small] {
                        if add { put(kv, &key) } else { del(kv, &key) }
                    }
                }
            }
            let distinct_keys: BTreeSet<&String> = seen.iter().collect();
            prop_assert_eq!(distinct_keys.len(), seen.len(), "no key twice");
            let mut expected_keys = never_deleted_keys.iter().filter(|key| key.starts_with(prefix));
            prop_assert!(expected_keys.all(|key| distinct_keys.contains(key)));
            prop_assert!(distinct_keys.iter().all(|key| key.starts_with(prefix)));
        }
    }

    #[test]
    fn walk_resumes_from_any_position_with_bounded_answers() {
        let mut kv = Kv::new();
        let long_suffix = "x".repeat(60 << 10);
        (0..100).for_each(|n| put(&mut kv, &format!("{n}{long_suffix}")));
        let (mut count, mut at, mut answers) = (0, 0, 0);
        loop {
            let answer = kv.walk(b"", at, u32::MAX);
            assert!(answer.size() as u64 <= ANSWER_BYTES_MAX);
            let (keys, next) = read_page(answer);
            (count, at, answers) = (count + keys.len(), next, answers + 1);
            if at == 0 {
                break;
            }
        }
        assert_eq!(count, 100);
        assert!((3..=5).contains(&answers), "{answers}");
        for from in [1 << POSITION_BITS, u64::MAX] {
            assert_eq!(read_page(kv.walk(b"", from, 9)), (vec![], 0));
        }
        assert!(!read_page(kv.walk(b"", 77, 9)).0.is_empty());
        assert_eq!(read_page(Kv::new().walk(b"", 5, 9)), (vec![], 0));
    }
}
