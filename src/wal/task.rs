//! What the log thread is told.

use crate::types::{Position, Write};

/// One thing for the journal to do.
#[derive(Clone, Debug)]
pub enum Task {
    /// Make this durable.
    Write(Write),
    /// Everything up to there may go.
    Release(Position),
}
