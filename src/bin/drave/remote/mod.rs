//! Connections from commands to a cluster, and the errors of failed commands. Also child processes, TLS keys and
//! signals.

pub mod cluster;
pub mod explain;
pub mod failure;
pub mod interrupt;
pub mod poll;
pub mod process;
pub mod tls;
