//! Scripts of actions on a directory of snapshots, and the invariants that hold after any crash.

use drave::sim::disk::{Crash, SimDisk};
use drave::snapshot::{ChunkKind, Fault, Header, Newest, Snapshot, Store};
use drave::types::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

pub const CLUSTER: ClusterId = ClusterId(7);

pub fn position(index: u64) -> Position {
    Position::new(Index(index), Term(index / 10 + 1))
}

pub fn header(index: u64) -> Header {
    let node = NodeId::new(1).unwrap();
    Header {
        cluster: CLUSTER,
        node,
        position: position(index),
        configured: Index(0),
        time: ClusterTime(index * 1000),
        digest: index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        sessions: 2,
        membership: Membership::founding([(node, "a:1".to_owned())]),
    }
}

/// An action on a directory of snapshots.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Takes the snapshot of this index, in pieces of about this many bytes.
    Take(u64, usize),
    /// Begins to write a snapshot and abandons it.
    Abandon(u64, usize),
    /// Receives a snapshot.
    Receive(u64, usize),
    /// Receives the first half of a snapshot.
    ReceiveHalf(u64, usize),
    /// Prunes the snapshots older than this index.
    Prune(u64),
}

/// The content of the snapshot of an index: a few session chunks, and more machine chunks.
pub fn pieces(index: u64, bytes: usize) -> Vec<(ChunkKind, Vec<u8>)> {
    let body =
        |n: usize| (0..bytes / 2 + n % 3 * bytes / 3).map(|at| (at as u64 * 31 + index + n as u64) as u8).collect();
    let kind = |n| if n < 2 { ChunkKind::Sessions } else { ChunkKind::Machine };
    (0..9).map(|n| (kind(n), body(n))).collect()
}

fn take(store: &Store<SimDisk>, index: u64, bytes: usize) -> Result<Snapshot, Fault> {
    let mut writer = store.writer(&header(index))?;
    for (kind, piece) in pieces(index, bytes) {
        if let Err(fault) = writer.put(kind, &piece) {
            if matches!(fault, Fault::Full { .. }) {
                writer.abandon()?;
            }
            return Err(fault);
        }
    }
    writer.finish()
}

/// The file of a snapshot, as another node would send it.
pub fn file(index: u64, bytes: usize) -> Vec<u8> {
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    take(&store, index, bytes).unwrap().bytes().to_vec()
}

/// Receives the missing part of the first `upto` bytes, in steps that match no boundary.
pub fn receive(store: &Store<SimDisk>, index: u64, file: &[u8], upto: usize) -> Result<Option<Snapshot>, Fault> {
    let mut incoming = store.incoming(position(index), file.len() as u64)?;
    let step = (file.len() / 4).max(333);
    while incoming.at() < upto as u64 {
        let at = incoming.at() as usize;
        // Repeats the last 100 bytes, as after a lost response.
        let from = at.saturating_sub(100);
        incoming.put(from as u64, &file[from..(at + step).min(upto)])?;
    }
    if incoming.is_complete() { incoming.finish().map(Some) } else { Ok(None) }
}

/// The history of the directory.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Indexes of the snapshots that were begun, which may be present.
    pub begun: BTreeSet<u64>,
    /// Index of the newest snapshot that was reported as published.
    pub promised: u64,
    /// Size parameter of the pieces, in bytes.
    pub bytes: usize,
}

/// Runs a script until the disk fails.
pub fn run(disk: &SimDisk, script: &[Step], ledger: &mut Ledger) -> Result<(), Fault> {
    let store = Store::open(disk.clone(), CLUSTER)?;
    for step in script {
        match *step {
            Step::Take(index, bytes) => {
                ledger.begin(index, bytes);
                take(&store, index, bytes)?;
                ledger.promised = ledger.promised.max(index);
            }
            Step::Abandon(index, bytes) => {
                let mut writer = store.writer(&header(index))?;
                writer.put(ChunkKind::Sessions, &vec![7; bytes])?;
                writer.abandon()?;
            }
            Step::Receive(index, bytes) => {
                ledger.begin(index, bytes);
                let file = file(index, bytes);
                receive(&store, index, &file, file.len())?;
                ledger.promised = ledger.promised.max(index);
            }
            Step::ReceiveHalf(index, bytes) => {
                let file = file(index, bytes);
                receive(&store, index, &file, file.len() / 2)?;
            }
            Step::Prune(index) => drop(store.prune(position(index))?),
        }
    }
    Ok(())
}

impl Ledger {
    fn begin(&mut self, index: u64, bytes: usize) {
        self.begun.insert(index);
        self.bytes = bytes;
    }

    /// Asserts that the newest snapshot is the old or the new one, intact, and that no other file is damaged.
    /// Returns its index.
    pub fn check(&self, newest: &Newest) -> Result<u64, String> {
        if let Some(fault) = newest.damaged.first() {
            return Err(format!("damaged: {fault}"));
        }
        let Some(snapshot) = &newest.snapshot else {
            return if self.promised == 0 { Ok(0) } else { Err(format!("snapshot {} is missing", self.promised)) };
        };
        let index = snapshot.header().position.index.0;
        if index < self.promised || !self.begun.contains(&index) {
            return Err(format!(
                "snapshot {index} is the newest, but {} was published; {:?} were begun",
                self.promised, self.begun
            ));
        }
        self.check_pieces(snapshot)?;
        Ok(index)
    }

    fn check_pieces(&self, snapshot: &Snapshot) -> Result<(), String> {
        let index = snapshot.header().position.index.0;
        if *snapshot.header() != header(index) {
            return Err(format!("snapshot {index} has another header"));
        }
        let mut found = Vec::new();
        for chunk in snapshot.pieces() {
            let chunk = chunk.map_err(|fault| fault.to_string())?;
            found.push((chunk.kind, chunk.body.to_vec()));
        }
        if found == pieces(index, self.bytes) { Ok(()) } else { Err(format!("snapshot {index} has other contents")) }
    }
}

/// The interruption between the end of a process and the check.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    Kill,
    Power(u64),
    /// The node starts once, and then the power fails: the snapshot that the start found must still be there.
    StartThenPower(u64),
}

pub const INTERRUPTIONS: [Interruption; 8] = [
    Interruption::Kill,
    Interruption::Power(0),
    Interruption::Power(1),
    Interruption::Power(2),
    Interruption::Power(3),
    Interruption::StartThenPower(4),
    Interruption::StartThenPower(5),
    Interruption::StartThenPower(6),
];

/// Opens the store as a start does, and finds the newest snapshot.
pub fn newest(disk: &SimDisk) -> Result<(Store<SimDisk>, Newest), String> {
    let store = Store::open(disk.clone(), CLUSTER).map_err(|fault| format!("the start fails: {fault}"))?;
    let newest = store.newest().map_err(|fault| format!("the start fails: {fault}"))?;
    Ok((store, newest))
}

/// Crashes the disk, and checks that the directory is usable.
pub fn survive(disk: &SimDisk, ledger: &Ledger, interruption: Interruption) -> Result<(), String> {
    let (disk, mut ledger) = (disk.fork(), ledger.clone());
    let crash = |how, seed| disk.crash(&mut StdRng::seed_from_u64(seed), how);
    match interruption {
        Interruption::Kill => crash(Crash::Kill, 0),
        Interruption::Power(seed) => crash(Crash::Power, seed),
        Interruption::StartThenPower(seed) => {
            crash(Crash::Kill, 0);
            ledger.promised = ledger.check(&newest(&disk)?.1)?;
            crash(Crash::Power, seed);
        }
    }
    let (store, found) = newest(&disk)?;
    ledger.promised = ledger.check(&found)?;

    // The node continues: a partial snapshot is completed, and in the end only the newest one is left.
    let next = ledger.begun.last().copied().unwrap_or(0).max(ledger.promised) + 1;
    let resume = ledger.begun.last().copied().filter(|last| *last > ledger.promised).unwrap_or(next);
    ledger.begin(resume, ledger.bytes.max(100));
    let file = file(resume, ledger.bytes);
    let received = receive(&store, resume, &file, file.len()).map_err(|fault| fault.to_string())?;
    if received.is_none_or(|snapshot| snapshot.bytes()[..] != file) {
        return Err("the received snapshot differs from the one sent".to_owned());
    }
    store.prune(position(resume)).map_err(|fault| fault.to_string())?;
    crash(Crash::Power, 9);
    let (_, found) = newest(&disk)?;
    ledger.promised = resume;
    ledger.check(&found)?;
    match &drave::disk::Disk::list(&disk).unwrap()[..] {
        [only] if Some(only.as_str()) == found.snapshot.as_ref().map(Snapshot::name) => Ok(()),
        other => Err(format!("unexpected files: {other:?}")),
    }
}
