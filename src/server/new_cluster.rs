//! Writes the data directory of a new cluster of one node from the state of another cluster, taken from a remaining
//! node after the loss of a majority, or from a backup.
//!
//! Nothing of the former cluster is reused. Cluster id, log id and disk id are random, so that no node of the former
//! cluster exchanges messages with the new one; and the index jumps far ahead, so that no index and no session id is
//! used for two entries, even if the former cluster still runs somewhere.

use crate::apply::{Applier, StateHeader};
use crate::disk::fs::SyncMode;
use crate::disk::{Disk, FsDisk};
use crate::limits::CHUNK_BYTES;
use crate::machine::state_machine::StateMachine;
use crate::snapshot::Store;
use crate::snapshotting::restore::{chunk_of, snapshot_header};
use crate::snapshotting::start::base_after_snapshot;
use crate::snapshotting::to_node_fault;
use crate::types::{
    ClusterId, DiskId, HardState, Index, LogId, Member, Membership, NodeId, Position, Versions, Write, WriteId,
};
use crate::wal::identity::{FILE_NAME as IDENTITY, Identity};
use crate::wal::sync_marker::to_fault;
use crate::wal::{self, Journal};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// The minimum jump of the index from the former cluster to the new one: a former cluster that still runs needs a month
/// at its highest speed for that many entries.
pub const INDEX_JUMP_MIN: u64 = 1_000_000_000_000;
/// The maximum of a further random jump of the index: of two clusters made from the same state, say because one backup
/// is restored twice, the second reuses no session id of the first.
const INDEX_RANDOM_JUMP_MAX: u64 = 99 * INDEX_JUMP_MIN;

/// The subdirectory in which a new cluster is written before it replaces the former one.
const PENDING_DIRECTORY: &str = "recovered";
/// The subdirectory in which the former cluster is kept.
const FORMER_DIRECTORY: &str = "before-recover";

/// The only member of a new cluster.
#[derive(Clone, Debug)]
pub struct FirstMember {
    /// The node's id in the new cluster.
    pub node: NodeId,
    /// The address at which other nodes can reach the member, as `host:port`.
    pub address: String,
    /// The version of the membership rules that the new cluster starts with.
    pub feature_level: u16,
}

/// A new cluster whose data directory has been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewCluster {
    /// The random id of the new cluster.
    pub cluster: ClusterId,
    /// The position of the new cluster's snapshot: the log begins after it.
    pub position: Position,
}

/// Writes a new cluster into an empty directory, durably: a snapshot of the applier's state, an empty log after it, and
/// last the identity, without which the directory is unused. `after` is the last known position of the former cluster.
///
/// # Errors
///
/// [`wal::Fault::Full`] and [`wal::Fault::Io`], with the file.
pub fn write_new_cluster<M: StateMachine>(
    applier: &mut Applier<M>,
    after: Position,
    directory: &Path,
    first: &FirstMember,
) -> wal::Result<NewCluster> {
    let (cluster, disk, log) = (ClusterId(random_id()), DiskId(random_id()), LogId(random_id()));
    let index_jump = INDEX_JUMP_MIN + rand::random_range(0..INDEX_RANDOM_JUMP_MAX);
    let position = Position::new(Index(after.index.0 + index_jump), after.term.next());
    let member = Member { disk: Some(disk), ..Member::with_address(first.address.clone()) };
    let membership = Membership {
        members: BTreeMap::from([(first.node, member)]),
        voters: BTreeSet::from([first.node]),
        outgoing: BTreeSet::new(),
        feature_level: first.feature_level,
        log_id: Some(log),
        log_agreed: true,
    };
    let state = StateHeader { position, ..applier.freeze() };
    let header = snapshot_header(cluster, first.node, &state, position.index, membership);
    let root = open_disk(directory)?;
    let mut writer = Store::open(open_disk(&directory.join("snapshots"))?, cluster)
        .and_then(|store| store.create_writer(&header))
        .map_err(to_node_fault)?;
    while let Some(piece) = applier.next_chunk(CHUNK_BYTES) {
        let (kind, bytes) = chunk_of(&piece);
        writer.write_piece(kind, bytes).map_err(to_node_fault)?;
    }
    applier.end_snapshot();
    writer.finish().map_err(to_node_fault)?;

    let options = wal::Options {
        feature_level_max: Versions::COMPILED.feature_level_max,
        ..wal::Options::new(first.node, cluster, disk)
    };
    let mut journal =
        Journal::open(open_disk(&directory.join("wal"))?, options, Some(&base_after_snapshot(&header)))?.0;
    let hard_state = Some(HardState { term: position.term, vote: None, promised_position: Position::ZERO });
    journal.append(&Write { id: WriteId::ZERO.next(), hard_state, base: None, entries: Vec::new() })?;
    journal.sync()?;
    journal.confirm_sync()?;
    Identity { node: first.node, cluster, disk, journal_created: true, log: Some(log), starts: 0 }.write(&root)?;
    Ok(NewCluster { cluster, position })
}

fn random_id() -> u64 {
    rand::random::<NonZeroU64>().get()
}

fn open_disk(path: &Path) -> wal::Result<FsDisk> {
    FsDisk::open_or_create(path, SyncMode::Executed).map_err(to_fault("make", &path.display().to_string()))
}

/// Returns the subdirectory of `data` in which the new cluster is to be written. Removes the remains of an interrupted
/// attempt.
pub fn begin_replacement(data: &Path) -> wal::Result<PathBuf> {
    let pending_directory = data.join(PENDING_DIRECTORY);
    if pending_directory.exists() {
        std::fs::remove_dir_all(&pending_directory)
            .map_err(to_fault("remove", &pending_directory.display().to_string()))?;
    }
    Ok(pending_directory)
}

/// Whether the new cluster of a data directory is complete and has not replaced the former one yet.
pub fn is_replacement_pending(data: &Path) -> bool {
    data.join(PENDING_DIRECTORY).join(IDENTITY).exists()
}

/// Replaces the former cluster by the new one, and moves the former cluster to a subdirectory. Returns that directory,
/// or `None` if there was no former cluster. After a crash, a second call finishes the replacement: the former identity
/// moves first and the new one last, so that a start never sees a mixture.
///
/// # Errors
///
/// [`wal::Fault::Io`], with the file.
pub fn finish_replacement(data: &Path) -> wal::Result<Option<PathBuf>> {
    let former_directory =
        |n| data.join(if n == 1 { FORMER_DIRECTORY.to_owned() } else { format!("{FORMER_DIRECTORY}-{n}") });
    let used_count = (1..).take_while(|n| former_directory(*n).join(IDENTITY).exists()).last().unwrap_or(0);
    let (root, pending) = (open_disk(data)?, open_disk(&data.join(PENDING_DIRECTORY))?);
    let former_path = match (data.join(IDENTITY).exists(), used_count) {
        (true, _) => Some(former_directory(used_count + 1)),
        (false, 0) => None,
        (false, last_used) => Some(former_directory(last_used)),
    };
    let former_disk = former_path.as_deref().map(open_disk).transpose()?;
    if let (Some(former_path), Some(former_disk)) = (&former_path, &former_disk)
        && data.join(IDENTITY).exists()
    {
        rename(&data.join(IDENTITY), &former_path.join(IDENTITY))?;
        sync_directories(&[former_disk, &root])?;
    }
    for part in ["snapshots", "wal"] {
        let (new, old) = (data.join(PENDING_DIRECTORY).join(part), data.join(part));
        if let Some(former_path) = former_path.as_ref().filter(|_| new.exists() && old.exists()) {
            rename(&old, &former_path.join(part))?;
        }
        if new.exists() {
            rename(&new, &old)?;
        }
    }
    former_disk.iter().try_for_each(|former_disk| sync_directories(&[former_disk]))?;
    sync_directories(&[&root, &pending])?;
    rename(&data.join(PENDING_DIRECTORY).join(IDENTITY), &data.join(IDENTITY))?;
    sync_directories(&[&root, &pending])?;
    std::fs::remove_dir(data.join(PENDING_DIRECTORY)).map_err(to_fault("remove", PENDING_DIRECTORY))?;
    Ok(former_path)
}

fn rename(from: &Path, to: &Path) -> wal::Result<()> {
    std::fs::rename(from, to).map_err(to_fault("rename", &from.display().to_string()))
}

fn sync_directories(directories: &[&FsDisk]) -> wal::Result<()> {
    directories.iter().try_for_each(|disk| disk.sync_names().map_err(to_fault("sync", "the data directory")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory in which both a former cluster and a new one are complete.
    fn prepare_pending_replacement() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in
            [(directory.path().to_owned(), "former"), (directory.path().join(PENDING_DIRECTORY), "new")]
        {
            for part in ["snapshots", "wal"] {
                std::fs::create_dir_all(path.join(part)).unwrap();
                std::fs::write(path.join(part).join("file"), content).unwrap();
            }
            std::fs::write(path.join(IDENTITY), content).unwrap();
        }
        directory
    }

    /// The contents of the identity, snapshot and log files of a directory.
    fn read_cluster_files(path: &Path) -> [String; 3] {
        [IDENTITY, "snapshots/file", "wal/file"]
            .map(|file| std::fs::read_to_string(path.join(file)).unwrap_or_default())
    }

    #[test]
    fn new_cluster_replaces_former_cluster_and_keeps_its_files() {
        let directory = prepare_pending_replacement();
        assert!(is_replacement_pending(directory.path()));
        let former_path = finish_replacement(directory.path()).unwrap().unwrap();
        assert_eq!(read_cluster_files(directory.path()), ["new"; 3]);
        assert_eq!(
            (read_cluster_files(&former_path), former_path),
            (["former"; 3].map(str::to_owned), directory.path().join(FORMER_DIRECTORY))
        );
        assert!(!is_replacement_pending(directory.path()));
    }

    #[test]
    fn new_cluster_in_unused_directory_moves_no_former_cluster() {
        let subdirectories = ["snapshots", "wal"];
        for renamed in 0..=subdirectories.len() {
            let directory = prepare_pending_replacement();
            let data = directory.path();
            std::fs::remove_file(data.join(IDENTITY)).unwrap();
            subdirectories.iter().for_each(|part| std::fs::remove_dir_all(data.join(part)).unwrap());
            subdirectories[..renamed].iter().for_each(|part| {
                std::fs::rename(data.join(PENDING_DIRECTORY).join(part), data.join(part)).unwrap();
            });
            assert!(is_replacement_pending(data), "{renamed}");
            assert_eq!(finish_replacement(data).unwrap(), None, "{renamed}");
            assert_eq!(read_cluster_files(data), ["new"; 3].map(str::to_owned), "{renamed}");
        }
    }

    #[test]
    fn replacement_resumes_after_crash_between_any_two_renames() {
        // The renames in order: the file, and whether the new cluster's file is moved. The crash comes after the first
        // `renamed` of them.
        let renames = [(IDENTITY, false), ("snapshots", false), ("snapshots", true), ("wal", false), ("wal", true)];
        for renamed in 0..=renames.len() {
            let directory = prepare_pending_replacement();
            let (data, former) = (directory.path(), directory.path().join(FORMER_DIRECTORY));
            std::fs::create_dir(&former).unwrap();
            for (part, is_new) in &renames[..renamed] {
                let (from, to) = match is_new {
                    true => (data.join(PENDING_DIRECTORY).join(part), data.join(part)),
                    false => (data.join(part), former.join(part)),
                };
                std::fs::rename(from, to).unwrap();
            }
            assert!(is_replacement_pending(data), "{renamed}");
            assert_eq!(finish_replacement(data).unwrap().as_ref(), Some(&former), "{renamed}");
            assert_eq!(
                (read_cluster_files(data), read_cluster_files(&former)),
                (["new"; 3].map(str::to_owned), ["former"; 3].map(str::to_owned))
            );
        }
    }
}
