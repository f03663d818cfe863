//! The error of a connection whose other side violates the protocol, or rejects the connection.

use super::reason::HelloRejection;
use crate::codec::Malformed;
use crate::types::Versions;

/// A violation of the protocol by the other side, or its rejection of the connection. Only this connection closes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// A frame is longer than its limit, or the pieces of one frame together are.
    #[error("a frame has {length} bytes; the limit is {limit}")]
    TooLong {
        /// The length of the frame in bytes, as announced or received so far.
        length: u64,
        /// The maximum length in bytes.
        limit: u64,
    },
    /// The checksum of a frame does not match its bytes.
    #[error("the checksum of a frame does not match")]
    ChecksumMismatch,
    /// A piece of a long frame does not continue the frame that is being reassembled, or its flags are invalid.
    #[error("a piece of a frame is out of sequence")]
    PieceOutOfSequence,
    /// A frame has an unknown kind, or one that is not allowed at this point; the number is the byte of the kind.
    #[error("a frame of kind {0} is not allowed here")]
    UnexpectedFrameKind(u8),
    /// The content of a frame cannot be decoded.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The other side rejected the connection, because it supports only these versions of the protocol.
    #[error("refused: {}", version_mismatch_text(*.min, *.max))]
    NoCommonVersion {
        /// The oldest version that the other side accepts.
        min: u16,
        /// The newest version that the other side supports.
        max: u16,
    },
    /// The other side rejected the connection.
    #[error("refused: {0}")]
    Refused(HelloRejection),
}

/// Describes the versions of a node that has no common version with this program, with advice.
fn version_mismatch_text(min: u16, max: u16) -> String {
    let own_max = Versions::CURRENT.protocol_max;
    let older_side = if min > own_max { "this program" } else { "it" };
    format!(
        "the other side supports versions {min} to {max} of the protocol, and this program up to {own_max}: {older_side} \
         is older: upgrade it"
    )
}
