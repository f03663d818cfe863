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
use super::log_summary::{LogSummary, RecordEffect};
use super::recover::FIRST_FRAME_OFFSET;
use super::segment::{Segment, SparseIndex};
use crate::types::{Index, Position, SnapshotPoint, Term};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The bases that the records of a journal name, by position.
pub type KnownBases = BTreeMap<Position, SnapshotPoint>;

/// The positions of the entries that were read, as a log of consecutive indexes.
#[derive(Default)]
pub struct ReadPositions {
    /// The position before the first entry. Its term is 0 if it is not known.
    before_first: Position,
    terms: Vec<Term>,
}

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

impl ReadPositions {
    /// Applies the effect of the next record.
    pub fn apply(&mut self, effect: RecordEffect) {
        match effect {
            RecordEffect::SummaryOnly => {}
            RecordEffect::LogBegan(last) | RecordEffect::LogRestarted(last) => {
                *self = ReadPositions { before_first: last, terms: Vec::new() };
            }
            RecordEffect::EntryAppended(metadata) => {
                let Position { index, term } = metadata.position;
                if index < self.first_index() {
                    let before_first = Position::new(index.prev(), Term::ZERO);
                    *self = ReadPositions { before_first, terms: Vec::new() };
                }
                self.terms.truncate((index.0 - self.first_index().0) as usize);
                self.terms.push(term);
            }
        }
    }

    /// No entries yet, after that position.
    pub fn after(before_first: Position) -> ReadPositions {
        ReadPositions { before_first, terms: Vec::new() }
    }

    /// The position of an entry that was read and not replaced, or the one before the first; `None` if it is not known.
    pub fn position(&self, index: Index) -> Option<Position> {
        match index.0.checked_sub(self.first_index().0) {
            Some(nth) => self.terms.get(nth as usize).map(|term| Position::new(index, *term)),
            None => Some(self.before_first)
                .filter(|before| before.index == index && (before.term != Term::ZERO || index == Index::ZERO)),
        }
    }

    /// The last position.
    pub fn last(&self) -> Position {
        let last_index = Index(self.before_first.index.0 + self.terms.len() as u64);
        self.terms.last().map_or(self.before_first, |term| Position::new(last_index, *term))
    }

    /// The index of the first entry.
    pub fn first_index(&self) -> Index {
        self.before_first.index.next()
    }

    /// The latest of the bases that the log could begin after: the log holds the entry there, or the one after it.
    pub fn latest_base<'a>(&self, bases: &'a KnownBases) -> Option<&'a SnapshotPoint> {
        bases.values().filter(|base| self.holds(base.position)).max_by_key(|base| base.position.index)
    }

    fn holds(&self, position: Position) -> bool {
        match position.index.0.checked_sub(self.first_index().0) {
            Some(nth) => self.terms.get(nth as usize) == Some(&position.term),
            None => position == self.before_first,
        }
    }
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
    use crate::types::{ClusterTime, Membership};

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
            |known: &[(u64, u64)]| positions.latest_base(&bases(known)).map(|base| base.position.index.0);
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
        assert!(positions.latest_base(&bases(&[(5, 2), (7, 2), (8, 2)])).is_none());
        assert!(positions.latest_base(&bases(&[(6, 3)])).is_some());
    }
}
