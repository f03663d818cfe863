//! The binary format of `wal-format.md`: segment headers, frames and their bodies.
//!
//! A frame's header has its own checksum, salted with the segment and the offset, so that neither a misdirected write
//! nor an old record in a recycled file passes for a record. It covers the checksum with which every body begins, so
//! that an entry's body is not checksummed again to be stored.
//!
//! Decoding never trusts a length before its checksum, and never panics: every function here is a target of the fuzzer.

use crate::codec::{self, Malformed, Put, Reader};
use crate::limits::ENTRY_BYTES_MAX;
use crate::types::{
    ClusterId, ClusterTime, DiskId, HardState, Index, Membership, NodeId, Position, SnapshotPoint, Term,
};
use bytes::{BufMut, Bytes};

/// The first bytes of every segment.
pub const MAGIC: [u8; 8] = *b"dravewal";
/// The version of the format.
pub const FORMAT: u32 = 2;
/// The size of a segment's header in bytes; the first frame follows it.
pub const SEGMENT_HEADER: usize = 64;
/// The size of a frame's header in bytes.
pub const FRAME_HEADER: usize = 16;
/// Frames begin at multiples of this; the padding between them is zero.
///
/// Damage hides where the next frame begins, and a search at multiples of 8 is eight times shorter.
pub const ALIGN: usize = 8;
/// The largest body of a frame in bytes: the length field has three bytes.
pub const BODY_MAX: usize = (1 << 24) - 1;
/// The size of a batch frame in bytes, with its header.
pub const BATCH_FRAME: usize = FRAME_HEADER + BATCH_BODY;
/// The size of a seal frame in bytes, with its header.
pub const SEAL_FRAME: usize = FRAME_HEADER + SEAL_BODY;
/// The flaw of an intact frame header with a kind that this program does not know.
pub const UNKNOWN_KIND: Flaw = Flaw::Wrong("an unknown kind of frame");
/// Segment flag: the file is an older segment's, whose records may follow the last of this one.
pub const RECYCLED: u32 = 1;

const BATCH_BODY: usize = 80;
const SEAL_BODY: usize = 32;

const _: () = {
    let aligned = SEGMENT_HEADER.is_multiple_of(ALIGN) && BATCH_FRAME.is_multiple_of(ALIGN);
    assert!(aligned && SEAL_FRAME.is_multiple_of(ALIGN), "a frame follows another without a gap");
    assert!(ENTRY_BYTES_MAX as usize + codec::ENTRY_HEADER <= BODY_MAX, "an entry is one frame, whatever its size");
};

/// The kind of a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RecordKind {
    /// The header of a batch: all frames that one write put into the file.
    Batch = 1,
    /// The state that a segment inherits.
    Open = 2,
    /// A term and a vote.
    Hard = 3,
    /// The log restarts after a position.
    Base = 4,
    /// The log up to a position may be removed; the entries after it stay.
    Release = 5,
    /// An entry.
    Entry = 6,
    /// The end of the segment, with the number of its successor.
    Seal = 7,
}

impl RecordKind {
    fn of(byte: u8) -> Option<RecordKind> {
        [
            RecordKind::Batch,
            RecordKind::Open,
            RecordKind::Hard,
            RecordKind::Base,
            RecordKind::Release,
            RecordKind::Entry,
            RecordKind::Seal,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// The header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// [`RECYCLED`], or 0.
    pub flags: u32,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The node it belongs to.
    pub node: NodeId,
    /// The data directory it belongs to.
    pub disk: DiskId,
    /// The segment's number, as in the file's name.
    pub number: u64,
}

impl SegmentHeader {
    /// The salt of all its checksums. It is derived from disk and number, so that it is known even for a segment with a
    /// damaged header.
    pub fn salt(&self) -> u64 {
        salt(self.disk, self.number)
    }

    /// Encodes the header.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(self.flags);
        out.put_u64_le(self.cluster.0);
        out.put_u64_le(self.node.get());
        out.put_u64_le(self.disk.0);
        out.put_u64_le(self.number);
        out.put_u64_le(self.salt());
        out.put_u32_le(0);
        out.put_u32_le(crc32fast::hash(&out));
        let mut header = [0; SEGMENT_HEADER];
        header.copy_from_slice(&out);
        header
    }

    /// Decodes the header at the beginning of a file.
    pub fn decode(bytes: &Bytes) -> Result<SegmentHeader, Malformed> {
        if bytes.len() < SEGMENT_HEADER {
            return Err(Malformed("too short for a segment"));
        }
        let mut reader = Reader::new(bytes.slice(..SEGMENT_HEADER));
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
        if reader.u32()? != crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]) {
            return Err(Malformed("the segment's header does not match its checksum"));
        }
        if format != FORMAT {
            return Err(Malformed("a version of the format that this program does not know"));
        }
        if flags & !RECYCLED != 0 {
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
    let mut z = disk.0 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The file name of a segment.
pub fn file_name(number: u64) -> String {
    format!("{number:010}.wal")
}

/// The number of the segment with that file name; `None` if it is no segment's name.
pub fn file_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".wal").filter(|digits| digits.len() >= 10)?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// The size of a frame with a body of that size, with header and padding.
///
/// The padding is never counted in a frame's length, and is checked to be zero.
pub const fn frame_size(body: usize) -> usize {
    (FRAME_HEADER + body).next_multiple_of(ALIGN)
}

/// The checksum of a frame's header: covers the salt, the offset, the rest of the header, and the checksum with which
/// the body begins.
pub fn header_checksum(salted: u32, at: u64, rest: &[u8; 12], body: [u8; 4]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(salted);
    let mut covered = [0; 24];
    covered[..8].copy_from_slice(&at.to_le_bytes());
    covered[8..20].copy_from_slice(rest);
    covered[20..].copy_from_slice(&body);
    crc.update(&covered);
    crc.finalize()
}

/// The initial value of a header's checksum: the CRC-32 of the salt.
pub fn salted(salt: u64) -> u32 {
    crc32fast::hash(&salt.to_le_bytes())
}

/// A frame's header without its checksum.
pub fn header_rest(previous: u32, body: usize, kind: RecordKind, batch: u64) -> [u8; 12] {
    let mut rest = [0; 12];
    rest[..4].copy_from_slice(&previous.to_le_bytes());
    rest[4..8].copy_from_slice(&(body as u32).to_le_bytes());
    rest[7] = kind as u8;
    rest[8..].copy_from_slice(&(batch as u32).to_le_bytes());
    rest
}

/// An intact frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its offset in the file.
    pub at: u64,
    /// The checksum of its header, to which the next frame refers.
    pub checksum: u32,
    /// The checksum of the previous frame, not counting batch headers.
    pub previous: u32,
    /// The low 32 bits of its batch's number.
    pub batch: u32,
    /// The kind of its body.
    pub kind: RecordKind,
    /// The body.
    pub body: Bytes,
}

/// Why there is no valid frame at an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Only zeros where the header would be.
    Blank,
    /// The file ends within the frame.
    Short {
        /// The frame's size in bytes, by its header.
        want: u64,
        /// How many bytes there are.
        have: u64,
    },
    /// The checksum of header or body does not match.
    Checksum {
        /// The stored checksum.
        stored: u32,
        /// The computed checksum.
        computed: u32,
    },
    /// The frame is intact, but cannot be valid here.
    Wrong(&'static str),
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Flaw::Blank => f.write_str("zeros"),
            Flaw::Short { want, have } => write!(f, "length says {want}, file has {have}"),
            Flaw::Checksum { stored, computed } => write!(f, "stored {stored:08x} computed {computed:08x}"),
            Flaw::Wrong(what) => f.write_str(what),
        }
    }
}

impl Frame {
    /// The offset of the next frame.
    pub fn end(&self) -> u64 {
        self.at + frame_size(self.body.len()) as u64
    }

    /// The header of a batch, if the frame is one and can be decoded.
    ///
    /// An intact header that cannot be decoded is evidence of nothing.
    pub fn batch_header(&self) -> Option<Batch> {
        Batch::read(&self.body).ok().filter(|_| self.kind == RecordKind::Batch)
    }

    /// Reads the frame at `at`, with header and body checked.
    pub fn read(file: &Bytes, salted: u32, at: u64) -> Result<Frame, Flaw> {
        Frame::check(file, salted, at)?;
        Frame::known(file, at)
    }

    /// Checks header and body of the frame at `at` and returns its end and kind, without building a [`Frame`].
    pub fn check(file: &[u8], salted: u32, at: u64) -> Result<(u64, RecordKind), Flaw> {
        let (frame, body) = Frame::parse(file, Some(salted), at)?;
        let (stored, computed) = (word(body), crc32fast::hash(&body[4..]));
        if stored != computed {
            return Err(Flaw::Checksum { stored, computed });
        }
        let end = at + frame_size(body.len()) as u64;
        let between = at as usize + FRAME_HEADER + body.len()..(end as usize).min(file.len());
        if file[between].iter().any(|byte| *byte != 0) {
            return Err(Flaw::Wrong("bytes between frames"));
        }
        Ok((end, frame.kind))
    }

    /// Reads the frame at `at` and checks only its header, for callers that check the body themselves.
    pub fn peek(file: &Bytes, salted: u32, at: u64) -> Result<Frame, Flaw> {
        let (frame, body) = Frame::parse(file, Some(salted), at)?;
        Ok(Frame { body: file.slice_ref(body), ..frame })
    }

    /// Reads the frame at `at` without any check, for callers that know that [`Frame::read`] accepts it.
    pub fn known(file: &Bytes, at: u64) -> Result<Frame, Flaw> {
        let (frame, body) = Frame::parse(file, None, at)?;
        Ok(Frame { body: file.slice_ref(body), ..frame })
    }

    /// Returns the frame with an empty body, and the body.
    fn parse(file: &[u8], salted: Option<u32>, at: u64) -> Result<(Frame, &[u8]), Flaw> {
        let have = (file.len() as u64).saturating_sub(at);
        let Some(header) = file.get(at as usize..).and_then(|rest| rest.first_chunk::<FRAME_HEADER>()) else {
            return Err(Flaw::Short { want: FRAME_HEADER as u64, have });
        };
        if *header == [0; FRAME_HEADER] {
            return Err(Flaw::Blank);
        }
        let mut rest = [0; 12];
        rest.copy_from_slice(&header[4..]);
        let stored = word(header);
        // The body's checksum follows the header and must be read to check the header: four bytes at a fixed offset,
        // whatever the length field is.
        let Some(body) = file.get(at as usize + FRAME_HEADER..).and_then(|rest| rest.first_chunk::<4>()) else {
            return Err(Flaw::Short { want: FRAME_HEADER as u64 + 4, have });
        };
        if let Some(salted) = salted {
            let computed = header_checksum(salted, at, &rest, *body);
            if stored != computed {
                return Err(Flaw::Checksum { stored, computed });
            }
        }
        let length = u32::from_le_bytes([rest[4], rest[5], rest[6], 0]) as usize;
        let Some(kind) = RecordKind::of(rest[7]) else { return Err(UNKNOWN_KIND) };
        let want = (FRAME_HEADER + length) as u64;
        if length < 4 {
            return Err(Flaw::Wrong("a body without a checksum"));
        }
        if want > have {
            return Err(Flaw::Short { want, have });
        }
        let from = at as usize + FRAME_HEADER;
        let (previous, batch) = (word(&rest), word(&rest[8..]));
        let frame = Frame { at, checksum: stored, previous, batch, kind, body: Bytes::new() };
        Ok((frame, &file[from..from + length]))
    }

    /// A cheap test whether there can be a frame at `at`.
    pub fn plausible(file: &[u8], at: usize) -> bool {
        file.get(at..at + FRAME_HEADER + 4).is_some_and(|header| {
            let length = u32::from_le_bytes([header[8], header[9], header[10], 0]) as usize;
            (1..=7).contains(&header[11]) && length >= 4 && at + FRAME_HEADER + length <= file.len()
        })
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().copied().map_or(0, u32::from_le_bytes)
}

fn double(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().copied().map_or(0, u64::from_le_bytes)
}

/// The header of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// The batch's number: one more than the previous one in the journal. All frames that are synced together have the
    /// same number; a batch begins only after the previous batch is synced.
    pub number: u64,
    /// Whether the batch continues in another piece, with a header of its own.
    pub more: bool,
    /// The batch's size in bytes, with this frame.
    pub bytes: u64,
    /// The number of frames, not counting this one.
    pub frames: u32,
    /// The checksum of its last frame, or of the frame before the batch if it has none.
    pub tail: u32,
    /// The index of the first and the last entry, in file order; both 0 if there is none.
    pub entries: (Index, Index),
    /// The term of the last entry.
    pub term: Term,
    /// Segment and offset: everything before it was synced when the batch was written.
    pub synced: (u64, u64),
    /// The kernel boot in which it was written.
    pub boot: u64,
}

impl Batch {
    /// Encodes the body, its checksum first.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_body(out, |out| {
            out.put_u32_le(u32::from(self.more));
            out.put_u64_le(self.number);
            out.put_u64_le(self.bytes);
            out.put_u32_le(self.frames);
            out.put_u32_le(self.tail);
            out.put_u64_le(self.entries.0.0);
            out.put_u64_le(self.entries.1.0);
            out.put_u64_le(self.term.0);
            out.put_u64_le(self.synced.0);
            out.put_u64_le(self.synced.1);
            out.put_u64_le(self.boot);
        });
    }

    /// Decodes a body.
    pub fn read(body: &Bytes) -> Result<Batch, Malformed> {
        let mut reader = behind_checksum(body)?;
        let more = match reader.u32()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("unknown flags of a batch")),
        };
        let batch = Batch {
            more,
            number: reader.u64()?,
            bytes: reader.u64()?,
            frames: reader.u32()?,
            tail: reader.u32()?,
            entries: (Index(reader.u64()?), Index(reader.u64()?)),
            term: Term(reader.u64()?),
            synced: (reader.u64()?, reader.u64()?),
            boot: reader.u64()?,
        };
        reader.end()?;
        Ok(batch)
    }
}

/// The state that a segment inherits, so that it can be the oldest one left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// The hard state.
    pub hard: HardState,
    /// The last position before this segment.
    pub last: Position,
    /// The latest time of any entry.
    pub time: ClusterTime,
    /// Where the log begins.
    pub base: SnapshotPoint,
    /// The configuration in force, and the index at which it was configured.
    pub current: (Index, Membership),
}

impl Opening {
    /// Encodes the body, its checksum first.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_body(out, |out| {
            out.put_u32_le(0);
            codec::put_hard_state(out, &self.hard);
            out.put_position(self.last);
            out.put_u64_le(self.time.0);
            put_base_fields(out, &self.base);
            out.put_u64_le(self.current.0.0);
            codec::put_membership(out, &self.current.1);
        });
    }

    /// Decodes a body.
    pub fn read(body: &Bytes) -> Result<Opening, Malformed> {
        let mut reader = behind_checksum(body)?;
        let _reserved = reader.u32()?;
        let opening = Opening {
            hard: codec::read_hard_state(&mut reader)?,
            last: reader.position()?,
            time: ClusterTime(reader.u64()?),
            base: read_base_fields(&mut reader)?,
            current: (Index(reader.u64()?), codec::read_membership(&mut reader)?),
        };
        reader.end()?;
        Ok(opening)
    }
}

/// Encodes a hard state as a body.
pub fn put_hard(out: &mut Vec<u8>, hard: &HardState) {
    put_body(out, |out| {
        out.put_u32_le(0);
        codec::put_hard_state(out, hard);
    });
}

/// Decodes the body of a hard state.
pub fn read_hard(body: &Bytes) -> Result<HardState, Malformed> {
    let mut reader = behind_checksum(body)?;
    let _reserved = reader.u32()?;
    let hard = codec::read_hard_state(&mut reader)?;
    reader.end()?;
    Ok(hard)
}

/// Encodes the body of a base or a release.
pub fn put_base(out: &mut Vec<u8>, base: &SnapshotPoint) {
    put_body(out, |out| {
        out.put_u32_le(0);
        put_base_fields(out, base);
    });
}

/// Decodes the body of a base or a release.
pub fn read_base(body: &Bytes) -> Result<SnapshotPoint, Malformed> {
    let mut reader = behind_checksum(body)?;
    let _reserved = reader.u32()?;
    let base = read_base_fields(&mut reader)?;
    reader.end()?;
    Ok(base)
}

fn put_base_fields(out: &mut Vec<u8>, base: &SnapshotPoint) {
    out.put_position(base.position);
    out.put_u64_le(base.configured.0);
    codec::put_membership(out, &base.membership);
}

fn read_base_fields(reader: &mut Reader) -> Result<SnapshotPoint, Malformed> {
    Ok(SnapshotPoint {
        position: reader.position()?,
        configured: Index(reader.u64()?),
        membership: codec::read_membership(reader)?,
    })
}

/// The end of a segment.
///
/// Without it, a log whose last file is gone would look like a shorter log that ended cleanly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seal {
    /// The number of the next segment, which existed before this was written.
    pub successor: u64,
    /// The last position of the log.
    pub last: Position,
}

impl Seal {
    /// Encodes the body, its checksum first.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_body(out, |out| {
            out.put_u32_le(0);
            out.put_u64_le(self.successor);
            out.put_position(self.last);
        });
    }

    /// Decodes a body.
    pub fn read(body: &Bytes) -> Result<Seal, Malformed> {
        let mut reader = behind_checksum(body)?;
        let _reserved = reader.u32()?;
        let seal = Seal { successor: reader.u64()?, last: reader.position()? };
        reader.end()?;
        Ok(seal)
    }
}

/// The metadata in an entry's body, without decoding the entry.
///
/// Recovery reads it for each entry of the log, and does not need to decode payloads for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHead {
    /// Index and term.
    pub position: Position,
    /// The cluster time.
    pub time: ClusterTime,
    /// Whether its payload is a membership.
    pub membership: bool,
}

impl EntryHead {
    /// Decodes the metadata from an entry's body.
    pub fn read(body: &Bytes) -> Result<EntryHead, Malformed> {
        let Some((header, payload)) = body.split_first_chunk::<{ codec::ENTRY_HEADER }>() else {
            return Err(Malformed("ends too early"));
        };
        let length = word(&header[4..]);
        let position = Position::new(Index(double(&header[8..])), Term(double(&header[16..])));
        let time = ClusterTime(double(&header[24..]));
        if (length & 0x00ff_ffff) as usize != payload.len() {
            return Err(Malformed("an entry of another length than its frame"));
        }
        if length >> 24 > u32::from(codec::ENTRY_KIND_MAX) {
            return Err(Malformed("an unknown kind of entry"));
        }
        Ok(EntryHead { position, time, membership: length >> 24 == 1 })
    }
}

fn put_body(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_u32_le(0);
    fields(out);
    let checksum = crc32fast::hash(&out[at + 4..]);
    out[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// A reader of the fields after a body's checksum, which was checked before.
fn behind_checksum(body: &Bytes) -> Result<Reader, Malformed> {
    let mut reader = Reader::new(body.clone());
    let _checked = reader.u32()?;
    Ok(reader)
}
