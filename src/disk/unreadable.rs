//! Finds the first bytes of a file that the disk cannot read.
//!
//! Bad media show up as `EIO` far more often than as flipped bits, and file systems with checksums turn every flipped
//! bit into `EIO`. A read through a mapping cannot return an error ([`super::sigbus`]), so each file is read with
//! `pread` before it is used.

use super::interface::DiskFile;
use std::io;

/// The number of bytes in one read of a file.
const READ_PIECE_BYTES: usize = 1 << 20;
/// The step in bytes of the search for the first unreadable byte: the page cache reads whole pages.
const PAGE_BYTES: u64 = 4096;

/// The first media error of a file, and its offset.
#[derive(Debug)]
pub struct MediaError {
    /// The offset in bytes up to which the file can be read.
    pub offset: u64,
    /// The error that the read at `offset` returned.
    pub error: io::Error,
}

/// Whether a read error means that the medium does not return the data that was written to it.
pub fn is_media_error(error: &io::Error) -> bool {
    // Besides `EIO`: `ENODATA` is a bad sector, `EILSEQ` a bad protection tag. File systems return `EUCLEAN` and
    // `EBADMSG` for a bad checksum.
    let media_codes = [libc::EIO, libc::ENODATA, libc::EILSEQ, libc::EUCLEAN, libc::EBADMSG];
    error.raw_os_error().is_some_and(|code| media_codes.contains(&code))
}

/// Reads a whole file, piece by piece, and passes each piece to `visit`. Returns the first media error, if there
/// is one. Any other read error is returned as an error.
pub fn read_through(file: &impl DiskFile, mut visit: impl FnMut(&[u8])) -> io::Result<Option<MediaError>> {
    let size = file.size()?;
    let mut piece = vec![0; READ_PIECE_BYTES.min(size as usize)];
    let mut at = 0;
    while at < size {
        match file.read_at(at, &mut piece) {
            Ok(0) => break,
            Ok(read) => {
                visit(&piece[..read]);
                at += read as u64;
            }
            Err(error) if is_media_error(&error) => return find_unreadable_page(file, at, &mut piece, visit).map(Some),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Finds the first unreadable page at or after `at`. `piece` is a buffer of the size of the read that failed at `at`.
fn find_unreadable_page(
    file: &impl DiskFile,
    mut at: u64,
    piece: &mut [u8],
    mut visit: impl FnMut(&[u8]),
) -> io::Result<MediaError> {
    let end = at + piece.len() as u64;
    while at < end {
        let page = &mut piece[..(PAGE_BYTES - at % PAGE_BYTES).min(end - at) as usize];
        match file.read_at(at, page) {
            Ok(0) => break,
            Ok(read) => {
                visit(&page[..read]);
                at += read as u64;
            }
            Err(error) if is_media_error(&error) => return Ok(MediaError { offset: at, error }),
            Err(error) => return Err(error),
        }
    }
    // Every page was readable at the second attempt, but a disk that fails a read once is not trusted.
    Ok(MediaError { offset: at, error: io::Error::from_raw_os_error(libc::EIO) })
}
