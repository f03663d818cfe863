//! Invariants of the journal that hold after every step, as `consensus/invariants.rs` has those of the core.
//!
//! All of them are about what this process did: which bytes it wrote, and which of them a sync has covered. None is
//! about bytes that were read from a disk. Those are validated by [`super::recover`], and a disk that returns nonsense
//! ends in a [`super::Fault`], never in a panic.
//!
//! The checks run in release builds too. A violation means that a later sync may be reported for bytes that it did not
//! cover, and the node would then acknowledge what a power loss takes away. A panic of the log thread only stops this
//! node: the other members continue, and a restart recovers from what is really on the disk.

use super::journal::Journal;
use crate::disk::Disk;

impl<D: Disk> Journal<D> {
    /// Panics if an invariant is violated: what this journal calls durable can no longer be trusted.
    ///
    /// A poisoned journal is exempt. The failed step left it between two states, for example with a batch in the file
    /// that no sync has covered, and no later call touches it.
    pub(super) fn check(&self) {
        if self.poisoned {
            return;
        }
        // As a pair, segment first: a later segment is begun only after all before it was synced.
        let end = (self.segment.number, self.segment.written);
        // The next batch header and the sync marker state this offset, and recovery calls anything missing before it
        // lost.
        assert!(self.synced <= end, "only bytes that were written are synced");
        // A sync of a clean journal returns without one. So whatever still needs a sync must have made it dirty.
        assert!(!self.open || self.dirty, "an unfinished batch is not yet synced");
        assert!(self.segment.waiting() == 0 || self.dirty, "frames in the buffer are not yet synced");
        // The other direction: nothing is left that the last report claimed and that no sync has covered.
        assert!(self.dirty || self.synced == end, "a clean journal is synced up to its last byte");
        // Between the log's sync and the marker's, only the log has the new vote. No call ends there.
        assert!(
            self.dirty || self.mirrored == Some(self.summary.hard),
            "a durable term and vote are in the sync marker too (§5.2: one vote a term, also with a damaged log)"
        );
        // A gap would be found by the next start, and called a lost segment.
        assert!(
            self.older.back().is_none_or(|older| older.number + 1 == self.segment.number),
            "the segment being written follows the newest sealed one"
        );
        debug_assert!(
            self.older.iter().zip(self.older.iter().skip(1)).all(|(one, next)| one.number + 1 == next.number),
            "segments are released oldest first, so the sealed ones leave no gap"
        );
        self.segment.check();
    }
}
