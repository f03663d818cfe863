//! What nodes say to one another (§5, Figure 2).
//!
//! Every message carries its sender's term, which was durable before it left: a receiver may act on
//! it for ever (§5.1).

use super::clock::LeaderTime;
use super::room::Room;
use crate::types::{ClusterTime, DiskId, Entry, Index, LogId, NodeId, Position, Term};
use bytes::Bytes;

/// A message on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Who says it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// The sender's term.
    pub term: Term,
    /// From which disk and which log it speaks.
    pub origin: Origin,
    /// What it says.
    pub message: Message,
}

/// From which disk, and which log, a message comes: the receiver judges each message by it (`peer_class`).
///
/// It stands in every message and not only in the first words on a connection, for both may change while a
/// connection lasts: a joiner holds no log at first, and leads one later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// The sender's disk; none where disks have no ids.
    pub disk: Option<DiskId>,
    /// The sender's log, once it is agreed. A leader, and a candidate that holds entries, say which log they speak for
    /// before that too: a follower that holds more of that very log has to hear them. (Counter-example: a founding
    /// leader loses the entry that says *agreed*, and one follower keeps it. If that follower were deaf to who holds
    /// the first entry alone, the cluster would stand still as soon as the third is down.)
    pub log: Option<LogId>,
}

/// A round of asking whether we still lead. Grows with every round and is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Round(pub u64);

/// What kind of vote is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteKind {
    /// Would you vote for me in the term after mine? Promises and changes nothing (thesis §9.6).
    PreVote,
    /// Vote for me in my term (§5.2).
    Vote,
    /// The same, and the leader itself wants it: hearing that leader is no reason to refuse (thesis
    /// §3.10). Every other is.
    Transfer,
}

impl VoteKind {
    /// Whether a vote is asked for, and not only whether it would be given.
    pub fn is_real(self) -> bool {
        match self {
            VoteKind::PreVote => false,
            VoteKind::Vote | VoteKind::Transfer => true,
        }
    }
}

/// What nodes say to one another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Asks for a vote (§5.2).
    RequestVote {
        /// The end of the candidate's log (§5.4.1).
        last: Position,
        /// For what.
        ask: VoteKind,
    },
    /// Answers [`Message::RequestVote`].
    RequestVoteResponse {
        /// Yes or no.
        granted: bool,
        /// Whether the voter's log is empty. It may have lost everything, and then does not know what it
        /// promised: its yes counts only where everyone says yes, or where the log is to begin.
        void: bool,
        /// What was asked.
        ask: VoteKind,
        /// The latest time that the voter has heard: the candidate begins no earlier, should it lead.
        heard: LeaderTime,
    },
    /// Entries for the log, behind `prev` (§5.3). Without entries: do you hold `prev`?
    AppendEntries {
        /// What the receiver must hold for the entries to fit.
        prev: Position,
        /// The leader's commit index.
        commit: Index,
        /// The number of this probe, never used twice by one leader; zero if it is none.
        probe: u64,
        /// Consecutive, from `prev` on.
        entries: Vec<Entry>,
    },
    /// All up to `matched` agrees with the leader of this term, and is on my disk.
    AppendResponse {
        /// How far.
        matched: Index,
    },
    /// I do not hold the `prev` you named; this is where we may yet agree (§5.3).
    AppendRejected {
        /// The `prev` that was refused.
        refused: Index,
        /// The last position of my log at or below it, in index and in term.
        hint: Position,
        /// The number of the probe that was refused.
        probe: u64,
    },
    /// The leader's proof that the follower no longer holds what it acknowledged: a probe that was sent after the
    /// acknowledgement was refused at it.
    LostAcknowledged {
        /// The highest position that the follower acknowledged.
        upto: Position,
    },
    /// The follower's answer: it holds less than that, and keeps the position durably as its promised position.
    Promised {
        /// The position.
        upto: Position,
    },
    /// What the sender has heard from the receiver's disk: a receiver that holds less has come back with an older
    /// copy of its directory, and keeps to what it said. Sent first on every new connection.
    Reminder {
        /// The highest term it spoke in.
        term: Term,
        /// The highest position it said was durable.
        position: Position,
    },
    /// I lead; do you hear me? Waits for no disk.
    Heartbeat {
        /// The leader's commit index, however far the receiver is.
        commit: Index,
        /// The round to confirm.
        round: Round,
        /// The cluster's clock: whoever leads next goes on from there, also if nothing was written meanwhile.
        time: ClusterTime,
    },
    /// You lead, as far as I know. Waits for no disk.
    HeartbeatResponse {
        /// The round that was asked.
        round: Round,
        /// How far my log agrees with yours, on disk or not: shows what was lost on the way.
        seen: Index,
        /// How much room my disk has.
        room: Room,
    },
    /// All up to here is committed, and you hold it. Wants no answer.
    Committed {
        /// The index.
        upto: Index,
    },
    /// A piece of a snapshot, for a follower that needs what is no longer in the log (§7, Figure 13).
    InstallSnapshot(SnapshotChunk),
    /// I have all of that snapshot before `next`, in a file; what is on its way beyond it may come.
    InstallSnapshotResponse {
        /// Which snapshot.
        snapshot: Position,
        /// How many bytes of it.
        next: u64,
        /// Whether all of it had come, and it was damaged.
        damaged: bool,
    },
    /// Campaign now: I lead, you hold all of my log, and I want you to take over (thesis §3.10).
    TimeoutNow,
    /// Up to which index must I have applied to answer a read that has come by now (thesis §6.4)?
    ReadIndexRequest {
        /// The follower's number for it, never used again.
        number: u64,
    },
    /// Up to that one: a quorum has confirmed since you asked that I led.
    ReadIndexResponse {
        /// The number that was asked under.
        number: u64,
        /// The index.
        index: Index,
    },
    /// Your term is over; mine is on the envelope (§5.1).
    StaleTerm,
}

/// A piece of a snapshot's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotChunk {
    /// The position that the snapshot stands for.
    pub snapshot: Position,
    /// How long its file is.
    pub total: u64,
    /// Where in it the piece begins.
    pub offset: u64,
    /// The piece.
    pub bytes: Bytes,
}

impl Message {
    /// Whether it comes from who leads, or would lead, the log that it holds.
    pub fn speaks_for_log(&self) -> bool {
        matches!(self, Message::RequestVote { .. }) || self.is_leaders()
    }

    /// Whether only a leader says it. Its authority is the term, for which a quorum voted: it is heard whatever
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

    /// Whether it is counted, or speaks of what the sender's disk holds: it is taken only from the disk that the
    /// receiver's configuration names, or where that names none.
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

    /// Whether it must pass between the pieces of larger frames: what keeps leaders leaders.
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
