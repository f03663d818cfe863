//! The result of a check of the simulated world.

/// The result of a check; the error describes the violation.
pub type Result<T> = std::result::Result<T, String>;
