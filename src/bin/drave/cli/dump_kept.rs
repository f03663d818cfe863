//! `drave dump --why-kept`: each segment of a journal, and why it is still stored, as far as the files show.

use super::dump_args::{Dump, Output};
use bytes::Bytes;
use bytesize::ByteSize;
use drave::inspect::files::{Files, read};
use drave::inspect::snapshots::snapshots_at;
use drave::types::Index;
use drave::wal::format::{EntryHead, Opening, RecordKind, SegmentHeader, read_base};
use drave::wal::scan::{Scan, ScanItem};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

/// Why a segment is still stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RetentionReason {
    /// It is the active segment.
    Newest,
    /// It holds entries that no snapshot covers.
    NotInSnapshot,
    /// A snapshot covers all of it; it is kept for followers.
    Trailing,
    /// It is not needed, but an older segment is, and segments are deleted oldest first.
    Behind,
    /// The journal has released it, and it was about to be deleted.
    Released,
    /// Its content is unknown.
    Damaged,
}

struct Segment {
    name: String,
    bytes: u64,
    /// The first and the last entry in it that are still part of the log.
    live: Option<(Index, Index)>,
    damaged: bool,
}

/// The segments at a path.
struct SegmentRun {
    segments: Vec<Segment>,
    /// The index up to which the journal has released entries.
    released: Index,
    /// The index of the newest intact snapshot.
    snapshot: Index,
}

impl RetentionReason {
    fn name(self) -> &'static str {
        match self {
            RetentionReason::Newest => "newest",
            RetentionReason::NotInSnapshot => "not_in_snapshot",
            RetentionReason::Trailing => "trailing",
            RetentionReason::Behind => "behind",
            RetentionReason::Released => "released",
            RetentionReason::Damaged => "damaged",
        }
    }

    /// Whether a start does not need it.
    fn reclaimable(self) -> bool {
        matches!(self, RetentionReason::Trailing | RetentionReason::Behind | RetentionReason::Released)
    }

    fn explain(self, snapshot: Index) -> String {
        match self {
            RetentionReason::Newest => "the newest: it is written to".to_owned(),
            RetentionReason::NotInSnapshot if snapshot == Index::ZERO => "there is no snapshot".to_owned(),
            RetentionReason::NotInSnapshot => format!("the snapshot ends at {snapshot}"),
            RetentionReason::Trailing => {
                "for followers: --trailing-bytes, or one is being sent a snapshot (drave status tells)".to_owned()
            }
            RetentionReason::Behind => "an older one is kept, and they go oldest first".to_owned(),
            RetentionReason::Released => "released: it goes when the log next gives way".to_owned(),
            RetentionReason::Damaged => "its header is damaged: drave dump --check".to_owned(),
        }
    }
}

impl SegmentRun {
    fn at(path: &Path) -> anyhow::Result<SegmentRun> {
        // Snapshots are read first: a segment that is released meanwhile is covered by a snapshot at least as new.
        let whole = snapshots_at(path)?.into_iter().filter(|found| found.flaw().is_none());
        let snapshot = whole.filter_map(|found| found.position).map(|position| position.index).max();
        let mut kept =
            SegmentRun { segments: Vec::new(), released: Index::ZERO, snapshot: snapshot.unwrap_or(Index::ZERO) };
        let files = Files::at(path)?;
        for segment in &files.segments {
            // A segment that a running node has released meanwhile is not kept.
            if let Some(bytes) = read(&segment.path)? {
                kept.segment(&segment.name, bytes);
            }
        }
        anyhow::ensure!(!kept.segments.is_empty(), "{}: no segments here (files named 0000000001.wal)", path.display());
        Ok(kept)
    }

    fn segment(&mut self, name: &str, bytes: Bytes) {
        let header = SegmentHeader::decode(&bytes);
        let (size, damaged) = (bytes.len() as u64, header.is_err());
        self.segments.push(Segment { name: name.to_owned(), bytes: size, live: None, damaged });
        let Ok(header) = header else { return };
        for item in Scan::new(bytes, header.salt(), None) {
            let ScanItem::Frame(frame) = item else { continue };
            match frame.kind {
                RecordKind::Open => {
                    if let Ok(opening) = Opening::read(&frame.body) {
                        self.released = opening.base.position.index;
                    }
                }
                RecordKind::Base | RecordKind::Release => {
                    let Ok(base) = read_base(&frame.body) else { continue };
                    self.released = base.position.index;
                    if frame.kind == RecordKind::Base {
                        // The log restarts: no earlier entry is part of it.
                        self.segments.iter_mut().for_each(|segment| segment.live = None);
                    }
                }
                RecordKind::Entry => {
                    let Ok(head) = EntryHead::read(&frame.body) else { continue };
                    self.entry(head.position.index);
                }
                RecordKind::Batch | RecordKind::Hard | RecordKind::Seal => {}
            }
        }
    }

    /// Adds an entry: entries at its index and after it are no longer part of the log.
    fn entry(&mut self, index: Index) {
        for segment in &mut self.segments {
            segment.live = segment.live.filter(|(first, _)| *first < index);
            segment.live = segment.live.map(|(first, last)| (first, last.min(index.prev())));
        }
        if let Some(segment) = self.segments.last_mut() {
            let first = segment.live.map_or(index, |(first, _)| first);
            segment.live = Some((first, index));
        }
    }

    /// Why each segment is stored, oldest first.
    fn why(&self) -> Vec<RetentionReason> {
        let mut why = Vec::new();
        for (at, segment) in self.segments.iter().enumerate() {
            let needed = |why: &RetentionReason| !matches!(why, RetentionReason::Released);
            why.push(match segment.live {
                _ if at + 1 == self.segments.len() => RetentionReason::Newest,
                _ if segment.damaged => RetentionReason::Damaged,
                Some((_, last)) if last > self.snapshot => RetentionReason::NotInSnapshot,
                Some((_, last)) if last > self.released => RetentionReason::Trailing,
                _ if why.iter().any(needed) => RetentionReason::Behind,
                _ => RetentionReason::Released,
            });
        }
        why
    }
}

/// Prints the segments of each path. Returns the exit code: 5 if a segment's content is unknown.
pub fn why_kept(args: &Dump, out: &mut dyn Write) -> anyhow::Result<i32> {
    let mut code = 0;
    for path in &args.paths {
        let kept = SegmentRun::at(path)?;
        let why = kept.why();
        match args.output {
            Output::Text => text(out, &kept, &why)?,
            Output::Jsonl => jsonl(out, &kept, &why)?,
        }
        if why.contains(&RetentionReason::Damaged) || kept.segments.iter().any(|segment| segment.damaged) {
            code = 5;
        }
    }
    Ok(code)
}

/// The bytes that the next release can free at most, and the bytes of all segments: the oldest are deleted first.
fn sums(kept: &SegmentRun, why: &[RetentionReason]) -> (u64, u64) {
    let oldest = kept.segments.iter().zip(why).take_while(|(_, why)| why.reclaimable());
    (oldest.map(|(segment, _)| segment.bytes).sum(), kept.segments.iter().map(|segment| segment.bytes).sum())
}

fn text(out: &mut dyn Write, kept: &SegmentRun, why: &[RetentionReason]) -> io::Result<()> {
    let size = |bytes| ByteSize(bytes).display().iec().to_string();
    writeln!(out, "# segment              size       first        last  kept because")?;
    for (segment, why) in kept.segments.iter().zip(why) {
        let index = |index: Option<Index>| index.map_or("-".to_owned(), |index| index.to_string());
        let (first, last) = (segment.live.map(|live| live.0), segment.live.map(|live| live.1));
        let (first, last) = (index(first), index(last));
        let says = why.explain(kept.snapshot);
        writeln!(out, "{:<16}  {:>9}  {first:>10}  {last:>10}  {says}", segment.name, size(segment.bytes))?;
    }
    let (reclaimable, total) = sums(kept, why);
    let (count, snapshot) = (kept.segments.len(), kept.snapshot);
    let (reclaimable, total) = (size(reclaimable), size(total));
    writeln!(out, "# reclaimable {reclaimable} of {total} in {count} segments · snapshot up to {snapshot}")
}

fn jsonl(out: &mut dyn Write, kept: &SegmentRun, why: &[RetentionReason]) -> io::Result<()> {
    for (segment, why) in kept.segments.iter().zip(why) {
        let (first, last) = (segment.live.map(|live| live.0.0), segment.live.map(|live| live.1.0));
        let says = why.explain(kept.snapshot);
        let line = json!({
            "k": "kept", "file": segment.name, "bytes": segment.bytes, "first": first, "last": last,
            "why": why.name(), "says": says, "reclaimable": why.reclaimable(),
        });
        writeln!(out, "{line}")?;
    }
    let (reclaimable, total) = sums(kept, why);
    let (count, snapshot) = (kept.segments.len(), kept.snapshot.0);
    let line = json!({
        "k": "reclaimable", "bytes": reclaimable, "of": total, "segments": count, "snapshot": snapshot,
        "released": kept.released.0,
    });
    writeln!(out, "{line}")
}
