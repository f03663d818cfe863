//! Snapshots as `dump` prints them: one line each beside a journal, otherwise chunk by chunk.

use super::dump::Walk;
use super::dump_args::Output;
use bytesize::ByteSize;
use drave::inspect::snapshots::{SnapshotFile, snapshots_at};
use drave::snapshot::format::{CHUNK_HEADER, Chunk, ChunkKind, FORMAT, Flaw, FlawKind, Header};
use drave::wal::identity::short;
use serde_json::json;
use std::io;
use std::path::Path;

impl Walk<'_> {
    /// Prints a snapshot, chunk by chunk.
    pub(super) fn snapshot(&mut self, path: &Path) -> anyhow::Result<()> {
        for found in snapshots_at(path)? {
            self.print_snapshot(&found, true)?;
        }
        Ok(())
    }

    /// Prints the snapshots of a directory, a line each, and their damage. Returns how many there are.
    pub(super) fn snapshots(&mut self, path: &Path) -> anyhow::Result<usize> {
        let all = snapshots_at(path)?;
        for found in &all {
            self.print_snapshot(found, false)?;
        }
        Ok(all.len())
    }

    fn print_snapshot(&mut self, found: &SnapshotFile, chunks: bool) -> io::Result<()> {
        self.totals.snapshots += 1;
        let read = found.header();
        self.print_header(found, read.as_ref().map(|(header, _)| header).ok())?;
        let (header, chain) = match read {
            Ok(read) => read,
            Err(flaw) => return self.print_flaw(found, flaw),
        };
        if chunks && self.args.output == Output::Text {
            writeln!(self.out, "#   offset     len  kind      crc       what")?;
        }
        if let Some(flaw) = found.misplaced(&header) {
            self.print_flaw(found, flaw)?;
        }
        for chunk in found.chunks(chain) {
            match chunk {
                Ok(chunk) => self.chunk(found, &chunk, chunks)?,
                Err(flaw) => self.print_flaw(found, flaw)?,
            }
        }
        Ok(())
    }

    /// Prints a snapshot's heading.
    fn print_header(&mut self, found: &SnapshotFile, header: Option<&Header>) -> io::Result<()> {
        let (name, size) = (&found.name, found.bytes.len());
        match (self.args.output, header) {
            (Output::Text, Some(header)) => writeln!(
                self.out,
                "# snapshot {name} · node {} · cluster {} · format {FORMAT} · up to {} · {} · {} sessions · {}",
                header.node.get(),
                short(header.cluster),
                header.position,
                header.membership,
                header.sessions,
                ByteSize(size as u64).display().iec(),
            ),
            (Output::Text, None) => writeln!(self.out, "# snapshot {name} · {}", ByteSize(size as u64).display().iec()),
            (Output::Jsonl, Some(header)) => self.json(&json!({
                "k": "snapshot", "file": name, "node": header.node.get(), "cluster": short(header.cluster),
                "format": FORMAT, "index": header.position.index.0, "term": header.position.term.0,
                "members": header.membership.to_string(), "sessions": header.sessions, "time_ms": header.time.0,
                "digest": format!("{:016x}", header.digest), "size": size,
            })),
            (Output::Jsonl, None) => self.json(&json!({ "k": "snapshot", "file": name, "size": size })),
        }
    }

    fn chunk(&mut self, found: &SnapshotFile, chunk: &Chunk, shown: bool) -> io::Result<()> {
        let (at, len) = (chunk.at, (CHUNK_HEADER + chunk.body.len()) as u64);
        let (name, what) = match chunk.kind {
            ChunkKind::Sessions => ("sessions", String::new()),
            ChunkKind::Machine => ("machine", String::new()),
            ChunkKind::End => ("end", format!("{} bytes in all", at + len)),
        };
        self.totals.chunks += 1;
        let (count, bytes) = self.totals.by_type.entry(name).or_default();
        (*count, *bytes) = (*count + 1, *bytes + len);
        let asked_for = self.args.types.is_empty() || self.args.types.iter().any(|wanted| wanted == name);
        if !shown || !asked_for || !self.shows() {
            return Ok(());
        }
        let stored = found.bytes[at as usize..].first_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
        self.show(match self.args.output {
            Output::Text => format!("{at:>10}  {len:>6}  {name:<8}  {stored:08x}  {what}"),
            Output::Jsonl => json!({
                "k": "chunk", "file": found.name, "off": at, "len": len, "type": name,
                "crc": format!("{stored:08x}"), "ok": true,
            })
            .to_string(),
        })
    }

    /// Prints damage. No later chunk can be verified, since each chunk's checksum depends on the one before.
    fn print_flaw(&mut self, found: &SnapshotFile, flaw: Flaw) -> io::Result<()> {
        self.totals.bad += 1;
        let (at, len) = (flaw.at, (found.bytes.len() as u64).saturating_sub(flaw.at));
        match self.args.output {
            Output::Text => writeln!(self.out, "!{at:>9}  {len:>6}  {:<8}  {:<8}  {flaw}", "BAD", '-'),
            Output::Jsonl => {
                let (stored, computed) = match flaw.what {
                    FlawKind::Checksum { stored, computed } => {
                        (Some(format!("{stored:08x}")), Some(format!("{computed:08x}")))
                    }
                    FlawKind::Cut | FlawKind::Unreadable | FlawKind::Wrong(_) => (None, None),
                };
                self.json(&json!({
                    "k": "bad", "file": found.name, "off": at, "len": len, "stored": stored, "computed": computed,
                    "what": flaw.to_string(), "next": null,
                }))
            }
        }
    }
}
