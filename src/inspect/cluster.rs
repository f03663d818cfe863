//! Checks the invariants between the data directories of a cluster: each term has one leader, logs match, and nodes
//! have committed the same entries and reached the same state.

use super::configs;
use super::directory::Directory;
use super::log::StoredEntry;
use super::violation::{Rule, Violations};
use crate::types::{Index, NodeId, Position, Term};
use std::collections::{BTreeMap, BTreeSet};

/// Checks all directories against each other. Violations within one directory are found by its [`Directory::replay`].
pub fn check_all(directories: &[Directory], out: &mut Violations) {
    check_votes(directories, out);
    check_term_starts(directories, out);
    for (n, one) in directories.iter().enumerate() {
        for other in &directories[n + 1..] {
            check_log_matching(one, other, out);
            check_committed_entries(one, other, out);
            check_snapshots(one, other, out);
            check_first_configurations(one, other, out);
        }
    }
    check_overwritten_entries(directories, out);
}

/// A node votes at most once in a term, in whichever of its directories.
fn check_votes(directories: &[Directory], out: &mut Violations) {
    let mut votes_cast: BTreeMap<(NodeId, Term), (NodeId, &str)> = BTreeMap::new();
    for directory in directories {
        let Some(owner) = directory.owner else { continue };
        for (term, vote) in &directory.replay.votes {
            let (first_vote, first_name) =
                *votes_cast.entry((owner.node, *term)).or_insert((vote.node, &directory.name));
            if first_vote != vote.node {
                let description = format!("{} voted for {first_vote} and for {} in term {term}", owner.node, vote.node);
                out.add(Rule::ElectionSafety, &[first_name, &directory.name], description);
            }
        }
    }
}

/// A term's first entry has the same index in every log: it is the first entry of that term's leader.
fn check_term_starts(directories: &[Directory], out: &mut Violations) {
    let mut term_starts: BTreeMap<Term, (Index, &str)> = BTreeMap::new();
    for directory in directories {
        let log = &directory.replay.log;
        for (index, entry) in log.iter() {
            let previous_term = log.term(index.prev()).filter(|term| *term < entry.term);
            // If the entry before is missing, the term may have begun in the gap.
            let is_term_start = previous_term.is_some_and(|term| term > Term::ZERO || index == Index(1));
            if !is_term_start {
                continue;
            }
            let (first_index, first_name) = *term_starts.entry(entry.term).or_insert((index, &directory.name));
            if first_index != index {
                let description =
                    format!("term {} begins at {first_index} and at {index}: it had two leaders", entry.term);
                out.add(Rule::ElectionSafety, &[first_name, &directory.name], description);
            }
        }
    }
}

/// Two logs hold the same entries up to the last position that both hold.
fn check_log_matching(one: &Directory, other: &Directory, out: &mut Violations) {
    let (a, b) = (&one.replay.log, &other.replay.log);
    let (from, upto) = (a.first().max(b.first()), a.last().min(b.last()));
    let both_entries = |index: u64| Some((Index(index), a.get(Index(index))?, b.get(Index(index))?));
    let Some((last, ..)) = (from.0..=upto.0).rev().filter_map(both_entries).find(|(_, a, b)| a.term == b.term) else {
        return;
    };
    let Some((at, x, y)) = (from.0..=last.0).filter_map(both_entries).find(|(_, a, b)| !a.is_same_entry(b)) else {
        return;
    };
    let places = [one.name.as_str(), other.name.as_str()];
    match x.term == y.term {
        true => report_conflicting_entries(at, x, y, &places, out),
        false => {
            let agreed_position = Position::new(last, a.get(last).map_or(Term::ZERO, |entry| entry.term));
            let description = format!(
                "both hold {agreed_position}, and before it one holds {at}@{}, the other {at}@{}",
                x.term, y.term
            );
            out.add(Rule::LogMatching, &places, description);
        }
    }
}

/// Reports two different entries with the same index and term.
fn report_conflicting_entries(
    at: Index,
    first: &StoredEntry,
    second: &StoredEntry,
    places: &[&str],
    out: &mut Violations,
) {
    let checksums_text = format!("checksums {:08x} and {:08x}", first.checksum, second.checksum);
    let description = format!("{at}@{} is two different entries ({checksums_text})", first.term);
    out.add(Rule::LogMatching, places, description);
    let description = format!(
        "term {} has two different entries at {at}: two leaders, or a leader that overwrote its own entry",
        first.term
    );
    out.add(Rule::ElectionSafety, places, description);
}

/// Two directories have committed the same entry at each index.
fn check_committed_entries(one: &Directory, other: &Directory, out: &mut Violations) {
    for (one, other) in [(one, other), (other, one)] {
        let committed_upto = other.committed_upto().index;
        for point in one.known_positions().filter(|point| point.index <= committed_upto) {
            let other_term =
                other.replay.log.term(point.index).filter(|term| *term > Term::ZERO && *term != point.term);
            if let Some(term) = other_term {
                let description = format!("one committed {point}, the other {}@{term}", point.index);
                out.add(Rule::StateMachineSafety, &[&one.name, &other.name], description);
            }
        }
    }
    let committed_upto = one.committed_upto().index.min(other.committed_upto().index);
    let (a, b) = (&one.replay.log, &other.replay.log);
    let both_entries = |index: u64| Some((Index(index), a.get(Index(index))?, b.get(Index(index))?));
    let compared_upto = committed_upto.min(a.last()).min(b.last());
    let mut common_entries = (a.first().max(b.first()).0..=compared_upto.0).filter_map(both_entries);
    if let Some((at, x, y)) = common_entries.find(|(_, x, y)| !x.is_same_entry(y)) {
        let description = format!("one committed {at}@{}, the other {at}@{} (up to {committed_upto})", x.term, y.term);
        out.add(Rule::StateMachineSafety, &[&one.name, &other.name], description);
    }
}

/// Snapshots at one index have the same position, state and configuration.
fn check_snapshots(one: &Directory, other: &Directory, out: &mut Violations) {
    let places = [one.name.as_str(), other.name.as_str()];
    for snapshot in &one.snapshots {
        for other_snapshot in
            other.snapshots.iter().filter(|other_snapshot| other_snapshot.position.index == snapshot.position.index)
        {
            let position = snapshot.position;
            if other_snapshot.position != position {
                let description = format!("one has a snapshot of {position}, the other of {}", other_snapshot.position);
                out.add(Rule::StateMachineSafety, &places, description);
            } else if other_snapshot.digest != snapshot.digest {
                let description = format!(
                    "the digests of the state at {position} differ: {:016x} and {:016x}",
                    snapshot.digest, other_snapshot.digest
                );
                out.add(Rule::Snapshots, &places, description);
            }
            let voters_and_outgoing = (&snapshot.membership.voters, &snapshot.membership.outgoing);
            if other_snapshot.position == position
                && (&other_snapshot.membership.voters, &other_snapshot.membership.outgoing) != voters_and_outgoing
            {
                let description =
                    format!("at {position} {} vote, and {}", snapshot.membership, other_snapshot.membership);
                out.add(Rule::Configurations, &places, description);
            }
        }
    }
}

/// The configuration that one log begins with equals the configuration that another log holds at the same index, if
/// that index is committed.
fn check_first_configurations(one: &Directory, other: &Directory, out: &mut Violations) {
    for (one, other) in [(one, other), (other, one)] {
        let Some(first) = one.replay.configurations.first().filter(|first| first.index > Index::ZERO) else {
            continue;
        };
        let counterpart = other.replay.configurations.iter().find(|configured| configured.index == first.index);
        let Some(counterpart) = counterpart.filter(|_| other.committed_upto().index >= first.index) else { continue };
        let (membership, other_membership) = (&first.membership, &counterpart.membership);
        if (&membership.voters, &membership.outgoing) != (&other_membership.voters, &other_membership.outgoing) {
            let description = format!("at {} {membership} vote, and {other_membership}", first.index);
            out.add(Rule::Configurations, &[&one.name, &other.name], description);
        }
    }
}

/// At one index, a term has at most one entry, even if the entry was overwritten later.
fn check_overwritten_entries(directories: &[Directory], out: &mut Violations) {
    let mut known_entries: BTreeMap<(Index, Term), (StoredEntry, &str)> = BTreeMap::new();
    for directory in directories {
        for (index, head) in &directory.replay.overwritten_entries {
            let (first, first_name) = *known_entries.entry((*index, head.term)).or_insert((*head, &directory.name));
            if !first.is_same_entry(head) {
                report_conflicting_entries(*index, &first, head, &[first_name, &directory.name], out);
            }
        }
    }
    for ((index, term), (head, place)) in &known_entries {
        let entries_at_index = directories.iter().filter_map(|other| Some((other, other.replay.log.get(*index)?)));
        let differs = |stored: &StoredEntry| stored.term == *term && !stored.is_same_entry(head);
        if let Some((other, stored)) = entries_at_index.into_iter().find(|(_, stored)| differs(stored)) {
            report_conflicting_entries(*index, head, stored, &[place, &other.name], out);
        }
    }
}

/// Finds configurations that were proposed before the previous one was committed.
///
/// A leader proposes a configuration only once the previous one is committed, and a quorum holds a committed entry
/// forever. So if a directory holds the second configuration, a quorum holds the first, in logs that are read
/// *afterwards*: `later` is read after `directories`, since nodes may be running. A pair of configurations is checked
/// only if the directory of every voter was inspected.
pub fn check_configuration_order(directories: &[Directory], later: &[Directory], out: &mut Violations) {
    for directory in directories {
        for pair in directory.replay.configurations.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            // A change that cannot be committed may be reverted.
            if first.membership.is_joint() && second.membership.voters == first.membership.outgoing {
                continue;
            }
            let Some(head) = directory.replay.log.get(first.index) else { continue };
            let holds_entry = |other: &&Directory| {
                let log = &other.replay.log;
                let is_same_entry = log.get(first.index).map(|stored| stored.is_same_entry(head));
                is_same_entry.unwrap_or(log.first() > first.index)
            };
            let nodes_where = |filter: &dyn Fn(&&Directory) -> bool| -> BTreeSet<NodeId> {
                later.iter().filter(|other| filter(other)).filter_map(|other| Some(other.owner?.node)).collect()
            };
            let (holders, inspected_nodes) = (nodes_where(&holds_entry), nodes_where(&|_| true));
            let all_voters_inspected = first.membership.all_voters().all(|voter| inspected_nodes.contains(&voter));
            if all_voters_inspected && !configs::is_quorum(&first.membership, &holders) {
                let description = format!(
                    "the configuration at {} was proposed while that at {} ({}) was not committed",
                    second.index, first.index, first.membership
                );
                out.add(Rule::Configurations, &[&directory.name], description);
            }
        }
    }
}
