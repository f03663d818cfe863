//! # drave
//!
//! A replicated log and key-value server, and the Raft library inside it.

pub mod api;
pub mod apply;
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod consensus;
pub mod disk;
pub mod limits;
pub mod machine;
pub mod net;
pub mod node;
pub mod server;
pub mod sim;
pub mod types;
pub mod wal;
pub mod wire;
