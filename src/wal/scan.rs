//! Walks the bytes of a segment, record by record, and over damage to the next good one.
//!
//! Recovery and `dump` read through this one, so that what the one believes the other shows.

use super::format::{ALIGN, Flaw, Frame, RecordKind, SEGMENT_HEADER, salted};
use bytes::Bytes;

/// Zeros are looked for in pieces of this size.
const ZEROS: usize = 4 << 10;

/// What stands at a place of a segment.
#[derive(Clone, Debug)]
pub enum ScanItem {
    /// A good frame.
    Frame(Frame),
    /// No good frame, up to the next one or to the end.
    Gap {
        /// Where the next frame should have begun.
        at: u64,
        /// What is wrong there.
        flaw: Flaw,
        /// Where the next good frame begins, if there is one.
        next: Option<u64>,
    },
}

/// A walk through a segment.
#[derive(Clone, Debug)]
pub struct Scan {
    bytes: Bytes,
    salted: u32,
    at: u64,
    /// The checksum of the last frame that was no batch header; `None` where it is not known.
    chain: Option<u32>,
    /// Frame by frame, all before this was found whole by somebody else.
    whole: u64,
    ended: bool,
}

impl Scan {
    /// From the first frame of a segment with that salt; `chain` is the checksum of the last frame
    /// of the segment before it, if that is known.
    pub fn new(bytes: Bytes, salt: u64, chain: Option<u32>) -> Scan {
        Scan { bytes, salted: salted(salt), at: SEGMENT_HEADER as u64, chain, whole: 0, ended: false }
    }

    /// The same scan, which does not compute the checksums of the frames before `upto` again:
    /// [`super::parallel_checksum::whole`] has found them intact.
    pub fn known_to(self, upto: u64) -> Scan {
        Scan { whole: upto, ..self }
    }

    /// Where it stands: behind the last item.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The checksum by which the next frame must name the one before it.
    pub fn link(&self) -> Option<u32> {
        self.chain
    }

    fn frame(&self) -> Result<Frame, Flaw> {
        let frame = match self.at < self.whole {
            true => Frame::known(&self.bytes, self.at)?,
            false => Frame::read(&self.bytes, self.salted, self.at)?,
        };
        match self.chain {
            Some(chain) if chain != frame.previous => Err(Flaw::Wrong("a record before this one is missing")),
            _ => Ok(frame),
        }
    }

    /// The next place from `from` on where a whole frame stands. Everything between is looked at:
    /// a length that may be damaged leads nowhere.
    fn next_good(&self, from: u64) -> Option<u64> {
        let mut at = (from as usize).next_multiple_of(ALIGN);
        while at < self.bytes.len() {
            if Frame::plausible(&self.bytes, at) && Frame::check(&self.bytes, self.salted, at as u64).is_ok() {
                return Some(at as u64);
            }
            at += ALIGN;
        }
        None
    }
}

impl Iterator for Scan {
    type Item = ScanItem;

    fn next(&mut self) -> Option<ScanItem> {
        if self.ended || self.at as usize >= self.bytes.len() {
            return None;
        }
        match self.frame() {
            Ok(frame) => {
                self.at = frame.end();
                if frame.kind != RecordKind::Batch {
                    self.chain = Some(frame.checksum);
                }
                Some(ScanItem::Frame(frame))
            }
            Err(flaw) => {
                let at = self.at;
                // A frame that is good but for its chain is where to go on from.
                let from = if flaw == Flaw::Wrong("a record before this one is missing") { at } else { at + 1 };
                let next = self.next_good(from);
                self.chain = None;
                // Where it goes on may be none of the places that were looked at.
                self.whole = 0;
                match next {
                    Some(next) => self.at = next,
                    None => self.ended = true,
                }
                Some(ScanItem::Gap { at, flaw, next })
            }
        }
    }
}

/// Where the last byte that is not zero stands, if it is at `from` or behind it.
pub fn last_written(bytes: &[u8], from: u64) -> Option<u64> {
    let rest = bytes.get(from as usize..)?;
    let mut end = rest.len();
    // Mostly there is none, and far to go: many bytes at a time, as far as all of them are zero.
    for piece in rest.rchunks(ZEROS) {
        if piece.iter().fold(0, |all, byte| all | byte) != 0 {
            break;
        }
        end -= piece.len();
    }
    rest[..end].iter().rposition(|byte| *byte != 0).map(|at| from + at as u64)
}
