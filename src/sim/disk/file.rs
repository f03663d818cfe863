//! One file of a simulated disk: the image that programs see, and the durable one.

use super::SECTOR_BYTES;
use rand::{Rng, RngExt};
use std::collections::{BTreeMap, BTreeSet};

/// A file's contents as programs see them, and the durable contents of the sectors that a power loss may revert.
///
/// Invariant: the durable image is `bytes` with every sector of `unsynced_sectors` and `falsely_clean_sectors` replaced
/// by its durable contents.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    /// The contents as programs see them.
    pub(super) bytes: Vec<u8>,
    /// The size in bytes that a power loss keeps for certain.
    pub(super) durable_size: usize,
    /// Sectors written since the last sync, each with its durable contents.
    pub(super) unsynced_sectors: BTreeMap<usize, Box<[u8; SECTOR_BYTES]>>,
    /// Sectors of a failed or false sync, each with its durable contents. The kernel has marked the pages of these
    /// sectors clean, so that later syncs do not write them.
    pub(super) falsely_clean_sectors: BTreeMap<usize, Box<[u8; SECTOR_BYTES]>>,
    /// Sectors that are unreadable until they are written.
    pub(super) unreadable_sectors: BTreeSet<usize>,
    /// Sectors whose next read fails. Later reads succeed.
    pub(super) sectors_failing_once: BTreeSet<usize>,
}

impl FileState {
    /// The numbers of the sectors that contain the bytes from `from` to `to`.
    fn sector_range(&self, from: usize, to: usize) -> std::ops::Range<usize> {
        from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES)
    }

    /// Makes all data durable, except what the kernel takes for written already.
    pub(super) fn write_unsynced_data(&mut self) {
        self.unsynced_sectors.clear();
        self.durable_size = self.bytes.len();
        let lost_sectors: Vec<usize> = self.falsely_clean_sectors.keys().copied().collect();
        self.revert_sectors(&lost_sectors);
    }

    /// The bytes of a sector as programs see them, with zeros behind the end of the file.
    fn copy_sector(&self, sector: usize) -> Box<[u8; SECTOR_BYTES]> {
        let mut sector_bytes = Box::new([0; SECTOR_BYTES]);
        let from = (sector * SECTOR_BYTES).min(self.bytes.len());
        let to = ((sector + 1) * SECTOR_BYTES).min(self.bytes.len());
        sector_bytes[..to - from].copy_from_slice(&self.bytes[from..to]);
        sector_bytes
    }

    /// Writes bytes at `offset`, and extends the file if needed. The bytes stay unsynced until the next sync.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        for sector in self.sector_range(offset, end) {
            self.unreadable_sectors.remove(&sector);
            // This write makes the sector's page dirty again, so that the next sync writes it.
            let durable_bytes = self.falsely_clean_sectors.remove(&sector);
            if !self.unsynced_sectors.contains_key(&sector) {
                let durable_bytes = durable_bytes.unwrap_or_else(|| self.copy_sector(sector));
                self.unsynced_sectors.insert(sector, durable_bytes);
            }
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    /// Replaces the visible contents of the sectors with these numbers by their durable contents.
    pub(super) fn revert_sectors(&mut self, sectors: &[usize]) {
        for sector in sectors {
            let durable_bytes =
                self.unsynced_sectors.remove(sector).or_else(|| self.falsely_clean_sectors.remove(sector));
            let Some(durable_bytes) = durable_bytes else { continue };
            let from = (sector * SECTOR_BYTES).min(self.bytes.len());
            let to = ((sector + 1) * SECTOR_BYTES).min(self.bytes.len());
            self.bytes[from..to].copy_from_slice(&durable_bytes[..to - from]);
        }
    }

    /// Reverts all falsely clean sectors, and a random subset of the unsynced sectors. On average, `surviving_quarters`
    /// quarters of the unsynced sectors survive: none at 0, all at 4.
    pub(super) fn lose_unsynced_data(&mut self, rng: &mut impl Rng, surviving_quarters: u32) {
        let mut lost_sectors: Vec<usize> = self.falsely_clean_sectors.keys().copied().collect();
        lost_sectors
            .extend(self.unsynced_sectors.keys().copied().filter(|_| rng.random_range(0..4u32) >= surviving_quarters));
        self.revert_sectors(&lost_sectors);
        self.unsynced_sectors.clear();
        if self.bytes.len() > self.durable_size && rng.random_range(0..4u32) >= surviving_quarters {
            self.bytes.truncate(self.durable_size);
        }
        self.durable_size = self.bytes.len();
    }
}
