//! The tally of one election or pre-election.
//!
//! A ballot only collects votes. Before the candidate records a vote, it decides from the voter's disk how the vote
//! counts ([`super::rules::election::voter_weight`]). The configuration at the time of the tally decides which voters
//! are needed.

use super::quorum;
use super::rules::membership::quorum_configuration;
use crate::types::{Membership, Mutant, Mutants, NodeId};
use std::collections::BTreeSet;

/// The voters that granted their vote or rejected the candidate, as sets of ids: a vote that arrives twice counts once.
#[derive(Clone, Debug, Default)]
pub struct Ballot {
    granting_voters: BTreeSet<NodeId>,
    /// The voters in `granting_voters` whose log does not name their disk: they may have lost all their entries.
    /// [`Ballot::is_won`] counts them only if every voter granted its vote.
    maybe_emptied_voters: BTreeSet<NodeId>,
    rejecting_voters: BTreeSet<NodeId>,
    votes_received: usize,
}

impl Ballot {
    /// Records the vote of a voter whose disk the configuration names.
    pub fn record_vote(&mut self, from: NodeId) {
        self.granting_voters.insert(from);
        self.votes_received += 1; // used only by the mutant `CountVotesTwice`
    }

    /// Records the vote of a voter that may have lost all its entries.
    pub fn record_empty_log_vote(&mut self, from: NodeId) {
        self.maybe_emptied_voters.insert(from);
        self.record_vote(from);
    }

    /// Records that a voter rejected the candidate. A vote that the same voter granted before still counts.
    pub fn record_rejection(&mut self, from: NodeId) {
        // A rejection revokes no vote: answers to two requests may arrive in any order, and a granted vote holds for
        // the term.
        self.rejecting_voters.insert(from);
    }

    /// Whether every voter of the configuration has granted its vote.
    pub fn is_unanimous(&self, membership: &Membership) -> bool {
        membership.all_voters().all(|id| self.granting_voters.contains(&id))
    }

    /// Whether `voter` has granted its vote or rejected the candidate.
    pub fn has_answered(&self, voter: NodeId) -> bool {
        self.granting_voters.contains(&voter) || self.rejecting_voters.contains(&voter)
    }

    /// Whether any voter has rejected the candidate. Before a log begins, one rejection is a veto, unless
    /// the operator forces the founding ([`super::founding`]).
    pub fn has_rejection(&self) -> bool {
        !self.rejecting_voters.is_empty()
    }

    /// Whether the candidate has won: a quorum of voters whose disks are named granted their votes, or all voters did.
    /// A voter whose disk was emptied may have held committed entries. Another voter that holds these entries rejects
    /// the candidate, but that voter may not have received the request.
    ///
    /// The votes of all voters are enough, even if some disks were emptied: if any disk still holds the committed
    /// entries, its voter rejects a candidate without them.
    pub fn is_won(&self, membership: &Membership, mutants: Mutants) -> bool {
        let deciding_configuration = quorum_configuration(membership, mutants);
        let has_granted_on_named_disk =
            |id: NodeId| self.granting_voters.contains(&id) && !self.maybe_emptied_voters.contains(&id);
        self.is_won_counting_empty_logs(membership, mutants)
            && (quorum::decides(&deciding_configuration, has_granted_on_named_disk) || self.is_unanimous(membership))
    }

    /// Whether a quorum granted its votes, counting also voters that may have lost all their entries. Only for the
    /// election that begins a log, in which no entry can be lost.
    pub fn is_won_counting_empty_logs(&self, membership: &Membership, mutants: Mutants) -> bool {
        if mutants.breaks(Mutant::CountVotesTwice) {
            return self.votes_received >= Membership::majority_of(membership.voters.len());
        }
        quorum::decides(&quorum_configuration(membership, mutants), |id| self.granting_voters.contains(&id))
    }

    /// Panics if an invariant of the ballot is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check_invariants(&self) {
        assert!(
            self.maybe_emptied_voters.is_subset(&self.granting_voters),
            "every voter in `maybe_emptied_voters` has granted its vote"
        );
    }

    /// The voters that granted their vote, ascending.
    pub fn granting_voters(&self) -> Vec<NodeId> {
        self.granting_voters.iter().copied().collect()
    }
}
