//! The deadlines of keys, and the keys whose deadline has passed but whose memory is not freed yet.
//!
//! A key is absent as soon as its deadline has passed, for every query and on every node. Its memory is freed later, a
//! few keys at a time, so that a million keys that expire together do not delay the heartbeats.
//!
//! Nodes must agree which keys are present, how many, and on the digest. Expired keys leave these counts and the
//! digest at a cost that does not depend on how many keys share a deadline. Nodes need not agree when memory is freed.

use crate::types::ClusterTime;
use crate::types::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};

/// The deadlines of all slots in memory that have one.
///
/// Invariants: `by_deadline` holds each slot that has a deadline, the earliest first. `pending_groups` holds a group of
/// slots for each deadline that has not passed. `overdue_count` counts the slots whose deadline has passed.
#[derive(Clone, Debug, Default)]
pub struct Expiry {
    by_deadline: BTreeSet<(ClusterTime, u32)>,
    pending_groups: BTreeMap<ClusterTime, DeadlineGroup>,
    overdue_count: usize,
}

/// The slots that share one deadline.
#[derive(Clone, Copy, Debug, Default)]
struct DeadlineGroup {
    count: usize,
    /// The wrapping sum of the slots' hashes: their part of the digest.
    hash_sum: u64,
}

impl Expiry {
    /// Adds a slot whose deadline has not passed yet; `hash` is its part of the digest.
    pub fn insert(&mut self, deadline: ClusterTime, slot: u32, hash: u64) {
        self.by_deadline.insert((deadline, slot));
        let group = self.pending_groups.entry(deadline).or_default();
        group.count += 1;
        group.hash_sum = group.hash_sum.wrapping_add(hash);
    }

    /// Removes a slot, and returns whether its deadline was still pending, so that the digest contains the slot.
    pub fn remove(&mut self, deadline: ClusterTime, slot: u32, hash: u64) -> bool {
        let removed = self.by_deadline.remove(&(deadline, slot));
        assert!(removed, "every slot with a deadline is listed by its deadline");
        let Some(group) = self.pending_groups.get_mut(&deadline) else {
            self.overdue_count -= 1;
            return false;
        };
        group.count -= 1;
        group.hash_sum = group.hash_sum.wrapping_sub(hash);
        if group.count == 0 {
            self.pending_groups.remove(&deadline);
        }
        true
    }

    /// Sets the clock: a slot whose deadline is at or before `now` is overdue, and no longer part of the digest.
    pub fn advance(&mut self, now: ClusterTime, digest: &mut Digest) {
        while let Some(first) = self.pending_groups.first_entry()
            && *first.key() <= now
        {
            let group = first.remove();
            *digest -= group.hash_sum;
            self.overdue_count += group.count;
        }
    }

    /// The number of slots that have expired and are still in memory.
    pub fn overdue_count(&self) -> usize {
        self.overdue_count
    }

    /// The number of slots whose deadline has not passed yet.
    pub fn pending_count(&self) -> usize {
        self.by_deadline.len() - self.overdue_count
    }

    /// The slot that expired first among those still in memory.
    pub fn first_overdue(&self) -> Option<u32> {
        if self.overdue_count == 0 { None } else { self.by_deadline.first().map(|(_, slot)| *slot) }
    }

    /// The earliest deadline, which is in the past if an expired slot is still in memory.
    pub fn earliest_deadline(&self) -> Option<ClusterTime> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests;
