//! A frozen state on its way: what it is called, in which pieces it is told, and how it comes back.

use super::applier::Applier;
use crate::codec::Malformed;
use crate::machine::state_machine::StateMachine;
use crate::types::{ClusterTime, Position};
use bytes::Bytes;

/// What was frozen, and how to tell whether it came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateHeader {
    /// The last entry applied.
    pub position: Position,
    /// The cluster's time in it.
    pub time: ClusterTime,
    /// The digest of machine and sessions.
    pub digest: u64,
    /// How many sessions there were.
    pub sessions: u64,
}

/// A piece of a frozen state. The sessions come first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Of the sessions.
    Sessions(Bytes),
    /// Of the machine.
    Machine(Bytes),
}

/// An applier in the making: fed with pieces, in order.
#[derive(Debug)]
pub struct Restoring<M> {
    applier: Applier<M>,
    /// A piece of the machine has come: no more sessions may.
    machine: bool,
}

impl<M: StateMachine> Restoring<M> {
    /// Begins with an applier that has applied nothing.
    pub(super) fn new(empty: Applier<M>) -> Restoring<M> {
        Restoring { applier: empty, machine: false }
    }

    /// Takes in the next piece. After an error it is of no more use.
    pub fn take(&mut self, piece: &Piece) -> Result<(), Malformed> {
        match piece {
            Piece::Sessions(_) if self.machine => return Err(Malformed("sessions behind the machine")),
            Piece::Sessions(_) => {}
            Piece::Machine(_) => self.machine = true,
        }
        self.applier.restore(piece)
    }

    /// The applier, as if it had applied every entry up to that head's. What does not lead to the
    /// digest that the head names is damage.
    pub fn finish(mut self, head: &StateHeader) -> Result<Applier<M>, Malformed> {
        self.applier.restored(head)?;
        Ok(self.applier)
    }
}
