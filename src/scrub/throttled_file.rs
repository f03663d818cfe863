//! A file that is read slowly, in large pieces.

use crate::disk::DiskFile;
use crate::disk::unreadable::is_media_error;
use std::cell::RefCell;
use std::io;

/// The size in bytes of one read of the disk. A larger read would delay the log's next write for longer, and a smaller
/// one would make a disk seek more often. A multiple of every block size, so that no block is read twice.
const WINDOW_BYTES: u64 = 1 << 20;

/// Slows a pass down, and ends it.
pub trait Throttle: Clone + Send + 'static {
    /// Waits after a read of that many bytes. An error ends the pass: its result is not needed any more.
    fn pause(&self, read_bytes: u64) -> io::Result<()>;
}

/// A [`Throttle`] that never waits.
#[derive(Clone, Copy, Debug)]
pub struct Unthrottled;

impl Throttle for Unthrottled {
    fn pause(&self, _read_bytes: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A file that can only be read. The reader of a snapshot requests a few bytes at a time: they come from a window, which
/// is read as a whole.
pub struct ThrottledFile<F, T> {
    file: F,
    throttle: T,
    window: RefCell<Window>,
}

#[derive(Default)]
struct Window {
    offset: u64,
    bytes: Vec<u8>,
    /// The offset of the last window with an unreadable part. It is not read as a whole again: a disk may take seconds for
    /// each attempt, and the log has to wait meanwhile.
    unreadable_offset: Option<u64>,
}

impl<F: DiskFile, T: Throttle> ThrottledFile<F, T> {
    /// Wraps an open file. Nothing is read yet.
    pub fn new(file: F, throttle: T) -> ThrottledFile<F, T> {
        ThrottledFile { file, throttle, window: RefCell::default() }
    }

    /// Reads the window that begins at `offset`.
    fn fill_window(&self, window: &mut Window, offset: u64) -> io::Result<()> {
        window.bytes.resize(WINDOW_BYTES as usize, 0);
        window.offset = offset;
        let outcome = self.file.read_at(offset, &mut window.bytes);
        window.bytes.truncate(*outcome.as_ref().unwrap_or(&0));
        if outcome.as_ref().is_err_and(is_media_error) {
            window.unreadable_offset = Some(offset);
        }
        // A failed read has occupied the disk as well.
        self.throttle.pause(*outcome.as_ref().unwrap_or(&(WINDOW_BYTES as usize)) as u64)?;
        outcome.map(drop)
    }

    /// Reads only what was requested, from a window with an unreadable part.
    fn read_part(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.file.read_at(offset, buffer);
        self.throttle.pause(buffer.len() as u64)?;
        outcome
    }
}

impl<F: DiskFile, T: Throttle> DiskFile for ThrottledFile<F, T> {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut window = self.window.borrow_mut();
        let mut read_bytes = 0;
        while read_bytes < buffer.len() {
            let at = offset + read_bytes as u64;
            let window_offset = at - at % WINDOW_BYTES;
            let is_unreadable = |window: &Window| window.unreadable_offset == Some(window_offset);
            if !is_unreadable(&window) && (window.bytes.is_empty() || window.offset != window_offset) {
                match self.fill_window(&mut window, window_offset) {
                    Err(error) if is_media_error(&error) => {}
                    outcome => outcome?,
                }
            }
            if is_unreadable(&window) {
                // Perhaps not the part that was requested.
                let part_end = buffer.len().min(read_bytes + (window_offset + WINDOW_BYTES - at) as usize);
                let read = self.read_part(at, &mut buffer[read_bytes..part_end])?;
                read_bytes += read;
                if read == 0 {
                    break;
                }
                continue;
            }
            let Some(available) = window.bytes.get((at - window_offset) as usize..).filter(|rest| !rest.is_empty())
            else {
                break;
            };
            let copied = available.len().min(buffer.len() - read_bytes);
            buffer[read_bytes..read_bytes + copied].copy_from_slice(&available[..copied]);
            read_bytes += copied;
        }
        Ok(read_bytes)
    }

    fn write_at(&mut self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn reserve(&mut self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn allocate(&mut self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&mut self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }

    fn sync(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_all(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
