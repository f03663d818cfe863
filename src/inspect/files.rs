//! Finds and reads the segments of a journal, while a node may be writing them.

use crate::disk::unreadable::is_media_error;
use crate::types::DiskId;
use crate::wal::batches::ReaderState;
use crate::wal::format::{self, SegmentHeader};
use crate::wal::inspect::{Finding, Inspection};
use crate::wal::kept_entries::damaged_segment_number;
use crate::wal::scan::{Scan, ScanItem};
use crate::wal::sync_marker::{self, LogOffset, SyncMarker};
use crate::wal::tail::SegmentContext;
use anyhow::Context;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file of one segment of a journal.
pub struct Segment {
    /// The path under which the file can be opened.
    pub path: PathBuf,
    /// The file name, such as `0000000001.wal`.
    pub name: String,
    /// The number in the name: segments are numbered from 1 in the order of their creation.
    pub number: u64,
}

/// The segments at a path, and the sync marker as read before any of them.
pub struct JournalFiles {
    /// The directory that the segments are in.
    pub directory: PathBuf,
    /// The segments, ordered by number.
    pub segments: Vec<Segment>,
    sync_marker: Option<Bytes>,
}

impl JournalFiles {
    /// Finds the segments at a path. The path names one file, a directory of segments, or a data directory, whose `wal`
    /// is searched.
    pub fn find_at(path: &Path) -> anyhow::Result<JournalFiles> {
        let wal_directory = path.join("wal");
        let directory = match path.parent() {
            Some(parent) if path.is_file() => parent,
            _ if wal_directory.is_dir() => &wal_directory,
            _ => path,
        };
        // The marker is read first: entries that it names as synced are then in every segment read later.
        let marker = read(&directory.join(sync_marker::FILE_NAME))?;
        let segments = match path.is_file() {
            true => {
                vec![single_segment_at(path).with_context(|| format!("{}: not a segment's name", path.display()))?]
            }
            false => fill_listing_gaps(directory, list_segments(directory)?),
        };
        Ok(JournalFiles { directory: directory.to_owned(), segments, sync_marker: marker })
    }

    /// The offset up to which the journal was synced, according to the sync marker; `None` if the marker is absent or
    /// of another disk.
    pub fn synced_upto(&self, disk: DiskId) -> Option<LogOffset> {
        SyncMarker::read(self.sync_marker.as_ref()?, disk).log_offset
    }

    /// Whether a segment of that number exists now.
    pub fn segment_exists(&self, number: u64) -> bool {
        self.directory.join(format::file_name(number)).exists()
    }

    /// The number of the next existing segment after segment `number`.
    pub fn next_segment_after(&self, number: u64) -> Option<u64> {
        let segments = list_segments(&self.directory).ok()?;
        segments.into_iter().map(|segment| segment.number).find(|existing| *existing > number)
    }

    /// Whether the segment of that number has any valid record. A spare, which is prepared in advance, has none.
    pub fn has_records(&self, number: u64, disk: DiskId) -> bool {
        let Ok(Some(bytes)) = read(&self.directory.join(format::file_name(number))) else { return false };
        Scan::new(bytes, format::salt(disk, number), None).any(|item| matches!(item, ScanItem::Frame(_)))
    }

    /// The disk id in the first valid segment header; `None` if all headers are damaged.
    pub fn find_disk_id(&self) -> Option<DiskId> {
        self.segments.iter().find_map(|segment| {
            let bytes = read(&segment.path).ok()??;
            SegmentHeader::decode(&bytes).ok().map(|header| header.disk)
        })
    }
}

fn segment_at(path: PathBuf) -> Option<Segment> {
    let name = path.file_name()?.to_str()?.to_owned();
    Some(Segment { number: format::file_number(&name)?, name, path })
}

/// The segment file at that path, also if a repair has set it aside.
fn single_segment_at(path: &Path) -> Option<Segment> {
    let name = path.file_name()?.to_str()?.to_owned();
    let number = format::file_number(&name).or_else(|| damaged_segment_number(&name))?;
    Some(Segment { number, name, path: path.to_owned() })
}

fn list_segments(directory: &Path) -> anyhow::Result<Vec<Segment>> {
    let directory_entries = std::fs::read_dir(directory).with_context(|| format!("{}", directory.display()))?;
    let mut segments = Vec::new();
    for entry in directory_entries {
        segments.extend(segment_at(entry?.path()));
    }
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}

/// Adds segments that the listing missed, since a running node created them while the directory was read. A segment
/// that is still missing was released, together with all earlier ones, or it is lost.
fn fill_listing_gaps(directory: &Path, listed: Vec<Segment>) -> Vec<Segment> {
    let Some(mut next) = listed.first().map(|segment| segment.number) else { return listed };
    let mut segments = Vec::with_capacity(listed.len());
    let mut listed = listed.into_iter().peekable();
    loop {
        let path = directory.join(format::file_name(next));
        match listed.next_if(|segment| segment.number == next) {
            Some(segment) => segments.push(segment),
            None if path.exists() => segments.extend(segment_at(path)),
            None => match listed.peek() {
                Some(after_gap) => {
                    next = after_gap.number;
                    continue;
                }
                None => return segments,
            },
        }
        next += 1;
    }
}

/// A file that the disk cannot read to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}: byte {at}: the disk cannot read it: {error}", file.display())]
pub struct UnreadableFile {
    /// The path of the file, with which the error message begins.
    pub file: PathBuf,
    /// The offset of the first byte that the disk could not read.
    pub at: u64,
    /// The error that the operating system returned at that offset.
    pub error: io::Error,
}

/// Reads a whole file; `None` if a running node has released it meanwhile.
///
/// A node may rename a released segment and reuse the file for another one. So the bytes belong to that name only if
/// the name still refers to the same file after all of it is read.
pub fn read(path: &Path) -> io::Result<Option<Bytes>> {
    let none_if_absent = |error: io::Error| if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return none_if_absent(error),
    };
    let opened_metadata = file.metadata()?;
    let mut bytes = Vec::with_capacity(opened_metadata.len() as usize);
    if let Err(error) = file.read_to_end(&mut bytes) {
        return Err(match is_media_error(&error) {
            true => io::Error::other(UnreadableFile { file: path.to_owned(), at: bytes.len() as u64, error }),
            false => error,
        });
    }
    match std::fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (opened_metadata.dev(), opened_metadata.ino()) => {
            Ok(Some(bytes.into()))
        }
        Ok(_) => Ok(None),
        Err(error) => none_if_absent(error),
    }
}

/// Returns the bytes of a segment as of one moment; `None` if the segment was released meanwhile.
///
/// If the node writes while the file is read, the bytes may contain a later write without an earlier one, and look
/// damaged. All earlier writes were in the file when the first read ended, so bytes that look damaged are read once
/// more.
pub fn reread_if_damaged(
    bytes: Bytes,
    path: &Path,
    salt: u64,
    context: SegmentContext,
    before: &ReaderState,
) -> io::Result<Option<Bytes>> {
    let findings: Vec<Finding> = Inspection::new(bytes.clone(), salt, context, before.clone()).collect();
    let sealed = findings.iter().any(is_seal);
    let looks_damaged = findings.iter().any(|finding| matches!(finding, Finding::Damage { .. }));
    if !looks_damaged && (sealed || !context.successor_in_use) {
        return Ok(Some(bytes));
    }
    let Some(reread_bytes) = read(path)? else { return Ok(None) };
    if context.successor_in_use {
        // The segment may have been sealed during the first read. Then the second read is complete.
        return Ok(Some(reread_bytes));
    }
    let frame_ends = Scan::new(bytes.clone(), salt, None).filter_map(|item| match item {
        ScanItem::Frame(frame) => Some(frame.end() as usize),
        ScanItem::Gap { .. } => None,
    });
    let last_frame_end = frame_ends.last().unwrap_or(0).min(reread_bytes.len());
    Ok(Some([&reread_bytes[..last_frame_end], &bytes[last_frame_end.min(bytes.len())..]].concat().into()))
}

/// Whether a finding is a segment's seal record.
pub fn is_seal(finding: &Finding) -> bool {
    matches!(finding, Finding::Record(frame) if frame.kind == format::RecordKind::Seal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::io::Write;

    #[test]
    fn segment_renamed_during_read_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let (name, other) = (directory.path().join("0000000001.wal"), directory.path().join("recycled.tmp"));
        // A pipe: reading it ends only when the writer closes it.
        for renamed in [false, true] {
            mknodat(CWD, &name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let reading_thread = std::thread::spawn({
                let name = name.clone();
                move || read(&name).unwrap()
            });
            let mut pipe = File::options().write(true).open(&name).unwrap();
            std::fs::rename(&name, &other).unwrap();
            match renamed {
                false => std::fs::rename(&other, &name).unwrap(),
                true => std::fs::write(&name, "of another segment").unwrap(),
            }
            pipe.write_all(b"of this one").unwrap();
            drop(pipe);
            let expected = (!renamed).then_some(Bytes::from_static(b"of this one"));
            assert_eq!(reading_thread.join().unwrap(), expected);
            std::fs::remove_file(&name).unwrap();
        }
        assert_eq!(read(&name).unwrap(), None);
    }
}
