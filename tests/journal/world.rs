//! Scripts, the disks they run on, and the checks of the recovered journal.

use bytes::Bytes;
use drave::codec;
use drave::disk::Disk;
use drave::sim::disk::{Crash, SimDisk};
use drave::types::*;
use drave::wal::{Journal, Options, Recovered};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes entries of one term over a range of indexes, with that many bytes each.
    Write { term: u64, from: u64, to: u64, bytes: usize },
    /// Writes a vote alone.
    Vote { term: u64, vote: u64 },
    /// Writes a configuration entry.
    Members { term: u64, index: u64, count: u64 },
    /// Restarts the log at a snapshot's position.
    Restart { index: u64, term: u64 },
    /// Syncs: everything so far must be durable.
    Sync,
    /// Confirms the synced writes, when the log is idle.
    Confirm,
    /// Releases all entries up to this index, read or not.
    Release(u64),
}

/// One change that was requested of the journal.
#[derive(Clone, Debug)]
enum Change {
    Hard(HardState),
    Base(SnapshotPoint),
    Entry(Entry),
}

/// The changes requested of the journal, and how many of them it reported as durable.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    changes: Vec<Change>,
    /// How many of them were reported durable.
    pub promised: usize,
    released: Vec<Index>,
    write: u64,
}

/// The log after some of the changes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Log {
    hard: HardState,
    base: Position,
    entries: BTreeMap<u64, Entry>,
    members: BTreeMap<u64, Membership>,
}

pub fn options() -> Options {
    let node = NodeId::new(1).unwrap();
    Options { segment_bytes: 2048, batch_bytes: 700, ..Options::new(node, ClusterId(7), DiskId(9)) }
}

pub fn members(count: u64) -> Membership {
    Membership::founding((1..=count).map(|id| (NodeId::new(id).unwrap(), format!("n{id}:1"))))
}

pub fn founding() -> SnapshotPoint {
    SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: members(3) }
}

pub fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let text = format!("{index}@{term} ").repeat(bytes / 4 + 1);
    let payload = Payload::Opaque(Bytes::from(text.as_bytes()[..bytes].to_vec()));
    codec::entry(Position::new(Index(index), Term(term)), ClusterTime(index * 10), payload)
}

impl Step {
    fn write(&self, id: u64) -> Option<Write> {
        let mut write = Write { id: WriteId(id), hard_state: None, base: None, entries: Vec::new() };
        match *self {
            Step::Write { term, from, to, bytes } => {
                write.entries = (from..=to).map(|index| entry(index, term, bytes)).collect();
            }
            Step::Vote { term, vote } => {
                write.hard_state = Some(HardState {
                    term: Term(term),
                    vote: NodeId::new(vote).map(|node| Vote { node, disk: DiskId(7) }),
                    promised: Position::ZERO,
                });
            }
            Step::Members { term, index, count } => {
                let payload = Payload::Membership(Box::new(members(count)));
                write.entries =
                    vec![codec::entry(Position::new(Index(index), Term(term)), ClusterTime(index * 10), payload)];
            }
            Step::Restart { index, term } => {
                let position = Position::new(Index(index), Term(term));
                write.base = Some(SnapshotPoint { position, configured: Index(index - 1), membership: members(2) });
            }
            Step::Sync | Step::Confirm | Step::Release(_) => return None,
        }
        Some(write)
    }
}

impl Ledger {
    fn log(&self, changes: usize) -> Log {
        let mut log = Log::default();
        for change in &self.changes[..changes] {
            match change {
                Change::Hard(hard) => log.hard = *hard,
                Change::Base(base) => {
                    log = Log { hard: log.hard, base: base.position, ..Log::default() };
                }
                Change::Entry(entry) => {
                    let index = entry.position.index.0;
                    log.entries.split_off(&index);
                    log.members.split_off(&index);
                    if let Payload::Membership(membership) = &entry.payload {
                        log.members.insert(index, (**membership).clone());
                    }
                    log.entries.insert(index, entry.clone());
                }
            }
        }
        log
    }

    fn record(&mut self, write: &Write) {
        self.changes.extend(write.base.clone().map(Change::Base));
        self.changes.extend(write.hard_state.map(Change::Hard));
        self.changes.extend(write.entries.iter().cloned().map(Change::Entry));
    }

    /// Checks that every durable change was recovered, and nothing that was never requested. The ledger then becomes
    /// the recovered state: other changes that did not survive are removed.
    pub fn check(&mut self, recovered: &Recovered) -> Result<(), String> {
        let mut why = String::new();
        // The longest prefix first: with equal entries, several prefixes match.
        for changes in (self.promised..=self.changes.len()).rev() {
            match self.matches_log(&self.log(changes), recovered) {
                Ok(()) => {
                    self.changes.truncate(changes);
                    self.promised = changes;
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
        Err(format!("of {} changes {} were promised, and no prefix matches: {why}", self.changes.len(), self.promised))
    }

    fn matches_log(&self, log: &Log, recovered: &Recovered) -> Result<(), String> {
        let base = recovered.base.position;
        let last = log.entries.keys().last().copied().unwrap_or(0).max(log.base.index.0);
        let found = base.index.0 + recovered.heads.len() as u64;
        if recovered.hard_state != log.hard {
            return Err(format!("hard state {:?} instead of {:?}", recovered.hard_state, log.hard));
        }
        if found != last {
            return Err(format!("the last index is {found} instead of {last}"));
        }
        let is_known_base = base == log.base || self.released.contains(&base.index);
        let has_same_entry =
            base == log.base || log.entries.get(&base.index.0).is_some_and(|entry| entry.position == base);
        if !is_known_base || !has_same_entry {
            return Err(format!("the base is {base} instead of {}", log.base));
        }
        let range = base.index.next()..=Index(last);
        let read = recovered.view.entries(range.clone(), u64::MAX).map_err(|fault| fault.to_string())?;
        let expected: Vec<&Entry> = log.entries.range(base.index.0 + 1..).map(|(_, entry)| entry).collect();
        if read.iter().collect::<Vec<_>>() != expected {
            return Err(format!("the view of {range:?} holds {} entries that differ from those written", read.len()));
        }
        for (head, entry) in recovered.heads.iter().zip(&expected) {
            if head.term != entry.position.term || head.bytes as usize != codec::entry_size(entry) {
                return Err(format!("entry {} differs from its summary", entry.position));
            }
        }
        let configurations: BTreeMap<u64, Membership> =
            recovered.configurations.iter().map(|(index, membership)| (index.0, membership.clone())).collect();
        let expected = log.members.range(base.index.0 + 1..).map(|(index, members)| (*index, members.clone()));
        if configurations != expected.collect() {
            return Err("the configurations differ from those written".to_owned());
        }
        match log.members.range(..=base.index.0).next_back() {
            Some((_, members)) if *members != recovered.base.membership => Err("the base has other members".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Runs a script as far as the disk allows.
pub fn run(disk: &SimDisk, options: &Options, script: &[Step], ledger: &mut Ledger) -> Result<(), String> {
    let Ok((mut journal, recovered)) = Journal::open(disk.clone(), options.clone(), Some(&founding())) else {
        return Ok(());
    };
    ledger.check(&recovered)?;
    let mut view = recovered.view;
    let _stopped = run_steps(disk, &mut journal, &mut view, script, ledger);
    Ok(())
}

pub fn run_steps(
    disk: &SimDisk,
    journal: &mut Journal<SimDisk>,
    view: &mut drave::wal::View,
    script: &[Step],
    ledger: &mut Ledger,
) -> drave::wal::Result<()> {
    for step in script {
        ledger.write += 1;
        if let Some(write) = step.write(ledger.write) {
            ledger.record(&write);
            view.push(&write);
            journal.append(&write)?;
        }
        match step {
            Step::Sync => {
                journal.sync()?.sealed.into_iter().for_each(|sealed| view.seal(sealed).unwrap());
                ledger.promised = ledger.changes.len();
            }
            Step::Confirm => {
                journal.confirm()?;
                ledger.promised = ledger.changes.len();
            }
            Step::Release(index) => {
                let log = ledger.log(ledger.changes.len());
                if let Some(entry) = log.entries.get(index) {
                    ledger.released.push(Index(*index));
                    view.release(Index(*index));
                    journal.release(entry.position)?;
                }
            }
            _ => {}
        }
        if let Some(order) = journal.spare_wanted()
            && let Ok(spare) = order.prepare(disk, || {})
        {
            journal.spare_ready(spare);
        }
    }
    Ok(())
}

/// The interruption between one run and the next.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    Kill,
    Power(u64),
    /// A kill, a start, and then a power loss: everything that the start recovered must be durable.
    KillThenPower(u64),
    /// A kill, and a power loss during the start, after that many operations.
    PowerWhileStarting(u64, u64),
}

pub const INTERRUPTIONS: [Interruption; 9] = [
    Interruption::Kill,
    Interruption::Power(1),
    Interruption::Power(2),
    Interruption::Power(3),
    Interruption::Power(4),
    Interruption::KillThenPower(5),
    Interruption::KillThenPower(6),
    Interruption::PowerWhileStarting(2, 7),
    Interruption::PowerWhileStarting(4, 8),
];

/// Opens the journal, which must succeed, and checks it against the ledger.
pub fn reopen(disk: &SimDisk, options: &Options, ledger: &mut Ledger) -> Result<(Journal<SimDisk>, Recovered), String> {
    let opened = Journal::open(disk.clone(), options.clone(), Some(&founding()));
    let (journal, recovered) = opened.map_err(|fault| format!("the journal does not open: {fault}"))?;
    ledger.check(&recovered)?;
    Ok((journal, recovered))
}

/// Crashes, starts, writes, crashes and starts again.
pub fn survive(disk: &SimDisk, options: &Options, ledger: &Ledger, interruption: Interruption) -> Result<(), String> {
    let (disk, mut ledger) = (disk.fork(), ledger.clone());
    let mut rng = StdRng::seed_from_u64(17);
    match interruption {
        Interruption::Kill => disk.crash(&mut rng, Crash::Kill),
        Interruption::Power(seed) => disk.crash(&mut StdRng::seed_from_u64(seed), Crash::Power),
        Interruption::KillThenPower(seed) => {
            disk.crash(&mut rng, Crash::Kill);
            drop(reopen(&disk, options, &mut ledger)?);
            disk.crash(&mut StdRng::seed_from_u64(seed), Crash::Power);
        }
        Interruption::PowerWhileStarting(operations, seed) => {
            disk.crash(&mut rng, Crash::Kill);
            disk.stop_at(drave::sim::disk::Stop { at: disk.operations() + operations, bytes: 100 });
            drop(Journal::open(disk.clone(), options.clone(), Some(&founding())));
            disk.crash(&mut StdRng::seed_from_u64(seed), Crash::Power);
        }
    }
    let (mut journal, recovered) = reopen(&disk, options, &mut ledger)?;
    // Two restarts with writes in between: the second one reveals mistakes of the first recovery.
    let mut view = recovered.view;
    let steps = writes_after_restart(&ledger);
    run_steps(&disk, &mut journal, &mut view, &steps, &mut ledger)
        .map_err(|fault| format!("a write fails after the start: {fault}"))?;
    drop(journal);
    disk.crash(&mut rng, Crash::Power);
    reopen(&disk, options, &mut ledger).map(drop).map_err(|why| format!("after a second start: {why}"))
}

/// Writes that continue the current log.
pub fn writes_after_restart(ledger: &Ledger) -> Vec<Step> {
    let log = ledger.log(ledger.changes.len());
    let last = log.entries.keys().last().copied().unwrap_or(0).max(log.base.index.0);
    vec![
        Step::Vote { term: 90, vote: 2 },
        Step::Write { term: 90, from: last + 1, to: last + 3, bytes: 150 },
        Step::Sync,
        Step::Write { term: 91, from: last + 2, to: last + 2, bytes: 40 },
        Step::Sync,
    ]
}

pub fn random_script(seed: u64) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut term, mut last, mut base) = (1, 0, 0);
    let mut script = Vec::new();
    for _ in 0..rng.random_range(5..40) {
        match rng.random_range(0..20u32) {
            0 => {
                term += 1;
                script.push(Step::Vote { term, vote: rng.random_range(0..4) });
            }
            1 if last > base + 1 => {
                term += 1;
                let from = rng.random_range(base + 1..=last);
                last = from + rng.random_range(0..3u64);
                script.push(Step::Write { term, from, to: last, bytes: rng.random_range(0..200) });
            }
            2 => script.push(Step::Confirm),
            3 if last > base => {
                // Only durable entries are ever released.
                script.push(Step::Sync);
                base = rng.random_range(base + 1..=last);
                script.push(Step::Release(base));
            }
            4 => {
                last += 1;
                script.push(Step::Members { term, index: last, count: rng.random_range(1..5) });
            }
            5 if rng.random_range(0..3u32) == 0 => {
                term += 1;
                last += rng.random_range(1..20u64);
                base = last;
                script.push(Step::Restart { index: last, term });
            }
            6..12 => script.push(Step::Sync),
            _ => {
                let from = last + 1;
                last += rng.random_range(1..5u64);
                let bytes = if rng.random_range(0..8u32) == 0 { 900 } else { rng.random_range(0..300) };
                script.push(Step::Write { term, from, to: last, bytes });
            }
        }
    }
    script
}

/// The names of a disk's files.
pub fn files(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap()
}
