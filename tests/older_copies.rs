//! Older copies of data directories are restored under load: the cluster detects each copy, continues, and loses no
//! acknowledged write. A node that holds the missing entries is always reachable; for the other case see
//! `docs/limits.md`.
//!
//! `scripts/mending.sh` runs this test with many rounds (`DRAVE_MENDING_ROUNDS`).

use drave::client::Client;
use drave::machine::commands::{Answer, Command};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use support::{Cluster, wait_until};

mod support;

/// Number of clients that write during the whole test.
const CLIENT_COUNT: usize = 3;

/// The acknowledged increments of one client's counter, and the increments of unknown outcome: the bounds of its value.
#[derive(Default)]
struct Counter {
    acknowledged: AtomicI64,
    unknown_outcomes: AtomicI64,
}

fn counter_name(n: usize) -> String {
    format!("counter{n}")
}

fn increment(client: &mut Client, n: usize) -> Option<i64> {
    let command = Command::Incr { key: counter_name(n).as_bytes(), by: 1 }.encode();
    let executed = client.execute(&command).ok()?;
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(value)) => Some(value),
        other => panic!("an increment returned {other:?}"),
    }
}

/// Increments the counter until `stop_requested` is set. Each result must exceed all increments acknowledged before it.
fn increment_until_stopped(cluster_client: &mut Client, n: usize, counter: &Counter, stop_requested: &AtomicBool) {
    while !stop_requested.load(Ordering::Relaxed) {
        match increment(cluster_client, n) {
            Some(value) => {
                let acknowledged_before = counter.acknowledged.fetch_add(1, Ordering::Relaxed);
                let value_max = acknowledged_before + 1 + counter.unknown_outcomes.load(Ordering::Relaxed);
                assert!(
                    (acknowledged_before + 1..=value_max).contains(&value),
                    "the counter is {value} after {acknowledged_before} acknowledged increments and this one"
                );
            }
            None => _ = counter.unknown_outcomes.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Sets the stop flag of the clients when dropped, also if the test panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn copy_directory(from: &Path, to: &Path) {
    let copy_status = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copy_status.success());
}

/// Copies a node's directory while the node is stopped, runs the node for a while, and restores the copy.
fn restore_older_copy(cluster: &mut Cluster, node: usize, pause: Duration) {
    let copy_path = cluster.directory.path().join("aside");
    cluster.kill(node);
    copy_directory(&cluster.data_dir(node), &copy_path);
    cluster.spawn(node);
    let leader = cluster.wait_for_leader();
    // The restored copy must lack entries that the node has acknowledged, so wait until it has acknowledged some. On a
    // busy machine this may take a while.
    let applied_before = wait_until("the leader answers", || cluster.status(leader), || cluster.logs()).applied;
    let follows_again =
        |cluster: &Cluster| cluster.status(node).filter(|own| own.leader.is_some() && own.applied > applied_before);
    wait_until("the node follows again", || follows_again(cluster), || cluster.logs());
    std::thread::sleep(pause);
    let reports_before_restore = cluster.logs().matches("acknowledged").count();
    cluster.kill(node);
    std::fs::remove_dir_all(cluster.data_dir(node)).unwrap();
    std::fs::rename(&copy_path, cluster.data_dir(node)).unwrap();
    // If the node led, the other two elect a leader first. The new leader and the node that voted for it know the
    // acknowledged entries.
    cluster.wait_for_leader();
    cluster.spawn(node);
    let copy_is_reported = |cluster: &Cluster| cluster.logs().matches("acknowledged").count() > reports_before_restore;
    wait_until("the cluster detects the older copy", || copy_is_reported(cluster).then_some(()), || cluster.logs());
}

#[test]
fn restored_older_copies_are_detected_and_lose_nothing() {
    let rounds: usize = std::env::var("DRAVE_MENDING_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let seed = std::env::var("DRAVE_MENDING_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let (counters, stop_requested) = ([(); CLIENT_COUNT].map(|()| Counter::default()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let stop_guard = StopAtEnd(&stop_requested);
        for (n, counter) in counters.iter().enumerate() {
            let (mut client, stop_requested) = (cluster.client(), &stop_requested);
            scope.spawn(move || increment_until_stopped(&mut client, n, counter, stop_requested));
        }
        for round in 0..rounds {
            let node = rng.random_range(0..3);
            let was_leader = cluster.wait_for_leader() == node;
            restore_older_copy(&mut cluster, node, Duration::from_millis(rng.random_range(50..600)));
            let acknowledged_before: i64 =
                counters.iter().map(|counter| counter.acknowledged.load(Ordering::Relaxed)).sum();
            let acknowledged_now =
                || counters.iter().map(|counter| counter.acknowledged.load(Ordering::Relaxed)).sum::<i64>();
            wait_until(
                "the cluster continues",
                || (acknowledged_now() > acknowledged_before).then_some(()),
                || cluster.logs(),
            );
            eprintln!(
                "round {round}: n{}{} · {} acknowledged",
                node + 1,
                if was_leader { ", which led" } else { "" },
                acknowledged_now()
            );
        }
        drop(stop_guard);
    });
    cluster.wait_for_convergence();
    let mut client = cluster.client();
    for (n, counter) in counters.iter().enumerate() {
        let (acknowledged, unknown) =
            (counter.acknowledged.load(Ordering::Relaxed), counter.unknown_outcomes.load(Ordering::Relaxed));
        let value = increment(&mut client, n).unwrap() - 1;
        eprintln!("{} is {value}, after {acknowledged} acknowledged and {unknown} unknown increments", counter_name(n));
        assert!((acknowledged..=acknowledged + unknown).contains(&value), "{}", cluster.logs());
    }
    cluster.expect_no_deaths();
}
