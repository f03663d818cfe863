//! Compares appending and syncing batches with a plain write and fdatasync of as many bytes.
//!
//! The two operations alternate on the same disk, and each benchmark times one of them, so that a slow minute of the
//! disk affects both.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use drave::codec;
use drave::disk::fs::SyncMode;
use drave::disk::{Disk, DiskFile, FsDisk};
use drave::types::*;
use drave::wal::{Journal, Options};
use std::time::{Duration, Instant};

/// Size of the raw file, in bytes. A write that does not fit before its end goes to its beginning.
const RAW_FILE_BYTES: u64 = 64 << 20;

/// Batch sizes, in bytes.
const BATCH_SIZES: [usize; 4] = [128, 4 << 10, 64 << 10, 1 << 20];

/// A directory on a real disk; the system's directory for temporary files may be in memory.
fn bench_directory() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::var("DRAVE_BENCH_DIR").unwrap_or(".".to_owned())).unwrap()
}

/// A preallocated file to which blocks of one size are written and synced, to compare the journal with.
struct RawFile {
    file: <FsDisk as Disk>::File,
    offset: u64,
    block: Vec<u8>,
}

impl RawFile {
    fn new(disk: &FsDisk, block_bytes: usize) -> RawFile {
        let mut file = disk.create("raw").unwrap();
        file.allocate(RAW_FILE_BYTES).unwrap();
        file.sync_all().unwrap();
        disk.sync_names().unwrap();
        RawFile { file, offset: 0, block: vec![7; block_bytes] }
    }

    fn write_and_sync(&mut self) -> Duration {
        if self.offset + self.block.len() as u64 > RAW_FILE_BYTES {
            self.offset = 0;
        }
        let started = Instant::now();
        self.file.write_at(self.offset, &self.block).unwrap();
        self.file.sync().unwrap();
        let took = started.elapsed();
        self.offset += self.block.len() as u64;
        took
    }
}

/// A journal to which batches of one size are appended.
struct JournalWriter {
    disk: FsDisk,
    journal: Journal<FsDisk>,
    last_position: Position,
    payload: Bytes,
    entries_per_batch: u64,
    last_write_id: u64,
}

impl JournalWriter {
    fn new(disk: &FsDisk, batch_bytes: usize) -> JournalWriter {
        let node = NodeId::new(1).unwrap();
        let membership = Membership::founding([(node, "127.0.0.1:7401".to_owned())]);
        let founding_point = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
        let options = Options::new(node, ClusterId(1), DiskId(2));
        let (journal, _) = Journal::open(disk.clone(), options, Some(&founding_point)).unwrap();
        let payload_bytes = batch_bytes.min(4096);
        let payload = Bytes::from(vec![7; payload_bytes]);
        JournalWriter {
            disk: disk.clone(),
            journal,
            last_position: Position::ZERO,
            payload,
            entries_per_batch: (batch_bytes / payload_bytes) as u64,
            last_write_id: 0,
        }
    }

    fn append_and_sync(&mut self) -> Duration {
        self.last_write_id += 1;
        let first_index = self.last_position.index.0 + 1;
        let entries = (first_index..first_index + self.entries_per_batch)
            .map(|index| {
                let position = Position::new(Index(index), Term(1));
                codec::entry(position, ClusterTime(1), Payload::Opaque(self.payload.clone()))
            })
            .collect();
        let write = Write { id: WriteId(self.last_write_id), hard_state: None, base: None, entries };
        self.last_position = Position::new(Index(first_index + self.entries_per_batch - 1), Term(1));
        let started = Instant::now();
        self.journal.append(&write).unwrap();
        let sync_report = self.journal.sync().unwrap();
        let took = started.elapsed();
        // In a node, another thread releases segments and prepares spare ones. This benchmark reads no
        // sealed segment, so it releases them at once.
        if !sync_report.sealed_segments.is_empty() {
            drop(sync_report);
            self.journal.release(self.last_position).unwrap();
        }
        if let Some(spare) = self.journal.next_spare_order() {
            self.journal.add_spare(spare.prepare(&self.disk, || {}).unwrap());
        }
        took
    }
}

fn bench_appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(30).measurement_time(Duration::from_secs(4));
    for bytes in BATCH_SIZES {
        let directory = bench_directory();
        let disk = FsDisk::open_or_create(directory.path(), SyncMode::Executed).unwrap();
        let (mut raw, mut journal) = (RawFile::new(&disk, bytes), JournalWriter::new(&disk, bytes));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("write and fdatasync", bytes), |bencher| {
            bencher
                .iter_custom(|rounds| (0..rounds).map(|_| (raw.write_and_sync(), journal.append_and_sync()).0).sum());
        });
        group.bench_function(BenchmarkId::new("append and sync", bytes), |bencher| {
            bencher
                .iter_custom(|rounds| (0..rounds).map(|_| (raw.write_and_sync(), journal.append_and_sync()).1).sum());
        });
    }
    group.finish();
}

/// For each batch size, prints the median times of the raw write and of the journal append, and their ratio: slow
/// minutes of a shared disk affect medians least.
fn print_ratios_to_raw_writes() {
    for bytes in BATCH_SIZES {
        let directory = bench_directory();
        let disk = FsDisk::open_or_create(directory.path(), SyncMode::Executed).unwrap();
        let (mut raw, mut journal) = (RawFile::new(&disk, bytes), JournalWriter::new(&disk, bytes));
        let (mut raw_times, mut journal_times): (Vec<Duration>, Vec<Duration>) =
            (0..1500).map(|_| (raw.write_and_sync(), journal.append_and_sync())).unzip();
        raw_times.sort_unstable();
        journal_times.sort_unstable();
        let (raw, journal) = (
            raw_times[raw_times.len() / 2].as_secs_f64() * 1e6,
            journal_times[journal_times.len() / 2].as_secs_f64() * 1e6,
        );
        println!(
            "{bytes:>8} bytes: write and fdatasync {raw:.0} us, append and sync {journal:.0} us, ratio {:.3}",
            journal / raw
        );
    }
}

criterion_group!(benches, bench_appends);

fn main() {
    print_ratios_to_raw_writes();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
