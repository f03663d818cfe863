//! The arguments of `drave bench`.

use super::failover_args::FailoverScenario;
use crate::remote::cluster::ClusterArgs;
use crate::remote::failure::CliError;
use bytesize::ByteSize;
use clap::builder::ArgPredicate::IsPresent;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Measures a cluster in a closed or open loop, or the disk and the network under it.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// What to measure
    #[arg(value_enum, value_name = "WHAT", required = false, required_unless_present_any = ["scenario", "results"])]
    #[arg(default_value_ifs([("scenario", IsPresent, Some("incr")), ("results", IsPresent, Some("put"))]))]
    pub workload: Workload,
    /// The failover scenario, which replaces the benchmark of an existing cluster
    #[command(flatten)]
    pub failover: FailoverScenario,
    /// Number of connections
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub clients: u64,
    /// Number of requests in flight on each connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub inflight: u64,
    /// Open loop: send this many requests a second, whether or not the earlier ones are answered
    #[arg(long = "rate", value_name = "RATE")]
    pub requests_per_s: Option<u64>,
    /// How long to measure
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Stop after this many requests, if that is sooner
    #[arg(long = "total", value_name = "TOTAL")]
    pub requests_max: Option<u64>,
    /// How long to run before measuring
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Size of a key, in bytes
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(16..=1024))]
    pub key_size: u64,
    /// Size of a value, in bytes
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub value_size: u64,
    /// Number of keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// Allow more than 2 GiB of keys and values: every node holds them in memory
    #[arg(long = "large")]
    pub allow_large: bool,
    /// Distribution of the requests over the keys
    #[arg(long = "dist", value_name = "DIST", value_enum, default_value_t = KeyDistribution::Uniform)]
    pub key_distribution: KeyDistribution,
    /// Share of the requests that are reads (mixed)
    #[arg(long, default_value_t = 0.5)]
    pub read_ratio: f64,
    /// Fail if a percentile is worse: p99=5ms
    #[arg(long, value_parser = parse_slo)]
    pub slo: Option<Slo>,
    /// Check the answers: counters must add up (incr), the history must be linearizable (mixed)
    #[arg(long)]
    pub verify: bool,
    /// Write the distribution of latencies to this file in HdrHistogram's format (.hgrm), in milliseconds
    #[arg(long = "hdr", value_name = "FILE")]
    pub hgrm_path: Option<PathBuf>,
    /// Write the figures and graphs of the run to this file, as one page of HTML
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Run once for each of these numbers of clients: 1,8,64,256
    #[arg(long = "sweep", value_name = "N,N,…", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub sweep_clients: Vec<u64>,
    /// Run nothing; draw one or two earlier runs from these files, the output of -o json
    #[arg(long, value_name = "FILE", num_args = 1..=2, requires = "report")]
    #[arg(conflicts_with_all = ["sweep_clients", "scenario"])]
    pub results: Vec<PathBuf>,
    /// Keep the keys at the end of the run
    #[arg(long = "keep")]
    pub keep_keys: bool,
    /// Number of the run, a part of its keys: reuses the keys that a run with this number and --keep left; random by
    /// default
    #[arg(long = "run", value_name = "N")]
    pub run_number: Option<u16>,
    /// Which directory to measure (disk)
    #[arg(long = "dir", value_name = "DIR", default_value = ".")]
    pub measured_directory: PathBuf,
    /// The cluster to measure
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// The maximum size of all keys and values that a run may write without `--large`, in bytes.
const STATE_BYTES_MAX: u64 = 2 << 30;

impl Bench {
    /// The size of all keys and values once all keys are written, in bytes.
    fn state_bytes(&self) -> u64 {
        let key_count = self.requests_max.map_or(self.keys, |requests| self.keys.min(requests));
        key_count.saturating_mul(self.key_size + self.value_size)
    }

    /// Rejects `--report`, `--sweep` and `--results` for benchmarks that write no report.
    pub fn check_report_options(&self) -> Result<(), CliError> {
        let command = match (self.failover.scenario, self.workload) {
            (Some(_), _) => "bench --scenario".to_owned(),
            (None, Workload::Disk | Workload::Net) => format!("bench {}", self.workload.name()),
            (None, Workload::Put | Workload::Get | Workload::Mixed | Workload::Incr) => return Ok(()),
        };
        let report_options = [
            ("--report", self.report.is_some()),
            ("--sweep", !self.sweep_clients.is_empty()),
            ("--results", !self.results.is_empty()),
        ];
        let Some((name, _)) = report_options.into_iter().find(|(_, is_set)| *is_set) else { return Ok(()) };
        let message = format!(
            "{name} is for put, get, mixed and incr: {command} prints figures only. Nothing was run.\n  \
             omit {name}, and keep the figures with -o json > FILE"
        );
        Err(CliError { message, code: 2 })
    }

    /// Rejects a run that writes more than 2 GiB unless `--large` is set: every node holds the keys in memory.
    pub fn check_state_size(&self) -> Result<(), CliError> {
        let writes_keys = matches!(self.workload, Workload::Put | Workload::Mixed);
        if !writes_keys || self.allow_large || self.state_bytes() <= STATE_BYTES_MAX {
            return Ok(());
        }
        let (keys, value, state_bytes) = (self.keys, self.value_size, ByteSize(self.state_bytes()));
        let message = format!(
            "{keys} keys with values of {value} bytes are {state_bytes}, which every node holds in memory. Nothing was \
             written.\n  fewer --keys, smaller --value-size, or --large to run anyway"
        );
        Err(CliError { message, code: 2 })
    }
}

/// The requests that a benchmark sends, or the hardware that it measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Workload {
    /// Sets keys.
    Put,
    /// Reads keys, linearizable.
    Get,
    /// Sets and reads keys.
    Mixed,
    /// Increments counters.
    Incr,
    /// Plain writes and syncs in a directory, without any cluster.
    Disk,
    /// A ping-pong on loopback, without any cluster.
    Net,
}

impl Workload {
    /// The name as on the command line, also used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
            Workload::Incr => "incr",
            Workload::Disk => "disk",
            Workload::Net => "net",
        }
    }
}

/// How often each key is requested.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum KeyDistribution {
    /// All keys equally often.
    Uniform,
    /// A few keys most of the time.
    Zipf,
    /// One key after the other.
    Seq,
}

/// An upper bound on a latency percentile.
#[derive(Clone, Copy, Debug)]
pub struct Slo {
    /// The quantile, such as 0.99.
    pub quantile: f64,
    /// The maximum latency at this quantile.
    pub max_latency: Duration,
}

fn parse_slo(text: &str) -> Result<Slo, String> {
    let format_error = || format!("{text:?} does not have the form p99=5ms");
    let (name, max_latency) = text.split_once('=').ok_or_else(format_error)?;
    let percent_digits =
        name.strip_prefix('p').filter(|percent_digits| !percent_digits.is_empty()).ok_or_else(format_error)?;
    let percent: f64 = percent_digits.parse().map_err(|_| format_error())?;
    let quantile = match percent_digits.split_once('.') {
        // Above 100, a decimal point is implied: p999 is p99.9.
        None if percent > 100.0 && percent_digits.starts_with('9') => {
            format!("0.{percent_digits}").parse().map_err(|_| format_error())?
        }
        _ => percent / 100.0,
    };
    if !(0.0..=1.0).contains(&quantile) {
        return Err(format_error());
    }
    let max_latency = humantime::parse_duration(max_latency).map_err(|error| format!("{max_latency:?}: {error}"))?;
    Ok(Slo { quantile, max_latency })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slo_parses_percentile_notations() {
        let quantile = |name: &str| parse_slo(&format!("{name}=5ms")).map(|slo| slo.quantile);
        for (name, expected) in
            [("p50", 0.5), ("p5", 0.05), ("p99", 0.99), ("p999", 0.999), ("p99.9", 0.999), ("p100", 1.0), ("p0", 0.0)]
        {
            assert!((quantile(name).unwrap() - expected).abs() < 1e-9, "{name}: {:?}", quantile(name));
        }
        for name in ["99", "p", "pnan", "pinf", "p-1", "p1000", "p100.1", "p9_9"] {
            assert!(quantile(name).is_err(), "{name}");
        }
    }
}
