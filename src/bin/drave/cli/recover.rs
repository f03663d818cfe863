//! `drave recover`: makes a new cluster of one surviving node when a majority is lost for good.

use crate::output::outln;
use crate::remote::failure::CliError;
use clap::Args;
use drave::apply::Applier;
use drave::config::Config;
use drave::disk::FsDisk;
use drave::inspect::directory::{Directory, Owner};
use drave::machine::Kv;
use drave::server::ServerError;
use drave::server::boot::{RecoveredDirectory, recover_directory};
use drave::server::new_cluster::{
    FirstMember, NewCluster, begin_replacement, finish_replacement, is_replacement_pending, write_new_cluster,
};
use drave::server::start_progress::{REPORT_INTERVAL, StartProgress};
use drave::snapshotting::SnapshotRestore;
use drave::types::{Index, Membership, NodeId, Position};
use drave::wal::identity::{Identity, short_cluster_id};
use drave::wal::{Fault, RecoveredLog};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The maximum size of a batch of entries that is read from the log, in bytes.
const READ_BATCH_BYTES_MAX: u64 = 4 << 20;

/// Makes a new cluster of one stopped node, when a majority of its cluster's voters is lost for good. Entries that
/// other nodes acknowledged and this node had not received are lost; entries that it had received become committed,
/// even if no quorum acknowledged them. The new cluster has a new id, and its index begins far ahead of the former
/// one: nodes of the former cluster exchange no messages with it. The former directory is kept inside the directory,
/// as before-recover.
///
/// Exit code 1: nothing was changed; the output shows what would be lost.
#[derive(Args, Clone, Debug)]
pub struct Recover {
    /// The data directory of the surviving node
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Only restores the directory's missing identity, from the headers of its segments
    #[arg(long = "identity", conflicts_with = "accept_data_loss")]
    only_identity: bool,
    /// Makes the new cluster; without this option the command only prints what would be lost
    #[arg(long)]
    accept_data_loss: bool,
}

/// The owner, the last entry and the latest membership of the directory to recover.
struct DirectorySummary {
    node: NodeId,
    last_position: Position,
    membership: Membership,
}

/// `drave recover`: exits with 1 if nothing was changed.
pub fn run(args: &Recover) -> Result<(), CliError> {
    let path = args.directory.display().to_string();
    if args.only_identity {
        return restore_identity(args);
    }
    if is_replacement_pending(&args.directory) {
        return finish_recovery(args, None);
    }
    let mut progress = StartProgress::begin(REPORT_INTERVAL, |line| eprintln!("{line}"))
        .map_err(|error| io_error("cannot start a thread", &error))?;
    let directory = open_directory(args, &mut progress)?;
    let summary = DirectorySummary::of(directory.identity.node, &directory.recovered_log);
    let other_nodes: Vec<String> =
        summary.membership.ids().filter(|id| *id != summary.node).map(|id| id.to_string()).collect();
    let (node, last, other_nodes) = (summary.node, summary.last_position, other_nodes.join(", "));
    if summary.membership.voters.len() == 1 && other_nodes.is_empty() {
        let message =
            format!("{path}: {node} is a cluster of its own already. Nothing was changed.\n  drave serve starts it");
        return Err(CliError { message, code: 1 });
    }
    outln!("{path}: {node} holds all up to {last}, the members are {}", summary.membership);
    outln!("lost for good: all that {other_nodes} acknowledged after {last}");
    outln!("becomes committed: all that {node} holds up to {last}, acknowledged or not");
    if !args.accept_data_loss {
        return Err(missing_acceptance_error(
            "  first check whether another directory holds more: drave diff DIR DIR …",
        ));
    }
    let new_cluster = summary.write_recovered_cluster(args, &directory, &mut progress)?;
    finish_recovery(args, Some((&directory, new_cluster)))?;
    outln!("then: other nodes join with EMPTY directories; the old ones of {other_nodes} belong to the former cluster");
    Ok(())
}

/// Writes a missing identity again, from the headers of the segments, which name node, cluster and disk.
fn restore_identity(args: &Recover) -> Result<(), CliError> {
    let path = args.directory.display().to_string();
    let rejection = |reason: String| CliError { message: format!("{path}: {reason}\n  nothing was changed"), code: 1 };
    if is_replacement_pending(&args.directory) {
        return Err(rejection("an earlier recovery was interrupted: --accept-data-loss finishes it".to_owned()));
    }
    let disk = FsDisk::open_existing(&args.directory).map_err(|error| io_error(&path, &error))?;
    let lock = disk.lock("LOCK").map_err(|error| io_error(&path, &error))?;
    let _lock =
        lock.ok_or_else(|| rejection("in use by another process: a node runs there; stop it first".to_owned()))?;
    if let Some(owner) = Identity::read(&disk).map_err(fault_error)? {
        return Err(rejection(format!("{}, and nothing is missing", owner.describe_owner("it"))));
    }
    let contents = Directory::read(&args.directory)?;
    if let Some(damage) = contents.damage.first() {
        return Err(rejection(format!("its owner is uncertain: {damage}")));
    }
    let Some(owner) = contents.owner else { return Err(rejection("no segment names its owner".to_owned())) };
    let log_id = contents.membership().and_then(Membership::agreed_log_id);
    let Owner { node, cluster, disk: own_disk, .. } = owner;
    // The number of starts is unknown: after the next start, peers may mistake this directory for an older copy of the
    // disk, but only once.
    Identity { node, cluster, disk: own_disk, journal_created: true, log: log_id, starts: 0 }
        .write(&disk)
        .map_err(fault_error)?;
    outln!("done: {path} belongs to {node} of cluster {}, disk {own_disk}", short_cluster_id(cluster));
    outln!("next: drave serve --id {} --data {path}", node.get());
    Ok(())
}

/// The error for a call without `--accept-data-loss`, followed by `advice`.
fn missing_acceptance_error(advice: &str) -> CliError {
    CliError { message: format!("nothing was changed: --accept-data-loss makes the new cluster\n{advice}"), code: 1 }
}

/// Replaces the former directory by the new one, which is complete. `new_cluster` is `None` if a crash interrupted an
/// earlier attempt.
fn finish_recovery(args: &Recover, new_cluster: Option<(&RecoveredDirectory, NewCluster)>) -> Result<(), CliError> {
    let path = args.directory.display().to_string();
    let disk = FsDisk::open_existing(&args.directory).map_err(|error| io_error(&path, &error))?;
    let lock = match new_cluster {
        // The caller holds the lock already: `open_directory` has taken it.
        Some(_) => None,
        None if !args.accept_data_loss => {
            return Err(missing_acceptance_error(&format!(
                "  an earlier recovery of {path} was interrupted; this finishes it"
            )));
        }
        None => Some(disk.lock("LOCK").map_err(|error| io_error(&path, &error))?.ok_or_else(|| CliError {
            message: format!("{path} is in use by another process: a node runs there; stop it first"),
            code: 78,
        })?),
    };
    let former_path = finish_replacement(&args.directory).map_err(fault_error)?;
    let Some(owner) = Identity::read(&disk).map_err(fault_error)? else {
        return Err(CliError { message: format!("{path} has no identity: a bug"), code: 70 });
    };
    drop(lock);
    let (node, cluster) = (owner.node, short_cluster_id(owner.cluster));
    let from_position_text =
        new_cluster.map_or(String::new(), |(_, new_cluster)| format!(", from {} on", new_cluster.position));
    outln!("done: {node} alone is a new cluster: {cluster}{from_position_text}");
    if let Some(former_path) = former_path {
        outln!("kept: the former directory, in {}", former_path.display());
    }
    outln!("next: drave serve --id {} --data {path}", node.get());
    Ok(())
}

/// Opens the data directory, and recovers its snapshot and log as a starting node does.
fn open_directory(args: &Recover, progress: &mut StartProgress) -> Result<RecoveredDirectory, CliError> {
    let disk = FsDisk::open_existing(&args.directory)
        .map_err(|error| io_error(&args.directory.display().to_string(), &error))?;
    let Some(owner) = Identity::read(&disk).map_err(fault_error)? else {
        let message = format!("{} is not a node's data directory. Nothing was changed.", args.directory.display());
        return Err(CliError { message, code: 78 });
    };
    let config = Config::new(owner.node, BTreeMap::new(), &args.directory);
    recover_directory(&config, None, progress).map_err(fault_error)
}

fn io_error(context: &str, error: &std::io::Error) -> CliError {
    CliError { message: format!("{context}: {error}"), code: 74 }
}

fn fault_error(fault: Fault) -> CliError {
    ServerError::from(fault).into()
}

impl DirectorySummary {
    fn of(node: NodeId, recovered: &RecoveredLog) -> DirectorySummary {
        let RecoveredLog { base, entries, configurations, .. } = recovered;
        let last_entry = entries.last().map(|head| {
            let index = Index(base.position.index.0 + entries.len() as u64);
            Position::new(index, head.term)
        });
        let membership = configurations.last().map_or(&base.membership, |(_, membership)| membership).clone();
        DirectorySummary { node, last_position: last_entry.unwrap_or(base.position), membership }
    }

    /// Writes the directory of the new cluster, inside the former one. The state of the new cluster is that of the last
    /// entry, committed or not.
    fn write_recovered_cluster(
        &self,
        args: &Recover,
        directory: &RecoveredDirectory,
        progress: &mut StartProgress,
    ) -> Result<NewCluster, CliError> {
        let mut applier = self.build_state(directory, progress)?;
        let new_directory = begin_replacement(&args.directory).map_err(fault_error)?;
        let first_member = FirstMember {
            node: self.node,
            address: self.membership.address(self.node).unwrap_or_default().to_owned(),
            feature_level: self.membership.feature_level,
        };
        let former_end = Position::new(
            self.last_position.index,
            directory.recovered_log.hard_state.term.max(self.last_position.term),
        );
        write_new_cluster(&mut applier, former_end, &new_directory, &first_member).map_err(|fault| {
            // The incomplete directory is useless, and takes disk space.
            let _removed_by_the_next_attempt_otherwise = std::fs::remove_dir_all(&new_directory);
            fault_error(fault)
        })
    }

    /// Builds the state as of the last entry: the snapshot, and the entries after it.
    fn build_state(
        &self,
        directory: &RecoveredDirectory,
        progress: &mut StartProgress,
    ) -> Result<Applier<Kv>, CliError> {
        let mut applier = Applier::new(Kv::new());
        if let Some(snapshot) = directory.snapshot.clone() {
            let meter = progress.begin_stage("snapshot read");
            applier = SnapshotRestore::begin(&applier, snapshot).restore_all(&meter).map_err(fault_error)?.0;
        }
        let meter = progress.begin_stage("log applied");
        meter.add_total(self.last_position.index.0 - applier.applied().0);
        while applier.applied() < self.last_position.index {
            let range = applier.applied().next()..=self.last_position.index;
            let entries = directory.recovered_log.view.entries(range, READ_BATCH_BYTES_MAX).map_err(fault_error)?;
            if entries.is_empty() {
                let message = format!("the log lacks the entry after {}", applier.position());
                return Err(CliError { message, code: 5 });
            }
            applier.apply(&entries);
            meter.add_read(entries.len() as u64);
        }
        Ok(applier)
    }
}
