//! An in-memory disk that tears writes, loses data and reports success for syncs that it did not do. The same seed
//! gives the same faults.
//!
//! Every file has two images, the one that programs *see* and the *durable* one. The directory's list of names also has
//! both images. A power loss keeps any subset of the unsynced 512-byte sectors and any subset of the unsynced name
//! changes. A killed process loses nothing, but its unsynced data stays unsynced.

mod file;
mod unreadable;

use crate::disk::{Disk, DiskFile};
use bytes::Bytes;
use file::FileState;
use rand::{Rng, RngExt};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// The size of a sector in bytes. A sector is written as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// How a process ends: alone, or with its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process is killed, but the kernel survives: programs see the same data, and unsynced data stays unsynced.
    Kill,
    /// The machine loses power: any unsynced data may be lost.
    Power,
    /// The machine restarts in order: the kernel writes all data first.
    Reboot,
}

/// The modifying operation at which the disk stops working.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskStop {
    /// The first operation that is not executed, counted from 0.
    pub operation: u64,
    /// If `operation` is a write, how many of its bytes are still written.
    pub written_bytes: usize,
}

/// A simulated directory. Clones are handles to the same directory.
///
/// The mutex is only there because [`Disk`] must be `Send`: a simulated world has one thread, and the lock is never
/// contended.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    files_by_id: BTreeMap<u64, FileState>,
    /// The id of each file by its name, as programs see the directory.
    names: BTreeMap<String, u64>,
    /// The id of each file by its name, as of the last sync of names.
    durable_names: BTreeMap<String, u64>,
    /// Name changes since the last sync of names, in order.
    unsynced_names: Vec<NameChange>,
    next_file_id: u64,
    /// The number of the current process: a crash begins another one, and makes older file handles unusable.
    process_number: u64,
    /// The number of the machine's current boot: a power loss begins another one.
    boot_number: u64,
    /// How many operations were requested that modify or sync the disk.
    operation_count: u64,
    /// The operation at which the disk will stop, if one is set.
    stop: Option<DiskStop>,
    /// Whether the operation `stop` was reached: every later operation fails.
    stopped: bool,
    /// The number of the operation that will fail, if one is set.
    failing_operation: Option<u64>,
    next_sync_fails: bool,
    /// Whether the next sync of a file falsely reports success.
    next_sync_lies: bool,
    /// Whether a sync has falsely reported success since the last power loss.
    has_lied: bool,
    /// If set, the next write within the log is misdirected to a place that this random number selects.
    misdirection_seed: Option<u64>,
    /// The disk on which this directory lies.
    volume: Arc<Mutex<Volume>>,
    /// Whether every modifying operation fails until the next crash.
    broken: bool,
}

/// The disk space that directories on the same disk share.
#[derive(Debug, Default)]
struct Volume {
    /// The limit for the total size of all files in bytes; `None` if there is none.
    capacity: Option<u64>,
    directories: Vec<Weak<Mutex<DiskState>>>,
}

/// A change of a directory's names, which takes effect on the disk only with the next sync of names.
#[derive(Clone, Debug)]
enum NameChange {
    Create { name: String, id: u64 },
    Rename { from: String, to: String },
    Remove { name: String },
}

/// An open file of a simulated directory. Every operation fails after a crash of the process that opened it.
#[derive(Debug)]
pub struct SimFile {
    state: Arc<Mutex<DiskState>>,
    id: u64,
    process_number: u64,
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty directory on a disk of its own, without a limit of space.
    pub fn new() -> SimDisk {
        SimDisk::with_volume(Arc::default(), DiskState { boot_number: 1, ..DiskState::default() })
    }

    /// Another directory on the same disk: it has its own faults and shares the disk space.
    pub fn sibling_directory(&self) -> SimDisk {
        let volume = self.lock().volume.clone();
        SimDisk::with_volume(volume, DiskState { boot_number: 1, ..DiskState::default() })
    }

    fn with_volume(volume: Arc<Mutex<Volume>>, state: DiskState) -> SimDisk {
        let state = Arc::new(Mutex::new(DiskState { volume: volume.clone(), ..state }));
        lock(&volume).directories.push(Arc::downgrade(&state));
        SimDisk { state }
    }

    /// An independent copy of this directory on a disk of its own, with the same images and pending faults.
    pub fn fork(&self) -> SimDisk {
        let state = self.lock();
        // The other directories on the disk are not copied: their size is subtracted from the capacity of the copy.
        let capacity = lock(&state.volume).capacity;
        let capacity = capacity.map(|bytes| bytes.saturating_sub(state.sibling_bytes()));
        let copy = DiskState {
            files_by_id: state.files_by_id.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            unsynced_names: state.unsynced_names.clone(),
            volume: Arc::default(),
            ..*state
        };
        drop(state);
        let fork = SimDisk::with_volume(Arc::default(), copy);
        fork.set_capacity(capacity);
        fork
    }

    /// Ends the process that uses this directory: its file handles become unusable, and faults that have not occurred
    /// yet are cleared. In a power loss, `rng` decides which unsynced data is lost.
    pub fn crash(&self, rng: &mut impl Rng, how: Crash) {
        let mut state = self.lock();
        state.process_number += 1;
        state.stop = None;
        state.stopped = false;
        state.failing_operation = None;
        state.next_sync_fails = false;
        (state.next_sync_lies, state.misdirection_seed) = (false, None);
        state.broken = false;
        if how == Crash::Kill {
            return;
        }
        (state.boot_number, state.has_lied) = (state.boot_number + 1, false);
        match how {
            Crash::Reboot => state.write_unsynced_data(),
            _ => state.lose_unsynced_data(rng),
        }
    }

    /// Makes the disk stop at the operation that `stop` names: all later operations fail and change nothing.
    pub fn stop_at(&self, stop: DiskStop) {
        self.lock().stop = Some(stop);
    }

    /// Whether the disk has stopped at the operation set by [`SimDisk::stop_at`].
    pub fn stopped(&self) -> bool {
        self.lock().stopped
    }

    /// The number of modifying operations so far.
    pub fn operation_count(&self) -> u64 {
        self.lock().operation_count
    }

    /// Makes the modifying operation `number`, from 0 on, fail. A failed write writes half its bytes, a sync nothing.
    pub fn fail_operation(&self, number: u64) {
        self.lock().failing_operation = Some(number);
    }

    /// Makes the next sync of a file fail once. The kernel then drops the unsynced data: later syncs do not write it.
    pub fn fail_next_sync(&self) {
        self.lock().next_sync_fails = true;
    }

    /// Makes the next sync of a file do nothing and report success. A power loss then loses the unsynced data.
    pub fn lie_next_sync(&self) {
        self.lock().next_sync_lies = true;
    }

    /// Whether a sync has falsely reported success since the last power loss.
    pub fn has_lied(&self) -> bool {
        self.lock().has_lied
    }

    /// Makes the next write within the log land at another place in the log, selected by the random number `seed`.
    pub fn misdirect_next_write(&self, seed: u64) {
        self.lock().misdirection_seed = Some(seed);
    }

    /// Clears the faults that were set and have not occurred yet.
    pub fn clear_faults(&self) {
        let mut state = self.lock();
        (state.next_sync_lies, state.misdirection_seed) = (false, None);
        (state.stop, state.failing_operation, state.next_sync_fails) = (None, None, false);
    }

    /// Makes every modifying operation fail from now on, until a crash.
    pub fn break_down(&self) {
        self.lock().broken = true;
    }

    /// Limits the total size in bytes of all files on the disk, in this directory and its sibling directories.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.lock().volume).capacity = bytes;
    }

    /// The total size in bytes of all files on the disk, in this directory and its sibling directories.
    pub fn used_bytes(&self) -> u64 {
        let state = self.lock();
        state.used_bytes() + state.sibling_bytes()
    }

    /// Flips one bit of a file, on the disk and in memory.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        let mut state = self.lock();
        let id = state.names[name];
        let Some(file) = state.files_by_id.get_mut(&id) else { return };
        let (sector, within) = (offset as usize / SECTOR_BYTES, offset as usize % SECTOR_BYTES);
        file.bytes[offset as usize] ^= 1 << bit;
        for sectors in [&mut file.unsynced_sectors, &mut file.falsely_clean_sectors] {
            if let Some(durable_bytes) = sectors.get_mut(&sector) {
                durable_bytes[within] ^= 1 << bit;
            }
        }
    }

    /// The contents of a file as programs see them; `None` if there is no such file.
    pub fn read_file(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names.get(name).map(|id| state.files_by_id[id].bytes.clone())
    }

    /// A copy of the directory as it would be if the power failed now and no unsynced data survived.
    pub fn durable_copy(&self) -> SimDisk {
        let copy = self.fork();
        let mut state = copy.lock();
        state.process_number += 1;
        state.boot_number += 1;
        (state.stop, state.stopped, state.failing_operation, state.next_sync_fails) = (None, false, None, false);
        lock(&state.volume).capacity = None;
        state.names = state.durable_names.clone();
        state.unsynced_names.clear();
        for file in state.files_by_id.values_mut() {
            let lost_sectors: Vec<usize> =
                file.unsynced_sectors.keys().chain(file.falsely_clean_sectors.keys()).copied().collect();
            file.revert_sectors(&lost_sectors);
            file.bytes.truncate(file.durable_size);
        }
        drop(state);
        copy
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        lock(&self.state)
    }

    fn new_handle(&self, state: &DiskState, id: u64) -> SimFile {
        SimFile { state: self.state.clone(), id, process_number: state.process_number }
    }
}

/// Locks a mutex even after a panic under its lock: the panic is reported elsewhere, and the state is worth inspecting.
fn lock<T>(state: &Arc<Mutex<T>>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl DiskState {
    fn used_bytes(&self) -> u64 {
        self.names.values().map(|id| self.files_by_id[id].bytes.len() as u64).sum()
    }

    /// The total size in bytes of the files in the other directories on the disk.
    fn sibling_bytes(&self) -> u64 {
        let directories: Vec<_> = lock(&self.volume).directories.iter().filter_map(Weak::upgrade).collect();
        // `try_lock` skips this directory itself, whose lock the caller holds.
        directories.iter().filter_map(|other| other.try_lock().ok()).map(|other| other.used_bytes()).sum()
    }

    /// The free space in bytes; `None` if it is unlimited.
    fn free_space(&self) -> Option<u64> {
        let capacity = lock(&self.volume).capacity?;
        Some(capacity.saturating_sub(self.used_bytes() + self.sibling_bytes()))
    }

    /// Counts a modifying operation. Returns `None` to execute all of it, and `Some(n)` to write only its first n
    /// bytes.
    fn begin_operation(&mut self) -> io::Result<Option<usize>> {
        if self.stopped {
            return Err(io::Error::other("the disk has stopped"));
        }
        let number = self.operation_count;
        self.operation_count += 1;
        if let Some(stop) = self.stop.filter(|stop| stop.operation <= number) {
            self.stopped = true;
            return Ok(Some(stop.written_bytes));
        }
        if self.broken {
            return Err(io::Error::other("input/output error"));
        }
        Ok(None)
    }

    /// Like `begin_operation`, for an operation that is executed completely or not at all.
    fn begin_atomic_operation(&mut self) -> io::Result<()> {
        let number = self.operation_count;
        match self.begin_operation()? {
            None if self.failing_operation == Some(number) => Err(io::Error::other("input/output error")),
            None => Ok(()),
            Some(_) => Err(io::Error::other("the disk has stopped")),
        }
    }

    /// Writes the bytes to another place in the log if `misdirect_next_write` has requested this. Returns whether the
    /// bytes were misdirected. A write that extends its file is not misdirected.
    fn misdirect(&mut self, id: u64, offset: usize, bytes: &[u8]) -> bool {
        let is_within_file = offset + bytes.len() <= self.files_by_id[&id].bytes.len() && !bytes.is_empty();
        let Some(seed) = self.misdirection_seed.take_if(|_| is_within_file) else { return false };
        let segment_ids: Vec<u64> =
            self.names.iter().filter(|(name, _)| name.ends_with(".wal")).map(|(_, id)| *id).collect();
        let Some(target_id) = segment_ids.get(seed as usize % segment_ids.len().max(1)) else { return false };
        let Some(file) = self.files_by_id.get_mut(target_id) else { return false };
        let sector_count = file.bytes.len() / SECTOR_BYTES;
        let misdirected_offset = ((seed >> 8) as usize % sector_count.max(1)) * SECTOR_BYTES + offset % SECTOR_BYTES;
        let misdirected_len = file.bytes.len().saturating_sub(misdirected_offset).min(bytes.len());
        if (*target_id, misdirected_offset) == (id, offset) || misdirected_len == 0 {
            return false;
        }
        file.write(misdirected_offset, &bytes[..misdirected_len]);
        true
    }

    /// Loses a random subset of the unsynced sectors and name changes.
    fn write_unsynced_data(&mut self) {
        self.files_by_id.values_mut().for_each(FileState::write_unsynced_data);
        self.unsynced_names.clear();
        self.durable_names = self.names.clone();
    }

    fn lose_unsynced_data(&mut self, rng: &mut impl Rng) {
        // One random number for the whole crash decides how likely each change is to survive, so that crashes that lose
        // everything and crashes that lose one sector are both common.
        let surviving_quarters = rng.random_range(0..=4u32);
        for file in self.files_by_id.values_mut() {
            file.lose_unsynced_data(rng, surviving_quarters);
        }
        let changes = std::mem::take(&mut self.unsynced_names);
        let mut names = self.durable_names.clone();
        for change in changes {
            if rng.random_range(0..4u32) < surviving_quarters {
                change.apply(&mut names);
            }
        }
        self.names = names.clone();
        self.durable_names = names;
        let named_files: BTreeSet<u64> = self.names.values().copied().collect();
        self.files_by_id.retain(|id, _| named_files.contains(id));
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Create { name, id } => {
                names.insert(name, id);
            }
            NameChange::Rename { from, to } => {
                if let Some(id) = names.remove(&from) {
                    names.insert(to, id);
                }
            }
            NameChange::Remove { name } => {
                names.remove(&name);
            }
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.lock();
        state.begin_atomic_operation()?;
        if state.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file_id;
        state.next_file_id += 1;
        state.files_by_id.insert(id, FileState::default());
        let change = NameChange::Create { name: name.to_owned(), id };
        change.clone().apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(self.new_handle(&state, id))
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let state = self.lock();
        match state.names.get(name) {
            Some(id) => Ok(self.new_handle(&state, *id)),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn map(&self, name: &str) -> io::Result<Bytes> {
        let state = self.lock();
        match state.names.get(name) {
            Some(id) => Ok(Bytes::copy_from_slice(&state.files_by_id[id].bytes)),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_atomic_operation()?;
        if !state.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        let change = NameChange::Rename { from: from.to_owned(), to: to.to_owned() };
        change.clone().apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_atomic_operation()?;
        if !state.names.contains_key(name) {
            return Err(ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove { name: name.to_owned() };
        change.clone().apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_atomic_operation()?;
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }

    fn boot_id(&self) -> io::Result<u64> {
        Ok(self.lock().boot_number)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.lock().free_space().unwrap_or(u64::MAX))
    }
}

impl SimFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, DiskState>> {
        let state = lock(&self.state);
        if state.process_number != self.process_number {
            return Err(io::Error::other("the process that opened this file has ended"));
        }
        Ok(state)
    }

    /// Syncs the data of the file and, if requested, its size.
    fn sync_file(&mut self, including_size: bool) -> io::Result<()> {
        let mut state = self.lock()?;
        let number = state.operation_count;
        if state.begin_operation()?.is_some() {
            return Err(io::Error::other("the disk has stopped"));
        }
        let fails = std::mem::take(&mut state.next_sync_fails) || state.failing_operation == Some(number);
        let lies = !fails && std::mem::take(&mut state.next_sync_lies);
        state.has_lied |= lies;
        let Some(file) = state.files_by_id.get_mut(&self.id) else { return Err(ErrorKind::NotFound.into()) };
        if fails || lies {
            let unsynced_sectors = std::mem::take(&mut file.unsynced_sectors);
            file.falsely_clean_sectors.extend(unsynced_sectors);
            return if fails { Err(io::Error::other("input/output error")) } else { Ok(()) };
        }
        file.unsynced_sectors.clear();
        if including_size {
            file.durable_size = file.bytes.len();
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock()?.files_by_id[&self.id].bytes.len() as u64)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock()?;
        let number = state.operation_count;
        let write_limit = state.begin_operation()?;
        let (written, outcome) = match write_limit {
            Some(written) => (written.min(bytes.len()), Err(io::Error::other("the disk has stopped"))),
            None if state.failing_operation == Some(number) => {
                (bytes.len() / 2, Err(io::Error::other("input/output error")))
            }
            None => (bytes.len(), Ok(())),
        };
        if outcome.is_ok() && state.misdirect(self.id, offset as usize, bytes) {
            return Ok(());
        }
        let growth = (offset + written as u64).saturating_sub(state.files_by_id[&self.id].bytes.len() as u64);
        if growth > 0 && state.free_space().is_some_and(|free| growth > free) {
            return Err(ErrorKind::StorageFull.into());
        }
        if let Some(file) = state.files_by_id.get_mut(&self.id)
            && written > 0
        {
            file.write(offset as usize, &bytes[..written]);
        }
        outcome
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock()?;
        let Some(file) = state.files_by_id.get_mut(&self.id) else { return Ok(0) };
        let from = (offset as usize).min(file.bytes.len());
        let n = buffer.len().min(file.bytes.len() - from);
        file.check_readable(from..from + n)?;
        buffer[..n].copy_from_slice(&file.bytes[from..from + n]);
        Ok(n)
    }

    fn reserve(&mut self, size: u64) -> io::Result<()> {
        let old_size = self.size()?;
        if old_size >= size {
            return Ok(());
        }
        self.write_at(old_size, &vec![0; (size - old_size) as usize])
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        self.reserve(size)
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        let mut state = self.lock()?;
        state.begin_atomic_operation()?;
        if let Some(file) = state.files_by_id.get_mut(&self.id) {
            file.bytes.resize(size as usize, 0);
        }
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_file(false)
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.sync_file(true)
    }
}

#[cfg(test)]
mod tests;
