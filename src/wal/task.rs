//! The tasks of the log thread.

use crate::types::{Position, Write};

/// A task for the journal.
#[derive(Clone, Debug)]
pub enum Task {
    /// Make a write durable.
    Write(Write),
    /// Release the log up to a position.
    Release(Position),
}
