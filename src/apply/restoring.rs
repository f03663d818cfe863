//! Restores an applier from a snapshot: the header of a frozen state, its pieces, and the applier that is built from
//! them.

use super::applier::Applier;
use crate::codec::Malformed;
use crate::machine::state_machine::StateMachine;
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

/// An applier under construction, to which pieces are added in order.
#[derive(Debug)]
pub struct ApplierRestore<M> {
    applier: Applier<M>,
    /// Whether a piece of the machine was added: no pieces of sessions may follow.
    machine: bool,
}

impl<M: StateMachine> ApplierRestore<M> {
    /// Starts with an applier that has applied nothing.
    pub(super) fn new(empty: Applier<M>) -> ApplierRestore<M> {
        ApplierRestore { applier: empty, machine: false }
    }

    /// Adds the next piece. After an error this value must not be used further.
    pub fn take(&mut self, piece: &Piece) -> Result<(), Malformed> {
        match piece {
            Piece::Sessions(_) if self.machine => return Err(Malformed("sessions after the machine's state")),
            Piece::Sessions(_) => {}
            Piece::Machine(_) => self.machine = true,
        }
        self.applier.restore(piece)
    }

    /// Returns the applier, as if it had applied every entry up to `head.position`.
    ///
    /// # Errors
    ///
    /// If the digest is not the one that `head` names: the snapshot is damaged.
    pub fn finish(mut self, head: &StateHeader) -> Result<Applier<M>, Malformed> {
        self.applier.restored(head)?;
        Ok(self.applier)
    }
}
