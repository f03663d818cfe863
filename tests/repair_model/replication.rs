//! The steps of the modeled cluster: steps of Raft, damage to disks, and repairs.

use super::cluster::{Clause, Cluster, NODE_COUNT, Node, Role, ZERO_POSITION};
use super::explore::Limits;
use super::recovery::{clear_reached_promise, reaches, recover, repair_log};

/// A part of a disk that can be damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DiskPart {
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
    /// A leader appends an entry of its term to its own log.
    Propose(usize),
    /// A leader (first) replicates the next entry to a follower (second), which acknowledges the entry. The
    /// acknowledgment may arrive later.
    Append(usize, usize),
    /// A leader (first) commits its entries up to an index (second).
    Commit(usize, u8),
    /// One or two parts of a node's disk are damaged, and the node restarts. The last number selects one of the states
    /// that [`recover`] returns. A restart long after the damage needs no step of its own: it is the same as damage
    /// right before this restart.
    Damage(usize, DiskPart, Option<DiskPart>, usize),
    /// A node restarts without further damage.
    Restart(usize),
    /// A node (first) repairs its log with the entries of a peer (second).
    Repair(usize, usize),
}

/// The steps to try in a state; [`apply_step`] rejects those that are not possible.
pub fn steps(cluster: &Cluster, limits: Limits, broken_clause: Option<Clause>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (at, node) in cluster.nodes.iter().enumerate() {
        if node.role == Role::Stopped {
            continue;
        }
        let promotable = broken_clause == Some(Clause::CampaignNeedsPromise)
            || reaches(node.last_position(), node.promised_position, broken_clause);
        if node.role != Role::Leader && node.term < limits.term_max && promotable {
            steps.push(Step::Campaign(at));
        }
        let other_nodes = (0..NODE_COUNT).filter(|other| *other != at && cluster.nodes[*other].role != Role::Stopped);
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
        if node.promised_position != ZERO_POSITION {
            steps.extend(other_nodes.map(|peer| Step::Repair(at, peer)));
            steps.push(Step::Restart(at));
        }
        let restart_choice_count = if broken_clause == Some(Clause::PromiseBeforeCut) { 2 } else { 1 };
        for choice in 0..restart_choice_count {
            let damage = |parts: (DiskPart, Option<DiskPart>)| Step::Damage(at, parts.0, parts.1, choice);
            steps.extend(damageable_parts(node, limits.damages_max - cluster.damage_count).into_iter().map(damage));
        }
    }
    steps
}

/// The parts of a node's disk that one step can damage: each part alone and, if `parts_max` is at least 2, each pair.
fn damageable_parts(node: &Node, parts_max: u8) -> Vec<(DiskPart, Option<DiskPart>)> {
    let entries = (1..=node.len).flat_map(|index| [DiskPart::Entry(index), DiskPart::Segment(index)]);
    let all_parts: Vec<DiskPart> =
        entries.chain([DiskPart::VoteInLog, DiskPart::VoteInMarker, DiskPart::EndInMarker]).collect();
    let single_parts = all_parts.iter().filter(|_| parts_max > 0).map(|part| (*part, None));
    let part_pairs = all_parts.iter().flat_map(|first| all_parts.iter().map(move |second| (*first, Some(*second))));
    single_parts.chain(part_pairs.filter(|(first, second)| parts_max > 1 && *second > Some(*first))).collect()
}

/// The state after a step, or `None` if the step is not possible in the state `before`.
///
/// # Errors
///
/// Describes the safety property that the step violates.
pub fn apply_step(before: &Cluster, step: Step, broken_clause: Option<Clause>) -> Result<Option<Cluster>, String> {
    let mut next_cluster = *before;
    let is_possible = match step {
        Step::Campaign(at) => campaign(&mut next_cluster, at),
        Step::Vote(voter, candidate) => vote(&mut next_cluster, voter, candidate, broken_clause),
        Step::Win(at) => win(&mut next_cluster, at)?,
        Step::Propose(at) => propose(&mut next_cluster, at),
        Step::Append(leader, follower) => append(&mut next_cluster, leader, follower, broken_clause)?,
        Step::Commit(at, index) => commit(&mut next_cluster, at, index)?,
        Step::Damage(at, first, second, choice) => {
            next_cluster.damage_count += 1 + u8::from(second.is_some());
            damage_part(&mut next_cluster.nodes[at], first);
            second.into_iter().for_each(|second| damage_part(&mut next_cluster.nodes[at], second));
            restart(&mut next_cluster.nodes[at], choice, broken_clause)
        }
        Step::Restart(at) => restart(&mut next_cluster.nodes[at], 0, broken_clause),
        Step::Repair(asker, peer) => repair_log(&mut next_cluster.nodes, asker, peer, broken_clause),
    };
    if !is_possible {
        return Ok(None);
    }
    check_log_matching(&next_cluster)?;
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

fn vote(cluster: &mut Cluster, voter: usize, candidate: usize, broken_clause: Option<Clause>) -> bool {
    let (term, last) = (cluster.nodes[candidate].term, cluster.nodes[candidate].last_position());
    let node = &mut cluster.nodes[voter];
    let may_vote = node.term < term || (node.term == term && node.vote.is_none_or(|vote| vote == candidate as u8));
    let keeps_promise =
        broken_clause == Some(Clause::VoteNeedsPromise) || reaches(last, node.promised_position, broken_clause);
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
    if cluster.granted_votes[term][at].count_ones() as usize <= NODE_COUNT / 2 {
        return Ok(false);
    }
    if let Some(other) = cluster.leaders[term] {
        return Err(format!("nodes {other} and {at} are both elected in term {term}"));
    }
    check_leader_completeness(cluster, &node, at)?;
    cluster.leaders[term] = Some(at as u8);
    cluster.nodes[at].role = Role::Leader;
    Ok(true)
}

/// Checks that the leader's log has every entry that was committed in an earlier term (Leader Completeness, §5.4.3).
fn check_leader_completeness(cluster: &Cluster, leader: &Node, at: usize) -> Result<(), String> {
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
fn check_log_matching(cluster: &Cluster) -> Result<(), String> {
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
fn append(
    cluster: &mut Cluster,
    leader: usize,
    follower: usize,
    broken_clause: Option<Clause>,
) -> Result<bool, String> {
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
    let matched_index =
        (0..=node.len.min(leader_node.len)).rev().find(|index| leader_node.holds(node.position(*index))).unwrap_or(0);
    let mut acknowledged_index = matched_index;
    if matched_index < leader_node.len {
        node.truncate(matched_index);
        node.push(leader_node.log[matched_index as usize]);
        acknowledged_index += 1;
    }
    clear_reached_promise(node, broken_clause);
    if node.is_damaged[..acknowledged_index as usize].contains(&true) {
        return Err(format!(
            "node {follower} acknowledges index {acknowledged_index}, but an entry up to this index is damaged"
        ));
    }
    let acknowledged_index_max = &mut cluster.acknowledged_indexes[leader_node.term as usize][follower];
    let has_grown = *acknowledged_index_max < acknowledged_index;
    *acknowledged_index_max = (*acknowledged_index_max).max(acknowledged_index);
    Ok(has_grown || cluster.nodes[follower] != follower_before)
}

fn commit(cluster: &mut Cluster, at: usize, index: u8) -> Result<bool, String> {
    let node = cluster.nodes[at];
    let acknowledged_indexes = cluster.acknowledged_indexes[node.term as usize];
    let copy_count = 1 + (0..NODE_COUNT).filter(|other| *other != at && acknowledged_indexes[*other] >= index).count();
    // A leader counts copies only for entries of its own term (§5.4.2).
    if node.position(index).0 != node.term || copy_count <= NODE_COUNT / 2 {
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
        check_leader_completeness(cluster, next, other)?;
    }
    Ok(true)
}

fn restart(node: &mut Node, choice: usize, broken_clause: Option<Clause>) -> bool {
    let recovered_states = recover(node, broken_clause);
    let Some(next) = recovered_states.get(choice) else { return false };
    *node = *next;
    clear_reached_promise(node, broken_clause);
    true
}

fn damage_part(node: &mut Node, part: DiskPart) {
    match part {
        DiskPart::Entry(index) => node.is_damaged[index as usize - 1] = true,
        DiskPart::Segment(index) => {
            node.is_damaged[index as usize - 1..node.len as usize].fill(true);
            node.non_entry_damage.is_last_segment_missing = true;
        }
        DiskPart::VoteInLog => node.non_entry_damage.is_vote_in_log_damaged = true,
        DiskPart::VoteInMarker => node.non_entry_damage.is_vote_in_marker_damaged = true,
        DiskPart::EndInMarker => node.non_entry_damage.is_log_end_in_marker_damaged = true,
    }
}
