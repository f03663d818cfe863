//! One election's tally, or one pre-election's.

use super::quorum;
use crate::types::{Membership, Mutant, Mutants, NodeId};
use std::collections::BTreeSet;

/// Who has said yes. A set of ids, so that a vote that arrives twice is one vote.
#[derive(Clone, Debug, Default)]
pub struct Ballot {
    yes: BTreeSet<NodeId>,
    arrived: usize,
}

impl Ballot {
    /// One more has said yes.
    pub fn yes(&mut self, from: NodeId) {
        self.yes.insert(from);
        self.arrived += 1; // read by a mutant alone
    }

    /// Whether they decide.
    pub fn is_won(&self, membership: &Membership, mutants: Mutants) -> bool {
        if mutants.breaks(Mutant::CountVotesTwice) {
            return self.arrived >= Membership::majority_of(membership.voters.len());
        }
        quorum::decides(membership, |id| self.yes.contains(&id))
    }

    /// Those who said yes.
    pub fn voters(&self) -> Vec<NodeId> {
        self.yes.iter().copied().collect()
    }
}
