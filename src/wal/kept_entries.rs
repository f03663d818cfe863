//! Kept entries: intact entries in the files that a repair has set aside ([`super::repair`]).
//!
//! They are not in the log, because entries before them were lost. While the log does not reach the promised position,
//! this node uses them to get its log back, and answers other nodes from them (`docs/repair.md`, clauses 5 and 6).

use super::format::{self, EntryMetadata, Frame, Opening, RecordKind, file_number};
use super::load::map_file;
use super::log_summary::RecordEffect;
use super::read_positions::ReadPositions;
use super::report::{EntrySummary, Result, SealedSegment};
use super::scan::{Scan, ScanItem};
use super::segment::SparseIndex;
use super::view::MappedSegment;
use crate::disk::Disk;
use crate::types::{DiskId, Entry, Index, Position};
use bytes::Bytes;
use std::ops::RangeInclusive;

/// The suffix of a segment that a repair has set aside.
pub const DAMAGED_SUFFIX: &str = ".damaged";

/// The number of the segment from which a repair has made the file `name`; `None` for any other file.
pub fn damaged_segment_number(name: &str) -> Option<u64> {
    let (segment_name, _) = name.split_once(DAMAGED_SUFFIX)?;
    file_number(segment_name)
}

/// The intact entries of the damaged files, as fragments of a former log.
#[derive(Debug, Default)]
pub struct KeptEntries {
    fragments: Vec<Fragment>,
}

/// Entries of one damaged file, appended one after the other, without damage between them.
#[derive(Debug)]
struct Fragment {
    /// The position before the first entry.
    before: Position,
    mapped: MappedSegment,
    entries: Vec<EntrySummary>,
}

impl KeptEntries {
    /// Reads the damaged files of a journal.
    pub fn load<D: Disk>(disk: &D, own_disk: DiskId, names: &[String]) -> Result<KeptEntries> {
        let mut files: Vec<(u64, &String)> =
            names.iter().filter_map(|name| Some((damaged_segment_number(name)?, name))).collect();
        files.sort();
        let mut fragments = Vec::new();
        let mut positions = None;
        for (number, name) in files {
            let file = map_file(disk, number, name)?;
            // Bytes behind an unreadable sector are not used.
            let bytes = file.readable_bytes()?;
            let (mut read_fragments, last_positions) = FragmentReader::new(number, bytes, own_disk, positions).read();
            fragments.append(&mut read_fragments);
            positions = last_positions;
        }
        Ok(KeptEntries { fragments })
    }

    /// The position before each fragment, and a summary of each of its entries. Where no record names that position, it
    /// has the term of the first entry: the leader of that term wrote both.
    pub fn summaries(&self) -> impl Iterator<Item = (Position, &[EntrySummary])> {
        self.fragments.iter().map(|fragment| (fragment.before, &fragment.entries[..]))
    }

    /// The entries of a range of one fragment. An error if the file can no longer be read.
    pub fn entries(&self, fragment: usize, range: RangeInclusive<Index>) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        if let Some(fragment) = self.fragments.get(fragment) {
            fragment.mapped.visit_entries(*range.start(), *range.end(), &mut |entry| {
                entries.push(entry);
                true
            })?;
        }
        Ok(entries)
    }
}

/// Reads the fragments of one damaged file.
struct FragmentReader {
    segment: u64,
    bytes: Bytes,
    salt: u64,
    fragments: Vec<Fragment>,
    /// The fragment that the next entry may continue; `None` right after damage.
    open: Option<OpenFragment>,
    /// The entries since the last damage that were not replaced up to here, those of closed fragments and earlier files
    /// included; `None` right after damage.
    positions: Option<ReadPositions>,
}

/// A fragment whose entries are being read; it may have none yet.
struct OpenFragment {
    before: Position,
    sparse_index: SparseIndex,
    entries: Vec<EntrySummary>,
}

impl FragmentReader {
    /// A reader of a file after another one, at whose end the log had these positions.
    fn new(segment: u64, bytes: Bytes, own_disk: DiskId, positions: Option<ReadPositions>) -> FragmentReader {
        let salt = format::salt(own_disk, segment);
        FragmentReader { segment, bytes, salt, fragments: Vec::new(), open: None, positions }
    }

    /// The fragments, and the positions at the end of the file.
    fn read(mut self) -> (Vec<Fragment>, Option<ReadPositions>) {
        for item in Scan::new(self.bytes.clone(), self.salt, None) {
            match item {
                // The next file continues the log. Bytes of an earlier use of this file may follow.
                ScanItem::Frame(frame) if frame.kind == RecordKind::Seal => break,
                ScanItem::Frame(frame) => self.add_frame(&frame),
                ScanItem::Gap { .. } => self.end_at_damage(),
            }
        }
        self.close();
        (self.fragments, self.positions)
    }

    fn add_frame(&mut self, frame: &Frame) {
        match frame.kind {
            RecordKind::Entry => match EntryMetadata::decode(&frame.body) {
                Ok(entry) => self.add_entry(entry, frame),
                Err(_) => self.end_at_damage(),
            },
            // Both records name the position before the next entry.
            RecordKind::Open => self.begin_log(Opening::decode(&frame.body).ok().map(|opening| opening.last_position)),
            RecordKind::Base => self.begin_log(format::decode_base(&frame.body).ok().map(|base| base.position)),
            RecordKind::Batch | RecordKind::HardState | RecordKind::Release | RecordKind::Seal => {}
        }
    }

    fn add_entry(&mut self, entry: EntryMetadata, frame: &Frame) {
        let position = entry.position;
        if self.open.as_ref().is_none_or(|open| !open.is_followed_by(position)) {
            // The entry is the first one after damage, or replaces others and continues those before them.
            let known = self.positions.as_ref().and_then(|positions| positions.position(position.index.prev()));
            let known = known.filter(|before| before.term <= position.term);
            if known.is_none() {
                self.positions = Some(ReadPositions::after(before_in_same_term(position)));
            }
            self.close();
            self.open = Some(OpenFragment::new(known.unwrap_or(before_in_same_term(position))));
        }
        if let (Some(open), Some(positions)) = (&mut self.open, &mut self.positions) {
            positions.apply(RecordEffect::EntryAppended(entry));
            open.sparse_index.add_entry(position.index, frame.offset);
            open.entries.push(EntrySummary { term: position.term, bytes: frame.body.len() as u32 });
        }
    }

    /// Begins a fragment at a record that names the position before the next entry. If the log so far ends there, it goes
    /// on.
    fn begin_log(&mut self, before: Option<Position>) {
        self.close();
        self.open = before.map(OpenFragment::new);
        if self.positions.as_ref().map(ReadPositions::last) != before {
            self.positions = before.map(ReadPositions::after);
        }
    }

    fn end_at_damage(&mut self) {
        self.close();
        self.positions = None;
    }

    fn close(&mut self) {
        let Some(open) = self.open.take().filter(|open| !open.entries.is_empty()) else { return };
        let sealed = SealedSegment {
            segment: self.segment,
            index_range: open.before.index.next()..=open.last().index,
            sparse_index: open.sparse_index.to_shared_entries(),
            bytes: self.bytes.clone(),
        };
        let mapped = MappedSegment::with_salt(sealed, self.salt);
        self.fragments.push(Fragment { before: open.before, mapped, entries: open.entries });
    }
}

impl OpenFragment {
    fn new(before: Position) -> OpenFragment {
        OpenFragment { before, sparse_index: SparseIndex::default(), entries: Vec::new() }
    }

    fn last(&self) -> Position {
        let term = self.entries.last().map_or(self.before.term, |entry| entry.term);
        Position::new(Index(self.before.index.0 + self.entries.len() as u64), term)
    }

    fn is_followed_by(&self, position: Position) -> bool {
        position.index == self.last().index.next() && position.term >= self.last().term
    }
}

/// The position before an entry whose predecessor is not known.
fn before_in_same_term(position: Position) -> Position {
    Position::new(position.index.prev(), position.term)
}
