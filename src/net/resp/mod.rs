//! The Redis gateway: translates commands of Redis clients into requests of the key-value machine, and answers back.
//!
//! [`table`] lists every command; [`commands`] translates one into a command or query of the machine, and [`reply`]
//! translates the machine's answer. A [`RedisConnection`](connection::RedisConnection) is one connection; [`dispatch`]
//! decides what each command means to it. [`local`], [`about`] and [`info`] answer without the machine. Nothing here has a socket: `sockets/redis.rs` moves the bytes.

pub mod about;
pub mod commands;
pub mod connection;
pub mod dispatch;
pub mod gateway;
pub mod glob;
pub mod info;
pub mod local;
pub mod reply;
pub mod table;
