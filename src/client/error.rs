//! What a caller learns when it does not get what it asked for.

use crate::api::{Outcome, Refusal};
use crate::types::Position;
use std::fmt;
use std::time::Duration;

/// What a caller learns when it does not get what it asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody took it on in time. Nothing was applied.
    #[error("{0}")]
    Refused(Tried),
    /// It was taken on, and nobody said in time what became of it: it may have been applied, or be yet.
    #[error("outcome unknown: {0}")]
    Unknown(Tried),
    /// The session lapsed after the command was sent: it was applied at most once, and nobody
    /// remembers whether.
    #[error("outcome unknown: the session lapsed before it was told")]
    SessionExpired,
    /// The cluster will not do this, however often it is asked. Nothing was applied.
    #[error("{0}")]
    Never(Refusal),
    /// The command was executed, or the query was, and the answer is longer than
    /// [`ANSWER_BYTES_MAX`](crate::limits::ANSWER_BYTES_MAX): nobody is told it.
    #[error("it was executed as of {position}, and its answer is too long to be told: ask for less at a time")]
    AnswerTooLong {
        /// The position of the command's entry; of the last entry applied, for a query.
        position: Position,
    },
    /// The cluster answered what makes no sense to this client.
    #[error("the cluster answered out of turn: {0:?}")]
    Strange(Box<Outcome>),
}

/// What was tried before giving up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tried {
    /// The endpoints that were asked, each once, in the order of their first time.
    pub endpoints: Vec<String>,
    /// For how long.
    pub took: Duration,
    /// The last refusal, if there was one.
    pub refusal: Option<Refusal>,
    /// The last trouble with a connection, and with which, if there was one.
    pub trouble: Option<String>,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.refusal, &self.trouble) {
            (Some(Refusal::NotLeader { .. }), _) => f.write_str("no leader was found"),
            (Some(refusal), _) => write!(f, "{refusal}"),
            (None, Some(trouble)) => f.write_str(trouble),
            (None, None) => f.write_str("no node was asked in time"),
        }
    }
}

impl ClientError {
    /// The exit code for it: 1 no (or: done, and no answer to show), 2 never, 3 nothing was applied, 4 unknown, 70 a bug.
    pub fn exit_code(&self) -> i32 {
        match self {
            ClientError::Refused(_) => 3,
            ClientError::Unknown(_) | ClientError::SessionExpired => 4,
            ClientError::Never(Refusal::TooLarge { .. } | Refusal::Malformed) => 2,
            ClientError::Never(_) | ClientError::AnswerTooLong { .. } => 1,
            ClientError::Strange(_) => 70,
        }
    }
}
