//! The next segment, made ready before it is needed.
//!
//! Zeros are written and synced in the background, by whoever drives the journal, so that a rotation
//! need only write a header and give the file its name.

use super::report::Result;
use super::side::io;
use crate::disk::{Disk, DiskFile};

/// What a spare has until it is a segment. Recovery removes every file of such a name.
pub const SUFFIX: &str = ".tmp";

/// A file that should be made. Give the same order out once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpareOrder {
    /// Its name.
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
        let name = &self.name;
        // What a failed attempt left is of no use.
        let there = disk.list().map_err(io("list", name))?.contains(name);
        if there {
            disk.remove(name).map_err(io("remove", name))?;
        }
        let mut file = disk.create(name).map_err(io("create", name))?;
        file.allocate(self.bytes).map_err(io("allocate", name))?;
        file.sync_all().map_err(io("sync", name))?;
        Ok(Spare { name: name.clone(), file, bytes: self.bytes, recycled: false })
    }
}
