//! What applying a batch of entries came to.

use crate::api::Outcome;
use crate::types::{ClusterTime, Index, Position};

/// What applying a batch of entries came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Everything up to here is applied.
    pub upto: Index,
    /// The cluster's time in that entry.
    pub time: ClusterTime,
    /// What each operation of the batch came to, in order. Entries that hold none are not here.
    pub outcomes: Vec<(Position, Outcome)>,
    /// A digest of machine and sessions as of `upto`.
    pub digest: u64,
    /// Sessions open as of `upto`.
    pub sessions: u64,
    /// Operations of the batch that had been applied before.
    pub duplicates: u64,
    /// By when an entry should come, for something to end that has a deadline.
    pub due: Option<ClusterTime>,
}
