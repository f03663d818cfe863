//! Receives a snapshot from another node, and resumes an interrupted transfer, also after a restart.

use super::format::{Flaw, FlawKind, PART, SYNC_BYTES, file_name};
use super::report::{ADVICE_INCOMING, Fault, Result, damaged, io};
use super::snapshot::Snapshot;
use super::verify::{read_back, read_chunk, read_header};
use crate::disk::{Disk, DiskFile, Meter};
use crate::types::{ClusterId, Position};
use std::io::ErrorKind;

/// A snapshot that is being received.
#[derive(Debug)]
pub struct Incoming<D: Disk> {
    disk: D,
    file: D::File,
    name: String,
    part: String,
    cluster: ClusterId,
    position: Position,
    total: u64,
    at: u64,
    synced: u64,
}

impl<D: Disk> Incoming<D> {
    /// Begins a transfer, or resumes one from the intact part of its file. Room for the whole snapshot is reserved at
    /// once. If there is not enough, an error is returned, and nothing is kept that was not there before.
    pub(super) fn open(disk: D, cluster: ClusterId, position: Position, total: u64) -> Result<Incoming<D>> {
        let name = file_name(position);
        let part = format!("{name}{PART}");
        let there = disk.list().map_err(io("list", &part))?.contains(&part);
        let mut at = 0;
        let mut file = if there {
            let mut file = disk.open(&part).map_err(io("open", &part))?;
            at = whole(&file, cluster, position).map_err(io("read", &part))?;
            at = if at > total { 0 } else { at };
            file.truncate(at).map_err(io("truncate", &part))?;
            file
        } else {
            disk.create(&part).map_err(io("create", &part))?
        };
        if let Err(error) = file.reserve(total) {
            let fault = io("reserve", &part)(error);
            match at {
                0 => disk.remove(&part).map_err(io("remove", &part))?,
                // A later transfer can resume from here, when there is room.
                _ => file.truncate(at).map_err(io("truncate", &part))?,
            }
            return Err(fault);
        }
        Ok(Incoming { disk, file, name, part, cluster, position, total, at, synced: 0 })
    }

    /// The position of the snapshot.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The size of the whole snapshot in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many bytes were received; the sender continues here.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Whether all bytes were received, valid or not.
    pub fn is_complete(&self) -> bool {
        self.at >= self.total
    }

    /// Writes bytes of the file from `offset` on, and returns how many bytes are there now. Bytes that were received
    /// before, that would leave a gap, or that are beyond the end are ignored.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<u64> {
        let most = self.total.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let Some(known) = self.at.checked_sub(offset) else { return Ok(self.at) };
        let new = bytes[..most].get(known as usize..).unwrap_or_default();
        if new.is_empty() {
            return Ok(self.at);
        }
        self.file.write_at(self.at, new).map_err(io("write", &self.part))?;
        self.at += new.len() as u64;
        if self.at - self.synced > SYNC_BYTES {
            self.sync()?;
        }
        Ok(self.at)
    }

    /// To be called when all bytes are there: verifies the whole file, makes it durable and publishes it. A damaged
    /// file is removed.
    pub fn finish(mut self) -> Result<Snapshot> {
        self.sync()?;
        let snapshot = match self.verified() {
            Ok(snapshot) => snapshot,
            Err(fault @ Fault::Damaged { .. }) => {
                self.abandon()?;
                return Err(fault);
            }
            Err(fault) => return Err(fault),
        };
        self.disk.rename(&self.part, &self.name).map_err(io("rename", &self.part))?;
        self.disk.sync_names().map_err(io("sync the directory of", &self.name))?;
        Ok(snapshot)
    }

    fn verified(&self) -> Result<Snapshot> {
        // Read from the disk, not from the cache: the file must be there before it is acknowledged.
        self.file.drop_cache().map_err(io("read", &self.part))?;
        let wrong = damaged(&self.part, ADVICE_INCOMING);
        let size = self.file.size().map_err(io("measure", &self.part))?;
        if size != self.total {
            return Err(wrong(Flaw { at: size, what: FlawKind::Wrong("its size differs from the announced size") }));
        }
        let read =
            read_back(&self.file, &self.name, self.cluster, &Meter::default()).map_err(io("read", &self.part))?;
        let (header, chain) = read.map_err(wrong)?;
        let bytes = self.disk.map(&self.part).map_err(io("map", &self.part))?;
        Ok(Snapshot::new(self.name.clone(), header, bytes, chain))
    }

    /// Syncs the file. After a failed sync the kernel may mark pages clean that never reached the disk. A later read
    /// would accept them, so the file must be removed.
    fn sync(&mut self) -> Result<()> {
        if let Err(error) = self.file.sync_all() {
            // The node stops for this error; a failure to remove the file makes it no worse.
            let _gone = self.disk.remove(&self.part);
            return Err(io("sync", &self.part)(error));
        }
        self.synced = self.at;
        Ok(())
    }

    /// Aborts the transfer and removes the file.
    pub fn abandon(self) -> Result<()> {
        drop(self.file);
        match self.disk.remove(&self.part) {
            // It was pruned, because a newer snapshot was published.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(io("remove", &self.part)),
        }
    }
}

/// How many bytes of the file are intact: the header, and chunk after chunk.
fn whole(file: &impl DiskFile, cluster: ClusterId, position: Position) -> std::io::Result<u64> {
    let mut chain = match read_header(file)? {
        Ok((header, chain)) if header.cluster == cluster && header.position == position => chain,
        _ => return Ok(0),
    };
    let mut chunk = Vec::new();
    while !chain.ended() && read_chunk(file, &mut chain, &mut chunk)?.is_ok() {}
    Ok(chain.at)
}
