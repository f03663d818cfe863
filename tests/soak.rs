//! A cluster under load for `DRAVE_SOAK_SECONDS`: its disk usage stays within the bound of docs/operations.md, its
//! memory does not grow, and a node that was down for a third of the time catches up through a snapshot during the
//! load.

use drave::api::LogStatus;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{BackgroundProgram, Cluster, WAIT_TIMEOUT, wait_until};

mod support;

const MIB: u64 = 1 << 20;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
const SEGMENT_BYTES: u64 = 4 * MIB;
const SNAPSHOT_LOG_BYTES: u64 = MIB / 2;
const TRAILING_BYTES: u64 = MIB / 8;

/// Maximum disk usage of a node in bytes, as in docs/operations.md: the newest snapshot and the next one while it is
/// taken; as much of the log as makes a snapshot due, and the writes during the snapshot; the trailing entries; the
/// journal's headers; and segments that are half empty, spare, or to be reused.
fn disk_bytes_bound(log: &LogStatus, entries: u64, written_during_snapshot: u64) -> u64 {
    let bytes = SNAPSHOT_LOG_BYTES.max(log.snapshot_bytes) + written_during_snapshot + TRAILING_BYTES;
    2 * log.snapshot_bytes + journal_bytes(bytes, log, entries) + 5 * SEGMENT_BYTES
}

/// Size in the journal of entries with `bytes` bytes of content, in bytes. `log` has `entries` entries.
fn journal_bytes(bytes: u64, log: &LogStatus, entries: u64) -> u64 {
    let bytes_per_entry = (log.bytes / entries.max(1)).max(1);
    bytes + bytes / bytes_per_entry * ENTRY_OVERHEAD_BYTES_MAX
}

/// The reason in the leader's status while it keeps entries for a follower that receives a snapshot. Such entries may
/// exceed the bound by [`SNAPSHOT_SENDING_BYTES_MAX`].
const SNAPSHOT_SENDING_REASON: &str = "a follower is being sent a snapshot";
const SNAPSHOT_SENDING_BYTES_MAX: u64 = 1 << 30;
/// Number of samples after which released segments must have been removed. On a busy machine a sample
/// may come too late to see the largest size of the log, on which the bound depends.
const RELEASE_SAMPLES_MAX: usize = 10;

/// Maximum overhead of the journal per entry in bytes: an entry may be alone in its batch.
const ENTRY_OVERHEAD_BYTES_MAX: u64 = 96 + 24;

/// Maximum size of the writes during a snapshot, as a multiple of the log size that makes a snapshot due. With more
/// writes, snapshots would not keep up with the log.
const SNAPSHOT_GROWTH_FACTOR_MAX: u64 = 4;

fn run_seconds() -> u64 {
    std::env::var("DRAVE_SOAK_SECONDS").map_or(15, |text| text.parse().unwrap())
}

fn directory_bytes(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    // A running node removes files during the count: a removed file counts as empty.
    let size = |entry: std::fs::DirEntry| entry.metadata().map_or(0, |metadata| metadata.len());
    entries.filter_map(Result::ok).map(size).sum()
}

fn resident_bytes(cluster: &Cluster, n: usize) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(n).as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The first index in a node's log; 0 if the node does not answer.
fn first_index(cluster: &Cluster, n: usize) -> u64 {
    cluster.status(n).map_or(0, |status| status.log.first)
}

/// Measurements of one node.
#[derive(Default)]
struct NodeSamples {
    /// Maximum disk usage over all samples, in bytes.
    disk_bytes_max: u64,
    /// Maximum of the bound on the disk usage over all samples, in bytes.
    disk_bound_max: u64,
    /// Size of the log in bytes when the current snapshot was first seen; `None` while no snapshot is taken.
    log_bytes_at_snapshot_start: Option<u64>,
    /// Maximum growth of the log during a snapshot, in bytes.
    snapshot_growth_max: u64,
    /// Bytes of the log that were kept for a follower that was receiving a snapshot, at each of the last
    /// [`RELEASE_SAMPLES_MAX`] samples, the newest first.
    kept_for_follower_bytes: VecDeque<u64>,
    /// How many samples in a row had more disk usage than the bound.
    samples_over_bound: usize,
    /// Resident memory at each sample, in bytes.
    resident_memory: Vec<u64>,
}

impl NodeSamples {
    fn record_sample(&mut self, cluster: &Cluster, n: usize) {
        let data = cluster.data_dir(n);
        let disk_bytes = directory_bytes(&data.join("wal")) + directory_bytes(&data.join("snapshots"));
        if let Some(status) = cluster.status(n) {
            let (log, entries) = (&status.log, status.last.saturating_sub(status.log.first));
            self.log_bytes_at_snapshot_start =
                log.taking.then_some(self.log_bytes_at_snapshot_start.unwrap_or(log.bytes));
            self.snapshot_growth_max = self
                .snapshot_growth_max
                .max(self.log_bytes_at_snapshot_start.map_or(0, |before| log.bytes.saturating_sub(before)));
            let growth_max = SNAPSHOT_GROWTH_FACTOR_MAX * SNAPSHOT_LOG_BYTES.max(log.snapshot_bytes);
            assert!(
                self.snapshot_growth_max <= growth_max || log.snapshot == 0,
                "{} bytes were written during one snapshot, more than the limit",
                self.snapshot_growth_max
            );
            self.disk_bound_max = self.disk_bound_max.max(disk_bytes_bound(log, entries, self.snapshot_growth_max));
            assert!(
                log.reclaimable <= SNAPSHOT_SENDING_BYTES_MAX,
                "the log keeps {} MiB that could be released",
                log.reclaimable / MIB
            );
            let bytes_kept_for_follower = if log.kept_for == SNAPSHOT_SENDING_REASON { log.reclaimable } else { 0 };
            self.kept_for_follower_bytes.push_front(journal_bytes(bytes_kept_for_follower, log, entries));
            self.kept_for_follower_bytes.truncate(RELEASE_SAMPLES_MAX);
        }
        self.disk_bytes_max = self.disk_bytes_max.max(disk_bytes);
        self.resident_memory.push(resident_bytes(cluster, n));
        let kept_bytes_max = self.kept_for_follower_bytes.iter().max().copied().unwrap_or_default();
        let bound_bytes = self.disk_bound_max + kept_bytes_max;
        self.samples_over_bound = if disk_bytes > bound_bytes { self.samples_over_bound + 1 } else { 0 };
        assert!(
            self.samples_over_bound <= RELEASE_SAMPLES_MAX,
            "n{} uses {} MiB of disk for {} samples in a row; the bound is {} MiB with {kept_bytes_max} bytes for a \
             follower: {:?}",
            n + 1,
            disk_bytes / MIB,
            self.samples_over_bound,
            bound_bytes / MIB,
            cluster.status(n).map(|status| status.log)
        );
    }
}

impl NodeSamples {
    /// Memory growth in the second half of the run, in MiB per hour, by linear regression.
    fn memory_growth_per_hour(&self) -> f64 {
        let second_half = &self.resident_memory[self.resident_memory.len() / 2..];
        let mean_position = (second_half.len() as f64 - 1.0) / 2.0;
        let centered = |i: usize| i as f64 - mean_position;
        let covariance: f64 = second_half.iter().enumerate().map(|(i, bytes)| centered(i) * *bytes as f64).sum();
        let variance: f64 = (0..second_half.len()).map(|i| centered(i) * centered(i)).sum();
        covariance / variance.max(1.0) * (3600.0 / SAMPLE_INTERVAL.as_secs_f64()) / MIB as f64
    }
}

/// consul#866, #5181, #21875: the store grew and never shrank, and became slower as it grew.
#[test]
fn disk_and_memory_stay_bounded_and_stopped_node_catches_up() {
    let mut cluster = Cluster::prepare(3);
    let size = |bytes: u64| format!("{bytes}B");
    cluster.extra_args =
        vec!["--segment-size".into(), size(SEGMENT_BYTES), "--snapshot-log-bytes".into(), size(SNAPSHOT_LOG_BYTES)];
    cluster.extra_args.extend(["--trailing-bytes".into(), size(TRAILING_BYTES)]);
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    let third_of_run = Duration::from_secs(run_seconds()) / 3;
    let duration = format!("{}s", run_seconds());
    let bench = |name: &str, args: &[&str]| {
        let common_args = ["--warmup", "0s", "--duration", &duration, "--timeout", "20s", "-o", "json"];
        BackgroundProgram::start(
            cluster.directory.path(),
            name,
            &mut cluster.drave_command(&[&["bench"], args, &common_args].concat()),
        )
    };
    // In a short run the state must be small, or the log never grows as large as the state.
    let key_count = if run_seconds() < 300 { "1000" } else { "100000" };
    let args = ["bench", "put", "--clients", "4", "--inflight", "4", "--keys", key_count, "--rate", "8000"];
    let endless_args = ["--duration", "10h", "--timeout", "20s"];
    let background_load = BackgroundProgram::start(
        cluster.directory.path(),
        "flood",
        &mut cluster.drave_command(&[&args[..], &endless_args].concat()),
    );
    let rate = if run_seconds() < 300 { "300" } else { "100" };
    let mixed_bench = bench("mixed", &["mixed", "--verify", "--keys", "50", "--rate", rate, "--read-ratio", "0.5"]);
    let incr_bench = bench("incr", &["incr", "--verify", "--clients", "4", "--keys", "20", "--rate", "300"]);
    let mut samples: [NodeSamples; 3] = Default::default();
    let stopped_node = (cluster.wait_for_leader() + 1) % 3;
    let mut last_index_at_stop = 0;
    for phase in 0..3 {
        match phase {
            1 => {
                last_index_at_stop = cluster.status(stopped_node).unwrap().last;
                cluster.kill(stopped_node);
            }
            2 => cluster.spawn(stopped_node),
            _ => {}
        }
        let phase_start = Instant::now();
        // The node stays down until the other nodes have released the entries that it lacks, however slow they are.
        while phase_start.elapsed() < third_of_run
            || (phase == 1 && first_index(&cluster, (stopped_node + 1) % 3) <= last_index_at_stop)
        {
            assert!(phase_start.elapsed() < third_of_run + WAIT_TIMEOUT, "{}", cluster.logs());
            std::thread::sleep(SAMPLE_INTERVAL);
            (0..3).filter(|n| cluster.is_running(*n)).for_each(|n| samples[n].record_sample(&cluster, n));
        }
    }
    for (n, samples) in samples.iter().enumerate() {
        let (halfway_memory, final_memory) = (
            samples.resident_memory[samples.resident_memory.len() / 2],
            samples.resident_memory[samples.resident_memory.len() - 1],
        );
        eprintln!(
            "n{}: at most {} MiB of disk used, {} allowed, {} written during a snapshot; \
             memory {} MiB halfway, {} at the end, {:+.1} MiB an hour",
            n + 1,
            samples.disk_bytes_max / MIB,
            samples.disk_bound_max / MIB,
            samples.snapshot_growth_max / MIB,
            halfway_memory / MIB,
            final_memory / MIB,
            samples.memory_growth_per_hour()
        );
        assert!(final_memory < 2 * halfway_memory + 64 * MIB, "resident memory grows: {:?}", samples.resident_memory);
    }
    drop(background_load);
    for mut verified_bench in [mixed_bench, incr_bench] {
        // Verifying a long history may take up to a third of the duration of the run.
        let deadline = Instant::now() + WAIT_TIMEOUT.max(third_of_run);
        while verified_bench.is_running() && Instant::now() < deadline {
            std::thread::sleep(SAMPLE_INTERVAL);
        }
        let output = verified_bench.wait_with_output();
        assert_eq!(output.code, Some(0), "{output:?}\n{}", cluster.logs());
        let report = output.json();
        eprintln!("{}: {} answered, {} unknown", report["what"], report["total"], report["unknown"]);
    }
    cluster.wait_for_convergence();
    let logs = std::fs::read_to_string(cluster.data_dir(stopped_node).with_extension("log")).unwrap();
    assert!(logs.contains("holds a snapshot up to"), "the stopped node catches up through a snapshot: {logs}");
    for n in 0..3 {
        let log = cluster.status(n).unwrap().log;
        assert!(log.first > 1 && log.snapshot > 0, "{log:?}");
    }
    wait_until(
        "the last snapshot is finished",
        || cluster.status(stopped_node).filter(|status| !status.log.taking),
        || cluster.logs(),
    );
}
