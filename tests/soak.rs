//! A cluster under load for `DRAVE_SOAK_SECONDS`: its disk usage stays within the bound of docs/operations.md, its
//! memory does not grow, and a node that was down for a third of the time catches up through a snapshot during the
//! load.

use drave::api::LogStatus;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Beside, Cluster, PATIENCE, until};

mod support;

const MIB: u64 = 1 << 20;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
const SEGMENT: u64 = 4 * MIB;
const LOG: u64 = MIB / 2;
const TRAILING: u64 = MIB / 8;

/// Maximum disk usage of a node in bytes, as in docs/operations.md: the newest snapshot and the next one while it is
/// taken; as much of the log as makes a snapshot due, and the writes during the snapshot; the trailing entries; the
/// journal's headers; and segments that are half empty, spare, or to be reused.
fn bound(log: &LogStatus, entries: u64, meanwhile: u64) -> u64 {
    let bytes = LOG.max(log.snapshot_bytes) + meanwhile + TRAILING;
    2 * log.snapshot_bytes + with_headers(bytes, log, entries) + 5 * SEGMENT
}

/// Size of these entries in the journal, in bytes.
fn with_headers(bytes: u64, log: &LogStatus, entries: u64) -> u64 {
    let each = (log.bytes / entries.max(1)).max(1);
    bytes + bytes / each * HEADERS
}

/// The reason in the leader's status while it keeps entries for a follower that receives a snapshot. Such entries may
/// exceed the bound by `SENDING_MAX` bytes, and by nothing once the follower has been silent for a minute.
const SENDING: &str = "a follower is being sent a snapshot";
const SENDING_MAX: u64 = 1 << 30;
/// Maximum number of samples until released segments are gone.
const SAMPLES_MAX: usize = 10;

/// Maximum overhead of the journal per entry in bytes: an entry may be alone in its batch.
const HEADERS: u64 = 96 + 24;

/// Bound on the writes during a snapshot, as a multiple of the log size that makes a snapshot due. With more than that,
/// snapshots would not keep up with the log.
const KEEPS_UP: u64 = 4;

fn seconds() -> u64 {
    std::env::var("DRAVE_SOAK_SECONDS").map_or(15, |text| text.parse().unwrap())
}

fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    // A running node removes files during the count.
    let size = |entry: std::fs::DirEntry| entry.metadata().map_or(0, |about| about.len());
    entries.filter_map(Result::ok).map(size).sum()
}

fn rss(cluster: &Cluster, n: usize) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(n).as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The first index in a node's log.
fn first(cluster: &Cluster, n: usize) -> u64 {
    cluster.status(n).map_or(0, |status| status.log.first)
}

/// Measurements of one node.
#[derive(Default)]
struct Samples {
    disk: u64,
    bound: u64,
    /// Size of the log when the current snapshot was first seen; below, the maximum growth of the log during a
    /// snapshot.
    taking: Option<u64>,
    meanwhile: u64,
    /// Bytes kept for a follower that was receiving a snapshot, at the last samples.
    kept: VecDeque<u64>,
    /// Resident memory at each sample, in bytes.
    memory: Vec<u64>,
}

impl Samples {
    fn sample(&mut self, cluster: &Cluster, n: usize) {
        let data = cluster.data(n);
        let disk = size_of(&data.join("wal")) + size_of(&data.join("snapshots"));
        if let Some(status) = cluster.status(n) {
            let (log, entries) = (&status.log, status.last.saturating_sub(status.log.first));
            self.taking = log.taking.then_some(self.taking.unwrap_or(log.bytes));
            self.meanwhile = self.meanwhile.max(self.taking.map_or(0, |before| log.bytes.saturating_sub(before)));
            let most = KEEPS_UP * LOG.max(log.snapshot_bytes);
            assert!(
                self.meanwhile <= most || log.snapshot == 0,
                "{} bytes are written during a snapshot",
                self.meanwhile
            );
            self.bound = self.bound.max(bound(log, entries, self.meanwhile));
            assert!(log.reclaimable <= SENDING_MAX, "the log keeps {} MiB more than needed", log.reclaimable / MIB);
            let kept = if log.kept_for == SENDING { log.reclaimable } else { 0 };
            self.kept.push_front(with_headers(kept, log, entries));
            self.kept.truncate(SAMPLES_MAX);
        }
        self.disk = self.disk.max(disk);
        self.memory.push(rss(cluster, n));
        let kept = self.kept.iter().max().copied().unwrap_or_default();
        let (has, may) = (disk / MIB, self.bound / MIB);
        assert!(
            disk <= self.bound + kept,
            "n{} uses {has} MiB of disk; the bound is {may} MiB and {kept} bytes",
            n + 1
        );
    }
}

impl Samples {
    /// Memory growth in the second half of the run, in MiB per hour, by linear regression.
    fn slope(&self) -> f64 {
        let half = &self.memory[self.memory.len() / 2..];
        let middle = (half.len() as f64 - 1.0) / 2.0;
        let at = |nth: usize| nth as f64 - middle;
        let rises: f64 = half.iter().enumerate().map(|(nth, bytes)| at(nth) * *bytes as f64).sum();
        let spread: f64 = (0..half.len()).map(|nth| at(nth) * at(nth)).sum();
        rises / spread.max(1.0) * (3600.0 / SAMPLE_INTERVAL.as_secs_f64()) / MIB as f64
    }
}

/// consul#866, #5181, #21875: the store grew and never shrank, and became slower as it grew.
#[test]
fn disk_and_memory_stay_bounded_and_stopped_node_catches_up() {
    let mut cluster = Cluster::prepare(3);
    let size = |bytes: u64| format!("{bytes}B");
    cluster.words = vec!["--segment-size".into(), size(SEGMENT), "--snapshot-log-bytes".into(), size(LOG)];
    cluster.words.extend(["--trailing-bytes".into(), size(TRAILING)]);
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    let third = Duration::from_secs(seconds()) / 3;
    let duration = format!("{}s", seconds());
    let bench = |name: &str, words: &[&str]| {
        let always = ["--warmup", "0s", "--duration", &duration, "--timeout", "20s", "-o", "json"];
        Beside::start(cluster.directory.path(), name, &mut cluster.drave(&[&["bench"], words, &always].concat()))
    };
    // In a short run the state must be small, or the log never grows as large as the state.
    let keys = if seconds() < 300 { "1000" } else { "100000" };
    let words = ["bench", "put", "--clients", "4", "--inflight", "4", "--keys", keys, "--rate", "8000"];
    let forever = ["--duration", "10h", "--timeout", "20s"];
    let flood = Beside::start(cluster.directory.path(), "flood", &mut cluster.drave(&[&words[..], &forever].concat()));
    let rate = if seconds() < 300 { "300" } else { "100" };
    let mixed = bench("mixed", &["mixed", "--verify", "--keys", "50", "--rate", rate, "--read-ratio", "0.5"]);
    let incr = bench("incr", &["incr", "--verify", "--clients", "4", "--keys", "20", "--rate", "300"]);
    let mut seen: [Samples; 3] = Default::default();
    let away = (cluster.leader() + 1) % 3;
    let mut last = 0;
    for phase in 0..3 {
        match phase {
            1 => {
                last = cluster.status(away).unwrap().last;
                cluster.kill(away);
            }
            2 => cluster.spawn(away),
            _ => {}
        }
        let begun = Instant::now();
        // The node stays down until the other nodes have released the entries that it lacks, however slow they are.
        while begun.elapsed() < third || (phase == 1 && first(&cluster, (away + 1) % 3) <= last) {
            assert!(begun.elapsed() < third + PATIENCE, "{}", cluster.logs());
            std::thread::sleep(SAMPLE_INTERVAL);
            (0..3).filter(|n| cluster.is_running(*n)).for_each(|n| seen[n].sample(&cluster, n));
        }
    }
    for (n, seen) in seen.iter().enumerate() {
        let (half, end) = (seen.memory[seen.memory.len() / 2], seen.memory[seen.memory.len() - 1]);
        eprintln!(
            "n{}: at most {} MiB of disk used, {} allowed, {} written during a snapshot; \
             memory {} MiB halfway, {} at the end, {:+.1} MiB an hour",
            n + 1,
            seen.disk / MIB,
            seen.bound / MIB,
            seen.meanwhile / MIB,
            half / MIB,
            end / MIB,
            seen.slope()
        );
        assert!(end < 2 * half + 64 * MIB, "resident memory grows: {:?}", seen.memory);
    }
    drop(flood);
    for mut beside in [mixed, incr] {
        // Verifying the history may take this long.
        let ends = Instant::now() + PATIENCE.max(third);
        while beside.is_running() && Instant::now() < ends {
            std::thread::sleep(SAMPLE_INTERVAL);
        }
        let said = beside.end();
        assert_eq!(said.code, Some(0), "{said:?}\n{}", cluster.logs());
        let figures = said.json();
        eprintln!("{}: {} answered, {} unknown", figures["what"], figures["total"], figures["unknown"]);
    }
    cluster.agree();
    let logs = std::fs::read_to_string(cluster.data(away).with_extension("log")).unwrap();
    assert!(logs.contains("holds a snapshot up to"), "the stopped node catches up through a snapshot: {logs}");
    for n in 0..3 {
        let log = cluster.status(n).unwrap().log;
        assert!(log.first > 1 && log.snapshot > 0, "{log:?}");
    }
    until(
        "the last snapshot is finished",
        || cluster.status(away).filter(|status| !status.log.taking),
        || cluster.logs(),
    );
}
