//! Where a cluster is asked: at the endpoints a client was given, and at those it has heard of since.

use crate::api::Status;
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use std::collections::VecDeque;
use std::ops::Index;
use std::time::Duration;

/// Who the members are is asked again this often by a client that lasts.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where a cluster is asked. What was given stays, and comes first; a cluster may leave all of it behind, member
/// by member, and is found at what was heard of since. That is bounded, and forgets the oldest.
#[derive(Clone, Debug)]
pub struct KnownEndpoints {
    given: Vec<String>,
    heard: VecDeque<String>,
}

impl KnownEndpoints {
    /// Those, and no others yet.
    pub fn new(given: Vec<String>) -> KnownEndpoints {
        assert!(!given.is_empty(), "a client needs somebody to ask");
        KnownEndpoints { given, heard: VecDeque::new() }
    }

    /// Those it was given.
    pub fn given(&self) -> &[String] {
        &self.given
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.given.len() + self.heard.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.given.iter().chain(&self.heard)
    }

    /// A node said that the leader is there.
    pub fn learn(&mut self, address: &str) {
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || self.iter().any(|known| known == address) {
            return;
        }
        if self.heard.len() >= MEMBERS_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back(address.to_owned());
    }

    /// A node said who the members are: whoever is none is forgotten, unless it was given.
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
    fn what_was_given_stays_and_what_was_heard_is_bounded() {
        let mut known = KnownEndpoints::new(vec!["a:1".into(), "b:1".into()]);
        for n in 0..10 * MEMBERS_MAX {
            known.learn(&format!("h:{n}"));
            known.learn("a:1");
        }
        known.learn(&"x".repeat(ADDRESS_BYTES_MAX + 1));
        known.learn("");
        assert_eq!(known.len(), 2 + MEMBERS_MAX);
        assert_eq!((known[0].as_str(), known[1].as_str()), ("a:1", "b:1"));
        assert_eq!(known[known.len() - 1], format!("h:{}", 10 * MEMBERS_MAX - 1), "the oldest are forgotten");
        assert!(known.iter().all(|endpoint| endpoint != "h:0"));
    }
}
