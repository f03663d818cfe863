//! What the journal tells the node, and why it may have to stop.

use crate::types::{Index, WriteId};
use bytes::Bytes;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// What one sync made durable.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every write up to this one is on the disk.
    pub durable: WriteId,
    /// Segments that will never change again, oldest first.
    pub sealed: Vec<Sealed>,
    /// How many entries this sync covered.
    pub entries: u64,
    /// How many bytes it covered.
    pub bytes: u64,
    /// How long it took, as the driver measured it.
    pub took: Duration,
    /// How many bytes more the log can take, about: with all that the disk has room for, and with the reserve.
    pub room: u64,
}

/// A segment that will never change again: its file, mapped, and what it holds.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The number of the segment, as in its file's name.
    pub segment: u64,
    /// The entries it holds; later segments may replace the last of them.
    pub entries: RangeInclusive<Index>,
    /// Where to begin looking: (index, offset) of some of its entries, ascending, a few KiB apart.
    pub marks: Arc<[(Index, u64)]>,
    /// The mapped file.
    pub bytes: Bytes,
}

/// The operator must act. The node stops, because going on could break a promise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// What was promised is damaged or gone.
    #[error("{file}: byte {offset}: {what}; entries {lost}. {advice}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
        /// Which entries are concerned, in words.
        lost: String,
        /// What to do.
        advice: &'static str,
    },
    /// A write or sync failed. Nothing may be answered after it.
    #[error("{action} {file}: {source}; what reached the disk is unknown, so this node must not go on")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// No room for the next segment; what was acknowledged is safe.
    #[error("no space left for {file}; nothing acknowledged is lost. Make room and start the node again")]
    Full {
        /// The file that could not be made.
        file: String,
    },
    /// The directory is another's, in use, or of a format this program does not know.
    #[error("{0}")]
    Foreign(String),
}

/// What the operator is told when the log is damaged.
pub const ADVICE: &str = "This disk has lost what it had confirmed. Leave the node down: the others go on while they \
are a majority. Bring back a copy made since it last ran; or give its place to an empty directory: drave member remove \
ID, then drave member add ID=HOST:PORT, then drave serve --join with an empty --data. Never start an empty or older \
directory without that, since it would vote anew and acknowledged writes could be lost. If the others are no majority: \
drave recover. Nothing was changed.";

impl Fault {
    /// The exit code for it: 5 damaged data, 74 I/O, 78 configuration.
    pub fn exit_code(&self) -> i32 {
        match self {
            Fault::Corrupt { .. } => 5,
            Fault::Io { .. } | Fault::Full { .. } => 74,
            Fault::Foreign(_) => 78,
        }
    }
}

/// What touching the journal comes to.
pub type Result<T> = std::result::Result<T, Fault>;
