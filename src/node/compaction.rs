//! Log compaction: which snapshot is the newest, when the next one is due, and how much of the log may be discarded.
//!
//! A snapshot passes through four states, and the node learns of each by an event:
//!
//! ```text
//!   due ──begin_snapshot──▶ being taken ──record_taken(Some)──▶ newest ──release──▶ the log behind it is discarded
//!    ▲                           │ record_taken(None), record_damaged │ mark_damaged: its file was found damaged
//!    └───────── a delay ─────────┘◀──────────── at once ──────────────┘
//! ```
//!
//! The log is released only behind a snapshot that is durable *and* was read back undamaged. Until then the log is the
//! only copy of these entries on this node. A snapshot that was never read back would be found unreadable only when it
//! is needed.
//!
//! Damage in a part of the log that is applied is mended in the same way. The state in memory is an intact copy of these
//! entries: a snapshot of it is due at once, and then the damaged part is discarded, with everything before it.
//!
//! Each node decides for itself when to take a snapshot (§7): a snapshot holds committed entries only, so nodes need
//! not agree on it. If the leader took it for all of them, it would have to send the whole state to each.

use super::event::{Caller, DurableSnapshot};
use super::options::Options;
use crate::consensus::log::Log;
use crate::types::{Index, Mutant, Position, Time};
use std::time::Duration;

/// How often the delay before the next attempt doubles, at most, after failed snapshots: from 5 s to 5 min.
const SNAPSHOT_RETRY_DOUBLINGS_MAX: u32 = 6;

/// Decides when a snapshot is taken, and how much of the log is discarded behind it.
///
/// Invariants: `compacted ≤ snapshot ≤ applied`; the newest snapshot is never replaced by an older one; one snapshot is
/// taken at a time; `newest_is_damaged` is set only if there is a newest snapshot; each waiting caller waits for a
/// later snapshot than the newest.
#[derive(Clone, Debug)]
pub struct CompactionPolicy {
    /// The newest durable snapshot of this node, taken or received; `None` if there is none.
    newest: Option<DurableSnapshot>,
    /// Whether the newest snapshot's file was found damaged: it is no longer sent, and another snapshot is due. It
    /// still counts as the newest: the log behind it is gone, and the state in it is applied here.
    newest_is_damaged: bool,
    /// The last index of the damaged part of the log, until that part is discarded; `None` if no damage is known.
    damaged_log_upto: Option<Index>,
    /// When the newest snapshot was taken or received, or when this node started.
    newest_since: Time,
    /// Whether a snapshot is being taken: its action is under way, and the event that ends it has not come yet.
    taking_snapshot: bool,
    /// The time before which no snapshot is due, because the last one did not fit the disk.
    no_space_retry_at: Time,
    /// How many snapshots in a row did not fit the disk.
    no_space_failures: u32,
    /// How many snapshots in a row were damaged when they were read back, and the time before which none is due because
    /// of that damage. Counted apart from `no_space_failures`: a disk that has free space again may still return wrong
    /// bytes.
    consecutive_damaged: u32,
    damaged_retry_at: Time,
    /// Callers that wait for a snapshot: the caller, its id for the request, and the index that the snapshot must hold.
    waiters: Vec<(Caller, u64, Index)>,
    /// Whether more of the log may be released. If not, `release` need not search the log.
    log_release_pending: bool,
    /// This node's ordinal among the voters, and the number of voters. They stagger the snapshots of nodes whose logs
    /// grow alike.
    voter_ordinal: (u64, u64),
}

impl CompactionPolicy {
    /// Creates the policy with the snapshot found at the start, if any.
    pub fn new(now: Time, newest: Option<DurableSnapshot>) -> CompactionPolicy {
        CompactionPolicy {
            newest,
            newest_is_damaged: false,
            damaged_log_upto: None,
            newest_since: now,
            taking_snapshot: false,
            no_space_retry_at: Time::ZERO,
            no_space_failures: 0,
            consecutive_damaged: 0,
            damaged_retry_at: Time::ZERO,
            waiters: Vec::new(),
            log_release_pending: true,
            voter_ordinal: (0, 1),
        }
    }

    /// The newest durable snapshot, damaged or not; `None` if there is none.
    pub fn newest(&self) -> Option<&DurableSnapshot> {
        self.newest.as_ref()
    }

    /// The newest durable snapshot, if its file may be sent. A damaged one is not: each receiver would receive all of
    /// it before it finds out.
    pub fn sendable_snapshot(&self) -> Option<&DurableSnapshot> {
        self.newest.as_ref().filter(|_| !self.newest_is_damaged)
    }

    /// Records that the file of `snapshot` is damaged or missing: another snapshot is due. If a newer one has replaced
    /// it, nothing changes.
    pub fn mark_damaged(&mut self, snapshot: Position) {
        self.newest_is_damaged |= self.newest.as_ref().is_some_and(|newest| newest.position == snapshot);
    }

    /// The newest snapshot, if a follower can continue after it. None can if the log is damaged behind it: the follower
    /// would need a damaged entry next.
    pub fn snapshot_for_followers(&self) -> Option<&DurableSnapshot> {
        self.sendable_snapshot().filter(|newest| self.damaged_log_upto.is_none_or(|upto| newest.position.index >= upto))
    }

    /// Records that the log is damaged at or before `upto`: the log is discarded up to `upto`, whatever else it is kept
    /// for, as soon as a snapshot covers it.
    pub fn mark_log_damaged(&mut self, upto: Index) {
        self.damaged_log_upto = self.damaged_log_upto.max(Some(upto));
        self.log_release_pending = true;
    }

    /// The last index of the damaged part of the log, until that part is discarded; `None` if no damage is known.
    pub fn damaged_log_upto(&self) -> Option<Index> {
        self.damaged_log_upto
    }

    /// Whether a snapshot is due because the newest one is damaged, or because the log is damaged and the newest one does
    /// not cover the damage. A snapshot that would not cover all of the damage yet is not due.
    fn is_due_by_damage(&self, applied: Index) -> bool {
        self.newest_is_damaged
            || self.damaged_log_upto.is_some_and(|upto| self.snapshot_index() < upto && upto <= applied)
    }

    /// The last index that a durable snapshot holds.
    pub fn snapshot_index(&self) -> Index {
        self.newest.as_ref().map_or(Index::ZERO, |newest| newest.position.index)
    }

    /// The time since the newest snapshot was taken or received, or was found at the start. Zero if there is none. (Its
    /// file's date is wall-clock time, which this module does not know.)
    pub fn newest_age(&self, now: Time) -> Duration {
        self.newest.as_ref().map_or(Duration::ZERO, |_| now.since(self.newest_since))
    }

    /// Adds a caller that waits for a snapshot of everything applied by now: one that is being taken may hold less. An
    /// operator who requests a backup expects every write in it that was acknowledged before.
    pub fn add_waiter(&mut self, from: Caller, id: u64, applied: Index) {
        self.waiters.push((from, id, applied));
    }

    /// Whether a snapshot is being taken: the driver has not reported its end yet.
    pub fn is_taking_snapshot(&self) -> bool {
        self.taking_snapshot
    }

    /// Removes and returns the callers that the newest snapshot satisfies.
    pub fn take_satisfied_waiters(&mut self) -> Vec<(Caller, u64)> {
        let upto = self.snapshot_index();
        self.waiters.extract_if(.., |(.., wanted)| *wanted <= upto).map(|(from, id, _)| (from, id)).collect()
    }

    /// Removes and returns all waiting callers, because no snapshot can be taken. They are answered at once: the next
    /// attempt may be minutes away, and the operator has to free disk space.
    pub fn take_all_waiters(&mut self) -> Vec<(Caller, u64)> {
        self.waiters.drain(..).map(|(from, id, _)| (from, id)).collect()
    }

    /// Drops all requests of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        self.waiters.retain(|(from, ..)| *from != caller);
    }

    /// Whether the last attempted snapshot did not fit the disk. True until a snapshot fits or free space is
    /// reported: an operator who reads the status between two attempts must see the lack of space.
    pub fn lacks_room(&self) -> bool {
        self.no_space_failures > 0
    }

    /// Records that the disk has free space: the next attempt need not wait, and the delay after a failure is short
    /// again.
    pub fn record_disk_has_room(&mut self) {
        (self.no_space_retry_at, self.no_space_failures) = (Time::ZERO, 0);
    }

    /// Sets this node's ordinal `nth`, from 0, among `of` voters. All logs grow alike; a node with a later ordinal
    /// takes its snapshot somewhat sooner, so that most disks are free for the log while one node writes a snapshot.
    pub fn set_voter_ordinal(&mut self, nth: u64, of: u64) {
        assert!(nth <= of, "this node's ordinal among the voters is at most their number");
        self.voter_ordinal = (nth, of.max(1));
    }

    /// Whether to take a snapshot now. It is due when a caller waits for one; when the log has grown by the configured
    /// size and by the size of the state (otherwise most of the bytes written would be snapshots); when there is too
    /// little disk space (`low_space`) and a snapshot would free some; or when the last one is old. It is not due when
    /// the last one already holds everything applied, unless its file is damaged. Damage in the log makes one due too.
    ///
    /// A caller that waits overrides the delay after a lack of space, but not the one after a damaged snapshot: an
    /// operator may have freed space, while a disk that just returned other bytes than were written may do so again. A
    /// damaged snapshot is due even if nothing was applied since, because followers may need what only it holds.
    ///
    /// The log is compared in bytes, not in entries: a thousand entries are a kilobyte or a gigabyte (the mutant
    /// `snapshot-by-count` shows the difference).
    pub fn is_due(&self, now: Time, log: &Log, applied: Index, low_space: bool, options: &Options) -> bool {
        if self.taking_snapshot || now < self.damaged_retry_at {
            return false;
        }
        if self.is_due_by_damage(applied) {
            return now >= self.no_space_retry_at;
        }
        if applied <= self.snapshot_index() {
            return false;
        }
        if !self.waiters.is_empty() {
            return true;
        }
        if options.mutants.breaks(Mutant::SnapshotByCount) {
            return applied.0 - self.snapshot_index().0 >= 1000;
        }
        let snapshot_bytes = self.newest.as_ref().map_or(0, |newest| newest.bytes.len() as u64);
        let grown_bytes = log.bytes(self.snapshot_index().max(log.base().index), applied);
        let would_free_space = low_space && grown_bytes >= options.trailing_bytes;
        let growth_limit = options.snapshot_log_bytes.max(snapshot_bytes);
        let (nth, of) = self.voter_ordinal;
        // Voters in a higher place of the order have a lower limit, so that not all take a snapshot at once: the last one's
        // is still more than half of the first one's.
        let is_due_by_size = would_free_space || grown_bytes >= growth_limit - growth_limit / (2 * of) * nth.min(of);
        now >= self.no_space_retry_at && (is_due_by_size || now.since(self.newest_since) >= options.snapshot_max_age)
    }

    /// When a snapshot is next due by age, if any entry was applied since the last one. A snapshot due by size needs no
    /// timer: the event that makes the log grow wakes the node.
    pub fn deadline(&self, applied: Index, options: &Options) -> Time {
        let is_due_by_count = options.mutants.breaks(Mutant::SnapshotByCount);
        if self.taking_snapshot || applied == Index::ZERO {
            return Time::NEVER;
        }
        if self.is_due_by_damage(applied) {
            return self.no_space_retry_at.max(self.damaged_retry_at);
        }
        if applied <= self.snapshot_index() || is_due_by_count {
            return Time::NEVER;
        }
        if self.consecutive_damaged > 0 && !self.waiters.is_empty() {
            return self.damaged_retry_at;
        }
        self.no_space_retry_at.max(self.newest_since + options.snapshot_max_age).max(self.damaged_retry_at)
    }

    /// Records that the driver begins to take a snapshot.
    pub fn begin_snapshot(&mut self) {
        assert!(!self.taking_snapshot, "one snapshot is taken at a time: there is one frozen state");
        self.taking_snapshot = true;
    }

    /// Records the snapshot that was taken, or (`None`) that there was no disk space for it.
    ///
    /// `None` also ends a snapshot whose frozen state was dropped, because a leader's snapshot replaced the machine.
    /// The delay that follows is harmless: the received snapshot is newer than the one that was dropped.
    pub fn record_taken(&mut self, now: Time, snapshot: Option<DurableSnapshot>, options: &Options) {
        self.taking_snapshot = false;
        match snapshot {
            Some(snapshot) => {
                (self.no_space_failures, self.consecutive_damaged) = (0, 0);
                self.adopt_snapshot(now, snapshot);
            }
            None => {
                // Each failed attempt fills the disk for nothing: attempts become less and less frequent.
                self.no_space_retry_at = now
                    + options.snapshot_retry_delay * (1 << self.no_space_failures.min(SNAPSHOT_RETRY_DOUBLINGS_MAX));
                self.no_space_failures += 1;
            }
        }
    }

    /// Records that the snapshot was damaged when it was read back: callers keep waiting, and another attempt follows
    /// after a delay. The disk has free space, so another attempt may succeed, and the callers need not be refused.
    pub fn record_damaged(&mut self, now: Time, options: &Options) {
        self.taking_snapshot = false;
        self.damaged_retry_at =
            now + options.snapshot_retry_delay * (1 << self.consecutive_damaged.min(SNAPSHOT_RETRY_DOUBLINGS_MAX));
        self.consecutive_damaged += 1;
    }

    /// Records a durable snapshot, taken here or received.
    ///
    /// An older snapshot is ignored: the report of a snapshot taken here may arrive after a leader's later one was
    /// installed. A snapshot of the same index is of use only in place of a damaged file.
    pub fn adopt_snapshot(&mut self, now: Time, snapshot: DurableSnapshot) {
        let upto = self.snapshot_index();
        if snapshot.position.index > upto || (self.newest_is_damaged && snapshot.position.index == upto) {
            self.newest = Some(snapshot);
            self.newest_is_damaged = false;
            self.newest_since = now;
            self.log_release_pending = true;
        }
        assert!(
            self.snapshot_index() >= upto,
            "the newest snapshot is never replaced by an older one: the log behind it is discarded"
        );
    }

    /// The index up to which the log may be compacted, if it has advanced. The log keeps some entries behind the
    /// snapshot, for followers that lag a little, and all entries that a follower needs after an older snapshot that is
    /// being sent to it (`being_sent`), unless these are too many bytes.
    ///
    /// If no entries were kept behind the snapshot, each follower that misses a few messages would be sent the whole
    /// state. If none were kept for a snapshot that is being sent, its receiver would find its next entry discarded, be
    /// sent the next snapshot, and so on: under load it would never catch up. Without the limit in bytes, one slow
    /// follower would fill every leader's disk.
    ///
    /// A damaged part of the log is not kept for anyone: it is discarded as soon as the snapshot covers it.
    ///
    /// The durable index is a limit too: a node may apply and freeze entries that a quorum holds before they are
    /// durable on its own disk, and a journal cannot discard entries that it has not written.
    pub fn release(
        &mut self,
        log: &Log,
        applied: Index,
        being_sent: Option<Index>,
        options: &Options,
    ) -> Option<Index> {
        let mutant_release_upto = self.mutant_release_limit(log, applied, options);
        if (!std::mem::take(&mut self.log_release_pending) && mutant_release_upto.is_none())
            || options.mutants.breaks(Mutant::ReleaseNothing)
        {
            return None;
        }
        // Behind a damaged snapshot, the log is the only intact copy on this disk.
        let covered_upto = if self.newest_is_damaged { log.base().index } else { self.snapshot_index() };
        let mut limit = mutant_release_upto.unwrap_or(covered_upto).min(log.durable()).min(log.commit());
        let is_within_hold = |being_sent: &Index| log.bytes(*being_sent, log.last().index) <= options.log_hold_bytes;
        if let Some(being_sent) = being_sent.filter(is_within_hold)
            && !options.mutants.breaks(Mutant::CompactUnderShip)
        {
            limit = limit.min(being_sent);
        }
        if limit < self.snapshot_index() {
            // The limit is temporary: the transfer of the older snapshot ends, the disk catches up with the commit
            // index, or another snapshot replaces the damaged one. The first two are not reported here.
            self.log_release_pending = true;
        }
        let mended_upto = self.take_mended(log, options);
        let upto = log.index_within_bytes(limit, options.trailing_bytes).max(mended_upto.unwrap_or(Index::ZERO));
        let is_covered = mutant_release_upto.is_some() || upto <= self.snapshot_index() || upto == log.base().index;
        assert!(is_covered, "the log keeps every entry that no durable snapshot holds (§7)");
        // Damage before the base is in a file that holds no entry of the log. A release up to the base removes the file.
        (upto > log.base().index || mended_upto.is_some()).then_some(upto)
    }

    /// The end of the damaged part of the log, if an intact snapshot covers it: that part is mended by its release. If
    /// damage is left, the next call of [`CompactionPolicy::release`] checks again.
    fn take_mended(&mut self, log: &Log, options: &Options) -> Option<Index> {
        let upto = self.damaged_log_upto?.max(log.base().index);
        let is_in_snapshot = upto <= self.snapshot_index().min(log.commit()) && !self.newest_is_damaged;
        // The base of a snapshot that was just installed is not durable yet.
        let is_covered = upto <= log.durable() && (upto == log.base().index || is_in_snapshot);
        let mends = is_covered && !options.mutants.breaks(Mutant::KeepDamagedLog);
        if mends {
            self.damaged_log_upto = None;
        }
        self.log_release_pending |= !mends;
        mends.then_some(upto)
    }

    /// Panics if an invariant of this policy is violated.
    pub(super) fn check(&self) {
        assert!(
            !self.newest_is_damaged || self.newest.is_some(),
            "a snapshot is marked as damaged only if there is a newest snapshot"
        );
        let upto = self.snapshot_index();
        let waits_for_later_snapshot = |(.., wanted): &(Caller, u64, Index)| *wanted > upto;
        debug_assert!(
            self.waiters.iter().all(waits_for_later_snapshot),
            "every waiting caller waits for an index that no durable snapshot holds yet"
        );
    }

    /// The index up to which a mutant releases the log too early, if one is active. Separate from
    /// [`CompactionPolicy::release`], so that the real rule can be read without the mutants.
    fn mutant_release_limit(&self, log: &Log, applied: Index, options: &Options) -> Option<Index> {
        let breaks = |mutant| options.mutants.breaks(mutant);
        match self.snapshot_index() {
            _ if self.taking_snapshot && breaks(Mutant::CompactBeforeSnapshot) => Some(applied),
            _ if breaks(Mutant::CompactBeforeApply) => Some(log.commit()),
            upto if upto > Index::ZERO && breaks(Mutant::CompactOneTooMany) => Some(upto.next()),
            upto if breaks(Mutant::MendBeforeSnapshot) => self.damaged_log_upto.filter(|damaged| *damaged > upto),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;
    use bytes::Bytes;

    /// A log of `entries` entries of a hundred bytes each, all durable and committed, and a snapshot of those up to
    /// `snapshot_index`.
    fn log_and_policy(entries: u64, snapshot_index: u64) -> (Log, CompactionPolicy) {
        let mut log = Log::new(Position::ZERO);
        append_entries(&mut log, entries);
        let newest = DurableSnapshot { position: Position::new(Index(snapshot_index), Term(1)), bytes: Bytes::new() };
        (log, CompactionPolicy::new(Time::ZERO, Some(newest)))
    }

    fn append_entries(log: &mut Log, entries: u64) {
        (0..entries).for_each(|_| _ = log.append(Term(1), 100));
        log.advance_durable(log.last().index);
        log.commit_to(log.last().index);
    }

    #[test]
    fn log_held_for_a_snapshot_receiver_is_bounded_in_bytes() {
        let options = Options { trailing_bytes: 0, log_hold_bytes: 9_000, ..Options::default() };
        let (mut log, mut policy) = log_and_policy(50, 40);
        let release =
            |policy: &mut CompactionPolicy, log: &Log| policy.release(log, log.commit(), Some(Index(10)), &options);
        // The follower is being sent an older snapshot, of the first ten entries.
        assert_eq!(release(&mut policy, &log), Some(Index(10)));
        log.compact(Index(10));
        append_entries(&mut log, 50);
        // Ninety entries behind the snapshot that the follower receives: exactly the limit.
        assert_eq!(release(&mut policy, &log), None);
        append_entries(&mut log, 1);
        assert_eq!(release(&mut policy, &log), Some(Index(40)), "one entry above the limit: the log is released");
    }

    #[test]
    fn log_is_released_once_no_follower_receives_a_snapshot() {
        let options = Options { trailing_bytes: 0, ..Options::default() };
        let (mut log, mut policy) = log_and_policy(50, 40);
        assert_eq!(policy.release(&log, Index(50), Some(Index(10)), &options), Some(Index(10)));
        log.compact(Index(10));
        assert_eq!(policy.release(&log, Index(50), None, &options), Some(Index(40)));
    }

    #[test]
    fn low_disk_space_makes_a_snapshot_due_that_frees_log() {
        let options = Options { trailing_bytes: 1_000, ..Options::default() };
        let (mut log, policy) = log_and_policy(49, 40);
        let is_due = |log: &Log, low| policy.is_due(Time::ZERO, log, log.commit(), low, &options);
        assert!(!is_due(&log, true), "a snapshot would free nothing");
        append_entries(&mut log, 1);
        assert!(is_due(&log, true) && !is_due(&log, false));
    }

    #[test]
    fn voters_take_snapshots_at_staggered_log_sizes() {
        let options = Options { snapshot_log_bytes: 10_000, ..Options::default() };
        let entries_until_due = |nth| {
            let (mut log, mut policy) = log_and_policy(41, 40);
            policy.set_voter_ordinal(nth, 3);
            let is_due = |log: &Log| policy.is_due(Time::ZERO, log, log.commit(), false, &options);
            (1..).find(|_| {
                append_entries(&mut log, 1);
                is_due(&log)
            })
        };
        let entry_counts_until_due = [0, 1, 2].map(entries_until_due);
        assert!(
            entry_counts_until_due[0] > entry_counts_until_due[1]
                && entry_counts_until_due[1] > entry_counts_until_due[2],
            "{entry_counts_until_due:?}"
        );
        assert!(
            entry_counts_until_due[2] > entry_counts_until_due[0].map(|most: u64| most / 2),
            "{entry_counts_until_due:?}"
        );
    }

    #[test]
    fn snapshot_without_space_backs_off_until_space_returns() {
        let options = Options {
            snapshot_retry_delay: std::time::Duration::from_secs(5),
            trailing_bytes: 0,
            ..Options::default()
        };
        let (log, mut policy) = log_and_policy(50, 40);
        let mut now = Time::ZERO;
        for delay in [5, 10, 20, 40, 80, 160, 320, 320] {
            assert!(policy.is_due(now, &log, Index(50), true, &options));
            policy.begin_snapshot();
            policy.record_taken(now, None, &options);
            assert!(policy.lacks_room());
            now = now + std::time::Duration::from_secs(delay);
            let just_before = Time(now.0 - 1);
            assert!(!policy.is_due(just_before, &log, Index(50), true, &options), "after {delay} s");
        }
        policy.record_taken(now, None, &options);
        assert!(!policy.is_due(now, &log, Index(50), true, &options));
        policy.record_disk_has_room();
        assert!(!policy.lacks_room() && policy.is_due(now, &log, Index(50), true, &options));
    }

    #[test]
    fn damaged_snapshot_is_retaken_even_at_the_same_position() {
        let options = Options::default();
        let (log, mut policy) = log_and_policy(50, 50);
        let is_due = |policy: &CompactionPolicy, now| policy.is_due(now, &log, Index(50), false, &options);
        let snapshot = policy.newest().expect("a durable snapshot").clone();
        policy.mark_damaged(Position::new(Index(40), Term(1)));
        assert!(!is_due(&policy, Time::ZERO) && policy.sendable_snapshot().is_some());
        policy.mark_damaged(snapshot.position);
        assert!(is_due(&policy, Time::ZERO) && policy.sendable_snapshot().is_none());
        assert_eq!((policy.snapshot_index(), policy.deadline(Index(50), &options)), (Index(50), Time::ZERO));
        policy.begin_snapshot();
        assert!(!is_due(&policy, Time::ZERO));
        policy.record_taken(Time::ZERO, Some(snapshot), &options);
        assert!(!is_due(&policy, Time::ZERO) && policy.sendable_snapshot().is_some());
    }

    #[test]
    fn damaged_log_is_discarded_once_a_snapshot_covers_it() {
        let options = Options { trailing_bytes: 1 << 30, ..Options::default() };
        let (mut log, mut policy) = log_and_policy(50, 40);
        let is_due = |policy: &CompactionPolicy, applied| policy.is_due(Time::ZERO, &log, applied, false, &options);
        assert!(!is_due(&policy, Index(50)) && policy.release(&log, Index(50), None, &options).is_none());
        policy.mark_log_damaged(Index(45));
        policy.mark_log_damaged(Index(30));
        assert!(!is_due(&policy, Index(44)), "a snapshot would not cover the damage");
        assert!(is_due(&policy, Index(45)) && policy.deadline(Index(45), &options) == Time::ZERO);
        assert!(policy.snapshot_for_followers().is_none(), "no follower could continue after this snapshot");
        assert!(policy.sendable_snapshot().is_some(), "a client may still read it");
        assert_eq!(policy.release(&log, Index(50), None, &options), None, "no snapshot covers the damage");
        policy.begin_snapshot();
        let taken = DurableSnapshot { position: Position::new(Index(48), Term(1)), bytes: Bytes::new() };
        policy.record_taken(Time::ZERO, Some(taken), &options);
        assert!(!is_due(&policy, Index(50)) && policy.snapshot_for_followers().is_some());
        assert_eq!(policy.release(&log, Index(50), Some(Index(10)), &options), Some(Index(45)));
        assert_eq!(policy.damaged_log_upto(), None);
        log.compact(Index(45));
        assert_eq!(policy.release(&log, Index(50), None, &options), None, "the other entries are kept as before");
    }

    #[test]
    fn damaged_log_is_kept_behind_a_damaged_snapshot() {
        let options = Options { trailing_bytes: 1 << 30, ..Options::default() };
        let (log, mut policy) = log_and_policy(50, 40);
        policy.mark_log_damaged(Index(30));
        policy.mark_damaged(policy.newest().expect("a durable snapshot").position);
        assert_eq!(policy.release(&log, Index(50), None, &options), None);
        let taken = DurableSnapshot { position: Position::new(Index(50), Term(1)), bytes: Bytes::new() };
        policy.adopt_snapshot(Time::ZERO, taken);
        assert_eq!(policy.release(&log, Index(50), None, &options), Some(Index(30)));
    }

    #[test]
    fn log_is_not_released_behind_a_snapshot_found_damaged() {
        let options = Options { trailing_bytes: 0, ..Options::default() };
        let (log, mut policy) = log_and_policy(50, 40);
        assert_eq!(
            policy.release(&log, Index(50), Some(Index(10)), &options),
            Some(Index(10)),
            "a transfer is under way"
        );
        policy.mark_damaged(policy.newest().expect("a durable snapshot").position);
        assert_eq!(policy.release(&log, Index(50), None, &options), None);
        policy.adopt_snapshot(
            Time::ZERO,
            DurableSnapshot { position: Position::new(Index(40), Term(1)), bytes: Bytes::new() },
        );
        assert_eq!(policy.release(&log, Index(50), None, &options), Some(Index(40)));
    }

    #[test]
    fn damage_before_the_log_is_mended_by_a_release_up_to_its_base() {
        let options = Options { trailing_bytes: 0, ..Options::default() };
        let (mut log, mut policy) = log_and_policy(50, 40);
        log.compact(Index(40));
        policy.mark_log_damaged(Index(20));
        assert_eq!(policy.release(&log, Index(50), None, &options), Some(Index(40)));
        assert_eq!(policy.release(&log, Index(50), None, &options), None);
    }

    #[test]
    fn delay_doubles_after_each_snapshot_found_damaged() {
        let options = Options { snapshot_retry_delay: std::time::Duration::from_secs(5), ..Options::default() };
        let (log, mut policy) = log_and_policy(50, 40);
        policy.add_waiter(Caller::Client(1), 7, Index(50));
        let mut now = Time::ZERO;
        for delay in [5, 10, 20, 40, 80, 160, 320, 320] {
            assert!(policy.is_due(now, &log, Index(50), false, &options), "a snapshot is requested");
            policy.begin_snapshot();
            policy.record_damaged(now, &options);
            now = now + std::time::Duration::from_secs(delay);
            assert!(!policy.is_due(Time(now.0 - 1), &log, Index(50), false, &options), "after {delay} s");
            assert_eq!(policy.deadline(Index(50), &options), now);
        }
        assert!(!policy.lacks_room());
    }
}
