//! The events that a node handles, and the actions that it requests.
//!
//! Most actions are answered by an event, and the pair is the contract between node and driver:
//!
//! ```text
//!   Write         ─▶ Journal                        StoreChunk  ─▶ ChunkStored …, Restored
//!   Apply         ─▶ Applied                        Inspect     ─▶ Inspected
//!   Query         ─▶ Queried                        Forward     ─▶ Answered, NotSent, AnswersLost or PeerLost
//!   TakeSnapshot  ─▶ SnapshotTaken or TakenDamaged  Send, Reply, CompactJournal, Note: no event
//! ```
//!
//! There is no event for a failed write or a failed sync. The journal stops the process then: what the disk holds is no
//! longer known, and a node that went on could acknowledge an entry that is not there.

use crate::api::{Reply, Request};
use crate::apply;
use crate::consensus::message::{Envelope, SnapshotChunk};
use crate::consensus::note::Note;
use crate::types::{ClusterTime, DiskId, Entry, Index, LogId, Membership, NodeId, Position, SnapshotPoint, Write};
use crate::wal::report as wal;
use bytes::Bytes;

/// A snapshot that is durable on this node: synced with its name, and read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DurableSnapshot {
    /// The position of the last entry that it holds.
    pub position: Position,
    /// Its file, memory-mapped.
    pub bytes: Bytes,
}

/// The sender of a request. A reply needs no more than this and the sender's own id for the request: the node keeps no
/// connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Caller {
    /// A client connection, by the driver's number, which is never reused.
    Client(u64),
    /// Another node, which forwards a client's request.
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
    /// The link from or to that peer broke: messages in flight may be lost.
    PeerLost(NodeId),
    /// A handshake, opened by either side, named the disk id of a peer.
    DiskLearned {
        /// The peer.
        peer: NodeId,
        /// Its disk id.
        disk: DiskId,
    },
    /// A peer that knows this node by its id and address holds another log than this node, or this node holds none.
    OtherLog {
        /// The peer.
        peer: NodeId,
        /// Its log.
        log: LogId,
    },
    /// The process is about to stop: leadership should be transferred.
    Stopping,
    /// A caller sent a request. Each (caller, id) is answered once, unless the caller disconnects.
    Request {
        /// The caller.
        from: Caller,
        /// The caller's id for it; ids of one caller are distinct while unanswered.
        id: u64,
        /// Whether to forward it to the leader rather than name the leader. One hop at most.
        forward: bool,
        /// The request itself.
        request: Request,
    },
    /// A peer answered a request that this node forwarded.
    Answered {
        /// The peer.
        from: NodeId,
        /// This node's id for the request.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// A request forwarded to a peer never left this node: it had no effect.
    NotSent {
        /// The peer.
        to: NodeId,
        /// This node's id for the request.
        id: u64,
    },
    /// That peer opened a new connection to this node: answers sent on the previous one may be lost.
    AnswersLost(NodeId),
    /// A caller disconnected: its answers are dropped.
    CallerGone(Caller),
    /// The journal made writes durable.
    Journal(wal::Report),
    /// The disk has too little room, or enough again.
    Space {
        /// Whether there is too little room.
        low: bool,
    },
    /// The applier has applied the entries of [`Action::Apply`].
    Applied(apply::Report),
    /// [`Action::TakeSnapshot`] is complete. `None` if there was no room for the snapshot.
    SnapshotTaken(Option<DurableSnapshot>),
    /// The snapshot of [`Action::TakeSnapshot`] was damaged when it was read back: it is discarded.
    TakenDamaged,
    /// [`Action::Inspect`] is complete.
    Inspected {
        /// The snapshot.
        snapshot: Position,
        /// Whether the file is undamaged.
        whole: bool,
    },
    /// A chunk of the leader's snapshot was written to a file.
    ChunkStored {
        /// The leader.
        from: NodeId,
        /// The snapshot.
        snapshot: Position,
        /// How many bytes of it are received.
        next: u64,
        /// Whether it was complete, and damaged.
        damaged: bool,
    },
    /// A leader's snapshot is complete and durable, and the machine is restored from it.
    Restored {
        /// The snapshot.
        kept: DurableSnapshot,
        /// The position of its last entry, and the members there.
        base: SnapshotPoint,
        /// The cluster time there.
        time: ClusterTime,
        /// The applier's report after the restore.
        report: apply::Report,
    },
    /// The applier answered [`Action::Query`].
    Queried {
        /// The ticket of the query.
        ticket: u64,
        /// The last index applied before the query.
        applied: Index,
        /// The machine's answer.
        answer: Bytes,
    },
}

/// Everything that a node requests of its driver. Actions may run concurrently and in any order, except that writes
/// keep their order, and so does everything submitted to the applier.
#[derive(Debug)]
pub enum Action {
    /// Send this message to a peer. It may be lost.
    Send(Envelope),
    /// Forward a caller's request to a peer, which answers with [`Event::Answered`]. If it is lost, [`Event::NotSent`],
    /// [`Event::AnswersLost`] or [`Event::PeerLost`] follows.
    Forward {
        /// The leader, as far as this node knows.
        to: NodeId,
        /// This node's id for the request.
        id: u64,
        /// The request.
        request: Request,
    },
    /// Answer a caller.
    Reply {
        /// The caller.
        to: Caller,
        /// The caller's id for the request.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Write this to the journal; [`Event::Journal`] follows when it is durable.
    Write(Write),
    /// Apply these committed entries, in order; [`Event::Applied`] reports the outcomes.
    Apply(Vec<Entry>),
    /// Freeze the machine and write a snapshot of it; [`Event::SnapshotTaken`] follows when it is durable. No batch is
    /// being applied: all entries submitted before are applied, and entries submitted in the same turn are not yet.
    TakeSnapshot {
        /// The index since which the membership holds.
        configured: Index,
        /// The membership as of the applied index.
        membership: Membership,
    },
    /// Store a chunk of a leader's snapshot. [`Event::ChunkStored`] reports the progress, and [`Event::Restored`] that
    /// the snapshot is complete and the machine restored from it.
    StoreChunk {
        /// The leader.
        from: NodeId,
        /// The chunk.
        chunk: SnapshotChunk,
    },
    /// Read the file of a snapshot again, because a follower received it damaged, and report the damage;
    /// [`Event::Inspected`] follows.
    Inspect {
        /// The follower.
        follower: NodeId,
        /// The snapshot.
        snapshot: Position,
        /// How many damaged snapshots in a row that follower has received.
        times: u32,
    },
    /// The journal may discard everything up to this position.
    CompactJournal(Position),
    /// Query the machine, after everything submitted before; [`Event::Queried`] brings the answer.
    Query {
        /// This node's ticket for it.
        ticket: u64,
        /// The query.
        query: Bytes,
        /// The cluster time, as far as this node knows.
        time: ClusterTime,
    },
    /// Report this to the operator.
    Note(Note),
    /// Stop the process: going on could break a guarantee.
    Stop(wal::Fault),
}
