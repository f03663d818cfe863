//! The few promises we need of a filesystem, and the real one.

pub mod fs;
pub mod meter;
pub mod seam;
pub mod sigbus;
pub mod unreadable;

pub use fs::{FsDisk, is_out_of_files};
pub use meter::Meter;
pub use seam::{Disk, DiskFile};
pub use unreadable::Unreadable;
