//! Real processes under load, while a nemesis, a generator of faults, kills and pauses them.
//!
//! `DRAVE_TORTURE_SECONDS` is the duration per cluster, `DRAVE_TORTURE_SEED` the seed of the faults;
//! `scripts/torture.sh` sets them. The same seed injects the same faults, but never at exactly the same moments.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::{BackgroundProgram, Cluster, ProgramOutput, wait_until};

mod support;

/// Held while a cluster runs, so that the tests run one after the other: two clusters would exhaust the machine.
static SINGLE_RUN: Mutex<()> = Mutex::new(());

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Kills and pauses nodes of a cluster at random, one fault after another.
struct Nemesis {
    cluster: Cluster,
    rng: StdRng,
    fault_counts: BTreeMap<&'static str, usize>,
}

impl Nemesis {
    fn random_duration(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from_ms..=to_ms))
    }

    fn sleep_random(&mut self, from_ms: u64, to_ms: u64) {
        std::thread::sleep(self.random_duration(from_ms, to_ms));
    }

    fn random_node(&mut self) -> usize {
        self.rng.random_range(0..self.cluster.len())
    }

    fn random_follower(&mut self) -> usize {
        let leader = self.cluster.wait_for_leader();
        (leader + self.rng.random_range(1..self.cluster.len())) % self.cluster.len()
    }

    fn inject_faults(&mut self, deadline: Instant) {
        while Instant::now() < deadline {
            self.inject_fault();
            self.cluster.expect_no_deaths();
            self.sleep_random(0, 600);
        }
    }

    fn inject_fault(&mut self) {
        let (name, inject): (_, fn(&mut Nemesis)) = match self.rng.random_range(0..9) {
            0 => ("kill leader", |n| n.kill(|n| n.cluster.wait_for_leader())),
            1 => ("kill follower", |n| n.kill(Nemesis::random_follower)),
            2 => ("kill all", Nemesis::kill_all),
            3 => ("kill twice", Nemesis::kill_twice),
            4 => ("stop leader", |n| n.freeze(|n| n.cluster.wait_for_leader())),
            5 => ("stop follower", |n| n.freeze(Nemesis::random_follower)),
            6 => ("stop twice", Nemesis::freeze_twice),
            7 => ("stop leader, kill the next", Nemesis::freeze_and_kill),
            _ => ("stop most", Nemesis::freeze_majority),
        };
        *self.fault_counts.entry(name).or_default() += 1;
        inject(self);
    }

    fn kill(&mut self, pick_victim: fn(&mut Nemesis) -> usize) {
        let victim = pick_victim(self);
        self.cluster.kill(victim);
        self.sleep_random(0, 1000);
        self.cluster.spawn(victim);
    }

    fn kill_all(&mut self) {
        let node_count = self.cluster.len();
        (0..node_count).for_each(|n| self.cluster.kill(n));
        let first_node = self.random_node();
        for n in 0..node_count {
            self.cluster.spawn((first_node + n) % node_count);
            self.sleep_random(0, 50);
        }
    }

    /// Kills a node, restarts it, and kills it again while it recovers or a moment later.
    fn kill_twice(&mut self) {
        let victim = self.random_node();
        for _ in 0..2 {
            self.cluster.kill(victim);
            self.sleep_random(0, 100);
            self.cluster.spawn(victim);
            self.sleep_random(0, 100);
        }
    }

    fn pause_node(&mut self, victim: usize, from_ms: u64, to_ms: u64) {
        self.cluster.signal(victim, Signal::STOP);
        self.sleep_random(from_ms, to_ms);
        self.cluster.signal(victim, Signal::CONT);
    }

    fn freeze(&mut self, pick_victim: fn(&mut Nemesis) -> usize) {
        let victim = pick_victim(self);
        self.pause_node(victim, 100, 2000);
    }

    /// Pauses the leader, continues it for at most 30 ms with its stale state, and pauses it again.
    fn freeze_twice(&mut self) {
        let victim = self.cluster.wait_for_leader();
        self.pause_node(victim, 100, 1000);
        self.sleep_random(0, 30);
        self.pause_node(victim, 100, 1000);
    }

    fn freeze_and_kill(&mut self) {
        let victim = self.cluster.wait_for_leader();
        self.cluster.signal(victim, Signal::STOP);
        let other_leader =
            |nemesis: &Nemesis| nemesis.cluster.leader_among((0..nemesis.cluster.len()).filter(|n| *n != victim));
        let next_leader = wait_until("the next leader", || other_leader(self), || self.cluster.logs());
        self.cluster.kill(next_leader);
        self.sleep_random(0, 500);
        self.cluster.signal(victim, Signal::CONT);
        self.cluster.spawn(next_leader);
    }

    /// Pauses a majority of the nodes, so that the cluster acknowledges nothing until they continue.
    fn freeze_majority(&mut self) {
        let (node_count, first_node) = (self.cluster.len(), self.random_node());
        let victims: Vec<usize> = (0..=node_count / 2).map(|n| (first_node + n) % node_count).collect();
        victims.iter().for_each(|n| self.cluster.signal(*n, Signal::STOP));
        self.sleep_random(100, 1000);
        victims.iter().for_each(|n| self.cluster.signal(*n, Signal::CONT));
    }
}

/// Runs benchmarks that verify their results while faults are injected. Then checks that the nodes agree and that their
/// journals are not damaged.
fn torture(nodes: u16, seed: u64) {
    let _single_run = SINGLE_RUN.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = env_number("DRAVE_TORTURE_SECONDS", 10);
    let seed = env_number("DRAVE_TORTURE_SEED", seed);
    eprintln!("torture of {nodes} nodes for {seconds} s: DRAVE_TORTURE_SEED={seed}");
    let cluster = Cluster::start(nodes);
    cluster.wait_for_leader();
    let duration = format!("{seconds}s");
    let bench = |name: &str, args: &[&str]| {
        let common_args = ["--warmup", "0s", "--duration", &duration, "--timeout", "20s", "-o", "json"];
        let args = [&["bench"], args, &common_args].concat();
        BackgroundProgram::start(cluster.directory.path(), name, &mut cluster.drave_command(&args))
    };
    let increment_bench = bench("incr", &["incr", "--verify", "--clients", "8", "--keys", "20", "--rate", "400"]);
    let mixed_bench = bench("mixed", &["mixed", "--verify", "--keys", "50", "--rate", "400", "--read-ratio", "0.5"]);
    let mut nemesis = Nemesis { cluster, rng: StdRng::seed_from_u64(seed), fault_counts: BTreeMap::new() };
    nemesis.inject_faults(Instant::now() + Duration::from_secs(seconds));
    eprintln!("{:?}", nemesis.fault_counts);
    let mut cluster = nemesis.cluster;
    for output in [increment_bench.wait_with_output(), mixed_bench.wait_with_output()] {
        expect_verified_benchmark(&output, &cluster);
    }
    expect_agreement(&cluster);
    expect_clean_journals(&cluster);
    cluster.expect_no_deaths();
    for n in 0..cluster.len() {
        assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs());
    }
    expect_clean_journals(&cluster);
}

fn expect_verified_benchmark(output: &ProgramOutput, cluster: &Cluster) {
    assert_eq!(output.code, Some(0), "{output:?}\n{}", cluster.logs());
    assert!(output.err.contains("verified: "), "{output:?}");
    let report = output.json();
    eprintln!(
        "{}: {} answered, {} retries, {} unknown, longest gap {:.0} ms · {}",
        report["what"],
        report["total"],
        report["retries"],
        report["unknown"],
        report["longest_gap_ms"].as_f64().unwrap(),
        output.err.trim()
    );
    assert_eq!(report["errors"], 0, "{output:?}");
    assert_eq!(report["unknown"], 0, "{output:?}");
    assert!(report["total"].as_u64() > Some(0), "{output:?}");
}

/// Waits until all nodes respond and have applied the same index, and asserts equal digests.
fn expect_agreement(cluster: &Cluster) {
    let all_agree = || {
        let nodes = cluster.run(&["status", "-o", "json"]).json()["nodes"].take();
        let nodes: Vec<_> = nodes.as_array()?.iter().map(|node| node["status"].clone()).collect();
        let is_same = |name: &str| nodes.windows(2).all(|two| two[0][name] == two[1][name]);
        let all_up = nodes.iter().all(|status| status.is_object());
        (all_up && is_same("applied")).then(|| assert!(is_same("digest"), "{nodes:#?}"))
    };
    wait_until("all nodes applied the same index", all_agree, || cluster.logs());
}

fn expect_clean_journals(cluster: &Cluster) {
    for n in 0..cluster.len() {
        let output = cluster.run(&["dump", "--check", cluster.data_dir(n).to_str().unwrap()]);
        assert_eq!(output.code, Some(0), "n{}: {output:?}", n + 1);
    }
}

#[test]
fn three_node_cluster_survives_torture() {
    torture(3, 1);
}

#[test]
fn five_node_cluster_survives_torture() {
    torture(5, 2);
}
