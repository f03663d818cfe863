//! Files and records of a later version: a start refuses them and changes nothing, also if it would repair damage.

use super::matrix::scripts;
use super::world::*;
use bytes::Bytes;
use drave::codec::{self, ENTRY_KIND_MAX};
use drave::disk::{Disk, DiskFile};
use drave::sim::disk::{Crash, SimDisk};
use drave::types::{ClusterTime, DiskId, Index, Membership, Payload, Position, Term, Write, WriteId};
use drave::wal::format::{self, FRAME_HEADER_BYTES, Frame, RecordKind, SegmentHeader};
use drave::wal::scan::{Scan, ScanItem};
use drave::wal::{Fault, Journal, Options, RecoveredLog};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// A disk with a log of several segments.
fn disk_with_segments() -> SimDisk {
    let (disk, mut ledger) = (SimDisk::new(), Ledger::default());
    let (mut journal, recovered) = Journal::open(disk.clone(), options(), Some(&founding())).unwrap();
    let mut view = recovered.view;
    let votes = [Step::Vote { term: 7, vote: 1 }, Step::Sync, Step::Vote { term: 8, vote: 2 }, Step::Sync];
    let steps: Vec<Step> = scripts()[0].1.iter().cloned().chain(votes).collect();
    run_steps(&disk, &mut journal, &mut view, &steps, &mut ledger).unwrap();
    let entries = (1..=40).map(|nth| Step::Write {
        term: 8,
        from: ledger.last_index() + nth,
        to: ledger.last_index() + nth,
        bytes: 200,
    });
    let steps: Vec<Step> = entries.flat_map(|write| [write, Step::Sync]).collect();
    run_steps(&disk, &mut journal, &mut view, &steps, &mut ledger).unwrap();
    disk.crash(&mut StdRng::seed_from_u64(3), Crash::Kill);
    disk
}

fn segments(disk: &SimDisk) -> Vec<String> {
    file_names(disk).into_iter().filter(|name| name.ends_with(".wal")).collect()
}

fn contents(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    file_names(disk).into_iter().map(|name| (name.clone(), disk.read_file(&name).unwrap())).collect()
}

/// Asserts that a start refuses the disk with a text about a later version, with and without repair, and changes nothing:
/// as it is, and with damage in the first segment.
fn assert_refused(disk: &SimDisk, subject: &str) {
    let damaged_disk = disk.fork();
    damaged_disk.flip_bit(&segments(disk)[0], 300, 3);
    for disk in [disk, &damaged_disk] {
        for repairs_damage in [false, true] {
            let before = contents(disk);
            let options = Options { repairs_damage, ..options() };
            let fault = Journal::open(disk.clone(), options, None).expect_err(subject);
            let text = fault.to_string();
            assert!(matches!(fault, Fault::Foreign(_)) && text.contains(subject), "{subject}: {text}");
            assert!(text.contains("a newer drave wrote it. Start the newer program; nothing was changed."), "{text}");
            assert_eq!(fault.exit_code(), 78);
            assert!(before == contents(disk), "{subject}: the start has changed a file");
        }
    }
}

/// The last record of a kind in a segment.
fn last_record(disk: &SimDisk, name: &str, kind: RecordKind) -> Frame {
    let salt = format::salt(DiskId(9), format::file_number(name).unwrap());
    let frames = Scan::new(Bytes::from(disk.read_file(name).unwrap()), salt, None).filter_map(|item| match item {
        ScanItem::Frame(frame) if frame.kind == kind => Some(frame),
        _ => None,
    });
    frames.last().unwrap()
}

/// Overwrites a record by one of another kind with another body of the same size, intact by its checksums.
fn overwrite_record(disk: &SimDisk, name: &str, frame: &Frame, kind: u8, body: &[u8]) {
    let salt_crc = format::salt_crc(format::salt(DiskId(9), format::file_number(name).unwrap()));
    let at = frame.offset;
    let mut header = disk.read_file(name).unwrap()[at as usize..at as usize + FRAME_HEADER_BYTES].to_vec();
    header[11] = kind;
    let mut body = body.to_vec();
    let body_checksum = crc32fast::hash(&body[4..]).to_le_bytes();
    body[..4].copy_from_slice(&body_checksum);
    let checksum = format::header_checksum(salt_crc, at, header[4..].try_into().unwrap(), body_checksum);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    disk.open(name).unwrap().write_at(at, &[header, body].concat()).unwrap();
}

/// A write of the next entry of a log: a configuration of feature level 2.
fn write_of_level_2(recovered: &RecoveredLog) -> Write {
    let last = recovered.base.position.index.0 + recovered.entries.len() as u64;
    let membership = Membership { feature_level: 2, ..members(3) };
    let payload = Payload::Membership(Box::new(membership));
    let entry = codec::entry(Position::new(Index(last + 1), Term(8)), ClusterTime(1_000_000), payload);
    Write { id: WriteId(1), hard_state: None, base: None, entries: vec![entry] }
}

#[test]
fn undamaged_log_of_the_same_version_opens() {
    assert!(segments(&disk_with_segments()).len() > 3);
    Journal::open(disk_with_segments(), options(), None).unwrap();
}

#[test]
fn segment_of_a_later_version_is_refused() {
    let disk = disk_with_segments();
    let name = segments(&disk).pop().unwrap();
    let header = SegmentHeader::decode(&Bytes::from(disk.read_file(&name).unwrap())).unwrap();
    let mut header = header.encode();
    header[8..12].copy_from_slice(&3u32.to_le_bytes());
    let checksum = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    disk.open(&name).unwrap().write_at(0, &header).unwrap();
    assert_refused(&disk, "has format 3, and this program knows up to 2");
}

/// A flipped bit in a version is damage, which is repaired.
#[test]
fn damaged_version_is_not_taken_for_a_later_version() {
    let disk = disk_with_segments();
    disk.flip_bit(&segments(&disk)[1], 8, 4);
    let fault = Journal::open(disk.clone(), options(), None).unwrap_err();
    assert!(matches!(fault, Fault::Corrupt { .. }), "{fault}");
    let repairing = Options { repairs_damage: true, ..options() };
    assert!(Journal::open(disk, repairing, None).unwrap().1.repair_note.is_some());
}

#[test]
fn record_and_entry_of_an_unknown_kind_are_refused() {
    let undamaged = disk_with_segments();
    let names = segments(&undamaged);
    for name in [&names[1], &names[names.len() - 1]] {
        let entry = last_record(&undamaged, name, RecordKind::Entry);
        let disk = undamaged.fork();
        overwrite_record(&disk, name, &entry, 9, &entry.body);
        assert_refused(&disk, "has a record of kind 9, and this program knows up to 7");
        let disk = undamaged.fork();
        let mut body = entry.body.to_vec();
        body[7] = ENTRY_KIND_MAX + 1;
        overwrite_record(&disk, name, &entry, RecordKind::Entry as u8, &body);
        assert_refused(&disk, "has an entry of kind 3, and this program knows up to 2");
    }
}

/// The membership of a later feature level may have fields that this program cannot decode: only the level is read.
#[test]
fn base_of_an_unknown_feature_level_is_refused_although_it_cannot_be_decoded() {
    let undamaged = disk_with_segments();
    let names = segments(&undamaged);
    let (opening_level_at, member_count_at) = (8 + 40 + 16 + 8 + 24, 8 + 40 + 16 + 8 + 26);
    for name in [&names[1], &names[names.len() - 1]] {
        let opening = last_record(&undamaged, name, RecordKind::Open);
        let mut body = opening.body.to_vec();
        body[opening_level_at..opening_level_at + 2].copy_from_slice(&2u16.to_le_bytes());
        body[member_count_at..member_count_at + 2].copy_from_slice(&99u16.to_le_bytes());
        let disk = undamaged.fork();
        overwrite_record(&disk, name, &opening, RecordKind::Open as u8, &body);
        assert_refused(&disk, "the log has feature level 2, and this program knows up to 1");
    }
}

#[test]
fn sync_marker_of_a_later_version_is_refused() {
    let disk = disk_with_segments();
    let mut slot = disk.read_file("synced").unwrap()[512..576].to_vec();
    slot[6..8].copy_from_slice(&1u16.to_le_bytes());
    let checksum = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&checksum.to_le_bytes());
    disk.open("synced").unwrap().write_at(512, &slot).unwrap();
    assert_refused(&disk, "synced has format 1, and this program knows up to 0");
}

#[test]
fn log_of_an_unknown_feature_level_is_refused() {
    let disk = disk_with_segments();
    let newer_program = Options { feature_level_max: 2, ..options() };
    let (mut journal, recovered) = Journal::open(disk.clone(), newer_program.clone(), None).unwrap();
    let write = write_of_level_2(&recovered);
    journal.append(&write).and_then(|()| journal.sync()).unwrap();
    drop(journal);
    disk.crash(&mut StdRng::seed_from_u64(4), Crash::Kill);
    assert_refused(&disk, "the log has feature level 2, and this program knows up to 1");
    Journal::open(disk, newer_program, None).unwrap();
}

/// A node that was away when the level was raised receives the entry that raises it: the write is refused before any of
/// its bytes is in the log.
#[test]
fn configuration_of_an_unknown_feature_level_is_not_written() {
    let disk = disk_with_segments();
    let (mut journal, recovered) = Journal::open(disk.clone(), options(), None).unwrap();
    let before = contents(&disk);
    let fault = journal.append(&write_of_level_2(&recovered)).unwrap_err();
    assert!(fault.to_string().contains("the log has feature level 2, and this program knows up to 1"), "{fault}");
    assert_eq!(fault.exit_code(), 78);
    assert!(journal.sync().is_err(), "the journal accepts no further call");
    drop(journal);
    assert!(before == contents(&disk), "the refused write is in the log");
    Journal::open(disk, options(), None).unwrap();
}
