//! A stored log: for each entry its term, time and checksum, and where its record is stored.

use crate::types::{ClusterTime, Index, Position, Term};
use std::collections::VecDeque;

/// A stored entry without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredEntry {
    /// The term of the leader that appended the entry.
    pub term: Term,
    /// The cluster time at which the leader appended the entry.
    pub time: ClusterTime,
    /// The checksum of the whole entry: two logs hold the same entry exactly when position and checksum match.
    pub checksum: u32,
    /// The number of the segment that holds the entry's record.
    pub segment_number: u32,
    /// The byte offset of the record in that segment.
    pub offset: u32,
}

impl StoredEntry {
    /// Whether two entries at one index are the same entry, wherever they are stored. The index is not compared.
    pub fn is_same_entry(&self, other: &StoredEntry) -> bool {
        (self.term, self.checksum) == (other.term, other.checksum)
    }
}

/// The maximum number of missing entries that count as a hole. After a larger gap the log restarts.
const HOLE_ENTRIES_MAX: u64 = 1 << 20;

/// The entries of a log from its first stored index on, with holes where records are damaged.
#[derive(Clone, Debug)]
pub struct Log {
    /// The position before the first entry.
    position_before: Position,
    entries: VecDeque<Option<StoredEntry>>,
}

impl Log {
    /// An empty log that begins after `position_before`.
    pub fn starting_after(position_before: Position) -> Log {
        Log { position_before, entries: VecDeque::new() }
    }

    /// The position before the first entry: that of an entry that was compacted, or zero.
    pub fn position_before(&self) -> Position {
        self.position_before
    }

    /// The index of the first entry, which may be a hole: the index after `position_before`, even if the log is empty.
    pub fn first(&self) -> Index {
        self.position_before.index.next()
    }

    /// The index of the last entry, or that of `position_before` if the log is empty.
    pub fn last(&self) -> Index {
        Index(self.position_before.index.0 + self.entries.len() as u64)
    }

    /// The number of entries, without holes.
    pub fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// Whether the log has no entries and no holes.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at that index; `None` outside the log or in a hole.
    pub fn get(&self, index: Index) -> Option<&StoredEntry> {
        let nth = index.0.checked_sub(self.position_before.index.0 + 1)?;
        self.entries.get(usize::try_from(nth).ok()?)?.as_ref()
    }

    /// The term at that index; `None` outside the log or in a hole. Also known for the position before the first entry.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.position_before.index {
            Some(self.position_before.term)
        } else {
            self.get(index).map(|entry| entry.term)
        }
    }

    /// The term of the last entry, or that of `position_before` if the log is empty.
    pub fn last_term(&self) -> Option<Term> {
        self.term(self.last())
    }

    /// The index together with its term; `None` where [`Log::term`] is unknown.
    pub fn position(&self, index: Index) -> Option<Position> {
        self.term(index).map(|term| Position::new(index, term))
    }

    /// The entries in order, without holes.
    pub fn iter(&self) -> impl Iterator<Item = (Index, &StoredEntry)> {
        let first = self.first().0;
        self.entries.iter().enumerate().filter_map(move |(i, entry)| Some((Index(first + i as u64), entry.as_ref()?)))
    }

    /// Truncates the log from `index` on, and writes the entry at that index. Returns the removed entries.
    pub fn write(&mut self, index: Index, entry: StoredEntry) -> Vec<(Index, StoredEntry)> {
        let mut removed_entries = Vec::new();
        while self.last() >= index && !self.entries.is_empty() {
            let last = self.last();
            removed_entries.extend(self.entries.pop_back().flatten().map(|entry| (last, entry)));
        }
        if index <= self.position_before.index || index.0 - self.last().0 > HOLE_ENTRIES_MAX {
            // The entries before `index` are unknown, and too many to represent as a hole.
            *self = Log::starting_after(Position::new(index.prev(), Term::ZERO));
        }
        while self.last().next() < index {
            self.entries.push_back(None);
        }
        self.entries.push_back(Some(entry));
        removed_entries.reverse();
        removed_entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(term: u64) -> StoredEntry {
        StoredEntry { term: Term(term), time: ClusterTime(0), checksum: term as u32, segment_number: 1, offset: 0 }
    }

    #[test]
    fn write_truncates_log_from_its_index() {
        let mut log = Log::starting_after(Position::ZERO);
        for index in 1..=4 {
            assert!(log.write(Index(index), stored(1)).is_empty());
        }
        let removed_entries = log.write(Index(3), stored(2));
        assert_eq!(removed_entries.iter().map(|(index, _)| index.0).collect::<Vec<_>>(), [3, 4]);
        assert_eq!((log.last(), log.last_term(), log.len()), (Index(3), Some(Term(2)), 3));
        assert_eq!(log.term(Index::ZERO), Some(Term::ZERO));
    }

    #[test]
    fn small_gap_is_a_hole_and_large_gap_restarts_log() {
        let mut log = Log::starting_after(Position::ZERO);
        log.write(Index(1), stored(1));
        log.write(Index(5), stored(1));
        assert_eq!((log.get(Index(3)), log.last(), log.len()), (None, Index(5), 2));
        log.write(Index(u64::MAX - 1), stored(9));
        assert_eq!((log.first(), log.len()), (Index(u64::MAX - 1), 1));
        log.write(Index(7), stored(9));
        assert_eq!((log.first(), log.last()), (Index(7), Index(7)));
    }
}
