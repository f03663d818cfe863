//! The next segment, made ready before it is needed.
//!
//! Zeros are written and synced in the background, by whoever drives the journal, so that a rotation
//! need only write a header and give the file its name.

use super::report::{Fault, Result};
use super::side::io;
use crate::disk::{Disk, DiskFile};
use std::io::ErrorKind;

/// What a spare has until it is a segment. Recovery removes every file of such a name.
pub const SUFFIX: &str = ".tmp";
/// How many files of one order may be about.
const ATTEMPTS: u32 = 1000;

/// A file that should be made. Given out twice, it makes two files, and one of them is thrown away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpareOrder {
    /// How its name begins.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// A file of zeros, or of the records of a segment that was released: room for the next segment.
#[derive(Debug)]
pub struct Spare<F> {
    /// Its name.
    pub name: String,
    /// The file.
    pub file: F,
    /// Its size.
    pub bytes: u64,
    /// Whether it holds old records rather than zeros.
    pub recycled: bool,
}

impl SpareOrder {
    /// Makes the file, on any thread. A [`super::Fault::Full`] is no reason to stop yet: try again
    /// later; the journal stops only when it needs the room.
    pub fn prepare<D: Disk>(&self, disk: &D) -> Result<Spare<D::File>> {
        let (name, mut file) = self.create(disk)?;
        let made = file.allocate(self.bytes).map_err(io("allocate", &name));
        let made = made.and_then(|()| file.sync_all().map_err(io("sync", &name)));
        if let Err(fault) = made {
            // Room that may be needed elsewhere. If it stays, the next start removes it.
            let _either = disk.remove(&name);
            return Err(fault);
        }
        Ok(Spare { name, file, bytes: self.bytes, recycled: false })
    }

    /// A file that nobody else has: an order given out twice makes two. Whatever is there already may
    /// be what the journal is about to use, and is left alone.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::SimDisk;

    #[test]
    fn an_order_given_out_twice_makes_two_files() {
        let disk = SimDisk::new();
        let order = SpareOrder { name: "spare-2".to_owned(), bytes: 4096 };
        let (first, second) = (order.prepare(&disk).unwrap(), order.prepare(&disk).unwrap());
        assert_ne!(first.name, second.name);
        assert_eq!(disk.list().unwrap().len(), 2);
    }

    #[test]
    fn a_spare_that_does_not_fit_leaves_nothing() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(1000));
        let order = SpareOrder { name: "spare-2".to_owned(), bytes: 4096 };
        assert!(matches!(order.prepare(&disk), Err(Fault::Full { .. })));
        assert_eq!(disk.list().unwrap().len(), 0);
    }
}
