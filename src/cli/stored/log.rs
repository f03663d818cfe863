//! A stored log: of each entry what tells it from another, and where its record stands.

use crate::types::{ClusterTime, Index, Position, Term};
use std::collections::VecDeque;

/// What is kept of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredEntry {
    /// Its term.
    pub term: Term,
    /// The cluster's clock in it.
    pub time: ClusterTime,
    /// The checksum of all of it: two logs agree on an entry exactly when position and checksum agree.
    pub checksum: u32,
    /// The segment that its record stands in.
    pub segment: u32,
    /// Where in that.
    pub at: u32,
}

impl StoredEntry {
    /// Whether it is the same entry, wherever it is stored.
    pub fn is(&self, other: &StoredEntry) -> bool {
        (self.term, self.checksum) == (other.term, other.checksum)
    }
}

/// Where an index beyond the last one is thought to leave a hole; beyond that the log is thought to begin anew.
const HOLE_MAX: u64 = 1 << 20;

/// The entries from some index on, perhaps with holes where records are damaged.
#[derive(Clone, Debug)]
pub struct Log {
    /// The position before the first.
    before: Position,
    heads: VecDeque<Option<StoredEntry>>,
}

impl Log {
    /// Nothing, behind that position.
    pub fn behind(before: Position) -> Log {
        Log { before, heads: VecDeque::new() }
    }

    /// The position before the first entry.
    pub fn before(&self) -> Position {
        self.before
    }

    /// The first index in it.
    pub fn first(&self) -> Index {
        self.before.index.next()
    }

    /// The last index in it, or the one before the first.
    pub fn last(&self) -> Index {
        Index(self.before.index.0 + self.heads.len() as u64)
    }

    /// How many entries are known.
    pub fn len(&self) -> usize {
        self.heads.iter().flatten().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The entry at that index, if it is there and known.
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

    /// Known entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (Index, &StoredEntry)> {
        let first = self.first().0;
        self.heads.iter().enumerate().filter_map(move |(i, head)| Some((Index(first + i as u64), head.as_ref()?)))
    }

    /// Puts an entry in its place; all from there on was another log's, and is handed back.
    pub fn put(&mut self, index: Index, head: StoredEntry) -> Vec<(Index, StoredEntry)> {
        let mut gone = Vec::new();
        while self.last() >= index && !self.heads.is_empty() {
            let last = self.last();
            gone.extend(self.heads.pop_back().flatten().map(|head| (last, head)));
        }
        if index <= self.before.index || index.0 - self.last().0 > HOLE_MAX {
            // Of what stands before it nothing is known.
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
    fn a_log_is_cut_where_another_begins() {
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
    fn what_is_not_known_is_a_hole_and_never_a_mountain() {
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
