//! The cost of snapshots for concurrent writes: measures the same load in alternating windows, without a snapshot,
//! while the leader takes one, while all nodes take one, and while a follower receives one.
//!
//! This test only checks that all succeed; `scripts/under-load.sh` measures with a million keys (`DRAVE_LOAD_KEYS`,
//! `DRAVE_LOAD_SECONDS`, `DRAVE_LOAD_ROUNDS`, `DRAVE_LOAD_RATE`).

use drave::api::Status;
use support::{Beside, Cluster, until};

mod support;

/// Value of `--run` in every window, so that all write to the same keys.
const RUN: &str = "7";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The load and its cluster.
struct Load {
    cluster: Cluster,
    keys: String,
    duration: String,
    rate: String,
    windows: u64,
}

/// Activity during a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WindowActivity {
    Nothing,
    LeaderTakes,
    AllTake,
    /// One follower is down and there is no other activity: the baseline of a transfer.
    OneDown,
    OneReceives,
}

impl Load {
    fn prepare() -> Load {
        let mut cluster = Cluster::prepare(3);
        let words = ["--snapshot-log-bytes", "1TiB", "--snapshot-max-age", "1000h", "--trailing-bytes", "64KiB"];
        cluster.words = words.map(str::to_owned).to_vec();
        (0..3).for_each(|n| cluster.spawn(n));
        cluster.leader();
        let keys = number("DRAVE_LOAD_KEYS", 5_000).to_string();
        let duration = format!("{}s", number("DRAVE_LOAD_SECONDS", 1));
        let rate = number("DRAVE_LOAD_RATE", 500).to_string();
        let load = Load { cluster, keys, duration, rate, windows: 0 };
        let fill = ["--dist", "seq", "--total", &load.keys, "--duration", "20m", "--warmup", "0s"];
        let said = load.cluster.run(&[&load.bench()[..], &["--inflight", "32"], &fill].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        load
    }

    fn bench(&self) -> Vec<&str> {
        let words = ["bench", "put", "--keep", "--run", RUN, "--value-size", "1024", "--keys", &self.keys];
        [&words[..], &["--clients", "8", "--timeout", "60s", "-o", "json"]].concat()
    }

    /// Measures a window. Returns the number of snapshots taken meanwhile.
    fn window(&mut self, round: u64, background: WindowActivity) -> u64 {
        let leader = self.cluster.leader();
        self.windows += 1;
        let mut words = self.bench();
        words.extend(["--warmup", "300ms", "--duration", &self.duration]);
        // A closed loop has 4 requests in flight per client; an open loop as many as its rate needs, up to 64.
        match self.rate.as_str() {
            "0" => words.extend(["--inflight", "4"]),
            rate => words.extend(["--inflight", "64", "--rate", rate]),
        }
        let name = format!("window-{}", self.windows);
        let mut bench = Beside::start(self.cluster.directory.path(), &name, &mut self.cluster.drave(&words));
        let id = (leader + 1).to_string();
        let mut taken = 0;
        while bench.is_running() {
            let take: &[&str] = match background {
                WindowActivity::LeaderTakes => &["snapshot", "take", "--timeout", "120s", "--node", &id],
                WindowActivity::AllTake => &["snapshot", "take", "--timeout", "120s"],
                WindowActivity::Nothing | WindowActivity::OneDown | WindowActivity::OneReceives => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    continue;
                }
            };
            let said = self.cluster.run(take);
            assert_eq!(said.code, Some(0), "{said:?}\n{}", self.cluster.logs());
            taken += 1;
        }
        let said = bench.end();
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.cluster.logs());
        let figures = said.json();
        let ms = |name: &str| figures[name].as_f64().unwrap() / 1e3;
        assert!(figures["total"].as_u64().unwrap() > 0, "{figures}");
        eprintln!(
            "round {round} {:<12} {:>7.0}/s p50 {:>6.2} p99 {:>7.2} p99.9 {:>7.2} max {:>7.2} ms, {} errors, {} \
             unknown, {taken} taken",
            format!("{background:?}"),
            figures["ops_per_s"].as_f64().unwrap(),
            ms("p50_us"),
            ms("p99_us"),
            ms("p999_us"),
            ms("max_us"),
            figures["errors"],
            figures["unknown"],
        );
        taken
    }

    fn leader_status(&self) -> Option<Status> {
        self.cluster.leader_of(0..3).and_then(|leader| self.cluster.status(leader))
    }

    /// Bytes of its snapshot that the follower has, and the size of the snapshot.
    fn snapshot_progress(&self, n: usize) -> Option<(u64, u64)> {
        let leading = self.leader_status()?;
        let peer = leading.peers.iter().find(|peer| peer.node == n as u64 + 1)?;
        (peer.stage == "snapshot" && peer.snapshot_bytes > 0).then_some((peer.snapshot_has, peer.snapshot_bytes))
    }
}

#[test]
fn writes_continue_while_snapshots_are_taken_and_sent() {
    let mut load = Load::prepare();
    for round in 1..=number("DRAVE_LOAD_ROUNDS", 1) {
        load.window(round, WindowActivity::Nothing);
        assert!(load.window(round, WindowActivity::LeaderTakes) > 0);
        load.window(round, WindowActivity::Nothing);
        assert!(load.window(round, WindowActivity::AllTake) > 0);

        let away = (load.cluster.leader() + 1) % 3;
        let had = load.cluster.status(away).unwrap().last;
        load.cluster.kill(away);
        load.window(round, WindowActivity::OneDown);
        let said = load.cluster.run(&["snapshot", "take", "--timeout", "120s"]);
        assert_eq!(said.out.matches(" ok ").count(), 2, "{said:?}");
        for n in (0..3).filter(|n| *n != away) {
            let gone = || load.cluster.status(n).filter(|status| status.log.first > had + 1);
            until("the log is compacted", gone, || load.cluster.logs());
        }
        let before = load.leader_status().unwrap().log.shipped_bytes;
        load.cluster.spawn(away);
        let sends = || load.leader_status().filter(|leading| leading.log.shipped_bytes > before).map(|_| ());
        until("the leader sends a snapshot", sends, || load.cluster.logs());
        let from = load.snapshot_progress(away);
        load.window(round, WindowActivity::OneReceives);
        eprintln!(
            "round {round} the follower had {from:?} before that window and {:?} after it",
            load.snapshot_progress(away)
        );
        load.cluster.agree();
    }
    load.cluster.expect_no_deaths();
}
