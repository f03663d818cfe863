//! Assembly: a data directory, a node, three threads and the queues between them.
//!
//! The reactor runs on the thread that calls [`Server::run`]: sockets, consensus, and the state
//! machine. The *log* thread owns the journal: whatever gathered while it synced is its next batch.
//! The *spare* thread makes the next segment ready; the *space* thread watches how much room there is. Each
//! queue has one reader. One lock is shared: the log waits for a reserve that is being made, to give it up.
//! Where there is much log to apply, one more thread reads it beforehand, and ends when that is read.

pub mod boot;
pub mod handle;
pub mod listeners;
pub mod new_cluster;
mod reading;
mod reloading;
pub mod server;
pub mod start_progress;
pub mod workers;

pub use crate::net::leadership::Leadership;
pub use handle::Handle;
pub use server::Server;
