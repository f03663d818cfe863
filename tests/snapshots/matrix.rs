//! A crash after every operation of the disk; every operation failing once; a full disk.

use super::world::*;
use drave::sim::disk::{Crash, SimDisk, Stop};
use drave::snapshot::{ChunkKind, Fault, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The interruptions after a script: all, or two for a large script, which takes long.
fn interruptions(name: &str) -> &'static [Interruption] {
    if name == "large" { &[Interruption::Power(1), Interruption::StartThenPower(4)] } else { &INTERRUPTIONS }
}

/// More bytes than are written between two syncs.
const LARGE: usize = 3 << 19;

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
        ("large", vec![Take(5, LARGE), Receive(12, LARGE), Prune(12)]),
    ]
}

#[test]
fn crash_after_any_operation_leaves_old_or_new_snapshot() {
    let mut operations = 0;
    for (name, script) in scripts() {
        for at in 0.. {
            let bytes = [0, 1, 100, 512, 1600][at as usize % 5];
            let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
            disk.stop_at(Stop { at, bytes });
            let outcome = run(&disk, &script, &mut ledger);
            for interruption in interruptions(name) {
                survive(&disk, &ledger, *interruption)
                    .unwrap_or_else(|why| panic!("{name}, stopped at {at}, {interruption:?}: {why}"));
            }
            if !disk.stopped() {
                outcome.unwrap_or_else(|fault| panic!("{name}: {fault}"));
                operations += at;
                break;
            }
            assert!(outcome.is_err(), "{name}: operation {at} did not happen, but the script succeeded");
        }
    }
    assert!(operations > 150, "{operations}");
}

#[test]
fn any_failed_operation_is_reported_and_loses_nothing() {
    for (name, script) in scripts() {
        let plain = SimDisk::new();
        run(&plain, &script, &mut Ledger::default()).unwrap();
        for at in 0..plain.operations() {
            let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
            disk.fail_at(at);
            let outcome = run(&disk, &script, &mut ledger);
            assert!(matches!(outcome, Err(Fault::Io { .. })), "{name}: operation {at} failed: {outcome:?}");
            for interruption in interruptions(name) {
                survive(&disk, &ledger, *interruption)
                    .unwrap_or_else(|why| panic!("{name}, {at}, {interruption:?}: {why}"));
            }
        }
    }
}

#[test]
fn full_disk_is_reported_and_loses_nothing() {
    for (name, script) in scripts().into_iter().filter(|(name, _)| *name != "large") {
        let plain = SimDisk::new();
        run(&plain, &script, &mut Ledger::default()).unwrap();
        let mut full = 0;
        for capacity in (0..3 * file(5, 700).len() as u64).step_by(97) {
            let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
            disk.set_capacity(Some(capacity));
            match run(&disk, &script, &mut ledger) {
                Ok(()) => continue,
                Err(Fault::Full { .. }) => full += 1,
                Err(fault) => panic!("{name}, {capacity}: {fault}"),
            }
            // The node continues with the snapshot it has, and fully recovers once there is space again.
            ledger.check(&newest(&disk).unwrap().1).unwrap_or_else(|why| panic!("{name}, {capacity}: {why}"));
            disk.set_capacity(None);
            for interruption in INTERRUPTIONS {
                survive(&disk, &ledger, interruption)
                    .unwrap_or_else(|why| panic!("{name}, {capacity}, {interruption:?}: {why}"));
            }
        }
        assert!(full > 3, "{name}: {full}");
    }
}

/// baidu/braft#423, dgraph#2707: an interrupted transfer restarted at zero, or never.
#[test]
fn killed_receiver_resumes_transfer() {
    let whole = file(12, 300_000);
    let disk = SimDisk::new();
    let mut transferred = 0;
    for run_number in 1..=11 {
        let store = Store::open(disk.clone(), CLUSTER).unwrap();
        let mut incoming = store.incoming(position(12), whole.len() as u64).unwrap();
        let upto = whole.len() * run_number / 11;
        let at = incoming.at() as usize;
        transferred += upto - at;
        incoming.put(at as u64, &whole[at..upto]).unwrap();
        if incoming.is_complete() {
            assert_eq!(incoming.finish().unwrap().bytes()[..], whole);
        }
        disk.crash(&mut StdRng::seed_from_u64(run_number as u64), Crash::Kill);
    }
    // At worst each kill loses the incomplete chunk.
    let longest = pieces(12, 300_000).iter().map(|(_, body)| body.len()).max().unwrap() + 12;
    assert!(transferred <= whole.len() + 10 * longest, "{transferred} of {}", whole.len());
    assert!(transferred < 4 * whole.len(), "{transferred} of {}", whole.len());
}

#[test]
fn receiver_ignores_duplicate_early_and_excess_bytes() {
    let whole = file(12, 500);
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    let mut incoming = store.incoming(position(12), whole.len() as u64).unwrap();
    assert_eq!(incoming.put(10, &whole[10..20]).unwrap(), 0, "a gap");
    assert_eq!(incoming.put(0, &whole[..30]).unwrap(), 30);
    assert_eq!(incoming.put(0, &whole[..20]).unwrap(), 30, "received already");
    assert_eq!(incoming.put(20, &whole[20..40]).unwrap(), 40, "half of it received already");
    let more = [&whole[40..], b"and more"].concat();
    assert_eq!(incoming.put(40, &more).unwrap(), whole.len() as u64);
    assert_eq!(incoming.put(u64::MAX, b"x").unwrap(), whole.len() as u64);
    assert!(incoming.is_complete());
    assert_eq!(incoming.finish().unwrap().bytes()[..], whole);
}

#[test]
fn prune_requires_intact_snapshot_to_keep() {
    let disk = SimDisk::new();
    let mut ledger = Ledger::default();
    run(&disk, &[Step::Take(5, 60), Step::Take(6, 60)], &mut ledger).unwrap();
    disk.flip(&drave::snapshot::format::file_name(position(6)), 200, 1);
    let store = Store::open(disk, CLUSTER).unwrap();
    assert!(matches!(store.prune(position(6)), Err(Fault::Damaged { .. })), "the snapshot to keep must be intact");
    assert!(store.prune(position(7)).is_err(), "the snapshot to keep must exist");
    assert_eq!(store.list().unwrap().len(), 2);
    let mut writer = store.writer(&header(8)).unwrap();
    writer.put(ChunkKind::Machine, b"x").unwrap();
    assert!(writer.written() > 100);
    assert_eq!(
        store.prune(position(5)).unwrap(),
        Vec::<String>::new(),
        "a snapshot that is being written is not removed"
    );
    writer.finish().unwrap();
    assert_eq!(store.prune(position(8)).unwrap().len(), 2);
}
