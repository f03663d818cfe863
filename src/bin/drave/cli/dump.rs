//! `drave dump`: prints journal segments and snapshots as text or JSON. It only reads: it takes no locks, writes
//! nothing, and does not stop at damage.

use super::dump_args::{Dump, Output};
use super::dump_kept::why_kept;
use crate::remote::failure::CliError;
use bytes::Bytes;
use drave::inspect::files::{Files, Segment, is_seal, read};
use drave::inspect::record::describe_record;
use drave::inspect::record_text::{Fields, RecordText, Style};
use drave::inspect::snapshots::SUFFIX;
use drave::inspect::walk::{Damage, SegmentWalk, Visitor};
use drave::types::Index;
use drave::wal::batches::Continuation;
use drave::wal::format::{self, Flaw, Frame, RecordKind, SegmentHeader};
use drave::wal::identity::short;
use drave::wal::inspect::{Finding, Inspection};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::tail::Surroundings;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The pause between two reads of `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Prints to standard output, and exits with 5 if anything is damaged.
pub fn print(args: Dump) -> Result<(), CliError> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        let what = format!("--from {from} is greater than --to {to}: no entry is in this range");
        return Err(CliError { what, code: 2 });
    }
    match run(args, &mut io::stdout().lock()) {
        Ok(0) => Ok(()),
        // The damage is already in the output.
        Ok(code) => std::process::exit(code),
        Err(error) => Err(error.into()),
    }
}

/// Prints the contents of the journal. Returns the exit code: 0, or 5 if anything is damaged.
pub fn run(args: Dump, out: &mut dyn Write) -> anyhow::Result<i32> {
    let mut out = io::BufWriter::with_capacity(64 << 10, out);
    let outcome = if args.why_kept { why_kept(&args, &mut out) } else { dump(&args, &mut out) };
    let outcome = outcome.and_then(|code| out.flush().map(|()| code).map_err(Into::into));
    match outcome {
        // `dump | head`: the reader closed the pipe.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => {
            drop(out.into_parts());
            Ok(0)
        }
        outcome => outcome,
    }
}

fn dump(args: &Dump, out: &mut dyn Write) -> anyhow::Result<i32> {
    let mut walk = Walk {
        args,
        out,
        totals: Totals::default(),
        tail: VecDeque::new(),
        shown: 0,
        heading: None,
        follows: false,
        begun: Instant::now(),
    };
    for path in &args.paths {
        walk.place(path)?;
    }
    walk.finish()
}

pub(super) struct Walk<'a> {
    pub(super) args: &'a Dump,
    pub(super) out: &'a mut dyn Write,
    pub(super) totals: Totals,
    tail: VecDeque<String>,
    shown: u64,
    /// The heading of the current segment, until a line of it is printed.
    heading: Option<String>,
    /// Whether the existing records are shown, and new ones are now followed.
    follows: bool,
    begun: Instant,
}

#[derive(Default)]
pub(super) struct Totals {
    pub(super) snapshots: u64,
    pub(super) chunks: u64,
    segments: u64,
    records: u64,
    entries: Option<(Index, Index)>,
    terms: Option<(u64, u64)>,
    pub(super) bad: u64,
    torn: u64,
    pub(super) by_type: BTreeMap<&'static str, (u64, u64)>,
    batches: u64,
}

#[derive(Serialize)]
struct RecordLine<'a> {
    k: &'a str,
    file: &'a str,
    off: u64,
    len: u64,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    batch: u32,
    crc: String,
    ok: bool,
    #[serde(flatten)]
    fields: &'a Fields,
}

impl Walk<'_> {
    fn place(&mut self, path: &Path) -> anyhow::Result<()> {
        let single = path.is_file();
        if single && path.extension().is_some_and(|end| end == SUFFIX) {
            return self.snapshot(path);
        }
        let snapshots = if single { 0 } else { self.snapshots(path)? };
        let files = Files::at(path)?;
        if files.segments.is_empty() && snapshots == 0 {
            anyhow::bail!("{}: no segments here (files named 0000000001.wal)", path.display());
        }
        let stop = SegmentWalk::default().walk(path, &files, self)?;
        if self.args.follow && self.out.flush().is_ok() {
            self.follow(&files, stop)?;
        }
        Ok(())
    }

    fn heading(&mut self, segment: &Segment, header: &SegmentHeader, bytes: &Bytes) -> io::Result<()> {
        let (mut first, mut sealed) = (None, false);
        for item in Scan::new(bytes.clone(), header.salt(), None) {
            let ScanItem::Frame(frame) = item else { continue };
            sealed |= frame.kind == RecordKind::Seal;
            if first.is_none() && frame.kind == RecordKind::Entry {
                first = format::EntryHead::read(&frame.body).ok().map(|head| head.position.index.0);
            }
        }
        let (name, cluster) = (&segment.name, short(header.cluster));
        match self.args.output {
            Output::Text => {
                let first = first.map_or("-".to_owned(), |first| first.to_string());
                let mib = bytes.len() as f64 / (1 << 20) as f64;
                let sealed = if sealed { "sealed" } else { "open" };
                self.heading = Some(format!(
                    "# segment {name} · node {} · cluster {cluster} · format {} · first entry {first} · {mib:.1} MiB · {sealed}\n\
                     #   offset     len  type    term       index  batch  crc       what",
                    header.node.get(),
                    format::FORMAT,
                ));
                if self.args.selects() { Ok(()) } else { self.print_heading() }
            }
            Output::Jsonl => self.json(&json!({
                "k": "segment", "file": name, "node": header.node.get(), "cluster": cluster,
                "format": format::FORMAT, "first": first, "size": bytes.len(), "sealed": sealed,
            })),
        }
    }

    fn print_finding(&mut self, file: &str, finding: Finding) -> io::Result<()> {
        match finding {
            Finding::Record(frame) => self.record(file, &frame),
            Finding::Bad { at, bytes, flaw, next } => {
                let (stored, computed) = sums(flaw);
                match self.args.output {
                    Output::Text => self.bad(Damage { file, at, bytes, what: &flaw.to_string(), next }),
                    Output::Jsonl => {
                        self.totals.bad += 1;
                        self.json(&json!({
                            "k": "bad", "file": file, "off": at, "len": bytes, "stored": stored,
                            "computed": computed, "what": flaw.to_string(), "next": next,
                        }))
                    }
                }
            }
            Finding::Torn { at, cut, have, want, flaw } => {
                self.totals.torn += 1;
                match self.args.output {
                    Output::Text => {
                        let why = match (want, flaw) {
                            (0, flaw) => flaw.to_string(),
                            _ => format!("batch says {want}, {have} are good"),
                        };
                        let at_cut = if cut == at { "here".to_owned() } else { format!("at {cut}") };
                        let what = format!("{why} · normal after a crash: recovery cuts {at_cut}");
                        self.row('!', at, have, "TORN", &what)
                    }
                    Output::Jsonl => self.json(&json!({
                        "k": "torn", "file": file, "off": at, "have": have, "want": want, "cut": cut, "tail": true,
                    })),
                }
            }
        }
    }

    fn record(&mut self, file: &str, frame: &Frame) -> io::Result<()> {
        let style = Style { full: self.args.full, hex: self.args.hex };
        let said = describe_record(frame, style);
        let len = frame.end() - frame.at;
        self.totals.take(&said, frame, len);
        if !self.shows() || !self.wanted(&said) {
            return Ok(());
        }
        let term = said.position.map(|(_, term)| term).or(said.term).map(|term| term.0);
        let index = said.position.map(|(index, _)| index.0);
        let line = match self.args.output {
            Output::Text => format!(
                "{:>10}  {len:>6}  {:<6}  {:>4}  {:>10}  {:>5}  {:08x}  {}",
                frame.at,
                said.name,
                dash(term),
                dash(index),
                frame.batch,
                frame.checksum,
                said.what
            ),
            Output::Jsonl => serde_json::to_string(&RecordLine {
                k: "rec",
                file,
                off: frame.at,
                len,
                kind: said.name,
                term,
                index,
                batch: frame.batch,
                crc: format!("{:08x}", frame.checksum),
                ok: true,
                fields: &said.fields,
            })?,
        };
        self.show(line)
    }

    /// Whether further records are to be shown.
    pub(super) fn shows(&self) -> bool {
        !self.args.check && !self.args.stats && self.args.count != Some(self.shown)
    }

    /// Prints a record's line, or queues it for `--tail`.
    pub(super) fn show(&mut self, line: String) -> io::Result<()> {
        self.shown += 1;
        match self.args.tail.filter(|_| !self.follows) {
            None => {
                self.print_heading()?;
                writeln!(self.out, "{}", line.trim_end())
            }
            Some(most) => {
                self.tail.push_back(line);
                while self.tail.len() > most {
                    self.tail.pop_front();
                }
                Ok(())
            }
        }
    }

    fn wanted(&self, said: &RecordText) -> bool {
        let args = self.args;
        let index = said.position.map(|(index, _)| index.0);
        let term = said.position.map(|(_, term)| term).or(said.term).map(|term| term.0);
        let typed = match args.types.is_empty() {
            true => said.name != "head",
            false => args.types.iter().any(|name| name == said.name),
        };
        let keyed = |prefix: &String| said.keys.iter().any(|key| key.starts_with(prefix.as_bytes()));
        typed
            && args.from.is_none_or(|from| index.is_some_and(|index| index >= from))
            && args.to.is_none_or(|to| index.is_some_and(|index| index <= to))
            && args.term.is_none_or(|wanted| term == Some(wanted))
            && args.key.as_ref().is_none_or(keyed)
    }

    /// Prints the heading of the current segment, unless it is already printed.
    fn print_heading(&mut self) -> io::Result<()> {
        self.heading.take().map_or(Ok(()), |heading| writeln!(self.out, "{heading}"))
    }

    fn row(&mut self, mark: char, at: u64, bytes: u64, name: &str, what: &str) -> io::Result<()> {
        self.print_heading()?;
        writeln!(
            self.out,
            "{mark}{at:>9}  {bytes:>6}  {name:<6}  {:>4}  {:>10}  {:>5}  {:<8}  {what}",
            '-', '-', '-', '-'
        )
    }

    pub(super) fn json(&mut self, value: &serde_json::Value) -> io::Result<()> {
        writeln!(self.out, "{value}")
    }

    /// Shows new records as they are written, until the process is stopped or the reader closes the output.
    fn follow(&mut self, files: &Files, (mut number, mut at): (u64, u64)) -> anyhow::Result<()> {
        self.flush_tail()?;
        self.follows = true;
        loop {
            self.out.flush()?;
            std::thread::sleep(FOLLOW_INTERVAL);
            let name = format::file_name(number);
            let Some(bytes) = read(&files.directory.join(&name))? else {
                // The segment was released before it was read.
                let Some(behind) = files.next_after(number) else { return Ok(()) };
                (number, at) = (behind, 0);
                continue;
            };
            let Ok(header) = SegmentHeader::decode(&bytes) else { continue };
            let walk =
                Inspection::new(bytes, header.salt(), Surroundings::of(&header, None, false), Continuation::default());
            let mut sealed = false;
            for finding in walk {
                sealed |= is_seal(&finding);
                if let Finding::Record(frame) = finding
                    && frame.at >= at
                {
                    at = frame.end();
                    self.record(&name, &frame)?;
                }
            }
            if sealed {
                (number, at) = (number + 1, 0);
            }
        }
    }

    fn flush_tail(&mut self) -> io::Result<()> {
        if !self.tail.is_empty() {
            self.print_heading()?;
        }
        for line in self.tail.drain(..) {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<i32> {
        self.flush_tail()?;
        let totals = std::mem::take(&mut self.totals);
        let exit = if totals.bad > 0 { 5 } else { 0 };
        if self.args.stats {
            self.stats(&totals)?;
        }
        let (first, last) = totals.entries.map_or((None, None), |(first, last)| (Some(first.0), Some(last.0)));
        match self.args.output {
            Output::Text => {
                let terms = totals.terms.map_or("-".to_owned(), |(first, last)| format!("{first}..{last}"));
                let entries = format!("entries {}..{} · terms {terms}", dash(first), dash(last));
                let snapshots = format!("{} snapshots · {} chunks", totals.snapshots, totals.chunks);
                let segments = format!("{} segments · {} records · {entries}", totals.segments, totals.records);
                let what = match (totals.snapshots, totals.segments) {
                    (0, _) => segments,
                    (_, 0) => snapshots,
                    _ => format!("{snapshots} · {segments}"),
                };
                let took = self.begun.elapsed().as_secs_f64();
                writeln!(self.out, "# total {what} · {} bad · {} torn · {took:.2} s", totals.bad, totals.torn)?;
            }
            Output::Jsonl => self.json(&json!({
                "k": "total", "snapshots": totals.snapshots, "chunks": totals.chunks, "segments": totals.segments, "records": totals.records, "first": first, "last": last,
                "bad": totals.bad, "torn": totals.torn, "exit": exit,
            }))?,
        }
        Ok(exit)
    }

    fn stats(&mut self, totals: &Totals) -> io::Result<()> {
        let entries: u64 = totals.by_type.iter().filter(|(name, _)| is_entry(name)).map(|(_, (count, _))| count).sum();
        let per_batch = entries as f64 / totals.batches.max(1) as f64;
        if self.args.output == Output::Jsonl {
            let types: serde_json::Map<String, serde_json::Value> = totals
                .by_type
                .iter()
                .map(|(name, (count, bytes))| ((*name).to_owned(), json!({ "records": count, "bytes": bytes })))
                .collect();
            let batches = totals.batches;
            return self.json(&json!({
                "k": "stats", "types": types, "batches": batches, "entries_per_batch": per_batch,
            }));
        }
        writeln!(self.out, "# type       records         bytes")?;
        for (name, (count, bytes)) in &totals.by_type {
            writeln!(self.out, "# {name:<6}  {count:>10}  {bytes:>12}")?;
        }
        writeln!(self.out, "# {} fsync batches · {per_batch:.1} entries each", totals.batches)
    }
}

impl Visitor for Walk<'_> {
    fn segment(&mut self, segment: &Segment, header: Option<&SegmentHeader>, bytes: &Bytes) -> io::Result<()> {
        self.totals.segments += 1;
        header.map_or(Ok(()), |header| self.heading(segment, header, bytes))
    }

    fn finding(&mut self, segment: &Segment, finding: Finding) -> io::Result<()> {
        self.print_finding(&segment.name, finding)
    }

    fn bad(&mut self, bad: Damage<'_>) -> io::Result<()> {
        let Damage { file, at, bytes, what, next } = bad;
        self.totals.bad += 1;
        let what = match next {
            Some(next) => format!("{what} · next good record at {next}"),
            None if bytes == 0 => format!("{file}: {what}"),
            None => format!("{what} · no good record behind it"),
        };
        match self.args.output {
            Output::Text => self.row('!', at, bytes, "BAD", &what),
            Output::Jsonl => self.json(&json!({
                "k": "bad", "file": file, "off": at, "len": bytes, "what": what, "next": next,
            })),
        }
    }
}

impl Totals {
    fn take(&mut self, said: &RecordText, frame: &Frame, len: u64) {
        let (count, bytes) = self.by_type.entry(said.name).or_default();
        *count += 1;
        *bytes += len;
        if frame.kind == RecordKind::Batch {
            // All parts of one batch are synced together.
            let more = format::Batch::read(&frame.body).is_ok_and(|batch| batch.more);
            self.batches += u64::from(!more);
            return;
        }
        self.records += 1;
        if let Some((index, term)) = said.position {
            let (first, last) = self.entries.unwrap_or((index, index));
            self.entries = Some((first.min(index), last.max(index)));
            let (low, high) = self.terms.unwrap_or((term.0, term.0));
            self.terms = Some((low.min(term.0), high.max(term.0)));
        }
    }
}

fn is_entry(name: &str) -> bool {
    !matches!(name, "head" | "seg" | "hard" | "base" | "free" | "seal" | "odd")
}

fn sums(flaw: Flaw) -> (Option<String>, Option<String>) {
    match flaw {
        Flaw::Checksum { stored, computed } => (Some(format!("{stored:08x}")), Some(format!("{computed:08x}"))),
        _ => (None, None),
    }
}

fn dash(number: Option<u64>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}
