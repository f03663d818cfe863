//! The directory of snapshots: lists them, finds the newest intact one, and removes old ones.
//!
//! A file gets its `.snap` name only after it was synced. So if a file with such a name is not intact, the disk has
//! lost acknowledged data. That is an error, and never taken for an empty state.

use super::format::{Header, PART_SUFFIX, UNFINISHED_SUFFIX, file_name, file_position};
use super::incoming::IncomingSnapshot;
use super::report::{ADVICE_PUBLISHED, Fault, Result, to_damage_fault, to_fault};
use super::snapshot::Snapshot;
use super::verify::{check_feature_level, read_back, read_header};
use super::writer::Writer;
use crate::disk::{Disk, DiskFile, Meter};
use crate::types::feature_level::FEATURE_LEVEL_MAX;
use crate::types::{ClusterId, Mutants, Position};

/// The name of the directory in error messages.
const DIRECTORY_NAME: &str = "snapshots";
/// The suffix of the name of a damaged file that was set aside.
const DAMAGED_SUFFIX: &str = ".damaged";

/// The directory of snapshots. Clones are handles to the same directory.
#[derive(Clone, Debug)]
pub struct Store<D> {
    disk: D,
    cluster: ClusterId,
    /// The highest feature level that the program knows. A snapshot of a higher level is refused.
    feature_level_max: u16,
    mutants: Mutants,
}

/// A published snapshot in the directory, not yet verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedSnapshot {
    /// The name of the snapshot's file, without the directory.
    pub name: String,
    /// The position of the snapshot, from the file's name.
    pub position: Position,
    /// The size of the file in bytes.
    pub bytes: u64,
}

/// The newest intact snapshot, and the faults of newer ones.
///
/// If there is no snapshot and no fault, the node never had a snapshot. If there are faults, the caller must check that
/// `snapshot` and the log after it are sufficient, also if `snapshot` is `None`.
#[derive(Debug)]
pub struct NewestSnapshot {
    /// The newest snapshot whose every byte was verified.
    pub snapshot: Option<Snapshot>,
    /// The faults of newer snapshots, newest first.
    pub newer_faults: Vec<Fault>,
}

impl<D: Disk> Store<D> {
    /// Opens the directory, which must have no other writer. Removes partly written files, and syncs the names, because
    /// a killed process may have left them unsynced.
    pub fn open(disk: D, cluster: ClusterId) -> Result<Store<D>> {
        let store = Store { disk, cluster, feature_level_max: FEATURE_LEVEL_MAX, mutants: Mutants::NONE };
        for name in store.file_names()?.into_iter().filter(|name| name.ends_with(UNFINISHED_SUFFIX)) {
            store.remove(&name)?;
        }
        store.disk.sync_names().map_err(to_fault("sync the directory", DIRECTORY_NAME))?;
        Ok(store)
    }

    /// The same store, of a program that knows feature levels up to `level`.
    pub fn with_feature_level_max(self, level: u16) -> Store<D> {
        Store { feature_level_max: level, ..self }
    }

    /// The same store, with rules that a test breaks on purpose.
    pub fn with_mutants(self, mutants: Mutants) -> Store<D> {
        Store { mutants, ..self }
    }

    /// The directory that holds the snapshots.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    fn file_names(&self) -> Result<Vec<String>> {
        self.disk.list().map_err(to_fault("list", DIRECTORY_NAME))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name).map_err(to_fault("remove", name))
    }

    fn published_positions(&self) -> Result<Vec<Position>> {
        let mut positions: Vec<_> = self.file_names()?.iter().filter_map(|name| file_position(name)).collect();
        positions.sort_unstable_by_key(|position| (position.index, position.term));
        Ok(positions)
    }

    /// The published snapshots, oldest first, without verification.
    pub fn list(&self) -> Result<Vec<ListedSnapshot>> {
        let to_listed_snapshot = |position| {
            let name = file_name(position);
            let size = self.disk.open(&name).and_then(|file| file.size());
            let bytes = size.map_err(to_fault("measure", &name))?;
            Ok(ListedSnapshot { name, position, bytes })
        };
        self.published_positions()?.into_iter().map(to_listed_snapshot).collect()
    }

    /// Reads the snapshot at a position, and verifies it.
    pub fn read(&self, position: Position) -> Result<Snapshot> {
        self.verify(position, &Meter::default())
    }

    /// Like [`Store::read`], but drops the file from the page cache first, so that the disk is read if possible.
    pub fn read_uncached(&self, position: Position) -> Result<Snapshot> {
        let name = file_name(position);
        self.disk.open(&name).and_then(|file| file.drop_cache()).map_err(to_fault("read", &name))?;
        self.read(position)
    }

    fn verify(&self, position: Position, meter: &Meter) -> Result<Snapshot> {
        let name = file_name(position);
        let file = self.disk.open(&name).map_err(to_fault("open", &name))?;
        meter.add_total(file.size().map_err(to_fault("measure", &name))?);
        let outcome = read_back(&file, &name, self.cluster, meter).map_err(to_fault("read", &name))?;
        let (header, chain) = outcome.map_err(to_damage_fault(&name, ADVICE_PUBLISHED))?;
        check_feature_level(&name, &header, self.feature_level_max)?;
        let bytes = self.disk.map(&name).map_err(to_fault("map", &name))?;
        Ok(Snapshot::new(name, header, bytes, chain))
    }

    /// Renames a damaged file so that it is not taken for a snapshot; returns the new name. Only the latest such file
    /// is kept, for analysis of the disk: an earlier one is removed first.
    pub fn set_aside(&self, name: &str) -> Result<String> {
        let set_aside_name = format!("{}{DAMAGED_SUFFIX}", name.strip_suffix(UNFINISHED_SUFFIX).unwrap_or(name));
        self.remove_set_aside_files()?;
        self.disk.rename(name, &set_aside_name).map_err(to_fault("rename", name))?;
        self.disk.sync_names().map_err(to_fault("sync the directory", DIRECTORY_NAME))?;
        Ok(set_aside_name)
    }

    /// Removes the damaged files that were set aside; returns whether there were any.
    pub fn remove_set_aside_files(&self) -> Result<bool> {
        let set_aside_names: Vec<_> =
            self.file_names()?.into_iter().filter(|name| name.ends_with(DAMAGED_SUFFIX)).collect();
        set_aside_names.iter().try_for_each(|name| self.remove(name))?;
        Ok(!set_aside_names.is_empty())
    }

    /// The faults of the snapshots that were set aside and are newer than `newest`.
    fn set_aside_faults_newer_than(&self, newest: Option<Position>) -> Result<Vec<Fault>> {
        let set_aside_position = |name: &String| name.strip_suffix(DAMAGED_SUFFIX).and_then(file_position);
        let is_newer = |name: &String| {
            set_aside_position(name).is_some_and(|at| newest.is_none_or(|newest| at.index > newest.index))
        };
        let description = || "it was found damaged earlier, and set aside".to_owned();
        let fault = |file| Fault::Damaged { file, offset: 0, description: description(), advice: ADVICE_PUBLISHED };
        Ok(self.file_names()?.into_iter().filter(is_newer).map(fault).collect())
    }

    /// Finds the newest intact snapshot.
    pub fn newest(&self) -> Result<NewestSnapshot> {
        self.find_newest(&Meter::default())
    }

    /// Like [`Store::newest`], and counts the progress in `meter`.
    pub fn find_newest(&self, meter: &Meter) -> Result<NewestSnapshot> {
        let mut newer_faults = Vec::new();
        for position in self.published_positions()?.into_iter().rev() {
            // Another read may succeed: a device may fail for a moment, and a caller may give up the log behind a damaged
            // snapshot.
            let outcome = match self.verify(position, meter) {
                Err(Fault::Damaged { .. }) => self.read_uncached(position),
                outcome => outcome,
            };
            match outcome {
                Ok(snapshot) => {
                    newer_faults.extend(self.set_aside_faults_newer_than(Some(position))?);
                    return Ok(NewestSnapshot { snapshot: Some(snapshot), newer_faults });
                }
                Err(fault @ Fault::Damaged { .. }) => newer_faults.push(fault),
                Err(fault) => return Err(fault),
            }
        }
        newer_faults.extend(self.set_aside_faults_newer_than(None)?);
        Ok(NewestSnapshot { snapshot: None, newer_faults })
    }

    /// Creates the file of a new snapshot. Nothing is published before [`Writer::finish`] or [`Writer::verify`].
    pub fn create_writer(&self, header: &Header) -> Result<Writer<D>> {
        assert_eq!(header.cluster, self.cluster, "a node takes snapshots of its own cluster only");
        Writer::create(self.disk.clone(), header, self.mutants)
    }

    /// Begins or resumes the transfer of a snapshot of `total_bytes` bytes from another node. Only one is received at a
    /// time: parts of other snapshots are removed.
    pub fn open_incoming(&self, position: Position, total_bytes: u64) -> Result<IncomingSnapshot<D>> {
        let part_name = format!("{}{PART_SUFFIX}", file_name(position));
        for name in self.file_names()?.into_iter().filter(|name| name.ends_with(PART_SUFFIX) && *name != part_name) {
            self.remove(&name)?;
        }
        IncomingSnapshot::open(self.disk.clone(), (self.cluster, self.feature_level_max), position, total_bytes)
    }

    /// The number of bytes by which the free disk space is too small for [`Store::open_incoming`]; 0 if the space is
    /// enough.
    pub fn missing_bytes(&self, position: Position, total_bytes: u64) -> Result<u64> {
        let part_name = format!("{}{PART_SUFFIX}", file_name(position));
        let free_bytes = self.disk.free_bytes().map_err(to_fault("check the free disk space for", &part_name))?;
        let part_bytes = match self.file_names()?.contains(&part_name) {
            true => self.disk.open(&part_name).and_then(|file| file.size()).map_err(to_fault("measure", &part_name))?,
            false => 0,
        };
        Ok(total_bytes.saturating_sub(part_bytes).saturating_sub(free_bytes))
    }

    /// Verifies the snapshot at `keep`, then removes all older ones, published or partly received. A snapshot that is
    /// being written is not removed. Returns the names of the removed files.
    pub fn prune(&self, keep: Position) -> Result<Vec<String>> {
        self.read(keep)?;
        self.prune_older_files(keep)
    }

    /// Like [`Store::prune`], for a snapshot that has just been verified.
    pub fn prune_older_than(&self, keep: &Snapshot) -> Result<Vec<String>> {
        self.prune_older_files(keep.header().position)
    }

    fn prune_older_files(&self, keep: Position) -> Result<Vec<String>> {
        let mut outdated_names: Vec<_> =
            self.file_names()?.into_iter().filter(|name| is_outdated(name, keep)).collect();
        // Names are padded with zeros, so the oldest snapshot is removed first.
        outdated_names.sort_unstable();
        for name in &outdated_names {
            self.remove(name)?;
        }
        self.disk.sync_names().map_err(to_fault("sync the directory", DIRECTORY_NAME))?;
        Ok(outdated_names)
    }
}

/// Refuses published snapshots of a later format or feature level in a directory, before anything is changed: to an
/// older program they look damaged. Reads the headers only. A damaged header is no error here.
pub fn check_known_formats<D: Disk>(disk: &D, feature_level_max: u16) -> Result<()> {
    let names = disk.list().map_err(to_fault("list", DIRECTORY_NAME))?;
    for name in names.into_iter().filter(|name| file_position(name).is_some()) {
        let file = disk.open(&name).map_err(to_fault("open", &name))?;
        match read_header(&file).map_err(to_fault("read", &name))? {
            Ok((header, _)) => check_feature_level(&name, &header, feature_level_max)?,
            Err(flaw) => match to_damage_fault(&name, ADVICE_PUBLISHED)(flaw) {
                newer @ Fault::Newer(_) => return Err(newer),
                _damaged => {}
            },
        }
    }
    Ok(())
}

/// The name of a published snapshot in a directory whose header names another cluster; `None` if there is none. Changes
/// nothing, as opposed to [`Store::open`].
pub fn find_foreign_snapshot<D: Disk>(disk: &D, cluster: ClusterId) -> Result<Option<String>> {
    let names = disk.list().map_err(to_fault("list", DIRECTORY_NAME))?;
    for name in names.into_iter().filter(|name| file_position(name).is_some()) {
        let file = disk.open(&name).map_err(to_fault("open", &name))?;
        let header = read_header(&file).map_err(to_fault("read", &name))?;
        if header.is_ok_and(|(header, _)| header.cluster != cluster) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether a file is useless because the snapshot at `keep` exists: an older snapshot, or a part of one.
fn is_outdated(name: &str, keep: Position) -> bool {
    let sort_key = |position: Position| (position.index, position.term);
    match name.strip_suffix(PART_SUFFIX) {
        Some(name) => file_position(name).is_some_and(|position| sort_key(position) <= sort_key(keep)),
        None => file_position(name).is_some_and(|position| sort_key(position) < sort_key(keep)),
    }
}
