//! `drave snapshot save`: saves a cluster's state into one file, as a backup.

use super::saved_snapshot::{open, place};
use crate::output::outln;
use crate::remote::cluster::{Cluster, ms_since};
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use bytesize::ByteSize;
use clap::Args;
use drave::api::{Consistency, Refusal, RoleName};
use drave::client::{ClientError, SnapshotReader};
use drave::disk::{Disk, Meter};
use drave::snapshot::Snapshot;
use drave::wal::identity::short;
use serde_json::json;
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often to start reading from one node, at most, if a newer snapshot replaces the one that is being read.
const BEGINS: u32 = 3;
/// The interval of progress lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The file's mode: a backup contains all keys and values, so only its owner may read it.
const MODE: u32 = 0o600;

/// Saves the whole state of the cluster into one file: a backup. The file is named FILE.part until all of it is on disk
/// and verified by reading it back. `drave restore` founds a new cluster from it.
///
/// It contains every write acknowledged before this command began, whichever node it is read from; followers are
/// preferred.
#[derive(Args, Debug)]
pub struct Save {
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
    cluster: Cluster,
}

/// A node that can serve a snapshot.
struct Source {
    node: u64,
    endpoint: String,
}

/// `drave snapshot save`: exits with 1 if the file exists, 3 if no node serves a snapshot, 74 if the file cannot be
/// written.
pub fn run(args: &Save) -> Result<(), CliError> {
    refuse_existing(args)?;
    let began = Instant::now();
    let mut part = Part::open(&args.file)?;
    let saved = save(args, &mut part).and_then(|(source, snapshot)| {
        // The file may have been created meanwhile.
        refuse_existing(args)?;
        part.publish(&args.file)?;
        Ok((source, snapshot))
    });
    let (source, snapshot) = saved.inspect_err(|_| part.remove())?;
    let (header, bytes) = (snapshot.header(), snapshot.bytes().len() as u64);
    let (position, digest) = (header.position, format!("{:016x}", header.digest));
    if args.cluster.json() {
        outln!(
            "{}",
            json!({
                "ok": true, "file": args.file, "node": source.node, "endpoint": source.endpoint,
                "cluster": short(header.cluster), "index": position.index.0, "term": position.term.0,
                "bytes": bytes, "digest": digest, "ms": ms_since(began),
            })
        );
    } else {
        let size = ByteSize(bytes).display().iec();
        outln!("saved {}: all up to {position}, from n{} · {size} · digest {digest}", args.file.display(), source.node);
    }
    Ok(())
}

fn refuse_existing(args: &Save) -> Result<(), CliError> {
    if args.file.exists() && !args.file.is_file() {
        let what = format!("{} is not a file\n  nothing was changed · name a new file", args.file.display());
        return Err(CliError { what, code: 1 });
    }
    if args.force || !args.file.exists() {
        return Ok(());
    }
    let what = format!("{} exists already\n  nothing was changed · --force replaces it", args.file.display());
    Err(CliError { what, code: 1 })
}

/// Reads a snapshot from each node in turn, until one is complete.
fn save(args: &Save, part: &mut Part) -> Result<(Source, Snapshot), CliError> {
    let mut last = None;
    for source in sources(args) {
        match save_from(args, &source, part) {
            Ok(snapshot) => return Ok((source, snapshot)),
            // The error is of this machine's disk: another node does not help.
            Err(trouble) if trouble.code == 74 => return Err(trouble),
            Err(trouble) => {
                eprintln!(
                    "n{} at {}: {}",
                    source.node,
                    source.endpoint,
                    trouble.what.lines().next().unwrap_or_default()
                );
                last = Some(trouble);
            }
        }
    }
    let tried = args.cluster.endpoints.join(", ");
    Err(match (last, args.node) {
        (Some(trouble), _) => CliError { what: format!("nothing was saved: {}", trouble.what), code: trouble.code },
        (None, Some(node)) => {
            CliError { what: format!("no node {node} answers\n  tried {tried} · see: drave status"), code: 3 }
        }
        (None, None) => args.cluster.no_answer_error(),
    })
}

/// The nodes that answer, followers first: writes wait for the leader's disk.
fn sources(args: &Save) -> Vec<Source> {
    let answering = poll(&args.cluster).into_iter().filter_map(|asked| Some((asked.status.ok()?, asked.endpoint)));
    let mut all: Vec<(u8, Source)> = Vec::new();
    for (status, endpoint) in answering.filter(|(status, _)| args.node.is_none_or(|node| node == status.node)) {
        let rank = match status.role {
            RoleName::Follower => 0,
            RoleName::Learner => 1,
            RoleName::Leader => 2,
            _ => 3,
        };
        if all.iter().all(|(_, source)| source.node != status.node) {
            all.push((rank, Source { node: status.node, endpoint }));
        }
    }
    all.sort_by_key(|(rank, source)| (*rank, source.node));
    all.into_iter().map(|(_, source)| source).collect()
}

fn save_from(args: &Save, source: &Source, part: &mut Part) -> Result<Snapshot, CliError> {
    let consistency = if args.local { Consistency::Local } else { Consistency::Linearizable };
    for begun in 1.. {
        let mut reader = args.cluster.client().read_snapshot(&source.endpoint, consistency)?;
        match copy(&mut reader, source, part)? {
            Ok(()) => return part.verify(&reader),
            Err(ClientError::Refused(tried)) if tried.refusal == Some(Refusal::SnapshotGone) && begun < BEGINS => {
                eprintln!("n{} replaced the snapshot by a newer one: reading starts over with that one", source.node);
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the last attempt returns")
}

/// Writes all pieces into the file, from its beginning. The inner error is the node's, the outer one the file's.
fn copy(reader: &mut SnapshotReader, source: &Source, part: &mut Part) -> Result<Result<(), ClientError>, CliError> {
    part.begin()?;
    let (begun, mut told, mut done) = (Instant::now(), Instant::now(), 0u64);
    loop {
        let piece = match reader.next_piece() {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        part.write(&piece)?;
        done += piece.len() as u64;
        if told.elapsed() >= REPORT_INTERVAL {
            told = Instant::now();
            let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
            let rate = size((done as f64 / begun.elapsed().as_secs_f64()) as u64);
            eprintln!("n{}: {} of {}, {rate}/s", source.node, size(done), size(reader.total()));
        }
    }
}

/// The temporary file, until it is complete.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    /// Opens and locks FILE.part, so that no other process writes it. Leftovers of an interrupted attempt are
    /// overwritten.
    fn open(path: &Path) -> Result<Part, CliError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let options = || File::options().read(true).write(true).create(true).truncate(false).mode(MODE).open(&path);
        let file = options().map_err(failed(&path))?;
        let busy = || CliError {
            what: format!("{} is being written by another process\n  nothing was changed", path.display()),
            code: 1,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy()),
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
        // The previous holder of the lock may have renamed the file before this process got the lock.
        let (ours, there) = (file.metadata().map_err(failed(&path))?, std::fs::metadata(&path));
        if !there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Err(busy());
        }
        file.set_permissions(Permissions::from_mode(MODE)).map_err(failed(&path))?;
        Ok(Part { path, file })
    }

    fn begin(&mut self) -> Result<(), CliError> {
        let begun = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut self.file));
        begun.map_err(failed(&self.path))
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), CliError> {
        self.file.write_all(piece).map_err(failed(&self.path))
    }

    /// Syncs the file, and reads it back as `snapshot inspect` does.
    fn verify(&self, reader: &SnapshotReader) -> Result<Snapshot, CliError> {
        self.file.sync_all().map_err(failed(&self.path))?;
        let snapshot = open(&self.path, &Meter::default())?;
        if snapshot.header().position != reader.position() {
            let what =
                format!("{} has another position than the node announced\n  nothing was saved", self.path.display());
            return Err(CliError { what, code: 5 });
        }
        Ok(snapshot)
    }

    /// Renames the file to its final name, durably.
    fn publish(&self, path: &Path) -> Result<(), CliError> {
        std::fs::rename(&self.path, path).map_err(failed(path))?;
        let (directory, _) = place(path).map_err(failed(path))?;
        directory.sync_names().map_err(failed(path))
    }

    /// Removes the file: nothing was saved.
    fn remove(&self) {
        let _overwritten_by_the_next_attempt_otherwise = std::fs::remove_file(&self.path);
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> CliError + use<> {
    let path = path.display().to_string();
    move |error| CliError { what: format!("{path}: {error}\n  nothing was saved"), code: 74 }
}
