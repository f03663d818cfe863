//! Tests of the simulated disk's faults.

use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn new_file(disk: &SimDisk) -> SimFile {
    let mut file = disk.create("a").unwrap();
    file.allocate(4096).unwrap();
    file.sync_all().unwrap();
    disk.sync_names().unwrap();
    file
}

#[test]
fn power_loss_keeps_any_subset_of_whole_sectors() {
    let mut contents_after_power_loss = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new();
        new_file(&disk).write_at(0, &[7; 1024]).unwrap();
        disk.crash(&mut StdRng::seed_from_u64(seed), Crash::Power);
        let bytes = disk.read_file("a").unwrap();
        for sector in bytes.chunks(SECTOR_BYTES) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "each sector holds either its old bytes or its new bytes"
            );
        }
        contents_after_power_loss.insert((bytes[0], bytes[512]));
    }
    assert_eq!(
        contents_after_power_loss.len(),
        4,
        "each of four outcomes occurs: both sectors survive, only the first, only the second, or neither"
    );
}

#[test]
fn killed_process_leaves_writes_visible_but_not_durable() {
    let disk = SimDisk::new();
    let mut file = new_file(&disk);
    file.write_at(0, b"words").unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    disk.crash(&mut rng, Crash::Kill);
    assert!(file.sync().is_err(), "a file handle of a killed process cannot sync");
    assert_eq!(&disk.read_file("a").unwrap()[..5], b"words");
    assert_eq!(&disk.durable_copy().read_file("a").unwrap()[..5], [0; 5]);
}

#[test]
fn sync_after_failed_sync_does_not_restore_writes() {
    let disk = SimDisk::new();
    let mut file = new_file(&disk);
    file.write_at(0, b"words").unwrap();
    disk.fail_next_sync();
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok(), "a second sync succeeds, since the failed sync has marked the pages clean");
    assert_eq!(
        &disk.durable_copy().read_file("a").unwrap()[..5],
        [0; 5],
        "the bytes of a failed sync are not durable after a second sync"
    );
}

#[test]
fn unsynced_rename_may_be_lost() {
    let seeds_losing_rename = (0..50).filter(|seed| {
        let disk = SimDisk::new();
        new_file(&disk);
        disk.rename("a", "b").unwrap();
        disk.crash(&mut StdRng::seed_from_u64(*seed), Crash::Power);
        disk.list().unwrap() == ["a"]
    });
    assert!((1..50).contains(&seeds_losing_rename.count()));
}

#[test]
fn allocation_on_full_disk_fails() {
    let disk = SimDisk::new();
    let mut file = new_file(&disk);
    disk.set_capacity(Some(5000));
    assert_eq!(file.allocate(8192).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_at(0, b"a write within the allocation").unwrap();
}

#[test]
fn stopped_disk_accepts_no_more_writes() {
    let disk = SimDisk::new();
    let mut file = new_file(&disk);
    disk.stop_at(DiskStop { operation: disk.operation_count(), written_bytes: 3 });
    assert!(file.write_at(0, b"words").is_err());
    assert!(file.write_at(0, b"words").is_err());
    assert!(disk.stopped());
    disk.crash(&mut StdRng::seed_from_u64(1), Crash::Kill);
    assert_eq!(&disk.read_file("a").unwrap()[..5], b"wor\0\0");
}
