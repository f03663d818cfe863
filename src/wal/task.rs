//! The tasks that the reactor sends to the log thread.

use crate::types::{Position, Write};

/// A task for the journal.
///
/// Both kinds share one channel: a release must not overtake the writes before it, whose entries it may remove.
#[derive(Clone, Debug)]
pub enum Task {
    /// Append a write, and make it durable with the next sync.
    Write(Write),
    /// Release the log up to a position, which a durable snapshot covers.
    Release {
        /// The position up to which the log is discarded.
        upto: Position,
        /// Whether the files of released segments may be reused: not if one of them is damaged.
        reuses_files: bool,
    },
}
