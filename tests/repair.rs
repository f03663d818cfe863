//! Nodes whose log is damaged start, get the lost entries from the other nodes, and lose no acknowledged write.

use drave::api::RoleName;
use drave::client::Client;
use drave::machine::commands::{Answer, Command};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use support::{Cluster, run, wait_until};

mod support;

/// The log line of a repaired journal contains this.
const REPAIR_NOTE: &str = "The damaged files have the suffix .damaged";

/// Increments the counter `key`. Returns its new value; `None` if the outcome is unknown.
fn increment(client: &mut Client, key: &str) -> Option<i64> {
    let executed = client.execute(&Command::Incr { key: key.as_bytes(), by: 1 }.encode()).ok()?;
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(value)) => Some(value),
        other => panic!("an increment returned {other:?}"),
    }
}

/// The newest segment of a node's log that holds records, and the number of bytes before its last non-zero byte.
fn newest_written_segment(data: &Path) -> (PathBuf, usize) {
    let paths = std::fs::read_dir(data.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|ext| ext == "wal")).collect();
    segments.sort();
    let written = segments.into_iter().rev().map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0))
    });
    written.filter(|(_, last)| *last > 4096).max_by(|one, other| one.0.cmp(&other.0)).unwrap()
}

/// Flips a bit of a file.
fn flip_bit(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn repair_count(cluster: &Cluster) -> usize {
    cluster.logs().matches(REPAIR_NOTE).count()
}

/// Each of three nodes in turn is killed, damaged in the middle of its newest segment, and started, while a client
/// writes.
#[test]
fn damaged_node_is_repaired_under_load() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let (acknowledged, unknown, stop) = (AtomicI64::new(0), AtomicI64::new(0), AtomicBool::new(false));
    let mut client = cluster.client();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match increment(&mut client, "counter") {
                    Some(_) => acknowledged.fetch_add(1, Ordering::Relaxed),
                    None => unknown.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for node in 0..3 {
                let before = acknowledged.load(Ordering::Relaxed);
                let has_grown = || (acknowledged.load(Ordering::Relaxed) > before + 300).then_some(());
                wait_until("300 more writes", has_grown, || cluster.logs());
                cluster.kill(node);
                let (path, last) = newest_written_segment(&cluster.data_dir(node));
                flip_bit(&path, last / 2);
                let refusal = run(cluster.serve_command(node).arg("--no-repair"));
                assert_eq!(refusal.code, Some(5), "{refusal:?}");
                let repairs = repair_count(&cluster);
                cluster.spawn(node);
                let is_repaired = || (repair_count(&cluster) > repairs).then_some(());
                wait_until("the node repairs its journal", is_repaired, || cluster.logs());
                let committed = cluster.status(cluster.wait_for_leader()).map_or(0, |status| status.commit);
                let has_caught_up = || cluster.status(node).filter(|status| status.applied >= committed.max(1));
                wait_until("the node catches up", has_caught_up, || cluster.logs());
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    cluster.wait_for_convergence();
    let value = increment(&mut cluster.client(), "counter").unwrap() - 1;
    let (acknowledged, unknown) = (acknowledged.into_inner(), unknown.into_inner());
    assert!((acknowledged..=acknowledged + unknown).contains(&value), "{value} of {acknowledged} + {unknown}");
    cluster.expect_no_deaths();
}

/// Of three nodes, only the leader and one follower have the last writes. The leader stops, and the follower's disk is
/// damaged: without the leader, nobody may be elected.
#[test]
fn writes_on_damaged_node_survive_while_leader_is_away() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let (follower, lagging) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut client = cluster.client();
    (1..=100).for_each(|value| assert_eq!(increment(&mut client, "counter"), Some(value)));
    cluster.stop(lagging);
    (101..=200).for_each(|value| assert_eq!(increment(&mut client, "counter"), Some(value)));
    cluster.kill(leader);
    cluster.kill(follower);
    let (path, last) = newest_written_segment(&cluster.data_dir(follower));
    flip_bit(&path, last - 2000);
    cluster.spawn(follower);
    cluster.spawn(lagging);
    let is_repaired = || (repair_count(&cluster) > 0).then_some(());
    wait_until("the follower repairs its journal", is_repaired, || cluster.logs());
    let is_campaigning = || cluster.status(lagging).filter(|status| status.role == RoleName::Precandidate);
    wait_until("the lagging node requests votes", is_campaigning, || cluster.logs());
    let makes_promise = || cluster.status(follower).filter(|status| !status.promised.is_empty());
    let status = wait_until("the follower reports its promised position", makes_promise, || cluster.logs());
    assert_eq!(status.leader, None, "{}", cluster.logs());
    let repair = status.repair.unwrap();
    assert!(path.ends_with(&repair.file) && repair.offset > 0 && !repair.lost.is_empty(), "{repair:?}");
    let address = cluster.addresses[follower].clone();
    let status_text = run(&mut support::drave_command(&["status", "--endpoints", &address])).out;
    assert!(status_text.contains("has been in repair for") && status_text.contains(&repair.file), "{status_text}");
    // The counter was higher before: an older state must not be shown.
    let local_read = ["get", "counter", "--consistency", "local", "--timeout", "1s", "--endpoints", &address];
    let output = run(&mut support::drave_command(&local_read));
    assert!(output.code != Some(0) && output.out.is_empty() && output.err.contains("leader"), "{output:?}");
    // After another start the node still knows what it lacks, but not which file was damaged.
    cluster.kill(follower);
    cluster.spawn(follower);
    let makes_promise = || cluster.status(follower).filter(|status| !status.promised.is_empty());
    let status = wait_until("the follower reports its repair again", makes_promise, || cluster.logs());
    assert_eq!(status.repair.map(|repair| repair.file), Some(String::new()));
    cluster.spawn(leader);
    cluster.wait_for_leader();
    assert_eq!(increment(&mut client, "counter"), Some(201), "{}", cluster.logs());
    cluster.wait_for_convergence();
    let is_whole = || cluster.status(follower).filter(|status| status.promised.is_empty());
    wait_until("the follower holds what it has promised", is_whole, || cluster.logs());
    assert!(cluster.logs().contains("repair finished: the log reaches "), "{}", cluster.logs());
    let output = run(&mut support::drave_command(&local_read));
    assert_eq!((output.code, &output.out[..]), (Some(0), "201"), "{output:?}");
    cluster.expect_no_deaths();
}

/// Of three nodes, two have the last writes, and both are damaged, at different places. The third node lags behind, so
/// that it cannot help: each of the two has entries that the other one lost, some of them after its own damage.
#[test]
fn two_damaged_nodes_get_their_entries_from_each_other() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let (follower, lagging) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut client = cluster.client();
    (1..=50).for_each(|value| assert_eq!(increment(&mut client, "counter"), Some(value)));
    cluster.stop(lagging);
    (51..=500).for_each(|value| assert_eq!(increment(&mut client, "counter"), Some(value)));
    cluster.kill(leader);
    cluster.kill(follower);
    let (path, last) = newest_written_segment(&cluster.data_dir(follower));
    flip_bit(&path, last * 2 / 5);
    flip_bit(&path, last * 4 / 5);
    let (path, last) = newest_written_segment(&cluster.data_dir(leader));
    flip_bit(&path, last * 3 / 5);
    for node in [follower, leader, lagging] {
        cluster.spawn(node);
    }
    let are_repaired = || (repair_count(&cluster) == 2).then_some(());
    wait_until("both nodes repair their journals", are_repaired, || cluster.logs());
    cluster.wait_for_leader();
    assert_eq!(increment(&mut client, "counter"), Some(501), "{}", cluster.logs());
    assert!(cluster.logs().contains("back without a leader"), "{}", cluster.logs());
    cluster.wait_for_convergence();
    for node in [follower, leader] {
        let is_whole = || cluster.status(node).filter(|status| status.promised.is_empty());
        wait_until("the node holds what it has promised", is_whole, || cluster.logs());
    }
    cluster.expect_no_deaths();
}

/// The tools list the files that a repair has set aside, and print the records before and after the damage.
#[test]
fn tools_describe_files_set_aside() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let mut client = cluster.client();
    (1..=100).for_each(|value| assert_eq!(increment(&mut client, "counter"), Some(value)));
    cluster.wait_for_convergence();
    let data = cluster.data_dir(1);
    let tool_output = |arguments: &[&str], path: &Path| run(support::drave_command(arguments).arg(path));
    let before = [tool_output(&["check"], &data), tool_output(&["dump"], &data)];
    assert!(before.iter().all(|output| output.code == Some(0) && !output.out.contains("set aside")), "{before:?}");
    cluster.kill(1);
    let (path, last) = newest_written_segment(&data);
    flip_bit(&path, last / 2);
    cluster.spawn(1);
    let is_repaired = || (repair_count(&cluster) > 0).then_some(());
    wait_until("the node repairs its journal", is_repaired, || cluster.logs());
    cluster.wait_for_convergence();
    for command in ["check", "dump", "diff"] {
        let mut call = support::drave_command(&[command]);
        call.arg(&data);
        if command == "diff" {
            call.arg(cluster.data_dir(0));
        }
        let output = run(&mut call);
        let line =
            output.out.lines().find(|line| line.contains("wal/0000000001.wal.damaged was set aside by a repair"));
        let line = line.unwrap_or_else(|| panic!("{command}: {output:?}"));
        assert!(line.starts_with('#') && line.contains("segment 1, readable entries 1@1 to "), "{line}");
        assert!(output.code == Some(0) || command == "diff", "{command}: {output:?}");
    }
    let output = tool_output(&["dump"], &data.join("wal/0000000001.wal.damaged"));
    assert_eq!(output.code, Some(5), "{output:?}");
    let lines: Vec<&str> = output.out.lines().collect();
    let damage = lines.iter().position(|line| line.starts_with('!')).unwrap_or_else(|| panic!("{output:?}"));
    let is_entry = |line: &&str| line.contains("  cmd ") || line.contains("incr");
    assert!(lines[..damage].iter().any(is_entry) && lines[damage..].iter().any(is_entry), "{output:?}");
    cluster.expect_no_deaths();
}

/// The identity file of a node is lost or damaged. The node restores it from the headers of its segments.
#[test]
fn identity_is_restored_from_the_segments() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let mut client = cluster.client();
    assert_eq!(increment(&mut client, "counter"), Some(1));
    cluster.wait_for_convergence();
    let data = cluster.data_dir(1);
    let identity = data.join("identity");
    let ids = |bytes: &[u8]| bytes[16..40].to_vec();
    let ids_before = ids(&std::fs::read(&identity).unwrap());
    let damages: [&dyn Fn(); 3] = [&|| flip_bit(&identity, 20), &|| std::fs::write(&identity, b"").unwrap(), &|| {
        std::fs::remove_file(&identity).unwrap()
    }];
    for (nth, damage) in damages.iter().enumerate() {
        cluster.kill(1);
        damage();
        let refusal = run(cluster.serve_command(1).arg("--no-repair"));
        assert_eq!(refusal.code, Some(5), "{refusal:?}");
        // The directory belongs to node 2, whatever the file says.
        let mut foreign = support::drave_command(&["serve", "--id", "1", "--peers", "1=127.0.0.1:1", "--data"]);
        let refusal = run(foreign.arg(&data));
        assert!(refusal.code == Some(78) && refusal.err.contains("belongs to node 2"), "{refusal:?}");
        cluster.spawn(1);
        let restored = || (cluster.logs().matches("is restored from the headers").count() > nth).then_some(());
        wait_until("the identity is restored", restored, || cluster.logs());
        assert_eq!(increment(&mut client, "counter"), Some(nth as i64 + 2));
        cluster.wait_for_convergence();
        assert_eq!(ids(&std::fs::read(&identity).unwrap()), ids_before);
    }
    // With the sync marker, nothing but the headers would name the disk.
    cluster.kill(1);
    std::fs::remove_file(&identity).unwrap();
    std::fs::rename(data.join("wal/synced"), data.join("away")).unwrap();
    let refusal = run(&mut cluster.serve_command(1));
    assert!(refusal.code == Some(5) && refusal.err.contains("does not confirm disk"), "{refusal:?}");
    assert!(!identity.exists(), "nothing was changed");
    std::fs::rename(data.join("away"), data.join("wal/synced")).unwrap();
    cluster.spawn(1);
    cluster.wait_for_convergence();
    assert!(!cluster.logs().contains("is an older copy"), "{}", cluster.logs());
    cluster.expect_no_deaths();
}
