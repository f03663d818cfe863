//! `drave dump --why-kept`: each segment of a journal, and why it is still stored, as far as the files show.

use super::dump_args::{Dump, DumpFormat};
use bytes::Bytes;
use bytesize::ByteSize;
use drave::inspect::files::{JournalFiles, read};
use drave::inspect::snapshots::snapshots_at;
use drave::types::Index;
use drave::wal::format::{EntryMetadata, Opening, RecordKind, SegmentHeader, decode_base};
use drave::wal::scan::{Scan, ScanItem};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

/// Why a segment is still stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RetentionReason {
    /// The segment is the last one, to which the journal appends.
    Active,
    /// The segment holds entries that no snapshot covers.
    NotInSnapshot,
    /// A snapshot covers the segment, which is kept for followers that lag.
    KeptForFollowers,
    /// The segment is not needed, but an older one is, and segments are deleted oldest first.
    OlderSegmentIsKept,
    /// The journal has released the segment, and deletes it at the next release of entries.
    Released,
    /// The header is damaged, so that the content is unknown.
    HeaderDamaged,
}

/// A segment file of the journal, and the entries in it that are still part of the log.
struct RetainedSegment {
    name: String,
    bytes: u64,
    /// The indexes of the first and the last entry of the segment that are still part of the log; `None` if there are
    /// none.
    live_index_range: Option<(Index, Index)>,
    is_header_damaged: bool,
}

/// The segments of the journal at a path, oldest first.
struct JournalSegments {
    segments: Vec<RetainedSegment>,
    /// The index up to which the journal has released entries.
    released_index: Index,
    /// The index of the newest intact snapshot; zero if there is none.
    snapshot_index: Index,
}

impl RetentionReason {
    /// The name in JSON, such as `not_in_snapshot`.
    fn name(self) -> &'static str {
        match self {
            RetentionReason::Active => "newest",
            RetentionReason::NotInSnapshot => "not_in_snapshot",
            RetentionReason::KeptForFollowers => "trailing",
            RetentionReason::OlderSegmentIsKept => "behind",
            RetentionReason::Released => "released",
            RetentionReason::HeaderDamaged => "damaged",
        }
    }

    /// Whether a node could start and run without the segment.
    fn is_reclaimable(self) -> bool {
        matches!(
            self,
            RetentionReason::KeptForFollowers | RetentionReason::OlderSegmentIsKept | RetentionReason::Released
        )
    }

    /// The text for the column "kept because".
    fn explain(self, snapshot_index: Index) -> String {
        match self {
            RetentionReason::Active => "the newest: it is written to".to_owned(),
            RetentionReason::NotInSnapshot if snapshot_index == Index::ZERO => "there is no snapshot".to_owned(),
            RetentionReason::NotInSnapshot => format!("the snapshot ends at {snapshot_index}"),
            RetentionReason::KeptForFollowers => {
                "for followers: --trailing-bytes, or one is being sent a snapshot (drave status tells)".to_owned()
            }
            RetentionReason::OlderSegmentIsKept => "an older one is kept, and they go oldest first".to_owned(),
            RetentionReason::Released => "released: it goes when the log next gives way".to_owned(),
            RetentionReason::HeaderDamaged => "its header is damaged: drave dump --check".to_owned(),
        }
    }
}

impl JournalSegments {
    fn read(path: &Path) -> anyhow::Result<JournalSegments> {
        // Snapshots are read before the segments: a segment that a running node releases in between is then covered by
        // one of these snapshots or by a newer one.
        let intact_snapshots = snapshots_at(path)?.into_iter().filter(|file| file.find_flaw().is_none());
        let newest_snapshot_index =
            intact_snapshots.filter_map(|file| file.position).map(|position| position.index).max();
        let mut journal = JournalSegments {
            segments: Vec::new(),
            released_index: Index::ZERO,
            snapshot_index: newest_snapshot_index.unwrap_or(Index::ZERO),
        };
        let files = JournalFiles::find_at(path)?;
        for segment in &files.segments {
            // A running node may have deleted the segment since the directory was listed.
            if let Some(bytes) = read(&segment.path)? {
                journal.add_segment(&segment.name, bytes);
            }
        }
        anyhow::ensure!(
            !journal.segments.is_empty(),
            "{}: no segments here (files named 0000000001.wal)",
            path.display()
        );
        Ok(journal)
    }

    /// Adds the next segment, and applies its records to the state of the log.
    fn add_segment(&mut self, name: &str, bytes: Bytes) {
        let header = SegmentHeader::decode(&bytes);
        let (size, is_header_damaged) = (bytes.len() as u64, header.is_err());
        self.segments.push(RetainedSegment {
            name: name.to_owned(),
            bytes: size,
            live_index_range: None,
            is_header_damaged,
        });
        let Ok(header) = header else { return };
        for item in Scan::new(bytes, header.salt(), None) {
            let ScanItem::Frame(frame) = item else { continue };
            match frame.kind {
                RecordKind::Open => {
                    if let Ok(opening) = Opening::decode(&frame.body) {
                        self.released_index = opening.base.position.index;
                    }
                }
                RecordKind::Base | RecordKind::Release => {
                    let Ok(base) = decode_base(&frame.body) else { continue };
                    self.released_index = base.position.index;
                    if frame.kind == RecordKind::Base {
                        // The log begins anew at `base`: entries in earlier records are no longer part of it.
                        self.segments.iter_mut().for_each(|segment| segment.live_index_range = None);
                    }
                }
                RecordKind::Entry => {
                    let Ok(metadata) = EntryMetadata::decode(&frame.body) else { continue };
                    self.add_entry(metadata.position.index);
                }
                RecordKind::Batch | RecordKind::HardState | RecordKind::Seal => {}
            }
        }
    }

    /// Adds an entry at `index` to the last segment. Earlier entries from `index` on are no longer part of the log.
    fn add_entry(&mut self, index: Index) {
        for segment in &mut self.segments {
            segment.live_index_range = segment.live_index_range.filter(|(first, _)| *first < index);
            segment.live_index_range = segment.live_index_range.map(|(first, last)| (first, last.min(index.prev())));
        }
        if let Some(segment) = self.segments.last_mut() {
            let first = segment.live_index_range.map_or(index, |(first, _)| first);
            segment.live_index_range = Some((first, index));
        }
    }

    /// The reason why each segment is stored, oldest first.
    fn retention_reasons(&self) -> Vec<RetentionReason> {
        let mut reasons = Vec::new();
        for (segment_index, segment) in self.segments.iter().enumerate() {
            let is_retained = |reason: &RetentionReason| !matches!(reason, RetentionReason::Released);
            reasons.push(match segment.live_index_range {
                _ if segment_index + 1 == self.segments.len() => RetentionReason::Active,
                _ if segment.is_header_damaged => RetentionReason::HeaderDamaged,
                Some((_, last)) if last > self.snapshot_index => RetentionReason::NotInSnapshot,
                Some((_, last)) if last > self.released_index => RetentionReason::KeptForFollowers,
                _ if reasons.iter().any(is_retained) => RetentionReason::OlderSegmentIsKept,
                _ => RetentionReason::Released,
            });
        }
        reasons
    }
}

/// Prints the segments of each path. Returns the exit code: 5 if a segment's content is unknown.
pub fn print_retention(args: &Dump, out: &mut dyn Write) -> anyhow::Result<i32> {
    let mut exit_code = 0;
    for path in &args.paths {
        let journal = JournalSegments::read(path)?;
        let reasons = journal.retention_reasons();
        match args.output {
            DumpFormat::Text => print_retention_text(out, &journal, &reasons)?,
            DumpFormat::Jsonl => print_retention_jsonl(out, &journal, &reasons)?,
        }
        if reasons.contains(&RetentionReason::HeaderDamaged)
            || journal.segments.iter().any(|segment| segment.is_header_damaged)
        {
            exit_code = 5;
        }
    }
    Ok(exit_code)
}

/// The bytes that the next release can free at most, and the bytes of all segments. Segments are deleted oldest first,
/// so a segment that is needed keeps all newer segments.
fn reclaimable_and_total_bytes(journal: &JournalSegments, reasons: &[RetentionReason]) -> (u64, u64) {
    let reclaimable_segments = journal.segments.iter().zip(reasons).take_while(|(_, reason)| reason.is_reclaimable());
    (
        reclaimable_segments.map(|(segment, _)| segment.bytes).sum(),
        journal.segments.iter().map(|segment| segment.bytes).sum(),
    )
}

fn print_retention_text(out: &mut dyn Write, journal: &JournalSegments, reasons: &[RetentionReason]) -> io::Result<()> {
    let format_size = |bytes| ByteSize(bytes).display().iec().to_string();
    writeln!(out, "# segment              size       first        last  kept because")?;
    for (segment, reason) in journal.segments.iter().zip(reasons) {
        let index_text = |index: Option<Index>| index.map_or("-".to_owned(), |index| index.to_string());
        let (first, last) = (segment.live_index_range.map(|live| live.0), segment.live_index_range.map(|live| live.1));
        let (first, last) = (index_text(first), index_text(last));
        let explanation = reason.explain(journal.snapshot_index);
        writeln!(
            out,
            "{:<16}  {:>9}  {first:>10}  {last:>10}  {explanation}",
            segment.name,
            format_size(segment.bytes)
        )?;
    }
    let (reclaimable, total) = reclaimable_and_total_bytes(journal, reasons);
    let (count, snapshot) = (journal.segments.len(), journal.snapshot_index);
    let (reclaimable, total) = (format_size(reclaimable), format_size(total));
    writeln!(out, "# reclaimable {reclaimable} of {total} in {count} segments · snapshot up to {snapshot}")
}

fn print_retention_jsonl(
    out: &mut dyn Write,
    journal: &JournalSegments,
    reasons: &[RetentionReason],
) -> io::Result<()> {
    for (segment, reason) in journal.segments.iter().zip(reasons) {
        let (first, last) =
            (segment.live_index_range.map(|live| live.0.0), segment.live_index_range.map(|live| live.1.0));
        let explanation = reason.explain(journal.snapshot_index);
        let line = json!({
            "k": "kept", "file": segment.name, "bytes": segment.bytes, "first": first, "last": last,
            "why": reason.name(), "says": explanation, "reclaimable": reason.is_reclaimable(),
        });
        writeln!(out, "{line}")?;
    }
    let (reclaimable, total) = reclaimable_and_total_bytes(journal, reasons);
    let (count, snapshot) = (journal.segments.len(), journal.snapshot_index.0);
    let line = json!({
        "k": "reclaimable", "bytes": reclaimable, "of": total, "segments": count, "snapshot": snapshot,
        "released": journal.released_index.0,
    });
    writeln!(out, "{line}")
}
