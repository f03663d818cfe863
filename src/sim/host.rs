//! One machine of the simulated world: its disk, its clock, and the process on it while one runs.

use super::applier_input::InputQueue;
use super::disk::SimDisk;
use super::node_history::{Image, NodeHistory};
use super::peer_connection::{Inbound, Outbound};
use super::scenario::Scenario;
use crate::admission::{Admission, Identity};
use crate::apply::Applier;
use crate::disk::Meter;
use crate::machine::state_machine::StateMachine;
use crate::machine::{KIND, Kv};
use crate::node::node::NodeStart;
use crate::node::prefetch::Prefetch;
use crate::node::{self, DurableSnapshot, Node};
use crate::snapshot::{Snapshot, Store};
use crate::snapshotting::{Restore, SnapshotWorker, fault, reconcile_with_log};
use crate::types::{ClusterId, DiskId, Index, Membership, NodeId, Position, Run, SnapshotPoint, Time, Write};
use crate::wal::identity::Identity as Owner;
use crate::wal::{self, Ballast, Fault, Journal, SpaceMonitor};
use crate::wire::frame::FrameReader;
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::time::Duration;

/// A snapshot as the node records it.
pub fn durable_snapshot(snapshot: &Snapshot) -> DurableSnapshot {
    DurableSnapshot { position: snapshot.header().position, bytes: snapshot.bytes().clone() }
}

/// The cluster of every simulated world.
pub const CLUSTER: ClusterId = ClusterId(0x51);

/// The contents of a disk, for comparison with what its node promised.
pub fn image(recovered: &wal::Recovered) -> wal::Result<Image> {
    let base = recovered.base.position.index;
    let mut image = Image { hard_state: recovered.hard_state, base, log: Vec::new() };
    if let entries @ 1.. = recovered.heads.len() as u64 {
        let entries = recovered.view.entries(base.next()..=Index(base.0 + entries), u64::MAX)?;
        image.log = entries.iter().map(|entry| (entry.position.term, entry.checksum)).collect();
    }
    Ok(image)
}

/// The opened contents of a machine's directory.
struct DirectoryContents {
    journal: Journal<SimDisk>,
    recovered: wal::Recovered,
    store: Store<SimDisk>,
    snapshot: Option<Snapshot>,
}

/// A machine's clock. It may be off, and run fast or slow, but never goes backward.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: u64,
    /// The drift, in millionths.
    ppm: i64,
}

impl Clock {
    /// A clock that is ahead by `offset` and runs fast by `ppm` millionths.
    pub fn new(offset: Duration, ppm: i64) -> Clock {
        Clock { offset: offset.as_nanos() as u64, ppm }
    }

    /// The clock jumps forward, like that of a virtual machine that was suspended.
    pub fn jump(&mut self, by: Duration) {
        self.offset += by.as_nanos() as u64;
    }

    /// The clock's reading at that time of the world.
    pub fn local(&self, world: Time) -> Time {
        let drift = i128::from(world.0) * i128::from(self.ppm) / 1_000_000;
        Time((i128::from(world.0) + drift) as u64 + self.offset)
    }

    /// The first time of the world at which the clock shows `local`.
    pub fn world(&self, local: Time) -> Time {
        if local == Time::NEVER {
            return Time::NEVER;
        }
        let run = i128::from(local.0.saturating_sub(self.offset));
        let mut world = Time((run * 1_000_000 / (1_000_000 + i128::from(self.ppm))) as u64);
        while self.local(world) < local {
            world = Time(world.0 + 1);
        }
        world
    }
}

/// The bytes received on one link.
#[derive(Debug, Default)]
pub struct Incoming {
    /// The run of the link on which they arrived.
    pub run: u64,
    /// Assembles frames.
    pub reader: FrameReader,
    /// The bytes of an incomplete frame.
    pub buffer: BytesMut,
}

/// A process: the real node, journal and applier.
pub struct Process {
    /// The node.
    pub node: Node,
    /// Its journal.
    pub journal: Journal<SimDisk>,
    /// Its state machine.
    pub applier: Applier<Kv>,
    /// Pending inputs of the state machine.
    pub inputs: InputQueue,
    /// Monitors free disk space.
    pub watch: SpaceMonitor<SimDisk>,
    /// Its snapshot worker.
    pub keeper: SnapshotWorker<SimDisk>,
    /// Whether a snapshot is being taken.
    pub taking: bool,
    /// The journal may discard all entries up to here.
    pub release: Option<Position>,
    /// Writes that wait for the sync in progress.
    pub queued: Vec<Write>,
    /// Whether a sync is in progress.
    pub syncing: bool,
    /// Whether a spare segment is being made.
    pub sparing: bool,
    /// The received bytes, by peer.
    pub incoming: BTreeMap<NodeId, Incoming>,
    /// The time of its next wake-up for its deadline.
    pub tick_at: Option<Time>,
    /// Decides which peers it accepts.
    pub admission: Admission,
    /// Its outbound connection to each peer.
    pub outbound: BTreeMap<NodeId, Outbound>,
    /// The inbound connection from each peer.
    pub inbound: BTreeMap<NodeId, Inbound>,
    /// The membership by which its connections were last arranged.
    pub members: Membership,
    /// Whether its connections were ever arranged by its membership.
    pub arranged: bool,
}

/// One machine.
pub struct Host {
    /// The id of the node that it runs.
    pub id: NodeId,
    /// Whether it was one of the founders of the cluster.
    pub founder: bool,
    /// Its disk.
    pub disk: SimDisk,
    /// The id of that disk.
    pub disk_id: DiskId,
    /// The directory of its snapshots, on the same disk.
    pub snapshot_disk: SimDisk,
    /// The directory of its identity.
    pub root: SimDisk,
    /// Its clock.
    pub clock: Clock,
    /// The process, while one runs.
    pub up: Option<Process>,
    /// How many processes have run here. Events for an earlier process are dropped.
    pub incarnation: u64,
    /// The process is paused until then.
    pub paused: Time,
    /// How much longer the next sync takes.
    pub stall: Duration,
    /// A bit of its disk was flipped: it may refuse to start, for good.
    pub damaged: bool,
    /// Its disk may report a sync as done that it has not done.
    pub may_lie: bool,
    /// Its last process refused to start.
    pub refused_start: bool,
    /// An older copy of its disk and of its snapshots, and its history at that time.
    pub copy: Option<(SimDisk, SimDisk, NodeHistory)>,
    /// `copy` is not a copy but the disk that an older copy has replaced: it will be swapped back in.
    pub copy_is_replaced_disk: bool,
    /// Its disk was emptied at least once.
    pub wiped: bool,
    /// Its disk was emptied, and it is still a member under its former disk id.
    pub awaiting_removal: bool,
}

impl Host {
    /// A machine with an empty disk, not running.
    pub fn new(id: NodeId, founder: bool, clock: Clock) -> Host {
        let disk = SimDisk::new();
        Host {
            id,
            founder,
            snapshot_disk: disk.sibling_directory(),
            root: SimDisk::new(),
            disk,
            disk_id: DiskId(id.get()),
            clock,
            up: None,
            incarnation: 0,
            paused: Time::ZERO,
            stall: Duration::ZERO,
            damaged: false,
            may_lie: false,
            refused_start: false,
            copy: None,
            copy_is_replaced_disk: false,
            wiped: false,
            awaiting_removal: false,
        }
    }

    /// Replaces the disk by an empty one, so that its data and its identity are lost. The machine starts as it did at
    /// first, until it is told to join.
    pub fn wipe(&mut self) {
        self.disk = SimDisk::new();
        self.snapshot_disk = self.disk.sibling_directory();
        self.root = SimDisk::new();
        self.disk_id = DiskId(self.disk_id.0 + 1000);
        self.copy = None;
        (self.damaged, self.may_lie, self.refused_start) = (false, false, false);
        self.wiped = true;
        self.awaiting_removal = true;
    }

    /// Whether its disk has stopped in the middle of an operation.
    pub fn has_stopped(&self) -> bool {
        self.disk.stopped() || self.snapshot_disk.stopped()
    }

    /// What recovery would find if the power failed now and no unsynced write survived.
    pub fn durable(&self, scenario: &Scenario) -> Result<Image, Fault> {
        image(&self.open(scenario, self.disk.durable(), false)?.1)
    }

    /// Opens the journal. With `founded`, a missing journal is an error: it was lost.
    fn open(
        &self,
        scenario: &Scenario,
        disk: SimDisk,
        founded: bool,
    ) -> Result<(Journal<SimDisk>, wal::Recovered), Fault> {
        let membership = if self.founder { scenario.founding() } else { Membership::default() };
        let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
        let options = wal::Options {
            segment_bytes: scenario.segment_bytes,
            mutants: scenario.mutants,
            ..wal::Options::new(self.id, CLUSTER, self.disk_id)
        };
        Journal::open(disk, options, Some(&base).filter(|_| !founded))
    }

    /// Reads the owner of the directory. A directory without an owner becomes this machine's.
    fn owner(&self) -> Result<Owner, Fault> {
        if let Some(owner) = Owner::read(&self.root)? {
            owner.check("the directory", self.id)?;
            return Ok(owner);
        }
        let owner = Owner { node: self.id, cluster: CLUSTER, disk: self.disk_id, founded: false, log: None, starts: 0 };
        owner.write(&self.root)?;
        Ok(owner)
    }

    /// Opens the directory and creates what is missing. After a failure for lack of disk space, it may be called again.
    fn find(&self, scenario: &Scenario, reserve: &Ballast<SimDisk>) -> Result<DirectoryContents, Fault> {
        let owner = self.owner()?;
        let (mut journal, mut recovered) = self.open(scenario, self.disk.clone(), owner.founded)?;
        journal.fall_back_on(reserve.clone());
        let store = Store::open(self.snapshot_disk.clone(), CLUSTER).map_err(fault)?.breaking(scenario.mutants);
        let newest = store.newest().map_err(fault)?;
        let snapshot = reconcile_with_log(&mut journal, &mut recovered, newest)?;
        if !owner.founded {
            Owner { founded: true, ..owner }.write(&self.root)?;
        }
        Ok(DirectoryContents { journal, recovered, store, snapshot })
    }

    /// Starts a process on the contents of the disk, as `drave serve` does, and returns these contents.
    pub fn boot(&mut self, scenario: &Scenario, now: Time, seed: u64) -> Result<Image, Fault> {
        let reserve = Ballast::new(self.disk.clone(), scenario.segment_bytes);
        let found = match self.find(scenario, &reserve) {
            Err(Fault::Full { .. }) if reserve.remove_for_log()? => self.find(scenario, &reserve)?,
            found => found?,
        };
        let DirectoryContents { journal, recovered, store, snapshot } = found;
        let image = image(&recovered)?;
        let raft_options = scenario.raft_options(self.id);
        let options =
            node::Options { mutants: scenario.mutants, cluster: CLUSTER, frees: Kv::frees, ..scenario.node.clone() };
        let mut applier = Applier::with(Kv::new(), scenario.sessions).breaking(scenario.mutants, self.id);
        if let Some(snapshot) = snapshot.clone() {
            applier = Restore::begin(&applier, snapshot).all(&Meter::default())?.0;
        }
        let kept = snapshot.map(|snapshot| durable_snapshot(&snapshot));
        let disk = Some(self.disk_id);
        let begun = NodeStart {
            now: self.clock.local(now),
            disk,
            applied: applier.apply(&[]),
            kept,
            chance: seed,
            beforehand: Prefetch::default(),
        };
        let node = node::start(self.id, recovered, raft_options, options, begun);
        self.up = Some(Process {
            node,
            journal,
            applier,
            inputs: InputQueue::default(),
            watch: SpaceMonitor::new(reserve.clone(), scenario.segment_bytes),
            keeper: SnapshotWorker::new(store, reserve),
            taking: false,
            release: None,
            queued: Vec::new(),
            syncing: false,
            sparing: false,
            incoming: BTreeMap::new(),
            tick_at: None,
            admission: Admission::new(Identity {
                node: self.id,
                cluster: CLUSTER,
                disk: self.disk_id,
                run: Run { id: seed, starts: self.incarnation + 1 },
            })
            .of_machine(KIND),
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
            members: Membership::default(),
            arranged: false,
        });
        self.incarnation += 1;
        self.stall = Duration::ZERO;
        Ok(image)
    }
}
