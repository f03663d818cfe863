//! Orders to scrub, and the reports about the files that were checked.

use crate::snapshot::format as snapshot_format;
use crate::types::{Index, Position};
use crate::wal::format as wal_format;
use std::fmt;

/// How fast a pass reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubPace {
    /// A regular pass: so slow that nobody notices it.
    Background,
    /// A pass that an operator waits for.
    Requested,
}

/// An order to check a node's files. A new order ends the pass of the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubOrder {
    /// The number of the pass; each order of a process has a higher one.
    pub pass: u64,
    /// The number of the newest segment to check. That segment is sealed, and so are all earlier ones.
    pub sealed_upto: u64,
    /// The position of the snapshot to check; `None` if there is none.
    pub snapshot: Option<Position>,
    /// How fast the pass reads.
    pub pace: ScrubPace,
}

/// A file that a pass checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubbedFile {
    /// The sealed segment of the log with this number.
    Segment(u64),
    /// The snapshot at this position.
    Snapshot(Position),
}

impl fmt::Display for ScrubbedFile {
    /// Writes the name of the file, without its directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            ScrubbedFile::Segment(number) => wal_format::file_name(*number),
            ScrubbedFile::Snapshot(position) => snapshot_format::file_name(*position),
        })
    }
}

/// The first damage in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubDamage {
    /// The offset of the first bad byte.
    pub offset: u64,
    /// What is wrong there, in words.
    pub description: String,
    /// For a segment, the index of the first entry that the damage affects, if the log before the damage is known.
    pub first_index: Option<Index>,
}

/// A report of a pass. The reports of a pass come in the order of the variants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScrubReport {
    /// The pass has listed the files that it will check.
    PassBegan {
        /// The number of the pass.
        pass: u64,
        /// The size of all these files in bytes.
        total_bytes: u64,
    },
    /// The pass has checked a file.
    FileChecked {
        /// The number of the pass.
        pass: u64,
        /// The file.
        file: ScrubbedFile,
        /// The size of the file in bytes.
        bytes: u64,
        /// The first damage in the file; `None` if the file is intact, or was removed while it was read.
        damage: Option<ScrubDamage>,
    },
    /// The pass has ended.
    PassEnded {
        /// The number of the pass.
        pass: u64,
        /// How many files it could not check: they could not be opened, for example.
        unchecked_files: u64,
    },
}
