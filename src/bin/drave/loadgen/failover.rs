//! `drave bench --scenario failover`: how long writes stall when a node is killed, frozen, isolated or stopped.
//!
//! The scenario starts three child processes on loopback, writes in a steady open loop, and injects one fault per
//! run. It measures the longest time without an acknowledged write. At the end, every acknowledged write must have
//! taken effect exactly once, or the benchmark fails.

use super::args::Bench;
use super::failover_args::FailoverFault;
use super::outage::{Gap, Gaps, measure};
use super::report::build;
use super::steady::{Ack, Pace, Steady, Sum};
use super::three_nodes::TestCluster;
use crate::output::outln;
use crate::remote::failure::CliError;
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

/// Writes a second without `--rate`.
const RATE: u64 = 2_000;
/// The undisturbed time measured before each fault.
const BEFORE: Duration = Duration::from_millis(500);
/// Minimum time measured after a fault.
const AFTER: Duration = Duration::from_millis(500);
/// The scenario fails if writes have not resumed after this time.
const GIVE_UP: Duration = Duration::from_secs(20);
/// Writes flow again when, over this time, at least half of the writes due were acknowledged.
const FLOWING: Duration = Duration::from_millis(200);
/// How often the acknowledgments are checked.
const LOOK: Duration = Duration::from_millis(5);

/// `drave bench --scenario failover`.
pub fn run(args: &Bench) -> Result<(), CliError> {
    let pace =
        Pace { rate: args.rate.unwrap_or(RATE), clients: args.clients as usize, inflight: args.inflight as usize };
    if build() == "debug" {
        eprintln!("warning: this is a debug build: its figures mean nothing. Build with --release");
    }
    if !args.cluster.json() {
        outln!(
            "failover · 3 nodes on loopback · open loop at {}/s · {} clients × {} outstanding · drave {} ({})\n",
            pace.rate,
            pace.clients,
            pace.inflight,
            env!("CARGO_PKG_VERSION"),
            build()
        );
    }
    let mut all = Vec::new();
    for fault in args.story.fault.each() {
        let (gaps, sum) = runs(fault, args.story.runs, pace)?;
        if args.cluster.json() {
            all.push(gaps.to_json(fault.name(), &sum));
        } else {
            gaps.print(fault.name(), fault.what(), &sum);
        }
    }
    if args.cluster.json() {
        let (rate, clients, inflight) = (pace.rate, pace.clients, pace.inflight);
        outln!(
            "{}",
            json!({
                "scenario": "failover", "rate": rate, "clients": clients, "inflight": inflight,
                "version": env!("CARGO_PKG_VERSION"), "build": build(), "faults": all,
            })
        );
    }
    Ok(())
}

/// All runs of a fault, in a cluster of its own.
fn runs(fault: FailoverFault, runs: u64, pace: Pace) -> Result<(Gaps, Sum), CliError> {
    let mut trio = TestCluster::start(fault.name(), fault == FailoverFault::Isolate)?;
    let sockets = |error: std::io::Error| CliError { what: format!("sockets: {error}"), code: 74 };
    let load = Steady::start(&trio.endpoints, pace).map_err(sockets)?;
    let mut gaps = Gaps::default();
    for run in 1..=runs {
        flowing(&load, pace, Instant::now(), &mut Vec::new()).map_err(|trouble| with_logs(trouble, &trio))?;
        let gap = run_fault(fault, &mut trio, &load, pace)?;
        eprintln!("{} {run}/{runs}: {:.1} ms", fault.name(), gap.longest.as_secs_f64() * 1e3);
        gaps.add(gap);
        trio.wait_healthy()?;
    }
    let sum = load.finish(&trio.endpoints)?;
    trio.finish()?;
    Ok((gaps, sum))
}

/// One run: undisturbed writes, the fault, the time until writes flow again, and the start of the recovery.
fn run_fault(fault: FailoverFault, trio: &mut TestCluster, load: &Steady, pace: Pace) -> Result<Gap, CliError> {
    let (leader, followers) = trio.roles()?;
    let follower = followers[rand::random_range(0..followers.len())];
    let victim = if fault == FailoverFault::KillFollower { follower } else { leader };
    load.acks();
    std::thread::sleep(BEFORE);
    let (before, at) = (load.acks(), Instant::now());
    match fault {
        FailoverFault::Kill | FailoverFault::KillFollower => trio.signal(victim, Signal::KILL)?,
        FailoverFault::Freeze => trio.signal(victim, Signal::STOP)?,
        FailoverFault::Term => trio.signal(victim, Signal::TERM)?,
        FailoverFault::Isolate => trio.proxy.iter().for_each(|proxy| proxy.cut(victim)),
        FailoverFault::All => unreachable!("`all` is expanded into single faults"),
    }
    let mut after = Vec::new();
    flowing(load, pace, at, &mut after).map_err(|trouble| with_logs(trouble, trio))?;
    let until = Instant::now();
    if matches!(fault, FailoverFault::Freeze | FailoverFault::Isolate) && trio.roles()?.0 == victim {
        let what = format!("n{victim} still leads after the fault: {} had no effect", fault.name());
        return Err(CliError { what, code: 70 });
    }
    match fault {
        FailoverFault::Freeze => trio.signal(victim, Signal::CONT)?,
        FailoverFault::Isolate => trio.proxy.iter().for_each(|proxy| proxy.heal()),
        _ => {
            trio.wait_exit(victim)?;
            trio.spawn(victim)?;
        }
    }
    Ok(measure(&before, &after, at, until))
}

/// Adds the location of the logs to an error.
fn with_logs(trouble: CliError, trio: &TestCluster) -> CliError {
    CliError { what: format!("{} · {}", trouble.what, trio.where_logs_are()), ..trouble }
}

/// Waits until writes flow again, and collects the acknowledgments.
fn flowing(load: &Steady, pace: Pace, since: Instant, acks: &mut Vec<Ack>) -> Result<(), CliError> {
    let enough = (pace.rate as f64 * FLOWING.as_secs_f64() / 2.0).max(1.0) as usize;
    loop {
        std::thread::sleep(LOOK);
        acks.extend(load.acks());
        let now = Instant::now();
        let recent = acks.iter().rev().take_while(|ack| now.saturating_duration_since(ack.at) < FLOWING).count();
        if recent >= enough && since.elapsed() >= AFTER {
            return Ok(());
        }
        if since.elapsed() > GIVE_UP {
            let what =
                format!("writes did not resume within {GIVE_UP:?}\n  the --rate may be too high for this machine");
            return Err(CliError { what, code: 1 });
        }
    }
}
