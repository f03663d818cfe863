//! The errors of a client's calls.

use crate::api::{Outcome, Refusal};
use crate::types::Position;
use std::fmt;
use std::time::Duration;

/// The error of a client's call.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No node accepted the request in time. Nothing was applied.
    #[error("{0}")]
    Refused(Tried),
    /// A node accepted the request, and no outcome arrived in time: it may have been applied, or may yet be.
    #[error("outcome unknown: {0}")]
    Unknown(Tried),
    /// The session expired after the command was sent: it was applied at most once, and the cluster no longer knows
    /// whether.
    #[error("outcome unknown: the session expired before the reply arrived")]
    SessionExpired,
    /// The cluster rejects this request for good. Nothing was applied.
    #[error("{0}")]
    Rejected(Refusal),
    /// The command or query was executed, and its answer is longer than
    /// [`ANSWER_BYTES_MAX`](crate::limits::ANSWER_BYTES_MAX), so it is not sent.
    #[error("executed as of {position}, but the answer is too long to send: request less at a time")]
    AnswerTooLong {
        /// The position of the command's entry, or of the last entry applied before a query.
        position: Position,
    },
    /// The cluster's reply does not match the request.
    #[error("the cluster sent an unexpected reply: {0:?}")]
    UnexpectedReply(Box<Outcome>),
}

/// The attempts of a call that failed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tried {
    /// The endpoints that were tried, each once, in the order of the first attempt.
    pub endpoints: Vec<String>,
    /// The duration of the call.
    pub took: Duration,
    /// The last refusal, if there was one.
    pub refusal: Option<Refusal>,
    /// The last connection error and its endpoint, if there was one.
    pub last_error: Option<String>,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.refusal, &self.last_error) {
            (Some(Refusal::NotLeader { .. }), _) => f.write_str("no leader was found"),
            (Some(refusal), _) => write!(f, "{refusal}"),
            (None, Some(trouble)) => f.write_str(trouble),
            (None, None) => f.write_str("no node was contacted in time"),
        }
    }
}

impl ClientError {
    /// The process exit code: 1 no (or executed without an answer to show), 2 never, 3 nothing was applied, 4 unknown,
    /// 70 a bug.
    pub fn exit_code(&self) -> i32 {
        match self {
            ClientError::Refused(_) => 3,
            ClientError::Unknown(_) | ClientError::SessionExpired => 4,
            ClientError::Rejected(Refusal::TooLarge { .. } | Refusal::Malformed) => 2,
            ClientError::Rejected(_) | ClientError::AnswerTooLong { .. } => 1,
            ClientError::UnexpectedReply(_) => 70,
        }
    }
}
