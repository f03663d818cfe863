//! The state of a world's snapshots, and their counts.

use crate::types::{Index, NodeId, Position};
use std::collections::BTreeMap;

/// Counts of a world's snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotCounts {
    /// Snapshots taken.
    pub taken: u64,
    /// Snapshots received from another node and restored, in the storm or in calm.
    pub received: u64,
    /// Those restored in calm, when nodes only have to catch up.
    pub caught_up: u64,
    /// Snapshots found damaged: on reading them back; on receiving them; and when the sender reads its own file again.
    pub damaged: [u64; 3],
}

/// The state of the snapshots of a world.
#[derive(Debug, Default)]
pub struct Snapshots {
    pub(super) became: SnapshotCounts,
    /// Machines with a flipped bit in the snapshot of that index, and no known newer snapshot.
    pub(super) rotten: BTreeMap<NodeId, Index>,
    /// The bytes sent in calm, by sender, receiver, run of their link, and snapshot.
    pub(super) sent: BTreeMap<(NodeId, NodeId, u64, Position), u64>,
}
