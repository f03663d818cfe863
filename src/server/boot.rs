//! From a data directory to a running node.
//!
//! The directory is locked first. Its identity is checked before all else in it, and another node's directory is not
//! changed.

use super::new_cluster::is_replacement_pending;
use super::reading::beforehand;
use super::start_progress::StartProgress;
use crate::apply::Applier;
use crate::config::Config;
use crate::consensus;
use crate::disk::FsDisk;
use crate::disk::fs::{Lock, Syncs};
use crate::driver::applying::kept;
use crate::driver::deferred_drop::DeferredDrop;
use crate::machine::state_machine::StateMachine;
use crate::net::sockets::Identity;
use crate::node::node::{Node, NodeStart};
use crate::node::start::start;
use crate::snapshot::{Snapshot, Store};
use crate::snapshotting::{Restore, fault, reconcile_with_log};
use crate::types::Run;
use crate::types::{DiskId, Index, Membership, Position, SnapshotPoint, Time};
use crate::wal::identity::{Identity as Owner, NAME, short};
use crate::wal::sync_marker::io;
use crate::wal::{self, Ballast, Fault, Journal, ReadMode, Recovered};
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The maximum number of threads that compute checksums: more would only wait for memory or the disk.
const READERS_MAX: usize = 4;

/// This node's data directory, recovered.
pub struct RecoveredDirectory {
    /// Held as long as the node runs.
    pub lock: Lock,
    /// This node.
    pub me: Identity,
    /// The directory and its identity file.
    root: FsDisk,
    owner: Owner,
    /// The journal, for the log thread.
    pub journal: Journal<FsDisk>,
    /// The journal's directory, for the thread that prepares segments.
    pub disk: FsDisk,
    /// The journal's contents.
    pub recovered: Recovered,
    /// The directory of the snapshots.
    pub store: Store<FsDisk>,
    /// The snapshot to restore, if any.
    pub snapshot: Option<Snapshot>,
    /// The space to free when the disk is full.
    pub reserve: Ballast<FsDisk>,
}

/// Rejects a directory that has no identity and cannot become this node's, before anything is created in it.
pub fn check_first_start(config: &Config) -> wal::Result<()> {
    if config.data.join(NAME).exists() || is_replacement_pending(&config.data) {
        return Ok(());
    }
    check_unused(&config.data)?;
    if config.join.is_none() && config.peers.is_empty() {
        return Err(Fault::Foreign(format!(
            "{} is empty: name the founding members with --peers, or a member of an existing cluster with --join. \
             Nothing was changed.",
            config.data.display()
        )));
    }
    config.check_founding().map_err(|wrong| Fault::Foreign(format!("{}. Nothing was changed.", wrong.what)))
}

/// Locks the directory if it exists: that another process uses it is a better error than that its port is in use.
pub fn lock_existing(config: &Config) -> wal::Result<Option<Lock>> {
    if !config.data.is_dir() {
        return Ok(None);
    }
    lock(config, &make(&config.data, syncs(config))?).map(Some)
}

fn lock(config: &Config, root: &FsDisk) -> wal::Result<Lock> {
    let place = config.data.display().to_string();
    let lock = root.lock("LOCK").map_err(io("lock", &place))?;
    lock.ok_or_else(|| {
        Fault::Foreign(format!("{place} is in use by another process: a node runs there; stop it first"))
    })
}

/// Locks the directory unless it is `locked` already, reads or creates its identity, and recovers its journal. On a
/// full disk this may free the reserve.
pub fn boot(config: &Config, locked: Option<Lock>, telling: &mut StartProgress) -> wal::Result<RecoveredDirectory> {
    let root = make(&config.data, syncs(config))?;
    let place = config.data.display().to_string();
    let lock = locked.map_or_else(|| lock(config, &root), Ok)?;
    let reserve = Ballast::new(root.clone(), config.reserve());
    if config.reserve() == 0 {
        reserve.remove_for_log()?;
    }
    let found = match find(config, &root, &place, &reserve, telling) {
        Err(Fault::Full { file }) if reserve.remove_for_log()? => {
            log::warn!(node = config.id.get(); "no space left for {file}: the reserve is freed for it");
            find(config, &root, &place, &reserve, telling)?
        }
        found => found?,
    };
    let DirectoryContents { owner, disk, journal, recovered, store, snapshot } = found;
    for note in &recovered.notes {
        log::info!(node = config.id.get(); "{note}");
    }
    let run = Run { id: rand::random(), starts: owner.starts.saturating_add(1) };
    let me = Identity { node: owner.node, cluster: owner.cluster, disk: owner.disk, run };
    Ok(RecoveredDirectory { lock, me, root, owner, journal, disk, recovered, store, snapshot, reserve })
}

impl RecoveredDirectory {
    /// The latest membership in the directory.
    pub fn membership(&self) -> &Membership {
        latest(&self.recovered)
    }

    /// This node's address in the membership; empty if it has none.
    pub fn address(&self) -> &str {
        self.membership().address(self.me.node).unwrap_or_default()
    }

    /// Counts this start durably, and records which log the directory holds. On a full disk the start is not counted,
    /// and peers learn that it was not: a node that could free space must be able to start.
    ///
    /// # Errors
    ///
    /// As for [`Owner::write`].
    pub fn count_start(&mut self) -> wal::Result<()> {
        let log = latest(&self.recovered).agreed_log();
        let owner = Owner { log: log.or(self.owner.log), starts: self.me.run.starts, ..self.owner };
        match owner.write(&self.root) {
            Err(Fault::Full { file }) => {
                log::warn!(node = self.me.node.get(); "no space left for {file}: this start is not recorded in it");
                self.me.run.starts = 0;
                Ok(())
            }
            written => written,
        }
    }
}

/// The mode of a data directory that other users can read, write or search, or its group can write; otherwise `None`. A
/// group that can only read is intended, for backups.
pub fn open_to_others(data: &Path) -> Option<u32> {
    let mode = std::fs::metadata(data).ok()?.permissions().mode() & 0o777;
    (mode & 0o027 != 0).then_some(mode)
}

/// The latest configuration in a log.
fn latest(recovered: &Recovered) -> &Membership {
    recovered.configurations.last().map_or(&recovered.base.membership, |(_, membership)| membership)
}

/// The contents of a data directory.
struct DirectoryContents {
    owner: Owner,
    disk: FsDisk,
    journal: Journal<FsDisk>,
    recovered: Recovered,
    store: Store<FsDisk>,
    snapshot: Option<Snapshot>,
}

/// Reads the directory `place`, and creates missing parts. After an error for lack of space it may be called again.
fn find(
    config: &Config,
    root: &FsDisk,
    place: &str,
    reserve: &Ballast<FsDisk>,
    telling: &mut StartProgress,
) -> wal::Result<DirectoryContents> {
    if is_replacement_pending(&config.data) {
        return Err(Fault::Foreign(format!(
            "{place} holds a new cluster that has not replaced the former one yet: finish the replacement with drave \
             recover {place} --accept-data-loss. Nothing was changed."
        )));
    }
    let owner = owner(config, root, place)?;
    let disk = make(&config.data.join("wal"), syncs(config))?;
    let mut options = wal::Options::new(owner.node, owner.cluster, owner.disk);
    options.segment_bytes = config.segment_bytes;
    options.torn_tail = config.torn_tail;
    let founding = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: config.founding() };
    // Once founded, a missing journal is lost and must not be created anew: this node has voted.
    let founding = (!owner.founded).then_some(&founding);
    let store = Store::open(make(&config.data.join("snapshots"), syncs(config))?, owner.cluster).map_err(fault)?;
    let reading = ReadMode { threads: readers(), meter: &telling.stage("log read") };
    let (mut journal, mut recovered) = Journal::read(disk.clone(), options, founding, reading)?;
    journal.fall_back_on(reserve.clone());
    let newest = store.find_newest(&telling.stage("snapshot checked")).map_err(fault)?;
    let snapshot = reconcile_with_log(&mut journal, &mut recovered, newest)?;
    check_cluster(config, &owner, &recovered, place)?;
    owner.check_log(place, latest(&recovered).log_id)?;
    let founded = Owner { founded: true, ..owner };
    if founded != owner {
        founded.write(root)?;
    }
    Ok(DirectoryContents { owner: founded, disk, journal, recovered, store, snapshot })
}

/// The number of threads that read the log.
fn readers() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    cores.min(NonZeroUsize::MIN.saturating_add(READERS_MAX - 1))
}

fn syncs(config: &Config) -> Syncs {
    if config.fsync { Syncs::Real } else { Syncs::Skipped }
}

/// Checks that the directory's cluster is the configured one, if any: its id comes from the name and the founding
/// members in the journal. The configured peers are only addresses to dial, and may differ.
fn check_cluster(config: &Config, owner: &Owner, recovered: &Recovered, place: &str) -> wal::Result<()> {
    let base = &recovered.base;
    let founded = base.configured == Index::ZERO && !base.membership.members.is_empty();
    let Some(name) = config.cluster.as_deref().filter(|_| founded) else { return Ok(()) };
    let named = Config::cluster_of(Some(name), &base.membership);
    if named == owner.cluster {
        return Ok(());
    }
    let owned = owner.owner(place);
    Err(Fault::Foreign(format!("{owned}; --cluster {name} and its founders give cluster {}.", short(named))))
}

/// The directory's identity; created if there is none.
fn owner(config: &Config, root: &FsDisk, place: &str) -> wal::Result<Owner> {
    if let Some(owner) = Owner::read(root)? {
        // The founding peers are in the journal; the configured ones are only addresses to dial.
        owner.check(place, config.id)?;
        return Ok(owner);
    }
    check_first_start(config)?;
    let (cluster, disk) = match &config.join {
        Some(joined) => (joined.cluster, joined.disk),
        None => (config.cluster_id(), DiskId(rand::random::<NonZeroU64>().get())),
    };
    let owner = Owner { node: config.id, cluster, disk, founded: false, log: None, starts: 0 };
    owner.write(root)?;
    Ok(owner)
}

/// Rejects a directory that has no identity but holds a log or snapshots: a new identity would make these unusable for
/// good.
pub fn check_unused(data: &Path) -> wal::Result<()> {
    let holds = |inside: &str| std::fs::read_dir(data.join(inside)).is_ok_and(|mut files| files.next().is_some());
    if !holds("wal") && !holds("snapshots") {
        return Ok(());
    }
    Err(Fault::Corrupt {
        file: NAME.to_owned(),
        offset: 0,
        what: format!("the file is missing, and {} holds a log", data.display()),
        lost: "none".to_owned(),
        advice: "Bring the file back; or, if it is lost, rebuild it from the log: drave recover --identity DIR. \
                 Nothing was changed.",
    })
}

fn make(path: &Path, syncs: Syncs) -> wal::Result<FsDisk> {
    FsDisk::make(path, syncs).map_err(io("make", &path.display().to_string()))
}

/// Creates the node from the recovered state, as a follower without a leader, and its machine from the snapshot.
pub fn node<M: StateMachine>(
    config: &Config,
    me: Identity,
    recovered: Recovered,
    (machine, snapshot): (M, Option<Snapshot>),
    deferred_drop: &DeferredDrop,
    telling: &mut StartProgress,
    now: Time,
) -> wal::Result<(Node, Applier<M>)> {
    let mut applier = Applier::new(machine);
    let kept = snapshot.as_ref().map(|snapshot| kept(snapshot, deferred_drop));
    if let Some(snapshot) = snapshot {
        applier = Restore::begin(&applier, snapshot).all(&telling.stage("snapshot restored"))?.0;
    }
    let mut options = config.node.clone();
    let beforehand = beforehand(&recovered.view, applier.applied(), options.apply_bytes);
    let (applied, chance) = (applier.apply(&[]), rand::random());
    let begun = NodeStart { now, disk: Some(me.disk), applied, kept, chance, beforehand };
    options.cluster = me.cluster;
    options.frees = M::frees;
    options.fsync = config.fsync;
    // Without a reserve, space for one more segment.
    let reserve_bytes = config.reserve().max(config.segment_bytes);
    let consensus = consensus::Options { reserve_bytes, ..config.consensus.clone() };
    Ok((start(me.node, recovered, consensus, options, begun), applier))
}
