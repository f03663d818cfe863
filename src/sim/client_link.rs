//! The state of the connections between simulated clients and nodes.

use crate::types::{NodeId, Time};
use crate::wire::frame::FrameReader;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// The caller id of connection 0 between a client and a node. Connection `n` has this id plus `n`.
pub const FIRST_LINK_CALLER_ID: u64 = 1 << 42;

/// An event at one end of a connection.
pub enum LinkEvent {
    /// Bytes of the client reach the node. The number is how many sends the client made on this connection before.
    ClientBytes(u64, Bytes),
    /// The node notices that the connection has ended.
    EndReachesNode,
    /// Bytes of the node reach the client.
    NodeBytes(Bytes),
    /// The client notices that the connection has ended.
    EndReachesClient,
}

impl LinkEvent {
    /// Whether the event happens at the node's end of the connection.
    pub(super) fn is_at_node_end(&self) -> bool {
        matches!(self, LinkEvent::ClientBytes(..) | LinkEvent::EndReachesNode)
    }
}

/// A connection between a client and a node.
#[derive(Debug)]
pub(super) struct ClientLink {
    pub(super) client: u64,
    pub(super) node: NodeId,
    /// The incarnation of the process that accepted the connection; `None` before the first bytes arrive.
    pub(super) incarnation: Option<u64>,
    /// Neither end sends anything more on the connection.
    pub(super) is_closed: bool,
    /// Nothing sent on the connection arrives any more, and neither end notices.
    pub(super) is_silent: bool,
    /// The node's machine has reset the connection, because the process that accepted it has ended.
    pub(super) is_reset: bool,
    /// The time of the last scheduled arrival at the node, and at the client: later events arrive no earlier.
    pub(super) last_arrival_times: [Time; 2],
    pub(super) reader: FrameReader,
    /// Bytes that the node received after the last complete frame.
    pub(super) received_bytes: BytesMut,
    /// Whether the node has answered the client's hello.
    pub(super) is_welcomed: bool,
    /// How many sends the client has made on this connection.
    pub(super) sends_made: u64,
    /// How many sends of the client the node has received.
    pub(super) sends_arrived: u64,
}

/// All connections between clients and nodes, open and closed.
#[derive(Debug, Default)]
pub struct ClientLinks {
    /// Each connection by its number.
    pub(super) by_number: BTreeMap<u64, ClientLink>,
    /// How many connections were broken or silenced at random.
    pub broken_count: u64,
}
