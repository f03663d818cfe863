//! Disk room: the free space for log entries on each node's disk, by which a leader decides which entries it may
//! append.
//!
//! A refused command is better than an entry that fits on no majority of disks: such an entry can be neither committed
//! nor removed, and every later entry waits, even an entry that would free space. So a leader accepts only entries that
//! fit on a majority of disks.

use super::log::Log;
use crate::limits::ENTRY_OVERHEAD_BYTES_MAX;
use crate::types::Index;

/// A disk with at least this many free bytes counts as ample: no cluster writes as much between two heartbeats.
const AMPLE_BYTES: u64 = 4 << 30;

/// The room for log entries on a node's disk, as the node reported it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskRoom {
    /// Whether the free space is too low for a leader: as leader the node would refuse writes.
    pub is_low: bool,
    /// How many more bytes the log can hold after `counted_after`, including all reserved space.
    pub free_bytes: u64,
    /// The node's durable index when it reported `free_bytes`: the entries after this index have to fit in these bytes.
    pub counted_after: Index,
}

impl DiskRoom {
    /// The room assumed for a node that has not reported yet: unlimited.
    pub const AMPLE: DiskRoom = DiskRoom { is_low: false, free_bytes: u64::MAX, counted_after: Index::ZERO };

    /// Whether there is so much free space that the sizes of entries need not be summed.
    pub fn is_ample(&self) -> bool {
        self.free_bytes >= AMPLE_BYTES
    }

    /// Whether the entries that the node lacks, up to `upto`, and `new_bytes` further bytes fit on its disk with
    /// `bytes_kept_free` bytes left over.
    pub fn fits(&self, log: &Log, upto: Index, new_bytes: u64, bytes_kept_free: u64) -> bool {
        if self.is_ample() {
            return true;
        }
        let counted_after = self.counted_after.max(log.base().index).min(upto);
        let overhead_bytes = (upto.0 - counted_after.0 + 1) * ENTRY_OVERHEAD_BYTES_MAX;
        log.bytes(counted_after, upto)
            .saturating_add(overhead_bytes)
            .saturating_add(new_bytes)
            .saturating_add(bytes_kept_free)
            <= self.free_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Position, Term};

    #[test]
    fn disk_room_counts_only_entries_that_the_node_lacks() {
        let mut log = Log::new(Position::ZERO);
        (0..10).for_each(|_| _ = log.append(Term(1), 1000));
        let room = |free_bytes, after| DiskRoom { is_low: false, free_bytes, counted_after: Index(after) };
        assert!(room(5 * 1064 + 564, 5).fits(&log, Index(10), 500, 0));
        assert!(!room(5 * 1064 + 563, 5).fits(&log, Index(10), 500, 0));
        assert!(!room(5 * 1064 + 564, 5).fits(&log, Index(10), 500, 1));
        assert!(!room(5 * 1064 + 564, 4).fits(&log, Index(10), 500, 0));
        // The node's durable index, 12, is beyond the end of this log: the node lacks none of its entries.
        assert!(room(564, 12).fits(&log, Index(10), 500, 0));
        log.advance_durable(Index(10));
        log.commit_to(Index(10));
        log.compact(Index(8));
        assert!(room(2 * 1064 + 564, 3).fits(&log, Index(10), 500, 0));
        assert!(DiskRoom::AMPLE.fits(&log, Index(10), u64::MAX, u64::MAX));
    }
}
