//! Snapshots on a disk: one file each, written once, published by rename, used only if whole.

pub mod format;
pub mod incoming;
pub mod report;
pub mod snapshot;
pub mod store;
pub mod verify;
pub mod writer;

pub use format::{Chunk, ChunkKind, Header};
pub use incoming::Incoming;
pub use report::{Fault, Result};
pub use snapshot::Snapshot;
pub use store::{ListedSnapshot, Newest, Store};
pub use writer::Writer;
