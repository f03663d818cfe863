//! What the checks know of one node: the contents of its disk, and its claims about them.

use crate::types::{Entry, HardState, Index, Membership, Position, Term, Write};

/// An entry's term and checksum: all that is compared when two logs are compared.
pub type Stamp = (Term, u32);

/// The contents of one disk, or those it would have if all its writes arrived.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    /// Term and vote.
    pub hard_state: HardState,
    /// The index up to which the log was discarded. The image in [`NodeHistory`] keeps the whole log all the same.
    pub base: Index,
    /// Each entry's term and checksum.
    pub log: Vec<Stamp>,
}

impl Image {
    /// Applies a write to this image.
    pub(super) fn apply(&mut self, write: &Write, ledger: &[Stamp]) {
        self.restart(write, ledger);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        for entry in &write.entries {
            self.put(entry);
        }
    }

    /// A snapshot replaces the log: by the committed entries that it covers.
    pub(super) fn restart(&mut self, write: &Write, ledger: &[Stamp]) {
        if let Some(base) = &write.base {
            self.log = ledger[..base.position.index.0 as usize].to_vec();
        }
    }

    pub(super) fn put(&mut self, entry: &Entry) {
        self.log.truncate(entry.position.index.0 as usize - 1);
        self.log.push((entry.position.term, entry.checksum));
    }
}

/// A node's claims about its disk, in messages that have left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Claims {
    /// The highest term in which it sent a message.
    pub(super) term: Term,
    /// The highest position that it claimed to hold.
    pub(super) position: Position,
}

impl Claims {
    pub(super) fn covers(&self, other: &Claims) -> bool {
        self.term >= other.term && self.position >= other.position
    }
}

/// One node, through all its lives (one for each process start).
#[derive(Clone, Debug, Default)]
pub struct NodeHistory {
    /// The certain contents of the disk.
    pub(super) durable: Image,
    /// Writes that are not synced yet, in order.
    pub(super) unsynced: Vec<Write>,
    /// The durable image with all unsynced writes applied.
    pub(super) seen: Image,
    pub(super) commit: Index,
    pub(super) leads: Option<Term>,
    /// The configuration it used at the last check. It commits by that one, and may adopt another in the same step.
    pub(super) used: (Index, Membership),
    /// The contents of its disk before it was emptied, or before an older copy was restored, until the disk holds as
    /// much again.
    pub(super) ghost: Option<Image>,
    /// Its claims in all its lives on this disk.
    pub(super) claims: Claims,
    /// The part of these claims that peers have reported back to it since an older copy of its disk was restored.
    pub(super) told: Option<Claims>,
    /// A sync that the disk reported as done and did not do, with the disk's certain contents.
    pub(super) lie: Option<FalseSync>,
}

/// A sync that a disk reported as done and did not do. A power loss may take everything written since.
#[derive(Clone, Debug)]
pub(super) struct FalseSync {
    /// The contents of the disk before.
    pub(super) held: Image,
    /// The writes reported as synced since.
    pub(super) since: Vec<Write>,
    /// Whether the power was lost since.
    pub(super) power: bool,
}
