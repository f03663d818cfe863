//! The checks' record of one node: the contents of its disk, and the node's claims about these contents.

use crate::types::{Entry, HardState, Index, Membership, Position, Term, Write};

/// An entry's term and checksum, by which the checks compare the entries of two logs.
pub type EntryStamp = (Term, u32);

/// The contents of one disk: either the durable contents, or the contents once all writes are synced.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskImage {
    /// The last written term and vote.
    pub hard_state: HardState,
    /// The index up to which the log was discarded. The images in [`NodeHistory`] still hold the discarded entries.
    pub base: Index,
    /// The entries from index 1 on; in an image just read from a disk, the entries after `base`.
    pub log: Vec<EntryStamp>,
}

impl DiskImage {
    /// The position of the last entry; [`Position::ZERO`] if there is none.
    pub(super) fn last_position(&self) -> Position {
        self.log.last().map_or(Position::ZERO, |(term, _)| Position::new(Index(self.log.len() as u64), *term))
    }

    /// Applies a write: its snapshot point, term and vote, and entries.
    pub(super) fn apply(&mut self, write: &Write, committed_log: &[EntryStamp]) {
        self.replace_log(write, committed_log);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        for entry in &write.entries {
            self.append(entry);
        }
    }

    /// If the write begins the log after a snapshot, replaces the log by the committed entries that the snapshot
    /// covers.
    pub(super) fn replace_log(&mut self, write: &Write, committed_log: &[EntryStamp]) {
        if let Some(base) = &write.base {
            self.log = committed_log[..base.position.index.0 as usize].to_vec();
        }
    }

    /// Appends an entry, after truncating the log at the entry's index.
    pub(super) fn append(&mut self, entry: &Entry) {
        self.log.truncate(entry.position.index.0 as usize - 1);
        self.log.push((entry.position.term, entry.checksum));
    }
}

/// What a node's sent messages have claimed about the contents of its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct DiskClaims {
    /// The highest term in which the node sent a message.
    pub(super) term: Term,
    /// The highest log position that the node claimed to hold.
    pub(super) position: Position,
}

impl DiskClaims {
    /// Whether both the term and the position are at least those of `other`.
    pub(super) fn covers(&self, other: &DiskClaims) -> bool {
        self.term >= other.term && self.position >= other.position
    }
}

/// The history of one node over all its process starts.
#[derive(Clone, Debug, Default)]
pub struct NodeHistory {
    /// The contents of the disk that a power loss would leave for certain.
    pub(super) durable_image: DiskImage,
    /// Writes that are not synced yet, in order.
    pub(super) unsynced_writes: Vec<Write>,
    /// `durable_image` with all unsynced writes applied.
    pub(super) written_image: DiskImage,
    /// The node's commit index at the last check; zero if its process has not been checked since its start.
    pub(super) commit: Index,
    /// The term that the node led at the last check; `None` if the node was no leader.
    pub(super) leading_term: Option<Term>,
    /// The configuration that the node used at the last check, with its index. In one step the node may commit by
    /// this configuration and then adopt another.
    pub(super) last_configuration: (Index, Membership),
    /// The contents of the disk before it was emptied, or before an older copy was restored. `None` if there was no
    /// such loss, or once the disk holds as many entries again.
    pub(super) lost_image: Option<DiskImage>,
    /// The node's claims over all its process starts on this disk.
    pub(super) claims: DiskClaims,
    /// The claims that peers have reported back to the node since an older copy of its disk was restored; `None` if
    /// none was.
    pub(super) relearned_claims: Option<DiskClaims>,
    /// The sync that the disk has falsely reported as done, or will falsely report; `None` if there is none.
    pub(super) false_sync: Option<FalseSync>,
}

impl NodeHistory {
    /// Adds claims that the node makes by its present log and term. Peers need not report these claims back
    /// to the node: if these claims cover its earlier claims, the node has again what its disk had lost.
    pub(super) fn add_claims(&mut self, added_claims: DiskClaims) {
        if let Some(relearned_claims) = &mut self.relearned_claims {
            relearned_claims.position = relearned_claims.position.max(added_claims.position);
            // In a term that it had claimed before, the node may have given a vote that it has lost.
            if added_claims.term > self.claims.term {
                relearned_claims.term = added_claims.term;
            }
        }
        self.claims.term = self.claims.term.max(added_claims.term);
        self.claims.position = self.claims.position.max(added_claims.position);
    }
}

/// A sync that a disk reported as done and did not do. A power loss may lose everything written since.
#[derive(Clone, Debug)]
pub(super) struct FalseSync {
    /// The durable contents of the disk before the false sync.
    pub(super) image_before: DiskImage,
    /// The writes reported as synced since the false sync.
    pub(super) writes_since: Vec<Write>,
    /// Whether the machine has lost power since the false sync.
    pub(super) power_lost: bool,
}
