//! The result of a run, as it is stored in a file and drawn: a part of the output of `-o json`.

use crate::remote::failure::CliError;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The result of a run. The names of the fields are the keys in JSON. Fields that an older version did not record are
/// empty.
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
    /// Requests that were refused: they did not take effect, and never will.
    pub errors: u64,
    /// Requests with an unknown outcome: they may have taken effect, or may yet.
    pub unknown: u64,
    /// The number of times that requests were sent again.
    pub retries: u64,
    /// Requests that were answered during the measurement.
    pub total: u64,
    /// Duration of the measurement, in seconds.
    pub duration_s: f64,
    /// The longest time without an answer, in milliseconds.
    pub longest_gap_ms: f64,
    /// Entries per fsync of the leader, if known.
    pub entries_per_fsync: Option<f64>,
    /// 99th percentile of the leader's fsync latency, in microseconds.
    pub fsync_p99_us: Option<f64>,
    /// Points of the latency distribution: a share of all requests, and the latency in microseconds that this share of
    /// the requests did not exceed.
    pub curve: Vec<(f64, f64)>,
    /// The figures of each second, in order.
    pub series: Vec<SecondStats>,
    /// When an entry of a later term, hence of another leader, was first seen, in seconds from the beginning.
    pub leader_changes: Vec<f64>,
    /// The command line of the benchmark, the program first.
    pub command: Vec<String>,
    /// Date and time of the end of the run, in UTC.
    pub date: String,
    /// The machine that ran the client; often the nodes run elsewhere.
    pub machine: MachineInfo,
    /// The arguments, and the version and settings of the server.
    pub config: serde_json::Value,
}

/// The figures of one second of a run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecondStats {
    /// The end of this second, in seconds from the start of the measurement.
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
pub struct MachineInfo {
    /// The host name, as `uname -n` prints it.
    pub host: String,
    /// The operating system's name and release.
    pub system: String,
    /// The processor's architecture.
    pub processor: String,
    /// The number of processors available to the process; 0 if unknown.
    pub processors: usize,
}

impl MachineInfo {
    /// Describes the machine on which this process runs, from `uname`.
    pub fn local() -> MachineInfo {
        let system_info = rustix::system::uname();
        MachineInfo {
            host: system_info.nodename().to_string_lossy().into_owned(),
            system: format!("{} {}", system_info.sysname().to_string_lossy(), system_info.release().to_string_lossy()),
            processor: system_info.machine().to_string_lossy().into_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

impl RunResult {
    /// Reads a result from a file with the output of `-o json`.
    pub fn read(path: &Path) -> Result<RunResult, CliError> {
        let path_text = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| CliError { message: format!("{path_text}: {error}"), code: 74 })?;
        serde_json::from_str(&text).map_err(|error| CliError {
            message: format!("{path_text}: {error}\n  expected the output of drave bench -o json"),
            code: 2,
        })
    }
}
