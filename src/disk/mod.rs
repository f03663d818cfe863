//! The interface to a filesystem, with the few guarantees that are needed, and the real filesystem.

pub mod fs;
pub mod interface;
pub mod meter;
pub mod sigbus;
pub mod unreadable;

pub use fs::{FsDisk, is_out_of_files};
pub use interface::{Disk, DiskFile};
pub use meter::Meter;
pub use unreadable::MediaError;
