//! Loads files for recovery: mapped, with every byte read by `pread` before the mapping is touched.
//!
//! A read of a mapping cannot return an error ([`crate::disk::sigbus`]). So a sector that the disk cannot read is found
//! here, and reported as damage with a file and an offset.
//!
//! A start reads all files anyway to compute checksums, and afterwards the pages of the mapping are in memory. Several
//! threads share the work: each segment is read by the thread that first needs it.

use super::format::{self, Opening, RecordKind, SegmentHeader, file_name};
use super::report::{DAMAGE_ADVICE, Fault, Result};
use super::scan::{Scan, ScanItem};
use super::sync_marker::to_fault;
use crate::disk::unreadable::{MediaError, read_through};
use crate::disk::{Disk, DiskFile};
use crate::types::{DiskId, Index};
use bytes::Bytes;
use std::sync::{Mutex, OnceLock, PoisonError};

/// The file of a segment, whose bytes are read at most once. Only callers that need the same segment wait for the read.
pub struct SegmentFile {
    /// The segment's number, from the file's name.
    pub number: u64,
    /// The bytes of the file: mapped, or a copy in memory for the last segment.
    bytes: Bytes,
    /// Reads the whole file. The first caller that needs the bytes takes and runs this function.
    reader: Mutex<Option<FileReader>>,
    /// The first media error, once the file was read; or the error of the read.
    read_outcome: OnceLock<std::io::Result<Option<MediaError>>>,
}

type FileReader = Box<dyn FnOnce() -> std::io::Result<Option<MediaError>> + Send>;

impl SegmentFile {
    /// A segment whose bytes are in memory already: no read of the disk can fail any more.
    pub fn in_memory(number: u64, bytes: Bytes) -> SegmentFile {
        SegmentFile { number, bytes, reader: Mutex::new(None), read_outcome: OnceLock::from(Ok(None)) }
    }

    /// The size of the file in bytes, unreadable bytes included.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// All bytes of the file. Only those of [`SegmentFile::readable_bytes`] may be read.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The first media error of the file, if any. The first call reads the whole file; concurrent calls wait.
    pub fn media_error(&self) -> Result<Option<&MediaError>> {
        let read = || match self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reader) => reader(),
            None => Ok(None),
        };
        match self.read_outcome.get_or_init(read) {
            Ok(media_error) => Ok(media_error.as_ref()),
            Err(error) => Err(to_fault("read", &file_name(self.number))(copy_error(error))),
        }
    }

    /// Whether the segment holds a record, or may hold one in an unreadable sector.
    ///
    /// If so, the segment before this one must have a seal. A wrong `true` stops a start, while a wrong `false` loses a
    /// segment.
    pub fn is_used(&self, disk: DiskId) -> bool {
        let salt = format::salt(disk, self.number);
        // A good frame at any offset counts: the opening record may be damaged. Old records in a recycled file do not
        // count, because they have the salt of another segment.
        let has_record = |bytes| Scan::new(bytes, salt, None).any(|item| matches!(item, ScanItem::Frame(_)));
        !matches!(self.media_error(), Ok(None)) || self.readable_bytes().is_ok_and(has_record)
    }

    /// The last index of the log before this segment, from its opening record; `None` if that is not readable. Only for
    /// messages.
    pub fn last_index_of_earlier_segments(&self) -> Option<Index> {
        let bytes = self.readable_bytes().ok()?;
        let salt = SegmentHeader::decode(&bytes).ok()?.salt();
        // The opening record is the second frame, after the header of its batch.
        Scan::new(bytes, salt, None).take(2).find_map(|item| match item {
            ScanItem::Frame(frame) if frame.kind == RecordKind::Open => {
                Some(Opening::decode(&frame.body).ok()?.last_position.index)
            }
            _ => None,
        })
    }

    /// The bytes of the file up to the first unreadable one.
    ///
    /// A file with a bad sector looks shorter, so the caller must check [`SegmentFile::media_error`] before it takes
    /// the end of these bytes for the end of the file.
    pub fn readable_bytes(&self) -> Result<Bytes> {
        Ok(match self.media_error()? {
            Some(media_error) => self.bytes.slice(..media_error.offset as usize),
            None => self.bytes.clone(),
        })
    }
}

/// Copies an I/O error, which has no `Clone`: each caller of a failed read gets a copy.
fn copy_error(error: &std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::new(error.kind(), error.to_string()),
    }
}

/// Loads all segments. The last one is copied into memory: the journal will append to its file, and a mapping
/// would change under its readers. The others are mapped.
pub fn load_segments<D: Disk>(disk: &D, numbers: &[u64]) -> Result<Vec<SegmentFile>> {
    let Some((last, older)) = numbers.split_last() else { return Ok(Vec::new()) };
    // A mapping reads no page. So all files are mapped here, and the threads read them later.
    let mut files =
        older.iter().map(|number| map_file(disk, *number, &file_name(*number))).collect::<Result<Vec<_>>>()?;
    let (bytes, media_error) = copy_file(disk, &file_name(*last))?;
    files.push(SegmentFile { read_outcome: OnceLock::from(Ok(media_error)), ..SegmentFile::in_memory(*last, bytes) });
    Ok(files)
}

/// Maps the file `name` of segment `number`. Its bytes are read when they are first needed.
pub fn map_file<D: Disk>(disk: &D, number: u64, name: &str) -> Result<SegmentFile> {
    let bytes = disk.map(name).map_err(to_fault("map", name))?;
    // The reader runs later and on any thread, so it opens the file itself.
    let (disk, name) = (disk.clone(), name.to_owned());
    let reader: FileReader = Box::new(move || read_through(&disk.open(&name)?, |_| {}));
    Ok(SegmentFile { number, bytes, reader: Mutex::new(Some(reader)), read_outcome: OnceLock::new() })
}

/// Reads a whole small file. A media error is reported as damage.
pub fn read_whole_file<D: Disk>(disk: &D, name: &str) -> Result<Bytes> {
    match copy_file(disk, name)? {
        (bytes, None) => Ok(bytes),
        (_, Some(media_error)) => Err(unreadable_fault(name, &media_error, "none known".to_owned())),
    }
}

/// Reads a whole file. From the first unreadable byte on, the copy has zeros, so that its size is that of the file.
///
/// The zeros must not be taken for the end of the log: the caller checks for a media error first.
fn copy_file<D: Disk>(disk: &D, name: &str) -> Result<(Bytes, Option<MediaError>)> {
    let file = disk.open(name).map_err(to_fault("open", name))?;
    let size = file.size().map_err(to_fault("read", name))? as usize;
    let mut bytes = Vec::with_capacity(size);
    let media_error = read_through(&file, |piece| bytes.extend_from_slice(piece)).map_err(to_fault("read", name))?;
    if media_error.is_some() {
        bytes.resize(size, 0);
    }
    Ok((Bytes::from(bytes), media_error))
}

/// The fault of a media error; `lost` describes the affected entries.
pub fn unreadable_fault(file: &str, media_error: &MediaError, lost: String) -> Fault {
    let description = format!("the disk cannot read it: {}", media_error.error);
    Fault::Corrupt { file: file.to_owned(), offset: media_error.offset, description, lost, advice: DAMAGE_ADVICE }
}
