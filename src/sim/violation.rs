//! The result type that all checks of the simulated world share.

/// The result of a check; the error describes the violation.
pub type Result<T> = std::result::Result<T, String>;
