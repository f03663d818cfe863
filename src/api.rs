//! The requests to a cluster, and its replies.
//!
//! A request that changes state is an [`Op`]: the client encodes it, and its bytes go into the log unchanged. A reply
//! has one of three results: done, refused (*nothing has happened*), or [`Reply::Unknown`], which may still happen. A
//! retry in the same session with the same number finds out, and executes nothing twice.

pub mod figures;
mod log_level;
mod peer_status;

use crate::codec::Malformed;
use crate::limits::SESSION_WINDOW_MAX;
use crate::types::{Change, Index, NodeId, Position, SessionId, Term};
use byteorder::{LittleEndian, ReadBytesExt};
use bytes::{BufMut, Bytes, BytesMut};
use figures::Counters;
pub use log_level::{LogLevel, LogLevelInForce, LogLevelRequest};
pub use peer_status::PeerStatus;
use serde::{Deserialize, Serialize};

/// The content of an opaque entry: an operation in a session, so that it executes once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op<C = Bytes> {
    /// Opens a session that may have up to `window` commands outstanding. Its id is the index of the entry.
    Open {
        /// How many commands may be outstanding, at most [`SESSION_WINDOW_MAX`].
        window: u32,
        /// Whether its commands execute in the order of their numbers: number n only when every number from the
        /// lowest outstanding one to n - 1 has executed. A command that comes early is [`Outcome::OutOfOrder`].
        ordered: bool,
    },
    /// Executes a command once, however often it is retried.
    Execute {
        /// The session it belongs to.
        session: SessionId,
        /// The command's number in the session, from 1. A number seen before gets the stored first answer.
        seq: u64,
        /// The lowest number whose answer the client still waits for: answers below it are discarded.
        first_outstanding: u64,
        /// The command for the state machine.
        command: C,
    },
    /// Ends a session.
    Close {
        /// The session to end.
        session: SessionId,
    },
    /// Only the time that its entry carries: the leader's own, to expire keys and sessions while no request arrives. No
    /// client may send it.
    Tick,
}

const OPEN: u8 = 1;
const EXECUTE: u8 = 2;
const CLOSE: u8 = 3;
const TICK: u8 = 4;
/// A separate kind, so that logs written before ordered sessions existed are still readable.
const OPEN_ORDERED: u8 = 5;

impl Op {
    /// Encodes the operation: kind (1 byte), then the fields in order, a command last and without a length.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(match self {
            Op::Execute { command, .. } => 25 + command.len(),
            Op::Open { .. } | Op::Close { .. } | Op::Tick => 9,
        });
        match self {
            Op::Open { window, ordered } => {
                out.put_u8(if *ordered { OPEN_ORDERED } else { OPEN });
                out.put_u32_le(*window);
            }
            Op::Execute { session, seq, first_outstanding: lowest, command } => {
                out.put_u8(EXECUTE);
                out.put_u64_le(session.0);
                out.put_u64_le(*seq);
                out.put_u64_le(*lowest);
                out.put_slice(command);
            }
            Op::Close { session } => {
                out.put_u8(CLOSE);
                out.put_u64_le(session.0);
            }
            Op::Tick => out.put_u8(TICK),
        }
        out.freeze()
    }

    /// Decodes an operation; a command is a slice of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Op, Malformed> {
        Ok(match Op::read(&bytes)? {
            Op::Open { window, ordered } => Op::Open { window, ordered },
            Op::Execute { session, seq, first_outstanding: lowest, command } => {
                Op::Execute { session, seq, first_outstanding: lowest, command: bytes.slice_ref(command) }
            }
            Op::Close { session } => Op::Close { session },
            Op::Tick => Op::Tick,
        })
    }
}

impl<'a> Op<&'a [u8]> {
    /// Decodes an operation from borrowed bytes: no reference count changes.
    pub fn read(mut bytes: &'a [u8]) -> Result<Op<&'a [u8]>, Malformed> {
        let op = Op::take(&mut bytes).map_err(|_| Malformed("ends too early"))?;
        match op {
            None => Err(Malformed("unknown kind of operation")),
            Some(Op::Open { .. } | Op::Close { .. } | Op::Tick) if !bytes.is_empty() => {
                Err(Malformed("bytes left over"))
            }
            Some(Op::Open { window, .. }) if window == 0 || window > SESSION_WINDOW_MAX => {
                Err(Malformed("a session's window is 1 to 1024"))
            }
            Some(Op::Execute { seq: 0, .. }) => Err(Malformed("a session's sequence numbers begin at 1")),
            Some(op) => Ok(op),
        }
    }

    fn take(bytes: &mut &'a [u8]) -> std::io::Result<Option<Op<&'a [u8]>>> {
        Ok(match bytes.read_u8()? {
            kind @ (OPEN | OPEN_ORDERED) => {
                Some(Op::Open { window: bytes.read_u32::<LittleEndian>()?, ordered: kind == OPEN_ORDERED })
            }
            EXECUTE => Some(Op::Execute {
                session: SessionId(bytes.read_u64::<LittleEndian>()?),
                seq: bytes.read_u64::<LittleEndian>()?,
                first_outstanding: bytes.read_u64::<LittleEndian>()?,
                command: bytes,
            }),
            CLOSE => Some(Op::Close { session: SessionId(bytes.read_u64::<LittleEndian>()?) }),
            TICK => Some(Op::Tick),
            _ => None,
        })
    }
}

/// The result of an operation, decided where it is applied, the same on every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The session is open.
    Opened {
        /// Its id.
        session: SessionId,
    },
    /// The command was executed, now or when its number was first seen.
    Executed {
        /// The state machine's first answer to it.
        answer: Bytes,
        /// Whether it had been executed before, so that this is the stored answer.
        duplicate: bool,
    },
    /// The session is closed, now or before.
    Closed,
    /// The session is unknown: it expired, was closed, or never existed. Nothing was executed; an earlier attempt under
    /// this number may have been.
    SessionExpired,
    /// The number is below the lowest that the client waits for: its answer is discarded. Nothing was executed.
    ResponseDiscarded,
    /// The session's window of outstanding commands is exceeded. Nothing was executed.
    WindowExceeded,
    /// In an ordered session: a number between the lowest outstanding one and this one has not executed. Nothing was
    /// executed, and the attempt leaves no trace: the same number can be proposed again after the earlier ones.
    OutOfOrder,
    /// The operation could not be decoded. Nothing was executed.
    Malformed,
    /// The command was executed, now or when its number was first seen; the answer exceeded the size limit and was
    /// dropped.
    AnswerTooLong,
}

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
    /// Appends this operation to the log: an encoded [`Op`], kept unchanged.
    Propose {
        /// The encoded operation ([`Op::encode`]).
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

/// The role of a node in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Requests pre-votes; its term does not change (thesis §9.6).
    Precandidate,
    /// Requests votes (§5.2).
    Candidate,
    /// Leads its term.
    Leader,
    /// Receives the log and has no vote.
    Learner,
    /// Is not a member of a cluster that it knows: not yet, or not any more.
    Outside,
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            RoleName::Follower => "follower",
            RoleName::Precandidate => "precandidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
            RoleName::Learner => "learner",
            RoleName::Outside => "outside",
        })
    }
}

/// A node's own status. Sent as JSON, so that fields can be added.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// This node's id.
    pub node: u64,
    /// The id of its cluster, in hex.
    pub cluster: String,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: u64,
    /// The leader, as far as this node knows.
    pub leader: Option<u64>,
    /// The last index of its log that is known to be committed.
    pub commit: u64,
    /// The highest index known to be committed, whether its log has reached it or not.
    #[serde(default)]
    pub goal: u64,
    /// The last index applied to the state machine.
    pub applied: u64,
    /// The last index in the log.
    pub last: u64,
    /// The last index that is durable on this node's disk.
    pub durable: u64,
    /// A digest of state machine and sessions as of `applied`, in hex: equal on all nodes at the same index.
    pub digest: String,
    /// Number of open sessions.
    pub sessions: u64,
    /// The configuration in force, in words.
    pub membership: String,
    /// On a leader, its view of each other member; otherwise empty.
    pub peers: Vec<PeerStatus>,
    /// The disk of this node.
    pub disk: DiskStatus,
    /// Whether writes are synced before they are answered. False only under `--unsafe-no-fsync`.
    pub fsync: bool,
    /// Whether its data is in memory, on a tmpfs: a sync there makes nothing durable.
    #[serde(default)]
    pub in_memory: bool,
    /// The file system of its data, such as `ext4`; empty if it is not recognized.
    #[serde(default)]
    pub file_system: String,
    /// Its timeouts.
    #[serde(default)]
    pub timing: TimingStatus,
    /// Whether its disk has too little room: as leader it refuses writes that need more.
    #[serde(default)]
    pub low_space: bool,
    /// Nanoseconds of CPU this process has used.
    pub cpu_ns: u64,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    /// On a leader, where the time of a write goes.
    pub stages: StageStatus,
    /// The build: version and profile.
    pub version: String,
    /// Elections this node has begun since it started, by reason.
    pub elections: std::collections::BTreeMap<String, u64>,
    /// The members of the configuration in force.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
    /// The target of its leadership transfer; 0 if there is none.
    #[serde(default)]
    pub hands_over: u64,
    /// The id of its log, in hex; empty until it is agreed.
    #[serde(default)]
    pub log_id: String,
    /// The position that it acknowledged and no longer holds, as `index@term`; empty if there is none.
    #[serde(default)]
    pub promised: String,
    /// The part of the log that it keeps, and the snapshot that covers the rest.
    #[serde(default)]
    pub log: LogStatus,
    /// Milliseconds until its timer is due: a leader then sends a heartbeat, and a follower campaigns.
    #[serde(default)]
    pub timer_ms: u64,
    /// When its certificate expires, in seconds since 1970; none without TLS.
    pub certificate_expires: Option<u64>,
    /// Its state machine and the version of the commands; empty if it does not report them.
    #[serde(default)]
    pub machine: String,
    /// When the last of its trusted certificates expires, in seconds since 1970; none without TLS.
    pub authority_expires: Option<u64>,
    /// Its counters.
    #[serde(default)]
    pub figures: Counters,
}

/// A node's timeouts, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TimingStatus {
    /// The interval of a leader's heartbeats.
    pub heartbeat_ms: f64,
    /// The shortest election timeout.
    pub election_min_ms: f64,
    /// The longest election timeout.
    pub election_max_ms: f64,
}

/// A member of the cluster, from the configuration in force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub node: u64,
    /// `voter` or `learner`; in a joint configuration also `incoming` and `outgoing` (§6).
    pub kind: String,
    /// Its address.
    pub address: String,
    /// The id of its disk, in hex; empty if it is not known yet.
    pub disk: String,
    /// Its pending role, in words; empty if its role does not change.
    pub prospect: String,
}

/// The part of the log that a node keeps.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LogStatus {
    /// The first index in the log.
    pub first: u64,
    /// Bytes of entries in the log.
    pub bytes: u64,
    /// Bytes of entries that the newest snapshot covers as well.
    pub reclaimable: u64,
    /// Why these entries are still kept, in words; empty if there are none.
    pub kept_for: String,
    /// The last index in the newest snapshot; 0 if there is none.
    pub snapshot: u64,
    /// The size of that snapshot in bytes.
    pub snapshot_bytes: u64,
    /// Milliseconds since the newest snapshot was taken or received, or since the process started if it is older.
    #[serde(default)]
    pub snapshot_age_ms: u64,
    /// Whether a snapshot is being taken.
    pub taking: bool,
    /// Whether the last snapshot that was started did not fit on the disk, not even with the reserve.
    #[serde(default)]
    pub lacks_room: bool,
    /// Bytes of snapshots sent to followers since the process started, retransmissions included.
    #[serde(default)]
    pub shipped_bytes: u64,
    /// Bytes of snapshots received from leaders since the process started.
    #[serde(default)]
    pub received_bytes: u64,
}

/// Statistics of a node's disk. Latencies in microseconds, since the process started.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Syncs so far.
    pub syncs: u64,
    /// Entries made durable so far.
    pub entries: u64,
    /// Bytes written so far.
    pub bytes: u64,
    /// Median sync latency.
    pub sync_p50_us: f64,
    /// The 99th percentile of the sync latency.
    pub sync_p99_us: f64,
    /// The longest sync.
    pub sync_max_us: f64,
    /// Age of the oldest write not yet durable, in milliseconds.
    pub oldest_unsynced_ms: u64,
    /// About how many bytes more the log can take, with all room on the disk; none before the first measurement.
    pub room: Option<u64>,
}

/// Median times of the stages of a write on its leader, in microseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StageStatus {
    /// From the proposal until the write is handed to the disk.
    pub queue_us: f64,
    /// The leader's own write and sync.
    pub fsync_us: f64,
    /// From sending until the commit.
    pub replicate_us: f64,
    /// Applying the entry.
    pub apply_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_roundtrips() {
        for op in [
            Op::Open { window: 7, ordered: false },
            Op::Open { window: 7, ordered: true },
            Op::Execute { session: SessionId(3), seq: 9, first_outstanding: 4, command: Bytes::from_static(b"x") },
            Op::Close { session: SessionId(3) },
            Op::Tick,
        ] {
            assert_eq!(Op::decode(op.encode()), Ok(op));
        }
    }

    #[test]
    fn invalid_operation_is_rejected() {
        for ordered in [false, true] {
            assert!(Op::decode(Op::Open { window: 0, ordered }.encode()).is_err());
            assert!(Op::decode(Op::Open { window: SESSION_WINDOW_MAX + 1, ordered }.encode()).is_err());
        }
        assert!(Op::decode(Bytes::new()).is_err());
        let zero = Op::Execute { session: SessionId(3), seq: 0, first_outstanding: 0, command: Bytes::new() };
        assert!(Op::decode(zero.encode()).is_err());
    }
}
