//! The quorums that each node's log prescribes. The rules of §6 are checked against the logs themselves, not against
//! the nodes' interpretation of the logs.
//!
//! A configuration applies to a node while its entry is in the node's log. The configurations in use are the latest
//! committed configuration, and all configurations that follow it in any log that holds it. Every quorum of one
//! configuration in use must share a member with every quorum of every other. A node whose log lacks the latest
//! committed configuration cannot win an election, since the nodes that hold this configuration reject its vote
//! requests.

use super::node_history::EntryStamp;
use super::violation::Result;
use crate::consensus::quorum::decides;
use crate::types::{Entry, Index, Membership, NodeId, Payload, Term};
use std::collections::{BTreeMap, BTreeSet};

/// All configurations that were ever written to a log, and which of them are committed.
#[derive(Clone, Debug, Default)]
pub struct Configurations {
    founding_configuration: Membership,
    /// The nodes that start with the founding configuration. All other nodes start with an empty configuration.
    founders: BTreeSet<NodeId>,
    /// An empty membership, for returning a reference to it.
    empty_membership: Membership,
    /// Every configuration that was ever written to a log, by the position of its entry.
    configurations_by_position: BTreeMap<(Index, Term), Membership>,
    /// The positions of the configurations in each node's log, in order.
    positions_by_node: BTreeMap<NodeId, Vec<(Index, Term)>>,
    /// The positions of the committed configurations, in order.
    committed_positions: Vec<(Index, Term)>,
    /// The highest committed index of any entry.
    commit_index: Index,
    /// The membership changes that leaders have appended to their logs since the last check: the leader, and the index
    /// of the entry.
    unchecked_appends: BTreeSet<(NodeId, Index)>,
    /// Nodes whose logs contradict a committed entry, as of the last check.
    contradicting_nodes: BTreeSet<NodeId>,
    /// Whether the configurations in use may have changed since the last check.
    configurations_changed: bool,
}

impl Configurations {
    /// The state before any log is written: only the founding configuration is in use.
    pub fn new(founding_configuration: Membership) -> Configurations {
        let founders = founding_configuration.ids().collect();
        Configurations { founding_configuration, founders, ..Configurations::default() }
    }

    /// Records that a founder starts again as a joining node, with an empty configuration.
    pub fn remove_founder(&mut self, node: NodeId) {
        self.founders.remove(&node);
    }

    /// Records that a node's log is replaced by `log`. All entries of `log` were written to some log before.
    pub fn replace_log(&mut self, node: NodeId, log: &[EntryStamp]) {
        let is_in_log =
            |(index, term): &&(Index, Term)| log.get(index.0 as usize - 1).is_some_and(|(written, _)| written == term);
        let positions = self.configurations_by_position.keys().filter(is_in_log).copied().collect();
        self.positions_by_node.insert(node, positions);
        self.configurations_changed = true;
    }

    /// Records that a node writes an entry to its log, after truncating the log at the entry's index. `is_leader` is
    /// whether the node is the leader of the entry's term.
    pub fn record_write(&mut self, node: NodeId, entry: &Entry, is_leader: bool) {
        let index = entry.position.index;
        let positions = self.positions_by_node.entry(node).or_default();
        while positions.pop_if(|(held, _)| *held >= index).is_some() {}
        let Payload::Membership(membership) = &entry.payload else { return };
        let previous_membership = positions
            .last()
            .map_or(&self.founding_configuration, |position| &self.configurations_by_position[position]);
        let old_majorities = (&previous_membership.voters, &previous_membership.outgoing);
        // Two kinds of entries do not change the quorums: the founding configuration, which the first leader appends,
        // and a configuration that reverts a joint configuration, which needs the same two majorities.
        let same_majorities = [(&membership.voters, &membership.outgoing), (&membership.outgoing, &membership.voters)];
        if is_leader && !same_majorities.contains(&old_majorities) {
            self.unchecked_appends.insert((node, index));
        }
        let position = (index, entry.position.term);
        positions.push(position);
        self.configurations_by_position.entry(position).or_insert_with(|| (**membership).clone());
        self.configurations_changed = true;
    }

    /// Records that the entry with this index and term is committed.
    pub fn record_commit(&mut self, index: Index, term: Term) {
        self.commit_index = index;
        if self.configurations_by_position.contains_key(&(index, term)) {
            self.committed_positions.push((index, term));
            self.configurations_changed = true;
        }
    }

    /// How many configurations were committed.
    pub fn committed_count(&self) -> usize {
        self.committed_positions.len()
    }

    /// The latest committed configuration; before the first one, the founding configuration.
    pub fn latest_committed(&self) -> &Membership {
        self.committed_positions
            .last()
            .map_or(&self.founding_configuration, |position| &self.configurations_by_position[position])
    }

    /// The configuration that a node must use: the latest in its log, or the one that it started with.
    pub fn membership(&self, node: NodeId) -> &Membership {
        match self.positions_by_node.get(&node).and_then(|log| log.last()) {
            Some(position) => &self.configurations_by_position[position],
            None if self.founders.contains(&node) => &self.founding_configuration,
            None => &self.empty_membership,
        }
    }

    /// Whether a log or the committed configuration has changed since the last check.
    pub fn has_changed(&self) -> bool {
        self.configurations_changed
    }

    /// Sets the nodes whose logs contradict a committed entry.
    pub fn set_contradicting_nodes(&mut self, nodes: BTreeSet<NodeId>) {
        self.contradicting_nodes = nodes;
    }

    /// All configurations that may be in use: the latest committed configuration, and all that follow it in a log that
    /// holds it. Logs that contradict a committed entry are left out: a majority of each committed configuration holds
    /// that entry, and elects no node whose log holds another entry at its index.
    pub fn in_use(&self) -> Vec<&Membership> {
        let mut in_use = vec![self.latest_committed()];
        let latest_position = self.committed_positions.last();
        for (_, log) in self.positions_by_node.iter().filter(|(node, _)| !self.contradicting_nodes.contains(node)) {
            let following_start = match latest_position {
                Some(latest_position) => log.iter().position(|held| held == latest_position).map(|at| at + 1),
                None => Some(0),
            };
            let following_positions = following_start.map_or(&[][..], |following_start| &log[following_start..]);
            for position in following_positions.iter().take_while(|(index, _)| *index > self.commit_index) {
                let membership = &self.configurations_by_position[position];
                // Configurations that differ only in their learners are included too, since they also record disk ids.
                if !in_use.contains(&membership) {
                    in_use.push(membership);
                }
            }
        }
        in_use
    }

    /// Checks three rules. A node uses the configuration that its log prescribes. A leader appends no membership change
    /// before an entry of its own term is committed (`term_has_commit`; Ongaro 2015). The quorums of any two
    /// configurations in use intersect.
    pub fn check_configuration(
        &mut self,
        node: NodeId,
        term_has_commit: bool,
        (since, membership): (Index, &Membership),
    ) -> Result<()> {
        let latest_membership = self.membership(node);
        let latest_index =
            self.positions_by_node.get(&node).and_then(|log| log.last()).map_or(Index::ZERO, |(index, _)| *index);
        if (since, membership) != (latest_index, latest_membership) {
            return Err(format!(
                "{node} uses {membership} of index {since}, but the latest in its log is {latest_membership} of index \
                 {latest_index} (§6)"
            ));
        }
        while let Some((_, index)) = self.unchecked_appends.pop_first() {
            if !term_has_commit {
                return Err(format!(
                    "{node} appends a membership change at index {index} before an entry of its term is committed"
                ));
            }
        }
        if std::mem::take(&mut self.configurations_changed) {
            let configurations_in_use = self.in_use();
            for (nth, one) in configurations_in_use.iter().enumerate() {
                for other in &configurations_in_use[..nth] {
                    if let Some(quorum) = find_disjoint_quorum(one, other) {
                        return Err(format!(
                            "two quorums do not intersect: {quorum:?} of {one}, and the remaining nodes of {other}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A quorum of one configuration that has no member in common with some quorum of the other; `None` if all quorums
/// intersect.
fn find_disjoint_quorum(one: &Membership, other: &Membership) -> Option<BTreeSet<NodeId>> {
    let ids: Vec<NodeId> = one.all_voters().chain(other.all_voters()).collect::<BTreeSet<_>>().into_iter().collect();
    let is_in_subset = |mask: u32, id: NodeId| ids.binary_search(&id).is_ok_and(|nth| mask >> nth & 1 == 1);
    (0..1u32 << ids.len())
        .find(|mask| decides(one, |id| is_in_subset(*mask, id)) && decides(other, |id| !is_in_subset(*mask, id)))
        .map(|mask| ids.iter().copied().filter(|id| is_in_subset(mask, *id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(voters: &[u64], outgoing: &[u64]) -> Membership {
        let ids = |all: &[u64]| all.iter().filter_map(|n| NodeId::new(*n)).collect();
        Membership { voters: ids(voters), outgoing: ids(outgoing), ..Membership::default() }
    }

    #[test]
    fn disjoint_quorums_are_detected() {
        assert_eq!(find_disjoint_quorum(&membership(&[1, 2, 3], &[]), &membership(&[1, 2, 3], &[])), None);
        assert_eq!(
            find_disjoint_quorum(&membership(&[1, 2, 3], &[]), &membership(&[1, 2, 3, 4], &[])),
            None,
            "quorums intersect if one voter is added"
        );
        assert!(
            find_disjoint_quorum(&membership(&[1, 2, 3], &[]), &membership(&[1, 2, 3, 4, 5], &[])).is_some(),
            "quorums need not intersect if two voters are added at once"
        );
        assert!(find_disjoint_quorum(&membership(&[1, 2, 3], &[]), &membership(&[4, 5, 6], &[])).is_some());
        assert_eq!(
            find_disjoint_quorum(&membership(&[1, 2, 3], &[]), &membership(&[4, 5, 6], &[1, 2, 3])),
            None,
            "a quorum of a joint configuration needs both majorities"
        );
        assert_eq!(find_disjoint_quorum(&membership(&[4, 5, 6], &[]), &membership(&[4, 5, 6], &[1, 2, 3])), None);
        assert!(
            find_disjoint_quorum(&membership(&[1, 2, 3], &[]), &membership(&[7, 8, 9], &[4, 5, 6])).is_some(),
            "quorums of one joint configuration need not intersect those of another change"
        );
    }
}
