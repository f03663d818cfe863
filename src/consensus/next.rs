//! The next role that a role requests.

use super::message::VoteKind;
use super::note::{Reason, StepDown};

/// The next role that a role requests. Only [`Raft`](super::Raft) changes the role.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// No change.
    Stay,
    /// A candidate (§5.2).
    Campaign(VoteKind, Reason),
    /// The leader of its term.
    Lead,
    /// A follower without a leader, for this reason.
    StepDown(StepDown),
}
