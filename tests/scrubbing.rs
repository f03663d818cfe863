//! Running nodes find damage in files that nothing else reads, mend it without stopping, and lose no acknowledged write.

use drave::client::Client;
use drave::machine::commands::{Answer, Command};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use support::{Cluster, drave_command, run, wait_until};

mod support;

static VALUE: [u8; 64 << 10] = [7; 64 << 10];

/// Increments the counter. Returns its new value; `None` if the outcome is unknown.
fn increment(client: &mut Client) -> Option<i64> {
    let executed = client.execute(&Command::Incr { key: b"counter", by: 1 }.encode()).ok()?;
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(value)) => Some(value),
        other => panic!("an increment returned {other:?}"),
    }
}

/// Sets `count` keys to a large value each.
fn write_values(client: &mut Client, count: u32) {
    for n in 0..count {
        let key = format!("key{n}");
        client.execute(&Command::Append { key: key.as_bytes(), tail: &VALUE }.encode()).unwrap();
    }
}

/// Flips a bit of a file in place, as a disk may do.
fn flip_bit(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.sync_all().unwrap();
}

/// The files with this suffix in a directory of a node, sorted by name.
fn files(directory: PathBuf, suffix: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Waits until a node has found `found` damaged files and has mended all of them.
fn wait_until_mended(cluster: &Cluster, node: usize, found: u64) {
    let is_mended = || {
        let scrub = cluster.status(node)?.scrub;
        (scrub.found == found && scrub.mended == found && scrub.damaged_upto == 0).then_some(())
    };
    wait_until("the node mends its files", is_mended, || format!("{:?}\n{}", cluster.status(node), cluster.logs()));
}

/// A cluster with segments of 4 MiB and a log that no snapshot shortens by itself.
fn cluster_of(nodes: u16) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    cluster.extra_args =
        ["--segment-size", "4MiB", "--reserve", "4MiB", "--snapshot-log-bytes", "1GiB"].map(str::to_owned).into();
    cluster.extra_args.extend(["--trailing-bytes", "1GiB", "--scrub-interval", "off"].map(str::to_owned));
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster
}

/// The data directory of a stopped node is intact: recovery and `drave check` accept it.
fn expect_intact_directory(cluster: &Cluster, node: usize) {
    let check = run(drave_command(&["check"]).arg(cluster.data_dir(node)));
    assert_eq!(check.code, Some(0), "{check:?}\n{}", cluster.logs());
}

/// A segment and then the snapshot of a follower are damaged while clients write.
#[test]
fn damage_of_running_node_is_found_and_mended_under_load() {
    let mut cluster = cluster_of(3);
    let node = (cluster.wait_for_leader() + 1) % 3;
    let id = (node + 1).to_string();
    let mut client = cluster.client();
    write_values(&mut client, 150);
    let clean = cluster.run(&["scrub", "--node", &id]);
    assert_eq!(clean.code, Some(0), "{clean:?}");
    assert!(clean.out.starts_with(&format!("n{id} ok · ")), "{clean:?}");
    let (acknowledged, unknown, stop) = (AtomicI64::new(0), AtomicI64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match increment(&mut client) {
                    Some(_) => acknowledged.fetch_add(1, Ordering::Relaxed),
                    None => unknown.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let segment = files(cluster.data_dir(node).join("wal"), ".wal").remove(0);
            flip_bit(&segment, 300_000);
            let found = cluster.run(&["scrub", "--node", &id]);
            assert_eq!(found.code, Some(5), "{found:?}");
            assert!(found.out.contains(&file_name(&segment)) && found.out.contains("1 damaged"), "{found:?}");
            wait_until_mended(&cluster, node, 1);
            wait_until("the damaged file is gone", || (!segment.exists()).then_some(()), || cluster.logs());

            let snapshot = files(cluster.data_dir(node).join("snapshots"), ".snap").remove(0);
            flip_bit(&snapshot, 500_000);
            let found = cluster.run(&["scrub", "--node", &id, "--output", "json"]);
            assert_eq!(found.code, Some(5), "{found:?}");
            let damaged = found.json()["damaged"][0]["text"].as_str().unwrap().to_owned();
            assert!(damaged.starts_with(&format!("{}: byte ", file_name(&snapshot))), "{found:?}");
            wait_until_mended(&cluster, node, 2);
            let clean = cluster.run(&["scrub"]);
            assert_eq!(clean.code, Some(0), "{clean:?}");
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    cluster.wait_for_convergence();
    cluster.expect_no_deaths();
    assert_eq!(cluster.stop(node), Some(0));
    expect_intact_directory(&cluster, node);
    cluster.spawn(node);
    cluster.wait_for_convergence();
    let value = increment(&mut cluster.client()).unwrap() - 1;
    let (acknowledged, unknown) = (acknowledged.into_inner(), unknown.into_inner());
    assert!((acknowledged..=acknowledged + unknown).contains(&value), "{value} of {acknowledged} + {unknown}");
}

/// A leader finds the damage when it reads an entry for a follower that needs it, and sends a snapshot instead.
#[test]
fn leader_with_damaged_log_sends_a_snapshot_and_does_not_stop() {
    let mut cluster = cluster_of(3);
    let leader = cluster.wait_for_leader();
    let lagging = (leader + 1) % 3;
    let mut client = cluster.client();
    assert_eq!(increment(&mut client), Some(1));
    cluster.stop(lagging);
    write_values(&mut client, 150);
    let segment = files(cluster.data_dir(leader).join("wal"), ".wal").remove(0);
    flip_bit(&segment, 300_000);
    cluster.spawn(lagging);
    wait_until_mended(&cluster, leader, 1);
    cluster.wait_for_convergence();
    assert_eq!(increment(&mut client), Some(2), "{}", cluster.logs());
    cluster.expect_no_deaths();
    assert!(cluster.logs().contains("This node has them in its state, and goes on"), "{}", cluster.logs());
    assert!(!segment.exists());
    for node in 0..3 {
        cluster.stop(node);
        expect_intact_directory(&cluster, node);
    }
}

/// A node without other voters mends its files as well: its state is the intact copy.
#[test]
fn single_node_mends_its_log_from_its_own_state() {
    let mut cluster = cluster_of(1);
    let mut client = cluster.client();
    assert_eq!(increment(&mut client), Some(1));
    write_values(&mut client, 150);
    for segment in files(cluster.data_dir(0).join("wal"), ".wal").iter().take(2) {
        flip_bit(segment, 200_000);
    }
    assert_eq!(cluster.run(&["scrub"]).code, Some(5));
    wait_until_mended(&cluster, 0, 2);
    assert_eq!(cluster.stop(0), Some(0));
    expect_intact_directory(&cluster, 0);
    cluster.spawn(0);
    cluster.wait_for_leader();
    assert_eq!(increment(&mut cluster.client()), Some(2), "{}", cluster.logs());
}
