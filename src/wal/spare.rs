//! A spare: the file of the next segment, prepared before it is needed.
//!
//! The journal's driver writes and syncs zeros in the background, so that a rotation only has to write a header and
//! rename the file. The zeros are synced piece by piece: the log's own syncs share the disk with them, and no log sync
//! should wait for all of them.

use super::report::{Fault, Result};
use super::sync_marker::io;
use crate::disk::{Disk, DiskFile};
use std::io::ErrorKind;

/// The suffix of a spare's file name. Recovery removes every file with it.
pub const SUFFIX: &str = ".tmp";
/// Zeros are written and synced in pieces of this size, which takes an ordinary disk a millisecond or two.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
/// The limit for the number of files of one order.
const ATTEMPTS: u32 = 1000;

/// A request to make a file. If it is used twice, it makes two files, and one of them is discarded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpareOrder {
    /// The prefix of the file's name.
    pub name: String,
    /// The file's size in bytes.
    pub bytes: u64,
}

/// The file for the next segment: zeros, or the records of a released segment.
#[derive(Debug)]
pub struct Spare<F> {
    /// Its name.
    pub name: String,
    /// The file.
    pub file: F,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it holds old records instead of zeros.
    pub recycled: bool,
    /// The offset up to which it was written, as a spare or as an earlier segment.
    written: u64,
}

impl SpareOrder {
    /// Makes the file, on any thread, and calls `pause` after each written piece. A [`super::Fault::Full`] is not yet a
    /// reason to stop: retry later. The journal stops only when it needs the room.
    pub fn prepare<D: Disk>(&self, disk: &D, mut pause: impl FnMut()) -> Result<Spare<D::File>> {
        let mut spare = self.reserve(disk)?;
        let mut made = spare.file.sync_all().map_err(io("sync", &spare.name)).map(|()| true);
        while let Ok(true) = made {
            made = spare.write_piece();
            pause();
        }
        match made {
            Ok(_) => {
                assert_eq!(spare.written, spare.bytes, "a prepared spare is written to its end: no sync extends it");
                Ok(spare)
            }
            Err(fault) => Err(spare.abort(disk, fault)),
        }
    }

    /// Makes the file at once, for a journal that cannot wait: its space is allocated but not written, so every first
    /// sync of a place in it costs a little more.
    pub fn reserve<D: Disk>(&self, disk: &D) -> Result<Spare<D::File>> {
        let (name, file) = self.create(disk)?;
        let mut spare = Spare { name, file, bytes: self.bytes, recycled: false, written: 0 };
        match spare.file.reserve(self.bytes) {
            Ok(()) => Ok(spare),
            Err(error) => {
                let fault = io("reserve", &spare.name)(error);
                Err(spare.abort(disk, fault))
            }
        }
    }

    /// Creates a file with a new name, since an order may be used twice. An existing file may be the one that the
    /// journal is about to use, and is left alone.
    fn create<D: Disk>(&self, disk: &D) -> Result<(String, D::File)> {
        for attempt in 1..ATTEMPTS {
            let name = format!("{}-{attempt}{SUFFIX}", self.name);
            match disk.create(&name) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return Ok((name.clone(), made.map_err(io("create", &name))?)),
            }
        }
        let source = std::io::Error::from(ErrorKind::AlreadyExists);
        Err(Fault::Io { action: "create", file: self.name.clone(), source })
    }
}

impl<F: DiskFile> Spare<F> {
    /// A released segment, under its new name.
    pub(super) fn recycled(name: String, file: F, bytes: u64) -> Spare<F> {
        Spare { name, file, bytes, recycled: true, written: bytes }
    }

    /// Writes and syncs the next piece; returns whether there is another.
    fn write_piece(&mut self) -> Result<bool> {
        let zeros = &ZEROS[..ZEROS.len().min((self.bytes - self.written) as usize)];
        self.file.write_at(self.written, zeros).map_err(io("write", &self.name))?;
        self.file.sync().map_err(io("sync", &self.name))?;
        self.written += zeros.len() as u64;
        Ok(self.written < self.bytes)
    }

    /// Removes the file, as its room may be needed elsewhere. If that fails, the next start removes it.
    fn abort<D: Disk<File = F>>(self, disk: &D, fault: Fault) -> Fault {
        let _either = disk.remove(&self.name);
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::{SimDisk, SimFile};

    fn prepare(order: &SpareOrder, disk: &SimDisk) -> Result<Spare<SimFile>> {
        order.prepare(disk, || {})
    }

    #[test]
    fn order_used_twice_makes_two_files() {
        let disk = SimDisk::new();
        let order = SpareOrder { name: "spare-2".to_owned(), bytes: 4096 };
        let (first, second) = (prepare(&order, &disk).unwrap(), prepare(&order, &disk).unwrap());
        assert_ne!(first.name, second.name);
        assert_eq!(disk.list().unwrap().len(), 2);
    }

    #[test]
    fn spare_that_does_not_fit_leaves_no_file() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(1000));
        let order = SpareOrder { name: "spare-2".to_owned(), bytes: 4096 };
        assert!(matches!(prepare(&order, &disk), Err(Fault::Full { .. })));
        assert_eq!(disk.list().unwrap().len(), 0);
    }
}
