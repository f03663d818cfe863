//! One election's tally, or one pre-election's.

use super::quorum;
use crate::types::{Membership, Mutant, Mutants, NodeId};
use std::collections::BTreeSet;

/// Who has said yes. A set of ids, so that a vote that arrives twice is one vote.
#[derive(Clone, Debug, Default)]
pub struct Ballot {
    yes: BTreeSet<NodeId>,
    /// Those of them who hold nothing, and may have lost everything.
    void: BTreeSet<NodeId>,
    no: BTreeSet<NodeId>,
    arrived: usize,
}

impl Ballot {
    /// One more has said yes.
    pub fn record_vote(&mut self, from: NodeId) {
        self.yes.insert(from);
        self.arrived += 1; // read by a mutant alone
    }

    /// One more has said yes, who holds nothing.
    pub fn record_empty_log_vote(&mut self, from: NodeId) {
        self.void.insert(from);
        self.record_vote(from);
    }

    /// One more has said no.
    pub fn record_rejection(&mut self, from: NodeId) {
        self.no.insert(from);
    }

    /// Whether everyone has said yes.
    pub fn is_unanimous(&self, membership: &Membership) -> bool {
        membership.all_voters().all(|id| self.yes.contains(&id))
    }

    /// Whether that voter has said yes or no.
    pub fn has_answered(&self, voter: NodeId) -> bool {
        self.yes.contains(&voter) || self.no.contains(&voter)
    }

    /// Whether anyone has said no.
    pub fn is_denied(&self) -> bool {
        !self.no.is_empty()
    }

    /// Whether those who hold something decide, or everyone says yes. Whoever was emptied may have held what
    /// was committed: then another that holds it says no, unless it is not asked.
    pub fn is_won(&self, membership: &Membership, mutants: Mutants) -> bool {
        let counted = quorum::counted(membership, mutants);
        let firm = |id: NodeId| self.yes.contains(&id) && !self.void.contains(&id);
        self.is_won_among_void(membership, mutants)
            && (quorum::decides(&counted, firm) || self.is_unanimous(membership))
    }

    /// Whether they decide, whatever they hold: for a log that is to begin.
    pub fn is_won_among_void(&self, membership: &Membership, mutants: Mutants) -> bool {
        if mutants.breaks(Mutant::CountVotesTwice) {
            return self.arrived >= Membership::majority_of(membership.voters.len());
        }
        quorum::decides(&quorum::counted(membership, mutants), |id| self.yes.contains(&id))
    }

    /// Those who said yes.
    pub fn voters(&self) -> Vec<NodeId> {
        self.yes.iter().copied().collect()
    }
}
