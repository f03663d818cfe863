//! The events in the queue of a simulated world.

use super::client_link::LinkEvent;
use super::peer_connection::ConnectionEnd;
use crate::node::Event;
use crate::snapshot::Snapshot;
use crate::types::{DiskId, NodeId, Time};
use bytes::Bytes;

/// An event in the queue. The world handles the event when the simulated time reaches the time of the event.
pub(super) enum SimEvent {
    /// Bytes from one node reach another. `disks` are the disk ids of the sender and the receiver at the time of
    /// sending, and `generation` is that of the link.
    PeerBytes { to: NodeId, from: NodeId, disks: (DiskId, DiskId), generation: u64, bytes: Bytes },
    /// A node notices that a connection with a peer is closed. `generation` is that of the connection's link.
    PeerClosed { at: NodeId, peer: NodeId, end: ConnectionEnd, generation: u64 },
    /// A node dials a peer, unless the connection is up or a later dial is scheduled.
    DialPeer { at: NodeId, incarnation: u64, peer: NodeId },
    /// The welcome of a dialed peer arrives. `generation` is that of the link on which the peer was dialed.
    PeerWelcome { at: NodeId, peer: NodeId, generation: u64, bytes: Bytes },
    /// A client's bytes reach a node.
    ClientRequest { to: NodeId, client: u64, bytes: Bytes },
    /// A node's bytes reach a client.
    ClientReply { client: u64, bytes: Bytes },
    /// A sync of a machine's log completes.
    SyncDone { at: NodeId, incarnation: u64 },
    /// The log thread has been idle since its last sync, and records in the log that the last writes are synced.
    LogIdle { at: NodeId, incarnation: u64 },
    /// The log thread has prepared a spare segment.
    SpareSegmentReady { at: NodeId, incarnation: u64 },
    /// A state machine finishes the first of its queued inputs.
    ApplierInputDone { at: NodeId, incarnation: u64 },
    /// A machine checks its free disk space.
    SpaceCheck { at: NodeId, incarnation: u64 },
    /// The snapshot worker is ready for the next chunk of the snapshot that is being taken.
    SnapshotStep { at: NodeId, incarnation: u64 },
    /// The pass over a machine's files is ready for the next file, unless another pass has replaced it.
    ScrubStep { at: NodeId, incarnation: u64, pass: u64 },
    /// A snapshot from another node was received completely, and the state machine restores it.
    SnapshotRestore { at: NodeId, incarnation: u64, snapshot: Box<Snapshot> },
    /// An event is delivered to a node, such as the completion of a background job.
    NodeEvent { at: NodeId, incarnation: u64, event: Box<Event> },
    /// A node's deadline passes. The event is ignored if the node's queued deadline is no longer the one at `when`.
    Deadline { at: NodeId, incarnation: u64, when: Time },
    /// A machine starts its process, unless one is running.
    ProcessStart { at: NodeId },
    /// A client is woken. The event is ignored if the client's scheduled wake-up is no longer the one at `when`.
    ClientWakeup { client: u64, when: Time },
    /// A random fault is injected.
    FaultInjection,
    /// The operator decides on its next action.
    OperatorTurn,
    /// A machine is restarted with another version, or the feature level is raised.
    UpgradeTurn,
    /// A process ends that has received the signal to shut down.
    ProcessEnd { at: NodeId, incarnation: u64 },
    /// A node handles the events that it has received since it last ran, and sends and writes the results.
    NodeTurn { at: NodeId, incarnation: u64 },
    /// An event at one end of a client's connection. `at` is the node if the event is at the node's end.
    ClientLink { at: Option<NodeId>, link: u64, event: LinkEvent },
    /// A pipelined connection creates and sends requests (`adds_requests`), or only sends those that wait for a retry.
    PipelineTurn { at: NodeId, incarnation: u64, connection: u64, adds_requests: bool },
}

impl SimEvent {
    /// The node and the incarnation of the process that the event is for; `None` if the event is for no single process.
    /// If that process has ended by the time of the event, the event is dropped.
    pub(super) fn target_process(&self) -> Option<(NodeId, u64)> {
        match self {
            SimEvent::DialPeer { at, incarnation, .. }
            | SimEvent::SyncDone { at, incarnation }
            | SimEvent::LogIdle { at, incarnation }
            | SimEvent::SpareSegmentReady { at, incarnation }
            | SimEvent::ApplierInputDone { at, incarnation }
            | SimEvent::SpaceCheck { at, incarnation }
            | SimEvent::SnapshotStep { at, incarnation }
            | SimEvent::ScrubStep { at, incarnation, .. }
            | SimEvent::SnapshotRestore { at, incarnation, .. }
            | SimEvent::NodeEvent { at, incarnation, .. }
            | SimEvent::Deadline { at, incarnation, .. }
            | SimEvent::ProcessEnd { at, incarnation }
            | SimEvent::NodeTurn { at, incarnation }
            | SimEvent::PipelineTurn { at, incarnation, .. } => Some((*at, *incarnation)),
            SimEvent::PeerBytes { .. } | SimEvent::PeerClosed { .. } | SimEvent::PeerWelcome { .. } => None,
            SimEvent::ClientRequest { .. } | SimEvent::ClientReply { .. } | SimEvent::ClientLink { .. } => None,
            SimEvent::ProcessStart { .. }
            | SimEvent::ClientWakeup { .. }
            | SimEvent::FaultInjection
            | SimEvent::OperatorTurn
            | SimEvent::UpgradeTurn => None,
        }
    }

    /// The machine whose pause postpones this event; `None` if no pause postpones it.
    pub(super) fn postponing_machine(&self) -> Option<NodeId> {
        match self {
            SimEvent::PeerBytes { to, .. } | SimEvent::ClientRequest { to, .. } => Some(*to),
            SimEvent::PeerClosed { at, .. }
            | SimEvent::DialPeer { at, .. }
            | SimEvent::PeerWelcome { at, .. }
            | SimEvent::SyncDone { at, .. }
            | SimEvent::LogIdle { at, .. }
            | SimEvent::SpareSegmentReady { at, .. }
            | SimEvent::ApplierInputDone { at, .. }
            | SimEvent::SpaceCheck { at, .. }
            | SimEvent::SnapshotStep { at, .. }
            | SimEvent::ScrubStep { at, .. }
            | SimEvent::SnapshotRestore { at, .. }
            | SimEvent::NodeEvent { at, .. }
            | SimEvent::NodeTurn { at, .. }
            | SimEvent::PipelineTurn { at, .. }
            | SimEvent::Deadline { at, .. } => Some(*at),
            SimEvent::ClientLink { at, .. } => *at,
            SimEvent::ProcessStart { .. } | SimEvent::ClientReply { .. } | SimEvent::ClientWakeup { .. } => None,
            SimEvent::FaultInjection | SimEvent::OperatorTurn | SimEvent::UpgradeTurn => None,
            SimEvent::ProcessEnd { .. } => None,
        }
    }
}
