//! A snapshot being taken: piece by piece into a file that has no name anyone believes, until it is whole.

use super::format::{Chain, Header, Kind, file_name};
use super::report::{Fault, Result, io};
use super::store::Snapshot;
use crate::disk::{Disk, DiskFile};

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
    /// A sync found no room: what reached the disk is unknown, and the file is good for nothing.
    spoilt: bool,
}

/// What it is called until it is whole.
fn unfinished(name: &str) -> String {
    format!("{name}.tmp")
}

impl<D: Disk> Writer<D> {
    /// Begins one.
    pub(super) fn create(disk: D, header: &Header) -> Result<Writer<D>> {
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
        Ok(Writer { disk, file, name, header, chain, synced: 0, spoilt: false })
    }

    /// Writes the next piece: all of the sessions, then all of the machine. After [`super::Fault::Full`] the
    /// same may be put again, when there is room; or [`Writer::abandon`] it.
    pub fn put(&mut self, kind: Kind, piece: &[u8]) -> Result<()> {
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

    /// All pieces were put: makes it durable and publishes it. For want of room it may be asked again.
    pub fn finish(&mut self) -> Result<Snapshot> {
        if !self.chain.ended() {
            let mut chain = self.chain;
            let end = chain.put_end();
            self.write(&end, chain)?;
        }
        self.sync()?;
        self.disk.rename(&unfinished(&self.name), &self.name).map_err(io("rename", &self.name))?;
        self.disk.sync_names().map_err(io("sync the name of", &self.name))?;
        let bytes = self.disk.map(&self.name).map_err(io("map", &self.name))?;
        let behind = Chain::behind(&self.header.encode());
        Ok(Snapshot::new(self.name.clone(), self.header.clone(), bytes, behind))
    }

    /// It will not be finished: removes it.
    pub fn abandon(self) -> Result<()> {
        drop(self.file);
        let tmp = unfinished(&self.name);
        self.disk.remove(&tmp).map_err(io("remove", &tmp))
    }
}
