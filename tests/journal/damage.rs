//! Disks that damage data, fail, or are full.

use super::matrix::scripts;
use super::world::*;
use drave::disk::{Disk, DiskFile, Meter};
use drave::sim::disk::{Crash, SimDisk};
use drave::wal::{Fault, Journal, Options, ReadMode};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::num::NonZeroUsize;

fn rng() -> StdRng {
    StdRng::seed_from_u64(3)
}

/// The disk after a whole script and a sync, and its ledger.
fn run_and_sync(options: &Options, script: &[Step]) -> (SimDisk, Ledger) {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let script: Vec<Step> = script.iter().cloned().chain([Step::Sync]).collect();
    run(&disk, options, &script, &mut ledger).unwrap();
    (disk, ledger)
}

/// Flips one bit of each byte in turn: each flip must be detected, or change nothing in the recovered log.
pub fn every_flip(options: &Options, script: &[Step], with_marker: bool) -> Result<(u64, u64), String> {
    let (disk, ledger) = run_and_sync(options, script);
    if !with_marker {
        disk.remove("synced").unwrap();
    }
    flip_all(&disk, options, &ledger)
}

/// The same for a given disk. Returns how many flips were detected, and how many were harmless.
fn flip_all(disk: &SimDisk, options: &Options, ledger: &Ledger) -> Result<(u64, u64), String> {
    let (mut detected, mut harmless) = (0, 0);
    for name in files(disk).into_iter().filter(|name| !name.ends_with(".tmp")) {
        let size = disk.seen(&name).unwrap().len() as u64;
        for offset in 0..size {
            match flip_one(disk, options, ledger, &name, offset)? {
                true => detected += 1,
                false => harmless += 1,
            }
        }
    }
    Ok((detected, harmless))
}

/// Flips a bit of one byte. Returns whether recovery detected it; an undetected flip must be harmless.
fn flip_one(disk: &SimDisk, options: &Options, ledger: &Ledger, name: &str, offset: u64) -> Result<bool, String> {
    let disk = disk.fork();
    disk.crash(&mut rng(), Crash::Kill);
    disk.flip(name, offset, (offset % 8) as u8);
    let before = disk.seen(name).unwrap();
    match Journal::open(disk.clone(), options.clone(), Some(&founding())) {
        Ok((_, recovered)) => {
            ledger.clone().check(&recovered).map_err(|why| format!("{name} byte {offset}: {why}"))?;
            Ok(false)
        }
        Err(Fault::Corrupt { file, .. }) => {
            assert_eq!(disk.seen(name).unwrap(), before, "{file}: recovery changes no damaged file");
            Ok(true)
        }
        Err(fault) => Err(format!("{name} byte {offset}: {fault}")),
    }
}

#[test]
fn flipped_bit_is_detected_or_harmless() {
    for (name, script) in scripts() {
        let (detected, harmless) = every_flip(&options(), &script, true).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(detected > 500 && harmless > 500, "{name}: {detected} detected, {harmless} harmless");
    }
}

#[test]
fn confirmed_log_detects_flips_without_sync_marker() {
    for (name, mut script) in scripts() {
        script.push(Step::Confirm);
        every_flip(&options(), &script, false).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn zeroed_tail_is_damage() {
    let (disk, _) = run_and_sync(&options(), &scripts()[0].1);
    disk.crash(&mut rng(), Crash::Kill);
    let name = "0000000001.wal";
    let bytes = disk.seen(name).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    for zeroed in [8, 64, 300] {
        let disk = disk.fork();
        let mut file = disk.open(name).unwrap();
        file.write_at(end + 1 - zeroed, &vec![0; zeroed as usize]).unwrap();
        let opened = Journal::open(disk, options(), None);
        assert!(matches!(opened, Err(Fault::Corrupt { .. })), "the sync marker records a sync beyond the tail");
    }
}

#[test]
fn truncated_segment_is_damage_or_harmless() {
    let (disk, ledger) = run_and_sync(&options(), &scripts()[0].1);
    disk.crash(&mut rng(), Crash::Kill);
    let name = "0000000001.wal";
    let bytes = disk.seen(name).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert!(!end.is_multiple_of(8), "the last record has padding, and some cuts are within it");
    let (mut detected, mut harmless) = (0, 0);
    for size in 0..=end.next_multiple_of(8) {
        let disk = disk.fork();
        disk.remove(name).unwrap();
        let mut file = disk.create(name).unwrap();
        file.write_at(0, &bytes[..size]).unwrap();
        file.sync_all().unwrap();
        disk.sync_names().unwrap();
        match Journal::open(disk.fork(), options(), None) {
            Ok(_) => {
                survive(&disk, &options(), &ledger, Interruption::Kill)
                    .unwrap_or_else(|why| panic!("{size} bytes: {why}"));
                harmless += 1;
            }
            Err(Fault::Corrupt { .. }) => detected += 1,
            Err(fault) => panic!("{size} bytes: {fault}"),
        }
    }
    assert!(detected > 500 && harmless > 0, "{detected} detected, {harmless} harmless");
}

#[test]
fn any_missing_segment_is_damage() {
    let (disk, _) = run_and_sync(&options(), &scripts()[3].1);
    let segments: Vec<String> = files(&disk).into_iter().filter(|name| name.ends_with(".wal")).collect();
    assert!(segments.len() >= 4);
    for with_marker in [true, false] {
        for name in &segments {
            let disk = disk.fork();
            disk.crash(&mut rng(), Crash::Kill);
            disk.remove(name).unwrap();
            if !with_marker {
                disk.remove("synced").unwrap();
            }
            let opened = Journal::open(disk, options(), Some(&founding()));
            assert!(matches!(opened, Err(Fault::Corrupt { .. })), "{name} is missing, sync marker: {with_marker}");
        }
    }
}

#[test]
fn segment_of_another_disk_is_rejected() {
    let (disk, _) = run_and_sync(&options(), &scripts()[3].1);
    let (other, _) = run_and_sync(&Options { disk: drave::types::DiskId(10), ..options() }, &scripts()[3].1);
    disk.crash(&mut rng(), Crash::Kill);
    let other_bytes = other.seen("0000000002.wal").unwrap();
    let mut file = disk.open("0000000002.wal").unwrap();
    file.write_at(0, &other_bytes).unwrap();
    assert!(matches!(Journal::open(disk, options(), None), Err(Fault::Foreign(_))));
}

/// Each operation fails once in turn; the journal must keep everything that it reported as durable.
pub fn every_failure(options: &Options, script: &[Step]) -> Result<(), String> {
    let plain = SimDisk::new();
    run(&plain, options, script, &mut Ledger::default())?;
    for at in 0..plain.operations() {
        let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
        disk.fail_at(at);
        run(&disk, options, script, &mut ledger)?;
        for interruption in INTERRUPTIONS {
            survive(&disk, options, &ledger, interruption)
                .map_err(|why| format!("operation {at}, {interruption:?}: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn any_failed_operation_keeps_synced_writes() {
    for (name, script) in scripts() {
        every_failure(&options(), &script).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn full_disk_keeps_synced_writes() {
    for (name, script) in scripts() {
        let plain = SimDisk::new();
        run(&plain, &options(), &script, &mut Ledger::default()).unwrap();
        for capacity in (4096..plain.used() + 2048).step_by(512) {
            let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
            disk.set_capacity(Some(capacity));
            run(&disk, &options(), &script, &mut ledger).unwrap_or_else(|why| panic!("{name}: {why}"));
            disk.crash(&mut rng(), Crash::Kill);
            if ledger.promised > 0 {
                // The journal opens on the full disk, which is enough for reads and votes.
                drop(reopen(&disk, &options(), &mut ledger).unwrap_or_else(|why| panic!("{name}, {capacity}: {why}")));
            }
            disk.set_capacity(None);
            for interruption in INTERRUPTIONS {
                survive(&disk, &options(), &ledger, interruption)
                    .unwrap_or_else(|why| panic!("{name}, {capacity}: {why}"));
            }
        }
    }
}

#[test]
fn refuse_policy_accepts_tail_torn_in_this_boot() {
    let options = Options { segment_bytes: 8192, ..options() };
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let script = [Step::Write { term: 1, from: 1, to: 3, bytes: 200 }, Step::Sync];
    let plain = SimDisk::new();
    run(&plain, &options, &[], &mut Ledger::default()).unwrap();
    // The first write after the founding is a piece of the batch.
    disk.stop_at(drave::sim::disk::Stop { at: plain.operations(), bytes: 200 });
    run(&disk, &options, &script, &mut ledger).unwrap();
    let refusing = Options { torn_tail: drave::wal::TailPolicy::Refuse, ..options.clone() };
    // After a power loss, the batch may have been synced and then damaged.
    let refused = |seed: &u64| {
        let disk = disk.fork();
        disk.crash(&mut StdRng::seed_from_u64(*seed), Crash::Power);
        matches!(Journal::open(disk, refusing.clone(), None), Err(Fault::Corrupt { .. }))
    };
    assert!((0..30).filter(refused).count() > 0);
    // The process died and the kernel survived: the sync marker has everything that was acknowledged.
    disk.crash(&mut rng(), Crash::Kill);
    for options in [&refusing, &options] {
        let (_, recovered) = reopen(&disk.fork(), options, &mut ledger.clone()).unwrap();
        assert_eq!(recovered.notes.len(), 1, "{:?}", recovered.notes);
        assert!(recovered.notes[0].contains("torn at byte"), "{:?}", recovered.notes);
    }
}

#[test]
fn unreadable_sector_is_damage_with_file_and_offset() {
    let options = Options { segment_bytes: 8192, ..options() };
    let write = |from, to| [Step::Write { term: 1, from, to, bytes: 900 }, Step::Sync];
    let script: Vec<Step> = (0..8).flat_map(|n| write(3 * n + 1, 3 * n + 3)).collect();
    let (disk, ledger) = run_and_sync(&options, &script);
    let names: Vec<String> = files(&disk).into_iter().filter(|name| !name.ends_with(".tmp")).collect();
    assert!(names.iter().filter(|name| name.ends_with(".wal")).count() > 2, "{names:?}");
    let mut detected = 0;
    for name in names {
        for sector in 0..disk.seen(&name).unwrap().len() as u64 / 512 {
            let disk = disk.fork();
            disk.crash(&mut rng(), Crash::Kill);
            disk.lose_sector(&name, sector * 512);
            for threads in [1, 3] {
                let reading = ReadMode { threads: NonZeroUsize::new(threads).unwrap(), meter: &Meter::default() };
                match Journal::read(disk.fork(), options.clone(), Some(&founding()), reading) {
                    // No record follows the seal of a segment.
                    Ok((_, recovered)) => ledger.clone().check(&recovered).unwrap(),
                    Err(Fault::Corrupt { file, offset, what, lost, .. }) => {
                        assert_eq!((file.as_str(), offset), (name.as_str(), sector * 512 / 4096 * 4096));
                        assert!(what.contains("cannot read"), "{what}");
                        assert!(!lost.is_empty());
                        detected += 1;
                    }
                    Err(fault) => panic!("{name} sector {sector}: {fault}"),
                }
            }
        }
    }
    assert!(detected > 20, "{detected}");
}

#[test]
fn damage_to_recovered_partial_batch_is_detected() {
    let script = [
        Step::Write { term: 1, from: 1, to: 2, bytes: 100 },
        Step::Sync,
        Step::Write { term: 1, from: 3, to: 9, bytes: 200 },
        Step::Sync,
    ];
    let options = Options { segment_bytes: 8192, ..options() };
    let plain = SimDisk::new();
    run(&plain, &options, &script, &mut Ledger::default()).unwrap();
    for at in plain.operations() - 6..plain.operations() {
        // Killed within a batch of several pieces; recovery keeps the complete ones.
        let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
        disk.stop_at(drave::sim::disk::Stop { at, bytes: 300 });
        run(&disk, &options, &script, &mut ledger).unwrap();
        disk.crash(&mut rng(), Crash::Kill);
        let (mut journal, _) = reopen(&disk, &options, &mut ledger).unwrap();
        let name = "0000000001.wal";
        let end = disk.seen(name).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
        // The next batch has the number of the interrupted one: only its header distinguishes them.
        let [_, one, sync, ..] = &writes_after_restart(&ledger)[..] else { unreachable!("a vote, a write, a sync") };
        let rest = [one.clone(), sync.clone()];
        run_steps(&disk, &mut journal, &mut drave::wal::View::default(), &rest, &mut ledger).unwrap();
        drop(journal);
        disk.remove("synced").unwrap();
        for offset in 64..=end {
            flip_one(&disk, &options, &ledger, name, offset).unwrap_or_else(|why| panic!("stopped at {at}: {why}"));
        }
    }
}

/// Describes what recovery with that many threads finds on a disk.
fn recovery_result(threads: usize, disk: &SimDisk) -> Result<String, String> {
    let (meter, threads) = (Meter::default(), NonZeroUsize::new(threads).unwrap());
    let reading = ReadMode { threads, meter: &meter };
    let opened = Journal::read(disk.fork(), options(), Some(&founding()), reading);
    assert!(meter.done() <= meter.of(), "{meter:?}");
    match opened {
        Ok((_, recovered)) => Ok(format!("{recovered:?}")),
        Err(fault) => Err(fault.to_string()),
    }
}

#[test]
fn parallel_recovery_matches_sequential() {
    let (mut good, mut bad) = (0, 0);
    for (name, script) in scripts() {
        let (disk, _) = run_and_sync(&options(), &script);
        disk.crash(&mut rng(), Crash::Kill);
        let sequential = recovery_result(1, &disk).unwrap();
        assert_eq!(recovery_result(3, &disk), Ok(sequential), "{name}");
        for file in files(&disk).into_iter().filter(|file| file.ends_with(".wal")) {
            for offset in (0..disk.seen(&file).unwrap().len() as u64).step_by(3) {
                let disk = disk.fork();
                disk.flip(&file, offset, (offset % 8) as u8);
                let sequential = recovery_result(1, &disk);
                *(if sequential.is_ok() { &mut good } else { &mut bad }) += 1;
                assert_eq!(recovery_result(3, &disk), sequential, "{name}: {file} byte {offset}");
            }
        }
    }
    assert!(good > 500 && bad > 500, "{good} {bad}");
}

#[test]
fn parallel_recovery_reports_first_damaged_segment() {
    let (disk, _) = run_and_sync(&options(), &scripts()[3].1);
    disk.crash(&mut rng(), Crash::Kill);
    let segments: Vec<String> = files(&disk).into_iter().filter(|name| name.ends_with(".wal")).collect();
    for (at, first) in segments.iter().enumerate() {
        for second in &segments[at + 1..] {
            let disk = disk.fork();
            // Within the first batch, which fills that offset in every segment.
            [first, second].iter().for_each(|name| disk.flip(name, 300, 3));
            let found = recovery_result(1, &disk);
            assert!(found.as_ref().is_err_and(|fault| fault.starts_with(first.as_str())), "{found:?}");
            for threads in [2, 3, 9] {
                assert_eq!(recovery_result(threads, &disk), found, "{first} and {second}");
            }
        }
    }
}
