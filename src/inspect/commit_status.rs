//! What is known offline of entries that not all logs hold: whether they are committed.
//!
//! A log alone does not show it: the commit index is not stored. Entries in a snapshot are committed. Entries that a
//! quorum of the voters holds durably are committed or will be, unless a log has a later term (Figure 8 of the paper).
//! Entries that fewer voters hold, with every voter's directory given, were not committed when the directories were
//! read. For all other entries more directories are needed.

use super::configs::is_quorum;
use super::directory::Directory;
use crate::types::{Index, NodeId, Position, Term};
use serde::Serialize;
use std::collections::BTreeSet;

/// Whether entries are committed, as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitStatus {
    /// A snapshot holds the entry.
    Committed,
    /// A quorum holds the entry: it is committed, or will be.
    Majority,
    /// Fewer than a quorum hold the entry: it may be replaced, and was never acknowledged.
    Uncommitted,
    /// Another entry is committed in its place: it will be replaced.
    Lost,
    /// It cannot be known from these directories.
    Unknown,
}

/// The entries of a log after the last position that all logs share.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The first of them.
    pub first: Position,
    /// The last of them.
    pub last: Position,
    /// Whether they are committed.
    pub standing: CommitStatus,
    /// The same as text, with the reason.
    pub what: String,
}

fn names(nodes: impl IntoIterator<Item = NodeId>) -> String {
    nodes.into_iter().map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

/// The entries from index `from` on in the log of `directories[which]`; `None` if there are none.
pub fn tail(directories: &[Directory], which: usize, from: Index) -> Option<Tail> {
    let here = &directories[which];
    let log = &here.replay.log;
    let first = log.iter().find(|(index, _)| *index >= from)?.0;
    let (first, last) = (log.position(first)?, log.position(log.last())?);
    let (standing, what) = judge(directories, here, first, last);
    Some(Tail { first, last, standing, what })
}

fn judge(directories: &[Directory], here: &Directory, first: Position, last: Position) -> (CommitStatus, String) {
    if here.committed().index >= last.index {
        return (CommitStatus::Committed, format!("committed: its snapshot reaches to {}", here.committed()));
    }
    let others = || directories.iter().filter(|other| !std::ptr::eq(*other, here));
    let mine = here.replay.log.get(first.index);
    let beyond = || others().filter(|other| other.committed().index >= first.index);
    let differs = |other: &&Directory| match (other.replay.log.get(first.index), mine) {
        (Some(theirs), Some(mine)) => !theirs.is(mine),
        _ => other.waypoints().any(|point| point.index == first.index && point.term != first.term),
    };
    if let Some(other) = beyond().find(differs) {
        let what = format!("not committed, and will be replaced: {} committed another entry there", other.name);
        return (CommitStatus::Lost, what);
    }
    if let Some(other) = beyond().find(|other| other.replay.log.get(first.index).is_none()) {
        let what = format!("cannot be known: of {} only a snapshot reaches there, no entries", other.name);
        return (CommitStatus::Unknown, what);
    }
    count(directories, here, first, last)
}

/// Judges the entries by the voters that hold them.
fn count(directories: &[Directory], here: &Directory, first: Position, last: Position) -> (CommitStatus, String) {
    let log = &here.replay.log;
    let Some(membership) = here.membership() else {
        return (CommitStatus::Unknown, "cannot be known: it has no configuration".to_owned());
    };
    let holders = |index: Index| -> BTreeSet<NodeId> {
        let same = |other: &&Directory| match (other.replay.log.get(index), log.get(index)) {
            (Some(theirs), Some(mine)) => theirs.is(mine),
            _ => false,
        };
        directories.iter().filter(same).filter_map(|other| Some(other.owner?.node)).collect()
    };
    let given: BTreeSet<NodeId> = directories.iter().filter_map(|other| Some(other.owner?.node)).collect();
    let absent: BTreeSet<NodeId> = membership.all_voters().filter(|voter| !given.contains(voter)).collect();
    // A log that holds an entry holds those before it, so later entries have fewer holders: a binary search works.
    let (mut low, mut high) = (first.index.0, last.index.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_quorum(membership, &holders(Index(middle))) { low = middle + 1 } else { high = middle }
    }
    let held = Index(low.saturating_sub(1));
    let later = directories.iter().filter_map(|other| other.replay.log.last_term()).max().unwrap_or(Term::ZERO);
    if held >= first.index && log.term(held).is_some_and(|term| term < later) {
        let what = format!("a quorum holds it up to {held}, but a log of term {later} is there, which may replace it");
        return (CommitStatus::Unknown, what);
    }
    if held >= last.index {
        let what = format!("on a quorum ({}): committed, or bound to be", names(holders(last.index)));
        return (CommitStatus::Majority, what);
    }
    let next = Index(low.max(first.index.0));
    let on = holders(next);
    let possible: BTreeSet<NodeId> = on.union(&absent).copied().collect();
    let from = if held >= first.index { format!("up to {held} on a quorum; behind that ") } else { String::new() };
    if is_quorum(membership, &possible) {
        let what = format!("{from}cannot be known without the directories of {}", names(absent));
        return (CommitStatus::Unknown, what);
    }
    let old = match log.last_term() {
        Some(term) if term < later => {
            format!(", of term {term} and older than term {later}: a later leader replaces it")
        }
        _ => String::new(),
    };
    (CommitStatus::Uncommitted, format!("{from}uncommitted: only on {} of {membership}{old}", names(on)))
}
