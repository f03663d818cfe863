//! Older copies of directories, restored under load: the cluster notices each, continues, and loses no acknowledged
//! write. A node that knows the missing entries is always reachable; for the other case see `docs/limits.md`.
//!
//! `scripts/mending.sh` runs many rounds of it (`DRAVE_MENDING_ROUNDS`).

use drave::client::Client;
use drave::machine::commands::{Answer, Command};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use support::{Cluster, until};

mod support;

/// Number of clients that write all the time.
const CLIENTS: usize = 3;

/// Bounds of one client's counter: acknowledged increments, and those of unknown outcome.
#[derive(Default)]
struct Counter {
    acknowledged: AtomicI64,
    unknown: AtomicI64,
}

fn name(n: usize) -> String {
    format!("counter{n}")
}

fn increment(client: &mut Client, n: usize) -> Option<i64> {
    let command = Command::Incr { key: name(n).as_bytes(), by: 1 }.encode();
    let executed = client.execute(&command).ok()?;
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(value)) => Some(value),
        other => panic!("an increment returned {other:?}"),
    }
}

/// Increments the counter until `ends` is set. Each result must exceed all increments acknowledged before it.
fn count(cluster_client: &mut Client, n: usize, counter: &Counter, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        match increment(cluster_client, n) {
            Some(value) => {
                let before = counter.acknowledged.fetch_add(1, Ordering::Relaxed);
                let most = before + 1 + counter.unknown.load(Ordering::Relaxed);
                assert!((before + 1..=most).contains(&value), "{value} after {before} acknowledged increments");
            }
            None => _ = counter.unknown.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Stops the threads that check it, also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Copies a node's directory while the node is stopped, lets it run for a while, and restores the copy.
fn restore_older_copy(cluster: &mut Cluster, at: usize, pause: Duration) {
    let aside = cluster.directory.path().join("aside");
    cluster.kill(at);
    copy(&cluster.data(at), &aside);
    cluster.spawn(at);
    let behind = cluster.leader();
    // Only what the node acknowledges after the copy is lost with it: a machine may be so busy that it acknowledges
    // nothing for a while.
    let before = until("the leader answers", || cluster.status(behind), || cluster.logs()).applied;
    let goes_on = |cluster: &Cluster| cluster.status(at).filter(|own| own.leader.is_some() && own.applied > before);
    until("the node follows again", || goes_on(cluster), || cluster.logs());
    std::thread::sleep(pause);
    let noticed = cluster.logs().matches("acknowledged").count();
    cluster.kill(at);
    std::fs::remove_dir_all(cluster.data(at)).unwrap();
    std::fs::rename(&aside, cluster.data(at)).unwrap();
    // If the node led, the other two elect a leader first. The new leader and its voter know the acknowledged entries.
    cluster.leader();
    cluster.spawn(at);
    let says = |cluster: &Cluster| cluster.logs().matches("acknowledged").count() > noticed;
    until("the cluster detects the older copy", || says(cluster).then_some(()), || cluster.logs());
}

#[test]
fn restored_older_copies_are_detected_and_lose_nothing() {
    let rounds: usize = std::env::var("DRAVE_MENDING_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let seed = std::env::var("DRAVE_MENDING_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3);
    cluster.leader();
    let (counters, ends) = ([(); CLIENTS].map(|()| Counter::default()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let stop = StopAtEnd(&ends);
        for (n, counter) in counters.iter().enumerate() {
            let (mut client, ends) = (cluster.client(), &ends);
            scope.spawn(move || count(&mut client, n, counter, ends));
        }
        for round in 0..rounds {
            let at = rng.random_range(0..3);
            let led = cluster.leader() == at;
            restore_older_copy(&mut cluster, at, Duration::from_millis(rng.random_range(50..600)));
            let before: i64 = counters.iter().map(|counter| counter.acknowledged.load(Ordering::Relaxed)).sum();
            let now = || counters.iter().map(|counter| counter.acknowledged.load(Ordering::Relaxed)).sum::<i64>();
            until("the cluster continues", || (now() > before).then_some(()), || cluster.logs());
            eprintln!("round {round}: n{}{} · {} acknowledged", at + 1, if led { ", which led" } else { "" }, now());
        }
        drop(stop);
    });
    cluster.agree();
    let mut client = cluster.client();
    for (n, counter) in counters.iter().enumerate() {
        let (acknowledged, unknown) =
            (counter.acknowledged.load(Ordering::Relaxed), counter.unknown.load(Ordering::Relaxed));
        let value = increment(&mut client, n).unwrap() - 1;
        eprintln!("{}: {value} for {acknowledged} acknowledged and {unknown} unknown", name(n));
        assert!((acknowledged..=acknowledged + unknown).contains(&value), "{}", cluster.logs());
    }
    cluster.expect_no_deaths();
}
