//! The algorithm: Raft as a pure state machine. No clock, thread, socket, file or log line.

pub mod message;
pub mod note;
