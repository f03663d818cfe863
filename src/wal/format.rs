//! The binary format of `wal-format.md`: segment headers, frames and their bodies.
//!
//! A frame's header has its own checksum, salted with the segment and the offset, so that neither a misdirected write
//! nor an old record in a recycled file passes for a record. The header's checksum covers the body's checksum, the
//! first four bytes of every body, so that an entry's body is not checksummed again when it is stored.
//!
//! Decoding never trusts a length before its checksum, and never panics: every function here is a target of the fuzzer.

use crate::codec::{self, BufMutExt, Malformed, Reader};
use crate::limits::ENTRY_BYTES_MAX;
use crate::types::{
    ClusterId, ClusterTime, DiskId, HardState, Index, Membership, NodeId, Position, SnapshotPoint, Term,
};
use bytes::{BufMut, Bytes};

/// The first bytes of every segment.
pub const MAGIC: [u8; 8] = *b"dravewal";
/// The version of the segment format; a file with any other version is rejected.
pub const FORMAT_VERSION: u32 = 2;
/// The size of a segment's header in bytes; the first frame follows it.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// The size of a frame's header in bytes.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Frames begin at multiples of this many bytes; the padding between them is zero.
///
/// After damage, the search for the next frame tries multiples of 8 only and is eight times shorter.
pub const FRAME_ALIGNMENT: usize = 8;
/// The largest body of a frame in bytes: the length field has three bytes.
pub const BODY_BYTES_MAX: usize = (1 << 24) - 1;
/// The size of a batch frame in bytes, with its header.
pub const BATCH_FRAME_BYTES: usize = FRAME_HEADER_BYTES + BATCH_BODY_BYTES;
/// The size of a seal frame in bytes, with its header.
pub const SEAL_FRAME_BYTES: usize = FRAME_HEADER_BYTES + SEAL_BODY_BYTES;
/// The flaw of a frame whose header is intact and names a kind of record that this program does not know.
pub const UNKNOWN_KIND_FLAW: Flaw = Flaw::Invalid("an unknown kind of frame");
/// Segment flag: the file is reused from an older segment, whose records may follow the last record of this one.
pub const RECYCLED_FLAG: u32 = 1;

const BATCH_BODY_BYTES: usize = 80;
const SEAL_BODY_BYTES: usize = 32;

const _: () = {
    assert!(SEGMENT_HEADER_BYTES.is_multiple_of(FRAME_ALIGNMENT), "the first frame of a segment is aligned");
    assert!(BATCH_FRAME_BYTES.is_multiple_of(FRAME_ALIGNMENT), "the frame after a batch header is aligned");
    assert!(SEAL_FRAME_BYTES.is_multiple_of(FRAME_ALIGNMENT), "the frame after a seal is aligned");
    assert!(ENTRY_BYTES_MAX as usize + codec::ENTRY_HEADER <= BODY_BYTES_MAX, "the largest entry fits into one frame");
};

/// The kind of a record, which is stored in its frame's header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RecordKind {
    /// The header of a batch: all frames that one system call writes to the file.
    Batch = 1,
    /// The state that a segment inherits from the segments before it.
    Open = 2,
    /// The hard state of the node: term, vote and promised position.
    HardState = 3,
    /// The log restarts after the position of a snapshot.
    Base = 4,
    /// The log up to a position may be removed; the entries after that position stay.
    Release = 5,
    /// A log entry, as `codec` encodes it.
    Entry = 6,
    /// The end of the segment, with the number of its successor.
    Seal = 7,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<RecordKind> {
        [
            RecordKind::Batch,
            RecordKind::Open,
            RecordKind::HardState,
            RecordKind::Base,
            RecordKind::Release,
            RecordKind::Entry,
            RecordKind::Seal,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// The header of a segment, at the beginning of its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// [`RECYCLED_FLAG`], or 0.
    pub flags: u32,
    /// The cluster of the node.
    pub cluster: ClusterId,
    /// The node that wrote the segment.
    pub node: NodeId,
    /// The id of the data directory that the segment was written in.
    pub disk: DiskId,
    /// The segment's number, as in the file's name.
    pub number: u64,
}

impl SegmentHeader {
    /// The salt of all checksums in the segment. The salt is derived from disk and number, so that it is known even for
    /// a segment with a damaged header.
    pub fn salt(&self) -> u64 {
        salt(self.disk, self.number)
    }

    /// Encodes the header, with its checksum in the last four bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(self.flags);
        out.put_u64_le(self.cluster.0);
        out.put_u64_le(self.node.get());
        out.put_u64_le(self.disk.0);
        out.put_u64_le(self.number);
        out.put_u64_le(self.salt());
        out.put_u32_le(0);
        out.put_u32_le(crc32fast::hash(&out));
        let mut header = [0; SEGMENT_HEADER_BYTES];
        header.copy_from_slice(&out);
        header
    }

    /// Decodes the header at the beginning of a file. Fails if the checksum, the version or a flag is wrong.
    pub fn decode(bytes: &Bytes) -> Result<SegmentHeader, Malformed> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(Malformed("too short for a segment"));
        }
        let mut reader = Reader::new(bytes.slice(..SEGMENT_HEADER_BYTES));
        if reader.bytes(8)? != MAGIC[..] {
            return Err(Malformed("not a segment: it does not begin with `dravewal`"));
        }
        let format = reader.u32()?;
        let flags = reader.u32()?;
        let cluster = ClusterId(reader.u64()?);
        let node = reader.node_id();
        let disk = DiskId(reader.u64()?);
        let number = reader.u64()?;
        let stored_salt = reader.u64()?;
        let _reserved = reader.u32()?;
        if reader.u32()? != crc32fast::hash(&bytes[..SEGMENT_HEADER_BYTES - 4]) {
            return Err(Malformed("the segment's header does not match its checksum"));
        }
        if format != FORMAT_VERSION {
            return Err(Malformed("a version of the format that this program does not know"));
        }
        if flags & !RECYCLED_FLAG != 0 {
            return Err(Malformed("a version of the format with flags that this program does not know"));
        }
        let header = SegmentHeader { flags, cluster, node: node?, disk, number };
        if stored_salt != header.salt() {
            return Err(Malformed("the segment's salt is not the one of its disk and number"));
        }
        Ok(header)
    }
}

/// The salt of a segment, from its disk and number. Numbers are never reused, so an old record in a recycled file has
/// another salt.
pub fn salt(disk: DiskId, number: u64) -> u64 {
    let mut hash = disk.0 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The file name of a segment: the number in ten digits, and `.wal`.
pub fn file_name(number: u64) -> String {
    format!("{number:010}.wal")
}

/// The number of the segment with that file name; `None` if the name is not exactly what [`file_name`] returns.
pub fn file_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".wal").filter(|digits| digits.len() >= 10)?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// The size of a frame with a body of that size, header and padding included.
///
/// The length field of a frame does not count the padding, and a reader checks that the padding is zero.
pub const fn frame_size(body: usize) -> usize {
    (FRAME_HEADER_BYTES + body).next_multiple_of(FRAME_ALIGNMENT)
}

/// The checksum of a frame's header: covers the salt, the offset, the other fields of the header, and the checksum with
/// which the body begins.
pub fn header_checksum(salt_crc: u32, at: u64, fields: &[u8; 12], body_checksum: [u8; 4]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(salt_crc);
    let mut checksummed_bytes = [0; 24];
    checksummed_bytes[..8].copy_from_slice(&at.to_le_bytes());
    checksummed_bytes[8..20].copy_from_slice(fields);
    checksummed_bytes[20..].copy_from_slice(&body_checksum);
    crc.update(&checksummed_bytes);
    crc.finalize()
}

/// The initial value of a header's checksum: the CRC-32 of the salt.
pub fn salt_crc(salt: u64) -> u32 {
    crc32fast::hash(&salt.to_le_bytes())
}

/// The fields of a frame's header without its checksum; `body_bytes` is the size of the body.
pub fn header_fields(previous_checksum: u32, body_bytes: usize, kind: RecordKind, batch: u64) -> [u8; 12] {
    let mut fields = [0; 12];
    fields[..4].copy_from_slice(&previous_checksum.to_le_bytes());
    fields[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    fields[7] = kind as u8;
    fields[8..].copy_from_slice(&(batch as u32).to_le_bytes());
    fields
}

/// A frame, which holds one record.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The offset of the frame in the file.
    pub offset: u64,
    /// The checksum of the frame's header, which the next frame repeats.
    pub checksum: u32,
    /// The checksum of the previous frame that is no batch header.
    pub previous_checksum: u32,
    /// The low 32 bits of the batch number.
    pub batch_number_low: u32,
    /// The kind of the record in the body.
    pub kind: RecordKind,
    /// The record's body, which begins with its checksum.
    pub body: Bytes,
}

/// Why there is no valid frame at an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Only zeros where the header would be.
    Blank,
    /// The file ends within the frame.
    Truncated {
        /// The frame's size in bytes, by its header.
        expected: u64,
        /// The number of bytes from the frame's offset to the end of the file.
        available: u64,
    },
    /// The checksum of header or body does not match.
    Checksum {
        /// The checksum that is stored in the frame.
        stored: u32,
        /// The checksum that was computed from the bytes of the frame.
        computed: u32,
    },
    /// The frame is intact, but cannot be valid at this offset; the text says why.
    Invalid(&'static str),
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Flaw::Blank => f.write_str("zeros"),
            Flaw::Truncated { expected, available } => write!(f, "length says {expected}, file has {available}"),
            Flaw::Checksum { stored, computed } => write!(f, "stored {stored:08x} computed {computed:08x}"),
            Flaw::Invalid(description) => f.write_str(description),
        }
    }
}

impl Frame {
    /// The offset of the next frame.
    pub fn end(&self) -> u64 {
        self.offset + frame_size(self.body.len()) as u64
    }

    /// The batch header in this frame; `None` for any other kind of frame.
    ///
    /// Also `None` if an intact frame holds a batch header that cannot be decoded: such a header is evidence of
    /// nothing.
    pub fn batch_header(&self) -> Option<BatchHeader> {
        BatchHeader::decode(&self.body).ok().filter(|_| self.kind == RecordKind::Batch)
    }

    /// Reads the frame at `at` and checks its header and its body.
    pub fn read(file: &Bytes, salt_crc: u32, at: u64) -> Result<Frame, Flaw> {
        Frame::check(file, salt_crc, at)?;
        Frame::read_unchecked(file, at)
    }

    /// Checks header and body of the frame at `at` and returns its end and kind, without building a [`Frame`].
    pub fn check(file: &[u8], salt_crc: u32, at: u64) -> Result<(u64, RecordKind), Flaw> {
        let (frame, body) = Frame::parse(file, Some(salt_crc), at)?;
        let (stored, computed) = (read_u32(body), crc32fast::hash(&body[4..]));
        if stored != computed {
            return Err(Flaw::Checksum { stored, computed });
        }
        let end = at + frame_size(body.len()) as u64;
        let padding = at as usize + FRAME_HEADER_BYTES + body.len()..(end as usize).min(file.len());
        if file[padding].iter().any(|byte| *byte != 0) {
            return Err(Flaw::Invalid("bytes between frames"));
        }
        Ok((end, frame.kind))
    }

    /// Reads the frame at `at` and checks only its header, for callers that check the body themselves.
    pub fn read_without_body_check(file: &Bytes, salt_crc: u32, at: u64) -> Result<Frame, Flaw> {
        let (frame, body) = Frame::parse(file, Some(salt_crc), at)?;
        Ok(Frame { body: file.slice_ref(body), ..frame })
    }

    /// Reads the frame at `at` without any check, for callers that know that [`Frame::read`] accepts it.
    pub fn read_unchecked(file: &Bytes, at: u64) -> Result<Frame, Flaw> {
        let (frame, body) = Frame::parse(file, None, at)?;
        Ok(Frame { body: file.slice_ref(body), ..frame })
    }

    /// Decodes the header, and checks it if `salt_crc` is given. Returns the frame with an empty body, and the body.
    fn parse(file: &[u8], salt_crc: Option<u32>, at: u64) -> Result<(Frame, &[u8]), Flaw> {
        let available = (file.len() as u64).saturating_sub(at);
        let Some(header) = file.get(at as usize..).and_then(|rest| rest.first_chunk::<FRAME_HEADER_BYTES>()) else {
            return Err(Flaw::Truncated { expected: FRAME_HEADER_BYTES as u64, available });
        };
        if *header == [0; FRAME_HEADER_BYTES] {
            return Err(Flaw::Blank);
        }
        let mut fields = [0; 12];
        fields.copy_from_slice(&header[4..]);
        let checksum = read_u32(header);
        // The header's checksum covers the body's checksum: the four bytes after the header, whatever the length is.
        let Some(body_checksum) = file.get(at as usize + FRAME_HEADER_BYTES..).and_then(|rest| rest.first_chunk::<4>())
        else {
            return Err(Flaw::Truncated { expected: FRAME_HEADER_BYTES as u64 + 4, available });
        };
        if let Some(salt_crc) = salt_crc {
            let computed = header_checksum(salt_crc, at, &fields, *body_checksum);
            if checksum != computed {
                return Err(Flaw::Checksum { stored: checksum, computed });
            }
        }
        let length = u32::from_le_bytes([fields[4], fields[5], fields[6], 0]) as usize;
        let Some(kind) = RecordKind::from_byte(fields[7]) else { return Err(UNKNOWN_KIND_FLAW) };
        let expected = (FRAME_HEADER_BYTES + length) as u64;
        if length < 4 {
            return Err(Flaw::Invalid("a body without a checksum"));
        }
        if expected > available {
            return Err(Flaw::Truncated { expected, available });
        }
        let body_start = at as usize + FRAME_HEADER_BYTES;
        let (previous_checksum, batch_number_low) = (read_u32(&fields), read_u32(&fields[8..]));
        let frame = Frame { offset: at, checksum, previous_checksum, batch_number_low, kind, body: Bytes::new() };
        Ok((frame, &file[body_start..body_start + length]))
    }

    /// Whether the kind and the length at `at` can be those of a frame. A cheap test, which computes no checksum.
    pub fn is_plausible(file: &[u8], at: usize) -> bool {
        file.get(at..at + FRAME_HEADER_BYTES + 4).is_some_and(|header| {
            let length = u32::from_le_bytes([header[8], header[9], header[10], 0]) as usize;
            (1..=7).contains(&header[11]) && length >= 4 && at + FRAME_HEADER_BYTES + length <= file.len()
        })
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().copied().map_or(0, u32::from_le_bytes)
}

fn read_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().copied().map_or(0, u64::from_le_bytes)
}

/// The header of a batch, or of one piece of a large batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BatchHeader {
    /// The batch number: one more than that of the previous batch in the journal. All frames that are synced together
    /// have the same batch number; a batch begins only after the previous batch is synced.
    pub number: u64,
    /// Whether another piece of the batch follows, with a header of its own.
    pub has_more_pieces: bool,
    /// The size of the batch or piece in bytes, the frame of this header included.
    pub bytes: u64,
    /// The number of frames after the frame of this header.
    pub frame_count: u32,
    /// The checksum of the last frame, or of the frame before the batch if the batch has no other frame.
    pub last_checksum: u32,
    /// The index of the first and the last entry, in file order; both 0 if there is none.
    pub index_range: (Index, Index),
    /// The term of the last entry; 0 if there is none.
    pub last_term: Term,
    /// Segment and offset: everything before them was synced when the batch was written.
    pub synced_end: (u64, u64),
    /// The id of the kernel boot in which the batch was written.
    pub boot_id: u64,
}

impl BatchHeader {
    /// Encodes the body, its checksum first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_body(out, |out| {
            out.put_u32_le(u32::from(self.has_more_pieces));
            out.put_u64_le(self.number);
            out.put_u64_le(self.bytes);
            out.put_u32_le(self.frame_count);
            out.put_u32_le(self.last_checksum);
            out.put_u64_le(self.index_range.0.0);
            out.put_u64_le(self.index_range.1.0);
            out.put_u64_le(self.last_term.0);
            out.put_u64_le(self.synced_end.0);
            out.put_u64_le(self.synced_end.1);
            out.put_u64_le(self.boot_id);
        });
    }

    /// Decodes the body. Its checksum is not verified here.
    pub fn decode(body: &Bytes) -> Result<BatchHeader, Malformed> {
        let mut reader = fields_after_checksum(body)?;
        let has_more_pieces = match reader.u32()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("unknown flags of a batch")),
        };
        let batch = BatchHeader {
            has_more_pieces,
            number: reader.u64()?,
            bytes: reader.u64()?,
            frame_count: reader.u32()?,
            last_checksum: reader.u32()?,
            index_range: (Index(reader.u64()?), Index(reader.u64()?)),
            last_term: Term(reader.u64()?),
            synced_end: (reader.u64()?, reader.u64()?),
            boot_id: reader.u64()?,
        };
        reader.check_end()?;
        Ok(batch)
    }
}

/// The state that a segment inherits, so that a log can begin with this segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// The term, the vote and the promised position.
    pub hard_state: HardState,
    /// The position of the last entry before this segment.
    pub last_position: Position,
    /// The latest cluster time of any entry so far.
    pub time: ClusterTime,
    /// The position after which the log begins, and the configuration there.
    pub base: SnapshotPoint,
    /// The index of the latest configuration, and the configuration.
    pub configuration: (Index, Membership),
}

impl Opening {
    /// Encodes the body, its checksum first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_body(out, |out| {
            out.put_u32_le(0);
            codec::put_hard_state(out, &self.hard_state);
            out.put_position(self.last_position);
            out.put_u64_le(self.time.0);
            encode_base_fields(out, &self.base);
            out.put_u64_le(self.configuration.0.0);
            codec::put_membership(out, &self.configuration.1);
        });
    }

    /// Decodes the body. Its checksum is not verified here.
    pub fn decode(body: &Bytes) -> Result<Opening, Malformed> {
        let mut reader = fields_after_checksum(body)?;
        let _reserved = reader.u32()?;
        let opening = Opening {
            hard_state: codec::read_hard_state(&mut reader)?,
            last_position: reader.position()?,
            time: ClusterTime(reader.u64()?),
            base: decode_base_fields(&mut reader)?,
            configuration: (Index(reader.u64()?), codec::read_membership(&mut reader)?),
        };
        reader.check_end()?;
        Ok(opening)
    }
}

/// Encodes the body of a hard state record.
pub fn encode_hard_state(out: &mut Vec<u8>, hard_state: &HardState) {
    encode_body(out, |out| {
        out.put_u32_le(0);
        codec::put_hard_state(out, hard_state);
    });
}

/// Decodes the body of a hard state record.
pub fn decode_hard_state(body: &Bytes) -> Result<HardState, Malformed> {
    let mut reader = fields_after_checksum(body)?;
    let _reserved = reader.u32()?;
    let hard_state = codec::read_hard_state(&mut reader)?;
    reader.check_end()?;
    Ok(hard_state)
}

/// Encodes the body of a base or release record.
pub fn encode_base(out: &mut Vec<u8>, base: &SnapshotPoint) {
    encode_body(out, |out| {
        out.put_u32_le(0);
        encode_base_fields(out, base);
    });
}

/// Decodes the body of a base or release record.
pub fn decode_base(body: &Bytes) -> Result<SnapshotPoint, Malformed> {
    let mut reader = fields_after_checksum(body)?;
    let _reserved = reader.u32()?;
    let base = decode_base_fields(&mut reader)?;
    reader.check_end()?;
    Ok(base)
}

fn encode_base_fields(out: &mut Vec<u8>, base: &SnapshotPoint) {
    out.put_position(base.position);
    out.put_u64_le(base.configured.0);
    codec::put_membership(out, &base.membership);
}

fn decode_base_fields(reader: &mut Reader) -> Result<SnapshotPoint, Malformed> {
    Ok(SnapshotPoint {
        position: reader.position()?,
        configured: Index(reader.u64()?),
        membership: codec::read_membership(reader)?,
    })
}

/// The last record of a segment.
///
/// Without a seal, a log whose last file is gone would look like a shorter log that ended cleanly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seal {
    /// The number of the next segment, which existed before the seal was written.
    pub successor_number: u64,
    /// The position of the last entry of the log.
    pub last_position: Position,
}

impl Seal {
    /// Encodes the body, its checksum first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_body(out, |out| {
            out.put_u32_le(0);
            out.put_u64_le(self.successor_number);
            out.put_position(self.last_position);
        });
    }

    /// Decodes the body. Its checksum is not verified here.
    pub fn decode(body: &Bytes) -> Result<Seal, Malformed> {
        let mut reader = fields_after_checksum(body)?;
        let _reserved = reader.u32()?;
        let seal = Seal { successor_number: reader.u64()?, last_position: reader.position()? };
        reader.check_end()?;
        Ok(seal)
    }
}

/// The metadata in an entry's body, without decoding the entry.
///
/// Recovery reads the metadata of each entry of the log, and so decodes no payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryMetadata {
    /// The index and the term of the entry.
    pub position: Position,
    /// The cluster time that the leader gave to the entry.
    pub time: ClusterTime,
    /// Whether the payload is a membership.
    pub is_membership: bool,
}

impl EntryMetadata {
    /// Decodes the metadata. Checks only the length and the kind of the entry, and not its checksum.
    pub fn decode(body: &Bytes) -> Result<EntryMetadata, Malformed> {
        let Some((header, payload)) = body.split_first_chunk::<{ codec::ENTRY_HEADER }>() else {
            return Err(Malformed("ends too early"));
        };
        let length = read_u32(&header[4..]);
        let position = Position::new(Index(read_u64(&header[8..])), Term(read_u64(&header[16..])));
        let time = ClusterTime(read_u64(&header[24..]));
        if (length & 0x00ff_ffff) as usize != payload.len() {
            return Err(Malformed("an entry of another length than its frame"));
        }
        if length >> 24 > u32::from(codec::ENTRY_KIND_MAX) {
            return Err(Malformed("an unknown kind of entry"));
        }
        Ok(EntryMetadata { position, time, is_membership: length >> 24 == 1 })
    }
}

fn encode_body(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_u32_le(0);
    fields(out);
    let checksum = crc32fast::hash(&out[at + 4..]);
    out[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads the fields after a body's checksum. The caller has verified the checksum.
fn fields_after_checksum(body: &Bytes) -> Result<Reader, Malformed> {
    let mut reader = Reader::new(body.clone());
    let _checksum = reader.u32()?;
    Ok(reader)
}
