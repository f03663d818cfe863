//! The arguments of `drave dump`.

use std::path::PathBuf;

/// Prints segments of a journal and snapshots as text; works beside a running node, never writes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Dump {
    /// A segment, a snapshot, a directory of either, or a data directory.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Only entries from this index on.
    #[arg(long, value_name = "INDEX")]
    pub from: Option<u64>,
    /// Only entries up to this index.
    #[arg(long, value_name = "INDEX")]
    pub to: Option<u64>,
    /// Only records of this term.
    #[arg(long)]
    pub term: Option<u64>,
    /// Only records of these types: put, set, mset, append, del, cas, incr, expire, persist, batch, block, open, close,
    /// tick, noop, conf, hard, base, free, seg, seal, odd; and head, the header of each batch, which is shown only on
    /// request. In a snapshot: sessions, machine, end.
    #[arg(long = "type", value_name = "TYPE,…", value_delimiter = ',', value_parser = record_type)]
    pub types: Vec<String>,
    /// Only commands on keys with this prefix.
    #[arg(long, value_name = "PREFIX")]
    pub key: Option<String>,
    /// Only the first N records.
    #[arg(short = 'n', value_name = "N")]
    pub count: Option<u64>,
    /// Only the last N records.
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,
    /// Continues with new records as the node writes them.
    #[arg(short, long)]
    pub follow: bool,
    /// Only totals: records and bytes by type, entries per fsync batch.
    #[arg(long)]
    pub stats: bool,
    /// Only segments: their size, their first and last entry, and why each is still kept.
    #[arg(long)]
    pub why_kept: bool,
    /// Only headings and damage.
    #[arg(long)]
    pub check: bool,
    /// Values in full, however long.
    #[arg(long)]
    pub full: bool,
    /// Keys and values in hex.
    #[arg(long)]
    pub hex: bool,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// How to print.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// Columns for people.
    #[default]
    Text,
    /// One object a line.
    #[value(alias = "json")]
    Jsonl,
}

/// The type names of records and of snapshot chunks, as `--type` takes them.
const TYPES: [&str; 26] = [
    "put", "set", "mset", "append", "del", "cas", "incr", "expire", "persist", "batch", "block", "open", "close",
    "tick", "noop", "conf", "hard", "base", "free", "seg", "seal", "odd", "head", "sessions", "machine", "end",
];

fn record_type(text: &str) -> Result<String, String> {
    match TYPES.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("no such type; the types are: {}", TYPES.join(", "))),
    }
}

impl Dump {
    /// Whether a filter is set. The heading of a segment without a matching record is then not printed.
    pub(super) fn selects(&self) -> bool {
        let Dump { from, to, term, types, key, count, tail, .. } = self;
        from.is_some()
            || to.is_some()
            || term.is_some()
            || !types.is_empty()
            || key.is_some()
            || count.is_some()
            || tail.is_some()
    }
}
