//! The journal's reports to the node, and the faults that stop it.

use crate::types::{Index, Term, WriteId};
use bytes::Bytes;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// The result of one sync, for the node.
///
/// Consensus decides which acknowledgments may be sent because of the sync. A report is made only after a successful
/// sync; after a failed sync the journal returns a [`Fault`], and never a report again.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every write up to this one is durable.
    // An id and not an index: a truncation lowers indexes, while ids only grow.
    pub last_durable: WriteId,
    /// The segments that were sealed since the last report, oldest first.
    pub sealed_segments: Vec<SealedSegment>,
    /// The number of entries that were appended since the last report.
    pub entry_count: u64,
    /// The number of bytes that were written to segments since the last report.
    pub written_bytes: u64,
    /// The duration of the sync, which the log thread measures; zero until it is set.
    pub sync_duration: Duration,
    /// About how many more bytes the log can store until the free disk space and the reserve are used up.
    pub room_bytes: u64,
}

impl Report {
    /// An empty report, to which the journal adds until the next sync.
    pub(super) fn empty() -> Report {
        Report {
            last_durable: WriteId::ZERO,
            sealed_segments: Vec::new(),
            entry_count: 0,
            written_bytes: 0,
            sync_duration: Duration::ZERO,
            room_bytes: u64::MAX,
        }
    }
}

/// A segment that will never change again, with its mapped file.
///
/// The mapping has a reference count. As long as a clone exists, the journal does not reuse the file.
#[derive(Clone, Debug)]
pub struct SealedSegment {
    /// The number of the segment, as in its file's name.
    pub segment: u64,
    /// The range of the segment's entries; later segments may replace the last of them.
    pub index_range: RangeInclusive<Index>,
    /// The log index and file offset of some of the entries, ascending, a few KiB apart.
    pub sparse_index: Arc<[(Index, u64)]>,
    /// The mapped bytes of the file.
    pub bytes: Bytes,
}

/// The term and size of an entry, for consensus.
///
/// Consensus needs only terms, and sizes to count bytes in flight. Payloads stay in the mapped files, so that a start
/// does not need memory for the whole log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntrySummary {
    /// The term of the entry; its index follows from its place in [`super::recover::RecoveredLog::entries`].
    pub term: Term,
    /// The size of the entry in bytes, as `codec` encodes it.
    pub bytes: u32,
}

/// A fault that needs the operator. The node stops, because it could lose acknowledged writes if it continued.
///
/// There is one variant for each action of the operator: replace the disk, check the disk, free space, or correct an
/// option.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Durable data is damaged or missing.
    #[error("{file}: byte {offset}: {description}; affected entries: {lost}. {advice}")]
    Corrupt {
        /// The name of the damaged or missing file.
        file: String,
        /// The offset of the first bad byte in the file; 0 if the file is missing.
        offset: u64,
        /// What is wrong with the file, in words: for example "the log ends here".
        description: String,
        /// The affected entries, in words: for example "812 and later".
        lost: String,
        /// What the operator should do.
        advice: &'static str,
    },
    /// A write or sync failed. The node must not answer any request after it.
    #[error("{action} {file}: {source}; it is unknown which bytes reached the disk, so this node must stop")]
    Io {
        /// The failed action, as a verb: for example "sync".
        action: &'static str,
        /// The file or directory of the failed action.
        file: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The disk has no space for a file, or the process has too many open files. Everything acknowledged is safe.
    #[error("no space left for {file}; no acknowledged write is lost. Free disk space and start the node again")]
    Full {
        /// The file that could not be made.
        file: String,
    },
    /// The directory belongs to another node, is in use, or has an unknown format.
    #[error("{0}")]
    Foreign(String),
}

/// The damage that a start has repaired, for the node's status.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RepairedDamage {
    /// The name of the damaged or missing file.
    pub file: String,
    /// The offset of the first bad byte in the file; 0 if the file is missing.
    pub offset: u64,
    /// What is wrong with the file, in words.
    pub description: String,
    /// The affected entries, in words.
    pub lost: String,
}

/// The advice to the operator when the log is damaged.
pub const DAMAGE_ADVICE: &str = "This disk has lost data that it had acknowledged. Leave the node down: the other \
nodes continue while they are a majority. Restore a copy made since this node last ran; or replace it by an empty \
directory: drave member remove ID, then drave member add ID=HOST:PORT, then drave serve --join with an empty --data. \
Never start an empty or older directory without these steps: it could vote twice in a term, and acknowledged writes \
could be lost. If the other nodes are no majority: drave recover. Nothing was changed.";

/// The advice to the operator when the options forbid to cut a torn tail. Such a log is not repaired: after a power loss
/// of a whole site, every node may have a torn tail, and none could vote for another one.
pub const TORN_TAIL_ADVICE: &str = "Every power loss leaves such a batch, which was never acknowledged: after one, start \
the node with --on-torn-tail cut. Otherwise this disk may have lost data that it had acknowledged: leave the node down, \
and replace it by an empty directory: drave member remove ID, then drave member add ID=HOST:PORT, then drave serve \
--join with an empty --data. Nothing was changed.";

impl Fault {
    /// The fault of a file or record in a format that this program does not know; `subject` names it, with its version.
    pub fn unknown_format(subject: &str, known: u32) -> Fault {
        Fault::Foreign(format!(
            "{subject}, and this program knows up to {known}: a newer drave wrote it. Start the newer program; nothing \
             was changed."
        ))
    }

    /// The fault of a log whose feature level this program does not know.
    pub fn unknown_feature_level(level: u16, known: u16) -> Fault {
        Fault::unknown_format(&format!("the log has feature level {level}"), u32::from(known))
    }

    /// The same damage, with other advice for the operator.
    pub(super) fn with_advice(self, advice: &'static str) -> Fault {
        match self {
            Fault::Corrupt { file, offset, description, lost, .. } => {
                Fault::Corrupt { file, offset, description, lost, advice }
            }
            other => other,
        }
    }

    /// The damage that the fault describes; `None` for a fault of another kind.
    pub fn damage(&self) -> Option<RepairedDamage> {
        let Fault::Corrupt { file, offset, description, lost, .. } = self else { return None };
        let (file, description, lost) = (file.clone(), description.clone(), lost.clone());
        Some(RepairedDamage { file, offset: *offset, description, lost })
    }

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
