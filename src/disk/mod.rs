//! The few promises we need of a filesystem, and the real one.

pub mod fs;
pub mod seam;

pub use fs::FsDisk;
pub use seam::{Disk, DiskFile};
