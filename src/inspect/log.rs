//! A stored log: for each entry its term, time and checksum, and where its record is stored.

use crate::types::{ClusterTime, Index, Position, Term};
use std::collections::VecDeque;

/// A stored entry without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredEntry {
    /// The term of the leader that appended it.
    pub term: Term,
    /// The cluster time at which it was appended.
    pub time: ClusterTime,
    /// The checksum of the whole entry: two logs hold the same entry exactly when position and checksum match.
    pub checksum: u32,
    /// The number of the segment that holds its record.
    pub segment: u32,
    /// The byte offset of the record in that segment.
    pub at: u32,
}

impl StoredEntry {
    /// Whether both are the same entry, wherever they are stored. The index is not compared.
    pub fn is(&self, other: &StoredEntry) -> bool {
        (self.term, self.checksum) == (other.term, other.checksum)
    }
}

/// The largest gap between the last index and a new one that counts as a hole. After a larger gap the log restarts.
const HOLE_MAX: u64 = 1 << 20;

/// The entries from some index on, with holes where records are damaged.
#[derive(Clone, Debug)]
pub struct Log {
    /// The position before the first entry.
    before: Position,
    heads: VecDeque<Option<StoredEntry>>,
}

impl Log {
    /// An empty log that begins after `before`.
    pub fn behind(before: Position) -> Log {
        Log { before, heads: VecDeque::new() }
    }

    /// The position before the first entry.
    pub fn before(&self) -> Position {
        self.before
    }

    /// The index of the first entry.
    pub fn first(&self) -> Index {
        self.before.index.next()
    }

    /// The index of the last entry, or the one before the first if the log is empty.
    pub fn last(&self) -> Index {
        Index(self.before.index.0 + self.heads.len() as u64)
    }

    /// The number of entries, without holes.
    pub fn len(&self) -> usize {
        self.heads.iter().flatten().count()
    }

    /// Whether the log is empty.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The entry at that index; `None` outside the log or in a hole.
    pub fn get(&self, index: Index) -> Option<&StoredEntry> {
        let at = index.0.checked_sub(self.before.index.0 + 1)?;
        self.heads.get(usize::try_from(at).ok()?)?.as_ref()
    }

    /// The term at that index, if it is known; also of the position before the first.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.before.index { Some(self.before.term) } else { self.get(index).map(|head| head.term) }
    }

    /// The last entry's term; that of the position before it, if there is none.
    pub fn last_term(&self) -> Option<Term> {
        self.term(self.last())
    }

    /// The position at that index, if it is known.
    pub fn position(&self, index: Index) -> Option<Position> {
        self.term(index).map(|term| Position::new(index, term))
    }

    /// The entries in order, without holes.
    pub fn iter(&self) -> impl Iterator<Item = (Index, &StoredEntry)> {
        let first = self.first().0;
        self.heads.iter().enumerate().filter_map(move |(i, head)| Some((Index(first + i as u64), head.as_ref()?)))
    }

    /// Puts an entry at its index. Truncates the log from there first, and returns the entries it removed.
    pub fn put(&mut self, index: Index, head: StoredEntry) -> Vec<(Index, StoredEntry)> {
        let mut gone = Vec::new();
        while self.last() >= index && !self.heads.is_empty() {
            let last = self.last();
            gone.extend(self.heads.pop_back().flatten().map(|head| (last, head)));
        }
        if index <= self.before.index || index.0 - self.last().0 > HOLE_MAX {
            // Nothing is known of the entries before it.
            *self = Log::behind(Position::new(index.prev(), Term::ZERO));
        }
        while self.last().next() < index {
            self.heads.push_back(None);
        }
        self.heads.push_back(Some(head));
        gone.reverse();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(term: u64) -> StoredEntry {
        StoredEntry { term: Term(term), time: ClusterTime(0), checksum: term as u32, segment: 1, at: 0 }
    }

    #[test]
    fn put_truncates_log_from_its_index() {
        let mut log = Log::behind(Position::ZERO);
        for index in 1..=4 {
            assert!(log.put(Index(index), head(1)).is_empty());
        }
        let gone = log.put(Index(3), head(2));
        assert_eq!(gone.iter().map(|(index, _)| index.0).collect::<Vec<_>>(), [3, 4]);
        assert_eq!((log.last(), log.last_term(), log.len()), (Index(3), Some(Term(2)), 3));
        assert_eq!(log.term(Index::ZERO), Some(Term::ZERO));
    }

    #[test]
    fn small_gap_is_a_hole_and_large_gap_restarts_log() {
        let mut log = Log::behind(Position::ZERO);
        log.put(Index(1), head(1));
        log.put(Index(5), head(1));
        assert_eq!((log.get(Index(3)), log.last(), log.len()), (None, Index(5), 2));
        log.put(Index(u64::MAX - 1), head(9));
        assert_eq!((log.first(), log.len()), (Index(u64::MAX - 1), 1));
        log.put(Index(7), head(9));
        assert_eq!((log.first(), log.last()), (Index(7), Index(7)));
    }
}
