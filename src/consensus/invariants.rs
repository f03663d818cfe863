//! Invariants that hold after every step, each with its section of the paper.
//!
//! [`super::raft::Raft`] calls [`check`] at the end of every entry point that changes the state. A violated invariant
//! is an error in this program. The next messages and writes of the node can no longer be trusted, so it stops and the
//! other nodes continue. A stopped node costs availability, and a wrong acknowledgment costs data.
//!
//! An invariant is about this node's own state. No input of a peer, a client or a disk may violate one: such input is
//! rejected where it arrives, mostly with a [`super::note::Note::InvalidMessage`]. So a few properties of Raft are not
//! checked. One of them is `matched_prefix ≤ last`: two leaders in one term would violate it, and only a faulty peer
//! can cause that.
//!
//! The invariants are not checked where a test breaks a rule on purpose: the simulator has to detect the damage that
//! follows from the broken rule, such as a lost write.

use super::quorum;
use super::replica::Replica;
use super::role::Role;
use crate::types::{Index, Mutants, NodeId};

/// Panics if an invariant is violated: the state can no longer be trusted.
///
/// The checks run once per message, so they take time in proportion to the number of members. Checks that scan a queue
/// or the log run in debug builds only.
pub fn check(me: &Replica, role: &Role) {
    if me.options.mutants != Mutants::NONE {
        return;
    }
    me.check_invariants(matches!(role, Role::Leader(_)));
    match role {
        Role::Follower(follower) => follower.check_invariants(me),
        Role::Candidate(candidate) => candidate.check_invariants(me),
        Role::Leader(leader) => leader.check_invariants(me),
    }
}

/// Panics if a quorum of the configuration in force has not voted for this node, which is about to lead (Election
/// Safety, §5.2).
///
/// The tally decides by weights, vetoes and unanimity. None of these may ever be enough without a majority, or two
/// majorities in a joint configuration.
pub fn check_election(me: &Replica, votes: &[NodeId]) {
    let has_quorum = quorum::decides(me.configs.current(), |id| votes.contains(&id));
    assert!(has_quorum || me.options.mutants != Mutants::NONE, "a leader has the votes of a quorum (§5.2)");
}

/// The commit index computed from its definition: the greatest index of this term that a quorum holds durably (§5.3,
/// §5.4.2). For tests: the leader's commit index must never be greater.
pub fn commit_by_definition(me: &Replica, role: &Role) -> Option<Index> {
    let Role::Leader(leader) = role else { return None };
    let has_durable_copy = |id: NodeId, index: Index| {
        if id == me.id {
            return me.log.durable() >= index;
        }
        leader.progress().get(&id).is_some_and(|progress| progress.counted_index() >= index)
    };
    let mut index = me.log.last().index;
    while index > me.log.base().index && me.log.term(index) == Some(me.term()) {
        if quorum::decides(me.configs.current(), |id| has_durable_copy(id, index)) {
            return Some(index);
        }
        index = index.prev();
    }
    None
}
