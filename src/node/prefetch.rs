//! Log entries that another thread reads ahead, for a node that has much to apply after its start.
//!
//! After a start all entries behind the snapshot are applied again. Only applying them must happen on the event loop's
//! thread. Reading entries and verifying their checksums can be done ahead by a second thread. That thread reads the
//! files as they were at the start, and does not see later changes of the log.

use crate::types::{Entry, Index, Position};
use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

/// The entries of the log as it was when the node started, batch by batch.
///
/// Entries in it may since have been replaced by a leader, or skipped by a snapshot. Each [`Prefetch::take_entries`]
/// therefore checks them against the current log, and the first batch that is not of that log ends the prefetch.
/// Nothing is lost by that: the node then reads the same range through its view.
#[derive(Default)]
pub struct Prefetch {
    batches: Option<Box<dyn Iterator<Item = Vec<Entry>> + Send>>,
    /// The entries of the current batch that were not taken yet.
    current_batch: VecDeque<Entry>,
}

impl Prefetch {
    /// Creates a prefetch from batches of consecutive entries; each batch starts where the previous one ended.
    pub fn new(batches: impl Iterator<Item = Vec<Entry>> + Send + 'static) -> Prefetch {
        Prefetch { batches: Some(Box::new(batches)), current_batch: VecDeque::new() }
    }

    /// Takes the first entries of a range, if they were read and the log `holds` them. Blocks until the reader has read
    /// a batch.
    ///
    /// The last entry taken decides for all of them: a log that holds it by index *and term* holds the ones before it
    /// too (§5.3). A batch may end before the range or reach beyond it. The entries beyond the range stay for the next
    /// call, which must begin where this one ended.
    pub fn take_entries(
        &mut self,
        range: RangeInclusive<Index>,
        holds: impl Fn(Position) -> bool,
    ) -> Option<Vec<Entry>> {
        assert!(!range.is_empty(), "the requested range of indexes is not empty");
        if self.current_batch.is_empty() {
            self.current_batch = self.batches.as_mut()?.next().unwrap_or_default().into();
        }
        let count = self.current_batch.partition_point(|entry| entry.position.index <= *range.end());
        let starts_with_range = self.current_batch.front().is_some_and(|entry| entry.position.index == *range.start());
        // Two logs that hold the same entry hold the same entries up to it (§5.3).
        match count.checked_sub(1).map(|last| self.current_batch[last].position) {
            Some(last) if starts_with_range && holds(last) => Some(self.current_batch.drain(..count).collect()),
            _ => {
                *self = Prefetch::default();
                None
            }
        }
    }
}

impl fmt::Debug for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefetch")
            .field("read", &self.batches.is_some())
            .field("rest", &self.current_batch.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::types::{ClusterTime, Payload, Term};

    fn batch(from: u64, to: u64) -> Vec<Entry> {
        let position = |index| Position::new(Index(index), Term(1));
        (from..=to).map(|index| codec::entry(position(index), ClusterTime(0), Payload::Noop)).collect()
    }

    fn take_indexes(prefetch: &mut Prefetch, from: u64, to: u64, term: u64) -> Option<Vec<u64>> {
        let entries = prefetch.take_entries(Index(from)..=Index(to), |position| position.term == Term(term))?;
        Some(entries.iter().map(|entry| entry.position.index.0).collect())
    }

    #[test]
    fn prefetched_batches_are_taken_up_to_the_requested_index() {
        let mut prefetch = Prefetch::new([batch(3, 5), batch(6, 8)].into_iter());
        assert_eq!(take_indexes(&mut prefetch, 3, 4, 1), Some(vec![3, 4]));
        assert_eq!(take_indexes(&mut prefetch, 5, 9, 1), Some(vec![5]));
        assert_eq!(take_indexes(&mut prefetch, 6, 9, 1), Some(vec![6, 7, 8]));
        assert_eq!(take_indexes(&mut prefetch, 9, 9, 1), None, "no batch is left");
    }

    #[test]
    fn prefetch_is_dropped_once_it_diverges_from_the_log() {
        let mut prefetch = Prefetch::new([batch(1, 2), batch(3, 4)].into_iter());
        assert_eq!(take_indexes(&mut prefetch, 1, 4, 2), None);
        assert_eq!(take_indexes(&mut prefetch, 3, 4, 1), None);
        let mut prefetch_behind_snapshot = Prefetch::new([batch(1, 2), batch(3, 4)].into_iter());
        assert_eq!(take_indexes(&mut prefetch_behind_snapshot, 3, 4, 1), None, "a snapshot replaced the first entries");
        assert_eq!(take_indexes(&mut prefetch_behind_snapshot, 3, 4, 1), None);
    }
}
