//! Assembly: a data directory, a node, three threads and the queues between them.
//!
//! The reactor runs on the thread that calls [`Server::run`]: sockets, consensus, and the state
//! machine. The *log* thread owns the journal: whatever gathered while it synced is its next batch.
//! The *spare* thread makes the next segment ready. No lock is shared; each queue has one reader.

pub mod boot;
pub mod handle;
pub mod server;
pub mod workers;

pub use handle::Handle;
pub use server::Server;
