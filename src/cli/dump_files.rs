//! The files of a journal as `dump` finds them: read beside a node that may be writing them.

use crate::types::DiskId;
use crate::wal::format::{self, SegmentHeader};
use crate::wal::inspect::{Finding, Inspection, Surroundings};
use crate::wal::scan::{Item, Scan};
use crate::wal::side::{self, Place, Testimony};
use anyhow::Context;
use bytes::Bytes;
use std::io::{self, ErrorKind};
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
        let side = read(&directory.join(side::NAME))?;
        let segments = match path.is_file() {
            true => {
                vec![segment(path.to_owned()).with_context(|| format!("{}: not named as a segment", path.display()))?]
            }
            false => segments_in(directory)?,
        };
        Ok(Files { directory: directory.to_owned(), segments, side })
    }

    /// How far the journal of that disk was synced.
    pub fn synced(&self, disk: DiskId) -> Option<Place> {
        Testimony::read(self.side.as_ref()?, disk).place
    }

    /// Whether there is a segment of that number by now.
    pub fn is_there(&self, number: u64) -> bool {
        self.directory.join(format::file_name(number)).exists()
    }

    /// Whether a segment has any good record.
    pub fn in_use(&self, number: u64, disk: DiskId) -> bool {
        let Ok(Some(bytes)) = read(&self.directory.join(format::file_name(number))) else { return false };
        Scan::new(bytes, format::salt(disk, number), None).any(|item| matches!(item, Item::Frame(_)))
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

/// A file's bytes; `None` if a running node has released it meanwhile.
pub fn read(path: &Path) -> io::Result<Option<Bytes>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bytes of a segment as they stood at one moment.
///
/// To read a file takes a while, and a node that writes meanwhile may be seen to have written what
/// is behind, and not what is before. All that is before was there, though, when the first reading
/// ended: whatever looks like damage is read once more.
pub fn settle(bytes: Bytes, path: &Path, salt: u64, around: Surroundings) -> io::Result<Bytes> {
    let findings: Vec<Finding> = Inspection::new(bytes.clone(), salt, around).collect();
    let sealed = findings.iter().any(is_seal);
    let bad = findings.iter().any(|finding| matches!(finding, Finding::Bad { .. }));
    if !bad && (sealed || !around.followed) {
        return Ok(bytes);
    }
    let Some(again) = read(path)? else { return Ok(bytes) };
    if around.followed {
        // Sealed while we were looking, perhaps: now it is whole.
        return Ok(again);
    }
    let end = Scan::new(bytes.clone(), salt, None).filter_map(|item| match item {
        Item::Frame(frame) => Some(frame.end() as usize),
        Item::Gap { .. } => None,
    });
    let end = end.last().unwrap_or(0).min(again.len());
    Ok([&again[..end], &bytes[end.min(bytes.len())..]].concat().into())
}

/// Whether a segment ends here in order.
pub fn is_seal(finding: &Finding) -> bool {
    matches!(finding, Finding::Record(frame) if frame.kind == format::Kind::Seal)
}
