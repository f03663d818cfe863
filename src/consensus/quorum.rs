//! Majorities and joint majorities, as pure functions of a configuration (§5.2, §6).
//!
//! Nothing is remembered between two calls: no count that is kept up to date, and no list that is kept sorted. So there
//! is no state that a change of the configuration could leave behind (openraft#1802).

use crate::limits::MEMBERS_MAX;
use crate::types::{Index, Membership, NodeId};
use std::collections::BTreeSet;

/// Whether the voters for which `yes` holds are a majority, or in a joint configuration a majority of each half.
///
/// False if there are no voters.
///
/// An empty set of voters would otherwise decide everything. A node that has just joined has such a configuration, and
/// must not elect itself.
pub fn decides(membership: &Membership, yes: impl Fn(NodeId) -> bool) -> bool {
    let majority = |voters: &BTreeSet<NodeId>| {
        voters.iter().filter(|id| yes(**id)).count() >= Membership::majority_of(voters.len())
    };
    majority(&membership.voters) && (!membership.is_joint() || majority(&membership.outgoing))
}

/// The highest index that a majority holds, or in a joint configuration a majority of each half.
///
/// The element in the middle of the indexes, sorted from the highest: a majority has this index or a higher one, and no
/// higher index has one. In a joint configuration the lower of two such indexes, for both halves have to hold an entry.
pub fn held(membership: &Membership, by: impl Fn(NodeId) -> Index) -> Index {
    let majority = |voters: &BTreeSet<NodeId>| {
        // On the stack: this runs with every acknowledgment.
        let mut held = [Index::ZERO; MEMBERS_MAX];
        let held = &mut held[..voters.len()];
        for (slot, id) in held.iter_mut().zip(voters) {
            *slot = by(*id);
        }
        held.sort_unstable_by(|a, b| b.cmp(a));
        held.get(voters.len() / 2).copied().unwrap_or(Index::ZERO)
    };
    let new = majority(&membership.voters);
    let held = if membership.is_joint() { new.min(majority(&membership.outgoing)) } else { new };
    // The definition, beside the sorted list that computes it (openraft#1802: a sorted list of progress lost its order,
    // and entries were committed without a quorum).
    debug_assert!(held == Index::ZERO || decides(membership, |id| by(id) >= held), "a quorum holds the index (§5.3)");
    held
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
        /// The definition, computed directly: `held` is the greatest index that a quorum holds.
        #[test]
        fn quorum_index_is_the_greatest_held_by_a_quorum(
            voters in ids(), outgoing in prop::option::of(ids()), at in prop::array::uniform10(0..20u64),
        ) {
            let membership = membership(&voters, &outgoing.unwrap_or_default());
            let by = |id: NodeId| Index(at[id.get() as usize]);
            let greatest = (0..=20).rev().find(|i| decides(&membership, |id| by(id) >= Index(*i)));
            prop_assert_eq!(Some(held(&membership, by).0), greatest);
        }

        /// Any two quorums of one configuration share a voter, and so do those of a joint
        /// configuration and of either of its halves (§6).
        #[test]
        fn quorums_intersect(voters in ids(), outgoing in ids(), a: u16, b: u16) {
            let simple = membership(&voters, &BTreeSet::new());
            let old = membership(&outgoing, &BTreeSet::new());
            let joint = membership(&voters, &outgoing);
            let says = |mask: u16| move |id: NodeId| mask >> id.get() & 1 == 1;
            for (one, other) in [(&simple, &simple), (&simple, &joint), (&old, &joint)] {
                if decides(one, says(a)) && decides(other, says(b)) {
                    prop_assert!((1..10u64).any(|n| says(a & b)(id(n))));
                }
            }
        }
    }

    #[test]
    fn empty_membership_has_no_quorum() {
        assert!(!decides(&Membership::default(), |_| true));
        assert_eq!(held(&Membership::default(), |_| Index(7)), Index::ZERO);
    }
}
