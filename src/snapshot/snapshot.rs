//! A verified snapshot: its header, its mapped file, and its pieces.

use super::format::{ChecksumChain, Chunk, ChunkKind, Chunks, Header};
use super::report::{ADVICE_PUBLISHED, ADVICE_SAVED, Result, to_damage_fault, to_fault};
use super::verify::{check_feature_level, verify_snapshot_file};
use crate::disk::{DiskFile, Meter};
use crate::types::Versions;
use bytes::Bytes;

/// A verified snapshot, with its mapped file. Clones share the mapping.
#[derive(Clone, Debug)]
pub struct Snapshot {
    name: String,
    header: Header,
    bytes: Bytes,
    /// The checksum chain at the first chunk.
    chain: ChecksumChain,
}

impl Snapshot {
    pub(super) fn new(name: String, header: Header, bytes: Bytes, chain: ChecksumChain) -> Snapshot {
        Snapshot { name, header, bytes, chain }
    }

    /// Reads and verifies a snapshot in a file outside of any data directory, called `name` in errors. `bytes` is the
    /// mapped file.
    ///
    /// # Errors
    ///
    /// [`super::Fault::Damaged`], with the first wrong byte; [`super::Fault::Newer`]; [`super::Fault::Io`].
    pub fn read(name: &str, file: &impl DiskFile, bytes: Bytes, meter: &Meter) -> Result<Snapshot> {
        meter.add_total(bytes.len() as u64);
        let outcome = verify_snapshot_file(file, meter).map_err(to_fault("read", name))?;
        let (header, chain) = outcome.map_err(to_damage_fault(name, ADVICE_SAVED))?;
        check_feature_level(name, &header, Versions::COMPILED.feature_level_max)?;
        Ok(Snapshot::new(name.to_owned(), header, bytes, chain))
    }

    /// The name of the file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The header: the position, configuration and digest of the snapshot, among others.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes of the file, which are sent to another node by offset.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Iterates over the serialized pieces of the state in order, and verifies each once more.
    pub fn pieces(&self) -> impl Iterator<Item = Result<Chunk>> + Send + use<> {
        let damage_fault = to_damage_fault(&self.name, ADVICE_PUBLISHED);
        let chunks = Chunks::new(self.bytes.clone(), self.chain).map(move |chunk| chunk.map_err(&damage_fault));
        chunks.filter(|chunk| !matches!(chunk, Ok(Chunk { kind: ChunkKind::End, .. })))
    }
}
