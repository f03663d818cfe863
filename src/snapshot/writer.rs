//! Writes a snapshot, piece by piece, to a temporary file, which is renamed when the whole snapshot is durable and
//! verified.

use super::format::{
    ChecksumChain, ChunkKind, Flaw, FlawKind, Header, SYNC_INTERVAL_BYTES, UNFINISHED_SUFFIX, file_name,
};
use super::report::{ADVICE_WRITTEN, Fault, Result, to_damage_fault, to_fault};
use super::snapshot::Snapshot;
use super::verify::Verifier;
use crate::disk::{Disk, DiskFile};
use crate::types::{Mutant, Mutants};

/// A snapshot of this node that is being written.
#[derive(Debug)]
pub struct Writer<D: Disk> {
    disk: D,
    file: D::File,
    published_name: String,
    header: Header,
    chain: ChecksumChain,
    synced_end: u64,
    /// Reads the file back after it is sealed.
    verifier: Verifier,
    mutants: Mutants,
    /// Whether a sync has failed: it is unknown which bytes reached the disk, so the file must not be used.
    is_unusable: bool,
}

/// The name of a snapshot's file until it is published.
fn unfinished_name(published_name: &str) -> String {
    format!("{published_name}{UNFINISHED_SUFFIX}")
}

impl<D: Disk> Writer<D> {
    /// Creates the file and writes the header.
    pub(super) fn create(disk: D, header: &Header, mutants: Mutants) -> Result<Writer<D>> {
        let published_name = file_name(header.position);
        let tmp_name = unfinished_name(&published_name);
        if disk.list().map_err(to_fault("list", &tmp_name))?.contains(&tmp_name) {
            disk.remove(&tmp_name).map_err(to_fault("remove", &tmp_name))?;
        }
        let mut file = disk.create(&tmp_name).map_err(to_fault("create", &tmp_name))?;
        let encoded_header = header.encode();
        if let Err(error) = file.write_at(0, &encoded_header) {
            // If the removal fails too, the next start removes the useless file.
            let _ignored = disk.remove(&tmp_name);
            return Err(to_fault("write", &tmp_name)(error));
        }
        let (header, chain) = (header.clone(), ChecksumChain::after_header(&encoded_header));
        let verifier = Verifier::default();
        Ok(Writer { disk, file, published_name, header, chain, synced_end: 0, verifier, mutants, is_unusable: false })
    }

    /// Writes the next piece: first all pieces of the sessions, then all of the state machine. After
    /// [`super::Fault::Full`] the caller may retry the same piece when there is space, or call [`Writer::abandon`].
    pub fn write_piece(&mut self, kind: ChunkKind, piece: &[u8]) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        let mut next_chain = self.chain;
        let chunk = next_chain.encode_chunk(kind, piece);
        self.write_chunk(&chunk, next_chain)?;
        if self.chain.at - self.synced_end > SYNC_INTERVAL_BYTES { self.sync() } else { Ok(()) }
    }

    /// Writes the next chunk, and then advances to `next_chain`.
    fn write_chunk(&mut self, chunk: &[u8], next_chain: ChecksumChain) -> Result<()> {
        self.check_usable()?;
        self.file.write_at(self.chain.at, chunk).map_err(to_fault("write", &self.published_name))?;
        self.chain = next_chain;
        Ok(())
    }

    fn check_usable(&self) -> Result<()> {
        if self.is_unusable { Err(Fault::Full { file: self.published_name.clone() }) } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        self.check_usable()?;
        let outcome = self.file.sync_all().map_err(to_fault("sync", &self.published_name));
        self.is_unusable |= outcome.is_err();
        outcome?;
        self.synced_end = self.chain.at;
        Ok(())
    }

    /// The number of bytes that were written so far, header included.
    pub fn written_bytes(&self) -> u64 {
        self.chain.at
    }

    /// Makes the file durable, reads the file back and publishes it, all in one call. To be called after the last
    /// piece.
    pub fn finish(&mut self) -> Result<Snapshot> {
        self.seal()?;
        loop {
            if let Some(snapshot) = self.verify(u64::MAX)? {
                return Ok(snapshot);
            }
        }
    }

    /// Writes the end chunk and makes the file durable. To be called after the last piece. May be retried after
    /// [`super::Fault::Full`].
    pub fn seal(&mut self) -> Result<()> {
        if !self.chain.is_ended() {
            let mut next_chain = self.chain;
            let end_chunk = next_chain.encode_end();
            self.write_chunk(&end_chunk, next_chain)?;
        }
        self.sync()?;
        // The file must be read back from the disk. After a sync no page is dirty, so all pages can be dropped from the
        // page cache.
        self.file.drop_cache().map_err(to_fault("read back", &self.published_name))
    }

    /// Reads back about `bytes` bytes of the sealed file. Publishes the file when all of it matches what was written.
    ///
    /// The log is released once a snapshot is published, so the disk must return the snapshot unchanged before. A file
    /// that differs from what was written is [`Fault::Damaged`] and is never published.
    pub fn verify(&mut self, bytes: u64) -> Result<Option<Snapshot>> {
        if !self.mutants.breaks(Mutant::SkipSnapshotVerify) {
            let damage_fault = to_damage_fault(&self.unfinished_name(), ADVICE_WRITTEN);
            let outcome = self.verifier.step(&self.file, bytes).map_err(to_fault("read back", &self.published_name))?;
            if !outcome.map_err(&damage_fault)? {
                return Ok(None);
            }
            if self.verifier.progress() != Some((&self.header, &self.chain)) {
                let flaw_kind = FlawKind::Invalid("the file is intact, but differs from what was written");
                return Err(damage_fault(Flaw { at: 0, kind: flaw_kind }));
            }
        }
        self.publish().map(Some)
    }

    fn publish(&mut self) -> Result<Snapshot> {
        self.disk
            .rename(&self.unfinished_name(), &self.published_name)
            .map_err(to_fault("rename", &self.published_name))?;
        self.disk.sync_names().map_err(to_fault("sync the directory of", &self.published_name))?;
        let bytes = self.disk.map(&self.published_name).map_err(to_fault("map", &self.published_name))?;
        let chain_at_first_chunk = ChecksumChain::after_header(&self.header.encode());
        Ok(Snapshot::new(self.published_name.clone(), self.header.clone(), bytes, chain_at_first_chunk))
    }

    /// Whether the end chunk was written.
    pub fn is_sealed(&self) -> bool {
        self.chain.is_ended()
    }

    /// The name of the snapshot's file until the snapshot is published.
    pub fn unfinished_name(&self) -> String {
        unfinished_name(&self.published_name)
    }

    /// Aborts the snapshot and removes the file.
    pub fn abandon(self) -> Result<()> {
        drop(self.file);
        let tmp_name = unfinished_name(&self.published_name);
        self.disk.remove(&tmp_name).map_err(to_fault("remove", &tmp_name))
    }
}
