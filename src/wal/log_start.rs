//! The beginning of a damaged log: which release record after the damage still applies to the entries before it.
//!
//! The segments before a position are removed once a release record names that position, and only that record says that
//! they are not missing. If the damage is before the record, the readable entries seem to lack a beginning.
//!
//! # Why a record after the damage may be used
//!
//! The journal releases only entries that are committed, durable, and in a durable snapshot
//! (`node::compaction::CompactionPolicy::release`); and a base is the position of a snapshot. So the log may begin after
//! that position, wherever in the files the record is. The position must be one of the *readable* log, with the same
//! term: then both logs are equal up to it (Log Matching, §5.3), and the readable log lacks nothing after it. No entry
//! after the damage is counted.

use super::format::{self, BatchHeader, EntryMetadata, Frame, RecordKind, SegmentHeader};
use super::log_summary::LogSummary;
use super::read_positions::ReadPositions;
use super::recover::FIRST_FRAME_OFFSET;
use super::segment::{Segment, SparseIndex};
use crate::types::{Position, SnapshotPoint};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The bases that the records of a journal name, by position.
pub type KnownBases = BTreeMap<Position, SnapshotPoint>;

/// The batch that a repair appends to the readable batches of a log.
pub struct AppendedBatch {
    /// The records of the damaged batch that are before the damage, without the batch header.
    pub frames: Vec<Frame>,
    /// The position after which the log begins, and the configuration there, if the log's own release record is after the
    /// damage.
    pub released_base: Option<SnapshotPoint>,
    /// The number of the batch.
    pub batch_number: u64,
    /// The checksum of the last frame of the readable batches.
    pub last_checksum: u32,
}

/// The latest of the bases that the log with these positions could begin after: the log holds the entry there, or the one
/// after it.
pub fn latest_base<'a>(positions: &ReadPositions, bases: &'a KnownBases) -> Option<&'a SnapshotPoint> {
    bases.values().filter(|base| positions.holds(base.position)).max_by_key(|base| base.position.index)
}

impl AppendedBatch {
    /// Whether there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.released_base.is_none()
    }

    /// Appends the batch to the readable bytes of a segment, whose records end at offset `end`. A segment without any
    /// record gets its opening record first, for the log of `summary`. Returns the bytes up to the new end.
    pub fn append_to(&self, bytes: &Bytes, header: &SegmentHeader, end: u64, summary: &LogSummary) -> Bytes {
        let mut segment = Segment::new(header, u64::MAX, end, self.last_checksum, SparseIndex::default());
        let begins_with_opening = self.frames.first().is_some_and(|frame| frame.kind == RecordKind::Open);
        if end == FIRST_FRAME_OFFSET && !begins_with_opening {
            segment.add_frame(RecordKind::Open, self.batch_number, |out| summary.opening().encode(out));
        }
        for frame in &self.frames {
            let add_body = |out: &mut Vec<u8>| out.extend_from_slice(&frame.body);
            match EntryMetadata::decode(&frame.body) {
                Ok(entry) if frame.kind == RecordKind::Entry => {
                    segment.add_entry(self.batch_number, entry.position, add_body);
                }
                _ => _ = segment.add_frame(frame.kind, self.batch_number, add_body),
            }
        }
        if let Some(base) = &self.released_base {
            segment.add_frame(RecordKind::Release, self.batch_number, |out| format::encode_base(out, base));
        }
        // All earlier segments were synced before this one was begun.
        let synced_end = (header.number, FIRST_FRAME_OFFSET);
        let batch = BatchHeader { number: self.batch_number, synced_end, ..BatchHeader::default() };
        let mut bytes = bytes.to_vec();
        // A file that was cut within the padding of its last record is shorter than that record's end.
        bytes.resize(end as usize, 0);
        bytes.extend_from_slice(segment.finish_batch(batch));
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterTime, Index, Membership, Term};
    use crate::wal::log_summary::RecordEffect;

    fn entry(index: u64, term: u64) -> RecordEffect {
        let position = Position::new(Index(index), Term(term));
        RecordEffect::EntryAppended(EntryMetadata { position, time: ClusterTime(0), is_membership: false })
    }

    fn bases(positions: &[(u64, u64)]) -> KnownBases {
        let point = |(index, term): (u64, u64)| {
            let position = Position::new(Index(index), Term(term));
            (position, SnapshotPoint { position, configured: Index::ZERO, membership: Membership::default() })
        };
        positions.iter().copied().map(point).collect()
    }

    #[test]
    fn latest_base_is_a_position_of_the_readable_log() {
        let mut positions = ReadPositions::default();
        positions.apply(RecordEffect::LogBegan(Position::new(Index(7), Term(2))));
        [(8, 2), (9, 2), (10, 3)].into_iter().for_each(|(index, term)| positions.apply(entry(index, term)));
        let latest_index =
            |known: &[(u64, u64)]| latest_base(&positions, &bases(known)).map(|base| base.position.index.0);
        assert_eq!(latest_index(&[(8, 2), (9, 2)]), Some(9));
        assert_eq!(latest_index(&[(7, 2)]), Some(7), "the first entry follows it");
        assert_eq!(latest_index(&[(7, 1), (6, 2)]), None, "before the first entry");
        assert_eq!(latest_index(&[(10, 4), (9, 2)]), Some(9), "the readable entry was replaced later");
        assert_eq!(latest_index(&[(11, 3)]), None, "after the damage");
    }

    #[test]
    fn position_before_a_replaced_first_entry_is_unknown() {
        let mut positions = ReadPositions::default();
        positions.apply(RecordEffect::LogBegan(Position::new(Index(7), Term(2))));
        positions.apply(entry(8, 2));
        positions.apply(entry(6, 3));
        assert_eq!(positions.first_index(), Index(6));
        assert!(latest_base(&positions, &bases(&[(5, 2), (7, 2), (8, 2)])).is_none());
        assert!(latest_base(&positions, &bases(&[(6, 3)])).is_some());
    }
}
