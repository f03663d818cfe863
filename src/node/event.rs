//! The events that a node handles, and the actions that it requests.
//!
//! Most actions are answered by an event, and the pair is the contract between node and driver:
//!
//! ```text
//!   Write            ─▶ Journal
//!   Apply            ─▶ Applied
//!   Query            ─▶ Queried
//!   TakeSnapshot     ─▶ SnapshotTaken or SnapshotDamaged
//!   InspectSnapshot  ─▶ SnapshotInspected
//!   Scrub            ─▶ Scrub …
//!   StoreChunk       ─▶ ChunkStored …, Restored
//!   Forward          ─▶ ForwardAnswered, ForwardNotSent, AnswersLost or PeerLost
//!   Send, Reply, CompactJournal, Note, Warn: no event
//! ```
//!
//! There is no event for a failed write or a failed sync. The journal stops the process then: the contents of the disk
//! are no longer known, and a node that went on could acknowledge an entry that is not there.

use crate::api::{Reply, Request};
use crate::apply;
use crate::consensus::message::{Envelope, SnapshotChunk};
use crate::consensus::note::Note;
use crate::scrub::{ScrubOrder, ScrubReport};
use crate::types::{
    ClusterTime, DiskId, Entry, Index, LogId, Membership, NodeId, Position, SnapshotPoint, Versions, Write,
};
use crate::wal::report as wal;
use bytes::Bytes;

/// A snapshot that is durable on this node: its file and its directory entry are synced, and the file was read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DurableSnapshot {
    /// The position of the last entry that the snapshot covers.
    pub position: Position,
    /// The snapshot's file, memory-mapped.
    pub bytes: Bytes,
}

/// The sender of a request. The sender and its own id for the request are all that a reply needs: the node has no
/// connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Caller {
    /// A client connection, by a number that the driver assigns and never reuses.
    Client(u64),
    /// Another node, which forwarded a client's request.
    Peer(NodeId),
}

/// Everything that can happen to a node.
///
/// Events may come late, repeated or not at all if a peer, a client or a link causes them. The driver's own reports
/// come once each, in the order of the actions that they answer, as long as the process lives.
#[derive(Clone, Debug)]
pub enum Event {
    /// A peer sent a message.
    Peer(Envelope),
    /// The link from or to this peer broke: messages in flight may be lost.
    PeerLost(NodeId),
    /// A handshake, opened by either side, named the disk id of a peer.
    PeerDiskLearned {
        /// The peer that took part in the handshake.
        peer: NodeId,
        /// The id of the peer's disk.
        disk: DiskId,
    },
    /// A peer has connected to this node, and announced the versions that its program supports.
    PeerVersionsLearned {
        /// The peer, whose connection was accepted.
        peer: NodeId,
        /// The versions that its program supports.
        versions: Versions,
    },
    /// The connection on which a peer announced its versions has ended: the peer may come back with another program.
    PeerInboundClosed(NodeId),
    /// A peer that knows this node by its id and address holds another log than this node, or this node holds no log.
    PeerLogDiffers {
        /// The peer, whose log differs from this node's.
        peer: NodeId,
        /// The id of the peer's log.
        log: LogId,
    },
    /// The process is about to stop: leadership should be transferred.
    Stopping,
    /// A caller sent a request. Each (caller, id) is answered once, unless the caller disconnects.
    Request {
        /// The caller, which receives the answer.
        from: Caller,
        /// The caller's id for the request. Unanswered requests of one caller have distinct ids.
        id: u64,
        /// Whether to forward the request to the leader rather than name the leader to the caller. It is forwarded at
        /// most once.
        forward: bool,
        /// The decoded request of a client, or of a peer for its client.
        request: Request,
    },
    /// A peer answered a request that this node forwarded.
    ForwardAnswered {
        /// The peer that answered.
        from: NodeId,
        /// This node's id for the request, as in [`Action::Forward`].
        id: u64,
        /// The peer's reply, a refusal included.
        reply: Reply,
    },
    /// A request forwarded to a peer never left this node: it had no effect.
    ForwardNotSent {
        /// The peer to which the request was to be sent.
        to: NodeId,
        /// This node's id for the request, as in [`Action::Forward`].
        id: u64,
    },
    /// This peer opened a new connection to this node: answers sent on the previous connection may be lost.
    AnswersLost(NodeId),
    /// A caller disconnected: its answers are dropped.
    CallerGone(Caller),
    /// A report of the journal: the last durable write, and about how many more bytes the log can store.
    Journal(wal::Report),
    /// This node's disk has too little free space, or enough again.
    DiskSpace {
        /// Whether there is too little free space.
        low: bool,
    },
    /// The applier has applied the entries of [`Action::Apply`].
    Applied(apply::Report),
    /// [`Action::TakeSnapshot`] is complete. `None` if there was no disk space for the snapshot.
    SnapshotTaken(Option<DurableSnapshot>),
    /// The snapshot of [`Action::TakeSnapshot`] was damaged when it was read back: it is discarded.
    SnapshotDamaged,
    /// [`Action::InspectSnapshot`] is complete.
    SnapshotInspected {
        /// The position of the last entry that the inspected snapshot covers.
        snapshot: Position,
        /// Whether the file was read completely and without damage.
        undamaged: bool,
    },
    /// A report of the pass of [`Action::Scrub`].
    Scrub(ScrubReport),
    /// A chunk of the leader's snapshot was written to a file.
    ChunkStored {
        /// The leader that sent the chunk.
        from: NodeId,
        /// The position of the last entry that the leader's snapshot covers.
        snapshot: Position,
        /// The offset of the next chunk: how many bytes of the file are received.
        next: u64,
        /// Whether the file was complete, and found damaged when it was read back.
        damaged: bool,
    },
    /// A leader's snapshot is complete and durable, and the machine is restored from it.
    Restored {
        /// The leader's snapshot, with the file in which this node stored it.
        snapshot: DurableSnapshot,
        /// The position of the snapshot's last entry, and the members as of that entry.
        base: SnapshotPoint,
        /// The cluster time of the snapshot's last entry.
        time: ClusterTime,
        /// The applier's report after the restore.
        report: apply::Report,
    },
    /// The applier answered [`Action::Query`].
    Queried {
        /// The ticket of the query, as in [`Action::Query`].
        ticket: u64,
        /// The last index that was applied when the machine answered.
        applied: Index,
        /// The machine's answer, in its own encoding.
        answer: Bytes,
    },
}

/// Everything that a node requests of its driver. Actions may run concurrently and in any order, except that writes
/// keep their order, and so does everything submitted to the applier.
#[derive(Debug)]
pub enum Action {
    /// Send this message to a peer. It may be lost.
    Send(Envelope),
    /// Forward a caller's request to a peer; [`Event::ForwardAnswered`] brings the answer. If the request or the answer
    /// is lost, [`Event::ForwardNotSent`], [`Event::AnswersLost`] or [`Event::PeerLost`] follows.
    Forward {
        /// The leader, as far as this node knows.
        to: NodeId,
        /// This node's id for the request, which the answer repeats.
        id: u64,
        /// The request, as the caller sent it.
        request: Request,
    },
    /// Send a reply to a caller; if the caller has disconnected, the driver drops the reply.
    Reply {
        /// The caller that sent the request.
        to: Caller,
        /// The caller's id for the request.
        id: u64,
        /// The reply; each request gets at most one.
        reply: Reply,
    },
    /// Append this write to the journal; [`Event::Journal`] follows when it is durable.
    Write(Write),
    /// Apply these committed entries, in order; [`Event::Applied`] reports the outcomes.
    Apply(Vec<Entry>),
    /// Freeze the machine and write a snapshot of it; [`Event::SnapshotTaken`] follows when it is durable. No batch is
    /// being applied: all entries of earlier `Apply` actions are applied, and no entry of a later one.
    TakeSnapshot {
        /// The index of the entry that established the membership.
        configured: Index,
        /// The membership as of the applied index.
        membership: Membership,
    },
    /// Store a chunk of a leader's snapshot. [`Event::ChunkStored`] reports the progress, and [`Event::Restored`] that
    /// the snapshot is complete and the machine restored from it.
    StoreChunk {
        /// The leader that sent the chunk.
        from: NodeId,
        /// A part of the snapshot's file, at any offset: it may have been received before.
        chunk: SnapshotChunk,
    },
    /// Read the file of a snapshot again, because a follower received it damaged, and report the damage;
    /// [`Event::SnapshotInspected`] follows.
    InspectSnapshot {
        /// The follower that received the snapshot damaged.
        follower: NodeId,
        /// The position of the last entry that the snapshot to read covers.
        snapshot: Position,
        /// How many damaged snapshots in a row that follower has received.
        damaged_count: u32,
    },
    /// Check this node's files in the background, and report with [`Event::Scrub`]. The order replaces an earlier one.
    Scrub(ScrubOrder),
    /// The journal may discard everything up to this position.
    CompactJournal {
        /// The position up to which the log is discarded.
        upto: Position,
        /// Whether the journal may reuse the files: not if one of them is damaged.
        reuses_files: bool,
    },
    /// Query the machine, after everything submitted before; [`Event::Queried`] brings the answer.
    Query {
        /// This node's ticket for the query, which the answer repeats.
        ticket: u64,
        /// The query, in the machine's own encoding.
        query: Bytes,
        /// The cluster time, as far as this node knows.
        time: ClusterTime,
    },
    /// Log this note for the operator.
    Note(Note),
    /// Log this line for the operator, as a warning.
    Warn(String),
    /// Stop the process with this fault: a node that went on could break a guarantee.
    Stop(wal::Fault),
}
