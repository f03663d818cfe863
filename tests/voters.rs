//! Voter identity, with processes that lose their directories: founders that restart with empty directories, reused
//! ids, and older copies of directories. Every acknowledged write can be read, and no two logs both acknowledge writes.
//!
//! `scripts/mending.sh` runs these tests with many rounds (`DRAVE_MENDING_ROUNDS`).

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use support::{Cluster, run, wait_until};

mod support;

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy_directory(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// Writes `count` keys, each of which must be acknowledged.
fn put_keys(cluster: &Cluster, key_prefix: &str, count: usize) {
    for n in 0..count {
        let output = cluster.run(&["put", &format!("{key_prefix}{n}"), "v", "--timeout", "20s"]);
        assert_eq!(output.code, Some(0), "{output:?}\n{}", cluster.logs());
    }
}

/// Whether a node whose peers are stopped acknowledges a write, or replies that an acknowledged key does not exist.
fn serves_alone(cluster: &Cluster, n: usize, acknowledged_key: &str) -> bool {
    let run_alone = |args: &[&str]| run(cluster.drave_command(args).env("DRAVE_ENDPOINTS", &cluster.addresses[n]));
    let put_output = run_alone(&["put", "alone", "yes", "--timeout", "1s"]);
    let get_output = run_alone(&["get", acknowledged_key, "--timeout", "1s"]);
    put_output.code == Some(0) || get_output.code == Some(1)
}

/// Starts a cluster that its first node founded alone, with `args` as additional flags of every node.
fn grow_cluster(nodes: u16, args: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    cluster.extra_args.extend(args.iter().map(|word| (*word).to_owned()));
    cluster.founder_count = 1;
    cluster.spawn(0);
    cluster.wait_for_leader();
    for n in 1..nodes.into() {
        cluster.spawn(n);
        let is_voter = |cluster: &Cluster| {
            let list_output = cluster.run(&["member", "list", "-o", "json"]);
            list_output.code == Some(0) && list_output.out.matches("\"voter\"").count() == n + 1
        };
        wait_until("the node is a voter", || is_voter(&cluster).then_some(()), || cluster.logs());
    }
    cluster
}

/// Asserts from the logs of all nodes that no two of them led the same term.
fn expect_one_leader_a_term(logs: &str) {
    let mut leaders = BTreeMap::new();
    for line in logs.lines().filter(|line| line.contains("] leads term ") && !line.contains("no more")) {
        let term = line.split("] leads term ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let node = line.rsplit("node=").next().unwrap();
        let other_leader = leaders.insert(term, node).filter(|other_leader| *other_leader != node);
        assert_eq!(other_leader, None, "two leaders of term {term}\n{logs}");
    }
    assert!(!leaders.is_empty(), "no log reports an elected leader\n{logs}");
}

/// How often a test repeats its steps: `DRAVE_MENDING_ROUNDS` times, or else `default` times.
fn round_count(default: usize) -> usize {
    std::env::var("DRAVE_MENDING_ROUNDS").map_or(default, |rounds| rounds.parse().unwrap())
}

/// From a public report: a node with a removed id and an empty directory received the old log, and found in it that it
/// was the only voter. As in databendlabs/openraft#2002 and RedisLabs/redisraft#2.
#[test]
fn emptied_founder_does_not_lead_by_an_old_configuration() {
    let mut cluster = grow_cluster(3, &[]);
    put_keys(&cluster, "old", 20);
    for round in 0..round_count(2) {
        cluster.run(&["transfer", "2"]);
        cluster.kill(0);
        std::fs::remove_dir_all(cluster.data_dir(0)).unwrap();
        put_keys(&cluster, &format!("after{round}-"), 2);
        assert_eq!(cluster.run(&["member", "remove", "1"]).code, Some(0), "{}", cluster.logs());
        let id_and_address = format!("1={}", cluster.addresses[0]);
        assert_eq!(cluster.run(&["member", "add", &id_and_address]).code, Some(0), "{}", cluster.logs());
        // The node joins now. The other nodes are paused as soon as the node has received some of the log.
        cluster.founder_count = 0;
        cluster.spawn(0);
        wait_until(
            "n1 receives some of the log",
            || cluster.status(0).filter(|status| status.last > 0),
            || cluster.logs(),
        );
        [1, 2].into_iter().for_each(|n| cluster.signal(n, Signal::STOP));
        std::thread::sleep(Duration::from_millis(1000));
        let is_serving_alone = serves_alone(&cluster, 0, &format!("after{round}-0"));
        [1, 2].into_iter().for_each(|n| cluster.signal(n, Signal::CONT));
        assert!(!is_serving_alone, "n1 serves without a quorum\n{}", cluster.logs());
        put_keys(&cluster, &format!("again{round}-"), 1);
        cluster.wait_for_convergence();
        for n in 0..=round {
            let output = cluster.run(&["get", &format!("after{n}-1")]);
            assert_eq!((output.code, output.out.trim()), (Some(0), "v"), "{output:?}");
        }
    }
    expect_one_leader_a_term(&cluster.logs());
    cluster.expect_no_deaths();
}

/// The directory of a node that founded the cluster alone is emptied, and the node is started with its original flags.
/// Members that know the node dial it, and the node stops with an error.
#[test]
fn emptied_lone_founder_stops_when_members_dial_it() {
    // The node waits two election timeouts before its first response. The members must dial it in this time, also on a
    // busy machine.
    for _ in 0..round_count(1) {
        let mut cluster = grow_cluster(3, &["--election-timeout", "500ms-1s"]);
        put_keys(&cluster, "old", 5);
        cluster.kill(0);
        std::fs::remove_dir_all(cluster.data_dir(0)).unwrap();
        cluster.wait_for_leader();
        cluster.spawn(0);
        assert!(!serves_alone(&cluster, 0, "old0"), "{}", cluster.logs());
        let expected_log_text = "knows this node as its member n1";
        wait_until(
            "n1 logs the reason",
            || cluster.logs().contains(expected_log_text).then_some(()),
            || cluster.logs(),
        );
        put_keys(&cluster, "more", 2);
        expect_one_leader_a_term(&cluster.logs());
    }
}

/// The directories of two of three founders are emptied, and all founders are started with their original flags, in any
/// order. The third founder has the whole log. As in openziti/fabric#576 and etcd-io/etcd#10601.
#[test]
fn emptied_majority_does_not_replace_an_existing_log() {
    let start_orders = [[2, 0, 1], [0, 1, 2], [1, 2, 0], [0, 2, 1], [1, 0, 2], [2, 1, 0]];
    for order in start_orders.into_iter().cycle().take(round_count(2)) {
        let mut cluster = Cluster::start(3);
        put_keys(&cluster, "old", 5);
        cluster.wait_for_convergence();
        (0..3).for_each(|n| cluster.kill(n));
        [0, 1].into_iter().for_each(|n| std::fs::remove_dir_all(cluster.data_dir(n)).unwrap());
        for n in order {
            cluster.spawn(n);
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..400)));
        }
        let expected_log = "and this directory is empty: this node begins no log";
        wait_until(
            "the emptied nodes log the reason",
            || cluster.logs().contains(expected_log).then_some(()),
            || cluster.logs(),
        );
        assert_eq!(cluster.run(&["put", "new", "1", "--timeout", "1s"]).code, Some(3), "{}", cluster.logs());
        let dump_output = run(&mut cluster.drave_command(&["dump", &cluster.data_dir(2).display().to_string()]));
        assert_eq!(dump_output.out.matches("\"old").count(), 5, "{}", dump_output.out);
    }
}

/// A node is restarted on an older copy of its directory: the cluster detects the copy, the node catches up again, and
/// no write is lost.
#[test]
fn node_on_older_copy_of_its_directory_is_detected_and_catches_up() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3);
    put_keys(&cluster, "first", 3);
    cluster.wait_for_convergence();
    for round in 0..round_count(2) {
        let leader = cluster.wait_for_leader();
        let node = [0, 1, 2].into_iter().filter(|n| *n != leader).nth(rng.random_range(0..2)).unwrap();
        let copy_path = cluster.directory.path().join("aside");
        cluster.kill(node);
        copy_directory(&cluster.data_dir(node), &copy_path);
        cluster.spawn(node);
        cluster.wait_for_convergence();
        put_keys(&cluster, &format!("round{round}-"), rng.random_range(2..6));
        cluster.wait_for_convergence();
        let reports_before = cluster.logs().matches("acknowledged").count();
        cluster.kill(node);
        std::fs::remove_dir_all(cluster.data_dir(node)).unwrap();
        std::fs::rename(&copy_path, cluster.data_dir(node)).unwrap();
        cluster.spawn(node);
        let loss_is_logged = |cluster: &Cluster| cluster.logs().matches("acknowledged").count() > reports_before;
        wait_until("the loss is logged", || loss_is_logged(&cluster).then_some(()), || cluster.logs());
        // The other follower is killed. The leader and the node with the older copy must continue.
        let other_follower = (0..3).find(|n| *n != node && *n != cluster.wait_for_leader()).unwrap();
        cluster.kill(other_follower);
        put_keys(&cluster, &format!("two{round}-"), 2);
        cluster.spawn(other_follower);
        cluster.wait_for_convergence();
        let output = cluster.run(&["get", "first0"]);
        assert_eq!((output.code, output.out.trim()), (Some(0), "v"), "{output:?}");
    }
    cluster.expect_no_deaths();
}
