//! The journal on disks that damage data, fail, or are full.

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

/// Runs a whole script and a sync. Returns the disk and the ledger.
fn run_and_sync(options: &Options, script: &[Step]) -> (SimDisk, Ledger) {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let script: Vec<Step> = script.iter().cloned().chain([Step::Sync]).collect();
    run_script(&disk, options, &script, &mut ledger).unwrap();
    (disk, ledger)
}

/// Flips one bit of each byte in turn: each flip must be detected, or change nothing in the recovered log. Returns how
/// many flips were detected, and how many were harmless.
pub fn flip_every_byte(options: &Options, script: &[Step], with_marker: bool) -> Result<(u64, u64), String> {
    let (disk, ledger) = run_and_sync(options, script);
    if !with_marker {
        disk.remove("synced").unwrap();
    }
    flip_bytes_of_disk(&disk, options, &ledger)
}

/// Flips one bit of each byte of a disk in turn. Returns how many flips were detected, and how many were harmless.
fn flip_bytes_of_disk(disk: &SimDisk, options: &Options, ledger: &Ledger) -> Result<(u64, u64), String> {
    let (mut detected, mut harmless) = (0, 0);
    for name in file_names(disk).into_iter().filter(|name| !name.ends_with(".tmp")) {
        let size = disk.read_file(&name).unwrap().len() as u64;
        for offset in 0..size {
            match flip_byte(disk, options, ledger, &name, offset)? {
                true => detected += 1,
                false => harmless += 1,
            }
        }
    }
    Ok((detected, harmless))
}

/// Flips a bit of one byte. Returns whether recovery detected the flip; an undetected flip must be harmless.
fn flip_byte(disk: &SimDisk, options: &Options, ledger: &Ledger, name: &str, offset: u64) -> Result<bool, String> {
    let disk = disk.fork();
    disk.crash(&mut rng(), Crash::Kill);
    disk.flip_bit(name, offset, (offset % 8) as u8);
    let damaged_bytes = disk.read_file(name).unwrap();
    match Journal::open(disk.clone(), options.clone(), Some(&founding())) {
        Ok((_, recovered)) => {
            ledger.clone().check(&recovered).map_err(|why| format!("{name} byte {offset}: {why}"))?;
            Ok(false)
        }
        Err(Fault::Corrupt { file, .. }) => {
            assert_eq!(disk.read_file(name).unwrap(), damaged_bytes, "{file}: recovery changes no damaged file");
            Ok(true)
        }
        Err(fault) => Err(format!("{name} byte {offset}: {fault}")),
    }
}

#[test]
fn flipped_bit_is_detected_or_harmless() {
    for (name, script) in scripts() {
        let (detected, harmless) =
            flip_every_byte(&options(), &script, true).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(detected > 500 && harmless > 500, "{name}: {detected} detected, {harmless} harmless");
    }
}

#[test]
fn flipped_bit_is_detected_without_sync_marker_once_the_sync_was_confirmed() {
    for (name, mut script) in scripts() {
        script.push(Step::Confirm);
        flip_every_byte(&options(), &script, false).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn zeroed_tail_of_synced_batch_is_damage() {
    let (disk, _) = run_and_sync(&options(), &scripts()[0].1);
    disk.crash(&mut rng(), Crash::Kill);
    let name = "0000000001.wal";
    let bytes = disk.read_file(name).unwrap();
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
    let bytes = disk.read_file(name).unwrap();
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
                check_after_interruption(&disk, &options(), &ledger, Interruption::Kill)
                    .unwrap_or_else(|why| panic!("truncated to {size} bytes: {why}"));
                harmless += 1;
            }
            Err(Fault::Corrupt { .. }) => detected += 1,
            Err(fault) => panic!("truncated to {size} bytes: {fault}"),
        }
    }
    assert!(detected > 500 && harmless > 0, "{detected} detected, {harmless} harmless");
}

#[test]
fn any_missing_segment_is_damage() {
    let (disk, _) = run_and_sync(&options(), &scripts()[3].1);
    let segments: Vec<String> = file_names(&disk).into_iter().filter(|name| name.ends_with(".wal")).collect();
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
    let foreign_segment = other.read_file("0000000002.wal").unwrap();
    let mut file = disk.open("0000000002.wal").unwrap();
    file.write_at(0, &foreign_segment).unwrap();
    assert!(matches!(Journal::open(disk, options(), None), Err(Fault::Foreign(_))));
}

/// Each operation fails once in turn; the journal must keep everything that it reported as durable.
pub fn fail_every_operation(options: &Options, script: &[Step]) -> Result<(), String> {
    let fault_free_disk = SimDisk::new();
    run_script(&fault_free_disk, options, script, &mut Ledger::default())?;
    for at in 0..fault_free_disk.operation_count() {
        let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
        disk.fail_operation(at);
        run_script(&disk, options, script, &mut ledger)?;
        for interruption in INTERRUPTIONS {
            check_after_interruption(&disk, options, &ledger, interruption)
                .map_err(|why| format!("operation {at} failed, {interruption:?}: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn any_failed_operation_keeps_synced_writes() {
    for (name, script) in scripts() {
        fail_every_operation(&options(), &script).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn full_disk_keeps_synced_writes() {
    for (name, script) in scripts() {
        let fault_free_disk = SimDisk::new();
        run_script(&fault_free_disk, &options(), &script, &mut Ledger::default()).unwrap();
        for capacity in (4096..fault_free_disk.used_bytes() + 2048).step_by(512) {
            let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
            disk.set_capacity(Some(capacity));
            run_script(&disk, &options(), &script, &mut ledger).unwrap_or_else(|why| panic!("{name}: {why}"));
            disk.crash(&mut rng(), Crash::Kill);
            if ledger.durable_count > 0 {
                // The journal opens on the full disk, which is enough for reads and votes.
                drop(
                    reopen(&disk, &options(), &mut ledger)
                        .unwrap_or_else(|why| panic!("{name}, capacity {capacity}: {why}")),
                );
            }
            disk.set_capacity(None);
            for interruption in INTERRUPTIONS {
                check_after_interruption(&disk, &options(), &ledger, interruption)
                    .unwrap_or_else(|why| panic!("{name}, capacity {capacity}: {why}"));
            }
        }
    }
}

#[test]
fn refuse_policy_accepts_tail_torn_in_this_boot() {
    let options = Options { segment_bytes: 8192, ..options() };
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let script = [Step::Write { term: 1, from: 1, to: 3, bytes: 200 }, Step::Sync];
    let fault_free_disk = SimDisk::new();
    run_script(&fault_free_disk, &options, &[], &mut Ledger::default()).unwrap();
    // The first disk operation after the creation of the journal writes the batch.
    disk.stop_at(drave::sim::disk::DiskStop { operation: fault_free_disk.operation_count(), written_bytes: 200 });
    run_script(&disk, &options, &script, &mut ledger).unwrap();
    let refuse_options = Options { torn_tail: drave::wal::TailPolicy::Refuse, ..options.clone() };
    // After a power loss, the batch may have been synced and then damaged.
    let is_rejected = |seed: &u64| {
        let disk = disk.fork();
        disk.crash(&mut StdRng::seed_from_u64(*seed), Crash::Power);
        matches!(Journal::open(disk, refuse_options.clone(), None), Err(Fault::Corrupt { .. }))
    };
    assert!((0..30).filter(is_rejected).count() > 0);
    // The process died and the kernel survived: the sync marker covers everything that was acknowledged.
    disk.crash(&mut rng(), Crash::Kill);
    for options in [&refuse_options, &options] {
        let (_, recovered) = reopen(&disk.fork(), options, &mut ledger.clone()).unwrap();
        assert_eq!(recovered.operator_notes.len(), 1, "{:?}", recovered.operator_notes);
        assert!(recovered.operator_notes[0].contains("torn at byte"), "{:?}", recovered.operator_notes);
    }
}

#[test]
fn unreadable_sector_is_damage_with_file_and_offset() {
    let options = Options { segment_bytes: 8192, ..options() };
    let write = |from, to| [Step::Write { term: 1, from, to, bytes: 900 }, Step::Sync];
    let script: Vec<Step> = (0..8).flat_map(|n| write(3 * n + 1, 3 * n + 3)).collect();
    let (disk, ledger) = run_and_sync(&options, &script);
    let names: Vec<String> = file_names(&disk).into_iter().filter(|name| !name.ends_with(".tmp")).collect();
    assert!(names.iter().filter(|name| name.ends_with(".wal")).count() > 2, "{names:?}");
    let mut detected_count = 0;
    for name in names {
        for sector in 0..disk.read_file(&name).unwrap().len() as u64 / 512 {
            let disk = disk.fork();
            disk.crash(&mut rng(), Crash::Kill);
            disk.lose_sector(&name, sector * 512);
            for threads in [1, 3] {
                let read_mode =
                    ReadMode { thread_count: NonZeroUsize::new(threads).unwrap(), meter: &Meter::default() };
                match Journal::open_with(disk.fork(), options.clone(), Some(&founding()), read_mode) {
                    // The unreadable sector is after the seal of a segment, where no record is.
                    Ok((_, recovered)) => ledger.clone().check(&recovered).unwrap(),
                    Err(Fault::Corrupt { file, offset, description, lost, .. }) => {
                        assert_eq!((file.as_str(), offset), (name.as_str(), sector * 512 / 4096 * 4096));
                        assert!(description.contains("cannot read"), "{description}");
                        assert!(!lost.is_empty());
                        detected_count += 1;
                    }
                    Err(fault) => panic!("{name} sector {sector}: {fault}"),
                }
            }
        }
    }
    assert!(detected_count > 20, "{detected_count} unreadable sectors detected");
}

#[test]
fn damage_to_a_batch_recovered_in_part_is_detected() {
    let script = [
        Step::Write { term: 1, from: 1, to: 2, bytes: 100 },
        Step::Sync,
        Step::Write { term: 1, from: 3, to: 9, bytes: 200 },
        Step::Sync,
    ];
    let options = Options { segment_bytes: 8192, ..options() };
    let fault_free_disk = SimDisk::new();
    run_script(&fault_free_disk, &options, &script, &mut Ledger::default()).unwrap();
    for operation in fault_free_disk.operation_count() - 6..fault_free_disk.operation_count() {
        // The process is killed while it writes a batch of several pieces; recovery keeps the complete pieces.
        let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
        disk.stop_at(drave::sim::disk::DiskStop { operation, written_bytes: 300 });
        run_script(&disk, &options, &script, &mut ledger).unwrap();
        disk.crash(&mut rng(), Crash::Kill);
        let (mut journal, _) = reopen(&disk, &options, &mut ledger).unwrap();
        let name = "0000000001.wal";
        let end = disk.read_file(name).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
        // The next batch has the same number as the interrupted batch: only the batch headers distinguish the two.
        let [_, one, sync, ..] = &writes_after_restart(&ledger)[..] else {
            unreachable!("the script after a restart begins with a vote, a write and a sync")
        };
        let next_steps = [one.clone(), sync.clone()];
        run_steps(&disk, &mut journal, &mut drave::wal::View::default(), &next_steps, &mut ledger).unwrap();
        drop(journal);
        disk.remove("synced").unwrap();
        for offset in 64..=end {
            flip_byte(&disk, &options, &ledger, name, offset)
                .unwrap_or_else(|why| panic!("stopped at operation {operation}: {why}"));
        }
    }
}

/// Describes what recovery with that many threads finds on a disk.
fn recovery_result(threads: usize, disk: &SimDisk) -> Result<String, String> {
    let (meter, thread_count) = (Meter::default(), NonZeroUsize::new(threads).unwrap());
    let read_mode = ReadMode { thread_count, meter: &meter };
    let opened = Journal::open_with(disk.fork(), options(), Some(&founding()), read_mode);
    assert!(meter.read_bytes() <= meter.total_bytes(), "{meter:?}");
    match opened {
        Ok((_, recovered)) => Ok(format!("{recovered:?}")),
        Err(fault) => Err(fault.to_string()),
    }
}

#[test]
fn parallel_recovery_matches_sequential() {
    let (mut opened, mut rejected) = (0, 0);
    for (name, script) in scripts() {
        let (disk, _) = run_and_sync(&options(), &script);
        disk.crash(&mut rng(), Crash::Kill);
        let sequential_result = recovery_result(1, &disk).unwrap();
        assert_eq!(recovery_result(3, &disk), Ok(sequential_result), "{name}");
        for file in file_names(&disk).into_iter().filter(|file| file.ends_with(".wal")) {
            for offset in (0..disk.read_file(&file).unwrap().len() as u64).step_by(3) {
                let disk = disk.fork();
                disk.flip_bit(&file, offset, (offset % 8) as u8);
                let sequential_result = recovery_result(1, &disk);
                *(if sequential_result.is_ok() { &mut opened } else { &mut rejected }) += 1;
                assert_eq!(recovery_result(3, &disk), sequential_result, "{name}: {file} byte {offset}");
            }
        }
    }
    assert!(opened > 500 && rejected > 500, "{opened} opened, {rejected} rejected");
}

#[test]
fn parallel_recovery_reports_first_damaged_segment() {
    let (disk, _) = run_and_sync(&options(), &scripts()[3].1);
    disk.crash(&mut rng(), Crash::Kill);
    let segments: Vec<String> = file_names(&disk).into_iter().filter(|name| name.ends_with(".wal")).collect();
    for (at, first) in segments.iter().enumerate() {
        for second in &segments[at + 1..] {
            let disk = disk.fork();
            // Offset 300 is within the first batch of every segment.
            [first, second].iter().for_each(|name| disk.flip_bit(name, 300, 3));
            let sequential_result = recovery_result(1, &disk);
            assert!(
                sequential_result.as_ref().is_err_and(|fault| fault.starts_with(first.as_str())),
                "{sequential_result:?}"
            );
            for threads in [2, 3, 9] {
                assert_eq!(recovery_result(threads, &disk), sequential_result, "{first} and {second} are damaged");
            }
        }
    }
}

/// A start takes over a file that was cut right after its last record, or one in which a repair has used the last bytes.
/// The seal then extends the file, and the new size must be durable before anything in the next segment is (seed
/// 3000003528).
#[test]
fn segment_without_room_for_its_seal_survives_a_power_loss() {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let write = |from, to| Step::Write { term: 1, from, to, bytes: 150 };
    let (mut journal, recovered) = Journal::open(disk.clone(), options(), Some(&founding())).unwrap();
    let mut view = recovered.view;
    run_steps(&disk, &mut journal, &mut view, &[write(1, 3), Step::Sync], &mut ledger).unwrap();
    disk.crash(&mut rng(), Crash::Kill);
    let name = "0000000001.wal";
    let bytes = disk.read_file(name).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut file = disk.open(name).unwrap();
    file.truncate(end.next_multiple_of(8) as u64).unwrap();
    file.sync_all().unwrap();
    let (mut journal, recovered) = Journal::open(disk.clone(), options(), None).unwrap();
    let mut view = recovered.view;
    run_steps(&disk, &mut journal, &mut view, &[write(4, 4), Step::Sync], &mut ledger).unwrap();
    let (_, recovered) = Journal::open(disk.durable_copy(), options(), None).unwrap();
    ledger.check(&recovered).unwrap();
}
