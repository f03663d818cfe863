//! The interface to a filesystem, with the few guarantees that are needed, and the real filesystem.

pub mod fs;
pub mod meter;
pub mod seam;
pub mod sigbus;
pub mod unreadable;

pub use fs::{FsDisk, is_out_of_files};
pub use meter::Meter;
pub use seam::{Disk, DiskFile};
pub use unreadable::Unreadable;
