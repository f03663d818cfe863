//! The few promises we need of a filesystem, and the real one.

pub mod seam;

pub use seam::{Disk, DiskFile};
