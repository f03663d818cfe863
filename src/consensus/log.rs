//! The log as the consensus core sees it: the term and size of each entry, but no payloads.
//!
//! ```text
//! base                commit                          last
//!   ├─ never truncated ─┼─ truncated at a conflict ─────┤
//!   └ in a snapshot   durable index: up to `last`, even below `commit` (a majority may hold what this disk lacks)
//! ```
//!
//! The core only compares terms and counts bytes of entries, so this log stores only terms and sizes. The entries
//! themselves stay in the journal and its view. A million entries take eight megabytes of memory here.

use crate::types::{Index, Position, Term};
use std::collections::VecDeque;

/// The log as consensus sees it: the term and the size in bytes of each index.
///
/// Invariants: `base ≤ commit ≤ last` and `durable ≤ last`; terms never decrease with the index; entries at or below
/// `commit` are never truncated.
///
/// An entry takes eight bytes: terms are stored as runs of entries with the same term, and sizes as one running sum.
/// Every count of bytes (in flight to a follower, uncommitted, reclaimable) is a difference of two sums.
///
/// Terms change only with elections, so the list of runs is short however long the log is. Each lookup of a term is a
/// binary search.
#[derive(Clone, Debug)]
pub struct Log {
    base: Position,
    /// (first index, term) of each run of one term after `base`, ascending.
    term_runs: Vec<(Index, Term)>,
    /// For each index after `base`, the running sum of entry sizes up to that index, in bytes.
    size_sums: VecDeque<u64>,
    /// The running sum of entry sizes at the base.
    base_size_sum: u64,
    durable_index: Index,
    // The commit index may be ahead of the durable index: a majority of other disks may hold an entry that this disk
    // lacks.
    commit_index: Index,
}

impl Log {
    /// An empty log that begins after `base`, which is committed and durable.
    pub fn new(base: Position) -> Log {
        Log {
            base,
            term_runs: Vec::new(),
            size_sums: VecDeque::new(),
            base_size_sum: 0,
            durable_index: base.index,
            commit_index: base.index,
        }
    }

    /// The position right before the first entry of the log; `Position::ZERO` before any compaction.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The position of the last entry; the base if there are no entries.
    pub fn last(&self) -> Position {
        match self.term_runs.last() {
            Some((_, term)) => Position::new(self.last_index(), *term),
            None => self.base,
        }
    }

    fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.size_sums.len() as u64)
    }

    /// The last index that is durable on this node's disk.
    pub fn durable(&self) -> Index {
        self.durable_index
    }

    /// The last index that is committed, as far as this node knows.
    pub fn commit(&self) -> Index {
        self.commit_index
    }

    /// The term at that index, if it is in the log or is the base.
    ///
    /// The base has a term although its entry is compacted: an append that starts right after the base is compared with
    /// it (§7).
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last_index() {
            return None;
        }
        let run_index = self.term_runs.partition_point(|(first, _)| *first <= index) - 1;
        Some(self.term_runs[run_index].1)
    }

    /// Whether that position is in the log or is the base.
    pub fn holds(&self, position: Position) -> bool {
        self.term(position.index) == Some(position.term)
    }

    /// The last position of this log whose index and term are both at or below those of `position`. If two logs do not
    /// match at `position`, this is the last position at which they may match (§5.3). The binary search skips whole
    /// terms.
    ///
    /// The term limits the result because a log that holds `position` has no entry of a later term before it.
    pub fn last_at_or_below(&self, position: Position) -> Position {
        let runs_up_to_index = self.term_runs.partition_point(|(first, _)| *first <= position.index);
        let runs_up_to_term = self.term_runs.partition_point(|(_, term)| *term <= position.term);
        let run_count = runs_up_to_index.min(runs_up_to_term);
        if run_count == 0 {
            return self.base;
        }
        let last_run_end = self.term_runs.get(run_count).map_or(self.last_index(), |(first, _)| first.prev());
        let found_position = Position::new(last_run_end.min(position.index), self.term_runs[run_count - 1].1);
        assert!(
            found_position.index <= position.index && found_position.term <= position.term,
            "the result is at or below the given position in index and in term (§5.3)"
        );
        found_position
    }

    /// The last position of each term of the log, ascending.
    pub fn term_ends(&self) -> impl DoubleEndedIterator<Item = Position> + '_ {
        self.term_runs.iter().enumerate().map(|(nth, (_, term))| {
            let end = self.term_runs.get(nth + 1).map_or(self.last_index(), |(first, _)| first.prev());
            Position::new(end, *term)
        })
    }

    /// The size in bytes of the entries above index `after`, up to and including `upto`.
    ///
    /// The result is a difference of two sums, and costs the same for one entry and for a million: this function runs
    /// once per proposed command.
    pub fn bytes(&self, after: Index, upto: Index) -> u64 {
        self.size_sum_at(upto).saturating_sub(self.size_sum_at(after))
    }

    fn size_sum_at(&self, index: Index) -> u64 {
        match index.0.saturating_sub(self.base.index.0) {
            0 => self.base_size_sum,
            n => self.size_sums[n as usize - 1],
        }
    }

    /// The last index of an append that starts right after index `after` and has at most `bytes_max` bytes and
    /// `entries_max` entries.
    ///
    /// If there is an entry after `after`, the append has at least one entry, even if the entry is larger than
    /// `bytes_max`: such an entry would otherwise never be sent.
    pub fn append_end(&self, after: Index, bytes_max: u64, entries_max: usize) -> Index {
        // If `after` were below the base, the subtraction below would wrap around in a release build.
        assert!(after >= self.base.index, "the first entry of an append is not compacted (§7)");
        let entries_before = (after.0 - self.base.index.0) as usize;
        let sum_max = self.size_sum_at(after) + bytes_max;
        let fitting_count =
            self.size_sums.partition_point(|sum| *sum <= sum_max).saturating_sub(entries_before).min(entries_max);
        Index(after.0 + fitting_count as u64).max(after.next()).min(self.last_index().max(after))
    }

    /// The lowest index such that the entries after it, up to and including `upto`, have at most `bytes` bytes.
    pub fn index_within_bytes(&self, upto: Index, bytes: u64) -> Index {
        let sum_min = self.size_sum_at(upto).saturating_sub(bytes);
        if self.base_size_sum >= sum_min {
            return self.base.index;
        }
        Index(self.base.index.0 + 1 + self.size_sums.partition_point(|sum| *sum < sum_min) as u64).min(upto)
    }

    /// Appends an entry of that term and size. Returns its position.
    ///
    /// The entry is not durable yet: [`Log::advance_durable`] reports that later.
    pub fn append(&mut self, term: Term, size: u64) -> Position {
        let last = self.last();
        assert!(term >= last.term, "the term of a new entry is at least that of the last entry");
        self.size_sums.push_back(self.size_sum_at(last.index) + size);
        let index = self.last_index();
        if self.term_runs.last().is_none_or(|(_, latest)| *latest < term) {
            self.term_runs.push((index, term));
        }
        Position { term, index }
    }

    /// Removes all entries from `from` on.
    ///
    /// The durable index is not lowered here but by [`Log::clamp_durable`]: a test that breaks this rule leaves out
    /// that call (`Mutant::KeepDurableOnTruncate`).
    pub fn truncate(&mut self, from: Index) {
        assert!(from > self.commit_index, "a committed entry is never truncated (§5.4)");
        self.size_sums.truncate((from.0 - self.base.index.0 - 1) as usize);
        self.term_runs.truncate(self.term_runs.partition_point(|(first, _)| *first < from));
    }

    /// Removes all entries up to `upto`: a snapshot covers them.
    ///
    /// The position of the last removed entry becomes the base, so that an append that starts right after it can be
    /// compared. If `upto` is below the base, the call has no effect: those entries are compacted already.
    pub fn compact(&mut self, upto: Index) {
        assert!(upto <= self.commit_index, "only committed entries are compacted (§7)");
        assert!(upto <= self.durable_index, "only durable entries are compacted");
        let Some(term) = self.term(upto) else { return };
        let last = self.last();
        self.base_size_sum = self.size_sum_at(upto);
        self.size_sums.drain(..(upto.0 - self.base.index.0) as usize);
        // Returns memory after the log was long. The capacity shrinks only to twice the length, so that the log does
        // not reallocate with every compaction.
        if self.size_sums.capacity() > 4 * self.size_sums.len() {
            self.size_sums.shrink_to(2 * self.size_sums.len());
        }
        let runs_up_to_base = self.term_runs.partition_point(|(first, _)| *first <= upto);
        self.term_runs.drain(..runs_up_to_base.saturating_sub(1));
        if self.size_sums.is_empty() {
            self.term_runs.clear();
        } else if let Some((first, _)) = self.term_runs.first_mut() {
            // A run that continues after the new base is shortened to start there. A run that ends at the base is
            // removed.
            *first = (*first).max(upto.next());
            if self.term_runs.get(1).is_some_and(|(next, _)| *next == upto.next()) {
                self.term_runs.remove(0);
            }
        }
        self.base = Position::new(upto, term);
        // If the end of the log changed, this node would vote differently (§5.4.1).
        assert_eq!(self.last(), last, "a compaction does not change the end of the log (§7)");
    }

    /// Restarts the log after `base`, which is committed and not yet on this node's disk.
    ///
    /// The entries are removed here at once, while the disk still holds them. After a crash the node recovers these
    /// entries, which is safe, because the snapshot has not been acknowledged.
    pub fn restart(&mut self, base: Position) {
        assert!(base.index > self.commit_index, "the new base is above the commit index (Figure 13)");
        // The durable index stays below the new base until the journal has adopted it: only the committed part of the
        // old log is known to agree with the snapshot.
        let durable_index = self.durable_index.min(self.commit_index);
        *self = Log { durable_index, ..Log::new(base) };
    }

    /// Lowers the durable index below `from`: entries from there on were truncated.
    pub fn clamp_durable(&mut self, from: Index) {
        self.durable_index = self.durable_index.min(from.prev());
    }

    /// Raises the durable index to `index`; a lower index has no effect.
    pub fn advance_durable(&mut self, index: Index) {
        self.durable_index = self.durable_index.max(index);
    }

    /// Raises the commit index. Panics if `index` is below the commit index or beyond the end of the log.
    pub fn commit_to(&mut self, index: Index) {
        assert!(index <= self.last_index(), "the new commit index is in the log");
        assert!(index >= self.commit_index, "the commit index never decreases");
        self.commit_index = index;
    }

    /// Panics if an invariant of the log is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check_invariants(&self) {
        let last = self.last();
        assert!(self.base.index <= self.commit_index, "the base of the log is committed (§7)");
        assert!(self.commit_index <= last.index, "the commit index is at or below the end of the log");
        // If the durable index stayed above the end, the next entries there would count as durable before they are
        // written (rabbitmq/ra#637: a stale report acknowledged entries that a truncation had replaced).
        assert!(self.durable_index <= last.index, "the durable index is at or below the end of the log");
        assert!(self.base.term <= last.term, "the base has no later term than the last entry (§5.3)");
        // `term_runs` and `size_sums` describe the same entries, and every lookup of a term relies on both.
        assert_eq!(
            self.term_runs.is_empty(),
            self.size_sums.is_empty(),
            "the list of term runs is empty exactly if the log has no entries"
        );
        let first_run_start = self.term_runs.first().map(|(first, _)| *first);
        assert!(
            first_run_start.is_none_or(|first| first == self.base.index.next()),
            "the first term run starts right after the base"
        );
        assert!(
            self.size_sums.back().is_none_or(|sum| *sum >= self.base_size_sum),
            "the last running sum of sizes is at least the sum at the base"
        );
        let ascends = |pair: &[(Index, Term)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1;
        debug_assert!(self.term_runs.windows(2).all(ascends), "term runs ascend in index and in term (§5.3)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A log with one entry of ten bytes for each of `terms`.
    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::new(Position::ZERO);
        for term in terms {
            log.append(Term(*term), 10);
        }
        log
    }

    fn sorted_terms() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(1..9u64, 0..30).prop_map(|mut terms| {
            terms.sort_unstable();
            terms
        })
    }

    proptest! {
        #[test]
        fn log_returns_the_same_terms_as_a_plain_list(
            terms in sorted_terms(), cut in 1..31u64, more in sorted_terms(),
        ) {
            let mut log = log_of(&terms);
            let mut expected_terms = terms.clone();
            log.truncate(Index(cut.min(expected_terms.len() as u64 + 1)));
            expected_terms.truncate(cut as usize - 1);
            for term in more {
                if expected_terms.last().is_none_or(|last| *last <= term) {
                    log.append(Term(term), 10);
                    expected_terms.push(term);
                }
            }
            prop_assert_eq!(log.term(Index(expected_terms.len() as u64 + 1)), None);
            for (i, term) in expected_terms.iter().enumerate() {
                prop_assert_eq!(log.term(Index(i as u64 + 1)), Some(Term(*term)));
            }
            prop_assert_eq!(log.bytes(Index::ZERO, log.last().index), 10 * expected_terms.len() as u64);
        }

        #[test]
        fn last_at_or_below_finds_the_last_position_with_no_higher_index_or_term(
            terms in sorted_terms(), index in 0..40u64, term in 0..10u64,
        ) {
            let log = log_of(&terms);
            let expected_position = (1..=terms.len() as u64)
                .rev()
                .find(|i| *i <= index && terms[*i as usize - 1] <= term)
                .map_or(Position::ZERO, |i| Position::new(Index(i), Term(terms[i as usize - 1])));
            prop_assert_eq!(log.last_at_or_below(Position::new(Index(index), Term(term))), expected_position);
        }

        #[test]
        fn compacted_log_agrees_on_remaining_entries(terms in sorted_terms(), upto in 0..31u64, more in 0..3u64) {
            let uncompacted_log = log_of(&terms);
            let last = uncompacted_log.last().index;
            let mut log = uncompacted_log.clone();
            log.advance_durable(last);
            log.commit_to(last);
            let upto = Index(upto.min(last.0));
            log.compact(Index(upto.0 / 2));
            log.compact(upto);
            prop_assert_eq!((log.base().index, log.last()), (upto, uncompacted_log.last()));
            prop_assert_eq!(log.base().term, uncompacted_log.term(upto).unwrap());
            for index in upto.0..=last.0 + 1 {
                prop_assert_eq!(log.term(Index(index)), uncompacted_log.term(Index(index)));
                let counted_index = Index(index.min(last.0));
                prop_assert_eq!(log.bytes(upto, counted_index), uncompacted_log.bytes(upto, counted_index));
            }
            for index in 0..upto.0 {
                prop_assert_eq!(log.term(Index(index)), None);
            }
            for index in 0..40 {
                for term in 0..10 {
                    let position = Position::new(Index(index), Term(term));
                    let found_position = uncompacted_log.last_at_or_below(position);
                    let expected_position = if found_position.index < upto { log.base() } else { found_position };
                    prop_assert_eq!(log.last_at_or_below(position), expected_position);
                }
            }
            let lowest_fitting_index = log.index_within_bytes(last, 25);
            prop_assert!(log.bytes(lowest_fitting_index, last) <= 25);
            prop_assert!(lowest_fitting_index == upto || log.bytes(lowest_fitting_index.prev(), last) > 25);
            for _ in 0..more {
                log.append(Term(9), 10);
            }
            prop_assert_eq!(log.bytes(upto, log.last().index), 10 * (log.last().index.0 - upto.0));
        }

        #[test]
        fn append_end_respects_its_limits_and_always_advances(
            terms in sorted_terms(), after in 0..30u64, bytes in 0..100u64, entries_max in 1..9usize,
        ) {
            let log = log_of(&terms);
            let after = Index(after.min(log.last().index.0));
            let upto = log.append_end(after, bytes, entries_max);
            prop_assert!(upto <= log.last().index);
            if after < log.last().index {
                prop_assert!(upto > after);
                prop_assert!(upto == after.next() || log.bytes(after, upto) <= bytes);
                prop_assert!((upto.0 - after.0) as usize <= entries_max);
            } else {
                prop_assert_eq!(upto, after);
            }
        }
    }

    #[test]
    #[should_panic(expected = "never truncated")]
    fn committed_entries_are_never_truncated() {
        let mut log = log_of(&[1, 1, 2]);
        log.commit_to(Index(2));
        log.truncate(Index(2));
    }
}
