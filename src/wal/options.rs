//! The journal's options, with the reasons for their defaults.

use crate::disk::Meter;
use crate::types::{ClusterId, DiskId, Mutants, NodeId};
use std::num::NonZeroUsize;

/// The options with which a journal is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node that owns the journal.
    pub node: NodeId,
    /// The cluster of the node.
    pub cluster: ClusterId,
    /// The id of the data directory.
    // A part of every checksum's salt: records of another directory fail it, although they are of the same node.
    pub disk: DiskId,
    /// The size of a segment in bytes. Small enough that a release frees room soon, large enough that a rotation, which
    /// takes three syncs, is rare among thousands of syncs.
    pub segment_bytes: u64,
    /// The size in bytes above which a batch is written in pieces. It bounds memory; above it, throughput gains little
    /// and latency suffers much.
    pub batch_bytes: usize,
    /// The policy for a last batch that is damaged after a power loss.
    pub torn_tail: TailPolicy,
    /// The rules that are broken on purpose.
    pub mutants: Mutants,
}

/// How a journal is read when it is opened. The result does not depend on it.
///
/// Apart from [`Options`], since it says how fast a start is and never what it finds.
#[derive(Clone, Copy, Debug)]
pub struct ReadMode<'a> {
    /// The number of threads, with the caller's own: with 1, no other is started.
    pub threads: NonZeroUsize,
    /// Counts the progress.
    pub meter: &'a Meter,
}

/// The policy for a damaged last batch when nothing proves that it had been synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TailPolicy {
    /// Cuts it off: every power cut leaves such a batch, and a cluster whose nodes stop for it does not come back from
    /// a power cut of the whole site.
    #[default]
    Cut,
    /// Refuses to start, unless the sync marker proves that the batch was never synced: a marker from this boot of the
    /// kernel covers all that was acknowledged.
    Refuse,
}

impl Options {
    /// The default size of a segment.
    pub const SEGMENT_BYTES: u64 = 64 << 20;
    /// The approximate size of a batch's piece.
    ///
    /// An entry of the maximum size is never split, so a piece can be larger by one entry.
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
            mutants: Mutants::NONE,
        }
    }
}
