//! What came of a run, as it is kept in a file and drawn: a part of what `-o json` prints.

use crate::cli::failure::CliError;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What is drawn of a run. What an older version did not write down is empty.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunResult {
    /// What was measured: put, get, mixed, incr.
    pub what: String,
    /// Requests answered a second.
    pub ops_per_s: f64,
    /// Half took no longer, in microseconds.
    pub p50_us: f64,
    /// 90 of 100.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1,000.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Refused for good.
    pub errors: u64,
    /// Nobody knows what became of them.
    pub unknown: u64,
    /// Asked again.
    pub retries: u64,
    /// Answered.
    pub total: u64,
    /// Seconds.
    pub duration_s: f64,
    /// The longest time without an answer, in milliseconds.
    pub longest_gap_ms: f64,
    /// Entries a sync of the leader's, if it is known.
    pub entries_per_fsync: Option<f64>,
    /// How long its syncs take, 99 of 100, in microseconds.
    pub fsync_p99_us: Option<f64>,
    /// Points of the distribution: which share of all took at most so many microseconds.
    pub curve: Vec<(f64, f64)>,
    /// Second by second.
    pub series: Vec<Second>,
    /// When entries first came from a later term: another leader, in seconds from the beginning.
    pub leader_changes: Vec<f64>,
    /// The command line.
    pub command: Vec<String>,
    /// When it ended: date and time, UTC.
    pub date: String,
    /// On what it ran.
    pub machine: Machine,
    /// All that was asked for, and of what.
    pub config: serde_json::Value,
}

/// One second of a run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Second {
    /// When it ended, in seconds from the beginning.
    pub at_s: f64,
    /// Requests answered a second.
    pub ops_per_s: f64,
    /// Half took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// What a figure depends on besides the program.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its name, as it knows itself.
    pub host: String,
    /// The operating system's name and release.
    pub system: String,
    /// The processor's architecture.
    pub processor: String,
    /// How many can run at once.
    pub processors: usize,
}

impl Machine {
    /// This one.
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
    /// As `-o json` printed it into that file.
    pub fn read(path: &Path) -> Result<RunResult, CliError> {
        let place = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|error| CliError { what: format!("{place}: {error}"), code: 74 })?;
        serde_json::from_str(&text).map_err(|error| CliError {
            what: format!("{place}: {error}\n  it should be what drave bench -o json prints"),
            code: 2,
        })
    }
}
