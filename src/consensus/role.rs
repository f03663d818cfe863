//! What a node does this term.

use super::candidate::Candidate;
use super::follower::Follower;
use super::leader::Leader;

/// What a node does this term (Figure 4).
#[derive(Clone, Debug)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower(Follower),
    /// Asks to be elected, or whether it would be.
    Candidate(Candidate),
    /// Leads.
    Leader(Leader),
}
