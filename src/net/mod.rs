//! The network layer of a node: one thread, one poll.
//!
//! [`Net`] translates received bytes into events for the node, and the node's actions into bytes to send. The event
//! loop around it is in [`crate::driver`]. Each node dials every other node to *send* and is dialed to *receive*: two
//! one-way connections for each pair, so that the nodes need not agree on which one dials.
//!
//! Memory is bounded. No requests are read from a client that does not read its replies, or has too many requests in
//! progress. Messages to a peer that does not read its input are dropped, which Raft tolerates. The size of a frame is
//! checked before it is received. The number of connections is limited. An idle connection holds no buffer.

pub mod conn;
pub mod credentials;
pub mod failure;
pub mod gateway_connection;
pub mod lanes;
pub mod links;
pub mod listen_address;
pub mod memory_pressure;
pub mod options;
pub mod peer_warnings;
pub mod protocol_counters;
pub mod resolver;
pub mod role;
pub mod sockets;
pub mod stream;
pub mod waker;

pub use options::Options;
pub use sockets::Net;
