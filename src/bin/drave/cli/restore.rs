//! `drave restore`: makes a new cluster from a saved snapshot.

use super::saved_snapshot::{open_snapshot, restore_state};
use super::serve::{Peers, parse_node_id};
use crate::output::outln;
use crate::remote::failure::CliError;
use clap::Args;
use drave::disk::FsDisk;
use drave::disk::fs::{DirectoryLock, SyncMode};
use drave::server::ServerError;
use drave::server::new_cluster::{FirstMember, begin_replacement, finish_replacement, write_new_cluster};
use drave::server::start_progress::{REPORT_INTERVAL, StartProgress};
use drave::types::address::check_address;
use drave::types::{Index, NodeId, Position};
use drave::wal::Fault;
use drave::wal::identity::short_cluster_id;
use std::path::{Path, PathBuf};

/// The names of files that an unused directory may contain: those of a new file system, and leftovers of an interrupted
/// attempt.
const IGNORED_NAMES: [&str; 3] = ["lost+found", "LOCK", "recovered"];

/// Founds a new cluster of one node from a saved snapshot, in an empty directory. It has a new cluster id, log id and
/// disk id, and its index begins far ahead of the former one: nodes of the former cluster exchange no messages with it.
/// Other nodes join it.
///
/// Exit code 5: the file is damaged, and nothing was changed.
#[derive(Args, Debug)]
pub struct Restore {
    /// The file that snapshot save wrote
    file: PathBuf,
    /// The node's id: a number from 1, which the node keeps for life
    #[arg(long, env = "DRAVE_ID", value_parser = parse_node_id)]
    id: NodeId,
    /// The node's id and the address at which other nodes reach it: ID=HOST:PORT
    #[arg(long, env = "DRAVE_PEERS")]
    peers: Peers,
    /// The data directory: new or empty
    #[arg(long, env = "DRAVE_DATA", value_name = "DIR")]
    data: PathBuf,
}

/// `drave restore`: exits with 5 if the file is damaged, 78 if the directory is in use or not empty.
pub fn run(args: &Restore) -> Result<(), CliError> {
    let address = own_address(args)?;
    let data = args.data.display().to_string();
    reject_non_empty(&args.data)?;
    let print_progress = |line: &str| eprintln!("{}", line.replacen("recovering", "restoring", 1));
    let mut progress = StartProgress::begin(REPORT_INTERVAL, print_progress)
        .map_err(|error| io_error("cannot start a thread", &error))?;
    let snapshot = open_snapshot(&args.file, &progress.begin_stage("snapshot checked"))?;
    let Some(mut applier) = restore_state(&snapshot)? else {
        let message = format!("{} holds no state of the key-value machine\n  nothing was changed", args.file.display());
        return Err(CliError { message, code: 1 });
    };
    let header = snapshot.header();
    let _lock = lock_directory(&args.data)?;
    let first_member = FirstMember { node: args.id, address, feature_level: header.membership.feature_level };
    let former_end = Position::new(Index(header.position.index.0), header.position.term);
    let new_cluster = begin_replacement(&args.data).and_then(|directory| {
        write_new_cluster(&mut applier, former_end, &directory, &first_member).inspect_err(|_| {
            let _removed_by_the_next_attempt_otherwise = std::fs::remove_dir_all(&directory);
        })
    });
    let new_cluster = new_cluster.map_err(fault_error)?;
    finish_replacement(&args.data).map_err(fault_error)?;
    let (node, n) = (args.id, args.id.get());
    let (former, cluster) = (short_cluster_id(header.cluster), short_cluster_id(new_cluster.cluster));
    outln!("restored: the state of cluster {former} up to {}, in {data}", header.position);
    outln!("{node} alone is a new cluster: {cluster}, from {} on", new_cluster.position);
    outln!(
        "next: drave serve --id {n} --data {data} · other nodes, with EMPTY directories: drave serve --join {}",
        first_member.address
    );
    Ok(())
}

/// The node's address, the only one that `--peers` may name.
fn own_address(args: &Restore) -> Result<String, CliError> {
    let usage_error = |message: String| CliError { message: format!("{message}\n  nothing was changed"), code: 2 };
    let (id, peers) = (args.id, &args.peers.0);
    let Some(address) = peers.get(&id) else {
        return Err(usage_error(format!("--peers lacks the address of {id}")));
    };
    let other_ids: Vec<String> = peers.keys().filter(|other| **other != id).map(NodeId::to_string).collect();
    if !other_ids.is_empty() {
        let other_ids = other_ids.join(", ");
        return Err(usage_error(format!(
            "a restored cluster begins with {id} alone: --peers {}={address}; others ({other_ids}) join it with EMPTY \
             directories: drave serve --join {address}",
            id.get()
        )));
    }
    check_address(address)
        .map_err(|error| usage_error(format!("other nodes cannot reach {id} at {address}: {error}")))?;
    Ok(address.clone())
}

/// Rejects a directory that contains other names than [`IGNORED_NAMES`].
fn reject_non_empty(data: &Path) -> Result<(), CliError> {
    let path = data.display();
    let directory_entries = match std::fs::read_dir(data) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        directory_entries => directory_entries.map_err(|error| io_error(&path.to_string(), &error))?,
    };
    let names = directory_entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let mut unexpected_names: Vec<String> = names.filter(|name| !IGNORED_NAMES.contains(&name.as_str())).collect();
    unexpected_names.sort_unstable();
    if unexpected_names.is_empty() {
        return Ok(());
    }
    if data.join("LOCK").exists() {
        drop(lock_directory(data)?);
    }
    let message = format!(
        "{path} is not empty: it holds {}\n  nothing was changed · name a new directory: --data; restore never \
         overwrites a state",
        unexpected_names.join(", ")
    );
    Err(CliError { message, code: 78 })
}

/// Creates the data directory if it does not exist, and locks it.
fn lock_directory(data: &Path) -> Result<DirectoryLock, CliError> {
    let path = data.display().to_string();
    let disk = FsDisk::open_or_create(data, SyncMode::Executed).map_err(|error| io_error(&path, &error))?;
    let lock = disk.lock("LOCK").map_err(|error| io_error(&path, &error))?;
    lock.ok_or_else(|| CliError {
        message: format!("{path} is in use by another process\n  nothing was changed · name a new directory: --data"),
        code: 78,
    })
}

fn io_error(context: &str, error: &std::io::Error) -> CliError {
    CliError { message: format!("{context}: {error}"), code: 74 }
}

fn fault_error(fault: Fault) -> CliError {
    ServerError::from(fault).into()
}
