//! The journal on a simulated disk, one scenario per test. The crash matrix is in `tests/journal/matrix.rs`.

use super::*;
use crate::codec;
use crate::disk::{Disk, DiskFile};
use crate::sim::disk::{Crash, SimDisk};
use crate::types::*;
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn options() -> Options {
    let node = NodeId::new(1).unwrap();
    Options { segment_bytes: 4096, ..Options::new(node, ClusterId(7), DiskId(9)) }
}

fn founding() -> SnapshotPoint {
    let members = (1..=3).map(|id| (NodeId::new(id).unwrap(), format!("n{id}:1")));
    SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: Membership::founding(members) }
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = Payload::Opaque(Bytes::from(format!("entry {index} of term {term}").repeat(8)));
    codec::entry(Position::new(Index(index), Term(term)), ClusterTime(index * 10), payload)
}

fn write(id: u64, term: u64, indexes: std::ops::RangeInclusive<u64>) -> Write {
    let entries = indexes.map(|index| entry(index, term)).collect();
    Write {
        id: WriteId(id),
        hard_state: Some(HardState { term: Term(term), ..HardState::default() }),
        base: None,
        entries,
    }
}

fn open(disk: &SimDisk) -> (Journal<SimDisk>, RecoveredLog) {
    Journal::open(disk.clone(), options(), Some(&founding())).unwrap()
}

fn push(journal: &mut Journal<SimDisk>, view: &mut View, write: Write) {
    view.push(&write);
    journal.append(&write).unwrap();
    let report = journal.sync().unwrap();
    assert_eq!(report.last_durable, write.id);
    report.sealed_segments.into_iter().for_each(|sealed| view.add_sealed(sealed).unwrap());
}

fn read(view: &View, range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    view.entries(Index(*range.start())..=Index(*range.end()), u64::MAX).unwrap()
}

#[test]
fn synced_entries_survive_power_loss() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    for id in 1..=20 {
        push(&mut journal, &mut view, write(id, 1, id * 4 - 3..=id * 4));
    }
    assert!(disk.list().unwrap().len() > 4, "the log has several segments");
    assert!(view.entries_in_memory() < 40, "only the newest segment is in memory");
    disk.crash(&mut StdRng::seed_from_u64(1), Crash::Power);
    let (_journal, reopened) = open(&disk);
    assert_eq!(reopened.entries.len(), 80);
    assert_eq!(reopened.last_time, ClusterTime(800));
    assert_eq!(reopened.hard_state.term, Term(1));
    assert_eq!(reopened.base, founding());
    for view in [&view, &reopened.view] {
        assert_eq!(read(view, 1..=80), (1..=80).map(|index| entry(index, 1)).collect::<Vec<_>>());
        assert_eq!(read(view, 77..=99).len(), 4, "a read ends at the end of the log");
    }
    assert_eq!(reopened.operator_notes, Vec::<String>::new());
}

#[test]
fn append_at_lower_index_truncates_later_entries() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    push(&mut journal, &mut view, write(1, 1, 1..=30));
    push(&mut journal, &mut view, write(2, 2, 12..=14));
    push(&mut journal, &mut view, write(3, 3, 14..=40));
    let expected_entries: Vec<Entry> = (1..=40)
        .map(|index| {
            entry(
                index,
                if index < 12 {
                    1
                } else if index < 14 {
                    2
                } else {
                    3
                },
            )
        })
        .collect();
    assert_eq!(read(&view, 1..=40), expected_entries);
    drop(journal);
    let (_journal, reopened) = open(&disk);
    assert_eq!(read(&reopened.view, 1..=40), expected_entries);
    let terms: Vec<Term> = reopened.entries.iter().map(|summary| summary.term).collect();
    assert_eq!(terms, expected_entries.iter().map(|entry| entry.position.term).collect::<Vec<_>>());
}

#[test]
fn intact_batch_that_contradicts_the_log_is_corrupt() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    push(&mut journal, &mut recovered.view.clone(), write(1, 1, 1..=3));
    let read = |before: batches::ReaderState| {
        let bytes = Bytes::from(disk.read_file(&format::file_name(1)).unwrap());
        let mut reader = batches::BatchReader::new(bytes, format::salt(DiskId(9), 1), before, 0);
        std::iter::repeat_with(move || reader.read_batch(|_, _| {}))
            .find_map(std::result::Result::err)
            .unwrap()
            .log_break
    };
    let context = tail::SegmentContext { segment_number: 1, ..tail::SegmentContext::default() };
    let end_break = read(batches::ReaderState::before_first_segment());
    assert_eq!((end_break.frames_intact, tail::classify(&end_break, &context)), (false, tail::TailVerdict::End));
    // Neither a sync marker nor a later batch shows that these batches were synced. If they were cut off as torn, their
    // entries would be lost.
    let mut base = founding();
    base.position = Position::new(Index(9), Term(1));
    let log = Some(log_summary::LogSummary::new(base));
    let log_break = read(batches::ReaderState { log, ..batches::ReaderState::before_first_segment() });
    assert_eq!((log_break.cut_offset, log_break.frames_intact), (format::SEGMENT_HEADER_BYTES as u64, true));
    assert!(matches!(tail::classify(&log_break, &context), tail::TailVerdict::Corrupt(_)));
}

#[test]
fn sealed_segment_that_arrives_after_a_truncation_does_not_undo_it() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    let (first, second) = (write(1, 1, 1..=30), write(2, 2, 5..=6));
    view.push(&first);
    view.push(&second);
    journal.append(&first).unwrap();
    journal.sync().unwrap().sealed_segments.into_iter().for_each(|sealed| view.add_sealed(sealed).unwrap());
    assert_eq!(read(&view, 4..=6), [entry(4, 1), entry(5, 2), entry(6, 2)]);
    assert_eq!(read(&view, 7..=9), []);
    journal.append(&second).unwrap();
    journal.sync().unwrap();
    drop(journal);
    assert_eq!(read(&open(&disk).1.view, 1..=9).len(), 6);
}

/// A misdirected write may damage a sealed segment. The next sealed segment once removed the entries of the damaged one
/// from memory, and a leader sent nothing to its new follower forever.
#[test]
fn damaged_sealed_segment_keeps_its_entries_in_memory() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    let mut sealed_segments = Vec::new();
    for id in 1..=20 {
        let write = write(id, 1, id * 4 - 3..=id * 4);
        view.push(&write);
        journal.append(&write).unwrap();
        sealed_segments.extend(journal.sync().unwrap().sealed_segments);
    }
    assert!(sealed_segments.len() >= 2, "{}", sealed_segments.len());
    for at in [20, sealed_segments[0].sparse_index.last().unwrap().1 as usize + 4] {
        let mut damaged_segment = sealed_segments[0].clone();
        let mut bytes = damaged_segment.bytes.to_vec();
        bytes[at] ^= 0x10;
        damaged_segment.bytes = bytes.into();
        assert!(matches!(view.add_sealed(damaged_segment), Err(Fault::Corrupt { .. })), "byte {at}");
        assert_eq!(read(&view, 1..=80).len(), 80);
    }
}

#[test]
fn released_segments_are_removed_or_recycled() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    let mut file_count_max = 0;
    for id in 1..=60u64 {
        push(&mut journal, &mut view, write(id, 1, id..=id));
        if id > 10 {
            view.release(Index(id - 10));
            journal.release(Position::new(Index(id - 10), Term(1))).unwrap();
        }
        if let Some(order) = journal.next_spare_order() {
            journal.add_spare(order.prepare(&disk, || {}).unwrap());
        }
        file_count_max = file_count_max.max(disk.list().unwrap().len());
    }
    assert!(file_count_max <= 6, "{file_count_max} files");
    drop(journal);
    let (_journal, reopened) = open(&disk);
    let base = reopened.base.position.index;
    assert!(base > Index(30) && base <= Index(50), "{base}");
    assert_eq!(reopened.base.membership, founding().membership);
    assert_eq!(reopened.entries.len() as u64, 60 - base.0);
    assert_eq!(read(&reopened.view, base.0 + 1..=60).len() as u64, 60 - base.0);
    assert_eq!(reopened.operator_notes, Vec::<String>::new());
}

#[test]
fn snapshot_base_restarts_log() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    push(&mut journal, &mut view, write(1, 1, 1..=30));
    let base = SnapshotPoint { position: Position::new(Index(100), Term(3)), ..founding() };
    let restart = Write { base: Some(base.clone()), ..write(2, 3, 101..=102) };
    push(&mut journal, &mut view, restart);
    assert_eq!(read(&view, 30..=30), []);
    drop(journal);
    let (_journal, reopened) = open(&disk);
    assert_eq!(reopened.base, base);
    assert_eq!(reopened.entries.len(), 2);
    assert_eq!(read(&reopened.view, 101..=110), [entry(101, 3), entry(102, 3)]);
}

#[test]
fn failed_sync_is_final() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk);
    journal.append(&write(1, 1, 1..=2)).unwrap();
    disk.fail_next_sync();
    assert!(matches!(journal.sync(), Err(Fault::Io { .. })));
    assert!(journal.sync().is_err(), "a failed sync is never retried");
    assert!(journal.append(&write(2, 1, 3..=3)).is_err());
}

#[test]
fn journal_of_another_node_is_rejected() {
    let disk = SimDisk::new();
    drop(open(&disk));
    let other_options = Options { node: NodeId::new(2).unwrap(), ..options() };
    assert!(matches!(Journal::open(disk, other_options, None), Err(Fault::Foreign(_))));
}

#[test]
fn segment_header_with_unknown_flag_is_rejected_as_another_version() {
    let disk = SimDisk::new();
    drop(open(&disk));
    let name = format::file_name(1);
    let header = format::SegmentHeader::decode(&Bytes::from(disk.read_file(&name).unwrap())).unwrap();
    let header = format::SegmentHeader { flags: 2, ..header }.encode();
    disk.open(&name).unwrap().write_at(0, &header).unwrap();
    let fault = Journal::open(disk, options(), None).err().unwrap();
    assert!(matches!(&fault, Fault::Foreign(why) if why.contains("flags that this program does not know")), "{fault}");
}

#[test]
fn entry_of_an_unknown_kind_is_malformed() {
    let mut body = Vec::new();
    codec::put_entry(&mut body, &entry(3, 1));
    assert!(format::EntryMetadata::decode(&body.clone().into()).is_ok());
    body[7] = 3;
    assert!(format::EntryMetadata::decode(&body.into()).is_err());
}

#[test]
fn record_of_an_unknown_kind_is_refused_as_another_version() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    push(&mut journal, &mut recovered.view.clone(), write(1, 1, 1..=3));
    drop(journal);
    disk.remove(sync_marker::FILE_NAME).unwrap();
    let name = format::file_name(1);
    let bytes = Bytes::from(disk.read_file(&name).unwrap());
    let salt_crc = format::salt_crc(format::salt(DiskId(9), 1));
    let entry_offsets =
        scan::Scan::new(bytes.clone(), format::salt(DiskId(9), 1), None).filter_map(|item| match item {
            scan::ScanItem::Frame(frame) if frame.kind == format::RecordKind::Entry => Some(frame.offset),
            _ => None,
        });
    let at = entry_offsets.last().unwrap() as usize;
    let mut header = bytes[at..at + format::FRAME_HEADER_BYTES + 4].to_vec();
    header[11] = 8;
    let (rest, body) = (header[4..16].try_into().unwrap(), header[16..].try_into().unwrap());
    let checksum = format::header_checksum(salt_crc, at as u64, &rest, body);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    disk.open(&name).unwrap().write_at(at as u64, &header).unwrap();
    let fault = Journal::open(disk, options(), None).err().unwrap().to_string();
    assert!(
        fault.contains("has a record of kind 8, and this program knows up to 7: a newer drave wrote it"),
        "{fault}"
    );
}

#[test]
fn segment_file_with_header_of_another_segment_is_damage() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    for id in 1..=20 {
        push(&mut journal, &mut view, write(id, 1, id * 4 - 3..=id * 4));
    }
    let header = disk.read_file(&format::file_name(1)).unwrap()[..format::SEGMENT_HEADER_BYTES].to_vec();
    disk.open(&format::file_name(2)).unwrap().write_at(0, &header).unwrap();
    let fault = Journal::open(disk, options(), Some(&founding())).err().unwrap();
    assert!(fault.to_string().starts_with("0000000002.wal: byte 0: its header names segment 1"), "{fault}");
    assert_eq!(fault.exit_code(), 5);
}

#[test]
fn missing_journal_is_damage() {
    assert!(matches!(Journal::open(SimDisk::new(), options(), None), Err(Fault::Corrupt { .. })));
}

/// Files of another program take all the free space.
fn fill_disk(disk: &SimDisk) {
    disk.set_capacity(Some(disk.used_bytes()));
}

/// baidu/braft#200: after a full disk the node stayed in error until it was restarted by hand.
#[test]
fn log_uses_reserve_on_full_disk_and_resumes() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    let reserve = Ballast::new(disk.clone(), options().segment_bytes);
    assert!(reserve.make_file().unwrap());
    journal.set_reserve(reserve.clone());
    fill_disk(&disk);
    let mut rejected_write = None;
    for id in 1..=40 {
        let write = write(id, 1, id..=id);
        match journal.reserve_room(&Task::Write(write.clone())) {
            Ok(()) => push(&mut journal, &mut view, write),
            fault => {
                rejected_write = Some((write, fault));
                break;
            }
        }
    }
    let (rejected_write, fault) = rejected_write.expect("the writes exceed the disk and the reserve");
    assert!(matches!(fault, Err(Fault::Full { .. })), "{fault:?}");
    assert_eq!(disk.read_file(ballast::FILE_NAME), None, "the reserve was removed");
    assert!(
        disk.list().unwrap().contains(&"0000000002.wal".to_owned()),
        "the next segment took the space of the reserve"
    );
    let rejected_id = rejected_write.id.0;
    // Everything acknowledged is still there, on a disk that is still full.
    let (_, reopened) = open(&disk.durable_copy());
    assert_eq!(reopened.entries.len() as u64, rejected_id - 1);
    journal.confirm_sync().unwrap();
    disk.set_capacity(None);
    journal.reserve_room(&Task::Write(rejected_write.clone())).unwrap();
    push(&mut journal, &mut view, rejected_write);
    assert_eq!(read(&view, 1..=rejected_id).len() as u64, rejected_id);
}

/// databend#18988, tikv#9886, tikv#15751: a process did not start once its disk was full.
#[test]
fn journal_opens_on_full_disk() {
    let disk = SimDisk::new();
    let (mut journal, recovered) = open(&disk);
    let mut view = recovered.view;
    for id in 1..=20 {
        push(&mut journal, &mut view, write(id, 1, id..=id));
    }
    drop(journal);
    fill_disk(&disk);
    disk.crash(&mut StdRng::seed_from_u64(1), Crash::Power);
    fill_disk(&disk);
    let (_journal, reopened) = open(&disk);
    assert_eq!(reopened.entries.len(), 20);
}
