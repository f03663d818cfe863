//! Scripts of what is done to a directory of snapshots, and what must hold whatever becomes of it.

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

/// Something done to a directory of snapshots.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// The snapshot of that index is taken; in pieces of about so many bytes.
    Take(u64, usize),
    /// One is begun, and given up.
    GiveUp(u64, usize),
    /// One is received.
    Receive(u64, usize),
    /// One is received up to the middle.
    Half(u64, usize),
    /// What is older than that one goes.
    Prune(u64),
}

/// What the snapshot of that index holds: some sessions, more machine.
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

/// The file of that snapshot, as another node would send it.
pub fn file(index: u64, bytes: usize) -> Vec<u8> {
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    take(&store, index, bytes).unwrap().bytes().to_vec()
}

/// Receives what is missing of the first `upto` bytes, in steps that fit nothing.
pub fn receive(store: &Store<SimDisk>, index: u64, file: &[u8], upto: usize) -> Result<Option<Snapshot>, Fault> {
    let mut incoming = store.incoming(position(index), file.len() as u64)?;
    let step = (file.len() / 4).max(333);
    while incoming.at() < upto as u64 {
        let at = incoming.at() as usize;
        // What was sent before comes once more.
        let from = at.saturating_sub(100);
        incoming.put(from as u64, &file[from..(at + step).min(upto)])?;
    }
    if incoming.is_complete() { incoming.finish().map(Some) } else { Ok(None) }
}

/// What has been said of the directory.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// What was begun: it may be there.
    pub begun: BTreeSet<u64>,
    /// The newest that was said to be published.
    pub promised: u64,
    /// How large the pieces are.
    pub bytes: usize,
}

/// Does one thing after another, until the disk fails.
pub fn run(disk: &SimDisk, script: &[Step], ledger: &mut Ledger) -> Result<(), Fault> {
    let store = Store::open(disk.clone(), CLUSTER)?;
    for step in script {
        match *step {
            Step::Take(index, bytes) => {
                ledger.begin(index, bytes);
                take(&store, index, bytes)?;
                ledger.promised = ledger.promised.max(index);
            }
            Step::GiveUp(index, bytes) => {
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
            Step::Half(index, bytes) => {
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

    /// The newest is the old one or the new one, whole, and nothing is wrong beside it.
    pub fn check(&self, newest: &Newest) -> Result<u64, String> {
        if let Some(fault) = newest.damaged.first() {
            return Err(format!("damaged: {fault}"));
        }
        let Some(snapshot) = &newest.snapshot else {
            return if self.promised == 0 { Ok(0) } else { Err(format!("{} is gone", self.promised)) };
        };
        let index = snapshot.header().position.index.0;
        if index < self.promised || !self.begun.contains(&index) {
            return Err(format!("{index} is there, {} was promised, {:?} begun", self.promised, self.begun));
        }
        self.check_pieces(snapshot)?;
        Ok(index)
    }

    fn check_pieces(&self, snapshot: &Snapshot) -> Result<(), String> {
        let index = snapshot.header().position.index.0;
        if *snapshot.header() != header(index) {
            return Err(format!("{index} has another header"));
        }
        let mut found = Vec::new();
        for chunk in snapshot.pieces() {
            let chunk = chunk.map_err(|fault| fault.to_string())?;
            found.push((chunk.kind, chunk.body.to_vec()));
        }
        if found == pieces(index, self.bytes) { Ok(()) } else { Err(format!("{index} holds something else")) }
    }
}

/// What happens between the end of a process and the check.
#[derive(Clone, Copy, Debug)]
pub enum Between {
    Kill,
    Power(u64),
    /// It is started once, and then the power goes: what the start believed must still be there.
    StartThenPower(u64),
}

pub const BETWEEN: [Between; 8] = [
    Between::Kill,
    Between::Power(0),
    Between::Power(1),
    Between::Power(2),
    Between::Power(3),
    Between::StartThenPower(4),
    Between::StartThenPower(5),
    Between::StartThenPower(6),
];

/// What a start finds.
pub fn newest(disk: &SimDisk) -> Result<(Store<SimDisk>, Newest), String> {
    let store = Store::open(disk.clone(), CLUSTER).map_err(|fault| format!("no start: {fault}"))?;
    let newest = store.newest().map_err(|fault| format!("no start: {fault}"))?;
    Ok((store, newest))
}

/// Crashes that disk, and sees that it can be lived with.
pub fn survive(disk: &SimDisk, ledger: &Ledger, between: Between) -> Result<(), String> {
    let (disk, mut ledger) = (disk.fork(), ledger.clone());
    let crash = |how, seed| disk.crash(&mut StdRng::seed_from_u64(seed), how);
    match between {
        Between::Kill => crash(Crash::Kill, 0),
        Between::Power(seed) => crash(Crash::Power, seed),
        Between::StartThenPower(seed) => {
            crash(Crash::Kill, 0);
            ledger.promised = ledger.check(&newest(&disk)?.1)?;
            crash(Crash::Power, seed);
        }
    }
    let (store, found) = newest(&disk)?;
    ledger.promised = ledger.check(&found)?;

    // Life goes on: what was half received is received, and in the end only the newest is left.
    let next = ledger.begun.last().copied().unwrap_or(0).max(ledger.promised) + 1;
    let resume = ledger.begun.last().copied().filter(|last| *last > ledger.promised).unwrap_or(next);
    ledger.begin(resume, ledger.bytes.max(100));
    let file = file(resume, ledger.bytes);
    let received = receive(&store, resume, &file, file.len()).map_err(|fault| fault.to_string())?;
    if received.is_none_or(|snapshot| snapshot.bytes()[..] != file) {
        return Err("what was received is not what was sent".to_owned());
    }
    store.prune(position(resume)).map_err(|fault| fault.to_string())?;
    crash(Crash::Power, 9);
    let (_, found) = newest(&disk)?;
    ledger.promised = resume;
    ledger.check(&found)?;
    match &drave::disk::Disk::list(&disk).unwrap()[..] {
        [only] if Some(only.as_str()) == found.snapshot.as_ref().map(Snapshot::name) => Ok(()),
        other => Err(format!("left over: {other:?}")),
    }
}
