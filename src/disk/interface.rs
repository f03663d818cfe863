//! The interface to a disk: one of the two places where the real and the simulated world differ. The journal and all
//! other durable data use it.
//!
//! A disk may lose anything not synced, in pieces of 512 bytes and in any order; lose a *name* that was not synced
//! though its file was; fail a sync once and then mark the lost pages clean; return other bytes than were written; fail
//! to read them. It may not lose data whose sync succeeded.

use bytes::Bytes;
use std::io;

/// A flat directory of files, all owned by this program.
pub trait Disk: Clone + Send + 'static {
    /// A file in it.
    type File: DiskFile;

    /// The names of its files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates an empty file; fails if the name exists.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Maps a whole file that will not be written to again, without a copy.
    fn map(&self, name: &str) -> io::Result<Bytes>;
    /// Renames a file, replacing any file that has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals of names durable. An error is final.
    fn sync_names(&self) -> io::Result<()>;
    /// An id of the current boot of the kernel: the page cache of another boot is lost.
    fn boot(&self) -> io::Result<u64>;
    /// About how many more bytes the disk has room for: other programs may write to it too.
    fn free(&self) -> io::Result<u64>;
}

/// One file.
pub trait DiskFile: Send + 'static {
    /// The size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads into `buffer` from `offset`; returns fewer bytes than requested only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Allocates space up to `size`, which reads as zeros. Takes no time, but the sync after the first write to a place
    /// must record that it was written.
    fn reserve(&mut self, size: u64) -> io::Result<()>;
    /// Allocates space up to `size` and writes zeros to it, so that a later write changes no metadata.
    fn allocate(&mut self, size: u64) -> io::Result<()>;
    /// Truncates the file to `size` bytes.
    fn truncate(&mut self, size: u64) -> io::Result<()>;
    /// Drops the file's clean pages from the page cache, so that the next read comes from the disk. A hint: a file
    /// system may have nothing but its cache.
    fn drop_cache(&self) -> io::Result<()>;
    /// Makes written data durable, within the size that the file had at its last [`DiskFile::sync_all`]. An error is
    /// final: it is unknown which bytes reached the disk, and a retry would not show it.
    fn sync(&mut self) -> io::Result<()>;
    /// Makes written data and the size durable. An error is final.
    fn sync_all(&mut self) -> io::Result<()>;
}
