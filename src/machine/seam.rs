//! One of the two places where worlds differ: what committed commands are applied to.

use crate::types::{ClusterTime, Index};
use bytes::Bytes;

/// What a command may know besides itself: the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The index of the entry that holds the command.
    pub index: Index,
    /// The cluster's clock in that entry.
    pub time: ClusterTime,
}

/// A deterministic machine: the same commands in the same order leave the same state and give the
/// same answers, on every node. No clock, chance, address or order of a hash map may enter it.
///
/// Exactly-once is not its concern: sessions stand around it, and each command reaches it once.
pub trait StateMachine: Send + 'static {
    /// Applies a committed command and answers it. Cannot fail: what fails the same everywhere is
    /// an answer, and what does not must panic.
    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes;

    /// These commands will be applied next, in this order. Changes nothing: a machine that is larger
    /// than the processor's caches may look at what they concern, for all of them at once, and so wait
    /// for memory once and not for each.
    fn expect(&self, _commands: &mut dyn Iterator<Item = &[u8]>) {}

    /// Answers a question and changes nothing.
    fn query(&self, query: &[u8]) -> Bytes;

    /// A digest of the state: equal on two nodes that applied the same commands. Asked after every
    /// batch, so it must be quick: keep it up to date while applying.
    fn digest(&self) -> u64;
}
