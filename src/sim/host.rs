//! One machine of the simulated world: its disk, its clock, and the process on it while one runs.

use super::applying::ApplierInput;
use super::checks::{Image, NodeHistory};
use super::disk::SimDisk;
use super::peer_links::{Inbound, Outbound};
use super::scenario::Scenario;
use crate::admission::{Admission, Identity};
use crate::apply::Applier;
use crate::disk::Meter;
use crate::machine::state_machine::StateMachine;
use crate::machine::{KIND, Kv};
use crate::node::node::NodeStart;
use crate::node::prefetch::Prefetch;
use crate::node::{self, DurableSnapshot, Node};
use crate::shelf::{Keeper, Reviving, bring_together, fault};
use crate::snapshot::{Snapshot, Store};
use crate::types::{ClusterId, DiskId, Index, Membership, NodeId, Position, Run, SnapshotPoint, Time, Write};
use crate::wal::identity::Identity as Owner;
use crate::wal::{self, Fault, Journal, Reserve, SpaceMonitor};
use crate::wire::frame::FrameReader;
use bytes::BytesMut;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A snapshot, as the node knows it.
pub fn kept(snapshot: &Snapshot) -> DurableSnapshot {
    DurableSnapshot { position: snapshot.header().position, bytes: snapshot.bytes().clone() }
}

/// The cluster of every simulated world.
pub const CLUSTER: ClusterId = ClusterId(0x51);

/// What a disk holds, for whoever compares it with what was promised.
pub fn image(recovered: &wal::Recovered) -> wal::Result<Image> {
    let base = recovered.base.position.index;
    let mut image = Image { hard_state: recovered.hard_state, base, log: Vec::new() };
    if let entries @ 1.. = recovered.heads.len() as u64 {
        let entries = recovered.view.entries(base.next()..=Index(base.0 + entries), u64::MAX)?;
        image.log = entries.iter().map(|entry| (entry.position.term, entry.checksum)).collect();
    }
    Ok(image)
}

/// What a machine's directory holds.
struct DirectoryContents {
    journal: Journal<SimDisk>,
    recovered: wal::Recovered,
    store: Store<SimDisk>,
    snapshot: Option<Snapshot>,
}

/// A machine's clock: it may be off, and fast or slow, but it never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: u64,
    /// A millionth more or less of every second.
    ppm: i64,
}

impl Clock {
    /// A clock that is off by that much, and fast by so many millionths.
    pub fn new(offset: Duration, ppm: i64) -> Clock {
        Clock { offset: offset.as_nanos() as u64, ppm }
    }

    /// The clock jumps forward, as that of a virtual machine that was suspended.
    pub fn jump(&mut self, by: Duration) {
        self.offset += by.as_nanos() as u64;
    }

    /// What it shows at that moment of the world.
    pub fn local(&self, world: Time) -> Time {
        let drift = i128::from(world.0) * i128::from(self.ppm) / 1_000_000;
        Time((i128::from(world.0) + drift) as u64 + self.offset)
    }

    /// The first moment of the world at which it shows that.
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

/// The bytes that have come in on one link.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Which run of the link they came on.
    pub run: u64,
    /// Puts frames together.
    pub reader: FrameReader,
    /// What is not yet a frame.
    pub buffer: BytesMut,
}

/// A process: the real node, journal and applier.
pub struct Process {
    /// The node.
    pub node: Node,
    /// Its journal.
    pub journal: Journal<SimDisk>,
    /// Its machine.
    pub applier: Applier<Kv>,
    /// What the machine was given and is not done with.
    pub given: VecDeque<ApplierInput>,
    /// Who looks how much room there is.
    pub watch: SpaceMonitor<SimDisk>,
    /// Its snapshots.
    pub keeper: Keeper<SimDisk>,
    /// Whether a snapshot is being taken.
    pub taking: bool,
    /// The journal may let go of everything up to here.
    pub release: Option<Position>,
    /// Writes that wait for the sync that is under way.
    pub queued: Vec<Write>,
    /// Whether a sync is under way.
    pub syncing: bool,
    /// Whether a spare segment is being made.
    pub sparing: bool,
    /// What has come in, by peer.
    pub incoming: BTreeMap<NodeId, Incoming>,
    /// When it is next woken for its deadline.
    pub tick_at: Option<Time>,
    /// Which peers it talks to.
    pub admission: Admission,
    /// The connection over which it speaks to each peer.
    pub outbound: BTreeMap<NodeId, Outbound>,
    /// The connection over which each peer speaks to it.
    pub inbound: BTreeMap<NodeId, Inbound>,
    /// Its members when that was last looked at.
    pub members: Membership,
    /// Whether its connections were ever arranged by them.
    pub arranged: bool,
}

/// One machine.
pub struct Host {
    /// Its node.
    pub id: NodeId,
    /// Whether it was there when the cluster was founded.
    pub founder: bool,
    /// Its disk.
    pub disk: SimDisk,
    /// What that disk is known by.
    pub disk_id: DiskId,
    /// The directory of its snapshots, on the same disk.
    pub shelf: SimDisk,
    /// The directory of its identity.
    pub root: SimDisk,
    /// Its clock.
    pub clock: Clock,
    /// The process, while one runs.
    pub up: Option<Process>,
    /// How many processes have run here. What was meant for an earlier one does not happen.
    pub life: u64,
    /// The process stands still until then.
    pub paused: Time,
    /// The next sync takes that much longer.
    pub stall: Duration,
    /// A bit of its disk was turned over: it may refuse to start, for good.
    pub rotten: bool,
    /// Its disk may call a sync done that it has not done.
    pub lies: bool,
    /// It refused to start.
    pub given_up: bool,
    /// An older copy of its disk and of its snapshots, and what was known of it then.
    pub copy: Option<(SimDisk, SimDisk, NodeHistory)>,
    /// That is no copy but what an older copy has replaced: it comes back in its turn.
    pub twin: bool,
    /// It was emptied, once at least.
    pub wiped: bool,
    /// It was, and is yet a member under the disk that it had.
    pub forgot: bool,
}

impl Host {
    /// A machine with an empty disk, switched off.
    pub fn new(id: NodeId, founder: bool, clock: Clock) -> Host {
        let disk = SimDisk::new();
        Host {
            id,
            founder,
            shelf: disk.beside(),
            root: SimDisk::new(),
            disk,
            disk_id: DiskId(id.get()),
            clock,
            up: None,
            life: 0,
            paused: Time::ZERO,
            stall: Duration::ZERO,
            rotten: false,
            lies: false,
            given_up: false,
            copy: None,
            twin: false,
            wiped: false,
            forgot: false,
        }
    }

    /// Everything on its disk is lost, and who it is with it: another disk is put in. It begins again as it did
    /// first, until it is told to join.
    pub fn wipe(&mut self) {
        self.disk = SimDisk::new();
        self.shelf = self.disk.beside();
        self.root = SimDisk::new();
        self.disk_id = DiskId(self.disk_id.0 + 1000);
        self.copy = None;
        (self.rotten, self.lies, self.given_up) = (false, false, false);
        self.wiped = true;
        self.forgot = true;
    }

    /// Whether its disk has stopped, in the middle of something.
    pub fn has_stopped(&self) -> bool {
        self.disk.stopped() || self.shelf.stopped()
    }

    /// What would be found if the power went now and nothing came through that was not synced.
    pub fn durable(&self, scenario: &Scenario) -> Result<Image, Fault> {
        image(&self.open(scenario, self.disk.durable(), false)?.1)
    }

    /// Opens the journal; one that was founded is lost if it is not there.
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

    /// Whose directory it is; this machine's from now on, if it is nobody's.
    fn owner(&self) -> Result<Owner, Fault> {
        if let Some(owner) = Owner::read(&self.root)? {
            owner.check("the directory", self.id)?;
            return Ok(owner);
        }
        let owner = Owner { node: self.id, cluster: CLUSTER, disk: self.disk_id, founded: false, log: None, starts: 0 };
        owner.write(&self.root)?;
        Ok(owner)
    }

    /// What the directory holds; what is needed is made. Where it ends for want of room, it may begin again.
    fn find(&self, scenario: &Scenario, reserve: &Reserve<SimDisk>) -> Result<DirectoryContents, Fault> {
        let owner = self.owner()?;
        let (mut journal, mut recovered) = self.open(scenario, self.disk.clone(), owner.founded)?;
        journal.fall_back_on(reserve.clone());
        let store = Store::open(self.shelf.clone(), CLUSTER).map_err(fault)?.breaking(scenario.mutants);
        let newest = store.newest().map_err(fault)?;
        let snapshot = bring_together(&mut journal, &mut recovered, newest)?;
        if !owner.founded {
            Owner { founded: true, ..owner }.write(&self.root)?;
        }
        Ok(DirectoryContents { journal, recovered, store, snapshot })
    }

    /// Starts a process on what the disk holds, as `drave serve` does; and says what that was.
    pub fn boot(&mut self, scenario: &Scenario, now: Time, seed: u64) -> Result<Image, Fault> {
        let reserve = Reserve::new(self.disk.clone(), scenario.segment_bytes);
        let found = match self.find(scenario, &reserve) {
            Err(Fault::Full { .. }) if reserve.give_up()? => self.find(scenario, &reserve)?,
            found => found?,
        };
        let DirectoryContents { journal, recovered, store, snapshot } = found;
        let image = image(&recovered)?;
        let raft_options = scenario.raft_options(self.id);
        let options =
            node::Options { mutants: scenario.mutants, cluster: CLUSTER, frees: Kv::frees, ..scenario.node.clone() };
        let mut applier = Applier::with(Kv::new(), scenario.sessions).breaking(scenario.mutants, self.id);
        if let Some(snapshot) = snapshot.clone() {
            applier = Reviving::begin(&applier, snapshot).all(&Meter::default())?.0;
        }
        let kept = snapshot.map(|snapshot| kept(&snapshot));
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
            given: VecDeque::new(),
            watch: SpaceMonitor::new(reserve.clone(), scenario.segment_bytes),
            keeper: Keeper::new(store, reserve),
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
                run: Run { id: seed, starts: self.life + 1 },
            })
            .of_machine(KIND),
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
            members: Membership::default(),
            arranged: false,
        });
        self.life += 1;
        self.stall = Duration::ZERO;
        Ok(image)
    }
}
