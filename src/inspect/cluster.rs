//! The invariants between data directories: one leader per term, one log, one history, one state.

use super::configs;
use super::directory::Directory;
use super::log::StoredEntry;
use super::violation::{Rule, Violations};
use crate::types::{Index, NodeId, Position, Term};
use std::collections::{BTreeMap, BTreeSet};

/// Checks all directories together. The violations within each one are in its replay.
pub fn judge(directories: &[Directory], out: &mut Violations) {
    votes(directories, out);
    beginnings(directories, out);
    for (n, one) in directories.iter().enumerate() {
        for other in &directories[n + 1..] {
            matching(one, other, out);
            committed(one, other, out);
            snapshots(one, other, out);
            configurations(one, other, out);
        }
    }
    overwritten(directories, out);
}

/// A node votes at most once in a term, in whichever of its directories.
fn votes(directories: &[Directory], out: &mut Violations) {
    let mut cast: BTreeMap<(NodeId, Term), (NodeId, &str)> = BTreeMap::new();
    for directory in directories {
        let Some(owner) = directory.owner else { continue };
        for (term, vote) in &directory.replay.votes {
            let (before, there) = *cast.entry((owner.node, *term)).or_insert((vote.node, &directory.name));
            if before != vote.node {
                let what = format!("{} voted for {before} and for {} in term {term}", owner.node, vote.node);
                out.add(Rule::ElectionSafety, &[there, &directory.name], what);
            }
        }
    }
}

/// A term's first entry has the same index in every log: it is the first entry of that term's leader.
fn beginnings(directories: &[Directory], out: &mut Violations) {
    let mut begun: BTreeMap<Term, (Index, &str)> = BTreeMap::new();
    for directory in directories {
        let log = &directory.replay.log;
        for (index, head) in log.iter() {
            let before = log.term(index.prev()).filter(|term| *term < head.term);
            // After a gap the term may have begun within the gap.
            let known = before.is_some_and(|term| term > Term::ZERO || index == Index(1));
            if !known {
                continue;
            }
            let (at, there) = *begun.entry(head.term).or_insert((index, &directory.name));
            if at != index {
                let what = format!("term {} begins at {at} and at {index}: it had two leaders", head.term);
                out.add(Rule::ElectionSafety, &[there, &directory.name], what);
            }
        }
    }
}

/// Two logs are identical up to the last position that both hold.
fn matching(one: &Directory, other: &Directory, out: &mut Violations) {
    let (a, b) = (&one.replay.log, &other.replay.log);
    let (from, upto) = (a.first().max(b.first()), a.last().min(b.last()));
    let both = |index: u64| Some((Index(index), a.get(Index(index))?, b.get(Index(index))?));
    let Some((last, ..)) = (from.0..=upto.0).rev().filter_map(both).find(|(_, a, b)| a.term == b.term) else { return };
    let Some((at, x, y)) = (from.0..=last.0).filter_map(both).find(|(_, a, b)| !a.is(b)) else { return };
    let places = [one.name.as_str(), other.name.as_str()];
    match x.term == y.term {
        true => two_entries(at, x, y, &places, out),
        false => {
            let agreed = Position::new(last, a.get(last).map_or(Term::ZERO, |head| head.term));
            let what =
                format!("both hold {agreed}, and before it one holds {at}@{}, the other {at}@{}", x.term, y.term);
            out.add(Rule::LogMatching, &places, what);
        }
    }
}

fn two_entries(at: Index, x: &StoredEntry, y: &StoredEntry, places: &[&str], out: &mut Violations) {
    let sums = format!("checksums {:08x} and {:08x}", x.checksum, y.checksum);
    let what = format!("{at}@{} is two different entries ({sums})", x.term);
    out.add(Rule::LogMatching, places, what);
    let what = format!(
        "term {} has two different entries at {at}: two leaders, or a leader that overwrote its own entry",
        x.term
    );
    out.add(Rule::ElectionSafety, places, what);
}

/// No directory has committed an entry other than the one that another directory has committed at its index.
fn committed(one: &Directory, other: &Directory, out: &mut Violations) {
    for (here, there) in [(one, other), (other, one)] {
        let bound = there.committed().index;
        for point in here.waypoints().filter(|point| point.index <= bound) {
            let term = there.replay.log.term(point.index).filter(|term| *term > Term::ZERO && *term != point.term);
            if let Some(term) = term {
                let what = format!("one committed {point}, the other {}@{term}", point.index);
                out.add(Rule::StateMachineSafety, &[&here.name, &there.name], what);
            }
        }
    }
    let bound = one.committed().index.min(other.committed().index);
    let (a, b) = (&one.replay.log, &other.replay.log);
    let both = |index: u64| Some((Index(index), a.get(Index(index))?, b.get(Index(index))?));
    let upto = bound.min(a.last()).min(b.last());
    let mut overlap = (a.first().max(b.first()).0..=upto.0).filter_map(both);
    if let Some((at, x, y)) = overlap.find(|(_, x, y)| !x.is(y)) {
        let what = format!("one committed {at}@{}, the other {at}@{} (up to {bound})", x.term, y.term);
        out.add(Rule::StateMachineSafety, &[&one.name, &other.name], what);
    }
}

/// Snapshots at one index have the same position, state and configuration.
fn snapshots(one: &Directory, other: &Directory, out: &mut Violations) {
    let places = [one.name.as_str(), other.name.as_str()];
    for mine in &one.snapshots {
        for theirs in other.snapshots.iter().filter(|theirs| theirs.position.index == mine.position.index) {
            let at = mine.position;
            if theirs.position != at {
                let what = format!("one has a snapshot of {at}, the other of {}", theirs.position);
                out.add(Rule::StateMachineSafety, &places, what);
            } else if theirs.digest != mine.digest {
                let what =
                    format!("the digests of the state at {at} differ: {:016x} and {:016x}", mine.digest, theirs.digest);
                out.add(Rule::Snapshots, &places, what);
            }
            let voters = (&mine.membership.voters, &mine.membership.outgoing);
            if theirs.position == at && (&theirs.membership.voters, &theirs.membership.outgoing) != voters {
                let what = format!("at {at} {} vote, and {}", mine.membership, theirs.membership);
                out.add(Rule::Configurations, &places, what);
            }
        }
    }
}

/// The configuration that one log begins with is the one that the other log holds at that index, if that is committed.
fn configurations(one: &Directory, other: &Directory, out: &mut Violations) {
    for (here, there) in [(one, other), (other, one)] {
        let Some(begin) = here.replay.configurations.first().filter(|begin| begin.index > Index::ZERO) else {
            continue;
        };
        let same = there.replay.configurations.iter().find(|configured| configured.index == begin.index);
        let Some(same) = same.filter(|_| there.committed().index >= begin.index) else { continue };
        let (mine, theirs) = (&begin.membership, &same.membership);
        if (&mine.voters, &mine.outgoing) != (&theirs.voters, &theirs.outgoing) {
            let what = format!("at {} {mine} vote, and {theirs}", begin.index);
            out.add(Rule::Configurations, &[&here.name, &there.name], what);
        }
    }
}

/// Overwritten entries obey the same rule: one term has one entry at an index.
fn overwritten(directories: &[Directory], out: &mut Violations) {
    let mut known: BTreeMap<(Index, Term), (StoredEntry, &str)> = BTreeMap::new();
    for directory in directories {
        for (index, head) in &directory.replay.overwritten {
            let (first, there) = *known.entry((*index, head.term)).or_insert((*head, &directory.name));
            if !first.is(head) {
                two_entries(*index, &first, head, &[there, &directory.name], out);
            }
        }
    }
    for ((index, term), (head, place)) in &known {
        let same = directories.iter().filter_map(|other| Some((other, other.replay.log.get(*index)?)));
        if let Some((other, stands)) = same.into_iter().find(|(_, stands)| stands.term == *term && !stands.is(head)) {
            two_entries(*index, head, stands, &[place, &other.name], out);
        }
    }
}

/// Finds configurations that were proposed before the previous one was committed.
///
/// A leader proposes a configuration only once the previous one is committed, and a quorum holds a committed entry for
/// ever. So if a directory holds the second one, a quorum holds the first, in logs that are read *afterwards*: `later`
/// is read after `directories`, since nodes may be running. This can be checked only if the directory of every voter is
/// given.
pub fn stacked(directories: &[Directory], later: &[Directory], out: &mut Violations) {
    for directory in directories {
        for pair in directory.replay.configurations.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            // A change that cannot be committed may be reverted.
            if first.membership.is_joint() && second.membership.voters == first.membership.outgoing {
                continue;
            }
            let Some(head) = directory.replay.log.get(first.index) else { continue };
            let holds = |other: &&Directory| {
                let log = &other.replay.log;
                let stands = log.get(first.index).map(|stands| stands.is(head));
                stands.unwrap_or(log.first() > first.index)
            };
            let nodes = |which: &dyn Fn(&&Directory) -> bool| -> BTreeSet<NodeId> {
                later.iter().filter(|other| which(other)).filter_map(|other| Some(other.owner?.node)).collect()
            };
            let (holders, given) = (nodes(&holds), nodes(&|_| true));
            let all_here = first.membership.all_voters().all(|voter| given.contains(&voter));
            if all_here && !configs::is_quorum(&first.membership, &holders) {
                let what = format!(
                    "the configuration at {} was proposed while that at {} ({}) was not committed",
                    second.index, first.index, first.membership
                );
                out.add(Rule::Configurations, &[&directory.name], what);
            }
        }
    }
}
