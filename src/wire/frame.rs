//! Frames: length, kind, checksum; and frames in pieces.
//!
//! The module's documentation has the layout. Reading does not copy a whole frame: its content is a slice of the
//! received bytes.

use super::error::WireError;
use crate::limits::{FRAGMENT_BYTES, FRAME_BYTES_MAX};
use bytes::{BufMut, Bytes, BytesMut};

/// The size of a frame's header in bytes.
pub const HEADER: usize = 12;
/// The maximum content of one frame, or of one piece, in bytes.
pub const PIECE_MAX: usize = FRAGMENT_BYTES as usize;

/// Data that is kept from shorter frames is copied.
const SLICED: usize = 16 << 10;

const PIECE: u8 = 1;
const LAST: u8 = 2;

/// What a frame carries; the number is its byte on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// The dialing side identifies itself.
    Hello = 1,
    /// The connection is accepted.
    Welcome = 2,
    /// The connection is rejected.
    Refused = 3,
    /// A consensus message.
    Raft = 16,
    /// A forwarded request of a client.
    Forward = 17,
    /// The reply to a forwarded request.
    Answer = 18,
    /// A client's request.
    Request = 32,
    /// The reply to a client's request.
    Reply = 33,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Result<FrameKind, WireError> {
        Ok(match byte {
            1 => FrameKind::Hello,
            2 => FrameKind::Welcome,
            3 => FrameKind::Refused,
            16 => FrameKind::Raft,
            17 => FrameKind::Forward,
            18 => FrameKind::Answer,
            32 => FrameKind::Request,
            33 => FrameKind::Reply,
            other => return Err(WireError::Kind(other)),
        })
    }
}

/// A whole frame, as it was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its kind.
    pub kind: FrameKind,
    /// Its content.
    pub content: Bytes,
}

/// The content in a form to keep: a slice of the received bytes, or a copy if it is short. One read returns up to 256
/// KiB, and the smallest slice, say an entry, keeps all of it in memory as long as it lives.
pub fn copy_if_small(content: Bytes) -> Bytes {
    if content.len() < SLICED { Bytes::copy_from_slice(&content) } else { content }
}

/// Appends a frame whose content `content` appends; in pieces if it is long.
pub fn put_frame(out: &mut BytesMut, kind: FrameKind, content: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, HEADER);
    content(out);
    let length = out.len() - start - HEADER;
    if length <= PIECE_MAX {
        seal(&mut out[start..], kind, 0);
        return;
    }
    let long = out.split_off(start + HEADER);
    out.truncate(start);
    let mut sent = 0;
    while sent < long.len() {
        sent = put_piece(out, kind, &long, sent);
    }
}

/// Appends the piece of a long content that begins at `from`; returns its end, the content's length for the last piece.
pub fn put_piece(out: &mut BytesMut, kind: FrameKind, content: &[u8], from: usize) -> usize {
    assert!(content.len() as u64 <= FRAME_BYTES_MAX, "the content of a frame is at most FRAME_BYTES_MAX");
    let upto = content.len().min(from + PIECE_MAX);
    let flags = if upto == content.len() { PIECE | LAST } else { PIECE };
    let start = out.len();
    out.reserve(HEADER + upto - from);
    out.put_bytes(0, HEADER);
    out.put_slice(&content[from..upto]);
    seal(&mut out[start..], kind, flags);
    upto
}

/// Fills in the header in front of a frame's content.
fn seal(frame: &mut [u8], kind: FrameKind, flags: u8) {
    let (header, content) = frame.split_at_mut(HEADER);
    header[..4].copy_from_slice(&(content.len() as u32).to_le_bytes());
    header[4] = kind as u8;
    header[5] = flags;
    let crc = checksum(&header[..8], content);
    header[8..].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(header: &[u8], content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(content);
    crc.finalize()
}

/// Reads frames from received bytes, and reassembles frames in pieces.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// The frame that is being reassembled, if there is one.
    pieces: Option<(FrameKind, BytesMut)>,
}

impl FrameReader {
    /// The next whole frame, if it is complete; removes the bytes it has read from `input`.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        while let Some(header) = input.first_chunk::<HEADER>() {
            let (length, kind, flags) = read_header(header)?;
            if input.len() < HEADER + length {
                break;
            }
            let mut frame = input.split_to(HEADER + length);
            if checksum(&frame[..8], &frame[HEADER..]).to_le_bytes() != frame[8..HEADER] {
                return Err(WireError::Checksum);
            }
            let content = frame.split_off(HEADER);
            if flags == 0 {
                return Ok(Some(Frame { kind, content: content.freeze() }));
            }
            if let Some(frame) = self.piece(kind, flags, content)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Appends one piece; returns the frame after the last piece.
    fn piece(&mut self, kind: FrameKind, flags: u8, content: BytesMut) -> Result<Option<Frame>, WireError> {
        let (begun, whole) = self.pieces.get_or_insert_with(|| (kind, BytesMut::new()));
        if *begun != kind {
            return Err(WireError::OutOfPlace);
        }
        let length = (whole.len() + content.len()) as u64;
        if length > FRAME_BYTES_MAX {
            return Err(WireError::TooLong { length, limit: FRAME_BYTES_MAX });
        }
        whole.extend_from_slice(&content);
        if flags & LAST == 0 {
            return Ok(None);
        }
        Ok(self.pieces.take().map(|(kind, whole)| Frame { kind, content: whole.freeze() }))
    }

    /// How many bytes are allocated for a frame in pieces.
    pub fn held(&self) -> usize {
        self.pieces.as_ref().map_or(0, |(_, whole)| whole.capacity())
    }

    /// Whether a frame in pieces is incomplete.
    pub fn is_midway(&self) -> bool {
        self.pieces.is_some()
    }
}

/// Length, kind and flags, checked: no memory is reserved for a length beyond the limit.
fn read_header(header: &[u8; HEADER]) -> Result<(usize, FrameKind, u8), WireError> {
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    if length as usize > PIECE_MAX {
        return Err(WireError::TooLong { length: u64::from(length), limit: PIECE_MAX as u64 });
    }
    let kind = FrameKind::from_byte(header[4])?;
    let flags = header[5];
    if header[6..8] != [0, 0] || !matches!(flags, 0 | PIECE | 3) {
        return Err(WireError::OutOfPlace);
    }
    // Only the other kinds can be longer than a piece; a hello in pieces is invalid.
    if flags != 0 && matches!(kind, FrameKind::Hello | FrameKind::Welcome | FrameKind::Refused) {
        return Err(WireError::OutOfPlace);
    }
    Ok((length as usize, kind, flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(kind: FrameKind, content: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        put_frame(&mut out, kind, |out| out.put_slice(content));
        out
    }

    #[test]
    fn short_frame_overtakes_long_frame_in_pieces() {
        let long: Vec<u8> = (0..3 * PIECE_MAX + 7).map(|i| i as u8).collect();
        let mut out = BytesMut::new();
        let next = put_piece(&mut out, FrameKind::Raft, &long, 0);
        put_frame(&mut out, FrameKind::Raft, |out| out.put_slice(b"beat"));
        let mut sent = next;
        while sent < long.len() {
            sent = put_piece(&mut out, FrameKind::Raft, &long, sent);
        }
        let mut reader = FrameReader::default();
        let first = reader.next(&mut out).unwrap().unwrap();
        assert_eq!(&first.content[..], b"beat");
        assert!(reader.is_midway());
        let second = reader.next(&mut out).unwrap().unwrap();
        assert_eq!(second.content, long);
        assert!(!reader.is_midway() && out.is_empty());
        assert_eq!(framed(FrameKind::Raft, &long).len(), long.len() + 4 * HEADER);
    }

    #[test]
    fn interleaved_long_frames_are_rejected() {
        let long = vec![0; PIECE_MAX + 1];
        let mut out = BytesMut::new();
        put_piece(&mut out, FrameKind::Raft, &long, 0);
        put_piece(&mut out, FrameKind::Answer, &long, 0);
        assert_eq!(FrameReader::default().next(&mut out), Err(WireError::OutOfPlace));
    }

    #[test]
    fn frame_length_is_checked_first() {
        // "GET / HTTP" as a length is half a gigabyte.
        let mut input = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
        assert!(matches!(FrameReader::default().next(&mut input), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn pieces_beyond_frame_limit_are_rejected() {
        let piece = vec![0; PIECE_MAX + 1];
        let mut reader = FrameReader::default();
        let mut pieces = 0;
        let error = loop {
            let mut out = BytesMut::new();
            put_piece(&mut out, FrameKind::Raft, &piece, 0);
            match reader.next(&mut out) {
                Ok(None) => pieces += 1,
                other => break other,
            }
        };
        assert!(matches!(error, Err(WireError::TooLong { .. })));
        assert_eq!(pieces * PIECE_MAX as u64, FRAME_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn frames_split_anywhere_parse_the_same(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in 1..50usize,
        ) {
            let mut sent = BytesMut::new();
            for content in &contents {
                put_frame(&mut sent, FrameKind::Request, |out| out.put_slice(content));
            }
            let (mut reader, mut input, mut back) = (FrameReader::default(), BytesMut::new(), Vec::new());
            for chunk in sent.chunks(cut) {
                input.extend_from_slice(chunk);
                while let Some(frame) = reader.next(&mut input).unwrap() {
                    back.push(frame.content.to_vec());
                }
            }
            prop_assert_eq!(back, contents);
        }

        #[test]
        fn frame_with_flipped_bit_is_never_accepted(content: Vec<u8>, at: prop::sample::Index, bit in 0..8) {
            let mut out = framed(FrameKind::Reply, &content);
            let at = at.index(out.len());
            out[at] ^= 1u8 << bit;
            prop_assert!(!matches!(FrameReader::default().next(&mut out), Ok(Some(_))));
        }

        #[test]
        fn garbage_input_does_not_panic(bytes: Vec<u8>) {
            let _either = FrameReader::default().next(&mut BytesMut::from(&bytes[..]));
        }
    }
}
