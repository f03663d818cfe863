//! Runs the world of one seed from start to end.

use super::scenario::Scenario;
use super::snapshots::SnapshotCounts;
use super::world::{Trace, World};
use crate::types::Time;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The result of a run without violations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorldReport {
    /// The seed of the world.
    pub seed: u64,
    /// How much time passed in the world.
    pub simulated: Duration,
    /// How many founders it had.
    pub nodes: u64,
    /// How many events it handled.
    pub steps: u64,
    /// How many faults were injected.
    pub faults: u64,
    /// How many configurations were committed.
    pub configurations: usize,
    /// How many operations of clients were answered.
    pub operations: u64,
    /// Whether the run ended early: a node voted on an older copy of its disk before it learned its earlier claims.
    pub voted_before_reminder: bool,
    /// How many commands of pipelined connections were executed.
    pub pipelined: u64,
    /// For how many time windows a majority was healthy and had to make progress.
    pub windows: u64,
    /// How many starts failed for lack of disk space.
    pub full_starts: u64,
    /// How often a machine came back without data that its disk had reported as synced.
    pub lost_writes: u64,
    /// How often a disk that an older copy had replaced was swapped back in.
    pub twins: u64,
    /// How often a machine whose damaged disk kept it from starting was given another disk.
    pub replaced: u64,
    /// The counts of its snapshots.
    pub snapshots: SnapshotCounts,
    /// Whether the run ended without a leader because too many voters were lost for good. It was then not checked that
    /// the world comes to rest.
    pub needs_the_lost: bool,
    /// For how many keys the history was too large to decide whether it is linearizable.
    pub unjudged: u64,
    /// A hash over all that was sent, written and answered: the same seed gives the same hash.
    pub hash: u64,
}

impl WorldReport {
    /// Describes the rest of the report.
    pub fn beside(&self) -> String {
        let SnapshotCounts { taken, received, damaged, .. } = &self.snapshots;
        let damaged: u64 = damaged.iter().sum();
        let untold = if self.voted_before_reminder {
            " · ended: an older copy of a disk voted before its reminder"
        } else {
            ""
        };
        let WorldReport {
            configurations, pipelined, windows, full_starts, lost_writes, twins, replaced, unjudged, ..
        } = self;
        format!(
            "{configurations} configurations · {taken} snapshots taken, {received} received, {damaged} times one was found \
             damaged · {pipelined} pipelined · {windows} progress windows checked \
             · {full_starts} starts on a full disk · {lost_writes} writes lost by a disk \
             · {twins} times an alternating copy of a disk came back · {replaced} damaged disks replaced \
             · {unjudged} keys not checked{untold}{}",
            if self.needs_the_lost { " · no leader: too many voters are lost for good" } else { "" }
        )
    }
}

impl fmt::Display for WorldReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorldReport { seed, steps, faults, operations, hash, .. } = self;
        let seconds = self.simulated.as_secs_f64();
        write!(
            f,
            "seed {seed} ok · {seconds:.1} s simulated · {steps} steps · {faults} faults · {operations} operations · hash {hash:016x}"
        )
    }
}

/// A violated property.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The seed of the world.
    pub seed: u64,
    /// The world's time of the violation.
    pub at: Time,
    /// How many events were handled before it.
    pub steps: u64,
    /// A description of the violation.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, at, steps, what } = self;
        let seconds = at.0 as f64 / 1e9;
        write!(f, "seed {seed} failed after {seconds:.3} s, {steps} steps: {what}")
    }
}

/// How long the machines take to start once all faults are over.
const SWITCHED_ON: Duration = Duration::from_secs(2);

/// How many times a leader is looked for in the time that is given to elect one.
const LOOKS: u32 = 100;

/// How many of the longest election timeouts the cluster at rest must stay unchanged for.
const QUIET: u32 = 5;

/// Runs a world with faults for a while and then in calm, and checks everything throughout.
///
/// `trace` receives the events.
pub fn run(scenario: Scenario, trace: Option<Trace>) -> Result<WorldReport, Violation> {
    let seed = scenario.seed;
    let mut world = World::new(scenario);
    world.trace = trace;
    let ended = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let ended = ended.unwrap_or_else(|panic| Err(format!("a node panicked: {}", words(&panic))));
    let ended = if world.checks.voted_before_reminder { Ok((false, 0)) } else { ended };
    match ended {
        Ok((needs_the_lost, unjudged)) => Ok(WorldReport {
            seed,
            simulated: world.now - Time::ZERO,
            nodes: world.scenario.nodes,
            steps: world.steps,
            faults: world.faults,
            configurations: world.checks.configurations.committed(),
            operations: world.history().answered() as u64,
            voted_before_reminder: world.checks.voted_before_reminder,
            pipelined: world.pipelines.order.executed(),
            windows: world.progress.judged(),
            full_starts: world.full_starts,
            lost_writes: world.lost_writes,
            twins: world.twins,
            replaced: world.replaced,
            snapshots: world.snapshots.counts,
            needs_the_lost,
            unjudged,
            hash: world.hash,
        }),
        Err(what) => Err(Violation { seed, at: world.now, steps: world.steps, what }),
    }
}

fn words(panic: &Box<dyn std::any::Any + Send>) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "without a message".to_owned(),
    }
}

/// Runs the world. Returns whether it ended without a leader because of voters that were lost for good, and for how
/// many keys the history was too large to check.
fn live(world: &mut World) -> Result<(bool, u64), String> {
    let needs_the_lost = !comes_to_rest(world)?;
    if world.checks.voted_before_reminder {
        // Acknowledged entries that a node on an older copy of its disk has lost may be missing for the clients as
        // well.
        return Ok((needs_the_lost, 0));
    }
    let unjudged = world.history().check().map_err(|what| format!("linearizability: {what}"))?;
    Ok((needs_the_lost, unjudged))
}

/// Runs all but the check of the clients' history. Returns whether there was a leader in calm, or could have been one.
fn comes_to_rest(world: &mut World) -> Result<bool, String> {
    let storm = world.scenario.storm;
    pass(world, storm * 2 / 3)?;
    if world.scenario.quiet {
        world.stop_clients();
    }
    pass(world, storm / 3)?;
    if world.is_out_of_steps() {
        return Ok(true);
    }
    world.heal();
    if !finds_leader(world)? {
        if world.needs_the_lost() {
            return Ok(false);
        }
        return Err(format!("no leader within ten election timeouts of calm{}", world.standing()));
    }
    world.stop_clients();
    let until = world.now + world.scenario.calm;
    while !world.is_at_rest() {
        if world.now >= until {
            return Err(format!("still busy after {:?} without faults{}", world.scenario.calm, world.standing()));
        }
        pass(world, Duration::from_millis(50))?;
    }
    quiet(world)?;
    Ok(true)
}

/// A cluster at rest stays as it is: nodes that left it, or never belonged to it, do not depose its leader.
fn quiet(world: &mut World) -> Result<(), String> {
    let before = world.highest_term();
    pass(world, world.scenario.election_max() * QUIET)?;
    match world.highest_term() {
        after if after == before => Ok(()),
        after => Err(format!("no rest: the term was {before}, and becomes {after} in calm{}", world.standing())),
    }
}

/// Whether there was a leader at one moment at least of the time that is given to elect one. At its end the operator
/// may just have replaced the leader; that another follows is checked when the cluster comes to rest.
fn finds_leader(world: &mut World) -> Result<bool, String> {
    let mut found = false;
    for _ in 0..LOOKS {
        pass(world, (world.scenario.leaderless() + SWITCHED_ON) / LOOKS)?;
        found |= world.has_leader();
    }
    Ok(found)
}

fn pass(world: &mut World, span: Duration) -> Result<(), String> {
    let until = world.now + span;
    while world.step(until)? {}
    Ok(())
}
