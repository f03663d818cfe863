//! The arguments of `drave bench`.

use super::failover::FailoverScenario;
use crate::cli::cluster::Cluster;
use crate::cli::failure::CliError;
use bytesize::ByteSize;
use clap::builder::ArgPredicate::IsPresent;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Measures a cluster, closed or open loop, or what lies under it.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// What to measure
    #[arg(value_enum, required = false, required_unless_present_any = ["scenario", "results"])]
    #[arg(default_value_ifs([("scenario", IsPresent, Some("incr")), ("results", IsPresent, Some("put"))]))]
    pub what: Workload,
    /// What happens meanwhile, in a cluster of its own
    #[command(flatten)]
    pub story: FailoverScenario,
    /// How many connections
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub clients: u64,
    /// How many requests are outstanding on each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub inflight: u64,
    /// Open loop: so many requests leave each second, whatever the replies do
    #[arg(long)]
    pub rate: Option<u64>,
    /// How long to measure
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Stop when so many requests are answered, if that is sooner
    #[arg(long)]
    pub total: Option<u64>,
    /// How long to run before measuring
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// How long a key is, in bytes
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(16..=1024))]
    pub key_size: u64,
    /// How long a value is, in bytes
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub value_size: u64,
    /// How many keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// Even if all keys together are more than 2 GiB: every node holds them in memory
    #[arg(long)]
    pub large: bool,
    /// Which keys are asked for
    #[arg(long, value_enum, default_value_t = Dist::Uniform)]
    pub dist: Dist,
    /// How many of all requests are reads (mixed)
    #[arg(long, default_value_t = 0.5)]
    pub read_ratio: f64,
    /// Fail if a percentile is worse: p99=5ms
    #[arg(long, value_parser = parse_slo)]
    pub slo: Option<Slo>,
    /// Check the answers: counters must add up (incr), the history must be linearizable (mixed)
    #[arg(long)]
    pub verify: bool,
    /// Write the distribution of latencies there as HdrHistogram does (.hgrm), in milliseconds
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Draw what came of it, as one page of HTML
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Run it once for each of these numbers of clients: 1,8,64,256
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub sweep: Vec<u64>,
    /// Draw one or two earlier runs, that -o json printed into these files, and run nothing
    #[arg(long, value_name = "FILE", num_args = 1..=2, requires = "report", conflicts_with_all = ["sweep", "scenario"])]
    pub results: Vec<PathBuf>,
    /// Leave the keys where they are
    #[arg(long)]
    pub keep: bool,
    /// Which run's keys to use: those that one with this number and --keep left; else nobody's
    #[arg(long, value_name = "N")]
    pub run: Option<u16>,
    /// Which directory to measure (disk)
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Where the cluster is
    #[command(flatten)]
    pub cluster: Cluster,
}

/// The most bytes of keys and values that a run may write without `--large`.
const STATE_MAX: u64 = 2 << 30;

impl Bench {
    /// Bytes of keys and values once all keys are written.
    fn state(&self) -> u64 {
        let keys = self.total.map_or(self.keys, |total| self.keys.min(total));
        keys.saturating_mul(self.key_size + self.value_size)
    }

    /// Rejects `--report`, `--sweep` and `--results` for benchmarks that draw no picture.
    pub fn check_pictures(&self) -> Result<(), CliError> {
        let what = match (self.story.scenario, self.what) {
            (Some(_), _) => "bench --scenario".to_owned(),
            (None, Workload::Disk | Workload::Net) => format!("bench {}", self.what.name()),
            (None, Workload::Put | Workload::Get | Workload::Mixed | Workload::Incr) => return Ok(()),
        };
        let asked = [
            ("--report", self.report.is_some()),
            ("--sweep", !self.sweep.is_empty()),
            ("--results", !self.results.is_empty()),
        ];
        let Some((name, _)) = asked.into_iter().find(|(_, asked)| *asked) else { return Ok(()) };
        let what = format!(
            "{name} is for put, get, mixed and incr: {what} says what it has to say in figures. Nothing was run.\n  \
             without {name}, and with -o json > FILE to keep them"
        );
        Err(CliError { what, code: 2 })
    }

    /// Rejects a run that writes more than 2 GiB unless `--large` is set: every node holds the keys in memory.
    pub fn check(&self) -> Result<(), CliError> {
        let writes = matches!(self.what, Workload::Put | Workload::Mixed);
        if !writes || self.large || self.state() <= STATE_MAX {
            return Ok(());
        }
        let (keys, value, state) = (self.keys, self.value_size, ByteSize(self.state()));
        let what = format!(
            "{keys} keys with values of {value} bytes are {state}, which every node holds in memory. Nothing was \
             written.\n  fewer --keys, smaller --value-size, or --large if that is meant"
        );
        Err(CliError { what, code: 2 })
    }
}

/// What to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Workload {
    /// Sets keys.
    Put,
    /// Reads keys, linearizable.
    Get,
    /// Both.
    Mixed,
    /// Adds to counters.
    Incr,
    /// Plain writes and syncs of a directory, without any cluster.
    Disk,
    /// A ping-pong on loopback, without any cluster.
    Net,
}

impl Workload {
    /// The name on the command line.
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

/// Which keys are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Dist {
    /// All alike.
    Uniform,
    /// Few of them most of the time.
    Zipf,
    /// One after the other.
    Seq,
}

/// An upper bound on a latency percentile.
#[derive(Clone, Copy, Debug)]
pub struct Slo {
    /// The quantile, such as 0.99.
    pub quantile: f64,
    /// The highest latency allowed.
    pub most: Duration,
}

fn parse_slo(text: &str) -> Result<Slo, String> {
    let wrong = || format!("{text:?} is not like p99=5ms");
    let (name, most) = text.split_once('=').ok_or_else(wrong)?;
    let digits = name.strip_prefix('p').filter(|digits| !digits.is_empty()).ok_or_else(wrong)?;
    let percent: f64 = digits.parse().map_err(|_| wrong())?;
    let quantile = match digits.split_once('.') {
        // Above 100, a decimal point is implied: p999 is p99.9.
        None if percent > 100.0 && digits.starts_with('9') => format!("0.{digits}").parse().map_err(|_| wrong())?,
        _ => percent / 100.0,
    };
    if !(0.0..=1.0).contains(&quantile) {
        return Err(wrong());
    }
    let most = humantime::parse_duration(most).map_err(|error| format!("{most:?}: {error}"))?;
    Ok(Slo { quantile, most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_read_as_they_are_said() {
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
