//! Loads files for recovery: mapped, with every byte read by `pread` before the mapping is touched.
//!
//! A mapping cannot return an error ([`crate::disk::sigbus`]). So a sector that the disk cannot read is found here, and
//! is damage like any other, with a file and an offset.
//!
//! The reading costs one pass over the files, which a start needs anyway to compute checksums, and the mapping then
//! finds the pages in memory. Several threads share the work: each segment is read by the thread that first needs it.

use super::format::{self, Opening, RecordKind, SegmentHeader, file_name};
use super::report::{ADVICE, Fault, Result};
use super::scan::{Scan, ScanItem};
use super::sync_marker::io;
use crate::disk::unreadable::{Unreadable, read_through};
use crate::disk::{Disk, DiskFile};
use crate::types::{DiskId, Index};
use bytes::Bytes;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A segment's file.
///
/// The reader runs at most once, and only callers that need the same segment wait for it.
pub struct Read {
    /// Its number, from its name.
    pub number: u64,
    /// Its bytes: mapped, or copied for the last segment.
    bytes: Bytes,
    /// Reads the file once; run by the first caller that needs the bytes.
    reader: Mutex<Option<Reader>>,
    checked: OnceLock<std::io::Result<Option<Unreadable>>>,
}

type Reader = Box<dyn FnOnce() -> std::io::Result<Option<Unreadable>> + Send>;

impl Read {
    /// A segment that is in memory.
    ///
    /// Nothing is left to be found out about it: the copy was made by reading every byte.
    pub fn copied(number: u64, bytes: Bytes) -> Read {
        Read { number, bytes, reader: Mutex::new(None), checked: OnceLock::from(Ok(None)) }
    }

    /// The size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// All of its bytes. Only those of [`Read::readable`] may be touched.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The first place that the disk cannot read, if any. The first call reads the file; concurrent calls wait.
    pub fn unreadable(&self) -> Result<Option<&Unreadable>> {
        let read = || match self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reader) => reader(),
            None => Ok(None),
        };
        match self.checked.get_or_init(read) {
            Ok(place) => Ok(place.as_ref()),
            Err(error) => Err(io("read", &file_name(self.number))(again(error))),
        }
    }

    /// Whether it holds any record, or might hold one where it cannot be read.
    ///
    /// It decides whether a segment in front of it may lack its seal. In doubt it says yes, as an unreadable sector may
    /// hold a record: a wrong yes stops a start, a wrong no loses a segment.
    pub fn is_used(&self, disk: DiskId) -> bool {
        let salt = format::salt(disk, self.number);
        // Any good frame counts, wherever it is: the opening itself may be the part that is damaged. Old records in a
        // recycled file have the salt of another number.
        let has_record = |bytes| Scan::new(bytes, salt, None).any(|item| matches!(item, ScanItem::Frame(_)));
        !matches!(self.unreadable(), Ok(None)) || self.readable().is_ok_and(has_record)
    }

    /// The last index of the log before this segment, from its opening.
    ///
    /// Two items, since the opening is the second frame, behind the header of its batch. Only for messages: nothing
    /// depends on it.
    pub fn inherits(&self) -> Option<Index> {
        let bytes = self.readable().ok()?;
        let salt = SegmentHeader::decode(&bytes).ok()?.salt();
        Scan::new(bytes, salt, None).take(2).find_map(|item| match item {
            ScanItem::Frame(frame) if frame.kind == RecordKind::Open => {
                Some(Opening::read(&frame.body).ok()?.last.index)
            }
            _ => None,
        })
    }

    /// Its bytes, up to the first unreadable one.
    ///
    /// The cut makes a bad sector look like a file that ends there, and the caller asks why before it believes that.
    pub fn readable(&self) -> Result<Bytes> {
        Ok(match self.unreadable()? {
            Some(place) => self.bytes.slice(..place.at as usize),
            None => self.bytes.clone(),
        })
    }
}

/// Copies an I/O error.
///
/// An I/O error cannot be cloned, and each caller of a failed read needs one.
fn again(error: &std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::new(error.kind(), error.to_string()),
    }
}

/// Loads all segments: the last one copied, since it will be written to, the others mapped.
///
/// A mapping of a file that is then written to would change under its readers. So the last segment, which the journal
/// will append to, is copied.
pub fn read_all<D: Disk>(disk: &D, numbers: &[u64]) -> Result<Vec<Read>> {
    let mapped = |number: u64| {
        let name = file_name(number);
        let bytes = disk.map(&name).map_err(io("map", &name))?;
        // The reader runs later and on any thread, so it brings its own handle and opens the file anew.
        let disk = disk.clone();
        let reader: Reader = Box::new(move || read_through(&disk.open(&name)?, |_| {}));
        Ok(Read { number, bytes, reader: Mutex::new(Some(reader)), checked: OnceLock::new() })
    };
    let Some((last, older)) = numbers.split_last() else { return Ok(Vec::new()) };
    // Mapping touches no page: all files are mapped first, and threads share the reading.
    let mut files = older.iter().map(|number| mapped(*number)).collect::<Result<Vec<_>>>()?;
    let (bytes, unreadable) = copy(disk, &file_name(*last))?;
    files.push(Read { checked: OnceLock::from(Ok(unreadable)), ..Read::copied(*last, bytes) });
    Ok(files)
}

/// Reads a whole small file. An unreadable place is damage.
pub fn read_whole<D: Disk>(disk: &D, name: &str) -> Result<Bytes> {
    match copy(disk, name)? {
        (bytes, None) => Ok(bytes),
        (_, Some(place)) => Err(unreadable(name, &place, "none known".to_owned())),
    }
}

/// Reads a whole file, with zeros from the first unreadable place on.
///
/// Zeros keep the size, so that offsets mean the same as in the file. They are never taken for an end of the log: the
/// caller asks for the unreadable place first.
fn copy<D: Disk>(disk: &D, name: &str) -> Result<(Bytes, Option<Unreadable>)> {
    let file = disk.open(name).map_err(io("open", name))?;
    let size = file.size().map_err(io("read", name))? as usize;
    let mut bytes = Vec::with_capacity(size);
    let place = read_through(&file, |piece| bytes.extend_from_slice(piece)).map_err(io("read", name))?;
    if place.is_some() {
        bytes.resize(size, 0);
    }
    Ok((Bytes::from(bytes), place))
}

/// The fault of an unreadable place.
pub fn unreadable(file: &str, place: &Unreadable, lost: String) -> Fault {
    let what = format!("the disk cannot read it: {}", place.error);
    Fault::Corrupt { file: file.to_owned(), offset: place.at, what, lost, advice: ADVICE }
}
