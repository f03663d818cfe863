//! Real processes: three nodes on loopback, killed and stopped, and the guarantees to clients.

use drave::api::Consistency;
use drave::client::Client;
use drave::machine::{Answer, Command as Do, Query};
use std::process::Command;
use support::{Beside, Cluster, ports};

mod support;

fn incr(client: &mut Client) -> i64 {
    let executed = client.execute(&Do::Incr { key: b"n", by: 1 }.encode()).unwrap();
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(number)) => number,
        other => panic!("{other:?}"),
    }
}

#[test]
fn leader_kills_lose_and_repeat_no_command() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    let mut expected = 0;
    for round in 0..4 {
        for _ in 0..50 {
            expected += 1;
            assert_eq!(incr(&mut client), expected, "round {round}\n{}", cluster.logs());
        }
        let leader = cluster.leader();
        cluster.kill(leader);
        for _ in 0..50 {
            expected += 1;
            assert_eq!(incr(&mut client), expected, "round {round}\n{}", cluster.logs());
        }
        cluster.spawn(leader);
    }
    let query = Query::Get { key: b"n" }.encode();
    let queried = client.query(&query, Consistency::Linearizable).unwrap();
    let Ok(Answer::Value(Some(value))) = Answer::decode(queried.answer) else { panic!("the key has no value") };
    assert_eq!(value, expected.to_string());
    drop(client);
    cluster.agree();
}

#[test]
fn cluster_killed_at_once_keeps_acknowledged_writes() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    for n in 1..=100 {
        assert_eq!(incr(&mut client), n);
    }
    (0..3).for_each(|n| cluster.kill(n));
    (0..3).for_each(|n| cluster.spawn(n));
    assert_eq!(incr(&mut client), 101, "{}", cluster.logs());
}

#[test]
fn stopped_leader_exits_cleanly_and_cluster_continues() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    assert_eq!(incr(&mut client), 1);
    let leader = cluster.leader();
    assert_eq!(cluster.stop(leader), Some(0), "{}", cluster.logs());
    assert_eq!(incr(&mut client), 2);
    cluster.spawn(leader);
    drop(client);
    cluster.agree();
}

#[test]
fn single_node_locks_its_directory_and_checks_its_id() {
    let mut cluster = Cluster::start(1);
    let mut client = cluster.client();
    assert_eq!(incr(&mut client), 1);
    let serve = |id: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_drave"))
            .args(["serve", "--id", id, "--peers", "1=127.0.0.1:1,2=127.0.0.1:2", "--data"])
            .arg(cluster.data(0))
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = serve("1");
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("in use"), "{said}");
    assert_eq!(cluster.stop(0), Some(0));
    let out = Command::new(env!("CARGO_BIN_EXE_drave"))
        .args(["serve", "--id", "2", "--peers", "1=127.0.0.1:1,2=127.0.0.1:2", "--data"])
        .arg(cluster.data(0))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(78), "{said}");
    assert!(said.contains("belongs to node 1"), "{said}");
    cluster.spawn(0);
    assert_eq!(incr(&mut client), 2);
}

/// Entries that the node writes during the read are missing from the dump, which is not damage.
#[test]
fn dump_during_writes_reports_no_damage() {
    let cluster = Cluster::start(1);
    cluster.leader();
    let words = ["bench", "put", "--clients", "2", "--inflight", "8", "--duration", "3s", "--warmup", "0s"];
    let mut flood = Beside::start(cluster.directory.path(), "flood", &mut cluster.drave(&words));
    let mut looks = 0;
    while flood.is_running() {
        let said = cluster.run(&["dump", "--check", cluster.data(0).to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "dump {looks}: {said:?}");
        looks += 1;
    }
    assert!(looks > 0);
    assert_eq!(flood.end().code, Some(0), "{}", cluster.logs());
}

/// The addresses in `--peers` override those at the founding. hashicorp/consul#457 and #1580: all addresses changed,
/// and the cluster never had a quorum again.
#[test]
fn cluster_with_all_addresses_changed_elects_leader() {
    let mut cluster = Cluster::start(3);
    cluster.leader();
    (0..3).for_each(|n| assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs()));
    let base = ports(3);
    cluster.addresses = (base..base + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    // Two of the three nodes must redirect to the leader, since the client is given a single address.
    for address in &cluster.addresses {
        let said = cluster.run(&["put", "lunch", "noodles", "--timeout", "10s", "--endpoints", address]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let leader = cluster.status(cluster.leader()).unwrap();
    assert!(leader.peers.iter().all(|peer| cluster.addresses.contains(&peer.address)), "{leader:?}");
}
