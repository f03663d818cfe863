//! Log compaction: which snapshot is the newest, when the next one is due, and how much of the log may be discarded.
//!
//! A snapshot passes through four states, and the node learns of each by an event:
//!
//! ```text
//!   due ──begin──▶ being taken ──taken(Some)──▶ kept ──release──▶ the log behind it is discarded
//!    ▲                  │ taken(None), taken_damaged               │ discard: its file was found damaged
//!    └──── a delay ─────┘◀──────────── at once ────────────────────┘
//! ```
//!
//! The log is released only behind a snapshot that is durable *and* was read back undamaged. Until then the log is the
//! only copy of these entries on this node, and a snapshot that cannot be read is found out when it is needed.
//!
//! Each node decides for itself (§7): a snapshot holds committed entries only, so nodes need not agree on it, and a
//! leader that took it for all of them would send the whole state to each.

use super::event::{Caller, DurableSnapshot};
use super::options::Options;
use crate::consensus::log::Log;
use crate::types::{Index, Mutant, Position, Time};
use std::time::Duration;

/// How often the delay before the next attempt doubles after a failed snapshot: from 5 s to 5 min.
const REST_DOUBLES: u32 = 6;

/// This node's snapshots, as they concern the log.
///
/// Invariants: `compacted ≤ snapshot ≤ applied`; the snapshot never becomes an older one; one is taken at a time; only
/// a snapshot that exists is damaged; a caller that waits, waits for a later snapshot than the newest.
#[derive(Clone, Debug)]
pub struct CompactionPolicy {
    /// The newest durable snapshot.
    kept: Option<DurableSnapshot>,
    /// Whether its file was found damaged since: it is no longer sent, and another snapshot is due. It still counts as
    /// the newest: the log behind it is gone, and the state it holds is applied here.
    damaged: bool,
    /// When it was taken, or when this node started.
    since: Time,
    /// Whether a snapshot is being taken. That is, whether the event that answers the action has not come yet.
    taking: bool,
    /// No snapshot is due before this time: the last one did not fit the disk.
    retry_at: Time,
    /// How many snapshots in a row did not fit.
    no_space_failures: u32,
    /// How many snapshots in a row were damaged when they were read back, and the time before which none is due because
    /// of it. Counted apart from `no_space_failures`: room that returns says nothing about a disk that flips bits.
    damaged_failures: u32,
    damaged_retry_at: Time,
    /// Callers that requested a snapshot and wait for it, each with the index that it must hold.
    waiters: Vec<(Caller, u64, Index)>,
    /// Whether more of the log may be compacted. A turn that changed nothing here then costs no search in the log.
    unreleased: bool,
    /// This node's ordinal among the voters, and the number of voters. It staggers the snapshots of nodes whose logs
    /// grow alike.
    ordinal: (u64, u64),
}

impl CompactionPolicy {
    /// Creates the policy with the snapshot found at the start, if any.
    pub fn new(now: Time, kept: Option<DurableSnapshot>) -> CompactionPolicy {
        CompactionPolicy {
            kept,
            damaged: false,
            since: now,
            taking: false,
            retry_at: Time::ZERO,
            no_space_failures: 0,
            damaged_failures: 0,
            damaged_retry_at: Time::ZERO,
            waiters: Vec::new(),
            unreleased: true,
            ordinal: (0, 1),
        }
    }

    /// The newest durable snapshot.
    pub fn kept(&self) -> Option<&DurableSnapshot> {
        self.kept.as_ref()
    }

    /// The newest durable snapshot, if its file may be sent. A damaged one is not: each receiver would receive all of
    /// it before it finds out.
    pub fn sendable(&self) -> Option<&DurableSnapshot> {
        self.kept.as_ref().filter(|_| !self.damaged)
    }

    /// Records that the file of `snapshot` is damaged or missing: another snapshot is due. By now a newer one may have
    /// replaced it; then its damage is of no consequence.
    pub fn discard(&mut self, snapshot: Position) {
        self.damaged |= self.kept.as_ref().is_some_and(|kept| kept.position == snapshot);
    }

    /// The last index that a durable snapshot holds.
    pub fn upto(&self) -> Index {
        self.kept.as_ref().map_or(Index::ZERO, |kept| kept.position.index)
    }

    /// The time since the newest snapshot was taken or received, or was found at the start. Zero if there is none. (Its
    /// file's date is wall-clock time, which this module does not know.)
    pub fn age(&self, now: Time) -> Duration {
        self.kept.as_ref().map_or(Duration::ZERO, |_| now.since(self.since))
    }

    /// Adds a caller that waits for a snapshot of everything applied by now: one that is being taken may hold less. An
    /// operator who requests a backup expects every write in it that was acknowledged before.
    pub fn add_waiter(&mut self, from: Caller, id: u64, applied: Index) {
        self.waiters.push((from, id, applied));
    }

    /// Whether a snapshot is being taken.
    pub fn is_taking(&self) -> bool {
        self.taking
    }

    /// Removes and returns the callers that the newest snapshot satisfies.
    pub fn take_satisfied(&mut self) -> Vec<(Caller, u64)> {
        let upto = self.upto();
        self.waiters.extract_if(.., |(.., wanted)| *wanted <= upto).map(|(from, id, _)| (from, id)).collect()
    }

    /// Removes and returns all waiting callers, because no snapshot can be taken. They are told at once: the next
    /// attempt may be minutes away, and their disk is what they have to look at.
    pub fn take_all_waiters(&mut self) -> Vec<(Caller, u64)> {
        self.waiters.drain(..).map(|(from, id, _)| (from, id)).collect()
    }

    /// Drops all requests of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        self.waiters.retain(|(from, ..)| *from != caller);
    }

    /// Whether the last attempted snapshot did not fit the disk. It stays until one fits or room is reported: an
    /// operator who looks between two attempts must see it.
    pub fn lacks_room(&self) -> bool {
        self.no_space_failures > 0
    }

    /// Records that the disk has room: the next attempt need not wait, and the delay after it is short again.
    pub fn room(&mut self) {
        (self.retry_at, self.no_space_failures) = (Time::ZERO, 0);
    }

    /// Sets this node's ordinal `nth`, from 0, among `of` voters. All logs grow alike; a later ordinal takes its
    /// snapshot somewhat sooner, so that a majority has its disks to itself while one node writes.
    pub fn set_ordinal(&mut self, nth: u64, of: u64) {
        assert!(nth <= of, "no more voters come before this node than there are voters");
        self.ordinal = (nth, of.max(1));
    }

    /// Whether to take a snapshot now. It is due when a caller waits for one; when the log has grown by the configured
    /// size and by the size of the state (otherwise most of the bytes written would be snapshots); when there is too
    /// little room (`low`) and a snapshot would free some; or when the last one is old. It is not due when the last one
    /// already holds everything applied, unless its file is damaged.
    ///
    /// A caller that waits overrides the delay after a lack of room, but not the one after a damaged snapshot: room may
    /// have been made by hand, while a disk that just returned other bytes than were written may do so again. A damaged
    /// snapshot is due even if nothing was applied since, because followers may need what only it holds.
    ///
    /// The log is compared in bytes, not in entries: a thousand entries are a kilobyte or a gigabyte (the switch
    /// `snapshot-by-count` shows the difference).
    pub fn is_due(&self, now: Time, log: &Log, applied: Index, low: bool, options: &Options) -> bool {
        if self.taking || now < self.damaged_retry_at {
            return false;
        }
        if self.damaged {
            return now >= self.retry_at;
        }
        if applied <= self.upto() {
            return false;
        }
        if !self.waiters.is_empty() {
            return true;
        }
        if options.mutants.breaks(Mutant::SnapshotByCount) {
            return applied.0 - self.upto().0 >= 1000;
        }
        let state = self.kept.as_ref().map_or(0, |kept| kept.bytes.len() as u64);
        let grown = log.bytes(self.upto().max(log.base().index), applied);
        let frees = low && grown >= options.trailing_bytes;
        let most = options.snapshot_log_bytes.max(state);
        let (nth, of) = self.ordinal;
        // The last voter's limit is still more than half of the first one's.
        let large = frees || grown >= most - most / (2 * of) * nth.min(of);
        now >= self.retry_at && (large || now.since(self.since) >= options.snapshot_max_age)
    }

    /// When a snapshot is next due by age, if any entry was applied since the last one. A snapshot due by size needs no
    /// timer: the event that makes the log grow wakes the node.
    pub fn deadline(&self, applied: Index, options: &Options) -> Time {
        let by_count = options.mutants.breaks(Mutant::SnapshotByCount);
        if self.taking || applied == Index::ZERO {
            return Time::NEVER;
        }
        if self.damaged {
            return self.retry_at.max(self.damaged_retry_at);
        }
        if applied <= self.upto() || by_count {
            return Time::NEVER;
        }
        if self.damaged_failures > 0 && !self.waiters.is_empty() {
            return self.damaged_retry_at;
        }
        self.retry_at.max(self.since + options.snapshot_max_age).max(self.damaged_retry_at)
    }

    /// Records that a snapshot is being taken.
    pub fn begin(&mut self) {
        assert!(!self.taking, "one snapshot is taken at a time: there is one frozen state");
        self.taking = true;
    }

    /// Records the snapshot that was taken, or (`None`) that there was no room for it.
    ///
    /// `None` also ends a snapshot whose frozen state was dropped, because a leader's snapshot replaced the machine.
    /// The delay that follows is harmless: the received snapshot is newer than the one that was given up.
    pub fn taken(&mut self, now: Time, kept: Option<DurableSnapshot>, options: &Options) {
        self.taking = false;
        match kept {
            Some(kept) => {
                (self.no_space_failures, self.damaged_failures) = (0, 0);
                self.adopt(now, kept);
            }
            None => {
                // Each failed attempt fills the disk for nothing: attempts become less and less frequent.
                self.retry_at = now + options.snapshot_again * (1 << self.no_space_failures.min(REST_DOUBLES));
                self.no_space_failures += 1;
            }
        }
    }

    /// Records that the snapshot was damaged when it was read back: callers keep waiting, and another attempt follows
    /// after a delay. The disk has room, so another attempt may succeed, and they need not be refused.
    pub fn taken_damaged(&mut self, now: Time, options: &Options) {
        self.taking = false;
        self.damaged_retry_at = now + options.snapshot_again * (1 << self.damaged_failures.min(REST_DOUBLES));
        self.damaged_failures += 1;
    }

    /// Records a durable snapshot, taken here or received.
    ///
    /// An older one is ignored: the report of a snapshot taken here may arrive after a leader's later one was
    /// installed. One of the same index is of use only in place of a damaged file.
    pub fn adopt(&mut self, now: Time, kept: DurableSnapshot) {
        let upto = self.upto();
        if kept.position.index > upto || (self.damaged && kept.position.index == upto) {
            self.kept = Some(kept);
            self.damaged = false;
            self.since = now;
            self.unreleased = true;
        }
        assert!(self.upto() >= upto, "the newest snapshot never becomes an older one: the log behind it is discarded");
    }

    /// The index up to which the log may be compacted, if it has advanced. The log keeps some entries behind the
    /// snapshot, for followers that lag a little, and all entries that a follower needs after an older snapshot that is
    /// being sent to it (`shipped`), unless these are too many bytes.
    ///
    /// Without the first, each follower that misses a few messages would be sent the whole state. Without the second, a
    /// follower that has just received a snapshot finds its next entry discarded, is sent the next snapshot, and so on:
    /// under load it never catches up. Without the limit, one slow follower fills every leader's disk.
    ///
    /// The durable index is a limit of its own: a node may apply and freeze entries that a quorum holds before its own
    /// disk does, and a journal cannot discard what it has not written.
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
            // The limit is temporary: the transfer ends, or the disk catches up, and neither is reported here.
            self.unreleased = true;
        }
        let upto = log.within(limit, options.trailing_bytes);
        let covered = early.is_some() || upto <= self.upto() || upto == log.base().index;
        assert!(covered, "the log keeps every entry that no durable snapshot holds (§7)");
        (upto > log.base().index).then_some(upto)
    }

    /// Panics if a law of this policy is violated.
    pub(super) fn check(&self) {
        assert!(!self.damaged || self.kept.is_some(), "only a snapshot that exists is damaged");
        let upto = self.upto();
        let waits = |(.., wanted): &(Caller, u64, Index)| *wanted > upto;
        debug_assert!(self.waiters.iter().all(waits), "a caller is answered as soon as a snapshot holds what it wants");
    }

    /// The index up to which the log is compacted too early, if a mutant breaks that rule. Apart from the rule itself,
    /// so that the rule can be read without its switches.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;
    use bytes::Bytes;

    /// A log of that many entries of a hundred bytes, all durable and committed, and a snapshot of the first `snapshot`
    /// entries.
    fn log(entries: u64, snapshot: u64) -> (Log, CompactionPolicy) {
        let mut log = Log::new(Position::ZERO);
        grow(&mut log, entries);
        let kept = DurableSnapshot { position: Position::new(Index(snapshot), Term(1)), bytes: Bytes::new() };
        (log, CompactionPolicy::new(Time::ZERO, Some(kept)))
    }

    fn grow(log: &mut Log, entries: u64) {
        (0..entries).for_each(|_| _ = log.append(Term(1), 100));
        log.persisted(log.last().index);
        log.commit_to(log.last().index);
    }

    #[test]
    fn log_held_for_a_snapshot_receiver_is_bounded_in_bytes() {
        let options = Options { trailing_bytes: 0, hold_bytes: 9_000, ..Options::default() };
        let (mut log, mut keeping) = log(50, 40);
        let release =
            |keeping: &mut CompactionPolicy, log: &Log| keeping.release(log, log.commit(), Some(Index(10)), &options);
        // The follower is being sent an older snapshot, of the first ten entries.
        assert_eq!(release(&mut keeping, &log), Some(Index(10)));
        log.compact(Index(10));
        grow(&mut log, 50);
        // Ninety entries behind its snapshot: exactly the limit.
        assert_eq!(release(&mut keeping, &log), None);
        grow(&mut log, 1);
        assert_eq!(release(&mut keeping, &log), Some(Index(40)), "one entry above the limit: the log is released");
    }

    #[test]
    fn log_is_released_once_no_follower_receives_a_snapshot() {
        let options = Options { trailing_bytes: 0, ..Options::default() };
        let (mut log, mut keeping) = log(50, 40);
        assert_eq!(keeping.release(&log, Index(50), Some(Index(10)), &options), Some(Index(10)));
        log.compact(Index(10));
        assert_eq!(keeping.release(&log, Index(50), None, &options), Some(Index(40)));
    }

    #[test]
    fn low_disk_space_makes_a_snapshot_due_that_frees_log() {
        let options = Options { trailing_bytes: 1_000, ..Options::default() };
        let (mut log, keeping) = log(49, 40);
        let due = |log: &Log, low| keeping.is_due(Time::ZERO, log, log.commit(), low, &options);
        assert!(!due(&log, true), "a snapshot would free nothing");
        grow(&mut log, 1);
        assert!(due(&log, true) && !due(&log, false));
    }

    #[test]
    fn voters_take_snapshots_at_staggered_log_sizes() {
        let options = Options { snapshot_log_bytes: 10_000, ..Options::default() };
        let due_at = |nth| {
            let (mut log, mut keeping) = log(41, 40);
            keeping.set_ordinal(nth, 3);
            let due = |log: &Log| keeping.is_due(Time::ZERO, log, log.commit(), false, &options);
            (1..).find(|_| {
                grow(&mut log, 1);
                due(&log)
            })
        };
        let all = [0, 1, 2].map(due_at);
        assert!(all[0] > all[1] && all[1] > all[2], "{all:?}");
        assert!(all[2] > all[0].map(|most: u64| most / 2), "{all:?}");
    }

    #[test]
    fn snapshot_without_space_backs_off_until_space_returns() {
        let options =
            Options { snapshot_again: std::time::Duration::from_secs(5), trailing_bytes: 0, ..Options::default() };
        let (log, mut keeping) = log(50, 40);
        let mut now = Time::ZERO;
        for rest in [5, 10, 20, 40, 80, 160, 320, 320] {
            assert!(keeping.is_due(now, &log, Index(50), true, &options));
            keeping.begin();
            keeping.taken(now, None, &options);
            assert!(keeping.lacks_room());
            now = now + std::time::Duration::from_secs(rest);
            let before = Time(now.0 - 1);
            assert!(!keeping.is_due(before, &log, Index(50), true, &options), "after {rest} s");
        }
        keeping.taken(now, None, &options);
        assert!(!keeping.is_due(now, &log, Index(50), true, &options));
        keeping.room();
        assert!(!keeping.lacks_room() && keeping.is_due(now, &log, Index(50), true, &options));
    }

    #[test]
    fn damaged_snapshot_is_retaken_even_at_the_same_position() {
        let options = Options::default();
        let (log, mut keeping) = log(50, 50);
        let due = |keeping: &CompactionPolicy, now| keeping.is_due(now, &log, Index(50), false, &options);
        let kept = keeping.kept().expect("a durable snapshot").clone();
        keeping.discard(Position::new(Index(40), Term(1)));
        assert!(!due(&keeping, Time::ZERO) && keeping.sendable().is_some());
        keeping.discard(kept.position);
        assert!(due(&keeping, Time::ZERO) && keeping.sendable().is_none());
        assert_eq!((keeping.upto(), keeping.deadline(Index(50), &options)), (Index(50), Time::ZERO));
        keeping.begin();
        assert!(!due(&keeping, Time::ZERO));
        keeping.taken(Time::ZERO, Some(kept), &options);
        assert!(!due(&keeping, Time::ZERO) && keeping.sendable().is_some());
    }

    #[test]
    fn snapshots_damaged_at_verification_back_off() {
        let options = Options { snapshot_again: std::time::Duration::from_secs(5), ..Options::default() };
        let (log, mut keeping) = log(50, 40);
        keeping.add_waiter(Caller::Client(1), 7, Index(50));
        let mut now = Time::ZERO;
        for rest in [5, 10, 20, 40, 80, 160, 320, 320] {
            assert!(keeping.is_due(now, &log, Index(50), false, &options), "a snapshot is requested");
            keeping.begin();
            keeping.taken_damaged(now, &options);
            now = now + std::time::Duration::from_secs(rest);
            assert!(!keeping.is_due(Time(now.0 - 1), &log, Index(50), false, &options), "after {rest} s");
            assert_eq!(keeping.deadline(Index(50), &options), now);
        }
        assert!(!keeping.lacks_room());
    }
}
