//! A walk through the segments at a path, while a node may be writing them: reports the records, the damage, and
//! segments that are missing although the log needs them.

use super::files::{Files, Segment, read, reread_if_damaged};
use super::log_start::LogStart;
use super::snapshots::reaches;
use crate::types::Index;
use crate::wal::batches::Continuation;
use crate::wal::format::{self, SegmentHeader};
use crate::wal::inspect::{Finding, Inspection};
use crate::wal::tail::Surroundings;
use bytes::Bytes;
use std::io;
use std::path::Path;

/// Damage in a file.
#[derive(Clone, Copy, Debug)]
pub struct Damage<'a> {
    /// The file's name.
    pub file: &'a str,
    /// The byte offset.
    pub at: u64,
    /// The number of damaged bytes; 0 for a missing file.
    pub bytes: u64,
    /// What is wrong.
    pub what: &'a str,
    /// The offset of the next valid record.
    pub next: Option<u64>,
}

/// The receiver of a walk's findings.
pub trait Visitor {
    /// A segment begins. Without a header it is damaged from its first byte on, and [`Visitor::bad`] is called too.
    fn segment(&mut self, segment: &Segment, header: Option<&SegmentHeader>, bytes: &Bytes) -> io::Result<()>;
    /// The next finding in the segment.
    fn finding(&mut self, segment: &Segment, finding: Finding) -> io::Result<()>;
    /// Damage, or a missing file.
    fn bad(&mut self, bad: Damage<'_>) -> io::Result<()>;
}

/// Where a segment is among those in a directory.
#[derive(Clone, Copy)]
struct SegmentOrder {
    /// Whether all segments before it were released.
    oldest: bool,
    /// Whether it is the newest.
    last: bool,
}

/// The state of a walk.
#[derive(Debug, Default)]
pub struct SegmentWalk {
    /// What the segments so far show of the next one.
    before: Continuation,
    reach: LogStart,
    /// Whether a running node has released a segment since the segments were listed.
    released: bool,
}

impl SegmentWalk {
    /// Walks through a segment, the segments in a directory, or those of a data directory. Returns the number of the
    /// last segment, and the offset where its records end.
    pub fn walk(&mut self, path: &Path, files: &Files, visitor: &mut dyn Visitor) -> anyhow::Result<(u64, u64)> {
        let single = path.is_file();
        let segments = &files.segments;
        let mut stop = (0, 0);
        self.released = false;
        for (at, segment) in segments.iter().enumerate() {
            let oldest = at.checked_sub(1).is_none_or(|before| segments[before].number + 1 != segment.number);
            if oldest {
                self.reach.begin(segment.number);
                self.before = Continuation::before(segment.number);
            }
            let successors: Vec<u64> = match single {
                true => vec![segment.number + 1],
                false => segments[at + 1..].iter().map(|segment| segment.number).collect(),
            };
            // What a single file shows of its beginning and end depends on its neighbours.
            let ends = SegmentOrder {
                oldest: oldest && !single && segment.number != 1,
                last: !single && at + 1 == segments.len(),
            };
            stop = self.segment(segment, files, &successors, ends, visitor)?;
        }
        // A log whose segments are released during the walk has not been seen completely.
        if !single && !segments.is_empty() && !self.released {
            self.beginning(path, visitor)?;
        }
        Ok(stop)
    }

    /// Whether a segment was released before all of it was read: there may be a gap in the findings.
    pub fn released_meanwhile(&self) -> bool {
        self.released
    }

    /// Checks that everything exists that the log needs before its first segment.
    fn beginning(&self, path: &Path, visitor: &mut dyn Visitor) -> anyhow::Result<()> {
        let base = self.reach.base();
        let missing = |file: &str, what: &str, visitor: &mut dyn Visitor| {
            visitor.bad(Damage { file, at: 0, bytes: 0, what, next: None })
        };
        if let Some(number) = self.reach.missing() {
            missing(&format::file_name(number), "missing, and it was not released", visitor)?;
        } else if path.join("wal").is_dir() && base > Index::ZERO && !reaches(path, base)? {
            let what = format!("missing: the log begins behind {base}, and none that is whole reaches so far");
            missing("snapshots", &what, visitor)?;
        }
        Ok(())
    }

    /// Walks through one segment. Returns its number, and the offset where its records end.
    fn segment(
        &mut self,
        segment: &Segment,
        files: &Files,
        successors: &[u64],
        ends: SegmentOrder,
        visitor: &mut dyn Visitor,
    ) -> anyhow::Result<(u64, u64)> {
        let Some(bytes) = read(&segment.path)? else { return Ok(self.released(segment)) };
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => Some(header),
            Err(malformed) => {
                visitor.segment(segment, None, &bytes)?;
                let size = format::SEGMENT_HEADER as u64;
                let (file, what) = (segment.name.as_str(), malformed.0);
                visitor.bad(Damage { file, at: 0, bytes: size, what, next: Some(size) })?;
                None
            }
        };
        // The salt of a segment with a damaged header is still known if another segment names the disk.
        let Some(disk) = header.map(|header| header.disk).or_else(|| files.disk()) else {
            return Ok((segment.number, 0));
        };
        let salt = format::salt(disk, segment.number);
        let followed = successors.iter().any(|next| files.in_use(*next, disk));
        let place = files.synced(disk);
        let around = match &header {
            Some(header) => Surroundings::of(header, place, followed),
            None => Surroundings { number: segment.number, followed, ..Surroundings::default() }.with_synced(place),
        };
        let around = Surroundings { oldest: ends.oldest, ..around };
        let Some(bytes) = reread_if_damaged(bytes, &segment.path, salt, around, &self.before)? else {
            return Ok(self.released(segment));
        };
        if let Some(header) = &header {
            visitor.segment(segment, Some(header), &bytes)?;
        }
        let mut inspection = Inspection::new(bytes, salt, around, std::mem::take(&mut self.before));
        for finding in inspection.by_ref() {
            if let Finding::Record(frame) = &finding {
                self.reach.add_record(segment.number, frame);
            }
            visitor.finding(segment, finding)?;
        }
        let (sealed, end) = (inspection.sealed(), inspection.at());
        // A running node may have written to this segment since it was read, and sealed it before the next one is read.
        self.before = if sealed { inspection.continuation() } else { Continuation::default() };
        let synced = place.filter(|place| place.segment > segment.number && !followed);
        let missing = match sealed && !files.is_there(segment.number + 1) {
            true => Some((segment.number + 1, "missing, and it was named as the successor")),
            false => synced.map(|place| (place.segment, "missing, and it was synced")),
        };
        // Segments are released oldest first: while this one exists, a later one that is missing is lost.
        if let Some((number, what)) = missing.filter(|_| ends.last) {
            match files.is_there(segment.number) {
                true => visitor.bad(Damage { file: &format::file_name(number), at: 0, bytes: 0, what, next: None })?,
                false => self.released = true,
            }
        }
        Ok((segment.number, end))
    }

    /// Notes that the segment was released, and all before it.
    fn released(&mut self, segment: &Segment) -> (u64, u64) {
        (self.released, self.before) = (true, Continuation::default());
        (segment.number, 0)
    }
}
