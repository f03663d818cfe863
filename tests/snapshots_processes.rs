//! Snapshots in real processes: taken, listed, dumped, sent to a node that was down, and loaded at a start.

use drave::api::Status;
use drave::client::Client;
use drave::machine::{Answer, Command};
use std::path::{Path, PathBuf};
use support::{BackgroundProgram, Cluster, ProgramOutput, wait_until};

mod support;

/// Starts a cluster that takes snapshots and compacts its logs after every few writes.
fn start_compacting_cluster(nodes: u16) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    let args = ["--segment-size", "4MiB", "--snapshot-log-bytes", "1MiB", "--trailing-bytes", "64KiB"];
    cluster.extra_args = args.map(String::from).to_vec();
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster
}

fn increment(client: &mut Client) -> i64 {
    let executed = client.execute(&Command::Incr { key: b"n", by: 1 }.encode()).unwrap();
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(number)) => number,
        other => panic!("{other:?}"),
    }
}

/// Writes until the log of node `n` begins after `first`, which takes enough data to release whole segments.
fn write_until_log_starts_after(cluster: &Cluster, n: usize, first: u64) -> Status {
    let mut client = cluster.client();
    let value = [b'x'; 64 << 10];
    let mut key = 0u32;
    let log_starts_after_first = || {
        for _ in 0..16 {
            key = (key + 1) % 8;
            client.execute(&Command::Put { key: &key.to_le_bytes(), value: &value }.encode()).unwrap();
        }
        cluster.status(n).filter(|status| status.log.first > first)
    };
    wait_until("the log is compacted", log_starts_after_first, || cluster.logs())
}

fn snapshot_paths(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("snapshots")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "snap")).collect();
    paths.sort();
    paths
}

fn expect_exit_code(output: &ProgramOutput, code: i32) {
    assert_eq!(output.code, Some(code), "{output:?}");
}

#[test]
fn node_restarts_from_its_requested_snapshot() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    let mut client = cluster.client();
    (1..=20).for_each(|n| assert_eq!(increment(&mut client), n));
    cluster.wait_for_convergence();
    let output = cluster.run(&["snapshot", "take"]);
    expect_exit_code(&output, 0);
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(lines.len(), 3, "{output:?}");
    for (line, node) in lines.iter().zip(1..) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [name, "ok", position, "·", bytes, "B"] = columns[..] else { panic!("{line}") };
        assert!(name == format!("n{node}") && position.contains('@') && bytes.parse::<f64>().unwrap() > 0.0, "{line}");
    }
    let output = cluster.run(&["snapshot", "take", "--node", "2", "-o", "json"]).json();
    assert_eq!((&output["ok"], &output["node"]), (&true.into(), &2.into()), "{output}");
    expect_exit_code(&cluster.run(&["snapshot", "take", "--node", "9"]), 3);
    (0..3).for_each(|n| assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs()));
    expect_exit_code(&cluster.run(&["snapshot", "take"]), 3);
    let file = snapshot_paths(&cluster.data_dir(0)).remove(0);
    let dump_text = cluster.run(&["dump", file.to_str().unwrap(), "-o", "jsonl"]).out;
    let header: serde_json::Value = serde_json::from_str(dump_text.lines().next().unwrap()).unwrap();
    // A node without a quorum commits nothing, so its applied state comes from its snapshot.
    cluster.spawn(0);
    let status = wait_until("an answer", || cluster.status(0), || cluster.logs());
    assert!(status.applied > 20 && header["index"] == status.applied, "{status:?}\n{header}");
    assert_eq!((status.digest.as_str(), status.log.snapshot), (header["digest"].as_str().unwrap(), status.applied));
    (1..3).for_each(|n| cluster.spawn(n));
    assert_eq!(increment(&mut client), 21, "{}", cluster.logs());
    drop(client);
    cluster.wait_for_convergence();
}

#[test]
fn node_without_leader_takes_no_snapshot() {
    let mut cluster = Cluster::prepare(3);
    cluster.spawn(0);
    wait_until("an answer", || cluster.status(0), || cluster.logs());
    let output = cluster.run(&["snapshot", "take"]);
    expect_exit_code(&output, 3);
    assert!(output.out.starts_with("n1 failed: ") && output.err.contains("no snapshot was taken"), "{output:?}");
}

#[test]
fn snapshots_on_disk_are_listed_and_dumped() {
    let mut cluster = Cluster::start(1);
    cluster.wait_for_leader();
    // An open client keeps its session open.
    let mut client = cluster.client();
    assert_eq!(increment(&mut client), 1);
    expect_exit_code(&cluster.run(&["snapshot", "take"]), 0);
    cluster.stop(0);
    let data = cluster.data_dir(0);
    let file = snapshot_paths(&data).remove(0);
    let name = file.file_name().unwrap().to_str().unwrap();
    for path in [data.clone(), data.join("snapshots")] {
        let output = cluster.run(&["snapshot", "list", path.to_str().unwrap()]);
        expect_exit_code(&output, 0);
        assert!(output.out.starts_with(name) && output.out.trim_end().ends_with("whole"), "{output:?}");
    }
    let run_dump =
        |path: &Path, more_args: &[&str]| cluster.run(&[&["dump", path.to_str().unwrap()], more_args].concat());
    let output = run_dump(&file, &[]);
    expect_exit_code(&output, 0);
    let header = output.out.lines().next().unwrap();
    assert!(header.starts_with(&format!("# snapshot {name} · node 1 · cluster ")), "{header}");
    assert!(header.contains(" · format 2 · up to ") && header.contains(" · voters=1 · "), "{header}");
    let kinds: Vec<&str> =
        output.out.lines().filter_map(|line| line.strip_prefix(' ')?.split_whitespace().nth(2)).collect();
    assert_eq!(kinds, ["sessions", "machine", "end"], "{output:?}");
    assert!(output.out.contains("# total 1 snapshots · 3 chunks · 0 bad"), "{output:?}");
    let json = run_dump(&file, &["-o", "jsonl"]);
    let lines: Vec<serde_json::Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["k"], &lines[0]["file"]), (&"snapshot".into(), &name.into()));
    assert_eq!((&lines[1]["k"], &lines[1]["type"]), (&"chunk".into(), &"sessions".into()));
    let check_output = run_dump(&data, &["--check"]);
    expect_exit_code(&check_output, 0);
    assert!(check_output.out.starts_with(header) && check_output.out.contains("# segment "), "{check_output:?}");

    let bytes = std::fs::read(&file).unwrap();
    let chunk_offset = lines[2]["off"].as_u64().unwrap();
    let mut damaged_bytes = bytes.clone();
    damaged_bytes[chunk_offset as usize + 14] ^= 1;
    std::fs::write(&file, &damaged_bytes).unwrap();
    let output = cluster.run(&["snapshot", "list", data.to_str().unwrap(), "-o", "json"]);
    expect_exit_code(&output, 5);
    assert_eq!((&output.json()["whole"], &output.json()["off"]), (&false.into(), &chunk_offset.into()), "{output:?}");
    for path in [&data, &file] {
        let output = run_dump(path, &["--check"]);
        expect_exit_code(&output, 5);
        assert!(output.out.contains(&format!("!{chunk_offset:>9}  ")) && output.out.contains(" BAD "), "{output:?}");
    }
    // A truncated snapshot file is reported as damaged, too.
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    expect_exit_code(&run_dump(&file, &[]), 5);
}

#[test]
fn check_reports_missing_snapshot_of_compacted_log() {
    let mut cluster = start_compacting_cluster(1);
    write_until_log_starts_after(&cluster, 0, 250);
    cluster.stop(0);
    let data = cluster.data_dir(0);
    let run_check = || cluster.run(&["dump", "--check", data.to_str().unwrap()]);
    expect_exit_code(&run_check(), 0);
    for file in snapshot_paths(&data) {
        std::fs::remove_file(file).unwrap();
    }
    let output = run_check();
    expect_exit_code(&output, 5);
    assert!(output.out.contains("snapshots: missing: the log begins behind "), "{output:?}");
}

/// The node releases, renames and reuses segments while `dump` reads them.
#[test]
fn dump_why_kept_works_while_node_runs() {
    let cluster = start_compacting_cluster(1);
    // Writes more than one segment holds, since only whole segments are released.
    let status = write_until_log_starts_after(&cluster, 0, 100);
    let data = cluster.data_dir(0);
    let released_lines = || {
        let output = cluster.run(&["dump", "--why-kept", "-o", "jsonl", data.to_str().unwrap()]);
        expect_exit_code(&output, 0);
        let lines: Vec<serde_json::Value> =
            output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // The journal releases a segment shortly after the status shows the log's later start.
        (lines.last()?["released"] != 0 && lines[0]["file"] != "0000000001.wal").then_some(lines)
    };
    let mut lines = wait_until("a segment is released", released_lines, || cluster.logs());
    let summary = lines.pop().unwrap();
    assert!(summary["snapshot"].as_u64() >= Some(status.log.snapshot) && summary["of"].as_u64() > Some(0), "{summary}");
    assert_eq!(lines.last().unwrap()["why"], "newest", "{lines:?}");
}

#[test]
fn dump_while_node_compacts_reports_nothing_missing() {
    let cluster = start_compacting_cluster(1);
    let args = ["bench", "put", "--clients", "2", "--inflight", "64", "--duration", "5s", "--warmup", "0s"];
    let mut bench = BackgroundProgram::start(cluster.directory.path(), "flood", &mut cluster.drave_command(&args));
    let data = cluster.data_dir(0);
    let mut check_count = 0;
    while bench.is_running() {
        let output = cluster.run(&["dump", "--check", data.to_str().unwrap()]);
        assert_eq!(output.code, Some(0), "check number {check_count}, counted from 0: {output:?}");
        let output = cluster.run(&["snapshot", "list", data.to_str().unwrap()]);
        assert_eq!(output.code, Some(0), "check number {check_count}, counted from 0: {output:?}");
        check_count += 1;
    }
    assert_eq!(bench.wait_with_output().code, Some(0), "{}", cluster.logs());
    let log = cluster.status(0).unwrap().log;
    assert!(check_count > 0 && log.first > 1, "{check_count} checks were run, and the log is {log:?}");
}

/// hashicorp/raft#212, atomix#417: a very old follower never had its snapshot installed.
#[test]
fn follower_behind_compacted_log_receives_snapshot() {
    let mut cluster = start_compacting_cluster(3);
    let mut client = cluster.client();
    assert_eq!(increment(&mut client), 1);
    cluster.wait_for_convergence();
    let stopped_node = (cluster.wait_for_leader() + 1) % 3;
    let last_before_stop = cluster.status(stopped_node).unwrap().last;
    cluster.kill(stopped_node);
    let leader = wait_until("a leader", || cluster.leader_among(0..3), || cluster.logs());
    write_until_log_starts_after(&cluster, leader, last_before_stop + 1);
    assert_eq!(increment(&mut client), 2);
    cluster.spawn(stopped_node);
    assert_eq!(increment(&mut client), 3);
    drop(client);
    cluster.wait_for_convergence();
    let log = cluster.status(stopped_node).unwrap().log;
    assert!(
        log.snapshot > last_before_stop && log.first > last_before_stop + 1,
        "the log is {log:?}; the last index before the stop was {last_before_stop}"
    );
    let output = cluster.run(&["status"]);
    expect_exit_code(&output, 0);
    let kept_row = output.out.lines().skip_while(|line| !line.ends_with("kept for")).nth(1 + stopped_node);
    let columns: Vec<&str> = kept_row.unwrap_or_default().split_whitespace().collect();
    let [name, _log, _, _from, _reclaimable, _, _bytes, _, upto, ..] = columns[..] else { panic!("{output:?}") };
    assert!(name == format!("n{}", stopped_node + 1) && upto.parse::<u64>().unwrap() > last_before_stop, "{output:?}");
}

/// openraft#617 asked whether applied entries must be stored in a second log. Here they need not: a node recovers from
/// its snapshot and its log.
#[test]
fn killed_cluster_recovers_from_snapshots_and_logs() {
    let mut cluster = start_compacting_cluster(3);
    let mut client = cluster.client();
    (1..=50).for_each(|n| assert_eq!(increment(&mut client), n));
    for n in 0..3 {
        write_until_log_starts_after(&cluster, n, 250);
    }
    assert_eq!(increment(&mut client), 51);
    (0..3).for_each(|n| cluster.kill(n));
    (0..3).for_each(|n| cluster.spawn(n));
    // The client continues in its session, which the snapshots contain.
    (52..=60).for_each(|n| assert_eq!(increment(&mut client), n, "{}", cluster.logs()));
    for n in 0..3 {
        let log = cluster.status(n).unwrap().log;
        assert!(log.first > 1 && log.snapshot >= log.first - 1, "{log:?}");
    }
    drop(client);
    cluster.wait_for_convergence();
}
