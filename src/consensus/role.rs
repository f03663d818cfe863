//! The role of a node in its term.

use super::candidate::Candidate;
use super::follower::Follower;
use super::leader::Leader;

/// The role of a node in its term (Figure 4).
#[derive(Clone, Debug)]
pub enum Role {
    /// Follows a leader, or waits for an election.
    Follower(Follower),
    /// Requests pre-votes or votes.
    Candidate(Candidate),
    /// Leads its term, elected by a quorum.
    Leader(Leader),
}
