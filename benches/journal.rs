//! Compares appending and syncing batches with a plain write and fdatasync of as many bytes.
//!
//! Both alternate on the same disk and only one of them is counted, so that a slow minute of the disk affects both.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use drave::codec;
use drave::disk::fs::Syncs;
use drave::disk::{Disk, DiskFile, FsDisk};
use drave::types::*;
use drave::wal::{Journal, Options};
use std::time::{Duration, Instant};

/// Size of the raw file in bytes; after that, writing starts again at its beginning.
const FILE: u64 = 64 << 20;

/// Batch sizes, in bytes.
const SIZES: [usize; 4] = [128, 4 << 10, 64 << 10, 1 << 20];

/// A directory on a real disk; the system's directory for temporary files may be in memory.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::var("DRAVE_BENCH_DIR").unwrap_or(".".to_owned())).unwrap()
}

struct Raw {
    file: <FsDisk as Disk>::File,
    at: u64,
    bytes: Vec<u8>,
}

impl Raw {
    fn new(disk: &FsDisk, bytes: usize) -> Raw {
        let mut file = disk.create("raw").unwrap();
        file.allocate(FILE).unwrap();
        file.sync_all().unwrap();
        disk.sync_names().unwrap();
        Raw { file, at: 0, bytes: vec![7; bytes] }
    }

    fn step(&mut self) -> Duration {
        if self.at + self.bytes.len() as u64 > FILE {
            self.at = 0;
        }
        let begun = Instant::now();
        self.file.write_at(self.at, &self.bytes).unwrap();
        self.file.sync().unwrap();
        let took = begun.elapsed();
        self.at += self.bytes.len() as u64;
        took
    }
}

struct Ours {
    disk: FsDisk,
    journal: Journal<FsDisk>,
    last: Position,
    payload: Bytes,
    entries: u64,
    id: u64,
}

impl Ours {
    fn new(disk: &FsDisk, bytes: usize) -> Ours {
        let node = NodeId::new(1).unwrap();
        let membership = Membership::founding([(node, "127.0.0.1:7401".to_owned())]);
        let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
        let options = Options::new(node, ClusterId(1), DiskId(2));
        let (journal, _) = Journal::open(disk.clone(), options, Some(&base)).unwrap();
        let size = bytes.min(4096);
        let payload = Bytes::from(vec![7; size]);
        Ours { disk: disk.clone(), journal, last: Position::ZERO, payload, entries: (bytes / size) as u64, id: 0 }
    }

    fn step(&mut self) -> Duration {
        self.id += 1;
        let from = self.last.index.0 + 1;
        let entries = (from..from + self.entries)
            .map(|index| {
                let position = Position::new(Index(index), Term(1));
                codec::entry(position, ClusterTime(1), Payload::Opaque(self.payload.clone()))
            })
            .collect();
        let write = Write { id: WriteId(self.id), hard_state: None, base: None, entries };
        self.last = Position::new(Index(from + self.entries - 1), Term(1));
        let begun = Instant::now();
        self.journal.append(&write).unwrap();
        let report = self.journal.sync().unwrap();
        let took = begun.elapsed();
        // In a node, another thread does this. Nothing reads the sealed segments, so they are removed.
        if !report.sealed.is_empty() {
            drop(report);
            self.journal.release(self.last).unwrap();
        }
        if let Some(order) = self.journal.spare_wanted() {
            self.journal.spare_ready(order.prepare(&self.disk, || {}).unwrap());
        }
        took
    }
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(30).measurement_time(Duration::from_secs(4));
    for bytes in SIZES {
        let directory = directory();
        let disk = FsDisk::make(directory.path(), Syncs::Real).unwrap();
        let (mut raw, mut ours) = (Raw::new(&disk, bytes), Ours::new(&disk, bytes));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("write and fdatasync", bytes), |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| (raw.step(), ours.step()).0).sum());
        });
        group.bench_function(BenchmarkId::new("append and sync", bytes), |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| (raw.step(), ours.step()).1).sum());
        });
    }
    group.finish();
}

/// Prints both medians and their ratio, the figures least affected by slow minutes of a shared disk.
fn ratios() {
    for bytes in SIZES {
        let directory = directory();
        let disk = FsDisk::make(directory.path(), Syncs::Real).unwrap();
        let (mut raw, mut ours) = (Raw::new(&disk, bytes), Ours::new(&disk, bytes));
        let (mut raws, mut all): (Vec<Duration>, Vec<Duration>) = (0..1500).map(|_| (raw.step(), ours.step())).unzip();
        raws.sort_unstable();
        all.sort_unstable();
        let (raw, ours) = (raws[raws.len() / 2].as_secs_f64() * 1e6, all[all.len() / 2].as_secs_f64() * 1e6);
        println!(
            "{bytes:>8} bytes: write and fdatasync {raw:.0} us, append and sync {ours:.0} us, ratio {:.3}",
            ours / raw
        );
    }
}

criterion_group!(benches, appends);

fn main() {
    ratios();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
