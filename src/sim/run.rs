//! Runs the world of one seed from start to end.

use super::scenario::Scenario;
use super::snapshots::SnapshotCounts;
use super::world::{Trace, World};
use crate::types::Time;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The result of a run without violations. The same scenario gives the same result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorldReport {
    /// The seed from which the world's scenario was drawn.
    pub seed: u64,
    /// How much simulated time passed.
    pub simulated_time: Duration,
    /// How many nodes founded the cluster.
    pub nodes: u64,
    /// How many events were handled.
    pub steps: u64,
    /// How many random faults were injected, plus how many disks were wiped.
    pub faults: u64,
    /// How many configurations were committed.
    pub configurations: usize,
    /// How many operations of clients were answered.
    pub operations: u64,
    /// Whether the run ended early, because a node on an older copy of its disk voted before a peer had reported the
    /// node's earlier claims to it.
    pub voted_on_stale_disk: bool,
    /// How many commands of pipelined connections were executed.
    pub pipelined_commands: u64,
    /// For how many time windows a majority was healthy and therefore had to commit an entry.
    pub progress_windows: u64,
    /// How many starts failed for lack of disk space.
    pub disk_full_starts: u64,
    /// How many times a machine has refused a feature level that its version does not know.
    pub refused_levels: u64,
    /// How many configurations of a raised feature level leaders have written.
    pub raised_levels: u64,
    /// How often a machine came back without data that its disk had reported as synced.
    pub lost_writes: u64,
    /// How many damaged journals were repaired at a start.
    pub repairs: u64,
    /// How often the logs of two machines were damaged at once.
    pub pair_damages: u64,
    /// How often a node got lost entries back without a leader.
    pub leaderless_appends: u64,
    /// How often a node found one of its files damaged when it checked them.
    pub scrub_findings: u64,
    /// How many damaged segments were replaced by a snapshot, or released, while the process ran.
    pub mended_segments: u64,
    /// How often a disk that an older copy had replaced was swapped back in.
    pub disk_swaps: u64,
    /// How often a machine whose damaged disk kept it from starting was given another disk.
    pub replaced_disks: u64,
    /// How many snapshots were taken, received and found damaged.
    pub snapshots: SnapshotCounts,
    /// Whether the run ended without a leader because too many voters were lost for good. In that case the run
    /// does not check whether the world comes to rest.
    pub lost_quorum: bool,
    /// How many keys had a history that was too large to decide whether it is linearizable.
    pub unchecked_keys: u64,
    /// A hash over all that was sent, written and answered: the same seed gives the same hash.
    pub hash: u64,
}

impl WorldReport {
    /// One line with the counts that `Display` leaves out.
    pub fn details(&self) -> String {
        let SnapshotCounts { taken, received, .. } = &self.snapshots;
        let SnapshotCounts { damaged_when_read_back, damaged_when_received, damaged_at_sender, .. } = &self.snapshots;
        let damaged_count = damaged_when_read_back + damaged_when_received + damaged_at_sender;
        let early_end_text = if self.voted_on_stale_disk {
            " · ended early: a node on an older copy of its disk voted before it learned its earlier promises"
        } else {
            ""
        };
        let WorldReport {
            configurations,
            pipelined_commands,
            progress_windows,
            disk_full_starts,
            raised_levels,
            refused_levels,
            lost_writes,
            repairs,
            pair_damages,
            leaderless_appends,
            scrub_findings,
            mended_segments,
            disk_swaps,
            replaced_disks,
            unchecked_keys,
            ..
        } = self;
        format!(
            "{configurations} configurations · {taken} snapshots taken, {received} received, {damaged_count} times \
             one was found damaged · {pipelined_commands} pipelined · {progress_windows} progress windows checked \
             · {disk_full_starts} starts on a full disk · {lost_writes} writes lost by a disk \
             · {raised_levels} times the feature level was raised, {refused_levels} times refused \
             · {repairs} journals repaired · {pair_damages} times two logs damaged at once \
             · {leaderless_appends} times lost entries appended without a leader \
             · {scrub_findings} files found damaged by a check, {mended_segments} segments mended \
             · {disk_swaps} times a replaced disk was swapped back in · {replaced_disks} damaged disks replaced \
             · {unchecked_keys} keys not checked{early_end_text}{}",
            if self.lost_quorum { " · no leader: too many voters are lost for good" } else { "" }
        )
    }
}

impl fmt::Display for WorldReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorldReport { seed, steps, faults, operations, hash, .. } = self;
        let seconds = self.simulated_time.as_secs_f64();
        write!(
            f,
            "seed {seed} ok · {seconds:.1} s simulated · {steps} steps · {faults} faults · {operations} operations · hash {hash:016x}"
        )
    }
}

/// The first violation of a run, which ended the run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The seed from which the world's scenario was drawn.
    pub seed: u64,
    /// The simulated time of the violation.
    pub at: Time,
    /// How many events had been handled by then.
    pub steps: u64,
    /// The violated property, and the nodes and positions that violate it.
    pub description: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, at, steps, description } = self;
        let seconds = at.0 as f64 / 1e9;
        write!(f, "seed {seed} failed after {seconds:.3} s, {steps} steps: {description}")
    }
}

/// How long the machines take to start once all faults are over.
const STARTUP_TIME: Duration = Duration::from_secs(2);

/// How many times the run checks for a leader within the time that is given to elect one.
const LEADER_CHECKS: u32 = 100;

/// For how many of the longest election timeouts the cluster at rest must keep its term.
const REST_ELECTION_TIMEOUTS: u32 = 5;

/// Runs the scenario's world: first with injected faults, then without faults until it comes to rest. Checks every
/// step.
///
/// `trace` receives a line for each event.
pub fn run(scenario: Scenario, trace: Option<Trace>) -> Result<WorldReport, Violation> {
    let seed = scenario.seed;
    let mut world = World::new(scenario);
    world.trace = trace;
    let outcome = catch_unwind(AssertUnwindSafe(|| run_world(&mut world)));
    let outcome = outcome.unwrap_or_else(|panic| Err(format!("a node panicked: {}", panic_text(&panic))));
    let outcome = if world.checks.voted_on_stale_disk { Ok((false, 0)) } else { outcome };
    match outcome {
        Ok((lost_quorum, unchecked_keys)) => Ok(WorldReport {
            seed,
            simulated_time: world.now - Time::ZERO,
            nodes: world.scenario.nodes,
            steps: world.steps,
            faults: world.faults,
            configurations: world.checks.configurations.committed_count(),
            operations: world.history().answered_count() as u64,
            voted_on_stale_disk: world.checks.voted_on_stale_disk,
            pipelined_commands: world.pipelines.order_checks.executed_append_count(),
            progress_windows: world.progress.windows_checked(),
            disk_full_starts: world.disk_full_starts,
            refused_levels: world.refused_levels,
            raised_levels: world.raised_levels,
            lost_writes: world.lost_writes,
            repairs: world.repairs,
            pair_damages: world.pair_damages,
            leaderless_appends: world.leaderless_appends,
            scrub_findings: world.scrub_findings,
            mended_segments: world.mended_segments,
            disk_swaps: world.disk_swaps,
            replaced_disks: world.replaced_disks,
            snapshots: world.snapshots.counts,
            lost_quorum,
            unchecked_keys,
            hash: world.hash,
        }),
        Err(description) => Err(Violation { seed, at: world.now, steps: world.steps, description }),
    }
}

/// The message of a panic, or a text that says that there is none.
fn panic_text(panic: &Box<dyn std::any::Any + Send>) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "without a message".to_owned(),
    }
}

/// Runs the world. Returns whether it ended without a leader because of voters that were lost for good, and for how
/// many keys the history was too large to check.
fn run_world(world: &mut World) -> Result<(bool, u64), String> {
    let lost_quorum = !reach_rest(world)?;
    if world.checks.voted_on_stale_disk {
        // A node on an older copy of its disk may have lost acknowledged entries, so that the clients' history need not
        // be linearizable.
        return Ok((lost_quorum, 0));
    }
    let unchecked_keys = world.history().check().map_err(|description| format!("linearizability: {description}"))?;
    Ok((lost_quorum, unchecked_keys))
}

/// Runs the world until it is at rest. Returns `false` if there was no leader after the faults because too many voters
/// were lost for good. The clients' history is checked afterwards.
fn reach_rest(world: &mut World) -> Result<bool, String> {
    let fault_phase_duration = world.scenario.fault_phase_duration;
    advance(world, fault_phase_duration * 2 / 3)?;
    if world.scenario.stops_clients_first {
        world.stop_clients();
    }
    advance(world, fault_phase_duration / 3)?;
    if world.is_out_of_steps() {
        return Ok(true);
    }
    world.end_faults();
    if !find_leader(world)? {
        if world.has_lost_quorum() {
            return Ok(false);
        }
        return Err(format!("no leader within ten election timeouts without faults{}", world.describe_nodes()));
    }
    world.stop_clients();
    let rest_deadline = world.now + world.scenario.rest_limit;
    while !world.is_at_rest() {
        if world.now >= rest_deadline {
            // A leader may be elected and then commit nothing, because a majority needs the voters that are lost.
            if world.has_lost_quorum() {
                return Ok(false);
            }
            return Err(format!(
                "still busy after {:?} without faults{}",
                world.scenario.rest_limit,
                world.describe_nodes()
            ));
        }
        advance(world, Duration::from_millis(50))?;
    }
    check_rest(world)?;
    Ok(true)
}

/// Checks that a cluster at rest keeps its term: nodes that left the cluster, or never belonged to it, depose no
/// leader.
fn check_rest(world: &mut World) -> Result<(), String> {
    let term_before = world.highest_term();
    advance(world, world.scenario.election_max() * REST_ELECTION_TIMEOUTS)?;
    match world.highest_term() {
        term_after if term_after == term_before => Ok(()),
        term_after => {
            Err(format!("the term rises from {term_before} to {term_after} without faults{}", world.describe_nodes()))
        }
    }
}

/// Whether there was a leader at any check within the time that is given to elect one. The last check alone would not
/// be enough: the operator may have removed the leader shortly before it. While nodes get lost entries back, the
/// time begins anew: no leader can be elected before the last of them.
fn find_leader(world: &mut World) -> Result<bool, String> {
    let mut has_found_leader = false;
    let mut checks_left = LEADER_CHECKS;
    while checks_left > 0 {
        let appends_before = world.leaderless_appends;
        advance(world, (world.scenario.progress_limit() + STARTUP_TIME) / LEADER_CHECKS)?;
        has_found_leader |= world.has_leader();
        let gets_entries_back = !has_found_leader && world.leaderless_appends > appends_before;
        checks_left = if gets_entries_back { LEADER_CHECKS } else { checks_left - 1 };
    }
    Ok(has_found_leader)
}

/// Handles all events of the next `span` of simulated time.
fn advance(world: &mut World, span: Duration) -> Result<(), String> {
    let until = world.now + span;
    while world.step(until)? {}
    Ok(())
}
