//! A node's journal and snapshots together: a crash after every operation of either disk while the node takes,
//! publishes, prunes, receives and installs snapshots and compacts its log, and another crash during the next start.
//! Every start must succeed and recover the acknowledged entries.

use drave::api::Op;
use drave::apply::Applier;
use drave::codec;
use drave::disk::Meter;
use drave::machine::{Command, Kv};
use drave::sim::disk::{Crash, DiskStop, SimDisk};
use drave::snapshot::{Snapshot, Store};
use drave::snapshotting::restore::snapshot_header;
use drave::snapshotting::{Job, JobResult, SnapshotRestore, SnapshotWorker, reconcile_with_log, to_node_fault};
use drave::types::*;
use drave::wal::{Ballast, Journal, Options, RecoveredLog, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;

const CLUSTER: ClusterId = ClusterId(7);
/// The maximum index in any script.
const INDEX_MAX: u64 = 90;

/// One step of a script: what the node does next.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// Appends and acknowledges the committed entries from the first index to the second.
    Append(u64, u64),
    /// Appends and acknowledges uncommitted entries, which a deposed leader sent to this node alone, from the first
    /// index to the second.
    Diverge(u64, u64),
    /// Takes a snapshot of the applied state, and publishes the snapshot.
    TakeSnapshot,
    /// Begins a snapshot, and writes its first piece.
    BeginSnapshot,
    /// Finishes and publishes the snapshot that was begun.
    FinishSnapshot,
    /// Compacts the log up to this index.
    Release(u64),
    /// Receives a leader's snapshot of this index, then installs and acknowledges the snapshot.
    Receive(u64),
    /// Receives half of a leader's snapshot of this index.
    ReceiveHalf(u64),
}

fn membership() -> Membership {
    Membership::founding([1, 2, 3].map(|n| (NodeId::new(n).unwrap(), format!("n{n}:1"))))
}

fn node() -> NodeId {
    NodeId::new(1).unwrap()
}

fn position(index: u64) -> Position {
    Position::new(Index(index), Term(2 + index / 20))
}

/// The committed entry at an index.
fn entry(index: u64) -> Entry {
    let (key, value) = ([b'a' + (index % 7) as u8], [index as u8; 90]);
    let command = Command::Put { key: &key, value: &value }.encode();
    let op = match index {
        1 => Op::Open { window: 64, ordered: false },
        _ => Op::Execute { session: SessionId(1), seq: index, first_outstanding: index, command },
    };
    codec::entry(position(index), ClusterTime(index * 10), Payload::Opaque(op.encode()))
}

/// An uncommitted entry at an index, which conflicts with the committed entry there.
fn uncommitted_entry(index: u64) -> Entry {
    codec::entry(Position::new(Index(index), Term(1 + position(index).term.0)), ClusterTime(index), Payload::Noop)
}

/// The applied state as of an index.
fn state_at(upto: u64) -> Applier<Kv> {
    let mut applier = Applier::new(Kv::new());
    applier.apply(&(1..=upto).map(entry).collect::<Vec<_>>());
    applier
}

/// The node's two disks: the journal's, then the snapshots'.
#[derive(Clone)]
struct Disks([SimDisk; 2]);

impl Disks {
    fn fork(&self) -> Disks {
        Disks([self.0[0].fork(), self.0[1].fork()])
    }

    fn crash(&self, seed: u64, crash_kind: Crash) {
        let mut rng = StdRng::seed_from_u64(seed);
        self.0.iter().for_each(|disk| disk.crash(&mut rng, crash_kind));
    }

    fn stopped(&self) -> bool {
        self.0.iter().any(SimDisk::stopped)
    }
}

/// The entries that the node has acknowledged, which every start must recover.
#[derive(Clone, Copy, Debug, Default)]
struct AcknowledgedEntries {
    /// Every committed entry up to this index.
    committed: u64,
    /// Entries of a deposed leader up to this index, until a snapshot may have replaced them.
    uncommitted: u64,
}

/// A node while it runs: its journal, its snapshots and its applied state.
struct Process {
    journal: Journal<SimDisk>,
    worker: SnapshotWorker<SimDisk>,
    applier: Applier<Kv>,
    /// The index up to which the node's log equals the committed log.
    last_matching: u64,
    write_count: u64,
}

fn open_node(disks: &Disks) -> Result<(Process, RecoveredLog, Option<Snapshot>)> {
    let options = Options { segment_bytes: 2048, batch_bytes: 700, ..Options::new(node(), CLUSTER, DiskId(9)) };
    let founding = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: membership() };
    let (mut journal, mut recovered) = Journal::open(disks.0[0].clone(), options, Some(&founding))?;
    let store = Store::open(disks.0[1].clone(), CLUSTER).map_err(to_node_fault)?;
    let newest = store.newest().map_err(to_node_fault)?;
    let snapshot = reconcile_with_log(&mut journal, &mut recovered, newest)?;
    let mut applier = Applier::new(Kv::new());
    if let Some(snapshot) = snapshot.clone() {
        applier = SnapshotRestore::begin(&applier, snapshot).restore_all(&Meter::default())?.0;
    }
    Ok((
        Process {
            journal,
            worker: SnapshotWorker::new(store, Ballast::new(disks.0[0].clone(), 0)),
            applier,
            last_matching: 0,
            write_count: 0,
        },
        recovered,
        snapshot,
    ))
}

/// Asserts that a start succeeds and has the acknowledged entries, in the snapshot or in the log after it. Sets
/// `acknowledged` to what the node now has, and returns the process.
fn start_and_check(disks: &Disks, acknowledged: &mut AcknowledgedEntries) -> std::result::Result<Process, String> {
    let (mut process, recovered, snapshot) = open_node(disks).map_err(|fault| format!("the start fails: {fault}"))?;
    let log_base = recovered.base.position;
    let snapshot = snapshot.map_or(Position::ZERO, |snapshot| snapshot.header().position);
    if log_base.index > snapshot.index {
        return Err(format!("the log begins after {log_base}, but the snapshot is at {snapshot}"));
    }
    let last_index = log_base.index.0 + recovered.entries.len() as u64;
    let term = |index: u64| recovered.entries[(index - log_base.index.0) as usize - 1].term;
    let committed = (snapshot.index.0 + 1..=last_index).take_while(|index| term(*index) == position(*index).term);
    process.last_matching = committed.last().unwrap_or(snapshot.index.0);
    if process.last_matching < acknowledged.committed || last_index < acknowledged.uncommitted {
        return Err(format!(
            "{acknowledged:?} was acknowledged, but only {} and {last_index} were recovered",
            process.last_matching
        ));
    }
    let entries = recovered.view.entries(snapshot.index.next()..=Index(process.last_matching), u64::MAX);
    process.applier.apply(&entries.map_err(|fault| fault.to_string())?);
    if (process.applier.applied().0, process.applier.digest())
        != (process.last_matching, state_at(process.last_matching).digest())
    {
        return Err(format!("the state at {} differs from the committed one", process.last_matching));
    }
    acknowledged.committed = process.last_matching;
    acknowledged.uncommitted = if last_index > process.last_matching { last_index } else { 0 };
    Ok(process)
}

impl Process {
    fn write(&mut self, base: Option<SnapshotPoint>, entries: Vec<Entry>) -> Result<()> {
        self.write_count += 1;
        let hard_state = Some(HardState { term: Term(50), ..HardState::default() });
        self.journal.append(&Write { id: WriteId(self.write_count), hard_state, base, entries })?;
        self.journal.sync().map(drop)
    }

    fn perform(&mut self, action: Action, acknowledged: &mut AcknowledgedEntries) -> Result<()> {
        match action {
            Action::Append(from, to) => {
                let entries: Vec<Entry> = (from..=to).map(entry).collect();
                acknowledged.uncommitted = 0;
                self.write(None, entries.clone())?;
                self.applier.apply(&entries);
                (self.last_matching, acknowledged.committed) = (to, to);
            }
            Action::Diverge(from, to) => {
                self.write(None, (from..=to).map(uncommitted_entry).collect())?;
                acknowledged.uncommitted = to;
            }
            Action::TakeSnapshot => {
                self.perform(Action::BeginSnapshot, acknowledged)?;
                self.perform(Action::FinishSnapshot, acknowledged)?;
            }
            Action::BeginSnapshot => {
                let state_header = self.applier.freeze();
                let begin_job =
                    Job::BeginSnapshot(snapshot_header(CLUSTER, node(), &state_header, Index::ZERO, membership()));
                self.worker.run(begin_job)?;
                let piece = self.applier.next_chunk(300).expect("some state");
                self.worker.run(Job::WritePiece(piece))?;
            }
            Action::FinishSnapshot => {
                while let Some(piece) = self.applier.next_chunk(300) {
                    self.worker.run(Job::WritePiece(piece))?;
                }
                self.worker.run(Job::SealSnapshot)?;
                let job_result = self.worker.run(Job::VerifySnapshot)?;
                assert!(matches!(job_result, JobResult::SnapshotEnded(Some(_))), "{job_result:?}");
                self.applier.end_snapshot();
            }
            Action::Release(upto) => self.journal.release(position(upto))?,
            Action::ReceiveHalf(index) => drop(self.receive(index, 2)?),
            Action::Receive(index) => {
                self.receive(index, 2)?;
                if self.last_matching < index {
                    // Once the snapshot is published, uncommitted entries may be gone.
                    acknowledged.uncommitted = 0;
                }
                let snapshot = self.receive(index, 1)?.expect("the whole snapshot was sent");
                let (applier, _, base) =
                    SnapshotRestore::begin(&self.applier, snapshot).restore_all(&Meter::default())?;
                // A snapshot does not undo entries that are already applied.
                if self.last_matching < index {
                    self.applier = applier;
                    self.write(Some(base), Vec::new())?;
                    self.last_matching = index;
                }
                acknowledged.committed = self.last_matching;
                self.journal.release(position(index))?;
            }
        }
        Ok(())
    }

    /// Receives the first of `parts` equal parts of another node's snapshot, in pieces that end at no chunk boundary.
    fn receive(&mut self, index: u64, parts: usize) -> Result<Option<Snapshot>> {
        let leader_snapshot = snapshot_of_leader(index);
        let (total, upto) = (leader_snapshot.bytes().len(), leader_snapshot.bytes().len() / parts);
        let (from, mut at) = (NodeId::new(2).unwrap(), 0);
        while at < upto {
            let bytes = leader_snapshot.bytes().slice(at..(at + 333).min(upto));
            let job =
                Job::ReceivePiece { from, snapshot: position(index), total: total as u64, offset: at as u64, bytes };
            match self.worker.run(job)? {
                JobResult::PieceReceived { next, .. } => at = next as usize,
                JobResult::TransferComplete(snapshot) => return Ok(Some(snapshot)),
                done => panic!("{done:?}"),
            }
        }
        Ok(None)
    }
}

/// The snapshot that a leader would take at an index.
fn snapshot_of_leader(index: u64) -> Snapshot {
    let disk = SimDisk::new();
    let (store, reserve) = (Store::open(disk.clone(), CLUSTER).unwrap(), Ballast::new(disk, 0));
    let (mut worker, mut applier) = (SnapshotWorker::new(store, reserve), state_at(index));
    let state_header = applier.freeze();
    worker.run(Job::BeginSnapshot(snapshot_header(CLUSTER, node(), &state_header, Index::ZERO, membership()))).unwrap();
    while let Some(piece) = applier.next_chunk(300) {
        worker.run(Job::WritePiece(piece)).unwrap();
    }
    worker.run(Job::SealSnapshot).unwrap();
    match worker.run(Job::VerifySnapshot).unwrap() {
        JobResult::SnapshotEnded(Some(snapshot)) => snapshot,
        done => panic!("{done:?}"),
    }
}

/// Scripts that take, publish, receive and install snapshots in different states of the log.
fn scripts() -> Vec<(&'static str, Vec<Action>)> {
    use Action::*;
    vec![
        (
            "taken",
            vec![Append(1, 20), TakeSnapshot, Release(20), Append(21, 40), TakeSnapshot, Release(38), Append(41, 45)],
        ),
        ("received by an empty node", vec![Receive(30), Append(31, 45), TakeSnapshot, Release(45), Append(46, 47)]),
        (
            "received by a lagging node",
            vec![Append(1, 12), TakeSnapshot, Release(12), Receive(40), Append(41, 44), Receive(60)],
        ),
        // The log has an uncommitted entry at the last index of the snapshot (hashicorp/raft#697).
        (
            "over a conflict",
            vec![Append(1, 10), TakeSnapshot, Diverge(11, 30), Receive(25), Append(26, 33), TakeSnapshot, Release(33)],
        ),
        ("beyond a conflict", vec![Append(1, 10), Diverge(11, 20), Receive(40), Append(41, 44)]),
        ("within the log", vec![Append(1, 30), ReceiveHalf(20), Receive(20), Append(31, 33)]),
        (
            "superseded",
            vec![
                Append(1, 12),
                BeginSnapshot,
                ReceiveHalf(40),
                Receive(45),
                FinishSnapshot,
                Append(46, 48),
                TakeSnapshot,
                Release(48),
            ],
        ),
        (
            "interrupted halfway",
            vec![Append(1, 5), ReceiveHalf(30), ReceiveHalf(40), Append(6, 25), TakeSnapshot, Release(25), Receive(40)],
        ),
    ]
}

/// Starts, writes, takes a snapshot, and starts again after a power loss. The entries that were acknowledged before the
/// power loss must be recovered.
fn write_and_restart(disks: &Disks, acknowledged: &mut AcknowledgedEntries) -> std::result::Result<(), String> {
    let mut process = start_and_check(disks, acknowledged)?;
    let next_index = process.last_matching + 1;
    for action in [
        Action::Append(next_index, next_index + 3),
        Action::TakeSnapshot,
        Action::Release(next_index + 3),
        Action::Append(next_index + 4, next_index + 6),
    ] {
        process.perform(action, acknowledged).map_err(|fault| format!("{action:?} afterwards: {fault}"))?;
    }
    assert!(process.last_matching <= INDEX_MAX, "indexes in scripts stay below INDEX_MAX");
    drop(process);
    disks.crash(3, Crash::Power);
    start_and_check(disks, acknowledged).map(drop)
}

/// Checks the disks after a crash, and after a second crash at each operation of the next start. Returns the number of
/// starts that crashed.
fn check_after_crashes(disks: &Disks, acknowledged: AcknowledgedEntries) -> std::result::Result<u64, String> {
    let mut crashed_starts = 0;
    for (crash_kind, seed) in [(Crash::Kill, 0), (Crash::Power, 1), (Crash::Power, 2)] {
        let crashed_disks = disks.fork();
        crashed_disks.crash(seed, crash_kind);
        write_and_restart(&crashed_disks.fork(), &mut acknowledged.clone())
            .map_err(|why| format!("{crash_kind:?} with seed {seed}: {why}"))?;
        // The node starts and loses power: the entries that the start recovered must still be there.
        let (started_disks, mut acknowledged_after_start) = (crashed_disks.fork(), acknowledged);
        drop(start_and_check(&started_disks, &mut acknowledged_after_start)?);
        started_disks.crash(4, Crash::Power);
        write_and_restart(&started_disks, &mut acknowledged_after_start)
            .map_err(|why| format!("{crash_kind:?} with seed {seed}, then a start and a power loss: {why}"))?;
        // Stops the start after each of its operations.
        for disk_number in 0..2 {
            for operation in 0.. {
                let restarted_disks = crashed_disks.fork();
                let stop_operation = restarted_disks.0[disk_number].operation_count() + operation;
                restarted_disks.0[disk_number].stop_at(DiskStop {
                    operation: stop_operation,
                    written_bytes: [0, 100, 512][operation as usize % 3],
                });
                drop(open_node(&restarted_disks));
                if !restarted_disks.stopped() {
                    break;
                }
                crashed_starts += 1;
                restarted_disks.crash(5 + operation, if operation % 2 == 0 { Crash::Power } else { Crash::Kill });
                write_and_restart(&restarted_disks, &mut acknowledged.clone()).map_err(|why| {
                    format!(
                        "{crash_kind:?} with seed {seed}, start stopped at operation {operation} of disk {disk_number}: \
                         {why}"
                    )
                })?;
            }
        }
    }
    Ok(crashed_starts)
}

/// Runs a script until it ends, or until a disk stops as `stop` requests: the number of the disk, and the operation.
/// Returns the disks, the acknowledged entries, and whether a disk stopped.
fn run_script(script: &[Action], stop: Option<(usize, DiskStop)>) -> (Disks, AcknowledgedEntries, bool) {
    let (disks, mut acknowledged) = (Disks([SimDisk::new(), SimDisk::new()]), AcknowledgedEntries::default());
    if let Some((disk_number, stop)) = stop {
        disks.0[disk_number].stop_at(stop);
    }
    let Ok((mut process, ..)) = open_node(&disks) else { return (disks, acknowledged, true) };
    for action in script {
        if let Err(fault) = process.perform(*action, &mut acknowledged) {
            assert!(disks.stopped(), "{action:?}: {fault}");
            break;
        }
    }
    let stopped = disks.stopped();
    (disks, acknowledged, stopped)
}

/// openraft 674e78aa and ac3e5a89, hashicorp/raft#697: conflicting entries were left in the log after a snapshot was
/// installed. This test adds a crash after each operation.
#[test]
fn crash_after_any_operation_keeps_acknowledged_entries() {
    let (mut operations, mut starts) = (0, 0);
    for (name, script) in scripts() {
        for disk_number in 0..2 {
            for at in 0.. {
                let bytes = [0, 1, 100, 512, 1600][at as usize % 5];
                let (disks, acknowledged, stopped) =
                    run_script(&script, Some((disk_number, DiskStop { operation: at, written_bytes: bytes })));
                let crashed_starts = check_after_crashes(&disks, acknowledged);
                starts +=
                    crashed_starts.unwrap_or_else(|why| panic!("{name}, operation {at} of disk {disk_number}: {why}"));
                operations += 1;
                if !stopped {
                    break;
                }
            }
        }
    }
    println!("{operations} crashes in scripts, {starts} crashes in the next start");
    assert!(operations > 300 && starts > 3000, "{operations} crashes in scripts, {starts} crashes in the next start");
}

/// Releases the log before the snapshot is published. The checks must detect the lost entries, or the test above proves
/// nothing.
#[test]
fn log_release_before_snapshot_is_published_is_detected() {
    let script = [Action::Append(1, 40), Action::BeginSnapshot, Action::Release(40), Action::FinishSnapshot];
    let (mut loss_count, mut crash_count) = (0, 0);
    for at in 0.. {
        let (disks, acknowledged, stopped) =
            run_script(&script, Some((1, DiskStop { operation: at, written_bytes: 0 })));
        crash_count += 1;
        loss_count += u64::from(check_after_crashes(&disks, acknowledged).is_err());
        if !stopped {
            break;
        }
    }
    assert!(loss_count > 0 && loss_count < crash_count, "{loss_count} losses in {crash_count} crashes");
}

/// A leader's snapshot arrives while the node takes an older one itself. The older snapshot is pruned without a fault.
#[test]
fn received_snapshot_supersedes_older_one_being_written() {
    use Action::*;
    let (disks, acknowledged, _) =
        run_script(&[Append(1, 12), BeginSnapshot, Receive(45), FinishSnapshot, Append(46, 48)], None);
    assert_eq!(acknowledged.committed, 48);
    let snapshot_names = drave::disk::Disk::list(&disks.0[1]).unwrap();
    assert_eq!(snapshot_names, [drave::snapshot::format::file_name(position(45))]);
}
