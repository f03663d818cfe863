//! Which keys end when.
//!
//! A key whose time is up is absent at once, for whoever asks and on every node; its memory is let go of
//! a little at a time, so that a million keys that end together do not hold up the heartbeats. What
//! nodes must agree on (what is there, how much, the digest) goes by the first, and costs the same
//! however many keys end with one deadline; the second is each node's own affair.

use crate::types::ClusterTime;
use crate::types::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};

/// Which keys end when: only those that do.
///
/// Invariants: `order` holds the deadline of each slot that has one. `ending` holds, of each deadline
/// in `order` that is still to come, how many have it and the sum of their hashes; `overdue` is how many have one
/// that is not.
#[derive(Clone, Debug, Default)]
pub struct Expiry {
    order: BTreeSet<(ClusterTime, u32)>,
    ending: BTreeMap<ClusterTime, ExpiringKey>,
    overdue: usize,
}

/// What ends together.
#[derive(Clone, Copy, Debug, Default)]
struct ExpiringKey {
    count: usize,
    hashes: u64,
}

impl Expiry {
    /// A slot, of that hash, ends then, which is still to come.
    pub fn insert(&mut self, deadline: ClusterTime, slot: u32, hash: u64) {
        self.order.insert((deadline, slot));
        let ending = self.ending.entry(deadline).or_default();
        ending.count += 1;
        ending.hashes = ending.hashes.wrapping_add(hash);
    }

    /// That slot is no more, or ends otherwise; whether its time had not come yet, so that it still was in
    /// the digest.
    pub fn remove(&mut self, deadline: ClusterTime, slot: u32, hash: u64) -> bool {
        let removed = self.order.remove(&(deadline, slot));
        assert!(removed, "what has a deadline is listed");
        let Some(ending) = self.ending.get_mut(&deadline) else {
            self.overdue -= 1;
            return false;
        };
        ending.count -= 1;
        ending.hashes = ending.hashes.wrapping_sub(hash);
        if ending.count == 0 {
            self.ending.remove(&deadline);
        }
        true
    }

    /// It is that late now: what has ended leaves the digest.
    pub fn advance(&mut self, now: ClusterTime, digest: &mut Digest) {
        while let Some(first) = self.ending.first_entry()
            && *first.key() <= now
        {
            let ending = first.remove();
            *digest -= ending.hashes;
            self.overdue += ending.count;
        }
    }

    /// How many have ended and are still in memory.
    pub fn overdue(&self) -> usize {
        self.overdue
    }

    /// How many have a deadline that is still to come.
    pub fn coming(&self) -> usize {
        self.order.len() - self.overdue
    }

    /// A slot that has ended and is still in memory: the one that ended first.
    pub fn first_overdue(&self) -> Option<u32> {
        if self.overdue == 0 { None } else { self.order.first().map(|(_, slot)| *slot) }
    }

    /// When there is next something to do: at once, if anything waits to be let go of.
    pub fn due(&self) -> Option<ClusterTime> {
        self.order.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests;
