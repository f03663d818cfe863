//! The names of things: nodes, clusters, disks, terms, places in the log.

use std::fmt;
use std::num::NonZeroU64;

/// A node's name, given by the operator and kept for life.
///
/// Never zero, so that zero on disk and on the wire *is* nobody, and `Option<NodeId>` costs nothing.
/// Identity is this id and never the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The node of that number, unless it is zero, which names nobody.
    pub const fn new(id: u64) -> Option<NodeId> {
        match NonZeroU64::new(id) {
            Some(id) => Some(NodeId(id)),
            None => None,
        }
    }

    /// The number, never zero.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// A term of office: at most one leader in each (§5.1). Zero is before the first election.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

impl Term {
    /// Before the first election.
    pub const ZERO: Term = Term(0);

    /// The term after this one.
    pub const fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// A place in the log. The first entry is at 1; 0 is the place before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

impl Index {
    /// The place before the first entry.
    pub const ZERO: Index = Index(0);

    /// The place after this one.
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The place before this one; zero has none and stays.
    pub const fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An entry's identity: two logs that hold the same position hold the same entries up to it
/// (Log Matching, §5.3).
///
/// The term comes first, so that the derived order *is* the rule by which voters judge a
/// candidate's log: the later last term wins, and the longer log breaks a tie (§5.4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The term whose leader made the entry.
    pub term: Term,
    /// Its place in the log.
    pub index: Index,
}

impl Position {
    /// The position before the first entry, which every log holds.
    pub const ZERO: Position = Position { term: Term::ZERO, index: Index::ZERO };

    /// The position of that index and term.
    pub const fn new(index: Index, term: Term) -> Position {
        Position { term, index }
    }
}

impl fmt::Display for Position {
    /// Index, then term: `812@3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a write handed to the journal. The journal keeps their order, so "durable up to
/// write 91" says it of every write before it too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct WriteId(pub u64);

impl WriteId {
    /// Before the first write: always durable.
    pub const ZERO: WriteId = WriteId(0);

    /// The write after this one.
    pub const fn next(self) -> WriteId {
        WriteId(self.0 + 1)
    }
}

/// A cluster's name, derived from its founding members: nodes of different clusters never talk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A data directory's own name, drawn when it is made: tells a node that comes back empty under
/// its old id from the node that voted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DiskId(pub u64);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id of one replicated log, drawn at random by the leader that began it and carried by its first entry.
///
/// A cluster id says which founders a node was told of, and two clusters may be told of the same ones; a log id
/// is never drawn twice. Nodes of two different logs exchange no Raft messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId(pub u64);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A session's name: the index of the entry that opened it, so no two share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// One run of a node: a process, on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// Drawn when it started: two that live at once on copies of a disk are told apart by it.
    pub id: u64,
    /// How many times a node was started on the disk, this time included: an older copy of it says less. 0 if this start
    /// could not be counted.
    pub starts: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_order_as_voters_judge_logs() {
        let at = |index, term| Position::new(Index(index), Term(term));
        assert!(at(1, 3) > at(9, 2), "the later last term wins");
        assert!(at(9, 2) > at(8, 2), "the longer log breaks a tie");
        assert_eq!(at(812, 3).to_string(), "812@3");
    }

    #[test]
    fn nobody_is_zero() {
        assert_eq!(NodeId::new(0), None);
        assert_eq!(size_of::<Option<NodeId>>(), 8);
    }
}
