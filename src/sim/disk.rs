//! An in-memory disk that tears writes, loses data and lies about syncs, the same way for the same seed.
//!
//! Every file has two images, one that programs *see* and one that is *durable*, and so has the directory. A power loss
//! keeps any subset of the unsynced 512-byte sectors and any subset of the unsynced name changes. A killed process
//! loses nothing, but its unsynced data stays unsynced.

mod file;

use crate::disk::{Disk, DiskFile};
use bytes::Bytes;
use file::FileState;
use rand::{Rng, RngExt};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// The size in bytes of a sector, which is written as a whole or not at all.
pub const SECTOR: usize = 512;

/// How a process or machine goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process dies. The kernel and its page cache survive: programs see the same data as before, and unsynced data
    /// stays unsynced.
    Kill,
    /// The machine dies: any unsynced data may be lost.
    Power,
}

/// The point at which the disk stops working, counted in modifying operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// The first operation that is not executed, counted from 0.
    pub at: u64,
    /// If that operation is a write: how many of its bytes are still written.
    pub bytes: usize,
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
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Name changes since the last sync of names, in order.
    unsynced_names: Vec<NameChange>,
    next_file: u64,
    /// The current run of the process. Handles of an earlier run are dead.
    run: u64,
    boot: u64,
    operations: u64,
    stop: Option<Stop>,
    stopped: bool,
    fail_at: Option<u64>,
    fail_sync: bool,
    lie_sync: bool,
    has_lied: bool,
    misdirect: Option<u64>,
    volume: Arc<Mutex<Volume>>,
    last_write: usize,
    /// Every modifying operation fails.
    broken: bool,
}

/// The disk space that directories on the same disk share.
#[derive(Debug, Default)]
struct Volume {
    capacity: Option<u64>,
    directories: Vec<Weak<Mutex<DiskState>>>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

/// One file of a simulated directory.
#[derive(Debug)]
pub struct SimFile {
    state: Arc<Mutex<DiskState>>,
    id: u64,
    run: u64,
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::on(Arc::default(), DiskState { boot: 1, ..DiskState::default() })
    }

    /// Another directory on the same disk: it has its own faults and shares the disk space.
    pub fn sibling_directory(&self) -> SimDisk {
        let volume = self.lock().volume.clone();
        SimDisk::on(volume, DiskState { boot: 1, ..DiskState::default() })
    }

    fn on(volume: Arc<Mutex<Volume>>, state: DiskState) -> SimDisk {
        let state = Arc::new(Mutex::new(DiskState { volume: volume.clone(), ..state }));
        lock(&volume).directories.push(Arc::downgrade(&state));
        SimDisk { state }
    }

    /// Another disk with the same contents, images and faults.
    pub fn fork(&self) -> SimDisk {
        let state = self.lock();
        // Directories beside this one are not copied, but the space they take is subtracted.
        let capacity = lock(&state.volume).capacity;
        let capacity = capacity.map(|bytes| bytes.saturating_sub(state.used_beside()));
        let copy = DiskState {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            unsynced_names: state.unsynced_names.clone(),
            volume: Arc::default(),
            ..*state
        };
        drop(state);
        let fork = SimDisk::on(Arc::default(), copy);
        fork.set_capacity(capacity);
        fork
    }

    /// Crashes and restarts: file handles die, pending faults are cleared, and `rng` decides which unsynced data is
    /// lost.
    pub fn crash(&self, rng: &mut impl Rng, how: Crash) {
        let mut state = self.lock();
        state.run += 1;
        state.stop = None;
        state.stopped = false;
        state.fail_at = None;
        state.fail_sync = false;
        (state.lie_sync, state.misdirect) = (false, None);
        state.broken = false;
        if how == Crash::Power {
            state.boot += 1;
            state.has_lied = false;
            state.lose(rng);
        }
    }

    /// Stops working at that point: later operations fail and change nothing.
    pub fn stop_at(&self, stop: Stop) {
        self.lock().stop = Some(stop);
    }

    /// Whether the point of [`SimDisk::stop_at`] was reached.
    pub fn stopped(&self) -> bool {
        self.lock().stopped
    }

    /// The number of modifying operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The requested size of the latest write, in bytes.
    pub fn last_write(&self) -> usize {
        self.lock().last_write
    }

    /// The operation of that number fails once. A failed write writes half; a failed sync loses its data.
    pub fn fail_at(&self, operation: u64) {
        self.lock().fail_at = Some(operation);
    }

    /// The next sync of a file fails once, and loses the data that it should have written.
    pub fn fail_next_sync(&self) {
        self.lock().fail_sync = true;
    }

    /// The next sync of a file does nothing and reports success: a power loss takes the data that it should have
    /// written, unless that is written again.
    pub fn lie_next_sync(&self) {
        self.lock().lie_sync = true;
    }

    /// Whether a sync has lied since the last power loss.
    pub fn has_lied(&self) -> bool {
        self.lock().has_lied
    }

    /// The next write within the log goes to another place in the log, chosen by `draw`, and reports success.
    pub fn misdirect_next_write(&self, draw: u64) {
        self.lock().misdirect = Some(draw);
    }

    /// Clears the faults that were set and have not occurred.
    pub fn clear_faults(&self) {
        let mut state = self.lock();
        (state.lie_sync, state.misdirect) = (false, None);
        (state.stop, state.fail_at, state.fail_sync) = (None, None, false);
    }

    /// The disk dies: every modifying operation fails from now on, until a crash.
    pub fn break_down(&self) {
        self.lock().broken = true;
    }

    /// Limits the total size in bytes of all files, including those in the directories beside this one.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.lock().volume).capacity = bytes;
    }

    /// The total size in bytes of all files, including those in the directories beside this one.
    pub fn used(&self) -> u64 {
        let state = self.lock();
        state.used() + state.used_beside()
    }

    /// Flips one bit of a file, on the disk and in memory.
    pub fn flip(&self, name: &str, offset: u64, bit: u8) {
        let mut state = self.lock();
        let id = state.names[name];
        let Some(file) = state.files.get_mut(&id) else { return };
        let (sector, within) = (offset as usize / SECTOR, offset as usize % SECTOR);
        file.bytes[offset as usize] ^= 1 << bit;
        for image in [&mut file.unsynced, &mut file.forgotten] {
            if let Some(held) = image.get_mut(&sector) {
                held[within] ^= 1 << bit;
            }
        }
    }

    /// The sector at that offset of a file becomes unreadable until it is written.
    pub fn lose_sector(&self, name: &str, offset: u64) {
        let mut state = self.lock();
        let id = state.names[name];
        state.files.entry(id).and_modify(|file| _ = file.unreadable.insert(offset as usize / SECTOR));
    }

    /// The contents of a file as programs see them.
    pub fn seen(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names.get(name).map(|id| state.files[id].bytes.clone())
    }

    /// The disk as it would be if the power failed now and no unsynced data survived: for checks that promised data is
    /// durable.
    pub fn durable(&self) -> SimDisk {
        let other = self.fork();
        let mut state = other.lock();
        state.run += 1;
        state.boot += 1;
        (state.stop, state.stopped, state.fail_at, state.fail_sync) = (None, false, None, false);
        lock(&state.volume).capacity = None;
        state.names = state.durable_names.clone();
        state.unsynced_names.clear();
        for file in state.files.values_mut() {
            let lost: Vec<usize> = file.unsynced.keys().chain(file.forgotten.keys()).copied().collect();
            file.revert_sectors(&lost);
            file.bytes.truncate(file.durable_size);
        }
        drop(state);
        other
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        lock(&self.state)
    }

    fn handle(&self, state: &DiskState, id: u64) -> SimFile {
        SimFile { state: self.state.clone(), id, run: state.run }
    }
}

/// A panic while the lock was held is a failed test elsewhere: the state is still worth inspecting.
fn lock<T>(state: &Arc<Mutex<T>>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl DiskState {
    fn used(&self) -> u64 {
        self.names.values().map(|id| self.files[id].bytes.len() as u64).sum()
    }

    /// The bytes that the other directories on the disk hold.
    fn used_beside(&self) -> u64 {
        let directories: Vec<_> = lock(&self.volume).directories.iter().filter_map(Weak::upgrade).collect();
        // The caller holds the lock of this directory.
        directories.iter().filter_map(|other| other.try_lock().ok()).map(|other| other.used()).sum()
    }

    /// The free space in bytes; `None` if it is unlimited.
    fn free(&self) -> Option<u64> {
        let capacity = lock(&self.volume).capacity?;
        Some(capacity.saturating_sub(self.used() + self.used_beside()))
    }

    /// Counts an operation and decides whether it runs: `Ok(None)` completely, `Ok(Some(n))` only its first n bytes.
    fn begin(&mut self) -> io::Result<Option<usize>> {
        if self.stopped {
            return Err(io::Error::other("the disk has stopped"));
        }
        let number = self.operations;
        self.operations += 1;
        if let Some(stop) = self.stop.filter(|stop| stop.at <= number) {
            self.stopped = true;
            return Ok(Some(stop.bytes));
        }
        if self.broken {
            return Err(io::Error::other("input/output error"));
        }
        Ok(None)
    }

    /// Like `begin`, for an operation that runs completely or not at all.
    fn begin_whole(&mut self) -> io::Result<()> {
        let number = self.operations;
        match self.begin()? {
            None if self.fail_at == Some(number) => Err(io::Error::other("input/output error")),
            None => Ok(()),
            Some(_) => Err(io::Error::other("the disk has stopped")),
        }
    }

    /// Whether this write was misdirected to another place in the log. A write that extends its file is not.
    fn misdirect(&mut self, id: u64, offset: usize, bytes: &[u8]) -> bool {
        let is_within = offset + bytes.len() <= self.files[&id].bytes.len() && !bytes.is_empty();
        let Some(draw) = self.misdirect.take_if(|_| is_within) else { return false };
        let segments: Vec<u64> =
            self.names.iter().filter(|(name, _)| name.ends_with(".wal")).map(|(_, id)| *id).collect();
        let Some(other) = segments.get(draw as usize % segments.len().max(1)) else { return false };
        let Some(file) = self.files.get_mut(other) else { return false };
        let sectors = file.bytes.len() / SECTOR;
        let at = ((draw >> 8) as usize % sectors.max(1)) * SECTOR + offset % SECTOR;
        let fits = file.bytes.len().saturating_sub(at).min(bytes.len());
        if (*other, at) == (id, offset) || fits == 0 {
            return false;
        }
        file.write(at, &bytes[..fits]);
        true
    }

    fn lose(&mut self, rng: &mut impl Rng) {
        // One draw for the whole crash decides how much is likely to survive, so that losing everything and losing one
        // sector are both common.
        let survival = rng.random_range(0..=4u32);
        for file in self.files.values_mut() {
            file.lose(rng, survival);
        }
        let changes = std::mem::take(&mut self.unsynced_names);
        let mut names = self.durable_names.clone();
        for change in changes {
            if rng.random_range(0..4u32) < survival {
                change.apply(&mut names);
            }
        }
        self.names = names.clone();
        self.durable_names = names;
        let kept: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| kept.contains(id));
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Create(name, id) => {
                names.insert(name, id);
            }
            NameChange::Rename(from, to) => {
                if let Some(id) = names.remove(&from) {
                    names.insert(to, id);
                }
            }
            NameChange::Remove(name) => {
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
        state.begin_whole()?;
        if state.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, FileState::default());
        let change = NameChange::Create(name.to_owned(), id);
        change.clone().apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(self.handle(&state, id))
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let state = self.lock();
        match state.names.get(name) {
            Some(id) => Ok(self.handle(&state, *id)),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn map(&self, name: &str) -> io::Result<Bytes> {
        let state = self.lock();
        match state.names.get(name) {
            Some(id) => Ok(Bytes::copy_from_slice(&state.files[id].bytes)),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_whole()?;
        if !state.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        change.clone().apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_whole()?;
        if !state.names.contains_key(name) {
            return Err(ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove(name.to_owned());
        change.clone().apply(&mut state.names);
        state.unsynced_names.push(change);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_whole()?;
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }

    fn boot(&self) -> io::Result<u64> {
        Ok(self.lock().boot)
    }

    fn free(&self) -> io::Result<u64> {
        Ok(self.lock().free().unwrap_or(u64::MAX))
    }
}

impl SimFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, DiskState>> {
        let state = lock(&self.state);
        if state.run != self.run {
            return Err(io::Error::other("the process that opened this file is dead"));
        }
        Ok(state)
    }

    fn sync_now(&mut self, and_size: bool) -> io::Result<()> {
        let mut state = self.lock()?;
        let number = state.operations;
        if state.begin()?.is_some() {
            return Err(io::Error::other("the disk has stopped"));
        }
        let fails = std::mem::take(&mut state.fail_sync) || state.fail_at == Some(number);
        let lies = !fails && std::mem::take(&mut state.lie_sync);
        state.has_lied |= lies;
        let Some(file) = state.files.get_mut(&self.id) else { return Err(ErrorKind::NotFound.into()) };
        if fails {
            let unsynced = std::mem::take(&mut file.unsynced);
            file.forgotten.extend(unsynced);
            return Err(io::Error::other("input/output error"));
        }
        if lies {
            let unsynced = std::mem::take(&mut file.unsynced);
            file.forgotten.extend(unsynced);
            return Ok(());
        }
        file.unsynced.clear();
        if and_size {
            file.durable_size = file.bytes.len();
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock()?.files[&self.id].bytes.len() as u64)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock()?;
        let number = state.operations;
        let kept = state.begin()?;
        state.last_write = bytes.len();
        let (taken, outcome) = match kept {
            Some(taken) => (taken.min(bytes.len()), Err(io::Error::other("the disk has stopped"))),
            None if state.fail_at == Some(number) => (bytes.len() / 2, Err(io::Error::other("input/output error"))),
            None => (bytes.len(), Ok(())),
        };
        if outcome.is_ok() && state.misdirect(self.id, offset as usize, bytes) {
            return Ok(());
        }
        let grows = (offset + taken as u64).saturating_sub(state.files[&self.id].bytes.len() as u64);
        if grows > 0 && state.free().is_some_and(|free| grows > free) {
            return Err(ErrorKind::StorageFull.into());
        }
        if let Some(file) = state.files.get_mut(&self.id)
            && taken > 0
        {
            file.write(offset as usize, &bytes[..taken]);
        }
        outcome
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.lock()?;
        let FileState { bytes, unreadable, .. } = &state.files[&self.id];
        let from = (offset as usize).min(bytes.len());
        let n = buffer.len().min(bytes.len() - from);
        if n > 0 && unreadable.range(from / SECTOR..(from + n).div_ceil(SECTOR)).next().is_some() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        buffer[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }

    fn reserve(&mut self, size: u64) -> io::Result<()> {
        let from = self.size()?;
        if from >= size {
            return Ok(());
        }
        self.write_at(from, &vec![0; (size - from) as usize])
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        self.reserve(size)
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        let mut state = self.lock()?;
        state.begin_whole()?;
        if let Some(file) = state.files.get_mut(&self.id) {
            file.bytes.resize(size as usize, 0);
        }
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_now(false)
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.sync_now(true)
    }
}

#[cfg(test)]
mod tests;
