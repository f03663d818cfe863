//! The interface to a disk, which a real and a simulated disk implement. The journal and all other durable data use
//! this interface.
//!
//! A disk may lose anything that was not synced, in pieces of 512 bytes and in any order; lose an unsynced *name* of a
//! synced file; fail a sync once and then mark the lost pages clean; return other bytes than were written; and fail to
//! read. A disk may not lose data whose sync succeeded.

use bytes::Bytes;
use std::io;

/// A flat directory of files, all owned by this program.
pub trait Disk: Clone + Send + 'static {
    /// The type of an open file in the directory, which [`Disk::create`] and [`Disk::open`] return.
    type File: DiskFile;

    /// The names of the files in the directory, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates an empty file; fails if the name exists.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading from the disk, around the page cache if possible: a page in the cache was good when it was
    /// read, whatever the disk holds now. The reads leave the cache as it is.
    fn open_uncached(&self, name: &str) -> io::Result<Self::File> {
        self.open(name)
    }
    /// Maps a whole file that will not be written to again, without a copy.
    fn map(&self, name: &str) -> io::Result<Bytes>;
    /// Renames a file, replacing any file that has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Its open handles and mappings stay valid.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals of names durable. After an error, a retry proves nothing.
    fn sync_names(&self) -> io::Result<()>;
    /// An id of the current boot of the kernel, 0 if the kernel has none. The page cache of an earlier boot is lost.
    fn boot_id(&self) -> io::Result<u64>;
    /// The free space in bytes. A hint only: other programs may write to the same disk.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file of a [`Disk`], read and written at byte offsets.
pub trait DiskFile: Send + 'static {
    /// The current size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads into `buffer` from `offset`, and returns the number of bytes read. The buffer is filled, unless the file
    /// ends.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Allocates space up to the file size `size`. New space reads as zeros. The allocation is fast, but the sync after
    /// the first write to a block must record that the block was written.
    fn reserve(&mut self, size: u64) -> io::Result<()>;
    /// Allocates space up to the file size `size` and writes zeros to the new space, so that a later write changes no
    /// metadata.
    fn allocate(&mut self, size: u64) -> io::Result<()>;
    /// Truncates the file to `size` bytes.
    fn truncate(&mut self, size: u64) -> io::Result<()>;
    /// Drops the file's clean pages from the page cache, so that the next read comes from the disk. A hint: it has no
    /// effect on a file system in memory.
    fn drop_cache(&self) -> io::Result<()>;
    /// Makes written data durable, within the size that the file had at its last [`DiskFile::sync_all`]. An error is
    /// final: it is unknown which bytes reached the disk, and a retry would not show it.
    fn sync(&mut self) -> io::Result<()>;
    /// Makes written data and the size durable. After an error, a retry proves nothing.
    fn sync_all(&mut self) -> io::Result<()>;
}
