//! The configuration in force at each index; it is rolled back with the log.
//!
//! The list is as short as the history that may still matter: the configuration at the base of the log, and those after
//! it. The oldest is never dropped, because a truncation of all entries leads back to it (canonical/raft#250: the
//! configuration to go back to had been compacted).

use crate::types::{DiskId, Index, Membership, NodeId};
use std::collections::BTreeSet;

/// The configurations of the log, each with the index it is in force from.
///
/// A server uses the latest in its log, committed or not (§6). If that entry is truncated, the configuration before it
/// is in force again. Invariant: never empty, indexes ascend.
#[derive(Clone, Debug)]
pub struct Configs {
    all: Vec<(Index, Membership)>,
}

impl Configs {
    /// Starts with the configuration at the base of the log.
    pub fn new(from: Index, membership: Membership) -> Configs {
        Configs { all: vec![(from, membership)] }
    }

    /// The configuration in force.
    pub fn current(&self) -> &Membership {
        &self.latest().1
    }

    /// The index of that configuration.
    pub fn since(&self) -> Index {
        self.latest().0
    }

    fn latest(&self) -> &(Index, Membership) {
        self.all.last().expect("there is always a configuration")
    }

    /// Adds the configuration of the entry at that index.
    pub fn push(&mut self, from: Index, membership: Membership) {
        assert!(from > self.since(), "configurations ascend by index");
        self.all.push((from, membership));
    }

    /// Removes the configurations from `from` on. Returns whether that changed the one in force.
    ///
    /// It follows from the index alone. Whether the truncated configuration was committed is no question here: the log
    /// refuses to truncate a committed entry.
    pub fn truncate(&mut self, from: Index) -> bool {
        let before = self.all.len();
        self.all.retain(|(index, _)| *index < from);
        assert!(!self.all.is_empty(), "the configuration the log begins with is never dropped");
        self.all.len() < before
    }

    /// The configuration in force at that index, and its own index; none if it is compacted.
    ///
    /// For a snapshot: it contains the configuration of its own index, not the latest, which a truncation may still
    /// remove.
    pub fn at(&self, index: Index) -> Option<&(Index, Membership)> {
        self.all.iter().rev().find(|(since, _)| *since <= index)
    }

    /// The configuration before the one in force; none if it is compacted.
    pub fn before(&self) -> Option<&Membership> {
        self.at(self.since().prev()).map(|(_, membership)| membership)
    }

    /// The latest configuration that is known to be committed, and all later ones.
    ///
    /// The commit index of this node may be old. All configurations that it may have missed are later ones, and so
    /// included.
    pub fn since_commit(&self, commit: Index) -> impl Iterator<Item = &Membership> {
        let from = self.all.iter().rposition(|(index, _)| *index <= commit).unwrap_or(0);
        self.all[from..].iter().map(|(_, membership)| membership)
    }

    /// The index from which the configurations name that disk for that node without a break up to the one in force;
    /// none if the one in force does not. If an older configuration that named it is compacted, the index returned is
    /// later, and compacted as well.
    ///
    /// The start of the unbroken row, and not the latest configuration: a follower that holds the entry that named its
    /// disk need not receive every later change before it counts.
    pub fn named_since(&self, id: NodeId, disk: DiskId) -> Option<Index> {
        let named = |(_, membership): &&(Index, Membership)| membership.disk(id) == Some(disk);
        self.all.iter().rev().take_while(named).last().map(|(index, _)| *index)
    }

    /// Whether that node may still be needed as leader: it is a voter, or only a configuration that is not known to be
    /// committed removes its vote (thesis §4.2.2). Otherwise a cluster whose only complete logs are on servers that are
    /// about to leave would never have a leader again. A voter of that id on another disk is another server.
    pub fn lists_candidate(&self, id: NodeId, disk: Option<DiskId>, commit: Index) -> bool {
        let votes = |membership: &Membership| {
            let known = membership.disk(id);
            membership.is_voter(id) && (known.is_none() || disk.is_none() || known == disk)
        };
        let before = || self.before().filter(|_| self.since() > commit);
        votes(self.current()) || before().is_some_and(votes)
    }

    /// Restarts with that configuration, as the log restarts.
    pub fn restart(&mut self, from: Index, membership: Membership) {
        *self = Configs::new(from, membership);
    }

    /// Removes all configurations before the latest at or below the log's base.
    ///
    /// The one at or below the base stays: it is the one in force there.
    pub fn forget(&mut self, base: Index) {
        let keep = self.all.iter().rposition(|(index, _)| *index <= base).unwrap_or(0);
        self.all.drain(..keep);
    }

    /// Panics if an invariant of the configurations is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check(&self, base: Index) {
        assert!(!self.all.is_empty(), "there is always a configuration (§6)");
        // Compaction keeps exactly one at or below the base: with none a truncation could not go back to it, and with
        // more the list would grow with every change for as long as the process lives.
        assert!(self.all.get(1).is_none_or(|(from, _)| *from > base), "one configuration is that of the base");
        debug_assert!(self.all.is_sorted_by(|a, b| a.0 < b.0), "configurations ascend by index");
    }

    /// Whether every quorum of the configuration in force shares a voter with every quorum of the one before: a
    /// majority of the same set of voters is needed by both (§6). True if the one before is compacted.
    pub(super) fn overlap(&self) -> bool {
        let (current, before) = (self.current(), self.before());
        let shares = |voters: &BTreeSet<NodeId>| {
            let halves =
                |before: &Membership| *voters == before.voters || (before.is_joint() && *voters == before.outgoing);
            before.is_none_or(halves)
        };
        shares(&current.voters) || (current.is_joint() && shares(&current.outgoing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn of(n: u64) -> Membership {
        Membership::founding((1..=n).map(|id| (NodeId::new(id).unwrap(), String::new())))
    }

    #[test]
    fn disk_is_named_since_start_of_unbroken_configurations() {
        let (node, disk) = (NodeId::new(2).unwrap(), DiskId(22));
        let mut named = of(3);
        named.members.get_mut(&node).unwrap().disk = Some(disk);
        let mut configs = Configs::new(Index(0), of(3));
        assert_eq!(configs.named_since(node, disk), None);
        configs.push(Index(4), named.clone());
        configs.push(Index(6), of(1));
        assert_eq!(configs.named_since(node, disk), None);
        configs.push(Index(7), named.clone());
        configs.push(Index(9), named);
        assert_eq!(configs.named_since(node, disk), Some(Index(7)));
        assert_eq!(configs.since_commit(Index(6)).count(), 3);
    }

    #[test]
    fn truncated_configuration_restores_the_previous_one() {
        let mut configs = Configs::new(Index(0), of(3));
        configs.push(Index(5), of(4));
        configs.push(Index(9), of(5));
        assert_eq!(configs.current(), &of(5));
        assert!(configs.truncate(Index(9)));
        assert!(!configs.truncate(Index(7)));
        assert_eq!((configs.since(), configs.current()), (Index(5), &of(4)));
        configs.forget(Index(6));
        assert_eq!(configs.current(), &of(4));
    }
}
