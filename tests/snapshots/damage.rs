//! Damaged snapshots: each is reported as a fault, and never taken for an empty state.

use super::world::*;
use drave::disk::{Disk, DiskFile};
use drave::sim::disk::SimDisk;
use drave::snapshot::format::file_name;
use drave::snapshot::store::check_known_formats;
use drave::snapshot::{Fault, Store};
use drave::types::ClusterId;

/// A disk with two snapshots, of which `damage` has damaged the newer one.
fn disk_with_damage(damage: impl Fn(&SimDisk, &str)) -> (SimDisk, Ledger) {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    run_script(&disk, &[Step::Take(5, 60), Step::Take(12, 60)], &mut ledger).unwrap();
    damage(&disk, &file_name(position(12)));
    (disk, ledger)
}

/// Asserts that the older snapshot is found, and that the damage of the newer one is reported.
fn assert_older_snapshot_is_found(disk: &SimDisk, ledger: &Ledger, description: &str) {
    let bytes_before = disk.read_file(&file_name(position(12)));
    let (_, mut found) = find_newest(disk).unwrap();
    let [Fault::Damaged { file, offset, .. }] = &found.newer_faults[..] else {
        panic!("{description}: {:?}", found.newer_faults)
    };
    assert_eq!(*file, file_name(position(12)));
    assert!(*offset <= bytes_before.as_ref().map_or(0, Vec::len) as u64, "{description}");
    assert_eq!(found.newer_faults[0].exit_code(), 5);
    found.newer_faults.clear();
    let ledger_of_older_snapshot = Ledger { newest_published: 5, ..ledger.clone() };
    assert_eq!(ledger_of_older_snapshot.check(&found), Ok(5), "{description}");
    assert_eq!(disk.read_file(&file_name(position(12))), bytes_before, "{description}: the damaged file is unchanged");
}

/// nats-server#7556, #4410: a damaged snapshot was treated as no data.
#[test]
fn flipped_bit_is_always_detected() {
    let size = snapshot_file(12, 60).len() as u64;
    for offset in 0..size {
        let (disk, ledger) = disk_with_damage(|disk, name| disk.flip_bit(name, offset, (offset % 8) as u8));
        assert_older_snapshot_is_found(&disk, &ledger, &format!("byte {offset}"));
    }
}

/// A device that fails a read for a moment: the snapshot is intact, and the log behind it must not be given up.
#[test]
fn read_error_that_passes_is_no_damage() {
    for sector in (0..snapshot_file(12, 60).len() as u64).step_by(512) {
        let (disk, ledger) = disk_with_damage(|disk, name| disk.fail_next_read(name, sector));
        let (_, found) = find_newest(&disk).unwrap();
        assert_eq!(ledger.check(&found), Ok(12), "sector at {sector}");
    }
}

/// The file of a snapshot with a header of a later version, intact by its checksum.
fn with_later_version(file: &[u8]) -> Vec<u8> {
    let header_length = u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
    let mut file = file.to_vec();
    file[8..12].copy_from_slice(&9u32.to_le_bytes());
    let checksum = crc32fast::hash(&file[..header_length - 4]);
    file[header_length - 4..header_length].copy_from_slice(&checksum.to_le_bytes());
    file
}

/// An older program must not take a later format for damage: the node would give up its log and set the file aside.
#[test]
fn snapshot_of_a_later_version_is_refused_and_not_damage() {
    let (disk, _) = disk_with_damage(|disk, name| {
        let file = with_later_version(&disk.read_file(name).unwrap());
        disk.open(name).unwrap().write_at(0, &file).unwrap();
    });
    let fault = check_known_formats(&disk, 1).unwrap_err();
    assert_eq!(fault.exit_code(), 78);
    for text in [find_newest(&disk).unwrap_err(), fault.to_string()] {
        assert!(text.contains("has format 9, and this program knows up to 2: a newer drave wrote it"), "{text}");
    }
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    let file = with_later_version(&snapshot_file(12, 60));
    assert!(matches!(receive(&store, 12, &file, file.len()), Err(Fault::Newer(_))));
}

#[test]
fn snapshot_of_an_unknown_feature_level_is_refused() {
    let (disk, _) = disk_with_damage(|_, _| {});
    check_known_formats(&disk, 1).unwrap();
    let store = Store::open(disk.clone(), CLUSTER).unwrap().with_feature_level_max(0);
    let file = snapshot_file(13, 60);
    let faults = [
        check_known_formats(&disk, 0).unwrap_err(),
        store.newest().unwrap_err(),
        receive(&store, 13, &file, file.len()).unwrap_err(),
    ];
    for fault in faults {
        assert!(matches!(&fault, Fault::Newer(why) if why.contains("has feature level 1")), "{fault}");
    }
}

#[test]
fn truncated_or_extended_file_is_detected() {
    let size = snapshot_file(12, 60).len() as u64;
    for cut in (0..size).step_by(3) {
        let (disk, ledger) = disk_with_damage(|disk, name| disk.open(name).unwrap().truncate(cut).unwrap());
        assert_older_snapshot_is_found(&disk, &ledger, &format!("truncated to {cut} bytes"));
    }
    let (disk, ledger) = disk_with_damage(|disk, name| disk.open(name).unwrap().write_at(size, &[0]).unwrap());
    assert_older_snapshot_is_found(&disk, &ledger, "extended by one byte");
}

#[test]
fn snapshot_under_another_name_or_of_another_cluster_is_rejected() {
    let (disk, ledger) = disk_with_damage(|disk, name| {
        let other_snapshot = disk.read_file(&file_name(position(5))).unwrap();
        let mut file = disk.open(name).unwrap();
        file.truncate(0).unwrap();
        file.write_at(0, &other_snapshot).unwrap();
    });
    assert_older_snapshot_is_found(&disk, &ledger, "a copy of another snapshot");
    let (disk, _) = disk_with_damage(|_, _| {});
    let newest = Store::open(disk, ClusterId(8)).unwrap().newest().unwrap();
    assert!(newest.snapshot.is_none() && newest.newer_faults.len() == 2, "{newest:?}");
}

#[test]
fn damage_report_names_file_byte_and_advice() {
    let (disk, _) = disk_with_damage(|disk, name| disk.flip_bit(name, 150, 3));
    let report = find_newest(&disk).unwrap().1.newer_faults[0].to_string();
    assert!(report.starts_with("000000000000000c-0000000000000002.snap: byte 1"), "{report}");
    assert!(report.contains("stored ") && report.ends_with("Nothing was changed"), "{report}");
}

#[test]
fn received_snapshot_is_published_only_if_intact() {
    let file = snapshot_file(12, 60);
    for offset in 0..file.len() {
        let disk = SimDisk::new();
        let store = Store::open(disk.clone(), CLUSTER).unwrap();
        let mut damaged_file = file.clone();
        damaged_file[offset] ^= 4;
        let received = receive(&store, 12, &damaged_file, damaged_file.len());
        assert!(matches!(received, Err(Fault::Damaged { .. })), "byte {offset}: {received:?}");
        assert_eq!(disk.list().unwrap(), Vec::<String>::new(), "the damaged file is removed");
        let received = receive(&store, 12, &file, file.len()).unwrap().unwrap();
        assert_eq!(received.bytes()[..], file);
    }
    // The received snapshot is intact, but is not the announced one.
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    assert!(matches!(receive(&store, 13, &file, file.len()), Err(Fault::Damaged { .. })));
}

#[test]
fn transfer_resumes_before_the_damage_in_its_partial_file() {
    let file = snapshot_file(12, 60);
    for offset in 0..file.len() / 2 {
        let disk = SimDisk::new();
        let store = Store::open(disk.clone(), CLUSTER).unwrap();
        receive(&store, 12, &file, file.len() / 2).unwrap();
        let partial_name = format!("{}.part", file_name(position(12)));
        disk.flip_bit(&partial_name, offset as u64, 2);
        let incoming = store.open_incoming(position(12), file.len() as u64).unwrap();
        assert!(incoming.received_bytes() <= offset as u64, "byte {offset}: {}", incoming.received_bytes());
        drop(incoming);
        let received = receive(&store, 12, &file, file.len()).unwrap().unwrap();
        assert_eq!(received.bytes()[..], file);
    }
}
