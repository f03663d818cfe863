//! The real filesystem: files are written in place, synced on request, and mapped for reading.
//!
//! Assumptions: `fdatasync` and `fsync` report each error at least once and are otherwise truthful; `rename` is atomic;
//! a synced directory keeps its names.

use super::interface::{Disk, DiskFile};
use super::sigbus::MappedFile;
use super::unreadable::{Unreadable, read_through};
use bytes::Bytes;
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// File mode: only the owner may read the data, whatever the umask allows.
const FILE_MODE: u32 = 0o600;
/// Directory mode, likewise.
const DIRECTORY_MODE: u32 = 0o700;

/// Whether an error is a full table of open files, of the process or of the system. The condition passes.
pub fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// A directory of the real filesystem. Files and directories that it creates are readable by their owner only.
///
/// Clones are handles to the same directory and may be used in other threads.
#[derive(Clone, Debug)]
pub struct FsDisk {
    directory: Arc<PathBuf>,
    syncs: Syncs,
}

/// Whether syncs are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Syncs {
    /// They are: data reported as durable survives a power loss.
    #[default]
    Real,
    /// They are skipped (`--unsafe-no-fsync`): a power loss may destroy any data, acknowledged or not.
    Skipped,
}

/// The lock on a data directory; released when this is dropped, or when the process ends.
#[derive(Debug)]
pub struct Lock {
    /// Never read: the lock lives as long as the open file.
    _file: File,
}

impl FsDisk {
    /// The directory at `path`, created with its parents if it does not exist, and with a durable name.
    pub fn make(path: &Path, syncs: Syncs) -> io::Result<FsDisk> {
        let mut made = Vec::new();
        for directory in path.ancestors().filter(|directory| !directory.as_os_str().is_empty()) {
            if directory.is_dir() {
                break;
            }
            made.push(directory);
        }
        for directory in made.iter().rev() {
            match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => outcome?,
            }
        }
        let disk = FsDisk { directory: Arc::new(path.to_owned()), syncs };
        if disk.syncs == Syncs::Real {
            // The name of a directory is an entry of its parent: without this the whole directory may be gone after a
            // power loss. Done for an existing directory too, since its name may never have been synced.
            sync_directory(path)?;
            for directory in made.iter().chain([&path]) {
                sync_directory(parent(directory))?;
            }
        }
        Ok(disk)
    }

    /// Whether it is in memory: even synced data is then lost with the power.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.file_system(), "tmpfs" | "ramfs")
    }

    /// The name of its file system, by the kernel's number for it; empty if it is none of these.
    pub fn file_system(&self) -> &'static str {
        let Ok(stat) = rustix::fs::statfs(&*self.directory) else { return "" };
        match stat.f_type as u64 & 0xffff_ffff {
            0x0102_1994 => "tmpfs",
            0x8584_58f6 => "ramfs",
            0xef53 => "ext4",
            0x5846_5342 => "xfs",
            0x9123_683e => "btrfs",
            0xf2f5_2010 => "f2fs",
            0x2fc1_2fc1 => "zfs",
            0x794c_7630 => "overlay",
            0x6573_5546 => "fuse",
            0x6969 => "nfs",
            0xff53_4d42 | 0xfe53_4d42 => "cifs",
            0x0102_1997 => "9p",
            _ => "",
        }
    }

    /// The directory at `path`, which must exist. Changes nothing.
    pub fn at(path: &Path) -> io::Result<FsDisk> {
        if !path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{}: no such directory", path.display())));
        }
        Ok(FsDisk { directory: Arc::new(path.to_owned()), syncs: Syncs::Real })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Reads a whole file without write access; returns the first place that the disk cannot read.
    pub fn find_unreadable(&self, name: &str) -> io::Result<Option<Unreadable>> {
        read_through(&self.file(File::open(self.directory.join(name))?), |_| {})
    }

    /// Opens a file without write access.
    pub fn open_to_read(&self, name: &str) -> io::Result<FsFile> {
        Ok(self.file(File::open(self.directory.join(name))?))
    }

    /// Acquires the lock file `name`; returns `None` if another process holds it.
    pub fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(FILE_MODE);
        let file = options.open(self.directory.join(name))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn file(&self, file: File) -> FsFile {
        FsFile { file, syncs: self.syncs }
    }
}

impl Disk for FsDisk {
    type File = FsFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&*self.directory)? {
            let entry = entry?;
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type()?.is_file()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<FsFile> {
        let path = self.directory.join(name);
        Ok(self.file(OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?))
    }

    fn open(&self, name: &str) -> io::Result<FsFile> {
        Ok(self.file(OpenOptions::new().read(true).write(true).open(self.directory.join(name))?))
    }

    fn map(&self, name: &str) -> io::Result<Bytes> {
        let path = self.directory.join(name);
        let file = File::open(&path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Bytes::new());
        }
        // SAFETY: a mapping is undefined behavior if the file changes beneath it. Only files that are never written to
        // again are mapped, and the directory is locked against other processes.
        let mapping = unsafe { MappedFile::map(&file, &path)? };
        Ok(Bytes::from_owner(mapping))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        match self.syncs {
            Syncs::Real => sync_directory(&self.directory),
            Syncs::Skipped => Ok(()),
        }
    }

    fn boot(&self) -> io::Result<u64> {
        match std::fs::read("/proc/sys/kernel/random/boot_id") {
            Ok(id) => Ok(fnv(&id)),
            // Systems other than Linux have no boot id: 0 means unknown, which is never equal to a known one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&*self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// One file of the real filesystem.
#[derive(Debug)]
pub struct FsFile {
    file: File,
    syncs: Syncs,
}

impl DiskFile for FsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn reserve(&mut self, size: u64) -> io::Result<()> {
        let from = self.size()?;
        if from >= size {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, size - from) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(size),
            outcome => Ok(outcome?),
        }
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        let from = self.size()?;
        // Reserve all the room first, so that a full disk is known before a byte is written and the blocks are
        // contiguous. Then write zeros, or each later sync would have to commit that the extent is now initialized.
        self.reserve(size)?;
        let zeros = vec![0; ZEROS.min(size.saturating_sub(from) as usize)];
        let mut at = from;
        while at < size {
            let n = zeros.len().min((size - at) as usize);
            self.file.write_all_at(&zeros[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn drop_cache(&self) -> io::Result<()> {
        match rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed) {
            // A file system that is all in memory has nothing else to read from.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.syncs {
            Syncs::Real => self.file.sync_data(),
            Syncs::Skipped => Ok(()),
        }
    }

    fn sync_all(&mut self) -> io::Result<()> {
        match self.syncs {
            Syncs::Real => self.file.sync_all(),
            Syncs::Skipped => Ok(()),
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        // A relative path of one component is in the current directory; the root is its own parent.
        Some(_) => Path::new("."),
        None => path,
    }
}

/// FNV-1a, which makes a number of the kernel's text; never zero, which means unknown.
fn fnv(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_file_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FsDisk::make(&directory.path().join("a/b"), Syncs::Real).unwrap();
        let mut file = disk.create("x.tmp").unwrap();
        file.allocate(3 << 20).unwrap();
        assert_eq!(file.size().unwrap(), 3 << 20);
        file.write_at(512, b"words").unwrap();
        file.sync_all().unwrap();
        disk.rename("x.tmp", "x").unwrap();
        disk.sync_names().unwrap();
        assert_eq!(disk.list().unwrap(), ["x"]);
        assert_eq!(&disk.map("x").unwrap()[510..518], b"\0\0words\0");
        let mut buffer = [0; 8];
        assert_eq!(file.read_at((3 << 20) - 4, &mut buffer).unwrap(), 4, "a read ends at the end of the file");
        assert!(disk.create("x").is_err(), "create fails if the file exists");
    }

    #[test]
    fn directory_lock_is_exclusive() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FsDisk::make(directory.path(), Syncs::Skipped).unwrap();
        let held = disk.lock("LOCK").unwrap();
        assert!(held.is_some());
        assert!(disk.lock("LOCK").unwrap().is_none(), "the lock is held");
        drop(held);
        assert!(disk.lock("LOCK").unwrap().is_some(), "the lock was released");
    }

    #[test]
    fn boot_number_is_stable() {
        let disk = FsDisk::make(tempfile::tempdir().unwrap().path(), Syncs::Skipped).unwrap();
        assert_eq!(disk.boot().unwrap(), disk.boot().unwrap());
    }
}
