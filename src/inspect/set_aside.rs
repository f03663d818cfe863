//! Finds the files that a repair has set aside: `*.damaged`. They are not part of the log.

use super::files::read;
use crate::types::{DiskId, Index, Position};
use crate::wal::format::{self, EntryMetadata, RecordKind, SegmentHeader};
use crate::wal::identity_recovery::DAMAGED_NAME;
use crate::wal::kept_entries::{DAMAGED_SUFFIX, damaged_segment_number};
use crate::wal::scan::{Scan, ScanItem};
use std::fmt;
use std::io;
use std::path::Path;

/// A file that a repair has set aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetAsideFile {
    /// The path of the file within the data directory, such as `wal/0000000003.wal.damaged`.
    pub name: String,
    /// The number of the segment that the file was; `None` if it was another kind of file.
    pub segment_number: Option<u64>,
    /// The first and the last position of the entries that can still be read; `None` if there are none.
    pub readable_entries: Option<(Position, Position)>,
}

/// Finds the files that were set aside in a data directory, or in a directory of segments, ordered by name. `disk` is
/// the id of that directory, if it is known: it replaces a damaged header.
pub fn find_set_aside_files(path: &Path, disk: Option<DiskId>) -> io::Result<Vec<SetAsideFile>> {
    let mut files = Vec::new();
    for subdirectory in ["", "wal", "snapshots"] {
        let directory = path.join(subdirectory);
        if !directory.is_dir() {
            continue;
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&directory)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.retain(|name| name.contains(DAMAGED_SUFFIX) || name == DAMAGED_NAME);
        names.sort();
        for name in names {
            let segment_number = damaged_segment_number(&name);
            let readable_entries =
                segment_number.and_then(|number| readable_entries(&directory.join(&name), number, disk));
            let name = if subdirectory.is_empty() { name } else { format!("{subdirectory}/{name}") };
            files.push(SetAsideFile { name, segment_number, readable_entries });
        }
    }
    Ok(files)
}

/// The first and the last position of the intact entries of a segment. A file that cannot be read has none.
fn readable_entries(path: &Path, number: u64, disk: Option<DiskId>) -> Option<(Position, Position)> {
    let bytes = read(path).ok()??;
    let salt = match SegmentHeader::decode(&bytes) {
        Ok(header) => header.salt(),
        Err(_) => format::salt(disk?, number),
    };
    let entries = Scan::new(bytes, salt, None).filter_map(|item| match item {
        ScanItem::Frame(frame) if frame.kind == RecordKind::Entry => EntryMetadata::decode(&frame.body).ok(),
        _ => None,
    });
    let positions = entries.map(|entry| entry.position).filter(|position| position.index > Index::ZERO);
    positions.fold(None, |range: Option<(Position, Position)>, position| match range {
        None => Some((position, position)),
        Some((first, last)) => {
            let earlier = if position.index < first.index { position } else { first };
            let later = if position.index > last.index { position } else { last };
            Some((earlier, later))
        }
    })
}

impl fmt::Display for SetAsideFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was set aside by a repair, and is not part of the log", self.name)?;
        match (self.segment_number, self.readable_entries) {
            (Some(number), Some((first, last))) => write!(f, ": segment {number}, readable entries {first} to {last}"),
            (Some(number), None) => write!(f, ": segment {number}, no readable entry"),
            (None, _) => Ok(()),
        }
    }
}
