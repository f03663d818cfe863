//! What a role wants to become.

use super::message::VoteKind;
use super::note::{Reason, StepDown};

/// What a role wants to become. Roles say it; only the spine does it.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// What it is.
    Stay,
    /// A candidate (§5.2).
    Campaign(VoteKind, Reason),
    /// The leader of its term.
    Lead,
    /// A follower of nobody in particular, for this reason.
    StepDown(StepDown),
}
