//! The applier's report to the node after each batch of entries.

use crate::api::Outcome;
use crate::types::{ClusterTime, Index, Position};

/// The result of applying a batch of entries, which may be empty.
#[derive(Clone, Debug)]
pub struct Report {
    /// The last applied index: that of the batch's last entry, unless the batch is empty.
    pub upto: Index,
    /// The cluster time of the last applied entry.
    pub time: ClusterTime,
    /// The outcome of each operation of the batch, in log order. Entries without an operation have none.
    pub outcomes: Vec<(Position, Outcome)>,
    /// A digest of machine and sessions as of `upto`.
    pub digest: u64,
    /// Number of sessions open as of `upto`.
    pub sessions: u64,
    /// Number of commands of the batch that had been executed before, and got the stored answer.
    pub duplicates: u64,
    /// The cluster time at which the machine's next key expires; `None` if no key has a deadline. The leader should
    /// append an entry by then.
    pub next_deadline: Option<ClusterTime>,
}
