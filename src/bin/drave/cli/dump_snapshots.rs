//! The snapshots in the output of `drave dump`: one line for each snapshot of a directory, and a snapshot file chunk by
//! chunk.

use super::dump::DumpPrinter;
use super::dump_args::DumpFormat;
use bytesize::ByteSize;
use drave::inspect::snapshots::{SnapshotFile, snapshots_at};
use drave::snapshot::format::{CHUNK_HEADER_BYTES, Chunk, ChunkKind, FORMAT_VERSION, Flaw, FlawKind, Header};
use drave::wal::identity::short_cluster_id;
use serde_json::json;
use std::io;
use std::path::Path;

impl DumpPrinter<'_> {
    /// Prints the snapshot in this file, chunk by chunk.
    pub(super) fn print_snapshot_chunks(&mut self, path: &Path) -> anyhow::Result<()> {
        for file in snapshots_at(path)? {
            self.print_snapshot(&file, true)?;
        }
        Ok(())
    }

    /// Prints the snapshots of a directory, a line each, and their damage. Returns their number.
    pub(super) fn print_snapshots(&mut self, path: &Path) -> anyhow::Result<usize> {
        let files = snapshots_at(path)?;
        for file in &files {
            self.print_snapshot(file, false)?;
        }
        Ok(files.len())
    }

    fn print_snapshot(&mut self, file: &SnapshotFile, with_chunks: bool) -> io::Result<()> {
        self.totals.snapshot_count += 1;
        let header_and_checksum_chain = file.header();
        self.print_header(file, header_and_checksum_chain.as_ref().map(|(header, _)| header).ok())?;
        let (header, chain) = match header_and_checksum_chain {
            Ok(header_and_checksum_chain) => header_and_checksum_chain,
            Err(flaw) => return self.print_flaw(file, flaw),
        };
        if with_chunks && self.args.output == DumpFormat::Text {
            writeln!(self.out, "#   offset     len  kind      crc       what")?;
        }
        if let Some(flaw) = file.identity_flaw(&header) {
            self.print_flaw(file, flaw)?;
        }
        for chunk in file.chunks(chain) {
            match chunk {
                Ok(chunk) => self.print_chunk(file, &chunk, with_chunks)?,
                Err(flaw) => self.print_flaw(file, flaw)?,
            }
        }
        Ok(())
    }

    /// Prints the heading of a snapshot. If its header is damaged, the heading has only the name and the size.
    fn print_header(&mut self, file: &SnapshotFile, header: Option<&Header>) -> io::Result<()> {
        let (name, size) = (&file.name, file.bytes.len());
        match (self.args.output, header) {
            (DumpFormat::Text, Some(header)) => writeln!(
                self.out,
                "# snapshot {name} · node {} · cluster {} · format {FORMAT_VERSION} · up to {} · {} · {} sessions · {}",
                header.node.get(),
                short_cluster_id(header.cluster),
                header.position,
                header.membership,
                header.sessions,
                ByteSize(size as u64).display().iec(),
            ),
            (DumpFormat::Text, None) => {
                writeln!(self.out, "# snapshot {name} · {}", ByteSize(size as u64).display().iec())
            }
            (DumpFormat::Jsonl, Some(header)) => self.print_json(&json!({
                "k": "snapshot", "file": name, "node": header.node.get(), "cluster": short_cluster_id(header.cluster),
                "format": FORMAT_VERSION, "index": header.position.index.0, "term": header.position.term.0,
                "members": header.membership.to_string(), "sessions": header.sessions, "time_ms": header.time.0,
                "digest": format!("{:016x}", header.digest), "size": size,
            })),
            (DumpFormat::Jsonl, None) => self.print_json(&json!({ "k": "snapshot", "file": name, "size": size })),
        }
    }

    fn print_chunk(&mut self, file: &SnapshotFile, chunk: &Chunk, with_chunks: bool) -> io::Result<()> {
        let (at, len) = (chunk.at, (CHUNK_HEADER_BYTES + chunk.body.len()) as u64);
        let (name, what) = match chunk.kind {
            ChunkKind::Sessions => ("sessions", String::new()),
            ChunkKind::Machine => ("machine", String::new()),
            ChunkKind::End => ("end", format!("{} bytes in all", at + len)),
        };
        self.totals.chunk_count += 1;
        let (count, bytes) = self.totals.count_and_bytes_by_type.entry(name).or_default();
        (*count, *bytes) = (*count + 1, *bytes + len);
        let type_matches = self.args.types.is_empty() || self.args.types.iter().any(|wanted| wanted == name);
        if !with_chunks || !type_matches || !self.wants_more_records() {
            return Ok(());
        }
        let stored_crc = file.bytes[at as usize..].first_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
        self.print_line(match self.args.output {
            DumpFormat::Text => format!("{at:>10}  {len:>6}  {name:<8}  {stored_crc:08x}  {what}"),
            DumpFormat::Jsonl => json!({
                "k": "chunk", "file": file.name, "off": at, "len": len, "type": name,
                "crc": format!("{stored_crc:08x}"), "ok": true,
            })
            .to_string(),
        })
    }

    /// Prints the damage of a snapshot. No later chunk can be verified, since each chunk's checksum depends on the one
    /// before.
    fn print_flaw(&mut self, file: &SnapshotFile, flaw: Flaw) -> io::Result<()> {
        self.totals.damage_count += 1;
        let (at, len) = (flaw.at, (file.bytes.len() as u64).saturating_sub(flaw.at));
        match self.args.output {
            DumpFormat::Text => writeln!(self.out, "!{at:>9}  {len:>6}  {:<8}  {:<8}  {flaw}", "BAD", '-'),
            DumpFormat::Jsonl => {
                let (stored, computed) = match flaw.kind {
                    FlawKind::ChecksumMismatch { stored, computed } => {
                        (Some(format!("{stored:08x}")), Some(format!("{computed:08x}")))
                    }
                    FlawKind::Truncated | FlawKind::Unreadable | FlawKind::UnknownVersion(_) | FlawKind::Invalid(_) => {
                        (None, None)
                    }
                };
                self.print_json(&json!({
                    "k": "bad", "file": file.name, "off": at, "len": len, "stored": stored, "computed": computed,
                    "what": flaw.to_string(), "next": null,
                }))
            }
        }
    }
}
