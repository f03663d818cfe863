//! The files of a journal, read while a node may be writing them.

use crate::disk::unreadable::is_media_error;
use crate::types::DiskId;
use crate::wal::batches::Continuation;
use crate::wal::format::{self, SegmentHeader};
use crate::wal::inspect::{Finding, Inspection};
use crate::wal::scan::{Scan, ScanItem};
use crate::wal::sync_marker::{self, LogOffset, SyncMarker};
use crate::wal::tail::Surroundings;
use anyhow::Context;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A segment's file.
pub struct Segment {
    /// Its path.
    pub path: PathBuf,
    /// Its file name.
    pub name: String,
    /// The number in its name.
    pub number: u64,
}

/// The segments at a path, and the sync marker as read before any of them.
pub struct Files {
    /// Their directory.
    pub directory: PathBuf,
    /// The segments, ordered by number.
    pub segments: Vec<Segment>,
    marker: Option<Bytes>,
}

impl Files {
    /// Finds the segments at a path: the file itself, or those in the directory or in its `wal`.
    pub fn at(path: &Path) -> anyhow::Result<Files> {
        let inside = path.join("wal");
        let directory = match path.parent() {
            Some(parent) if path.is_file() => parent,
            _ if inside.is_dir() => &inside,
            _ => path,
        };
        // The marker is read first: entries that it names as synced are then in every segment read later.
        let side = read(&directory.join(sync_marker::NAME))?;
        let segments = match path.is_file() {
            true => {
                vec![segment(path.to_owned()).with_context(|| format!("{}: not a segment's name", path.display()))?]
            }
            false => without_gaps(directory, segments_in(directory)?),
        };
        Ok(Files { directory: directory.to_owned(), segments, marker: side })
    }

    /// The offset up to which the journal of that disk was synced.
    pub fn synced(&self, disk: DiskId) -> Option<LogOffset> {
        SyncMarker::read(self.marker.as_ref()?, disk).place
    }

    /// Whether a segment of that number exists now.
    pub fn is_there(&self, number: u64) -> bool {
        self.directory.join(format::file_name(number)).exists()
    }

    /// The number of the next existing segment after that one.
    pub fn next_after(&self, number: u64) -> Option<u64> {
        let segments = segments_in(&self.directory).ok()?;
        segments.into_iter().map(|segment| segment.number).find(|there| *there > number)
    }

    /// Whether a segment has any valid record.
    pub fn in_use(&self, number: u64, disk: DiskId) -> bool {
        let Ok(Some(bytes)) = read(&self.directory.join(format::file_name(number))) else { return false };
        Scan::new(bytes, format::salt(disk, number), None).any(|item| matches!(item, ScanItem::Frame(_)))
    }

    /// The disk id in the first valid segment header.
    pub fn disk(&self) -> Option<DiskId> {
        self.segments.iter().find_map(|segment| {
            let bytes = read(&segment.path).ok()??;
            SegmentHeader::decode(&bytes).ok().map(|header| header.disk)
        })
    }
}

fn segment(path: PathBuf) -> Option<Segment> {
    let name = path.file_name()?.to_str()?.to_owned();
    Some(Segment { number: format::file_number(&name)?, name, path })
}

fn segments_in(directory: &Path) -> anyhow::Result<Vec<Segment>> {
    let listed = std::fs::read_dir(directory).with_context(|| format!("{}", directory.display()))?;
    let mut segments = Vec::new();
    for entry in listed {
        segments.extend(segment(entry?.path()));
    }
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}

/// Adds segments that the listing missed, since a running node created them while it was read. A segment still missing
/// was released, with all before it; or it is lost.
fn without_gaps(directory: &Path, listed: Vec<Segment>) -> Vec<Segment> {
    let Some(mut next) = listed.first().map(|segment| segment.number) else { return listed };
    let mut segments = Vec::with_capacity(listed.len());
    let mut listed = listed.into_iter().peekable();
    loop {
        let path = directory.join(format::file_name(next));
        match listed.next_if(|segment| segment.number == next) {
            Some(segment) => segments.push(segment),
            None if path.exists() => segments.extend(segment(path)),
            None => match listed.peek() {
                Some(behind) => {
                    next = behind.number;
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
    /// Its path.
    pub file: PathBuf,
    /// The offset of the first byte that was not read.
    pub at: u64,
    /// The error of the read there.
    pub error: io::Error,
}

/// A file's bytes; `None` if a running node has released it meanwhile.
///
/// A released segment may be renamed and reused for another. So the bytes belong to that name only if the name still
/// refers to the file after all of it is read.
pub fn read(path: &Path) -> io::Result<Option<Bytes>> {
    let gone = |error: io::Error| if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return gone(error),
    };
    let opened = file.metadata()?;
    let mut bytes = Vec::with_capacity(opened.len() as usize);
    if let Err(error) = file.read_to_end(&mut bytes) {
        return Err(match is_media_error(&error) {
            true => io::Error::other(UnreadableFile { file: path.to_owned(), at: bytes.len() as u64, error }),
            false => error,
        });
    }
    match std::fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (opened.dev(), opened.ino()) => Ok(Some(bytes.into())),
        Ok(_) => Ok(None),
        Err(error) => gone(error),
    }
}

/// The bytes of a segment as of one moment; `None` if it was released meanwhile.
///
/// Reading a file takes a while: if the node writes meanwhile, the bytes read may contain a later write without an
/// earlier one. All earlier writes were in the file when the first read ended, though, so bytes that look damaged are
/// read once more.
pub fn reread_if_damaged(
    bytes: Bytes,
    path: &Path,
    salt: u64,
    around: Surroundings,
    before: &Continuation,
) -> io::Result<Option<Bytes>> {
    let findings: Vec<Finding> = Inspection::new(bytes.clone(), salt, around, before.clone()).collect();
    let sealed = findings.iter().any(is_seal);
    let bad = findings.iter().any(|finding| matches!(finding, Finding::Bad { .. }));
    if !bad && (sealed || !around.followed) {
        return Ok(Some(bytes));
    }
    let Some(again) = read(path)? else { return Ok(None) };
    if around.followed {
        // It may have been sealed during the first read: the second one is complete.
        return Ok(Some(again));
    }
    let end = Scan::new(bytes.clone(), salt, None).filter_map(|item| match item {
        ScanItem::Frame(frame) => Some(frame.end() as usize),
        ScanItem::Gap { .. } => None,
    });
    let end = end.last().unwrap_or(0).min(again.len());
    Ok(Some([&again[..end], &bytes[end.min(bytes.len())..]].concat().into()))
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
    fn segment_renamed_during_read_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (name, other) = (directory.path().join("0000000001.wal"), directory.path().join("recycled.tmp"));
        // A pipe: reading it ends only when the writer closes it.
        for renamed in [false, true] {
            mknodat(CWD, &name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let reading = std::thread::spawn({
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
            assert_eq!(reading.join().unwrap(), expected);
            std::fs::remove_file(&name).unwrap();
        }
        assert_eq!(read(&name).unwrap(), None);
    }
}
