//! The output of a benchmark, while it runs and at its end.

use super::args::{Bench, Workload};
use super::hgrm::format_hgrm;
use super::result::{MachineInfo, RunResult, SecondStats};
use crate::output::outln;
use crate::remote::cluster::ClusterArgs;
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use drave::api::{RoleName, Status};
use drave::client::deadline;
use drave::types::Term;
use hdrhistogram::Histogram;
use serde_json::json;
use std::time::{Duration, Instant};

/// Timeout of the status request to one node.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause between two polls of a cluster without a leader.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The maximum length of the per-second series, more than a day, and of the list of leader changes.
const SERIES_LENGTH_MAX: usize = 100_000;

/// The counters and histograms of a run.
pub struct RunStats {
    /// When the measurement began; before that, when these statistics were created.
    pub began: Instant,
    /// How long the measurement took; zero until it ends.
    pub measured_time: Duration,
    /// Requests sent during the measurement.
    pub sent: u64,
    /// Requests that were refused: they did not take effect, and never will.
    pub refused: u64,
    /// Requests with an unknown outcome: they may have taken effect, or may yet.
    pub unknown: u64,
    /// The number of times that requests were sent again.
    pub retries: u64,
    /// Requests in flight when the measurement ended.
    pub unfinished: u64,
    /// CPU time that the client used during the measurement.
    pub client_cpu: Duration,
    client_cpu_at_start: Duration,
    is_measuring: bool,
    /// Latencies since the scheduled time of each request, in nanoseconds.
    response_ns: Histogram<u64>,
    /// Latencies since the actual send of each request, in nanoseconds.
    service_ns: Histogram<u64>,
    /// Delay between the scheduled time and the actual send, in nanoseconds.
    send_delay_ns: Histogram<u64>,
    /// The values of `response_ns` in the current second.
    response_ns_this_second: Histogram<u64>,
    this_second_began: Instant,
    /// The longest time without an answer.
    longest_gap: Duration,
    last_answer_at: Option<Instant>,
    is_header_printed: bool,
    second_stats: Vec<SecondStats>,
    /// The latest term seen in a response.
    latest_term: Term,
    /// When a response of a later term first arrived, from the start of the measurement.
    leader_changes: Vec<Duration>,
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the histogram bounds are valid")
}

/// The CPU time, user and system, that all threads of this process have used since it started.
fn process_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl RunStats {
    /// The statistics of a run whose measurement has not begun.
    pub fn new() -> RunStats {
        let now = Instant::now();
        RunStats {
            began: now,
            measured_time: Duration::ZERO,
            sent: 0,
            refused: 0,
            unknown: 0,
            retries: 0,
            unfinished: 0,
            client_cpu: Duration::ZERO,
            client_cpu_at_start: Duration::ZERO,
            is_measuring: false,
            response_ns: new_histogram(),
            service_ns: new_histogram(),
            send_delay_ns: new_histogram(),
            response_ns_this_second: new_histogram(),
            this_second_began: now,
            longest_gap: Duration::ZERO,
            last_answer_at: None,
            is_header_printed: false,
            second_stats: Vec::new(),
            latest_term: Term(0),
            leader_changes: Vec::new(),
        }
    }

    /// Starts the measurement at time `now`, after the warm-up.
    pub fn start(&mut self, now: Instant) {
        (self.began, self.this_second_began, self.is_measuring) = (now, now, true);
        self.client_cpu_at_start = process_cpu_time();
    }

    /// Ends the measurement with this many requests in flight.
    pub fn stop(&mut self, now: Instant, unfinished: u64) {
        (self.measured_time, self.is_measuring, self.unfinished) = (now - self.began, false, unfinished);
        self.client_cpu = process_cpu_time().saturating_sub(self.client_cpu_at_start);
        if let Some(last) = self.last_answer_at {
            // A gap that has not ended counts as well.
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }

    /// Records an answered request, unless the measurement has not begun or has ended. `response_time` counts from the
    /// scheduled time of the request, `service_time` from its sending.
    pub fn record_answer(&mut self, now: Instant, response_time: Duration, service_time: Duration) {
        if !self.is_measuring {
            return;
        }
        self.response_ns.saturating_record(response_time.as_nanos() as u64);
        self.service_ns.saturating_record(service_time.as_nanos() as u64);
        self.send_delay_ns.saturating_record(response_time.saturating_sub(service_time).as_nanos() as u64);
        self.response_ns_this_second.saturating_record(response_time.as_nanos() as u64);
        if let Some(last) = self.last_answer_at.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }

    /// Records the term of an answered command; a later term means another leader.
    pub fn record_term(&mut self, now: Instant, term: Term) {
        if term > self.latest_term {
            if self.is_measuring && self.latest_term > Term(0) && self.leader_changes.len() < SERIES_LENGTH_MAX {
                self.leader_changes.push(now - self.began);
            }
            self.latest_term = term;
        }
    }

    /// Appends the second that ends now to the series, with `rate` answers per second.
    fn append_second(&mut self, now: Instant, rate: f64) {
        let quantile_us = |q| self.response_ns_this_second.value_at_quantile(q) as f64 / 1e3;
        let second = SecondStats {
            at_s: (now - self.began).as_secs_f64(),
            ops_per_s: rate,
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            max_us: quantile_us(1.0),
        };
        if self.second_stats.len() < SERIES_LENGTH_MAX {
            self.second_stats.push(second);
        }
    }

    /// Points (quantile, latency in microseconds) of the distribution, with more points at the tail, where it matters.
    fn latency_curve(&self) -> Vec<(f64, f64)> {
        let points = self.response_ns.iter_quantiles(5);
        points.map(|point| (point.quantile(), point.value_iterated_to() as f64 / 1e3)).collect()
    }

    /// Once a second, records the past second and prints a line for it.
    pub fn report_second(&mut self, args: &Bench, now: Instant) {
        let span_since_report = now - self.this_second_began;
        if !self.is_measuring || span_since_report < Duration::from_secs(1) {
            return;
        }
        let rate = self.response_ns_this_second.len() as f64 / span_since_report.as_secs_f64();
        self.append_second(now, rate);
        if !args.cluster.prints_json() {
            if !self.is_header_printed {
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
            let quantile_ms = |q| format!("{:.2} ms", self.response_ns_this_second.value_at_quantile(q) as f64 / 1e6);
            outln!(
                "{:>4} s {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7}",
                (now - self.began).as_secs(),
                group_digits(rate as u64),
                quantile_ms(0.5),
                quantile_ms(0.9),
                quantile_ms(0.99),
                quantile_ms(0.999),
                quantile_ms(1.0),
                self.refused
            );
        }
        self.is_header_printed = true;
        self.this_second_began = now;
        self.response_ns_this_second.reset();
    }

    fn quantile_us(&self, quantile: f64) -> f64 {
        if self.response_ns.is_empty() { 0.0 } else { self.response_ns.value_at_quantile(quantile) as f64 / 1e3 }
    }

    fn answers_per_s(&self) -> f64 {
        self.response_ns.len() as f64 / self.measured_time.as_secs_f64().max(1e-9)
    }
}

impl Default for RunStats {
    fn default() -> RunStats {
        RunStats::new()
    }
}

/// Groups the digits of a number: 158204 as "158 204".
pub fn group_digits(number: u64) -> String {
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
    let cluster = ClusterArgs { timeout: args.cluster.timeout.min(STATUS_TIMEOUT), ..args.cluster.clone() };
    loop {
        let statuses: Vec<_> = poll(&cluster).into_iter().filter_map(|result| result.status.ok()).collect();
        if find_leader(&statuses).is_some() || Instant::now() >= deadline {
            return statuses;
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

fn find_leader(statuses: &[Status]) -> Option<&Status> {
    statuses.iter().filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term)
}

/// The build profile of this binary, as text: debug or release.
pub fn build_profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// Prints the cluster and the workload, and warns about setups that distort the figures. Fails without a leader.
pub fn print_header(args: &Bench, statuses: &[Status]) -> Result<(), CliError> {
    let Some(leader) = find_leader(statuses) else {
        let tried_endpoints = args.cluster.endpoints.join(", ");
        return Err(CliError {
            message: format!("no leader answers\n  tried {tried_endpoints} · nothing was applied"),
            code: 3,
        });
    };
    if build_profile() == "debug" {
        eprintln!("warning: this is a debug build: its figures mean nothing. Build with --release");
    }
    if let Some(status) = statuses.iter().find(|status| status.version.contains("(debug)")) {
        eprintln!("warning: n{} runs a debug build: these figures mean nothing. Build with --release", status.node);
    }
    if let Some(status) = statuses.iter().find(|status| status.in_memory) {
        let node = status.node;
        eprintln!("warning: the data of n{node} lies in memory (tmpfs): these figures are not those of a disk");
    }
    if !leader.fsync {
        eprintln!("warning: fsync is off: these figures are not those of a durable cluster");
    }
    if args.cluster.prints_json() {
        return Ok(());
    }
    let fsync = if leader.fsync { "on" } else { "OFF" };
    let endpoints = args.cluster.endpoints.join(",");
    let version = env!("CARGO_PKG_VERSION");
    let voter_count = leader.membership.split(['=', ' ']).nth(1).map_or(0, |ids| ids.split(',').count());
    outln!(
        "cluster {endpoints} · leader n{} · {voter_count} voters · fsync {fsync} · drave {version} ({})",
        leader.node,
        build_profile()
    );
    let loop_kind = args.requests_per_s.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate}/s"));
    outln!(
        "{} · {} clients × {} outstanding · {} B keys of {} · {} B values · {loop_kind} · {} warm-up\n",
        args.workload.name(),
        args.clients,
        args.inflight,
        args.key_size,
        group_digits(args.keys),
        args.value_size,
        humantime::format_duration(args.warmup)
    );
    Ok(())
}

/// The nodes' CPU and fsync figures between two status requests.
struct ServerFigures {
    cpu_us_per_op: Option<f64>,
    entries_per_fsync: Option<f64>,
    fsyncs_per_s: Option<f64>,
    leader_changed: bool,
}

/// Computes the figures of the nodes from their statuses before and after the run. A node that was restarted in between
/// is left out.
fn compare_statuses(run: &RunStats, before: &[Status], after: &[Status]) -> ServerFigures {
    let operation_count = run.response_ns.len().max(1) as f64;
    let status_pairs = || {
        after.iter().filter_map(|later| {
            let earlier =
                before.iter().find(|earlier| earlier.node == later.node && earlier.uptime_ms <= later.uptime_ms)?;
            Some((earlier, later))
        })
    };
    let cpu_ns: u64 = status_pairs().map(|(earlier, later)| later.cpu_ns.saturating_sub(earlier.cpu_ns)).sum();
    let leader_statuses =
        find_leader(after).and_then(|later| status_pairs().find(|(earlier, _)| earlier.node == later.node));
    let entries_and_syncs = leader_statuses.map(|(earlier, later)| {
        (later.disk.entries.saturating_sub(earlier.disk.entries), later.disk.syncs.saturating_sub(earlier.disk.syncs))
    });
    let elapsed_seconds = (run.began.elapsed()).as_secs_f64();
    let has_status_pairs = status_pairs().count() > 0;
    ServerFigures {
        // The time between the two status requests includes the warm-up and the shutdown: only the share of the
        // measurement counts.
        cpu_us_per_op: has_status_pairs.then(|| {
            cpu_ns as f64 / 1e3 / operation_count
                * (run.measured_time.as_secs_f64() / elapsed_seconds.max(1e-9)).min(1.0)
        }),
        entries_per_fsync: entries_and_syncs
            .filter(|(_, syncs)| *syncs > 0)
            .map(|(entries, syncs)| entries as f64 / syncs as f64),
        fsyncs_per_s: entries_and_syncs.map(|(_, syncs)| syncs as f64 / elapsed_seconds),
        leader_changed: find_leader(before).map(|leader| (leader.node, leader.term))
            != find_leader(after).map(|l| (l.node, l.term)),
    }
}

/// Prints the result of the run, writes the `.hgrm` file if requested, and returns the result.
pub fn print_result(args: &Bench, run: &RunStats, before: &[Status], after: &[Status]) -> Result<RunResult, CliError> {
    let server_figures = compare_statuses(run, before, after);
    if let Some(path) = &args.hgrm_path {
        std::fs::write(path, format_hgrm(&run.response_ns))
            .map_err(|error| CliError { message: format!("{}: {error}", path.display()), code: 74 })?;
    }
    let client_cpu_us_per_op = run.client_cpu.as_secs_f64() * 1e6 / run.response_ns.len().max(1) as f64;
    if run.client_cpu.as_secs_f64() > 0.9 * run.measured_time.as_secs_f64() {
        eprintln!("warning: the client used a whole CPU: it may be the bottleneck");
    }
    let json = result_json(args, run, &server_figures, client_cpu_us_per_op, after);
    if args.cluster.prints_json() {
        outln!("{json}");
    } else {
        print_summary(args, run, &server_figures, client_cpu_us_per_op, after);
    }
    serde_json::from_value(json)
        .map_err(|error| CliError { message: format!("the result of the run cannot be converted: {error}"), code: 70 })
}

fn print_summary(
    args: &Bench,
    run: &RunStats,
    server_figures: &ServerFigures,
    client_cpu_us_per_op: f64,
    after: &[Status],
) {
    let operation_noun = if args.workload == Workload::Get { "reads" } else { "commits" };
    let megabytes_per_s = run.answers_per_s() * (args.key_size + args.value_size) as f64 / 1e6;
    let leader_text = if server_figures.leader_changed { "leader CHANGED" } else { "leader unchanged" };
    outln!(
        "{:>4.1} s {} {operation_noun} · {}/s · {megabytes_per_s:.1} MB/s · {} errors · {} unknown · {} retries · \
         {leader_text}\n",
        run.measured_time.as_secs_f64(),
        group_digits(run.response_ns.len()),
        group_digits(run.answers_per_s() as u64),
        run.refused,
        run.unknown,
        run.retries
    );
    print_latencies(args, run);
    if let Some(leader) = find_leader(after).filter(|_| args.workload != Workload::Get) {
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
            server_figures.entries_per_fsync.unwrap_or(0.0),
            server_figures.fsyncs_per_s.unwrap_or(0.0),
            leader.disk.sync_p50_us / ms,
            leader.disk.sync_p99_us / ms
        );
    }
    outln!(
        "CPU an operation                        all nodes {:.1} µs · client {client_cpu_us_per_op:.1} µs",
        server_figures.cpu_us_per_op.unwrap_or(0.0)
    );
    outln!("longest time without an answer          {:.1} ms", run.longest_gap.as_secs_f64() * 1e3);
}

fn print_latencies(args: &Bench, run: &RunStats) {
    let print_quantiles = |name: &str, histogram: &Histogram<u64>| {
        let quantile_ms = |q| histogram.value_at_quantile(q) as f64 / 1e6;
        outln!(
            "{name:<9} min {:.2}  mean {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
            histogram.min() as f64 / 1e6,
            histogram.mean() / 1e6,
            quantile_ms(0.5),
            quantile_ms(0.9),
            quantile_ms(0.99),
            quantile_ms(0.999),
            quantile_ms(1.0)
        );
    };
    if args.requests_per_s.is_some() {
        print_quantiles("response", &run.response_ns);
        print_quantiles("service", &run.service_ns);
        let sent = run.sent;
        let scheduled_count = (args.requests_per_s.unwrap_or(0) as f64 * run.measured_time.as_secs_f64()) as u64;
        let delay_ms = |q| run.send_delay_ns.value_at_quantile(q) as f64 / 1e6;
        outln!(
            "schedule  lag p50 {:.2}  p99 {:.2}  max {:.2} ms · asked {} · sent {} · unfinished {}",
            delay_ms(0.5),
            delay_ms(0.99),
            delay_ms(1.0),
            group_digits(scheduled_count),
            group_digits(sent),
            run.unfinished
        );
    } else {
        print_quantiles("latency", &run.response_ns);
    }
    print_bars(&run.response_ns);
}

/// Prints a histogram in half-octave buckets; bar length is proportional to the square root of the count.
pub fn print_bars(histogram: &Histogram<u64>) {
    let bar_width_max = 38.0;
    let bounds_ns: Vec<u64> = (0..60).map(|i| (1000.0 * 2f64.powf(f64::from(i) / 2.0)) as u64).collect();
    let counts: Vec<u64> = bounds_ns.windows(2).map(|pair| histogram.count_between(pair[0], pair[1] - 1)).collect();
    let highest_count = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    for (bound_ns, count) in bounds_ns.iter().zip(&counts).filter(|(_, count)| **count > 0) {
        let bar = "█".repeat(((*count as f64 / highest_count).sqrt() * bar_width_max).ceil() as usize);
        let percent = 100.0 * *count as f64 / histogram.len() as f64;
        let label = match bound_ns {
            0..1_000_000 => format!("{} µs", bound_ns / 1000),
            _ => format!("{:.1} ms", *bound_ns as f64 / 1e6),
        };
        outln!("{label:>9} │{bar:<38} {:>10} {percent:>6.1}%", group_digits(*count));
    }
    outln!();
}

fn result_json(
    args: &Bench,
    run: &RunStats,
    server_figures: &ServerFigures,
    client_cpu_us_per_op: f64,
    after: &[Status],
) -> serde_json::Value {
    let disk = find_leader(after).map(|leader| &leader.disk);
    json!({
        "what": args.workload.name(),
        "ops_per_s": run.answers_per_s(),
        "p50_us": run.quantile_us(0.5),
        "p90_us": run.quantile_us(0.9),
        "p99_us": run.quantile_us(0.99),
        "p999_us": run.quantile_us(0.999),
        "max_us": run.quantile_us(1.0),
        "errors": run.refused,
        "unknown": run.unknown,
        "retries": run.retries,
        "total": run.response_ns.len(),
        "unfinished": run.unfinished,
        "duration_s": run.measured_time.as_secs_f64(),
        "longest_gap_ms": run.longest_gap.as_secs_f64() * 1e3,
        "entries_per_fsync": server_figures.entries_per_fsync,
        "fsync_p50_us": disk.map(|disk| disk.sync_p50_us),
        "fsync_p99_us": disk.map(|disk| disk.sync_p99_us),
        "client_cpu_us_per_op": client_cpu_us_per_op,
        "server_cpu_us_per_op": server_figures.cpu_us_per_op,
        "leader_changed": server_figures.leader_changed,
        "leader_changes": run.leader_changes.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
        "curve": run.latency_curve(),
        "series": run.second_stats,
        "command": std::env::args().collect::<Vec<_>>(),
        "date": humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        "machine": MachineInfo::local(),
        "config": config_json(args, after),
    })
}

/// The whole configuration of a run: the arguments, and the version and settings of the server.
fn config_json(args: &Bench, after: &[Status]) -> serde_json::Value {
    let leader = find_leader(after);
    json!({
        "endpoints": args.cluster.endpoints, "clients": args.clients, "inflight": args.inflight,
        "rate": args.requests_per_s,
        "key_size": args.key_size, "value_size": args.value_size, "keys": args.keys,
        "dist": format!("{:?}", args.key_distribution).to_lowercase(), "read_ratio": args.read_ratio,
        "warmup_s": args.warmup.as_secs_f64(), "verify": args.verify, "duration_s": args.duration.as_secs_f64(),
        "total": args.requests_max, "keep": args.keep_keys, "timeout_s": args.cluster.timeout.as_secs_f64(),
        "slo": args.slo.map(|slo| json!({ "quantile": slo.quantile, "most_us": slo.max_latency.as_secs_f64() * 1e6 })),
        "server_version": leader.map(|leader| &leader.version),
        "in_memory": leader.map(|leader| leader.in_memory),
        "fsync": leader.map(|leader| leader.fsync), "version": env!("CARGO_PKG_VERSION"), "build": build_profile(),
    })
}

/// Checks the percentile against `--slo`. A run without any answer fails as well.
pub fn check_slo(args: &Bench, run: &RunStats) -> Result<(), CliError> {
    let Some(slo) = args.slo else { return Ok(()) };
    let percent = slo.quantile * 100.0;
    if run.response_ns.is_empty() {
        return Err(CliError {
            message: format!("no request was answered, and p{percent} should be at most {:?}", slo.max_latency),
            code: 1,
        });
    }
    let measured_latency = Duration::from_nanos((run.quantile_us(slo.quantile) * 1e3) as u64);
    if measured_latency <= slo.max_latency {
        return Ok(());
    }
    Err(CliError {
        message: format!("p{percent} was {measured_latency:?}, and should be at most {:?}", slo.max_latency),
        code: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn parse_args(words: &[&str]) -> Bench {
        let matches = Bench::augment_args(Command::new("bench").no_binary_name(true)).get_matches_from(words);
        Bench::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn slo_fails_if_exceeded_or_nothing_is_answered() {
        let args = parse_args(&["put", "--slo", "p99=5ms"]);
        let exit_code = |run: &RunStats| check_slo(&args, run).err().map(|error| error.code);
        let mut run = RunStats::new();
        run.start(Instant::now());
        assert_eq!(exit_code(&run), Some(1));
        run.record_answer(Instant::now(), Duration::from_millis(4), Duration::from_millis(4));
        assert_eq!(exit_code(&run), None);
        run.record_answer(Instant::now(), Duration::from_millis(6), Duration::from_millis(6));
        assert_eq!(exit_code(&run), Some(1));
    }
}
