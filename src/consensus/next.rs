//! The change of role that a role requests from [`Raft`](super::Raft).

use super::message::VoteKind;
use super::note::{CampaignReason, StepDownReason};

/// The change of role that the current role requests after it has handled an event. Only [`Raft`](super::Raft) makes
/// the change.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextRole {
    /// The role does not change.
    Stay,
    /// Become a candidate and request this kind of vote (§5.2).
    Campaign(VoteKind, CampaignReason),
    /// Become the leader of the current term: the candidate has won.
    Lead,
    /// Become a follower without a leader, for this reason.
    StepDown(StepDownReason),
}
