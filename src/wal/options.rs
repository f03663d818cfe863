//! Every knob of the journal, and why it stands where it does.

use crate::disk::Meter;
use crate::types::{ClusterId, DiskId, Mutants, NodeId};
use std::num::NonZeroUsize;

/// What a journal is told when it is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose journal it is.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// On which disk: the data directory's own name.
    pub disk: DiskId,
    /// How large a segment is. Small enough that a release frees room soon, large enough that a
    /// rotation, three syncs, is one sync in thousands.
    pub segment_bytes: u64,
    /// A batch larger than this goes to the file in pieces: it bounds memory, and past it bandwidth
    /// gains little and latency much.
    pub batch_bytes: usize,
    /// What to do about a last batch that is damaged after a power loss.
    pub torn_tail: TailPolicy,
    /// Which rule, if any, is broken on purpose.
    pub mutants: Mutants,
}

/// How a journal is read when it is opened. What it is found to hold is the same however that is done.
#[derive(Clone, Copy, Debug)]
pub struct ReadMode<'a> {
    /// By how many threads. One is the caller's own: then no other is begun.
    pub threads: NonZeroUsize,
    /// Where it is counted how far it is.
    pub meter: &'a Meter,
}

/// What a start does about a damaged last batch, when nothing proves that it had been synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TailPolicy {
    /// Cuts it off: every power cut leaves such a batch, and a cluster that stops for it does not come back
    /// from a power cut of the whole site.
    #[default]
    Cut,
    /// Refuses to start, unless the side file proves that it was never synced: it was written in this run of
    /// the kernel, and so has all that was acknowledged.
    Refuse,
}

impl Options {
    /// How large a segment is unless told otherwise.
    pub const SEGMENT_BYTES: u64 = 64 << 20;
    /// How large a piece of a batch is, about.
    pub const BATCH_BYTES: usize = 2 << 20;

    /// The defaults, for that node.
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
