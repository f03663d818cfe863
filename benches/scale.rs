//! The cost of a write, a catch-up read and a scan of the log, per entry, at several log lengths.
//!
//! One log grows, and is measured each time that it is ten times as long, up to `DRAVE_SCALE` entries (default: a
//! million). Nothing is synced, because the comparison is of the work and not of the disk.

use bytes::Bytes;
use drave::consensus::replica::{Recovered, Replica};
use drave::consensus::{Options as RaftOptions, Raft};
use drave::disk::fs::Syncs;
use drave::disk::{FsDisk, Meter};
use drave::types::*;
use drave::wal::{self, Journal, Options, ReadMode, View};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

/// Entries per proposal batch.
const BATCH: u64 = 64;
/// Number of writes, and of reads, measured at each length.
const COUNTED: u64 = 10_000;
/// Segment size in bytes. It is small, because the search for the end of the last segment costs the same however much
/// the segment holds, and would hide the comparison.
const SEGMENT: u64 = 4 << 20;
/// Number of rounds, of which the best counts: other processes use the machine too.
const ROUNDS: usize = 7;

/// The log of a single-node cluster: core, journal and view, as in a node.
struct Log {
    disk: FsDisk,
    raft: Raft,
    journal: Journal<FsDisk>,
    view: View,
    now: Time,
}

fn open(disk: &FsDisk, threads: usize) -> (Journal<FsDisk>, wal::Recovered) {
    let node = NodeId::new(1).unwrap();
    let membership = Membership::founding([(node, "127.0.0.1:7401".to_owned())]);
    let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
    let options = Options { segment_bytes: SEGMENT, ..Options::new(node, ClusterId(1), DiskId(2)) };
    let reading = ReadMode { threads: NonZeroUsize::new(threads).unwrap(), meter: &Meter::default() };
    Journal::read(disk.clone(), options, Some(&base), reading).unwrap()
}

impl Log {
    fn open(disk: &FsDisk) -> Log {
        let (journal, found) = open(disk, 1);
        let recovered = Recovered {
            disk: None,
            hard_state: found.hard_state,
            base: found.base,
            entries: found.heads.iter().map(|head| (head.term, u64::from(head.bytes))).collect(),
            configurations: found.configurations,
            time: found.last_time,
            applied: Index::ZERO,
        };
        let replica = Replica::recover(NodeId::new(1).unwrap(), RaftOptions::default(), recovered, 7);
        let raft = Raft::new(replica, Time::ZERO);
        let mut log = Log { disk: disk.clone(), now: raft.deadline(), raft, journal, view: found.view };
        log.raft.tick(log.now);
        while !log.raft.leads() || log.raft.log().commit() < log.raft.log().last().index {
            log.turn();
        }
        log
    }

    fn len(&self) -> u64 {
        self.raft.log().last().index.0
    }

    /// Does the work of a node, its log thread and its spare thread, one after the other.
    fn turn(&mut self) {
        let Some(write) = self.raft.ready(self.now).write else { return };
        self.view.push(&write);
        self.journal.append(&write).unwrap();
        let report = self.journal.sync().unwrap();
        self.raft.persisted(self.now, report.durable);
        report.sealed.into_iter().for_each(|sealed| self.view.seal(sealed).unwrap());
        if let Some(order) = self.journal.spare_wanted() {
            self.journal.spare_ready(order.prepare(&self.disk, || {}).unwrap());
        }
    }

    fn write(&mut self, entries: u64, op: &Bytes) {
        for _ in 0..entries / BATCH {
            for _ in 0..BATCH {
                self.raft.propose(self.now, op.clone()).unwrap();
            }
            self.turn();
        }
    }

    /// Reads up to `COUNTED` entries after `from` in the batches that a lagging follower is sent; returns their number.
    fn catch_up(&self, from: u64) -> u64 {
        let upto = (from + COUNTED).min(self.len());
        let (mut next, mut count) = (from, 0);
        while next < upto {
            let reach = self.raft.log().reach(Index(next), 1 << 20, 8192).min(Index(upto));
            let entries = self.view.entries(Index(next).next()..=reach, u64::MAX).unwrap();
            assert_eq!(entries.len() as u64, reach.0 - next);
            count += entries.len() as u64;
            next = reach.0;
        }
        count
    }
}

/// The time per operation in nanoseconds, in the best round.
fn best(mut round: impl FnMut() -> (Duration, u64)) -> f64 {
    let once = |_| {
        let (took, count) = round();
        took.as_nanos() as f64 / count as f64
    };
    (0..ROUNDS).map(once).fold(f64::MAX, f64::min)
}

fn timed(count: u64, work: impl FnOnce()) -> (Duration, u64) {
    let begun = Instant::now();
    work();
    (begun.elapsed(), count)
}

/// Prints a line of the table: the cost per entry at this length.
fn look(mut log: Log, op: &Bytes) {
    let len = log.len();
    let write = best(|| timed(COUNTED / BATCH * BATCH, || log.write(COUNTED, op)));
    let read = |from: u64| {
        best(|| {
            let begun = Instant::now();
            let count = log.catch_up(from);
            (begun.elapsed(), count)
        })
    };
    let (oldest, middle, newest) = (read(0), read(len / 2), read(log.len() - COUNTED));
    let Log { disk, raft, journal, view, .. } = log;
    let (entries, bytes) = (raft.log().last().index.0, raft.log().bytes(Index::ZERO, raft.log().last().index));
    drop((raft, journal, view));
    let scan = |threads| best(|| timed(entries, || drop(open(&disk, threads))));
    let (one, two) = (scan(1), scan(2));
    let rate = bytes as f64 / entries as f64 / two;
    println!("| {len} | {write:.0} | {oldest:.0} | {middle:.0} | {newest:.0} | {one:.0} | {two:.0} | {rate:.2} GB/s |");
}

fn main() {
    let most = std::env::var("DRAVE_SCALE").map_or(1_000_000, |text| text.parse().unwrap());
    let place = std::env::var("DRAVE_BENCH_DIR").unwrap_or(".".to_owned());
    let directory = tempfile::tempdir_in(Path::new(&place)).unwrap();
    let disk = FsDisk::make(directory.path(), Syncs::Skipped).unwrap();
    let op = Bytes::from(vec![7; 128]);
    println!("one entry of 128 B, in ns; a write is proposed, accepted, and written to the file, unsynced\n");
    println!("| entries | write | read the oldest | in the middle | the newest | scan, 1 thread | 2 threads | |");
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut wanted = 10_000_u64;
    while wanted <= most {
        let mut log = Log::open(&disk);
        let missing = wanted.saturating_sub(log.len());
        log.write(missing.next_multiple_of(BATCH), &op);
        look(log, &op);
        wanted *= 10;
    }
}
