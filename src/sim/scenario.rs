//! The parameters of a world, drawn from a seed: each seed has its own mix of faults, timings and sizes.

use super::network::{LinkKind, NetworkProfile};
use super::operator_profile::OperatorProfile;
use super::workload::Load;
use crate::apply::sessions;
use crate::consensus;
use crate::limits::{CHUNK_BYTES, SESSION_IDLE_MS_MAX, SESSIONS_MAX};
use crate::node;
use crate::types::{Membership, Mutants, NodeId, Versions};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// How often each fault is injected, as weights. A fault with weight zero does not occur in this world.
#[derive(Clone, Debug, Default)]
pub struct FaultWeights {
    /// Weight of the fault that a machine loses power: unsynced data is lost in part or completely.
    pub power: u32,
    /// Weight of the fault that a process is killed; its page cache survives.
    pub kill: u32,
    /// Weight of the fault that a machine loses power in the middle of a disk operation.
    pub power_mid_operation: u32,
    /// Weight of the fault that all machines lose power at once.
    pub blackout: u32,
    /// Weight of the fault that a process is paused for a while.
    pub pause: u32,
    /// Weight of the fault that the network is split into two parts.
    pub partition: u32,
    /// Weight of the fault that messages from one node to another are lost, and those in the other direction arrive.
    pub one_way: u32,
    /// Weight of the fault that a link breaks with messages in flight.
    pub reset: u32,
    /// Weight of the fault that the next sync of a disk takes very long.
    pub stall: u32,
    /// Weight of the fault that a sync fails, and the kernel marks the lost pages clean.
    pub eio: u32,
    /// Weight of the fault that a disk is full.
    pub disk_full: u32,
    /// Weight of the fault that a bit of a log segment is flipped, or a sector of it becomes unreadable.
    pub rot: u32,
    /// Weight of the fault that a disk is copied, or replaced by an older copy of itself.
    pub older_copy: u32,
    /// Weight of the fault that a snapshot file is damaged.
    pub rot_snapshot: u32,
    /// Weight of the fault that the monotonic clock of a machine jumps forward.
    pub clock_jump: u32,
    /// Weight of the fault that a file of a running process is damaged.
    pub rot_running: u32,
    /// Weight of the fault that a write to the log lands at another place in the log.
    pub misdirect: u32,
    /// Weight of the fault that a sync of the log is falsely reported as done.
    pub false_sync: u32,
    /// Weight of the fault that the logs of two machines are damaged at once, in different entries.
    pub rot_pair: u32,
}

/// The largest number of machines in a world.
const MACHINES_MAX: u64 = 7;

/// How many times as long faults are injected in a scenario with `long_faults`: a machine that is down for seconds must
/// start again before the faults end.
const LONG_FAULT_PERIOD_FACTOR: u32 = 2;

/// The election timeout that nodes have by default, in percent of the default of [`consensus::Options`].
const DEFAULT_ELECTION_PERCENT: u64 = 100;

/// One machine whose syncs take tens of milliseconds for a long time, like a disk with a shared queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowDisk {
    /// The node whose machine has the slow disk.
    pub node: NodeId,
    /// When the slowness begins, after the start of the world.
    pub from: Duration,
    /// When the slowness ends, after the start of the world. The slowness ends with the faults at the latest.
    pub until: Duration,
}

/// The smallest size of a snapshot chunk that a node sends, in bytes, except the last chunk of a snapshot.
pub const SENT_CHUNK_BYTES_MIN: usize = 400;

/// The parameters of a world, which determine everything that happens in the world.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed from which the parameters were drawn, and with which the world's random generator starts.
    pub seed: u64,
    /// How many nodes found the cluster: its members at the start.
    pub nodes: u64,
    /// How many machines there are besides the founders. The operator may add them to the cluster.
    pub spare_machines: u64,
    /// The behavior of the operator, which changes the members.
    pub operator: OperatorProfile,
    /// How long faults are injected.
    pub fault_phase_duration: Duration,
    /// How long the world may take to come to rest once a leader was found after the faults.
    pub rest_limit: Duration,
    /// The average time between two faults.
    pub fault_interval: Duration,
    /// How often each kind of fault is injected, relative to the others.
    pub fault_weights: FaultWeights,
    /// How the network delays, loses and duplicates messages.
    pub network: NetworkProfile,
    /// The shortest and the longest time that a sync takes, except on a slow disk.
    pub sync_range: (Duration, Duration),
    /// A machine whose disk is slow for long, if there is one.
    pub slow_disk: Option<SlowDisk>,
    /// Whether faults are few and last long, so that a healthy majority exists for long enough to check its progress.
    pub long_faults: bool,
    /// The election timeouts of each machine, in percent of the default.
    pub election_timeout_percent: [u64; MACHINES_MAX as usize],
    /// The longest time that a state machine takes to process one input; zero if every input is processed at once.
    pub apply_delay_max: Duration,
    /// The size of a log segment in bytes.
    pub segment_bytes: u64,
    /// Whether nodes repair damaged journals at a start, as `drave serve` does. Otherwise they refuse to start, as with
    /// `--no-repair`.
    pub repairs_journals: bool,
    /// By how many thousandths a clock runs fast or slow at most.
    pub drift_permille: u32,
    /// The clients and their requests.
    pub load: Load,
    /// Whether the clients stop before the faults end. This reveals problems that the next write would hide.
    pub stops_clients_first: bool,
    /// The options of the nodes, such as when they compact their logs.
    pub node: node::Options,
    /// When sessions expire, and how many there may be.
    pub sessions: sessions::Options,
    /// How many bytes may be in flight to a follower.
    pub window_bytes: u64,
    /// How long founders wait for founders that do not answer.
    pub founding_wait: Duration,
    /// The largest size of one append in bytes.
    pub append_bytes: u64,
    /// The percentage of events after which the node does not send and write its results at once, but together with
    /// those of later events. A real node also handles all events of a wake-up before it does so.
    pub batching_percent: u32,
    /// Whether machines run two versions of the program, and the feature level is raised. Has no effect with datagrams:
    /// one may arrive after its receiver was restarted with an older version.
    pub mixes_versions: bool,
    /// How many pipelined connections each node has.
    pub pipelines: usize,
    /// The number of events after which the run stops while faults are injected; `None` for no limit.
    pub step_limit: Option<u64>,
    /// The rules that the nodes break on purpose, to test the checks.
    pub mutants: Mutants,
}

impl Scenario {
    /// The scenario of this seed. Every second seed has an operator, which changes the members.
    pub fn draw(seed: u64, fault_phase_duration: Duration) -> Scenario {
        let scenario = Scenario::draw_without_operator(seed, fault_phase_duration);
        if seed.is_multiple_of(2) { scenario } else { scenario.with_operator() }
    }

    /// The scenario of this seed, with an operator that changes the members.
    pub fn draw_with_operator(seed: u64, fault_phase_duration: Duration) -> Scenario {
        Scenario::draw_without_operator(seed, fault_phase_duration).with_operator()
    }

    /// The membership that founds the cluster.
    pub fn founding_membership(&self) -> Membership {
        Membership::founding((1..=self.nodes).filter_map(NodeId::new).map(|id| (id, format!("{id}:1"))))
    }

    /// The options of a node's Raft instance. The election timeouts may differ from node to node.
    pub fn raft_options(&self, node: NodeId) -> consensus::Options {
        let default_options = consensus::Options::default();
        let election_timeout_percent =
            self.election_timeout_percent[(node.get() as usize - 1) % self.election_timeout_percent.len()] as u32;
        consensus::Options {
            election_min: default_options.election_min * election_timeout_percent / 100,
            election_max: default_options.election_max * election_timeout_percent / 100,
            window_bytes_max: self.window_bytes,
            append_bytes_max: self.append_bytes,
            reserve_bytes: self.segment_bytes,
            founding_wait: self.founding_wait,
            mutants: self.mutants,
            ..default_options
        }
    }

    /// The longest election timeout of any node.
    pub fn election_max(&self) -> Duration {
        let longest_percent =
            self.election_timeout_percent.iter().max().copied().unwrap_or(DEFAULT_ELECTION_PERCENT) as u32;
        consensus::Options::default().election_max * longest_percent / 100
    }

    /// How long a healthy cluster may take to elect a leader and to commit: ten of the longest election timeouts.
    pub fn progress_limit(&self) -> Duration {
        self.election_max() * 10
    }

    /// Whether the disk of a node is slow when the time `elapsed` has passed since the start of the world.
    pub fn has_slow_disk(&self, node: NodeId, elapsed: Duration) -> bool {
        self.slow_disk.is_some_and(|slow| slow.node == node && (slow.from..slow.until).contains(&elapsed))
    }

    /// Draws the parameters that were added to `Scenario` later, each from a random generator of its own, so that all
    /// older parameters of a seed stay the same.
    fn draw_later_parameters(mut self) -> Scenario {
        let rng_for = |seed_mask: u64| SmallRng::seed_from_u64(self.seed ^ seed_mask);
        let mut rng = rng_for(0x6c61_7374_696e_6721);
        self.long_faults = rng.random_range(0..4) == 0;
        if self.long_faults {
            self.fault_phase_duration *= LONG_FAULT_PERIOD_FACTOR;
            self.fault_weights.older_copy =
                self.fault_weights.older_copy.max(if self.nodes >= 3 { rng.random_range(0..=6) } else { 0 });
        }
        let mut rng = rng_for(0x736c_6f77_6469_736b);
        if rng.random_range(0..4) == 0 {
            let node = NodeId::new(rng.random_range(1..=self.nodes)).expect("node ids begin at one");
            let fault_phase_duration = self.fault_phase_duration.as_millis() as u64;
            let (from, until) = match rng.random_range(0..2) {
                0 => (0, fault_phase_duration),
                _ => (
                    rng.random_range(0..=fault_phase_duration / 2),
                    rng.random_range(fault_phase_duration / 2..=fault_phase_duration),
                ),
            };
            let ms = Duration::from_millis;
            self.slow_disk = Some(SlowDisk { node, from: ms(from), until: ms(until) });
        }
        let mut rng = rng_for(0x656c_6563_7469_6f6e);
        if rng.random_range(0..3) == 0 {
            self.election_timeout_percent =
                std::array::from_fn(|_| rng.random_range(DEFAULT_ELECTION_PERCENT..=2 * DEFAULT_ELECTION_PERCENT));
        }
        let mut rng = rng_for(0x636c_6f63_6b6a_756d);
        self.fault_weights.clock_jump = [0, 0, 0, 8][rng.random_range(0..4)];
        if self.fault_weights.clock_jump > 0 {
            // The cluster's clock jumps ahead together with the leader's clock. The history checker does not know of
            // these jumps, and would report expired keys as a violation.
            self.load.expiring_value_percent = 0;
        }
        let mut rng = rng_for(0x6469_736b_6c69_6573);
        if self.nodes >= 3 {
            self.fault_weights.rot_running = [0, 0, 0, 4][rng.random_range(0..4)];
            self.fault_weights.misdirect = [0, 0, 0, 4][rng.random_range(0..4)];
            self.fault_weights.false_sync = [0, 0, 0, 8][rng.random_range(0..4)];
        }
        let mut rng = rng_for(0x6c61_7465_6d73_6773);
        self.network.late_on_cut_percent = [0, 0, 5, 40][rng.random_range(0..4)];
        let mut rng = rng_for(0x6c69_6e6b_6564);
        self.load.mux_clients = [0, 0, 1, 2][rng.random_range(0..4)];
        self.load.call_clients = [0, 0, 1, 2][rng.random_range(0..4)];
        self.load.mixed_task_percent = [0, 30, 60][rng.random_range(0..3)];
        let mut rng = rng_for(0x7265_7061_6972);
        self.repairs_journals = rng.random_range(0..4) > 0;
        let mut rng = rng_for(0x7363_7275_6262_6564);
        self.node.scrub_interval = [None, Some(500), Some(3000)][rng.random_range(0..3)].map(Duration::from_millis);
        if self.nodes >= 3 && self.node.scrub_interval.is_some() {
            self.fault_weights.rot_running = self.fault_weights.rot_running.max(rng.random_range(0..=6));
            // With larger segments, few are sealed in a short run.
            self.segment_bytes = if rng.random() { 8 << 10 } else { self.segment_bytes };
        }
        let mut rng = rng_for(0x726f_745f_7061_6972);
        if self.nodes == 3 && self.repairs_journals && rng.random_range(0..3) == 0 {
            self.damage_pairs_only();
        }
        self
    }

    /// Makes damage to two disks at once the only fault by which data is lost, so that the two nodes can always get
    /// their entries from each other. After a power loss, no node knows exactly where its damaged log ended.
    pub fn damage_pairs_only(&mut self) {
        let FaultWeights { kill, pause, partition, one_way, reset, stall, clock_jump, .. } = self.fault_weights;
        let kept_weights =
            FaultWeights { kill, pause, partition, one_way, reset, stall, clock_jump, ..Default::default() };
        self.fault_weights = FaultWeights { rot_pair: 8, ..kept_weights };
    }

    /// Adds an operator and spare machines.
    fn with_operator(mut self) -> Scenario {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0x6d65_6d62_6572_7321);
        self.spare_machines =
            if self.nodes < MACHINES_MAX { rng.random_range(1..=MACHINES_MAX - self.nodes) } else { 0 };
        self.operator = OperatorProfile::draw(&mut rng, self.nodes);
        // A change of members may need a voter that is damaged.
        self.fault_weights.rot_pair = 0;
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0x6461_6d61_6765_6421);
        if self.nodes >= 3 && rng.random_range(0..3) == 0 {
            // Forced changes and lost disks together can leave a cluster that nothing repairs.
            self.operator.forced_percent = 0;
        } else {
            (self.fault_weights.rot, self.fault_weights.rot_snapshot) = (0, 0);
            (self.fault_weights.rot_running, self.fault_weights.misdirect, self.fault_weights.false_sync) = (0, 0, 0);
        }
        self
    }

    /// The scenario of this seed, without an operator: the members do not change.
    pub fn draw_without_operator(seed: u64, fault_phase_duration: Duration) -> Scenario {
        Scenario::draw_basic(seed, fault_phase_duration).draw_later_parameters()
    }

    /// Like `draw_with_operator`, without the parameters that were added later: no slow disks, uneven election
    /// timeouts, clock jumps, late messages, long faults, clients with connections, or tasks of several operations.
    pub fn draw_basic_with_operator(seed: u64, fault_phase_duration: Duration) -> Scenario {
        Scenario::draw_basic(seed, fault_phase_duration).with_operator()
    }

    /// Like `draw_basic_with_operator`, without an operator.
    pub fn draw_basic(seed: u64, fault_phase_duration: Duration) -> Scenario {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x6472_6176_6573_696d);
        let rng = &mut rng;
        let nodes = [1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 7][rng.random_range(0..14)];
        let has_fast_disks = rng.random_range(0..3) > 0;
        let mut scenario = Scenario {
            seed,
            nodes,
            spare_machines: 0,
            operator: OperatorProfile::default(),
            fault_phase_duration,
            rest_limit: Duration::from_secs(60),
            fault_interval: Duration::from_millis(rng.random_range(50..1500)),
            fault_weights: draw_fault_weights(rng, nodes),
            network: draw_network(rng),
            sync_range: if has_fast_disks {
                (Duration::from_micros(100), Duration::from_millis(3))
            } else {
                (Duration::from_millis(2), Duration::from_millis(60))
            },
            slow_disk: None,
            long_faults: false,
            election_timeout_percent: [DEFAULT_ELECTION_PERCENT; MACHINES_MAX as usize],
            apply_delay_max: Duration::ZERO,
            segment_bytes: [8 << 10, 16 << 10, 64 << 10, 1 << 20][rng.random_range(0..4)],
            repairs_journals: false,
            drift_permille: [0, 0, 10, 60][rng.random_range(0..4)],
            load: draw_load(rng),
            stops_clients_first: rng.random_range(0..3) == 0,
            node: node::Options {
                // The smallest value causes a snapshot every few entries.
                snapshot_log_bytes: [400, 2000, 20_000, u64::MAX][rng.random_range(0..4)],
                snapshot_max_age: Duration::from_millis([700, 3_600_000][rng.random_range(0..2)]),
                snapshot_retry_delay: Duration::from_millis(300),
                trailing_bytes: [0, 500, 5000][rng.random_range(0..3)],
                log_hold_bytes: [0, 5000, 1 << 30][rng.random_range(0..3)],
                log_hold_time: Duration::from_secs(2),
                scrub_interval: None,
                ..node::Options::default()
            },
            sessions: sessions::Options {
                idle_ms_max: if rng.random_range(0..6) == 0 { 2000 } else { SESSION_IDLE_MS_MAX },
                session_count_max: if rng.random_range(0..6) == 0 { 2 } else { SESSIONS_MAX },
                ..sessions::Options::default()
            },
            founding_wait: Duration::ZERO,
            window_bytes: [4 << 10, 64 << 10, 8 << 20][rng.random_range(0..3)],
            append_bytes: [512, 4 << 10, 1 << 20][rng.random_range(0..3)],
            batching_percent: 0,
            mixes_versions: false,
            pipelines: 0,
            step_limit: None,
            mutants: Mutants::NONE,
        };
        scenario.apply_delay_max = Duration::from_millis([0, 0, 5, 150][rng.random_range(0..4)]);
        // These parameters were added later. They have random generators of their own, so that the parameters drawn
        // above stay the same for each seed.
        let mut later_rng = SmallRng::seed_from_u64(seed ^ 0x6465_6164_6c69_6e65);
        scenario.load.expiring_value_percent = [0, 0, 40][later_rng.random_range(0..3)];
        scenario.fault_weights.older_copy =
            if scenario.nodes >= 3 { [0, 0, 4][later_rng.random_range(0..3)] } else { 0 };
        scenario.founding_wait = Duration::from_millis([300, 1000][later_rng.random_range(0..2)]);
        let mut later_rng = SmallRng::seed_from_u64(seed ^ 0x7069_7065_6c69_6e65);
        scenario.batching_percent = [0, 30, 60, 90][later_rng.random_range(0..4)];
        scenario.pipelines = [0, 0, 1, 2][later_rng.random_range(0..4)];
        scenario.fault_weights.rot_snapshot = if nodes < 3 { 0 } else { [0, 0, 0, 6][later_rng.random_range(0..4)] };
        scenario.mixes_versions = draw_mixes_versions(seed);
        // With the smallest value, every snapshot is sent in many chunks.
        scenario.node.chunk_bytes = [SENT_CHUNK_BYTES_MIN, 3000, CHUNK_BYTES][rng.random_range(0..3)];
        scenario
    }
}

/// Draws whether machines run two versions, in a build that has two.
fn draw_mixes_versions(seed: u64) -> bool {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x7570_6772_6164_6573);
    Versions::COMPILED != Versions::CURRENT && rng.random_range(0..3) == 0
}

fn draw_fault_weights(rng: &mut SmallRng, nodes: u64) -> FaultWeights {
    // About half of the kinds of faults never occur in a given world, so that combinations of the other kinds are seen
    // alone.
    let mut draw_weight = |max: u32| if rng.random_range(0..2) == 0 { 0 } else { rng.random_range(1..=max) };
    let mut fault_weights = FaultWeights {
        power: draw_weight(10),
        kill: draw_weight(10),
        power_mid_operation: draw_weight(10),
        blackout: draw_weight(2),
        pause: draw_weight(8),
        partition: draw_weight(8),
        one_way: draw_weight(8),
        reset: draw_weight(10),
        stall: draw_weight(8),
        eio: draw_weight(4),
        disk_full: draw_weight(3),
        rot: draw_weight(2),
        older_copy: 0,
        rot_snapshot: 0,
        clock_jump: 0,
        rot_running: 0,
        misdirect: 0,
        false_sync: 0,
        rot_pair: 0,
    };
    if nodes < 3 {
        // In a cluster of one or two nodes, the loss of one disk already loses a majority.
        fault_weights.rot = 0;
    }
    fault_weights
}

fn draw_network(rng: &mut SmallRng) -> NetworkProfile {
    let link_kind = if rng.random_range(0..5) < 3 { LinkKind::Stream } else { LinkKind::Datagram };
    let is_datagram = link_kind == LinkKind::Datagram;
    NetworkProfile {
        link_kind,
        delay: Duration::from_micros([50, 500, 5000][rng.random_range(0..3)]),
        jitter: Duration::from_micros([0, 200, 3000, 20_000][rng.random_range(0..4)]),
        loss_percent: if is_datagram { [0, 2, 10, 30][rng.random_range(0..4)] } else { 0 },
        duplicate_percent: if is_datagram { [0, 2, 30][rng.random_range(0..3)] } else { 0 },
        straggler_percent: [0, 1, 5][rng.random_range(0..3)],
        late_on_cut_percent: 0,
    }
}

fn draw_load(rng: &mut SmallRng) -> Load {
    Load {
        clients: rng.random_range(1..5),
        mux_clients: 0,
        call_clients: 0,
        outstanding_max: rng.random_range(1..5),
        keys: rng.random_range(1..7),
        think_time_max: Duration::from_millis([10, 50, 200][rng.random_range(0..3)]),
        reply_timeout: Duration::from_millis([100, 400, 1500][rng.random_range(0..3)]),
        read_percent: [0, 30, 70][rng.random_range(0..3)],
        followers_forward: rng.random_range(0..2) == 0,
        large_value_percent: [0, 0, 5, 30][rng.random_range(0..4)],
        expiring_value_percent: 0,
        mixed_task_percent: 0,
    }
}
