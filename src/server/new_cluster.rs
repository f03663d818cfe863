//! Writes a new cluster of one node from the state of another cluster: of its last node after a majority is lost for
//! good, or of a backup.
//!
//! Nothing of the former cluster is reused. Cluster id, log id and disk id are random, so that no node of the former
//! cluster exchanges messages with the new one; and the index jumps far ahead, so that no index and no session id is
//! used for two entries, even if the former cluster still runs somewhere.

use crate::apply::{Applier, StateHeader};
use crate::disk::fs::Syncs;
use crate::disk::{Disk, FsDisk};
use crate::limits::CHUNK_BYTES;
use crate::machine::state_machine::StateMachine;
use crate::snapshot::Store;
use crate::snapshotting::fault;
use crate::snapshotting::restore::{chunk_of, header};
use crate::snapshotting::start::base_of;
use crate::types::{ClusterId, DiskId, HardState, Index, LogId, Member, Membership, NodeId, Position, Write, WriteId};
use crate::wal::identity::{Identity, NAME as IDENTITY};
use crate::wal::sync_marker::io;
use crate::wal::{self, Journal};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// The minimum jump of the index: a former cluster that still runs needs a month at its highest speed for that many
/// entries.
pub const INDEX_GAP: u64 = 1_000_000_000_000;
/// The maximum of a further random jump: of two clusters made from the same state, say because one backup is restored
/// twice, the second reuses no session id of the first.
const INDEX_DRAWN_MAX: u64 = 99 * INDEX_GAP;

/// The subdirectory in which a new cluster is written before it replaces the former one.
const PENDING: &str = "recovered";
/// The subdirectory in which the former cluster is kept.
const ASIDE: &str = "before-recover";

/// The only member of a new cluster.
#[derive(Clone, Debug)]
pub struct FirstMember {
    /// Its id.
    pub node: NodeId,
    /// Its address for other nodes.
    pub address: String,
    /// The version of the membership rules.
    pub level: u16,
}

/// A new cluster that has been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewCluster {
    /// Its id.
    pub cluster: ClusterId,
    /// The position of its snapshot: its log begins after it.
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
    let (cluster, disk, log) = (ClusterId(drawn()), DiskId(drawn()), LogId(drawn()));
    let ahead = INDEX_GAP + rand::random_range(0..INDEX_DRAWN_MAX);
    let position = Position::new(Index(after.index.0 + ahead), after.term.next());
    let member = Member { disk: Some(disk), ..Member::at(first.address.clone()) };
    let membership = Membership {
        members: BTreeMap::from([(first.node, member)]),
        voters: BTreeSet::from([first.node]),
        outgoing: BTreeSet::new(),
        level: first.level,
        log_id: Some(log),
        log_agreed: true,
    };
    let head = StateHeader { position, ..applier.freeze() };
    let header = header(cluster, first.node, &head, position.index, membership);
    let root = make(directory)?;
    let mut writer = Store::open(make(&directory.join("snapshots"))?, cluster)
        .and_then(|store| store.writer(&header))
        .map_err(fault)?;
    while let Some(piece) = applier.next_chunk(CHUNK_BYTES) {
        let (kind, bytes) = chunk_of(&piece);
        writer.put(kind, bytes).map_err(fault)?;
    }
    applier.end_snapshot();
    writer.finish().map_err(fault)?;

    let options = wal::Options::new(first.node, cluster, disk);
    let mut journal = Journal::open(make(&directory.join("wal"))?, options, Some(&base_of(&header)))?.0;
    let hard_state = Some(HardState { term: position.term, vote: None, promised: Position::ZERO });
    journal.append(&Write { id: WriteId::ZERO.next(), hard_state, base: None, entries: Vec::new() })?;
    journal.sync()?;
    journal.confirm()?;
    Identity { node: first.node, cluster, disk, founded: true, log: Some(log), starts: 0 }.write(&root)?;
    Ok(NewCluster { cluster, position })
}

fn drawn() -> u64 {
    rand::random::<NonZeroU64>().get()
}

fn make(path: &Path) -> wal::Result<FsDisk> {
    FsDisk::make(path, Syncs::Real).map_err(io("make", &path.display().to_string()))
}

/// The subdirectory for the new cluster of a data directory. Removes the remains of an interrupted attempt.
pub fn begin_replacement(data: &Path) -> wal::Result<PathBuf> {
    let pending = data.join(PENDING);
    if pending.exists() {
        std::fs::remove_dir_all(&pending).map_err(io("remove", &pending.display().to_string()))?;
    }
    Ok(pending)
}

/// Whether the new cluster of a data directory is complete and has not replaced the former one yet.
pub fn is_replacement_pending(data: &Path) -> bool {
    data.join(PENDING).join(IDENTITY).exists()
}

/// Replaces the former cluster by the new one and keeps the former aside; returns where, or `None` if the directory had
/// none. After a crash, a second call finishes the replacement: the former identity moves first and the new one last,
/// so that a start never sees a mixture.
///
/// # Errors
///
/// [`wal::Fault::Io`], with the file.
pub fn finish_replacement(data: &Path) -> wal::Result<Option<PathBuf>> {
    let numbered = |n| data.join(if n == 1 { ASIDE.to_owned() } else { format!("{ASIDE}-{n}") });
    let taken = (1..).take_while(|n| numbered(*n).join(IDENTITY).exists()).last().unwrap_or(0);
    let (root, pending) = (make(data)?, make(&data.join(PENDING))?);
    let aside = match (data.join(IDENTITY).exists(), taken) {
        (true, _) => Some(numbered(taken + 1)),
        (false, 0) => None,
        (false, begun) => Some(numbered(begun)),
    };
    let kept = aside.as_deref().map(make).transpose()?;
    if let (Some(aside), Some(kept)) = (&aside, &kept)
        && data.join(IDENTITY).exists()
    {
        rename(&data.join(IDENTITY), &aside.join(IDENTITY))?;
        sync_directories(&[kept, &root])?;
    }
    for part in ["snapshots", "wal"] {
        let (new, old) = (data.join(PENDING).join(part), data.join(part));
        if let Some(aside) = aside.as_ref().filter(|_| new.exists() && old.exists()) {
            rename(&old, &aside.join(part))?;
        }
        if new.exists() {
            rename(&new, &old)?;
        }
    }
    kept.iter().try_for_each(|kept| sync_directories(&[kept]))?;
    sync_directories(&[&root, &pending])?;
    rename(&data.join(PENDING).join(IDENTITY), &data.join(IDENTITY))?;
    sync_directories(&[&root, &pending])?;
    std::fs::remove_dir(data.join(PENDING)).map_err(io("remove", PENDING))?;
    Ok(aside)
}

fn rename(from: &Path, to: &Path) -> wal::Result<()> {
    std::fs::rename(from, to).map_err(io("rename", &from.display().to_string()))
}

fn sync_directories(directories: &[&FsDisk]) -> wal::Result<()> {
    directories.iter().try_for_each(|disk| disk.sync_names().map_err(io("sync", "the data directory")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory in which both a former cluster and a new one are complete.
    fn prepared() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (place, says) in [(directory.path().to_owned(), "former"), (directory.path().join(PENDING), "new")] {
            for part in ["snapshots", "wal"] {
                std::fs::create_dir_all(place.join(part)).unwrap();
                std::fs::write(place.join(part).join("file"), says).unwrap();
            }
            std::fs::write(place.join(IDENTITY), says).unwrap();
        }
        directory
    }

    /// The contents of the identity, snapshot and log files of a directory.
    fn files(place: &Path) -> [String; 3] {
        [IDENTITY, "snapshots/file", "wal/file"]
            .map(|file| std::fs::read_to_string(place.join(file)).unwrap_or_default())
    }

    #[test]
    fn new_cluster_replaces_the_former_which_is_set_aside() {
        let directory = prepared();
        assert!(is_replacement_pending(directory.path()));
        let aside = finish_replacement(directory.path()).unwrap().unwrap();
        assert_eq!(files(directory.path()), ["new"; 3]);
        assert_eq!((files(&aside), aside), (["former"; 3].map(str::to_owned), directory.path().join(ASIDE)));
        assert!(!is_replacement_pending(directory.path()));
    }

    #[test]
    fn new_cluster_in_unused_directory_sets_nothing_aside() {
        let parts = ["snapshots", "wal"];
        for done in 0..=parts.len() {
            let directory = prepared();
            let data = directory.path();
            std::fs::remove_file(data.join(IDENTITY)).unwrap();
            parts.iter().for_each(|part| std::fs::remove_dir_all(data.join(part)).unwrap());
            parts[..done].iter().for_each(|part| {
                std::fs::rename(data.join(PENDING).join(part), data.join(part)).unwrap();
            });
            assert!(is_replacement_pending(data), "{done}");
            assert_eq!(finish_replacement(data).unwrap(), None, "{done}");
            assert_eq!(files(data), ["new"; 3].map(str::to_owned), "{done}");
        }
    }

    #[test]
    fn replacement_interrupted_by_crash_at_any_step_is_finished() {
        // The number of renames before the crash.
        let renames = [(IDENTITY, false), ("snapshots", false), ("snapshots", true), ("wal", false), ("wal", true)];
        for done in 0..=renames.len() {
            let directory = prepared();
            let (data, aside) = (directory.path(), directory.path().join(ASIDE));
            std::fs::create_dir(&aside).unwrap();
            for (part, is_new) in &renames[..done] {
                let (from, to) = match is_new {
                    true => (data.join(PENDING).join(part), data.join(part)),
                    false => (data.join(part), aside.join(part)),
                };
                std::fs::rename(from, to).unwrap();
            }
            assert!(is_replacement_pending(data), "{done}");
            assert_eq!(finish_replacement(data).unwrap().as_ref(), Some(&aside), "{done}");
            assert_eq!((files(data), files(&aside)), (["new"; 3].map(str::to_owned), ["former"; 3].map(str::to_owned)));
        }
    }
}
