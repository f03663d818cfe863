//! One of the two places where worlds differ: the journal sees a disk through this, and so does
//! everything else that must survive.
//!
//! What a disk may do to us: lose anything not synced, in pieces of 512 bytes and in any order;
//! lose a *name* that was not synced though its file was; fail a sync once and call the lost pages
//! clean; hold something else than was written; fail to read it. What it may not do: lose what a sync said was safe.

use bytes::Bytes;
use std::io;

/// A directory of files, flat, all ours.
pub trait Disk: Clone + Send + 'static {
    /// A file of it.
    type File: DiskFile;

    /// The names of its files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file of that name, empty; there must be none.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// The whole of a file that nobody will write to again, mapped and not copied.
    fn map(&self, name: &str) -> io::Result<Bytes>;
    /// Gives a file another name, taking the place of any file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names durable, those gone and those come. An error is final.
    fn sync_names(&self) -> io::Result<()>;
    /// Which run of the kernel this is: what was in the page cache in another is gone.
    fn boot(&self) -> io::Result<u64>;
    /// How many bytes more it has room for, about: others may write to it too.
    fn free(&self) -> io::Result<u64>;
}

/// One file.
pub trait DiskFile: Send + 'static {
    /// How long it is, in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Writes all of `bytes` there.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads into `buffer` from there; fewer bytes than asked for only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Sets room up to `size` aside; it reads as zeros. Takes no time, but the sync of whatever is
    /// written there first has to note that it was.
    fn reserve(&mut self, size: u64) -> io::Result<()>;
    /// Makes room up to `size`, zeroed and really written, so that a later write changes no metadata.
    fn allocate(&mut self, size: u64) -> io::Result<()>;
    /// Cuts it off there.
    fn truncate(&mut self, size: u64) -> io::Result<()>;
    /// Drops what the page cache holds of it and the disk has, so that the next read comes from the disk. A hint:
    /// a file system may have nothing but its cache.
    fn drop_cache(&self) -> io::Result<()>;
    /// Makes what was written durable, within the size it had when it was last [`DiskFile::sync_all`]ed.
    /// An error is final: what reached the disk is unknown, and asking again would not tell.
    fn sync(&mut self) -> io::Result<()>;
    /// Makes what was written and the size durable. An error is final.
    fn sync_all(&mut self) -> io::Result<()>;
}
