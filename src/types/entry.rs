//! What the log holds, and what the journal is asked to write.

use super::ids::{DiskId, Index, NodeId, Position, Term, WriteId};
use super::membership::Membership;
use super::time::ClusterTime;
use bytes::Bytes;

/// One entry of the log.
///
/// Its checksum covers term, index, time, kind and payload and nothing of where it is stored, so
/// that it is computed once, by the leader that made the entry, and travels with it to every
/// socket and disk: two logs agree on an entry exactly when position and checksum agree.
/// `codec` makes, encodes and checks entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Index and term.
    pub position: Position,
    /// The cluster's clock when the leader made it.
    pub time: ClusterTime,
    /// What it says.
    pub payload: Payload,
    /// CRC-32 of all of the above, as `codec` encodes it.
    pub checksum: u32,
}

/// What an entry says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Opens a leader's term (thesis §6.4): nothing of an earlier term commits without one (§5.4.2).
    Noop,
    /// The cluster's members from this index on (§6).
    Membership(Box<Membership>),
    /// What is applied; consensus does not look inside.
    Opaque(Bytes),
}

/// A vote: for a node as it runs on one disk. The same id on another disk is another candidate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vote {
    /// The candidate.
    pub node: NodeId,
    /// The disk it is known by.
    pub disk: DiskId,
}

impl Vote {
    /// A vote for that node on that disk; disk zero where disks have no ids.
    pub fn new(node: NodeId, disk: Option<DiskId>) -> Vote {
        Vote { node, disk: disk.unwrap_or_default() }
    }
}

/// What a node must not forget, beside the log (Figure 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<Vote>,
    /// The highest position that this node is known to have acknowledged and does not hold any more; zero if there
    /// is none. Compared as logs are (§5.4.1): while its log ends before this position, the node votes only for
    /// candidates at or beyond it, and does not campaign.
    pub promised: Position,
}

/// Where the log begins: the last position that is no longer in it, and the members as of there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotPoint {
    /// All up to and including this has been replaced by a snapshot; `Position::ZERO` at a founding.
    pub position: Position,
    /// The index whose configuration `membership` is.
    pub configured: Index,
    /// The configuration that held at `position`.
    pub membership: Membership,
}

/// One numbered batch for the journal.
///
/// Entries replace the log from their first index on: a truncation is an append at a lower index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Its place in the order of writes.
    pub id: WriteId,
    /// The hard state from here on, if it changed.
    pub hard_state: Option<HardState>,
    /// The log restarts here: a founding, or a snapshot that has taken the place of all before it.
    pub base: Option<SnapshotPoint>,
    /// Consecutive entries, perhaps none.
    pub entries: Vec<Entry>,
}
