//! The binary format of a snapshot: a header, chunks, and an end chunk.
//!
//! Each chunk's checksum continues that of the chunk before it, and the first continues the header's. So a missing,
//! duplicated or misplaced chunk is detected as surely as a flipped bit; the end chunk closes the chain. Lengths are
//! validated against the available bytes before they are used.

use crate::codec::{self, Malformed, Put, Reader};
use crate::limits::{ADDRESS_BYTES_MAX, CHUNK_BYTES, MEMBERS_MAX, PIECE_EXCESS_MAX};
use crate::types::{ClusterId, ClusterTime, Index, Membership, NodeId, Position, Term};
use bytes::{BufMut, Bytes};
use std::fmt;

/// The first bytes of every snapshot.
pub const MAGIC: [u8; 8] = *b"drave-sn";
/// The version of the format.
pub const FORMAT: u32 = 2;
/// The size of a header's fields before the members, in bytes.
pub const HEADER_FIELDS: usize = 80;
/// The largest header in bytes.
pub const HEADER_MAX: usize = HEADER_FIELDS + 13 + MEMBERS_MAX * (21 + ADDRESS_BYTES_MAX) + 4;
/// The size of a chunk's header in bytes.
pub const CHUNK_HEADER: usize = 12;
/// The largest body of a chunk in bytes.
pub const BODY_MAX: usize = CHUNK_BYTES + PIECE_EXCESS_MAX;
/// The size of the end chunk in bytes, with its header.
pub const END_CHUNK: usize = CHUNK_HEADER + END_BODY;

const END_BODY: usize = 16;

/// A file that is written or received is synced after this many bytes: a large sync would delay the journal's syncs.
pub(super) const SYNC_BYTES: u64 = 1 << 20;
/// The suffix of a snapshot's file name until it is verified.
pub(super) const UNFINISHED: &str = ".tmp";
/// The suffix of a snapshot's file name during the transfer.
pub(super) const PART: &str = ".part";

/// The header of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// The node that took it.
    pub node: NodeId,
    /// The position of the last entry that the snapshot replaces.
    pub position: Position,
    /// The index at which `membership` was configured.
    pub configured: Index,
    /// The cluster time of the last entry.
    pub time: ClusterTime,
    /// The digest of the state.
    pub digest: u64,
    /// How many sessions the snapshot has.
    pub sessions: u64,
    /// The configuration that held at `position`.
    pub membership: Membership,
}

/// A flaw of a snapshot, and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// The offset in the file.
    pub at: u64,
    /// What is wrong.
    pub what: FlawKind,
}

/// What is wrong with a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlawKind {
    /// The checksum does not match.
    Checksum {
        /// The stored checksum.
        stored: u32,
        /// The computed checksum.
        computed: u32,
    },
    /// The file ends too early.
    Cut,
    /// The disk cannot read it.
    Unreadable,
    /// It is intact, but cannot be valid here.
    Wrong(&'static str),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            FlawKind::Checksum { stored, computed } => write!(f, "stored {stored:08x} computed {computed:08x}"),
            FlawKind::Cut => f.write_str("the file ends here"),
            FlawKind::Unreadable => f.write_str("the disk cannot read it"),
            FlawKind::Wrong(what) => f.write_str(what),
        }
    }
}

impl Header {
    /// Encodes the header; the last four bytes are its checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(0);
        out.put_u64_le(self.cluster.0);
        out.put_u64_le(self.node.get());
        out.put_position(self.position);
        out.put_u64_le(self.configured.0);
        out.put_u64_le(self.time.0);
        out.put_u64_le(self.digest);
        out.put_u64_le(self.sessions);
        codec::put_membership(&mut out, &self.membership);
        let length = out.len() as u32 + 4;
        out[12..16].copy_from_slice(&length.to_le_bytes());
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    /// The size of the header that begins with `start`; needs at least its first 16 bytes.
    pub fn length(start: &[u8]) -> Result<usize, Flaw> {
        let Some(start) = start.first_chunk::<16>() else {
            return Err(Flaw { at: start.len() as u64, what: FlawKind::Cut });
        };
        if start[..8] != MAGIC {
            return Err(Flaw { at: 0, what: FlawKind::Wrong("not a snapshot: it does not begin with `drave-sn`") });
        }
        if word(&start[8..]) != FORMAT {
            return Err(Flaw {
                at: 8,
                what: FlawKind::Wrong("a version of the format that this program does not know"),
            });
        }
        match word(&start[12..]) as usize {
            length if (HEADER_FIELDS + 8..=HEADER_MAX).contains(&length) => Ok(length),
            _ => Err(Flaw { at: 12, what: FlawKind::Wrong("no header is that long") }),
        }
    }

    /// Decodes the header at the beginning of a file; returns also the chain that begins after it.
    pub fn decode(bytes: &Bytes) -> Result<(Header, Chain), Flaw> {
        let length = Header::length(bytes)?;
        if length > bytes.len() {
            return Err(Flaw { at: bytes.len() as u64, what: FlawKind::Cut });
        }
        let (stored, computed) = (word(&bytes[length - 4..]), crc32fast::hash(&bytes[..length - 4]));
        if stored != computed {
            return Err(Flaw { at: 0, what: FlawKind::Checksum { stored, computed } });
        }
        let header = Header::read(bytes.slice(16..length - 4));
        let header = header.map_err(|Malformed(what)| Flaw { at: 16, what: FlawKind::Wrong(what) })?;
        Ok((header, Chain::new(length as u64, stored)))
    }

    fn read(fields: Bytes) -> codec::Result<Header> {
        let mut reader = Reader::new(fields);
        let header = Header {
            cluster: ClusterId(reader.u64()?),
            node: reader.node_id()?,
            position: reader.position()?,
            configured: Index(reader.u64()?),
            time: ClusterTime(reader.u64()?),
            digest: reader.u64()?,
            sessions: reader.u64()?,
            membership: codec::read_membership(&mut reader)?,
        };
        reader.end()?;
        Ok(header)
    }
}

/// The kind of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChunkKind {
    /// A piece of the sessions.
    Sessions = 1,
    /// A piece of the state machine.
    Machine = 2,
    /// The end of the snapshot.
    End = 3,
}

/// An intact chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Its offset in the file.
    pub at: u64,
    /// The kind of its body.
    pub kind: ChunkKind,
    /// The body.
    pub body: Bytes,
}

/// How far a snapshot was written or read. The checksum of each chunk depends on the chunk before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The offset of the next chunk.
    pub at: u64,
    /// The checksum of everything before it.
    pub checksum: u32,
    /// The kind of the last chunk.
    kind: ChunkKind,
    /// The number of chunks so far.
    pub chunks: u64,
}

impl Chain {
    /// The chain after a header of that length and checksum.
    fn new(at: u64, checksum: u32) -> Chain {
        Chain { at, checksum, kind: ChunkKind::Sessions, chunks: 0 }
    }

    /// The chain after that encoded header.
    pub fn behind(header: &[u8]) -> Chain {
        Chain::new(header.len() as u64, word(&header[header.len() - 4..]))
    }

    /// Whether the end chunk was written or read.
    pub fn ended(&self) -> bool {
        self.kind == ChunkKind::End
    }

    /// Encodes a chunk, to be written at the old `at`, and advances past it.
    pub fn put(&mut self, kind: ChunkKind, body: &[u8]) -> Vec<u8> {
        assert!(body.len() <= BODY_MAX && kind >= self.kind, "chunks are ordered by kind, and at most BODY_MAX long");
        let mut out = Vec::with_capacity(CHUNK_HEADER + body.len());
        out.put_u32_le(0);
        out.put_u32_le(body.len() as u32);
        out.put_u32_le(kind as u32);
        out.put_slice(body);
        let checksum = self.sum(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        self.pass(kind, checksum, body.len());
        out
    }

    /// Encodes the end chunk: the number of chunks before it, and the size of the file.
    pub fn put_end(&mut self) -> Vec<u8> {
        let mut body = [0; END_BODY];
        body[..8].copy_from_slice(&self.chunks.to_le_bytes());
        body[8..].copy_from_slice(&(self.at + END_CHUNK as u64).to_le_bytes());
        self.put(ChunkKind::End, &body)
    }

    /// The size of the next chunk's body, from the chunk's header.
    pub fn body(&self, header: &[u8; CHUNK_HEADER]) -> Result<usize, Flaw> {
        match word(&header[4..]) as usize {
            length if length <= BODY_MAX => Ok(length),
            _ => Err(Flaw { at: self.at + 4, what: FlawKind::Wrong("no chunk is that long") }),
        }
    }

    /// Checks the next chunk, of which `chunk` is all bytes, and advances past it.
    pub fn follow(&mut self, chunk: &[u8]) -> Result<ChunkKind, Flaw> {
        let wrong = |what| Flaw { at: self.at, what: FlawKind::Wrong(what) };
        let (stored, computed) = (word(chunk), self.sum(&chunk[4..]));
        if stored != computed {
            return Err(Flaw { at: self.at, what: FlawKind::Checksum { stored, computed } });
        }
        let kind = match word(&chunk[8..]) {
            1 => ChunkKind::Sessions,
            2 => ChunkKind::Machine,
            3 => ChunkKind::End,
            _ => return Err(wrong("an unknown kind of chunk")),
        };
        if kind < self.kind || self.ended() {
            return Err(wrong("a chunk out of order"));
        }
        let mut before = *self;
        if kind == ChunkKind::End && chunk != before.put_end() {
            return Err(wrong("the end tells another number of chunks or bytes"));
        }
        self.pass(kind, stored, chunk.len() - CHUNK_HEADER);
        Ok(kind)
    }

    fn sum(&self, bytes: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.checksum);
        crc.update(bytes);
        crc.finalize()
    }

    fn pass(&mut self, kind: ChunkKind, checksum: u32, body: usize) {
        self.at += (CHUNK_HEADER + body) as u64;
        (self.kind, self.checksum) = (kind, checksum);
        self.chunks += 1;
    }
}

/// Iterates over the chunks of a snapshot and checks each. A flaw is returned once and ends the iteration. An iteration
/// that ends without a flaw proves that the snapshot is whole.
#[derive(Clone, Debug)]
pub struct Chunks {
    file: Bytes,
    chain: Chain,
    broken: bool,
}

impl Chunks {
    /// The chunks of a file, beginning at the position of `chain`.
    pub fn new(file: Bytes, chain: Chain) -> Chunks {
        Chunks { file, chain, broken: false }
    }

    fn chunk(&mut self) -> Result<Option<Chunk>, Flaw> {
        let (at, size) = (self.chain.at, self.file.len() as u64);
        if self.chain.ended() && at == size {
            return Ok(None);
        }
        if self.chain.ended() {
            return Err(Flaw { at, what: FlawKind::Wrong("bytes behind the end") });
        }
        let rest = &self.file[at as usize..];
        let cut = Flaw { at: size, what: FlawKind::Cut };
        let length = CHUNK_HEADER + self.chain.body(rest.first_chunk().ok_or(cut)?)?;
        let kind = self.chain.follow(rest.get(..length).ok_or(cut)?)?;
        let body = self.file.slice(at as usize + CHUNK_HEADER..at as usize + length);
        Ok(Some(Chunk { at, kind, body }))
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, Flaw>;

    fn next(&mut self) -> Option<Result<Chunk, Flaw>> {
        if self.broken {
            return None;
        }
        let chunk = self.chunk().transpose();
        self.broken = matches!(chunk, Some(Err(_)));
        chunk
    }
}

/// The file name of the snapshot at a position.
pub fn file_name(position: Position) -> String {
    format!("{:016x}-{:016x}.snap", position.index.0, position.term.0)
}

/// The position of the snapshot with that file name; `None` if it is no snapshot's name.
pub fn file_position(name: &str) -> Option<Position> {
    let (index, term) = name.strip_suffix(".snap")?.split_once('-')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let position = Position::new(Index(number(index)?), Term(number(term)?));
    (file_name(position) == name).then_some(position)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().copied().map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests;
