//! One seed, from beginning to end.

use super::scenario::Scenario;
use super::snapshots::SnapshotCounts;
use super::world::{Trace, World};
use crate::types::Time;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// What became of a world in which nothing was violated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorldReport {
    /// The seed it was drawn from.
    pub seed: u64,
    /// How much time passed in it.
    pub simulated: Duration,
    /// How many nodes it had.
    pub nodes: u64,
    /// How much happened.
    pub steps: u64,
    /// How much went wrong.
    pub faults: u64,
    /// How many configurations were committed.
    pub configurations: usize,
    /// How many operations clients were answered.
    pub operations: u64,
    /// Whether it ended early: a node voted on an older copy of its disk before anybody told it what it had said.
    pub untold: bool,
    /// How many commands of pipelined connections were executed.
    pub pipelined: u64,
    /// For how many windows of time a majority was healthy and had to make progress.
    pub windows: u64,
    /// How many starts ended for want of room.
    pub full_starts: u64,
    /// How often a machine came back without what its disk had called synced.
    pub lost_writes: u64,
    /// How often the disk that an older copy had replaced came back in its turn.
    pub twins: u64,
    /// How often a machine that did not start for the damage to its disk was given another one.
    pub replaced: u64,
    /// What became of its snapshots.
    pub snapshots: SnapshotCounts,
    /// Whether it ended without a leader, since too many voters were lost for good: that it comes to rest was
    /// not checked then.
    pub needs_the_lost: bool,
    /// Of how many keys the history was too much to judge whether it is linearizable.
    pub unjudged: u64,
    /// All that was sent, written and answered, as one number: the same seed, the same hash.
    pub hash: u64,
}

impl WorldReport {
    /// What else there was in it, in words.
    pub fn beside(&self) -> String {
        let SnapshotCounts { taken, received, damaged, .. } = &self.snapshots;
        let damaged: u64 = damaged.iter().sum();
        let untold = if self.untold { " · ended: an older copy of a disk voted untold" } else { "" };
        let WorldReport {
            configurations, pipelined, windows, full_starts, lost_writes, twins, replaced, unjudged, ..
        } = self;
        format!(
            "{configurations} configurations · {taken} snapshots taken, {received} received, {damaged} times one was found \
             damaged · {pipelined} pipelined · {windows} windows of progress judged \
             · {full_starts} starts without room · {lost_writes} writes lost by a disk \
             · {twins} disks back in their turn · {replaced} damaged disks replaced \
             · {unjudged} keys not judged{untold}{}",
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

/// What was violated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The seed it was drawn from.
    pub seed: u64,
    /// When in the world's time.
    pub at: Time,
    /// After how much had happened.
    pub steps: u64,
    /// What, in words.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, at, steps, what } = self;
        let seconds = at.0 as f64 / 1e9;
        write!(f, "seed {seed} failed after {seconds:.3} s, {steps} steps: {what}")
    }
}

/// What it takes to switch the machines on, once all faults are over.
const SWITCHED_ON: Duration = Duration::from_secs(2);

/// In how many moments of the time that is given to find a leader somebody is looked for who leads.
const LOOKS: u32 = 100;

/// For so many of the longest election timeouts nothing may change once all is at rest.
const QUIET: u32 = 5;

/// Lets a world be hard for a while and then calm, and checks everything all along.
///
/// `trace` is told what happens.
pub fn run(scenario: Scenario, trace: Option<Trace>) -> Result<WorldReport, Violation> {
    let seed = scenario.seed;
    let mut world = World::new(scenario);
    world.trace = trace;
    let ended = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let ended = ended.unwrap_or_else(|panic| Err(format!("a node panics: {}", words(&panic))));
    let ended = if world.checks.untold { Ok((false, 0)) } else { ended };
    match ended {
        Ok((needs_the_lost, unjudged)) => Ok(WorldReport {
            seed,
            simulated: world.now - Time::ZERO,
            nodes: world.scenario.nodes,
            steps: world.steps,
            faults: world.faults,
            configurations: world.checks.configurations.committed(),
            operations: world.history().answered() as u64,
            untold: world.checks.untold,
            pipelined: world.pipelines.order.executed(),
            windows: world.progress.judged(),
            full_starts: world.full_starts,
            lost_writes: world.lost_writes,
            twins: world.twins,
            replaced: world.replaced,
            snapshots: world.snapshots.became,
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
        (None, None) => "without a word".to_owned(),
    }
}

/// Whether it ended without a leader because of voters that were lost for good, and of how many keys the history was too
/// much to judge.
fn live(world: &mut World) -> Result<(bool, u64), String> {
    let needs_the_lost = !comes_to_rest(world)?;
    if world.checks.untold {
        // What a node on an older copy of its disk gave away may be missed by clients as well.
        return Ok((needs_the_lost, 0));
    }
    let unjudged = world.history().check().map_err(|what| format!("linearizability: {what}"))?;
    Ok((needs_the_lost, unjudged))
}

/// All of it but what the clients saw; whether there was a leader in calm, or could be one.
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
            return Err(format!("no rest after {:?} of calm{}", world.scenario.calm, world.standing()));
        }
        pass(world, Duration::from_millis(50))?;
    }
    quiet(world)?;
    Ok(true)
}

/// A cluster at rest stays as it is: whoever left it, or was never of it, deposes nobody.
fn quiet(world: &mut World) -> Result<(), String> {
    let before = world.highest_term();
    pass(world, world.scenario.election_max() * QUIET)?;
    match world.highest_term() {
        after if after == before => Ok(()),
        after => Err(format!("no rest: the term was {before}, and becomes {after}{}", world.standing())),
    }
}

/// Whether somebody led, at one moment at least, of the time that is given to find a leader. Whom the operator
/// replaces at its end may just have left: that another follows is seen when the cluster comes to rest.
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
