//! A spare: the file of the next segment, prepared before it is needed.
//!
//! A background thread writes and syncs zeros, so that a rotation only has to write a header and rename the file. The
//! zeros are synced piece by piece: the log's own syncs share the disk, and no sync of the log should wait for all
//! zeros.
//!
//! Why zeros: the file system's metadata flags an allocated block as unwritten until its first write, and the next sync
//! must commit the change of that flag. After zeros were written, a sync of the log writes data only.
//!
//! The spare is moved from the thread that makes it to the log thread, and nothing is shared. Its name ends in `.tmp`
//! until the journal renames it, so that a crash at any time leaves only files that the next start removes.

use super::report::{Fault, Result};
use super::sync_marker::to_fault;
use crate::disk::{Disk, DiskFile};
use std::io::ErrorKind;

/// The suffix of a spare's file name. A start removes every file with this suffix.
pub const TMP_SUFFIX: &str = ".tmp";
/// Zeros are written and synced in pieces of this size, which takes an ordinary disk a millisecond or two.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
/// File names for an order are numbered from 1; the numbers that are tried are below this limit.
const NAME_ATTEMPTS_MAX: u32 = 1000;

/// A request to make the file of the next segment. An order that is executed twice makes two files.
///
/// The journal keeps no list of its orders: after a failed attempt it simply returns the same order again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpareOrder {
    /// The beginning of the file's name, such as `spare-0000000004`; the number of the attempt and `.tmp` follow.
    pub name_prefix: String,
    /// The file's size in bytes.
    pub bytes: u64,
}

/// The file for the next segment: zeros, or the records of a released segment.
#[derive(Debug)]
pub struct Spare<F> {
    /// The name of the file, with [`TMP_SUFFIX`].
    pub name: String,
    /// The open file, at whose beginning the segment's header will be written.
    pub file: F,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// Whether the file holds old records instead of zeros.
    pub is_recycled: bool,
    /// The offset up to which the file was written, as a spare or as an earlier segment.
    // Only for speed: bytes that were never written read as zeros too.
    written_end: u64,
}

impl SpareOrder {
    /// Makes the file, on any thread, and calls `pause` after each written piece. After [`super::Fault::Full`] the node
    /// need not stop: the caller should retry later.
    ///
    /// The whole size is reserved first, so that a full disk is found before anything is written, and writes to other
    /// files do not fragment this one. After an error the file is removed at once: the log may need its space.
    pub fn prepare<D: Disk>(&self, disk: &D, mut pause: impl FnMut()) -> Result<Spare<D::File>> {
        let mut spare = self.reserve(disk)?;
        // The size is made durable once, here; the syncs of the pieces sync data only.
        let mut has_more_zeros = spare.file.sync_all().map_err(to_fault("sync", &spare.name)).map(|()| true);
        while let Ok(true) = has_more_zeros {
            has_more_zeros = spare.write_zeros();
            pause();
        }
        match has_more_zeros {
            Ok(_) => {
                assert_eq!(spare.written_end, spare.bytes, "a prepared spare holds zeros up to its end");
                Ok(spare)
            }
            Err(fault) => Err(spare.abort(disk, fault)),
        }
    }

    /// Makes the file at once, for a journal that cannot wait. Its space is allocated but not written, so the first
    /// sync of each block costs a little more.
    pub fn reserve<D: Disk>(&self, disk: &D) -> Result<Spare<D::File>> {
        let (name, file) = self.create(disk)?;
        let mut spare = Spare { name, file, bytes: self.bytes, is_recycled: false, written_end: 0 };
        match spare.file.reserve(self.bytes) {
            Ok(()) => Ok(spare),
            Err(error) => {
                let fault = to_fault("reserve", &spare.name)(error);
                Err(spare.abort(disk, fault))
            }
        }
    }

    /// Creates a file with a new name, since the same order for a spare may be executed twice. An existing file is not
    /// reused: the journal may be about to use it.
    ///
    /// The number of attempts is limited, because the log thread calls this too, when no spare is ready.
    fn create<D: Disk>(&self, disk: &D) -> Result<(String, D::File)> {
        for attempt in 1..NAME_ATTEMPTS_MAX {
            let name = format!("{}-{attempt}{TMP_SUFFIX}", self.name_prefix);
            match disk.create(&name) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => return Ok((name.clone(), created.map_err(to_fault("create", &name))?)),
            }
        }
        let source = std::io::Error::from(ErrorKind::AlreadyExists);
        Err(Fault::Io { action: "create", file: self.name_prefix.clone(), source })
    }
}

impl<F: DiskFile> Spare<F> {
    /// The spare that reuses the file of a released segment, under the file's new name.
    ///
    /// The header of the new segment gets [`super::format::RECYCLED_FLAG`], because old records after the end of the
    /// log are normal in such a file, and no sign of damage.
    pub(super) fn recycled(name: String, file: F, bytes: u64) -> Spare<F> {
        Spare { name, file, bytes, is_recycled: true, written_end: bytes }
    }

    /// Writes and syncs the next piece of zeros. Returns whether more zeros are to be written.
    ///
    /// Each piece is synced by itself, so that a sync of the log waits for at most one piece. A single sync of 64 MiB
    /// would delay every write of the node for its whole duration.
    fn write_zeros(&mut self) -> Result<bool> {
        let zeros = &ZEROS[..ZEROS.len().min((self.bytes - self.written_end) as usize)];
        self.file.write_at(self.written_end, zeros).map_err(to_fault("write", &self.name))?;
        self.file.sync().map_err(to_fault("sync", &self.name))?;
        self.written_end += zeros.len() as u64;
        Ok(self.written_end < self.bytes)
    }

    /// Removes the file and returns `fault`. If the removal fails too, the next start removes the file.
    fn abort<D: Disk<File = F>>(self, disk: &D, fault: Fault) -> Fault {
        let _ignored = disk.remove(&self.name);
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
        let order = SpareOrder { name_prefix: "spare-2".to_owned(), bytes: 4096 };
        let (first, second) = (prepare(&order, &disk).unwrap(), prepare(&order, &disk).unwrap());
        assert_ne!(first.name, second.name);
        assert_eq!(disk.list().unwrap().len(), 2);
    }

    #[test]
    fn spare_that_does_not_fit_leaves_no_file() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(1000));
        let order = SpareOrder { name_prefix: "spare-2".to_owned(), bytes: 4096 };
        assert!(matches!(prepare(&order, &disk), Err(Fault::Full { .. })));
        assert_eq!(disk.list().unwrap().len(), 0);
    }
}
