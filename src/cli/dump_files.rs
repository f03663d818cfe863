//! The files of a journal as `dump` finds them: read beside a node that may be writing them.

use crate::disk::unreadable::is_media_error;
use crate::types::DiskId;
use crate::wal::format::{self, SegmentHeader};
use crate::wal::inspect::{Finding, Inspection, Surroundings};
use crate::wal::scan::{Scan, ScanItem};
use crate::wal::sync_marker::{self, LogOffset, SyncMarker};
use anyhow::Context;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A segment's file.
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called.
    pub name: String,
    /// The number it is called by.
    pub number: u64,
}

/// The segments at a place, and how far they were synced before anyone looked into them.
pub struct Files {
    /// Where they are.
    pub directory: PathBuf,
    /// By number.
    pub segments: Vec<Segment>,
    side: Option<Bytes>,
}

impl Files {
    /// The segments at a path: itself, those in it, or those in `wal` in it.
    pub fn at(path: &Path) -> anyhow::Result<Files> {
        let inside = path.join("wal");
        let directory = match path.parent() {
            Some(parent) if path.is_file() => parent,
            _ if inside.is_dir() => &inside,
            _ => path,
        };
        // First of all: what it says was synced is then in whatever is read from now on.
        let side = read(&directory.join(sync_marker::NAME))?;
        let segments = match path.is_file() {
            true => {
                vec![segment(path.to_owned()).with_context(|| format!("{}: not named as a segment", path.display()))?]
            }
            false => without_gaps(directory, segments_in(directory)?),
        };
        Ok(Files { directory: directory.to_owned(), segments, side })
    }

    /// How far the journal of that disk was synced.
    pub fn synced(&self, disk: DiskId) -> Option<LogOffset> {
        SyncMarker::read(self.side.as_ref()?, disk).place
    }

    /// Whether there is a segment of that number by now.
    pub fn is_there(&self, number: u64) -> bool {
        self.directory.join(format::file_name(number)).exists()
    }

    /// The next segment behind that number that is there by now.
    pub fn behind(&self, number: u64) -> Option<u64> {
        let segments = segments_in(&self.directory).ok()?;
        segments.into_iter().map(|segment| segment.number).find(|there| *there > number)
    }

    /// Whether a segment has any good record.
    pub fn in_use(&self, number: u64, disk: DiskId) -> bool {
        let Ok(Some(bytes)) = read(&self.directory.join(format::file_name(number))) else { return false };
        Scan::new(bytes, format::salt(disk, number), None).any(|item| matches!(item, ScanItem::Frame(_)))
    }

    /// The disk that any good segment names.
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

/// Those that a listing beside a running node may have missed, since they were made while it was read.
/// What is missing still was released, and all before it too; or it is lost.
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
    /// All bytes before this one were read.
    pub at: u64,
    /// The error of the read there.
    pub error: io::Error,
}

/// A file's bytes; `None` if a running node has released it meanwhile.
///
/// A segment that is released may be renamed and become room for another: what was read is of that
/// name only if the name is still the file's when all of it is read.
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

/// The bytes of a segment as they stood at one moment; `None` if it was released meanwhile.
///
/// To read a file takes a while, and a node that writes meanwhile may be seen to have written what
/// is behind, and not what is before. All that is before was there, though, when the first reading
/// ended: whatever looks like damage is read once more.
pub fn settle(bytes: Bytes, path: &Path, salt: u64, around: Surroundings) -> io::Result<Option<Bytes>> {
    let findings: Vec<Finding> = Inspection::new(bytes.clone(), salt, around).collect();
    let sealed = findings.iter().any(is_seal);
    let bad = findings.iter().any(|finding| matches!(finding, Finding::Bad { .. }));
    if !bad && (sealed || !around.followed) {
        return Ok(Some(bytes));
    }
    let Some(again) = read(path)? else { return Ok(None) };
    if around.followed {
        // Sealed while we were looking, perhaps: now it is whole.
        return Ok(Some(again));
    }
    let end = Scan::new(bytes.clone(), salt, None).filter_map(|item| match item {
        ScanItem::Frame(frame) => Some(frame.end() as usize),
        ScanItem::Gap { .. } => None,
    });
    let end = end.last().unwrap_or(0).min(again.len());
    Ok(Some([&again[..end], &bytes[end.min(bytes.len())..]].concat().into()))
}

/// Whether a segment ends here in order.
pub fn is_seal(finding: &Finding) -> bool {
    matches!(finding, Finding::Record(frame) if frame.kind == format::RecordKind::Seal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::io::Write;

    #[test]
    fn what_gets_another_name_while_it_is_read_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (name, other) = (directory.path().join("0000000001.wal"), directory.path().join("recycled.tmp"));
        // A pipe: it is read to its end only when whoever writes says so.
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
