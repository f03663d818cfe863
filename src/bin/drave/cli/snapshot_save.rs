//! `drave snapshot save`: saves a cluster's state into one file, as a backup.

use super::saved_snapshot::{open_parent_directory, open_snapshot};
use crate::output::outln;
use crate::remote::cluster::{ClusterArgs, ms_since};
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use bytesize::ByteSize;
use clap::Args;
use drave::api::{Consistency, Refusal, RoleName};
use drave::client::{ClientError, SnapshotReader};
use drave::disk::{Disk, Meter};
use drave::snapshot::Snapshot;
use drave::wal::identity::short_cluster_id;
use serde_json::json;
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The maximum number of attempts to read from one node: each fails if a newer snapshot replaces the one being read.
const ATTEMPTS_PER_NODE_MAX: u32 = 3;
/// The interval between two progress lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The file's mode: a backup contains all keys and values, so only its owner may read it.
const FILE_MODE: u32 = 0o600;

/// Saves the whole state of the cluster into one file: a backup. The file is named FILE.part until all of it is on disk
/// and verified by reading it back. `drave restore` founds a new cluster from it.
///
/// It contains every write acknowledged before this command began, whichever node it is read from; followers are
/// preferred.
#[derive(Args, Debug)]
pub struct SaveSnapshot {
    /// The file to write
    file: PathBuf,
    /// The id of the only node to read from; default: any, followers first
    #[arg(long, value_name = "ID")]
    node: Option<u64>,
    /// Saves what the node has applied, which may lack acknowledged writes; needs no quorum and no leader
    #[arg(long)]
    local: bool,
    /// Replaces an existing file once the new one is complete
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A node that answers, and its endpoint.
struct SourceNode {
    node: u64,
    endpoint: String,
}

/// `drave snapshot save`: exits with 1 if the file exists, 3 if no node serves a snapshot, 74 if the file cannot be
/// written.
pub fn run(args: &SaveSnapshot) -> Result<(), CliError> {
    reject_existing(args)?;
    let began = Instant::now();
    let mut partial_file = PartialFile::open(&args.file)?;
    let save_result = save_from_any_node(args, &mut partial_file).and_then(|(source, snapshot)| {
        // Checked again: another process may have created the file since the first check.
        reject_existing(args)?;
        partial_file.publish(&args.file)?;
        Ok((source, snapshot))
    });
    let (source, snapshot) = save_result.inspect_err(|_| partial_file.remove())?;
    let (header, bytes) = (snapshot.header(), snapshot.bytes().len() as u64);
    let (position, digest) = (header.position, format!("{:016x}", header.digest));
    if args.cluster.prints_json() {
        outln!(
            "{}",
            json!({
                "ok": true, "file": args.file, "node": source.node, "endpoint": source.endpoint,
                "cluster": short_cluster_id(header.cluster), "index": position.index.0, "term": position.term.0,
                "bytes": bytes, "digest": digest, "ms": ms_since(began),
            })
        );
    } else {
        let size = ByteSize(bytes).display().iec();
        outln!("saved {}: all up to {position}, from n{} · {size} · digest {digest}", args.file.display(), source.node);
    }
    Ok(())
}

/// Rejects a target that is not a file, or that exists without `--force`.
fn reject_existing(args: &SaveSnapshot) -> Result<(), CliError> {
    if args.file.exists() && !args.file.is_file() {
        let message = format!("{} is not a file\n  nothing was changed · name a new file", args.file.display());
        return Err(CliError { message, code: 1 });
    }
    if args.force || !args.file.exists() {
        return Ok(());
    }
    let message = format!("{} exists already\n  nothing was changed · --force replaces it", args.file.display());
    Err(CliError { message, code: 1 })
}

/// Reads a snapshot from one node after the other, until one snapshot is complete.
fn save_from_any_node(args: &SaveSnapshot, partial_file: &mut PartialFile) -> Result<(SourceNode, Snapshot), CliError> {
    let mut last_error = None;
    for source in source_nodes(args) {
        match save_from_node(args, &source, partial_file) {
            Ok(snapshot) => return Ok((source, snapshot)),
            // The disk of this machine failed: reading from another node does not help.
            Err(error) if error.code == 74 => return Err(error),
            Err(error) => {
                eprintln!(
                    "n{} at {}: {}",
                    source.node,
                    source.endpoint,
                    error.message.lines().next().unwrap_or_default()
                );
                last_error = Some(error);
            }
        }
    }
    let tried_endpoints = args.cluster.endpoints.join(", ");
    Err(match (last_error, args.node) {
        (Some(error), _) => CliError { message: format!("nothing was saved: {}", error.message), code: error.code },
        (None, Some(node)) => CliError {
            message: format!("no node {node} answers\n  tried {tried_endpoints} · see: drave status"),
            code: 3,
        },
        (None, None) => args.cluster.no_answer_error(),
    })
}

/// The nodes that answer, followers first: writes wait for the leader's disk.
fn source_nodes(args: &SaveSnapshot) -> Vec<SourceNode> {
    let answering_nodes =
        poll(&args.cluster).into_iter().filter_map(|polled| Some((polled.status.ok()?, polled.endpoint)));
    let mut ranked_sources: Vec<(u8, SourceNode)> = Vec::new();
    for (status, endpoint) in answering_nodes.filter(|(status, _)| args.node.is_none_or(|node| node == status.node)) {
        let rank = match status.role {
            RoleName::Follower => 0,
            RoleName::Learner => 1,
            RoleName::Leader => 2,
            _ => 3,
        };
        if ranked_sources.iter().all(|(_, source)| source.node != status.node) {
            ranked_sources.push((rank, SourceNode { node: status.node, endpoint }));
        }
    }
    ranked_sources.sort_by_key(|(rank, source)| (*rank, source.node));
    ranked_sources.into_iter().map(|(_, source)| source).collect()
}

/// Reads a snapshot from this node. Starts over if the node replaces the snapshot by a newer one meanwhile.
fn save_from_node(
    args: &SaveSnapshot,
    source: &SourceNode,
    partial_file: &mut PartialFile,
) -> Result<Snapshot, CliError> {
    let consistency = if args.local { Consistency::Local } else { Consistency::Linearizable };
    for attempt in 1.. {
        let mut reader = args.cluster.client().read_snapshot(&source.endpoint, consistency)?;
        match copy_chunks(&mut reader, source, partial_file)? {
            Ok(()) => return partial_file.verify(&reader),
            Err(ClientError::Refused(tried))
                if tried.refusal == Some(Refusal::SnapshotGone) && attempt < ATTEMPTS_PER_NODE_MAX =>
            {
                eprintln!("n{} replaced the snapshot by a newer one: reading starts over with that one", source.node);
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the last attempt returns a snapshot or an error")
}

/// Reads the snapshot from the node, and writes it from the beginning of the file. The inner error is that of the node,
/// the outer error that of the file.
fn copy_chunks(
    reader: &mut SnapshotReader,
    source: &SourceNode,
    partial_file: &mut PartialFile,
) -> Result<Result<(), ClientError>, CliError> {
    partial_file.truncate()?;
    let (began, mut last_report, mut bytes_copied) = (Instant::now(), Instant::now(), 0u64);
    loop {
        let chunk = match reader.next_chunk() {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        partial_file.write(&chunk)?;
        bytes_copied += chunk.len() as u64;
        if last_report.elapsed() >= REPORT_INTERVAL {
            last_report = Instant::now();
            let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
            let rate_text = size((bytes_copied as f64 / began.elapsed().as_secs_f64()) as u64);
            eprintln!("n{}: {} of {}, {rate_text}/s", source.node, size(bytes_copied), size(reader.total_bytes()));
        }
    }
}

/// The temporary file FILE.part, which holds the snapshot until it is complete and verified.
struct PartialFile {
    path: PathBuf,
    file: File,
}

impl PartialFile {
    /// Opens and locks FILE.part, so that no other process writes it. Leftovers of an interrupted attempt are
    /// overwritten.
    fn open(path: &Path) -> Result<PartialFile, CliError> {
        let mut partial_file_name = path.as_os_str().to_owned();
        partial_file_name.push(".part");
        let path = PathBuf::from(partial_file_name);
        let open_file =
            || File::options().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(&path);
        let file = open_file().map_err(io_error(&path))?;
        let busy_error = || CliError {
            message: format!("{} is being written by another process\n  nothing was changed", path.display()),
            code: 1,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy_error()),
            Err(TryLockError::Error(error)) => return Err(io_error(&path)(error)),
        }
        // The previous holder of the lock may have renamed the file before this process got the lock.
        let (locked_file, current_file) = (file.metadata().map_err(io_error(&path))?, std::fs::metadata(&path));
        if !current_file.is_ok_and(|current_file| {
            (current_file.dev(), current_file.ino()) == (locked_file.dev(), locked_file.ino())
        }) {
            return Err(busy_error());
        }
        file.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(io_error(&path))?;
        Ok(PartialFile { path, file })
    }

    fn truncate(&mut self) -> Result<(), CliError> {
        let result = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut self.file));
        result.map_err(io_error(&self.path))
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), CliError> {
        self.file.write_all(chunk).map_err(io_error(&self.path))
    }

    /// Syncs the file, and verifies it by reading it back, as `drave snapshot inspect` does.
    fn verify(&self, reader: &SnapshotReader) -> Result<Snapshot, CliError> {
        self.file.sync_all().map_err(io_error(&self.path))?;
        let snapshot = open_snapshot(&self.path, &Meter::default())?;
        if snapshot.header().position != reader.position() {
            let message =
                format!("{} has another position than the node announced\n  nothing was saved", self.path.display());
            return Err(CliError { message, code: 5 });
        }
        Ok(snapshot)
    }

    /// Renames the file to its final name, and syncs the directory.
    fn publish(&self, path: &Path) -> Result<(), CliError> {
        std::fs::rename(&self.path, path).map_err(io_error(path))?;
        let (directory, _) = open_parent_directory(path).map_err(io_error(path))?;
        directory.sync_names().map_err(io_error(path))
    }

    /// Removes the file after a failure.
    fn remove(&self) {
        let _overwritten_by_the_next_attempt_otherwise = std::fs::remove_file(&self.path);
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> CliError + use<> {
    let path = path.display().to_string();
    move |error| CliError { message: format!("{path}: {error}\n  nothing was saved"), code: 74 }
}
