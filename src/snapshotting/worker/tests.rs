//! Snapshots on a disk that is full except for the reserve.

use super::*;
use crate::sim::disk::SimDisk;
use crate::types::{ClusterId, ClusterTime, Index, Membership, Term};

const CLUSTER: ClusterId = ClusterId(7);
const RESERVE: u64 = 64 << 10;
const PIECE: usize = 10 << 10;
const LEADER: NodeId = NodeId::new(2).unwrap();

fn header(index: u64) -> Header {
    Header {
        cluster: CLUSTER,
        node: LEADER,
        position: Position::new(Index(index), Term(1)),
        configured: Index(0),
        time: ClusterTime(0),
        digest: 0,
        sessions: 0,
        membership: Membership::founding([(LEADER, "a:1".to_owned())]),
    }
}

/// A keeper on a disk with a reserve and `room` beside it.
fn keeper(room: u64) -> (SnapshotWorker<SimDisk>, Ballast<SimDisk>, SimDisk) {
    let root = SimDisk::new();
    let disk = root.sibling_directory();
    let reserve = Ballast::new(root, RESERVE);
    assert!(reserve.make().unwrap());
    disk.set_capacity(Some(disk.used() + room));
    (SnapshotWorker::new(Store::open(disk.clone(), CLUSTER).unwrap(), reserve.clone()), reserve, disk)
}

fn piece() -> Job {
    Job::Piece(Piece::Machine(Bytes::from(vec![7; PIECE])))
}

/// Writes a snapshot of `pieces` pieces. Returns whether it was published, and how many pieces were written before the
/// result.
fn take(keeper: &mut SnapshotWorker<SimDisk>, index: u64, pieces: usize) -> (bool, usize) {
    let mut jobs = std::iter::once(Job::Begin(header(index))).chain((0..pieces).map(|_| piece()));
    let mut done = 0;
    loop {
        let job = if keeper.is_written() { Job::Verify } else { jobs.next().unwrap_or(Job::Finish) };
        match keeper.run(job).unwrap() {
            JobResult::Ready => done += 1,
            JobResult::Written => {}
            JobResult::Published(snapshot) => return (snapshot.is_some(), done),
            other => panic!("{other:?}"),
        }
    }
}

fn receive(keeper: &mut SnapshotWorker<SimDisk>, index: u64, total: usize, offset: usize, bytes: &[u8]) -> JobResult {
    let (snapshot, total, offset) = (header(index).position, total as u64, offset as u64);
    let bytes = Bytes::copy_from_slice(bytes);
    keeper.run(Job::Receive { from: LEADER, snapshot, total, offset, bytes }).unwrap()
}

/// The file of a snapshot, as a leader would send it.
fn file(index: u64, pieces: usize) -> Bytes {
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    let mut writer = store.writer(&header(index)).unwrap();
    (0..pieces).for_each(|_| writer.put(snapshot::ChunkKind::Machine, &[7; PIECE]).unwrap());
    writer.finish().unwrap().bytes().clone()
}

#[test]
fn snapshot_borrows_and_returns_reserve() {
    let (mut keeper, reserve, disk) = keeper(PIECE as u64);
    assert_eq!(take(&mut keeper, 3, 4), (true, 5));
    assert_eq!(reserve.size().unwrap(), 0);
    assert!(!reserve.make().unwrap(), "the disk has no space for the reserve yet");
    disk.set_capacity(Some(disk.used() + RESERVE));
    assert!(reserve.make().unwrap(), "the loan has ended");
}

#[test]
fn oversized_snapshot_leaves_no_file_and_frees_reserve() {
    let (mut keeper, reserve, disk) = keeper(0);
    for index in [3, 4] {
        assert_eq!(take(&mut keeper, index, 100), (false, 7));
        assert_eq!(disk.list().unwrap().len(), 0);
        assert!(reserve.make().unwrap());
        assert_eq!(disk.free().unwrap(), 0);
    }
    disk.set_capacity(None);
    assert_eq!(take(&mut keeper, 5, 100), (true, 101));
    assert_eq!(reserve.size().unwrap(), RESERVE, "the reserve was not needed");
}

#[test]
fn log_claims_reserve_from_snapshot() {
    let (mut keeper, reserve, disk) = keeper(0);
    assert!(matches!(keeper.run(Job::Begin(header(3))).unwrap(), JobResult::Ready));
    assert!(matches!(keeper.run(piece()).unwrap(), JobResult::Ready));
    assert!(!reserve.remove_for_log().unwrap(), "the reserve is lent");
    assert!(matches!(keeper.run(piece()).unwrap(), JobResult::Published(None)));
    assert_eq!((disk.list().unwrap().len(), disk.free().unwrap()), (0, RESERVE));
}

#[test]
fn received_snapshot_fits_into_reserve_or_is_not_begun() {
    let (mut keeper, reserve, disk) = keeper(PIECE as u64);
    let (large, small) = (file(3, 20), file(4, 6));
    assert!(matches!(receive(&mut keeper, 3, large.len(), 0, &large[..PIECE]), JobResult::NoRoom));
    assert_eq!((reserve.size().unwrap(), disk.list().unwrap().len()), (RESERVE, 0), "no file was begun");
    // A peer's claim is no reason to stop.
    assert!(matches!(receive(&mut keeper, 3, usize::MAX, 0, b"?"), JobResult::NoRoom));
    let half = small.len() / 2;
    assert!(matches!(receive(&mut keeper, 4, small.len(), 0, &small[..half]), JobResult::Received { .. }));
    assert_eq!(reserve.size().unwrap(), 0);
    // The room that is reserved for the rest stays reserved.
    let full = disk.used();
    disk.set_capacity(Some(full));
    assert!(matches!(receive(&mut keeper, 4, small.len(), half, &small[half..]), JobResult::Complete(_)));
    disk.set_capacity(Some(full + RESERVE));
    assert!(reserve.make().unwrap(), "the loan has ended");
}

#[test]
fn interrupted_transfer_resumes_on_full_disk() {
    let (mut first, reserve, disk) = keeper(PIECE as u64);
    let small = file(4, 6);
    receive(&mut first, 4, small.len(), 0, &small[..4 * PIECE]);
    drop(first);
    disk.set_capacity(Some(disk.used()));
    let mut second = SnapshotWorker::new(Store::open(disk, CLUSTER).unwrap(), reserve);
    let JobResult::Received { next, .. } = receive(&mut second, 4, small.len(), 0, &[]) else { panic!("no resume") };
    assert!(next > 3 * PIECE as u64 && next <= 4 * PIECE as u64, "{next}");
    let next = next as usize;
    assert!(matches!(receive(&mut second, 4, small.len(), next, &small[next..]), JobResult::Complete(_)));
}

/// Writes a snapshot of one piece; `harm` damages its file before it is read back.
fn take_harmed(keeper: &mut SnapshotWorker<SimDisk>, index: u64, harm: impl FnOnce(&str)) -> JobResult {
    for job in [Job::Begin(header(index)), piece(), Job::Finish] {
        keeper.run(job).unwrap();
    }
    harm(&format!("{}.tmp", snapshot::format::file_name(header(index).position)));
    keeper.run(Job::Verify).unwrap()
}

fn inspect(keeper: &mut SnapshotWorker<SimDisk>, index: u64) -> bool {
    let job = Job::Inspect { follower: LEADER, snapshot: header(index).position, times: 1 };
    match keeper.run(job).unwrap() {
        JobResult::Inspected { whole, .. } => whole,
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_snapshot_is_set_aside_when_read_back() {
    let (mut keeper, _, disk) = keeper(1 << 20);
    let harms: [&dyn Fn(&str); 3] =
        [&|name| disk.flip(name, 5000, 1), &|name| disk.flip(name, 30, 1), &|name| disk.lose_sector(name, 3000)];
    for (index, harm) in (3..).zip(harms) {
        assert!(matches!(take_harmed(&mut keeper, index, harm), JobResult::Damaged));
        let aside = format!("{}.damaged", snapshot::format::file_name(header(index).position));
        assert_eq!(disk.list().unwrap(), [aside], "one damaged file is kept");
    }
    assert!(matches!(take_harmed(&mut keeper, 9, |_| {}), JobResult::Published(Some(_))));
    let newest = Store::open(disk, CLUSTER).unwrap().newest().unwrap();
    assert_eq!(newest.snapshot.unwrap().header().position.index, Index(9));
    assert!(newest.damaged.is_empty(), "older damaged files are not reported");
}

#[test]
fn set_aside_file_is_removed_for_space() {
    let (mut keeper, reserve, disk) = keeper(PIECE as u64 + 1000);
    assert!(matches!(take_harmed(&mut keeper, 3, |name| disk.flip(name, 5000, 1)), JobResult::Damaged));
    assert!(matches!(take_harmed(&mut keeper, 4, |_| {}), JobResult::Published(Some(_))));
    assert_eq!((disk.list().unwrap().len(), reserve.size().unwrap()), (1, RESERVE), "the reserve was not needed");
}

#[test]
fn inspection_sets_damaged_snapshot_aside() {
    let (mut keeper, _, disk) = keeper(1 << 20);
    assert!(matches!(take_harmed(&mut keeper, 3, |_| {}), JobResult::Published(Some(_))));
    assert!(inspect(&mut keeper, 3));
    let name = snapshot::format::file_name(header(3).position);
    disk.flip(&name, 5000, 1);
    assert!(!inspect(&mut keeper, 3));
    assert_eq!(disk.list().unwrap(), [format!("{name}.damaged")]);
    assert!(!inspect(&mut keeper, 3), "the damaged file is set aside");
    let newest = Store::open(disk, CLUSTER).unwrap().newest().unwrap();
    assert!(newest.snapshot.is_none() && newest.damaged.len() == 1, "{newest:?}");
}

#[test]
fn damaged_snapshot_received_is_reported_to_sender() {
    let (mut keeper, _, disk) = keeper(1 << 20);
    let mut bytes = file(4, 3).to_vec();
    bytes[12_000] ^= 1;
    let outcome = receive(&mut keeper, 4, bytes.len(), 0, &bytes);
    assert!(matches!(outcome, JobResult::Received { next: 0, damaged: true, .. }), "{outcome:?}");
    assert_eq!(disk.list().unwrap().len(), 0);
    bytes[12_000] ^= 1;
    assert!(matches!(receive(&mut keeper, 4, bytes.len(), 0, &bytes), JobResult::Complete(_)));
}
