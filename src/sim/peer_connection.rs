//! The state of the connections between two simulated nodes.

use crate::types::{DiskId, Time};

/// A node's connection for sending to a peer.
#[derive(Clone, Copy, Debug)]
pub struct OutboundConnection {
    /// Whether the connection is down, dialed or up.
    pub state: LinkState,
    /// How many attempts to connect have failed since the connection was last up.
    pub failures: u32,
}

/// The state of an outbound connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// The connection is down, and is to be dialed at the given time.
    Down(Time),
    /// The peer was dialed and has not answered yet. The fields are the generation of the link and the time of dialing.
    Dialed(u64, Time),
    /// The connection is up. The fields are the generation of the link, and the version of the protocol that the
    /// handshake has agreed on.
    Up(u64, u16),
}

impl OutboundConnection {
    /// A connection that is down and is to be dialed at once.
    pub(super) fn new(now: Time) -> OutboundConnection {
        OutboundConnection { state: LinkState::Down(now), failures: 0 }
    }

    /// The generation of the link that the connection uses; `None` if it is down.
    pub(super) fn generation(&self) -> Option<u64> {
        match self.state {
            LinkState::Dialed(generation, _) | LinkState::Up(generation, _) => Some(generation),
            LinkState::Down(_) => None,
        }
    }
}

/// The connection on which a node receives from a peer.
#[derive(Clone, Copy, Debug)]
pub struct InboundConnection {
    /// The generation of the link that the connection uses.
    pub generation: u64,
    /// The disk id with which the peer identified itself.
    pub disk: DiskId,
    /// The version of the protocol that the handshake has agreed on.
    pub version: u16,
    /// The highest feature level that the peer's program knows.
    pub feature_level_max: u16,
}

/// An end of a connection between two nodes: at the node that dialed, or at the node that was dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionEnd {
    /// The end at the node that dialed.
    Outbound,
    /// The end at the node that was dialed.
    Inbound,
}
