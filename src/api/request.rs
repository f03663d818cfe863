//! Requests to a node, and its replies and refusals.

use super::log_level::{LogLevelInForce, LogLevelRequest};
use super::op::Outcome;
use super::status::Status;
use crate::types::{Change, Index, NodeId, Position, Term};
use bytes::Bytes;

/// The consistency of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// Linearizable: a quorum confirms the leader first (thesis §6.4).
    #[default]
    Linearizable,
    /// The state that the node has applied, at once; it may be stale.
    Local,
}

/// A request to a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Appends this operation to the log: an encoded [`Op`](super::Op), kept unchanged.
    Propose {
        /// The encoded operation ([`Op::encode`](super::Op::encode)).
        op: Bytes,
    },
    /// Queries the state machine without changing it.
    Query {
        /// The query for the state machine.
        query: Bytes,
        /// The consistency of the read.
        consistency: Consistency,
    },
    /// Requests the node's status.
    Status,
    /// Takes a snapshot on this node now. The reply comes when it is durable.
    Snapshot,
    /// Reads a chunk of the file of a snapshot on this node.
    ReadSnapshot {
        /// The position of the snapshot: the newest, or one that was read a short while ago.
        snapshot: Position,
        /// Where in the file the chunk starts, in bytes.
        offset: u64,
    },
    /// Changes the membership of the cluster (§6).
    Change {
        /// The change.
        change: Change,
        /// Whether to make the change even if it may stop the cluster.
        force: bool,
    },
    /// Transfers the leadership to another node (thesis §3.10).
    Transfer {
        /// The target; if none, the leader picks the best one.
        to: Option<NodeId>,
    },
    /// Reads or changes the level of this node's log.
    LogLevel(LogLevelRequest),
}

/// A node's reply.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// The operation is committed and applied.
    Done {
        /// The position of its entry.
        position: Position,
        /// The result of the operation.
        outcome: Outcome,
    },
    /// The state machine's answer to a query.
    Answer {
        /// The last index that the state machine had applied.
        applied: Index,
        /// The answer.
        answer: Bytes,
    },
    /// The node's status.
    Status(Box<Status>),
    /// The newest snapshot of the node.
    Snapshot {
        /// The position of the snapshot.
        position: Position,
        /// The length of its file in bytes.
        bytes: u64,
    },
    /// A chunk of a snapshot's file: at most [`CHUNK_BYTES`](crate::limits::CHUNK_BYTES) bytes, and none at its end.
    SnapshotChunk {
        /// Where in the file the chunk starts, in bytes.
        offset: u64,
        /// The length of the file in bytes.
        total: u64,
        /// The bytes of the chunk.
        bytes: Bytes,
    },
    /// The membership change is committed.
    Changed {
        /// The position of the configuration in force.
        position: Position,
    },
    /// The leadership was transferred.
    Transferred {
        /// The new leader.
        to: NodeId,
    },
    /// The log level in force on this node.
    LogLevel(LogLevelInForce),
    /// The request was refused. Nothing has happened.
    Refused(Refusal),
    /// The request may have happened, or may still happen: this node lost the leadership or its leader before it knew.
    Unknown,
}

/// Why a request was refused. Nothing has happened; it is safe to retry on another node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// This node is not the leader. Retry on the leader, or on any node if it is not known.
    #[error("not the leader of term {term}")]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<NodeId>,
        /// The leader's address.
        address: Option<String>,
        /// The term of this node.
        term: Term,
    },
    /// There has been no leader for the longest time that a request may wait.
    #[error("no leader")]
    NoLeader,
    /// This node has too much work in progress. Retry after a short wait.
    #[error("busy: more is under way than may be")]
    Busy,
    /// The command is larger than this cluster accepts.
    #[error("too large: {bytes} bytes, and the limit is {limit}")]
    TooLarge {
        /// The size of the command in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The request could not be decoded.
    #[error("malformed request")]
    Malformed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The node belongs to no cluster, not yet or not any more, and has no leader: retry on another node.
    #[error("{node} is not a member of the cluster{}", known(.members))]
    NotMember {
        /// This node's id.
        node: NodeId,
        /// The addresses of the members that it knew last.
        members: Vec<String>,
    },
    /// The disk of this node has no room for it.
    #[error("no space left on the disk of this node")]
    NoSpace,
    /// Another membership change is under way: only one at a time is allowed (§6), and none before this leader's first
    /// entry is committed.
    #[error("another membership change is in progress, since {since}")]
    Changing {
        /// The index of the configuration that has to be committed first.
        since: Index,
    },
    /// The change does not lead to a valid membership.
    #[error("{why}")]
    InvalidChange {
        /// Why it is invalid.
        why: String,
    },
    /// The change is possible, but might stop the cluster; `force` makes it anyway.
    #[error("{why}")]
    UnsafeChange {
        /// The risk.
        why: String,
    },
    /// The requested snapshot no longer exists: a newer one has replaced it.
    #[error("that snapshot no longer exists: a newer one has replaced it")]
    SnapshotGone,
    /// The process that runs the node does not support the request.
    #[error("the process that runs this node does not support this request")]
    NotOffered,
    /// The target did not take over in time: the leader goes on.
    #[error("{to} did not take over in time; the leader keeps leading")]
    TransferTimedOut {
        /// The target.
        to: NodeId,
    },
}

fn known(members: &[String]) -> String {
    if members.is_empty() { String::new() } else { format!("; those it knew last are at {}", members.join(", ")) }
}
