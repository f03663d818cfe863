//! A snapshot of the map as of one time, serialized in key order while the map keeps changing.
//!
//! Freezing copies nothing, so it takes no time however large the map is. The old value of a key is saved when the key
//! changes for the first time, unless the key is serialized already (copy on write).

use super::commands::{Pair, put_pair};
use super::decide::StoredValue;
use crate::types::ClusterTime;
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The part of a frozen map that is still to be serialized.
///
/// Invariants: all keys up to `serialized_upto` are serialized. `old_values` holds the value at the freeze of each
/// later key that has changed since, `None` if the key was absent; all other keys are unchanged. A key that had expired
/// by `time` counts as absent, even if it was still in memory.
#[derive(Clone, Debug)]
pub struct FrozenMap {
    /// The cluster time of the freeze.
    time: ClusterTime,
    /// The last serialized key; `None` before the first.
    serialized_upto: Option<Box<[u8]>>,
    old_values: BTreeMap<Box<[u8]>, Option<FrozenValue>>,
}

/// A key's value at the freeze.
#[derive(Clone, Debug)]
struct FrozenValue {
    value: Box<[u8]>,
    deadline: Option<ClusterTime>,
}

impl FrozenMap {
    /// Freezes a map as of `time`: keys with a deadline at or before it count as absent.
    pub fn at(time: ClusterTime) -> FrozenMap {
        FrozenMap { time, serialized_upto: None, old_values: BTreeMap::new() }
    }

    /// Whether a key with the deadline `deadline` was present at the freeze.
    fn was_present(&self, deadline: Option<ClusterTime>) -> bool {
        deadline.is_none_or(|deadline| deadline > self.time)
    }

    /// The lower bound of the keys that are not serialized yet.
    pub fn unserialized_from(&self) -> Bound<&[u8]> {
        self.serialized_upto.as_deref().map_or(Bound::Unbounded, Bound::Excluded)
    }

    /// Saves the value of a key that is about to change for the first time since the freeze. `current` is its value in
    /// memory, expired or not.
    pub fn save_old_value(&mut self, key: &[u8], current: Option<StoredValue<'_>>) {
        let is_serialized = self.serialized_upto.as_deref().is_some_and(|last| key <= last);
        if !is_serialized && !self.old_values.contains_key(key) {
            let stored_at_freeze = current.filter(|stored| self.was_present(stored.deadline));
            let frozen_value =
                stored_at_freeze.map(|StoredValue { value, deadline }| FrozenValue { value: value.into(), deadline });
            self.old_values.insert(key.into(), frozen_value);
        }
    }

    /// Serializes the next chunk, about `bytes` long; `None` after the last one. `current` yields the pairs in memory
    /// from [`FrozenMap::unserialized_from`] on, in key order.
    pub fn next_chunk<'a>(
        &mut self,
        bytes: usize,
        current: impl Iterator<Item = (&'a [u8], StoredValue<'a>)>,
    ) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(bytes + bytes / 8);
        let mut current = current.peekable();
        // Keys added since the freeze are not serialized, but skipping them takes time too.
        let mut skipped_bytes = 0;
        let mut last_key = Cow::default();
        let mut old_entry = self.old_values.pop_first();
        while out.len() + skipped_bytes < bytes.max(1) {
            let order = match (current.peek(), &old_entry) {
                (Some((key, _)), Some((old_key, _))) => (*key).cmp(old_key),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) if out.is_empty() => return None,
                (None, None) => break,
            };
            if order.is_le()
                && let Some((key, StoredValue { value, deadline })) = current.next()
                && order.is_lt()
            {
                match self.was_present(deadline) {
                    true => put_pair(&mut out, Pair { key, value, deadline }),
                    false => skipped_bytes += 8 + key.len(),
                }
                last_key = Cow::Borrowed(key);
            }
            if order.is_ge()
                && let Some((key, frozen)) = std::mem::replace(&mut old_entry, self.old_values.pop_first())
            {
                match frozen {
                    Some(FrozenValue { value, deadline }) => {
                        put_pair(&mut out, Pair { key: &key, value: &value, deadline });
                    }
                    None => skipped_bytes += 8 + key.len(),
                }
                last_key = Cow::Owned(key.into());
            }
        }
        self.old_values.extend(old_entry);
        self.serialized_upto = Some(last_key.into_owned().into());
        Some(out.freeze())
    }
}
