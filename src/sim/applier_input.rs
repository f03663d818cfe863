//! The inputs of a simulated state machine.

use crate::types::{ClusterTime, Entry};
use bytes::Bytes;

/// An input of a state machine.
pub enum ApplierInput {
    /// Committed entries.
    Entries(Vec<Entry>),
    /// A query, with its ticket.
    Query(u64, Bytes, ClusterTime),
}
