//! Scripts of journal operations, and checks of the journal that a start recovers after a script.

use bytes::Bytes;
use drave::codec;
use drave::disk::Disk;
use drave::sim::disk::{Crash, SimDisk};
use drave::types::*;
use drave::wal::kept_entries::KeptEntries;
use drave::wal::{Journal, Options, RecoveredLog};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Appends entries of one term over a range of indexes, each with a payload of `bytes` bytes.
    Write { term: u64, from: u64, to: u64, bytes: usize },
    /// Appends a vote without entries.
    Vote { term: u64, vote: u64 },
    /// Appends a configuration entry with `count` members.
    Members { term: u64, index: u64, count: u64 },
    /// Restarts the log at a snapshot's position.
    Restart { index: u64, term: u64 },
    /// Syncs the journal: everything appended so far must be durable.
    Sync,
    /// Calls [`Journal::confirm_sync`], as the node does when the log is idle.
    Confirm,
    /// Releases all entries up to this index.
    Release(u64),
}

/// One change that a script has requested from the journal.
#[derive(Clone, Debug)]
enum RequestedChange {
    HardState(HardState),
    Base(SnapshotPoint),
    Entry(Entry),
}

/// All changes that were requested from the journal, in order, and how many of them it reported as durable.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    changes: Vec<RequestedChange>,
    /// The number of changes that a report has covered. They must survive every crash.
    pub durable_count: usize,
    released_indexes: Vec<Index>,
    last_write_id: u64,
}

/// The log that results from a prefix of the changes of a ledger.
#[derive(Clone, Debug, Default, PartialEq)]
struct ExpectedLog {
    hard_state: HardState,
    base: Position,
    entries: BTreeMap<u64, Entry>,
    configurations: BTreeMap<u64, Membership>,
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
    fn as_write(&self, id: u64) -> Option<Write> {
        let mut write = Write { id: WriteId(id), hard_state: None, base: None, entries: Vec::new() };
        match *self {
            Step::Write { term, from, to, bytes } => {
                write.entries = (from..=to).map(|index| entry(index, term, bytes)).collect();
            }
            Step::Vote { term, vote } => {
                write.hard_state = Some(HardState {
                    term: Term(term),
                    vote: NodeId::new(vote).map(|node| Vote { node, disk: DiskId(7) }),
                    promised_position: Position::ZERO,
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
    /// The last index of the log, with all changes that were requested.
    pub fn last_index(&self) -> u64 {
        let log = self.expected_log(self.changes.len());
        log.entries.keys().last().copied().unwrap_or(log.base.index.0)
    }

    fn expected_log(&self, change_count: usize) -> ExpectedLog {
        let mut log = ExpectedLog::default();
        for change in &self.changes[..change_count] {
            match change {
                RequestedChange::HardState(hard_state) => log.hard_state = *hard_state,
                RequestedChange::Base(base) => {
                    log = ExpectedLog { hard_state: log.hard_state, base: base.position, ..ExpectedLog::default() };
                }
                RequestedChange::Entry(entry) => {
                    let index = entry.position.index.0;
                    log.entries.split_off(&index);
                    log.configurations.split_off(&index);
                    if let Payload::Membership(membership) = &entry.payload {
                        log.configurations.insert(index, (**membership).clone());
                    }
                    log.entries.insert(index, entry.clone());
                }
            }
        }
        log
    }

    fn record(&mut self, write: &Write) {
        self.changes.extend(write.base.clone().map(RequestedChange::Base));
        self.changes.extend(write.hard_state.map(RequestedChange::HardState));
        self.changes.extend(write.entries.iter().cloned().map(RequestedChange::Entry));
    }

    /// Checks that every durable change was recovered, and nothing that was never requested. Then removes from the
    /// ledger the changes that were not recovered.
    pub fn check(&mut self, recovered: &RecoveredLog) -> Result<(), String> {
        let mut mismatch = String::new();
        // The longest prefix of the changes is tried first: if entries are equal, several prefixes match.
        for change_count in (self.durable_count..=self.changes.len()).rev() {
            match self.compare_with_log(&self.expected_log(change_count), recovered) {
                Ok(()) => {
                    self.changes.truncate(change_count);
                    self.durable_count = change_count;
                    return Ok(());
                }
                Err(error) => mismatch = error,
            }
        }
        Err(format!(
            "{} changes were requested, {} were reported durable, and no prefix matches the log: {mismatch}",
            self.changes.len(),
            self.durable_count
        ))
    }

    /// Checks a journal that was repaired: it is that of an earlier time, except that term and vote are the latest
    /// ones, and the promised position reaches everything that was reported as durable.
    pub fn check_repaired(&self, recovered: &RecoveredLog) -> Result<(), String> {
        let durable_log = self.expected_log(self.durable_count);
        let hard_state = recovered.hard_state;
        if (hard_state.term, hard_state.vote) != (durable_log.hard_state.term, durable_log.hard_state.vote) {
            return Err(format!("hard state {hard_state:?} instead of {:?}", durable_log.hard_state));
        }
        let matches_earlier_log = |changes: usize| {
            let earlier_log = ExpectedLog { hard_state, ..self.expected_log(changes) };
            self.compare_with_log(&earlier_log, recovered).is_ok()
        };
        if !(0..=self.changes.len()).any(matches_earlier_log) {
            return Err(format!(
                "no earlier log has {} entries after {}",
                recovered.entries.len(),
                recovered.base.position
            ));
        }
        let end_of = |log: &ExpectedLog| log.entries.values().last().map_or(log.base, |entry| entry.position);
        let (last, promised) = (end_of(&durable_log), hard_state.promised_position);
        let recovered_end = recovered.entries.last().map_or(recovered.base.position, |entry| {
            Position::new(Index(recovered.base.position.index.0 + recovered.entries.len() as u64), entry.term)
        });
        match recovered_end.max(promised) >= last {
            true => self.check_kept(&recovered.kept_entries),
            false => Err(format!("the log ends at {recovered_end} and promises {promised}, and {last} was durable")),
        }
    }

    /// Checks the kept entries: each fragment is a part of one log, as it was at some time.
    fn check_kept(&self, kept_entries: &KeptEntries) -> Result<(), String> {
        for (nth, (before, summaries)) in kept_entries.summaries().enumerate() {
            let range = before.index.next()..=Index(before.index.0 + summaries.len() as u64);
            let read_entries = kept_entries.entries(nth, range.clone()).map_err(|fault| fault.to_string())?;
            let read_terms: Vec<Term> = read_entries.iter().map(|entry| entry.position.term).collect();
            if read_terms != summaries.iter().map(|summary| summary.term).collect::<Vec<_>>() {
                return Err(format!("the kept entries {range:?} have the terms {read_terms:?}"));
            }
            let last_entry = read_entries.last().ok_or_else(|| "a fragment without entries".to_owned())?;
            let ends_with_fragment = |change: &RequestedChange| match change {
                RequestedChange::Entry(entry) => entry == last_entry,
                RequestedChange::HardState(_) | RequestedChange::Base(_) => false,
            };
            let holds_fragment = |change_count: usize| {
                let log = self.expected_log(change_count);
                let position_before = match log.entries.get(&before.index.0) {
                    Some(entry) => entry.position,
                    None => log.base,
                };
                let names_other_term = before.index == position_before.index && before != position_before;
                let is_unknown = before.term == read_entries[0].position.term;
                (!names_other_term || is_unknown)
                    && read_entries.iter().all(|entry| log.entries.get(&entry.position.index.0) == Some(entry))
            };
            let changes = (1..).zip(&self.changes);
            if !changes.into_iter().any(|(count, change)| ends_with_fragment(change) && holds_fragment(count)) {
                return Err(format!("the kept entries {range:?} were never a part of one log"));
            }
        }
        Ok(())
    }

    fn compare_with_log(&self, log: &ExpectedLog, recovered: &RecoveredLog) -> Result<(), String> {
        let base = recovered.base.position;
        let last_index = log.entries.keys().last().copied().unwrap_or(0).max(log.base.index.0);
        let found_last_index = base.index.0 + recovered.entries.len() as u64;
        if recovered.hard_state != log.hard_state {
            return Err(format!("the hard state is {:?} instead of {:?}", recovered.hard_state, log.hard_state));
        }
        if found_last_index != last_index {
            return Err(format!("the last index is {found_last_index} instead of {last_index}"));
        }
        let is_known_base = base == log.base || self.released_indexes.contains(&base.index);
        let has_same_entry =
            base == log.base || log.entries.get(&base.index.0).is_some_and(|entry| entry.position == base);
        if !is_known_base || !has_same_entry {
            return Err(format!("the base is {base} instead of {}", log.base));
        }
        let range = base.index.next()..=Index(last_index);
        let read_entries = recovered.view.entries(range.clone(), u64::MAX).map_err(|fault| fault.to_string())?;
        let expected_entries: Vec<&Entry> = log.entries.range(base.index.0 + 1..).map(|(_, entry)| entry).collect();
        if read_entries.iter().collect::<Vec<_>>() != expected_entries {
            return Err(format!(
                "the view of {range:?} holds {} entries that differ from those written",
                read_entries.len()
            ));
        }
        for (summary, entry) in recovered.entries.iter().zip(&expected_entries) {
            if summary.term != entry.position.term || summary.bytes as usize != codec::entry_size(entry) {
                return Err(format!("the recovered term or size of entry {} is wrong", entry.position));
            }
        }
        let configurations: BTreeMap<u64, Membership> =
            recovered.configurations.iter().map(|(index, membership)| (index.0, membership.clone())).collect();
        let expected_configurations =
            log.configurations.range(base.index.0 + 1..).map(|(index, members)| (*index, members.clone()));
        if configurations != expected_configurations.collect() {
            return Err("the configurations differ from those written".to_owned());
        }
        match log.configurations.range(..=base.index.0).next_back() {
            Some((_, members)) if *members != recovered.base.membership => {
                Err("the membership of the base is wrong".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Opens the journal and runs a script until the disk fails or stops. Returns an error if the opened journal does not
/// match the ledger.
pub fn run_script(disk: &SimDisk, options: &Options, script: &[Step], ledger: &mut Ledger) -> Result<(), String> {
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
        ledger.last_write_id += 1;
        if let Some(write) = step.as_write(ledger.last_write_id) {
            ledger.record(&write);
            view.push(&write);
            journal.append(&write)?;
        }
        match step {
            Step::Sync => {
                journal.sync()?.sealed_segments.into_iter().for_each(|sealed| view.add_sealed(sealed).unwrap());
                ledger.durable_count = ledger.changes.len();
            }
            Step::Confirm => {
                journal.confirm_sync()?;
                ledger.durable_count = ledger.changes.len();
            }
            Step::Release(index) => {
                let log = ledger.expected_log(ledger.changes.len());
                if let Some(entry) = log.entries.get(index) {
                    ledger.released_indexes.push(Index(*index));
                    view.release(Index(*index));
                    journal.release(entry.position)?;
                }
            }
            _ => {}
        }
        if let Some(order) = journal.next_spare_order()
            && let Ok(spare) = order.prepare(disk, || {})
        {
            journal.add_spare(spare);
        }
    }
    Ok(())
}

/// What happens between the end of a script and the next start.
#[derive(Clone, Copy, Debug)]
pub enum Interruption {
    /// The process is killed: the page cache survives.
    Kill,
    /// A power loss, with a seed that decides which unsynced writes survive.
    PowerLoss(u64),
    /// A kill, a start, and then a power loss: everything that the start recovered must be durable.
    KillThenPowerLoss(u64),
    /// A kill, and a power loss during the next start: the number of disk operations of the start before the power
    /// loss, and the seed of the power loss.
    PowerLossDuringStart(u64, u64),
}

pub const INTERRUPTIONS: [Interruption; 9] = [
    Interruption::Kill,
    Interruption::PowerLoss(1),
    Interruption::PowerLoss(2),
    Interruption::PowerLoss(3),
    Interruption::PowerLoss(4),
    Interruption::KillThenPowerLoss(5),
    Interruption::KillThenPowerLoss(6),
    Interruption::PowerLossDuringStart(2, 7),
    Interruption::PowerLossDuringStart(4, 8),
];

/// Opens the journal, which must succeed, and checks it against the ledger.
pub fn reopen(
    disk: &SimDisk,
    options: &Options,
    ledger: &mut Ledger,
) -> Result<(Journal<SimDisk>, RecoveredLog), String> {
    let opened = Journal::open(disk.clone(), options.clone(), Some(&founding()));
    let (journal, recovered) = opened.map_err(|fault| format!("the journal does not open: {fault}"))?;
    ledger.check(&recovered)?;
    Ok((journal, recovered))
}

/// Crashes a copy of the disk as `interruption` says, starts, writes, crashes and starts again. Checks the ledger after
/// each start.
pub fn check_after_interruption(
    disk: &SimDisk,
    options: &Options,
    ledger: &Ledger,
    interruption: Interruption,
) -> Result<(), String> {
    let (disk, mut ledger) = (disk.fork(), ledger.clone());
    let mut rng = StdRng::seed_from_u64(17);
    match interruption {
        Interruption::Kill => disk.crash(&mut rng, Crash::Kill),
        Interruption::PowerLoss(seed) => disk.crash(&mut StdRng::seed_from_u64(seed), Crash::Power),
        Interruption::KillThenPowerLoss(seed) => {
            disk.crash(&mut rng, Crash::Kill);
            drop(reopen(&disk, options, &mut ledger)?);
            disk.crash(&mut StdRng::seed_from_u64(seed), Crash::Power);
        }
        Interruption::PowerLossDuringStart(operations, seed) => {
            disk.crash(&mut rng, Crash::Kill);
            disk.stop_at(drave::sim::disk::DiskStop {
                operation: disk.operation_count() + operations,
                written_bytes: 100,
            });
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
    reopen(&disk, options, &mut ledger).map(drop).map_err(|why| format!("at a second start: {why}"))
}

/// Writes that continue the current log.
pub fn writes_after_restart(ledger: &Ledger) -> Vec<Step> {
    let log = ledger.expected_log(ledger.changes.len());
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

/// The names of all files of a disk, sorted.
pub fn file_names(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap()
}
