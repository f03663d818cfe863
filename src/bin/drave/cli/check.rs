//! `drave check`: checks that stored logs keep Raft's guarantees.

use super::diff::{about, about_json, read_all};
use crate::output::outln;
use crate::remote::cluster::Output;
use crate::remote::failure::CliError;
use clap::Args;
use drave::inspect::cluster;
use drave::inspect::directory::Directory;
use drave::inspect::violation::{Rule, Violations};
use serde_json::json;
use std::path::PathBuf;

/// Checks that data directories keep Raft's guarantees: each by itself, and all together. Works beside
/// running nodes: it takes no locks and changes nothing.
///
/// Exit code 0: all guarantees hold. 5: a guarantee is violated, or something is damaged.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// Data directories, or directories of segments, of one cluster.
    #[arg(required = true, value_name = "DIR")]
    pub directories: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `drave check`.
pub fn run(args: &Check) -> Result<(), CliError> {
    let directories = read_all(&args.directories)?;
    let mut found = Violations::default();
    for directory in &directories {
        found.extend(&directory.replay.violations);
    }
    cluster::judge(&directories, &mut found);
    stacked(args, &directories, &mut found)?;
    let damaged: usize = directories.iter().map(|directory| directory.damage.len()).sum();
    let code = if damaged > 0 || found.count() > 0 { 5 } else { 0 };
    match args.output {
        Output::Text => print(&directories, &found, damaged),
        Output::Json => outln!(
            "{}",
            json!({
                "directories": directories.iter().map(about_json).collect::<Vec<_>>(),
                "violations": found.kept, "more": found.more, "damaged": damaged, "exit": code,
            })
        ),
    }
    if code == 0 { Ok(()) } else { std::process::exit(code) }
}

/// A configuration that seems to be proposed too early may have been read too early: only a second read can tell.
fn stacked(args: &Check, directories: &[Directory], found: &mut Violations) -> Result<(), CliError> {
    let mut suspected = Violations::default();
    cluster::stacked(directories, directories, &mut suspected);
    if suspected.count() > 0 {
        cluster::stacked(directories, &read_all(&args.directories)?, found);
    }
    Ok(())
}

fn print(directories: &[Directory], found: &Violations, damaged: usize) {
    let width = directories.iter().map(|directory| directory.name.len()).max().unwrap_or(0);
    for directory in directories {
        outln!("# {:<width$}  {}", directory.name, about(directory));
        for what in &directory.damage {
            outln!("! {:<width$}  DAMAGED  {what}", directory.name);
        }
    }
    for rule in Rule::ALL {
        let broken: Vec<_> = found.kept.iter().filter(|violation| violation.rule == rule).collect();
        if broken.is_empty() {
            outln!("ok        {}", rule.name());
        }
        for violation in broken {
            outln!("! BROKEN  {:<20}  {}: {}", rule.name(), violation.places.join(", "), violation.what);
        }
    }
    if found.more > 0 {
        outln!("! and {} more", found.more);
    }
    let entries: usize = directories.iter().map(|directory| directory.replay.log.len()).sum();
    let terms = directories.iter().filter_map(|directory| Some(directory.replay.hard?.term.0)).max().unwrap_or(0);
    let count = found.count();
    outln!(
        "# total {} directories · {entries} entries · terms up to {terms} · {count} broken · {damaged} damaged",
        directories.len()
    );
}
