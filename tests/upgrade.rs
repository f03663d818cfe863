//! A cluster under load is upgraded node by node, goes back before the switch, is upgraded again, and switches.
//!
//! The test program has the feature `next-version`: a node with `DRAVE_NEXT_VERSION` in its environment behaves as the
//! next version of the program, and any other node as the present one.

use drave::api::{Consistency, Refusal};
use drave::client::{Client, ClientError};
use drave::machine::commands::{Answer, COMMAND_KIND_PUT_LEVEL_2, Command, Query};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use support::{Cluster, ProgramOutput, run, wait_until};

mod support;

/// The versions of the present program and of the next one: protocol and feature level.
const PRESENT: (u16, u16) = (8, 1);
const NEXT: (u16, u16) = (9, 2);

/// Increments a counter until `stop` is set. Each increment must take effect exactly once, and none may fail.
fn increment_until_stopped(client: &mut Client, count: &AtomicI64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let executed = client.execute(&Command::Incr { key: b"counter", by: 1 }.encode()).expect("an increment fails");
        let expected = count.fetch_add(1, Ordering::Relaxed) + 1;
        assert_eq!(Answer::decode(executed.answer), Ok(Answer::Number(expected)), "an increment is lost or repeated");
    }
}

/// Reads the counter until `stop` is set. A read must return every increment that was acknowledged before it.
fn read_until_stopped(client: &mut Client, count: &AtomicI64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let acknowledged = count.load(Ordering::Relaxed);
        let query = Query::Get { key: b"counter" }.encode();
        let answer = client.query(&query, Consistency::Linearizable).expect("a read fails").answer;
        let Ok(Answer::Value(value)) = Answer::decode(answer) else { panic!("a read returned no value") };
        let value: i64 = value.map_or(0, |bytes| std::str::from_utf8(&bytes).unwrap().parse().unwrap());
        assert!(value >= acknowledged, "a read returned {value} after {acknowledged} acknowledged increments");
    }
}

/// Restarts a node with the present or the next program, while the others serve; waits until it has caught up.
fn restart_as(cluster: &mut Cluster, n: usize, versions: (u16, u16)) {
    assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs());
    if versions == NEXT {
        cluster.next_version_nodes.insert(n)
    } else {
        cluster.next_version_nodes.remove(&n)
    };
    cluster.spawn(n);
    let committed = cluster.status(cluster.wait_for_leader()).map_or(1, |status| status.commit);
    let has_caught_up = || {
        let status = cluster.status(n)?;
        assert_eq!((status.versions.protocol_max, status.versions.feature_level_max), versions);
        (status.applied >= committed).then_some(())
    };
    wait_until("the restarted node catches up", has_caught_up, || cluster.logs());
}

/// A put of feature level 2.
fn put_of_level_2(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut command = Command::Put { key, value }.encode().to_vec();
    command[0] = COMMAND_KIND_PUT_LEVEL_2;
    command
}

/// Runs `drave upgrade finish --check` until it exits with `code`, and returns its output.
fn wait_for_check(cluster: &Cluster, code: i32) -> ProgramOutput {
    let check = || Some(cluster.run(&["upgrade", "finish", "--check"])).filter(|output| output.code == Some(code));
    wait_until("drave upgrade finish --check", check, || cluster.logs())
}

/// All files of a directory with their contents.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    files
}

/// Upgrades all nodes and goes back, then upgrades all nodes and raises the feature level.
fn upgrade_under_load(cluster: &mut Cluster) {
    for n in 0..3 {
        restart_as(cluster, n, NEXT);
        if n < 2 {
            let output = wait_for_check(cluster, 1);
            assert!(output.err.contains("n3 runs a program that knows up to level 1"), "{output:?}");
            let status = cluster.run(&["status"]).out;
            assert!(
                status.contains("level 2 is held back: ") && status.contains("(protocol 8 to 9, level 2)"),
                "{status}"
            );
        }
    }
    wait_for_check(cluster, 0);
    // Before the switch, the way back is open, also for the leader.
    (0..3).for_each(|n| restart_as(cluster, n, PRESENT));
    assert!(wait_for_check(cluster, 0).out.contains("no member knows a later one"));
    (0..3).for_each(|n| restart_as(cluster, n, NEXT));
    let refused = cluster.client().execute(&put_of_level_2(b"new", b"early")).unwrap_err();
    assert!(
        matches!(&refused, ClientError::Rejected(Refusal::NotEnabled { needed: 2, level: 1 })),
        "before the switch: {refused}"
    );
    let output = wait_for_check(cluster, 0);
    assert!(output.out.contains("every member knows level 2"), "{output:?}");
    let output = cluster.run(&["upgrade", "finish"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let executed = cluster.client().execute(&put_of_level_2(b"new", b"value")).unwrap();
    assert_eq!(Answer::decode(executed.answer), Ok(Answer::Done));
    assert_eq!(cluster.run(&["get", "new"]).out.trim(), "value");
    let output = cluster.run(&["upgrade", "finish"]);
    assert!(output.code == Some(0) && output.out.contains("the cluster has level 2"), "{output:?}");
}

#[test]
fn cluster_is_upgraded_node_by_node_and_back_before_the_switch() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let (count, stop) = (AtomicI64::new(0), AtomicBool::new(false));
    let (mut writer, mut reader) = (cluster.client(), cluster.client());
    std::thread::scope(|scope| {
        scope.spawn(|| increment_until_stopped(&mut writer, &count, &stop));
        scope.spawn(|| read_until_stopped(&mut reader, &count, &stop));
        let outcome = catch_unwind(AssertUnwindSafe(|| upgrade_under_load(&mut cluster)));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
    cluster.wait_for_convergence();
    let executed = cluster.client().execute(&Command::Incr { key: b"counter", by: 0 }.encode()).unwrap();
    assert_eq!(Answer::decode(executed.answer), Ok(Answer::Number(count.into_inner())));
    // A snapshot of the new level has the new format.
    assert_eq!(cluster.run(&["snapshot", "take"]).code, Some(0), "{}", cluster.logs());
    let snapshot_versions = |n: usize| -> Vec<u8> {
        let snapshots = std::fs::read_dir(cluster.data_dir(n).join("snapshots")).unwrap();
        snapshots.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()[8]).collect()
    };
    assert!((0..3).all(|n| snapshot_versions(n).contains(&3)), "{}", cluster.logs());
    older_program_is_refused(&mut cluster);
}

/// After the switch, the present program refuses the directory and changes nothing; the next program starts on it.
fn older_program_is_refused(cluster: &mut Cluster) {
    assert_eq!(cluster.stop(1), Some(0));
    let before = contents(&cluster.data_dir(1));
    cluster.next_version_nodes.remove(&1);
    let output = run(&mut cluster.serve_command(1));
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.err.contains("has feature level 2, and this program knows up to 1: a newer drave wrote it"),
        "{output:?}"
    );
    assert!(output.err.contains("Start the newer program; nothing was changed."), "{output:?}");
    assert!(before == contents(&cluster.data_dir(1)), "the refused start has changed the directory");
    let data = cluster.data_dir(1).display().to_string();
    let output = run(&mut support::drave_command(&["check", &data]));
    assert_eq!(output.code, Some(0), "{output:?}");
    // The present program does not join the cluster either.
    let data = cluster.directory.path().join("n4").display().to_string();
    let endpoints = cluster.addresses[0].clone();
    let join = ["serve", "--id", "4", "--join", &endpoints, "--listen", "127.0.0.1:0", "--data", &data];
    let output = run(&mut support::drave_command(&join));
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.err.contains("the cluster has feature level 2, and this program knows up to 1"), "{output:?}");
    let is_lock = |path: &String| path.ends_with("LOCK");
    assert!(contents(Path::new(&data)).keys().all(is_lock), "the refused join leaves files behind");
    cluster.next_version_nodes.insert(1);
    cluster.spawn(1);
    cluster.wait_for_convergence();
    cluster.expect_no_deaths();
}
