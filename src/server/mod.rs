//! Assembles a server: a data directory, a node, the threads, and the queues between them.
//!
//! The reactor runs on the thread that calls [`Server::run`]: sockets, consensus, and the state machine. The *log*
//! thread owns the journal: the writes that arrive during a sync are its next batch. The *spare* thread prepares the
//! next segment; the *snapshot* thread owns the snapshot files; the *space* thread watches the free disk space; the
//! *scrub* thread checks all files now and then. Each queue has one reader. One lock is shared: a log that needs the reserve's space waits until a reserve that is being
//! created is complete. If there is much log to apply, one more thread reads it ahead, and ends at its last entry.

pub mod boot;
pub mod error;
pub mod handle;
pub mod listeners;
mod log_prefetch;
pub mod new_cluster;
mod reloading;
mod scrub_thread;
pub mod server;
pub mod start_progress;
pub mod workers;

pub use crate::driver::leadership::Leadership;
pub use error::ServerError;
pub use handle::Handle;
pub use server::Server;
