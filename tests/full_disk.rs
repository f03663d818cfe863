//! Real full disks: small file systems that an unrelated file fills up and that are emptied again.
//!
//! Mounting them needs root, usually outside of containers. Where no file system can be mounted, these tests print that
//! and pass without a check; with `DRAVE_MUST_MOUNT=1` they fail instead.

use drave::api::{Consistency, Refusal};
use drave::client::{Client, ClientError, Options};
use drave::machine::{Answer, Command as Do, Query};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{Beside, Cluster, until};

mod support;

/// Small file systems, one per node. Dropping this unmounts them.
struct Mounts {
    places: Vec<PathBuf>,
}

fn mount(place: &Path, size: &str) -> bool {
    let options = format!("size={size},mode=0777");
    let words = ["-t", "tmpfs", "-o", &options, "drave-test"];
    Command::new("mount").args(words).arg(place).output().is_ok_and(|output| output.status.success())
}

impl Mounts {
    /// Mounts one at the directory of each node. Returns `None` if this machine does not allow it.
    fn prepare(cluster: &Cluster) -> Option<Mounts> {
        Mounts::of(cluster, "32m")
    }

    /// Like [`Mounts::prepare`], with file systems of `size`.
    fn of(cluster: &Cluster, size: &str) -> Option<Mounts> {
        let mut mounts = Mounts { places: Vec::new() };
        for n in 0..cluster.len() {
            let place = cluster.data(n);
            std::fs::create_dir(&place).unwrap();
            if !mount(&place, size) {
                let must = std::env::var("DRAVE_MUST_MOUNT").is_ok_and(|set| set == "1");
                assert!(!must, "nothing can be mounted here: be root");
                eprintln!("not run: nothing can be mounted here");
                return None;
            }
            mounts.places.push(place);
        }
        Some(mounts)
    }

    /// Fills all free space with an unrelated file.
    fn fill(&self, n: usize) {
        let file = File::options().create(true).append(true).open(self.places[n].join("somebody-elses")).unwrap();
        loop {
            let stat = statvfs(&self.places[n]).unwrap();
            let (free, size) = (stat.f_bavail * stat.f_frsize, file.metadata().unwrap().len());
            // No file can be smaller than this.
            if free < 4096 {
                return;
            }
            // The node may have used some of it in between.
            let _taken_or_not = fallocate(&file, FallocateFlags::empty(), size, free);
        }
    }

    fn empty(&self, n: usize) {
        std::fs::remove_file(self.places[n].join("somebody-elses")).unwrap();
    }

    fn has_reserve(&self, n: usize) -> bool {
        self.places[n].join("reserve").exists()
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for place in &self.places {
            // Unmounts lazily, since a node may still be running there for a moment.
            let _best_effort = Command::new("umount").arg("-l").arg(place).output();
        }
    }
}

/// Increments the counter and returns its new value.
fn incr(client: &mut Client) -> Result<i64, ClientError> {
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

fn impatient_client(cluster: &Cluster) -> Client {
    let timeout = Duration::from_millis(400);
    Client::with(cluster.addresses.clone(), Options { timeout, patience: timeout, ..Options::default() })
}

fn wait_for_space(cluster: &Cluster, n: usize, low: bool) {
    let is = || cluster.status(n).filter(|status| status.low_space == low).map(|_| ());
    until(if low { "the node reports low space" } else { "the node reports enough space" }, is, || cluster.logs());
}

#[test]
fn full_disks_reject_writes_until_space_returns() {
    let mut cluster = Cluster::prepare(3);
    let Some(mounts) = Mounts::prepare(&cluster) else { return };
    (0..3).for_each(|n| cluster.spawn(n));
    let (mut acknowledged, mut unknown) = (0, 0);
    let mut client = cluster.client();
    for _ in 0..100 {
        acknowledged = incr(&mut client).unwrap();
    }
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    (0..3).for_each(|n| mounts.fill(n));
    // Writes until every node rejects them. A write that was neither rejected nor acknowledged may have been applied.
    let mut client = impatient_client(&cluster);
    let refused = || match incr(&mut client) {
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
    until("a write is rejected", refused, || cluster.logs());
    (0..3).for_each(|n| wait_for_space(&cluster, n, true));
    cluster.leader();

    // Each node transfers the leadership to the other nodes once; then one stays leader and reports why it rejects
    // writes.
    let no_space = || {
        let said = cluster.run(&["put", "k", "v", "--timeout", "1s"]);
        assert_eq!(said.code, Some(3), "{said:?}");
        assert!(said.err.contains("nothing was applied"), "{said:?}");
        said.err.contains("no space left").then_some(())
    };
    until("a write is rejected for lack of space", no_space, || cluster.logs());
    assert_eq!(cluster.run(&["get", "k"]).code, Some(1));
    assert_eq!(cluster.run(&["get", "lunch"]).out, "noodles");
    assert_eq!(cluster.run(&["del", "lunch"]).code, Some(0), "{}", cluster.logs());

    // Restarts one node, and then all at once: a start needs no free space.
    cluster.kill(0);
    cluster.spawn(0);
    (0..3).for_each(|n| wait_for_space(&cluster, n, true));
    (0..3).for_each(|n| cluster.kill(n));
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    let stands = read_counter(&cluster);
    assert!((acknowledged..=acknowledged + unknown).contains(&stands), "{acknowledged} + {unknown}: {stands}");
    assert_eq!(cluster.run(&["put", "k", "v", "--timeout", "1s"]).code, Some(3), "{}", cluster.logs());

    (0..3).for_each(|n| mounts.empty(n));
    // A single client that retries without end, and no other traffic.
    assert_eq!(incr(&mut cluster.client()).unwrap(), stands + 1, "{}", cluster.logs());
    (0..3).for_each(|n| wait_for_space(&cluster, n, false));
    assert!((0..3).all(|n| mounts.has_reserve(n)));
    cluster.expect_no_deaths();
    cluster.agree();
}

/// etcd#11947: a benchmark filled the quota and locked its user out.
#[test]
fn benchmark_cleans_up_after_filling_disks() {
    expect_benchmark_cleanup("65536", "5000");
}

/// The requests in flight when the space runs out exceed the reserve, unless the leader counts them.
#[test]
fn benchmark_cleans_up_after_filling_disks_with_large_values() {
    expect_benchmark_cleanup("524288", "1000");
}

fn expect_benchmark_cleanup(size: &str, keys: &str) {
    let mut cluster = Cluster::prepare(3);
    let words = ["--segment-size", "4MiB", "--reserve", "4MiB", "--trailing-bytes", "1MiB"];
    cluster.words = words.map(str::to_owned).to_vec();
    let Some(_mounts) = Mounts::prepare(&cluster) else { return };
    (0..3).for_each(|n| cluster.spawn(n));
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    // Ten times the capacity of the disks.
    let words = ["bench", "put", "--clients", "2", "--inflight", "2", "--value-size", size, "--keys", keys];
    let mut words = [&words[..], &["--dist", "seq", "--warmup", "0s", "--duration", "1h"]].concat();
    words.extend(["--timeout", "1s"]);
    let mut bench = Beside::start(cluster.directory.path(), "bench", &mut cluster.drave(&words));
    let how = || format!("{:?}\n{}", cluster.run(&["status"]), cluster.logs());
    until("the benchmark ends", || (!bench.is_running()).then_some(()), how);
    let said = bench.end();
    assert_eq!(said.code, Some(3), "{said:?}\n{}", cluster.logs());
    assert!(said.err.contains("no space left on the disk of the leader"), "{said:?}");
    assert_eq!(cluster.run(&["scan"]).out, "lunch\tnoodles\n");
    let written = || (cluster.run(&["put", "lunch", "soup"]).code == Some(0)).then_some(());
    until("writes are accepted again", written, || cluster.logs());
    cluster.expect_no_deaths();
    cluster.agree();
}

#[test]
fn leader_with_full_disk_transfers_leadership() {
    let mut cluster = Cluster::prepare(3);
    let Some(mounts) = Mounts::prepare(&cluster) else { return };
    (0..3).for_each(|n| cluster.spawn(n));
    let mut client = cluster.client();
    assert_eq!(incr(&mut client).unwrap(), 1);
    let full = cluster.leader();
    mounts.fill(full);
    wait_for_space(&cluster, full, true);
    let another = || cluster.leader_of(0..3).filter(|leader| *leader != full);
    until("another node leads", another, || cluster.logs());
    for expected in 2..=50 {
        assert_eq!(incr(&mut client).unwrap(), expected, "{}", cluster.logs());
    }
    mounts.empty(full);
    wait_for_space(&cluster, full, false);
    drop(client);
    cluster.expect_no_deaths();
    cluster.agree();
}

#[test]
fn follower_with_full_disk_falls_behind_and_catches_up() {
    let mut cluster = Cluster::prepare(3);
    let Some(mounts) = Mounts::prepare(&cluster) else { return };
    (0..3).for_each(|n| cluster.spawn(n));
    let mut client = cluster.client();
    assert_eq!(incr(&mut client).unwrap(), 1);
    let full = (cluster.leader() + 1) % 3;
    until("the node has a reserve", || mounts.has_reserve(full).then_some(()), || cluster.logs());
    mounts.fill(full);
    // The follower fills its segment and most of the reserve; then the leader sends it no more entries.
    let value = vec![b'x'; 256 << 10];
    let falls_behind = || {
        let executed = client.execute(&Do::Put { key: b"large", value: &value }.encode()).unwrap();
        cluster.status(full).filter(|status| status.last + 8 < executed.position.index.0).map(|_| ())
    };
    until("the follower falls behind", falls_behind, || cluster.logs());
    // The follower still responds, its log does not wait for space, and it can still start.
    assert!(!cluster.logs().contains("writing waits for free disk space"), "{}", cluster.logs());
    wait_for_space(&cluster, full, true);
    cluster.kill(full);
    cluster.spawn(full);
    wait_for_space(&cluster, full, true);
    assert_eq!(incr(&mut client).unwrap(), 2);
    mounts.empty(full);
    wait_for_space(&cluster, full, false);
    assert!(mounts.has_reserve(full));
    drop(client);
    cluster.expect_no_deaths();
    cluster.agree();
}

/// A single node that takes no snapshot by itself while there is free space, and that keeps hardly any log entries
/// before a snapshot.
fn single_node() -> Cluster {
    let mut cluster = Cluster::prepare(1);
    let words = ["--snapshot-log-bytes", "1TiB", "--trailing-bytes", "64KiB", "--snapshot-max-age", "1000h"];
    cluster.words.extend(words.map(str::to_owned));
    cluster
}

/// Writes `values` values of 64 KiB to `keys` keys.
fn write(cluster: &Cluster, values: u32, keys: u32) {
    let mut client = cluster.client();
    let value = [b'x'; 64 << 10];
    for n in 0..values {
        let key = (n % keys).to_le_bytes();
        client.execute(&Do::Put { key: &key, value: &value }.encode()).unwrap();
    }
}

fn count_log_lines(cluster: &Cluster, what: &str) -> usize {
    cluster.logs().matches(what).count()
}

#[test]
fn snapshot_on_full_disk_borrows_reserve_and_compacts_log() {
    let mut cluster = single_node();
    let Some(mounts) = Mounts::of(&cluster, "64m") else { return };
    cluster.spawn(0);
    // Half a megabyte of state, and a log that takes half the disk.
    write(&cluster, 512, 8);
    until("the node has a reserve", || mounts.has_reserve(0).then_some(()), || cluster.logs());
    assert_eq!(cluster.status(0).unwrap().log.snapshot, 0, "no snapshot is taken while there is space");
    mounts.fill(0);
    // No space is freed, and no snapshot is requested.
    let taken = || cluster.status(0).filter(|status| status.log.snapshot > 0);
    until("a snapshot is taken", taken, || cluster.logs());
    assert_eq!(count_log_lines(&cluster, "the snapshot borrows the reserve"), 1, "{}", cluster.logs());
    wait_for_space(&cluster, 0, false);
    assert!(mounts.has_reserve(0), "the reserve was made again");
    write(&cluster, 8, 8);
    let log = cluster.status(0).unwrap().log;
    assert!(log.first > 256 && !log.lacks_room, "{log:?}");
    cluster.expect_no_deaths();
}

#[test]
fn snapshot_larger_than_reserve_is_abandoned() {
    let mut cluster = single_node();
    let Some(mounts) = Mounts::of(&cluster, "64m") else { return };
    cluster.spawn(0);
    // Twice as much state as the reserve can hold.
    write(&cluster, 128, 128);
    until("the node has a reserve", || mounts.has_reserve(0).then_some(()), || cluster.logs());
    mounts.fill(0);
    wait_for_space(&cluster, 0, true);
    for _ in 0..2 {
        let said = cluster.run(&["snapshot", "take"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(cluster.status(0).unwrap().log.lacks_room);
        until("the reserve is made again", || mounts.has_reserve(0).then_some(()), || cluster.logs());
    }
    assert_eq!(count_log_lines(&cluster, "not even with the reserve"), 1, "{}", cluster.logs());
    assert!(cluster.run(&["status"]).out.contains("no room for a snapshot"));
    let files: Vec<_> = std::fs::read_dir(cluster.data(0).join("snapshots")).unwrap().collect();
    assert!(files.is_empty(), "{files:?}");
    assert_eq!(cluster.run(&["del", "nothing"]).code, Some(1), "{}", cluster.logs());
    mounts.empty(0);
    wait_for_space(&cluster, 0, false);
    let taken = || (cluster.run(&["snapshot", "take"]).code == Some(0)).then_some(());
    until("a snapshot is taken", taken, || cluster.logs());
    let log = cluster.status(0).unwrap().log;
    assert!(log.snapshot > 0 && !log.lacks_room, "{log:?}");
    cluster.expect_no_deaths();
}
