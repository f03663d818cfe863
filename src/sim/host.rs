//! One machine of the simulated world: its disk, its clock, and the process on it while one runs.

use super::applier_input::ApplierInputQueue;
use super::disk::SimDisk;
use super::node_history::{DiskImage, NodeHistory};
use super::peer_connection::{InboundConnection, OutboundConnection};
use super::scenario::Scenario;
use crate::admission::{Admission, Identity};
use crate::apply::Applier;
use crate::consensus;
use crate::disk::Meter;
use crate::machine::state_machine::StateMachine;
use crate::machine::{KIND, Kv};
use crate::node::node::NodeStart;
use crate::node::prefetch::Prefetch;
use crate::node::{self, DurableSnapshot, Node};
use crate::scrub::ScrubPass;
use crate::scrub::pass::Unthrottled;
use crate::snapshot::store::check_known_formats;
use crate::snapshot::{Snapshot, Store};
use crate::snapshotting::{SnapshotRestore, SnapshotWorker, reconcile_with_log, to_node_fault};
use crate::types::{ClusterId, DiskId, Index, Membership, NodeId, Position, Run, SnapshotPoint, Time, Versions, Write};
use crate::wal::identity::Identity as Owner;
use crate::wal::identity_recovery::{
    RestoredIdentity, restore_identity, uncertain_identity_fault, write_restored_identity,
};
use crate::wal::{self, Ballast, Fault, Journal, SpaceMonitor};
use crate::wire::frame::FrameReader;
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::time::Duration;

/// Converts a snapshot file to the form in which the node records its latest snapshot.
pub fn to_durable_snapshot(snapshot: &Snapshot) -> DurableSnapshot {
    DurableSnapshot { position: snapshot.header().position, bytes: snapshot.bytes().clone() }
}

/// The id of the cluster in every simulated world.
pub const CLUSTER_ID: ClusterId = ClusterId(0x51);

/// The contents of a recovered journal, for comparison with what its node promised to other nodes.
pub fn read_disk_image(recovered: &wal::RecoveredLog) -> wal::Result<DiskImage> {
    let base_index = recovered.base.position.index;
    let mut image = DiskImage { hard_state: recovered.hard_state, base: base_index, log: Vec::new() };
    if let entries @ 1.. = recovered.entries.len() as u64 {
        let entries = recovered.view.entries(base_index.next()..=Index(base_index.0 + entries), u64::MAX)?;
        image.log = entries.iter().map(|entry| (entry.position.term, entry.checksum)).collect();
    }
    Ok(image)
}

/// A machine's directory, opened for a new process.
struct DirectoryContents {
    journal: Journal<SimDisk>,
    recovered: wal::RecoveredLog,
    store: Store<SimDisk>,
    /// The newest undamaged snapshot, if there is one.
    snapshot: Option<Snapshot>,
}

/// A machine's monotonic clock. It may be ahead, and run fast or slow, but never goes backward.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// By how many nanoseconds the clock is ahead, apart from its drift.
    offset_nanos: u64,
    /// By how many millionths the clock runs fast; negative if the clock runs slow.
    drift_ppm: i64,
}

impl Clock {
    /// A clock that is ahead by `offset` and runs fast by `drift_ppm` millionths.
    pub fn new(offset: Duration, drift_ppm: i64) -> Clock {
        Clock { offset_nanos: offset.as_nanos() as u64, drift_ppm }
    }

    /// Makes the clock jump forward, like that of a virtual machine that was suspended.
    pub fn jump_forward(&mut self, by: Duration) {
        self.offset_nanos += by.as_nanos() as u64;
    }

    /// The time that the clock shows at the simulated time `world_time`.
    pub fn local_time(&self, world_time: Time) -> Time {
        let drift_nanos = i128::from(world_time.0) * i128::from(self.drift_ppm) / 1_000_000;
        Time((i128::from(world_time.0) + drift_nanos) as u64 + self.offset_nanos)
    }

    /// The first simulated time at which the clock shows `local_time` or later.
    pub fn world_time(&self, local_time: Time) -> Time {
        if local_time == Time::NEVER {
            return Time::NEVER;
        }
        let elapsed_nanos = i128::from(local_time.0.saturating_sub(self.offset_nanos));
        let mut world_time = Time((elapsed_nanos * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm))) as u64);
        while self.local_time(world_time) < local_time {
            world_time = Time(world_time.0 + 1);
        }
        world_time
    }
}

/// The bytes received from one peer that are not a complete frame yet.
#[derive(Debug, Default)]
pub struct ReceiveBuffer {
    /// The generation of the link on which the bytes arrived.
    pub generation: u64,
    /// Splits the buffer into frames.
    pub reader: FrameReader,
    /// The bytes received after the last complete frame.
    pub buffer: BytesMut,
}

/// What a start found on the disk.
pub struct StartResult {
    /// The log, term and vote that the journal holds.
    pub image: DiskImage,
    /// The journal's note about its repair; `None` if it was not repaired.
    pub repair_note: Option<String>,
    /// Whether the log names no member: nothing of a repaired journal was readable, or the machine is to join.
    pub has_no_members: bool,
}

/// A process on a machine: the real node, journal, state machine and snapshot worker. A crash drops the process.
pub struct Process {
    /// The node, which receives events and returns actions for the world to execute.
    pub node: Node,
    /// The journal, which the simulated log thread writes (`logs.rs`).
    pub journal: Journal<SimDisk>,
    /// The state machine, with its sessions.
    pub applier: Applier<Kv>,
    /// Inputs that the state machine has not processed yet.
    pub applier_inputs: ApplierInputQueue,
    /// Checks at intervals whether the disk has free space besides the ballast file.
    pub space_monitor: SpaceMonitor<SimDisk>,
    /// The worker that writes and reads the snapshot files.
    pub snapshot_worker: SnapshotWorker<SimDisk>,
    /// The pass over the machine's files, if one was ordered.
    pub scrub_pass: Option<ScrubPass<SimDisk, Unthrottled>>,
    /// Whether a snapshot is being taken.
    pub taking_snapshot: bool,
    /// The position up to which the journal may discard its entries, once there is disk space to record the discarding,
    /// and whether the journal may reuse the files.
    pub pending_release: Option<(Position, bool)>,
    /// Writes that are not appended to the journal yet: a sync is in progress, or there is no space.
    pub queued_writes: Vec<Write>,
    /// Whether a sync is in progress.
    pub syncing: bool,
    /// Whether the log thread is preparing a spare segment.
    pub preparing_spare_segment: bool,
    /// The received bytes of incomplete frames, by peer.
    pub receive_buffers: BTreeMap<NodeId, ReceiveBuffer>,
    /// The simulated time for which a `SimEvent::Deadline` is queued; `None` if no such event is queued.
    pub queued_deadline: Option<Time>,
    /// Decides which peers are accepted, and which are dialed.
    pub admission: Admission,
    /// The connections on which the process sends, by peer.
    pub outbound_connections: BTreeMap<NodeId, OutboundConnection>,
    /// The connections on which the process receives, by peer.
    pub inbound_connections: BTreeMap<NodeId, InboundConnection>,
    /// The membership to which the process last adjusted its connections.
    pub linked_membership: Membership,
    /// Whether `linked_membership` is set: the process has adjusted its connections at least once.
    pub has_adjusted_connections: bool,
}

/// One machine. It runs at most one process at a time; each start begins another incarnation.
pub struct Host {
    /// The id of the node that the machine runs.
    pub id: NodeId,
    /// Whether the node starts with the founding configuration when its disk is empty.
    pub is_founder: bool,
    /// The directory of the journal.
    pub disk: SimDisk,
    /// The disk id of the data directory. A wiped machine gets another disk id.
    pub disk_id: DiskId,
    /// The directory of the snapshots, on the same disk as the journal.
    pub snapshot_disk: SimDisk,
    /// The directory of the identity file.
    pub identity_disk: SimDisk,
    /// The clock from which the node reads the time.
    pub clock: Clock,
    /// The running process; `None` while the machine is down.
    pub process: Option<Process>,
    /// How many processes have run on the machine. Events for an earlier process are dropped.
    pub incarnation: u64,
    /// The time until which the process is paused; a time in the past if the process is not paused.
    pub paused_until: Time,
    /// The additional time that the next sync takes; zero if there is none.
    pub sync_stall: Duration,
    /// The versions of the program that the machine runs, or has run last.
    pub versions: Versions,
    /// Whether the machine has met a feature level that only the next version knows.
    pub needs_next_version: bool,
    /// Whether a file of the machine's journal, or its identity file, was damaged: the machine may refuse to start for
    /// good.
    pub has_damaged_file: bool,
    /// The damaged segment, if it was damaged beneath the running process, and no other file was.
    pub damaged_segment: Option<String>,
    /// Whether the disk will falsely report a sync as done, or has falsely reported one since the last power loss.
    pub may_sync_falsely: bool,
    /// Whether the machine's last process refused to start because of damage to its files.
    pub refused_start: bool,
    /// An older copy of the machine's journal and snapshots, and the history of the node when the copy was made.
    pub disk_copy: Option<(SimDisk, SimDisk, NodeHistory)>,
    /// Whether `disk_copy` is the disk that an older copy has replaced. That disk will be swapped back in.
    pub copy_is_replaced_disk: bool,
    /// Whether the machine's disk was emptied at least once.
    pub was_wiped: bool,
    /// Whether the machine's disk was emptied, and its node is still a member under the former disk id.
    pub awaiting_removal: bool,
}

impl Host {
    /// A machine with an empty disk and no running process.
    pub fn new(id: NodeId, is_founder: bool, clock: Clock) -> Host {
        let disk = SimDisk::new();
        Host {
            id,
            is_founder,
            snapshot_disk: disk.sibling_directory(),
            identity_disk: SimDisk::new(),
            disk,
            disk_id: DiskId(id.get()),
            clock,
            process: None,
            incarnation: 0,
            paused_until: Time::ZERO,
            sync_stall: Duration::ZERO,
            versions: Versions::CURRENT,
            needs_next_version: false,
            has_damaged_file: false,
            damaged_segment: None,
            may_sync_falsely: false,
            refused_start: false,
            disk_copy: None,
            copy_is_replaced_disk: false,
            was_wiped: false,
            awaiting_removal: false,
        }
    }

    /// Replaces the disk by an empty one with another disk id: the data and the identity file are lost.
    pub fn wipe(&mut self) {
        self.disk = SimDisk::new();
        self.snapshot_disk = self.disk.sibling_directory();
        self.identity_disk = SimDisk::new();
        self.disk_id = DiskId(self.disk_id.0 + 1000);
        (self.disk_copy, self.damaged_segment) = (None, None);
        (self.has_damaged_file, self.may_sync_falsely, self.refused_start) = (false, false, false);
        self.was_wiped = true;
        self.awaiting_removal = true;
    }

    /// Whether the machine's disk has stopped in the middle of an operation, so that only a power loss can follow.
    pub fn disk_has_stopped(&self) -> bool {
        self.disk.stopped() || self.snapshot_disk.stopped()
    }

    /// The log, term and vote that recovery would find if the power failed now and no unsynced write survived.
    pub fn durable_image(&self, scenario: &Scenario) -> Result<DiskImage, Fault> {
        read_disk_image(&self.open_journal(scenario, self.disk.durable_copy(), (false, false), Versions::COMPILED)?.1)
    }

    /// Opens the journal, or creates the journal if there is none. With `is_founded` a missing journal is an error,
    /// since this directory once had one. With `repairs` a damaged journal is repaired.
    /// `versions` are those of the program that opens it.
    fn open_journal(
        &self,
        scenario: &Scenario,
        disk: SimDisk,
        (is_founded, repairs): (bool, bool),
        versions: Versions,
    ) -> Result<(Journal<SimDisk>, wal::RecoveredLog), Fault> {
        let membership = if self.is_founder { scenario.founding_membership() } else { Membership::default() };
        let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
        let options = wal::Options {
            segment_bytes: scenario.segment_bytes,
            mutants: scenario.mutants,
            repairs_damage: repairs,
            feature_level_max: versions.feature_level_max,
            ..wal::Options::new(self.id, CLUSTER_ID, self.disk_id)
        };
        Journal::open(disk, options, Some(&base).filter(|_| !is_founded))
    }

    /// Reads the identity file of the directory. If there is none, writes one that names this machine's node. With
    /// `repairs` a damaged identity is restored in memory. Also returns whether that was done.
    fn claim_directory(&self, repairs: bool) -> Result<(Owner, bool), Fault> {
        match Owner::read(&self.identity_disk) {
            Ok(Some(owner)) => {
                owner.check_owner("the directory", self.id)?;
                return Ok((owner, false));
            }
            Err(damage @ Fault::Corrupt { .. }) if repairs => {
                return match restore_identity(&self.identity_disk, &self.disk, u64::from(u32::MAX))? {
                    RestoredIdentity::Certain(owner) => {
                        owner.check_owner("the directory", self.id).map(|()| (owner, true))
                    }
                    RestoredIdentity::Uncertain(reason) => Err(uncertain_identity_fault(damage, &reason)),
                };
            }
            Ok(None) => {}
            Err(fault) => return Err(fault),
        }
        let owner = Owner {
            node: self.id,
            cluster: CLUSTER_ID,
            disk: self.disk_id,
            journal_created: false,
            log: None,
            starts: 0,
        };
        owner.write(&self.identity_disk)?;
        Ok((owner, false))
    }

    /// Whether the machine runs the next version, where versions are mixed.
    pub(super) fn is_upgraded(&self) -> bool {
        self.versions == Versions::COMPILED
    }

    /// Opens the identity file, the journal and the snapshots, and creates those that are missing. After a failure for
    /// lack of disk space, the call may be repeated.
    fn open_directory(&self, scenario: &Scenario, ballast: &Ballast<SimDisk>) -> Result<DirectoryContents, Fault> {
        let (owner, is_restored) = self.claim_directory(scenario.repairs_journals)?;
        check_known_formats(&self.snapshot_disk, self.versions.feature_level_max).map_err(to_node_fault)?;
        let (mut journal, mut recovered) = self.open_journal(
            scenario,
            self.disk.clone(),
            (owner.journal_created, scenario.repairs_journals),
            self.versions,
        )?;
        journal.set_reserve(ballast.clone());
        let store =
            Store::open(self.snapshot_disk.clone(), CLUSTER_ID).map_err(to_node_fault)?.with_mutants(scenario.mutants);
        let store = store.with_feature_level_max(self.versions.feature_level_max);
        let newest_snapshot = store.newest().map_err(to_node_fault)?;
        let snapshot = reconcile_with_log(&mut journal, &mut recovered, newest_snapshot)?;
        if is_restored {
            write_restored_identity(&self.identity_disk, &owner)?;
        }
        if !owner.journal_created {
            Owner { journal_created: true, ..owner }.write(&self.identity_disk)?;
        }
        Ok(DirectoryContents { journal, recovered, store, snapshot })
    }

    /// Starts a process on the contents of the disk, as `drave serve` does. `seed` is for the node's random generator
    /// and run id.
    pub fn boot(&mut self, scenario: &Scenario, now: Time, seed: u64) -> Result<StartResult, Fault> {
        let ballast = Ballast::new(self.disk.clone(), scenario.segment_bytes);
        let directory_contents = match self.open_directory(scenario, &ballast) {
            Err(Fault::Full { .. }) if ballast.remove_for_log()? => self.open_directory(scenario, &ballast)?,
            opened => opened?,
        };
        let DirectoryContents { journal, recovered, store, snapshot } = directory_contents;
        let start_result = StartResult {
            image: read_disk_image(&recovered)?,
            repair_note: recovered.repair_note.clone(),
            has_no_members: recovered.configurations.is_empty() && recovered.base.membership.members.is_empty(),
        };
        let raft_options = consensus::Options { versions: self.versions, ..scenario.raft_options(self.id) };
        let options = node::Options {
            mutants: scenario.mutants,
            cluster: CLUSTER_ID,
            frees_space: Kv::frees_space,
            needed_level: Kv::needed_level,
            ..scenario.node.clone()
        };
        let mut applier = Applier::with_options(Kv::new(), scenario.sessions).with_mutants(scenario.mutants, self.id);
        if let Some(snapshot) = snapshot.clone() {
            applier = SnapshotRestore::begin(&applier, snapshot).restore_all(&Meter::default())?.0;
        }
        let durable_snapshot = snapshot.map(|snapshot| to_durable_snapshot(&snapshot));
        let disk = Some(self.disk_id);
        let node_start = NodeStart {
            now: self.clock.local_time(now),
            disk,
            applied: applier.apply(&[]),
            snapshot: durable_snapshot,
            random: seed,
            prefetch: Prefetch::default(),
        };
        let node = node::start(self.id, recovered, raft_options, options, node_start);
        self.process = Some(Process {
            node,
            journal,
            applier,
            applier_inputs: ApplierInputQueue::default(),
            space_monitor: SpaceMonitor::new(ballast.clone(), scenario.segment_bytes),
            snapshot_worker: SnapshotWorker::new(store, ballast),
            scrub_pass: None,
            taking_snapshot: false,
            pending_release: None,
            queued_writes: Vec::new(),
            syncing: false,
            preparing_spare_segment: false,
            receive_buffers: BTreeMap::new(),
            queued_deadline: None,
            admission: Admission::new(Identity {
                node: self.id,
                cluster: CLUSTER_ID,
                disk: self.disk_id,
                run: Run { id: seed, starts: self.incarnation + 1 },
            })
            .with_machine_kind(KIND)
            .with_versions(self.versions),
            outbound_connections: BTreeMap::new(),
            inbound_connections: BTreeMap::new(),
            linked_membership: Membership::default(),
            has_adjusted_connections: false,
        });
        self.incarnation += 1;
        self.sync_stall = Duration::ZERO;
        Ok(start_result)
    }
}
