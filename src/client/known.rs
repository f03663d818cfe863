//! The endpoints of a cluster that a client knows: the initial ones, and those that nodes have named since.

use crate::api::Status;
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use std::collections::VecDeque;
use std::ops::Index;
use std::time::Duration;

/// How often a long-lived client reads the list of members from a node.
pub const MEMBERS_REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// The endpoints of a cluster. The initial endpoints stay, and come first. A cluster may replace all of these members
/// one by one, so the client also learns the addresses of other members. The number of learned endpoints is bounded:
/// the oldest are dropped.
#[derive(Clone, Debug)]
pub struct KnownEndpoints {
    initial: Vec<String>,
    learned: VecDeque<String>,
}

impl KnownEndpoints {
    /// The initial endpoints, before any others are learned. Panics without endpoints.
    pub fn new(initial: Vec<String>) -> KnownEndpoints {
        assert!(!initial.is_empty(), "a client needs at least one endpoint");
        KnownEndpoints { initial, learned: VecDeque::new() }
    }

    /// The endpoints that the client was created with.
    pub fn initial(&self) -> &[String] {
        &self.initial
    }

    /// The number of endpoints, initial and learned.
    pub fn len(&self) -> usize {
        self.initial.len() + self.learned.len()
    }

    /// All endpoints, the initial ones first.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.initial.iter().chain(&self.learned)
    }

    /// Learns the address of a member, unless it is known, empty or too long. The oldest learned one may be dropped.
    pub fn learn_address(&mut self, address: &str) {
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || self.iter().any(|known| known == address) {
            return;
        }
        if self.learned.len() >= MEMBERS_MAX {
            self.learned.pop_front();
        }
        self.learned.push_back(address.to_owned());
    }

    /// Replaces the learned endpoints with the members in a node's status.
    pub fn learn_members(&mut self, status: &Status) {
        if status.members.is_empty() {
            return;
        }
        self.learned.clear();
        status.members.iter().take(MEMBERS_MAX).for_each(|member| self.learn_address(&member.address));
    }
}

impl Index<usize> for KnownEndpoints {
    type Output = String;

    fn index(&self, at: usize) -> &String {
        self.initial.get(at).unwrap_or_else(|| &self.learned[at - self.initial.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_endpoints_stay_and_learned_ones_are_bounded() {
        let mut known_endpoints = KnownEndpoints::new(vec!["a:1".into(), "b:1".into()]);
        for n in 0..10 * MEMBERS_MAX {
            known_endpoints.learn_address(&format!("h:{n}"));
            known_endpoints.learn_address("a:1");
        }
        known_endpoints.learn_address(&"x".repeat(ADDRESS_BYTES_MAX + 1));
        known_endpoints.learn_address("");
        assert_eq!(known_endpoints.len(), 2 + MEMBERS_MAX);
        assert_eq!((known_endpoints[0].as_str(), known_endpoints[1].as_str()), ("a:1", "b:1"));
        assert_eq!(
            known_endpoints[known_endpoints.len() - 1],
            format!("h:{}", 10 * MEMBERS_MAX - 1),
            "the oldest are dropped"
        );
        assert!(known_endpoints.iter().all(|endpoint| endpoint != "h:0"));
    }
}
