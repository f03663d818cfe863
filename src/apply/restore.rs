//! Restores an applier from a snapshot: builds it from the chunks of a serialized state, and checks it against the
//! header.

use super::applier::Applier;
use super::frozen_state::{Piece, StateHeader};
use crate::codec::Malformed;
use crate::machine::state_machine::StateMachine;

/// An applier that is being restored: the chunks of a serialized state are added to it in order.
#[derive(Debug)]
pub struct ApplierRestore<M> {
    applier: Applier<M>,
    /// Whether a chunk of the machine's state was added. No chunk of the sessions may follow it.
    has_machine_chunk: bool,
}

impl<M: StateMachine> Applier<M> {
    /// Begins to restore a snapshot into a new, empty applier. The new applier has the same kind of machine and the
    /// same options as this one.
    pub fn begin_restore(&self) -> ApplierRestore<M> {
        ApplierRestore { applier: self.empty(), has_machine_chunk: false }
    }
}

impl<M: StateMachine> ApplierRestore<M> {
    /// Adds the next chunk of the serialized state. After an error the restore has failed, and must be dropped.
    pub fn add(&mut self, chunk: &Piece) -> Result<(), Malformed> {
        match chunk {
            Piece::Sessions(_) if self.has_machine_chunk => {
                return Err(Malformed("sessions after the machine's state"));
            }
            Piece::Sessions(_) => {}
            Piece::Machine(_) => self.has_machine_chunk = true,
        }
        self.applier.restore(chunk)
    }

    /// Returns the applier, as if it had applied every entry up to `header.position`.
    ///
    /// # Errors
    ///
    /// If the digest is not the one in `header`: the snapshot is damaged.
    pub fn finish(mut self, header: &StateHeader) -> Result<Applier<M>, Malformed> {
        self.applier.finish_restore(header)?;
        Ok(self.applier)
    }
}
