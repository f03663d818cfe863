//! Sockets around a node: one thread, one poll.
//!
//! [`Net`] turns readiness into events for the node and the node's actions into
//! bytes; the [`Reactor`](reactor::Reactor) turns the crank. Each node dials every other to *speak* and is dialed to
//! *listen*: two one-way connections a pair, so that nothing has to be agreed about who dials.
//!
//! What bounds memory here: a client that does not read, or has too much under way, is not read from;
//! a peer that does not read loses messages, which the consensus does not mind; a frame is bounded
//! before it is received; connections are counted; a connection that is idle holds no buffer.

pub mod applying;
pub mod busy_poll;
pub mod conn;
pub mod counting;
pub mod credentials;
pub mod deferred_drop;
pub mod dialect;
pub mod disks;
pub mod failure;
pub mod gateway_connection;
pub mod http;
pub mod inbox;
pub mod lanes;
pub mod leaderless;
pub mod leadership;
pub mod links;
pub mod listening;
pub mod log_control;
pub mod options;
pub mod password;
pub mod pressure;
pub mod process;
pub mod reactor;
pub mod replaying;
pub mod resolver;
pub mod resp;
pub mod sockets;
pub mod stream;
pub mod waker;

pub use options::Options;
pub use sockets::Net;
