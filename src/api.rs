//! What may be asked of a cluster, and what it answers.
//!
//! A request that would change something is an [`Op`]: its bytes are made by the client and go into
//! the log as they came. An answer is one of three: done, refused (*nothing has happened*), or
//! [`Reply::Unknown`]: it may happen yet; asking again in the same session under the same number
//! finds out, and does nothing twice.

pub mod figures;
mod log_level;
mod peer_status;

use crate::codec::Malformed;
use crate::limits::SESSION_WINDOW_MAX;
use crate::types::{Change, Index, NodeId, Position, SessionId, Term};
use byteorder::{LittleEndian, ReadBytesExt};
use bytes::{BufMut, Bytes, BytesMut};
use figures::Figures;
pub use log_level::{LogLevel, LogLevelInForce, LogLevelRequest};
pub use peer_status::PeerStatus;
use serde::{Deserialize, Serialize};

/// What an opaque entry holds: something done in a session, so that it is done once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op<C = Bytes> {
    /// Opens a session that may have up to `window` commands outstanding. Its id is the index of
    /// the entry.
    Open {
        /// How many commands may be outstanding, at most [`SESSION_WINDOW_MAX`].
        window: u32,
        /// Whether its commands execute in the order of their numbers: number n only when every number from the
        /// lowest outstanding one to n - 1 has executed. A command that comes early is [`Outcome::OutOfOrder`].
        ordered: bool,
    },
    /// Executes a command once, whatever is asked again.
    Execute {
        /// The session it belongs to.
        session: SessionId,
        /// Its number in the session, from 1. A number seen before gets the stored first answer.
        seq: u64,
        /// The lowest number the client still waits for: answers below it are forgotten.
        first_outstanding: u64,
        /// What the state machine is told.
        command: C,
    },
    /// Ends a session.
    Close {
        /// The session to end.
        session: SessionId,
    },
    /// Nothing but the time that its entry bears: a leader's own, for what is to end while nobody asks for
    /// anything. No client may send one.
    Tick,
}

const OPEN: u8 = 1;
const EXECUTE: u8 = 2;
const CLOSE: u8 = 3;
const TICK: u8 = 4;
/// A kind of its own, so that a log of before there were ordered sessions reads as it was written.
const OPEN_ORDERED: u8 = 5;

impl Op {
    /// As bytes: kind (1), then the fields in order, a command last and without a length.
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

    /// From bytes; a command is a slice of them.
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
    /// From bytes that are only looked at: it costs no count of references.
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
            Some(Op::Execute { seq: 0, .. }) => Err(Malformed("a session's numbers begin at 1")),
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

/// What an operation came to, decided where it is applied, the same on every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The session is open.
    Opened {
        /// Its name.
        session: SessionId,
    },
    /// The command was executed, now or when its number was first seen.
    Executed {
        /// The machine's first answer to it.
        answer: Bytes,
        /// Whether it had been executed before, and this is the stored answer.
        duplicate: bool,
    },
    /// The session is closed, now or before.
    Closed,
    /// The session is not known: it lapsed, was closed, or never was. Nothing was executed; what
    /// was asked under this number before may have been.
    SessionExpired,
    /// The number lies below what the client said it no longer waits for: its answer is forgotten.
    /// Nothing was executed.
    ResponseDiscarded,
    /// More is outstanding than the session's window allows. Nothing was executed.
    WindowExceeded,
    /// In an ordered session: a number between the lowest outstanding one and this one has not executed. Nothing was
    /// executed, and nothing is remembered of this attempt: the same number can be proposed again, behind those
    /// before it.
    OutOfOrder,
    /// The operation could not be read. Nothing was executed.
    Malformed,
    /// The command was executed, now or when its number was first seen; the machine's answer was
    /// longer than an answer may be, and was dropped.
    AnswerTooLong,
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// As if all happened one after the other: a quorum confirms the leader first (thesis §6.4).
    #[default]
    Linearizable,
    /// Whatever the asked node has applied, at once.
    Local,
}

/// Something asked of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Put this operation through the log: an encoded [`Op`], kept as it came.
    Propose {
        /// [`Op::encode`]d.
        op: Bytes,
    },
    /// Ask the state machine something that changes nothing.
    Query {
        /// What the state machine is asked.
        query: Bytes,
        /// How fresh the answer must be.
        consistency: Consistency,
    },
    /// How this node is.
    Status,
    /// Let this node take a snapshot now, and say when it is durable.
    Snapshot,
    /// Read a piece of the file of a snapshot that this node has.
    ReadSnapshot {
        /// Which: the newest, or one that was read a short while ago.
        snapshot: Position,
        /// Where in the file the piece begins, in bytes.
        offset: u64,
    },
    /// Change the members of the cluster (§6).
    Change {
        /// How.
        change: Change,
        /// Even if that may stop the cluster.
        force: bool,
    },
    /// Let another node lead (thesis §3.10).
    Transfer {
        /// Which; nobody for whoever is best placed.
        to: Option<NodeId>,
    },
    /// Read or change the level of this node's log.
    LogLevel(LogLevelRequest),
}

/// What a node answers.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// The operation is committed and applied.
    Done {
        /// Where in the log.
        position: Position,
        /// What it came to.
        outcome: Outcome,
    },
    /// The state machine's answer to a query.
    Answer {
        /// The machine had applied everything up to here.
        applied: Index,
        /// What it says.
        answer: Bytes,
    },
    /// How the node is.
    Status(Box<Status>),
    /// The newest snapshot of the node.
    Snapshot {
        /// The position it stands for.
        position: Position,
        /// How many bytes its file has.
        bytes: u64,
    },
    /// A piece of a snapshot's file: at most [`CHUNK_BYTES`](crate::limits::CHUNK_BYTES), and none at its end.
    SnapshotPiece {
        /// Where in the file the piece begins, in bytes.
        offset: u64,
        /// How many bytes the file has.
        total: u64,
        /// The piece.
        bytes: Bytes,
    },
    /// The members are changed, and that is committed.
    Changed {
        /// The configuration that holds now.
        position: Position,
    },
    /// Another leads now.
    Transferred {
        /// Who.
        to: NodeId,
    },
    /// The log level that holds on this node now.
    LogLevel(LogLevelInForce),
    /// Turned away. Nothing has happened.
    Refused(Refusal),
    /// It may happen yet, or have happened: this node lost its place before it knew.
    Unknown,
}

/// Why a request was turned away. Nothing has happened; asking again elsewhere is safe.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Ask the leader, or anyone if it is not known.
    #[error("not the leader of term {term}")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
        /// Where to reach it.
        address: Option<String>,
        /// The term this node is in.
        term: Term,
    },
    /// There has been no leader for as long as a request may wait.
    #[error("no leader")]
    NoLeader,
    /// More is under way than this node may hold. Wait a little.
    #[error("busy: more is under way than may be")]
    Busy,
    /// The command is larger than this cluster accepts.
    #[error("too large: {bytes} bytes, and the limit is {limit}")]
    TooLarge {
        /// What was asked.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The request could not be read.
    #[error("malformed request")]
    Malformed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The node belongs to no cluster, not yet or not any more, and hears of no leader: others are to be asked.
    #[error("{node} is not a member of the cluster{}", known(.members))]
    NotMember {
        /// This node.
        node: NodeId,
        /// Where the members are that it knew last.
        members: Vec<String>,
    },
    /// There is no room for it on the disk.
    #[error("no space left on the disk of this node")]
    NoSpace,
    /// One change of members at a time (§6), and none before this leader's first entry is committed.
    #[error("another change of members is under way, since {since}")]
    Changing {
        /// The index of the configuration that has to be committed first.
        since: Index,
    },
    /// No membership follows from that change.
    #[error("{why}")]
    InvalidChange {
        /// Why not.
        why: String,
    },
    /// It could be done, but might stop the cluster; it is done when asked for with `force`.
    #[error("{why}")]
    UnsafeChange {
        /// What might go wrong.
        why: String,
    },
    /// The snapshot that was to be read is not there any more: a newer one has taken its place.
    #[error("that snapshot is gone: a newer one has taken its place")]
    SnapshotGone,
    /// The process that runs the node does not offer that.
    #[error("the process that runs this node does not offer that")]
    NotOffered,
    /// Who was to take over did not, in time: the leader goes on.
    #[error("{to} did not take over in time; the leader goes on")]
    TransferTimedOut {
        /// Who did not.
        to: NodeId,
    },
}

fn known(members: &[String]) -> String {
    if members.is_empty() { String::new() } else { format!("; those it knew last are at {}", members.join(", ")) }
}

/// What a node does in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it would be elected; its term stands still (thesis §9.6).
    Precandidate,
    /// Asks for votes (§5.2).
    Candidate,
    /// Leads its term.
    Leader,
    /// Receives the log and has no vote.
    Learner,
    /// Belongs to no cluster it knows of: not yet, or not any more.
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

/// How a node is, as it knows itself. Travels as JSON, so that fields may be added.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node: u64,
    /// Its cluster, in hex.
    pub cluster: String,
    /// What it does.
    pub role: RoleName,
    /// Its term.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// The last index of its log that is known to be committed.
    pub commit: u64,
    /// The last index that is committed as far as it was ever told, whether its log has come that far or not.
    #[serde(default)]
    pub goal: u64,
    /// The last index applied to the state machine.
    pub applied: u64,
    /// The last index in the log.
    pub last: u64,
    /// The last index on this node's disk.
    pub durable: u64,
    /// A digest of machine and sessions as of `applied`, in hex: equal on all nodes at equal index.
    pub digest: String,
    /// Sessions open.
    pub sessions: u64,
    /// The configuration in force, in words.
    pub membership: String,
    /// On a leader: each other member as it sees it. Else empty.
    pub peers: Vec<PeerStatus>,
    /// The disk of this node.
    pub disk: DiskStatus,
    /// Whether writes are synced before they are answered. False only under `--unsafe-no-fsync`.
    pub fsync: bool,
    /// Whether its data lies in memory, on a tmpfs: a sync there keeps nothing.
    #[serde(default)]
    pub in_memory: bool,
    /// The file system its data lies on: `ext4`, say; empty if it is none that is known here.
    #[serde(default)]
    pub file_system: String,
    /// How soon it acts when nothing is heard.
    #[serde(default)]
    pub timing: TimingStatus,
    /// Whether its disk has too little room: as leader it refuses writes that need more.
    #[serde(default)]
    pub low_space: bool,
    /// Nanoseconds of CPU this process has used.
    pub cpu_ns: u64,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    /// Where the time of a write goes, on a leader.
    pub stages: StageStatus,
    /// The build: version and profile.
    pub version: String,
    /// Elections this node has begun since it started, by reason.
    pub elections: std::collections::BTreeMap<String, u64>,
    /// The members of the configuration in force.
    #[serde(default)]
    pub members: Vec<MemberStatus>,
    /// To whom it hands over, if it does; else 0.
    #[serde(default)]
    pub hands_over: u64,
    /// The id of its log, in hex; nothing before that is agreed.
    #[serde(default)]
    pub log_id: String,
    /// The position that it acknowledged and does not hold, as `index@term`; nothing if there is none.
    #[serde(default)]
    pub promised: String,
    /// What it keeps of the log, and what has taken the place of the rest.
    #[serde(default)]
    pub log: LogStatus,
    /// Milliseconds until its timer is due: a leader then sends a heartbeat, and a follower campaigns.
    #[serde(default)]
    pub timer_ms: u64,
    /// When the certificate that it shows expires, in seconds since 1970; nothing where nothing is encrypted.
    pub certificate_expires: Option<u64>,
    /// The state machine that it runs, and the version of its commands; empty if it does not say.
    #[serde(default)]
    pub machine: String,
    /// When the last of the certificates that it believes expires, likewise.
    pub authority_expires: Option<u64>,
    /// What it counts.
    #[serde(default)]
    pub figures: Figures,
}

/// A node's timeouts, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TimingStatus {
    /// How often a leader says that it lives.
    pub heartbeat_ms: f64,
    /// The shortest time without a leader before a node campaigns.
    pub election_min_ms: f64,
    /// The longest.
    pub election_max_ms: f64,
}

/// A member of the cluster, as a configuration has it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub node: u64,
    /// `voter`, `learner`; in a joint configuration also `incoming` and `outgoing` (§6).
    pub kind: String,
    /// Where it is reached.
    pub address: String,
    /// The disk it is known by, in hex; empty if none is known yet.
    pub disk: String,
    /// What is to become of it, in words; empty if it stays what it is.
    pub prospect: String,
}

/// What a node keeps of the log.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LogStatus {
    /// The first index it still holds.
    pub first: u64,
    /// Bytes of entries from there on.
    pub bytes: u64,
    /// Bytes of entries that a snapshot holds as well.
    pub reclaimable: u64,
    /// Why those are still kept, in words; empty if there are none.
    pub kept_for: String,
    /// The last index in the newest snapshot; 0 if there is none.
    pub snapshot: u64,
    /// How many bytes that has.
    pub snapshot_bytes: u64,
    /// Milliseconds since that was taken or received; since the process started, if it was there before.
    #[serde(default)]
    pub snapshot_age_ms: u64,
    /// Whether one is being taken.
    pub taking: bool,
    /// Whether the last one that was begun did not fit the disk, not even into the reserve.
    #[serde(default)]
    pub lacks_room: bool,
    /// Bytes of snapshots sent to followers since the process started, those sent again counted again.
    #[serde(default)]
    pub shipped_bytes: u64,
    /// Bytes of snapshots received from leaders since the process started.
    #[serde(default)]
    pub received_bytes: u64,
}

/// How a node's disk does. Latencies in microseconds, over the process's life.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Syncs so far.
    pub syncs: u64,
    /// Entries made durable so far.
    pub entries: u64,
    /// Bytes written so far.
    pub bytes: u64,
    /// Half of the syncs took no longer.
    pub sync_p50_us: f64,
    /// 99 of 100 took no longer.
    pub sync_p99_us: f64,
    /// The longest.
    pub sync_max_us: f64,
    /// Age of the oldest write not yet durable, in milliseconds.
    pub oldest_unsynced_ms: u64,
    /// How many bytes more the log can take, about, with all that the disk has room for; nothing before it was asked.
    pub room: Option<u64>,
}

/// Medians, in microseconds, of what a write waits for on its leader.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StageStatus {
    /// From being proposed to being handed to the disk.
    pub queue_us: f64,
    /// The leader's own write and sync.
    pub fsync_us: f64,
    /// From being sent to being committed.
    pub replicate_us: f64,
    /// Applying it.
    pub apply_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_back_as_they_were() {
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
    fn operations_that_break_the_rules_are_not_read() {
        for ordered in [false, true] {
            assert!(Op::decode(Op::Open { window: 0, ordered }.encode()).is_err());
            assert!(Op::decode(Op::Open { window: SESSION_WINDOW_MAX + 1, ordered }.encode()).is_err());
        }
        assert!(Op::decode(Bytes::new()).is_err());
        let zero = Op::Execute { session: SessionId(3), seq: 0, first_outstanding: 0, command: Bytes::new() };
        assert!(Op::decode(zero.encode()).is_err());
    }
}
