//! The output of the consensus core for its driver.

use super::message::{Envelope, SnapshotChunk};
use super::note::Note;
use super::reads::ReadId;
use crate::types::{Index, NodeId, Position, Term, Write};

/// Everything to do since the last call. All of it may be done at once and in any order.
#[must_use = "a dropped Ready loses votes, entries and replies"]
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// One numbered write for the journal.
    pub write: Option<Write>,
    /// Messages to send.
    pub messages: Vec<Envelope>,
    /// Appends to send, without their payloads.
    pub appends: Vec<EntriesToSend>,
    /// Followers that need a snapshot: the entries they need are no longer in the log.
    pub ships: Vec<NodeId>,
    /// Chunks of a snapshot from this term's leader that goes beyond the commit index: sender and chunk.
    pub chunks: Vec<(NodeId, SnapshotChunk)>,
    /// Reports of followers on their snapshots: peer, snapshot, bytes received, whether it was damaged.
    pub chunked: Vec<(NodeId, Position, u64, bool)>,
    /// Everything up to here is committed.
    pub commit: Index,
    /// Reads that are linearizable once everything up to their index is applied.
    pub reads: Vec<(ReadId, Index)>,
    /// Reads that failed because this node lost its leader or its leadership. They may be retried, here or on another
    /// node.
    pub reads_lost: Vec<ReadId>,
    /// Notes for the operator.
    pub notes: Vec<Note>,
}

/// An append that leaves the core as a range of indexes; the driver fills in the entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntriesToSend {
    /// The receiver.
    pub to: NodeId,
    /// The leader's term.
    pub term: Term,
    /// The position right before the entries.
    pub prev: Position,
    /// The index of the last entry; `prev.index` if there are none.
    pub upto: Index,
    /// The leader's commit index.
    pub commit: Index,
    /// Its number, if it is a probe; otherwise zero.
    pub probe: u64,
}
