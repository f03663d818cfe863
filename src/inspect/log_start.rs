//! Finds where a log begins while its segments are read: which segments were released, and which are missing.

use crate::types::Index;
use crate::wal::format::{EntryMetadata, Frame, Opening, RecordKind, decode_base};

/// The beginning of the log, determined from the same records as in recovery.
///
/// The journal *releases* segments: it removes the oldest ones, after it wrote a record of the release. So segments
/// before the existing ones may be missing only if the log begins after their entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogStart {
    /// The oldest existing segment after the last gap.
    oldest_segment: Option<u64>,
    /// The first index that the existing segments hold.
    first_index: Option<Index>,
    /// The index up to which entries were released, because a snapshot contains them.
    base: Index,
}

impl LogStart {
    /// Discards the state and begins with that segment, whose predecessor does not exist.
    pub fn start_at(&mut self, segment: u64) {
        *self = LogStart { oldest_segment: Some(segment), ..LogStart::default() };
    }

    /// Updates the state by the next valid record of that segment. Segments must be added in order of their numbers.
    pub fn add_record(&mut self, segment: u64, frame: &Frame) {
        match frame.kind {
            RecordKind::Open => {
                let Ok(opening) = Opening::decode(&frame.body) else { return };
                if self.oldest_segment == Some(segment) && self.first_index.is_none() {
                    self.first_index = Some(opening.last_position.index.next());
                }
                self.base = opening.base.position.index;
            }
            RecordKind::Base | RecordKind::Release => {
                let Ok(base) = decode_base(&frame.body) else { return };
                self.base = base.position.index;
                if frame.kind == RecordKind::Base {
                    self.first_index = self.first_index.map(|_| self.base.next());
                }
            }
            RecordKind::Entry => {
                let Ok(metadata) = EntryMetadata::decode(&frame.body) else { return };
                self.first_index = self.first_index.map(|first| first.min(metadata.position.index));
            }
            RecordKind::Batch | RecordKind::HardState | RecordKind::Seal => {}
        }
    }

    /// The index up to which a snapshot must reach.
    pub fn base(&self) -> Index {
        self.base
    }

    /// The number of the newest missing segment, if the log needs that segment.
    pub fn missing_segment(&self) -> Option<u64> {
        let first = self.first_index?;
        (self.base.next() < first).then(|| self.oldest_segment.map_or(1, |oldest| oldest.saturating_sub(1)))
    }
}
