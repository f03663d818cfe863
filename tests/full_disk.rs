//! Real full disks: small file systems that an unrelated file fills up and that are emptied again.
//!
//! Mounting these file systems needs root, usually outside of containers. Where no file system can be mounted, the
//! tests print this and pass without a check; with `DRAVE_MUST_MOUNT=1` they fail instead.

use drave::api::{Consistency, Refusal};
use drave::client::{Client, ClientError, Options};
use drave::machine::{Answer, Command as Do, Query};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{BackgroundProgram, Cluster, wait_until};

mod support;

/// Small file systems, one per node. Dropping the value unmounts them.
struct Mounts {
    mount_points: Vec<PathBuf>,
}

fn mount_tmpfs(mount_point: &Path, size: &str) -> bool {
    let options = format!("size={size},mode=0777");
    let args = ["-t", "tmpfs", "-o", &options, "drave-test"];
    Command::new("mount").args(args).arg(mount_point).output().is_ok_and(|output| output.status.success())
}

impl Mounts {
    /// Mounts a file system of 32 MiB at the directory of each node. Returns `None` if this machine does not allow it.
    fn mount(cluster: &Cluster) -> Option<Mounts> {
        Mounts::mount_with_size(cluster, "32m")
    }

    /// Like [`Mounts::mount`], with file systems of `size`, in the syntax of the mount option.
    fn mount_with_size(cluster: &Cluster, size: &str) -> Option<Mounts> {
        let mut mounts = Mounts { mount_points: Vec::new() };
        for n in 0..cluster.len() {
            let mount_point = cluster.data_dir(n);
            std::fs::create_dir(&mount_point).unwrap();
            if !mount_tmpfs(&mount_point, size) {
                let is_required = std::env::var("DRAVE_MUST_MOUNT").is_ok_and(|value| value == "1");
                assert!(!is_required, "no file system can be mounted: run the test as root");
                eprintln!("not run: nothing can be mounted here");
                return None;
            }
            mounts.mount_points.push(mount_point);
        }
        Some(mounts)
    }

    /// Fills all free space with an unrelated file.
    fn fill_disk(&self, n: usize) {
        let file = File::options().create(true).append(true).open(self.mount_points[n].join("somebody-elses")).unwrap();
        loop {
            let stat = statvfs(&self.mount_points[n]).unwrap();
            let (free, size) = (stat.f_bavail * stat.f_frsize, file.metadata().unwrap().len());
            // A file grows in blocks of 4 KiB, so less free space than that cannot be filled.
            if free < 4096 {
                return;
            }
            // The node may have used some of the free space since `statvfs`: then the call fails, and the loop tries
            // again.
            let _space_may_be_used = fallocate(&file, FallocateFlags::empty(), size, free);
        }
    }

    fn remove_unrelated_file(&self, n: usize) {
        std::fs::remove_file(self.mount_points[n].join("somebody-elses")).unwrap();
    }

    fn has_reserve(&self, n: usize) -> bool {
        self.mount_points[n].join("reserve").exists()
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for mount_point in &self.mount_points {
            // Unmounts lazily, since a node may still be running there for a moment.
            let _best_effort = Command::new("umount").arg("-l").arg(mount_point).output();
        }
    }
}

/// Increments the value of the key `n` and returns its new value.
fn increment(client: &mut Client) -> Result<i64, ClientError> {
    let executed = client.execute(&Do::Incr { key: b"n", by: 1 }.encode())?;
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(number)) => Ok(number),
        other => panic!("{other:?}"),
    }
}

fn read_counter(cluster: &Cluster) -> i64 {
    let query = Query::Get { key: b"n" }.encode();
    let queried = cluster.client().query(&query, Consistency::Linearizable).unwrap();
    let Ok(Answer::Value(Some(value))) = Answer::decode(queried.answer) else { panic!("no number") };
    std::str::from_utf8(&value).unwrap().parse().unwrap()
}

fn short_timeout_client(cluster: &Cluster) -> Client {
    let timeout = Duration::from_millis(400);
    Client::with_options(cluster.addresses.clone(), Options { timeout, node_timeout: timeout, ..Options::default() })
}

fn wait_for_space_report(cluster: &Cluster, n: usize, low_space: bool) {
    let has_reported = || cluster.status(n).filter(|status| status.low_space == low_space).map(|_| ());
    wait_until(
        if low_space { "the node reports low space" } else { "the node reports enough space" },
        has_reported,
        || cluster.logs(),
    );
}

#[test]
fn full_disks_reject_writes_until_space_returns() {
    let mut cluster = Cluster::prepare(3);
    let Some(mounts) = Mounts::mount(&cluster) else { return };
    (0..3).for_each(|n| cluster.spawn(n));
    let (mut acknowledged, mut unknown) = (0, 0);
    let mut client = cluster.client();
    for _ in 0..100 {
        acknowledged = increment(&mut client).unwrap();
    }
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    (0..3).for_each(|n| mounts.fill_disk(n));
    // Writes until every node rejects them. A write that was neither rejected nor acknowledged may have been applied.
    let mut client = short_timeout_client(&cluster);
    let increment_is_rejected = || match increment(&mut client) {
        Ok(_) => {
            acknowledged += 1;
            None
        }
        Err(ClientError::Refused(tried)) => (tried.refusal == Some(Refusal::NoSpace)).then_some(()),
        Err(_) => {
            unknown += 1;
            None
        }
    };
    wait_until("a write is rejected", increment_is_rejected, || cluster.logs());
    (0..3).for_each(|n| wait_for_space_report(&cluster, n, true));
    cluster.wait_for_leader();

    // Each node transfers the leadership to the other nodes once; then one stays leader and reports why it rejects
    // writes.
    let rejected_for_space = || {
        let output = cluster.run(&["put", "k", "v", "--timeout", "1s"]);
        assert_eq!(output.code, Some(3), "{output:?}");
        assert!(output.err.contains("nothing was applied"), "{output:?}");
        output.err.contains("no space left").then_some(())
    };
    wait_until("a write is rejected for lack of space", rejected_for_space, || cluster.logs());
    assert_eq!(cluster.run(&["get", "k"]).code, Some(1));
    assert_eq!(cluster.run(&["get", "lunch"]).out, "noodles");
    assert_eq!(cluster.run(&["del", "lunch"]).code, Some(0), "{}", cluster.logs());

    // Restarts one node, and then all at once: a start needs no free space.
    cluster.kill(0);
    cluster.spawn(0);
    (0..3).for_each(|n| wait_for_space_report(&cluster, n, true));
    (0..3).for_each(|n| cluster.kill(n));
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    let counter = read_counter(&cluster);
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&counter),
        "the counter is {counter} after {acknowledged} acknowledged and {unknown} unknown increments"
    );
    assert_eq!(cluster.run(&["put", "k", "v", "--timeout", "1s"]).code, Some(3), "{}", cluster.logs());

    (0..3).for_each(|n| mounts.remove_unrelated_file(n));
    // There is no traffic but a single client that retries until it succeeds.
    assert_eq!(increment(&mut cluster.client()).unwrap(), counter + 1, "{}", cluster.logs());
    (0..3).for_each(|n| wait_for_space_report(&cluster, n, false));
    assert!((0..3).all(|n| mounts.has_reserve(n)));
    cluster.expect_no_deaths();
    cluster.wait_for_convergence();
}

/// etcd#11947: a benchmark filled the quota and locked its user out.
#[test]
fn benchmark_cleans_up_after_filling_disks() {
    expect_benchmark_cleanup("65536", "5000");
}

/// The requests in flight when the space runs out would exceed the reserve if the leader did not count their size.
#[test]
fn benchmark_cleans_up_after_filling_disks_with_large_values() {
    expect_benchmark_cleanup("524288", "1000");
}

fn expect_benchmark_cleanup(value_size: &str, keys: &str) {
    let mut cluster = Cluster::prepare(3);
    let args = ["--segment-size", "4MiB", "--reserve", "4MiB", "--trailing-bytes", "1MiB"];
    cluster.extra_args = args.map(str::to_owned).to_vec();
    let Some(_mounts) = Mounts::mount(&cluster) else { return };
    (0..3).for_each(|n| cluster.spawn(n));
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    // The benchmark writes ten times the capacity of the disks.
    let args = ["bench", "put", "--clients", "2", "--inflight", "2", "--value-size", value_size, "--keys", keys];
    let mut args = [&args[..], &["--dist", "seq", "--warmup", "0s", "--duration", "1h"]].concat();
    args.extend(["--timeout", "1s"]);
    let mut bench = BackgroundProgram::start(cluster.directory.path(), "bench", &mut cluster.drave_command(&args));
    let details = || format!("{:?}\n{}", cluster.run(&["status"]), cluster.logs());
    wait_until("the benchmark ends", || (!bench.is_running()).then_some(()), details);
    let output = bench.wait_with_output();
    assert_eq!(output.code, Some(3), "{output:?}\n{}", cluster.logs());
    assert!(output.err.contains("no space left on the disk of the leader"), "{output:?}");
    assert_eq!(cluster.run(&["scan"]).out, "lunch\tnoodles\n");
    let put_succeeds = || (cluster.run(&["put", "lunch", "soup"]).code == Some(0)).then_some(());
    wait_until("writes are accepted again", put_succeeds, || cluster.logs());
    cluster.expect_no_deaths();
    cluster.wait_for_convergence();
}

#[test]
fn leader_with_full_disk_transfers_leadership() {
    let mut cluster = Cluster::prepare(3);
    let Some(mounts) = Mounts::mount(&cluster) else { return };
    (0..3).for_each(|n| cluster.spawn(n));
    let mut client = cluster.client();
    assert_eq!(increment(&mut client).unwrap(), 1);
    let full_node = cluster.wait_for_leader();
    mounts.fill_disk(full_node);
    wait_for_space_report(&cluster, full_node, true);
    let other_leader = || cluster.leader_among(0..3).filter(|leader| *leader != full_node);
    wait_until("another node leads", other_leader, || cluster.logs());
    for expected in 2..=50 {
        assert_eq!(increment(&mut client).unwrap(), expected, "{}", cluster.logs());
    }
    mounts.remove_unrelated_file(full_node);
    wait_for_space_report(&cluster, full_node, false);
    drop(client);
    cluster.expect_no_deaths();
    cluster.wait_for_convergence();
}

#[test]
fn follower_with_full_disk_falls_behind_and_catches_up() {
    let mut cluster = Cluster::prepare(3);
    let Some(mounts) = Mounts::mount(&cluster) else { return };
    (0..3).for_each(|n| cluster.spawn(n));
    let mut client = cluster.client();
    assert_eq!(increment(&mut client).unwrap(), 1);
    let full_node = (cluster.wait_for_leader() + 1) % 3;
    wait_until("the node has a reserve", || mounts.has_reserve(full_node).then_some(()), || cluster.logs());
    mounts.fill_disk(full_node);
    // The follower fills its segment and most of the reserve; then the leader sends it no more entries.
    let value = vec![b'x'; 256 << 10];
    let follower_falls_behind = || {
        let executed = client.execute(&Do::Put { key: b"large", value: &value }.encode()).unwrap();
        cluster.status(full_node).filter(|status| status.last + 8 < executed.position.index.0).map(|_| ())
    };
    wait_until("the follower falls behind", follower_falls_behind, || cluster.logs());
    // The follower still responds, its log does not wait for space, and it can still start.
    assert!(!cluster.logs().contains("writing waits for free disk space"), "{}", cluster.logs());
    wait_for_space_report(&cluster, full_node, true);
    cluster.kill(full_node);
    cluster.spawn(full_node);
    wait_for_space_report(&cluster, full_node, true);
    assert_eq!(increment(&mut client).unwrap(), 2);
    mounts.remove_unrelated_file(full_node);
    wait_for_space_report(&cluster, full_node, false);
    assert!(mounts.has_reserve(full_node));
    drop(client);
    cluster.expect_no_deaths();
    cluster.wait_for_convergence();
}

/// A single node that takes no snapshot by itself while there is free space, and that keeps hardly any log entries
/// before a snapshot.
fn single_node() -> Cluster {
    let mut cluster = Cluster::prepare(1);
    let args = ["--snapshot-log-bytes", "1TiB", "--trailing-bytes", "64KiB", "--snapshot-max-age", "1000h"];
    cluster.extra_args.extend(args.map(str::to_owned));
    cluster
}

/// Writes `value_count` values of 64 KiB to `keys` keys.
fn write_values(cluster: &Cluster, value_count: u32, keys: u32) {
    let mut client = cluster.client();
    let value = [b'x'; 64 << 10];
    for n in 0..value_count {
        let key = (n % keys).to_le_bytes();
        client.execute(&Do::Put { key: &key, value: &value }.encode()).unwrap();
    }
}

fn count_log_matches(cluster: &Cluster, text: &str) -> usize {
    cluster.logs().matches(text).count()
}

#[test]
fn snapshot_on_full_disk_borrows_reserve_and_compacts_log() {
    let mut cluster = single_node();
    let Some(mounts) = Mounts::mount_with_size(&cluster, "64m") else { return };
    cluster.spawn(0);
    // The state has half a megabyte, and the log fills half the disk.
    write_values(&cluster, 512, 8);
    wait_until("the node has a reserve", || mounts.has_reserve(0).then_some(()), || cluster.logs());
    assert_eq!(cluster.status(0).unwrap().log.snapshot, 0, "no snapshot is taken while there is space");
    mounts.fill_disk(0);
    // The test frees no space and requests no snapshot: the node takes a snapshot by itself.
    let snapshot_taken = || cluster.status(0).filter(|status| status.log.snapshot > 0);
    wait_until("a snapshot is taken", snapshot_taken, || cluster.logs());
    assert_eq!(count_log_matches(&cluster, "the snapshot borrows the reserve"), 1, "{}", cluster.logs());
    wait_for_space_report(&cluster, 0, false);
    assert!(mounts.has_reserve(0), "the reserve was made again");
    write_values(&cluster, 8, 8);
    let log = cluster.status(0).unwrap().log;
    assert!(log.first > 256 && !log.lacks_room, "{log:?}");
    cluster.expect_no_deaths();
}

#[test]
fn snapshot_larger_than_reserve_is_abandoned() {
    let mut cluster = single_node();
    let Some(mounts) = Mounts::mount_with_size(&cluster, "64m") else { return };
    cluster.spawn(0);
    // The state is twice as large as the reserve.
    write_values(&cluster, 128, 128);
    wait_until("the node has a reserve", || mounts.has_reserve(0).then_some(()), || cluster.logs());
    mounts.fill_disk(0);
    wait_for_space_report(&cluster, 0, true);
    for _ in 0..2 {
        let output = cluster.run(&["snapshot", "take"]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(cluster.status(0).unwrap().log.lacks_room);
        wait_until("the reserve is made again", || mounts.has_reserve(0).then_some(()), || cluster.logs());
    }
    assert_eq!(count_log_matches(&cluster, "not even with the reserve"), 1, "{}", cluster.logs());
    assert!(cluster.run(&["status"]).out.contains("no room for a snapshot"));
    let snapshot_files: Vec<_> = std::fs::read_dir(cluster.data_dir(0).join("snapshots")).unwrap().collect();
    assert!(snapshot_files.is_empty(), "{snapshot_files:?}");
    assert_eq!(cluster.run(&["del", "nothing"]).code, Some(1), "{}", cluster.logs());
    mounts.remove_unrelated_file(0);
    wait_for_space_report(&cluster, 0, false);
    let snapshot_taken = || (cluster.run(&["snapshot", "take"]).code == Some(0)).then_some(());
    wait_until("a snapshot is taken", snapshot_taken, || cluster.logs());
    let log = cluster.status(0).unwrap().log;
    assert!(log.snapshot > 0 && !log.lacks_room, "{log:?}");
    cluster.expect_no_deaths();
}
