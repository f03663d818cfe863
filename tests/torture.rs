//! Torture: real processes under load, while a nemesis kills and stops them.
//!
//! `DRAVE_TORTURE_SECONDS` is the duration per cluster, `DRAVE_TORTURE_SEED` the seed of the faults;
//! `scripts/torture.sh` sets them. The same seed injects the same faults, but never at exactly the same moments.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::{Beside, Cluster, Said, until};

mod support;

/// Runs one cluster at a time: two at once would only exhaust the machine.
static ALONE: Mutex<()> = Mutex::new(());

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Injects faults, one after another.
struct Nemesis {
    cluster: Cluster,
    rng: StdRng,
    dealt: BTreeMap<&'static str, usize>,
}

impl Nemesis {
    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..=to))
    }

    fn pause(&mut self, from: u64, to: u64) {
        std::thread::sleep(self.ms(from, to));
    }

    fn random_node(&mut self) -> usize {
        self.rng.random_range(0..self.cluster.len())
    }

    fn random_follower(&mut self) -> usize {
        let leader = self.cluster.leader();
        (leader + self.rng.random_range(1..self.cluster.len())) % self.cluster.len()
    }

    fn inject_faults(&mut self, until: Instant) {
        while Instant::now() < until {
            self.inject_fault();
            self.cluster.expect_no_deaths();
            self.pause(0, 600);
        }
    }

    fn inject_fault(&mut self) {
        let (name, inject): (_, fn(&mut Nemesis)) = match self.rng.random_range(0..9) {
            0 => ("kill leader", |n| n.kill(|n| n.cluster.leader())),
            1 => ("kill follower", |n| n.kill(Nemesis::random_follower)),
            2 => ("kill all", Nemesis::kill_all),
            3 => ("kill twice", Nemesis::kill_twice),
            4 => ("stop leader", |n| n.freeze(|n| n.cluster.leader())),
            5 => ("stop follower", |n| n.freeze(Nemesis::random_follower)),
            6 => ("stop twice", Nemesis::freeze_twice),
            7 => ("stop leader, kill the next", Nemesis::freeze_and_kill),
            _ => ("stop most", Nemesis::freeze_majority),
        };
        *self.dealt.entry(name).or_default() += 1;
        inject(self);
    }

    fn kill(&mut self, whom: fn(&mut Nemesis) -> usize) {
        let whom = whom(self);
        self.cluster.kill(whom);
        self.pause(0, 1000);
        self.cluster.spawn(whom);
    }

    fn kill_all(&mut self) {
        let all = self.cluster.len();
        (0..all).for_each(|n| self.cluster.kill(n));
        let first = self.random_node();
        for n in 0..all {
            self.cluster.spawn((first + n) % all);
            self.pause(0, 50);
        }
    }

    /// Kills a node again while it recovers, or a moment later.
    fn kill_twice(&mut self) {
        let whom = self.random_node();
        for _ in 0..2 {
            self.cluster.kill(whom);
            self.pause(0, 100);
            self.cluster.spawn(whom);
            self.pause(0, 100);
        }
    }

    fn pause_node(&mut self, whom: usize, from: u64, to: u64) {
        self.cluster.signal(whom, Signal::STOP);
        self.pause(from, to);
        self.cluster.signal(whom, Signal::CONT);
    }

    fn freeze(&mut self, whom: fn(&mut Nemesis) -> usize) {
        let whom = whom(self);
        self.pause_node(whom, 100, 2000);
    }

    /// Lets a stopped leader run for at most 30 ms with its stale state, and stops it again.
    fn freeze_twice(&mut self) {
        let whom = self.cluster.leader();
        self.pause_node(whom, 100, 1000);
        self.pause(0, 30);
        self.pause_node(whom, 100, 1000);
    }

    fn freeze_and_kill(&mut self) {
        let whom = self.cluster.leader();
        self.cluster.signal(whom, Signal::STOP);
        let others = |n: &Nemesis| n.cluster.leader_of((0..n.cluster.len()).filter(|n| *n != whom));
        let next = until("the next leader", || others(self), || self.cluster.logs());
        self.cluster.kill(next);
        self.pause(0, 500);
        self.cluster.signal(whom, Signal::CONT);
        self.cluster.spawn(next);
    }

    /// Stops a majority: the cluster acknowledges nothing until they continue.
    fn freeze_majority(&mut self) {
        let (all, first) = (self.cluster.len(), self.random_node());
        let whom: Vec<usize> = (0..=all / 2).map(|n| (first + n) % all).collect();
        whom.iter().for_each(|n| self.cluster.signal(*n, Signal::STOP));
        self.pause(100, 1000);
        whom.iter().for_each(|n| self.cluster.signal(*n, Signal::CONT));
    }
}

/// Runs load and faults, and then checks the results.
fn torture(nodes: u16, seed: u64) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = setting("DRAVE_TORTURE_SECONDS", 10);
    let seed = setting("DRAVE_TORTURE_SEED", seed);
    eprintln!("torture of {nodes} nodes for {seconds} s: DRAVE_TORTURE_SEED={seed}");
    let cluster = Cluster::start(nodes);
    cluster.leader();
    let duration = format!("{seconds}s");
    let bench = |name: &str, words: &[&str]| {
        let always = ["--warmup", "0s", "--duration", &duration, "--timeout", "20s", "-o", "json"];
        let words = [&["bench"], words, &always].concat();
        Beside::start(cluster.directory.path(), name, &mut cluster.drave(&words))
    };
    let incr = bench("incr", &["incr", "--verify", "--clients", "8", "--keys", "20", "--rate", "400"]);
    let mixed = bench("mixed", &["mixed", "--verify", "--keys", "50", "--rate", "400", "--read-ratio", "0.5"]);
    let mut nemesis = Nemesis { cluster, rng: StdRng::seed_from_u64(seed), dealt: BTreeMap::new() };
    nemesis.inject_faults(Instant::now() + Duration::from_secs(seconds));
    eprintln!("{:?}", nemesis.dealt);
    let mut cluster = nemesis.cluster;
    for said in [incr.end(), mixed.end()] {
        expect_verified(&said, &cluster);
    }
    expect_agreement(&cluster);
    expect_clean_journals(&cluster);
    cluster.expect_no_deaths();
    for n in 0..cluster.len() {
        assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs());
    }
    expect_clean_journals(&cluster);
}

fn expect_verified(said: &Said, cluster: &Cluster) {
    assert_eq!(said.code, Some(0), "{said:?}\n{}", cluster.logs());
    assert!(said.err.contains("verified: "), "{said:?}");
    let figures = said.json();
    eprintln!(
        "{}: {} answered, {} retries, {} unknown, longest gap {:.0} ms · {}",
        figures["what"],
        figures["total"],
        figures["retries"],
        figures["unknown"],
        figures["longest_gap_ms"].as_f64().unwrap(),
        said.err.trim()
    );
    assert_eq!(figures["errors"], 0, "{said:?}");
    assert_eq!(figures["unknown"], 0, "{said:?}");
    assert!(figures["total"].as_u64() > Some(0), "{said:?}");
}

/// Waits until all nodes respond and have applied the same index, and asserts equal digests.
fn expect_agreement(cluster: &Cluster) {
    let agreed = || {
        let nodes = cluster.run(&["status", "-o", "json"]).json()["nodes"].take();
        let nodes: Vec<_> = nodes.as_array()?.iter().map(|node| node["status"].clone()).collect();
        let same = |name: &str| nodes.windows(2).all(|two| two[0][name] == two[1][name]);
        let all_up = nodes.iter().all(|status| status.is_object());
        (all_up && same("applied")).then(|| assert!(same("digest"), "{nodes:#?}"))
    };
    until("all nodes applied the same index", agreed, || cluster.logs());
}

fn expect_clean_journals(cluster: &Cluster) {
    for n in 0..cluster.len() {
        let said = cluster.run(&["dump", "--check", cluster.data(n).to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "n{}: {said:?}", n + 1);
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
