//! Runs scripts with a crash after every disk operation, and with a write that is torn at every byte.

use super::world::*;
use drave::sim::disk::{DiskStop, SimDisk};
use drave::wal::Options;

/// Short scripts, each of which exercises another part of the journal.
pub fn scripts() -> Vec<(&'static str, Vec<Step>)> {
    use Step::*;
    let write = |term, from, to, bytes| Write { term, from, to, bytes };
    vec![
        (
            "appends",
            vec![Vote { term: 1, vote: 1 }, write(1, 1, 2, 60), Sync, write(1, 3, 3, 200), Sync, write(1, 4, 6, 20)],
        ),
        (
            "truncations",
            vec![write(1, 1, 6, 40), Sync, write(2, 4, 4, 40), Sync, write(3, 2, 5, 10), write(4, 3, 3, 0), Sync],
        ),
        (
            "hard states",
            vec![
                Vote { term: 1, vote: 1 },
                Sync,
                Vote { term: 2, vote: 0 },
                Sync,
                Vote { term: 2, vote: 3 },
                Sync,
                write(2, 1, 1, 30),
                Vote { term: 3, vote: 1 },
                Sync,
            ],
        ),
        (
            "rotations",
            vec![
                write(1, 1, 6, 150),
                Sync,
                write(1, 7, 12, 150),
                Sync,
                write(2, 9, 20, 100),
                Sync,
                write(2, 21, 21, 1500),
                Sync,
            ],
        ),
        (
            "releases",
            vec![
                write(1, 1, 10, 150),
                Members { term: 1, index: 11, count: 4 },
                Sync,
                Release(7),
                write(1, 12, 30, 150),
                Sync,
                Release(25),
                write(1, 31, 44, 150),
                Sync,
                Release(44),
                write(2, 45, 60, 150),
                Sync,
            ],
        ),
        (
            "confirms",
            vec![write(1, 1, 2, 60), Sync, Confirm, Confirm, write(1, 3, 3, 60), Confirm, write(2, 3, 4, 60), Sync],
        ),
        (
            "restarts",
            vec![
                write(1, 1, 9, 120),
                Sync,
                Restart { index: 30, term: 2 },
                write(2, 31, 33, 60),
                Sync,
                Restart { index: 31, term: 4 },
                Sync,
                Release(31),
                write(4, 32, 50, 100),
                Sync,
            ],
        ),
    ]
}

/// Runs a script until the disk stops, and checks the journal after each of the `interruptions`. Returns whether the
/// disk stopped.
fn run_and_crash(
    options: &Options,
    script: &[Step],
    stop: DiskStop,
    interruptions: &[Interruption],
) -> Result<bool, String> {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    disk.stop_at(stop);
    run_script(&disk, options, script, &mut ledger)?;
    for interruption in interruptions {
        check_after_interruption(&disk, options, &ledger, *interruption)
            .map_err(|why| format!("{stop:?}, {interruption:?}: {why}"))?;
    }
    Ok(disk.stopped())
}

/// Stops a script at each disk operation in turn. Returns the number of operations.
pub fn crash_at_every_operation(options: &Options, script: &[Step]) -> Result<u64, String> {
    for operation in 0.. {
        let written_bytes = [0, 1, 100, 512, 600][operation as usize % 5];
        if !run_and_crash(options, script, DiskStop { operation, written_bytes }, &INTERRUPTIONS)? {
            return Ok(operation);
        }
    }
    unreachable!("every script ends after a finite number of disk operations")
}

#[test]
fn crash_after_any_operation_keeps_synced_writes() {
    let mut operation_count = 0;
    for (name, script) in scripts() {
        match crash_at_every_operation(&options(), &script) {
            Ok(count) => operation_count += count,
            Err(why) => panic!("{name}: {why}"),
        }
    }
    assert!(operation_count > 200, "{operation_count} crashes");
}

#[test]
fn write_torn_at_any_byte_keeps_synced_writes() {
    let script = [
        Step::Write { term: 1, from: 1, to: 2, bytes: 30 },
        Step::Sync,
        Step::Write { term: 1, from: 3, to: 9, bytes: 50 },
        Step::Vote { term: 2, vote: 1 },
        Step::Sync,
    ];
    let fault_free_disk = SimDisk::new();
    run_script(&fault_free_disk, &options(), &script, &mut Ledger::default()).unwrap();
    // The last operations of the script write the last batch, which is torn at every byte.
    let operation_count = fault_free_disk.operation_count();
    for operation in operation_count - 6..operation_count {
        for bytes in 0..900 {
            let interruptions =
                [Interruption::Kill, Interruption::PowerLoss(bytes), Interruption::KillThenPowerLoss(bytes)];
            run_and_crash(&options(), &script, DiskStop { operation, written_bytes: bytes as usize }, &interruptions)
                .unwrap();
        }
    }
}

/// Runs a random script for each seed, stops the disk at a random operation, and checks the journal.
pub fn run_random_crashes(options: &Options, seeds: std::ops::Range<u64>) -> Result<(), String> {
    for seed in seeds {
        let script = random_script(seed);
        let fault_free_disk = SimDisk::new();
        run_script(&fault_free_disk, options, &script, &mut Ledger::default())?;
        let stop_operation = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (fault_free_disk.operation_count() + 1);
        let stop = DiskStop { operation: stop_operation, written_bytes: (seed % 700) as usize };
        let interruptions = [
            Interruption::PowerLoss(seed),
            Interruption::KillThenPowerLoss(seed),
            Interruption::PowerLossDuringStart(seed % 7, seed),
        ];
        run_and_crash(options, &script, stop, &interruptions).map_err(|why| format!("seed {seed}: {why}"))?;
    }
    Ok(())
}

#[test]
fn random_crashes_keep_synced_writes() {
    run_random_crashes(&options(), 0..3000).unwrap();
}

#[test]
#[ignore = "takes minutes; for nightly runs and changes of the format"]
fn many_random_crashes_keep_synced_writes() {
    run_random_crashes(&options(), 3000..200_000).unwrap();
}
