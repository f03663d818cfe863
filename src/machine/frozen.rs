//! A map as it was, told in the order of its keys while it goes on changing.
//!
//! Nothing is copied when it is frozen: what a key held is kept when it changes for the first time,
//! unless it was told already. So freezing takes no time, and telling costs what is told and what
//! changed meanwhile.

use super::decide::StoredValue;
use super::words::{Pair, put_pair};
use crate::types::ClusterTime;
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What is still to be told of a map.
///
/// Invariants: all keys up to `told` were told. `before` holds of each later key that changed since
/// the freeze what it held then, `None` if it was absent; all others hold now what they held then. What had
/// ended by `time` was absent, whether or not it was still in memory.
#[derive(Clone, Debug)]
pub struct Frozen {
    time: ClusterTime,
    told: Option<Box<[u8]>>,
    before: BTreeMap<Box<[u8]>, Option<Was>>,
}

/// What a key held.
#[derive(Clone, Debug)]
struct Was {
    value: Box<[u8]>,
    deadline: Option<ClusterTime>,
}

impl Frozen {
    /// A map as it is at that time.
    pub fn at(time: ClusterTime) -> Frozen {
        Frozen { time, told: None, before: BTreeMap::new() }
    }

    fn is_told(&self, deadline: Option<ClusterTime>) -> bool {
        deadline.is_none_or(|deadline| deadline > self.time)
    }

    /// Where the keys begin that are not told yet.
    pub fn told(&self) -> Bound<&[u8]> {
        self.told.as_deref().map_or(Bound::Unbounded, Bound::Excluded)
    }

    /// A key is about to change, and this is what it holds, or held when it ended.
    pub fn keep(&mut self, key: &[u8], held: Option<StoredValue<'_>>) {
        let told = self.told.as_deref().is_some_and(|told| key <= told);
        if !told && !self.before.contains_key(key) {
            let held = held.filter(|held| self.is_told(held.deadline));
            let was = held.map(|StoredValue { value, deadline }| Was { value: value.into(), deadline });
            self.before.insert(key.into(), was);
        }
    }

    /// The next piece, about `bytes` long; `None` when there is nothing left. `now` are the pairs
    /// behind [`Frozen::told`] as they are now, in order.
    pub fn piece<'a>(&mut self, bytes: usize, now: impl Iterator<Item = (&'a [u8], StoredValue<'a>)>) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(bytes + bytes / 8);
        let mut now = now.peekable();
        // Keys that came since are not told, but passing them takes time all the same.
        let mut passed = 0;
        let mut last = Cow::default();
        while out.len() + passed < bytes.max(1) {
            let order = match (now.peek(), self.before.first_key_value()) {
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
                match self.is_told(deadline) {
                    true => put_pair(&mut out, Pair { key, value, deadline }),
                    false => passed += 8 + key.len(),
                }
                last = Cow::Borrowed(key);
            }
            if order.is_ge()
                && let Some((key, held)) = self.before.pop_first()
            {
                match held {
                    Some(Was { value, deadline }) => {
                        put_pair(&mut out, Pair { key: &key, value: &value, deadline });
                    }
                    None => passed += 8 + key.len(),
                }
                last = Cow::Owned(key.into());
            }
        }
        self.told = Some(last.into_owned().into());
        Some(out.freeze())
    }
}
