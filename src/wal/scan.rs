//! Iterates over the frames of a segment. After damage, the scan continues at the next good frame.
//!
//! Recovery and `dump` use the same scan, so that `dump` shows the records that recovery accepts.
//!
//! A scan decides only what the bytes alone show: whether a frame is intact, and whether it repeats the checksum of the
//! frame before it. After damage the scan trusts no length. A damaged length field could skip good frames, or lead into
//! the middle of a payload that happens to contain a copy of a segment. A frame in such a copy is not valid at its
//! offset, because the header's checksum covers the salt and the offset.

use super::format::{FRAME_ALIGNMENT, Flaw, Frame, RecordKind, SEGMENT_HEADER_BYTES, salt_crc};
use bytes::Bytes;

/// The size in bytes of the blocks that [`last_nonzero`] tests for zeros.
const ZERO_BLOCK_BYTES: usize = 4 << 10;

/// A frame, or a gap without a frame.
///
/// A gap is an item and not an error: a gap may be damage, a torn write or the end of the log, which [`super::tail`]
/// decides.
#[derive(Clone, Debug)]
pub enum ScanItem {
    /// A frame that is intact and repeats the checksum of the frame before it, if that checksum is known.
    Frame(Frame),
    /// A range of bytes without a good frame, up to the next good frame or to the end of the file.
    Gap {
        /// The offset at which a frame should begin.
        at: u64,
        /// What is wrong at that offset.
        flaw: Flaw,
        /// The offset of the next good frame, if there is one.
        next_good_offset: Option<u64>,
    },
}

/// An iterator over the frames of a segment.
///
/// Invariant: each item moves the offset forward or ends the scan, so that a scan of any bytes is finite. There
/// is one exception: after a frame whose only flaw is its chain, the scan stays at the same offset. The last checksum
/// is unknown then, and the same frame is accepted as the next item.
#[derive(Clone, Debug)]
pub struct Scan {
    bytes: Bytes,
    salt_crc: u32,
    offset: u64,
    /// The checksum of the last frame that is no batch header; `None` if unknown.
    last_checksum: Option<u32>,
    /// Another thread has found all frames before this offset intact.
    intact_end: u64,
    has_ended: bool,
}

impl Scan {
    /// Begins at the first frame of a segment with that salt. `last_checksum` is that of the previous segment's last
    /// frame, if that checksum is known.
    ///
    /// The salt is an argument and not read from the header, so that a segment with a damaged header can still be read.
    pub fn new(bytes: Bytes, salt: u64, last_checksum: Option<u32>) -> Scan {
        Scan {
            bytes,
            salt_crc: salt_crc(salt),
            offset: SEGMENT_HEADER_BYTES as u64,
            last_checksum,
            intact_end: 0,
            has_ended: false,
        }
    }

    /// The same scan, which does not compute the checksums of the frames before `offset`, because
    /// [`super::parallel_checksum::verified_prefix_end`] has found these frames intact.
    ///
    /// The chain is still compared: an intact frame may be the wrong one, which only the frame before it shows.
    pub fn skip_checksums_before(self, offset: u64) -> Scan {
        Scan { intact_end: offset, ..self }
    }

    /// The current offset, at the end of the last item.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The checksum that the next frame must repeat; `None` if unknown.
    pub fn last_checksum(&self) -> Option<u32> {
        self.last_checksum
    }

    /// Reads the frame at the current offset and checks that the frame follows the last one.
    fn read_frame(&self) -> Result<Frame, Flaw> {
        let frame = match self.offset < self.intact_end {
            true => Frame::read_unchecked(&self.bytes, self.offset)?,
            false => Frame::read(&self.bytes, self.salt_crc, self.offset)?,
        };
        match self.last_checksum {
            Some(last) if last != frame.previous_checksum => Err(Flaw::Invalid("a record before this one is missing")),
            _ => Ok(frame),
        }
    }

    /// The offset of the next good frame at or after `from`. Every aligned offset is tried, since a damaged length
    /// cannot be followed.
    ///
    /// The cheap test comes first, since nearly every offset fails it. A checksum at each of the eight million offsets
    /// of a segment would take too long for an operator who waits for the result.
    fn find_next_good_frame(&self, from: u64) -> Option<u64> {
        let mut at = (from as usize).next_multiple_of(FRAME_ALIGNMENT);
        while at < self.bytes.len() {
            if Frame::is_plausible(&self.bytes, at) && Frame::check(&self.bytes, self.salt_crc, at as u64).is_ok() {
                return Some(at as u64);
            }
            at += FRAME_ALIGNMENT;
        }
        None
    }
}

impl Iterator for Scan {
    type Item = ScanItem;

    fn next(&mut self) -> Option<ScanItem> {
        if self.has_ended || self.offset as usize >= self.bytes.len() {
            return None;
        }
        match self.read_frame() {
            Ok(frame) => {
                self.offset = frame.end();
                // A batch header is no part of the chain: it is encoded last, after the frames that follow it.
                if frame.kind != RecordKind::Batch {
                    self.last_checksum = Some(frame.checksum);
                }
                Some(ScanItem::Frame(frame))
            }
            Err(flaw) => {
                let at = self.offset;
                // If the chain is the frame's only flaw, the scan continues with this frame. Any other flaw would be
                // met again at the same offset, forever.
                let search_start =
                    if flaw == Flaw::Invalid("a record before this one is missing") { at } else { at + 1 };
                let next_good_offset = self.find_next_good_frame(search_start);
                // The next good frame repeats the checksum of a frame that may be lost, so it is compared with nothing.
                self.last_checksum = None;
                // The verified prefix ends at the flaw: from here on, each checksum is computed.
                self.intact_end = 0;
                match next_good_offset {
                    Some(next_good_offset) => self.offset = next_good_offset,
                    None => self.has_ended = true,
                }
                Some(ScanItem::Gap { at, flaw, next_good_offset })
            }
        }
    }
}

/// The offset of the last non-zero byte at or after `from`, if there is one.
///
/// The caller overwrites a tail with zeros up to this byte, and reports the number of bytes that were cut. A new
/// segment is almost all zeros, and a test of each byte would be the slowest part of a start.
pub fn last_nonzero(bytes: &[u8], from: u64) -> Option<u64> {
    let rest = bytes.get(from as usize..)?;
    let mut end = rest.len();
    // Usually a long range has no non-zero byte, so whole blocks are tested first.
    for piece in rest.rchunks(ZERO_BLOCK_BYTES) {
        if piece.iter().fold(0, |all, byte| all | byte) != 0 {
            break;
        }
        end -= piece.len();
    }
    rest[..end].iter().rposition(|byte| *byte != 0).map(|at| from + at as u64)
}
