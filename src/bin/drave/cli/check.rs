//! `drave check`: checks that stored logs keep Raft's guarantees.

use super::diff::{directory_to_json, print_set_aside_files, read_directories, summarize_directory};
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

/// `drave check`: prints the violations and the damage; exits with 5 if there are any.
pub fn run(args: &Check) -> Result<(), CliError> {
    let directories = read_directories(&args.directories)?;
    let mut violations = Violations::default();
    for directory in &directories {
        violations.extend(&directory.replay.violations);
    }
    cluster::check_all(&directories, &mut violations);
    check_overlapping_membership_changes(args, &directories, &mut violations)?;
    let damage_count: usize = directories.iter().map(|directory| directory.damage.len()).sum();
    let exit_code = if damage_count > 0 || violations.count() > 0 { 5 } else { 0 };
    match args.output {
        Output::Text => print_report(&directories, &violations, damage_count),
        Output::Json => outln!(
            "{}",
            json!({
                "directories": directories.iter().map(directory_to_json).collect::<Vec<_>>(),
                "violations": violations.listed, "more": violations.unlisted_count, "damaged": damage_count,
                "exit": exit_code,
            })
        ),
    }
    if exit_code == 0 { Ok(()) } else { std::process::exit(exit_code) }
}

/// Checks that no configuration was proposed before the previous one was committed. Nodes may be running, so the first
/// read can miss entries that commit the previous one: only a second read of all directories proves a violation.
fn check_overlapping_membership_changes(
    args: &Check,
    directories: &[Directory],
    violations: &mut Violations,
) -> Result<(), CliError> {
    let mut suspected_violations = Violations::default();
    cluster::check_configuration_order(directories, directories, &mut suspected_violations);
    if suspected_violations.count() > 0 {
        cluster::check_configuration_order(directories, &read_directories(&args.directories)?, violations);
    }
    Ok(())
}

fn print_report(directories: &[Directory], violations: &Violations, damage_count: usize) {
    let name_width = directories.iter().map(|directory| directory.name.len()).max().unwrap_or(0);
    for directory in directories {
        outln!("# {:<name_width$}  {}", directory.name, summarize_directory(directory));
        for damage in &directory.damage {
            outln!("! {:<name_width$}  DAMAGED  {damage}", directory.name);
        }
        print_set_aside_files(directory, name_width);
    }
    for rule in Rule::ALL {
        let rule_violations: Vec<_> = violations.listed.iter().filter(|violation| violation.rule == rule).collect();
        if rule_violations.is_empty() {
            outln!("ok        {}", rule.name());
        }
        for violation in rule_violations {
            outln!("! BROKEN  {:<20}  {}: {}", rule.name(), violation.places.join(", "), violation.description);
        }
    }
    if violations.unlisted_count > 0 {
        outln!("! and {} more", violations.unlisted_count);
    }
    let entry_count: usize = directories.iter().map(|directory| directory.replay.log.len()).sum();
    let highest_term =
        directories.iter().filter_map(|directory| Some(directory.replay.hard_state?.term.0)).max().unwrap_or(0);
    let violation_count = violations.count();
    outln!(
        "# total {} directories · {entry_count} entries · terms up to {highest_term} · {violation_count} broken · \
         {damage_count} damaged",
        directories.len()
    );
}
