//! Receives a snapshot from another node. An interrupted transfer is resumed, even after a restart.

use super::format::{Flaw, FlawKind, PART_SUFFIX, SYNC_INTERVAL_BYTES, file_name};
use super::report::{ADVICE_INCOMING, Fault, Result, to_damage_fault, to_fault};
use super::snapshot::Snapshot;
use super::verify::{check_feature_level, read_back, read_chunk, read_header};
use crate::disk::{Disk, DiskFile, Meter};
use crate::types::{ClusterId, Position};
use std::io::ErrorKind;

/// A snapshot that is being received from another node, in a file whose name ends in `.part`.
#[derive(Debug)]
pub struct IncomingSnapshot<D: Disk> {
    disk: D,
    file: D::File,
    published_name: String,
    part_name: String,
    cluster: ClusterId,
    feature_level_max: u16,
    position: Position,
    total_bytes: u64,
    received_bytes: u64,
    synced_bytes: u64,
}

impl<D: Disk> IncomingSnapshot<D> {
    /// Begins a transfer, or resumes a transfer after the intact part of its file. Reserves space for the whole
    /// snapshot at once. If there is too little space, returns an error and keeps only the part that was received
    /// before.
    pub(super) fn open(
        disk: D,
        (cluster, feature_level_max): (ClusterId, u16),
        position: Position,
        total_bytes: u64,
    ) -> Result<IncomingSnapshot<D>> {
        let published_name = file_name(position);
        let part_name = format!("{published_name}{PART_SUFFIX}");
        let exists = disk.list().map_err(to_fault("list", &part_name))?.contains(&part_name);
        let mut received_bytes = 0;
        let mut file = if exists {
            let mut file = disk.open(&part_name).map_err(to_fault("open", &part_name))?;
            received_bytes = intact_bytes(&file, cluster, position).map_err(to_fault("read", &part_name))?;
            received_bytes = if received_bytes > total_bytes { 0 } else { received_bytes };
            file.truncate(received_bytes).map_err(to_fault("truncate", &part_name))?;
            file
        } else {
            disk.create(&part_name).map_err(to_fault("create", &part_name))?
        };
        if let Err(error) = file.reserve(total_bytes) {
            let fault = to_fault("reserve", &part_name)(error);
            match received_bytes {
                0 => disk.remove(&part_name).map_err(to_fault("remove", &part_name))?,
                // A later transfer can resume after this part, when there is space.
                _ => file.truncate(received_bytes).map_err(to_fault("truncate", &part_name))?,
            }
            return Err(fault);
        }
        Ok(IncomingSnapshot {
            disk,
            file,
            published_name,
            part_name,
            cluster,
            feature_level_max,
            position,
            total_bytes,
            received_bytes,
            synced_bytes: 0,
        })
    }

    /// The position of the last entry that the snapshot replaces.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The size of the whole snapshot in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The number of bytes that were received: the offset at which the sender continues.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Whether all bytes were received, valid or not.
    pub fn is_complete(&self) -> bool {
        self.received_bytes >= self.total_bytes
    }

    /// Writes bytes of the file from `offset` on, and returns the number of bytes received so far. Ignores bytes that
    /// were received before, that would leave a gap, or that are beyond the end.
    pub fn write_bytes(&mut self, offset: u64, bytes: &[u8]) -> Result<u64> {
        let bytes_within_total = self.total_bytes.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let Some(already_received) = self.received_bytes.checked_sub(offset) else { return Ok(self.received_bytes) };
        let new_bytes = bytes[..bytes_within_total].get(already_received as usize..).unwrap_or_default();
        if new_bytes.is_empty() {
            return Ok(self.received_bytes);
        }
        self.file.write_at(self.received_bytes, new_bytes).map_err(to_fault("write", &self.part_name))?;
        self.received_bytes += new_bytes.len() as u64;
        if self.received_bytes - self.synced_bytes > SYNC_INTERVAL_BYTES {
            self.sync()?;
        }
        Ok(self.received_bytes)
    }

    /// Verifies the whole file, makes it durable and publishes it. To be called when [`IncomingSnapshot::is_complete`].
    /// A damaged file is removed, and a file of a later version too.
    pub fn finish(mut self) -> Result<Snapshot> {
        self.sync()?;
        let snapshot = match self.verify_file() {
            Ok(snapshot) => snapshot,
            Err(fault @ (Fault::Damaged { .. } | Fault::Newer(_))) => {
                self.abandon()?;
                return Err(fault);
            }
            Err(fault) => return Err(fault),
        };
        self.disk.rename(&self.part_name, &self.published_name).map_err(to_fault("rename", &self.part_name))?;
        self.disk.sync_names().map_err(to_fault("sync the directory of", &self.published_name))?;
        Ok(snapshot)
    }

    fn verify_file(&self) -> Result<Snapshot> {
        // The file is read from the disk and not from the page cache, because the snapshot is acknowledged afterwards.
        self.file.drop_cache().map_err(to_fault("read", &self.part_name))?;
        let damage_fault = to_damage_fault(&self.part_name, ADVICE_INCOMING);
        let size = self.file.size().map_err(to_fault("measure", &self.part_name))?;
        if size != self.total_bytes {
            return Err(damage_fault(Flaw {
                at: size,
                kind: FlawKind::Invalid("its size differs from the announced size"),
            }));
        }
        let outcome = read_back(&self.file, &self.published_name, self.cluster, &Meter::default())
            .map_err(to_fault("read", &self.part_name))?;
        let (header, chain) = outcome.map_err(damage_fault)?;
        check_feature_level(&self.published_name, &header, self.feature_level_max)?;
        let bytes = self.disk.map(&self.part_name).map_err(to_fault("map", &self.part_name))?;
        Ok(Snapshot::new(self.published_name.clone(), header, bytes, chain))
    }

    /// Syncs the file. If the sync fails, the file is removed: the kernel may mark pages clean that never reached the
    /// disk, and a later read would accept them.
    fn sync(&mut self) -> Result<()> {
        if let Err(error) = self.file.sync_all() {
            // The node stops because of the failed sync, whether the removal succeeds or not.
            let _ignored = self.disk.remove(&self.part_name);
            return Err(to_fault("sync", &self.part_name)(error));
        }
        self.synced_bytes = self.received_bytes;
        Ok(())
    }

    /// Aborts the transfer and removes the file.
    pub fn abandon(self) -> Result<()> {
        drop(self.file);
        match self.disk.remove(&self.part_name) {
            // The partial file was pruned, because a newer snapshot was published.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(to_fault("remove", &self.part_name)),
        }
    }
}

/// The number of intact bytes at the beginning of the file: the header, and all intact chunks after it. 0 if the file
/// is that of another snapshot.
fn intact_bytes(file: &impl DiskFile, cluster: ClusterId, position: Position) -> std::io::Result<u64> {
    let mut chain = match read_header(file)? {
        Ok((header, chain)) if header.cluster == cluster && header.position == position => chain,
        _ => return Ok(0),
    };
    let mut chunk = Vec::new();
    while !chain.is_ended() && read_chunk(file, &mut chain, &mut chunk)?.is_ok() {}
    Ok(chain.at)
}
