//! The state of the connections between two simulated nodes.

use crate::types::{DiskId, Time};

/// A node's connection for sending to a peer.
#[derive(Clone, Copy, Debug)]
pub struct Outbound {
    pub state: LinkState,
    /// Failed attempts since it was last up.
    pub failures: u32,
}

/// The state of an outbound connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Down; to be dialed at that time.
    Down(Time),
    /// Dialed on that run of the link at that time, and not answered yet.
    Dialed(u64, Time),
    /// Up on that run of the link.
    Up(u64),
}

impl Outbound {
    /// A connection to be dialed at once.
    pub(super) fn new(now: Time) -> Outbound {
        Outbound { state: LinkState::Down(now), failures: 0 }
    }

    /// The run of the link that the connection is on.
    pub(super) fn run(&self) -> Option<u64> {
        match self.state {
            LinkState::Dialed(run, _) | LinkState::Up(run) => Some(run),
            LinkState::Down(_) => None,
        }
    }
}

/// The connection on which a node receives from a peer.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    /// The run of the link that it is on.
    pub run: u64,
    /// The disk id with which the peer identified itself.
    pub disk: DiskId,
}

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The end at the node that dialed.
    Outbound,
    /// The end at the node that was dialed.
    Inbound,
}
