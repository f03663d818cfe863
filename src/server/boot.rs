//! Opens a data directory, recovers its journal and newest snapshot, and creates the node.
//!
//! The directory is locked first. Its identity is checked before any other file, and another node's directory is not
//! changed.

use super::log_prefetch::prefetch_log;
use super::new_cluster::is_replacement_pending;
use super::start_progress::StartProgress;
use crate::apply::Applier;
use crate::config::Config;
use crate::consensus;
use crate::disk::fs::{DirectoryLock, SyncMode};
use crate::disk::{FsDisk, sigbus};
use crate::driver::deferred_drop::DeferredDrop;
use crate::driver::machine_runner::durable_snapshot;
use crate::machine::state_machine::StateMachine;
use crate::net::sockets::Identity;
use crate::node::node::{Node, NodeStart};
use crate::node::start::start;
use crate::snapshot::store::{check_known_formats, find_foreign_snapshot};
use crate::snapshot::{Snapshot, Store};
use crate::snapshotting::{SnapshotRestore, reconcile_with_log, to_node_fault};
use crate::types::Run;
use crate::types::{DiskId, Index, Membership, Position, SnapshotPoint, Time};
use crate::wal::identity::{FILE_NAME, Identity as Owner, short_cluster_id};
use crate::wal::identity_recovery::{
    RestoredIdentity, restore_identity, uncertain_identity_fault, write_restored_identity,
};
use crate::wal::sync_marker::to_fault;
use crate::wal::{self, Ballast, Fault, Journal, ReadMode, RecoveredLog};
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

/// The maximum number of threads that read the log and verify checksums: more would only wait for memory or the disk.
const READER_THREADS_MAX: usize = 4;

/// This node's data directory, with the state recovered from it.
pub struct RecoveredDirectory {
    /// The lock on the directory, held as long as the node runs.
    pub lock: DirectoryLock,
    /// The identity that this node sends to its peers in handshakes.
    pub identity: Identity,
    /// The data directory itself.
    data_disk: FsDisk,
    /// The contents of the identity file.
    owner: Owner,
    /// The open journal, for the log thread.
    pub journal: Journal<FsDisk>,
    /// The journal's directory, for the thread that prepares segments.
    pub wal_disk: FsDisk,
    /// The hard state and the log, as recovered from the journal.
    pub recovered_log: RecoveredLog,
    /// The directory in which snapshots are stored.
    pub store: Store<FsDisk>,
    /// The newest snapshot, from which the machine is to be restored; `None` if there is none.
    pub snapshot: Option<Snapshot>,
    /// The reserved disk space, which is freed when the disk is full.
    pub reserve: Ballast<FsDisk>,
}

/// Rejects a data directory that has no identity file and cannot be used for this node, before anything is created in
/// it.
pub fn check_first_start(config: &Config) -> wal::Result<()> {
    if config.data.join(FILE_NAME).exists() || is_replacement_pending(&config.data) {
        return Ok(());
    }
    match check_unused(&config.data) {
        // The identity is missing in a directory that is in use, and may be restored.
        Err(Fault::Corrupt { .. }) if config.repair => return Ok(()),
        outcome => outcome?,
    }
    if config.join.is_none() && config.peers.is_empty() {
        return Err(Fault::Foreign(format!(
            "{} is empty: name the founding members with --peers, or a member of an existing cluster with --join. \
             Nothing was changed.",
            config.data.display()
        )));
    }
    config.check_founding().map_err(|invalid| Fault::Foreign(format!("{}. Nothing was changed.", invalid.reason)))
}

/// Locks the data directory if it exists. A start beside a running node then fails because the directory is in use,
/// which is a clearer error than a port in use.
pub fn lock_existing_directory(config: &Config) -> wal::Result<Option<DirectoryLock>> {
    if !config.data.is_dir() {
        return Ok(None);
    }
    lock_directory(config, &open_disk(&config.data, sync_mode(config))?).map(Some)
}

fn lock_directory(config: &Config, data_disk: &FsDisk) -> wal::Result<DirectoryLock> {
    let path = config.data.display().to_string();
    let lock = data_disk.lock("LOCK").map_err(to_fault("lock", &path))?;
    lock.ok_or_else(|| Fault::Foreign(format!("{path} is in use by another process: a node runs there; stop it first")))
}

/// Locks the data directory unless it is locked already (`existing_lock`), reads or creates the identity, and recovers
/// the journal. On a full disk this function may free the reserve.
pub fn recover_directory(
    config: &Config,
    existing_lock: Option<DirectoryLock>,
    progress: &mut StartProgress,
) -> wal::Result<RecoveredDirectory> {
    let data_disk = open_disk(&config.data, sync_mode(config))?;
    let path = config.data.display().to_string();
    let lock = existing_lock.map_or_else(|| lock_directory(config, &data_disk), Ok)?;
    let reserve = Ballast::new(data_disk.clone(), config.effective_reserve_bytes());
    let contents = match read_directory(config, &data_disk, &path, &reserve, progress) {
        Err(Fault::Full { file }) if reserve.remove_for_log()? => {
            log::warn!(node = config.id.get(); "no space left for {file}: the reserve is freed for it");
            read_directory(config, &data_disk, &path, &reserve, progress)?
        }
        result => result?,
    };
    // Not before the directory was read: a refused start changes nothing.
    if config.effective_reserve_bytes() == 0 {
        reserve.remove_for_log()?;
    }
    let DirectoryContents { owner, identity_note, wal_disk, journal, recovered_log, store, snapshot } = contents;
    for note in identity_note.iter().chain(&recovered_log.repair_note) {
        log::warn!(node = config.id.get(); "{note}");
    }
    for note in &recovered_log.operator_notes {
        log::info!(node = config.id.get(); "{note}");
    }
    let run = Run { id: rand::random(), starts: owner.starts.saturating_add(1) };
    let identity = Identity { node: owner.node, cluster: owner.cluster, disk: owner.disk, run };
    Ok(RecoveredDirectory {
        lock,
        identity,
        data_disk,
        owner,
        journal,
        wal_disk,
        recovered_log,
        store,
        snapshot,
        reserve,
    })
}

impl RecoveredDirectory {
    /// The latest configuration in the recovered log; if no entry changes it, the one at the start of the log.
    pub fn membership(&self) -> &Membership {
        latest_membership(&self.recovered_log)
    }

    /// This node's address in the membership; empty if it has none.
    pub fn address(&self) -> &str {
        self.membership().address(self.identity.node).unwrap_or_default()
    }

    /// Counts this start durably, and records which log the directory holds. On a full disk the start is not counted: a
    /// node that could free space must be able to start. Its handshakes then contain the count 0.
    ///
    /// # Errors
    ///
    /// As for [`Owner::write`].
    pub fn count_start(&mut self) -> wal::Result<()> {
        let agreed_log_id = latest_membership(&self.recovered_log).agreed_log_id();
        let owner = Owner { log: agreed_log_id.or(self.owner.log), starts: self.identity.run.starts, ..self.owner };
        match owner.write(&self.data_disk) {
            Err(Fault::Full { file }) => {
                let node = self.identity.node.get();
                log::warn!(node; "no space left for {file}: this start is not recorded in it");
                self.identity.run.starts = 0;
                Ok(())
            }
            written => written,
        }
    }
}

/// The mode of a data directory that other users can read, write or search, or its group can write; otherwise `None`. A
/// group that can only read is intended, for backups.
pub fn mode_open_to_others(data: &Path) -> Option<u32> {
    let mode = std::fs::metadata(data).ok()?.permissions().mode() & 0o777;
    (mode & 0o027 != 0).then_some(mode)
}

/// The latest configuration in the recovered log; if no entry changes it, the configuration at the start of the log.
fn latest_membership(recovered_log: &RecoveredLog) -> &Membership {
    recovered_log.configurations.last().map_or(&recovered_log.base.membership, |(_, membership)| membership)
}

/// The contents of a data directory, read and checked.
struct DirectoryContents {
    owner: Owner,
    /// The note to the operator about a restored identity.
    identity_note: Option<String>,
    wal_disk: FsDisk,
    journal: Journal<FsDisk>,
    recovered_log: RecoveredLog,
    store: Store<FsDisk>,
    snapshot: Option<Snapshot>,
}

/// Reads the directory `path`, and creates missing parts. After an error for lack of space it may be called again.
fn read_directory(
    config: &Config,
    data_disk: &FsDisk,
    path: &str,
    reserve: &Ballast<FsDisk>,
    progress: &mut StartProgress,
) -> wal::Result<DirectoryContents> {
    if is_replacement_pending(&config.data) {
        return Err(Fault::Foreign(format!(
            "{path} holds a new cluster that has not replaced the former one yet: finish the replacement with drave \
             recover {path} --accept-data-loss. Nothing was changed."
        )));
    }
    let (owner, identity_damage) = read_or_create_identity(config, data_disk, path)?;
    let wal_disk = open_disk(&config.data.join("wal"), sync_mode(config))?;
    let mut wal_options = wal::Options::new(owner.node, owner.cluster, owner.disk);
    wal_options.segment_bytes = config.segment_bytes;
    wal_options.torn_tail = config.torn_tail;
    wal_options.repairs_damage = config.repair;
    wal_options.feature_level_max = config.versions.feature_level_max;
    // An unreadable page ends the process, and its next start reads all files before they are mapped.
    sigbus::set_exit_code(if config.repair { 75 } else { 5 });
    let founding_point =
        SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: config.founding_membership() };
    // Once the node is founded, a missing journal is lost and must not be created anew: this node may have voted.
    let founding_point = (!owner.journal_created).then_some(&founding_point);
    let snapshot_disk = open_disk(&config.data.join("snapshots"), sync_mode(config))?;
    check_known_formats(&snapshot_disk, config.versions.feature_level_max).map_err(to_node_fault)?;
    let foreign_snapshot = match &identity_damage {
        Some(_) => find_foreign_snapshot(&snapshot_disk, owner.cluster).map_err(to_node_fault)?,
        None => None,
    };
    let contradiction = foreign_snapshot.map(|name| format!("{name} belongs to another cluster than the segments"));
    let identity_damage = reject_uncertain_identity(identity_damage, contradiction)?;
    let read_mode = ReadMode { thread_count: reader_threads(), meter: &progress.begin_stage("log read") };
    let (mut journal, mut recovered_log) =
        Journal::open_with(wal_disk.clone(), wal_options, founding_point, read_mode)?;
    journal.set_reserve(reserve.clone());
    // Only now: it removes unfinished snapshots, and a refused start changes nothing.
    let store = Store::open(snapshot_disk, owner.cluster)
        .map_err(to_node_fault)?
        .with_feature_level_max(config.versions.feature_level_max);
    let newest_snapshot = store.find_newest(&progress.begin_stage("snapshot checked")).map_err(to_node_fault)?;
    let snapshot = reconcile_with_log(&mut journal, &mut recovered_log, newest_snapshot)?;
    check_cluster(config, &owner, &recovered_log, path)?;
    // A repair may have left an empty log, which the promised position still shows to be this node's.
    let log_id = latest_membership(&recovered_log).log_id;
    if log_id.is_some() || recovered_log.hard_state.promised_position == Position::ZERO {
        owner.check_log(path, log_id)?;
    }
    // Only the lost file could tell a lost log from one that never began.
    let has_no_log = log_id.is_none() && recovered_log.hard_state.promised_position == Position::ZERO;
    let identity_damage =
        reject_uncertain_identity(identity_damage, has_no_log.then(|| "the log is empty".to_owned()))?;
    let identity_note = identity_damage.map(|damage| restored_identity_note(&damage, &owner, path));
    if identity_note.is_some() {
        write_restored_identity(data_disk, &owner)?;
    }
    let owner_with_journal = Owner { journal_created: true, ..owner };
    if owner_with_journal != owner {
        owner_with_journal.write(data_disk)?;
    }
    let owner = owner_with_journal;
    Ok(DirectoryContents { owner, identity_note, wal_disk, journal, recovered_log, store, snapshot })
}

/// The number of threads that read the log: one per processor, at most `READER_THREADS_MAX`.
fn reader_threads() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    cores.min(NonZeroUsize::MIN.saturating_add(READER_THREADS_MAX - 1))
}

fn sync_mode(config: &Config) -> SyncMode {
    if config.fsync { SyncMode::Executed } else { SyncMode::Skipped }
}

/// Checks that the directory's cluster is the configured one, if any: the cluster id follows from the name and the
/// founding members in the journal. The configured peers are only addresses to dial, and may differ.
fn check_cluster(config: &Config, owner: &Owner, recovered_log: &RecoveredLog, path: &str) -> wal::Result<()> {
    let base = &recovered_log.base;
    let is_founded = base.configured == Index::ZERO && !base.membership.members.is_empty();
    let Some(name) = config.cluster.as_deref().filter(|_| is_founded) else { return Ok(()) };
    let configured_cluster = Config::cluster_id_of(Some(name), &base.membership);
    if configured_cluster == owner.cluster {
        return Ok(());
    }
    let owner_text = owner.describe_owner(path);
    Err(Fault::Foreign(format!(
        "{owner_text}; --cluster {name} and its founders give cluster {}.",
        short_cluster_id(configured_cluster)
    )))
}

/// Reads the directory's identity, or creates it in an unused directory. A missing or damaged identity of a directory
/// that is in use is restored in memory, and its damage is returned too.
fn read_or_create_identity(config: &Config, data_disk: &FsDisk, path: &str) -> wal::Result<(Owner, Option<Fault>)> {
    // Another read may succeed: a device may fail for a moment.
    let damage = match Owner::read(data_disk).or_else(|_| Owner::read(data_disk)) {
        Ok(Some(owner)) => {
            // The founding peers are in the journal; the configured ones are only addresses to dial.
            owner.check_owner(path, config.id)?;
            return Ok((owner, None));
        }
        Ok(None) => match check_unused(&config.data) {
            Ok(()) => return Ok((create_identity(config, data_disk)?, None)),
            Err(missing) => missing,
        },
        Err(damage) => damage,
    };
    if !config.repair || !matches!(damage, Fault::Corrupt { .. }) {
        return Err(damage);
    }
    let journal = open_disk(&config.data.join("wal"), sync_mode(config))?;
    // No directory was started once a millisecond since 1970, or is restored twice within one.
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match restore_identity(data_disk, &journal, since_1970.as_millis() as u64)? {
        RestoredIdentity::Certain(owner) => {
            owner.check_owner(path, config.id)?;
            Ok((owner, Some(damage)))
        }
        RestoredIdentity::Uncertain(reason) => Err(uncertain_identity_fault(damage, &reason)),
    }
}

/// Fails if the identity was restored because of `damage`, and `contradiction` names a reason against that.
fn reject_uncertain_identity(damage: Option<Fault>, contradiction: Option<String>) -> wal::Result<Option<Fault>> {
    match (damage, contradiction) {
        (Some(damage), Some(reason)) => Err(uncertain_identity_fault(damage, &reason)),
        (damage, _) => Ok(damage),
    }
}

/// The note to the operator about a restored identity.
fn restored_identity_note(damage: &Fault, owner: &Owner, path: &str) -> String {
    let cause = match damage {
        Fault::Corrupt { file, offset, description, .. } => format!("{file}: byte {offset}: {description}"),
        other => other.to_string(),
    };
    let (owner_text, disk) = (owner.describe_owner(path), owner.disk);
    format!("{cause}. The file is restored from the headers of the segments: {owner_text}, disk {disk}")
}

/// Creates the identity of an unused directory.
fn create_identity(config: &Config, data_disk: &FsDisk) -> wal::Result<Owner> {
    check_first_start(config)?;
    let (cluster, disk) = match &config.join {
        Some(joined) => (joined.cluster, joined.disk),
        None => (config.cluster_id(), DiskId(rand::random::<NonZeroU64>().get())),
    };
    let owner = Owner { node: config.id, cluster, disk, journal_created: false, log: None, starts: 0 };
    owner.write(data_disk)?;
    Ok(owner)
}

/// Rejects a data directory without an identity file that holds a log or snapshots: with a new identity these could
/// never be used again.
pub fn check_unused(data: &Path) -> wal::Result<()> {
    let is_occupied =
        |subdirectory: &str| std::fs::read_dir(data.join(subdirectory)).is_ok_and(|mut files| files.next().is_some());
    if !is_occupied("wal") && !is_occupied("snapshots") {
        return Ok(());
    }
    Err(Fault::Corrupt {
        file: FILE_NAME.to_owned(),
        offset: 0,
        description: format!("the file is missing, and {} holds a log", data.display()),
        lost: "none".to_owned(),
        advice: "Bring the file back; or, if it is lost, rebuild it from the log: drave recover --identity DIR. \
                 Nothing was changed.",
    })
}

fn open_disk(path: &Path, syncs: SyncMode) -> wal::Result<FsDisk> {
    FsDisk::open_or_create(path, syncs).map_err(to_fault("make", &path.display().to_string()))
}

/// Creates the node from the recovered state, as a follower without a leader, and restores its machine from the
/// snapshot.
pub fn build_node<M: StateMachine>(
    config: &Config,
    identity: Identity,
    recovered_log: RecoveredLog,
    (machine, snapshot): (M, Option<Snapshot>),
    deferred_drop: &DeferredDrop,
    progress: &mut StartProgress,
    now: Time,
) -> wal::Result<(Node, Applier<M>)> {
    let mut applier = Applier::new(machine);
    let newest = snapshot.as_ref().map(|snapshot| durable_snapshot(snapshot, deferred_drop));
    if let Some(snapshot) = snapshot {
        applier = SnapshotRestore::begin(&applier, snapshot).restore_all(&progress.begin_stage("snapshot restored"))?.0;
    }
    let mut options = config.node.clone();
    let prefetch = prefetch_log(&recovered_log.view, applier.applied(), options.apply_batch_bytes_max);
    let (applied, random) = (applier.apply(&[]), rand::random());
    let node_start = NodeStart { now, disk: Some(identity.disk), applied, snapshot: newest, random, prefetch };
    options.cluster = identity.cluster;
    options.frees_space = M::frees_space;
    options.needed_level = M::needed_level;
    options.fsync = config.fsync;
    // Without a configured reserve, the node still keeps space for one more segment.
    let reserve_bytes = config.effective_reserve_bytes().max(config.segment_bytes);
    let consensus_options = consensus::Options { reserve_bytes, versions: config.versions, ..config.consensus.clone() };
    Ok((start(identity.node, recovered_log, consensus_options, options, node_start), applier))
}
