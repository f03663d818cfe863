//! The log as positions: terms and sizes, never payloads.
//!
//! ```text
//! base             commit                           last
//!   ├── never cut ────┼── cut at a conflict ──────────┤
//!   └ in a snapshot   durable lies anywhere from the base on: a majority may hold what this disk does not
//! ```
//!
//! The core compares terms and counts bytes, and that is all it ever does with an entry. So it keeps just these, and
//! the entries themselves stay in the journal and its view: a million entries take eight megabytes here, and neither a
//! decision nor a test needs a payload.

use crate::types::{Index, Position, Term};
use std::collections::VecDeque;

/// The log as consensus sees it: the term and the size in bytes of each index.
///
/// Invariants: `base ≤ commit ≤ last` and `durable ≤ last`; terms never decrease with the index; entries at or below
/// `commit` are never truncated.
///
/// It takes eight bytes an entry: terms are stored as runs, and sizes as one running sum. Every count of bytes (in
/// flight to a follower, uncommitted, reclaimable) is a difference of two sums.
///
/// Terms change with elections only, so that a list of runs stays short for any length of the log, and each question
/// about a term is a binary search.
#[derive(Clone, Debug)]
pub struct Log {
    base: Position,
    /// (first index, term) of each run of one term after `base`, ascending.
    runs: Vec<(Index, Term)>,
    /// The running sum of sizes, one for each index after `base`.
    sums: VecDeque<u64>,
    base_sum: u64,
    durable: Index,
    // It may be ahead of `durable`: a majority of other disks may hold an entry that this disk does not.
    commit: Index,
}

impl Log {
    /// An empty log that begins after `base`, which is committed and durable.
    pub fn new(base: Position) -> Log {
        Log { base, runs: Vec::new(), sums: VecDeque::new(), base_sum: 0, durable: base.index, commit: base.index }
    }

    /// The last position before the first entry of the log.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The position of the last entry; the base if there are no entries.
    pub fn last(&self) -> Position {
        match self.runs.last() {
            Some((_, term)) => Position::new(self.last_index(), *term),
            None => self.base,
        }
    }

    fn last_index(&self) -> Index {
        Index(self.base.index.0 + self.sums.len() as u64)
    }

    /// The last index that is durable on this node's disk.
    pub fn durable(&self) -> Index {
        self.durable
    }

    /// The last index that is committed, as far as this node knows.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// The term at that index, if it is in the log or is the base.
    ///
    /// The base has a term although its entry is gone: an append that starts right behind it has to be compared with it
    /// (§7).
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last_index() {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index) - 1;
        Some(self.runs[run].1)
    }

    /// Whether that position is in the log or is the base.
    pub fn holds(&self, position: Position) -> bool {
        self.term(position.index) == Some(position.term)
    }

    /// The last position at or below the given one, in index *and* in term: the last place at which two logs may match
    /// if they do not match there (§5.3). One binary search skips whole terms.
    ///
    /// By the term too: an entry of a later term than the given one is not in a log that has the given position, nor is
    /// any entry after it.
    pub fn at_or_below(&self, position: Position) -> Position {
        let by_index = self.runs.partition_point(|(first, _)| *first <= position.index);
        let by_term = self.runs.partition_point(|(_, term)| *term <= position.term);
        let run = by_index.min(by_term);
        if run == 0 {
            return self.base;
        }
        let end = self.runs.get(run).map_or(self.last_index(), |(first, _)| first.prev());
        let found = Position::new(end.min(position.index), self.runs[run - 1].1);
        assert!(found.index <= position.index && found.term <= position.term, "a hint lies at or below `prev` (§5.3)");
        found
    }

    /// The size in bytes of the entries above index `after`, up to and including `upto`.
    ///
    /// A difference of two sums, so that it costs the same for one entry and for a million. It is asked for every
    /// command that is proposed.
    pub fn bytes(&self, after: Index, upto: Index) -> u64 {
        self.sum(upto).saturating_sub(self.sum(after))
    }

    fn sum(&self, index: Index) -> u64 {
        match index.0.saturating_sub(self.base.index.0) {
            0 => self.base_sum,
            n => self.sums[n as usize - 1],
        }
    }

    /// The last index of an append that starts right above index `after` and keeps within these limits; at least one
    /// entry if there is one.
    ///
    /// At least one entry, even one that is larger than the limit: it would otherwise never be sent.
    pub fn reach(&self, after: Index, bytes_max: u64, entries_max: usize) -> Index {
        // Below the base the subtraction would wrap around in a release build, and name an arbitrary end.
        assert!(after >= self.base.index, "an append starts with an entry that is not compacted (§7)");
        let from = (after.0 - self.base.index.0) as usize;
        let limit = self.sum(after) + bytes_max;
        let fit = self.sums.partition_point(|sum| *sum <= limit).saturating_sub(from).min(entries_max);
        Index(after.0 + fit as u64).max(after.next()).min(self.last_index().max(after))
    }

    /// The lowest index such that the entries after it, up to `upto`, have no more than that many bytes.
    pub fn within(&self, upto: Index, bytes: u64) -> Index {
        let least = self.sum(upto).saturating_sub(bytes);
        if self.base_sum >= least {
            return self.base.index;
        }
        Index(self.base.index.0 + 1 + self.sums.partition_point(|sum| *sum < least) as u64).min(upto)
    }

    /// Appends an entry of that term and size. Returns its position.
    ///
    /// The journal has not seen the entry yet. What is durable is reported by [`Log::persisted`].
    pub fn append(&mut self, term: Term, size: u64) -> Position {
        let last = self.last();
        assert!(term >= last.term, "terms never decrease with the index");
        self.sums.push_back(self.sum(last.index) + size);
        let index = self.last_index();
        if self.runs.last().is_none_or(|(_, latest)| *latest < term) {
            self.runs.push((index, term));
        }
        Position { term, index }
    }

    /// Removes all entries from `from` on.
    ///
    /// The durable index is not lowered here but by [`Log::clamp_durable`]: a test leaves that out on purpose.
    pub fn truncate(&mut self, from: Index) {
        assert!(from > self.commit, "a committed entry is never truncated (§5.4)");
        self.sums.truncate((from.0 - self.base.index.0 - 1) as usize);
        self.runs.truncate(self.runs.partition_point(|(first, _)| *first < from));
    }

    /// Removes all entries up to `upto`: a snapshot covers them.
    ///
    /// The term of the last removed entry stays as that of the base, for the comparison with the next append. An index
    /// below the base is ignored: it asks for less than was done before.
    pub fn compact(&mut self, upto: Index) {
        assert!(upto <= self.commit, "only committed entries are compacted (§7)");
        assert!(upto <= self.durable, "only durable entries are compacted");
        let Some(term) = self.term(upto) else { return };
        let last = self.last();
        self.base_sum = self.sum(upto);
        self.sums.drain(..(upto.0 - self.base.index.0) as usize);
        // A log that was long once would keep its memory otherwise. The factor of two keeps it from shrinking and
        // growing in turns.
        if self.sums.capacity() > 4 * self.sums.len() {
            self.sums.shrink_to(2 * self.sums.len());
        }
        let within = self.runs.partition_point(|(first, _)| *first <= upto);
        self.runs.drain(..within.saturating_sub(1));
        if self.sums.is_empty() {
            self.runs.clear();
        } else if let Some((first, _)) = self.runs.first_mut() {
            // A run that goes on after the base keeps that part only; a run that ends there is removed.
            *first = (*first).max(upto.next());
            if self.runs.get(1).is_some_and(|(next, _)| *next == upto.next()) {
                self.runs.remove(0);
            }
        }
        self.base = Position::new(upto, term);
        // The runs have been cut by hand: a wrong end would change how this node votes (§5.4.1).
        assert_eq!(self.last(), last, "a compaction leaves the end of the log as it was (§7)");
    }

    /// Restarts the log after `base`, which is committed and not yet on this node's disk.
    ///
    /// The entries are gone from the log at once, while the disk still has them: a crash now leads back to them, which
    /// is safe, because the snapshot has not been acknowledged.
    pub fn restart(&mut self, base: Position) {
        assert!(base.index > self.commit, "a snapshot replaces no committed entries (Figure 13)");
        // Below the new base, until the journal has adopted it. The committed part of the old log is all that is sure
        // to agree with the snapshot.
        let durable = self.durable.min(self.commit);
        *self = Log { durable, ..Log::new(base) };
    }

    /// Lowers the durable index below `from`: entries from there on were truncated.
    pub fn clamp_durable(&mut self, from: Index) {
        self.durable = self.durable.min(from.prev());
    }

    /// Raises the durable index.
    pub fn persisted(&mut self, index: Index) {
        self.durable = self.durable.max(index);
    }

    /// Sets the commit index.
    pub fn commit_to(&mut self, index: Index) {
        assert!(index <= self.last_index(), "only entries of the log are committed");
        assert!(index >= self.commit, "the commit index never goes back");
        self.commit = index;
    }

    /// Panics if an invariant of the log is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check(&self) {
        let last = self.last();
        assert!(self.base.index <= self.commit, "only committed entries are compacted (§7)");
        assert!(self.commit <= last.index, "every committed entry is in the log");
        // With the index left above the end, the next entries there would count as durable before they are written
        // (rabbitmq/ra#637: a stale report acknowledged entries that a truncation had replaced).
        assert!(self.durable <= last.index, "every durable entry is in the log");
        assert!(self.base.term <= last.term, "terms never decrease with the index (§5.3)");
        // Runs and sums are two descriptions of the same entries, and every lookup by term relies on both.
        assert_eq!(self.runs.is_empty(), self.sums.is_empty(), "a log with entries knows their terms");
        let first = self.runs.first().map(|(first, _)| *first);
        assert!(first.is_none_or(|first| first == self.base.index.next()), "the first entry follows the base");
        assert!(self.sums.back().is_none_or(|sum| *sum >= self.base_sum), "the running sum of sizes never falls");
        let ascends = |pair: &[(Index, Term)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1;
        debug_assert!(self.runs.windows(2).all(ascends), "runs ascend in index and in term (§5.3)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same log, kept as a plain list of terms.
    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::new(Position::ZERO);
        for term in terms {
            log.append(Term(*term), 10);
        }
        log
    }

    fn terms() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(1..9u64, 0..30).prop_map(|mut terms| {
            terms.sort_unstable();
            terms
        })
    }

    proptest! {
        #[test]
        fn term_runs_match_a_list_of_terms(terms in terms(), cut in 1..31u64, more in terms()) {
            let mut log = log_of(&terms);
            let mut list = terms.clone();
            log.truncate(Index(cut.min(list.len() as u64 + 1)));
            list.truncate(cut as usize - 1);
            for term in more {
                if list.last().is_none_or(|last| *last <= term) {
                    log.append(Term(term), 10);
                    list.push(term);
                }
            }
            prop_assert_eq!(log.term(Index(list.len() as u64 + 1)), None);
            for (i, term) in list.iter().enumerate() {
                prop_assert_eq!(log.term(Index(i as u64 + 1)), Some(Term(*term)));
            }
            prop_assert_eq!(log.bytes(Index::ZERO, log.last().index), 10 * list.len() as u64);
        }

        #[test]
        fn at_or_below_finds_the_last_such_position(terms in terms(), index in 0..40u64, term in 0..10u64) {
            let log = log_of(&terms);
            let counted = (1..=terms.len() as u64)
                .rev()
                .find(|i| *i <= index && terms[*i as usize - 1] <= term)
                .map_or(Position::ZERO, |i| Position::new(Index(i), Term(terms[i as usize - 1])));
            prop_assert_eq!(log.at_or_below(Position::new(Index(index), Term(term))), counted);
        }

        #[test]
        fn compacted_log_agrees_on_remaining_entries(terms in terms(), upto in 0..31u64, more in 0..3u64) {
            let whole = log_of(&terms);
            let last = whole.last().index;
            let mut log = whole.clone();
            log.persisted(last);
            log.commit_to(last);
            let upto = Index(upto.min(last.0));
            log.compact(Index(upto.0 / 2));
            log.compact(upto);
            prop_assert_eq!((log.base().index, log.last()), (upto, whole.last()));
            prop_assert_eq!(log.base().term, whole.term(upto).unwrap());
            for index in upto.0..=last.0 + 1 {
                prop_assert_eq!(log.term(Index(index)), whole.term(Index(index)));
                prop_assert_eq!(log.bytes(upto, Index(index.min(last.0))), whole.bytes(upto, Index(index.min(last.0))));
            }
            for index in 0..upto.0 {
                prop_assert_eq!(log.term(Index(index)), None);
            }
            for index in 0..40 {
                for term in 0..10 {
                    let asked = Position::new(Index(index), Term(term));
                    let found = whole.at_or_below(asked);
                    prop_assert_eq!(log.at_or_below(asked), if found.index < upto { log.base() } else { found });
                }
            }
            let kept = log.within(last, 25);
            prop_assert!(log.bytes(kept, last) <= 25 && (kept == upto || log.bytes(kept.prev(), last) > 25));
            for _ in 0..more {
                log.append(Term(9), 10);
            }
            prop_assert_eq!(log.bytes(upto, log.last().index), 10 * (log.last().index.0 - upto.0));
        }

        #[test]
        fn reach_keeps_its_bounds_and_always_advances(
            terms in terms(), after in 0..30u64, bytes in 0..100u64, most in 1..9usize,
        ) {
            let log = log_of(&terms);
            let after = Index(after.min(log.last().index.0));
            let upto = log.reach(after, bytes, most);
            prop_assert!(upto <= log.last().index);
            if after < log.last().index {
                prop_assert!(upto > after);
                prop_assert!(upto == after.next() || log.bytes(after, upto) <= bytes);
                prop_assert!((upto.0 - after.0) as usize <= most);
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
