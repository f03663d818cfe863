//! The rules for configurations: which are valid, and which may follow another (§6, thesis §4.3).
//!
//! The set of voters changes in two steps. First a simple configuration becomes a joint one, whose outgoing voters are
//! the old voters. Then the joint one ends in a simple one: with the incoming voters alone, or with the outgoing ones
//! alone if the change is aborted. A joint configuration may also be reversed. Everything else about members (learners,
//! addresses, disks) may change as long as the voters stay the same.

use crate::types::{Membership, NodeId};
use std::collections::BTreeSet;

/// Why a configuration is invalid by itself; `None` if it is valid.
pub fn invalid_configuration(membership: &Membership) -> Option<String> {
    if membership.voters.is_empty() {
        return Some("it has no voters".to_owned());
    }
    let nonmember = membership.all_voters().find(|voter| !membership.members.contains_key(voter));
    nonmember.map(|voter| format!("voter {voter} is not a member"))
}

/// Why the configuration `new` may not follow `old` in a log; `None` if it may.
pub fn invalid_transition(old: &Membership, new: &Membership) -> Option<String> {
    let (before, after) = ((&old.voters, &old.outgoing), (&new.voters, &new.outgoing));
    let allowed = match (old.is_joint(), new.is_joint()) {
        // Only learners, addresses or disks change.
        (false, false) => before == after,
        (false, true) => new.outgoing == old.voters,
        (true, false) => new.voters == old.voters || new.voters == old.outgoing,
        (true, true) => before == after || after == (&old.outgoing, &old.voters),
    };
    if allowed {
        return None;
    }
    let broken_rule = match (old.is_joint(), new.is_joint()) {
        (false, false) => "without a joint one between them",
        (false, true) => "whose outgoing voters are not the voters before it",
        (true, false) => "which is neither the end of the joint one nor its reversal",
        (true, true) => "though a change was under way",
    };
    let overlap_text = match quorums_overlap(old, new) {
        true => "",
        false => ": two quorums may be disjoint",
    };
    Some(format!("{old} is followed by {new}, {broken_rule}{overlap_text}"))
}

/// Whether the nodes are a quorum of the configuration: a majority, or in a joint configuration both majorities.
pub fn is_quorum(membership: &Membership, nodes: &BTreeSet<NodeId>) -> bool {
    let majority = |voters: &BTreeSet<NodeId>| {
        voters.is_empty() || voters.intersection(nodes).count() >= Membership::majority_of(voters.len())
    };
    !membership.voters.is_empty() && majority(&membership.voters) && majority(&membership.outgoing)
}

/// Whether every quorum of `old` is sure to share a node with every quorum of `new`.
fn quorums_overlap(old: &Membership, new: &Membership) -> bool {
    let voter_sets = |membership: &Membership| match membership.is_joint() {
        true => vec![membership.voters.clone(), membership.outgoing.clone()],
        false => vec![membership.voters.clone()],
    };
    let majority = |set: &BTreeSet<NodeId>| Membership::majority_of(set.len());
    // A quorum of a joint configuration is a majority of each half, so it is enough that one half overlaps with one of
    // the other configuration.
    voter_sets(old).iter().any(|a| voter_sets(new).iter().any(|b| majority(a) + majority(b) > a.union(b).count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(members: &[u64], voters: &[u64], outgoing: &[u64]) -> Membership {
        let id = |n: &u64| NodeId::new(*n).unwrap();
        let founding = Membership::founding(members.iter().map(|n| (id(n), format!("n{n}:1"))));
        Membership { voters: voters.iter().map(id).collect(), outgoing: outgoing.iter().map(id).collect(), ..founding }
    }

    #[test]
    fn transitions_through_joint_configurations_are_valid() {
        let members = [1, 2, 3, 4, 5];
        let (old, joint) = (configuration(&members, &[1, 2, 3], &[]), configuration(&members, &[3, 4, 5], &[1, 2, 3]));
        let (new, reversed) =
            (configuration(&members, &[3, 4, 5], &[]), configuration(&members, &[1, 2, 3], &[3, 4, 5]));
        let transitions = [(&old, &joint), (&joint, &new), (&joint, &old), (&joint, &reversed), (&reversed, &old)];
        for (from, to) in transitions {
            assert_eq!(invalid_transition(from, to), None, "{from} -> {to}");
        }
        // A learner is added, and the voters stay the same.
        assert_eq!(
            invalid_transition(
                &configuration(&[1, 2, 3], &[1, 2, 3], &[]),
                &configuration(&[1, 2, 3, 4], &[1, 2, 3], &[])
            ),
            None
        );
    }

    #[test]
    fn transitions_without_joint_configuration_are_invalid() {
        let members = [1, 2, 3, 4, 5];
        let (old, joint) = (configuration(&members, &[1, 2, 3], &[]), configuration(&members, &[3, 4, 5], &[1, 2, 3]));
        let invalid_transitions = [
            (old.clone(), configuration(&members, &[3, 4, 5], &[]), "without a joint one"),
            (old.clone(), configuration(&members, &[1, 2, 3, 4], &[]), "without a joint one"),
            (old.clone(), configuration(&members, &[3, 4, 5], &[1, 2]), "outgoing voters are not the voters before it"),
            (joint.clone(), configuration(&members, &[1, 4], &[]), "neither the end"),
            (joint, configuration(&members, &[1, 4], &[1, 2, 3]), "a change was under way"),
        ];
        for (from, to, reason) in invalid_transitions {
            let explanation = invalid_transition(&from, &to).unwrap();
            assert!(explanation.contains(reason), "{explanation}");
        }
        let disjoint_text = invalid_transition(&old, &configuration(&members, &[4, 5], &[])).unwrap();
        assert!(disjoint_text.ends_with("two quorums may be disjoint"), "{disjoint_text}");
        let overlapping_text = invalid_transition(&old, &configuration(&members, &[1, 2, 3, 4], &[])).unwrap();
        assert!(!overlapping_text.contains("may be disjoint"), "{overlapping_text}");
    }

    #[test]
    fn configuration_needs_voters_that_are_members() {
        assert_eq!(invalid_configuration(&configuration(&[1, 2], &[1], &[])), None);
        assert_eq!(invalid_configuration(&configuration(&[1, 2], &[], &[])).as_deref(), Some("it has no voters"));
        assert_eq!(
            invalid_configuration(&configuration(&[1], &[1, 2], &[])).as_deref(),
            Some("voter n2 is not a member")
        );
    }
}
