//! Log entries, hard state, and the writes of the journal.

use super::ids::{DiskId, Index, NodeId, Position, Term, WriteId};
use super::membership::Membership;
use super::time::ClusterTime;
use bytes::Bytes;

/// One log entry.
///
/// The checksum covers term, index, time, kind and payload, and nothing about where the entry is stored. The leader
/// that created the entry computes it once, and it travels with the entry to every socket and disk: two logs agree on
/// an entry exactly if position and checksum agree. `codec` creates, encodes and checks entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Index and term.
    pub position: Position,
    /// The cluster time when the leader created it.
    pub time: ClusterTime,
    /// Its content.
    pub payload: Payload,
    /// CRC-32 of all of the above, as `codec` encodes it.
    pub checksum: u32,
}

/// The content of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Opens a leader's term (thesis §6.4): no entry of an earlier term commits without one (§5.4.2).
    Noop,
    /// The cluster's members from this index on (§6).
    Membership(Box<Membership>),
    /// An operation to apply; consensus does not read it.
    Opaque(Bytes),
}

/// A vote for a node with one disk. The same id with another disk is another candidate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vote {
    /// The candidate.
    pub node: NodeId,
    /// The candidate's disk id.
    pub disk: DiskId,
}

impl Vote {
    /// Creates a vote; the disk id is zero where disks have no ids.
    pub fn new(node: NodeId, disk: Option<DiskId>) -> Vote {
        Vote { node, disk: disk.unwrap_or_default() }
    }
}

/// The state beside the log that a node must persist (Figure 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// The vote it cast in that term, if any.
    pub vote: Option<Vote>,
    /// The highest position that this node is known to have acknowledged and no longer holds; zero if there is none.
    /// Compared as logs are (§5.4.1): while its log ends before this position, the node votes only for candidates at or
    /// beyond it, and does not campaign.
    pub promised: Position,
}

/// The base of the log: the last position that is no longer in it, and the membership there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotPoint {
    /// A snapshot has replaced all entries up to and including this one; `Position::ZERO` at a founding.
    pub position: Position,
    /// The index of the entry that brought `membership`.
    pub configured: Index,
    /// The configuration in force at `position`.
    pub membership: Membership,
}

/// One numbered batch for the journal.
///
/// Its entries replace the log from the first of their indexes on: a truncation is an append at a lower index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Its number in the order of writes.
    pub id: WriteId,
    /// The hard state from this write on, if it changed.
    pub hard_state: Option<HardState>,
    /// The log restarts here: a founding, or a snapshot that replaces all earlier entries.
    pub base: Option<SnapshotPoint>,
    /// Consecutive entries, possibly none.
    pub entries: Vec<Entry>,
}
