//! The other side broke the protocol. Its connection is closed, and nothing else happens.

use super::reason::Reason;
use crate::codec::Malformed;

/// The other side broke the protocol. Its connection is closed, and nothing else happens.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// A frame, or the pieces of one, beyond what may be.
    #[error("a frame of {length} bytes; at most {limit} are allowed")]
    TooLong {
        /// What it says.
        length: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The bytes are not those that were sent.
    #[error("a frame whose checksum is wrong")]
    Checksum,
    /// A piece that does not continue what was begun, or flags that mean nothing.
    #[error("a piece of a frame out of place")]
    OutOfPlace,
    /// A kind that is not known, or not allowed here.
    #[error("a frame of kind {0}, which may not come here")]
    Kind(u8),
    /// The content does not say what it should.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The other side does not want us.
    #[error("refused: {0}")]
    Refused(Reason),
}
