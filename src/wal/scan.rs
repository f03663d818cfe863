//! Walks through the frames of a segment, and over damage to the next good frame.
//!
//! Recovery and `dump` use the same scan, so that `dump` shows the records that recovery accepts.
//!
//! A scan answers only what the bytes alone can answer: is there an intact frame, and does it name the frame before it?
//! After damage it does not trust any length. A damaged length field would swallow the frames behind it, or lead into
//! the middle of a payload that happens to contain a copy of a segment. The header's checksum covers the salt and the
//! offset, so a copy in a payload is no frame where it lies.

use super::format::{ALIGN, Flaw, Frame, RecordKind, SEGMENT_HEADER, salted};
use bytes::Bytes;

/// Zeros are searched for in blocks of this size.
const ZEROS: usize = 4 << 10;

/// A frame, or a gap without one.
///
/// A gap is an item and not an error: whether it is damage, a torn write or the end of the log is for [`super::tail`]
/// to say.
#[derive(Clone, Debug)]
pub enum ScanItem {
    /// A good frame.
    Frame(Frame),
    /// No good frame up to the next one, or up to the end.
    Gap {
        /// The offset at which a frame should begin.
        at: u64,
        /// What is wrong at that offset.
        flaw: Flaw,
        /// The offset of the next good frame, if there is one.
        next: Option<u64>,
    },
}

/// An iterator over a segment.
///
/// Invariant: each item moves the offset forward or ends the scan, so that a scan of any bytes comes to an end. Only a
/// gap at a broken chain stays where it is, and the chain is then unknown, so the same frame is good the next time.
#[derive(Clone, Debug)]
pub struct Scan {
    bytes: Bytes,
    salted: u32,
    at: u64,
    /// The checksum of the last frame, not counting batch headers; `None` if unknown.
    chain: Option<u32>,
    /// All frames before this offset were found intact elsewhere.
    whole: u64,
    ended: bool,
}

impl Scan {
    /// Begins at the first frame of a segment with that salt. `chain` is the checksum of the previous segment's last
    /// frame, if it is known.
    ///
    /// The salt is an argument and not read from the header, so that a segment with a damaged header can still be read.
    pub fn new(bytes: Bytes, salt: u64, chain: Option<u32>) -> Scan {
        Scan { bytes, salted: salted(salt), at: SEGMENT_HEADER as u64, chain, whole: 0, ended: false }
    }

    /// The same scan, which does not compute the checksums of the frames before `upto` again:
    /// [`super::parallel_checksum::whole`] has found them intact.
    ///
    /// The chain is still compared: an intact frame may be the wrong one, and whether it is depends on the frame
    /// before.
    pub fn known_to(self, upto: u64) -> Scan {
        Scan { whole: upto, ..self }
    }

    /// The current offset, at the end of the last item.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The checksum of the previous frame, to which the next frame must refer.
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

    /// The offset of the next good frame at or after `from`. Every aligned offset is tried, since a damaged length
    /// cannot be followed.
    ///
    /// The cheap test comes first, since nearly every offset fails it. A full checksum at each of eight million offsets
    /// of a segment would take long enough to make an operator give up on a tool that is about to find the damage.
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
                // A batch header is written last, when the frames behind it have their checksums. A chain through it
                // would go through bytes that are not known yet.
                if frame.kind != RecordKind::Batch {
                    self.chain = Some(frame.checksum);
                }
                Some(ScanItem::Frame(frame))
            }
            Err(flaw) => {
                let at = self.at;
                // A frame whose only flaw is its chain is where the scan continues.
                // Any other flaw would be met again at the same offset, forever.
                let from = if flaw == Flaw::Wrong("a record before this one is missing") { at } else { at + 1 };
                let next = self.next_good(from);
                // What comes next cannot name a frame that was lost.
                self.chain = None;
                // The scan may continue at an offset that was not checked ahead.
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

/// The offset of the last non-zero byte at or after `from`, if there is one.
///
/// It decides how much of a tail is overwritten with zeros, and how many bytes an operator is told about. A new segment
/// is almost all zeros, and one byte at a time would be the slowest part of a start.
pub fn last_written(bytes: &[u8], from: u64) -> Option<u64> {
    let rest = bytes.get(from as usize..)?;
    let mut end = rest.len();
    // Usually there is none in a long range, so whole blocks are tested for zeros first.
    for piece in rest.rchunks(ZEROS) {
        if piece.iter().fold(0, |all, byte| all | byte) != 0 {
            break;
        }
        end -= piece.len();
    }
    rest[..end].iter().rposition(|byte| *byte != 0).map(|at| from + at as u64)
}
