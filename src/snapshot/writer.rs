//! A snapshot being taken: piece by piece into a file that has no name anyone believes, until it is whole.

use super::format::{Chain, Header, Kind, file_name};
use super::report::{Result, io};
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
        file.write_at(0, &encoded).map_err(io("write", &tmp))?;
        Ok(Writer { disk, file, name, header: header.clone(), chain: Chain::behind(&encoded), synced: 0 })
    }

    /// Writes the next piece: all of the sessions, then all of the machine. After
    /// [`super::Fault::Full`], [`Writer::abandon`] it.
    pub fn put(&mut self, kind: Kind, piece: &[u8]) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        let at = self.chain.at;
        let chunk = self.chain.put(kind, piece);
        self.file.write_at(at, &chunk).map_err(io("write", &self.name))?;
        if self.chain.at - self.synced > SYNC_BYTES {
            self.file.sync_all().map_err(io("sync", &self.name))?;
            self.synced = self.chain.at;
        }
        Ok(())
    }

    /// How many bytes it has so far.
    pub fn written(&self) -> u64 {
        self.chain.at
    }

    /// All pieces were put: makes it durable and publishes it.
    pub fn finish(mut self) -> Result<Snapshot> {
        let behind = Chain::behind(&self.header.encode());
        let at = self.chain.at;
        let end = self.chain.put_end();
        self.file.write_at(at, &end).map_err(io("write", &self.name))?;
        self.file.sync_all().map_err(io("sync", &self.name))?;
        drop(self.file);
        self.disk.rename(&unfinished(&self.name), &self.name).map_err(io("rename", &self.name))?;
        self.disk.sync_names().map_err(io("sync the name of", &self.name))?;
        let bytes = self.disk.map(&self.name).map_err(io("map", &self.name))?;
        Ok(Snapshot::new(self.name, self.header, bytes, behind))
    }

    /// It will not be finished: removes it.
    pub fn abandon(self) -> Result<()> {
        drop(self.file);
        let tmp = unfinished(&self.name);
        self.disk.remove(&tmp).map_err(io("remove", &tmp))
    }
}
