//! A walk through the segments at a place, read beside a node that may be writing them: what there is,
//! what is damaged, and what is missing that the log needs.

use super::dump_files::{Files, Segment, read, settle};
use super::dump_reach::Reach;
use super::dump_snapshots::reaches;
use crate::types::Index;
use crate::wal::format::{self, SegmentHeader};
use crate::wal::inspect::{Finding, Inspection, Surroundings};
use bytes::Bytes;
use std::io;
use std::path::Path;

/// Damage: of what, where, and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Bad<'a> {
    /// The file.
    pub file: &'a str,
    /// At which byte.
    pub at: u64,
    /// How many bytes; none of a file that is missing.
    pub bytes: u64,
    /// What is wrong.
    pub what: &'a str,
    /// Where the next good record begins.
    pub next: Option<u64>,
}

/// Who is shown around.
pub trait Visitor {
    /// A segment begins. Without a header it is damaged from its first byte on, which is told as well.
    fn segment(&mut self, segment: &Segment, header: Option<&SegmentHeader>, bytes: &Bytes) -> io::Result<()>;
    /// What stands in it next.
    fn finding(&mut self, segment: &Segment, finding: Finding) -> io::Result<()>;
    /// What is no good, or not there.
    fn bad(&mut self, bad: Bad<'_>) -> io::Result<()>;
}

/// The walk.
#[derive(Debug, Default)]
pub struct Tour {
    /// The number of the batch that should follow, where it is known.
    batch: Option<u64>,
    reach: Reach,
    /// Whether a running node has released a segment since we looked which there are.
    released: bool,
}

impl Tour {
    /// Through a segment, the segments in a directory, or a data directory's; says which number the last
    /// one has, and where its records end.
    pub fn through(&mut self, path: &Path, files: &Files, visitor: &mut dyn Visitor) -> anyhow::Result<(u64, u64)> {
        let single = path.is_file();
        let segments = &files.segments;
        let mut stop = (0, 0);
        self.released = false;
        for (at, segment) in segments.iter().enumerate() {
            if at.checked_sub(1).is_none_or(|before| segments[before].number + 1 != segment.number) {
                self.reach.begin(segment.number);
                self.batch = None;
            }
            let successors: Vec<u64> = match single {
                true => vec![segment.number + 1],
                false => segments[at + 1..].iter().map(|segment| segment.number).collect(),
            };
            let last = !single && at + 1 == segments.len();
            stop = self.segment(segment, files, &successors, last, visitor)?;
        }
        // Of a log that gets shorter while we look at it we have not seen enough.
        if !single && !segments.is_empty() && !self.released {
            self.beginning(path, visitor)?;
        }
        Ok(stop)
    }

    /// Whether a segment was released before all of it was seen: what was seen may have a gap.
    pub fn released_meanwhile(&self) -> bool {
        self.released
    }

    /// Whether all is there that the log needs before what is left of it.
    fn beginning(&self, path: &Path, visitor: &mut dyn Visitor) -> anyhow::Result<()> {
        let base = self.reach.base();
        let missing = |file: &str, what: &str, visitor: &mut dyn Visitor| {
            visitor.bad(Bad { file, at: 0, bytes: 0, what, next: None })
        };
        if let Some(number) = self.reach.missing() {
            missing(&format::file_name(number), "missing, and it was not released", visitor)?;
        } else if path.join("wal").is_dir() && base > Index::ZERO && !reaches(path, base)? {
            let what = format!("missing: the log begins behind {base}, and none that is whole reaches so far");
            missing("snapshots", &what, visitor)?;
        }
        Ok(())
    }

    /// One segment; says its number and where its records end.
    fn segment(
        &mut self,
        segment: &Segment,
        files: &Files,
        successors: &[u64],
        last: bool,
        visitor: &mut dyn Visitor,
    ) -> anyhow::Result<(u64, u64)> {
        let Some(bytes) = read(&segment.path)? else { return Ok(self.released(segment)) };
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => Some(header),
            Err(malformed) => {
                visitor.segment(segment, None, &bytes)?;
                let size = format::SEGMENT_HEADER as u64;
                let (file, what) = (segment.name.as_str(), malformed.0);
                visitor.bad(Bad { file, at: 0, bytes: size, what, next: Some(size) })?;
                None
            }
        };
        // Of a damaged header's segment the salt is still known, if a neighbour tells the disk.
        let Some(disk) = header.map(|header| header.disk).or_else(|| files.disk()) else {
            return Ok((segment.number, 0));
        };
        let salt = format::salt(disk, segment.number);
        let followed = successors.iter().any(|next| files.in_use(*next, disk));
        let place = files.synced(disk);
        let around = match &header {
            Some(header) => Surroundings::of(header, place, followed),
            None => Surroundings { followed, ..Surroundings::default() },
        };
        let batch = if segment.number == 1 { Some(1) } else { self.batch };
        let around = Surroundings { batch, ..around };
        let Some(bytes) = settle(bytes, &segment.path, salt, around)? else { return Ok(self.released(segment)) };
        if let Some(header) = &header {
            visitor.segment(segment, Some(header), &bytes)?;
        }
        let mut inspection = Inspection::new(bytes, salt, around);
        for finding in inspection.by_ref() {
            if let Finding::Record(frame) = &finding {
                self.reach.sees(segment.number, frame);
            }
            visitor.finding(segment, finding)?;
        }
        let (sealed, end) = (inspection.sealed(), inspection.at());
        self.batch = inspection.batch();
        let synced = place.filter(|place| place.segment > segment.number && !followed);
        let missing = match sealed && !files.is_there(segment.number + 1) {
            true => Some((segment.number + 1, "missing, and it was named as the successor")),
            false => synced.map(|place| (place.segment, "missing, and it was synced")),
        };
        // They go oldest first: while this one is there, those behind it are, or are lost.
        if let Some((number, what)) = missing.filter(|_| last) {
            match files.is_there(segment.number) {
                true => visitor.bad(Bad { file: &format::file_name(number), at: 0, bytes: 0, what, next: None })?,
                false => self.released = true,
            }
        }
        Ok((segment.number, end))
    }

    /// That segment is not there any more: it was released, and all before it.
    fn released(&mut self, segment: &Segment) -> (u64, u64) {
        (self.released, self.batch) = (true, None);
        (segment.number, 0)
    }
}
