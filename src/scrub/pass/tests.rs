//! A pass over a log of several segments and a snapshot, on a simulated disk and on the real one.

use super::*;
use crate::codec;
use crate::disk::FsDisk;
use crate::disk::fs::SyncMode;
use crate::scrub::ScrubPace;
use crate::sim::disk::SimDisk;
use crate::snapshot::{ChunkKind, Header, Store};
use crate::types::{ClusterTime, HardState, Index, Membership, NodeId, Payload, SnapshotPoint, Term, Write, WriteId};
use crate::wal::format::file_name;
use crate::wal::{Journal, Options};
use bytes::Bytes;

const CLUSTER: ClusterId = ClusterId(7);
const DISK: DiskId = DiskId(9);
const NODE: NodeId = NodeId::new(1).unwrap();
const SNAPSHOT: Position = Position::new(Index(20), Term(1));

/// Writes a log of many segments of 4 KiB to `disk`. Returns the journal and the number of the newest sealed segment.
fn write_log<D: Disk>(disk: &D) -> (Journal<D>, u64) {
    let membership = Membership::founding([(NODE, "a:1".to_owned())]);
    let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
    let options = Options { segment_bytes: 4096, ..Options::new(NODE, CLUSTER, DISK) };
    let (mut journal, _) = Journal::open(disk.clone(), options, Some(&base)).unwrap();
    let mut sealed_upto = 0;
    for index in 1..=60 {
        let payload = Payload::Opaque(Bytes::from(vec![index as u8; 300]));
        let entry = codec::entry(Position::new(Index(index), Term(1)), ClusterTime(0), payload);
        let hard_state = (index == 1).then(|| HardState { term: Term(1), ..HardState::default() });
        journal.append(&Write { id: WriteId(index), hard_state, base: None, entries: vec![entry] }).unwrap();
        let report = journal.sync().unwrap();
        sealed_upto = report.sealed_segments.last().map_or(sealed_upto, |sealed| sealed.segment);
    }
    assert!(sealed_upto > 3, "the log has several sealed segments");
    (journal, sealed_upto)
}

fn write_snapshot<D: Disk>(disk: &D) {
    let header = Header {
        cluster: CLUSTER,
        node: NODE,
        position: SNAPSHOT,
        configuration_index: Index::ZERO,
        time: ClusterTime(0),
        digest: 0,
        sessions: 0,
        membership: Membership::founding([(NODE, "a:1".to_owned())]),
    };
    let mut writer = Store::open(disk.clone(), CLUSTER).unwrap().create_writer(&header).unwrap();
    (0..40).for_each(|nth| writer.write_piece(ChunkKind::Machine, &[nth; 3000]).unwrap());
    writer.finish().unwrap();
}

fn scrub<D: Disk>(log_disk: &D, snapshot_disk: &D, sealed_upto: u64) -> Vec<ScrubReport> {
    let source =
        ScrubSource { log_disk: log_disk.clone(), snapshot_disk: snapshot_disk.clone(), cluster: CLUSTER, disk: DISK };
    let order = ScrubOrder { pass: 5, sealed_upto, snapshot: Some(SNAPSHOT), pace: ScrubPace::Requested };
    ScrubPass::new(source, order, Unthrottled).collect()
}

/// The damaged files of a pass with the offsets of the damage. The pass must have ended.
fn find_damage(reports: &[ScrubReport]) -> Vec<(ScrubbedFile, u64)> {
    assert_eq!(reports.last(), Some(&ScrubReport::PassEnded { pass: 5, unchecked_files: 0 }));
    let damage = |report: &ScrubReport| match report {
        ScrubReport::FileChecked { file, damage: Some(damage), .. } => Some((*file, damage.offset)),
        _ => None,
    };
    reports.iter().filter_map(damage).collect()
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_and_of_a_snapshot_is_found() {
    let (log_disk, snapshot_disk) = (SimDisk::new(), SimDisk::new());
    let (_journal, sealed_upto) = write_log(&log_disk);
    write_snapshot(&snapshot_disk);
    let reports = scrub(&log_disk, &snapshot_disk, sealed_upto);
    assert_eq!(find_damage(&reports), []);
    let checked_bytes = reports.iter().map(|report| match report {
        ScrubReport::FileChecked { bytes, .. } => *bytes,
        _ => 0,
    });
    let total_bytes = checked_bytes.sum();
    assert_eq!(reports[0], ScrubReport::PassBegan { pass: 5, total_bytes });
    let segment = log_disk.read_file(&file_name(2)).unwrap();
    // After the seal is room that was never written.
    let segment_end = segment.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    for offset in (0..segment_end).step_by(7) {
        log_disk.flip_bit(&file_name(2), offset, (offset % 8) as u8);
        let damage = find_damage(&scrub(&log_disk, &snapshot_disk, sealed_upto));
        assert!(matches!(damage[..], [(ScrubbedFile::Segment(2), at)] if at <= offset), "{offset}: {damage:?}");
        log_disk.flip_bit(&file_name(2), offset, (offset % 8) as u8);
    }
    let name = snapshot_format::file_name(SNAPSHOT);
    for offset in (0..snapshot_disk.read_file(&name).unwrap().len() as u64).step_by(1009) {
        snapshot_disk.flip_bit(&name, offset, (offset % 8) as u8);
        let damage = find_damage(&scrub(&log_disk, &snapshot_disk, sealed_upto));
        assert!(matches!(damage[..], [(ScrubbedFile::Snapshot(SNAPSHOT), _)]), "{offset}: {damage:?}");
        snapshot_disk.flip_bit(&name, offset, (offset % 8) as u8);
    }
}

#[test]
fn unreadable_sectors_are_damage_at_their_place() {
    let (log_disk, snapshot_disk) = (SimDisk::new(), SimDisk::new());
    let (_journal, sealed_upto) = write_log(&log_disk);
    write_snapshot(&snapshot_disk);
    log_disk.lose_sector(&file_name(3), 0);
    snapshot_disk.lose_sector(&snapshot_format::file_name(SNAPSHOT), 60_000);
    let damage = find_damage(&scrub(&log_disk, &snapshot_disk, sealed_upto));
    let [(ScrubbedFile::Segment(3), 0), (ScrubbedFile::Snapshot(SNAPSHOT), at)] = damage[..] else {
        panic!("{damage:?}")
    };
    assert!((57_000..=60_000).contains(&at), "{at}");
}

#[test]
fn segment_that_is_being_written_and_removed_files_are_not_checked() {
    let (log_disk, snapshot_disk) = (SimDisk::new(), SimDisk::new());
    let (mut journal, sealed_upto) = write_log(&log_disk);
    log_disk.flip_bit(&file_name(sealed_upto + 1), 100, 0);
    write_snapshot(&snapshot_disk);
    assert_eq!(find_damage(&scrub(&log_disk, &snapshot_disk, sealed_upto)), []);
    // The pass has listed segment 2 when the log is released.
    log_disk.flip_bit(&file_name(2), 100, 0);
    let source = ScrubSource { log_disk: log_disk.clone(), snapshot_disk, cluster: CLUSTER, disk: DISK };
    let order = ScrubOrder { pass: 5, sealed_upto, snapshot: None, pace: ScrubPace::Background };
    let mut pass = ScrubPass::new(source, order, Unthrottled);
    assert!(matches!(pass.next(), Some(ScrubReport::PassBegan { .. })));
    journal.release(SNAPSHOT).unwrap();
    assert!(!log_disk.list().unwrap().contains(&file_name(2)));
    assert_eq!(find_damage(&pass.collect::<Vec<_>>()), []);
}

#[test]
fn missing_snapshot_is_damage_unless_a_newer_one_has_replaced_it() {
    let (log_disk, snapshot_disk) = (SimDisk::new(), SimDisk::new());
    let (_journal, sealed_upto) = write_log(&log_disk);
    let damage = find_damage(&scrub(&log_disk, &snapshot_disk, sealed_upto));
    assert_eq!(damage, [(ScrubbedFile::Snapshot(SNAPSHOT), 0)]);
    snapshot_disk.create(&snapshot_format::file_name(Position::new(Index(30), Term(1)))).unwrap();
    assert_eq!(find_damage(&scrub(&log_disk, &snapshot_disk, sealed_upto)), []);
}

#[test]
fn file_that_cannot_be_opened_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let disk = |name: &str| FsDisk::open_or_create(&directory.path().join(name), SyncMode::Executed).unwrap();
    let (log_disk, snapshot_disk) = (disk("wal"), disk("snapshots"));
    let (_journal, sealed_upto) = write_log(&log_disk);
    std::fs::create_dir(directory.path().join("snapshots").join(snapshot_format::file_name(SNAPSHOT))).unwrap();
    let reports = scrub(&log_disk, &snapshot_disk, sealed_upto);
    assert_eq!(reports.last(), Some(&ScrubReport::PassEnded { pass: 5, unchecked_files: 1 }));
}

/// Counts the bytes of all reads.
#[derive(Clone, Default)]
struct ReadCounter(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Throttle for ReadCounter {
    fn pause(&self, read_bytes: u64) -> io::Result<()> {
        self.0.fetch_add(read_bytes, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

/// A disk may try for seconds to read a bad sector, and the log waits meanwhile.
#[test]
fn part_of_a_file_with_an_unreadable_sector_is_not_read_again_and_again() {
    let disk = SimDisk::new();
    let size = 3 << 20;
    disk.create("file").unwrap().write_at(0, &vec![7; size]).unwrap();
    disk.lose_sector("file", 1_500_000);
    let counter = ReadCounter::default();
    let file = ThrottledFile::new(disk.open("file").unwrap(), counter.clone());
    let mut buffer = [0; 4096];
    let failed_count = (0..size).step_by(4096).filter(|at| file.read_at(*at as u64, &mut buffer).is_err()).count();
    assert_eq!(failed_count, 1);
    let read_bytes = counter.0.load(std::sync::atomic::Ordering::Relaxed);
    assert!((size as u64..=size as u64 + (1 << 20)).contains(&read_bytes), "{read_bytes}");
}

#[test]
fn damage_is_read_from_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let disk = |name: &str| FsDisk::open_or_create(&directory.path().join(name), SyncMode::Executed).unwrap();
    let (log_disk, snapshot_disk) = (disk("wal"), disk("snapshots"));
    let (_journal, sealed_upto) = write_log(&log_disk);
    write_snapshot(&snapshot_disk);
    assert_eq!(find_damage(&scrub(&log_disk, &snapshot_disk, sealed_upto)), []);
    for (disk, name, offset) in
        [(&log_disk, file_name(2), 2000), (&snapshot_disk, snapshot_format::file_name(SNAPSHOT), 70_000)]
    {
        let mut file = disk.open(&name).unwrap();
        let mut byte = [0];
        file.read_at(offset, &mut byte).unwrap();
        file.write_at(offset, &[byte[0] ^ 1]).unwrap();
        file.sync().unwrap();
    }
    let damage = find_damage(&scrub(&log_disk, &snapshot_disk, sealed_upto));
    assert!(matches!(damage[..], [(ScrubbedFile::Segment(2), _), (ScrubbedFile::Snapshot(SNAPSHOT), _)]), "{damage:?}");
}

#[test]
fn uncached_reads_return_the_same_bytes_at_every_offset() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FsDisk::open_or_create(directory.path(), SyncMode::Executed).unwrap();
    let content: Vec<u8> = (0..20_001u32).map(|n| (n % 251) as u8).collect();
    let mut file = disk.create("file").unwrap();
    file.write_at(0, &content).unwrap();
    file.sync_all().unwrap();
    let (uncached, throttled) = (disk.open_uncached("file").unwrap(), disk.open_uncached("file").unwrap());
    let throttled = ThrottledFile::new(throttled, Unthrottled);
    for (offset, length) in
        [(0, 1), (1, 4096), (4095, 2), (8192, 4096), (19_000, 5000), (20_000, 1), (20_001, 1), (90_000, 9)]
    {
        let expected = content.get(offset..content.len().min(offset + length)).unwrap_or_default();
        let mut buffer = vec![0; length];
        for read in [uncached.read_at(offset as u64, &mut buffer), throttled.read_at(offset as u64, &mut buffer)] {
            assert_eq!(read.unwrap(), expected.len(), "{offset}");
            assert_eq!(&buffer[..expected.len()], expected);
        }
    }
}
