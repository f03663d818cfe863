//! What the core asks of the world, and what it has to tell.

use super::message::{Envelope, SnapshotChunk};
use super::note::Note;
use super::reads::ReadId;
use crate::types::{Index, NodeId, Position, Term, Write};

/// Everything the core wants done since it was last asked. Whatever stands here may be done at
/// once and in any order.
#[must_use = "a dropped Ready loses votes, entries and replies"]
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// One numbered batch for the journal.
    pub write: Option<Write>,
    /// Messages that may leave now.
    pub messages: Vec<Envelope>,
    /// Appends that may leave now, without their payloads.
    pub appends: Vec<EntriesToSend>,
    /// Followers that need what is no longer in the log: a snapshot, then.
    pub ships: Vec<NodeId>,
    /// Pieces of a snapshot that this term's leader sends us, and that tell us something new.
    pub chunks: Vec<(NodeId, SnapshotChunk)>,
    /// How much of a snapshot a follower that we send one to has.
    pub chunked: Vec<(NodeId, Position, u64, bool)>,
    /// Everything up to here is committed.
    pub commit: Index,
    /// Reads that are linearizable once everything up to their index is applied.
    pub reads: Vec<(ReadId, Index)>,
    /// Reads that came to nothing: this node leads no more. They may be asked again elsewhere.
    pub reads_lost: Vec<ReadId>,
    /// What an operator would want to know.
    pub notes: Vec<Note>,
}

/// An append that leaves the core as a range: who carries it out fills in the entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntriesToSend {
    /// To whom.
    pub to: NodeId,
    /// In which term.
    pub term: Term,
    /// What stands before the entries.
    pub prev: Position,
    /// The last entry; `prev.index` if there are none.
    pub upto: Index,
    /// The leader's commit index.
    pub commit: Index,
    /// Its number, if it is a probe; else zero.
    pub probe: u64,
}
