//! Log entries, hard state, and the writes of the journal.

use super::ids::{DiskId, Index, NodeId, Position, Term, WriteId};
use super::membership::Membership;
use super::time::ClusterTime;
use bytes::Bytes;

/// One entry of the replicated log.
///
/// The checksum covers term, index, time, kind and payload, and nothing about where the entry is stored. The leader
/// that created the entry computes it once, and the checksum stays with the entry on every connection and disk. Two
/// logs hold the same entry exactly if position and checksum are equal. `codec` creates, encodes and checks entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The index and the term of the entry.
    pub position: Position,
    /// The cluster time when the leader created the entry.
    pub time: ClusterTime,
    /// What the entry changes when it is applied.
    pub payload: Payload,
    /// CRC-32 over the encoding of the other fields by `codec`.
    pub checksum: u32,
}

/// The content of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// A leader's first entry in its term (thesis §6.4). Entries of earlier terms commit together with it (§5.4.2).
    Noop,
    /// The cluster's members from this index on (§6).
    Membership(Box<Membership>),
    /// An operation to apply; consensus does not read it.
    Opaque(Bytes),
}

/// A vote for a node on one disk. The same id with another disk is another candidate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vote {
    /// The candidate's node id.
    pub node: NodeId,
    /// The candidate's disk id; zero where disks have no ids.
    pub disk: DiskId,
}

impl Vote {
    /// Creates a vote. A missing disk id is stored as zero.
    pub fn new(node: NodeId, disk: Option<DiskId>) -> Vote {
        Vote { node, disk: disk.unwrap_or_default() }
    }
}

/// The state beside the log that a node must persist (Figure 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// This node's vote in that term, if any.
    pub vote: Option<Vote>,
    /// The highest position that this node is known to have acknowledged and no longer holds; zero if there is none.
    /// Positions are compared as in an election (§5.4.1). While its log ends before this position, the node votes only
    /// for candidates at or beyond it, and does not campaign.
    pub promised_position: Position,
}

/// The base of the log: the last position that is no longer in the log, and the membership in force at that position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotPoint {
    /// The position of the last entry that a snapshot has replaced; `Position::ZERO` if the log still has its first
    /// entry.
    pub position: Position,
    /// The index of the entry with `membership`, at or below `position`.
    pub configured: Index,
    /// The configuration in force at `position`.
    pub membership: Membership,
}

/// One numbered batch of changes that the journal writes.
///
/// The entries replace the log from the index of the first entry on: a truncation is an append at a lower index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The number of the write. Numbers are consecutive.
    pub id: WriteId,
    /// The hard state from this write on, if it changed.
    pub hard_state: Option<HardState>,
    /// The new base of the log, if a founding or an installed snapshot replaces all earlier entries.
    pub base: Option<SnapshotPoint>,
    /// Consecutive entries, possibly none.
    pub entries: Vec<Entry>,
}
