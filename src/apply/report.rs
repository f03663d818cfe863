//! The result of applying a batch of entries.

use crate::api::Outcome;
use crate::types::{ClusterTime, Index, Position};

/// The result of applying a batch of entries.
#[derive(Clone, Debug)]
pub struct Report {
    /// The last applied index.
    pub upto: Index,
    /// The cluster time of that entry.
    pub time: ClusterTime,
    /// The outcome of each operation of the batch, in log order. Entries without an operation have none.
    pub outcomes: Vec<(Position, Outcome)>,
    /// A digest of machine and sessions as of `upto`.
    pub digest: u64,
    /// Sessions open as of `upto`.
    pub sessions: u64,
    /// Operations of the batch that had been applied before.
    pub duplicates: u64,
    /// When the next expiration is due: the leader should append an entry by then.
    pub due: Option<ClusterTime>,
}
