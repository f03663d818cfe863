//! The tally of one election or pre-election.
//!
//! It only collects. What a vote weighs is decided by its sender's disk before it comes here
//! ([`super::rules::election::voter_weight`]), and which voters are needed by the configuration at the time of the
//! question.

use super::quorum;
use super::rules::membership::counted;
use crate::types::{Membership, Mutant, Mutants, NodeId};
use std::collections::BTreeSet;

/// The votes granted and rejected. A set of ids, so that a vote that arrives twice counts once.
#[derive(Clone, Debug, Default)]
pub struct Ballot {
    yes: BTreeSet<NodeId>,
    /// Voters in `yes` that hold nothing, and may have lost everything.
    // They are in `yes` too, and taken out again where only voters that hold something may decide.
    void: BTreeSet<NodeId>,
    no: BTreeSet<NodeId>,
    arrived: usize,
}

impl Ballot {
    /// Records a granted vote.
    pub fn record_vote(&mut self, from: NodeId) {
        self.yes.insert(from);
        self.arrived += 1; // read by a mutant alone
    }

    /// Records a vote granted by a voter that holds nothing.
    pub fn record_empty_log_vote(&mut self, from: NodeId) {
        self.void.insert(from);
        self.record_vote(from);
    }

    /// Records a rejection.
    pub fn record_rejection(&mut self, from: NodeId) {
        // It takes no vote back: answers to two requests may arrive in any order, and a vote once granted holds for the
        // term.
        self.no.insert(from);
    }

    /// Whether all voters have granted their vote.
    pub fn is_unanimous(&self, membership: &Membership) -> bool {
        membership.all_voters().all(|id| self.yes.contains(&id))
    }

    /// Whether that voter has granted or rejected.
    pub fn has_answered(&self, voter: NodeId) -> bool {
        self.yes.contains(&voter) || self.no.contains(&voter)
    }

    /// Whether any voter has rejected.
    pub fn is_denied(&self) -> bool {
        !self.no.is_empty()
    }

    /// Whether voters that hold something decide, or all voters granted their vote. A voter that was emptied may have
    /// held committed entries: another voter that holds them then rejects, unless it gets no request.
    ///
    /// All voters are enough, emptied or not: one of them holds what was committed, if any disk still does, and would
    /// reject a candidate without it.
    pub fn is_won(&self, membership: &Membership, mutants: Mutants) -> bool {
        let counted = counted(membership, mutants);
        let firm = |id: NodeId| self.yes.contains(&id) && !self.void.contains(&id);
        self.is_won_among_void(membership, mutants)
            && (quorum::decides(&counted, firm) || self.is_unanimous(membership))
    }

    /// Whether the granted votes decide, whatever the voters hold: for a log that is to begin.
    pub fn is_won_among_void(&self, membership: &Membership, mutants: Mutants) -> bool {
        if mutants.breaks(Mutant::CountVotesTwice) {
            return self.arrived >= Membership::majority_of(membership.voters.len());
        }
        quorum::decides(&counted(membership, mutants), |id| self.yes.contains(&id))
    }

    /// Panics if an invariant of the ballot is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check(&self) {
        assert!(self.void.is_subset(&self.yes), "the vote of an empty founder is a granted vote");
    }

    /// The voters that granted their vote.
    pub fn voters(&self) -> Vec<NodeId> {
        self.yes.iter().copied().collect()
    }
}
