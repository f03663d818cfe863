//! Writes and reads frames, and splits and reassembles long ones. The layout is in the documentation of `wire`.
//!
//! A frame that was not split into pieces is not copied when it is read: its content is a slice of the received bytes.

use super::error::WireError;
use crate::limits::{FRAME_BYTES_MAX, FRAME_FRAGMENT_BYTES};
use bytes::{BufMut, Bytes, BytesMut};

/// The size of a frame's header in bytes.
pub const HEADER_BYTES: usize = 12;
/// The maximum content of one frame, or of one piece, in bytes.
pub const PIECE_BYTES_MAX: usize = FRAME_FRAGMENT_BYTES as usize;

/// Content of at least this many bytes is kept as a slice of the received bytes, and shorter content is copied.
const SLICE_BYTES_MIN: usize = 16 << 10;

const PIECE_FLAG: u8 = 1;
const LAST_PIECE_FLAG: u8 = 2;

/// The kind of a frame's content. The number of a variant is its byte on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// The first frame of a connection: the dialing side identifies itself.
    Hello = 1,
    /// The dialed side accepts the connection.
    Welcome = 2,
    /// The dialed side rejects the connection, which then closes.
    Refused = 3,
    /// A consensus message from one node to another.
    Raft = 16,
    /// A client's request that a follower forwards to the leader.
    Forward = 17,
    /// The leader's reply to a forwarded request.
    Answer = 18,
    /// A request from a client to a node.
    Request = 32,
    /// A node's reply to a client.
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
            unknown => return Err(WireError::UnexpectedFrameKind(unknown)),
        })
    }
}

/// A complete frame, reassembled if it was sent in pieces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The kind, which determines how the content is decoded.
    pub kind: FrameKind,
    /// The bytes after the header: at most [`FRAME_BYTES_MAX`].
    pub content: Bytes,
}

/// Copies content that is short, and returns long content unchanged: for content that is kept in memory. One read from
/// a socket returns up to 256 KiB, and the smallest slice of these bytes, such as an entry, keeps all of them in
/// memory.
pub fn copy_if_small(content: Bytes) -> Bytes {
    if content.len() < SLICE_BYTES_MIN { Bytes::copy_from_slice(&content) } else { content }
}

/// Appends a frame, in pieces if it is long. `put_content` appends its content.
pub fn put_frame(out: &mut BytesMut, kind: FrameKind, put_content: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    put_content(out);
    let length = out.len() - start - HEADER_BYTES;
    if length <= PIECE_BYTES_MAX {
        fill_header(&mut out[start..], kind, 0);
        return;
    }
    let long_content = out.split_off(start + HEADER_BYTES);
    out.truncate(start);
    let mut piece_start = 0;
    while piece_start < long_content.len() {
        piece_start = put_piece(out, kind, &long_content, piece_start);
    }
}

/// Appends the piece of a long content that begins at `piece_start`. Returns the end of the piece: the content's
/// length for the last piece.
pub fn put_piece(out: &mut BytesMut, kind: FrameKind, content: &[u8], piece_start: usize) -> usize {
    assert!(content.len() as u64 <= FRAME_BYTES_MAX, "the content of a frame has at most FRAME_BYTES_MAX bytes");
    let piece_end = content.len().min(piece_start + PIECE_BYTES_MAX);
    let flags = if piece_end == content.len() { PIECE_FLAG | LAST_PIECE_FLAG } else { PIECE_FLAG };
    let start = out.len();
    out.reserve(HEADER_BYTES + piece_end - piece_start);
    out.put_bytes(0, HEADER_BYTES);
    out.put_slice(&content[piece_start..piece_end]);
    fill_header(&mut out[start..], kind, flags);
    piece_end
}

/// Fills in the header in front of a frame's content.
fn fill_header(frame: &mut [u8], kind: FrameKind, flags: u8) {
    let (header, content) = frame.split_at_mut(HEADER_BYTES);
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

/// Reads frames from received bytes, and reassembles those that were sent in pieces.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// The kind and the pieces so far of a frame of which the last piece has not arrived; `None` between frames.
    partial_frame: Option<(FrameKind, BytesMut)>,
}

impl FrameReader {
    /// Reads the next frame, and removes its bytes from `input`; `None` if more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        while let Some(header) = input.first_chunk::<HEADER_BYTES>() {
            let (length, kind, flags) = read_header(header)?;
            if input.len() < HEADER_BYTES + length {
                break;
            }
            let mut frame = input.split_to(HEADER_BYTES + length);
            if checksum(&frame[..8], &frame[HEADER_BYTES..]).to_le_bytes() != frame[8..HEADER_BYTES] {
                return Err(WireError::ChecksumMismatch);
            }
            let content = frame.split_off(HEADER_BYTES);
            if flags == 0 {
                return Ok(Some(Frame { kind, content: content.freeze() }));
            }
            if let Some(frame) = self.append_piece(kind, flags, content)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Appends one piece to the partial frame; returns the whole frame after its last piece.
    fn append_piece(&mut self, kind: FrameKind, flags: u8, content: BytesMut) -> Result<Option<Frame>, WireError> {
        let (partial_kind, whole) = self.partial_frame.get_or_insert_with(|| (kind, BytesMut::new()));
        if *partial_kind != kind {
            return Err(WireError::PieceOutOfSequence);
        }
        let length = (whole.len() + content.len()) as u64;
        if length > FRAME_BYTES_MAX {
            return Err(WireError::TooLong { length, limit: FRAME_BYTES_MAX });
        }
        whole.extend_from_slice(&content);
        if flags & LAST_PIECE_FLAG == 0 {
            return Ok(None);
        }
        Ok(self.partial_frame.take().map(|(kind, whole)| Frame { kind, content: whole.freeze() }))
    }

    /// The number of bytes allocated for a partial frame.
    pub fn allocated_bytes(&self) -> usize {
        self.partial_frame.as_ref().map_or(0, |(_, whole)| whole.capacity())
    }

    /// Whether some pieces of a frame have arrived, and not its last one.
    pub fn has_partial_frame(&self) -> bool {
        self.partial_frame.is_some()
    }
}

/// Decodes and checks the length, the kind and the flags of a frame. A length beyond the limit is an error, before any
/// memory is reserved.
fn read_header(header: &[u8; HEADER_BYTES]) -> Result<(usize, FrameKind, u8), WireError> {
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    if length as usize > PIECE_BYTES_MAX {
        return Err(WireError::TooLong { length: u64::from(length), limit: PIECE_BYTES_MAX as u64 });
    }
    let kind = FrameKind::from_byte(header[4])?;
    let flags = header[5];
    if header[6..8] != [0, 0] || !matches!(flags, 0 | PIECE_FLAG | 3) {
        return Err(WireError::PieceOutOfSequence);
    }
    // A frame of the handshake is never longer than one piece.
    if flags != 0 && matches!(kind, FrameKind::Hello | FrameKind::Welcome | FrameKind::Refused) {
        return Err(WireError::PieceOutOfSequence);
    }
    Ok((length as usize, kind, flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode_frame(kind: FrameKind, content: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        put_frame(&mut out, kind, |out| out.put_slice(content));
        out
    }

    #[test]
    fn short_frame_overtakes_long_frame_in_pieces() {
        let long_content: Vec<u8> = (0..3 * PIECE_BYTES_MAX + 7).map(|i| i as u8).collect();
        let mut out = BytesMut::new();
        let mut piece_start = put_piece(&mut out, FrameKind::Raft, &long_content, 0);
        put_frame(&mut out, FrameKind::Raft, |out| out.put_slice(b"beat"));
        while piece_start < long_content.len() {
            piece_start = put_piece(&mut out, FrameKind::Raft, &long_content, piece_start);
        }
        let mut reader = FrameReader::default();
        let first_frame = reader.next(&mut out).unwrap().unwrap();
        assert_eq!(&first_frame.content[..], b"beat");
        assert!(reader.has_partial_frame());
        let second_frame = reader.next(&mut out).unwrap().unwrap();
        assert_eq!(second_frame.content, long_content);
        assert!(!reader.has_partial_frame() && out.is_empty());
        assert_eq!(encode_frame(FrameKind::Raft, &long_content).len(), long_content.len() + 4 * HEADER_BYTES);
    }

    #[test]
    fn interleaved_long_frames_are_rejected() {
        let long_content = vec![0; PIECE_BYTES_MAX + 1];
        let mut out = BytesMut::new();
        put_piece(&mut out, FrameKind::Raft, &long_content, 0);
        put_piece(&mut out, FrameKind::Answer, &long_content, 0);
        assert_eq!(FrameReader::default().next(&mut out), Err(WireError::PieceOutOfSequence));
    }

    #[test]
    fn length_beyond_limit_is_rejected_before_content_arrives() {
        // "GET / HTTP" as a length is half a gigabyte.
        let mut input = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
        assert!(matches!(FrameReader::default().next(&mut input), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn pieces_beyond_frame_limit_are_rejected() {
        let content = vec![0; PIECE_BYTES_MAX + 1];
        let mut reader = FrameReader::default();
        let mut piece_count = 0;
        let error = loop {
            let mut out = BytesMut::new();
            put_piece(&mut out, FrameKind::Raft, &content, 0);
            match reader.next(&mut out) {
                Ok(None) => piece_count += 1,
                other => break other,
            }
        };
        assert!(matches!(error, Err(WireError::TooLong { .. })));
        assert_eq!(piece_count * PIECE_BYTES_MAX as u64, FRAME_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn frames_split_anywhere_parse_the_same(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in 1..50usize,
        ) {
            let mut sent_bytes = BytesMut::new();
            for content in &contents {
                put_frame(&mut sent_bytes, FrameKind::Request, |out| out.put_slice(content));
            }
            let (mut reader, mut input, mut received) = (FrameReader::default(), BytesMut::new(), Vec::new());
            for chunk in sent_bytes.chunks(cut) {
                input.extend_from_slice(chunk);
                while let Some(frame) = reader.next(&mut input).unwrap() {
                    received.push(frame.content.to_vec());
                }
            }
            prop_assert_eq!(received, contents);
        }

        #[test]
        fn frame_with_flipped_bit_is_never_accepted(content: Vec<u8>, at: prop::sample::Index, bit in 0..8) {
            let mut out = encode_frame(FrameKind::Reply, &content);
            let flipped_byte = at.index(out.len());
            out[flipped_byte] ^= 1u8 << bit;
            prop_assert!(!matches!(FrameReader::default().next(&mut out), Ok(Some(_))));
        }

        #[test]
        fn garbage_input_does_not_panic(bytes: Vec<u8>) {
            let _any_result = FrameReader::default().next(&mut BytesMut::from(&bytes[..]));
        }
    }
}
