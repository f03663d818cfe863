//! Inspects a segment, record by record, with recovery's judgment and without opening the journal.

use super::format::{Batch, Flaw, Frame, RECYCLED, RecordKind, SegmentHeader};
use super::scan::{Scan, ScanItem};
use super::sync_marker::LogOffset;
use bytes::Bytes;

/// Facts about a segment from outside of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// Its number.
    pub number: u64,
    /// The offset up to which it was certainly synced: from the sync marker, if that is in this segment.
    pub synced: Option<u64>,
    /// Whether a later segment is in use.
    pub followed: bool,
    /// Whether its header has the flag of a recycled file.
    pub recycled: bool,
    /// The number of its first batch, if the previous segment shows it.
    pub batch: Option<u64>,
}

impl Surroundings {
    /// The facts for the segment with this header.
    pub fn of(header: &SegmentHeader, place: Option<LogOffset>, followed: bool) -> Surroundings {
        let synced = place.filter(|place| place.segment == header.number).map(|place| place.offset);
        Surroundings { number: header.number, synced, followed, recycled: header.flags & RECYCLED != 0, batch: None }
    }
}

/// A record or a flaw in a segment, classified.
#[derive(Clone, Debug)]
pub enum Finding {
    /// A good record.
    Record(Frame),
    /// Damage to bytes that had been synced.
    Bad {
        /// The offset.
        at: u64,
        /// The length, up to the next good record or to the end.
        bytes: u64,
        /// What is wrong.
        flaw: Flaw,
        /// The offset of the next good record.
        next: Option<u64>,
    },
    /// A batch that was being written: normal after a crash. Nothing after it counts.
    Torn {
        /// The offset of the first bad byte.
        at: u64,
        /// The offset of the batch, where recovery cuts.
        cut: u64,
        /// How many good bytes the batch has.
        have: u64,
        /// How many bytes the batch should have; 0 if unknown.
        want: u64,
        /// What is wrong.
        flaw: Flaw,
    },
}

/// An iterator over a segment that distinguishes a torn batch from damage as recovery does.
pub struct Inspection {
    scan: Scan,
    around: Surroundings,
    size: u64,
    /// The batch that is being read: its offset and end, its number, whether it continues in another piece.
    batch: Option<(u64, u64, u64, bool)>,
    sealed: bool,
    ended: bool,
}

impl Inspection {
    /// Begins at the first frame.
    pub fn new(bytes: Bytes, salt: u64, around: Surroundings) -> Inspection {
        let size = bytes.len() as u64;
        Inspection { scan: Scan::new(bytes, salt, None), around, size, batch: None, sealed: false, ended: false }
    }

    /// Whether a seal was read.
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// The number of the next batch, if it is known.
    pub fn batch(&self) -> Option<u64> {
        match self.batch {
            Some((_, _, number, more)) => Some(if more { number } else { number + 1 }),
            None => self.around.batch,
        }
    }

    /// The current offset.
    pub fn at(&self) -> u64 {
        self.scan.at()
    }

    fn judge(&mut self, at: u64, flaw: Flaw, next: Option<u64>) -> Option<Finding> {
        let (begin, end, ..) = self.batch.unwrap_or((at, at, 0, false));
        let begun = at < end;
        let expected = if begun { self.batch.map(|(_, _, number, _)| number) } else { self.batch() };
        let cut = if begun { begin } else { at };
        let later = self.scan.clone().any(|item| match item {
            ScanItem::Frame(frame) => {
                let synced =
                    Batch::read(&frame.body).ok().filter(|_| frame.kind == RecordKind::Batch).map(|batch| batch.synced);
                let newer = frame.batch.wrapping_sub(expected.unwrap_or(0) as u32) as i32 > 0;
                newer || synced.is_some_and(|(segment, offset)| segment == self.around.number && offset > cut)
            }
            ScanItem::Gap { .. } => false,
        });
        let known = expected.is_some();
        let synced = self.around.synced.is_some_and(|synced| synced > cut);
        if (later && known) || synced || self.around.followed || (!known && next.is_some()) {
            let bytes = next.unwrap_or(self.size) - at;
            return Some(Finding::Bad { at, bytes, flaw, next });
        }
        self.ended = true;
        let clean = flaw == Flaw::Blank && !begun && next.is_none();
        if clean || (self.around.recycled && !begun) {
            return None;
        }
        let want = if begun { end - begin } else { 0 };
        Some(Finding::Torn { at, cut, have: at - cut, want, flaw })
    }
}

impl Iterator for Inspection {
    type Item = Finding;

    fn next(&mut self) -> Option<Finding> {
        if self.ended || self.sealed {
            return None;
        }
        match self.scan.next() {
            None => {
                self.ended = true;
                None
            }
            Some(ScanItem::Frame(frame)) => {
                if let Some(batch) = Some(&frame).filter(|frame| frame.kind == RecordKind::Batch)
                    && let Ok(head) = Batch::read(&batch.body)
                {
                    self.batch = Some((frame.at, frame.at.saturating_add(head.bytes), head.number, head.more));
                }
                self.sealed = frame.kind == RecordKind::Seal;
                Some(Finding::Record(frame))
            }
            Some(ScanItem::Gap { at, flaw, next }) => self.judge(at, flaw, next),
        }
    }
}
