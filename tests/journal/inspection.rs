//! Checks that the inspection of stored segments and recovery reach the same verdict: after every crash, and after
//! every flipped bit.

use super::matrix::scripts;
use super::world::*;
use bytes::Bytes;
use drave::disk::Disk;
use drave::sim::disk::{Crash, DiskStop, SimDisk};
use drave::wal::batches::ReaderState;
use drave::wal::format::{self, SegmentHeader};
use drave::wal::inspect::{Finding, Inspection};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::sync_marker::SyncMarker;
use drave::wal::tail::SegmentContext;
use drave::wal::{Fault, Journal, Options};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The verdict on a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Intact,
    Torn,
    Corrupt,
}

/// The verdict of recovery. `None` if recovery rejects the journal for a reason that no segment shows: the journal was
/// never created, or the sync marker has a later hard state than the log.
fn recovery_verdict(disk: &SimDisk, options: &Options) -> Option<Verdict> {
    match Journal::open(disk.fork(), options.clone(), None) {
        Ok((_, recovered)) => Some(if recovered.operator_notes.is_empty() { Verdict::Intact } else { Verdict::Torn }),
        Err(Fault::Corrupt { description, .. })
            if ["the log lacks a term or vote that was synced", "the journal of this node is missing"]
                .contains(&description.as_str()) =>
        {
            None
        }
        Err(Fault::Corrupt { .. }) => Some(Verdict::Corrupt),
        Err(fault) => panic!("{fault}"),
    }
}

/// The verdict of the inspection, segment by segment.
fn inspection_verdict(disk: &SimDisk, options: &Options) -> Verdict {
    let read_file = |name: &str| disk.read_file(name).map(Bytes::from);
    let numbers: Vec<u64> = file_names(disk).iter().filter_map(|name| format::file_number(name)).collect();
    let log_offset = read_file("synced").and_then(|bytes| SyncMarker::read(&bytes, options.disk).log_offset);
    let is_used = |number: u64| {
        let bytes = read_file(&format::file_name(number)).unwrap();
        Scan::new(bytes, format::salt(options.disk, number), None).any(|item| matches!(item, ScanItem::Frame(_)))
    };
    let (mut verdict, mut before) = (Verdict::Intact, ReaderState::default());
    for (at, number) in numbers.iter().copied().enumerate() {
        if at == 0 || numbers[at - 1] + 1 != number {
            (verdict, before) = (Verdict::Intact, ReaderState::before_segment(number));
        }
        let predecessors_released = number != 1 && (at == 0 || numbers[at - 1] + 1 != number);
        let bytes = read_file(&format::file_name(number)).unwrap();
        let Ok(header) = SegmentHeader::decode(&bytes) else {
            // Recovery reads no segment after the end of the log.
            if is_used(number) || before.log.is_none() {
                return Verdict::Corrupt;
            }
            continue;
        };
        let successor_in_use = numbers[at + 1..].iter().any(|next| is_used(*next));
        let context = SegmentContext {
            predecessors_released,
            ..SegmentContext::for_segment(&header, log_offset, successor_in_use)
        };
        let mut inspection = Inspection::new(bytes, header.salt(), context, before);
        for finding in inspection.by_ref() {
            match finding {
                Finding::Record(_) => {}
                Finding::TornBatch { .. } => verdict = Verdict::Torn,
                Finding::Damage { .. } => return Verdict::Corrupt,
            }
        }
        let successor_missing = inspection.is_sealed() && at + 1 == numbers.len();
        if successor_missing {
            return Verdict::Corrupt;
        }
        before = inspection.into_reader_state();
    }
    let last_number = numbers.last().copied().unwrap_or(0);
    if log_offset.is_some_and(|synced| synced.segment > last_number) { Verdict::Corrupt } else { verdict }
}

#[test]
fn inspection_matches_recovery_after_flipped_bit() {
    let mut verdict_counts = [0; 3];
    for (name, script) in scripts() {
        let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
        run_script(&disk, &options(), &script, &mut ledger).unwrap();
        disk.crash(&mut StdRng::seed_from_u64(3), Crash::Kill);
        for with_marker in [true, false] {
            if !with_marker {
                disk.remove("synced").unwrap();
            }
            for file in file_names(&disk).into_iter().filter(|file| file.ends_with(".wal")) {
                // The segment header is not flipped: it identifies the owner, which only recovery compares.
                for offset in format::SEGMENT_HEADER_BYTES as u64..disk.read_file(&file).unwrap().len() as u64 {
                    let flipped_disk = disk.fork();
                    flipped_disk.flip_bit(&file, offset, (offset % 8) as u8);
                    let Some(verdict) = recovery_verdict(&flipped_disk, &options()) else { continue };
                    assert_eq!(
                        inspection_verdict(&flipped_disk, &options()),
                        verdict,
                        "{name}: {file} byte {offset}, sync marker: {with_marker}"
                    );
                    verdict_counts[verdict as usize] += 1;
                }
            }
        }
    }
    assert!(verdict_counts.iter().all(|count| *count > 100), "verdicts intact, torn, corrupt: {verdict_counts:?}");
}

#[test]
fn inspection_matches_recovery_after_crash() {
    let mut torn_count = 0;
    for (name, script) in scripts() {
        let fault_free_disk = SimDisk::new();
        run_script(&fault_free_disk, &options(), &script, &mut Ledger::default()).unwrap();
        for (operation, seed) in
            (0..fault_free_disk.operation_count()).flat_map(|operation| (0..3).map(move |seed| (operation, seed)))
        {
            for bytes in [0, 8, 100, 600] {
                let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
                disk.stop_at(DiskStop { operation, written_bytes: bytes });
                run_script(&disk, &options(), &script, &mut ledger).unwrap();
                disk.crash(&mut StdRng::seed_from_u64(seed), if seed == 0 { Crash::Kill } else { Crash::Power });
                let Some(verdict) = recovery_verdict(&disk, &options()) else { continue };
                torn_count += u64::from(verdict == Verdict::Torn);
                assert_eq!(
                    inspection_verdict(&disk, &options()),
                    verdict,
                    "{name}: operation {operation} stops after {bytes} bytes, seed {seed}"
                );
            }
        }
    }
    assert!(torn_count > 20, "{torn_count} torn tails");
}
