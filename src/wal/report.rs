//! The journal's reports to the node, and the faults that stop it.

use crate::types::{Index, WriteId};
use bytes::Bytes;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// The result of one sync.
///
/// The journal reports facts and decides nothing: which acknowledgments may leave is consensus's to say. A report is
/// made only after a sync that succeeded; after a failed one there is a [`Fault`], and no report ever again.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every write up to this one is durable.
    // An id and not an index: a truncation lowers indexes, while ids only grow.
    pub durable: WriteId,
    /// Segments that will never change again, oldest first.
    pub sealed: Vec<Sealed>,
    /// The number of entries in this sync.
    pub entries: u64,
    /// The number of bytes in this sync.
    pub bytes: u64,
    /// The duration, as measured by the driver.
    pub took: Duration,
    /// About how many more bytes the log can take, with all free disk space and the reserve.
    pub room: u64,
}

/// A segment that will never change again, with its mapped file.
///
/// It holds the mapping by reference count. As long as any clone lives, the journal does not reuse the file.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The number of the segment, as in its file's name.
    pub segment: u64,
    /// The entries it holds; later segments may replace the last of them.
    pub entries: RangeInclusive<Index>,
    /// Sparse index: (index, offset) of some of its entries, ascending, a few KiB apart.
    pub marks: Arc<[(Index, u64)]>,
    /// The mapped file.
    pub bytes: Bytes,
}

/// A fault that needs the operator. The node stops, because going on could break a promise.
///
/// Sorted by what the operator must do: replace the disk, look at the disk, free room, or correct an option.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Durable data is damaged or missing.
    #[error("{file}: byte {offset}: {what}; affected entries: {lost}. {advice}")]
    Corrupt {
        /// The file.
        file: String,
        /// The offset in the file.
        offset: u64,
        /// What is wrong.
        what: String,
        /// The affected entries, in words.
        lost: String,
        /// Advice for the operator.
        advice: &'static str,
    },
    /// A write or sync failed. The node must not answer any request after it.
    #[error("{action} {file}: {source}; it is unknown which bytes reached the disk, so this node must stop")]
    Io {
        /// The failed action.
        action: &'static str,
        /// The file it was done to.
        file: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No room for the next segment. Everything acknowledged is safe.
    #[error("no space left for {file}; no acknowledged write is lost. Free disk space and start the node again")]
    Full {
        /// The file that could not be made.
        file: String,
    },
    /// The directory belongs to another node, is in use, or has an unknown format.
    #[error("{0}")]
    Foreign(String),
}

/// The advice to the operator when the log is damaged.
pub const ADVICE: &str = "This disk has lost data that it had acknowledged. Leave the node down: the other nodes \
continue while they are a majority. Restore a copy made since this node last ran; or replace it by an empty \
directory: drave member remove ID, then drave member add ID=HOST:PORT, then drave serve --join with an empty --data. \
Never start an empty or older directory without these steps: it could vote twice in a term, and acknowledged writes \
could be lost. If the other nodes are no majority: drave recover. Nothing was changed.";

impl Fault {
    /// The exit code: 5 for damaged data, 74 for I/O, 78 for configuration.
    pub fn exit_code(&self) -> i32 {
        match self {
            Fault::Corrupt { .. } => 5,
            Fault::Io { .. } | Fault::Full { .. } => 74,
            Fault::Foreign(_) => 78,
        }
    }
}

/// The result of a journal operation.
pub type Result<T> = std::result::Result<T, Fault>;
