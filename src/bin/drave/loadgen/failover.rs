//! `drave bench --scenario failover`: how long writes stall when a node is killed, frozen, isolated or stopped.
//!
//! The scenario starts three child processes on loopback, writes in a steady open loop, and injects one fault per
//! run. It measures the longest time without an acknowledged write. At the end, every acknowledged write must have
//! taken effect exactly once, or the benchmark fails.

use super::args::Bench;
use super::failover_args::FailoverFault;
use super::outage::{Outage, Outages, measure_outage};
use super::report::build_profile;
use super::steady_load::{Ack, LoadParams, LoadTotals, SteadyLoad};
use super::three_nodes::TestCluster;
use crate::output::outln;
use crate::remote::failure::CliError;
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

/// The number of writes per second if `--rate` is not set.
const DEFAULT_WRITES_PER_S: u64 = 2_000;
/// How long writes are measured before each fault.
const TIME_BEFORE_FAULT: Duration = Duration::from_millis(500);
/// The minimum time for which writes are measured after a fault.
const TIME_AFTER_FAULT: Duration = Duration::from_millis(500);
/// The scenario fails if writes have not resumed after this time.
const RESUME_TIMEOUT: Duration = Duration::from_secs(20);
/// Writes have resumed once at least half of the writes due within this time were acknowledged within it.
const ACK_RATE_WINDOW: Duration = Duration::from_millis(200);
/// The pause between two checks whether writes have resumed.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// `drave bench --scenario failover`: injects the faults, and prints the outages that they caused.
pub fn run(args: &Bench) -> Result<(), CliError> {
    let params = LoadParams {
        writes_per_s: args.requests_per_s.unwrap_or(DEFAULT_WRITES_PER_S),
        clients: args.clients as usize,
        inflight: args.inflight as usize,
    };
    if build_profile() == "debug" {
        eprintln!("warning: this is a debug build: its figures mean nothing. Build with --release");
    }
    if !args.cluster.prints_json() {
        outln!(
            "failover · 3 nodes on loopback · open loop at {}/s · {} clients × {} outstanding · drave {} ({})\n",
            params.writes_per_s,
            params.clients,
            params.inflight,
            env!("CARGO_PKG_VERSION"),
            build_profile()
        );
    }
    let mut faults_json = Vec::new();
    for fault in args.failover.fault.single_faults() {
        let (outages, totals) = run_fault_repeatedly(fault, args.failover.runs, params)?;
        if args.cluster.prints_json() {
            faults_json.push(outages.to_json(fault.name(), &totals));
        } else {
            outages.print(fault.name(), fault.description(), &totals);
        }
    }
    if args.cluster.prints_json() {
        let (rate, clients, inflight) = (params.writes_per_s, params.clients, params.inflight);
        outln!(
            "{}",
            json!({
                "scenario": "failover", "rate": rate, "clients": clients, "inflight": inflight,
                "version": env!("CARGO_PKG_VERSION"), "build": build_profile(), "faults": faults_json,
            })
        );
    }
    Ok(())
}

/// Injects a fault `runs` times into a new cluster, and verifies the writes at the end.
fn run_fault_repeatedly(
    fault: FailoverFault,
    runs: u64,
    params: LoadParams,
) -> Result<(Outages, LoadTotals), CliError> {
    let mut cluster = TestCluster::start(fault.name(), fault == FailoverFault::Isolate)?;
    let socket_error = |error: std::io::Error| CliError { message: format!("sockets: {error}"), code: 74 };
    let load = SteadyLoad::start(&cluster.endpoints, params).map_err(socket_error)?;
    let mut outages = Outages::default();
    for run in 1..=runs {
        wait_until_writes_resume(&load, params, Instant::now(), &mut Vec::new())
            .map_err(|error| add_logs_hint(error, &cluster))?;
        let outage = run_fault(fault, &mut cluster, &load, params)?;
        eprintln!("{} {run}/{runs}: {:.1} ms", fault.name(), outage.longest_gap.as_secs_f64() * 1e3);
        outages.add(outage);
        cluster.wait_until_healthy()?;
    }
    let totals = load.finish(&cluster.endpoints)?;
    cluster.stop_and_remove()?;
    Ok((outages, totals))
}

/// One run: injects the fault after [`TIME_BEFORE_FAULT`], waits until writes resume, and repairs the fault. Returns
/// the outage.
fn run_fault(
    fault: FailoverFault,
    cluster: &mut TestCluster,
    load: &SteadyLoad,
    params: LoadParams,
) -> Result<Outage, CliError> {
    let (leader, followers) = cluster.leader_and_followers()?;
    let follower = followers[rand::random_range(0..followers.len())];
    let victim = if fault == FailoverFault::KillFollower { follower } else { leader };
    // Discards the acknowledgments that arrived before this run.
    load.take_acks();
    std::thread::sleep(TIME_BEFORE_FAULT);
    let (acks_before_fault, fault_at) = (load.take_acks(), Instant::now());
    match fault {
        FailoverFault::Kill | FailoverFault::KillFollower => cluster.send_signal(victim, Signal::KILL)?,
        FailoverFault::Freeze => cluster.send_signal(victim, Signal::STOP)?,
        FailoverFault::Sigterm => cluster.send_signal(victim, Signal::TERM)?,
        FailoverFault::Isolate => cluster.proxy.iter().for_each(|proxy| proxy.isolate(victim)),
        FailoverFault::All => unreachable!("`all` is expanded into single faults"),
    }
    let mut acks_after_fault = Vec::new();
    wait_until_writes_resume(load, params, fault_at, &mut acks_after_fault)
        .map_err(|error| add_logs_hint(error, cluster))?;
    let resumed_at = Instant::now();
    if matches!(fault, FailoverFault::Freeze | FailoverFault::Isolate) && cluster.leader_and_followers()?.0 == victim {
        let message = format!("n{victim} still leads after the fault: {} had no effect", fault.name());
        return Err(CliError { message, code: 70 });
    }
    match fault {
        FailoverFault::Freeze => cluster.send_signal(victim, Signal::CONT)?,
        FailoverFault::Isolate => cluster.proxy.iter().for_each(|proxy| proxy.heal()),
        _ => {
            cluster.wait_for_exit(victim)?;
            cluster.spawn_node(victim)?;
        }
    }
    Ok(measure_outage(&acks_before_fault, &acks_after_fault, fault_at, resumed_at))
}

/// Adds the directory of the nodes' logs to an error.
fn add_logs_hint(error: CliError, cluster: &TestCluster) -> CliError {
    CliError { message: format!("{} · {}", error.message, cluster.logs_hint()), ..error }
}

/// Waits until writes are acknowledged at half of the rate or more, and appends the acknowledgments to `acks`. The time
/// limits [`TIME_AFTER_FAULT`] and [`RESUME_TIMEOUT`] count from `since`.
fn wait_until_writes_resume(
    load: &SteadyLoad,
    params: LoadParams,
    since: Instant,
    acks: &mut Vec<Ack>,
) -> Result<(), CliError> {
    let acks_needed = (params.writes_per_s as f64 * ACK_RATE_WINDOW.as_secs_f64() / 2.0).max(1.0) as usize;
    loop {
        std::thread::sleep(CHECK_INTERVAL);
        acks.extend(load.take_acks());
        let now = Instant::now();
        let recent_acks =
            acks.iter().rev().take_while(|ack| now.saturating_duration_since(ack.at) < ACK_RATE_WINDOW).count();
        if recent_acks >= acks_needed && since.elapsed() >= TIME_AFTER_FAULT {
            return Ok(());
        }
        if since.elapsed() > RESUME_TIMEOUT {
            let message = format!(
                "writes did not resume within {RESUME_TIMEOUT:?}\n  the --rate may be too high for this machine"
            );
            return Err(CliError { message, code: 1 });
        }
    }
}
