//! A frozen state as it leaves an applier and enters another: its header and its pieces.

use crate::types::{ClusterTime, Position};
use bytes::Bytes;

/// The header of a frozen state, by which a restored state is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateHeader {
    /// The last applied entry.
    pub position: Position,
    /// Its cluster time.
    pub time: ClusterTime,
    /// The digest of machine and sessions.
    pub digest: u64,
    /// Number of open sessions.
    pub sessions: u64,
}

/// A piece of a frozen state. The pieces of the sessions come first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Part of the sessions.
    Sessions(Bytes),
    /// Part of the machine.
    Machine(Bytes),
}
