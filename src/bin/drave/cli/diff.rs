//! `drave diff`: how far logs are identical, where they first differ, and what is known of the rest.

use crate::output::outln;
use crate::remote::cluster::Output;
use crate::remote::failure::CliError;
use clap::Args;
use drave::inspect::commit_status::{CommitStatus, Tail, tail};
use drave::inspect::directory::Directory;
use drave::inspect::record_text::{RecordText, Style};
use drave::server::new_cluster::INDEX_GAP;
use drave::types::{Index, Membership, Position, Term};
use drave::wal::identity::short;
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
    #[arg(long)]
    pub full: bool,
    /// Keys and values in hex.
    #[arg(long)]
    pub hex: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// The result of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// All logs hold the same entries and end at the same one.
    Identical,
    /// The logs are the same as far as each goes, but end at different indexes.
    Behind,
    /// The logs hold different entries at one index.
    Diverged,
    /// One position holds two different entries, or two different histories are both committed.
    Violation,
    /// No index is in two of the logs.
    Apart,
}

/// A comparison of directories.
struct Comparison {
    /// The last position that is the same in all directories that hold it.
    common: Option<Position>,
    /// The first index at which two directories differ.
    differs: Option<Index>,
    verdict: Verdict,
    tails: Vec<Option<Tail>>,
}

/// `drave diff`.
pub fn run(args: &Diff) -> Result<(), CliError> {
    let directories = read_all(&args.directories)?;
    let compared = compare(&directories);
    let damaged = directories.iter().any(|directory| !directory.damage.is_empty());
    let code = match compared.verdict {
        _ if damaged => 5,
        Verdict::Violation => 5,
        Verdict::Identical => 0,
        Verdict::Behind | Verdict::Diverged | Verdict::Apart => 1,
    };
    let style = Style { full: args.full, hex: args.hex };
    match args.output {
        Output::Text => print(&directories, &compared, style),
        Output::Json => outln!("{}", to_json(&directories, &compared, style, code)),
    }
    if code == 0 { Ok(()) } else { std::process::exit(code) }
}

/// Reads the directories, and rejects them if they belong to different clusters or logs.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Directory>, CliError> {
    let mut directories = Vec::with_capacity(paths.len());
    for path in paths {
        directories.push(Directory::read(path)?);
    }
    let mut owners = directories.iter().filter_map(|directory| Some((directory, directory.owner?.cluster)));
    if let Some((first, cluster)) = owners.next()
        && let Some((other, another)) = owners.find(|(_, other)| *other != cluster)
    {
        let what = format!(
            "{} belongs to cluster {}, {} to cluster {}{}\n  only logs of one cluster can be compared",
            first.name,
            short(cluster),
            other.name,
            short(another),
            refounded(&directories),
        );
        return Err(CliError { what, code: 2 });
    }
    refuse_two_logs(&directories)?;
    Ok(directories)
}

/// Text that names the directories whose cluster was created from another cluster's state, to follow a sentence.
fn refounded(directories: &[Directory]) -> String {
    let begins = |directory: &Directory| directory.replay.configurations.first().map(|first| first.index);
    let all = directories.iter().filter_map(|directory| Some((directory, begins(directory)?)));
    let made = all.filter(|(_, begins)| begins.0 >= INDEX_GAP).map(|(directory, begins)| {
        let former = directory.path.join("before-recover");
        let kept =
            if former.is_dir() { format!(" (the former log is in {})", former.display()) } else { String::new() };
        format!("; {} holds a new cluster since {begins}, made by drave recover or drave restore{kept}", directory.name)
    });
    made.collect()
}

/// Rejects directories of one founding list that hold two logs: neither log replaces entries of the other.
fn refuse_two_logs(directories: &[Directory]) -> Result<(), CliError> {
    let log = |directory: &Directory| directory.membership().and_then(Membership::agreed_log);
    let mut logs = directories.iter().filter_map(|directory| Some((directory, log(directory)?)));
    let Some((first, one)) = logs.next() else { return Ok(()) };
    let Some((other, two)) = logs.find(|(_, other)| *other != one) else { return Ok(()) };
    let what = format!(
        "{} holds log {one}, {} log {two}: the cluster was founded twice, and neither log replaces entries of the \
         other\n  only directories of one log can be compared",
        first.name, other.name
    );
    Err(CliError { what, code: 2 })
}

/// A directory's term at an index, and the entry's checksum if the entry itself is stored.
fn at(directory: &Directory, index: Index) -> Option<(Term, Option<u32>)> {
    if let Some(head) = directory.replay.log.get(index) {
        return Some((head.term, Some(head.checksum)));
    }
    directory.waypoints().find(|point| point.index == index).map(|point| (point.term, None))
}

fn same(a: (Term, Option<u32>), b: (Term, Option<u32>)) -> bool {
    a.0 == b.0 && (a.1.is_none() || b.1.is_none() || a.1 == b.1)
}

/// Every index at which some directory has a term, once and in order. Skips the gaps between logs.
fn indexes(directories: &[Directory]) -> impl Iterator<Item = Index> {
    let points = directories.iter().flat_map(|directory| directory.waypoints().map(|point| (point.index, point.index)));
    let logs = directories.iter().map(|directory| (directory.replay.log.first(), directory.replay.log.last()));
    let mut spans: Vec<(Index, Index)> = points.chain(logs).filter(|(first, last)| first <= last).collect();
    spans.sort_unstable();
    let mut seen = Index::ZERO;
    spans.into_iter().flat_map(move |(first, last)| {
        let from = first.max(seen.next());
        seen = seen.max(last);
        (from.0..=last.0).map(Index)
    })
}

fn compare(directories: &[Directory]) -> Comparison {
    let logs = || directories.iter().map(|directory| &directory.replay.log);
    let (shortest, longest) = (logs().map(|log| log.last()).min(), logs().map(|log| log.last()).max());
    let (shortest, longest) = (shortest.unwrap_or_default(), longest.unwrap_or_default());
    let indexes = indexes(directories);
    let (mut common, mut differs, mut overlap) = (None, None, false);
    for index in indexes {
        let mut there = directories.iter().filter_map(|directory| at(directory, index));
        let Some(first) = there.next() else { continue };
        let mut others = there.peekable();
        let Some(second) = others.peek().copied() else { continue };
        overlap = true;
        if !same(first, second) || others.any(|other| !same(first, other)) {
            differs = Some(index);
            break;
        }
        if index <= shortest {
            common = Some(Position::new(index, first.0));
        }
    }
    let beyond = differs.unwrap_or(common.map_or(Index(1), |common| common.index.next()));
    let tails: Vec<_> =
        (0..directories.len()).map(|which| tail(directories, which, beyond).filter(|_| overlap)).collect();
    let verdict = match differs {
        Some(index) if is_violation(directories, index) => Verdict::Violation,
        Some(_) => Verdict::Diverged,
        None if !overlap && shortest != longest => Verdict::Apart,
        None if shortest == longest => Verdict::Identical,
        None => Verdict::Behind,
    };
    Comparison { common, differs, verdict, tails }
}

/// Whether the difference at `index` is one that Raft rules out: one position is two entries, or both entries are
/// committed.
fn is_violation(directories: &[Directory], index: Index) -> bool {
    let there: Vec<_> =
        directories.iter().filter_map(|d| Some((at(d, index)?, d.committed().index >= index))).collect();
    there.iter().enumerate().any(|(n, (one, committed))| {
        there[n + 1..].iter().any(|(other, both)| !same(*one, *other) && (one.0 == other.0 || (*committed && *both)))
    })
}

/// The names of the directories that hold damage.
fn damaged(directories: &[Directory]) -> Vec<&str> {
    let damaged = directories.iter().filter(|directory| !directory.damage.is_empty());
    damaged.map(|directory| directory.name.as_str()).collect()
}

fn verdict(directories: &[Directory], compared: &Comparison) -> String {
    let lasts = || directories.iter().map(|directory| directory.replay.log.last());
    match compared.verdict {
        Verdict::Identical => match damaged(directories).as_slice() {
            [] => "identical".to_owned(),
            names => format!("nothing differs in what can be read · damaged: {}", names.join(", ")),
        },
        Verdict::Apart => "no index is in two of these logs: nothing can be compared".to_owned(),
        Verdict::Behind => {
            let longest = lasts().max().unwrap_or_default();
            let behind = directories.iter().filter(|directory| directory.replay.log.last() < longest);
            let each = behind.map(|directory| {
                let by = longest.0 - directory.replay.log.last().0;
                format!("{} is {by} {} behind", directory.name, if by == 1 { "entry" } else { "entries" })
            });
            format!("no conflict: {}", each.collect::<Vec<_>>().join(", "))
        }
        Verdict::Diverged => {
            let unknown = |tail: &Tail| tail.standing == CommitStatus::Unknown;
            match !compared.tails.iter().flatten().any(unknown) {
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
fn record(directory: &Directory, index: Index, style: Style) -> (String, Option<RecordText>) {
    let log = &directory.replay.log;
    if let Some(head) = log.get(index) {
        let said = directory.record(index, style);
        let words = said.as_ref().map(|said| format!("{:<6} {}", said.name, said.what));
        let words = words.unwrap_or_else(|| "(its record is not there any more)".to_owned());
        return (format!("{}  {}", Position::new(index, head.term), words.trim_end()), said);
    }
    if let Some(point) = directory.waypoints().find(|point| point.index == index) {
        return (format!("{point}  (in its snapshot)"), None);
    }
    let what = match index {
        _ if index > log.last() => format!("-  (its log ends at {})", position(log.position(log.last()), log.last())),
        _ if index < log.first() => format!("-  (its log begins at {})", log.first()),
        _ => "-  (damaged)".to_owned(),
    };
    (what, None)
}

fn position(position: Option<Position>, index: Index) -> String {
    position.map_or_else(|| format!("{index}@?"), |position| position.to_string())
}

fn print(directories: &[Directory], compared: &Comparison, style: Style) {
    let width = directories.iter().map(|directory| directory.name.len()).max().unwrap_or(0);
    for directory in directories {
        outln!("# {:<width$}  {}", directory.name, about(directory));
        for what in &directory.damage {
            outln!("! {:<width$}  {what}", directory.name);
        }
    }
    match compared.common {
        Some(common) if damaged(directories).is_empty() => outln!("identical up to {common}"),
        Some(common) => outln!("no difference up to {common}, as far as they can be read"),
        None => outln!("nothing in common"),
    }
    if let Some(index) = compared.differs {
        outln!("first difference at {index}");
        for directory in directories {
            outln!("  {:<width$}  {}", directory.name, record(directory, index, style).0);
        }
    }
    for (directory, tail) in directories.iter().zip(&compared.tails) {
        let Some(tail) = tail else { continue };
        let count = tail.last.index.0 - tail.first.index.0 + 1;
        let entries = if count == 1 { "1 entry" } else { &format!("{count} entries") };
        outln!("tail {:<width$}  {}..{}, {entries}: {}", directory.name, tail.first, tail.last, tail.what);
    }
    outln!("{}", verdict(directories, compared));
}

/// A summary of a directory, in a line.
pub fn about(directory: &Directory) -> String {
    let log = &directory.replay.log;
    let owner = directory
        .owner
        .map_or("node ?".to_owned(), |owner| format!("node {} · cluster {}", owner.node.get(), short(owner.cluster)));
    let entries = match log.is_empty() {
        true => format!("no entries behind {}", log.before()),
        false => format!("entries {}..{}", log.first(), position(log.position(log.last()), log.last())),
    };
    let hard = directory.replay.hard.map_or("no term".to_owned(), |hard| {
        let vote = hard.vote.map_or("-".to_owned(), |vote| vote.node.get().to_string());
        format!("term {} vote {vote}", hard.term)
    });
    let snapshot = directory.snapshots.last().map_or(String::new(), |s| format!(" · snapshot {}", s.position));
    let torn = if directory.torn > 0 { " · torn tail (normal after a crash)" } else { "" };
    format!("{owner} · {entries} · {hard}{snapshot}{torn}")
}

/// The same summary as JSON.
pub fn about_json(directory: &Directory) -> Value {
    let (log, hard) = (&directory.replay.log, directory.replay.hard);
    json!({
        "path": directory.name,
        "node": directory.owner.map(|owner| owner.node.get()),
        "cluster": directory.owner.map(|owner| short(owner.cluster)),
        "first": (!log.is_empty()).then(|| log.first().0),
        "last": (!log.is_empty()).then(|| log.last().0),
        "last_term": log.last_term().map(|term| term.0),
        "term": hard.map(|hard| hard.term.0),
        "vote": hard.and_then(|hard| hard.vote).map(|vote| vote.node.get()),
        "snapshot": directory.snapshots.last().map(|snapshot| snapshot.position.index.0),
        "torn": directory.torn,
        "damage": directory.damage,
    })
}

fn to_json(directories: &[Directory], compared: &Comparison, style: Style, code: i32) -> Value {
    let pair = |position: Position| json!({ "index": position.index.0, "term": position.term.0 });
    let records = |index: Index| -> Vec<Value> {
        let one = |directory: &Directory| {
            let (_, said) = record(directory, index, style);
            let there = at(directory, index);
            json!({
                "path": directory.name, "term": there.map(|(term, _)| term.0),
                "crc": there.and_then(|(_, crc)| crc).map(|crc| format!("{crc:08x}")),
                "type": said.as_ref().map(|said| said.name), "what": said.as_ref().map(|said| said.what.clone()),
                "fields": said.map(|said| said.fields),
            })
        };
        directories.iter().map(one).collect()
    };
    let tails = directories.iter().zip(&compared.tails).filter_map(|(directory, tail)| {
        let tail = tail.as_ref()?;
        Some(json!({
            "path": directory.name, "first": pair(tail.first), "last": pair(tail.last),
            "standing": tail.standing, "what": tail.what,
        }))
    });
    let word = match compared.verdict {
        Verdict::Identical => "identical",
        Verdict::Behind => "behind",
        Verdict::Diverged => "diverged",
        Verdict::Violation => "violation",
        Verdict::Apart => "apart",
    };
    json!({
        "directories": directories.iter().map(about_json).collect::<Vec<_>>(),
        "identical_up_to": compared.common.map(pair),
        "differs_at": compared.differs.map(|index| index.0),
        "records": compared.differs.map(records),
        "tails": tails.collect::<Vec<_>>(),
        "verdict": word,
        "what": verdict(directories, compared),
        "exit": code,
    })
}
