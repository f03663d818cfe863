//! `drave dump`: prints journal segments and snapshots as text or JSON. It only reads: it takes no locks, writes
//! nothing, and does not stop at damage.

use super::dump_args::{Dump, DumpFormat};
use super::dump_retention::print_retention;
use crate::remote::failure::CliError;
use bytes::Bytes;
use drave::inspect::files::{JournalFiles, Segment, is_seal, read};
use drave::inspect::record::describe_record;
use drave::inspect::record_text::{Fields, RecordText, Style};
use drave::inspect::set_aside::find_set_aside_files;
use drave::inspect::snapshots::SNAPSHOT_EXTENSION;
use drave::inspect::walk::{Damage, SegmentWalk, Visitor};
use drave::types::Index;
use drave::wal::batches::ReaderState;
use drave::wal::format::{self, Flaw, Frame, RecordKind, SegmentHeader};
use drave::wal::identity::short_cluster_id;
use drave::wal::inspect::{Finding, Inspection};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::tail::SegmentContext;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The pause between two reads of `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// `drave dump`: prints to standard output, and exits with 5 if anything is damaged.
pub fn run(args: Dump) -> Result<(), CliError> {
    if let (Some(from), Some(to)) = (args.from_index, args.to_index)
        && from > to
    {
        let message = format!("--from {from} is greater than --to {to}: no entry is in this range");
        return Err(CliError { message, code: 2 });
    }
    match write_dump(args, &mut io::stdout().lock()) {
        Ok(0) => Ok(()),
        // The output describes the damage already: the exit code suffices.
        Ok(code) => std::process::exit(code),
        Err(error) => Err(error.into()),
    }
}

/// Prints the contents of the journal. Returns the exit code: 0, or 5 if anything is damaged.
fn write_dump(args: Dump, out: &mut dyn Write) -> anyhow::Result<i32> {
    let mut out = io::BufWriter::with_capacity(64 << 10, out);
    let outcome = if args.why_kept { print_retention(&args, &mut out) } else { dump_paths(&args, &mut out) };
    let outcome = outcome.and_then(|code| out.flush().map(|()| code).map_err(Into::into));
    match outcome {
        // The reader closed the pipe, as in `drave dump | head`.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {
            drop(out.into_parts());
            Ok(0)
        }
        outcome => outcome,
    }
}

fn dump_paths(args: &Dump, out: &mut dyn Write) -> anyhow::Result<i32> {
    let mut printer = DumpPrinter {
        args,
        out,
        totals: DumpTotals::default(),
        last_lines: VecDeque::new(),
        shown_record_count: 0,
        pending_heading: None,
        is_following: false,
        started_at: Instant::now(),
    };
    for path in &args.paths {
        printer.dump_path(path)?;
    }
    printer.finish()
}

/// Prints the segments and snapshots of the paths, and adds up the totals.
pub(super) struct DumpPrinter<'a> {
    pub(super) args: &'a Dump,
    pub(super) out: &'a mut dyn Write,
    pub(super) totals: DumpTotals,
    /// The last lines so far, which `--tail` prints at the end.
    last_lines: VecDeque<String>,
    /// The number of records printed or queued in `last_lines`.
    shown_record_count: u64,
    /// The heading of the current segment; `None` once the heading is printed.
    pending_heading: Option<String>,
    /// Whether the existing records are printed and `--follow` prints new ones, to which `--tail` does not apply.
    is_following: bool,
    /// The start of the command, from which the last line of the output counts the seconds.
    started_at: Instant,
}

/// What was counted in all segments and snapshots, for the last line of the output and for `--stats`.
#[derive(Default)]
pub(super) struct DumpTotals {
    pub(super) snapshot_count: u64,
    pub(super) chunk_count: u64,
    segment_count: u64,
    record_count: u64,
    index_range: Option<(Index, Index)>,
    term_range: Option<(u64, u64)>,
    pub(super) damage_count: u64,
    torn_batch_count: u64,
    pub(super) count_and_bytes_by_type: BTreeMap<&'static str, (u64, u64)>,
    batch_count: u64,
}

/// A record as a line of JSON.
#[derive(Serialize)]
struct RecordLine<'a> {
    #[serde(rename = "k")]
    line_kind: &'a str,
    file: &'a str,
    #[serde(rename = "off")]
    offset: u64,
    len: u64,
    #[serde(rename = "type")]
    record_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    batch: u32,
    crc: String,
    #[serde(rename = "ok")]
    is_intact: bool,
    #[serde(flatten)]
    fields: &'a Fields,
}

impl DumpPrinter<'_> {
    fn dump_path(&mut self, path: &Path) -> anyhow::Result<()> {
        let is_file = path.is_file();
        if is_file && path.extension().is_some_and(|extension| extension == SNAPSHOT_EXTENSION) {
            return self.print_snapshot_chunks(path);
        }
        let snapshot_count = if is_file { 0 } else { self.print_snapshots(path)? };
        let files = JournalFiles::find_at(path)?;
        if files.segments.is_empty() && snapshot_count == 0 {
            anyhow::bail!("{}: no segments here (files named 0000000001.wal)", path.display());
        }
        let journal_end = SegmentWalk::default().walk(path, &files, self)?;
        if !is_file {
            self.print_set_aside_files(path, &files)?;
        }
        if self.args.follow && self.out.flush().is_ok() {
            self.follow_records(&files, journal_end)?;
        }
        Ok(())
    }

    /// Prints a line for each file that a repair has set aside.
    fn print_set_aside_files(&mut self, path: &Path, files: &JournalFiles) -> io::Result<()> {
        for file in find_set_aside_files(path, files.find_disk_id())? {
            match self.args.output {
                DumpFormat::Text => writeln!(self.out, "# {file}")?,
                DumpFormat::Jsonl => self.print_json(&json!({
                    "k": "set_aside", "file": file.name, "segment": file.segment_number,
                    "first": file.readable_entries.map(|(first, _)| first.index.0),
                    "last": file.readable_entries.map(|(_, last)| last.index.0),
                }))?,
            }
        }
        Ok(())
    }

    /// Prints the heading of a segment. With a filter, the text waits in `pending_heading` until a record matches.
    fn print_segment_heading(&mut self, segment: &Segment, header: &SegmentHeader, bytes: &Bytes) -> io::Result<()> {
        let (mut first, mut sealed) = (None, false);
        for item in Scan::new(bytes.clone(), header.salt(), None) {
            let ScanItem::Frame(frame) = item else { continue };
            sealed |= frame.kind == RecordKind::Seal;
            if first.is_none() && frame.kind == RecordKind::Entry {
                first = format::EntryMetadata::decode(&frame.body).ok().map(|metadata| metadata.position.index.0);
            }
        }
        let (name, cluster) = (&segment.name, short_cluster_id(header.cluster));
        match self.args.output {
            DumpFormat::Text => {
                let first = first.map_or("-".to_owned(), |first| first.to_string());
                let mib = bytes.len() as f64 / (1 << 20) as f64;
                let sealed = if sealed { "sealed" } else { "open" };
                self.pending_heading = Some(format!(
                    "# segment {name} · node {} · cluster {cluster} · format {} · first entry {first} · {mib:.1} MiB · {sealed}\n\
                     #   offset     len  type    term       index  batch  crc       what",
                    header.node.get(),
                    format::FORMAT_VERSION,
                ));
                if self.args.has_filter() { Ok(()) } else { self.print_heading() }
            }
            DumpFormat::Jsonl => self.print_json(&json!({
                "k": "segment", "file": name, "node": header.node.get(), "cluster": cluster,
                "format": format::FORMAT_VERSION, "first": first, "size": bytes.len(), "sealed": sealed,
            })),
        }
    }

    fn print_finding(&mut self, file: &str, finding: Finding) -> io::Result<()> {
        match finding {
            Finding::Record(frame) => self.print_record(file, &frame),
            Finding::Damage { at, bytes, flaw, next_good_offset: next } => {
                let (stored, computed) = stored_and_computed_crc(flaw);
                match self.args.output {
                    DumpFormat::Text => {
                        self.visit_damage(Damage { file, at, bytes, description: &flaw.to_string(), next_record: next })
                    }
                    DumpFormat::Jsonl => {
                        self.totals.damage_count += 1;
                        self.print_json(&json!({
                            "k": "bad", "file": file, "off": at, "len": bytes, "stored": stored,
                            "computed": computed, "what": flaw.to_string(), "next": next,
                        }))
                    }
                }
            }
            Finding::TornBatch { at, cut_offset: cut, good_bytes: have, batch_bytes: want, flaw } => {
                self.totals.torn_batch_count += 1;
                match self.args.output {
                    DumpFormat::Text => {
                        let reason = match (want, flaw) {
                            (0, flaw) => flaw.to_string(),
                            _ => format!("batch says {want}, {have} are good"),
                        };
                        let cut_position = if cut == at { "here".to_owned() } else { format!("at {cut}") };
                        let text = format!("{reason} · normal after a crash: recovery cuts {cut_position}");
                        self.print_damage_row('!', at, have, "TORN", &text)
                    }
                    DumpFormat::Jsonl => self.print_json(&json!({
                        "k": "torn", "file": file, "off": at, "have": have, "want": want, "cut": cut, "tail": true,
                    })),
                }
            }
        }
    }

    fn print_record(&mut self, file: &str, frame: &Frame) -> io::Result<()> {
        let style = Style { full: self.args.full_values, hex: self.args.hex };
        let record = describe_record(frame, style);
        let len = frame.end() - frame.offset;
        self.totals.add_record(&record, frame, len);
        if !self.wants_more_records() || !self.matches_filters(&record) {
            return Ok(());
        }
        let term = record.position.map(|(_, term)| term).or(record.term).map(|term| term.0);
        let index = record.position.map(|(index, _)| index.0);
        let line = match self.args.output {
            DumpFormat::Text => format!(
                "{:>10}  {len:>6}  {:<6}  {:>4}  {:>10}  {:>5}  {:08x}  {}",
                frame.offset,
                record.name,
                number_or_dash(term),
                number_or_dash(index),
                frame.batch_number_low,
                frame.checksum,
                record.content
            ),
            DumpFormat::Jsonl => serde_json::to_string(&RecordLine {
                line_kind: "rec",
                file,
                offset: frame.offset,
                len,
                record_type: record.name,
                term,
                index,
                batch: frame.batch_number_low,
                crc: format!("{:08x}", frame.checksum),
                is_intact: true,
                fields: &record.fields,
            })?,
        };
        self.print_line(line)
    }

    /// Whether further records are printed: not with `--check` or `--stats`, and not after the `-n` first ones.
    pub(super) fn wants_more_records(&self) -> bool {
        !self.args.only_damage && !self.args.only_stats && self.args.records_max != Some(self.shown_record_count)
    }

    /// Prints a record's line, or queues it for `--tail`.
    pub(super) fn print_line(&mut self, line: String) -> io::Result<()> {
        self.shown_record_count += 1;
        match self.args.last_records_max.filter(|_| !self.is_following) {
            None => {
                self.print_heading()?;
                writeln!(self.out, "{}", line.trim_end())
            }
            Some(lines_max) => {
                self.last_lines.push_back(line);
                while self.last_lines.len() > lines_max {
                    self.last_lines.pop_front();
                }
                Ok(())
            }
        }
    }

    fn matches_filters(&self, record: &RecordText) -> bool {
        let args = self.args;
        let index = record.position.map(|(index, _)| index.0);
        let term = record.position.map(|(_, term)| term).or(record.term).map(|term| term.0);
        let type_matches = match args.types.is_empty() {
            true => record.name != "head",
            false => args.types.iter().any(|name| name == record.name),
        };
        let key_matches = |prefix: &String| record.keys.iter().any(|key| key.starts_with(prefix.as_bytes()));
        type_matches
            && args.from_index.is_none_or(|from| index.is_some_and(|index| index >= from))
            && args.to_index.is_none_or(|to| index.is_some_and(|index| index <= to))
            && args.term.is_none_or(|wanted| term == Some(wanted))
            && args.key_prefix.as_ref().is_none_or(key_matches)
    }

    /// Prints the heading of the current segment, unless it is already printed.
    fn print_heading(&mut self) -> io::Result<()> {
        self.pending_heading.take().map_or(Ok(()), |heading| writeln!(self.out, "{heading}"))
    }

    fn print_damage_row(&mut self, mark: char, at: u64, bytes: u64, name: &str, reason: &str) -> io::Result<()> {
        self.print_heading()?;
        writeln!(
            self.out,
            "{mark}{at:>9}  {bytes:>6}  {name:<6}  {:>4}  {:>10}  {:>5}  {:<8}  {reason}",
            '-', '-', '-', '-'
        )
    }

    pub(super) fn print_json(&mut self, value: &serde_json::Value) -> io::Result<()> {
        writeln!(self.out, "{value}")
    }

    /// Shows new records as they are written, until the process is stopped or the reader closes the output.
    fn follow_records(
        &mut self,
        files: &JournalFiles,
        (mut segment_number, mut offset): (u64, u64),
    ) -> anyhow::Result<()> {
        self.print_last_lines()?;
        self.is_following = true;
        loop {
            self.out.flush()?;
            std::thread::sleep(FOLLOW_INTERVAL);
            let name = format::file_name(segment_number);
            let Some(bytes) = read(&files.directory.join(&name))? else {
                // The node deleted the segment before it was read.
                let Some(next_number) = files.next_segment_after(segment_number) else { return Ok(()) };
                (segment_number, offset) = (next_number, 0);
                continue;
            };
            let Ok(header) = SegmentHeader::decode(&bytes) else { continue };
            let inspection = Inspection::new(
                bytes,
                header.salt(),
                SegmentContext::for_segment(&header, None, false),
                ReaderState::default(),
            );
            let mut sealed = false;
            for finding in inspection {
                sealed |= is_seal(&finding);
                if let Finding::Record(frame) = finding
                    && frame.offset >= offset
                {
                    offset = frame.end();
                    self.print_record(&name, &frame)?;
                }
            }
            if sealed {
                (segment_number, offset) = (segment_number + 1, 0);
            }
        }
    }

    fn print_last_lines(&mut self) -> io::Result<()> {
        if !self.last_lines.is_empty() {
            self.print_heading()?;
        }
        for line in self.last_lines.drain(..) {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<i32> {
        self.print_last_lines()?;
        let totals = std::mem::take(&mut self.totals);
        let exit_code = if totals.damage_count > 0 { 5 } else { 0 };
        if self.args.only_stats {
            self.print_stats(&totals)?;
        }
        let (first, last) = totals.index_range.map_or((None, None), |(first, last)| (Some(first.0), Some(last.0)));
        match self.args.output {
            DumpFormat::Text => {
                let terms = totals.term_range.map_or("-".to_owned(), |(first, last)| format!("{first}..{last}"));
                let entries = format!("entries {}..{} · terms {terms}", number_or_dash(first), number_or_dash(last));
                let snapshots = format!("{} snapshots · {} chunks", totals.snapshot_count, totals.chunk_count);
                let (segment_count, record_count) = (totals.segment_count, totals.record_count);
                let segments = format!("{segment_count} segments · {record_count} records · {entries}");
                let contents = match (totals.snapshot_count, totals.segment_count) {
                    (0, _) => segments,
                    (_, 0) => snapshots,
                    _ => format!("{snapshots} · {segments}"),
                };
                let seconds = self.started_at.elapsed().as_secs_f64();
                let (bad, torn) = (totals.damage_count, totals.torn_batch_count);
                writeln!(self.out, "# total {contents} · {bad} bad · {torn} torn · {seconds:.2} s")?;
            }
            DumpFormat::Jsonl => self.print_json(&json!({
                "k": "total", "snapshots": totals.snapshot_count, "chunks": totals.chunk_count,
                "segments": totals.segment_count, "records": totals.record_count, "first": first, "last": last,
                "bad": totals.damage_count, "torn": totals.torn_batch_count, "exit": exit_code,
            }))?,
        }
        Ok(exit_code)
    }

    fn print_stats(&mut self, totals: &DumpTotals) -> io::Result<()> {
        let entries: u64 = totals
            .count_and_bytes_by_type
            .iter()
            .filter(|(name, _)| is_entry_type(name))
            .map(|(_, (count, _))| count)
            .sum();
        let entries_per_batch = entries as f64 / totals.batch_count.max(1) as f64;
        if self.args.output == DumpFormat::Jsonl {
            let types_json: serde_json::Map<String, serde_json::Value> = totals
                .count_and_bytes_by_type
                .iter()
                .map(|(name, (count, bytes))| ((*name).to_owned(), json!({ "records": count, "bytes": bytes })))
                .collect();
            return self.print_json(&json!({
                "k": "stats", "types": types_json, "batches": totals.batch_count,
                "entries_per_batch": entries_per_batch,
            }));
        }
        writeln!(self.out, "# type       records         bytes")?;
        for (name, (count, bytes)) in &totals.count_and_bytes_by_type {
            writeln!(self.out, "# {name:<6}  {count:>10}  {bytes:>12}")?;
        }
        writeln!(self.out, "# {} fsync batches · {entries_per_batch:.1} entries each", totals.batch_count)
    }
}

impl Visitor for DumpPrinter<'_> {
    fn visit_segment(&mut self, segment: &Segment, header: Option<&SegmentHeader>, bytes: &Bytes) -> io::Result<()> {
        self.totals.segment_count += 1;
        header.map_or(Ok(()), |header| self.print_segment_heading(segment, header, bytes))
    }

    fn visit_finding(&mut self, segment: &Segment, finding: Finding) -> io::Result<()> {
        self.print_finding(&segment.name, finding)
    }

    fn visit_damage(&mut self, damage: Damage<'_>) -> io::Result<()> {
        let Damage { file, at, bytes, description, next_record } = damage;
        self.totals.damage_count += 1;
        let text = match next_record {
            Some(offset) => format!("{description} · next good record at {offset}"),
            None if bytes == 0 => format!("{file}: {description}"),
            None => format!("{description} · no good record behind it"),
        };
        match self.args.output {
            DumpFormat::Text => self.print_damage_row('!', at, bytes, "BAD", &text),
            DumpFormat::Jsonl => self.print_json(&json!({
                "k": "bad", "file": file, "off": at, "len": bytes, "what": text, "next": next_record,
            })),
        }
    }
}

impl DumpTotals {
    fn add_record(&mut self, record: &RecordText, frame: &Frame, len: u64) {
        let (count, bytes) = self.count_and_bytes_by_type.entry(record.name).or_default();
        *count += 1;
        *bytes += len;
        if frame.kind == RecordKind::Batch {
            // A batch may be written in several pieces, each with a header; the last header counts the batch.
            let has_more_pieces = format::BatchHeader::decode(&frame.body).is_ok_and(|batch| batch.has_more_pieces);
            self.batch_count += u64::from(!has_more_pieces);
            return;
        }
        self.record_count += 1;
        if let Some((index, term)) = record.position {
            let (first, last) = self.index_range.unwrap_or((index, index));
            self.index_range = Some((first.min(index), last.max(index)));
            let (low, high) = self.term_range.unwrap_or((term.0, term.0));
            self.term_range = Some((low.min(term.0), high.max(term.0)));
        }
    }
}

fn is_entry_type(name: &str) -> bool {
    !matches!(name, "head" | "seg" | "hard" | "base" | "free" | "seal" | "odd")
}

fn stored_and_computed_crc(flaw: Flaw) -> (Option<String>, Option<String>) {
    match flaw {
        Flaw::Checksum { stored, computed } => (Some(format!("{stored:08x}")), Some(format!("{computed:08x}"))),
        _ => (None, None),
    }
}

fn number_or_dash(number: Option<u64>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}
