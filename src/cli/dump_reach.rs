//! Where the log begins, as far as `dump` has read it: which segments were released, and which are missing.

use crate::types::Index;
use crate::wal::format::{EntryHead, Frame, Opening, RecordKind, read_base};

/// The beginning of the log: what recovery finds out, in the same way.
///
/// Segments are released oldest first, each after it was written down that all in it may go: what is
/// missing in front of those that are there is missing rightly if the log begins behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    /// The oldest segment that is there, of those without a gap.
    oldest: Option<u64>,
    /// The first index that is not in a segment before it.
    first: Option<Index>,
    /// All up to here was released, or stands in a snapshot.
    base: Index,
}

impl Reach {
    /// From that segment on, since the one before it is not there.
    pub fn begin(&mut self, segment: u64) {
        *self = Reach { oldest: Some(segment), ..Reach::default() };
    }

    /// A good record of that segment.
    pub fn sees(&mut self, segment: u64, frame: &Frame) {
        match frame.kind {
            RecordKind::Open => {
                let Ok(opening) = Opening::read(&frame.body) else { return };
                if self.oldest == Some(segment) && self.first.is_none() {
                    self.first = Some(opening.last.index.next());
                }
                self.base = opening.base.position.index;
            }
            RecordKind::Base | RecordKind::Release => {
                let Ok(base) = read_base(&frame.body) else { return };
                self.base = base.position.index;
                if frame.kind == RecordKind::Base {
                    self.first = self.first.map(|_| self.base.next());
                }
            }
            RecordKind::Entry => {
                let Ok(head) = EntryHead::read(&frame.body) else { return };
                self.first = self.first.map(|first| first.min(head.position.index));
            }
            RecordKind::Batch | RecordKind::Hard | RecordKind::Seal => {}
        }
    }

    /// All up to here must stand in a snapshot.
    pub fn base(&self) -> Index {
        self.base
    }

    /// The segment that is missing, if the log needs it.
    pub fn missing(&self) -> Option<u64> {
        let first = self.first?;
        (self.base.next() < first).then(|| self.oldest.map_or(1, |oldest| oldest.saturating_sub(1)))
    }
}
