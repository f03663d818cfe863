//! The work that the consensus core hands to its driver.

use super::message::{Envelope, SnapshotChunk};
use super::note::Note;
use super::reads::ReadId;
use crate::types::{Index, NodeId, Position, Term, Write};

/// All work since the last call of [`super::Raft::ready`]. The driver may do it at once and in any order.
#[must_use = "a dropped Ready loses votes, entries and replies"]
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// The hard state and entries to make durable, as one numbered write; `None` if nothing changed.
    pub write: Option<Write>,
    /// Messages to send, each to the receiver on its envelope.
    pub messages: Vec<Envelope>,
    /// Appends to send, without their payloads.
    pub appends: Vec<EntriesToSend>,
    /// Entries that other nodes, or this node itself, have lost, without their payloads.
    pub lost_entries: Vec<LostEntriesToSend>,
    /// Followers that need compacted entries: the driver starts to send each a snapshot.
    pub snapshot_targets: Vec<NodeId>,
    /// Received chunks of a snapshot that covers entries beyond the commit index, each with its sender, the leader of
    /// this term.
    pub snapshot_chunks: Vec<(NodeId, SnapshotChunk)>,
    /// Responses of followers to snapshot chunks: peer, position of the snapshot, bytes received, and whether the
    /// complete snapshot is damaged.
    pub snapshot_reports: Vec<(NodeId, Position, u64, bool)>,
    /// The commit index: the driver applies the entries up to it.
    pub commit: Index,
    /// Reads that may be served once the entries up to their index are applied.
    pub confirmed_reads: Vec<(ReadId, Index)>,
    /// Reads that failed because this node lost its leader or its leadership. A client may retry them, here or on
    /// another node.
    pub lost_reads: Vec<ReadId>,
    /// Events to log for the operator, in order.
    pub notes: Vec<Note>,
}

/// An append that leaves the core as a range of indexes; the driver fills in the entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntriesToSend {
    /// The follower that receives the append.
    pub to: NodeId,
    /// The term in which the leader sends the append.
    pub term: Term,
    /// The position right before the entries.
    pub prev: Position,
    /// The index of the last entry; `prev.index` if there are none.
    pub upto: Index,
    /// The commit index that the append carries.
    pub commit: Index,
    /// The number of the probe if the append is a probe; otherwise zero.
    pub probe_number: u64,
}

/// Lost entries that leave the core as a range of indexes; the driver fills in the entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostEntriesToSend {
    /// The node that receives the entries. If it is this node itself, the driver reads the entries from the damaged
    /// files and reports them by [`super::Raft::append_kept_entries`].
    pub to: NodeId,
    /// The term in which this node answers, which is durable.
    pub term: Term,
    /// The position right before the entries.
    pub after: Position,
    /// The index of the last entry.
    pub upto: Index,
    /// The fragment of the kept entries that holds the range; `None` if this node's log holds it.
    pub fragment: Option<usize>,
}
