//! Runs scripts of snapshot actions with a crash after each disk operation, with each operation failing once, and on a
//! full disk.

use super::world::*;
use drave::sim::disk::{Crash, DiskStop, SimDisk};
use drave::snapshot::{ChunkKind, Fault, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The interruptions to check after a script. The script `large` is slow, so only two are checked after it.
fn interruptions(script_name: &str) -> &'static [Interruption] {
    if script_name == "large" {
        &[Interruption::PowerLoss(1), Interruption::StartThenPowerLoss(4)]
    } else {
        &INTERRUPTIONS
    }
}

/// The size in bytes of a piece that is larger than the interval between two syncs.
const LARGE_PIECE_BYTES: usize = 3 << 19;

fn scripts() -> Vec<(&'static str, Vec<Step>)> {
    use Step::*;
    vec![
        ("taking", vec![Take(5, 700), Take(12, 700), Prune(12)]),
        ("abandoning", vec![Take(5, 700), Abandon(12, 700), Take(12, 700), Abandon(20, 90), Take(21, 700), Prune(21)]),
        ("receiving", vec![Receive(5, 700), Receive(12, 700), Prune(12)]),
        ("receiving in two parts", vec![Take(5, 700), ReceiveHalf(12, 700), Receive(12, 700), Prune(12)]),
        (
            "a newer snapshot",
            vec![Take(5, 700), ReceiveHalf(12, 700), ReceiveHalf(14, 700), Take(16, 700), Prune(16), Receive(18, 700)],
        ),
        ("the same snapshot again", vec![Take(5, 700), Receive(5, 700), Take(5, 700), Prune(5), Take(6, 700)]),
        ("pruning", vec![Take(1, 60), Take(2, 60), Take(3, 60), ReceiveHalf(9, 60), Prune(2), Take(4, 60), Prune(4)]),
        ("large", vec![Take(5, LARGE_PIECE_BYTES), Receive(12, LARGE_PIECE_BYTES), Prune(12)]),
    ]
}

#[test]
fn crash_after_any_operation_leaves_old_or_new_snapshot() {
    let mut crash_count = 0;
    for (name, script) in scripts() {
        for at in 0.. {
            let written_bytes = [0, 1, 100, 512, 1600][at as usize % 5];
            let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
            disk.stop_at(DiskStop { operation: at, written_bytes });
            let outcome = run_script(&disk, &script, &mut ledger);
            for interruption in interruptions(name) {
                check_after_interruption(&disk, &ledger, *interruption)
                    .unwrap_or_else(|why| panic!("{name}, stopped at operation {at}, {interruption:?}: {why}"));
            }
            if !disk.stopped() {
                outcome.unwrap_or_else(|fault| panic!("{name}: {fault}"));
                crash_count += at;
                break;
            }
            assert!(outcome.is_err(), "{name}: the disk stopped at operation {at}, but the script succeeded");
        }
    }
    assert!(crash_count > 150, "{crash_count} crashes");
}

#[test]
fn any_failed_operation_is_reported_and_loses_no_published_snapshot() {
    for (name, script) in scripts() {
        let fault_free_disk = SimDisk::new();
        run_script(&fault_free_disk, &script, &mut Ledger::default()).unwrap();
        for at in 0..fault_free_disk.operation_count() {
            let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
            disk.fail_operation(at);
            let outcome = run_script(&disk, &script, &mut ledger);
            assert!(matches!(outcome, Err(Fault::Io { .. })), "{name}: operation {at} failed: {outcome:?}");
            for interruption in interruptions(name) {
                check_after_interruption(&disk, &ledger, *interruption)
                    .unwrap_or_else(|why| panic!("{name}, operation {at} failed, {interruption:?}: {why}"));
            }
        }
    }
}

#[test]
fn full_disk_is_reported_and_loses_no_published_snapshot() {
    for (name, script) in scripts().into_iter().filter(|(name, _)| *name != "large") {
        let fault_free_disk = SimDisk::new();
        run_script(&fault_free_disk, &script, &mut Ledger::default()).unwrap();
        let mut full_disk_count = 0;
        for capacity in (0..3 * snapshot_file(5, 700).len() as u64).step_by(97) {
            let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
            disk.set_capacity(Some(capacity));
            match run_script(&disk, &script, &mut ledger) {
                Ok(()) => continue,
                Err(Fault::Full { .. }) => full_disk_count += 1,
                Err(fault) => panic!("{name}, capacity {capacity}: {fault}"),
            }
            // The node continues with its newest published snapshot, and takes snapshots again once there is space.
            ledger
                .check(&find_newest(&disk).unwrap().1)
                .unwrap_or_else(|why| panic!("{name}, capacity {capacity}: {why}"));
            disk.set_capacity(None);
            for interruption in INTERRUPTIONS {
                check_after_interruption(&disk, &ledger, interruption)
                    .unwrap_or_else(|why| panic!("{name}, capacity {capacity}, {interruption:?}: {why}"));
            }
        }
        assert!(full_disk_count > 3, "{name}: the disk was full in {full_disk_count} runs");
    }
}

/// baidu/braft#423, dgraph#2707: an interrupted transfer restarted at zero, or never.
#[test]
fn killed_receiver_resumes_transfer() {
    let file = snapshot_file(12, 300_000);
    let disk = SimDisk::new();
    let mut transferred_bytes = 0;
    for run_number in 1..=11 {
        let store = Store::open(disk.clone(), CLUSTER).unwrap();
        let mut incoming = store.open_incoming(position(12), file.len() as u64).unwrap();
        let upto = file.len() * run_number / 11;
        let received_bytes = incoming.received_bytes() as usize;
        transferred_bytes += upto - received_bytes;
        incoming.write_bytes(received_bytes as u64, &file[received_bytes..upto]).unwrap();
        if incoming.is_complete() {
            assert_eq!(incoming.finish().unwrap().bytes()[..], file);
        }
        disk.crash(&mut StdRng::seed_from_u64(run_number as u64), Crash::Kill);
    }
    // Each kill loses at most the incomplete chunk.
    let longest_chunk_bytes = pieces(12, 300_000).iter().map(|(_, body)| body.len()).max().unwrap() + 12;
    assert!(
        transferred_bytes <= file.len() + 10 * longest_chunk_bytes,
        "{transferred_bytes} bytes sent for a file of {} bytes",
        file.len()
    );
    assert!(transferred_bytes < 4 * file.len(), "{transferred_bytes} bytes sent for a file of {} bytes", file.len());
}

#[test]
fn receiver_ignores_duplicate_early_and_excess_bytes() {
    let file = snapshot_file(12, 500);
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    let mut incoming = store.open_incoming(position(12), file.len() as u64).unwrap();
    assert_eq!(incoming.write_bytes(10, &file[10..20]).unwrap(), 0, "bytes after a gap are ignored");
    assert_eq!(incoming.write_bytes(0, &file[..30]).unwrap(), 30);
    assert_eq!(incoming.write_bytes(0, &file[..20]).unwrap(), 30, "bytes that were received before are ignored");
    assert_eq!(incoming.write_bytes(20, &file[20..40]).unwrap(), 40, "only the new half is received");
    let piece_with_excess = [&file[40..], b"and more"].concat();
    assert_eq!(incoming.write_bytes(40, &piece_with_excess).unwrap(), file.len() as u64);
    assert_eq!(incoming.write_bytes(u64::MAX, b"x").unwrap(), file.len() as u64);
    assert!(incoming.is_complete());
    assert_eq!(incoming.finish().unwrap().bytes()[..], file);
}

#[test]
fn prune_fails_if_the_snapshot_to_keep_is_not_intact() {
    let disk = SimDisk::new();
    let mut ledger = Ledger::default();
    run_script(&disk, &[Step::Take(5, 60), Step::Take(6, 60)], &mut ledger).unwrap();
    disk.flip_bit(&drave::snapshot::format::file_name(position(6)), 200, 1);
    let store = Store::open(disk, CLUSTER).unwrap();
    assert!(matches!(store.prune(position(6)), Err(Fault::Damaged { .. })), "the snapshot to keep must be intact");
    assert!(store.prune(position(7)).is_err(), "the snapshot to keep must exist");
    assert_eq!(store.list().unwrap().len(), 2);
    let mut writer = store.create_writer(&header(8)).unwrap();
    writer.write_piece(ChunkKind::Machine, b"x").unwrap();
    assert!(writer.written_bytes() > 100);
    assert_eq!(
        store.prune(position(5)).unwrap(),
        Vec::<String>::new(),
        "a snapshot that is being written is not removed"
    );
    writer.finish().unwrap();
    assert_eq!(store.prune(position(8)).unwrap().len(), 2);
}
