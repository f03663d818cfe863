//! The gateways for Redis and HTTP clients, without sockets: bytes in, requests to the node and bytes out.
//!
//! [`redis`] and [`http`] read the requests of one connection, answer those that this node can answer alone, and hand
//! the others to the connection's [`crate::pipeline`], which keeps their order and executes each command once. `net` has
//! the sockets, and `wire` the formats. The simulator runs the same pipelines without a protocol around them.

pub mod http;
pub mod password;
pub mod process;
pub mod redis;
