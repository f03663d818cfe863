//! Which membership holds at which index; rolls back with the log.

use crate::types::{DiskId, Index, Membership, NodeId};

/// The configurations of the log, each from its index on.
///
/// A server uses the latest in its log, committed or not (§6); one that is dropped with its entry
/// gives way to the one before. Invariant: never empty, indexes ascending.
#[derive(Clone, Debug)]
pub struct Configs {
    all: Vec<(Index, Membership)>,
}

impl Configs {
    /// The configuration the log begins with.
    pub fn new(from: Index, membership: Membership) -> Configs {
        Configs { all: vec![(from, membership)] }
    }

    /// The configuration in force.
    pub fn current(&self) -> &Membership {
        &self.latest().1
    }

    /// Since which index it is.
    pub fn since(&self) -> Index {
        self.latest().0
    }

    fn latest(&self) -> &(Index, Membership) {
        self.all.last().expect("there is always a configuration")
    }

    /// An entry at that index brings a new one.
    pub fn push(&mut self, from: Index, membership: Membership) {
        assert!(from > self.since(), "configurations follow the log");
        self.all.push((from, membership));
    }

    /// The log drops everything from `from` on; whether that changed the configuration.
    pub fn truncate(&mut self, from: Index) -> bool {
        let before = self.all.len();
        self.all.retain(|(index, _)| *index < from);
        assert!(!self.all.is_empty(), "the configuration the log begins with is never dropped");
        self.all.len() < before
    }

    /// The configuration that held at that index, and since which; if it is not forgotten.
    pub fn at(&self, index: Index) -> Option<&(Index, Membership)> {
        self.all.iter().rev().find(|(since, _)| *since <= index)
    }

    /// The configuration before the one in force, if it is not forgotten.
    pub fn before(&self) -> Option<&Membership> {
        self.at(self.since().prev()).map(|(_, membership)| membership)
    }

    /// The latest configuration that is known to be committed, and all that follow it.
    pub fn since_commit(&self, commit: Index) -> impl Iterator<Item = &Membership> {
        let from = self.all.iter().rposition(|(index, _)| *index <= commit).unwrap_or(0);
        self.all[from..].iter().map(|(_, membership)| membership)
    }

    /// Since which index that node is known by that disk, without a break up to the configuration in force; none
    /// if it is not. Where an older configuration says so too, and is forgotten, the index is a later one, and
    /// compacted.
    pub fn named_since(&self, id: NodeId, disk: DiskId) -> Option<Index> {
        let named = |(_, membership): &&(Index, Membership)| membership.disk(id) == Some(disk);
        self.all.iter().rev().take_while(named).last().map(|(index, _)| *index)
    }

    /// Whether that node may yet be needed to lead: it is a voter, or it is none only by a configuration
    /// that is not known to be committed (thesis §4.2.2). A cluster whose only complete logs are on servers that
    /// are about to leave would otherwise never have a leader again. A voter of that id on another disk is another
    /// server.
    pub fn lists_candidate(&self, id: NodeId, disk: Option<DiskId>, commit: Index) -> bool {
        let votes = |membership: &Membership| {
            let known = membership.disk(id);
            membership.is_voter(id) && (known.is_none() || disk.is_none() || known == disk)
        };
        let before = || self.before().filter(|_| self.since() > commit);
        votes(self.current()) || before().is_some_and(votes)
    }

    /// The log begins anew with that one.
    pub fn restart(&mut self, from: Index, membership: Membership) {
        *self = Configs::new(from, membership);
    }

    /// Forgets all but the latest at or below the log's base, and what is newer.
    pub fn forget(&mut self, base: Index) {
        let keep = self.all.iter().rposition(|(index, _)| *index <= base).unwrap_or(0);
        self.all.drain(..keep);
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
    fn disk_is_named_since_the_first_unbroken_configuration() {
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
    fn a_dropped_configuration_gives_way_to_the_one_before() {
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
