//! The result of a run, as it is stored in a file and drawn: a part of the output of `-o json`.

use crate::remote::failure::CliError;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The result of a run. Fields that an older version did not record are empty.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunResult {
    /// The workload: put, get, mixed, incr.
    pub what: String,
    /// Requests answered a second.
    pub ops_per_s: f64,
    /// Median latency, in microseconds.
    pub p50_us: f64,
    /// 90th percentile of latency, in microseconds.
    pub p90_us: f64,
    /// 99th percentile of latency, in microseconds.
    pub p99_us: f64,
    /// 99.9th percentile of latency, in microseconds.
    pub p999_us: f64,
    /// Highest latency, in microseconds.
    pub max_us: f64,
    /// Requests rejected with a final refusal.
    pub errors: u64,
    /// Requests with an unknown outcome.
    pub unknown: u64,
    /// Retries of requests.
    pub retries: u64,
    /// Requests answered.
    pub total: u64,
    /// Duration of the measurement, in seconds.
    pub duration_s: f64,
    /// The longest time without an answer, in milliseconds.
    pub longest_gap_ms: f64,
    /// Entries per fsync of the leader, if known.
    pub entries_per_fsync: Option<f64>,
    /// 99th percentile of the leader's fsync latency, in microseconds.
    pub fsync_p99_us: Option<f64>,
    /// Points of the latency distribution: a share of all requests, and the microseconds that it took at most.
    pub curve: Vec<(f64, f64)>,
    pub series: Vec<Second>,
    /// When an entry of a later term, hence of another leader, was first seen, in seconds from the beginning.
    pub leader_changes: Vec<f64>,
    /// The command line.
    pub command: Vec<String>,
    /// Date and time of the end, in UTC.
    pub date: String,
    /// The machine that the benchmark ran on.
    pub machine: Machine,
    /// The arguments, and the version and settings of the server.
    pub config: serde_json::Value,
}

/// One second of a run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Second {
    /// Its end, in seconds from the beginning.
    pub at_s: f64,
    /// Requests answered a second.
    pub ops_per_s: f64,
    /// Median latency, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of latency, in microseconds.
    pub p99_us: f64,
    /// Highest latency, in microseconds.
    pub max_us: f64,
}

/// The machine that ran the benchmark, on which the figures depend.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// The host name.
    pub host: String,
    /// The operating system's name and release.
    pub system: String,
    /// The processor's architecture.
    pub processor: String,
    /// The parallelism available to the process.
    pub processors: usize,
}

impl Machine {
    /// Describes this machine.
    pub fn here() -> Machine {
        let about = rustix::system::uname();
        Machine {
            host: about.nodename().to_string_lossy().into_owned(),
            system: format!("{} {}", about.sysname().to_string_lossy(), about.release().to_string_lossy()),
            processor: about.machine().to_string_lossy().into_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

impl RunResult {
    /// Reads a result from a file with the output of `-o json`.
    pub fn read(path: &Path) -> Result<RunResult, CliError> {
        let place = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|error| CliError { what: format!("{place}: {error}"), code: 74 })?;
        serde_json::from_str(&text).map_err(|error| CliError {
            what: format!("{place}: {error}\n  expected the output of drave bench -o json"),
            code: 2,
        })
    }
}
