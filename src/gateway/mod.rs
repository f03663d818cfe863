//! The gateways for Redis and HTTP clients, without sockets: received bytes become requests to the node, and the node's
//! answers become bytes to send.
//!
//! [`redis`] and [`http`] read the requests of one connection, answer those that this node can answer alone, and pass
//! the others to the connection's [`crate::pipeline`], which keeps their order and executes each command once. The
//! sockets are in `net`, and the formats in `wire`. The simulator runs the same pipelines without a protocol.

pub mod http;
pub mod password;
pub mod process;
pub mod redis;
