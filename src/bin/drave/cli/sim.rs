//! `drave sim`: runs the real node in a simulated world; a failing seed repeats bit for bit.

use crate::output::outln;
use crate::remote::failure::CliError;
use clap::Args;
use drave::sim::{Scenario, Trace, Violation, WorldReport};
use drave::types::Time;
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Runs clusters in a simulator, by seed: the real node, while messages are lost and disks fail, with Raft's invariants
/// checked after every step. A seed that fails repeats bit for bit.
#[derive(Args, Clone, Debug)]
pub struct Sim {
    /// The first seed; default: random
    #[arg(long)]
    seed: Option<u64>,
    /// The number of seeds, from the first on
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long faults are injected in each world, in simulated time
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Stops each world after that many steps
    #[arg(long)]
    steps: Option<u64>,
    /// The number of worlds simulated at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Prints a trace from this simulated time on: from=9s, or from=9s500ms
    #[arg(long, value_parser = parse_trace)]
    trace: Option<Duration>,
    /// Changes the members in every world, not only in every other one
    #[arg(long)]
    members: bool,
    /// Breaks this rule, to test that the checks detect it
    #[cfg(feature = "mutants")]
    #[arg(long, value_parser = parse_mutant)]
    mutant: Option<drave::types::Mutant>,
}

fn parse_trace(text: &str) -> Result<Duration, String> {
    let from = text.strip_prefix("from=").unwrap_or(text);
    humantime::parse_duration(from).map_err(|error| format!("{error}; the form is from=9s or from=9s500ms"))
}

#[cfg(feature = "mutants")]
fn parse_mutant(text: &str) -> Result<drave::types::Mutant, String> {
    use drave::types::Mutant;
    let names = || Mutant::ALL.iter().map(|mutant| mutant.name()).collect::<Vec<_>>().join(", ");
    Mutant::ALL.iter().copied().find(|mutant| mutant.name() == text).ok_or_else(|| format!("one of {}", names()))
}

impl Sim {
    fn scenario(&self, seed: u64) -> Scenario {
        let draw = if self.members { Scenario::draw_governed } else { Scenario::draw };
        let mut scenario = draw(seed, self.duration);
        scenario.steps = self.steps;
        #[cfg(feature = "mutants")]
        if let Some(mutant) = self.mutant {
            scenario.mutants = drave::types::Mutants::only(mutant);
        }
        scenario
    }

    /// The command line that repeats a violation.
    fn repeat(&self, violation: &Violation) -> String {
        let from = (violation.at.0 / 1_000_000_000).saturating_sub(1);
        let seconds = self.duration.as_secs_f64();
        let mut command = format!("cargo run --release -- sim --seed {} --duration {seconds}s", violation.seed);
        if let Some(steps) = self.steps {
            command.push_str(&format!(" --steps {steps}"));
        }
        if self.members {
            command.push_str(" --members");
        }
        format!("{command} --trace from={from}s")
    }
}

thread_local! {
    /// The seed that this thread runs, for the panic hook.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// `drave sim`: runs the seeds, and exits with 1 if a rule is violated.
pub fn run(args: Sim) -> Result<(), CliError> {
    let first = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    announce_panics(&args);
    let next = AtomicU64::new(first);
    let end = first.saturating_add(args.seeds);
    let (untold, unjudged) = (AtomicU64::new(0), AtomicU64::new(0));
    let (simulated, done, stuck) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            SEED.set(seed);
            match drave::sim::run(args.scenario(seed), args.trace.map(tell_from)) {
                Ok(outcome) => {
                    simulated.fetch_add(cluster_ms(&outcome), Ordering::Relaxed);
                    untold.fetch_add(u64::from(outcome.voted_before_reminder), Ordering::Relaxed);
                    unjudged.fetch_add(outcome.unjudged, Ordering::Relaxed);
                    stuck.fetch_add(u64::from(outcome.needs_the_lost), Ordering::Relaxed);
                    if let Some(from) = args.trace.filter(|from| *from > outcome.simulated) {
                        let ended = outcome.simulated.as_secs_f64();
                        eprintln!("seed {seed} ended after {ended:.1} s: there is no trace from {from:?} on");
                    }
                    if args.seeds == 1 {
                        eprintln!("{}", outcome.beside());
                        outln!("{outcome}");
                    }
                }
                Err(violation) => {
                    failed.store(true, Ordering::Relaxed);
                    outln!("{violation}\n  repeat: {}", args.repeat(&violation));
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        while args.seeds > 1 && workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(200));
            progress(done.load(Ordering::Relaxed), args.seeds);
        }
    });
    if failed.load(Ordering::Relaxed) {
        return Err(CliError {
            what: "a rule was violated; the lines above show how to repeat it".to_owned(),
            code: 1,
        });
    }
    if args.seeds > 1 {
        let hours = simulated.load(Ordering::Relaxed) as f64 / 3_600_000.0;
        let took = began.elapsed().as_secs_f64();
        if let unjudged @ 1.. = unjudged.load(Ordering::Relaxed) {
            outln!("{unjudged} keys had a history too large to check for linearizability");
        }
        if let untold @ 1.. = untold.load(Ordering::Relaxed) {
            outln!("{untold} seeds ended early: a node voted from an older copy of its disk before it learned of that");
        }
        let stuck = stuck.load(Ordering::Relaxed);
        if stuck > 0 {
            outln!(
                "{stuck} seeds ended without a leader, with too many voters lost for good: convergence was not checked"
            );
        }
        outln!("{} seeds ok, {first} to {} · {hours:.1} hours simulated · {took:.1} s", args.seeds, end - 1);
    }
    Ok(())
}

fn tell_from(from: Duration) -> Trace {
    Trace { from: Time::ZERO + from, tell: |line| outln!("{line}") }
}

fn cluster_ms(outcome: &WorldReport) -> u64 {
    outcome.simulated.as_millis() as u64
}

fn progress(done: u64, of: u64) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // A progress line that cannot be shown does no harm.
        let _shown = write!(stderr, "\r{done} of {of} seeds");
    }
}

/// Installs a panic hook that prints the seed first: a node's panic ends a release build at once.
fn announce_panics(args: &Sim) {
    let args = args.clone();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let violation = Violation { seed: SEED.get(), at: Time::ZERO, steps: 0, what: "a node panics".to_owned() };
        outln!("seed {} failed: a node panics\n  repeat: {}", violation.seed, args.repeat(&violation));
        usual(panic);
    }));
}
