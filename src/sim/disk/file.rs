//! One file of a simulated disk: the image that programs see, and the durable one.

use super::SECTOR;
use rand::{Rng, RngExt};
use std::collections::{BTreeMap, BTreeSet};

/// Invariant: the durable image is `bytes` with every sector of `unsynced` and `forgotten` put back.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    pub(super) bytes: Vec<u8>,
    pub(super) durable_size: usize,
    /// Sectors written since the last sync, each with its durable contents.
    pub(super) unsynced: BTreeMap<usize, Box<[u8; SECTOR]>>,
    /// The same for sectors of a failed sync: the kernel marks these pages clean and will not write them again, however
    /// often it is asked.
    pub(super) forgotten: BTreeMap<usize, Box<[u8; SECTOR]>>,
    /// Sectors that are unreadable until they are written.
    pub(super) unreadable: BTreeSet<usize>,
}

impl FileState {
    fn sectors(&self, from: usize, to: usize) -> std::ops::Range<usize> {
        from / SECTOR..to.div_ceil(SECTOR)
    }

    fn sector(&self, sector: usize) -> Box<[u8; SECTOR]> {
        let mut held = Box::new([0; SECTOR]);
        let from = (sector * SECTOR).min(self.bytes.len());
        let to = ((sector + 1) * SECTOR).min(self.bytes.len());
        held[..to - from].copy_from_slice(&self.bytes[from..to]);
        held
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        for sector in self.sectors(offset, end) {
            self.unreadable.remove(&sector);
            // This write makes a forgotten sector dirty again: the next sync writes it.
            let held = self.forgotten.remove(&sector);
            if !self.unsynced.contains_key(&sector) {
                let held = held.unwrap_or_else(|| self.sector(sector));
                self.unsynced.insert(sector, held);
            }
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    pub(super) fn revert_sectors(&mut self, sectors: &[usize]) {
        for sector in sectors {
            let held = self.unsynced.remove(sector).or_else(|| self.forgotten.remove(sector));
            let Some(held) = held else { continue };
            let from = (sector * SECTOR).min(self.bytes.len());
            let to = ((sector + 1) * SECTOR).min(self.bytes.len());
            self.bytes[from..to].copy_from_slice(&held[..to - from]);
        }
    }

    pub(super) fn lose(&mut self, rng: &mut impl Rng, survival: u32) {
        let mut lost: Vec<usize> = self.forgotten.keys().copied().collect();
        lost.extend(self.unsynced.keys().copied().filter(|_| rng.random_range(0..4u32) >= survival));
        self.revert_sectors(&lost);
        self.unsynced.clear();
        if self.bytes.len() > self.durable_size && rng.random_range(0..4u32) >= survival {
            self.bytes.truncate(self.durable_size);
        }
        self.durable_size = self.bytes.len();
    }
}
