//! The snapshot worker on a disk that is full except for the reserve, and on a disk that damages files.

use super::*;
use crate::sim::disk::SimDisk;
use crate::types::{ClusterId, ClusterTime, Index, Membership, Term};

const CLUSTER: ClusterId = ClusterId(7);
const RESERVE_BYTES: u64 = 64 << 10;
const PIECE_BYTES: usize = 10 << 10;
const LEADER: NodeId = NodeId::new(2).unwrap();

fn header(index: u64) -> Header {
    Header {
        cluster: CLUSTER,
        node: LEADER,
        position: Position::new(Index(index), Term(1)),
        configuration_index: Index(0),
        time: ClusterTime(0),
        digest: 0,
        sessions: 0,
        membership: Membership::founding([(LEADER, "a:1".to_owned())]),
    }
}

/// A worker on a disk with the reserve and `free_bytes` bytes of free space besides.
fn worker(free_bytes: u64) -> (SnapshotWorker<SimDisk>, Ballast<SimDisk>, SimDisk) {
    let root = SimDisk::new();
    let disk = root.sibling_directory();
    let reserve = Ballast::new(root, RESERVE_BYTES);
    assert!(reserve.make_file().unwrap());
    disk.set_capacity(Some(disk.used_bytes() + free_bytes));
    (SnapshotWorker::new(Store::open(disk.clone(), CLUSTER).unwrap(), reserve.clone()), reserve, disk)
}

fn write_piece_job() -> Job {
    Job::WritePiece(Piece::Machine(Bytes::from(vec![7; PIECE_BYTES])))
}

/// Writes a snapshot of `pieces` pieces. Returns whether it was published, and how many jobs succeeded before the
/// result.
fn write_snapshot(worker: &mut SnapshotWorker<SimDisk>, index: u64, pieces: usize) -> (bool, usize) {
    let mut jobs = std::iter::once(Job::BeginSnapshot(header(index))).chain((0..pieces).map(|_| write_piece_job()));
    let mut written_count = 0;
    loop {
        let job = if worker.is_written() { Job::VerifySnapshot } else { jobs.next().unwrap_or(Job::SealSnapshot) };
        match worker.run(job).unwrap() {
            JobResult::PieceWritten => written_count += 1,
            JobResult::SnapshotWritten => {}
            JobResult::SnapshotEnded(snapshot) => return (snapshot.is_some(), written_count),
            other => panic!("{other:?}"),
        }
    }
}

fn receive(worker: &mut SnapshotWorker<SimDisk>, index: u64, total: usize, offset: usize, bytes: &[u8]) -> JobResult {
    let (snapshot, total, offset) = (header(index).position, total as u64, offset as u64);
    let bytes = Bytes::copy_from_slice(bytes);
    worker.run(Job::ReceivePiece { from: LEADER, snapshot, total, offset, bytes }).unwrap()
}

/// The file of a snapshot, as a leader would send it.
fn file_of_leader(index: u64, pieces: usize) -> Bytes {
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    let mut writer = store.create_writer(&header(index)).unwrap();
    (0..pieces).for_each(|_| writer.write_piece(snapshot::ChunkKind::Machine, &[7; PIECE_BYTES]).unwrap());
    writer.finish().unwrap().bytes().clone()
}

#[test]
fn snapshot_borrows_and_returns_disk_reserve() {
    let (mut worker, reserve, disk) = worker(PIECE_BYTES as u64);
    assert_eq!(write_snapshot(&mut worker, 3, 4), (true, 5));
    assert_eq!(reserve.size().unwrap(), 0);
    assert!(!reserve.make_file().unwrap(), "the disk has no space for the reserve yet");
    disk.set_capacity(Some(disk.used_bytes() + RESERVE_BYTES));
    assert!(reserve.make_file().unwrap(), "the reserve can be made again after the loan");
}

#[test]
fn oversized_snapshot_leaves_no_file_and_frees_reserve() {
    let (mut worker, reserve, disk) = worker(0);
    for index in [3, 4] {
        assert_eq!(write_snapshot(&mut worker, index, 100), (false, 7));
        assert_eq!(disk.list().unwrap().len(), 0);
        assert!(reserve.make_file().unwrap());
        assert_eq!(disk.free_bytes().unwrap(), 0);
    }
    disk.set_capacity(None);
    assert_eq!(write_snapshot(&mut worker, 5, 100), (true, 101));
    assert_eq!(reserve.size().unwrap(), RESERVE_BYTES, "the snapshot did not borrow the reserve");
}

#[test]
fn log_claims_reserve_from_snapshot() {
    let (mut worker, reserve, disk) = worker(0);
    assert!(matches!(worker.run(Job::BeginSnapshot(header(3))).unwrap(), JobResult::PieceWritten));
    assert!(matches!(worker.run(write_piece_job()).unwrap(), JobResult::PieceWritten));
    assert!(!reserve.remove_for_log().unwrap(), "a lent reserve has no file to remove");
    assert!(matches!(worker.run(write_piece_job()).unwrap(), JobResult::SnapshotEnded(None)));
    assert_eq!((disk.list().unwrap().len(), disk.free_bytes().unwrap()), (0, RESERVE_BYTES));
}

#[test]
fn transfer_borrows_reserve_or_creates_no_file() {
    let (mut worker, reserve, disk) = worker(PIECE_BYTES as u64);
    let (large, small_file) = (file_of_leader(3, 20), file_of_leader(4, 6));
    assert!(matches!(receive(&mut worker, 3, large.len(), 0, &large[..PIECE_BYTES]), JobResult::NoRoom));
    assert_eq!((reserve.size().unwrap(), disk.list().unwrap().len()), (RESERVE_BYTES, 0), "no file was created");
    // The size that a peer announces is never trusted.
    assert!(matches!(receive(&mut worker, 3, usize::MAX, 0, b"?"), JobResult::NoRoom));
    let half_bytes = small_file.len() / 2;
    assert!(matches!(
        receive(&mut worker, 4, small_file.len(), 0, &small_file[..half_bytes]),
        JobResult::PieceReceived { .. }
    ));
    assert_eq!(reserve.size().unwrap(), 0);
    // The space for the rest of the file is allocated already.
    let used_bytes = disk.used_bytes();
    disk.set_capacity(Some(used_bytes));
    assert!(matches!(
        receive(&mut worker, 4, small_file.len(), half_bytes, &small_file[half_bytes..]),
        JobResult::TransferComplete(_)
    ));
    disk.set_capacity(Some(used_bytes + RESERVE_BYTES));
    assert!(reserve.make_file().unwrap(), "the reserve can be made again after the loan");
}

#[test]
fn interrupted_transfer_resumes_on_full_disk() {
    let (mut first_worker, reserve, disk) = worker(PIECE_BYTES as u64);
    let small_file = file_of_leader(4, 6);
    receive(&mut first_worker, 4, small_file.len(), 0, &small_file[..4 * PIECE_BYTES]);
    drop(first_worker);
    disk.set_capacity(Some(disk.used_bytes()));
    let mut second_worker = SnapshotWorker::new(Store::open(disk, CLUSTER).unwrap(), reserve);
    let JobResult::PieceReceived { next, .. } = receive(&mut second_worker, 4, small_file.len(), 0, &[]) else {
        panic!("not resumed")
    };
    assert!(next > 3 * PIECE_BYTES as u64 && next <= 4 * PIECE_BYTES as u64, "{next}");
    let next = next as usize;
    assert!(matches!(
        receive(&mut second_worker, 4, small_file.len(), next, &small_file[next..]),
        JobResult::TransferComplete(_)
    ));
}

/// Writes a snapshot of one piece; `damage` damages its file before it is read back.
fn write_damaged_snapshot(worker: &mut SnapshotWorker<SimDisk>, index: u64, damage: impl FnOnce(&str)) -> JobResult {
    for job in [Job::BeginSnapshot(header(index)), write_piece_job(), Job::SealSnapshot] {
        worker.run(job).unwrap();
    }
    damage(&format!("{}.tmp", snapshot::format::file_name(header(index).position)));
    worker.run(Job::VerifySnapshot).unwrap()
}

fn inspect(worker: &mut SnapshotWorker<SimDisk>, index: u64) -> bool {
    let job = Job::InspectSnapshot { follower: LEADER, snapshot: header(index).position, damaged_count: 1 };
    match worker.run(job).unwrap() {
        JobResult::SnapshotInspected { undamaged, .. } => undamaged,
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_snapshot_is_set_aside_when_read_back() {
    let (mut worker, _, disk) = worker(1 << 20);
    let damages: [&dyn Fn(&str); 3] =
        [&|name| disk.flip_bit(name, 5000, 1), &|name| disk.flip_bit(name, 30, 1), &|name| {
            disk.lose_sector(name, 3000)
        }];
    for (index, damage) in (3..).zip(damages) {
        assert!(matches!(write_damaged_snapshot(&mut worker, index, damage), JobResult::SnapshotDamaged));
        let set_aside_name = format!("{}.damaged", snapshot::format::file_name(header(index).position));
        assert_eq!(disk.list().unwrap(), [set_aside_name], "one damaged file is kept");
    }
    assert!(matches!(write_damaged_snapshot(&mut worker, 9, |_| {}), JobResult::SnapshotEnded(Some(_))));
    let newest = Store::open(disk, CLUSTER).unwrap().newest().unwrap();
    assert_eq!(newest.snapshot.unwrap().header().position.index, Index(9));
    assert!(newest.newer_faults.is_empty(), "damage older than the newest snapshot is not reported");
}

#[test]
fn set_aside_damaged_file_is_removed_when_space_is_needed() {
    let (mut worker, reserve, disk) = worker(PIECE_BYTES as u64 + 1000);
    assert!(matches!(
        write_damaged_snapshot(&mut worker, 3, |name| disk.flip_bit(name, 5000, 1)),
        JobResult::SnapshotDamaged
    ));
    assert!(matches!(write_damaged_snapshot(&mut worker, 4, |_| {}), JobResult::SnapshotEnded(Some(_))));
    assert_eq!(
        (disk.list().unwrap().len(), reserve.size().unwrap()),
        (1, RESERVE_BYTES),
        "the snapshot did not borrow the reserve"
    );
}

#[test]
fn inspection_sets_damaged_snapshot_aside() {
    let (mut worker, _, disk) = worker(1 << 20);
    assert!(matches!(write_damaged_snapshot(&mut worker, 3, |_| {}), JobResult::SnapshotEnded(Some(_))));
    assert!(inspect(&mut worker, 3));
    let name = snapshot::format::file_name(header(3).position);
    disk.flip_bit(&name, 5000, 1);
    assert!(!inspect(&mut worker, 3));
    assert_eq!(disk.list().unwrap(), [format!("{name}.damaged")]);
    assert!(!inspect(&mut worker, 3), "a snapshot that was set aside is not intact");
    let newest = Store::open(disk, CLUSTER).unwrap().newest().unwrap();
    assert!(newest.snapshot.is_none() && newest.newer_faults.len() == 1, "{newest:?}");
}

#[test]
fn damage_of_received_snapshot_is_reported_to_sender() {
    let (mut worker, _, disk) = worker(1 << 20);
    let mut bytes = file_of_leader(4, 3).to_vec();
    bytes[12_000] ^= 1;
    let outcome = receive(&mut worker, 4, bytes.len(), 0, &bytes);
    assert!(matches!(outcome, JobResult::PieceReceived { next: 0, damaged: true, .. }), "{outcome:?}");
    assert_eq!(disk.list().unwrap().len(), 0);
    bytes[12_000] ^= 1;
    assert!(matches!(receive(&mut worker, 4, bytes.len(), 0, &bytes), JobResult::TransferComplete(_)));
}
