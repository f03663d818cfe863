//! The tasks of the log thread.

use crate::types::{Position, Write};

/// A task for the journal.
///
/// There are two only, and they share one channel: a release must not overtake the writes before it, whose entries it
/// may remove.
#[derive(Clone, Debug)]
pub enum Task {
    /// Make a write durable.
    Write(Write),
    /// Release the log up to a position.
    Release(Position),
}
