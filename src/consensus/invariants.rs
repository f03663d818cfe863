//! Invariants that hold after every step, each with its section of the paper.

use super::progress::ProgressState;
use super::quorum;
use super::replica::Replica;
use super::role::Role;
use crate::types::{Index, NodeId};

/// Panics if an invariant is violated: the state can no longer be trusted.
pub fn check(me: &Replica, role: &Role) {
    let log = &me.log;
    let last = log.last();
    assert!(log.base().index <= log.commit(), "the base is committed");
    assert!(log.commit() <= last.index, "every committed entry is in the log");
    assert!(log.durable() <= last.index, "every durable entry is in the log");
    assert!(last.term <= me.term(), "no entry has a later term than the node that holds it (§5.1)");
    match role {
        Role::Follower(_) => {}
        Role::Candidate(candidate) => {
            if candidate.ask().is_real() {
                assert_eq!(me.vote(), Some(me.candidate()), "a candidate votes for itself (§5.2)");
            }
        }
        Role::Leader(leader) => {
            assert_eq!(me.vote(), Some(me.candidate()), "a leader has voted for itself (§5.2)");
            for progress in leader.progress().values() {
                let ordered = progress.matched <= progress.agreed && progress.agreed < progress.next;
                assert!(ordered, "matched entries agree, and agreeing entries are not sent again");
                assert!(progress.matched <= last.index, "a follower's matched index is in the leader's log");
                assert!(progress.next <= last.index.next(), "only entries of the log are sent");
                assert!(
                    progress.stage == ProgressState::Stream || progress.in_flight.is_empty(),
                    "a probe has nothing else in flight"
                );
            }
        }
    }
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
