//! Scripts of actions on a directory of snapshots, and checks of the directory after a crash.

use drave::sim::disk::{Crash, SimDisk};
use drave::snapshot::{ChunkKind, Fault, Header, NewestSnapshot, Snapshot, Store};
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
        configuration_index: Index(0),
        time: ClusterTime(index * 1000),
        digest: index.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        sessions: 2,
        membership: Membership::founding([(node, "a:1".to_owned())]),
    }
}

/// An action on a directory of snapshots.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Writes and publishes the snapshot of this index, in pieces of about this many bytes.
    Take(u64, usize),
    /// Begins to write the snapshot of this index and abandons it, with one piece of this many bytes.
    Abandon(u64, usize),
    /// Receives the snapshot of this index from another node, with pieces of about this many bytes, and publishes it.
    Receive(u64, usize),
    /// Receives the first half of the snapshot of this index, with pieces of about this many bytes.
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

fn write_snapshot(store: &Store<SimDisk>, index: u64, bytes: usize) -> Result<Snapshot, Fault> {
    let mut writer = store.create_writer(&header(index))?;
    for (kind, piece) in pieces(index, bytes) {
        if let Err(fault) = writer.write_piece(kind, &piece) {
            if matches!(fault, Fault::Full { .. }) {
                writer.abandon()?;
            }
            return Err(fault);
        }
    }
    writer.finish()
}

/// The file of a snapshot, as another node would send it.
pub fn snapshot_file(index: u64, bytes: usize) -> Vec<u8> {
    let store = Store::open(SimDisk::new(), CLUSTER).unwrap();
    write_snapshot(&store, index, bytes).unwrap().bytes().to_vec()
}

/// Receives the missing part of the first `upto` bytes of a file, in steps that end at no chunk boundary. Returns the
/// snapshot if the file is complete.
pub fn receive(store: &Store<SimDisk>, index: u64, file: &[u8], upto: usize) -> Result<Option<Snapshot>, Fault> {
    let mut incoming = store.open_incoming(position(index), file.len() as u64)?;
    let step_bytes = (file.len() / 4).max(333);
    while incoming.received_bytes() < upto as u64 {
        let received_bytes = incoming.received_bytes() as usize;
        // Repeats the last 100 bytes, as after a lost response.
        let from = received_bytes.saturating_sub(100);
        incoming.write_bytes(from as u64, &file[from..(received_bytes + step_bytes).min(upto)])?;
    }
    if incoming.is_complete() { incoming.finish().map(Some) } else { Ok(None) }
}

/// The snapshots that a script has begun to write or receive, and those that it has published.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Indexes of the snapshots that a script has begun to write or receive. Each of them may be in the directory.
    pub begun_indexes: BTreeSet<u64>,
    /// Index of the newest snapshot that was reported as published; 0 if there is none.
    pub newest_published: u64,
    /// The approximate size of a piece in bytes, with which [`pieces`] generates the content of a snapshot again.
    pub piece_bytes: usize,
}

/// Runs a script until it ends or the disk fails, and records the snapshots in the ledger.
pub fn run_script(disk: &SimDisk, script: &[Step], ledger: &mut Ledger) -> Result<(), Fault> {
    let store = Store::open(disk.clone(), CLUSTER)?;
    for step in script {
        match *step {
            Step::Take(index, bytes) => {
                ledger.record_begun(index, bytes);
                write_snapshot(&store, index, bytes)?;
                ledger.newest_published = ledger.newest_published.max(index);
            }
            Step::Abandon(index, bytes) => {
                let mut writer = store.create_writer(&header(index))?;
                writer.write_piece(ChunkKind::Sessions, &vec![7; bytes])?;
                writer.abandon()?;
            }
            Step::Receive(index, bytes) => {
                ledger.record_begun(index, bytes);
                let file = snapshot_file(index, bytes);
                receive(&store, index, &file, file.len())?;
                ledger.newest_published = ledger.newest_published.max(index);
            }
            Step::ReceiveHalf(index, bytes) => {
                let file = snapshot_file(index, bytes);
                receive(&store, index, &file, file.len() / 2)?;
            }
            Step::Prune(index) => drop(store.prune(position(index))?),
        }
    }
    Ok(())
}

impl Ledger {
    fn record_begun(&mut self, index: u64, bytes: usize) {
        self.begun_indexes.insert(index);
        self.piece_bytes = bytes;
    }

    /// Checks that the newest snapshot in the directory is intact, is not older than the newest published one, and was
    /// begun by the script. Returns its index.
    pub fn check(&self, newest: &NewestSnapshot) -> Result<u64, String> {
        if let Some(fault) = newest.newer_faults.first() {
            return Err(format!("a snapshot is damaged: {fault}"));
        }
        let Some(snapshot) = &newest.snapshot else {
            return if self.newest_published == 0 {
                Ok(0)
            } else {
                Err(format!("snapshot {} is missing", self.newest_published))
            };
        };
        let index = snapshot.header().position.index.0;
        if index < self.newest_published || !self.begun_indexes.contains(&index) {
            return Err(format!(
                "the newest snapshot found is {index}, but {} was published; the script began {:?}",
                self.newest_published, self.begun_indexes
            ));
        }
        self.check_pieces(snapshot)?;
        Ok(index)
    }

    fn check_pieces(&self, snapshot: &Snapshot) -> Result<(), String> {
        let index = snapshot.header().position.index.0;
        if *snapshot.header() != header(index) {
            return Err(format!("the header of snapshot {index} is wrong"));
        }
        let mut found_pieces = Vec::new();
        for chunk in snapshot.pieces() {
            let chunk = chunk.map_err(|fault| fault.to_string())?;
            found_pieces.push((chunk.kind, chunk.body.to_vec()));
        }
        if found_pieces == pieces(index, self.piece_bytes) {
            Ok(())
        } else {
            Err(format!("the content of snapshot {index} is wrong"))
        }
    }
}

/// What happens between the end of a script and the next start.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    /// The process is killed: the page cache survives.
    Kill,
    /// A power loss, with a seed that decides which unsynced writes survive.
    PowerLoss(u64),
    /// The node starts once, and then the power fails: the snapshot that the start found must still be there.
    StartThenPowerLoss(u64),
}

pub const INTERRUPTIONS: [Interruption; 8] = [
    Interruption::Kill,
    Interruption::PowerLoss(0),
    Interruption::PowerLoss(1),
    Interruption::PowerLoss(2),
    Interruption::PowerLoss(3),
    Interruption::StartThenPowerLoss(4),
    Interruption::StartThenPowerLoss(5),
    Interruption::StartThenPowerLoss(6),
];

/// Opens the store as a start does, and finds the newest snapshot.
pub fn find_newest(disk: &SimDisk) -> Result<(Store<SimDisk>, NewestSnapshot), String> {
    let store = Store::open(disk.clone(), CLUSTER).map_err(|fault| format!("the start fails: {fault}"))?;
    let newest = store.newest().map_err(|fault| format!("the start fails: {fault}"))?;
    Ok((store, newest))
}

/// Crashes a copy of the disk as `interruption` says. Checks the snapshots that the next start finds, and that a
/// transfer and a pruning succeed afterwards.
pub fn check_after_interruption(disk: &SimDisk, ledger: &Ledger, interruption: Interruption) -> Result<(), String> {
    let (disk, mut ledger) = (disk.fork(), ledger.clone());
    let crash = |how, seed| disk.crash(&mut StdRng::seed_from_u64(seed), how);
    match interruption {
        Interruption::Kill => crash(Crash::Kill, 0),
        Interruption::PowerLoss(seed) => crash(Crash::Power, seed),
        Interruption::StartThenPowerLoss(seed) => {
            crash(Crash::Kill, 0);
            ledger.newest_published = ledger.check(&find_newest(&disk)?.1)?;
            crash(Crash::Power, seed);
        }
    }
    let (store, found) = find_newest(&disk)?;
    ledger.newest_published = ledger.check(&found)?;

    // The node continues: an interrupted transfer is completed, and after a pruning only the newest snapshot is left.
    let next_index = ledger.begun_indexes.last().copied().unwrap_or(0).max(ledger.newest_published) + 1;
    let resumed_index =
        ledger.begun_indexes.last().copied().filter(|last| *last > ledger.newest_published).unwrap_or(next_index);
    ledger.record_begun(resumed_index, ledger.piece_bytes.max(100));
    let file = snapshot_file(resumed_index, ledger.piece_bytes);
    let received = receive(&store, resumed_index, &file, file.len()).map_err(|fault| fault.to_string())?;
    if received.is_none_or(|snapshot| snapshot.bytes()[..] != file) {
        return Err("the received snapshot differs from the one sent".to_owned());
    }
    store.prune(position(resumed_index)).map_err(|fault| fault.to_string())?;
    crash(Crash::Power, 9);
    let (_, found) = find_newest(&disk)?;
    ledger.newest_published = resumed_index;
    ledger.check(&found)?;
    match &drave::disk::Disk::list(&disk).unwrap()[..] {
        [only] if Some(only.as_str()) == found.snapshot.as_ref().map(Snapshot::name) => Ok(()),
        other => Err(format!("unexpected files: {other:?}")),
    }
}
