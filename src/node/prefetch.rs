//! Log entries that another thread reads ahead, for a node that starts with much to apply.
//!
//! After a start all entries behind the snapshot are applied again. Only the applying must happen in order on the event
//! loop's thread. Reading them and verifying their checksums can be done ahead, so a second thread reads while the
//! first applies. It reads the files as they were found, and knows nothing of what happens to the log since.

use crate::types::{Entry, Index, Position};
use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

/// The log as it was when the node started, batch by batch.
///
/// Entries in it may since have been replaced by a leader, or skipped by a snapshot. Each [`Prefetch::take`] therefore
/// checks them against the current log, and the first batch that is not of that log ends the prefetch. Nothing is lost
/// by that: the node then reads the same range through its view.
#[derive(Default)]
pub struct Prefetch {
    batches: Option<Box<dyn Iterator<Item = Vec<Entry>> + Send>>,
    /// The rest of a batch.
    rest: VecDeque<Entry>,
}

impl Prefetch {
    /// Creates a prefetch from batches of consecutive entries; each batch starts where the previous one ended.
    pub fn new(batches: impl Iterator<Item = Vec<Entry>> + Send + 'static) -> Prefetch {
        Prefetch { batches: Some(Box::new(batches)), rest: VecDeque::new() }
    }

    /// Takes the first entries of a range, if they were read and the log `holds` them. Blocks until the reader has read
    /// a batch.
    ///
    /// The last entry taken decides for all of them: a log that holds it by index *and term* holds the ones before it
    /// too (§5.3). One that ends early is no divergence; the rest stays for the next call, which must begin where this
    /// one ended.
    pub fn take(&mut self, range: RangeInclusive<Index>, holds: impl Fn(Position) -> bool) -> Option<Vec<Entry>> {
        assert!(!range.is_empty(), "entries are read ahead only for a batch that has some");
        if self.rest.is_empty() {
            self.rest = self.batches.as_mut()?.next().unwrap_or_default().into();
        }
        let upto = self.rest.partition_point(|entry| entry.position.index <= *range.end());
        let begins = self.rest.front().is_some_and(|entry| entry.position.index == *range.start());
        // Two logs that hold the same entry hold the same entries up to it (§5.3).
        match upto.checked_sub(1).map(|last| self.rest[last].position) {
            Some(last) if begins && holds(last) => Some(self.rest.drain(..upto).collect()),
            _ => {
                *self = Prefetch::default();
                None
            }
        }
    }
}

impl fmt::Debug for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefetch").field("read", &self.batches.is_some()).field("rest", &self.rest.len()).finish()
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

    fn taken(beforehand: &mut Prefetch, from: u64, to: u64, term: u64) -> Option<Vec<u64>> {
        let entries = beforehand.take(Index(from)..=Index(to), |position| position.term == Term(term))?;
        Some(entries.iter().map(|entry| entry.position.index.0).collect())
    }

    #[test]
    fn prefetched_batches_are_taken_up_to_the_requested_index() {
        let mut beforehand = Prefetch::new([batch(3, 5), batch(6, 8)].into_iter());
        assert_eq!(taken(&mut beforehand, 3, 4, 1), Some(vec![3, 4]));
        assert_eq!(taken(&mut beforehand, 5, 9, 1), Some(vec![5]));
        assert_eq!(taken(&mut beforehand, 6, 9, 1), Some(vec![6, 7, 8]));
        assert_eq!(taken(&mut beforehand, 9, 9, 1), None, "no batch is left");
    }

    #[test]
    fn prefetch_is_dropped_once_it_diverges_from_the_log() {
        let mut replaced = Prefetch::new([batch(1, 2), batch(3, 4)].into_iter());
        assert_eq!(taken(&mut replaced, 1, 4, 2), None);
        assert_eq!(taken(&mut replaced, 3, 4, 1), None);
        let mut skipped = Prefetch::new([batch(1, 2), batch(3, 4)].into_iter());
        assert_eq!(taken(&mut skipped, 3, 4, 1), None, "a snapshot replaced the first entries");
        assert_eq!(taken(&mut skipped, 3, 4, 1), None);
    }
}
