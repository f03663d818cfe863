//! Walks all keys in the order of their hashes, some per answer.
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
/// The maximum number of keys that one answer passes, whatever its limit: some milliseconds.
const PASSED_MAX: usize = 64 << 10;
/// With a prefix, an answer passes at least so many keys before it ends with fewer than its limit.
const PASSED: usize = 4 << 10;
/// A prefix with at most so many keys is returned in one answer.
const WHOLE: usize = 1 << 10;

/// The position of a key with that hash in a walk; never 0, which is the start. Ordered like the index (see
/// `Index::bucket`), then by the lowest bits of the hash.
fn position(hash: u64) -> u64 {
    let upper = ((hash >> 32) as u32).reverse_bits();
    let lower_bits = POSITION_BITS - 32;
    (u64::from(upper) << lower_bits | hash & ((1 << lower_bits) - 1)).max(1)
}

impl Kv {
    /// About `limit` keys with that prefix, from that position on.
    pub(super) fn walk(&self, prefix: &[u8], from: u64, limit: u32) -> Answer {
        let limit = (limit as usize).clamp(1, PASSED_MAX);
        if from == 0
            && let Some(keys) = self.whole(prefix, limit)
        {
            return Answer::Walked { keys, next: 0 };
        }
        let passes = if prefix.is_empty() { limit } else { limit.max(PASSED) };
        let (mut keys, mut passed, mut left) = (Vec::new(), 0, ANSWER_BYTES_MAX as usize - 32);
        let (mut slots, mut bucket) = (Vec::new(), Vec::new());
        let mut at = u32::try_from(from >> (POSITION_BITS - 32)).ok();
        while let Some(begins) = at {
            slots.clear();
            at = self.index.bucket(begins, &mut slots);
            self.sort(&slots, from, &mut bucket);
            for same in bucket.chunk_by(|one, other| one.0 == other.0) {
                let next = same[0].0;
                if keys.len() >= limit || passed >= passes {
                    return Answer::Walked { keys, next };
                }
                let matching = same.iter().filter(|(_, key)| key.starts_with(prefix));
                let size: usize = matching.clone().map(|(_, key)| 4 + key.len()).sum();
                if size > left {
                    // Two megabytes of keys with one hash occur only if they are constructed on purpose.
                    return if keys.is_empty() { Answer::Omitted } else { Answer::Walked { keys, next } };
                }
                left -= size;
                passed += same.len();
                keys.extend(matching.map(|(_, key)| Bytes::copy_from_slice(key)));
            }
        }
        Answer::Walked { keys, next: 0 }
    }

    /// The live keys in those slots at or after that position, with their positions, in order.
    fn sort<'a>(&'a self, slots: &[u32], from: u64, bucket: &mut Vec<(u64, &'a [u8])>) {
        let live = slots.iter().map(|slot| &self.slots[*slot as usize]).filter(|slot| slot.is_live(self.now));
        bucket.clear();
        bucket.extend(live.map(Slot::key).map(|key| (position(hash(0, key)), key)).filter(|(at, _)| *at >= from));
        bucket.sort_unstable();
    }

    /// All keys with a prefix, if they are few.
    fn whole(&self, prefix: &[u8], limit: usize) -> Option<Vec<Bytes>> {
        let most = if prefix.is_empty() { limit } else { limit.max(WHOLE) };
        let mut left = ANSWER_BYTES_MAX as usize - 32;
        let mut keys = Vec::new();
        for (key, _) in self.range(Bound::Included(prefix)).take_while(|(key, _)| key.starts_with(prefix)) {
            left = left.checked_sub(4 + key.len()).filter(|_| keys.len() < most)?;
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

    fn walked(answer: Answer) -> (Vec<Bytes>, u64) {
        let Answer::Walked { keys, next } = answer else { panic!("{answer:?}") };
        assert!(next < 1 << POSITION_BITS);
        (keys, next)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// One node has a table that has grown and shrunk, the other one that was never larger.
        #[test]
        fn walk_over_two_nodes_returns_each_kept_key_once(
            limit in 1u32..40,
            prefix in prop::sample::select(vec!["", "k", "k1", "none"]),
            changes in prop::collection::vec((any::<bool>(), 0..3000u32), 0..300),
        ) {
            let (mut large, mut small) = (Kv::new(), Kv::new());
            (0..20_000).for_each(|n| put(&mut large, &format!("gone{n}")));
            (0..20_000).for_each(|n| del(&mut large, &format!("gone{n}")));
            let stays: BTreeSet<String> = (0..1500).map(|n| format!("k{}", n * 2)).collect();
            for kv in [&mut large, &mut small] {
                stays.iter().for_each(|key| put(kv, key));
            }
            let (mut seen, mut at, mut changes) = (Vec::new(), 0, changes.into_iter());
            loop {
                let (keys, next) = walked(large.walk(prefix.as_bytes(), at, limit));
                prop_assert_eq!((&keys, next), (&walked(small.walk(prefix.as_bytes(), at, limit)).0, next));
                seen.extend(keys.iter().map(|key| String::from_utf8(key.to_vec()).unwrap()));
                at = next;
                if at == 0 {
                    break;
                }
                for (adds, n) in changes.by_ref().take(3) {
                    let key = format!("k{}", n * 2 + 1);
                    for kv in [&mut large, &mut small] {
                        if adds { put(kv, &key) } else { del(kv, &key) }
                    }
                }
            }
            let met: BTreeSet<&String> = seen.iter().collect();
            prop_assert_eq!(met.len(), seen.len(), "no key twice");
            prop_assert!(stays.iter().filter(|key| key.starts_with(prefix)).all(|key| met.contains(key)));
            prop_assert!(met.iter().all(|key| key.starts_with(prefix)));
        }
    }

    #[test]
    fn walk_resumes_from_any_cursor_with_bounded_answers() {
        let mut kv = Kv::new();
        let long = "x".repeat(60 << 10);
        (0..100).for_each(|n| put(&mut kv, &format!("{n}{long}")));
        let (mut count, mut at, mut answers) = (0, 0, 0);
        loop {
            let answer = kv.walk(b"", at, u32::MAX);
            assert!(answer.size() as u64 <= ANSWER_BYTES_MAX);
            let (keys, next) = walked(answer);
            (count, at, answers) = (count + keys.len(), next, answers + 1);
            if at == 0 {
                break;
            }
        }
        assert_eq!(count, 100);
        assert!((3..=5).contains(&answers), "{answers}");
        for from in [1 << POSITION_BITS, u64::MAX] {
            assert_eq!(walked(kv.walk(b"", from, 9)), (vec![], 0));
        }
        assert!(!walked(kv.walk(b"", 77, 9)).0.is_empty());
        assert_eq!(walked(Kv::new().walk(b"", 5, 9)), (vec![], 0));
    }
}
