//! Real processes: three nodes on loopback are killed and stopped, and clients still receive their guarantees.

use drave::api::Consistency;
use drave::client::Client;
use drave::machine::{Answer, Command as Do, Query};
use std::process::Command;
use support::{BackgroundProgram, Cluster, reserve_ports};

mod support;

fn increment(client: &mut Client) -> i64 {
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
    let mut expected_value = 0;
    for round in 0..4 {
        for _ in 0..50 {
            expected_value += 1;
            assert_eq!(increment(&mut client), expected_value, "round {round}\n{}", cluster.logs());
        }
        let leader = cluster.wait_for_leader();
        cluster.kill(leader);
        for _ in 0..50 {
            expected_value += 1;
            assert_eq!(increment(&mut client), expected_value, "round {round}\n{}", cluster.logs());
        }
        cluster.spawn(leader);
    }
    let query = Query::Get { key: b"n" }.encode();
    let queried = client.query(&query, Consistency::Linearizable).unwrap();
    let Ok(Answer::Value(Some(value))) = Answer::decode(queried.answer) else { panic!("the key has no value") };
    assert_eq!(value, expected_value.to_string());
    drop(client);
    cluster.wait_for_convergence();
}

#[test]
fn cluster_killed_at_once_keeps_acknowledged_writes() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    for n in 1..=100 {
        assert_eq!(increment(&mut client), n);
    }
    (0..3).for_each(|n| cluster.kill(n));
    (0..3).for_each(|n| cluster.spawn(n));
    assert_eq!(increment(&mut client), 101, "{}", cluster.logs());
}

#[test]
fn stopped_leader_exits_cleanly_and_cluster_continues() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    assert_eq!(increment(&mut client), 1);
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.stop(leader), Some(0), "{}", cluster.logs());
    assert_eq!(increment(&mut client), 2);
    cluster.spawn(leader);
    drop(client);
    cluster.wait_for_convergence();
}

#[test]
fn single_node_locks_its_directory_and_checks_its_id() {
    let mut cluster = Cluster::start(1);
    let mut client = cluster.client();
    assert_eq!(increment(&mut client), 1);
    let run_serve = |id: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_drave"))
            .args(["serve", "--id", id, "--peers", "1=127.0.0.1:1,2=127.0.0.1:2", "--data"])
            .arg(cluster.data_dir(0))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = run_serve("1");
    assert_eq!(code, Some(78), "{stderr}");
    assert!(stderr.contains("in use"), "{stderr}");
    assert_eq!(cluster.stop(0), Some(0));
    let output = Command::new(env!("CARGO_BIN_EXE_drave"))
        .args(["serve", "--id", "2", "--peers", "1=127.0.0.1:1,2=127.0.0.1:2", "--data"])
        .arg(cluster.data_dir(0))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("belongs to node 1"), "{stderr}");
    cluster.spawn(0);
    assert_eq!(increment(&mut client), 2);
}

/// Entries that the node writes during the read are missing from the dump, which is not damage.
#[test]
fn dump_during_writes_reports_no_damage() {
    let cluster = Cluster::start(1);
    cluster.wait_for_leader();
    let bench_args = ["bench", "put", "--clients", "2", "--inflight", "8", "--duration", "3s", "--warmup", "0s"];
    let mut bench =
        BackgroundProgram::start(cluster.directory.path(), "flood", &mut cluster.drave_command(&bench_args));
    let mut dump_count = 0;
    while bench.is_running() {
        let output = cluster.run(&["dump", "--check", cluster.data_dir(0).to_str().unwrap()]);
        assert_eq!(output.code, Some(0), "dump {dump_count}: {output:?}");
        dump_count += 1;
    }
    assert!(dump_count > 0);
    assert_eq!(bench.wait_with_output().code, Some(0), "{}", cluster.logs());
}

/// The addresses in `--peers` override those at the founding. hashicorp/consul#457 and #1580: all addresses changed,
/// and the cluster never had a quorum again.
#[test]
fn cluster_with_all_addresses_changed_elects_leader() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    (0..3).for_each(|n| assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs()));
    let base_port = reserve_ports(3);
    cluster.addresses = (base_port..base_port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    // Two of the three nodes must redirect to the leader, since the client is given a single address.
    for address in &cluster.addresses {
        let output = cluster.run(&["put", "lunch", "noodles", "--timeout", "10s", "--endpoints", address]);
        assert_eq!(output.code, Some(0), "{output:?}");
    }
    let leader = cluster.status(cluster.wait_for_leader()).unwrap();
    assert!(leader.peers.iter().all(|peer| cluster.addresses.contains(&peer.address)), "{leader:?}");
}
