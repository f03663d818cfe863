//! The endpoints of a cluster: those that the client was created with, and those learned since.

use crate::api::Status;
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use std::collections::VecDeque;
use std::ops::Index;
use std::time::Duration;

/// How often a long-lived client requests the members.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// The endpoints of a cluster. The given ones stay, and come first; since a cluster may replace all of these members
/// one by one, the client also learns others. Their number is bounded; the oldest are dropped.
#[derive(Clone, Debug)]
pub struct KnownEndpoints {
    given: Vec<String>,
    heard: VecDeque<String>,
}

impl KnownEndpoints {
    /// The given endpoints alone.
    pub fn new(given: Vec<String>) -> KnownEndpoints {
        assert!(!given.is_empty(), "a client needs at least one endpoint");
        KnownEndpoints { given, heard: VecDeque::new() }
    }

    /// The given endpoints.
    pub fn given(&self) -> &[String] {
        &self.given
    }

    /// The number of endpoints.
    pub fn len(&self) -> usize {
        self.given.len() + self.heard.len()
    }

    /// All endpoints.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.given.iter().chain(&self.heard)
    }

    /// Adds the address of a member.
    pub fn learn(&mut self, address: &str) {
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || self.iter().any(|known| known == address) {
            return;
        }
        if self.heard.len() >= MEMBERS_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back(address.to_owned());
    }

    /// Replaces the learned endpoints with the members in a node's status.
    pub fn learn_members(&mut self, status: &Status) {
        if status.members.is_empty() {
            return;
        }
        self.heard.clear();
        status.members.iter().take(MEMBERS_MAX).for_each(|member| self.learn(&member.address));
    }
}

impl Index<usize> for KnownEndpoints {
    type Output = String;

    fn index(&self, at: usize) -> &String {
        self.given.get(at).unwrap_or_else(|| &self.heard[at - self.given.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_endpoints_stay_and_learned_ones_are_bounded() {
        let mut known = KnownEndpoints::new(vec!["a:1".into(), "b:1".into()]);
        for n in 0..10 * MEMBERS_MAX {
            known.learn(&format!("h:{n}"));
            known.learn("a:1");
        }
        known.learn(&"x".repeat(ADDRESS_BYTES_MAX + 1));
        known.learn("");
        assert_eq!(known.len(), 2 + MEMBERS_MAX);
        assert_eq!((known[0].as_str(), known[1].as_str()), ("a:1", "b:1"));
        assert_eq!(known[known.len() - 1], format!("h:{}", 10 * MEMBERS_MAX - 1), "the oldest are dropped");
        assert!(known.iter().all(|endpoint| endpoint != "h:0"));
    }
}
