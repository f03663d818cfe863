//! The configurations of the log: which one is in force at each index. A truncation of the log removes configurations.
//!
//! The list begins with the configuration at the base of the log. This first configuration is never dropped, because a
//! truncation of all entries brings it into force again (canonical/raft#250: the configuration to return to had been
//! compacted).

use crate::types::{DiskId, Index, Membership, NodeId};
use std::collections::BTreeSet;

/// The configurations of the log, each with the index from which it is in force.
///
/// A node uses the latest configuration in its log, committed or not (§6). If that entry is truncated, the previous
/// configuration is in force again. Invariants: the list is never empty, and its indexes ascend.
#[derive(Clone, Debug)]
pub struct Configs {
    configurations: Vec<(Index, Membership)>,
}

impl Configs {
    /// Creates a list with one configuration, the one at the base of the log.
    pub fn new(from: Index, membership: Membership) -> Configs {
        Configs { configurations: vec![(from, membership)] }
    }

    /// The configuration in force: the latest in the log.
    pub fn current(&self) -> &Membership {
        &self.latest_configuration().1
    }

    /// The index of the entry with the configuration in force.
    pub fn current_index(&self) -> Index {
        self.latest_configuration().0
    }

    fn latest_configuration(&self) -> &(Index, Membership) {
        self.configurations.last().expect("the list of configurations is never empty")
    }

    /// Adds the configuration of the entry at index `from`.
    pub fn push(&mut self, from: Index, membership: Membership) {
        assert!(from > self.current_index(), "a new configuration has a higher index than the one in force");
        self.configurations.push((from, membership));
    }

    /// Removes the configurations from index `from` on. Returns whether the configuration in force changed.
    ///
    /// Whether a removed configuration was committed is not checked here: the log never truncates a committed entry.
    pub fn truncate(&mut self, from: Index) -> bool {
        let len_before = self.configurations.len();
        self.configurations.retain(|(index, _)| *index < from);
        assert!(!self.configurations.is_empty(), "a truncation keeps the configuration at the base of the log");
        self.configurations.len() < len_before
    }

    /// The configuration in force at `index`, with the index of its own entry; `None` if it is compacted.
    ///
    /// A snapshot contains this configuration and not the latest one, which a truncation may still remove.
    pub fn configuration_at(&self, index: Index) -> Option<&(Index, Membership)> {
        self.configurations.iter().rev().find(|(since, _)| *since <= index)
    }

    /// The configuration before the one in force; `None` if it is compacted.
    pub fn previous(&self) -> Option<&Membership> {
        self.configuration_at(self.current_index().prev()).map(|(_, membership)| membership)
    }

    /// The latest configuration that is known to be committed, and all later ones.
    ///
    /// This node's commit index may be old. The result includes all configurations that were committed since.
    pub fn since_commit(&self, commit: Index) -> impl Iterator<Item = &Membership> {
        let skipped_count = self.configurations.iter().rposition(|(index, _)| *index <= commit).unwrap_or(0);
        self.configurations[skipped_count..].iter().map(|(_, membership)| membership)
    }

    /// The index of the first configuration in the unbroken sequence, up to the one in force, that names that disk for
    /// that node. `None` if the configuration in force names another disk or none. If the start of the sequence is
    /// compacted, the index of the oldest configuration that is kept.
    ///
    /// The start of the sequence is enough: a follower that holds the entry that first named its disk counts, even if
    /// it lacks later configurations.
    pub fn disk_named_since(&self, id: NodeId, disk: DiskId) -> Option<Index> {
        let names_disk = |(_, membership): &&(Index, Membership)| membership.disk(id) == Some(disk);
        self.configurations.iter().rev().take_while(names_disk).last().map(|(index, _)| *index)
    }

    /// Whether that node may still be needed as leader: it is a voter, or only a configuration that is not known to be
    /// committed removes its vote (thesis §4.2.2). Otherwise a cluster whose only complete logs are on nodes about to
    /// be removed would never have a leader again. A voter with that id on another disk is another node.
    pub fn may_be_needed_as_leader(&self, id: NodeId, disk: Option<DiskId>, commit: Index) -> bool {
        let is_voter = |membership: &Membership| {
            let named_disk = membership.disk(id);
            membership.is_voter(id) && (named_disk.is_none() || disk.is_none() || named_disk == disk)
        };
        let previous_until_commit = || self.previous().filter(|_| self.current_index() > commit);
        is_voter(self.current()) || previous_until_commit().is_some_and(is_voter)
    }

    /// Replaces all configurations by that of a snapshot, which replaces the log. It is in force from index `from`.
    pub fn replace_all(&mut self, from: Index, membership: Membership) {
        *self = Configs::new(from, membership);
    }

    /// Removes all configurations before the one in force at the log's base.
    ///
    /// The latest one at or below the base stays, because it is in force there.
    pub fn compact(&mut self, base: Index) {
        let dropped_count = self.configurations.iter().rposition(|(index, _)| *index <= base).unwrap_or(0);
        self.configurations.drain(..dropped_count);
    }

    /// Panics if an invariant of the configurations is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check_invariants(&self, base: Index) {
        assert!(!self.configurations.is_empty(), "the list of configurations is never empty (§6)");
        // Compaction keeps exactly one configuration at or below the base. With none, a truncation of all entries would
        // leave no configuration. With more than one, the list would grow with every change.
        assert!(
            self.configurations.get(1).is_none_or(|(from, _)| *from > base),
            "exactly one configuration is at or below the base"
        );
        debug_assert!(self.configurations.is_sorted_by(|a, b| a.0 < b.0), "configurations ascend by index");
    }

    /// Whether every quorum of the configuration in force shares a voter with every quorum of the previous one: both
    /// need a majority of the same set of voters (§6). True if the previous one is compacted.
    pub(super) fn quorums_overlap(&self) -> bool {
        let (current, previous) = (self.current(), self.previous());
        let is_voter_set_of_previous = |voters: &BTreeSet<NodeId>| {
            let has_voter_set = |previous: &Membership| {
                *voters == previous.voters || (previous.is_joint() && *voters == previous.outgoing)
            };
            previous.is_none_or(has_voter_set)
        };
        is_voter_set_of_previous(&current.voters) || (current.is_joint() && is_voter_set_of_previous(&current.outgoing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn membership_with_voters(voter_count: u64) -> Membership {
        Membership::founding((1..=voter_count).map(|id| (NodeId::new(id).unwrap(), String::new())))
    }

    #[test]
    fn disk_is_named_since_the_first_of_consecutive_configurations() {
        let (node, disk) = (NodeId::new(2).unwrap(), DiskId(22));
        let mut membership_with_disk = membership_with_voters(3);
        membership_with_disk.members.get_mut(&node).unwrap().disk = Some(disk);
        let mut configs = Configs::new(Index(0), membership_with_voters(3));
        assert_eq!(configs.disk_named_since(node, disk), None);
        configs.push(Index(4), membership_with_disk.clone());
        configs.push(Index(6), membership_with_voters(1));
        assert_eq!(configs.disk_named_since(node, disk), None);
        configs.push(Index(7), membership_with_disk.clone());
        configs.push(Index(9), membership_with_disk);
        assert_eq!(configs.disk_named_since(node, disk), Some(Index(7)));
        assert_eq!(configs.since_commit(Index(6)).count(), 3);
    }

    #[test]
    fn truncation_restores_the_previous_configuration() {
        let mut configs = Configs::new(Index(0), membership_with_voters(3));
        configs.push(Index(5), membership_with_voters(4));
        configs.push(Index(9), membership_with_voters(5));
        assert_eq!(configs.current(), &membership_with_voters(5));
        assert!(configs.truncate(Index(9)));
        assert!(!configs.truncate(Index(7)));
        assert_eq!((configs.current_index(), configs.current()), (Index(5), &membership_with_voters(4)));
        configs.compact(Index(6));
        assert_eq!(configs.current(), &membership_with_voters(4));
    }
}
