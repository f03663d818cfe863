//! A verified snapshot: its header, its mapped file, and its pieces.

use super::format::{Chain, Chunk, ChunkKind, Chunks, Header};
use super::report::{ADVICE, ADVICE_SAVED, Result, damaged, io};
use super::verify::read_whole;
use crate::disk::{DiskFile, Meter};
use bytes::Bytes;

/// A verified snapshot, with its mapped file.
#[derive(Clone, Debug)]
pub struct Snapshot {
    name: String,
    header: Header,
    bytes: Bytes,
    /// The chain at its first chunk.
    chain: Chain,
}

impl Snapshot {
    pub(super) fn new(name: String, header: Header, bytes: Bytes, chain: Chain) -> Snapshot {
        Snapshot { name, header, bytes, chain }
    }

    /// Reads a snapshot from a file outside of any data directory, called `name` in errors, if it is whole. `bytes` is
    /// the mapped file.
    ///
    /// # Errors
    ///
    /// [`super::Fault::Damaged`], with the first wrong byte; [`super::Fault::Io`].
    pub fn read(name: &str, file: &impl DiskFile, bytes: Bytes, meter: &Meter) -> Result<Snapshot> {
        meter.expect(bytes.len() as u64);
        let read = read_whole(file, meter).map_err(io("read", name))?;
        let (header, chain) = read.map_err(damaged(name, ADVICE_SAVED))?;
        Ok(Snapshot::new(name.to_owned(), header, bytes, chain))
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes of the file, which are sent to another node by offset.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Iterates over its pieces in order, and checks each once more.
    pub fn pieces(&self) -> impl Iterator<Item = Result<Chunk>> + Send + use<> {
        let damaged = damaged(&self.name, ADVICE);
        let chunks = Chunks::new(self.bytes.clone(), self.chain).map(move |chunk| chunk.map_err(&damaged));
        chunks.filter(|chunk| !matches!(chunk, Ok(Chunk { kind: ChunkKind::End, .. })))
    }
}
