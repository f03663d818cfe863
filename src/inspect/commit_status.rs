//! Classifies entries that not all logs hold: whether they are committed, as far as stopped directories show.
//!
//! A log alone does not show this, since the commit index is not stored. Entries in a snapshot are committed. Entries
//! that a quorum of the voters holds durably are committed or will be, unless a log has a later term (Figure 8 of the
//! paper). Entries that fewer voters hold, with every voter's directory given, were not committed when the directories
//! were read. For all other entries the status is unknown without more directories.

use super::configs::is_quorum;
use super::directory::Directory;
use crate::types::{Index, NodeId, Position, Term};
use serde::Serialize;
use std::collections::BTreeSet;

/// Whether the entries at the end of a log are committed, as far as the inspected directories show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitStatus {
    /// A snapshot contains the entry, so it is committed.
    Committed,
    /// A quorum holds the entry: it is committed, or will be.
    Majority,
    /// Fewer than a quorum hold the entry: it may be replaced, and was never acknowledged.
    Uncommitted,
    /// Another entry is committed at this entry's index: this entry will be replaced.
    Lost,
    /// These directories do not show whether the entry is committed: a voter's directory is missing, or a log has a
    /// later term.
    Unknown,
}

/// The end of one log: its entries after the last position that all compared logs share.
#[derive(Clone, Debug)]
pub struct LogTail {
    /// The position of the first entry of the tail.
    pub first: Position,
    /// The position of the last entry of the tail.
    pub last: Position,
    /// Whether the entries of the tail are committed.
    pub status: CommitStatus,
    /// The status as text, with the reason.
    pub status_text: String,
}

fn join_names(nodes: impl IntoIterator<Item = NodeId>) -> String {
    nodes.into_iter().map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

/// Finds and classifies the entries from index `from` on in the log of `directories[own_index]`; `None` if there are
/// none.
pub fn find_tail(directories: &[Directory], own_index: usize, from: Index) -> Option<LogTail> {
    let own_directory = &directories[own_index];
    let log = &own_directory.replay.log;
    let first = log.iter().find(|(index, _)| *index >= from)?.0;
    let (first, last) = (log.position(first)?, log.position(log.last())?);
    let (status, status_text) = classify(directories, own_directory, first, last);
    Some(LogTail { first, last, status, status_text })
}

fn classify(
    directories: &[Directory],
    own_directory: &Directory,
    first: Position,
    last: Position,
) -> (CommitStatus, String) {
    if own_directory.committed_upto().index >= last.index {
        return (
            CommitStatus::Committed,
            format!("committed: its snapshot reaches to {}", own_directory.committed_upto()),
        );
    }
    let other_directories = || directories.iter().filter(|other| !std::ptr::eq(*other, own_directory));
    let own_entry = own_directory.replay.log.get(first.index);
    // The other directories that have committed an entry at index `first.index`.
    let committed_directories = || other_directories().filter(|other| other.committed_upto().index >= first.index);
    let differs = |other: &&Directory| match (other.replay.log.get(first.index), own_entry) {
        (Some(other_entry), Some(own_entry)) => !other_entry.is_same_entry(own_entry),
        _ => other.known_positions().any(|point| point.index == first.index && point.term != first.term),
    };
    if let Some(other) = committed_directories().find(differs) {
        let status_text = format!("not committed, and will be replaced: {} committed another entry there", other.name);
        return (CommitStatus::Lost, status_text);
    }
    if let Some(other) = committed_directories().find(|other| other.replay.log.get(first.index).is_none()) {
        let status_text = format!("cannot be known: of {} only a snapshot reaches there, no entries", other.name);
        return (CommitStatus::Unknown, status_text);
    }
    classify_by_holders(directories, own_directory, first, last)
}

/// Classifies the entries by the voters that hold them.
fn classify_by_holders(
    directories: &[Directory],
    own_directory: &Directory,
    first: Position,
    last: Position,
) -> (CommitStatus, String) {
    let log = &own_directory.replay.log;
    let Some(membership) = own_directory.membership() else {
        return (CommitStatus::Unknown, "cannot be known: it has no configuration".to_owned());
    };
    let holders = |index: Index| -> BTreeSet<NodeId> {
        let holds_entry = |other: &&Directory| match (other.replay.log.get(index), log.get(index)) {
            (Some(theirs), Some(own_entry)) => theirs.is_same_entry(own_entry),
            _ => false,
        };
        directories.iter().filter(holds_entry).filter_map(|other| Some(other.owner?.node)).collect()
    };
    let inspected_nodes: BTreeSet<NodeId> = directories.iter().filter_map(|other| Some(other.owner?.node)).collect();
    let absent_voters: BTreeSet<NodeId> =
        membership.all_voters().filter(|voter| !inspected_nodes.contains(voter)).collect();
    // A log that holds an entry also holds all earlier ones. So later entries have fewer holders, and a binary search
    // finds the last entry that a quorum holds.
    let (mut low, mut high) = (first.index.0, last.index.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_quorum(membership, &holders(Index(middle))) { low = middle + 1 } else { high = middle }
    }
    let quorum_upto = Index(low.saturating_sub(1));
    let latest_term = directories.iter().filter_map(|other| other.replay.log.last_term()).max().unwrap_or(Term::ZERO);
    if quorum_upto >= first.index && log.term(quorum_upto).is_some_and(|term| term < latest_term) {
        let status_text = format!(
            "a quorum holds it up to {quorum_upto}, but a log of term {latest_term} is there, which may replace it"
        );
        return (CommitStatus::Unknown, status_text);
    }
    if quorum_upto >= last.index {
        let status_text = format!("on a quorum ({}): committed, or bound to be", join_names(holders(last.index)));
        return (CommitStatus::Majority, status_text);
    }
    let first_without_quorum = Index(low.max(first.index.0));
    let minority_holders = holders(first_without_quorum);
    let possible_holders: BTreeSet<NodeId> = minority_holders.union(&absent_voters).copied().collect();
    let quorum_text = if quorum_upto >= first.index {
        format!("up to {quorum_upto} on a quorum; behind that ")
    } else {
        String::new()
    };
    if is_quorum(membership, &possible_holders) {
        let status_text =
            format!("{quorum_text}cannot be known without the directories of {}", join_names(absent_voters));
        return (CommitStatus::Unknown, status_text);
    }
    let stale_term_text = match log.last_term() {
        Some(term) if term < latest_term => {
            format!(", of term {term} and older than term {latest_term}: a later leader replaces it")
        }
        _ => String::new(),
    };
    (
        CommitStatus::Uncommitted,
        format!("{quorum_text}uncommitted: only on {} of {membership}{stale_term_text}", join_names(minority_holders)),
    )
}
