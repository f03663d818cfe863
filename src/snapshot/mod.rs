//! Snapshots on a disk: one file per snapshot, written once, published by a rename, and used only if intact.

pub mod format;
pub mod incoming;
pub mod report;
pub mod snapshot;
pub mod store;
pub mod verify;
pub mod writer;

pub use format::{Chunk, ChunkKind, Header};
pub use incoming::IncomingSnapshot;
pub use report::{Fault, Result};
pub use snapshot::Snapshot;
pub use store::{ListedSnapshot, NewestSnapshot, Store};
pub use writer::Writer;
