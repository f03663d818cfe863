//! The options of a journal.

use crate::disk::Meter;
use crate::types::feature_level::FEATURE_LEVEL_MAX;
use crate::types::{ClusterId, DiskId, Mutants, NodeId};
use std::num::NonZeroUsize;

/// The options with which a journal is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node that owns the journal. A journal of another node is rejected.
    pub node: NodeId,
    /// The cluster of the node, written to the header of each segment.
    pub cluster: ClusterId,
    /// The id of the data directory.
    // A part of every checksum's salt, so that a record of another directory of the same node is rejected.
    pub disk: DiskId,
    /// The size of a segment in bytes. Small enough that a release soon frees space, and large enough that a rotation,
    /// which takes three syncs, is rare.
    pub segment_bytes: u64,
    /// The size in bytes above which a batch is written in pieces, which bounds the memory for the buffer. Larger
    /// pieces gain little throughput and cost much latency.
    pub batch_bytes: usize,
    /// The policy for a last batch that is damaged after a power loss.
    pub torn_tail: TailPolicy,
    /// Whether damage is set aside at a start, so that the node gets what it lost from the other nodes
    /// ([`super::repair`]). Otherwise damage is a fault.
    pub repairs_damage: bool,
    /// The highest feature level that the program knows. A log of a higher level is refused.
    pub feature_level_max: u16,
    /// The rules that a test breaks on purpose; none in production.
    pub mutants: Mutants,
}

/// How a journal is read when it is opened. The mode affects only the speed of a start, never its result.
#[derive(Clone, Copy, Debug)]
pub struct ReadMode<'a> {
    /// The number of threads that verify checksums, the caller's included. With 1, no other thread is started.
    pub thread_count: NonZeroUsize,
    /// Counts the bytes that were read, for a progress report.
    pub meter: &'a Meter,
}

/// The policy for a damaged last batch when nothing proves that it had been synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TailPolicy {
    /// Cuts off the batch. Every power cut leaves such a batch, and a cluster whose nodes all stop for it would not
    /// recover by itself from a power cut of the whole site.
    #[default]
    Cut,
    /// Refuses to start, unless the sync marker proves that the batch was never synced: a marker from this boot of the
    /// kernel covers everything that was acknowledged.
    Refuse,
}

impl Options {
    /// The default of [`Options::segment_bytes`]: 64 MiB.
    pub const SEGMENT_BYTES: u64 = 64 << 20;
    /// The default of [`Options::batch_bytes`]: 2 MiB.
    ///
    /// An entry is never split, so a piece can be larger by one entry.
    pub const BATCH_BYTES: usize = 2 << 20;

    /// The default options for a node.
    pub fn new(node: NodeId, cluster: ClusterId, disk: DiskId) -> Options {
        Options {
            node,
            cluster,
            disk,
            segment_bytes: Options::SEGMENT_BYTES,
            batch_bytes: Options::BATCH_BYTES,
            torn_tail: TailPolicy::Cut,
            repairs_damage: false,
            feature_level_max: FEATURE_LEVEL_MAX,
            mutants: Mutants::NONE,
        }
    }
}
