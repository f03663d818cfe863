//! Majorities and joint majorities, as pure functions of a configuration (§5.2, §6).
//!
//! Each call computes its result from the configuration alone, without a running count or a sorted list. So no state of
//! an earlier configuration can influence the result (openraft#1802).

use crate::limits::MEMBERS_MAX;
use crate::types::{Index, Membership, NodeId};
use std::collections::BTreeSet;

/// Whether the voters for which `agrees` holds are a majority, or in a joint configuration a majority of each half.
///
/// False if there are no voters.
///
/// A new node has a configuration without voters, and must not elect itself.
pub fn decides(membership: &Membership, agrees: impl Fn(NodeId) -> bool) -> bool {
    let has_majority = |voters: &BTreeSet<NodeId>| {
        voters.iter().filter(|id| agrees(**id)).count() >= Membership::majority_of(voters.len())
    };
    has_majority(&membership.voters) && (!membership.is_joint() || has_majority(&membership.outgoing))
}

/// The highest index that a majority holds, or in a joint configuration a majority of each half.
///
/// `held_index` is the last index that a voter holds. Of these indexes in descending order, the result is the one in
/// the middle: a majority holds that index or a higher one. In a joint configuration the result is the lower one of the
/// two halves.
pub fn highest_held_index(membership: &Membership, held_index: impl Fn(NodeId) -> Index) -> Index {
    let majority_index = |voters: &BTreeSet<NodeId>| {
        // The array is on the stack: this code runs with every acknowledgment.
        let mut indexes = [Index::ZERO; MEMBERS_MAX];
        let indexes = &mut indexes[..voters.len()];
        for (slot, id) in indexes.iter_mut().zip(voters) {
            *slot = held_index(*id);
        }
        indexes.sort_unstable_by(|a, b| b.cmp(a));
        indexes.get(voters.len() / 2).copied().unwrap_or(Index::ZERO)
    };
    let voters_majority_index = majority_index(&membership.voters);
    let quorum_index = if membership.is_joint() {
        voters_majority_index.min(majority_index(&membership.outgoing))
    } else {
        voters_majority_index
    };
    // Checks the result against the definition (openraft#1802: a sorted list of progress lost its order, and entries
    // were committed without a quorum).
    debug_assert!(
        quorum_index == Index::ZERO || decides(membership, |id| held_index(id) >= quorum_index),
        "a quorum holds every entry up to the quorum index (§5.3)"
    );
    quorum_index
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn membership(voters: &BTreeSet<u64>, outgoing: &BTreeSet<u64>) -> Membership {
        let mut membership = Membership::founding(voters.iter().map(|n| (id(*n), String::new())));
        membership.outgoing = outgoing.iter().map(|n| id(*n)).collect();
        membership
    }

    fn ids() -> impl Strategy<Value = BTreeSet<u64>> {
        prop::collection::btree_set(1..10u64, 1..8)
    }

    proptest! {
        /// `highest_held_index` returns the greatest index that a quorum holds, found by trying each index.
        #[test]
        fn quorum_index_is_the_greatest_held_by_a_quorum(
            voters in ids(), outgoing in prop::option::of(ids()), held_indexes in prop::array::uniform10(0..20u64),
        ) {
            let membership = membership(&voters, &outgoing.unwrap_or_default());
            let held_index = |id: NodeId| Index(held_indexes[id.get() as usize]);
            let greatest_held_index = (0..=20).rev().find(|i| decides(&membership, |id| held_index(id) >= Index(*i)));
            prop_assert_eq!(Some(highest_held_index(&membership, held_index).0), greatest_held_index);
        }

        /// Any two quorums of one configuration share a voter, and so do those of a joint
        /// configuration and of either of its halves (§6).
        #[test]
        fn quorums_intersect(voters in ids(), outgoing in ids(), one_votes: u16, other_votes: u16) {
            let new_membership = membership(&voters, &BTreeSet::new());
            let old_membership = membership(&outgoing, &BTreeSet::new());
            let joint_membership = membership(&voters, &outgoing);
            let has_vote_in_mask = |mask: u16| move |id: NodeId| mask >> id.get() & 1 == 1;
            for (one, other) in [
                (&new_membership, &new_membership),
                (&new_membership, &joint_membership),
                (&old_membership, &joint_membership),
            ] {
                if decides(one, has_vote_in_mask(one_votes)) && decides(other, has_vote_in_mask(other_votes)) {
                    prop_assert!((1..10u64).any(|n| has_vote_in_mask(one_votes & other_votes)(id(n))));
                }
            }
        }
    }

    #[test]
    fn empty_membership_has_no_quorum() {
        assert!(!decides(&Membership::default(), |_| true));
        assert_eq!(highest_held_index(&Membership::default(), |_| Index(7)), Index::ZERO);
    }
}
