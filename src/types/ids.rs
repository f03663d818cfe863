//! Ids: of nodes, clusters, disks, terms, and positions in the log.

use std::fmt;
use std::num::NonZeroU64;

/// A node's id, assigned by the operator and never changed.
///
/// The id is never zero: zero on disk and on the wire means no node, and `Option<NodeId>` has the same size. A node is
/// identified by this id, never by its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The node id of a number, or `None` for zero.
    pub const fn new(id: u64) -> Option<NodeId> {
        match NonZeroU64::new(id) {
            Some(id) => Some(NodeId(id)),
            None => None,
        }
    }

    /// The id as a number, never zero.
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

/// A Raft term, with at most one leader (§5.1). Zero is before the first election.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

impl Term {
    /// The term of a node before the first election.
    pub const ZERO: Term = Term(0);

    /// The next higher term, which a candidate enters.
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

/// A log index. The first entry has index 1; index 0 is before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

impl Index {
    /// The index before the first entry.
    pub const ZERO: Index = Index(0);

    /// The index of the following entry.
    pub const fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index of the entry before; zero stays zero.
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

/// An entry's identity: two logs that hold the same position hold the same entries up to it (Log Matching, §5.3).
///
/// The term comes first, so that the derived order *is* the order by which voters compare logs: the later last term
/// wins, and the longer log breaks a tie (§5.4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The term whose leader created the entry.
    pub term: Term,
    /// The index of the entry in the log; the first entry has index 1.
    pub index: Index,
}

impl Position {
    /// The position before the first entry, which every log holds.
    pub const ZERO: Position = Position { term: Term::ZERO, index: Index::ZERO };

    /// Creates a position; the index comes first, as in `812@3`.
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

/// The number of a write submitted to the journal. The journal keeps their order, so "durable up to write 91" includes
/// every earlier write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct WriteId(pub u64);

impl WriteId {
    /// The number before the first write; it counts as durable.
    pub const ZERO: WriteId = WriteId(0);

    /// The number of the following write.
    pub const fn next(self) -> WriteId {
        WriteId(self.0 + 1)
    }
}

/// A cluster's id, derived from its founding members: nodes of different clusters exchange no messages.
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

/// A data directory's id, drawn at random when the directory is created. It distinguishes a node that returns with an
/// empty directory under its old id from the node that voted.
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
/// A cluster id is derived from the founders in a node's configuration file, and two clusters may have the same
/// founders. A log id is never drawn twice. Nodes of two different logs exchange no Raft messages.
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

/// A session's id: the index of the entry that opened it, and therefore unique.
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

/// One run of a node: one process on one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// A random number drawn at the start. It distinguishes two processes that run at the same time on copies of a
    /// disk.
    pub id: u64,
    /// How many times a node was started on the disk, including this run: an older copy of the disk has a lower count.
    /// 0 if this start could not be counted.
    pub starts: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_order_by_term_then_index() {
        let at = |index, term| Position::new(Index(index), Term(term));
        assert!(at(1, 3) > at(9, 2), "the later last term wins");
        assert!(at(9, 2) > at(8, 2), "the longer log breaks a tie");
        assert_eq!(at(812, 3).to_string(), "812@3");
    }

    #[test]
    fn node_id_is_never_zero() {
        assert_eq!(NodeId::new(0), None);
        assert_eq!(size_of::<Option<NodeId>>(), 8);
    }
}
