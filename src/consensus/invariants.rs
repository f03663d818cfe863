//! Invariants that hold after every step, each with its section of the paper.
//!
//! [`super::raft::Raft`] calls [`check`] at the end of every entry point that changes the state. A violated invariant
//! is an error in this program, and what the node would send or write next can no longer be trusted: it stops, and the
//! other nodes go on. A failed node costs availability, and a wrong acknowledgment costs data.
//!
//! An invariant speaks of this node's own state. Nothing that a peer, a client or a disk can send may violate one: such
//! input is rejected where it arrives, mostly with a [`super::note::Note::InvalidMessage`]. So a few laws of Raft are
//! missing on purpose. `matched_prefix ≤ last` is one of them: two leaders in one term, which only a peer that broke
//! its promises can cause, would violate it.
//!
//! They are not checked where a test breaks a rule on purpose: the simulator has to see the damage that follows from
//! the broken rule, such as a lost write, and not the first sign of it.

use super::quorum;
use super::replica::Replica;
use super::role::Role;
use crate::types::{Index, Mutants, NodeId};

/// Panics if an invariant is violated: the state can no longer be trusted.
///
/// It takes time in proportion to the members, because it runs once per message. Whatever goes through a queue or the
/// log is checked in debug builds only.
pub fn check(me: &Replica, role: &Role) {
    if me.options.mutants != Mutants::NONE {
        return;
    }
    me.check(matches!(role, Role::Leader(_)));
    match role {
        Role::Follower(follower) => follower.check(me),
        Role::Candidate(candidate) => candidate.check(me),
        Role::Leader(leader) => leader.check(me),
    }
}

/// Panics if a quorum of the configuration in force has not voted for this node, which is about to lead (Election
/// Safety, §5.2).
///
/// The tally has decided the same; it does so by weights, vetoes and unanimity, and none of these may ever be enough
/// without a majority, or two majorities in a joint configuration.
pub fn check_election(me: &Replica, votes: &[NodeId]) {
    let elected = quorum::decides(me.configs.current(), |id| votes.contains(&id));
    assert!(elected || me.options.mutants != Mutants::NONE, "a leader has the votes of a quorum (§5.2)");
}

/// The commit index computed from its definition: the greatest index of this term that a quorum holds durably (§5.3,
/// §5.4.2). For tests: the leader's commit index must never be greater.
pub fn commit_by_definition(me: &Replica, role: &Role) -> Option<Index> {
    let Role::Leader(leader) = role else { return None };
    let holds = |id: NodeId, index: Index| {
        if id == me.id {
            return me.log.durable() >= index;
        }
        leader.progress().get(&id).is_some_and(|progress| progress.counted() >= index)
    };
    let mut index = me.log.last().index;
    while index > me.log.base().index && me.log.term(index) == Some(me.term()) {
        if quorum::decides(me.configs.current(), |id| holds(id, index)) {
            return Some(index);
        }
        index = index.prev();
    }
    None
}
