//! The messages between nodes (§5, Figure 2).
//!
//! Every message carries its sender's term, which was durable before the message left: a receiver may rely on it
//! forever (§5.1).

use super::clock::LeaderTime;
use super::disk_room::DiskRoom;
use crate::types::{ClusterTime, DiskId, Entry, Index, LogId, NodeId, Position, Term};
use bytes::Bytes;

/// A message with the fields that do not depend on its kind: sender, receiver, term and origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The node that sent the message.
    pub from: NodeId,
    /// The node that is to receive the message; any other node rejects it.
    pub to: NodeId,
    /// The sender's term, durable on its disk.
    pub term: Term,
    /// The sender's disk and log, by which the receiver decides whether to accept the message.
    pub origin: Origin,
    /// What the sender requests, answers or reports.
    pub message: Message,
}

/// The disk and the log of the sender of a message: the receiver checks each message by them (`peer_class`).
///
/// Every message carries them, not only the handshake, because the log may change during a connection: a joining node
/// has no log at first, and may lead a log later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// The sender's disk; `None` if disks have no ids.
    pub disk: Option<DiskId>,
    /// The id of the sender's log. Until the log is agreed, only a leader and a candidate that holds entries send the
    /// id: a follower that holds more of that log has to accept their messages. (Counter-example: the first leader of a
    /// log loses the entry that records the log as agreed, and one of two followers keeps that entry. If that follower
    /// rejected nodes that hold only the first entry, no leader could be elected while the other follower is down.)
    pub log: Option<LogId>,
}

/// The number of a round of heartbeats, by which a quorum confirms the leader. Numbers ascend, and none is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Round(pub u64);

/// The kind of vote that a candidate requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteKind {
    /// A pre-vote for the term after the candidate's. A pre-vote promises and changes nothing (thesis §9.6).
    PreVote,
    /// A vote in the candidate's term (§5.2).
    Vote,
    /// A vote in a leadership transfer: contact with the leader is no reason to reject the candidate (thesis §3.10).
    /// Every other reason applies.
    Transfer,
}

impl VoteKind {
    /// Whether a granted vote of this kind is recorded on disk: true for all but pre-votes.
    pub fn is_real(self) -> bool {
        match self {
            VoteKind::PreVote => false,
            VoteKind::Vote | VoteKind::Transfer => true,
        }
    }
}

/// A message from one node to another. The [`Envelope`] adds the sender and its term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Requests a vote or a pre-vote for the sender (§5.2).
    RequestVote {
        /// The last position of the candidate's log, which each voter compares with its own (§5.4.1).
        last: Position,
        /// Whether a pre-vote, a vote, or a vote in a transfer is requested.
        kind: VoteKind,
    },
    /// Answers [`Message::RequestVote`].
    RequestVoteResponse {
        /// Whether the voter votes for the candidate.
        granted: bool,
        /// Whether the voter is a founder whose log does not name its disk. Such a voter may have lost all its entries
        /// and votes: its vote counts only if every voter grants its vote, or in the election that begins a log.
        maybe_emptied: bool,
        /// The kind of vote that was requested: the candidate ignores responses for another kind.
        kind: VoteKind,
        /// The latest cluster time known to the voter: a candidate that wins starts its clock no earlier.
        leader_time: LeaderTime,
    },
    /// Entries to append after `prev` (§5.3). Without entries the message only checks whether the receiver holds
    /// `prev`.
    AppendEntries {
        /// The position that the receiver's log must hold.
        prev: Position,
        /// The leader's commit index, which may be beyond the entries of the message.
        commit: Index,
        /// The number of this probe, which one leader never uses twice; zero if the append is no probe.
        probe_number: u64,
        /// Consecutive entries, the first right after `prev`.
        entries: Vec<Entry>,
    },
    /// Acknowledges entries: the sender's log matches the log of this term's leader up to `matched`, durably.
    AppendResponse {
        /// The last index that matches and is durable.
        matched: Index,
    },
    /// Rejects an append: the sender's log does not hold `prev`. The logs may match up to `hint` (§5.3).
    AppendRejected {
        /// The index of the `prev` that was rejected.
        index: Index,
        /// The last position of the sender's log that is at or below `prev`, in index and in term.
        hint: Position,
        /// The number of the probe that was rejected; zero if the append was no probe.
        probe_number: u64,
    },
    /// Informs a follower that it has lost entries that it acknowledged. The leader has a proof: the follower rejected
    /// a probe at the position `upto`, and the probe was sent after the acknowledgment.
    LostAcknowledged {
        /// The highest position that the follower acknowledged.
        upto: Position,
    },
    /// The answer to [`Message::LostAcknowledged`]: the follower has durably recorded its promised position, or holds
    /// the entries up to it.
    LostAcknowledgedResponse {
        /// The position in the message that is answered.
        upto: Position,
    },
    /// Requests entries that the sender acknowledged and lost, from any peer: the sender knows no leader.
    ///
    /// The sender's log once held each of the `known` positions, so that the peer can tell whether its own log is the
    /// same one up to there ([`crate::consensus::rules::lost_entries`]).
    RequestLostEntries {
        /// The last position of the sender's log: the first requested entry is the one after it.
        after: Position,
        /// Later positions that the sender's log held before the damage; at most
        /// [`crate::limits::KNOWN_POSITIONS_MAX`].
        known: Vec<Position>,
    },
    /// Answers [`Message::RequestLostEntries`]. The entries are of the log that the receiver had before the damage.
    LostEntries {
        /// The position in the request.
        after: Position,
        /// Consecutive entries, the first right after `after`; at least one.
        entries: Vec<Entry>,
    },
    /// Informs the receiver of the highest term and position that the receiver's disk has claimed in messages to the
    /// sender. A receiver whose disk holds less runs on an older copy of its directory, and adopts that term and
    /// position. This is the first message on every new connection.
    RecordedClaim {
        /// The highest term of a message from that disk.
        term: Term,
        /// The highest position that the disk's node reported durable.
        position: Position,
    },
    /// A leader's heartbeat. It is sent without waiting for the disk.
    Heartbeat {
        /// The leader's commit index, even if the receiver's log ends before it.
        commit: Index,
        /// The round that the response confirms.
        round: Round,
        /// The cluster time: the next leader's clock continues from it, even if no entry was appended meanwhile.
        time: ClusterTime,
    },
    /// Answers [`Message::Heartbeat`] and confirms the sender of the heartbeat as leader. It is sent without waiting
    /// for the disk.
    HeartbeatResponse {
        /// The round of the heartbeat that is answered.
        round: Round,
        /// The index up to which the sender's log matches the leader's, durable or not. By this index the leader
        /// detects appends that were lost in transit.
        matched_prefix: Index,
        /// The free space on the sender's disk.
        room: DiskRoom,
    },
    /// Informs a follower that its entries up to `upto` are committed. The message has no response.
    Committed {
        /// The leader's commit index, as far as the receiver's log matches.
        upto: Index,
    },
    /// A chunk of a snapshot, for a follower that lacks compacted entries (§7, Figure 13).
    InstallSnapshot(SnapshotChunk),
    /// Acknowledges chunks: the sender has stored the first `received_bytes` bytes of the snapshot. Later chunks may
    /// still be in flight.
    InstallSnapshotResponse {
        /// The last position that the snapshot covers.
        snapshot: Position,
        /// The length of the stored part, in bytes.
        received_bytes: u64,
        /// Whether the snapshot is complete, and damaged: its checksum is wrong.
        damaged: bool,
    },
    /// Makes the receiver campaign at once: the leader transfers the leadership to it (thesis §3.10).
    TimeoutNow,
    /// A message of the next version of the protocol, which only tests send: a leader sends it with each heartbeat.
    #[cfg(feature = "next-version")]
    NextVersionNotice,
    /// Requests a read index from the leader: the index up to which the follower must have applied the log before it
    /// serves reads (thesis §6.4).
    ReadIndexRequest {
        /// The follower's number for the request, never used twice.
        number: u64,
    },
    /// Answers [`Message::ReadIndexRequest`]: a quorum has confirmed the leader since the request.
    ReadIndexResponse {
        /// The number of the request that is answered.
        number: u64,
        /// The leader's commit index when the round began.
        index: Index,
    },
    /// Answers a message of an old term: the envelope carries the current term (§5.1).
    StaleTerm,
}

/// A part of a snapshot file, sent in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotChunk {
    /// The last position that the snapshot covers.
    pub snapshot: Position,
    /// The length of the whole file, in bytes.
    pub total_bytes: u64,
    /// The offset of the chunk in the file, in bytes from the start.
    pub offset: u64,
    /// The bytes of the file from `offset` on.
    pub bytes: Bytes,
}

impl Message {
    /// Whether only a leader or a candidate sends the message. Such a message carries the id of the sender's log even
    /// before the log is agreed.
    pub fn is_from_leader_or_candidate(&self) -> bool {
        matches!(self, Message::RequestVote { .. }) || self.is_from_leader()
    }

    /// Whether only a leader sends the message. A quorum voted for the leader in its term, so the message is accepted
    /// from any disk of that node.
    pub fn is_from_leader(&self) -> bool {
        match self {
            Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndexResponse { .. }
            | Message::LostAcknowledged { .. } => true,
            #[cfg(feature = "next-version")]
            Message::NextVersionNotice => true,
            Message::RequestVote { .. }
            | Message::RequestVoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::HeartbeatResponse { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::LostAcknowledgedResponse { .. }
            | Message::RecordedClaim { .. }
            | Message::RequestLostEntries { .. }
            | Message::LostEntries { .. }
            | Message::ReadIndexRequest { .. }
            | Message::StaleTerm => false,
        }
    }

    /// Whether the message counts for a quorum, or reports what the sender's disk holds. Such a message is accepted
    /// only from the disk that the receiver's configuration names, or from any disk if none is named.
    pub fn counts_for_quorum(&self) -> bool {
        match self {
            Message::RequestVoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::HeartbeatResponse { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::LostEntries { .. }
            | Message::LostAcknowledgedResponse { .. } => true,
            Message::RequestVote { .. }
            | Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndexResponse { .. }
            | Message::LostAcknowledged { .. }
            | Message::RecordedClaim { .. }
            | Message::RequestLostEntries { .. }
            | Message::ReadIndexRequest { .. }
            | Message::StaleTerm => false,
            #[cfg(feature = "next-version")]
            Message::NextVersionNotice => false,
        }
    }

    /// Whether the connection may send the message before the rest of a larger frame that it has begun to send: a late
    /// arrival of the message could cause an election.
    pub fn is_urgent(&self) -> bool {
        match self {
            Message::AppendEntries { entries, .. } => entries.is_empty(),
            Message::RequestVote { .. }
            | Message::RequestVoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::LostAcknowledged { .. }
            | Message::LostAcknowledgedResponse { .. }
            | Message::RecordedClaim { .. }
            | Message::RequestLostEntries { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatResponse { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::TimeoutNow
            | Message::ReadIndexRequest { .. }
            | Message::ReadIndexResponse { .. }
            | Message::StaleTerm => true,
            Message::InstallSnapshot(_) | Message::LostEntries { .. } => false,
            #[cfg(feature = "next-version")]
            Message::NextVersionNotice => false,
        }
    }
}
