//! Snapshots on a disk: one file each, written once, published by rename, used only if whole.

pub mod format;
pub mod incoming;
pub mod report;
pub mod store;
pub mod verify;
pub mod writer;

pub use format::{Chunk, ChunkKind, Header};
pub use incoming::Incoming;
pub use report::{Fault, Result};
pub use store::{Listed, Newest, Snapshot, Store};
pub use writer::Writer;
