//! A snapshot being taken: piece by piece into a file that has no name anyone believes, until it is whole.

use super::format::{Chain, ChunkKind, Flaw, FlawKind, Header, file_name};
use super::report::{ADVICE_WRITTEN, Fault, Result, damaged, io};
use super::store::Snapshot;
use super::verify::Verifier;
use crate::disk::{Disk, DiskFile};
use crate::types::{Mutant, Mutants};

/// It is synced whenever so much was written: what is much in one sync holds up the journal's.
pub const SYNC_BYTES: u64 = 1 << 20;

/// A snapshot being taken.
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
    /// A sync found no room: what reached the disk is unknown, and the file is good for nothing.
    spoilt: bool,
}

/// What the name of a snapshot ends with until it is found whole.
pub(super) const UNFINISHED: &str = ".tmp";

/// What it is called until it is whole.
fn unfinished(name: &str) -> String {
    format!("{name}{UNFINISHED}")
}

impl<D: Disk> Writer<D> {
    /// Begins one.
    pub(super) fn create(disk: D, header: &Header, mutants: Mutants) -> Result<Writer<D>> {
        let name = file_name(header.position);
        let tmp = unfinished(&name);
        if disk.list().map_err(io("list", &tmp))?.contains(&tmp) {
            disk.remove(&tmp).map_err(io("remove", &tmp))?;
        }
        let mut file = disk.create(&tmp).map_err(io("create", &tmp))?;
        let encoded = header.encode();
        if let Err(error) = file.write_at(0, &encoded) {
            // Of no use to anybody; if it stays, the next start removes it.
            let _gone = disk.remove(&tmp);
            return Err(io("write", &tmp)(error));
        }
        let (header, chain) = (header.clone(), Chain::behind(&encoded));
        let verifier = Verifier::default();
        Ok(Writer { disk, file, name, header, chain, synced: 0, verifier, mutants, spoilt: false })
    }

    /// Writes the next piece: all of the sessions, then all of the machine. After [`super::Fault::Full`] the
    /// same may be put again, when there is room; or [`Writer::abandon`] it.
    pub fn put(&mut self, kind: ChunkKind, piece: &[u8]) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        let mut chain = self.chain;
        let chunk = chain.put(kind, piece);
        self.write(&chunk, chain)?;
        if self.chain.at - self.synced > SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    /// Writes what comes next; then it goes on there.
    fn write(&mut self, chunk: &[u8], behind: Chain) -> Result<()> {
        self.check()?;
        self.file.write_at(self.chain.at, chunk).map_err(io("write", &self.name))?;
        self.chain = behind;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.spoilt { Err(Fault::Full { file: self.name.clone() }) } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        self.check()?;
        let synced = self.file.sync_all().map_err(io("sync", &self.name));
        self.spoilt |= synced.is_err();
        synced?;
        self.synced = self.chain.at;
        Ok(())
    }

    /// How many bytes it has so far.
    pub fn written(&self) -> u64 {
        self.chain.at
    }

    /// All pieces were put: makes it durable, reads it back and publishes it, in one go.
    pub fn finish(&mut self) -> Result<Snapshot> {
        self.seal()?;
        loop {
            if let Some(snapshot) = self.verify(u64::MAX)? {
                return Ok(snapshot);
            }
        }
    }

    /// All pieces were put: ends it and makes it durable. For want of room it may be asked again.
    pub fn seal(&mut self) -> Result<()> {
        if !self.chain.ended() {
            let mut chain = self.chain;
            let end = chain.put_end();
            self.write(&end, chain)?;
        }
        self.sync()?;
        // What is read back must come from the disk and not from memory. Behind a sync nothing is dirty.
        self.file.drop_cache().map_err(io("read back", &self.name))
    }

    /// Reads back about so many bytes of what was sealed. When all of it is what was written, publishes it.
    ///
    /// The log behind a snapshot is released because of it, so it is believed only when the disk gives it back.
    /// A file that is not what was written is [`Fault::Damaged`]: it is never published.
    pub fn verify(&mut self, bytes: u64) -> Result<Option<Snapshot>> {
        if !self.mutants.breaks(Mutant::SkipSnapshotVerify) {
            let damaged = damaged(&self.unfinished(), ADVICE_WRITTEN);
            let step = self.verifier.step(&self.file, bytes).map_err(io("read back", &self.name))?;
            if !step.map_err(&damaged)? {
                return Ok(None);
            }
            if self.verifier.found() != Some((&self.header, &self.chain)) {
                let what = FlawKind::Wrong("it is whole, and not what was written");
                return Err(damaged(Flaw { at: 0, what }));
            }
        }
        self.publish().map(Some)
    }

    fn publish(&mut self) -> Result<Snapshot> {
        self.disk.rename(&self.unfinished(), &self.name).map_err(io("rename", &self.name))?;
        self.disk.sync_names().map_err(io("sync the name of", &self.name))?;
        let bytes = self.disk.map(&self.name).map_err(io("map", &self.name))?;
        let behind = Chain::behind(&self.header.encode());
        Ok(Snapshot::new(self.name.clone(), self.header.clone(), bytes, behind))
    }

    /// Whether all of it is written.
    pub fn is_sealed(&self) -> bool {
        self.chain.ended()
    }

    /// What its file is called as long as it is not published.
    pub fn unfinished(&self) -> String {
        unfinished(&self.name)
    }

    /// It will not be finished: removes it.
    pub fn abandon(self) -> Result<()> {
        drop(self.file);
        let tmp = unfinished(&self.name);
        self.disk.remove(&tmp).map_err(io("remove", &tmp))
    }
}
