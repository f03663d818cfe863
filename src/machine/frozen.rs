//! A frozen map, serialized in key order while the map keeps changing.
//!
//! Freezing copies nothing: the old value of a key is saved when the key changes for the first time, unless it is
//! serialized already. So freezing takes no time, and serializing costs what is serialized and what changed meanwhile.

use super::commands::{Pair, put_pair};
use super::decide::StoredValue;
use crate::types::ClusterTime;
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A frozen map that is still to be serialized.
///
/// Invariants: all keys up to `serialized_upto` are serialized. `before` holds the old value of each later key that
/// changed since, `None` if it was absent; all other keys are unchanged. A key that had expired by `time` counts as
/// absent, even if it was still in memory.
#[derive(Clone, Debug)]
pub struct Frozen {
    time: ClusterTime,
    serialized_upto: Option<Box<[u8]>>,
    before: BTreeMap<Box<[u8]>, Option<FrozenValue>>,
}

/// A key's value at the freeze.
#[derive(Clone, Debug)]
struct FrozenValue {
    value: Box<[u8]>,
    deadline: Option<ClusterTime>,
}

impl Frozen {
    /// Freezes a map at that time.
    pub fn at(time: ClusterTime) -> Frozen {
        Frozen { time, serialized_upto: None, before: BTreeMap::new() }
    }

    fn was_serialized(&self, deadline: Option<ClusterTime>) -> bool {
        deadline.is_none_or(|deadline| deadline > self.time)
    }

    /// The lower bound of the remaining keys.
    pub fn unserialized_from(&self) -> Bound<&[u8]> {
        self.serialized_upto.as_deref().map_or(Bound::Unbounded, Bound::Excluded)
    }

    /// Called before a key changes, with its current value (its last one, if expired).
    pub fn keep(&mut self, key: &[u8], held: Option<StoredValue<'_>>) {
        let is_serialized = self.serialized_upto.as_deref().is_some_and(|last| key <= last);
        if !is_serialized && !self.before.contains_key(key) {
            let held = held.filter(|held| self.was_serialized(held.deadline));
            let was = held.map(|StoredValue { value, deadline }| FrozenValue { value: value.into(), deadline });
            self.before.insert(key.into(), was);
        }
    }

    /// The next chunk, about `bytes` long; `None` after the last one. `now` yields the current pairs after
    /// [`Frozen::unserialized_from`], in order.
    pub fn next_chunk<'a>(
        &mut self,
        bytes: usize,
        now: impl Iterator<Item = (&'a [u8], StoredValue<'a>)>,
    ) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(bytes + bytes / 8);
        let mut now = now.peekable();
        // Keys added since the freeze are not serialized, but passing them takes time too.
        let mut passed = 0;
        let mut last = Cow::default();
        let mut kept = self.before.pop_first();
        while out.len() + passed < bytes.max(1) {
            let order = match (now.peek(), &kept) {
                (Some((key, _)), Some((kept, _))) => (*key).cmp(kept),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) if out.is_empty() => return None,
                (None, None) => break,
            };
            if order.is_le()
                && let Some((key, StoredValue { value, deadline })) = now.next()
                && order.is_lt()
            {
                match self.was_serialized(deadline) {
                    true => put_pair(&mut out, Pair { key, value, deadline }),
                    false => passed += 8 + key.len(),
                }
                last = Cow::Borrowed(key);
            }
            if order.is_ge()
                && let Some((key, held)) = std::mem::replace(&mut kept, self.before.pop_first())
            {
                match held {
                    Some(FrozenValue { value, deadline }) => {
                        put_pair(&mut out, Pair { key: &key, value: &value, deadline });
                    }
                    None => passed += 8 + key.len(),
                }
                last = Cow::Owned(key.into());
            }
        }
        self.before.extend(kept);
        self.serialized_upto = Some(last.into_owned().into());
        Some(out.freeze())
    }
}
