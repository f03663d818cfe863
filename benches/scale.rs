//! The cost of a write, a catch-up read and a scan of the log, per entry, at several log lengths.
//!
//! One log grows, and is measured whenever it is ten times as long as before, up to `DRAVE_SCALE` entries (default: a
//! million). Nothing is synced, because the benchmark compares the work of the processor and not the disk.

use bytes::Bytes;
use drave::consensus::replica::{RecoveredState, Replica};
use drave::consensus::{Options as RaftOptions, Raft};
use drave::disk::fs::SyncMode;
use drave::disk::{FsDisk, Meter};
use drave::types::*;
use drave::wal::{self, Journal, Options, ReadMode, View};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

/// The number of entries that are proposed before they are persisted together.
const ENTRIES_PER_BATCH: u64 = 64;
/// Number of entries that one round writes or reads.
const OPERATIONS_PER_ROUND: u64 = 10_000;
/// The size of a segment in bytes. It is small, because the search for the end of the last segment costs the same
/// however many entries the segment holds, and would hide the cost of the other segments.
const SEGMENT_BYTES: u64 = 4 << 20;
/// How often each operation is timed. The fastest round is reported, as the one that other processes slowed down least.
const ROUNDS: usize = 7;

/// The log of a single-node cluster: the consensus core, the journal that it is written to, and the view through which
/// the journal's entries are read.
struct SingleNodeLog {
    disk: FsDisk,
    raft: Raft,
    journal: Journal<FsDisk>,
    view: View,
    now: Time,
}

/// Opens the journal, and scans its segments with this number of threads.
fn open_journal(disk: &FsDisk, threads: usize) -> (Journal<FsDisk>, wal::RecoveredLog) {
    let node = NodeId::new(1).unwrap();
    let membership = Membership::founding([(node, "127.0.0.1:7401".to_owned())]);
    let founding_point = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
    let options = Options { segment_bytes: SEGMENT_BYTES, ..Options::new(node, ClusterId(1), DiskId(2)) };
    let read_mode = ReadMode { thread_count: NonZeroUsize::new(threads).unwrap(), meter: &Meter::default() };
    Journal::open_with(disk.clone(), options, Some(&founding_point), read_mode).unwrap()
}

impl SingleNodeLog {
    fn open(disk: &FsDisk) -> SingleNodeLog {
        let (journal, opened) = open_journal(disk, 1);
        let recovered = RecoveredState {
            disk: None,
            hard_state: opened.hard_state,
            base: opened.base,
            entries: opened.entries.iter().map(|head| (head.term, u64::from(head.bytes))).collect(),
            configurations: opened.configurations,
            time: opened.last_time,
            applied_index: Index::ZERO,
            kept_fragments: Vec::new(),
        };
        let replica = Replica::recover(NodeId::new(1).unwrap(), RaftOptions::default(), recovered, 7);
        let raft = Raft::new(replica, Time::ZERO);
        let mut log = SingleNodeLog { disk: disk.clone(), now: raft.deadline(), raft, journal, view: opened.view };
        log.raft.tick(log.now);
        while !log.raft.leads() || log.raft.log().commit() < log.raft.log().last().index {
            log.persist_pending_write();
        }
        log
    }

    fn len(&self) -> u64 {
        self.raft.log().last().index.0
    }

    /// Persists the core's pending write, if any: does the work of the node, of its log thread and of the thread that
    /// prepares spare segments, one after the other.
    fn persist_pending_write(&mut self) {
        let Some(write) = self.raft.ready(self.now).write else { return };
        self.view.push(&write);
        self.journal.append(&write).unwrap();
        let report = self.journal.sync().unwrap();
        self.raft.handle_persisted(self.now, report.last_durable);
        report.sealed_segments.into_iter().for_each(|sealed| self.view.add_sealed(sealed).unwrap());
        if let Some(spare) = self.journal.next_spare_order() {
            self.journal.add_spare(spare.prepare(&self.disk, || {}).unwrap());
        }
    }

    /// Proposes `count` entries in batches, and persists each batch.
    fn append_entries(&mut self, count: u64, op: &Bytes) {
        for _ in 0..count / ENTRIES_PER_BATCH {
            for _ in 0..ENTRIES_PER_BATCH {
                self.raft.propose(self.now, op.clone()).unwrap();
            }
            self.persist_pending_write();
        }
    }

    /// Reads up to `OPERATIONS_PER_ROUND` entries after `from`, in the batches that a leader sends to a lagging
    /// follower. Returns the number of entries read.
    fn read_in_batches(&self, from: u64) -> u64 {
        let upto = (from + OPERATIONS_PER_ROUND).min(self.len());
        let (mut next, mut count) = (from, 0);
        while next < upto {
            let batch_end = self.raft.log().append_end(Index(next), 1 << 20, 8192).min(Index(upto));
            let entries = self.view.entries(Index(next).next()..=batch_end, u64::MAX).unwrap();
            assert_eq!(entries.len() as u64, batch_end.0 - next);
            count += entries.len() as u64;
            next = batch_end.0;
        }
        count
    }
}

/// Runs `round` [`ROUNDS`] times; returns the lowest time per operation, in nanoseconds. `round` returns its duration
/// and the number of its operations.
fn best_ns_per_operation(mut round: impl FnMut() -> (Duration, u64)) -> f64 {
    let ns_per_operation = |_| {
        let (took, count) = round();
        took.as_nanos() as f64 / count as f64
    };
    (0..ROUNDS).map(ns_per_operation).fold(f64::MAX, f64::min)
}

fn time_operations(count: u64, operations: impl FnOnce()) -> (Duration, u64) {
    let started = Instant::now();
    operations();
    (started.elapsed(), count)
}

/// Prints a line of the table: the cost per entry at the present length of the log.
fn print_row(mut log: SingleNodeLog, op: &Bytes) {
    let len = log.len();
    let write_ns = best_ns_per_operation(|| {
        time_operations(OPERATIONS_PER_ROUND / ENTRIES_PER_BATCH * ENTRIES_PER_BATCH, || {
            log.append_entries(OPERATIONS_PER_ROUND, op)
        })
    });
    let read_ns_from = |from: u64| {
        best_ns_per_operation(|| {
            let started = Instant::now();
            let count = log.read_in_batches(from);
            (started.elapsed(), count)
        })
    };
    let (oldest, middle, newest) =
        (read_ns_from(0), read_ns_from(len / 2), read_ns_from(log.len() - OPERATIONS_PER_ROUND));
    let SingleNodeLog { disk, raft, journal, view, .. } = log;
    let (entries, bytes) = (raft.log().last().index.0, raft.log().bytes(Index::ZERO, raft.log().last().index));
    drop((raft, journal, view));
    let scan_ns = |threads| best_ns_per_operation(|| time_operations(entries, || drop(open_journal(&disk, threads))));
    let (one_thread_ns, two_threads_ns) = (scan_ns(1), scan_ns(2));
    let gb_per_second = bytes as f64 / entries as f64 / two_threads_ns;
    print!("| {len} | {write_ns:.0} | {oldest:.0} | {middle:.0} | {newest:.0} |");
    println!(" {one_thread_ns:.0} | {two_threads_ns:.0} | {gb_per_second:.2} GB/s |");
}

fn main() {
    let entries_max = std::env::var("DRAVE_SCALE").map_or(1_000_000, |text| text.parse().unwrap());
    let parent_directory = std::env::var("DRAVE_BENCH_DIR").unwrap_or(".".to_owned());
    let directory = tempfile::tempdir_in(Path::new(&parent_directory)).unwrap();
    let disk = FsDisk::open_or_create(directory.path(), SyncMode::Skipped).unwrap();
    let op = Bytes::from(vec![7; 128]);
    println!("nanoseconds per entry of 128 B; a write is a proposal, its acceptance and a file write without a sync\n");
    println!(
        "| entries | write | read the oldest | in the middle | the newest | scan, 1 thread | 2 threads | scan rate |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut target_entries = 10_000_u64;
    while target_entries <= entries_max {
        let mut log = SingleNodeLog::open(&disk);
        let missing_entries = target_entries.saturating_sub(log.len());
        log.append_entries(missing_entries.next_multiple_of(ENTRIES_PER_BATCH), &op);
        print_row(log, &op);
        target_entries *= 10;
    }
}
