//! The inspection of stored segments reaches the same verdict as recovery: after every crash, and after every flipped
//! bit.

use super::matrix::scripts;
use super::world::*;
use bytes::Bytes;
use drave::disk::Disk;
use drave::sim::disk::{Crash, SimDisk, Stop};
use drave::wal::batches::Continuation;
use drave::wal::format::{self, SegmentHeader};
use drave::wal::inspect::{Finding, Inspection};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::sync_marker::SyncMarker;
use drave::wal::tail::Surroundings;
use drave::wal::{Fault, Journal, Options};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The verdict on a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Whole,
    Torn,
    Corrupt,
}

/// The verdict of recovery. `None` if recovery rejects the journal for a reason that no segment shows: it was not
/// founded, or the sync marker has a later hard state than the log.
fn recovery_verdict(disk: &SimDisk, options: &Options) -> Option<Verdict> {
    match Journal::open(disk.fork(), options.clone(), None) {
        Ok((_, recovered)) => Some(if recovered.notes.is_empty() { Verdict::Whole } else { Verdict::Torn }),
        Err(Fault::Corrupt { what, .. })
            if ["the log lacks a term or vote that was synced", "the journal of this node is missing"]
                .contains(&what.as_str()) =>
        {
            None
        }
        Err(Fault::Corrupt { .. }) => Some(Verdict::Corrupt),
        Err(fault) => panic!("{fault}"),
    }
}

/// The verdict of the inspection, segment by segment.
fn inspection_verdict(disk: &SimDisk, options: &Options) -> Verdict {
    let read = |name: &str| disk.seen(name).map(Bytes::from);
    let numbers: Vec<u64> = files(disk).iter().filter_map(|name| format::file_number(name)).collect();
    let place = read("synced").and_then(|bytes| SyncMarker::read(&bytes, options.disk).place);
    let is_used = |number: u64| {
        let bytes = read(&format::file_name(number)).unwrap();
        Scan::new(bytes, format::salt(options.disk, number), None).any(|item| matches!(item, ScanItem::Frame(_)))
    };
    let (mut verdict, mut before) = (Verdict::Whole, Continuation::default());
    for (at, number) in numbers.iter().copied().enumerate() {
        if at == 0 || numbers[at - 1] + 1 != number {
            (verdict, before) = (Verdict::Whole, Continuation::before(number));
        }
        let oldest = number != 1 && (at == 0 || numbers[at - 1] + 1 != number);
        let bytes = read(&format::file_name(number)).unwrap();
        let Ok(header) = SegmentHeader::decode(&bytes) else {
            // Recovery reads no segment after the end of the log.
            if is_used(number) || before.log.is_none() {
                return Verdict::Corrupt;
            }
            continue;
        };
        let followed = numbers[at + 1..].iter().any(|next| is_used(*next));
        let surroundings = Surroundings { oldest, ..Surroundings::of(&header, place, followed) };
        let mut inspection = Inspection::new(bytes, header.salt(), surroundings, before);
        for finding in inspection.by_ref() {
            match finding {
                Finding::Record(_) => {}
                Finding::Torn { .. } => verdict = Verdict::Torn,
                Finding::Bad { .. } => return Verdict::Corrupt,
            }
        }
        let missing = inspection.sealed() && at + 1 == numbers.len();
        if missing {
            return Verdict::Corrupt;
        }
        before = inspection.continuation();
    }
    let last = numbers.last().copied().unwrap_or(0);
    if place.is_some_and(|place| place.segment > last) { Verdict::Corrupt } else { verdict }
}

#[test]
fn inspection_matches_recovery_after_flipped_bit() {
    let mut counts = [0; 3];
    for (name, script) in scripts() {
        let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
        run(&disk, &options(), &script, &mut ledger).unwrap();
        disk.crash(&mut StdRng::seed_from_u64(3), Crash::Kill);
        for with_marker in [true, false] {
            if !with_marker {
                disk.remove("synced").unwrap();
            }
            for file in files(&disk).into_iter().filter(|file| file.ends_with(".wal")) {
                // The header identifies the owner, which only recovery compares.
                for offset in format::SEGMENT_HEADER as u64..disk.seen(&file).unwrap().len() as u64 {
                    let flipped = disk.fork();
                    flipped.flip(&file, offset, (offset % 8) as u8);
                    let Some(verdict) = recovery_verdict(&flipped, &options()) else { continue };
                    assert_eq!(
                        inspection_verdict(&flipped, &options()),
                        verdict,
                        "{name}: {file} byte {offset}, {with_marker}"
                    );
                    counts[verdict as usize] += 1;
                }
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 100), "whole, torn, corrupt: {counts:?}");
}

#[test]
fn inspection_matches_recovery_after_crash() {
    let mut torn = 0;
    for (name, script) in scripts() {
        let plain = SimDisk::new();
        run(&plain, &options(), &script, &mut Ledger::default()).unwrap();
        for (at, seed) in (0..plain.operations()).flat_map(|at| (0..3).map(move |seed| (at, seed))) {
            for bytes in [0, 8, 100, 600] {
                let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
                disk.stop_at(Stop { at, bytes });
                run(&disk, &options(), &script, &mut ledger).unwrap();
                disk.crash(&mut StdRng::seed_from_u64(seed), if seed == 0 { Crash::Kill } else { Crash::Power });
                let Some(verdict) = recovery_verdict(&disk, &options()) else { continue };
                torn += u64::from(verdict == Verdict::Torn);
                assert_eq!(
                    inspection_verdict(&disk, &options()),
                    verdict,
                    "{name}: operation {at}, {bytes} bytes, {seed}"
                );
            }
        }
    }
    assert!(torn > 20, "{torn} torn tails");
}
