//! A spare: the file of the next segment, prepared before it is needed.
//!
//! The journal's driver writes and syncs zeros in the background, so that a rotation only has to write a header and
//! rename the file. The zeros are synced piece by piece: the log's own syncs share the disk with them, and no log sync
//! should wait for all of them.
//!
//! Why zeros: a block that is allocated and was never written is marked so in the file system's metadata, and the first
//! sync after a write to it must commit that the mark is gone. With written zeros, a sync of the log writes data only.
//!
//! A spare goes from one thread to another by value: the driver makes it, the journal takes it, and nothing is shared.
//! Its name ends in `.tmp` until the journal renames it, so that a crash at any time leaves only files that a start
//! removes.

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
///
/// The journal does not remember that it has ordered: an order that is lost with a failed attempt is simply made again.
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
    // The journal does not depend on it: bytes that were never written read as zeros too.
    written: u64,
}

impl SpareOrder {
    /// Makes the file, on any thread, and calls `pause` after each written piece. A [`super::Fault::Full`] is not yet a
    /// reason to stop: retry later. The journal stops only when it needs the room.
    ///
    /// The whole size is reserved first, so that a full disk is known before anything is written, and the file is not
    /// scattered over the disk by what others write meanwhile. A spare that fails is removed at once: its room may be
    /// what the log needs.
    pub fn prepare<D: Disk>(&self, disk: &D, mut pause: impl FnMut()) -> Result<Spare<D::File>> {
        let mut spare = self.reserve(disk)?;
        // The size is made durable once, here; the syncs of the pieces are of data only.
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
    ///
    /// The limit keeps a directory that refuses each name, for whatever reason, from becoming an endless loop. The log
    /// thread calls this too, when no spare is ready.
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
    ///
    /// The header of the new segment gets a flag for it ([`super::format::RECYCLED`]), because old records behind the
    /// end of such a segment are normal and no sign of damage.
    pub(super) fn recycled(name: String, file: F, bytes: u64) -> Spare<F> {
        Spare { name, file, bytes, recycled: true, written: bytes }
    }

    /// Writes and syncs the next piece; returns whether there is another.
    ///
    /// One piece a sync: the log's sync on the same disk waits behind at most this one. A single sync of 64 MiB would
    /// hold up every write of the node for as long as the disk takes for it.
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
