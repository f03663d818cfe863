//! A model of the rule for a node that restarts with an older copy of its disk, and so has lost acknowledged entries.
//! The model has terms, votes, logs and restored disks, and uses no code of the library.
//!
//! The rule: the node learns the highest position that it acknowledged, and records this *promised position*. It grants
//! its vote only to candidates whose log reaches the promised position, and does not campaign until its own log reaches
//! it. Its later acknowledgments count again. Any number of nodes may lose any entries. If no node holds a committed
//! entry any more, no leader is elected, and the entry is never replaced by another.
//!
//! Why the rule is enough: the proof of Leader Completeness (§5.4.3) only needs that a voter that acknowledged an entry
//! rejects candidates whose log is behind a log that holds the entry. The proof does not need that the voter still
//! holds the entry. Snapshots and membership changes are not in the model: a snapshot changes no position, and a server
//! that is added again counts as another server.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// The position of the last entry of a log: its term, then its index. Logs are compared in this order (§5.4.1).
type LogPosition = (u64, usize);

/// The contents of a node's disk: its term, its log and its promised position.
#[derive(Clone, Default)]
struct Disk {
    term: u64,
    /// The term of each entry, from index 1 on.
    log: Vec<u64>,
    promised_position: LogPosition,
}

impl Disk {
    fn last_position(&self) -> LogPosition {
        self.log.last().map_or((0, 0), |term| (*term, self.log.len()))
    }
}

/// The rule for a node that has lost entries, or a variant without one part of the rule.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PromiseRule {
    /// The whole rule.
    Complete,
    /// The node does not record the promised position.
    ForgetsPromise,
    /// The node votes by the rule, but campaigns before its log reaches the promised position.
    CampaignsAnyway,
    /// A voter compares only the index of a candidate's log with the promised position, not the term.
    ComparesIndexOnly,
}

/// The state of a cluster in the model, and the history by which its properties are checked.
struct Model {
    rng: SmallRng,
    rule: PromiseRule,
    disks: Vec<Disk>,
    /// An older copy of each disk, which a node may restart with.
    older_copies: Vec<Disk>,
    /// For each node, the highest term and position that its messages have claimed.
    claims: Vec<(u64, LogPosition)>,
    /// The leader of each term, and the index that each follower acknowledged to it.
    leaders: BTreeMap<u64, (usize, Vec<usize>)>,
    /// The term of each committed entry, from index 1 on: no leader may lack one of them, and none may be replaced.
    committed_terms: Vec<u64>,
}

impl Model {
    fn new(seed: u64, node_count: usize, rule: PromiseRule) -> Model {
        Model {
            rng: SmallRng::seed_from_u64(seed),
            rule,
            disks: vec![Disk::default(); node_count],
            older_copies: vec![Disk::default(); node_count],
            claims: vec![(0, (0, 0)); node_count],
            leaders: BTreeMap::new(),
            committed_terms: Vec::new(),
        }
    }

    /// Runs `steps` random actions. Returns the violated property, if any.
    fn run_steps(&mut self, steps: usize) -> Option<&'static str> {
        (0..steps).find_map(|_| {
            let node = self.rng.random_range(0..self.disks.len());
            match self.rng.random_range(0..12) {
                0 => self.campaign(node),
                1 => {
                    self.older_copies[node] = self.disks[node].clone();
                    None
                }
                2 => {
                    self.restore_older_copy(node);
                    None
                }
                3 | 4 => {
                    self.append(node);
                    None
                }
                _ => self.replicate(node),
            }
        })
    }

    fn campaign(&mut self, node: usize) -> Option<&'static str> {
        let (last, promised_position) = (self.disks[node].last_position(), self.disks[node].promised_position);
        if last < promised_position && self.rule != PromiseRule::CampaignsAnyway {
            return None;
        }
        let term = self.disks[node].term + 1;
        let request_receivers: Vec<usize> = (0..self.disks.len()).filter(|n| *n == node || self.rng.random()).collect();
        let rule = self.rule;
        let grants_vote = |voter: &Disk| {
            let reaches_promised_position = match rule {
                PromiseRule::ComparesIndexOnly => last.1 >= voter.promised_position.1,
                PromiseRule::Complete | PromiseRule::ForgetsPromise | PromiseRule::CampaignsAnyway => {
                    last >= voter.promised_position
                }
            };
            voter.term < term && last >= voter.last_position() && reaches_promised_position
        };
        let mut vote_count = 0;
        for voter in request_receivers {
            if voter == node || grants_vote(&self.disks[voter]) {
                vote_count += 1;
                self.disks[voter].term = term;
                self.claims[voter].0 = self.claims[voter].0.max(term);
            }
        }
        self.claims[node].1 = self.claims[node].1.max(last);
        if 2 * vote_count <= self.disks.len() {
            return None;
        }
        if self.leaders.insert(term, (node, vec![0; self.disks.len()])).is_some() {
            return Some("two leaders led one term");
        }
        if self.disks[node].log.get(..self.committed_terms.len()) != Some(&self.committed_terms[..]) {
            return Some("a new leader lacks a committed entry");
        }
        self.append(node);
        None
    }

    /// The term that a node leads, if it leads one.
    fn led_term(&self, node: usize) -> Option<u64> {
        let term = self.disks[node].term;
        self.leaders.get(&term).is_some_and(|(leader, _)| *leader == node).then_some(term)
    }

    fn append(&mut self, node: usize) {
        if let Some(term) = self.led_term(node) {
            self.disks[node].log.push(term);
        }
    }

    /// A leader sends the first part of its log, of random length, to a random node, and commits the entries of its own
    /// term that a majority holds (§5.4.2).
    fn replicate(&mut self, node: usize) -> Option<&'static str> {
        let term = self.led_term(node)?;
        let receiver = self.rng.random_range(0..self.disks.len());
        let sent_len = self.rng.random_range(0..=self.disks[node].log.len());
        if self.disks[receiver].term > term {
            return None;
        }
        let entries = self.disks[node].log[..sent_len].to_vec();
        let follower = &mut self.disks[receiver];
        follower.term = term;
        let matching_len = follower.log.iter().zip(&entries).take_while(|(a, b)| a == b).count();
        if matching_len < sent_len {
            follower.log.truncate(matching_len);
            follower.log.extend(&entries[matching_len..]);
        }
        let claim = (term, entries.last().map_or((0, 0), |last| (*last, sent_len)));
        self.claims[receiver] = (self.claims[receiver].0.max(claim.0), self.claims[receiver].1.max(claim.1));
        let (_, matched) = self.leaders.get_mut(&term)?;
        matched[receiver] = matched[receiver].max(sent_len);
        matched[node] = self.disks[node].log.len();
        let mut sorted_matched = matched.clone();
        sorted_matched.sort_unstable();
        let quorum_len = sorted_matched[(sorted_matched.len() - 1) / 2];
        if quorum_len > self.committed_terms.len() && self.disks[node].log[quorum_len - 1] == term {
            if self.disks[node].log[..self.committed_terms.len()] != self.committed_terms {
                return Some("a committed entry was replaced");
            }
            self.committed_terms = self.disks[node].log[..quorum_len].to_vec();
            // A leader counts its own copy: with its commit index it claims to hold the committed entries.
            self.claims[node].1 = self.claims[node].1.max((term, quorum_len));
        }
        None
    }

    /// A node restarts with an older copy of its disk, and learns its earlier claims: the term, in which it has no vote
    /// left, and the position.
    fn restore_older_copy(&mut self, node: usize) {
        let (term, position) = self.claims[node];
        // The node's earlier acknowledgments to any leader no longer count.
        self.leaders.values_mut().for_each(|(_, matched)| matched[node] = 0);
        let older_copy = self.older_copies[node].clone();
        let promised_position = if self.rule == PromiseRule::ForgetsPromise {
            older_copy.promised_position
        } else {
            older_copy.promised_position.max(position)
        };
        // If the node led a term after the copy was made, it does not continue as leader of that term.
        self.leaders.retain(|led, (leader, _)| *leader != node || *led < older_copy.term);
        self.disks[node] = Disk { term: older_copy.term.max(term), promised_position, ..older_copy };
    }
}

fn first_violation(rule: PromiseRule, node_count: usize, runs: u64) -> Option<(u64, &'static str)> {
    (0..runs).find_map(|seed| Some((seed, Model::new(seed, node_count, rule).run_steps(400)?)))
}

#[test]
fn committed_entries_survive_older_disk_copies_by_promised_positions() {
    for node_count in [3, 5] {
        assert_eq!(first_violation(PromiseRule::Complete, node_count, 10_000), None, "{node_count} nodes");
    }
}

#[test]
fn each_check_of_the_promised_position_is_needed() {
    for rule in [PromiseRule::ForgetsPromise, PromiseRule::CampaignsAnyway, PromiseRule::ComparesIndexOnly] {
        assert!(first_violation(rule, 3, 10_000).is_some_and(|(_, what)| what.contains("commit")));
    }
}
