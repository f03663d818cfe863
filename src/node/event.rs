//! Everything that can happen to a node, and everything it can want.

use crate::api::{Reply, Request};
use crate::apply;
use crate::consensus::message::{Envelope, SnapshotChunk};
use crate::consensus::note::Note;
use crate::types::{ClusterTime, DiskId, Entry, Index, LogId, Membership, NodeId, Position, SnapshotPoint, Write};
use crate::wal::report as wal;
use bytes::Bytes;

/// A snapshot that is durable on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DurableSnapshot {
    /// The position it stands for.
    pub position: Position,
    /// Its file, mapped.
    pub bytes: Bytes,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Caller {
    /// A client's connection; the driver's own number for it, never used twice.
    Client(u64),
    /// Another node, passing on what it was asked.
    Peer(NodeId),
}

/// Everything that can happen to a node.
#[derive(Clone, Debug)]
pub enum Event {
    /// A peer says something.
    Peer(Envelope),
    /// The link on which that peer speaks to us, or we to it, broke: what was on its way may be lost.
    PeerLost(NodeId),
    /// That peer came with that disk, over a connection of its own or ours.
    Met {
        /// Who.
        peer: NodeId,
        /// Its disk.
        disk: DiskId,
    },
    /// A peer that means this node, by its id and address, holds another log than this node, or this one holds none.
    OtherLog {
        /// Who.
        peer: NodeId,
        /// Which.
        log: LogId,
    },
    /// The process is to end: another should lead.
    Leaving,
    /// A caller asks for something. Each (caller, id) is answered once, unless the caller goes.
    Request {
        /// Who.
        from: Caller,
        /// Its number for it; ids of one caller are distinct while unanswered.
        id: u64,
        /// Whether to pass it on to the leader rather than name the leader. One hop at most.
        forward: bool,
        /// What.
        request: Request,
    },
    /// A peer answers what we passed on to it.
    Answered {
        /// Who.
        from: NodeId,
        /// Our number for it.
        id: u64,
        /// Its answer.
        reply: Reply,
    },
    /// What we passed on to a peer never left: nothing has happened.
    NotSent {
        /// To whom.
        to: NodeId,
        /// Our number for it.
        id: u64,
    },
    /// That peer speaks to us over a new connection: answers given on the one before may be lost.
    AnswersLost(NodeId),
    /// A caller's connection is gone: nobody waits for its answers.
    CallerGone(Caller),
    /// The journal made something durable.
    Journal(wal::Report),
    /// The disk has too little room, or enough again.
    Space {
        /// Whether it has too little.
        low: bool,
    },
    /// The applier has applied what [`Action::Apply`] gave it.
    Applied(apply::Report),
    /// [`Action::Take`] is done; with nothing, if there was no room for it.
    Taken(Option<DurableSnapshot>),
    /// The snapshot of [`Action::Take`] was damaged when it was read back: it is not used.
    TakenDamaged,
    /// [`Action::Inspect`] is done.
    Inspected {
        /// Which snapshot.
        snapshot: Position,
        /// Whether the file is whole.
        whole: bool,
    },
    /// A leader's snapshot is here up to there, in a file.
    Received {
        /// Whose.
        from: NodeId,
        /// Which.
        snapshot: Position,
        /// How many bytes of it.
        next: u64,
        /// Whether all of it had come, and it was damaged.
        damaged: bool,
    },
    /// A leader's snapshot is here, durable, and the machine has become what it holds.
    Restored {
        /// The file.
        kept: DurableSnapshot,
        /// The position it stands for, and the members there.
        base: SnapshotPoint,
        /// The cluster's clock there.
        time: ClusterTime,
        /// What the machine is now.
        report: apply::Report,
    },
    /// The applier answers [`Action::Query`].
    Queried {
        /// The number of the query.
        ticket: u64,
        /// Everything up to here had been applied.
        applied: Index,
        /// The machine's answer.
        answer: Bytes,
    },
}

/// Everything a node can want. All of it may be done at once and in any order, but that writes,
/// and what is given to the applier, keep theirs.
#[derive(Debug)]
pub enum Action {
    /// Say this to a peer. May be lost.
    Send(Envelope),
    /// Pass a caller's request on to a peer, which answers with [`Event::Answered`]. May be lost, and
    /// then [`Event::NotSent`], [`Event::AnswersLost`] or [`Event::PeerLost`] says so.
    Forward {
        /// The leader, as far as we know.
        to: NodeId,
        /// Our number for it.
        id: u64,
        /// What was asked.
        request: Request,
    },
    /// Answer a caller.
    Reply {
        /// Who asked.
        to: Caller,
        /// Its number for it.
        id: u64,
        /// The answer.
        reply: Reply,
    },
    /// Write this; [`Event::Journal`] says when it is durable.
    Write(Write),
    /// Apply these committed entries, in order; [`Event::Applied`] says what came of it.
    Apply(Vec<Entry>),
    /// Freeze the machine as it is, and write that down: [`Event::Taken`] says when it is durable. Nothing
    /// is being applied: what was given to the machine before is applied, and what comes with this, not yet.
    Take {
        /// Since which index the membership holds.
        configured: Index,
        /// The membership as of what was applied.
        membership: Membership,
    },
    /// A piece of a snapshot that a leader sends: [`Event::Received`] says how far it is, and
    /// [`Event::Restored`] when all of it is here and in the machine.
    Receive {
        /// Who sends it.
        from: NodeId,
        /// The piece.
        chunk: SnapshotChunk,
    },
    /// A follower received this node's snapshot damaged: read the file again, and say what is wrong with it;
    /// [`Event::Inspected`] brings the answer.
    Inspect {
        /// The follower.
        follower: NodeId,
        /// Which snapshot.
        snapshot: Position,
        /// How many times in a row that follower has received one damaged.
        times: u32,
    },
    /// The journal may let go of everything up to there.
    Release(Position),
    /// Ask the machine, after everything given to it before; [`Event::Queried`] brings the answer.
    Query {
        /// Our number for it.
        ticket: u64,
        /// What is asked.
        query: Bytes,
        /// What this node knows of the cluster's clock.
        time: ClusterTime,
    },
    /// Tell the operator.
    Note(Note),
    /// Stop the process: going on could break a promise.
    Stop(wal::Fault),
}
