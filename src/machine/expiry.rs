//! The deadlines of keys.
//!
//! A key is absent as soon as its deadline has passed, for every query and on every node; its memory is freed a little
//! at a time, so that a million keys that expire together do not delay the heartbeats. Nodes must agree
//! on the absence of keys (which keys are present, how many, the digest), which costs the same however many keys share
//! a deadline; when memory is freed is local to each node.

use crate::types::ClusterTime;
use crate::types::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};

/// The deadlines of the slots that have one.
///
/// Invariants: `order` holds the deadline of each slot that has one. `ending` holds the number of slots and the sum of
/// their hashes for each deadline that has not passed; `overdue` counts the slots whose deadline has passed.
#[derive(Clone, Debug, Default)]
pub struct Expiry {
    order: BTreeSet<(ClusterTime, u32)>,
    ending: BTreeMap<ClusterTime, ExpiringKey>,
    overdue: usize,
}

/// The slots with one deadline.
#[derive(Clone, Copy, Debug, Default)]
struct ExpiringKey {
    count: usize,
    hashes: u64,
}

impl Expiry {
    /// Adds a slot with that hash and a deadline that has not passed yet.
    pub fn insert(&mut self, deadline: ClusterTime, slot: u32, hash: u64) {
        self.order.insert((deadline, slot));
        let ending = self.ending.entry(deadline).or_default();
        ending.count += 1;
        ending.hashes = ending.hashes.wrapping_add(hash);
    }

    /// Removes a slot's deadline; returns whether it had not passed, so that the slot was still in the digest.
    pub fn remove(&mut self, deadline: ClusterTime, slot: u32, hash: u64) -> bool {
        let removed = self.order.remove(&(deadline, slot));
        assert!(removed, "a key with a deadline is listed");
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

    /// Sets the clock: removes slots that have expired from the digest.
    pub fn advance(&mut self, now: ClusterTime, digest: &mut Digest) {
        while let Some(first) = self.ending.first_entry()
            && *first.key() <= now
        {
            let ending = first.remove();
            *digest -= ending.hashes;
            self.overdue += ending.count;
        }
    }

    /// How many slots have expired and are still in memory.
    pub fn overdue(&self) -> usize {
        self.overdue
    }

    /// How many slots have a deadline that has not passed yet.
    pub fn coming(&self) -> usize {
        self.order.len() - self.overdue
    }

    /// The slot that expired first among those still in memory.
    pub fn first_overdue(&self) -> Option<u32> {
        if self.overdue == 0 { None } else { self.order.first().map(|(_, slot)| *slot) }
    }

    /// The earliest deadline, which is in the past if an expired slot is still in memory.
    pub fn due(&self) -> Option<ClusterTime> {
        self.order.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests;
