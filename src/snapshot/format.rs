//! The binary format of a snapshot: a header, chunks, and an end chunk.
//!
//! Each chunk's checksum continues that of the chunk before it, and the first one continues the header's. So a missing,
//! duplicated or misplaced chunk is detected as surely as a flipped bit. The end chunk shows that no chunk is missing
//! at the end. Lengths are validated against the available bytes before they are used.

use crate::codec::{self, BufMutExt, Malformed, Reader};
use crate::limits::{ADDRESS_BYTES_MAX, CHUNK_BYTES, CHUNK_EXCESS_BYTES_MAX, MEMBERS_MAX};
use crate::types::{ClusterId, ClusterTime, Index, Membership, NodeId, Position, Term};
use bytes::{BufMut, Bytes};
use std::fmt;

/// The newest version of the format that is compiled in: that of the next version, in tests of an upgrade.
const COMPILED_VERSION_MAX: u32 = if cfg!(feature = "next-version") { FORMAT_VERSION + 1 } else { FORMAT_VERSION };

/// The first bytes of every snapshot.
pub const MAGIC: [u8; 8] = *b"drave-sn";
/// The version of the snapshot format; a file with any other version is rejected. The header keeps its first 16 bytes,
/// its greatest length and its checksum in later versions, so that a later version can be told from damage.
pub const FORMAT_VERSION: u32 = 2;
/// The size of a header's fields before the members, in bytes.
pub const FIXED_HEADER_BYTES: usize = 80;
/// The largest header in bytes.
pub const HEADER_BYTES_MAX: usize = FIXED_HEADER_BYTES + 13 + MEMBERS_MAX * (21 + ADDRESS_BYTES_MAX) + 4;
/// The size of a chunk's header in bytes.
pub const CHUNK_HEADER_BYTES: usize = 12;
/// The largest body of a chunk in bytes.
pub const CHUNK_BODY_BYTES_MAX: usize = CHUNK_BYTES + CHUNK_EXCESS_BYTES_MAX;
/// The size of the end chunk in bytes, with its header.
pub const END_CHUNK_BYTES: usize = CHUNK_HEADER_BYTES + END_BODY_BYTES;

const END_BODY_BYTES: usize = 16;

/// A snapshot file that is written or received is synced each time that this many bytes were added: a single large sync
/// would delay the journal's syncs.
pub(super) const SYNC_INTERVAL_BYTES: u64 = 1 << 20;
/// The suffix of a snapshot's file name until it is verified.
pub(super) const UNFINISHED_SUFFIX: &str = ".tmp";
/// The suffix of a snapshot's file name while it is received from another node.
pub(super) const PART_SUFFIX: &str = ".part";

/// The header of a snapshot: the entry up to which it replaces the log, and by which a restored state is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The cluster of the node. A node rejects a snapshot of another cluster.
    pub cluster: ClusterId,
    /// The node that took the snapshot.
    pub node: NodeId,
    /// The position of the last entry that the snapshot replaces.
    pub position: Position,
    /// The index of the log entry that holds `membership`.
    pub configuration_index: Index,
    /// The cluster time of the entry at `position`.
    pub time: ClusterTime,
    /// The digest of the state, which a restored state must match.
    pub digest: u64,
    /// The number of client sessions in the state.
    pub sessions: u64,
    /// The configuration that held at `position`.
    pub membership: Membership,
}

/// A flaw of a snapshot's file: its offset and its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// The offset in the file: of the header or chunk that does not match, or of the first missing or invalid byte.
    pub at: u64,
    /// The reason why the bytes from `at` on are not valid.
    pub kind: FlawKind,
}

/// Why the bytes at the offset of a [`Flaw`] are not those of an intact snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlawKind {
    /// The checksum of the header or of a chunk does not match.
    ChecksumMismatch {
        /// The checksum in the file.
        stored: u32,
        /// The checksum computed over the bytes that were read.
        computed: u32,
    },
    /// The file ends within the header or a chunk, or before the end chunk.
    Truncated,
    /// The disk cannot read the bytes at the flaw's offset.
    Unreadable,
    /// The header is intact and has this version, which this program does not know.
    UnknownVersion(u32),
    /// The bytes are intact, but cannot be valid here. The text says why.
    Invalid(&'static str),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FlawKind::ChecksumMismatch { stored, computed } => write!(f, "stored {stored:08x} computed {computed:08x}"),
            FlawKind::Truncated => f.write_str("the file ends here"),
            FlawKind::Unreadable => f.write_str("the disk cannot read it"),
            FlawKind::UnknownVersion(version) => {
                write!(f, "format {version}, and this program knows format {FORMAT_VERSION}")
            }
            FlawKind::Invalid(description) => f.write_str(description),
        }
    }
}

impl Header {
    /// Encodes the header; the last four bytes are its checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.put_slice(&MAGIC);
        out.put_u32_le(version_for_level(self.membership.feature_level));
        out.put_u32_le(0);
        out.put_u64_le(self.cluster.0);
        out.put_u64_le(self.node.get());
        out.put_position(self.position);
        out.put_u64_le(self.configuration_index.0);
        out.put_u64_le(self.time.0);
        out.put_u64_le(self.digest);
        out.put_u64_le(self.sessions);
        codec::put_membership(&mut out, &self.membership);
        let header_length = out.len() as u32 + 4;
        out[12..16].copy_from_slice(&header_length.to_le_bytes());
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    /// The size in bytes of the encoded header that begins with `start`, which must have 16 bytes at least.
    pub fn encoded_length(start: &[u8]) -> Result<usize, Flaw> {
        let Some(start) = start.first_chunk::<16>() else {
            return Err(Flaw { at: start.len() as u64, kind: FlawKind::Truncated });
        };
        if start[..8] != MAGIC {
            return Err(Flaw { at: 0, kind: FlawKind::Invalid("not a snapshot: it does not begin with `drave-sn`") });
        }
        match read_u32(&start[12..]) as usize {
            length if (FIXED_HEADER_BYTES + 8..=HEADER_BYTES_MAX).contains(&length) => Ok(length),
            _ => Err(Flaw { at: 12, kind: FlawKind::Invalid("no header is that long") }),
        }
    }

    /// Decodes the header at the beginning of a file. Returns the header, and the checksum chain at the first chunk.
    pub fn decode(bytes: &Bytes) -> Result<(Header, ChecksumChain), Flaw> {
        let length = Header::encoded_length(bytes)?;
        if length > bytes.len() {
            return Err(Flaw { at: bytes.len() as u64, kind: FlawKind::Truncated });
        }
        let (stored, computed) = (read_u32(&bytes[length - 4..]), crc32fast::hash(&bytes[..length - 4]));
        if stored != computed {
            return Err(Flaw { at: 0, kind: FlawKind::ChecksumMismatch { stored, computed } });
        }
        // The checksum is verified before: a flipped bit in the version is damage.
        let version = read_u32(&bytes[8..]);
        if !(FORMAT_VERSION..=COMPILED_VERSION_MAX).contains(&version) {
            return Err(Flaw { at: 8, kind: FlawKind::UnknownVersion(version) });
        }
        let decoded_header = Header::decode_fields(bytes.slice(16..length - 4));
        let header =
            decoded_header.map_err(|Malformed(description)| Flaw { at: 16, kind: FlawKind::Invalid(description) })?;
        Ok((header, ChecksumChain::new(length as u64, stored)))
    }

    fn decode_fields(fields: Bytes) -> codec::Result<Header> {
        let mut reader = Reader::new(fields);
        let header = Header {
            cluster: ClusterId(reader.u64()?),
            node: reader.node_id()?,
            position: reader.position()?,
            configuration_index: Index(reader.u64()?),
            time: ClusterTime(reader.u64()?),
            digest: reader.u64()?,
            sessions: reader.u64()?,
            membership: codec::read_membership(&mut reader)?,
        };
        reader.check_end()?;
        Ok(header)
    }
}

/// The kind of a chunk. Chunks are ordered by kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChunkKind {
    /// A piece of the client sessions.
    Sessions = 1,
    /// A piece of the state machine's state.
    Machine = 2,
    /// The last chunk: the number of chunks before it, and the size of the file.
    End = 3,
}

/// A chunk whose checksum matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// The offset of the chunk in the file.
    pub at: u64,
    /// The kind of the body.
    pub kind: ChunkKind,
    /// The serialized piece, without the chunk's header.
    pub body: Bytes,
}

/// The position of a writer or reader in a snapshot, and the checksum so far, which the next chunk's checksum
/// continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChecksumChain {
    /// The offset of the next chunk.
    pub at: u64,
    /// The checksum of all bytes before the offset `at`.
    pub checksum: u32,
    /// The kind of the last chunk; [`ChunkKind::Sessions`] before the first chunk.
    last_kind: ChunkKind,
    /// The number of chunks before the offset `at`.
    pub chunk_count: u64,
}

impl ChecksumChain {
    /// The chain after a header of `at` bytes with that checksum.
    fn new(at: u64, checksum: u32) -> ChecksumChain {
        ChecksumChain { at, checksum, last_kind: ChunkKind::Sessions, chunk_count: 0 }
    }

    /// The chain after an encoded header.
    pub fn after_header(header: &[u8]) -> ChecksumChain {
        ChecksumChain::new(header.len() as u64, read_u32(&header[header.len() - 4..]))
    }

    /// Whether the end chunk was written or read.
    pub fn is_ended(&self) -> bool {
        self.last_kind == ChunkKind::End
    }

    /// Encodes a chunk, and advances past the chunk. The chunk must be written at the offset that `at` had before.
    pub fn encode_chunk(&mut self, kind: ChunkKind, body: &[u8]) -> Vec<u8> {
        assert!(
            body.len() <= CHUNK_BODY_BYTES_MAX && kind >= self.last_kind,
            "chunks are ordered by kind, and the body of a chunk is not larger than CHUNK_BODY_BYTES_MAX"
        );
        let mut out = Vec::with_capacity(CHUNK_HEADER_BYTES + body.len());
        out.put_u32_le(0);
        out.put_u32_le(body.len() as u32);
        out.put_u32_le(kind as u32);
        out.put_slice(body);
        let checksum = self.checksum_with(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        self.advance(kind, checksum, body.len());
        out
    }

    /// Encodes the end chunk, and advances past that chunk.
    pub fn encode_end(&mut self) -> Vec<u8> {
        let mut body = [0; END_BODY_BYTES];
        body[..8].copy_from_slice(&self.chunk_count.to_le_bytes());
        body[8..].copy_from_slice(&(self.at + END_CHUNK_BYTES as u64).to_le_bytes());
        self.encode_chunk(ChunkKind::End, &body)
    }

    /// The size of the next chunk's body in bytes, from the chunk's header.
    pub fn body_size(&self, header: &[u8; CHUNK_HEADER_BYTES]) -> Result<usize, Flaw> {
        match read_u32(&header[4..]) as usize {
            length if length <= CHUNK_BODY_BYTES_MAX => Ok(length),
            _ => Err(Flaw { at: self.at + 4, kind: FlawKind::Invalid("no chunk is that long") }),
        }
    }

    /// Verifies the next chunk, and advances past the chunk if it is intact. `chunk` holds the chunk's header and body.
    pub fn verify_chunk(&mut self, chunk: &[u8]) -> Result<ChunkKind, Flaw> {
        let invalid = |description| Flaw { at: self.at, kind: FlawKind::Invalid(description) };
        let (stored, computed) = (read_u32(chunk), self.checksum_with(&chunk[4..]));
        if stored != computed {
            return Err(Flaw { at: self.at, kind: FlawKind::ChecksumMismatch { stored, computed } });
        }
        let kind = match read_u32(&chunk[8..]) {
            1 => ChunkKind::Sessions,
            2 => ChunkKind::Machine,
            3 => ChunkKind::End,
            _ => return Err(invalid("an unknown kind of chunk")),
        };
        if kind < self.last_kind || self.is_ended() {
            return Err(invalid("a chunk out of order"));
        }
        let mut expected_chain = *self;
        if kind == ChunkKind::End && chunk != expected_chain.encode_end() {
            return Err(invalid("the end chunk states another number of chunks or bytes"));
        }
        self.advance(kind, stored, chunk.len() - CHUNK_HEADER_BYTES);
        Ok(kind)
    }

    fn checksum_with(&self, bytes: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.checksum);
        crc.update(bytes);
        crc.finalize()
    }

    fn advance(&mut self, kind: ChunkKind, checksum: u32, body_bytes: usize) {
        self.at += (CHUNK_HEADER_BYTES + body_bytes) as u64;
        (self.last_kind, self.checksum) = (kind, checksum);
        self.chunk_count += 1;
    }
}

/// An iterator over the chunks of a snapshot, which verifies each. A flaw is returned once and ends the iteration. An
/// iteration without a flaw proves that the snapshot is intact.
#[derive(Clone, Debug)]
pub struct Chunks {
    file: Bytes,
    chain: ChecksumChain,
    has_found_flaw: bool,
}

impl Chunks {
    /// The chunks of a file from the position of `chain` on.
    pub fn new(file: Bytes, chain: ChecksumChain) -> Chunks {
        Chunks { file, chain, has_found_flaw: false }
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>, Flaw> {
        let (at, size) = (self.chain.at, self.file.len() as u64);
        if self.chain.is_ended() && at == size {
            return Ok(None);
        }
        if self.chain.is_ended() {
            return Err(Flaw { at, kind: FlawKind::Invalid("bytes behind the end") });
        }
        let rest = &self.file[at as usize..];
        let truncated_flaw = Flaw { at: size, kind: FlawKind::Truncated };
        let length = CHUNK_HEADER_BYTES + self.chain.body_size(rest.first_chunk().ok_or(truncated_flaw)?)?;
        let kind = self.chain.verify_chunk(rest.get(..length).ok_or(truncated_flaw)?)?;
        let body = self.file.slice(at as usize + CHUNK_HEADER_BYTES..at as usize + length);
        Ok(Some(Chunk { at, kind, body }))
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, Flaw>;

    fn next(&mut self) -> Option<Result<Chunk, Flaw>> {
        if self.has_found_flaw {
            return None;
        }
        let chunk = self.next_chunk().transpose();
        self.has_found_flaw = matches!(chunk, Some(Err(_)));
        chunk
    }
}

/// The file name of the snapshot at a position.
pub fn file_name(position: Position) -> String {
    format!("{:016x}-{:016x}.snap", position.index.0, position.term.0)
}

/// The position of the snapshot with that file name; `None` if the name is not exactly what [`file_name`] returns.
pub fn file_position(name: &str) -> Option<Position> {
    let (index, term) = name.strip_suffix(".snap")?.split_once('-')?;
    let parse_hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let position = Position::new(Index(parse_hex(index)?), Term(parse_hex(term)?));
    (file_name(position) == name).then_some(position)
}

/// The version in which a snapshot is written: a later one only if the feature level of its configuration allows it.
fn version_for_level(feature_level: u16) -> u32 {
    if cfg!(feature = "next-version") && feature_level > 1 { COMPILED_VERSION_MAX } else { FORMAT_VERSION }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().copied().map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests;
