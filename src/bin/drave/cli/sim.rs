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

/// The command that simulates the same worlds. The features decide which worlds there are: with `next-version`, machines
/// of two versions in some.
const SIMULATE: &str = if cfg!(feature = "next-version") {
    "cargo run --release --features mutants,next-version -- sim"
} else {
    "cargo run --release -- sim"
};

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
    #[arg(long = "steps", value_name = "STEPS")]
    step_limit: Option<u64>,
    /// The number of worlds simulated at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Prints a trace from this simulated time on: from=9s, or from=9s500ms
    #[arg(long = "trace", value_name = "TRACE", value_parser = parse_trace_start)]
    trace_start: Option<Duration>,
    /// Changes the members in every world, not only in every other one
    #[arg(long = "members")]
    change_members: bool,
    /// Breaks this rule, to test that the checks detect it
    #[cfg(feature = "mutants")]
    #[arg(long, value_parser = parse_mutant)]
    mutant: Option<drave::types::Mutant>,
}

/// Parses the simulated time from which the trace is printed.
fn parse_trace_start(text: &str) -> Result<Duration, String> {
    let from = text.strip_prefix("from=").unwrap_or(text);
    humantime::parse_duration(from).map_err(|error| format!("{error}; the form is from=9s or from=9s500ms"))
}

#[cfg(feature = "mutants")]
fn parse_mutant(text: &str) -> Result<drave::types::Mutant, String> {
    use drave::types::Mutant;
    let mutant_names = || Mutant::ALL.iter().map(|mutant| mutant.name()).collect::<Vec<_>>().join(", ");
    Mutant::ALL
        .iter()
        .copied()
        .find(|mutant| mutant.name() == text)
        .ok_or_else(|| format!("the rules are: {}", mutant_names()))
}

impl Sim {
    /// The scenario of a seed, drawn at random from the seed.
    fn scenario(&self, seed: u64) -> Scenario {
        let draw_scenario = if self.change_members { Scenario::draw_with_operator } else { Scenario::draw };
        let mut scenario = draw_scenario(seed, self.duration);
        scenario.step_limit = self.step_limit;
        #[cfg(feature = "mutants")]
        if let Some(mutant) = self.mutant {
            scenario.mutants = drave::types::Mutants::only(mutant);
        }
        scenario
    }

    /// The command line that repeats a violation, with a trace from a second or two before it.
    fn repeat_command(&self, violation: &Violation) -> String {
        let from = (violation.at.0 / 1_000_000_000).saturating_sub(1);
        let seconds = self.duration.as_secs_f64();
        let mut command = format!("{SIMULATE} --seed {} --duration {seconds}s", violation.seed);
        if let Some(step_limit) = self.step_limit {
            command.push_str(&format!(" --steps {step_limit}"));
        }
        if self.change_members {
            command.push_str(" --members");
        }
        format!("{command} --trace from={from}s")
    }
}

thread_local! {
    /// The seed that this thread runs, for the panic hook.
    static CURRENT_SEED: Cell<u64> = const { Cell::new(0) };
}

/// `drave sim`: runs the seeds, and exits with 1 if a rule is violated.
pub fn run(args: Sim) -> Result<(), CliError> {
    let first_seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    install_panic_hook(&args);
    let next_seed = AtomicU64::new(first_seed);
    let end_seed = first_seed.saturating_add(args.seeds);
    let (seeds_with_stale_votes, unchecked_keys) = (AtomicU64::new(0), AtomicU64::new(0));
    let (simulated_ms_total, finished_seeds, leaderless_seeds) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let any_failed = AtomicBool::new(false);
    let run_seeds = || {
        loop {
            let seed = next_seed.fetch_add(1, Ordering::Relaxed);
            if seed >= end_seed {
                return;
            }
            CURRENT_SEED.set(seed);
            match drave::sim::run(args.scenario(seed), args.trace_start.map(trace_from)) {
                Ok(outcome) => {
                    simulated_ms_total.fetch_add(simulated_ms(&outcome), Ordering::Relaxed);
                    seeds_with_stale_votes.fetch_add(u64::from(outcome.voted_on_stale_disk), Ordering::Relaxed);
                    unchecked_keys.fetch_add(outcome.unchecked_keys, Ordering::Relaxed);
                    leaderless_seeds.fetch_add(u64::from(outcome.lost_quorum), Ordering::Relaxed);
                    if let Some(from) = args.trace_start.filter(|from| *from > outcome.simulated_time) {
                        let end_seconds = outcome.simulated_time.as_secs_f64();
                        eprintln!("seed {seed} ended after {end_seconds:.1} s: there is no trace from {from:?} on");
                    }
                    if args.seeds == 1 {
                        eprintln!("{}", outcome.details());
                        outln!("{outcome}");
                    }
                }
                Err(violation) => {
                    any_failed.store(true, Ordering::Relaxed);
                    outln!("{violation}\n  repeat: {}", args.repeat_command(&violation));
                }
            }
            finished_seeds.fetch_add(1, Ordering::Relaxed);
        }
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(run_seeds)).collect();
        while args.seeds > 1 && workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(200));
            print_progress(finished_seeds.load(Ordering::Relaxed), args.seeds);
        }
    });
    if any_failed.load(Ordering::Relaxed) {
        let message = "a rule was violated; the lines above show how to repeat it".to_owned();
        return Err(CliError { message, code: 1 });
    }
    if args.seeds > 1 {
        let hours = simulated_ms_total.load(Ordering::Relaxed) as f64 / 3_600_000.0;
        let secs = began.elapsed().as_secs_f64();
        if let unchecked_keys @ 1.. = unchecked_keys.load(Ordering::Relaxed) {
            outln!("{unchecked_keys} keys had a history too large to check for linearizability");
        }
        if let seeds @ 1.. = seeds_with_stale_votes.load(Ordering::Relaxed) {
            outln!(
                "{seeds} seeds ended early: a node voted with an older copy of its disk before peers reported the loss"
            );
        }
        if let seeds @ 1.. = leaderless_seeds.load(Ordering::Relaxed) {
            outln!(
                "{seeds} seeds ended without a leader, with too many voters lost for good: convergence was not checked"
            );
        }
        outln!("{} seeds ok, {first_seed} to {} · {hours:.1} hours simulated · {secs:.1} s", args.seeds, end_seed - 1);
    }
    Ok(())
}

fn trace_from(from: Duration) -> Trace {
    Trace { from: Time::ZERO + from, write_line: |line| outln!("{line}") }
}

fn simulated_ms(outcome: &WorldReport) -> u64 {
    outcome.simulated_time.as_millis() as u64
}

fn print_progress(done: u64, total: u64) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // A failure to print the progress does no harm.
        let _ignored = write!(stderr, "\r{done} of {total} seeds");
    }
}

/// Installs a panic hook that prints the seed before the panic message: in a release build a panic aborts the process.
fn install_panic_hook(args: &Sim) {
    let args = args.clone();
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let violation =
            Violation { seed: CURRENT_SEED.get(), at: Time::ZERO, steps: 0, description: "a node panics".to_owned() };
        outln!("seed {} failed: a node panics\n  repeat: {}", violation.seed, args.repeat_command(&violation));
        default_hook(panic);
    }));
}
