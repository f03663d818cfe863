//! Voter identity, with processes that lose their directories: founders that come back empty, reused ids, and older
//! copies of directories. Acknowledged writes are never denied, and no two logs both acknowledge writes.
//!
//! `scripts/mending.sh` runs many rounds of it (`DRAVE_MENDING_ROUNDS`).

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use support::{Cluster, run, until};

mod support;

/// Copies a directory with all its contents.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// Writes `count` keys, each of which must be acknowledged.
fn write(cluster: &Cluster, name: &str, count: usize) {
    for n in 0..count {
        let said = cluster.run(&["put", &format!("{name}{n}"), "v", "--timeout", "20s"]);
        assert_eq!(said.code, Some(0), "{said:?}\n{}", cluster.logs());
    }
}

/// Whether a node on its own acknowledges a write, or denies an acknowledged one.
fn serves_alone(cluster: &Cluster, n: usize, known: &str) -> bool {
    let alone = |words: &[&str]| run(cluster.drave(words).env("DRAVE_ENDPOINTS", &cluster.addresses[n]));
    let wrote = alone(&["put", "alone", "yes", "--timeout", "1s"]);
    let read = alone(&["get", known, "--timeout", "1s"]);
    wrote.code == Some(0) || read.code == Some(1)
}

/// Starts a cluster that its first node founded alone, with `words` as additional flags.
fn grow_cluster(nodes: u16, words: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    cluster.words.extend(words.iter().map(|word| (*word).to_owned()));
    cluster.founders = 1;
    cluster.spawn(0);
    cluster.leader();
    for n in 1..nodes.into() {
        cluster.spawn(n);
        let votes = |cluster: &Cluster| {
            let listed = cluster.run(&["member", "list", "-o", "json"]);
            listed.code == Some(0) && listed.out.matches("\"voter\"").count() == n + 1
        };
        until("the node is a voter", || votes(&cluster).then_some(()), || cluster.logs());
    }
    cluster
}

/// Asserts from the logs of all nodes that no two of them led the same term.
fn expect_one_leader_a_term(logs: &str) {
    let mut leaders = BTreeMap::new();
    for line in logs.lines().filter(|line| line.contains("] leads term ") && !line.contains("no more")) {
        let term = line.split("] leads term ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let node = line.rsplit("node=").next().unwrap();
        let other = leaders.insert(term, node).filter(|other| *other != node);
        assert_eq!(other, None, "two leaders of term {term}\n{logs}");
    }
    assert!(!leaders.is_empty(), "no log contains a leader\n{logs}");
}

/// Number of rounds, from `DRAVE_MENDING_ROUNDS` or else `default`.
fn rounds(default: usize) -> usize {
    std::env::var("DRAVE_MENDING_ROUNDS").map_or(default, |rounds| rounds.parse().unwrap())
}

/// From a public report: a removed id was given to an empty directory, which read in the old log that it was the only
/// voter. As in databendlabs/openraft#2002 and RedisLabs/redisraft#2.
#[test]
fn emptied_founder_does_not_lead_by_an_old_configuration() {
    let mut cluster = grow_cluster(3, &[]);
    write(&cluster, "old", 20);
    for round in 0..rounds(2) {
        cluster.run(&["transfer", "2"]);
        cluster.kill(0);
        std::fs::remove_dir_all(cluster.data(0)).unwrap();
        write(&cluster, &format!("after{round}-"), 2);
        assert_eq!(cluster.run(&["member", "remove", "1"]).code, Some(0), "{}", cluster.logs());
        let address = format!("1={}", cluster.addresses[0]);
        assert_eq!(cluster.run(&["member", "add", &address]).code, Some(0), "{}", cluster.logs());
        // The node joins now; the other nodes are stopped as soon as it has read some of the log.
        cluster.founders = 0;
        cluster.spawn(0);
        until("n1 receives some of the log", || cluster.status(0).filter(|status| status.last > 0), || cluster.logs());
        [1, 2].into_iter().for_each(|n| cluster.signal(n, Signal::STOP));
        std::thread::sleep(Duration::from_millis(1000));
        let alone = serves_alone(&cluster, 0, &format!("after{round}-0"));
        [1, 2].into_iter().for_each(|n| cluster.signal(n, Signal::CONT));
        assert!(!alone, "n1 serves without a quorum\n{}", cluster.logs());
        write(&cluster, &format!("again{round}-"), 1);
        cluster.agree();
        for n in 0..=round {
            let said = cluster.run(&["get", &format!("after{n}-1")]);
            assert_eq!((said.code, said.out.trim()), (Some(0), "v"), "{said:?}");
        }
    }
    expect_one_leader_a_term(&cluster.logs());
    cluster.expect_no_deaths();
}

/// A node that founded the cluster alone is emptied, and started with its original flags. Members that know it dial it,
/// and it stops with an error.
#[test]
fn emptied_lone_founder_stops_when_members_dial_it() {
    // The node waits two election timeouts before its first response; they must suffice on a busy machine as well.
    for _ in 0..rounds(1) {
        let mut cluster = grow_cluster(3, &["--election-timeout", "500ms-1s"]);
        write(&cluster, "old", 5);
        cluster.kill(0);
        std::fs::remove_dir_all(cluster.data(0)).unwrap();
        cluster.leader();
        cluster.spawn(0);
        assert!(!serves_alone(&cluster, 0, "old0"), "{}", cluster.logs());
        let words = "knows this node as its member n1";
        until("n1 logs the reason", || cluster.logs().contains(words).then_some(()), || cluster.logs());
        write(&cluster, "more", 2);
        expect_one_leader_a_term(&cluster.logs());
    }
}

/// Two of three founders are emptied, and all are started with their original flags, in any order, while the third has
/// the whole log. As in openziti/fabric#576 and etcd-io/etcd#10601.
#[test]
fn emptied_majority_does_not_replace_an_existing_log() {
    let orders = [[2, 0, 1], [0, 1, 2], [1, 2, 0], [0, 2, 1], [1, 0, 2], [2, 1, 0]];
    for order in orders.into_iter().cycle().take(rounds(2)) {
        let mut cluster = Cluster::start(3);
        write(&cluster, "old", 5);
        cluster.agree();
        (0..3).for_each(|n| cluster.kill(n));
        [0, 1].into_iter().for_each(|n| std::fs::remove_dir_all(cluster.data(n)).unwrap());
        for n in order {
            cluster.spawn(n);
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..400)));
        }
        let words = "and this directory is empty: this node begins no log";
        until("the emptied nodes log the reason", || cluster.logs().contains(words).then_some(()), || cluster.logs());
        assert_eq!(cluster.run(&["put", "new", "1", "--timeout", "1s"]).code, Some(3), "{}", cluster.logs());
        let kept = run(&mut cluster.drave(&["dump", &cluster.data(2).display().to_string()]));
        assert_eq!(kept.out.matches("\"old").count(), 5, "{}", kept.out);
    }
}

/// An older copy of a directory comes back: the cluster notices it, the node catches up again, and nothing is lost.
#[test]
fn older_copy_of_a_directory_is_detected_and_caught_up() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3);
    write(&cluster, "first", 3);
    cluster.agree();
    for round in 0..rounds(2) {
        let leader = cluster.leader();
        let at = [0, 1, 2].into_iter().filter(|n| *n != leader).nth(rng.random_range(0..2)).unwrap();
        let aside = cluster.directory.path().join("aside");
        cluster.kill(at);
        copy(&cluster.data(at), &aside);
        cluster.spawn(at);
        cluster.agree();
        write(&cluster, &format!("round{round}-"), rng.random_range(2..6));
        cluster.agree();
        let noticed = cluster.logs().matches("acknowledged").count();
        cluster.kill(at);
        std::fs::remove_dir_all(cluster.data(at)).unwrap();
        std::fs::rename(&aside, cluster.data(at)).unwrap();
        cluster.spawn(at);
        let says = |cluster: &Cluster| cluster.logs().matches("acknowledged").count() > noticed;
        until("the loss is logged", || says(&cluster).then_some(()), || cluster.logs());
        // The other follower dies: the leader and the node with the older copy continue.
        let other = (0..3).find(|n| *n != at && *n != cluster.leader()).unwrap();
        cluster.kill(other);
        write(&cluster, &format!("two{round}-"), 2);
        cluster.spawn(other);
        cluster.agree();
        let said = cluster.run(&["get", "first0"]);
        assert_eq!((said.code, said.out.trim()), (Some(0), "v"), "{said:?}");
    }
    cluster.expect_no_deaths();
}
