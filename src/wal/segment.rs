//! The segment that is being written: frames are collected in a buffer, which is written to the file as one batch by
//! one system call.
//!
//! Recovery accepts a batch as a whole or not at all: the batch header states the number of bytes and frames that
//! follow, and the last checksum. A reader needs the header first, but its values are known last. So the buffer begins
//! with a hole of the header's size, frames are added after the hole, and the hole is filled just before the write:
//!
//! ```text
//!   written_end                            written_end + buffer
//!   ▼                                      ▼
//!   ┌──────────────┬───────┬───────┬───────┐
//!   │ batch header │ frame │ frame │ frame │   one write, then one sync
//!   └──────▲───────┴───────┴───────┴───┬───┘
//!          └─ frames, bytes, checksum ─┘
//! ```
//!
//! The checksum of a frame is computed when the frame is added, for the offset at which it will be written. So a frame
//! cannot be moved within the file or to the next file, and the caller first checks that the frame fits.

use super::format::{
    self, BATCH_FRAME_BYTES, BatchHeader, FRAME_ALIGNMENT, FRAME_HEADER_BYTES, RecordKind, SEAL_FRAME_BYTES,
    SEGMENT_HEADER_BYTES, SegmentHeader, header_checksum, header_fields, salt_crc,
};
use crate::types::{Index, Position, Term};
use std::sync::Arc;

/// The distance in bytes between two entries in the sparse index: to find an entry, a reader decodes the frame headers
/// of at most that many bytes.
const INDEX_INTERVAL_BYTES: u64 = 4 << 10;

/// A sparse index of a segment: the log index and the file offset of some of its entries, the *indexed entries*.
///
/// Invariant: from one indexed entry up to the next, the log indexes of the entries are consecutive. A truncation
/// removes the indexed entries at and after its log index, and the new entry at that log index is indexed. So a reader
/// that goes from one indexed entry to the next never returns an entry that was replaced in this segment.
///
/// An index of all entries would be large: with entries of 100 bytes, 64 MiB hold more than 400,000, and each would
/// cost 16 bytes of memory for as long as the segment exists. One indexed entry every 4 KiB costs a reader one page of
/// frame headers.
///
/// An example for the rule about truncations: entries 1 to 9 are in the segment, then 5 and 6 are replaced. A reader
/// that starts at entry 1 and only counts entries would return the *old* 5. Since the new 5 is indexed, the reader
/// continues at its offset.
#[derive(Clone, Debug, Default)]
pub struct SparseIndex {
    indexed_entries: Vec<(Index, u64)>,
    last_index: Option<Index>,
}

impl SparseIndex {
    /// Records that an entry's frame is at offset `at`.
    ///
    /// A log index that does not follow the last one is a truncation, or the first entry of the segment. In both cases
    /// the entry is indexed.
    pub fn add_entry(&mut self, index: Index, at: u64) {
        let is_consecutive = self.last_index.is_some_and(|last| index == last.next());
        if !is_consecutive {
            self.truncate_from(index);
        }
        // The interval is in bytes and not in entries: a reader's cost is the distance in bytes, and entries differ in
        // size by a factor of 10,000.
        let is_interval_full =
            self.indexed_entries.last().is_none_or(|(_, offset)| at - offset >= INDEX_INTERVAL_BYTES);
        if !is_consecutive || is_interval_full {
            self.indexed_entries.push((index, at));
        }
        self.last_index = Some(index);
        self.check_invariants();
    }

    /// Panics if an invariant is violated: a reader would begin at the wrong frame.
    fn check_invariants(&self) {
        assert_eq!(
            self.indexed_entries.is_empty(),
            self.last_index.is_none(),
            "a sparse index is empty exactly if its segment has no entry"
        );
        if let [.., (before, _), (newest, _)] = self.indexed_entries[..] {
            assert!(before < newest, "the log indexes in a sparse index ascend: readers use a binary search");
        }
        let last_indexed = self.indexed_entries.last().map(|(index, _)| *index);
        assert!(last_indexed <= self.last_index, "a sparse index names no log index above the last entry");
    }

    /// Removes all indexed entries: the log restarts, and no entry of this segment belongs to the log any more.
    pub fn clear(&mut self) {
        *self = SparseIndex::default();
    }

    /// The log index of the first and the last entry; `None` if there is none.
    ///
    /// All entries between the two are in the segment: a truncation keeps the entries below its log index, and a
    /// truncation below the segment's first entry removes all indexed entries.
    pub fn index_range(&self) -> Option<(Index, Index)> {
        Some((self.indexed_entries.first()?.0, self.last_index?))
    }

    /// A copy of the indexed entries, which a sealed segment shares with its readers.
    pub fn to_shared_entries(&self) -> Arc<[(Index, u64)]> {
        self.indexed_entries.as_slice().into()
    }

    /// Removes the indexed entries at and after the log index `index`.
    fn truncate_from(&mut self, index: Index) {
        // A binary search: a whole segment may be replaced one entry at a time.
        let kept_count = self.indexed_entries.partition_point(|(indexed, _)| *indexed < index);
        self.indexed_entries.truncate(kept_count);
    }
}

/// The segment that is being written: its frames that are not yet in the file.
///
/// Invariant: the buffer is empty, or begins with space for the batch header.
///
/// This type does not access the file: the journal writes the buffer. So all disk errors occur in the journal, and
/// tests of this type need no disk.
#[derive(Debug)]
pub struct Segment {
    /// The segment's number, as in the file's name.
    pub number: u64,
    /// The file offset at which the buffer begins: all bytes before it are written.
    pub written_end: u64,
    /// The file offsets of some of the segment's entries.
    pub sparse_index: SparseIndex,
    salt_crc: u32,
    capacity: u64,
    buffer: Vec<u8>,
    // The checksum of the last frame, which the next frame repeats. A lost or doubled frame breaks this chain, although
    // each frame by itself is intact. Batch headers are no part of the chain: see [`Segment::finish_batch`].
    last_checksum: u32,
    frame_count: u32,
    // The index of the first entry and the position of the last entry in the batch, for its header: if the entries are
    // damaged and the header is not, an operator still learns which entries they were.
    batch_first_index: Index,
    batch_last_position: Position,
}

impl Segment {
    /// A segment whose frames end at offset `written_end`; `last_checksum` is that of the last frame.
    pub fn new(
        header: &SegmentHeader,
        capacity: u64,
        written_end: u64,
        last_checksum: u32,
        sparse_index: SparseIndex,
    ) -> Segment {
        Segment {
            number: header.number,
            written_end,
            sparse_index,
            salt_crc: salt_crc(header.salt()),
            capacity,
            buffer: Vec::new(),
            last_checksum,
            frame_count: 0,
            batch_first_index: Index::ZERO,
            batch_last_position: Position::ZERO,
        }
    }

    /// The segment that follows this one, with its buffer and its last checksum.
    ///
    /// The chain of checksums continues across segments, so that a segment of another history, restored from a backup
    /// by hand, does not fit in between. The buffer is passed on only to reuse its memory.
    pub fn successor(&mut self, header: &SegmentHeader, capacity: u64) -> Segment {
        assert!(
            self.buffer.is_empty(),
            "the buffer is empty when the next segment begins: a frame is valid in one segment only"
        );
        let mut next =
            Segment::new(header, capacity, SEGMENT_HEADER_BYTES as u64, self.last_checksum, SparseIndex::default());
        next.buffer = std::mem::take(&mut self.buffer);
        next
    }

    /// Whether a frame with a body of `body_bytes` bytes still fits, and the seal after the frame.
    ///
    /// Space for the seal is always kept. Otherwise a full segment could not be sealed, and a write that fits exactly
    /// would block the log forever.
    pub fn fits(&self, body_bytes: usize) -> bool {
        // An empty buffer still costs a header as soon as the first frame is added.
        let used_bytes = self.written_end + self.buffer.len().max(BATCH_FRAME_BYTES) as u64;
        // The seal may need a batch of its own, with an empty batch before it.
        used_bytes + format::frame_size(body_bytes) as u64 + (2 * BATCH_FRAME_BYTES + SEAL_FRAME_BYTES) as u64
            <= self.capacity
    }

    /// The size in bytes of a segment that holds an opening record and one frame, with bodies of these sizes.
    ///
    /// The size includes four batch headers: one for the opening, one for the frame if it is in a batch of its own, and
    /// two for the seal (see [`Segment::fits`]). A segment is larger than usual if an entry does not fit otherwise: an
    /// entry is never split, because an entry in two files would have to be read through two mappings.
    pub fn size_for(opening_bytes: usize, body_bytes: usize) -> u64 {
        let frame_bytes = format::frame_size(opening_bytes) + format::frame_size(body_bytes);
        (SEGMENT_HEADER_BYTES + 4 * BATCH_FRAME_BYTES + frame_bytes + SEAL_FRAME_BYTES) as u64
    }

    /// The used part of the segment in percent.
    ///
    /// The buffer counts as used, so that a large batch orders the next segment before it is written.
    pub fn percent_used(&self) -> u64 {
        (self.written_end + self.buffer.len() as u64) * 100 / self.capacity.max(1)
    }

    /// The number of bytes that are neither written nor buffered.
    pub fn unused_bytes(&self) -> u64 {
        self.capacity.saturating_sub(self.written_end + self.buffer.len() as u64)
    }

    /// The size of the segment's file in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The size of the buffer in bytes; 0 if no frame was added since the last write.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Adds a frame to the buffer and returns its offset in the file.
    ///
    /// `body` encodes the body into the buffer. An entry has the checksum that was computed when it was made, so only
    /// the frame's header is checksummed here.
    pub fn add_frame(&mut self, kind: RecordKind, batch: u64, body: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if self.buffer.is_empty() {
            self.buffer.resize(BATCH_FRAME_BYTES, 0);
        }
        let frame_start = self.buffer.len();
        let at = self.written_end + frame_start as u64;
        self.buffer.resize(frame_start + FRAME_HEADER_BYTES, 0);
        body(&mut self.buffer);
        let body_length = self.buffer.len() - frame_start - FRAME_HEADER_BYTES;
        self.last_checksum = write_frame_header(
            &mut self.buffer[frame_start..],
            self.salt_crc,
            at,
            self.last_checksum,
            body_length,
            kind,
            batch,
        );
        // The padding is zeroed, because a reader treats any other byte in it as damage.
        self.buffer.resize(frame_start + format::frame_size(body_length), 0);
        self.frame_count += 1;
        at
    }

    /// Adds an entry's frame to the buffer, and the entry to the sparse index.
    pub fn add_entry(&mut self, batch: u64, position: Position, body: impl FnOnce(&mut Vec<u8>)) {
        let at = self.add_frame(RecordKind::Entry, batch, body);
        if self.batch_first_index == Index::ZERO {
            self.batch_first_index = position.index;
        }
        self.batch_last_position = position;
        self.sparse_index.add_entry(position.index, at);
    }

    /// Encodes the batch header into the buffer. Returns the whole batch, to be written at [`Segment::written_end`].
    /// The caller sets the header's number, `has_more_pieces`, `synced_end` and `boot_id`; the other fields are set
    /// here.
    pub fn finish_batch(&mut self, mut header: BatchHeader) -> &[u8] {
        if self.buffer.is_empty() {
            self.buffer.resize(BATCH_FRAME_BYTES, 0);
        }
        header.bytes = self.buffer.len() as u64;
        header.frame_count = self.frame_count;
        header.last_checksum = self.last_checksum;
        header.index_range = (self.batch_first_index, self.batch_last_position.index);
        // The format has zeros if there is no entry.
        header.last_term =
            if self.batch_first_index == Index::ZERO { Term::ZERO } else { self.batch_last_position.term };
        let mut body = Vec::with_capacity(BATCH_FRAME_BYTES - FRAME_HEADER_BYTES);
        header.encode(&mut body);
        self.buffer[FRAME_HEADER_BYTES..BATCH_FRAME_BYTES].copy_from_slice(&body);
        // A batch header repeats the checksum of the frame before the batch, and no frame repeats the header's
        // checksum: the header is encoded last, and the checksums of all frames after it would have to be computed
        // again.
        let previous_checksum = match self.frame_count {
            0 => self.last_checksum,
            _ => u32::from_le_bytes(std::array::from_fn(|i| self.buffer[BATCH_FRAME_BYTES + 4 + i])),
        };
        let frame = &mut self.buffer[..BATCH_FRAME_BYTES];
        let _unchained_checksum = write_frame_header(
            frame,
            self.salt_crc,
            self.written_end,
            previous_checksum,
            body.len(),
            RecordKind::Batch,
            header.number,
        );
        &self.buffer
    }

    /// Records that the batch was written, and empties the buffer. The next batch begins after this one.
    ///
    /// Called only after the write succeeded. After a failed write the journal is poisoned, and the buffer is never
    /// used again.
    pub fn mark_written(&mut self) {
        self.written_end += self.buffer.len() as u64;
        self.buffer.clear();
        self.frame_count = 0;
        self.batch_first_index = Index::ZERO;
        self.batch_last_position = Position::ZERO;
        self.check_invariants();
    }

    /// Panics if an invariant is violated: the next batch header would contradict its batch.
    pub(super) fn check_invariants(&self) {
        let buffered_bytes = self.buffer.len();
        assert!(
            self.written_end.is_multiple_of(FRAME_ALIGNMENT as u64) && buffered_bytes.is_multiple_of(FRAME_ALIGNMENT),
            "frames begin at multiples of 8: the search for the next good frame tries no other offset"
        );
        assert!(
            buffered_bytes == 0 || buffered_bytes >= BATCH_FRAME_BYTES,
            "a buffer that is not empty begins with space for the batch header"
        );
        assert_eq!(
            self.frame_count > 0,
            buffered_bytes > BATCH_FRAME_BYTES,
            "the frame count is 0 exactly if no frame is in the buffer after the batch header"
        );
        assert_eq!(
            self.batch_first_index == Index::ZERO,
            self.batch_last_position.index == Index::ZERO,
            "a batch has a first and a last entry, or neither"
        );
    }
}

/// Writes a frame's header to the beginning of `frame`, in front of the body. Returns the header's checksum.
///
/// The length has three bytes in the format. A larger body would be written with a wrong length, and the checksum over
/// that wrong length would be right: a start would find intact frames that contradict each other.
fn write_frame_header(
    frame: &mut [u8],
    salt_crc: u32,
    at: u64,
    previous_checksum: u32,
    length: usize,
    kind: RecordKind,
    batch: u64,
) -> u32 {
    assert!(
        (4..=format::BODY_BYTES_MAX).contains(&length),
        "the body of a frame has at least 4 bytes, and its length fits into three bytes"
    );
    let fields = header_fields(previous_checksum, length, kind, batch);
    let body_checksum = std::array::from_fn(|i| frame[FRAME_HEADER_BYTES + i]);
    let checksum = header_checksum(salt_crc, at, &fields, body_checksum);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
    frame[4..FRAME_HEADER_BYTES].copy_from_slice(&fields);
    checksum
}
