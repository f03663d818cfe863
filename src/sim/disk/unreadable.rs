//! Sectors of a simulated disk that cannot be read.

use super::file::FileState;
use super::{SECTOR_BYTES, SimDisk};
use std::io;
use std::ops::Range;

impl SimDisk {
    /// Makes the sector that contains the byte `offset` of a file unreadable until the sector is written.
    pub fn lose_sector(&self, name: &str, offset: u64) {
        self.with_file(name, |file| file.unreadable_sectors.insert(offset as usize / SECTOR_BYTES));
    }

    /// Makes the next read of the sector that contains the byte `offset` of a file fail. Later reads succeed, as with a
    /// device that fails for a moment.
    pub fn fail_next_read(&self, name: &str, offset: u64) {
        self.with_file(name, |file| file.sectors_failing_once.insert(offset as usize / SECTOR_BYTES));
    }

    /// Whether a file of the directory has a sector that cannot be read.
    pub(in crate::sim) fn has_unreadable_sector(&self) -> bool {
        let state = self.lock();
        state.names.values().any(|id| !state.files_by_id[id].unreadable_sectors.is_empty())
    }

    fn with_file(&self, name: &str, change: impl FnOnce(&mut FileState) -> bool) {
        let mut state = self.lock();
        let id = state.names[name];
        state.files_by_id.entry(id).and_modify(|file| _ = change(file));
    }
}

impl FileState {
    /// Fails with a media error if a sector of the byte range `range` cannot be read.
    pub(super) fn check_readable(&mut self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        let is_unreadable = self.unreadable_sectors.range(sectors.clone()).next().is_some();
        let failing_once: Vec<usize> = self.sectors_failing_once.range(sectors).copied().collect();
        failing_once.iter().for_each(|sector| _ = self.sectors_failing_once.remove(sector));
        match is_unreadable || !failing_once.is_empty() {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }
}
