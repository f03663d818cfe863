//! Where the log begins, as far as `dump` has read it: which segments were released, and which are missing.

use crate::types::Index;
use crate::wal::format::{EntryHead, Frame, Opening, RecordKind, read_base};

/// The beginning of the log, found as recovery finds it.
///
/// Segments are released oldest first, each after a record of its release is written. So segments before the existing
/// ones are missing for a good reason only if the log begins after them.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogStart {
    /// The oldest existing segment after the last gap.
    oldest: Option<u64>,
    /// The first index that is in no earlier segment.
    first: Option<Index>,
    /// The index up to which the log was released or is in a snapshot.
    base: Index,
}

impl LogStart {
    /// Begins at that segment, since the one before it does not exist.
    pub fn begin(&mut self, segment: u64) {
        *self = LogStart { oldest: Some(segment), ..LogStart::default() };
    }

    /// Adds a valid record of that segment.
    pub fn add_record(&mut self, segment: u64, frame: &Frame) {
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

    /// The index up to which a snapshot must reach.
    pub fn base(&self) -> Index {
        self.base
    }

    /// The number of the missing segment, if the log needs it.
    pub fn missing(&self) -> Option<u64> {
        let first = self.first?;
        (self.base.next() < first).then(|| self.oldest.map_or(1, |oldest| oldest.saturating_sub(1)))
    }
}
