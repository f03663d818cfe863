//! `drave diff`: up to which position logs are identical, where they first differ, and whether the entries after that
//! are committed.

use crate::output::outln;
use crate::remote::cluster::Output;
use crate::remote::failure::CliError;
use clap::Args;
use drave::inspect::commit_status::{CommitStatus, LogTail, find_tail};
use drave::inspect::directory::Directory;
use drave::inspect::record_text::{RecordText, Style};
use drave::server::new_cluster::INDEX_JUMP_MIN;
use drave::types::{Index, Membership, Position, Term};
use drave::wal::identity::short_cluster_id;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Compares the logs of data directories. Works beside running nodes: it takes no locks and changes
/// nothing.
///
/// Exit code 0: identical. 1: they differ, if only in where they end. 5: something is damaged, or the
/// logs differ in a way that violates Raft; see `drave check`.
#[derive(Args, Clone, Debug)]
pub struct Diff {
    /// Data directories, or directories of segments: two or more.
    #[arg(required = true, num_args = 2.., value_name = "DIR")]
    pub directories: Vec<PathBuf>,
    /// Values in full, however long.
    #[arg(long = "full")]
    pub full_values: bool,
    /// Keys and values in hex.
    #[arg(long)]
    pub hex: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How the logs of the compared directories relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// All logs hold the same entries and end at the same one.
    Identical,
    /// Each log is a prefix of the longest one, and they end at different indexes.
    DifferentLengths,
    /// The logs hold different entries at one index.
    Diverged,
    /// Two logs hold different entries at one position (index and term), or different committed entries at one index.
    Violation,
    /// No index is in two of the logs.
    Disjoint,
}

/// The result of comparing the logs of all directories.
struct Comparison {
    /// The last position up to which all logs agree; `None` if there is none.
    last_common: Option<Position>,
    /// The first index at which two logs differ; `None` if none was found.
    first_difference: Option<Index>,
    verdict: Verdict,
    /// The entries of each log after the last common position; `None` if a log has none.
    tails: Vec<Option<LogTail>>,
}

/// `drave diff`: exits with 1 if the logs differ, 5 if one is damaged or a difference violates Raft.
pub fn run(args: &Diff) -> Result<(), CliError> {
    let directories = read_directories(&args.directories)?;
    let comparison = compare_logs(&directories);
    let has_damage = directories.iter().any(|directory| !directory.damage.is_empty());
    let exit_code = match comparison.verdict {
        _ if has_damage => 5,
        Verdict::Violation => 5,
        Verdict::Identical => 0,
        Verdict::DifferentLengths | Verdict::Diverged | Verdict::Disjoint => 1,
    };
    let style = Style { full: args.full_values, hex: args.hex };
    match args.output {
        Output::Text => print_comparison(&directories, &comparison, style),
        Output::Json => outln!("{}", comparison_to_json(&directories, &comparison, style, exit_code)),
    }
    if exit_code == 0 { Ok(()) } else { std::process::exit(exit_code) }
}

/// Reads the directories, and rejects them if they belong to different clusters or logs.
pub fn read_directories(paths: &[PathBuf]) -> Result<Vec<Directory>, CliError> {
    let mut directories = Vec::with_capacity(paths.len());
    for path in paths {
        directories.push(Directory::read(path)?);
    }
    let mut directories_with_cluster =
        directories.iter().filter_map(|directory| Some((directory, directory.owner?.cluster)));
    if let Some((first, cluster)) = directories_with_cluster.next()
        && let Some((other, other_cluster)) = directories_with_cluster.find(|(_, other)| *other != cluster)
    {
        let message = format!(
            "{} belongs to cluster {}, {} to cluster {}{}\n  only logs of one cluster can be compared",
            first.name,
            short_cluster_id(cluster),
            other.name,
            short_cluster_id(other_cluster),
            describe_new_clusters(&directories),
        );
        return Err(CliError { message, code: 2 });
    }
    reject_two_logs(&directories)?;
    Ok(directories)
}

/// Names the directories whose cluster was made by `drave recover` or `drave restore`; empty if there are none. The
/// text for each begins with a semicolon, as the continuation of a sentence.
fn describe_new_clusters(directories: &[Directory]) -> String {
    let first_configuration_index =
        |directory: &Directory| directory.replay.configurations.first().map(|first| first.index);
    let directories_with_first_index =
        directories.iter().filter_map(|directory| Some((directory, first_configuration_index(directory)?)));
    let texts = directories_with_first_index.filter(|(_, first_index)| first_index.0 >= INDEX_JUMP_MIN).map(
        |(directory, first_index)| {
            let former_directory = directory.path.join("before-recover");
            let former_log = if former_directory.is_dir() {
                format!(" (the former log is in {})", former_directory.display())
            } else {
                String::new()
            };
            format!(
                "; {} holds a new cluster since {first_index}, made by drave recover or drave restore{former_log}",
                directory.name
            )
        },
    );
    texts.collect()
}

/// Rejects directories of one cluster that hold two logs, because the cluster was founded twice: neither log replaces
/// entries of the other.
fn reject_two_logs(directories: &[Directory]) -> Result<(), CliError> {
    let log_id_of = |directory: &Directory| directory.membership().and_then(Membership::agreed_log_id);
    let mut directories_with_log_id =
        directories.iter().filter_map(|directory| Some((directory, log_id_of(directory)?)));
    let Some((first, log_id)) = directories_with_log_id.next() else { return Ok(()) };
    let Some((other, other_log_id)) = directories_with_log_id.find(|(_, other)| *other != log_id) else {
        return Ok(());
    };
    let message = format!(
        "{} holds log {log_id}, {} log {other_log_id}: the cluster was founded twice, and neither log replaces entries \
         of the other\n  only directories of one log can be compared",
        first.name, other.name
    );
    Err(CliError { message, code: 2 })
}

/// A directory's term at an index, and the entry's checksum if the entry itself is stored.
fn term_and_checksum_at(directory: &Directory, index: Index) -> Option<(Term, Option<u32>)> {
    if let Some(head) = directory.replay.log.get(index) {
        return Some((head.term, Some(head.checksum)));
    }
    directory.known_positions().find(|point| point.index == index).map(|point| (point.term, None))
}

/// Whether two entries have the same term and, as far as both are known, the same checksum.
fn is_same_entry(a: (Term, Option<u32>), b: (Term, Option<u32>)) -> bool {
    a.0 == b.0 && (a.1.is_none() || b.1.is_none() || a.1 == b.1)
}

/// Every index at which at least one directory has a term, once and in order.
fn stored_indexes(directories: &[Directory]) -> impl Iterator<Item = Index> {
    let position_spans =
        directories.iter().flat_map(|directory| directory.known_positions().map(|point| (point.index, point.index)));
    let logs = directories.iter().map(|directory| (directory.replay.log.first(), directory.replay.log.last()));
    let mut index_spans: Vec<(Index, Index)> =
        position_spans.chain(logs).filter(|(first, last)| first <= last).collect();
    index_spans.sort_unstable();
    let mut last_index_seen = Index::ZERO;
    index_spans.into_iter().flat_map(move |(first, last)| {
        let start = first.max(last_index_seen.next());
        last_index_seen = last_index_seen.max(last);
        (start.0..=last.0).map(Index)
    })
}

/// Compares the entries of all logs index by index, up to the first difference.
fn compare_logs(directories: &[Directory]) -> Comparison {
    let logs = || directories.iter().map(|directory| &directory.replay.log);
    let (shortest, longest) = (logs().map(|log| log.last()).min(), logs().map(|log| log.last()).max());
    let (shortest, longest) = (shortest.unwrap_or_default(), longest.unwrap_or_default());
    let indexes = stored_indexes(directories);
    let (mut last_common, mut first_difference, mut has_overlap) = (None, None, false);
    for index in indexes {
        let mut entries = directories.iter().filter_map(|directory| term_and_checksum_at(directory, index));
        let Some(first) = entries.next() else { continue };
        let mut other_entries = entries.peekable();
        let Some(second) = other_entries.peek().copied() else { continue };
        has_overlap = true;
        if !is_same_entry(first, second) || other_entries.any(|other| !is_same_entry(first, other)) {
            first_difference = Some(index);
            break;
        }
        if index <= shortest {
            last_common = Some(Position::new(index, first.0));
        }
    }
    let tail_start = first_difference.unwrap_or(last_common.map_or(Index(1), |last_common| last_common.index.next()));
    let tails: Vec<_> =
        (0..directories.len()).map(|n| find_tail(directories, n, tail_start).filter(|_| has_overlap)).collect();
    let verdict = match first_difference {
        Some(index) if is_violation(directories, index) => Verdict::Violation,
        Some(_) => Verdict::Diverged,
        None if !has_overlap && shortest != longest => Verdict::Disjoint,
        None if shortest == longest => Verdict::Identical,
        None => Verdict::DifferentLengths,
    };
    Comparison { last_common, first_difference, verdict, tails }
}

/// Whether Raft rules out the difference at `index`: the two entries have the same term, or both are committed.
fn is_violation(directories: &[Directory], index: Index) -> bool {
    let entries: Vec<_> = directories
        .iter()
        .filter_map(|d| Some((term_and_checksum_at(d, index)?, d.committed_upto().index >= index)))
        .collect();
    entries.iter().enumerate().any(|(n, (one, committed))| {
        entries[n + 1..].iter().any(|(other, other_committed)| {
            !is_same_entry(*one, *other) && (one.0 == other.0 || (*committed && *other_committed))
        })
    })
}

fn damaged_names(directories: &[Directory]) -> Vec<&str> {
    let damaged_directories = directories.iter().filter(|directory| !directory.damage.is_empty());
    damaged_directories.map(|directory| directory.name.as_str()).collect()
}

/// The last line of the output: whether the logs are identical, differ or violate Raft.
fn verdict_text(directories: &[Directory], comparison: &Comparison) -> String {
    let last_indexes = || directories.iter().map(|directory| directory.replay.log.last());
    match comparison.verdict {
        Verdict::Identical => match damaged_names(directories).as_slice() {
            [] => "identical".to_owned(),
            names => format!("nothing differs in what can be read · damaged: {}", names.join(", ")),
        },
        Verdict::Disjoint => "no index is in two of these logs: nothing can be compared".to_owned(),
        Verdict::DifferentLengths => {
            let highest_last_index = last_indexes().max().unwrap_or_default();
            let shorter_directories =
                directories.iter().filter(|directory| directory.replay.log.last() < highest_last_index);
            let lag_texts = shorter_directories.map(|directory| {
                let lag = highest_last_index.0 - directory.replay.log.last().0;
                format!("{} is {lag} {} behind", directory.name, if lag == 1 { "entry" } else { "entries" })
            });
            format!("no conflict: {}", lag_texts.collect::<Vec<_>>().join(", "))
        }
        Verdict::Diverged => {
            let is_commit_unknown = |tail: &LogTail| tail.status == CommitStatus::Unknown;
            match !comparison.tails.iter().flatten().any(is_commit_unknown) {
                true => "conflict, of a kind that is allowed: what was not committed will be replaced".to_owned(),
                false => "conflict: one of the tails at most is committed; which one cannot be known from these \
                          directories alone"
                    .to_owned(),
            }
        }
        Verdict::Violation => "VIOLATION: logs never may differ so; see: drave check".to_owned(),
    }
}

/// A directory's record at an index as text, or why it has none.
fn record_text(directory: &Directory, index: Index, style: Style) -> (String, Option<RecordText>) {
    let log = &directory.replay.log;
    if let Some(head) = log.get(index) {
        let record = directory.record(index, style);
        let text = record.as_ref().map(|record| format!("{:<6} {}", record.name, record.content));
        let text = text.unwrap_or_else(|| "(its record is not there any more)".to_owned());
        return (format!("{}  {}", Position::new(index, head.term), text.trim_end()), record);
    }
    if let Some(point) = directory.known_positions().find(|point| point.index == index) {
        return (format!("{point}  (in its snapshot)"), None);
    }
    let text = match index {
        _ if index > log.last() => {
            format!("-  (its log ends at {})", position_text(log.position(log.last()), log.last()))
        }
        _ if index < log.first() => format!("-  (its log begins at {})", log.first()),
        _ => "-  (damaged)".to_owned(),
    };
    (text, None)
}

/// A position as text; `index@?` if `position` is `None`, because the term at the index is unknown.
fn position_text(position: Option<Position>, index: Index) -> String {
    position.map_or_else(|| format!("{index}@?"), |position| position.to_string())
}

fn print_comparison(directories: &[Directory], comparison: &Comparison, style: Style) {
    let name_width = directories.iter().map(|directory| directory.name.len()).max().unwrap_or(0);
    for directory in directories {
        outln!("# {:<name_width$}  {}", directory.name, summarize_directory(directory));
        print_set_aside_files(directory, name_width);
        for damage in &directory.damage {
            outln!("! {:<name_width$}  {damage}", directory.name);
        }
    }
    match comparison.last_common {
        Some(last_common) if damaged_names(directories).is_empty() => outln!("identical up to {last_common}"),
        Some(last_common) => outln!("no difference up to {last_common}, as far as they can be read"),
        None => outln!("nothing in common"),
    }
    if let Some(index) = comparison.first_difference {
        outln!("first difference at {index}");
        for directory in directories {
            outln!("  {:<name_width$}  {}", directory.name, record_text(directory, index, style).0);
        }
    }
    for (directory, tail) in directories.iter().zip(&comparison.tails) {
        let Some(tail) = tail else { continue };
        let entry_count = tail.last.index.0 - tail.first.index.0 + 1;
        let entries = if entry_count == 1 { "1 entry" } else { &format!("{entry_count} entries") };
        outln!("tail {:<name_width$}  {}..{}, {entries}: {}", directory.name, tail.first, tail.last, tail.status_text);
    }
    outln!("{}", verdict_text(directories, comparison));
}

/// One line on a directory: its owner, log, hard state and newest snapshot.
pub fn summarize_directory(directory: &Directory) -> String {
    let log = &directory.replay.log;
    let owner_text = directory.owner.map_or("node ?".to_owned(), |owner| {
        format!("node {} · cluster {}", owner.node.get(), short_cluster_id(owner.cluster))
    });
    let entries_text = match log.is_empty() {
        true => format!("no entries behind {}", log.position_before()),
        false => format!("entries {}..{}", log.first(), position_text(log.position(log.last()), log.last())),
    };
    let hard_state_text = directory.replay.hard_state.map_or("no term".to_owned(), |hard_state| {
        let vote_text = hard_state.vote.map_or("-".to_owned(), |vote| vote.node.get().to_string());
        format!("term {} vote {vote_text}", hard_state.term)
    });
    let snapshot_text = directory.snapshots.last().map_or(String::new(), |s| format!(" · snapshot {}", s.position));
    let torn_tail_text = if directory.torn_batches > 0 { " · torn tail (normal after a crash)" } else { "" };
    format!("{owner_text} · {entries_text} · {hard_state_text}{snapshot_text}{torn_tail_text}")
}

/// Prints a line for each file of a directory that a repair has set aside.
pub fn print_set_aside_files(directory: &Directory, name_width: usize) {
    for file in &directory.set_aside_files {
        outln!("# {:<name_width$}  {file}", directory.name);
    }
}

/// The owner, log, hard state, newest snapshot and damage of a directory as JSON; and the files that a repair has set
/// aside, if there are any.
pub fn directory_to_json(directory: &Directory) -> Value {
    let (log, hard) = (&directory.replay.log, directory.replay.hard_state);
    let mut value = json!({
        "path": directory.name,
        "node": directory.owner.map(|owner| owner.node.get()),
        "cluster": directory.owner.map(|owner| short_cluster_id(owner.cluster)),
        "first": (!log.is_empty()).then(|| log.first().0),
        "last": (!log.is_empty()).then(|| log.last().0),
        "last_term": log.last_term().map(|term| term.0),
        "term": hard.map(|hard| hard.term.0),
        "vote": hard.and_then(|hard| hard.vote).map(|vote| vote.node.get()),
        "snapshot": directory.snapshots.last().map(|snapshot| snapshot.position.index.0),
        "torn": directory.torn_batches,
        "damage": directory.damage,
    });
    if !directory.set_aside_files.is_empty() {
        value["set_aside"] = directory.set_aside_files.iter().map(ToString::to_string).collect();
    }
    value
}

fn comparison_to_json(directories: &[Directory], comparison: &Comparison, style: Style, code: i32) -> Value {
    let position_json = |position: Position| json!({ "index": position.index.0, "term": position.term.0 });
    let records_at = |index: Index| -> Vec<Value> {
        let record_json = |directory: &Directory| {
            let (_, record) = record_text(directory, index, style);
            let entry = term_and_checksum_at(directory, index);
            json!({
                "path": directory.name, "term": entry.map(|(term, _)| term.0),
                "crc": entry.and_then(|(_, crc)| crc).map(|crc| format!("{crc:08x}")),
                "type": record.as_ref().map(|record| record.name),
                "what": record.as_ref().map(|record| record.content.clone()),
                "fields": record.map(|record| record.fields),
            })
        };
        directories.iter().map(record_json).collect()
    };
    let tails = directories.iter().zip(&comparison.tails).filter_map(|(directory, tail)| {
        let tail = tail.as_ref()?;
        Some(json!({
            "path": directory.name, "first": position_json(tail.first), "last": position_json(tail.last),
            "standing": tail.status, "what": tail.status_text,
        }))
    });
    let verdict_name = match comparison.verdict {
        Verdict::Identical => "identical",
        Verdict::DifferentLengths => "behind",
        Verdict::Diverged => "diverged",
        Verdict::Violation => "violation",
        Verdict::Disjoint => "apart",
    };
    json!({
        "directories": directories.iter().map(directory_to_json).collect::<Vec<_>>(),
        "identical_up_to": comparison.last_common.map(position_json),
        "differs_at": comparison.first_difference.map(|index| index.0),
        "records": comparison.first_difference.map(records_at),
        "tails": tails.collect::<Vec<_>>(),
        "verdict": verdict_name,
        "what": verdict_text(directories, comparison),
        "exit": code,
    })
}
