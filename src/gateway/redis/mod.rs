//! The Redis gateway: translates commands of Redis clients into requests to the key-value state machine, and the
//! answers into replies.
//!
//! [`table`] lists every command. [`commands`] translates a command into a command or query of the state machine, and
//! [`reply`] encodes its answer. [`RedisConnection`](connection::RedisConnection) is the state of one connection, and
//! [`dispatch`] decides how each command is handled. [`local`], [`cluster`] and [`info`] answer without the state
//! machine. The sockets are in `net/sockets/redis.rs`.

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
