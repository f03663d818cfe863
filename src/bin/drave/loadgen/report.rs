//! The output of a benchmark, while it runs and at its end.

use super::args::{Bench, Workload};
use super::hgrm::hgrm;
use super::result::{Machine, RunResult, Second};
use crate::output::outln;
use crate::remote::cluster::Cluster;
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use drave::api::{RoleName, Status};
use drave::client::deadline;
use drave::types::Term;
use hdrhistogram::Histogram;
use serde_json::json;
use std::time::{Duration, Instant};

/// Timeout of the status request to one node.
const LOOK: Duration = Duration::from_millis(500);
/// How long to wait before polling a cluster without a leader again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum length of the per-second series and of the list of leader changes; in seconds, more than a day.
const KEPT: usize = 100_000;

/// The counters and histograms of a run.
pub struct Run {
    /// When the measurement began.
    pub began: Instant,
    /// How long the measurement took.
    pub took: Duration,
    /// Requests sent during the measurement.
    pub asked: u64,
    /// Requests that were rejected with a final refusal.
    pub errors: u64,
    /// Requests with an unknown outcome.
    pub unknown: u64,
    /// Retries of requests.
    pub retries: u64,
    /// Requests in flight when the measurement ended.
    pub unfinished: u64,
    /// CPU time that the client used during the measurement.
    pub cpu: Duration,
    cpu_began: Duration,
    measuring: bool,
    /// Latency from the scheduled time (`response`) and from the actual send (`service`), in nanoseconds.
    response: Histogram<u64>,
    service: Histogram<u64>,
    /// Delay between the scheduled time and the actual send, in nanoseconds.
    lag: Histogram<u64>,
    second: Histogram<u64>,
    second_began: Instant,
    longest_gap: Duration,
    last_answer: Option<Instant>,
    headed: bool,
    seconds: Vec<Second>,
    /// The latest term seen in a response, and the times at which a later term was first seen.
    term: Term,
    changes: Vec<Duration>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Run {
    /// A run without any measurement.
    pub fn new() -> Run {
        let now = Instant::now();
        Run {
            began: now,
            took: Duration::ZERO,
            asked: 0,
            errors: 0,
            unknown: 0,
            retries: 0,
            unfinished: 0,
            cpu: Duration::ZERO,
            cpu_began: Duration::ZERO,
            measuring: false,
            response: histogram(),
            service: histogram(),
            lag: histogram(),
            second: histogram(),
            second_began: now,
            longest_gap: Duration::ZERO,
            last_answer: None,
            headed: false,
            seconds: Vec::new(),
            term: Term(0),
            changes: Vec::new(),
        }
    }

    /// Starts the measurement.
    pub fn start(&mut self, now: Instant) {
        (self.began, self.second_began, self.measuring) = (now, now, true);
        self.cpu_began = own_cpu();
    }

    /// Ends the measurement with this many requests in flight.
    pub fn stop(&mut self, now: Instant, unfinished: u64) {
        (self.took, self.measuring, self.unfinished) = (now - self.began, false, unfinished);
        self.cpu = own_cpu().saturating_sub(self.cpu_began);
        if let Some(last) = self.last_answer {
            // A gap that has not ended counts, too.
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }

    /// Records an answered request; ignored outside the measurement.
    pub fn record(&mut self, now: Instant, response: Duration, service: Duration) {
        if !self.measuring {
            return;
        }
        self.response.saturating_record(response.as_nanos() as u64);
        self.service.saturating_record(service.as_nanos() as u64);
        self.lag.saturating_record(response.saturating_sub(service).as_nanos() as u64);
        self.second.saturating_record(response.as_nanos() as u64);
        if let Some(last) = self.last_answer.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }

    /// Records the term of an answered command; a later term means another leader.
    pub fn led(&mut self, now: Instant, term: Term) {
        if term > self.term {
            if self.measuring && self.term > Term(0) && self.changes.len() < KEPT {
                self.changes.push(now - self.began);
            }
            self.term = term;
        }
    }

    /// Appends the second that ends to the series.
    fn keep_second(&mut self, now: Instant, rate: f64) {
        let us = |q| self.second.value_at_quantile(q) as f64 / 1e3;
        let second = Second {
            at_s: (now - self.began).as_secs_f64(),
            ops_per_s: rate,
            p50_us: us(0.5),
            p99_us: us(0.99),
            max_us: us(1.0),
        };
        if self.seconds.len() < KEPT {
            self.seconds.push(second);
        }
    }

    /// Points (quantile, latency in microseconds) of the distribution, with more points at the tail, where it matters.
    fn curve(&self) -> Vec<(f64, f64)> {
        let points = self.response.iter_quantiles(5);
        points.map(|point| (point.quantile(), point.value_iterated_to() as f64 / 1e3)).collect()
    }

    /// Once a second, records the past second and prints a line for it.
    pub fn tick(&mut self, args: &Bench, now: Instant) {
        let span = now - self.second_began;
        if !self.measuring || span < Duration::from_secs(1) {
            return;
        }
        let rate = self.second.len() as f64 / span.as_secs_f64();
        self.keep_second(now, rate);
        if !args.cluster.json() {
            if !self.headed {
                outln!(
                    "{:>6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7}",
                    "time",
                    "ops/s",
                    "p50",
                    "p90",
                    "p99",
                    "p99.9",
                    "max",
                    "errors"
                );
            }
            let at = |q| format!("{:.2} ms", self.second.value_at_quantile(q) as f64 / 1e6);
            outln!(
                "{:>4} s {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7}",
                (now - self.began).as_secs(),
                grouped(rate as u64),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                at(1.0),
                self.errors
            );
        }
        self.headed = true;
        self.second_began = now;
        self.second.reset();
    }

    fn us(&self, quantile: f64) -> f64 {
        if self.response.is_empty() { 0.0 } else { self.response.value_at_quantile(quantile) as f64 / 1e3 }
    }

    fn rate(&self) -> f64 {
        self.response.len() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

impl Default for Run {
    fn default() -> Run {
        Run::new()
    }
}

/// Formats 158204 as "158 204".
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// The status of every node that answers, including members not listed in the endpoints. Waits until one of them is
/// the leader; after the timeout it returns the statuses without one.
pub fn poll_until_leader(args: &Bench) -> Vec<Status> {
    let deadline = deadline(args.cluster.timeout);
    // A node that hangs must not use up the whole timeout.
    let cluster = Cluster { timeout: args.cluster.timeout.min(LOOK), ..args.cluster.clone() };
    loop {
        let statuses: Vec<_> = poll(&cluster).into_iter().filter_map(|asked| asked.status.ok()).collect();
        if leader(&statuses).is_some() || Instant::now() >= deadline {
            return statuses;
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

fn leader(statuses: &[Status]) -> Option<&Status> {
    statuses.iter().filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term)
}

/// The build profile of this binary.
pub fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// Prints the cluster and the workload, and warns about setups that distort the figures. Fails without a leader.
pub fn head(args: &Bench, statuses: &[Status]) -> Result<(), CliError> {
    let Some(leader) = leader(statuses) else {
        let tried = args.cluster.endpoints.join(", ");
        return Err(CliError { what: format!("no leader answers\n  tried {tried} · nothing was applied"), code: 3 });
    };
    if build() == "debug" {
        eprintln!("warning: this is a debug build: its figures mean nothing. Build with --release");
    }
    if let Some(debug) = statuses.iter().find(|status| status.version.contains("(debug)")) {
        eprintln!("warning: n{} runs a debug build: these figures mean nothing. Build with --release", debug.node);
    }
    if let Some(volatile) = statuses.iter().find(|status| status.in_memory) {
        let node = volatile.node;
        eprintln!("warning: the data of n{node} lies in memory (tmpfs): these figures are not those of a disk");
    }
    if !leader.fsync {
        eprintln!("warning: fsync is off: these figures are not those of a durable cluster");
    }
    if args.cluster.json() {
        return Ok(());
    }
    let fsync = if leader.fsync { "on" } else { "OFF" };
    let endpoints = args.cluster.endpoints.join(",");
    let version = env!("CARGO_PKG_VERSION");
    let voters = leader.membership.split(['=', ' ']).nth(1).map_or(0, |ids| ids.split(',').count());
    outln!(
        "cluster {endpoints} · leader n{} · {voters} voters · fsync {fsync} · drave {version} ({})",
        leader.node,
        build()
    );
    let loop_kind = args.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate}/s"));
    outln!(
        "{} · {} clients × {} outstanding · {} B keys of {} · {} B values · {loop_kind} · {} warm-up\n",
        args.what.name(),
        args.clients,
        args.inflight,
        args.key_size,
        grouped(args.keys),
        args.value_size,
        humantime::format_duration(args.warmup)
    );
    Ok(())
}

/// The nodes' CPU and fsync figures between two status requests.
struct Servers {
    cpu_us_per_op: Option<f64>,
    entries_per_fsync: Option<f64>,
    fsyncs_per_s: Option<f64>,
    changed: bool,
}

fn servers(run: &Run, before: &[Status], after: &[Status]) -> Servers {
    let operations = run.response.len().max(1) as f64;
    let pairs = || {
        after.iter().filter_map(|now| {
            let then = before.iter().find(|then| then.node == now.node && then.uptime_ms <= now.uptime_ms)?;
            Some((then, now))
        })
    };
    let spent: u64 = pairs().map(|(then, now)| now.cpu_ns.saturating_sub(then.cpu_ns)).sum();
    let of_leader = leader(after).and_then(|now| pairs().find(|(then, _)| then.node == now.node));
    let disk = of_leader.map(|(then, now)| {
        (now.disk.entries.saturating_sub(then.disk.entries), now.disk.syncs.saturating_sub(then.disk.syncs))
    });
    let whole = (run.began.elapsed()).as_secs_f64();
    let looked = pairs().count() > 0;
    Servers {
        // The two status requests also enclose warm-up and shutdown: count the share of the measurement.
        cpu_us_per_op: looked
            .then(|| spent as f64 / 1e3 / operations * (run.took.as_secs_f64() / whole.max(1e-9)).min(1.0)),
        entries_per_fsync: disk.filter(|(_, syncs)| *syncs > 0).map(|(entries, syncs)| entries as f64 / syncs as f64),
        fsyncs_per_s: disk.map(|(_, syncs)| syncs as f64 / whole),
        changed: leader(before).map(|leader| (leader.node, leader.term)) != leader(after).map(|l| (l.node, l.term)),
    }
}

/// Prints the result of the run, writes the `.hgrm` file if requested, and returns the result.
pub fn tail(args: &Bench, run: &Run, before: &[Status], after: &[Status]) -> Result<RunResult, CliError> {
    let servers = servers(run, before, after);
    if let Some(path) = &args.hdr {
        std::fs::write(path, hgrm(&run.response))
            .map_err(|error| CliError { what: format!("{}: {error}", path.display()), code: 74 })?;
    }
    let client_cpu = run.cpu.as_secs_f64() * 1e6 / run.response.len().max(1) as f64;
    if run.cpu.as_secs_f64() > 0.9 * run.took.as_secs_f64() {
        eprintln!("warning: the client used a whole CPU: it may be the bottleneck");
    }
    let json = to_json(args, run, &servers, client_cpu, after);
    if args.cluster.json() {
        outln!("{json}");
    } else {
        print(args, run, &servers, client_cpu, after);
    }
    serde_json::from_value(json).map_err(|error| CliError { what: format!("result of the run: {error}"), code: 70 })
}

fn print(args: &Bench, run: &Run, servers: &Servers, client_cpu: f64, after: &[Status]) {
    let verb = if args.what == Workload::Get { "reads" } else { "commits" };
    let megabytes = run.rate() * (args.key_size + args.value_size) as f64 / 1e6;
    let unchanged = if servers.changed { "leader CHANGED" } else { "leader unchanged" };
    outln!(
        "{:>4.1} s {} {verb} · {}/s · {megabytes:.1} MB/s · {} errors · {} unknown · {} retries · {unchanged}\n",
        run.took.as_secs_f64(),
        grouped(run.response.len()),
        grouped(run.rate() as u64),
        run.errors,
        run.unknown,
        run.retries
    );
    latencies(args, run);
    if let Some(leader) = leader(after).filter(|_| args.what != Workload::Get) {
        let (stages, ms) = (&leader.stages, 1000.0);
        outln!(
            "where the time went (leader, medians)   queue {:.2} · fsync {:.2} · replicate {:.2} · apply {:.2} ms",
            stages.queue_us / ms,
            stages.fsync_us / ms,
            stages.replicate_us / ms,
            stages.apply_us / ms
        );
        outln!(
            "group commit                            {:.1} entries a fsync · {:.0} fsyncs/s · fsync p50 {:.2} p99 {:.2} ms",
            servers.entries_per_fsync.unwrap_or(0.0),
            servers.fsyncs_per_s.unwrap_or(0.0),
            leader.disk.sync_p50_us / ms,
            leader.disk.sync_p99_us / ms
        );
    }
    outln!(
        "CPU an operation                        all nodes {:.1} µs · client {client_cpu:.1} µs",
        servers.cpu_us_per_op.unwrap_or(0.0)
    );
    outln!("longest time without an answer          {:.1} ms", run.longest_gap.as_secs_f64() * 1e3);
}

fn latencies(args: &Bench, run: &Run) {
    let line = |name: &str, histogram: &Histogram<u64>| {
        let at = |q| histogram.value_at_quantile(q) as f64 / 1e6;
        outln!(
            "{name:<9} min {:.2}  mean {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
            histogram.min() as f64 / 1e6,
            histogram.mean() / 1e6,
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    };
    if args.rate.is_some() {
        line("response", &run.response);
        line("service", &run.service);
        let sent = run.asked;
        let asked = (args.rate.unwrap_or(0) as f64 * run.took.as_secs_f64()) as u64;
        let lag = |q| run.lag.value_at_quantile(q) as f64 / 1e6;
        outln!(
            "schedule  lag p50 {:.2}  p99 {:.2}  max {:.2} ms · asked {} · sent {} · unfinished {}",
            lag(0.5),
            lag(0.99),
            lag(1.0),
            grouped(asked),
            grouped(sent),
            run.unfinished
        );
    } else {
        line("latency", &run.response);
    }
    bars(&run.response);
}

/// Prints a histogram in half-octave buckets; bar length is proportional to the square root of the count.
pub fn bars(histogram: &Histogram<u64>) {
    let most = 38.0;
    let bounds: Vec<u64> = (0..60).map(|i| (1000.0 * 2f64.powf(f64::from(i) / 2.0)) as u64).collect();
    let counts: Vec<u64> = bounds.windows(2).map(|pair| histogram.count_between(pair[0], pair[1] - 1)).collect();
    let highest = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    for (bound, count) in bounds.iter().zip(&counts).filter(|(_, count)| **count > 0) {
        let bar = "█".repeat(((*count as f64 / highest).sqrt() * most).ceil() as usize);
        let share = 100.0 * *count as f64 / histogram.len() as f64;
        let label = match bound {
            0..1_000_000 => format!("{} µs", bound / 1000),
            _ => format!("{:.1} ms", *bound as f64 / 1e6),
        };
        outln!("{label:>9} │{bar:<38} {:>10} {share:>6.1}%", grouped(*count));
    }
    outln!();
}

fn to_json(args: &Bench, run: &Run, servers: &Servers, client_cpu: f64, after: &[Status]) -> serde_json::Value {
    let disk = leader(after).map(|leader| &leader.disk);
    json!({
        "what": args.what.name(),
        "ops_per_s": run.rate(),
        "p50_us": run.us(0.5),
        "p90_us": run.us(0.9),
        "p99_us": run.us(0.99),
        "p999_us": run.us(0.999),
        "max_us": run.us(1.0),
        "errors": run.errors,
        "unknown": run.unknown,
        "retries": run.retries,
        "total": run.response.len(),
        "unfinished": run.unfinished,
        "duration_s": run.took.as_secs_f64(),
        "longest_gap_ms": run.longest_gap.as_secs_f64() * 1e3,
        "entries_per_fsync": servers.entries_per_fsync,
        "fsync_p50_us": disk.map(|disk| disk.sync_p50_us),
        "fsync_p99_us": disk.map(|disk| disk.sync_p99_us),
        "client_cpu_us_per_op": client_cpu,
        "server_cpu_us_per_op": servers.cpu_us_per_op,
        "leader_changed": servers.changed,
        "leader_changes": run.changes.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
        "curve": run.curve(),
        "series": run.seconds,
        "command": std::env::args().collect::<Vec<_>>(),
        "date": humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        "machine": Machine::here(),
        "config": config_json(args, after),
    })
}

/// The whole configuration of a run: the arguments, and the version and settings of the server.
fn config_json(args: &Bench, after: &[Status]) -> serde_json::Value {
    let leader = leader(after);
    json!({
        "endpoints": args.cluster.endpoints, "clients": args.clients, "inflight": args.inflight, "rate": args.rate,
        "key_size": args.key_size, "value_size": args.value_size, "keys": args.keys,
        "dist": format!("{:?}", args.dist).to_lowercase(), "read_ratio": args.read_ratio,
        "warmup_s": args.warmup.as_secs_f64(), "verify": args.verify, "duration_s": args.duration.as_secs_f64(),
        "total": args.total, "keep": args.keep, "timeout_s": args.cluster.timeout.as_secs_f64(),
        "slo": args.slo.map(|slo| json!({ "quantile": slo.quantile, "most_us": slo.most.as_secs_f64() * 1e6 })),
        "server_version": leader.map(|leader| &leader.version),
        "in_memory": leader.map(|leader| leader.in_memory),
        "fsync": leader.map(|leader| leader.fsync), "version": env!("CARGO_PKG_VERSION"), "build": build(),
    })
}

/// Checks the percentile against `--slo`. A run without any answer fails as well.
pub fn slo(args: &Bench, run: &Run) -> Result<(), CliError> {
    let Some(slo) = args.slo else { return Ok(()) };
    let percent = slo.quantile * 100.0;
    if run.response.is_empty() {
        return Err(CliError {
            what: format!("no request was answered, and p{percent} should be at most {:?}", slo.most),
            code: 1,
        });
    }
    let was = Duration::from_nanos((run.us(slo.quantile) * 1e3) as u64);
    if was <= slo.most {
        return Ok(());
    }
    Err(CliError { what: format!("p{percent} was {was:?}, and should be at most {:?}", slo.most), code: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn args(words: &[&str]) -> Bench {
        let matches = Bench::augment_args(Command::new("bench").no_binary_name(true)).get_matches_from(words);
        Bench::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn slo_fails_if_exceeded_or_nothing_is_answered() {
        let args = args(&["put", "--slo", "p99=5ms"]);
        let code = |run: &Run| slo(&args, run).err().map(|trouble| trouble.code);
        let mut run = Run::new();
        run.start(Instant::now());
        assert_eq!(code(&run), Some(1));
        run.record(Instant::now(), Duration::from_millis(4), Duration::from_millis(4));
        assert_eq!(code(&run), None);
        run.record(Instant::now(), Duration::from_millis(6), Duration::from_millis(6));
        assert_eq!(code(&run), Some(1));
    }
}
