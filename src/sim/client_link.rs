//! The state of the connections between simulated clients and nodes.

use crate::types::{NodeId, Time};
use crate::wire::frame::FrameReader;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Caller numbers from here on are client connections.
pub const FIRST_LINK: u64 = 1 << 42;

/// An event at one end of a connection.
pub enum OnLink {
    /// Bytes of the client reach the node. The number counts the client's earlier sends.
    Arrives(u64, Bytes),
    /// The node notices that the connection has ended.
    HangsUp,
    /// Bytes of the node reach the client.
    Returns(Bytes),
    /// The client notices that the connection has ended.
    Ends,
}

impl OnLink {
    /// Whether the event is at the node's end.
    pub(super) fn is_at_node(&self) -> bool {
        matches!(self, OnLink::Arrives(..) | OnLink::HangsUp)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: u64,
    pub(super) to: NodeId,
    /// The process that accepted the connection.
    pub(super) life: Option<u64>,
    /// Neither end sends anything more on it.
    pub(super) over: bool,
    /// Nothing passes any more, and neither end knows.
    pub(super) dark: bool,
    /// The node's machine has reset the connection, because it does not know it.
    pub(super) reset: bool,
    /// When the last bytes sent arrive, at the node and at the client.
    pub(super) last: [Time; 2],
    pub(super) reader: FrameReader,
    pub(super) input: BytesMut,
    pub(super) greeted: bool,
    /// How many sends the client has made, and how many of them have arrived.
    pub(super) sent: u64,
    pub(super) arrived: u64,
}

/// All connections, past and present.
#[derive(Debug, Default)]
pub struct Links {
    pub(super) links: BTreeMap<u64, Link>,
    /// How many have broken.
    pub broken: u64,
}
