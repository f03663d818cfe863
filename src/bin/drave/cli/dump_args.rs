//! The arguments of `drave dump`.

use std::path::PathBuf;

/// Prints segments of a journal and snapshots as text; works beside a running node, never writes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Dump {
    /// A segment, a snapshot, a directory of either, or a data directory.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Only entries from this index on.
    #[arg(long = "from", value_name = "INDEX")]
    pub from_index: Option<u64>,
    /// Only entries up to this index.
    #[arg(long = "to", value_name = "INDEX")]
    pub to_index: Option<u64>,
    /// Only records of this term.
    #[arg(long)]
    pub term: Option<u64>,
    /// Only records of these types: put, set, mset, append, del, cas, incr, expire, persist, batch, block, open, close,
    /// tick, noop, conf, hard, base, free, seg, seal, odd; and head, the header of each batch, which is shown only on
    /// request. In a snapshot: sessions, machine, end.
    #[arg(long = "type", value_name = "TYPE,…", value_delimiter = ',', value_parser = parse_record_type)]
    pub types: Vec<String>,
    /// Only commands on keys with this prefix.
    #[arg(long = "key", value_name = "PREFIX")]
    pub key_prefix: Option<String>,
    /// Only the first N records.
    #[arg(short = 'n', value_name = "N")]
    pub records_max: Option<u64>,
    /// Only the last N records.
    #[arg(long = "tail", value_name = "N")]
    pub last_records_max: Option<usize>,
    /// Continues with new records as the node writes them.
    #[arg(short, long)]
    pub follow: bool,
    /// Only totals: records and bytes by type, entries per fsync batch.
    #[arg(long = "stats")]
    pub only_stats: bool,
    /// Only segments: their size, their first and last entry, and why each is still kept.
    #[arg(long)]
    pub why_kept: bool,
    /// Only headings and damage.
    #[arg(long = "check")]
    pub only_damage: bool,
    /// Values in full, however long.
    #[arg(long = "full")]
    pub full_values: bool,
    /// Keys and values in hex.
    #[arg(long)]
    pub hex: bool,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: DumpFormat,
}

/// The output format of `drave dump`.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DumpFormat {
    /// Columns for people.
    #[default]
    Text,
    /// One object a line.
    #[value(alias = "json")]
    Jsonl,
}

/// The type names of records and of snapshot chunks, the possible values of `--type`.
const RECORD_AND_CHUNK_TYPES: [&str; 26] = [
    "put", "set", "mset", "append", "del", "cas", "incr", "expire", "persist", "batch", "block", "open", "close",
    "tick", "noop", "conf", "hard", "base", "free", "seg", "seal", "odd", "head", "sessions", "machine", "end",
];

fn parse_record_type(text: &str) -> Result<String, String> {
    match RECORD_AND_CHUNK_TYPES.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("no such type; the types are: {}", RECORD_AND_CHUNK_TYPES.join(", "))),
    }
}

impl Dump {
    /// Whether a filter is set. The heading of a segment without a matching record is then not printed.
    pub(super) fn has_filter(&self) -> bool {
        let Dump { from_index, to_index, term, types, key_prefix, records_max, last_records_max, .. } = self;
        from_index.is_some()
            || to_index.is_some()
            || term.is_some()
            || !types.is_empty()
            || key_prefix.is_some()
            || records_max.is_some()
            || last_records_max.is_some()
    }
}
