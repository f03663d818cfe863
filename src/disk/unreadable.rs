//! Finds the places of a file that the disk cannot read.
//!
//! Bad media show up as `EIO` far more often than as flipped bits, and file systems with checksums turn every flipped
//! bit into `EIO`. A read through a mapping cannot return an error ([`super::sigbus`]), so each file is read with
//! `pread` before it is used.

use super::interface::DiskFile;
use std::io;

/// A file is read in pieces of this size.
const PIECE: usize = 1 << 20;
/// An unreadable place is searched for in steps of this size: the page cache reads nothing smaller.
const PAGE: u64 = 4096;

/// The first place of a file that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// All bytes before this one can be read.
    pub at: u64,
    /// The error of the read there.
    pub error: io::Error,
}

/// Whether a read error means that the medium does not return the data that was written to it.
pub fn is_media_error(error: &io::Error) -> bool {
    // The last three are the block layer's and the file systems' codes for a bad sector, a bad protection tag, and a
    // bad checksum.
    let media = [libc::EIO, libc::ENODATA, libc::EILSEQ, libc::EUCLEAN, libc::EBADMSG];
    error.raw_os_error().is_some_and(|code| media.contains(&code))
}

/// Reads a whole file, piece by piece, and passes each piece to `visit`. Returns the first place that cannot be read;
/// an error other than a media error is returned as such.
pub fn read_through(file: &impl DiskFile, mut visit: impl FnMut(&[u8])) -> io::Result<Option<Unreadable>> {
    let size = file.size()?;
    let mut piece = vec![0; PIECE.min(size as usize)];
    let mut at = 0;
    while at < size {
        match file.read_at(at, &mut piece) {
            Ok(0) => break,
            Ok(read) => {
                visit(&piece[..read]);
                at += read as u64;
            }
            Err(error) if is_media_error(&error) => return find(file, at, &mut piece, visit).map(Some),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Finds the first page from `at` on that cannot be read, within a piece that could not.
fn find(file: &impl DiskFile, mut at: u64, piece: &mut [u8], mut visit: impl FnMut(&[u8])) -> io::Result<Unreadable> {
    let end = at + piece.len() as u64;
    while at < end {
        let page = &mut piece[..(PAGE - at % PAGE).min(end - at) as usize];
        match file.read_at(at, page) {
            Ok(0) => break,
            Ok(read) => {
                visit(&page[..read]);
                at += read as u64;
            }
            Err(error) if is_media_error(&error) => return Ok(Unreadable { at, error }),
            Err(error) => return Err(error),
        }
    }
    // This time the read succeeded: a disk that gives different answers is not trusted.
    Ok(Unreadable { at, error: io::Error::from_raw_os_error(libc::EIO) })
}
