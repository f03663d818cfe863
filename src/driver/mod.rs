//! The driver of a node in a process: the event loop, the state machine that it runs, and its inbox for other threads.
//!
//! This module is the counterpart of [`crate::sim`], which drives the same node in a simulated world. The
//! [`Reactor`](reactor::Reactor) waits for sockets and for the [`inbox`], hands events to the node, and executes the
//! node's actions: messages first, then the write for the log thread. [`machine_runner`] runs the state machine on the
//! same thread, in slices, so that no command, snapshot or restore delays a heartbeat.

pub mod busy_poll;
pub mod deferred_drop;
pub mod inbox;
pub mod leaderless;
pub mod leadership;
pub mod log_control;
pub mod machine_runner;
pub mod reactor;
pub mod replaying;
pub mod scrub_queue;
