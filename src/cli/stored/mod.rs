//! Compares and checks the contents of data directories offline: `drave diff` and `drave check`.

pub mod across;
pub mod check;
pub mod configs;
pub mod diff;
pub mod directory;
pub mod log;
pub mod replay;
pub mod standing;
pub mod violation;
