//! The messages between nodes (§5, Figure 2).
//!
//! Every message carries its sender's term, which was durable before the message left: a receiver may rely on it
//! forever (§5.1).

use super::clock::LeaderTime;
use super::room::Room;
use crate::types::{ClusterTime, DiskId, Entry, Index, LogId, NodeId, Position, Term};
use bytes::Bytes;

/// A message with its addresses and term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's term.
    pub term: Term,
    /// The sender's disk and log.
    pub origin: Origin,
    /// The message.
    pub message: Message,
}

/// The disk and the log that a message comes from: the receiver checks each message by them (`peer_class`).
///
/// They are in every message and not only in the handshake, because both may change during a connection: a joiner has
/// no log at first, and may lead one later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// The sender's disk; none if disks have no ids.
    pub disk: Option<DiskId>,
    /// The sender's log, once it is agreed. A leader, and a candidate that holds entries, send their log id before that
    /// too: a follower that holds more of that log has to accept their messages. (Counter-example: a founding leader
    /// loses the entry that marks the log *agreed*, and one follower keeps it. If that follower rejected every node
    /// that holds only the first entry, the cluster would stop as soon as the third node is down.)
    pub log: Option<LogId>,
}

/// A round of heartbeats that confirms the leader. It grows with every round, and no number is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Round(pub u64);

/// The kind of vote that a candidate requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteKind {
    /// A pre-vote for the term after the candidate's. It promises and changes nothing (thesis §9.6).
    PreVote,
    /// A vote in the candidate's term (§5.2).
    Vote,
    /// A vote in a leadership transfer: contact with the leader is no reason to refuse it (thesis §3.10). Every other
    /// reason applies.
    Transfer,
}

impl VoteKind {
    /// Whether it is a vote, and not a pre-vote.
    pub fn is_real(self) -> bool {
        match self {
            VoteKind::PreVote => false,
            VoteKind::Vote | VoteKind::Transfer => true,
        }
    }
}

/// The messages between nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Requests a vote (§5.2).
    RequestVote {
        /// The end of the candidate's log (§5.4.1).
        last: Position,
        /// The kind of vote.
        ask: VoteKind,
    },
    /// Answers [`Message::RequestVote`].
    RequestVoteResponse {
        /// Whether the vote is granted.
        granted: bool,
        /// Whether the voter is a founder whose log does not name its disk. It may have lost everything, and then does
        /// not know what it promised: its vote counts only where every voter grants its vote, or where the log is to
        /// begin.
        void: bool,
        /// The kind of vote that was requested.
        ask: VoteKind,
        /// The latest cluster time known to the voter: a candidate that wins starts its clock no earlier.
        heard: LeaderTime,
    },
    /// Entries to append after `prev` (§5.3). Without entries, it checks whether the receiver holds `prev`.
    AppendEntries {
        /// The position that the receiver's log must hold.
        prev: Position,
        /// The leader's commit index.
        commit: Index,
        /// The number of this probe, never used twice by one leader; zero if it is not a probe.
        probe: u64,
        /// Consecutive entries, the first right after `prev`.
        entries: Vec<Entry>,
    },
    /// The sender's log matches the log of this term's leader up to `matched`, and is durable up to there.
    AppendResponse {
        /// The last index that matches and is durable.
        matched: Index,
    },
    /// The sender's log does not hold `prev`; `hint` is where the logs may still match (§5.3).
    AppendRejected {
        /// The index of the `prev` that was rejected.
        refused: Index,
        /// The last position of the sender's log at or below it, in index and in term.
        hint: Position,
        /// The number of the probe that was rejected.
        probe: u64,
    },
    /// A leader's proof that the follower no longer holds entries that it acknowledged: the follower rejected a probe
    /// at that position, and the probe was sent after the acknowledgment.
    LostAcknowledged {
        /// The highest position that the follower acknowledged.
        upto: Position,
    },
    /// A follower's answer: it holds less than that, and has durably recorded the position as its promised position.
    Promised {
        /// The promised position.
        upto: Position,
    },
    /// The highest term and position that the sender has received from the receiver's disk. A receiver that holds less
    /// runs on an older copy of its directory, and keeps to both. Sent first on every new connection.
    Reminder {
        /// The highest term of a message from that disk.
        term: Term,
        /// The highest position that it reported durable.
        position: Position,
    },
    /// A leader's heartbeat. It waits for no disk.
    Heartbeat {
        /// The leader's commit index, even if the receiver's log has not reached it.
        commit: Index,
        /// The round to confirm.
        round: Round,
        /// The cluster's clock: the next leader continues from it, even if nothing was written meanwhile.
        time: ClusterTime,
    },
    /// Confirms the sender of a heartbeat as leader. It waits for no disk.
    HeartbeatResponse {
        /// The round of the heartbeat.
        round: Round,
        /// How far the sender's log matches the leader's, durable or not: shows which entries were lost in transit.
        seen: Index,
        /// How much room the sender's disk has.
        room: Room,
    },
    /// All entries up to here are committed, and the receiver holds them. It needs no answer.
    Committed {
        /// The commit index.
        upto: Index,
    },
    /// A chunk of a snapshot, for a follower that needs entries no longer in the log (§7, Figure 13).
    InstallSnapshot(SnapshotChunk),
    /// The sender has all bytes of that snapshot before `next` in a file; chunks in flight beyond `next` may still
    /// come.
    InstallSnapshotResponse {
        /// The position of the snapshot.
        snapshot: Position,
        /// How many bytes of it the sender has.
        next: u64,
        /// Whether it is complete and was damaged.
        damaged: bool,
    },
    /// Makes the receiver campaign at once: it holds all of the leader's log, and the leader wants it to take over
    /// (thesis §3.10).
    TimeoutNow,
    /// Requests the index that the sender must have applied to serve a read that arrived by now (thesis §6.4).
    ReadIndexRequest {
        /// The follower's number for the request, never used twice.
        number: u64,
    },
    /// Answers [`Message::ReadIndexRequest`]: a quorum has confirmed the leader since the request.
    ReadIndexResponse {
        /// The number of the request.
        number: u64,
        /// The read index.
        index: Index,
    },
    /// The receiver's term is over; the current one is on the envelope (§5.1).
    StaleTerm,
}

/// A chunk of a snapshot's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotChunk {
    /// The position of the snapshot.
    pub snapshot: Position,
    /// The length of its file in bytes.
    pub total: u64,
    /// Where in the file the chunk starts, in bytes.
    pub offset: u64,
    /// The bytes of the chunk.
    pub bytes: Bytes,
}

impl Message {
    /// Whether it comes from a leader or candidate of the log that it names.
    pub fn speaks_for_log(&self) -> bool {
        matches!(self, Message::RequestVote { .. }) || self.is_leaders()
    }

    /// Whether only a leader sends it. Its authority is the term, for which a quorum voted: it is accepted whatever
    /// disk the receiver knows the sender by.
    pub fn is_leaders(&self) -> bool {
        match self {
            Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndexResponse { .. }
            | Message::LostAcknowledged { .. } => true,
            Message::RequestVote { .. }
            | Message::RequestVoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::HeartbeatResponse { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::Promised { .. }
            | Message::Reminder { .. }
            | Message::ReadIndexRequest { .. }
            | Message::StaleTerm => false,
        }
    }

    /// Whether it counts for a quorum, or reports the contents of the sender's disk: it is accepted only from the disk
    /// that the receiver's configuration names, or from any disk if it names none.
    pub fn is_counted(&self) -> bool {
        match self {
            Message::RequestVoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::HeartbeatResponse { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::Promised { .. } => true,
            Message::RequestVote { .. }
            | Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshot(_)
            | Message::TimeoutNow
            | Message::ReadIndexResponse { .. }
            | Message::LostAcknowledged { .. }
            | Message::Reminder { .. }
            | Message::ReadIndexRequest { .. }
            | Message::StaleTerm => false,
        }
    }

    /// Whether it is sent between the pieces of larger frames: leadership depends on its timely arrival.
    pub fn is_urgent(&self) -> bool {
        match self {
            Message::AppendEntries { entries, .. } => entries.is_empty(),
            Message::RequestVote { .. }
            | Message::RequestVoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::AppendRejected { .. }
            | Message::LostAcknowledged { .. }
            | Message::Promised { .. }
            | Message::Reminder { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatResponse { .. }
            | Message::Committed { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::TimeoutNow
            | Message::ReadIndexRequest { .. }
            | Message::ReadIndexResponse { .. }
            | Message::StaleTerm => true,
            Message::InstallSnapshot(_) => false,
        }
    }
}
