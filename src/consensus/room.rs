//! Room on the disk of a node, and which entries a leader may append by it.
//!
//! An entry that no majority has room for is worse than a refusal: it can be neither committed nor taken back, and
//! every entry after it waits, even one that would free room. So a leader accepts only entries that fit.

use super::log::Log;
use crate::limits::ENTRY_OVERHEAD_MAX;
use crate::types::Index;

/// With this many bytes left no count is needed: no cluster writes as much between two heartbeats.
const AMPLE_BYTES: u64 = 4 << 30;

/// The room on its disk that a node has reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Whether there is too little room to lead: as leader the node would refuse writes.
    pub low: bool,
    /// How many bytes more its log can take, if all other reserved room gives way to it.
    pub bytes: u64,
    /// The index after which these bytes fit.
    pub behind: Index,
}

impl Room {
    /// The value for a node that has not reported yet.
    pub const AMPLE: Room = Room { low: false, bytes: u64::MAX, behind: Index::ZERO };

    /// Whether there is so much room that no count is needed.
    pub fn is_ample(&self) -> bool {
        self.bytes >= AMPLE_BYTES
    }

    /// Whether the rest of the log up to `upto`, plus `more` bytes, fits in the node's room with `keep` bytes left
    /// over.
    pub fn fits(&self, log: &Log, upto: Index, more: u64, keep: u64) -> bool {
        if self.is_ample() {
            return true;
        }
        let behind = self.behind.max(log.base().index).min(upto);
        let frames = (upto.0 - behind.0 + 1) * ENTRY_OVERHEAD_MAX;
        log.bytes(behind, upto).saturating_add(frames).saturating_add(more).saturating_add(keep) <= self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Position, Term};

    #[test]
    fn room_counts_only_entries_that_the_node_lacks() {
        let mut log = Log::new(Position::ZERO);
        (0..10).for_each(|_| _ = log.append(Term(1), 1000));
        let room = |bytes, behind| Room { low: false, bytes, behind: Index(behind) };
        assert!(room(5 * 1064 + 564, 5).fits(&log, Index(10), 500, 0));
        assert!(!room(5 * 1064 + 563, 5).fits(&log, Index(10), 500, 0));
        assert!(!room(5 * 1064 + 564, 5).fits(&log, Index(10), 500, 1));
        assert!(!room(5 * 1064 + 564, 4).fits(&log, Index(10), 500, 0));
        // The node is ahead of this log, or of the part that the log still has.
        assert!(room(564, 12).fits(&log, Index(10), 500, 0));
        log.persisted(Index(10));
        log.commit_to(Index(10));
        log.compact(Index(8));
        assert!(room(2 * 1064 + 564, 3).fits(&log, Index(10), 500, 0));
        assert!(Room::AMPLE.fits(&log, Index(10), u64::MAX, u64::MAX));
    }
}
