//! A violation of the protocol by the other side. It closes the connection, and has no other effect.

use super::reason::Reason;
use crate::codec::Malformed;

/// A violation of the protocol by the other side. It closes the connection, and has no other effect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// A frame, or the sum of its pieces, exceeds its limit.
    #[error("a frame has {length} bytes; the limit is {limit}")]
    TooLong {
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes are corrupt.
    #[error("the checksum of a frame does not match")]
    Checksum,
    /// A piece does not continue the frame in progress, or its flags are invalid.
    #[error("a piece of a frame is out of sequence")]
    OutOfPlace,
    /// A kind that is unknown, or not allowed here.
    #[error("a frame of kind {0} is not allowed here")]
    Kind(u8),
    /// The content cannot be decoded.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The other side rejected the connection.
    #[error("refused: {0}")]
    Refused(Reason),
}
