//! The network layer of a node: one thread, one poll.
//!
//! [`Net`] turns readiness into events for the node, and the node's actions into bytes. [`crate::driver`] has the event
//! loop around it. Each node dials every other node to *send* and is dialed to *receive*: two one-way connections for
//! each pair, so that the nodes need not agree on which one dials.
//!
//! Memory is bounded. A client that does not read, or has too many requests in progress, is not read from. A peer that
//! does not read loses messages, which Raft tolerates. The size of a frame is checked before it is received. The number
//! of connections is limited. An idle connection holds no buffer.

pub mod conn;
pub mod counting;
pub mod credentials;
pub mod disks;
pub mod failure;
pub mod gateway_connection;
pub mod lanes;
pub mod links;
pub mod listening;
pub mod options;
pub mod pressure;
pub mod resolver;
pub mod role;
pub mod sockets;
pub mod stream;
pub mod waker;

pub use options::Options;
pub use sockets::Net;
