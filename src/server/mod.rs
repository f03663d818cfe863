//! Assembly: a data directory, a node, its threads, and the queues between them.
//!
//! The reactor runs on the thread that calls [`Server::run`]: sockets, consensus, and the state machine. The *log*
//! thread owns the journal: the writes that gather during a sync are its next batch. The *spare* thread prepares the
//! next segment; the *snapshot* thread owns the snapshot files; the *space* thread watches the free disk space. Each
//! queue has one reader. One lock is shared: the log waits until a reserve that is being created is complete, to free
//! it. If there is much log to apply, one more thread reads it ahead, and ends when it is read.

pub mod boot;
pub mod error;
pub mod handle;
pub mod listeners;
pub mod new_cluster;
mod reading;
mod reloading;
pub mod server;
pub mod start_progress;
pub mod workers;

pub use crate::driver::leadership::Leadership;
pub use error::ServerError;
pub use handle::Handle;
pub use server::Server;
