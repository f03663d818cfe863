//! The invariants of the journal, which hold after every call, like those of the Raft core in
//! `consensus/invariants.rs`.
//!
//! All of them are about the bytes that this process wrote, and about which of them a sync has covered. None is about
//! bytes that were read from a disk. [`super::recover`] validates those, and invalid bytes lead to a [`super::Fault`],
//! never to a panic.
//!
//! The checks run in release builds too. A violation means that a sync may be reported for bytes that it did not cover,
//! and the node would then acknowledge entries that a power loss destroys. A panic of the log thread only stops this
//! node: the other members continue, and a restart recovers from what is really on the disk.

use super::journal::Journal;
use crate::disk::Disk;

impl<D: Disk> Journal<D> {
    /// Panics if an invariant is violated: the bytes that this journal reports as durable may then not be durable.
    ///
    /// A poisoned journal is exempt. The failed call left the journal between two states, for example with a batch in
    /// the file that no sync has covered, and every later call is rejected.
    pub(super) fn check_invariants(&self) {
        if self.poisoned {
            return;
        }
        // Ends are compared as pairs of segment number and offset: a segment begins only after all earlier segments
        // were synced.
        let written_end = (self.segment.number, self.segment.written_end);
        // The next batch header and the sync marker state the synced end. Recovery treats a missing byte before it as
        // lost data.
        assert!(self.synced_end <= written_end, "the synced end is not after the written end");
        // `sync` does nothing on a clean journal, so unsynced bytes must have made the journal dirty.
        assert!(!self.batch_open || self.dirty, "a journal with an unfinished batch is dirty");
        assert!(self.segment.buffered_bytes() == 0 || self.dirty, "a journal with frames in its buffer is dirty");
        // `sync` on a clean journal reports every write as durable, so a clean journal has no unsynced byte.
        assert!(self.dirty || self.synced_end == written_end, "a clean journal is synced up to its last byte");
        // Between the log's sync and the marker's sync, only the log has the new vote. No call returns between the two.
        assert!(
            self.dirty || self.marker_hard_state == Some(self.summary.hard_state),
            "a durable term and vote are in the sync marker too (§5.2: one vote a term, also with a damaged log)"
        );
        // The next start would report a gap in the segment numbers as a lost segment.
        assert!(
            self.older_segments.back().is_none_or(|older| older.number + 1 == self.segment.number),
            "the number of the segment being written follows that of the newest sealed segment"
        );
        debug_assert!(
            self.older_segments
                .iter()
                .zip(self.older_segments.iter().skip(1))
                .all(|(one, next)| one.number + 1 == next.number),
            "the numbers of the sealed segments have no gap"
        );
        self.segment.check_invariants();
    }
}
