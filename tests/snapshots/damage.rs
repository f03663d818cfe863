//! Snapshots whose bytes differ from those written: always an error, never an empty state.

use super::world::*;
use drave::disk::{Disk, DiskFile};
use drave::sim::disk::SimDisk;
use drave::snapshot::format::file_name;
use drave::snapshot::{Fault, Store};
use drave::types::ClusterId;

/// A disk with two snapshots, of which `damage` has damaged the newer one.
fn damaged(damage: impl Fn(&SimDisk, &str)) -> (SimDisk, Ledger) {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    run(&disk, &[Step::Take(5, 60), Step::Take(12, 60)], &mut ledger).unwrap();
    damage(&disk, &file_name(position(12)));
    (disk, ledger)
}

/// Asserts that the older snapshot is found, and that the damage of the newer one is reported.
fn assert_older_is_found(disk: &SimDisk, ledger: &Ledger, what: &str) {
    let before = disk.seen(&file_name(position(12)));
    let (_, mut found) = newest(disk).unwrap();
    let [Fault::Damaged { file, offset, .. }] = &found.damaged[..] else { panic!("{what}: {:?}", found.damaged) };
    assert_eq!(*file, file_name(position(12)));
    assert!(*offset <= before.as_ref().map_or(0, Vec::len) as u64, "{what}");
    assert_eq!(found.damaged[0].exit_code(), 5);
    found.damaged.clear();
    let older = Ledger { promised: 5, ..ledger.clone() };
    assert_eq!(older.check(&found), Ok(5), "{what}");
    assert_eq!(disk.seen(&file_name(position(12))), before, "{what}: the damaged file is unchanged");
}

/// nats-server#7556, #4410: a damaged snapshot was treated as no data.
#[test]
fn flipped_bit_is_always_detected() {
    let size = file(12, 60).len() as u64;
    for offset in 0..size {
        let (disk, ledger) = damaged(|disk, name| disk.flip(name, offset, (offset % 8) as u8));
        assert_older_is_found(&disk, &ledger, &format!("byte {offset}"));
    }
}

#[test]
fn truncated_or_extended_file_is_detected() {
    let size = file(12, 60).len() as u64;
    for cut in (0..size).step_by(3) {
        let (disk, ledger) = damaged(|disk, name| disk.open(name).unwrap().truncate(cut).unwrap());
        assert_older_is_found(&disk, &ledger, &format!("cut at {cut}"));
    }
    let (disk, ledger) = damaged(|disk, name| disk.open(name).unwrap().write_at(size, &[0]).unwrap());
    assert_older_is_found(&disk, &ledger, "one byte too many");
}

#[test]
fn snapshot_of_another_name_or_cluster_is_detected() {
    let (disk, ledger) = damaged(|disk, name| {
        let other = disk.seen(&file_name(position(5))).unwrap();
        let mut file = disk.open(name).unwrap();
        file.truncate(0).unwrap();
        file.write_at(0, &other).unwrap();
    });
    assert_older_is_found(&disk, &ledger, "the name of another snapshot");
    let (disk, _) = damaged(|_, _| {});
    let found = Store::open(disk, ClusterId(8)).unwrap().newest().unwrap();
    assert!(found.snapshot.is_none() && found.damaged.len() == 2, "{found:?}");
}

#[test]
fn damage_report_names_file_byte_and_advice() {
    let (disk, _) = damaged(|disk, name| disk.flip(name, 150, 3));
    let report = newest(&disk).unwrap().1.damaged[0].to_string();
    assert!(report.starts_with("000000000000000c-0000000000000002.snap: byte 1"), "{report}");
    assert!(report.contains("stored ") && report.ends_with("Nothing was changed"), "{report}");
}

#[test]
fn received_snapshot_is_published_only_if_intact() {
    let whole = file(12, 60);
    for offset in 0..whole.len() {
        let disk = SimDisk::new();
        let store = Store::open(disk.clone(), CLUSTER).unwrap();
        let mut sent = whole.clone();
        sent[offset] ^= 4;
        let received = receive(&store, 12, &sent, sent.len());
        assert!(matches!(received, Err(Fault::Damaged { .. })), "byte {offset}: {received:?}");
        assert_eq!(disk.list().unwrap(), Vec::<String>::new(), "the damaged file is removed");
        let again = receive(&store, 12, &whole, whole.len()).unwrap().unwrap();
        assert_eq!(again.bytes()[..], whole);
    }
    // An intact snapshot, but not the requested one.
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    assert!(matches!(receive(&store, 13, &whole, whole.len()), Err(Fault::Damaged { .. })));
}

#[test]
fn corrupt_partial_file_is_received_again_from_damage() {
    let whole = file(12, 60);
    for offset in 0..whole.len() / 2 {
        let disk = SimDisk::new();
        let store = Store::open(disk.clone(), CLUSTER).unwrap();
        receive(&store, 12, &whole, whole.len() / 2).unwrap();
        let part = format!("{}.part", file_name(position(12)));
        disk.flip(&part, offset as u64, 2);
        let incoming = store.incoming(position(12), whole.len() as u64).unwrap();
        assert!(incoming.at() <= offset as u64, "byte {offset}: {}", incoming.at());
        drop(incoming);
        let received = receive(&store, 12, &whole, whole.len()).unwrap().unwrap();
        assert_eq!(received.bytes()[..], whole);
    }
}
