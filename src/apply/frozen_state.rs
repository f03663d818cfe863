//! The serialized form of a frozen state, from which another applier is restored: its header and its chunks.

use crate::types::{ClusterTime, Position};
use bytes::Bytes;

/// The header of a frozen state, by which a restored state is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateHeader {
    /// The position of the last entry applied to the state.
    pub position: Position,
    /// The cluster time of the last entry applied to the state.
    pub time: ClusterTime,
    /// The digest of machine and sessions, which the restored state must have.
    pub digest: u64,
    /// Number of open sessions, which the restored state must have.
    pub sessions: u64,
    /// The feature level of the cluster at `position`.
    pub feature_level: u16,
}

/// A chunk of a serialized frozen state. All chunks of the sessions come before those of the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Serialized sessions, and their stored answers.
    Sessions(Bytes),
    /// A chunk of the machine's own serialization.
    Machine(Bytes),
}
