//! Requests to a node, and its replies and refusals.

use super::log_level::{LogLevelInForce, LogLevelRequest};
use super::op::Outcome;
use super::status::Status;
use crate::types::{Change, Index, NodeId, Position, Term};
use bytes::Bytes;

/// The consistency of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// The answer reflects every write acknowledged before the query: a quorum confirms the leader first (thesis §6.4).
    #[default]
    Linearizable,
    /// Answered at once from the state that the node has applied, which may be stale.
    Local,
}

/// A request to a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Appends an operation to the log.
    Propose {
        /// The operation, encoded by [`Op::encode`](super::Op::encode). The log stores these bytes unchanged.
        op: Bytes,
    },
    /// Queries the state machine without changing it.
    Query {
        /// The query, in the state machine's own encoding.
        query: Bytes,
        /// Whether the answer must reflect every write acknowledged before the query.
        consistency: Consistency,
    },
    /// Reads the node's status. It is answered at once, also without a leader.
    Status,
    /// Takes a snapshot on this node, of everything that it has applied. The reply comes when the snapshot is durable.
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
        /// The member to add, remove or replace, and how.
        change: Change,
        /// Whether to make the change even if the cluster may then lack a majority.
        force: bool,
    },
    /// Transfers the leadership to another node (thesis §3.10).
    Transfer {
        /// The node that should lead next. If `None`, the leader picks a voter that responds, preferably one with free
        /// disk space and a long log.
        to: Option<NodeId>,
    },
    /// Reads or changes the level of this node's log.
    LogLevel(LogLevelRequest),
    /// Begins to check all files of this node. The reply is its status at once: the pass has ended when
    /// [`ScrubStatus::ended`](super::ScrubStatus::ended) reaches the [`pass`](super::ScrubStatus::pass) of the reply.
    Scrub,
}

/// A node's reply to a [`Request`].
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// The operation is committed and applied.
    Done {
        /// The position of the operation's entry in the log.
        position: Position,
        /// The result of applying the operation, the same on every node.
        outcome: Outcome,
    },
    /// The state machine's answer to a query.
    Answer {
        /// The last index that the state machine had applied when it answered.
        applied: Index,
        /// The answer, in the state machine's own encoding.
        answer: Bytes,
    },
    /// The node's status, boxed because it is much larger than the other replies.
    Status(Box<Status>),
    /// The node's newest snapshot, which holds everything that the node had applied when it received the request.
    Snapshot {
        /// The position of the last entry that the snapshot covers.
        position: Position,
        /// The length of the snapshot's file in bytes.
        bytes: u64,
    },
    /// A chunk of a snapshot's file: at most [`CHUNK_BYTES`](crate::limits::CHUNK_BYTES) bytes, and none at its end.
    SnapshotChunk {
        /// Where in the file the chunk starts, in bytes.
        offset: u64,
        /// The length of the whole file in bytes.
        total: u64,
        /// The bytes of the file from `offset` on.
        bytes: Bytes,
    },
    /// The membership change is committed.
    Changed {
        /// The position of the configuration in force.
        position: Position,
    },
    /// The leadership was transferred.
    Transferred {
        /// The new leader, which may be another node than the target.
        to: NodeId,
    },
    /// The log level in force on this node.
    LogLevel(LogLevelInForce),
    /// The request was refused. Nothing has happened.
    Refused(Refusal),
    /// The request may have taken effect, or may still take effect: this node lost the leadership, or its leader,
    /// before it learned the outcome.
    Unknown,
}

/// Why a request was refused. Nothing has happened; it is safe to retry on another node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// This node is not the leader. Retry on the leader, or on any node if the leader is not known.
    #[error("not the leader of term {term}")]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<NodeId>,
        /// The leader's address, if this node knows it.
        address: Option<String>,
        /// The current term of the node that refuses.
        term: Term,
    },
    /// There has been no leader for the longest time that a request may wait.
    #[error("no leader")]
    NoLeader,
    /// This node has too much work in progress. Retry after a short wait.
    #[error("busy: too many requests are in progress")]
    Busy,
    /// The command is larger than this cluster accepts.
    #[error("too large: {bytes} bytes, and the limit is {limit}")]
    TooLarge {
        /// The size of the command in bytes.
        bytes: u64,
        /// The size in bytes of the largest command that this cluster accepts.
        limit: u64,
    },
    /// The request could not be decoded.
    #[error("malformed request")]
    Malformed,
    /// The node is stopping and accepts no new requests. Retry on another node.
    #[error("the node is stopping")]
    Stopping,
    /// The node belongs to no cluster, not yet or not any more, and has no leader: retry on another node.
    #[error("{node} is not a member of the cluster{}", known_members_text(.members))]
    NotMember {
        /// This node's id.
        node: NodeId,
        /// The addresses of the members that this node knew last.
        members: Vec<String>,
    },
    /// There is no disk space for the request on this node, or, for a write, on too many followers.
    #[error("no space left on the disk of this node")]
    NoSpace,
    /// Another membership change is under way: only one at a time is allowed (§6), and none before this leader's first
    /// entry is committed.
    #[error("another membership change is in progress, since entry {since}")]
    ChangeInProgress {
        /// The index of the configuration that has to be committed first.
        since: Index,
    },
    /// The change or transfer is not possible in the membership in force, or the change was aborted.
    #[error("{why}")]
    InvalidChange {
        /// The rule that the change breaks, or the membership in force after an aborted change.
        why: String,
    },
    /// The change is possible, but might stop the cluster; `force` makes it anyway.
    #[error("{why}")]
    UnsafeChange {
        /// How the change might stop the cluster, for an operator.
        why: String,
    },
    /// The requested snapshot no longer exists: a newer one has replaced it.
    #[error("that snapshot no longer exists: a newer one has replaced it")]
    SnapshotGone,
    /// The process that runs the node does not support the request.
    #[error("the process that runs this node does not support this request")]
    NotSupported,
    /// The request needs a later feature level than the cluster has. Raise it when every node runs a program that knows
    /// the level.
    #[error("this needs feature level {needed}, and the cluster has level {level}: see drave upgrade")]
    NotEnabled {
        /// The feature level that the request needs.
        needed: u16,
        /// The feature level of the cluster.
        level: u16,
    },
    /// The target did not take over in time: the current leader keeps leading.
    #[error("{to} did not take over in time; the leader keeps leading")]
    TransferTimedOut {
        /// The node that was to become the leader.
        to: NodeId,
    },
}

/// The end of the message of [`Refusal::NotMember`]: the last known members' addresses, if there are any.
fn known_members_text(members: &[String]) -> String {
    if members.is_empty() {
        String::new()
    } else {
        format!("; the members that it knew last are at {}", members.join(", "))
    }
}
