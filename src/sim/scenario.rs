//! The parameters of a world, drawn from a seed: each seed has its own mix.

use super::governance::Governance;
use super::network::{NetworkProfile, Tier};
use super::workload::Load;
use crate::apply::sessions;
use crate::consensus;
use crate::limits::{CHUNK_BYTES, SESSION_IDLE_MS_MAX, SESSIONS_MAX};
use crate::node;
use crate::types::{Membership, Mutants, NodeId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// How often each fault is injected, as weights. A fault with weight zero does not occur in this world.
#[derive(Clone, Debug, Default)]
pub struct FaultWeights {
    /// A machine loses power: unsynced data is lost in part or completely.
    pub power: u32,
    /// A process is killed; its page cache survives.
    pub kill: u32,
    /// A machine loses power in the middle of a disk operation.
    pub midway: u32,
    /// All machines lose power at once.
    pub blackout: u32,
    /// A process is paused for a while.
    pub pause: u32,
    /// The network is split into two parts.
    pub partition: u32,
    /// Messages from one node to another are lost; the other direction works.
    pub one_way: u32,
    /// A link breaks with messages in flight.
    pub reset: u32,
    /// The next sync of a disk takes very long.
    pub stall: u32,
    /// A sync fails, and the kernel marks the lost pages clean.
    pub eio: u32,
    /// A disk is full.
    pub full: u32,
    /// A bit of a disk is flipped.
    pub rot: u32,
    /// An older copy of a disk is restored.
    pub older: u32,
    /// A bit of a snapshot is flipped.
    pub rot_snapshot: u32,
    /// The monotonic clock of a machine jumps forward.
    pub clock_jump: u32,
    /// A file of a running process is damaged.
    pub rot_running: u32,
    /// A write to the log lands at another place in the log.
    pub misdirect: u32,
    /// A sync of the log is reported as done and is not.
    pub lie: u32,
}

/// The largest number of machines.
const MACHINES: u64 = 7;

/// The factor by which the storm is longer where faults are few: a machine that is away for seconds comes back within
/// it.
const LASTING_STORM: u32 = 2;

/// The default election timeout of a node, in percent of Raft's default.
const ELECTION_PERCENT: u64 = 100;

/// One machine whose syncs take tens of milliseconds for a long time, like a disk with a shared queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowDisk {
    /// The machine.
    pub node: NodeId,
    /// When the slowness begins, from the start of the storm.
    pub from: Duration,
    /// When it ends, if it ends before the storm.
    pub until: Duration,
}

/// The parameters of a world.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed that they were drawn from.
    pub seed: u64,
    /// How many nodes found the cluster.
    pub nodes: u64,
    /// How many more machines there are, which may be added to the cluster.
    pub spares: u64,
    /// The operator, which changes the members.
    pub governance: Governance,
    /// How long faults are injected.
    pub storm: Duration,
    /// How long the world may then take to come to rest.
    pub calm: Duration,
    /// The average time between two faults.
    pub every: Duration,
    /// How often each kind of fault is injected.
    pub troubles: FaultWeights,
    /// The network's delays, losses and duplicates.
    pub weather: NetworkProfile,
    /// The shortest and the longest sync.
    pub sync: (Duration, Duration),
    /// The machine whose disk is slow for long, if any.
    pub slow_disk: Option<SlowDisk>,
    /// Whether faults are few and last long: a majority without faults must then make progress.
    pub long_faults: bool,
    /// The election timeouts of each machine, in percent of the default.
    pub election_percent: [u64; MACHINES as usize],
    /// The longest time that a state machine takes to apply one input.
    pub apply: Duration,
    /// The size of a segment in bytes.
    pub segment_bytes: u64,
    /// The largest clock drift, fast or slow, in thousandths.
    pub skew: u32,
    /// How many clients there are, and how often each sends a request.
    pub load: Load,
    /// Whether clients stop before faults do: this reveals problems that only the next write would repair.
    pub quiet: bool,
    /// The options of the nodes, such as when they compact their logs.
    pub node: node::Options,
    /// When sessions expire.
    pub sessions: sessions::Options,
    /// How many bytes may be in flight to a follower.
    pub window_bytes: u64,
    /// How long founders wait for silent founders.
    pub founding_wait: Duration,
    /// The largest size of one append in bytes.
    pub append_bytes: u64,
    /// The percentage of events that no turn follows at once: one wake-up of the product handles many events and then
    /// runs one turn.
    pub batching: u32,
    /// How many pipelined connections each node has.
    pub pipelines: usize,
    /// The number of steps after which the run stops, calm or not.
    pub steps: Option<u64>,
    /// The rules that are broken on purpose.
    pub mutants: Mutants,
}

impl Scenario {
    /// The world of this seed; in every second world the members change.
    pub fn draw(seed: u64, storm: Duration) -> Scenario {
        let scenario = Scenario::draw_steady(seed, storm);
        if seed.is_multiple_of(2) { scenario } else { scenario.govern() }
    }

    /// The world of this seed, with changes of the members.
    pub fn draw_governed(seed: u64, storm: Duration) -> Scenario {
        Scenario::draw_steady(seed, storm).govern()
    }

    /// The membership that founds the cluster.
    pub fn founding(&self) -> Membership {
        Membership::founding((1..=self.nodes).filter_map(NodeId::new).map(|id| (id, format!("{id}:1"))))
    }

    /// The options of a node's Raft instance. The election timeouts may differ from node to node.
    pub fn raft_options(&self, node: NodeId) -> consensus::Options {
        let default = consensus::Options::default();
        let percent = self.election_percent[(node.get() as usize - 1) % self.election_percent.len()] as u32;
        consensus::Options {
            election_min: default.election_min * percent / 100,
            election_max: default.election_max * percent / 100,
            window_bytes: self.window_bytes,
            append_bytes: self.append_bytes,
            reserve_bytes: self.segment_bytes,
            founding_wait: self.founding_wait,
            mutants: self.mutants,
            ..default
        }
    }

    /// The longest election timeout of any node.
    pub fn election_max(&self) -> Duration {
        let longest = self.election_percent.iter().max().copied().unwrap_or(ELECTION_PERCENT) as u32;
        consensus::Options::default().election_max * longest / 100
    }

    /// How long a healthy cluster may take to elect a leader and to commit: ten election timeouts.
    pub fn leaderless(&self) -> Duration {
        self.election_max() * 10
    }

    /// Whether the disk of that node is slow at that time after the start.
    pub fn is_slow(&self, node: NodeId, after: Duration) -> bool {
        self.slow_disk.is_some_and(|slow| slow.node == node && (slow.from..slow.until).contains(&after))
    }

    /// Draws the parameters that were added later, each from its own generator, so that all others of a seed stay the
    /// same.
    fn draw_apart(mut self) -> Scenario {
        let apart = |constant: u64| SmallRng::seed_from_u64(self.seed ^ constant);
        let mut rng = apart(0x6c61_7374_696e_6721);
        self.long_faults = rng.random_range(0..4) == 0;
        if self.long_faults {
            self.storm *= LASTING_STORM;
            self.troubles.older = self.troubles.older.max(if self.nodes >= 3 { rng.random_range(0..=6) } else { 0 });
        }
        let mut rng = apart(0x736c_6f77_6469_736b);
        if rng.random_range(0..4) == 0 {
            let node = NodeId::new(rng.random_range(1..=self.nodes)).expect("node ids begin at one");
            let storm = self.storm.as_millis() as u64;
            let (from, until) = match rng.random_range(0..2) {
                0 => (0, storm),
                _ => (rng.random_range(0..=storm / 2), rng.random_range(storm / 2..=storm)),
            };
            let ms = Duration::from_millis;
            self.slow_disk = Some(SlowDisk { node, from: ms(from), until: ms(until) });
        }
        let mut rng = apart(0x656c_6563_7469_6f6e);
        if rng.random_range(0..3) == 0 {
            self.election_percent = std::array::from_fn(|_| rng.random_range(ELECTION_PERCENT..=2 * ELECTION_PERCENT));
        }
        let mut rng = apart(0x636c_6f63_6b6a_756d);
        self.troubles.clock_jump = [0, 0, 0, 8][rng.random_range(0..4)];
        if self.troubles.clock_jump > 0 {
            // The cluster's clock runs ahead by as much as the leader's clock jumps, and the history cannot know how
            // far.
            self.load.mortal = 0;
        }
        let mut rng = apart(0x6469_736b_6c69_6573);
        if self.nodes >= 3 {
            self.troubles.rot_running = [0, 0, 0, 4][rng.random_range(0..4)];
            self.troubles.misdirect = [0, 0, 0, 4][rng.random_range(0..4)];
            self.troubles.lie = [0, 0, 0, 8][rng.random_range(0..4)];
        }
        let mut rng = apart(0x6c61_7465_6d73_6773);
        self.weather.late = [0, 0, 5, 40][rng.random_range(0..4)];
        let mut rng = apart(0x6c69_6e6b_6564);
        self.load.muxes = [0, 0, 1, 2][rng.random_range(0..4)];
        self.load.callers = [0, 0, 1, 2][rng.random_range(0..4)];
        self.load.mixed = [0, 30, 60][rng.random_range(0..3)];
        self
    }

    fn govern(mut self) -> Scenario {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0x6d65_6d62_6572_7321);
        self.spares = if self.nodes < MACHINES { rng.random_range(1..=MACHINES - self.nodes) } else { 0 };
        self.governance = Governance::draw(&mut rng, self.nodes);
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0x6461_6d61_6765_6421);
        if self.nodes >= 3 && rng.random_range(0..3) == 0 {
            // Forced changes and lost disks together can leave a cluster that nothing repairs.
            self.governance.forced = 0;
        } else {
            (self.troubles.rot, self.troubles.rot_snapshot) = (0, 0);
            (self.troubles.rot_running, self.troubles.misdirect, self.troubles.lie) = (0, 0, 0);
        }
        self
    }

    /// The world of this seed, without changes of the members.
    pub fn draw_steady(seed: u64, storm: Duration) -> Scenario {
        Scenario::draw_short(seed, storm).draw_apart()
    }

    /// Like `draw_governed`, without slow disks, uneven election timeouts, clock jumps, late messages, long-lasting
    /// faults, clients over connections, and blocks of commands.
    pub fn draw_short_governed(seed: u64, storm: Duration) -> Scenario {
        Scenario::draw_short(seed, storm).govern()
    }

    /// Like `draw_short_governed`, without changes of the members.
    pub fn draw_short(seed: u64, storm: Duration) -> Scenario {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x6472_6176_6573_696d);
        let rng = &mut rng;
        let nodes = [1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 7][rng.random_range(0..14)];
        let fast = rng.random_range(0..3) > 0;
        let mut scenario = Scenario {
            seed,
            nodes,
            spares: 0,
            governance: Governance::default(),
            storm,
            calm: Duration::from_secs(60),
            every: Duration::from_millis(rng.random_range(50..1500)),
            troubles: troubles(rng, nodes),
            weather: weather(rng),
            sync: if fast {
                (Duration::from_micros(100), Duration::from_millis(3))
            } else {
                (Duration::from_millis(2), Duration::from_millis(60))
            },
            slow_disk: None,
            long_faults: false,
            election_percent: [ELECTION_PERCENT; MACHINES as usize],
            apply: Duration::ZERO,
            segment_bytes: [8 << 10, 16 << 10, 64 << 10, 1 << 20][rng.random_range(0..4)],
            skew: [0, 0, 10, 60][rng.random_range(0..4)],
            load: load(rng),
            quiet: rng.random_range(0..3) == 0,
            node: node::Options {
                // With the smallest value, a snapshot every few entries.
                snapshot_log_bytes: [400, 2000, 20_000, u64::MAX][rng.random_range(0..4)],
                snapshot_max_age: Duration::from_millis([700, 3_600_000][rng.random_range(0..2)]),
                snapshot_again: Duration::from_millis(300),
                trailing_bytes: [0, 500, 5000][rng.random_range(0..3)],
                hold_bytes: [0, 5000, 1 << 30][rng.random_range(0..3)],
                hold_for: Duration::from_secs(2),
                ..node::Options::default()
            },
            sessions: sessions::Options {
                idle_ms_max: if rng.random_range(0..6) == 0 { 2000 } else { SESSION_IDLE_MS_MAX },
                count_max: if rng.random_range(0..6) == 0 { 2 } else { SESSIONS_MAX },
                ..sessions::Options::default()
            },
            founding_wait: Duration::ZERO,
            window_bytes: [4 << 10, 64 << 10, 8 << 20][rng.random_range(0..3)],
            append_bytes: [512, 4 << 10, 1 << 20][rng.random_range(0..3)],
            batching: 0,
            pipelines: 0,
            steps: None,
            mutants: Mutants::NONE,
        };
        scenario.apply = Duration::from_millis([0, 0, 5, 150][rng.random_range(0..4)]);
        // Drawn from its own generator, so that all else of a seed is as it was before there were deadlines.
        let mut apart = SmallRng::seed_from_u64(seed ^ 0x6465_6164_6c69_6e65);
        scenario.load.mortal = [0, 0, 40][apart.random_range(0..3)];
        scenario.troubles.older = if scenario.nodes >= 3 { [0, 0, 4][apart.random_range(0..3)] } else { 0 };
        scenario.founding_wait = Duration::from_millis([300, 1000][apart.random_range(0..2)]);
        let mut apart = SmallRng::seed_from_u64(seed ^ 0x7069_7065_6c69_6e65);
        scenario.batching = [0, 30, 60, 90][apart.random_range(0..4)];
        scenario.pipelines = [0, 0, 1, 2][apart.random_range(0..4)];
        scenario.troubles.rot_snapshot = if nodes < 3 { 0 } else { [0, 0, 0, 6][apart.random_range(0..4)] };
        // With the smallest value, a snapshot is sent in many chunks.
        scenario.node.chunk_bytes = [400, 3000, CHUNK_BYTES][rng.random_range(0..3)];
        scenario
    }
}

fn troubles(rng: &mut SmallRng, nodes: u64) -> FaultWeights {
    // About half of the faults never occur in a given world, so that rare combinations occur without the others.
    let mut weight = |most: u32| if rng.random_range(0..2) == 0 { 0 } else { rng.random_range(1..=most) };
    let mut troubles = FaultWeights {
        power: weight(10),
        kill: weight(10),
        midway: weight(10),
        blackout: weight(2),
        pause: weight(8),
        partition: weight(8),
        one_way: weight(8),
        reset: weight(10),
        stall: weight(8),
        eio: weight(4),
        full: weight(3),
        rot: weight(2),
        older: 0,
        rot_snapshot: 0,
        clock_jump: 0,
        rot_running: 0,
        misdirect: 0,
        lie: 0,
    };
    if nodes < 3 {
        // One lost disk would take the majority with it.
        troubles.rot = 0;
    }
    troubles
}

fn weather(rng: &mut SmallRng) -> NetworkProfile {
    let tier = if rng.random_range(0..5) < 3 { Tier::Stream } else { Tier::Datagram };
    let harsh = tier == Tier::Datagram;
    NetworkProfile {
        tier,
        delay: Duration::from_micros([50, 500, 5000][rng.random_range(0..3)]),
        jitter: Duration::from_micros([0, 200, 3000, 20_000][rng.random_range(0..4)]),
        loss: if harsh { [0, 2, 10, 30][rng.random_range(0..4)] } else { 0 },
        doubling: if harsh { [0, 2, 30][rng.random_range(0..3)] } else { 0 },
        stragglers: [0, 1, 5][rng.random_range(0..3)],
        late: 0,
    }
}

fn load(rng: &mut SmallRng) -> Load {
    Load {
        clients: rng.random_range(1..5),
        muxes: 0,
        callers: 0,
        outstanding: rng.random_range(1..5),
        keys: rng.random_range(1..7),
        think: Duration::from_millis([10, 50, 200][rng.random_range(0..3)]),
        patience: Duration::from_millis([100, 400, 1500][rng.random_range(0..3)]),
        reads: [0, 30, 70][rng.random_range(0..3)],
        forward: rng.random_range(0..2) == 0,
        large: [0, 0, 5, 30][rng.random_range(0..4)],
        mortal: 0,
        mixed: 0,
    }
}
