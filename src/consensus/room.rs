//! How much more the disk of a node takes, and what a leader may promise on the strength of it.
//!
//! An entry that no majority has room for is worse than a refusal: it can neither be committed nor be taken
//! back, and everything behind it, even what would free room, waits for it. So a leader lets in what fits.

use super::log::Log;
use crate::limits::ENTRY_OVERHEAD_MAX;
use crate::types::Index;

/// With that much left, in bytes, nobody counts: no cluster writes as much between two beats.
const AMPLE_BYTES: u64 = 4 << 30;

/// What a node has said of the room on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Whether there is too little to lead: it would refuse writes.
    pub low: bool,
    /// How many bytes more its log can take, if all else that keeps room gives way to it.
    pub bytes: u64,
    /// Behind that entry of its log.
    pub behind: Index,
}

impl Room {
    /// Of a node that has not said anything yet.
    pub const AMPLE: Room = Room { low: false, bytes: u64::MAX, behind: Index::ZERO };

    /// Whether nobody need count.
    pub fn is_ample(&self) -> bool {
        self.bytes >= AMPLE_BYTES
    }

    /// Whether all of our log up to there fits behind what it holds, and `more` bytes, with `keep` left over.
    pub fn takes(&self, log: &Log, upto: Index, more: u64, keep: u64) -> bool {
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
    fn what_it_does_not_hold_yet_is_counted_and_what_it_holds_is_not() {
        let mut log = Log::new(Position::ZERO);
        (0..10).for_each(|_| _ = log.append(Term(1), 1000));
        let room = |bytes, behind| Room { low: false, bytes, behind: Index(behind) };
        assert!(room(5 * 1064 + 564, 5).takes(&log, Index(10), 500, 0));
        assert!(!room(5 * 1064 + 563, 5).takes(&log, Index(10), 500, 0));
        assert!(!room(5 * 1064 + 564, 5).takes(&log, Index(10), 500, 1));
        assert!(!room(5 * 1064 + 564, 4).takes(&log, Index(10), 500, 0));
        // It is ahead of us, or of what the log still has.
        assert!(room(564, 12).takes(&log, Index(10), 500, 0));
        log.persisted(Index(10));
        log.commit_to(Index(10));
        log.compact(Index(8));
        assert!(room(2 * 1064 + 564, 3).takes(&log, Index(10), 500, 0));
        assert!(Room::AMPLE.takes(&log, Index(10), u64::MAX, u64::MAX));
    }
}
