//! Restores an applier from a snapshot: builds it from the pieces of a frozen state, and checks it against the header.

use super::applier::Applier;
use super::frozen_state::{Piece, StateHeader};
use crate::codec::Malformed;
use crate::machine::state_machine::StateMachine;

/// An applier under construction, to which pieces are added in order.
#[derive(Debug)]
pub struct ApplierRestore<M> {
    applier: Applier<M>,
    /// Whether a piece of the machine was added: no pieces of sessions may follow.
    machine: bool,
}

impl<M: StateMachine> Applier<M> {
    /// Creates an empty applier of the same kind, to be restored from a snapshot.
    pub fn restoring(&self) -> ApplierRestore<M> {
        ApplierRestore { applier: self.empty(), machine: false }
    }
}

impl<M: StateMachine> ApplierRestore<M> {
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
