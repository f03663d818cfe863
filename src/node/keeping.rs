//! When the state takes the log's place: which snapshot there is, when the next is due, and how much
//! of the log may go.

use super::event::{Caller, Kept};
use super::options::Options;
use crate::consensus::log::Log;
use crate::types::{Index, Mutant, Time};

/// The snapshots of this node, as far as the log is concerned.
///
/// Invariant: `compacted ≤ snapshot ≤ applied`.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// The newest that is durable.
    kept: Option<Kept>,
    /// When it was taken, or when we began.
    since: Time,
    /// Whether one is being taken.
    taking: bool,
    /// Not before then: the last one did not fit the disk.
    rest: Time,
    /// Who asked for one, and waits; and for one of how much.
    asked: Vec<(Caller, u64, Index)>,
    /// Whether the log may have more to let go of.
    unreleased: bool,
}

impl Keeping {
    /// With what was found at the start.
    pub fn new(now: Time, kept: Option<Kept>) -> Keeping {
        Keeping { kept, since: now, taking: false, rest: Time::ZERO, asked: Vec::new(), unreleased: true }
    }

    /// The newest snapshot that is durable.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Everything up to here is in a durable snapshot.
    pub fn upto(&self) -> Index {
        self.kept.as_ref().map_or(Index::ZERO, |kept| kept.position.index)
    }

    /// Somebody wants one of all that is applied by now: one that is being taken may hold less.
    pub fn ask(&mut self, from: Caller, id: u64, applied: Index) {
        self.asked.push((from, id, applied));
    }

    /// Whether one is being taken.
    pub fn is_taking(&self) -> bool {
        self.taking
    }

    /// Who waited for what the newest holds.
    pub fn served(&mut self) -> Vec<(Caller, u64)> {
        let upto = self.upto();
        self.asked.extract_if(.., |(.., wanted)| *wanted <= upto).map(|(from, id, _)| (from, id)).collect()
    }

    /// Who waited, when none can be taken.
    pub fn disappointed(&mut self) -> Vec<(Caller, u64)> {
        self.asked.drain(..).map(|(from, id, _)| (from, id)).collect()
    }

    /// Nobody waits for that caller's answers any more.
    pub fn forget(&mut self, caller: Caller) {
        self.asked.retain(|(from, ..)| *from != caller);
    }

    /// Whether to take one now: somebody asks; or the log has grown, by so much at least and by as much
    /// as the state is (else most of what is written would be snapshots); or the last one is old. Never
    /// of what the last one holds already.
    pub fn is_due(&self, now: Time, log: &Log, applied: Index, options: &Options) -> bool {
        if self.taking || applied <= self.upto() {
            return false;
        }
        if !self.asked.is_empty() {
            return true;
        }
        if options.mutants.breaks(Mutant::SnapshotByCount) {
            return applied.0 - self.upto().0 >= 1000;
        }
        let state = self.kept.as_ref().map_or(0, |kept| kept.bytes.len() as u64);
        let grown = log.bytes(self.upto().max(log.base().index), applied);
        let large = grown >= options.snapshot_log_bytes.max(state);
        now >= self.rest && (large || now.since(self.since) >= options.snapshot_max_age)
    }

    /// When one is due by age, if anything was applied since the last.
    pub fn deadline(&self, applied: Index, options: &Options) -> Time {
        let by_count = options.mutants.breaks(Mutant::SnapshotByCount);
        if self.taking || applied <= self.upto() || by_count {
            return Time::NEVER;
        }
        self.rest.max(self.since + options.snapshot_max_age)
    }

    /// One is being taken.
    pub fn begin(&mut self) {
        self.taking = true;
    }

    /// It is durable; or it was given up, for want of room.
    pub fn taken(&mut self, now: Time, kept: Option<Kept>, options: &Options) {
        self.taking = false;
        match kept {
            Some(kept) => self.adopt(now, kept),
            None => self.rest = now + options.snapshot_again,
        }
    }

    /// That one is durable, whoever took it.
    pub fn adopt(&mut self, now: Time, kept: Kept) {
        if kept.position.index > self.upto() {
            self.kept = Some(kept);
            self.since = now;
            self.unreleased = true;
        }
    }

    /// Look again whether the log may let go of something.
    pub fn look_again(&mut self) {
        self.unreleased = true;
    }

    /// How far the log may be let go of, if that is news. Some is kept behind the snapshot, for followers
    /// that are a little behind; and all that one will need that is being sent an older snapshot
    /// (`shipped`), unless that is too much.
    pub fn release(&mut self, log: &Log, applied: Index, shipped: Option<Index>, options: &Options) -> Option<Index> {
        let early = self.may_break(log, applied, options);
        if (!std::mem::take(&mut self.unreleased) && early.is_none()) || options.mutants.breaks(Mutant::ReleaseNothing)
        {
            return None;
        }
        let mut limit = early.unwrap_or(self.upto()).min(log.durable()).min(log.commit());
        let held = |shipped: &Index| log.bytes(*shipped, log.last().index) <= options.hold_bytes;
        if let Some(shipped) = shipped.filter(held)
            && !options.mutants.breaks(Mutant::CompactUnderShip)
        {
            limit = limit.min(shipped);
        }
        if limit < self.upto() {
            // What holds it back will pass.
            self.unreleased = true;
        }
        let upto = log.within(limit, options.trailing_bytes);
        (upto > log.base().index).then_some(upto)
    }

    /// How far a log that is let go of too early goes, if that rule is broken.
    fn may_break(&self, log: &Log, applied: Index, options: &Options) -> Option<Index> {
        let breaks = |mutant| options.mutants.breaks(mutant);
        match self.upto() {
            _ if self.taking && breaks(Mutant::CompactBeforeSnapshot) => Some(applied),
            _ if breaks(Mutant::CompactBeforeApply) => Some(log.commit()),
            upto if upto > Index::ZERO && breaks(Mutant::CompactOneTooMany) => Some(upto.next()),
            _ => None,
        }
    }
}
