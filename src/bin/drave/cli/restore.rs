//! `drave restore`: makes a new cluster from a saved snapshot.

use super::saved_snapshot::{open, state};
use super::serve::{Peers, node};
use crate::output::outln;
use crate::remote::failure::CliError;
use clap::Args;
use drave::disk::FsDisk;
use drave::disk::fs::{Lock, Syncs};
use drave::server::ServerError;
use drave::server::new_cluster::{FirstMember, begin_replacement, finish_replacement, write_new_cluster};
use drave::server::start_progress::{REPORT_INTERVAL, StartProgress};
use drave::types::address::check_address;
use drave::types::{Index, NodeId, Position};
use drave::wal::Fault;
use drave::wal::identity::short;
use std::path::{Path, PathBuf};

/// Names that an unused directory may contain: those of a new file system, and leftovers of an interrupted attempt.
const NOTHING: [&str; 3] = ["lost+found", "LOCK", "recovered"];

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
    #[arg(long, env = "DRAVE_ID", value_parser = node)]
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
    let address = address(args)?;
    let data = args.data.display().to_string();
    refuse_used(&args.data)?;
    let say = |line: &str| eprintln!("{}", line.replacen("recovering", "restoring", 1));
    let mut telling =
        StartProgress::begin(REPORT_INTERVAL, say).map_err(|error| failed("cannot start a thread", &error))?;
    let snapshot = open(&args.file, &telling.stage("snapshot checked"))?;
    let Some(mut applier) = state(&snapshot)? else {
        let what = format!("{} holds no state of the key-value machine\n  nothing was changed", args.file.display());
        return Err(CliError { what, code: 1 });
    };
    let header = snapshot.header();
    let _held = lock(&args.data)?;
    let first = FirstMember { node: args.id, address, level: header.membership.level };
    let after = Position::new(Index(header.position.index.0), header.position.term);
    let new = begin_replacement(&args.data).and_then(|directory| {
        write_new_cluster(&mut applier, after, &directory, &first).inspect_err(|_| {
            let _removed_by_the_next_attempt_otherwise = std::fs::remove_dir_all(&directory);
        })
    });
    let new = new.map_err(trouble)?;
    finish_replacement(&args.data).map_err(trouble)?;
    let (me, n) = (args.id, args.id.get());
    let (former, cluster) = (short(header.cluster), short(new.cluster));
    outln!("restored: the state of cluster {former} up to {}, in {data}", header.position);
    outln!("{me} alone is a new cluster: {cluster}, from {} on", new.position);
    outln!(
        "next: drave serve --id {n} --data {data} · other nodes, with EMPTY directories: drave serve --join {}",
        first.address
    );
    Ok(())
}

/// The node's address, the only one that `--peers` may name.
fn address(args: &Restore) -> Result<String, CliError> {
    let usage = |what: String| CliError { what: format!("{what}\n  nothing was changed"), code: 2 };
    let (id, peers) = (args.id, &args.peers.0);
    let Some(address) = peers.get(&id) else {
        return Err(usage(format!("--peers lacks the address of {id}")));
    };
    let others: Vec<String> = peers.keys().filter(|other| **other != id).map(NodeId::to_string).collect();
    if !others.is_empty() {
        let others = others.join(", ");
        return Err(usage(format!(
            "a restored cluster begins with {id} alone: --peers {}={address}; others ({others}) join it with EMPTY \
             directories: drave serve --join {address}",
            id.get()
        )));
    }
    check_address(address).map_err(|error| usage(format!("other nodes cannot reach {id} at {address}: {error}")))?;
    Ok(address.clone())
}

/// Rejects a directory that holds anything.
fn refuse_used(data: &Path) -> Result<(), CliError> {
    let place = data.display();
    let entries = match std::fs::read_dir(data) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| failed(&place.to_string(), &error))?,
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let mut holds: Vec<String> = names.filter(|name| !NOTHING.contains(&name.as_str())).collect();
    holds.sort_unstable();
    if holds.is_empty() {
        return Ok(());
    }
    if data.join("LOCK").exists() {
        drop(lock(data)?);
    }
    let what = format!(
        "{place} is not empty: it holds {}\n  nothing was changed · name a new directory: --data; restore never \
         overwrites a state",
        holds.join(", ")
    );
    Err(CliError { what, code: 78 })
}

fn lock(data: &Path) -> Result<Lock, CliError> {
    let place = data.display().to_string();
    let disk = FsDisk::make(data, Syncs::Real).map_err(|error| failed(&place, &error))?;
    let lock = disk.lock("LOCK").map_err(|error| failed(&place, &error))?;
    lock.ok_or_else(|| CliError {
        what: format!("{place} is in use by another process\n  nothing was changed · name a new directory: --data"),
        code: 78,
    })
}

fn failed(what: &str, error: &std::io::Error) -> CliError {
    CliError { what: format!("{what}: {error}"), code: 74 }
}

fn trouble(fault: Fault) -> CliError {
    ServerError::from(fault).into()
}
