//! The searches for violations: of all states that a cluster can reach, and along random walks.

use super::cluster::{Clause, Cluster, NODE_COUNT, Role};
use super::recovery::{Outcome, outcome_without_damage};
use super::replication::{Step, apply_step, steps};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};

/// The number of steps of a random walk.
const WALK_STEPS: usize = 30;

/// How far a search goes: it takes no step beyond these limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The highest term in which a node campaigns.
    pub term_max: u8,
    /// The maximum number of entries in a log.
    pub entries_max: u8,
    /// The maximum number of damaged parts of disks.
    pub damages_max: u8,
}

/// What a search found, with counts of the states that it visited.
pub struct SearchResult {
    /// The number of states that the search reached, or the number of steps of all random walks.
    pub state_count: usize,
    /// The number of states from which the cluster elects a leader without an operator. Of a random walk, only the last
    /// state is counted.
    pub electing_state_count: usize,
    /// The number of states from which an operator must decide, because too much is damaged. Of a random walk, only the
    /// last state is counted.
    pub operator_state_count: usize,
    /// The first violation; `None` if the search found none.
    pub violation: Option<String>,
    /// The steps from the initial state to the violation; empty if there is none.
    path: Vec<Step>,
}

impl SearchResult {
    /// The violation, and the steps that lead to it.
    pub fn describe(&self) -> String {
        let mut text = format!("{}\n", self.violation.as_deref().unwrap_or("no violation"));
        for step in &self.path {
            text.push_str(&format!("  {step:?}\n"));
        }
        text
    }
}

/// Searches all states within the limits, breadth first, with one clause broken or none.
pub fn explore(broken_clause: Option<Clause>, limits: Limits) -> SearchResult {
    let mut result = SearchResult {
        state_count: 0,
        electing_state_count: 0,
        operator_state_count: 0,
        violation: None,
        path: Vec::new(),
    };
    let mut seen_fingerprints = HashSet::new();
    // For each state, the number of the state before it and the step from that state: the steps to a violation.
    let mut predecessors: Vec<(usize, Option<Step>)> = vec![(0, None)];
    let mut queue = VecDeque::from([(Cluster::new(), 0)]);
    seen_fingerprints.insert(fingerprint(&Cluster::new()));
    while let Some((cluster, at)) = queue.pop_front() {
        result.state_count += 1;
        match outcome_without_damage(cluster.nodes, broken_clause) {
            Outcome::ElectsLeader => result.electing_state_count += 1,
            Outcome::NeedsOperator => result.operator_state_count += 1,
            Outcome::Stuck => {
                result.violation = Some(format!("no node can be elected any more: {:?}", cluster.nodes));
                result.path = path_to(&predecessors, at, None);
                return result;
            }
        }
        for step in steps(&cluster, limits, broken_clause) {
            match apply_step(&cluster, step, broken_clause) {
                Ok(Some(next)) => {
                    if seen_fingerprints.insert(fingerprint(&next)) {
                        predecessors.push((at, Some(step)));
                        queue.push_back((next, predecessors.len() - 1));
                    }
                }
                Ok(None) => {}
                Err(violation) => {
                    result.violation = Some(violation);
                    result.path = path_to(&predecessors, at, Some(step));
                    return result;
                }
            }
        }
    }
    result
}

/// Takes `walks` random walks from the initial state, with one clause broken or none. Stops at the first violation.
pub fn walk_randomly(broken_clause: Option<Clause>, limits: Limits, walks: u64) -> SearchResult {
    let mut result = SearchResult {
        state_count: 0,
        electing_state_count: 0,
        operator_state_count: 0,
        violation: None,
        path: Vec::new(),
    };
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..walks {
        let (mut cluster, mut path) = (Cluster::new(), Vec::new());
        for step in broken_clause.map_or(&[][..], Clause::first_steps) {
            path.push(*step);
            cluster = apply_step(&cluster, *step, broken_clause)
                .ok()
                .flatten()
                .expect("the first steps of each clause are possible");
        }
        for _ in 0..WALK_STEPS {
            let (damage_steps, other_steps): (Vec<Step>, Vec<Step>) =
                steps(&cluster, limits, broken_clause).iter().partition(|step| matches!(step, Step::Damage(..)));
            // Damage is chosen once in 12 steps: it would otherwise be chosen most often, as most possible steps are
            // damage.
            let chosen_steps = if rng.random_ratio(1, 12) { &damage_steps } else { &other_steps };
            let Some(step) = chosen_steps.choose(&mut rng).copied() else { continue };
            path.push(step);
            match apply_step(&cluster, step, broken_clause) {
                Ok(Some(next)) => cluster = next,
                Ok(None) => path.truncate(path.len() - 1),
                Err(violation) => return SearchResult { violation: Some(violation), path, ..result },
            }
            result.state_count += 1;
        }
        match outcome_without_damage(cluster.nodes, broken_clause) {
            Outcome::ElectsLeader => result.electing_state_count += 1,
            Outcome::NeedsOperator => result.operator_state_count += 1,
            Outcome::Stuck => {
                return SearchResult { violation: Some("no node can be elected any more".to_owned()), path, ..result };
            }
        }
    }
    result
}

fn path_to(predecessors: &[(usize, Option<Step>)], mut state: usize, last_step: Option<Step>) -> Vec<Step> {
    let mut path: Vec<Step> = last_step.into_iter().collect();
    while let (predecessor, Some(step)) = predecessors[state] {
        path.push(step);
        state = predecessor;
    }
    path.reverse();
    path
}

/// A hasher that is faster than the standard one: a search hashes each state six times.
struct StateHasher(u64);

impl Hasher for StateHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

/// A hash of a cluster that does not depend on how its nodes are numbered: the six numberings of three nodes behave
/// alike.
fn fingerprint(cluster: &Cluster) -> u64 {
    const NUMBERINGS: [[usize; NODE_COUNT]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let hash_renumbered = |order: &[usize; NODE_COUNT]| {
        let mut hasher = StateHasher(0);
        renumbered(cluster, order).hash(&mut hasher);
        hasher.finish()
    };
    NUMBERINGS.iter().map(hash_renumbered).min().unwrap_or(0)
}

/// The same cluster, renumbered: node `order[n]` becomes node `n`.
fn renumbered(cluster: &Cluster, order: &[usize; NODE_COUNT]) -> Cluster {
    let new_number = |node: u8| order.iter().position(|old| *old == node as usize).map_or(node, |new| new as u8);
    let mut renumbered_cluster = *cluster;
    for (new, old) in order.iter().enumerate() {
        renumbered_cluster.nodes[new] = cluster.nodes[*old];
        renumbered_cluster.nodes[new].vote = cluster.nodes[*old].vote.map(new_number);
        // The vote of a stopped node has no effect any more, since the node sends nothing.
        if renumbered_cluster.nodes[new].role == Role::Stopped {
            renumbered_cluster.nodes[new].vote = None;
        }
    }
    for term in 0..cluster.granted_votes.len() {
        for (new, old) in order.iter().enumerate() {
            let voter_bits = cluster.granted_votes[term][*old];
            renumbered_cluster.granted_votes[term][new] =
                (0..NODE_COUNT as u8).filter(|bit| voter_bits & (1 << bit) != 0).map(|bit| 1 << new_number(bit)).sum();
            renumbered_cluster.acknowledged_indexes[term][new] = cluster.acknowledged_indexes[term][*old];
        }
        renumbered_cluster.leaders[term] = cluster.leaders[term].map(new_number);
    }
    renumbered_cluster
}
