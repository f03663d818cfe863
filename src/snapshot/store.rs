//! The directory of snapshots: lists them, finds the newest whole one, and removes old ones.
//!
//! A file gets its `.snap` name only after it was synced. So a file with such a name is a whole snapshot, or the disk
//! has lost acknowledged data. That is an error, never an empty state.

use super::format::{Header, PART, UNFINISHED, file_name, file_position};
use super::incoming::Incoming;
use super::report::{ADVICE, Fault, Result, damaged, io};
use super::snapshot::Snapshot;
use super::verify::read_back;
use super::writer::Writer;
use crate::disk::{Disk, DiskFile, Meter};
use crate::types::{ClusterId, Mutants, Position};

/// The name in errors that concern no single file.
const DIRECTORY: &str = "snapshots";
/// The suffix of a damaged file's name.
const DAMAGED: &str = ".damaged";

/// The directory of snapshots. Clones are handles to the same directory.
#[derive(Clone, Debug)]
pub struct Store<D> {
    disk: D,
    cluster: ClusterId,
    mutants: Mutants,
}

/// A snapshot file in the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedSnapshot {
    /// The file's name.
    pub name: String,
    /// The position in its name.
    pub position: Position,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The newest whole snapshot, and the faults of newer ones.
///
/// Without a snapshot and without damage there never was a snapshot. With damage there was one, even if `snapshot` is
/// `None`: the caller must find out whether `snapshot` and the log after it are sufficient.
#[derive(Debug)]
pub struct Newest {
    /// The newest snapshot that verifies from its first byte to its last.
    pub snapshot: Option<Snapshot>,
    /// The faults of newer snapshots, newest first.
    pub damaged: Vec<Fault>,
}

impl<D: Disk> Store<D> {
    /// Opens the directory, which must have no other writer. Removes half-written files, and syncs the names: a killed
    /// process may have left them unsynced.
    pub fn open(disk: D, cluster: ClusterId) -> Result<Store<D>> {
        let store = Store { disk, cluster, mutants: Mutants::NONE };
        for name in store.names()?.into_iter().filter(|name| name.ends_with(UNFINISHED)) {
            store.remove(&name)?;
        }
        store.disk.sync_names().map_err(io("sync the directory", DIRECTORY))?;
        Ok(store)
    }

    /// The same store, with rules broken on purpose.
    pub fn breaking(self, mutants: Mutants) -> Store<D> {
        Store { mutants, ..self }
    }

    fn names(&self) -> Result<Vec<String>> {
        self.disk.list().map_err(io("list", DIRECTORY))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name).map_err(io("remove", name))
    }

    fn positions(&self) -> Result<Vec<Position>> {
        let mut positions: Vec<_> = self.names()?.iter().filter_map(|name| file_position(name)).collect();
        positions.sort_unstable_by_key(|position| (position.index, position.term));
        Ok(positions)
    }

    /// The published snapshots, oldest first, without verification.
    pub fn list(&self) -> Result<Vec<ListedSnapshot>> {
        let listed = |position| {
            let name = file_name(position);
            let size = self.disk.open(&name).and_then(|file| file.size());
            let bytes = size.map_err(io("measure", &name))?;
            Ok(ListedSnapshot { name, position, bytes })
        };
        self.positions()?.into_iter().map(listed).collect()
    }

    /// Reads the snapshot at a position, and verifies it.
    pub fn read(&self, position: Position) -> Result<Snapshot> {
        self.verify(position, &Meter::default())
    }

    /// Like [`Store::read`], but reads from the disk as far as possible, not from the page cache.
    pub fn reread(&self, position: Position) -> Result<Snapshot> {
        let name = file_name(position);
        self.disk.open(&name).and_then(|file| file.drop_cache()).map_err(io("read", &name))?;
        self.read(position)
    }

    fn verify(&self, position: Position, meter: &Meter) -> Result<Snapshot> {
        let name = file_name(position);
        let file = self.disk.open(&name).map_err(io("open", &name))?;
        meter.expect(file.size().map_err(io("measure", &name))?);
        let read = read_back(&file, &name, self.cluster, meter).map_err(io("read", &name))?;
        let (header, chain) = read.map_err(damaged(&name, ADVICE))?;
        let bytes = self.disk.map(&name).map_err(io("map", &name))?;
        Ok(Snapshot::new(name, header, bytes, chain))
    }

    /// Renames a damaged file so that it is not taken for a snapshot; returns the new name. Only the latest such file
    /// is kept, for analysis of the disk: an earlier one is removed first.
    pub fn set_aside(&self, name: &str) -> Result<String> {
        let aside = format!("{}{DAMAGED}", name.strip_suffix(UNFINISHED).unwrap_or(name));
        self.drop_set_aside()?;
        self.disk.rename(name, &aside).map_err(io("rename", name))?;
        self.disk.sync_names().map_err(io("sync the directory", DIRECTORY))?;
        Ok(aside)
    }

    /// Removes a file that was set aside; returns whether there was one.
    pub fn drop_set_aside(&self) -> Result<bool> {
        let aside: Vec<_> = self.names()?.into_iter().filter(|name| name.ends_with(DAMAGED)).collect();
        aside.iter().try_for_each(|name| self.remove(name))?;
        Ok(!aside.is_empty())
    }

    /// The faults of the snapshots that were set aside and are newer than `newest`.
    fn set_aside_since(&self, newest: Option<Position>) -> Result<Vec<Fault>> {
        let position = |name: &String| name.strip_suffix(DAMAGED).and_then(file_position);
        let is_newer =
            |name: &String| position(name).is_some_and(|at| newest.is_none_or(|newest| at.index > newest.index));
        let what = || "it was found damaged earlier, and set aside".to_owned();
        let fault = |file| Fault::Damaged { file, offset: 0, what: what(), advice: ADVICE };
        Ok(self.names()?.into_iter().filter(is_newer).map(fault).collect())
    }

    /// Finds the newest whole snapshot.
    pub fn newest(&self) -> Result<Newest> {
        self.find_newest(&Meter::default())
    }

    /// Like [`Store::newest`], and counts the progress in `meter`.
    pub fn find_newest(&self, meter: &Meter) -> Result<Newest> {
        let mut damaged = Vec::new();
        for position in self.positions()?.into_iter().rev() {
            match self.verify(position, meter) {
                Ok(snapshot) => {
                    damaged.extend(self.set_aside_since(Some(position))?);
                    return Ok(Newest { snapshot: Some(snapshot), damaged });
                }
                Err(fault @ Fault::Damaged { .. }) => damaged.push(fault),
                Err(fault) => return Err(fault),
            }
        }
        damaged.extend(self.set_aside_since(None)?);
        Ok(Newest { snapshot: None, damaged })
    }

    /// Begins to write a snapshot.
    pub fn writer(&self, header: &Header) -> Result<Writer<D>> {
        assert_eq!(header.cluster, self.cluster, "a node takes snapshots of its own cluster");
        Writer::create(self.disk.clone(), header, self.mutants)
    }

    /// Begins to receive a snapshot of `total` bytes from another node, or resumes it. Only one is received at a time:
    /// parts of other snapshots are removed.
    pub fn incoming(&self, position: Position, total: u64) -> Result<Incoming<D>> {
        let part = format!("{}{PART}", file_name(position));
        for name in self.names()?.into_iter().filter(|name| name.ends_with(PART) && *name != part) {
            self.remove(&name)?;
        }
        Incoming::open(self.disk.clone(), self.cluster, position, total)
    }

    /// How many bytes of room [`Store::incoming`] lacks.
    pub fn missing_room(&self, position: Position, total: u64) -> Result<u64> {
        let part = format!("{}{PART}", file_name(position));
        let free = self.disk.free().map_err(io("check the free disk space for", &part))?;
        let has = match self.names()?.contains(&part) {
            true => self.disk.open(&part).and_then(|file| file.size()).map_err(io("measure", &part))?,
            false => 0,
        };
        Ok(total.saturating_sub(has).saturating_sub(free))
    }

    /// Verifies the snapshot at `keep`, then removes all older ones, published or partly received. A snapshot that is
    /// being written is not removed. Returns the removed names.
    pub fn prune(&self, keep: Position) -> Result<Vec<String>> {
        self.read(keep)?;
        self.prune_to(keep)
    }

    /// Like [`Store::prune`], for a snapshot that has just been verified.
    pub fn prune_older_than(&self, keep: &Snapshot) -> Result<Vec<String>> {
        self.prune_to(keep.header().position)
    }

    fn prune_to(&self, keep: Position) -> Result<Vec<String>> {
        let mut gone: Vec<_> = self.names()?.into_iter().filter(|name| outdated(name, keep)).collect();
        // Names are padded with zeros, so this removes the oldest first, and the newer ones are there at every moment.
        gone.sort_unstable();
        for name in &gone {
            self.remove(name)?;
        }
        self.disk.sync_names().map_err(io("sync the directory", DIRECTORY))?;
        Ok(gone)
    }
}

/// Whether a file is of no use beside the snapshot at `keep`.
fn outdated(name: &str, keep: Position) -> bool {
    let age = |position: Position| (position.index, position.term);
    match name.strip_suffix(PART) {
        Some(name) => file_position(name).is_some_and(|position| age(position) <= age(keep)),
        None => file_position(name).is_some_and(|position| age(position) < age(keep)),
    }
}
