//! A node's two directories together, journal and snapshots: a crash after every operation of either while the node
//! takes, publishes, prunes, compacts, receives and installs; and another crash during the next start. Acknowledged
//! entries are there, and no start fails.

use drave::api::Op;
use drave::apply::Applier;
use drave::codec;
use drave::disk::Meter;
use drave::machine::{Command, Kv};
use drave::sim::disk::{Crash, SimDisk, Stop};
use drave::snapshot::{Snapshot, Store};
use drave::snapshotting::restore::header;
use drave::snapshotting::{Job, JobResult, Restore, SnapshotWorker, fault, reconcile_with_log};
use drave::types::*;
use drave::wal::{Ballast, Journal, Options, Recovered, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;

const CLUSTER: ClusterId = ClusterId(7);
/// An upper bound of the indexes in any script.
const END: u64 = 90;

/// One action of a node.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// Appends and acknowledges the committed entries from the first index to the second.
    Append(u64, u64),
    /// Appends and acknowledges entries that a deposed leader sent to this node alone.
    Diverge(u64, u64),
    /// Takes a snapshot of everything applied, and publishes it.
    Take,
    /// Begins a snapshot, and writes its first piece.
    Begin,
    /// Finishes and publishes the snapshot that was begun.
    Finish,
    /// Compacts the log up to this index.
    Release(u64),
    /// Receives a leader's snapshot of this index, installs and acknowledges it.
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

/// An entry that was never committed at an index.
fn uncommitted_entry(index: u64) -> Entry {
    codec::entry(Position::new(Index(index), Term(1 + position(index).term.0)), ClusterTime(index), Payload::Noop)
}

/// The applied state as of an index.
fn machine(upto: u64) -> Applier<Kv> {
    let mut applier = Applier::new(Kv::new());
    applier.apply(&(1..=upto).map(entry).collect::<Vec<_>>());
    applier
}

/// The disks of the journal and of the snapshots.
#[derive(Clone)]
struct Disks([SimDisk; 2]);

impl Disks {
    fn fork(&self) -> Disks {
        Disks([self.0[0].fork(), self.0[1].fork()])
    }

    fn crash(&self, seed: u64, how: Crash) {
        let mut rng = StdRng::seed_from_u64(seed);
        self.0.iter().for_each(|disk| disk.crash(&mut rng, how));
    }

    fn stopped(&self) -> bool {
        self.0.iter().any(SimDisk::stopped)
    }
}

/// Acknowledged entries.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// Every committed entry up to this index.
    committed: u64,
    /// Entries of a deposed leader up to this index, until a snapshot may have replaced them.
    uncommitted: u64,
}

/// A running process.
struct Process {
    journal: Journal<SimDisk>,
    worker: SnapshotWorker<SimDisk>,
    applier: Applier<Kv>,
    /// The log equals the committed one up to this index.
    last_matching: u64,
    writes: u64,
}

fn boot(disks: &Disks) -> Result<(Process, Recovered, Option<Snapshot>)> {
    let options = Options { segment_bytes: 2048, batch_bytes: 700, ..Options::new(node(), CLUSTER, DiskId(9)) };
    let founding = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: membership() };
    let (mut journal, mut recovered) = Journal::open(disks.0[0].clone(), options, Some(&founding))?;
    let store = Store::open(disks.0[1].clone(), CLUSTER).map_err(fault)?;
    let newest = store.newest().map_err(fault)?;
    let snapshot = reconcile_with_log(&mut journal, &mut recovered, newest)?;
    let mut applier = Applier::new(Kv::new());
    if let Some(snapshot) = snapshot.clone() {
        applier = Restore::begin(&applier, snapshot).all(&Meter::default())?.0;
    }
    Ok((
        Process {
            journal,
            worker: SnapshotWorker::new(store, Ballast::new(disks.0[0].clone(), 0)),
            applier,
            last_matching: 0,
            writes: 0,
        },
        recovered,
        snapshot,
    ))
}

/// Asserts that a start succeeds and has the acknowledged entries, in the snapshot or in the log after it. Sets
/// `promise` to what the node now has, and returns the process.
fn start(disks: &Disks, promise: &mut Promise) -> std::result::Result<Process, String> {
    let (mut process, recovered, snapshot) = boot(disks).map_err(|fault| format!("the start fails: {fault}"))?;
    let base = recovered.base.position;
    let snapshot = snapshot.map_or(Position::ZERO, |snapshot| snapshot.header().position);
    if base.index > snapshot.index {
        return Err(format!("the log begins after {base}, but the snapshot is at {snapshot}"));
    }
    let last = base.index.0 + recovered.heads.len() as u64;
    let term = |index: u64| recovered.heads[(index - base.index.0) as usize - 1].term;
    let committed = (snapshot.index.0 + 1..=last).take_while(|index| term(*index) == position(*index).term);
    process.last_matching = committed.last().unwrap_or(snapshot.index.0);
    if process.last_matching < promise.committed || last < promise.uncommitted {
        return Err(format!(
            "{promise:?} was acknowledged, but only {} and {last} were recovered",
            process.last_matching
        ));
    }
    let entries = recovered.view.entries(snapshot.index.next()..=Index(process.last_matching), u64::MAX);
    process.applier.apply(&entries.map_err(|fault| fault.to_string())?);
    if (process.applier.applied().0, process.applier.digest())
        != (process.last_matching, machine(process.last_matching).digest())
    {
        return Err(format!("the state at {} differs from the committed one", process.last_matching));
    }
    promise.committed = process.last_matching;
    promise.uncommitted = if last > process.last_matching { last } else { 0 };
    Ok(process)
}

impl Process {
    fn write(&mut self, base: Option<SnapshotPoint>, entries: Vec<Entry>) -> Result<()> {
        self.writes += 1;
        let hard_state = Some(HardState { term: Term(50), ..HardState::default() });
        self.journal.append(&Write { id: WriteId(self.writes), hard_state, base, entries })?;
        self.journal.sync().map(drop)
    }

    fn perform(&mut self, action: Action, promise: &mut Promise) -> Result<()> {
        match action {
            Action::Append(from, to) => {
                let entries: Vec<Entry> = (from..=to).map(entry).collect();
                promise.uncommitted = 0;
                self.write(None, entries.clone())?;
                self.applier.apply(&entries);
                (self.last_matching, promise.committed) = (to, to);
            }
            Action::Diverge(from, to) => {
                self.write(None, (from..=to).map(uncommitted_entry).collect())?;
                promise.uncommitted = to;
            }
            Action::Take => {
                self.perform(Action::Begin, promise)?;
                self.perform(Action::Finish, promise)?;
            }
            Action::Begin => {
                let head = self.applier.freeze();
                let begin = Job::Begin(header(CLUSTER, node(), &head, Index::ZERO, membership()));
                self.worker.run(begin)?;
                let piece = self.applier.next_chunk(300).expect("some state");
                self.worker.run(Job::Piece(piece))?;
            }
            Action::Finish => {
                while let Some(piece) = self.applier.next_chunk(300) {
                    self.worker.run(Job::Piece(piece))?;
                }
                self.worker.run(Job::Finish)?;
                let done = self.worker.run(Job::Verify)?;
                assert!(matches!(done, JobResult::Published(Some(_))), "{done:?}");
                self.applier.end_snapshot();
            }
            Action::Release(upto) => self.journal.release(position(upto))?,
            Action::ReceiveHalf(index) => drop(self.receive(index, 2)?),
            Action::Receive(index) => {
                self.receive(index, 2)?;
                if self.last_matching < index {
                    // Once the snapshot is published, uncommitted entries may be gone.
                    promise.uncommitted = 0;
                }
                let snapshot = self.receive(index, 1)?.expect("the whole snapshot was sent");
                let (applier, _, base) = Restore::begin(&self.applier, snapshot).all(&Meter::default())?;
                // A snapshot does not undo entries that are already applied.
                if self.last_matching < index {
                    self.applier = applier;
                    self.write(Some(base), Vec::new())?;
                    self.last_matching = index;
                }
                promise.committed = self.last_matching;
                self.journal.release(position(index))?;
            }
        }
        Ok(())
    }

    /// Receives the first of `parts` parts of another node's snapshot, in pieces that match no boundary.
    fn receive(&mut self, index: u64, parts: usize) -> Result<Option<Snapshot>> {
        let file = snapshot_of_leader(index);
        let (total, upto) = (file.bytes().len(), file.bytes().len() / parts);
        let (from, mut at) = (NodeId::new(2).unwrap(), 0);
        while at < upto {
            let bytes = file.bytes().slice(at..(at + 333).min(upto));
            let job = Job::Receive { from, snapshot: position(index), total: total as u64, offset: at as u64, bytes };
            match self.worker.run(job)? {
                JobResult::Received { next, .. } => at = next as usize,
                JobResult::Complete(snapshot) => return Ok(Some(snapshot)),
                done => panic!("{done:?}"),
            }
        }
        Ok(None)
    }
}

/// The snapshot of an index, as taken by another node.
fn snapshot_of_leader(index: u64) -> Snapshot {
    let disk = SimDisk::new();
    let (store, reserve) = (Store::open(disk.clone(), CLUSTER).unwrap(), Ballast::new(disk, 0));
    let (mut worker, mut applier) = (SnapshotWorker::new(store, reserve), machine(index));
    let head = applier.freeze();
    worker.run(Job::Begin(header(CLUSTER, node(), &head, Index::ZERO, membership()))).unwrap();
    while let Some(piece) = applier.next_chunk(300) {
        worker.run(Job::Piece(piece)).unwrap();
    }
    worker.run(Job::Finish).unwrap();
    match worker.run(Job::Verify).unwrap() {
        JobResult::Published(Some(snapshot)) => snapshot,
        done => panic!("{done:?}"),
    }
}

/// Scripts of all kinds of changes to the log and to its snapshots.
fn scripts() -> Vec<(&'static str, Vec<Action>)> {
    use Action::*;
    vec![
        ("taken", vec![Append(1, 20), Take, Release(20), Append(21, 40), Take, Release(38), Append(41, 45)]),
        ("received by an empty node", vec![Receive(30), Append(31, 45), Take, Release(45), Append(46, 47)]),
        (
            "received by a lagging node",
            vec![Append(1, 12), Take, Release(12), Receive(40), Append(41, 44), Receive(60)],
        ),
        // The log has an uncommitted entry at the last index of the snapshot (hashicorp/raft#697).
        ("over a conflict", vec![Append(1, 10), Take, Diverge(11, 30), Receive(25), Append(26, 33), Take, Release(33)]),
        ("beyond a conflict", vec![Append(1, 10), Diverge(11, 20), Receive(40), Append(41, 44)]),
        ("within the log", vec![Append(1, 30), ReceiveHalf(20), Receive(20), Append(31, 33)]),
        (
            "superseded",
            vec![Append(1, 12), Begin, ReceiveHalf(40), Receive(45), Finish, Append(46, 48), Take, Release(48)],
        ),
        (
            "interrupted halfway",
            vec![Append(1, 5), ReceiveHalf(30), ReceiveHalf(40), Append(6, 25), Take, Release(25), Receive(40)],
        ),
    ]
}

/// Entries appended and acknowledged after a crash must be as safe as those before it.
fn write_and_restart(disks: &Disks, promise: &mut Promise) -> std::result::Result<(), String> {
    let mut process = start(disks, promise)?;
    let next = process.last_matching + 1;
    for action in
        [Action::Append(next, next + 3), Action::Take, Action::Release(next + 3), Action::Append(next + 4, next + 6)]
    {
        process.perform(action, promise).map_err(|fault| format!("{action:?} afterwards: {fault}"))?;
    }
    assert!(process.last_matching <= END, "indexes in scripts stay below END");
    drop(process);
    disks.crash(3, Crash::Power);
    start(disks, promise).map(drop)
}

/// Checks the disks after a crash, and after a second crash at each operation of the next start. Returns the number of
/// those starts.
fn survive(disks: &Disks, promise: Promise) -> std::result::Result<u64, String> {
    let mut starts = 0;
    for (how, seed) in [(Crash::Kill, 0), (Crash::Power, 1), (Crash::Power, 2)] {
        let crashed = disks.fork();
        crashed.crash(seed, how);
        write_and_restart(&crashed.fork(), &mut promise.clone()).map_err(|why| format!("{how:?} {seed}: {why}"))?;
        // The node starts and loses power: the entries that it would have acknowledged after the start are still there.
        let (started, mut promise_after_start) = (crashed.fork(), promise);
        drop(start(&started, &mut promise_after_start)?);
        started.crash(4, Crash::Power);
        write_and_restart(&started, &mut promise_after_start)
            .map_err(|why| format!("{how:?} {seed}, a start, a power loss: {why}"))?;
        // Stops the start after each of its operations.
        for disk_number in 0..2 {
            for operation in 0.. {
                let again = crashed.fork();
                let at = again.0[disk_number].operations() + operation;
                again.0[disk_number].stop_at(Stop { at, bytes: [0, 100, 512][operation as usize % 3] });
                drop(boot(&again));
                if !again.stopped() {
                    break;
                }
                starts += 1;
                again.crash(5 + operation, if operation % 2 == 0 { Crash::Power } else { Crash::Kill });
                write_and_restart(&again, &mut promise.clone()).map_err(|why| {
                    format!("{how:?} {seed}, and at {operation} of {disk_number} in the start: {why}")
                })?;
            }
        }
    }
    Ok(starts)
}

/// Runs a script until the disk of number `disk_number` stops as requested. Returns the disks, the acknowledged
/// entries, and whether the disk stopped.
fn run(script: &[Action], stop: Option<(usize, Stop)>) -> (Disks, Promise, bool) {
    let (disks, mut promise) = (Disks([SimDisk::new(), SimDisk::new()]), Promise::default());
    if let Some((disk_number, stop)) = stop {
        disks.0[disk_number].stop_at(stop);
    }
    let Ok((mut process, ..)) = boot(&disks) else { return (disks, promise, true) };
    for action in script {
        if let Err(fault) = process.perform(*action, &mut promise) {
            assert!(disks.stopped(), "{action:?}: {fault}");
            break;
        }
    }
    let stopped = disks.stopped();
    (disks, promise, stopped)
}

/// openraft 674e78aa and ac3e5a89, hashicorp/raft#697: conflicting entries left after an installed snapshot, with a
/// crash in between.
#[test]
fn crash_after_any_operation_keeps_acknowledged_entries() {
    let (mut operations, mut starts) = (0, 0);
    for (name, script) in scripts() {
        for disk_number in 0..2 {
            for at in 0.. {
                let bytes = [0, 1, 100, 512, 1600][at as usize % 5];
                let (disks, promise, stopped) = run(&script, Some((disk_number, Stop { at, bytes })));
                let survived = survive(&disks, promise);
                starts += survived.unwrap_or_else(|why| panic!("{name}, at {at} of {disk_number}: {why}"));
                operations += 1;
                if !stopped {
                    break;
                }
            }
        }
    }
    println!("{operations} crashes, {starts} more while starting");
    assert!(operations > 300 && starts > 3000, "{operations} crashes, {starts} more while starting");
}

/// Releases the log before its snapshot is published. This must be detected, or the test above proves nothing.
#[test]
fn log_release_before_snapshot_is_detected() {
    let script = [Action::Append(1, 40), Action::Begin, Action::Release(40), Action::Finish];
    let (mut lost, mut crashes) = (0, 0);
    for at in 0.. {
        let (disks, promise, stopped) = run(&script, Some((1, Stop { at, bytes: 0 })));
        crashes += 1;
        lost += u64::from(survive(&disks, promise).is_err());
        if !stopped {
            break;
        }
    }
    assert!(lost > 0 && lost < crashes, "{lost} of {crashes}");
}

/// A leader's snapshot arrives while the node takes its own. The older one is no fault and does not stay.
#[test]
fn received_snapshot_supersedes_older_one_being_written() {
    use Action::*;
    let (disks, promise, _) = run(&[Append(1, 12), Begin, Receive(45), Finish, Append(46, 48)], None);
    assert_eq!(promise.committed, 48);
    let names = drave::disk::Disk::list(&disks.0[1]).unwrap();
    assert_eq!(names, [drave::snapshot::format::file_name(position(45))]);
}
