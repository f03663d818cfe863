//! Snapshots in real processes: taken, listed, dumped, sent to a node that was down, and loaded at a start.

use drave::api::Status;
use drave::client::Client;
use drave::machine::{Answer, Command};
use std::path::{Path, PathBuf};
use support::{Beside, Cluster, Said, until};

mod support;

/// A cluster that compacts its logs all the time.
fn compacting(nodes: u16) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    let words = ["--segment-size", "4MiB", "--snapshot-log-bytes", "1MiB", "--trailing-bytes", "64KiB"];
    cluster.words = words.map(String::from).to_vec();
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.leader();
    cluster
}

fn incr(client: &mut Client) -> i64 {
    let executed = client.execute(&Command::Incr { key: b"n", by: 1 }.encode()).unwrap();
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(number)) => number,
        other => panic!("{other:?}"),
    }
}

/// Writes until the log of node `n` begins after `first`, which takes enough data to release whole segments.
fn write_beyond(cluster: &Cluster, n: usize, first: u64) -> Status {
    let mut client = cluster.client();
    let value = [b'x'; 64 << 10];
    let mut key = 0u32;
    let beyond = || {
        for _ in 0..16 {
            key = (key + 1) % 8;
            client.execute(&Command::Put { key: &key.to_le_bytes(), value: &value }.encode()).unwrap();
        }
        cluster.status(n).filter(|status| status.log.first > first)
    };
    until("the log is compacted", beyond, || cluster.logs())
}

fn snapshots(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("snapshots")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "snap")).collect();
    paths.sort();
    paths
}

fn expect(said: &Said, code: i32) {
    assert_eq!(said.code, Some(code), "{said:?}");
}

#[test]
fn snapshot_take_works_and_restart_replays_nothing() {
    let mut cluster = Cluster::start(3);
    cluster.leader();
    let mut client = cluster.client();
    (1..=20).for_each(|n| assert_eq!(incr(&mut client), n));
    cluster.agree();
    let said = cluster.run(&["snapshot", "take"]);
    expect(&said, 0);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 3, "{said:?}");
    for (line, node) in lines.iter().zip(1..) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, "ok", position, "·", bytes, "B"] = words[..] else { panic!("{line}") };
        assert!(name == format!("n{node}") && position.contains('@') && bytes.parse::<f64>().unwrap() > 0.0, "{line}");
    }
    let said = cluster.run(&["snapshot", "take", "--node", "2", "-o", "json"]).json();
    assert_eq!((&said["ok"], &said["node"]), (&true.into(), &2.into()), "{said}");
    expect(&cluster.run(&["snapshot", "take", "--node", "9"]), 3);
    (0..3).for_each(|n| assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs()));
    expect(&cluster.run(&["snapshot", "take"]), 3);
    let file = snapshots(&cluster.data(0)).remove(0);
    let dumped = cluster.run(&["dump", file.to_str().unwrap(), "-o", "jsonl"]).out;
    let head: serde_json::Value = serde_json::from_str(dumped.lines().next().unwrap()).unwrap();
    // A node without a quorum commits nothing, so its applied state comes from its snapshot.
    cluster.spawn(0);
    let status = until("an answer", || cluster.status(0), || cluster.logs());
    assert!(status.applied > 20 && head["index"] == status.applied, "{status:?}\n{head}");
    assert_eq!((status.digest.as_str(), status.log.snapshot), (head["digest"].as_str().unwrap(), status.applied));
    (1..3).for_each(|n| cluster.spawn(n));
    assert_eq!(incr(&mut client), 21, "{}", cluster.logs());
    drop(client);
    cluster.agree();
}

#[test]
fn node_without_leader_takes_no_snapshot() {
    let mut cluster = Cluster::prepare(3);
    cluster.spawn(0);
    until("an answer", || cluster.status(0), || cluster.logs());
    let said = cluster.run(&["snapshot", "take"]);
    expect(&said, 3);
    assert!(said.out.starts_with("n1 no ") && said.err.contains("no snapshot was taken"), "{said:?}");
}

#[test]
fn snapshots_on_disk_are_listed_and_dumped() {
    let mut cluster = Cluster::start(1);
    cluster.leader();
    // An open client keeps its session open.
    let mut client = cluster.client();
    assert_eq!(incr(&mut client), 1);
    expect(&cluster.run(&["snapshot", "take"]), 0);
    cluster.stop(0);
    let data = cluster.data(0);
    let file = snapshots(&data).remove(0);
    let name = file.file_name().unwrap().to_str().unwrap();
    for place in [data.clone(), data.join("snapshots")] {
        let said = cluster.run(&["snapshot", "list", place.to_str().unwrap()]);
        expect(&said, 0);
        assert!(said.out.starts_with(name) && said.out.trim_end().ends_with("whole"), "{said:?}");
    }
    let words = |place: &Path, more: &[&str]| cluster.run(&[&["dump", place.to_str().unwrap()], more].concat());
    let said = words(&file, &[]);
    expect(&said, 0);
    let head = said.out.lines().next().unwrap();
    assert!(head.starts_with(&format!("# snapshot {name} · node 1 · cluster ")), "{head}");
    assert!(head.contains(" · format 2 · up to ") && head.contains(" · voters=1 · "), "{head}");
    let kinds: Vec<&str> =
        said.out.lines().filter_map(|line| line.strip_prefix(' ')?.split_whitespace().nth(2)).collect();
    assert_eq!(kinds, ["sessions", "machine", "end"], "{said:?}");
    assert!(said.out.contains("# total 1 snapshots · 3 chunks · 0 bad"), "{said:?}");
    let json = words(&file, &["-o", "jsonl"]);
    let lines: Vec<serde_json::Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["k"], &lines[0]["file"]), (&"snapshot".into(), &name.into()));
    assert_eq!((&lines[1]["k"], &lines[1]["type"]), (&"chunk".into(), &"sessions".into()));
    let whole = words(&data, &["--check"]);
    expect(&whole, 0);
    assert!(whole.out.starts_with(head) && whole.out.contains("# segment "), "{whole:?}");

    let bytes = std::fs::read(&file).unwrap();
    let at = lines[2]["off"].as_u64().unwrap();
    let mut damaged = bytes.clone();
    damaged[at as usize + 14] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    let said = cluster.run(&["snapshot", "list", data.to_str().unwrap(), "-o", "json"]);
    expect(&said, 5);
    assert_eq!((&said.json()["whole"], &said.json()["off"]), (&false.into(), &at.into()), "{said:?}");
    for place in [&data, &file] {
        let said = words(place, &["--check"]);
        expect(&said, 5);
        assert!(said.out.contains(&format!("!{at:>9}  ")) && said.out.contains(" BAD "), "{said:?}");
    }
    // A truncated file.
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    expect(&words(&file, &[]), 5);
}

#[test]
fn check_reports_snapshot_missing_before_log() {
    let mut cluster = compacting(1);
    write_beyond(&cluster, 0, 250);
    cluster.stop(0);
    let data = cluster.data(0);
    let check = || cluster.run(&["dump", "--check", data.to_str().unwrap()]);
    expect(&check(), 0);
    for file in snapshots(&data) {
        std::fs::remove_file(file).unwrap();
    }
    let said = check();
    expect(&said, 5);
    assert!(said.out.contains("snapshots: missing: the log begins behind "), "{said:?}");
}

/// The node releases, renames and reuses segments while they are read.
#[test]
fn dump_why_kept_works_beside_running_node() {
    let cluster = compacting(1);
    // More than one segment holds, since segments are released as a whole.
    let status = write_beyond(&cluster, 0, 100);
    let data = cluster.data(0);
    let told = || {
        let said = cluster.run(&["dump", "--why-kept", "-o", "jsonl", data.to_str().unwrap()]);
        expect(&said, 0);
        let lines: Vec<serde_json::Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // The journal releases a segment shortly after the status shows it.
        (lines.last()?["released"] != 0 && lines[0]["file"] != "0000000001.wal").then_some(lines)
    };
    let mut lines = until("a segment is released", told, || cluster.logs());
    let sum = lines.pop().unwrap();
    assert!(sum["snapshot"].as_u64() >= Some(status.log.snapshot) && sum["of"].as_u64() > Some(0), "{sum}");
    assert_eq!(lines.last().unwrap()["why"], "newest", "{lines:?}");
}

#[test]
fn dump_beside_compacting_node_reports_nothing_missing() {
    let cluster = compacting(1);
    let words = ["bench", "put", "--clients", "2", "--inflight", "64", "--duration", "5s", "--warmup", "0s"];
    let mut flood = Beside::start(cluster.directory.path(), "flood", &mut cluster.drave(&words));
    let data = cluster.data(0);
    let mut looks = 0;
    while flood.is_running() {
        let said = cluster.run(&["dump", "--check", data.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "check {looks}: {said:?}");
        let said = cluster.run(&["snapshot", "list", data.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "check {looks}: {said:?}");
        looks += 1;
    }
    assert_eq!(flood.end().code, Some(0), "{}", cluster.logs());
    let log = cluster.status(0).unwrap().log;
    assert!(looks > 0 && log.first > 1, "{looks} checks, {log:?}");
}

/// hashicorp/raft#212, atomix#417: a very old follower never had its snapshot installed.
#[test]
fn follower_behind_compacted_log_receives_snapshot() {
    let mut cluster = compacting(3);
    let mut client = cluster.client();
    assert_eq!(incr(&mut client), 1);
    cluster.agree();
    let away = (cluster.leader() + 1) % 3;
    let had = cluster.status(away).unwrap().last;
    cluster.kill(away);
    let leader = until("a leader", || cluster.leader_of(0..3), || cluster.logs());
    write_beyond(&cluster, leader, had + 1);
    assert_eq!(incr(&mut client), 2);
    cluster.spawn(away);
    assert_eq!(incr(&mut client), 3);
    drop(client);
    cluster.agree();
    let log = cluster.status(away).unwrap().log;
    assert!(log.snapshot > had && log.first > had + 1, "{log:?}, and it had {had}");
    let said = cluster.run(&["status"]);
    expect(&said, 0);
    let kept = said.out.lines().skip_while(|line| !line.ends_with("kept for")).nth(1 + away);
    let words: Vec<&str> = kept.unwrap_or_default().split_whitespace().collect();
    let [name, _log, _, _from, _reclaimable, _, _bytes, _, upto, ..] = words[..] else { panic!("{said:?}") };
    assert!(name == format!("n{}", away + 1) && upto.parse::<u64>().unwrap() > had, "{said:?}");
}

/// openraft#617: must applied entries be in a log of their own? Here they need not: snapshots and the one log are
/// enough.
#[test]
fn killed_cluster_recovers_from_snapshots_and_logs() {
    let mut cluster = compacting(3);
    let mut client = cluster.client();
    (1..=50).for_each(|n| assert_eq!(incr(&mut client), n));
    for n in 0..3 {
        write_beyond(&cluster, n, 250);
    }
    assert_eq!(incr(&mut client), 51);
    (0..3).for_each(|n| cluster.kill(n));
    (0..3).for_each(|n| cluster.spawn(n));
    // In the same session, which the snapshots contain.
    (52..=60).for_each(|n| assert_eq!(incr(&mut client), n, "{}", cluster.logs()));
    for n in 0..3 {
        let log = cluster.status(n).unwrap().log;
        assert!(log.first > 1 && log.snapshot >= log.first - 1, "{log:?}");
    }
    drop(client);
    cluster.agree();
}
