//! Tests of the simulated disk's faults.

use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn made(disk: &SimDisk) -> SimFile {
    let mut file = disk.create("a").unwrap();
    file.allocate(4096).unwrap();
    file.sync_all().unwrap();
    disk.sync_names().unwrap();
    file
}

#[test]
fn a_power_loss_keeps_any_subset_of_sectors_and_never_part_of_one() {
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new();
        made(&disk).write_at(0, &[7; 1024]).unwrap();
        disk.crash(&mut StdRng::seed_from_u64(seed), Crash::Power);
        let bytes = disk.seen("a").unwrap();
        for sector in bytes.chunks(SECTOR) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is written whole");
        }
        kept.insert((bytes[0], bytes[512]));
    }
    assert_eq!(kept.len(), 4, "both, either, none");
}

#[test]
fn what_was_killed_is_seen_and_still_not_durable() {
    let disk = SimDisk::new();
    let mut file = made(&disk);
    file.write_at(0, b"words").unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    disk.crash(&mut rng, Crash::Kill);
    assert!(file.sync().is_err(), "a dead process syncs nothing");
    assert_eq!(&disk.seen("a").unwrap()[..5], b"words");
    assert_eq!(&disk.durable().seen("a").unwrap()[..5], [0; 5]);
}

#[test]
fn a_sync_that_failed_is_not_made_good_by_another() {
    let disk = SimDisk::new();
    let mut file = made(&disk);
    file.write_at(0, b"words").unwrap();
    disk.fail_next_sync();
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok(), "the pages are clean now");
    assert_eq!(&disk.durable().seen("a").unwrap()[..5], [0; 5], "and the words are gone");
}

#[test]
fn a_name_that_was_not_synced_may_be_gone() {
    let lost = (0..50).filter(|seed| {
        let disk = SimDisk::new();
        made(&disk);
        disk.rename("a", "b").unwrap();
        disk.crash(&mut StdRng::seed_from_u64(*seed), Crash::Power);
        disk.list().unwrap() == ["a"]
    });
    assert!((1..50).contains(&lost.count()));
}

#[test]
fn a_full_disk_says_so() {
    let disk = SimDisk::new();
    let mut file = made(&disk);
    disk.set_capacity(Some(5000));
    assert_eq!(file.allocate(8192).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_at(0, b"what was allocated is ours").unwrap();
}

#[test]
fn nothing_arrives_after_the_stop() {
    let disk = SimDisk::new();
    let mut file = made(&disk);
    disk.stop_at(Stop { at: disk.operations(), bytes: 3 });
    assert!(file.write_at(0, b"words").is_err());
    assert!(file.write_at(0, b"words").is_err());
    assert!(disk.stopped());
    disk.crash(&mut StdRng::seed_from_u64(1), Crash::Kill);
    assert_eq!(&disk.seen("a").unwrap()[..5], b"wor\0\0");
}
