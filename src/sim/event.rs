//! The events in the queue of a simulated world.

use super::client_link::OnLink;
use super::peer_connection::End;
use crate::node::Event;
use crate::snapshot::Snapshot;
use crate::types::{DiskId, NodeId, Time};
use bytes::Bytes;

/// An event in the queue.
pub(super) enum SimEvent {
    /// Bytes from one node reach another. `disks` are the disk ids of the sender and the receiver at the time of
    /// sending.
    Arrives { to: NodeId, from: NodeId, disks: (DiskId, DiskId), run: u64, bytes: Bytes },
    /// A node notices that a connection with a peer is closed. `run` is the run of the link that the connection was on.
    Closed { at: NodeId, peer: NodeId, end: End, run: u64 },
    /// A node may dial a peer.
    Dials { at: NodeId, life: u64, peer: NodeId },
    /// A dialed peer answers. `run` is the run of the link on which it was dialed.
    Welcomed { at: NodeId, peer: NodeId, run: u64, bytes: Bytes },
    /// A client's bytes reach a node.
    Asked { to: NodeId, client: u64, bytes: Bytes },
    /// A node's bytes reach a client.
    Told { client: u64, bytes: Bytes },
    /// A sync completes.
    Synced { at: NodeId, life: u64 },
    /// The log thread has been idle for a moment.
    Idle { at: NodeId, life: u64 },
    /// A spare segment is ready.
    Spared { at: NodeId, life: u64 },
    /// A state machine finishes the first of its pending inputs.
    Applies { at: NodeId, life: u64 },
    /// A machine checks its free disk space.
    Looks { at: NodeId, life: u64 },
    /// The next chunk of a snapshot may be written.
    Piece { at: NodeId, life: u64 },
    /// A snapshot received from another node is ready and gets restored.
    RestoreStep { at: NodeId, life: u64, snapshot: Box<Snapshot> },
    /// A background job of a machine completes, with an event for its node.
    Follows { at: NodeId, life: u64, event: Box<Event> },
    /// A node's deadline passes.
    Due { at: NodeId, life: u64, when: Time },
    /// A machine starts.
    Starts { at: NodeId },
    /// A client may act. Ignored if the client's next wake-up is no longer the one at `when`.
    Wakes { client: u64, when: Time },
    /// Faults are injected.
    Trouble,
    /// The operator looks for something to do.
    Governs,
    /// A process that was told to shut down ends.
    Ends { at: NodeId, life: u64 },
    /// A node runs its turn, after a batch of events.
    Turns { at: NodeId, life: u64 },
    /// An event at one end of a client's connection.
    Linked { at: Option<NodeId>, link: u64, what: OnLink },
    /// A pipelined connection has more requests, or its retry is due.
    Pipelined { at: NodeId, life: u64, connection: u64, more: bool },
}

impl SimEvent {
    /// The machine at which this event happens, if there is one.
    pub(super) fn place(&self) -> Option<NodeId> {
        match self {
            SimEvent::Arrives { to, .. } | SimEvent::Asked { to, .. } => Some(*to),
            SimEvent::Closed { at, .. }
            | SimEvent::Dials { at, .. }
            | SimEvent::Welcomed { at, .. }
            | SimEvent::Synced { at, .. }
            | SimEvent::Idle { at, .. }
            | SimEvent::Spared { at, .. }
            | SimEvent::Applies { at, .. }
            | SimEvent::Looks { at, .. }
            | SimEvent::Piece { at, .. }
            | SimEvent::RestoreStep { at, .. }
            | SimEvent::Follows { at, .. }
            | SimEvent::Turns { at, .. }
            | SimEvent::Pipelined { at, .. }
            | SimEvent::Due { at, .. } => Some(*at),
            SimEvent::Linked { at, .. } => *at,
            SimEvent::Starts { .. } | SimEvent::Told { .. } | SimEvent::Wakes { .. } => None,
            SimEvent::Trouble | SimEvent::Governs | SimEvent::Ends { .. } => None,
        }
    }
}
