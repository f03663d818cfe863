//! `drave upgrade`: raises the feature level of the cluster, after every node runs the newer program.

use super::member::{explain_change_error, print_change};
use crate::output::outln;
use crate::remote::cluster::{ClusterArgs, ms_since};
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use clap::{Args, Subcommand};
use drave::api::{RoleName, Status, UpgradeStatus};
use drave::types::Change;
use serde_json::json;
use std::time::Instant;

/// Finishes an upgrade of the cluster.
#[derive(Args, Debug)]
pub struct Upgrade {
    #[command(subcommand)]
    command: UpgradeCommand,
}

#[derive(Subcommand, Debug)]
enum UpgradeCommand {
    /// Enables the features of the newer program, for good: no node can go back to the older program afterwards
    Finish(FinishArgs),
}

#[derive(Args, Debug)]
struct FinishArgs {
    /// Changes nothing, and reports what holds the upgrade back
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// `drave upgrade finish`: exits with 1 if a member holds the upgrade back, and with 3 if no node leads.
pub fn run(args: &Upgrade) -> Result<(), CliError> {
    let UpgradeCommand::Finish(args) = &args.command;
    let results = poll(&args.cluster);
    let statuses = results.iter().filter_map(|result| result.status.as_ref().ok());
    let leader = statuses.filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term);
    let Some(leader) = leader else {
        return Err(CliError { message: "no node leads\n  see: drave doctor".to_owned(), code: 3 });
    };
    let level = leader.versions.feature_level;
    let Some(UpgradeStatus { level: next, obstacles }) = &leader.versions.upgrade else {
        return report(
            args,
            (level, level),
            &format!("the cluster has level {level}, and no member knows a later one"),
        );
    };
    if !obstacles.is_empty() {
        let message = format!(
            "the feature level cannot be raised from {level} to {next} yet: {}\n  nothing was changed · see: drave status",
            obstacles.join("; ")
        );
        return Err(CliError { message, code: 1 });
    }
    if args.check {
        return report(
            args,
            (level, *next),
            &format!("every member knows level {next}: drave upgrade finish enables it"),
        );
    }
    let began = Instant::now();
    let change = Change::RaiseFeatureLevel(*next);
    let position =
        args.cluster.client().change(&change, false).map_err(|error| explain_change_error(&args.cluster, error))?;
    print_change(&args.cluster, position, ms_since(began), &format!("the cluster has feature level {next} now"));
    Ok(())
}

/// Prints the present level and the level that can be enabled, with a text.
fn report(args: &FinishArgs, (level, next): (u16, u16), text: &str) -> Result<(), CliError> {
    if args.cluster.prints_json() {
        outln!("{}", json!({ "ok": true, "feature_level": level, "next_level": next, "what": text }));
    } else {
        outln!("{text}");
    }
    Ok(())
}

/// Lines about versions for `drave status`: the program of each node if they differ, and the upgrade of the feature level
/// if one is possible or held back. None in a cluster of one version.
pub fn version_lines(statuses: &[&Status], leader: Option<&Status>) -> Vec<String> {
    let versions_of =
        |status: &Status| (status.version.clone(), status.versions.protocol_max, status.versions.feature_level_max);
    let differ = statuses.iter().any(|status| versions_of(status) != versions_of(statuses[0]));
    let node_text = |status: &&Status| {
        let versions = &status.versions;
        let protocol = format!("protocol {} to {}", versions.protocol_min, versions.protocol_max);
        format!("n{} {} ({protocol}, level {})", status.node, status.version, versions.feature_level_max)
    };
    let program_line =
        differ.then(|| format!("versions: {}", statuses.iter().map(node_text).collect::<Vec<_>>().join(" · ")));
    let upgrade_line = leader.and_then(|leader| {
        let UpgradeStatus { level: next, obstacles } = leader.versions.upgrade.as_ref()?;
        let level = leader.versions.feature_level;
        Some(match obstacles.is_empty() {
            true => format!("feature level {level} · every member knows level {next}: drave upgrade finish enables it"),
            false => format!("feature level {level} · level {next} is held back: {}", obstacles.join("; ")),
        })
    });
    program_line.into_iter().chain(upgrade_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drave::api::VersionStatus;

    fn status(node: u64, version: &str, level_max: u16, upgrade: Option<UpgradeStatus>) -> Status {
        let versions = VersionStatus {
            protocol_min: 8,
            protocol_max: 7 + level_max,
            feature_level: 1,
            feature_level_max: level_max,
            members: Vec::new(),
            upgrade,
        };
        Status { node, version: version.to_owned(), versions, ..Status::default() }
    }

    #[test]
    fn versions_are_shown_only_if_they_differ_or_an_upgrade_is_possible() {
        let old_nodes = [status(1, "0.1.0", 1, None), status(2, "0.1.0", 1, None)];
        assert_eq!(version_lines(&old_nodes.each_ref(), Some(&old_nodes[0])), Vec::<String>::new());
        let obstacles = vec!["n1 runs a program that knows up to level 1".to_owned()];
        let leader = status(2, "0.2.0", 2, Some(UpgradeStatus { level: 2, obstacles }));
        assert_eq!(
            version_lines(&[&old_nodes[0], &leader], Some(&leader)),
            [
                "versions: n1 0.1.0 (protocol 8 to 8, level 1) · n2 0.2.0 (protocol 8 to 9, level 2)",
                "feature level 1 · level 2 is held back: n1 runs a program that knows up to level 1",
            ]
        );
        let leader = status(2, "0.2.0", 2, Some(UpgradeStatus { level: 2, obstacles: Vec::new() }));
        assert_eq!(
            version_lines(&[&leader], Some(&leader)),
            ["feature level 1 · every member knows level 2: drave upgrade finish enables it"]
        );
        assert_eq!(version_lines(&[], None), Vec::<String>::new());
    }
}
