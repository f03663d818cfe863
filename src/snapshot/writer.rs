//! Writes a snapshot, piece by piece, to a file whose name is not a snapshot's until the file is whole.

use super::format::{Chain, ChunkKind, Flaw, FlawKind, Header, SYNC_BYTES, UNFINISHED, file_name};
use super::report::{ADVICE_WRITTEN, Fault, Result, damaged, io};
use super::snapshot::Snapshot;
use super::verify::Verifier;
use crate::disk::{Disk, DiskFile};
use crate::types::{Mutant, Mutants};

/// A snapshot that is being written.
#[derive(Debug)]
pub struct Writer<D: Disk> {
    disk: D,
    file: D::File,
    name: String,
    header: Header,
    chain: Chain,
    synced: u64,
    /// How far it was read back.
    verifier: Verifier,
    mutants: Mutants,
    /// A sync found no room: it is unknown which bytes reached the disk, and the file is useless.
    unusable: bool,
}

/// The name of a snapshot's file until it is published.
fn unfinished(name: &str) -> String {
    format!("{name}{UNFINISHED}")
}

impl<D: Disk> Writer<D> {
    /// Creates the file and writes the header.
    pub(super) fn create(disk: D, header: &Header, mutants: Mutants) -> Result<Writer<D>> {
        let name = file_name(header.position);
        let tmp = unfinished(&name);
        if disk.list().map_err(io("list", &tmp))?.contains(&tmp) {
            disk.remove(&tmp).map_err(io("remove", &tmp))?;
        }
        let mut file = disk.create(&tmp).map_err(io("create", &tmp))?;
        let encoded = header.encode();
        if let Err(error) = file.write_at(0, &encoded) {
            // The file is useless; if it stays, the next start removes it.
            let _gone = disk.remove(&tmp);
            return Err(io("write", &tmp)(error));
        }
        let (header, chain) = (header.clone(), Chain::behind(&encoded));
        let verifier = Verifier::default();
        Ok(Writer { disk, file, name, header, chain, synced: 0, verifier, mutants, unusable: false })
    }

    /// Writes the next piece: first all pieces of the sessions, then all of the state machine. After
    /// [`super::Fault::Full`] the caller may retry the same piece when there is room, or [`Writer::abandon`] the
    /// snapshot.
    pub fn put(&mut self, kind: ChunkKind, piece: &[u8]) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        let mut chain = self.chain;
        let chunk = chain.put(kind, piece);
        self.write(&chunk, chain)?;
        if self.chain.at - self.synced > SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    /// Writes the next chunk, and then advances the chain to `behind`.
    fn write(&mut self, chunk: &[u8], behind: Chain) -> Result<()> {
        self.check()?;
        self.file.write_at(self.chain.at, chunk).map_err(io("write", &self.name))?;
        self.chain = behind;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.unusable { Err(Fault::Full { file: self.name.clone() }) } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        self.check()?;
        let synced = self.file.sync_all().map_err(io("sync", &self.name));
        self.unusable |= synced.is_err();
        synced?;
        self.synced = self.chain.at;
        Ok(())
    }

    /// How many bytes were written so far.
    pub fn written(&self) -> u64 {
        self.chain.at
    }

    /// To be called after the last piece: makes the file durable, reads it back and publishes it, all at once.
    pub fn finish(&mut self) -> Result<Snapshot> {
        self.seal()?;
        loop {
            if let Some(snapshot) = self.verify(u64::MAX)? {
                return Ok(snapshot);
            }
        }
    }

    /// To be called after the last piece: writes the end chunk and makes the file durable. May be retried after a lack
    /// of room.
    pub fn seal(&mut self) -> Result<()> {
        if !self.chain.ended() {
            let mut chain = self.chain;
            let end = chain.put_end();
            self.write(&end, chain)?;
        }
        self.sync()?;
        // The file must be read back from the disk and not from memory. After a sync, no page is dirty.
        self.file.drop_cache().map_err(io("read back", &self.name))
    }

    /// Reads back about `bytes` bytes of the sealed file. Publishes the file when all of it matches what was written.
    ///
    /// The log before a snapshot is released because of it, so the snapshot is used only when the disk returns it
    /// unchanged. A file that differs from what was written is [`Fault::Damaged`]: it is never published.
    pub fn verify(&mut self, bytes: u64) -> Result<Option<Snapshot>> {
        if !self.mutants.breaks(Mutant::SkipSnapshotVerify) {
            let damaged = damaged(&self.unfinished(), ADVICE_WRITTEN);
            let step = self.verifier.step(&self.file, bytes).map_err(io("read back", &self.name))?;
            if !step.map_err(&damaged)? {
                return Ok(None);
            }
            if self.verifier.verified() != Some((&self.header, &self.chain)) {
                let what = FlawKind::Wrong("the file is intact, but differs from what was written");
                return Err(damaged(Flaw { at: 0, what }));
            }
        }
        self.publish().map(Some)
    }

    fn publish(&mut self) -> Result<Snapshot> {
        self.disk.rename(&self.unfinished(), &self.name).map_err(io("rename", &self.name))?;
        self.disk.sync_names().map_err(io("sync the directory of", &self.name))?;
        let bytes = self.disk.map(&self.name).map_err(io("map", &self.name))?;
        let behind = Chain::behind(&self.header.encode());
        Ok(Snapshot::new(self.name.clone(), self.header.clone(), bytes, behind))
    }

    /// Whether the end chunk is written.
    pub fn is_sealed(&self) -> bool {
        self.chain.ended()
    }

    /// The name of its file until it is published.
    pub fn unfinished(&self) -> String {
        unfinished(&self.name)
    }

    /// Aborts the snapshot and removes the file.
    pub fn abandon(self) -> Result<()> {
        drop(self.file);
        let tmp = unfinished(&self.name);
        self.disk.remove(&tmp).map_err(io("remove", &tmp))
    }
}
