//! The rule for a node that has lost acknowledged entries, as a separate model: terms, votes, logs and rollbacks, and
//! none of the product's code. A node that learns which position it had acknowledged records it, grants its vote only
//! to candidates at or beyond it, and does not campaign before its own log reaches it. Its later acknowledgments count
//! again. Any number of nodes may lose any entries: entries that no node holds any more keep the cluster waiting, and
//! are never contradicted.
//!
//! Why it is enough: of a voter that acknowledged an entry, Leader Completeness (§5.4.3) only needs that it rejects
//! candidates whose log is behind a log that holds the entry. Whether the voter still holds the entry is no part of the
//! proof. A snapshot changes no position, and a server that is added again counts as another server: neither adds a
//! case.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// Term, then index: the order by which logs are compared (§5.4.1).
type At = (u64, usize);

/// The contents of a node's disk.
#[derive(Clone, Default)]
struct Disk {
    term: u64,
    /// The term of each entry.
    log: Vec<u64>,
    promised: At,
}

impl Disk {
    fn last(&self) -> At {
        self.log.last().map_or((0, 0), |term| (*term, self.log.len()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Kept,
    /// A node that has lost entries also loses the record of its acknowledgments.
    Forgotten,
    /// It keeps its promise as a voter, but campaigns all the same.
    Campaigns,
    /// It keeps the position, but compares indexes alone.
    IndexOnly,
}

struct Model {
    rng: SmallRng,
    rule: Rule,
    nodes: Vec<Disk>,
    copies: Vec<Disk>,
    /// The highest term and position that each node's messages have ever claimed.
    claims: Vec<(u64, At)>,
    /// The leader of each term, and the index that each follower acknowledged to it.
    leaders: BTreeMap<u64, (usize, Vec<usize>)>,
    committed: Vec<u64>,
}

impl Model {
    fn new(seed: u64, nodes: usize, rule: Rule) -> Model {
        Model {
            rng: SmallRng::seed_from_u64(seed),
            rule,
            nodes: vec![Disk::default(); nodes],
            copies: vec![Disk::default(); nodes],
            claims: vec![(0, (0, 0)); nodes],
            leaders: BTreeMap::new(),
            committed: Vec::new(),
        }
    }

    /// Runs that many steps. Returns the property that is violated, if any.
    fn run(&mut self, steps: usize) -> Option<&'static str> {
        (0..steps).find_map(|_| {
            let at = self.rng.random_range(0..self.nodes.len());
            match self.rng.random_range(0..12) {
                0 => self.campaign(at),
                1 => {
                    self.copies[at] = self.nodes[at].clone();
                    None
                }
                2 => {
                    self.come_back(at);
                    None
                }
                3 | 4 => {
                    self.append(at);
                    None
                }
                _ => self.replicate(at),
            }
        })
    }

    fn campaign(&mut self, at: usize) -> Option<&'static str> {
        let (last, promised) = (self.nodes[at].last(), self.nodes[at].promised);
        if last < promised && self.rule != Rule::Campaigns {
            return None;
        }
        let term = self.nodes[at].term + 1;
        let asked: Vec<usize> = (0..self.nodes.len()).filter(|n| *n == at || self.rng.random()).collect();
        let rule = self.rule;
        let grants = |voter: &Disk| {
            let floor = match rule {
                Rule::IndexOnly => last.1 >= voter.promised.1,
                Rule::Kept | Rule::Forgotten | Rule::Campaigns => last >= voter.promised,
            };
            voter.term < term && last >= voter.last() && floor
        };
        let mut votes = 0;
        for voter in asked {
            if voter == at || grants(&self.nodes[voter]) {
                votes += 1;
                self.nodes[voter].term = term;
                self.claims[voter].0 = self.claims[voter].0.max(term);
            }
        }
        self.claims[at].1 = self.claims[at].1.max(last);
        if 2 * votes <= self.nodes.len() {
            return None;
        }
        if self.leaders.insert(term, (at, vec![0; self.nodes.len()])).is_some() {
            return Some("two leaders in a term");
        }
        if self.nodes[at].log.get(..self.committed.len()) != Some(&self.committed[..]) {
            return Some("a leader lacks a committed entry");
        }
        self.append(at);
        None
    }

    /// The term that a node leads, if it leads one.
    fn leads(&self, at: usize) -> Option<u64> {
        let term = self.nodes[at].term;
        self.leaders.get(&term).is_some_and(|(leader, _)| *leader == at).then_some(term)
    }

    fn append(&mut self, at: usize) {
        if let Some(term) = self.leads(at) {
            self.nodes[at].log.push(term);
        }
    }

    /// A leader brings one follower up to date, and commits the entries of its own term that a majority holds (§5.4.2).
    fn replicate(&mut self, at: usize) -> Option<&'static str> {
        let term = self.leads(at)?;
        let to = self.rng.random_range(0..self.nodes.len());
        let upto = self.rng.random_range(0..=self.nodes[at].log.len());
        if self.nodes[to].term > term {
            return None;
        }
        let ours = self.nodes[at].log[..upto].to_vec();
        let follower = &mut self.nodes[to];
        follower.term = term;
        let agree = follower.log.iter().zip(&ours).take_while(|(a, b)| a == b).count();
        if agree < upto {
            follower.log.truncate(agree);
            follower.log.extend(&ours[agree..]);
        }
        let claim = (term, ours.last().map_or((0, 0), |last| (*last, upto)));
        self.claims[to] = (self.claims[to].0.max(claim.0), self.claims[to].1.max(claim.1));
        let (_, matched) = self.leaders.get_mut(&term)?;
        matched[to] = matched[to].max(upto);
        matched[at] = self.nodes[at].log.len();
        let mut sorted = matched.clone();
        sorted.sort_unstable();
        let held = sorted[(sorted.len() - 1) / 2];
        if held > self.committed.len() && self.nodes[at].log[held - 1] == term {
            if self.nodes[at].log[..self.committed.len()] != self.committed {
                return Some("a committed entry is contradicted");
            }
            self.committed = self.nodes[at].log[..held].to_vec();
            // A leader counts its own copy: by its commit index it claims to hold these entries.
            self.claims[at].1 = self.claims[at].1.max((term, held));
        }
        None
    }

    /// A node comes back with an older copy of its disk, and learns its earlier claims: the term, in which it has no
    /// vote left, and the position.
    fn come_back(&mut self, at: usize) {
        let (term, position) = self.claims[at];
        // Its earlier acknowledgments to any leader no longer count.
        self.leaders.values_mut().for_each(|(_, matched)| matched[at] = 0);
        let copy = self.copies[at].clone();
        let promised = if self.rule == Rule::Forgotten { copy.promised } else { copy.promised.max(position) };
        // It only knows that it was in this term: if it was the leader, it appends nothing more in it.
        self.leaders.retain(|led, (leader, _)| *leader != at || *led < copy.term);
        self.nodes[at] = Disk { term: copy.term.max(term), promised, ..copy };
    }
}

fn first_broken(rule: Rule, nodes: usize, runs: u64) -> Option<(u64, &'static str)> {
    (0..runs).find_map(|seed| Some((seed, Model::new(seed, nodes, rule).run(400)?)))
}

#[test]
fn promised_position_preserves_committed_entries() {
    for nodes in [3, 5] {
        assert_eq!(first_broken(Rule::Kept, nodes, 10_000), None, "{nodes} nodes");
    }
}

#[test]
fn each_part_of_the_promise_rule_is_needed() {
    for rule in [Rule::Forgotten, Rule::Campaigns, Rule::IndexOnly] {
        assert!(first_broken(rule, 3, 10_000).is_some_and(|(_, what)| what.contains("commit")));
    }
}
