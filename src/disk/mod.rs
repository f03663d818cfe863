//! The interface to a disk, with the guarantees that durable data relies on, and its implementation on the real
//! filesystem.

pub mod fs;
pub mod interface;
pub mod meter;
pub mod sigbus;
pub mod unreadable;

pub use fs::{FsDisk, is_too_many_open_files};
pub use interface::{Disk, DiskFile};
pub use meter::Meter;
pub use unreadable::MediaError;
