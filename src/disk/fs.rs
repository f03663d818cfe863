//! The real filesystem: files are written in place, synced on request, and mapped for reading.
//!
//! Assumptions: `fdatasync` and `fsync` report each error at least once and are otherwise truthful; `rename` is atomic;
//! a synced directory keeps its names.

use super::interface::{Disk, DiskFile};
use super::sigbus::MappedFile;
use super::unreadable::{MediaError, read_through};
use bytes::Bytes;
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest write of zeros, in bytes.
const ZERO_WRITE_BYTES_MAX: usize = 1 << 20;

/// The alignment in bytes of reads that bypass the page cache, in the file and in memory: a multiple of the block size of
/// every disk in use.
const DIRECT_READ_ALIGNMENT: usize = 4096;

/// File mode: only the owner may read the data, whatever the umask allows.
const FILE_MODE: u32 = 0o600;
/// Directory mode: only the owner may list the directory or open a file in it.
const DIRECTORY_MODE: u32 = 0o700;

/// Whether an error says that the process or the system has too many open files. The condition is temporary: a retry
/// may succeed.
pub fn is_too_many_open_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// A directory of the real filesystem. Files and directories that it creates are readable by their owner only.
///
/// Clones are handles to the same directory and may be used in other threads.
#[derive(Clone, Debug)]
pub struct FsDisk {
    directory: Arc<PathBuf>,
    sync_mode: SyncMode,
}

/// Whether a sync reaches the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyncMode {
    /// Each sync is executed: data reported as durable survives a power loss.
    #[default]
    Executed,
    /// Syncs do nothing (`--unsafe-no-fsync`): a power loss may destroy any data, acknowledged or not.
    Skipped,
}

/// The lock on a data directory; released when this value is dropped, or when the process ends.
#[derive(Debug)]
pub struct DirectoryLock {
    /// Never read: the lock lives as long as the open file.
    _file: File,
}

impl FsDisk {
    /// Opens the directory at `path`. Creates the directory and its parents if they do not exist, and makes their names
    /// durable.
    pub fn open_or_create(path: &Path, sync_mode: SyncMode) -> io::Result<FsDisk> {
        let mut missing_directories = Vec::new();
        for directory in path.ancestors().filter(|directory| !directory.as_os_str().is_empty()) {
            if directory.is_dir() {
                break;
            }
            missing_directories.push(directory);
        }
        for directory in missing_directories.iter().rev() {
            match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => outcome?,
            }
        }
        let disk = FsDisk { directory: Arc::new(path.to_owned()), sync_mode };
        if disk.sync_mode == SyncMode::Executed {
            // The name of a directory is an entry of its parent: without a sync of the parent, the whole directory may
            // be gone after a power loss. The name of an existing directory is synced too, since it may never have been
            // synced.
            sync_directory(path)?;
            for directory in missing_directories.iter().chain([&path]) {
                sync_directory(parent_directory(directory))?;
            }
        }
        Ok(disk)
    }

    /// Whether the file system is in memory: a power loss then destroys even synced data.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.file_system_name(), "tmpfs" | "ramfs")
    }

    /// The name of the file system, from its `statfs` number; empty if the number is not in the table below.
    pub fn file_system_name(&self) -> &'static str {
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

    /// Opens the directory at `path`, which must exist. Changes nothing on the disk.
    pub fn open_existing(path: &Path) -> io::Result<FsDisk> {
        if !path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{}: no such directory", path.display())));
        }
        Ok(FsDisk { directory: Arc::new(path.to_owned()), sync_mode: SyncMode::Executed })
    }

    /// The path that the directory was opened with.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Reads a whole file without write access; returns the first media error, if there is one.
    pub fn find_media_error(&self, name: &str) -> io::Result<Option<MediaError>> {
        read_through(&self.wrap_file(File::open(self.directory.join(name))?), |_| {})
    }

    /// Opens a file without write access.
    pub fn open_to_read(&self, name: &str) -> io::Result<FsFile> {
        Ok(self.wrap_file(File::open(self.directory.join(name))?))
    }

    /// Acquires the lock file `name`; returns `None` if another process holds it.
    pub fn lock(&self, name: &str) -> io::Result<Option<DirectoryLock>> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(FILE_MODE);
        let file = options.open(self.directory.join(name))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(DirectoryLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn wrap_file(&self, file: File) -> FsFile {
        FsFile { file, sync_mode: self.sync_mode, bypasses_cache: false }
    }
}

impl Disk for FsDisk {
    type File = FsFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&*self.directory)? {
            let entry = entry?;
            // Every name that this program creates is UTF-8, so a file with any other name is not part of its data.
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
        Ok(self.wrap_file(OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?))
    }

    fn open(&self, name: &str) -> io::Result<FsFile> {
        Ok(self.wrap_file(OpenOptions::new().read(true).write(true).open(self.directory.join(name))?))
    }

    fn open_uncached(&self, name: &str) -> io::Result<FsFile> {
        let path = self.directory.join(name);
        match OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path) {
            Ok(file) => Ok(FsFile { bypasses_cache: true, ..self.wrap_file(file) }),
            // The file system has no such reads. Then the file's pages are dropped, and its reads fill the cache again.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let file = self.open_to_read(name)?;
                file.drop_cache()?;
                Ok(file)
            }
            Err(error) => Err(error),
        }
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
        match self.sync_mode {
            SyncMode::Executed => sync_directory(&self.directory),
            SyncMode::Skipped => Ok(()),
        }
    }

    fn boot_id(&self) -> io::Result<u64> {
        match std::fs::read("/proc/sys/kernel/random/boot_id") {
            Ok(id) => Ok(fnv1a(&id)),
            // Systems other than Linux have no boot id: 0 means unknown, which is never equal to a known one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&*self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// An open file of an [`FsDisk`], which is synced as the [`SyncMode`] of that disk says.
#[derive(Debug)]
pub struct FsFile {
    file: File,
    sync_mode: SyncMode,
    /// Whether the file was opened for reads that bypass the page cache, and must be aligned.
    bypasses_cache: bool,
}

impl FsFile {
    /// Reads into `buffer` from `offset` until the buffer is full or the file ends.
    fn fill_from(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read_bytes = 0;
        while read_bytes < buffer.len() {
            match self.file.read_at(&mut buffer[read_bytes..], offset + read_bytes as u64) {
                Ok(0) => break,
                Ok(n) => read_bytes += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Only the end of the file is not aligned, and a direct read cannot begin there.
            if self.bypasses_cache && !read_bytes.is_multiple_of(DIRECT_READ_ALIGNMENT) {
                break;
            }
        }
        Ok(read_bytes)
    }

    /// Reads around the page cache: whole blocks, into aligned memory, from which the requested bytes are copied.
    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let skipped_bytes = (offset % DIRECT_READ_ALIGNMENT as u64) as usize;
        let block_bytes = (skipped_bytes + buffer.len()).next_multiple_of(DIRECT_READ_ALIGNMENT);
        let mut memory = vec![0; block_bytes + DIRECT_READ_ALIGNMENT];
        let memory_start = memory.as_ptr().align_offset(DIRECT_READ_ALIGNMENT);
        let blocks = &mut memory[memory_start..memory_start + block_bytes];
        let read_bytes = self.fill_from(blocks, offset - skipped_bytes as u64)?;
        let copied_bytes = read_bytes.saturating_sub(skipped_bytes).min(buffer.len());
        buffer[..copied_bytes].copy_from_slice(&blocks[skipped_bytes..skipped_bytes + copied_bytes]);
        Ok(copied_bytes)
    }
}

impl DiskFile for FsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bypasses_cache { self.read_direct(offset, buffer) } else { self.fill_from(buffer, offset) }
    }

    fn reserve(&mut self, size: u64) -> io::Result<()> {
        let old_size = self.size()?;
        if old_size >= size {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), old_size, size - old_size) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(size),
            outcome => Ok(outcome?),
        }
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        let old_size = self.size()?;
        // All the space is reserved first, so that a full disk is found before a byte is written and the blocks are
        // contiguous. Then zeros are written: otherwise each later sync would have to commit that the extent is now
        // initialized.
        self.reserve(size)?;
        let zeros = vec![0; ZERO_WRITE_BYTES_MAX.min(size.saturating_sub(old_size) as usize)];
        let mut offset = old_size;
        while offset < size {
            let n = zeros.len().min((size - offset) as usize);
            self.file.write_all_at(&zeros[..n], offset)?;
            offset += n as u64;
        }
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn drop_cache(&self) -> io::Result<()> {
        match rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed) {
            // A file system in memory rejects the call: there is no disk behind its page cache.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.sync_mode {
            SyncMode::Executed => self.file.sync_data(),
            SyncMode::Skipped => Ok(()),
        }
    }

    fn sync_all(&mut self) -> io::Result<()> {
        match self.sync_mode {
            SyncMode::Executed => self.file.sync_all(),
            SyncMode::Skipped => Ok(()),
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent_directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        // A relative path of one component is in the current directory; the root is its own parent.
        Some(_) => Path::new("."),
        None => path,
    }
}

/// The FNV-1a hash of the kernel's boot id. Never zero: zero is the id of an unknown boot.
fn fnv1a(bytes: &[u8]) -> u64 {
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
        let disk = FsDisk::open_or_create(&directory.path().join("a/b"), SyncMode::Executed).unwrap();
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
        let disk = FsDisk::open_or_create(directory.path(), SyncMode::Skipped).unwrap();
        let held_lock = disk.lock("LOCK").unwrap();
        assert!(held_lock.is_some());
        assert!(disk.lock("LOCK").unwrap().is_none(), "a held lock cannot be acquired");
        drop(held_lock);
        assert!(disk.lock("LOCK").unwrap().is_some(), "a released lock can be acquired");
    }

    #[test]
    fn boot_id_is_stable() {
        let disk = FsDisk::open_or_create(tempfile::tempdir().unwrap().path(), SyncMode::Skipped).unwrap();
        assert_eq!(disk.boot_id().unwrap(), disk.boot_id().unwrap());
    }
}
