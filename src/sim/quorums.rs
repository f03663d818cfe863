//! Quorums by each node's log: checks the rules of §6 against the log itself, rather than against the nodes'
//! interpretation of it.
//!
//! A configuration applies to a node from the moment it is in the node's log, and only as long as it is there.
//! Configurations in use are the latest committed one, and all that follow it in any log that holds it. Every two
//! quorums of any two of them share a member. A node whose log lacks the latest committed configuration cannot win an
//! election, whatever its own configuration is: the nodes that committed it reject its vote requests.

use super::node_history::Stamp;
use super::violation::Result;
use crate::consensus::quorum::decides;
use crate::types::{Entry, Index, Membership, NodeId, Payload, Term};
use std::collections::{BTreeMap, BTreeSet};

/// All configurations that were ever written.
#[derive(Clone, Debug, Default)]
pub struct Configurations {
    founding: Membership,
    /// The nodes that start with the founding configuration; all others start with an empty one.
    founders: BTreeSet<NodeId>,
    nobody: Membership,
    all: BTreeMap<(Index, Term), Membership>,
    /// The positions of the configurations in each node's log, in order.
    logs: BTreeMap<NodeId, Vec<(Index, Term)>>,
    /// The positions of the committed configurations, in order.
    committed: Vec<(Index, Term)>,
    /// The last committed index, whatever entry it holds.
    upto: Index,
    /// Configurations that a leader has just appended to its log, until the next check.
    adopted: BTreeSet<(NodeId, Index)>,
    /// Nodes whose logs contradict a committed entry, as of the last check.
    contradicting: BTreeSet<NodeId>,
    /// Whether two configurations in use might lack a common member since the last check.
    changed: bool,
}

impl Configurations {
    /// Only the founding configuration.
    pub fn new(founding: Membership) -> Configurations {
        let founders = founding.ids().collect();
        Configurations { founding, founders, ..Configurations::default() }
    }

    /// A founder starts again as a joining node.
    pub fn joins(&mut self, node: NodeId) {
        self.founders.remove(&node);
    }

    /// A node's log is replaced by this one.
    pub fn begins(&mut self, node: NodeId, log: &[Stamp]) {
        let is_there =
            |(index, term): &&(Index, Term)| log.get(index.0 as usize - 1).is_some_and(|(written, _)| written == term);
        let held = self.all.keys().filter(is_there).copied().collect();
        self.logs.insert(node, held);
        self.changed = true;
    }

    /// A node writes an entry to its log, and truncates its log there first.
    pub fn writes(&mut self, node: NodeId, entry: &Entry, leads: bool) {
        let index = entry.position.index;
        let log = self.logs.entry(node).or_default();
        while log.pop_if(|(held, _)| *held >= index).is_some() {}
        let Payload::Membership(membership) = &entry.payload else { return };
        let before = log.last().map_or(&self.founding, |position| &self.all[position]);
        let halves = (&before.voters, &before.outgoing);
        // The first leader appends the founding configuration; and a joint configuration that is reverted needs the
        // same two majorities.
        let same = [(&membership.voters, &membership.outgoing), (&membership.outgoing, &membership.voters)];
        if leads && !same.contains(&halves) {
            self.adopted.insert((node, index));
        }
        let position = (index, entry.position.term);
        log.push(position);
        self.all.entry(position).or_insert_with(|| (**membership).clone());
        self.changed = true;
    }

    /// An entry is committed.
    pub fn commits(&mut self, index: Index, term: Term) {
        self.upto = index;
        if self.all.contains_key(&(index, term)) {
            self.committed.push((index, term));
            self.changed = true;
        }
    }

    /// How many configurations were committed.
    pub fn committed(&self) -> usize {
        self.committed.len()
    }

    /// The latest committed configuration.
    pub fn latest(&self) -> &Membership {
        self.committed.last().map_or(&self.founding, |position| &self.all[position])
    }

    /// The configuration that a node must use.
    pub fn of(&self, node: NodeId) -> &Membership {
        match self.logs.get(&node).and_then(|log| log.last()) {
            Some(position) => &self.all[position],
            None if self.founders.contains(&node) => &self.founding,
            None => &self.nobody,
        }
    }

    /// Whether the set of nodes that contradict committed entries must be computed anew.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Exactly these nodes have logs that contradict a committed entry.
    pub fn contradicted_by(&mut self, nodes: BTreeSet<NodeId>) {
        self.contradicting = nodes;
    }

    /// All configurations that may be in use: the latest committed one, and all that follow it in a log that holds it.
    /// Logs that contradict a committed entry are left out: a majority of each committed configuration holds that
    /// entry, and elects no node whose log holds another in its place.
    pub fn in_use(&self) -> Vec<&Membership> {
        let mut found = vec![self.latest()];
        let latest = self.committed.last();
        for (_, log) in self.logs.iter().filter(|(node, _)| !self.contradicting.contains(node)) {
            let from = match latest {
                Some(latest) => log.iter().position(|held| held == latest).map(|at| at + 1),
                None => Some(0),
            };
            let behind = from.map_or(&[][..], |from| &log[from..]);
            for position in behind.iter().take_while(|(index, _)| *index > self.upto) {
                let membership = &self.all[position];
                // Including changes of learners only: a learner is a member too, and known by its disk.
                if !found.contains(&membership) {
                    found.push(membership);
                }
            }
        }
        found
    }

    /// Checks that a node uses the configuration that its log prescribes, that a leader appended none before an entry
    /// of its own term was committed (`open`; Ongaro 2015), and that any two configurations in use intersect.
    pub fn check_configuration(
        &mut self,
        node: NodeId,
        open: bool,
        (since, membership): (Index, &Membership),
    ) -> Result<()> {
        let must = self.of(node);
        let from = self.logs.get(&node).and_then(|log| log.last()).map_or(Index::ZERO, |(index, _)| *index);
        if (since, membership) != (from, must) {
            return Err(format!(
                "{node} uses {membership} of index {since}, and the latest in its log is {must} of index {from} (§6)"
            ));
        }
        while let Some((_, index)) = self.adopted.pop_first() {
            if !open {
                return Err(format!("{node} changes members at {index} before an entry of its term is committed"));
            }
        }
        if std::mem::take(&mut self.changed) {
            let found = self.in_use();
            for (nth, one) in found.iter().enumerate() {
                for other in &found[..nth] {
                    if let Some(apart) = disjoint(one, other) {
                        return Err(format!(
                            "two quorums in use do not intersect: {apart:?} by {one}, the remaining nodes by {other}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A quorum of the one configuration whose complement is a quorum of the other, if there is one.
fn disjoint(one: &Membership, other: &Membership) -> Option<BTreeSet<NodeId>> {
    let ids: Vec<NodeId> = one.all_voters().chain(other.all_voters()).collect::<BTreeSet<_>>().into_iter().collect();
    let chosen = |mask: u32, id: NodeId| ids.binary_search(&id).is_ok_and(|nth| mask >> nth & 1 == 1);
    (0..1u32 << ids.len())
        .find(|mask| decides(one, |id| chosen(*mask, id)) && decides(other, |id| !chosen(*mask, id)))
        .map(|mask| ids.iter().copied().filter(|id| chosen(mask, *id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(voters: &[u64], outgoing: &[u64]) -> Membership {
        let ids = |all: &[u64]| all.iter().filter_map(|n| NodeId::new(*n)).collect();
        Membership { voters: ids(voters), outgoing: ids(outgoing), ..Membership::default() }
    }

    #[test]
    fn disjoint_quorums_are_detected() {
        assert_eq!(disjoint(&of(&[1, 2, 3], &[]), &of(&[1, 2, 3], &[])), None);
        assert_eq!(disjoint(&of(&[1, 2, 3], &[]), &of(&[1, 2, 3, 4], &[])), None, "one voter more still intersects");
        assert!(
            disjoint(&of(&[1, 2, 3], &[]), &of(&[1, 2, 3, 4, 5], &[])).is_some(),
            "two voters more do not intersect"
        );
        assert!(disjoint(&of(&[1, 2, 3], &[]), &of(&[4, 5, 6], &[])).is_some());
        assert_eq!(
            disjoint(&of(&[1, 2, 3], &[]), &of(&[4, 5, 6], &[1, 2, 3])),
            None,
            "a joint quorum needs both majorities"
        );
        assert_eq!(disjoint(&of(&[4, 5, 6], &[]), &of(&[4, 5, 6], &[1, 2, 3])), None);
        assert!(
            disjoint(&of(&[1, 2, 3], &[]), &of(&[7, 8, 9], &[4, 5, 6])).is_some(),
            "a joint configuration on top of another"
        );
    }
}
