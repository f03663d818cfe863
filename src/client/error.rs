//! The errors of calls to a cluster: they differ in whether the request may have been applied.

use crate::api::{Outcome, Refusal};
use crate::types::Position;
use std::fmt;
use std::time::Duration;

/// Why a call to a cluster failed, and whether the request may have been applied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No node accepted the request in time. Nothing was applied.
    #[error("{0}")]
    Refused(FailedAttempts),
    /// A node accepted the request, and no outcome arrived in time: it may have been applied, or may yet be.
    #[error("outcome unknown: {0}")]
    Unknown(FailedAttempts),
    /// The session expired after the command was sent. The command was applied at most once, and the cluster no longer
    /// knows whether.
    #[error("outcome unknown: the session expired before the reply arrived")]
    SessionExpired,
    /// The cluster rejects this request, and would reject a retry too. Nothing was applied.
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

/// The attempts of a call that failed: what was tried, and the last causes of failure.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FailedAttempts {
    /// The endpoints that were tried, each once, in the order of the first attempt.
    pub endpoints: Vec<String>,
    /// The time from the start of the call to its failure.
    pub duration: Duration,
    /// The last refusal that a node sent; `None` if there was none.
    pub refusal: Option<Refusal>,
    /// The last connection error, after its endpoint; `None` if no connection failed.
    pub last_error: Option<String>,
}

impl fmt::Display for FailedAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.refusal, &self.last_error) {
            (Some(Refusal::NotLeader { .. }), _) => f.write_str("no leader was found"),
            (Some(refusal), _) => write!(f, "{refusal}"),
            (None, Some(error)) => f.write_str(error),
            (None, None) => f.write_str("no node was contacted in time"),
        }
    }
}

impl ClientError {
    /// The process exit code: 1 rejected, or executed without an answer to show; 2 invalid request; 3 nothing was
    /// applied; 4 unknown outcome; 70 a bug.
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
