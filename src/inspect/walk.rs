//! Walks through the segments at a path in order, while a node may be writing them. Reports to a [`Visitor`] the
//! records, the damage, and segments that are missing although the log needs them.

use super::files::{JournalFiles, Segment, read, reread_if_damaged};
use super::log_start::LogStart;
use super::snapshots::has_snapshot_upto;
use crate::types::Index;
use crate::wal::batches::ReaderState;
use crate::wal::format::{self, SegmentHeader};
use crate::wal::inspect::{Finding, Inspection};
use crate::wal::tail::SegmentContext;
use bytes::Bytes;
use std::io;
use std::path::Path;

/// A damaged range of a segment, or a missing file.
#[derive(Clone, Copy, Debug)]
pub struct Damage<'a> {
    /// The name of the damaged or missing file; `snapshots` if the log needs a snapshot that does not exist.
    pub file: &'a str,
    /// The offset of the first damaged byte.
    pub at: u64,
    /// The number of damaged bytes; 0 for a missing file.
    pub bytes: u64,
    /// The kind of damage, as text for the operator.
    pub description: &'a str,
    /// The offset of the next valid record; `None` if none follows in the file.
    pub next_record: Option<u64>,
}

impl<'a> Damage<'a> {
    fn missing_file(file: &'a str, description: &'a str) -> Damage<'a> {
        Damage { file, at: 0, bytes: 0, description, next_record: None }
    }
}

/// The receiver of a walk's findings.
pub trait Visitor {
    /// Called when a segment begins. `header` is `None` if the header is damaged; then [`Visitor::visit_damage`] is
    /// called too.
    fn visit_segment(&mut self, segment: &Segment, header: Option<&SegmentHeader>, bytes: &Bytes) -> io::Result<()>;
    /// Called for each record, torn batch or damaged range of the segment, in the order of their offsets.
    fn visit_finding(&mut self, segment: &Segment, finding: Finding) -> io::Result<()>;
    /// Called for damage that is not a [`Finding`]: a damaged header, or a missing file.
    fn visit_damage(&mut self, damage: Damage<'_>) -> io::Result<()>;
}

/// Where a segment is among the segments of a directory.
#[derive(Clone, Copy)]
struct SegmentPlacement {
    /// Whether all earlier segments were released.
    is_oldest: bool,
    /// Whether no later segment exists.
    is_newest: bool,
}

/// A walk through the segments of a journal, and whether it was complete.
#[derive(Debug, Default)]
pub struct SegmentWalk {
    /// The state of the reader at the end of the previous segment, with which the next segment is compared.
    next_reader_state: ReaderState,
    log_start: LogStart,
    /// Whether a running node has released a segment since the segments were listed.
    segment_released: bool,
}

impl SegmentWalk {
    /// Walks through the segments in `files`, which were found at `path`. Returns the number of the last segment and
    /// the offset where its records end.
    pub fn walk(&mut self, path: &Path, files: &JournalFiles, visitor: &mut dyn Visitor) -> anyhow::Result<(u64, u64)> {
        let is_single_file = path.is_file();
        let segments = &files.segments;
        let mut last_segment_end = (0, 0);
        self.segment_released = false;
        for (at, segment) in segments.iter().enumerate() {
            let is_oldest = at.checked_sub(1).is_none_or(|before| segments[before].number + 1 != segment.number);
            if is_oldest {
                self.log_start.start_at(segment.number);
                self.next_reader_state = ReaderState::before_segment(segment.number);
            }
            let successors: Vec<u64> = match is_single_file {
                true => vec![segment.number + 1],
                false => segments[at + 1..].iter().map(|segment| segment.number).collect(),
            };
            // If only one file is walked, nothing is known about the segments before and after.
            let placement = SegmentPlacement {
                is_oldest: is_oldest && !is_single_file && segment.number != 1,
                is_newest: !is_single_file && at + 1 == segments.len(),
            };
            last_segment_end = self.walk_segment(segment, files, &successors, placement, visitor)?;
        }
        // If segments were released during the walk, the walk has not read the whole log.
        if !is_single_file && !segments.is_empty() && !self.segment_released {
            self.check_log_start(path, visitor)?;
        }
        Ok(last_segment_end)
    }

    /// Whether a segment was released before all of it was read: there may be a gap in the findings.
    pub fn segment_released(&self) -> bool {
        self.segment_released
    }

    /// Checks that all segments before the first one were released, and that a snapshot contains their entries.
    fn check_log_start(&self, path: &Path, visitor: &mut dyn Visitor) -> anyhow::Result<()> {
        let base = self.log_start.base();
        if let Some(number) = self.log_start.missing_segment() {
            let file_name = format::file_name(number);
            visitor.visit_damage(Damage::missing_file(&file_name, "missing, and it was not released"))?;
        } else if path.join("wal").is_dir() && base > Index::ZERO && !has_snapshot_upto(path, base)? {
            let description = format!("missing: the log begins behind {base}, and none that is whole reaches so far");
            visitor.visit_damage(Damage::missing_file("snapshots", &description))?;
        }
        Ok(())
    }

    /// Walks through one segment. Returns its number, and the offset where its records end.
    fn walk_segment(
        &mut self,
        segment: &Segment,
        files: &JournalFiles,
        successors: &[u64],
        placement: SegmentPlacement,
        visitor: &mut dyn Visitor,
    ) -> anyhow::Result<(u64, u64)> {
        let Some(bytes) = read(&segment.path)? else { return Ok(self.mark_released(segment)) };
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => Some(header),
            Err(malformed) => {
                visitor.visit_segment(segment, None, &bytes)?;
                let header_bytes = format::SEGMENT_HEADER_BYTES as u64;
                let (file, description) = (segment.name.as_str(), malformed.0);
                visitor.visit_damage(Damage {
                    file,
                    at: 0,
                    bytes: header_bytes,
                    description,
                    next_record: Some(header_bytes),
                })?;
                None
            }
        };
        // The salt of a segment is derived from the disk id. If this header is damaged, another segment's header has
        // the same disk id.
        let Some(disk) = header.map(|header| header.disk).or_else(|| files.find_disk_id()) else {
            return Ok((segment.number, 0));
        };
        let salt = format::salt(disk, segment.number);
        let successor_in_use = successors.iter().any(|next| files.has_records(*next, disk));
        let synced_upto = files.synced_upto(disk);
        let context = match &header {
            Some(header) => SegmentContext::for_segment(header, synced_upto, successor_in_use),
            None => SegmentContext { segment_number: segment.number, successor_in_use, ..SegmentContext::default() }
                .with_sync_marker(synced_upto),
        };
        let context = SegmentContext { predecessors_released: placement.is_oldest, ..context };
        let Some(bytes) = reread_if_damaged(bytes, &segment.path, salt, context, &self.next_reader_state)? else {
            return Ok(self.mark_released(segment));
        };
        if let Some(header) = &header {
            visitor.visit_segment(segment, Some(header), &bytes)?;
        }
        let mut inspection = Inspection::new(bytes, salt, context, std::mem::take(&mut self.next_reader_state));
        for finding in inspection.by_ref() {
            if let Finding::Record(frame) = &finding {
                self.log_start.add_record(segment.number, frame);
            }
            visitor.visit_finding(segment, finding)?;
        }
        let (sealed, end) = (inspection.is_sealed(), inspection.offset());
        // If this segment is not sealed, a running node may write to it and seal it before the next one is read: then
        // the records read here imply nothing about the next segment.
        self.next_reader_state = if sealed { inspection.into_reader_state() } else { ReaderState::default() };
        let later_synced_end = synced_upto.filter(|place| place.segment > segment.number && !successor_in_use);
        let missing_segment = match sealed && !files.segment_exists(segment.number + 1) {
            true => Some((segment.number + 1, "missing, and it was named as the successor")),
            false => later_synced_end.map(|end| (end.segment, "missing, and it was synced")),
        };
        // The oldest segments are released first: while this segment exists, a missing later segment is lost.
        if let Some((number, description)) = missing_segment.filter(|_| placement.is_newest) {
            match files.segment_exists(segment.number) {
                true => visitor.visit_damage(Damage::missing_file(&format::file_name(number), description))?,
                false => self.segment_released = true,
            }
        }
        Ok((segment.number, end))
    }

    /// Records that the segment and all earlier ones were released. Returns the segment's number and offset 0.
    fn mark_released(&mut self, segment: &Segment) -> (u64, u64) {
        (self.segment_released, self.next_reader_state) = (true, ReaderState::default());
        (segment.number, 0)
    }
}
