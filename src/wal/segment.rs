//! One segment that is being written: frames are collected in a buffer and written to the file as one batch, in one
//! write.
//!
//! A batch is the unit of belief. Its header says how many bytes and frames follow and what the last checksum is, so
//! that recovery accepts all of a write or none of it. The header stands in front, where a reader needs it, but is
//! known last. So the buffer begins with a hole of the header's size, frames are added behind it, and the hole is
//! filled just before the write:
//!
//! ```text
//!   written                                              written + buffer
//!   ▼                                                    ▼
//!   ┌──────────────┬───────┬───────┬───────┐
//!   │ batch header │ frame │ frame │ frame │   one write, then one sync
//!   └──────▲───────┴───────┴───────┴───┬───┘
//!          └── frames, bytes, tail ────┘
//! ```
//!
//! Checksums are computed when a frame is added, for the offset at which it will be written. A frame can therefore
//! never be moved, neither within the file nor to the next one: whether a frame fits is decided before it is added.

use super::format::{
    self, ALIGN, BATCH_FRAME, Batch, FRAME_HEADER, RecordKind, SEAL_FRAME, SEGMENT_HEADER, SegmentHeader,
    header_checksum, header_rest, salted,
};
use crate::types::{Index, Position, Term};
use std::sync::Arc;

/// Distance between marks in bytes: the most that a reader has to walk.
const MARK_BYTES: u64 = 4 << 10;

/// A sparse index of a segment: (index, offset) of some of its entries.
///
/// Invariant: between two marks, the entries from the first mark's index up to the second's follow each other. A
/// truncation removes the marks at and after its index and adds one, so a reader that goes from mark to mark never
/// meets an entry that was replaced in this segment.
///
/// An index of all entries would be large: with entries of 100 bytes, 64 MiB hold more than 400,000, and each would
/// cost 16 bytes of memory for as long as the segment exists. A mark every 4 KiB costs a reader one page of frame
/// headers.
///
/// A counter-example for the rule about truncations: entries 1 to 9 are in the segment, then 5 and 6 are replaced. A
/// walk from mark 1 that only counted entries would return the *old* 5. With a mark at the new 5, the walk jumps there.
#[derive(Clone, Debug, Default)]
pub struct SparseIndex {
    marks: Vec<(Index, u64)>,
    last: Option<Index>,
}

impl SparseIndex {
    /// Records that an entry's frame is at offset `at`.
    ///
    /// An index that does not follow the last one is a truncation, or the first entry of the segment. Both get a mark.
    pub fn entry(&mut self, index: Index, at: u64) {
        let follows = self.last.is_some_and(|last| index == last.next());
        if !follows {
            self.cut(index);
        }
        // By bytes and not by entries: what costs a reader is the distance, and entries differ in size by a factor of
        // 10,000.
        let far = self.marks.last().is_none_or(|(_, mark)| at - mark >= MARK_BYTES);
        if !follows || far {
            self.marks.push((index, at));
        }
        self.last = Some(index);
        self.check();
    }

    /// Panics if an invariant is violated: a reader would begin at the wrong frame.
    fn check(&self) {
        assert_eq!(self.marks.is_empty(), self.last.is_none(), "the first entry of a segment always has a mark");
        if let [.., (before, _), (newest, _)] = self.marks[..] {
            assert!(before < newest, "marks ascend by index, or the search in them fails");
        }
        let newest = self.marks.last().map(|(index, _)| *index);
        assert!(newest <= self.last, "a truncation leaves no mark of an entry that it removed");
    }

    /// Removes all marks: the log restarts, and nothing in this segment belongs to it any more.
    pub fn clear(&mut self) {
        *self = SparseIndex::default();
    }

    /// The index of the first and the last entry; `None` if there is none.
    ///
    /// A range is enough: entries before the last truncation that are still valid come before it in index order too,
    /// and a truncation to before the segment's first entry removes all of its marks.
    pub fn entries(&self) -> Option<(Index, Index)> {
        Some((self.marks.first()?.0, self.last?))
    }

    /// The marks in the form that a sealed segment shares with readers.
    pub fn shared(&self) -> Arc<[(Index, u64)]> {
        self.marks.as_slice().into()
    }

    fn cut(&mut self, index: Index) {
        // The marks ascend, so a binary search finds the cut, also when a whole segment is replaced one entry at a
        // time.
        let keep = self.marks.partition_point(|(mark, _)| *mark < index);
        self.marks.truncate(keep);
    }
}

/// The frames of a segment that are not yet in the file.
///
/// Invariant: the buffer is empty, or begins with space for the header of the batch.
///
/// It never touches the file: the journal writes the buffer. So all errors of the disk are met in one place, and this
/// type can be tested with plain bytes.
#[derive(Debug)]
pub struct Segment {
    /// The segment's number.
    pub number: u64,
    /// The file offset at which the buffer begins: all bytes before it are written.
    pub written: u64,
    /// The offsets of entries.
    pub marks: SparseIndex,
    salted: u32,
    capacity: u64,
    buffer: Vec<u8>,
    // The checksum of the last frame, which the next one repeats. A lost or doubled frame breaks this chain, although
    // each frame by itself is intact. Batch headers are left out: see [`Segment::batch`].
    chain: u32,
    frames: u32,
    // The first entry and the last position of the batch, for its header: if the entries are damaged and the header is
    // not, it still tells which ones they were.
    first: Index,
    last: Position,
}

impl Segment {
    /// A segment whose frames end at offset `written`; `chain` is the checksum of the last one.
    pub fn new(header: &SegmentHeader, capacity: u64, written: u64, chain: u32, marks: SparseIndex) -> Segment {
        Segment {
            number: header.number,
            written,
            marks,
            salted: salted(header.salt()),
            capacity,
            buffer: Vec::new(),
            chain,
            frames: 0,
            first: Index::ZERO,
            last: Position::ZERO,
        }
    }

    /// The segment that follows this one, with the same buffer and chain.
    ///
    /// The chain continues across segments, so that a segment of another history, restored from a backup by hand, does
    /// not fit in between. The buffer is passed on for its capacity only.
    pub fn successor(&mut self, header: &SegmentHeader, capacity: u64) -> Segment {
        assert!(self.buffer.is_empty(), "a frame is checksummed for its segment, so none moves to the next one");
        let mut next = Segment::new(header, capacity, SEGMENT_HEADER as u64, self.chain, SparseIndex::default());
        next.buffer = std::mem::take(&mut self.buffer);
        next
    }

    /// Whether a frame with a body of that size still fits, with the seal after it.
    ///
    /// There is always room for a seal. Without it, a full segment could not be sealed, and a write that fits exactly
    /// would block the log forever.
    pub fn fits(&self, body: usize) -> bool {
        // An empty buffer still costs a header as soon as the first frame is added.
        let used = self.written + self.buffer.len().max(BATCH_FRAME) as u64;
        // The seal may need a batch of its own, with an empty batch before it.
        used + format::frame_size(body) as u64 + (2 * BATCH_FRAME + SEAL_FRAME) as u64 <= self.capacity
    }

    /// The size of a segment that holds an opening and one frame with a body of that size.
    ///
    /// Four batch headers: the one of the opening, the one of the frame if it is written apart, and two for the seal
    /// (see [`Segment::fits`]). A segment is larger than usual if one entry needs it: an entry is never split, because
    /// an entry in two files would have to be read through two mappings.
    pub fn room_for(opening: usize, body: usize) -> u64 {
        let frames = format::frame_size(opening) + format::frame_size(body);
        (SEGMENT_HEADER + 4 * BATCH_FRAME + frames + SEAL_FRAME) as u64
    }

    /// How full it is, in percent.
    ///
    /// The buffer counts: a large batch that is not written yet should order the next segment in time.
    pub fn filled(&self) -> u64 {
        (self.written + self.buffer.len() as u64) * 100 / self.capacity.max(1)
    }

    /// How many of its bytes are still unused.
    pub fn left(&self) -> u64 {
        self.capacity.saturating_sub(self.written + self.buffer.len() as u64)
    }

    /// The size of the file.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many bytes are buffered.
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Adds a frame and returns its offset.
    ///
    /// The body is encoded right into the buffer. An entry brings the checksum that was computed when it was made, so
    /// only the frame's header is checksummed here.
    pub fn frame(&mut self, kind: RecordKind, batch: u64, body: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if self.buffer.is_empty() {
            self.buffer.resize(BATCH_FRAME, 0);
        }
        let start = self.buffer.len();
        let at = self.written + start as u64;
        self.buffer.resize(start + FRAME_HEADER, 0);
        body(&mut self.buffer);
        let length = self.buffer.len() - start - FRAME_HEADER;
        self.chain = write_frame_header(&mut self.buffer[start..], self.salted, at, self.chain, length, kind, batch);
        // The padding is zeroed: recycled files and reused buffers must not leak old bytes into it, and a reader treats
        // any byte in it as damage.
        self.buffer.resize(start + format::frame_size(length), 0);
        self.frames += 1;
        at
    }

    /// Adds an entry's frame.
    pub fn entry(&mut self, batch: u64, position: Position, body: impl FnOnce(&mut Vec<u8>)) {
        let at = self.frame(RecordKind::Entry, batch, body);
        if self.first == Index::ZERO {
            self.first = position.index;
        }
        self.last = position;
        self.marks.entry(position.index, at);
    }

    /// The whole batch, header first, to be written at [`Segment::written`]. The header's number, `more`, `synced` and
    /// `boot` come from `batch`; the other fields are filled in here.
    pub fn batch(&mut self, mut batch: Batch) -> &[u8] {
        if self.buffer.is_empty() {
            self.buffer.resize(BATCH_FRAME, 0);
        }
        batch.bytes = self.buffer.len() as u64;
        batch.frames = self.frames;
        batch.tail = self.chain;
        batch.entries = (self.first, self.last.index);
        // The format has zeros where there is no entry, and not those of the batch before.
        batch.term = if self.first == Index::ZERO { Term::ZERO } else { self.last.term };
        let mut body = Vec::with_capacity(BATCH_FRAME - FRAME_HEADER);
        batch.put(&mut body);
        self.buffer[FRAME_HEADER..BATCH_FRAME].copy_from_slice(&body);
        // A batch header refers to the frame before the batch, and no frame refers to it: it is made last, and a chain
        // through it would have to be computed again with it.
        let previous = match self.frames {
            0 => self.chain,
            _ => u32::from_le_bytes(std::array::from_fn(|i| self.buffer[BATCH_FRAME + 4 + i])),
        };
        let header = &mut self.buffer[..BATCH_FRAME];
        let _named_by_none = write_frame_header(
            header,
            self.salted,
            self.written,
            previous,
            body.len(),
            RecordKind::Batch,
            batch.number,
        );
        &self.buffer
    }

    /// Records that the batch was written: the next one begins after it.
    ///
    /// Called only after the write succeeded. After a failed one the journal is poisoned, and the buffer is never used
    /// again.
    pub fn wrote(&mut self) {
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.frames = 0;
        self.first = Index::ZERO;
        self.last = Position::ZERO;
        self.check();
    }

    /// Panics if an invariant is violated: the next batch header would contradict its batch.
    pub(super) fn check(&self) {
        let buffered = self.buffer.len();
        assert!(
            self.written.is_multiple_of(ALIGN as u64) && buffered.is_multiple_of(ALIGN),
            "frames begin at multiples of 8: the search for the next good one tries no other offset"
        );
        assert!(buffered == 0 || buffered >= BATCH_FRAME, "a buffer begins with space for the batch header");
        assert_eq!(self.frames > 0, buffered > BATCH_FRAME, "a batch header counts the frames of its batch");
        assert_eq!(
            self.first == Index::ZERO,
            self.last.index == Index::ZERO,
            "a batch header names the first and the last entry, or none"
        );
    }
}

/// Fills in the header of the frame at the beginning of `frame`, whose body follows it. Returns the header's checksum.
///
/// The length has three bytes in the format. A larger body would be written with a wrong length, and the checksum over
/// that wrong length would be right: a start would find intact frames that contradict each other.
fn write_frame_header(
    frame: &mut [u8],
    salted: u32,
    at: u64,
    previous: u32,
    length: usize,
    kind: RecordKind,
    batch: u64,
) -> u32 {
    assert!((4..=format::BODY_MAX).contains(&length), "a frame's length fits three bytes");
    let rest = header_rest(previous, length, kind, batch);
    let body = std::array::from_fn(|i| frame[FRAME_HEADER + i]);
    let checksum = header_checksum(salted, at, &rest, body);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
    frame[4..FRAME_HEADER].copy_from_slice(&rest);
    checksum
}
