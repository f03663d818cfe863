//! The cost of snapshots for concurrent writes: measures the same load in alternating windows, without a snapshot,
//! while the leader takes one, while all nodes take one, and while a follower receives one.
//!
//! This test only checks that all writes and snapshots succeed; `scripts/under-load.sh` measures with a million keys
//! (`DRAVE_LOAD_KEYS`, `DRAVE_LOAD_SECONDS`, `DRAVE_LOAD_ROUNDS`, `DRAVE_LOAD_RATE`).

use drave::api::Status;
use support::{BackgroundProgram, Cluster, wait_until};

mod support;

/// Value of `--run` in every window, so that all windows write to the same keys.
const RUN_ID: &str = "7";

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The cluster, and the parameters of the load on it.
struct Load {
    cluster: Cluster,
    key_count: String,
    duration: String,
    rate: String,
    /// How many windows were measured.
    measured_windows: u64,
}

/// Which snapshots are taken or sent during a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MeasuredActivity {
    NoSnapshot,
    LeaderTakesSnapshot,
    AllTakeSnapshots,
    /// One follower is down and there is no other activity: the baseline of a transfer.
    FollowerDown,
    FollowerReceivesSnapshot,
}

impl Load {
    fn prepare() -> Load {
        let mut cluster = Cluster::prepare(3);
        let args = ["--snapshot-log-bytes", "1TiB", "--snapshot-max-age", "1000h", "--trailing-bytes", "64KiB"];
        cluster.extra_args = args.map(str::to_owned).to_vec();
        (0..3).for_each(|n| cluster.spawn(n));
        cluster.wait_for_leader();
        let key_count = env_number("DRAVE_LOAD_KEYS", 5_000).to_string();
        let duration = format!("{}s", env_number("DRAVE_LOAD_SECONDS", 1));
        let rate = env_number("DRAVE_LOAD_RATE", 500).to_string();
        let load = Load { cluster, key_count, duration, rate, measured_windows: 0 };
        let fill_args = ["--dist", "seq", "--total", &load.key_count, "--duration", "20m", "--warmup", "0s"];
        let output = load.cluster.run(&[&load.bench_args()[..], &["--inflight", "32"], &fill_args].concat());
        assert_eq!(output.code, Some(0), "{output:?}");
        load
    }

    fn bench_args(&self) -> Vec<&str> {
        let args = ["bench", "put", "--keep", "--run", RUN_ID, "--value-size", "1024", "--keys", &self.key_count];
        [&args[..], &["--clients", "8", "--timeout", "60s", "-o", "json"]].concat()
    }

    /// Measures the load during one window. Returns how often snapshots were taken during the window.
    fn measure_window(&mut self, round: u64, activity: MeasuredActivity) -> u64 {
        let leader = self.cluster.wait_for_leader();
        self.measured_windows += 1;
        let mut args = self.bench_args();
        args.extend(["--warmup", "300ms", "--duration", &self.duration]);
        // A closed loop has 4 requests in flight per client; an open loop as many as its rate needs, up to 64.
        match self.rate.as_str() {
            "0" => args.extend(["--inflight", "4"]),
            rate => args.extend(["--inflight", "64", "--rate", rate]),
        }
        let name = format!("window-{}", self.measured_windows);
        let mut bench =
            BackgroundProgram::start(self.cluster.directory.path(), &name, &mut self.cluster.drave_command(&args));
        let leader_id = (leader + 1).to_string();
        let mut snapshots_taken = 0;
        while bench.is_running() {
            let snapshot_args: &[&str] = match activity {
                MeasuredActivity::LeaderTakesSnapshot => {
                    &["snapshot", "take", "--timeout", "120s", "--node", &leader_id]
                }
                MeasuredActivity::AllTakeSnapshots => &["snapshot", "take", "--timeout", "120s"],
                MeasuredActivity::NoSnapshot
                | MeasuredActivity::FollowerDown
                | MeasuredActivity::FollowerReceivesSnapshot => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    continue;
                }
            };
            let output = self.cluster.run(snapshot_args);
            assert_eq!(output.code, Some(0), "{output:?}\n{}", self.cluster.logs());
            snapshots_taken += 1;
        }
        let output = bench.wait_with_output();
        assert_eq!(output.code, Some(0), "{output:?}\n{}", self.cluster.logs());
        let report = output.json();
        let field_in_ms = |name: &str| report[name].as_f64().unwrap() / 1e3;
        assert!(report["total"].as_u64().unwrap() > 0, "{report}");
        eprintln!(
            "round {round} {:<24} {:>7.0}/s p50 {:>6.2} p99 {:>7.2} p99.9 {:>7.2} max {:>7.2} ms, {} errors, {} \
             unknown, {snapshots_taken} taken",
            format!("{activity:?}"),
            report["ops_per_s"].as_f64().unwrap(),
            field_in_ms("p50_us"),
            field_in_ms("p99_us"),
            field_in_ms("p999_us"),
            field_in_ms("max_us"),
            report["errors"],
            report["unknown"],
        );
        snapshots_taken
    }

    fn leader_status(&self) -> Option<Status> {
        self.cluster.leader_among(0..3).and_then(|leader| self.cluster.status(leader))
    }

    /// How many bytes of its snapshot follower `n` has received, and the size of the snapshot; `None` if it receives
    /// none.
    fn snapshot_progress(&self, n: usize) -> Option<(u64, u64)> {
        let leader = self.leader_status()?;
        let peer = leader.peers.iter().find(|peer| peer.node == n as u64 + 1)?;
        (peer.stage == "snapshot" && peer.snapshot_bytes > 0).then_some((peer.snapshot_has, peer.snapshot_bytes))
    }
}

#[test]
fn writes_continue_while_snapshots_are_taken_and_sent() {
    let mut load = Load::prepare();
    for round in 1..=env_number("DRAVE_LOAD_ROUNDS", 1) {
        load.measure_window(round, MeasuredActivity::NoSnapshot);
        assert!(load.measure_window(round, MeasuredActivity::LeaderTakesSnapshot) > 0);
        load.measure_window(round, MeasuredActivity::NoSnapshot);
        assert!(load.measure_window(round, MeasuredActivity::AllTakeSnapshots) > 0);

        let follower = (load.cluster.wait_for_leader() + 1) % 3;
        let last_before = load.cluster.status(follower).unwrap().last;
        load.cluster.kill(follower);
        load.measure_window(round, MeasuredActivity::FollowerDown);
        let output = load.cluster.run(&["snapshot", "take", "--timeout", "120s"]);
        assert_eq!(output.out.matches(" ok ").count(), 2, "{output:?}");
        for n in (0..3).filter(|n| *n != follower) {
            let log_compacted = || load.cluster.status(n).filter(|status| status.log.first > last_before + 1);
            wait_until("the log is compacted", log_compacted, || load.cluster.logs());
        }
        let shipped_before = load.leader_status().unwrap().log.shipped_bytes;
        load.cluster.spawn(follower);
        let snapshot_is_sent =
            || load.leader_status().filter(|leader| leader.log.shipped_bytes > shipped_before).map(|_| ());
        wait_until("the leader sends a snapshot", snapshot_is_sent, || load.cluster.logs());
        let progress_before = load.snapshot_progress(follower);
        load.measure_window(round, MeasuredActivity::FollowerReceivesSnapshot);
        eprintln!(
            "round {round}: the follower had (received, total) snapshot bytes {progress_before:?} before the window \
             and {:?} after it",
            load.snapshot_progress(follower)
        );
        load.cluster.wait_for_convergence();
    }
    load.cluster.expect_no_deaths();
}
