//! The Redis gateway: translates commands of Redis clients into requests to the key-value state machine, and answers
//! back.
//!
//! [`table`] lists every command; [`commands`] translates one into a command or query of the state machine, and
//! [`reply`] translates its answer. A [`RedisConnection`](connection::RedisConnection) is one connection; [`dispatch`]
//! decides how each command is handled on it. [`local`], [`cluster`] and [`info`] answer without the state machine.
//! Nothing here has a socket: `sockets/redis.rs` moves the bytes.

pub mod cluster;
pub mod commands;
pub mod connection;
pub mod dispatch;
pub mod error;
pub mod gateway;
pub mod glob;
pub mod info;
pub mod local;
pub mod local_command;
pub mod reply;
pub mod table;
