//! The steps of the modeled cluster: steps of Raft, damage to disks, and repairs.

use super::cluster::{Clause, Cluster, NODES, Node, Role, ZERO};
use super::explore::Limits;
use super::recovery::{clear_reached_promise, reaches, recover, repair_log};

/// A part of a disk that can be damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Loss {
    /// The entry at this index.
    Entry(u8),
    /// The last segment, which holds all entries from this index on.
    Segment(u8),
    /// The copy of the term and the vote in the log.
    VoteInLog,
    /// The copy of the term and the vote in the sync marker.
    VoteInMarker,
    /// The end of the log as recorded in the sync marker.
    EndInMarker,
}

/// A step of the cluster. Each `usize` is the number of a node, from 0 on.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A node becomes a candidate in its next term.
    Campaign(usize),
    /// A voter (first) grants its vote to a candidate (second). The vote may arrive later.
    Vote(usize, usize),
    /// A candidate with a majority of votes becomes leader.
    Win(usize),
    /// A leader appends an entry.
    Propose(usize),
    /// A leader (first) replicates the next entry to a follower (second), which acknowledges the entry. The
    /// acknowledgment may arrive later.
    Append(usize, usize),
    /// A leader commits its entries up to this index.
    Commit(usize, u8),
    /// One or two parts of a node's disk are damaged, and the node restarts. The last number selects one of the states
    /// that [`recover`] returns. A restart long after the damage needs no step of its own: it is the same as damage
    /// right before this restart.
    Damage(usize, Loss, Option<Loss>, usize),
    /// A node restarts without further damage.
    Restart(usize),
    /// A node (first) repairs its log with the entries of a peer (second).
    Repair(usize, usize),
}

/// The candidate steps in a state; [`apply_step`] rejects those that are not possible.
pub fn steps(cluster: &Cluster, limits: Limits, broken: Option<Clause>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (at, node) in cluster.nodes.iter().enumerate() {
        if node.role == Role::Stopped {
            continue;
        }
        let promotable = broken == Some(Clause::CampaignNeedsPromise)
            || reaches(node.last_position(), node.promised_position, broken);
        if node.role != Role::Leader && node.term < limits.term_max && promotable {
            steps.push(Step::Campaign(at));
        }
        let other_nodes = (0..NODES).filter(|other| *other != at && cluster.nodes[*other].role != Role::Stopped);
        match node.role {
            Role::Candidate => {
                steps.push(Step::Win(at));
                steps.extend(other_nodes.clone().map(|voter| Step::Vote(voter, at)));
            }
            Role::Leader => {
                if node.len < limits.entries_max {
                    steps.push(Step::Propose(at));
                }
                steps.extend(other_nodes.clone().map(|follower| Step::Append(at, follower)));
                steps.extend((cluster.committed_count() + 1..=node.len).map(|index| Step::Commit(at, index)));
            }
            _ => {}
        }
        if node.promised_position != ZERO {
            steps.extend(other_nodes.map(|peer| Step::Repair(at, peer)));
            steps.push(Step::Restart(at));
        }
        let choice_count = if broken == Some(Clause::PromiseBeforeCut) { 2 } else { 1 };
        for choice in 0..choice_count {
            let damage = |losses: (Loss, Option<Loss>)| Step::Damage(at, losses.0, losses.1, choice);
            steps.extend(losses(node, limits.damages_max - cluster.damage_count).into_iter().map(damage));
        }
    }
    steps
}

/// The parts of a node's disk that one step can damage: each part alone and, if `parts_max` is at least 2, each pair.
fn losses(node: &Node, parts_max: u8) -> Vec<(Loss, Option<Loss>)> {
    let entries = (1..=node.len).flat_map(|index| [Loss::Entry(index), Loss::Segment(index)]);
    let all_losses: Vec<Loss> = entries.chain([Loss::VoteInLog, Loss::VoteInMarker, Loss::EndInMarker]).collect();
    let single_losses = all_losses.iter().filter(|_| parts_max > 0).map(|loss| (*loss, None));
    let pairs = all_losses.iter().flat_map(|first| all_losses.iter().map(move |second| (*first, Some(*second))));
    single_losses.chain(pairs.filter(|(first, second)| parts_max > 1 && *second > Some(*first))).collect()
}

/// The state after a step, or `None` if the step is not possible in the state `before`.
///
/// # Errors
///
/// Describes the safety property that the step violates.
pub fn apply_step(before: &Cluster, step: Step, broken: Option<Clause>) -> Result<Option<Cluster>, String> {
    let mut next_cluster = *before;
    let is_possible = match step {
        Step::Campaign(at) => campaign(&mut next_cluster, at),
        Step::Vote(voter, candidate) => vote(&mut next_cluster, voter, candidate, broken),
        Step::Win(at) => win(&mut next_cluster, at)?,
        Step::Propose(at) => propose(&mut next_cluster, at),
        Step::Append(leader, follower) => append(&mut next_cluster, leader, follower, broken)?,
        Step::Commit(at, index) => commit(&mut next_cluster, at, index)?,
        Step::Damage(at, first, second, choice) => {
            next_cluster.damage_count += 1 + u8::from(second.is_some());
            apply_loss(&mut next_cluster.nodes[at], first);
            second.into_iter().for_each(|second| apply_loss(&mut next_cluster.nodes[at], second));
            restart(&mut next_cluster.nodes[at], choice, broken)
        }
        Step::Restart(at) => restart(&mut next_cluster.nodes[at], 0, broken),
        Step::Repair(asker, peer) => repair_log(&mut next_cluster.nodes, asker, peer, broken),
    };
    if !is_possible {
        return Ok(None);
    }
    check_matching(&next_cluster)?;
    // A step without damage must not remove the last copy of a committed entry.
    if next_cluster.damage_count == before.damage_count
        && before.committed_entry_without_copy().is_none()
        && let Some((term, index)) =
            (Cluster { committed_terms: before.committed_terms, ..next_cluster }).committed_entry_without_copy()
    {
        return Err(format!("the last copy of committed entry {index}@{term} was removed by a step without damage"));
    }
    Ok(Some(next_cluster))
}

fn campaign(cluster: &mut Cluster, at: usize) -> bool {
    let node = &mut cluster.nodes[at];
    write_vote(node, node.term + 1, Some(at as u8));
    node.role = Role::Candidate;
    cluster.granted_votes[node.term as usize][at] |= 1 << at;
    true
}

fn vote(cluster: &mut Cluster, voter: usize, candidate: usize, broken: Option<Clause>) -> bool {
    let (term, last) = (cluster.nodes[candidate].term, cluster.nodes[candidate].last_position());
    let node = &mut cluster.nodes[voter];
    let may_vote = node.term < term || (node.term == term && node.vote.is_none_or(|vote| vote == candidate as u8));
    let keeps_promise = broken == Some(Clause::VoteNeedsPromise) || reaches(last, node.promised_position, broken);
    let has_granted = cluster.granted_votes[term as usize][candidate] & (1 << voter) != 0;
    if !may_vote || last < node.last_position() || !keeps_promise || has_granted {
        return false;
    }
    write_vote(node, term, Some(candidate as u8));
    node.role = Role::Follower;
    cluster.granted_votes[term as usize][candidate] |= 1 << voter;
    true
}

fn write_vote(node: &mut Node, term: u8, vote: Option<u8>) {
    (node.term, node.vote) = (term, vote);
}

fn win(cluster: &mut Cluster, at: usize) -> Result<bool, String> {
    let node = cluster.nodes[at];
    let term = node.term as usize;
    if cluster.granted_votes[term][at].count_ones() as usize <= NODES / 2 {
        return Ok(false);
    }
    if let Some(other) = cluster.leaders[term] {
        return Err(format!("nodes {other} and {at} are both elected in term {term}"));
    }
    check_complete(cluster, &node, at)?;
    cluster.leaders[term] = Some(at as u8);
    cluster.nodes[at].role = Role::Leader;
    Ok(true)
}

/// Checks that the leader's log has every entry that was committed in an earlier term (Leader Completeness, §5.4.3).
fn check_complete(cluster: &Cluster, leader: &Node, at: usize) -> Result<(), String> {
    let first_missing_entry = (1..=cluster.committed_count())
        .filter(|index| cluster.commit_terms[*index as usize - 1] < leader.term)
        .find(|index| !leader.holds((cluster.committed_terms[*index as usize - 1], *index)))
        .map(|index| (index, cluster.committed_terms[index as usize - 1]));
    match first_missing_entry {
        Some((index, term)) => {
            Err(format!("node {at} leads term {} without the committed entry {index}@{term}", leader.term))
        }
        None => Ok(()),
    }
}

fn propose(cluster: &mut Cluster, at: usize) -> bool {
    let node = &mut cluster.nodes[at];
    node.push(node.term);
    cluster.written_histories[node.term as usize][node.len as usize - 1] = node.history_number(node.len);
    true
}

/// Checks each log up to each of its entries: it must equal the log of the leader that appended this entry (Log
/// Matching, §5.3).
fn check_matching(cluster: &Cluster) -> Result<(), String> {
    for node in &cluster.nodes {
        for index in 1..=node.len {
            let leader_history = cluster.written_histories[node.log[index as usize - 1] as usize][index as usize - 1];
            if node.history_number(index) != leader_history {
                return Err(format!(
                    "a log has entries of the terms {:?}, but no leader had this log",
                    &node.log[..node.len as usize]
                ));
            }
        }
    }
    Ok(())
}

/// Lets the follower append the first entry of the leader's log that differs from its own, and acknowledge the log up
/// to this entry.
fn append(cluster: &mut Cluster, leader: usize, follower: usize, broken: Option<Clause>) -> Result<bool, String> {
    let leader_node = cluster.nodes[leader];
    let follower_before = cluster.nodes[follower];
    if follower_before.term > leader_node.term {
        return Ok(false);
    }
    let node = &mut cluster.nodes[follower];
    if node.term < leader_node.term {
        write_vote(node, leader_node.term, None);
    }
    node.role = Role::Follower;
    let matched =
        (0..=node.len.min(leader_node.len)).rev().find(|index| leader_node.holds(node.position(*index))).unwrap_or(0);
    let mut acknowledged = matched;
    if matched < leader_node.len {
        node.truncate(matched);
        node.push(leader_node.log[matched as usize]);
        node.log_changed = node.promised_position != ZERO;
        acknowledged += 1;
    }
    clear_reached_promise(node, broken);
    if node.is_damaged[..acknowledged as usize].contains(&true) {
        return Err(format!(
            "node {follower} acknowledges index {acknowledged}, but an entry up to this index is damaged"
        ));
    }
    let acknowledged_max = &mut cluster.acknowledged_indexes[leader_node.term as usize][follower];
    let has_grown = *acknowledged_max < acknowledged;
    *acknowledged_max = (*acknowledged_max).max(acknowledged);
    Ok(has_grown || cluster.nodes[follower] != follower_before)
}

fn commit(cluster: &mut Cluster, at: usize, index: u8) -> Result<bool, String> {
    let node = cluster.nodes[at];
    let acknowledged = cluster.acknowledged_indexes[node.term as usize];
    let copy_count = 1 + (0..NODES).filter(|other| *other != at && acknowledged[*other] >= index).count();
    // A leader counts copies only for entries of its own term (§5.4.2).
    if node.position(index).0 != node.term || copy_count <= NODES / 2 {
        return Ok(false);
    }
    for at in 0..index as usize {
        let committed_term = &mut cluster.committed_terms[at];
        if *committed_term != 0 && *committed_term != node.log[at] {
            return Err(format!(
                "entries {}@{committed_term} and {}@{} are both committed",
                at + 1,
                at + 1,
                node.log[at]
            ));
        }
        if *committed_term == 0 {
            (*committed_term, cluster.commit_terms[at]) = (node.log[at], node.term);
        }
    }
    let is_later_leader =
        |(other, next): &(usize, &Node)| *other != at && next.role == Role::Leader && next.term > node.term;
    for (other, next) in cluster.nodes.iter().enumerate().filter(is_later_leader) {
        check_complete(cluster, next, other)?;
    }
    Ok(true)
}

fn restart(node: &mut Node, choice: usize, broken: Option<Clause>) -> bool {
    let recovered = recover(node, broken);
    let Some(next) = recovered.get(choice) else { return false };
    *node = *next;
    clear_reached_promise(node, broken);
    true
}

fn apply_loss(node: &mut Node, loss: Loss) {
    match loss {
        Loss::Entry(index) => node.is_damaged[index as usize - 1] = true,
        Loss::Segment(index) => {
            node.is_damaged[index as usize - 1..node.len as usize].fill(true);
            node.non_entry_damage.end_of_log = true;
        }
        Loss::VoteInLog => node.non_entry_damage.vote_in_log = true,
        Loss::VoteInMarker => node.non_entry_damage.vote_in_marker = true,
        Loss::EndInMarker => node.non_entry_damage.end_in_marker = true,
    }
}
