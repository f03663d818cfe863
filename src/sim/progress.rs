//! The observed progress of a cluster.

use crate::consensus::quorum::decides;
use crate::types::{Membership, NodeId, Term, Time};
use std::collections::BTreeMap;

/// The observed progress of a cluster.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the nodes are inspected next.
    pub(super) next: Time,
    /// Until when each node was not fit.
    pub(super) unfit: BTreeMap<NodeId, Time>,
    /// Until when each pair of nodes was apart.
    pub(super) apart: BTreeMap<(NodeId, NodeId), Time>,
    /// The configurations in use, and since when.
    pub(super) in_use: Vec<Membership>,
    pub(super) in_use_since: Time,
    /// How many entries were committed, and when there was last progress, or nothing to commit.
    pub(super) committed: usize,
    pub(super) progressed: Time,
    /// The leader with the highest term, and since when it leads.
    pub(super) leader: Option<(Term, NodeId)>,
    pub(super) leads_since: Time,
    /// The length of each node's log, and when it last grew, or lacked no committed entry.
    pub(super) logs: BTreeMap<NodeId, (usize, Time)>,
    /// How many windows were checked, and when the last one ended.
    pub(super) judged: u64,
    pub(super) judged_at: Time,
}

impl Progress {
    /// How many windows were checked.
    pub fn judged(&self) -> u64 {
        self.judged
    }

    /// A node is not fit until then.
    pub fn unfit_until(&mut self, node: NodeId, until: Time) {
        let last = self.unfit.entry(node).or_default();
        *last = until.max(*last);
    }

    /// Whether both nodes were fit and never apart since that time.
    fn are_healthy_since(&self, one: NodeId, other: NodeId, since: Time) -> bool {
        let until = [self.unfit.get(&one), self.unfit.get(&other), self.apart.get(&(one, other))];
        until.into_iter().flatten().all(|until| *until <= since)
    }

    /// A member whose log has not grown since that time, though it lacks committed entries, and though it and its
    /// leader were healthy all the time.
    pub(super) fn starved_since(&self, since: Time) -> Option<NodeId> {
        let (_, leader) = self.leader.filter(|_| self.leads_since <= since)?;
        let starves = |id: &NodeId| self.logs.get(id).is_some_and(|(_, grew)| *grew <= since);
        let mut members = self.in_use.iter().flat_map(Membership::ids);
        members.find(|id| starves(id) && self.are_healthy_since(leader, *id, since))
    }

    /// A quorum of every configuration in use, fit and never apart since that time, if there is one.
    pub(super) fn majority_since(&self, since: Time) -> Option<Vec<NodeId>> {
        let is_fit = |id: &NodeId| self.unfit.get(id).is_none_or(|until| *until <= since);
        let mut ids: Vec<NodeId> = self.in_use.iter().flat_map(Membership::all_voters).filter(is_fit).collect();
        ids.sort();
        ids.dedup();
        let chosen = |mask: u32| ids.iter().enumerate().filter(move |(nth, _)| mask >> nth & 1 == 1).map(|(_, id)| *id);
        let together = |one: NodeId, other: NodeId| self.apart.get(&(one, other)).is_none_or(|until| *until <= since);
        (1..1u32 << ids.len())
            .map(|mask| chosen(mask).collect::<Vec<NodeId>>())
            .filter(|set| set.iter().all(|one| set.iter().all(|other| together(*one, *other))))
            .find(|set| self.in_use.iter().all(|membership| decides(membership, |id| set.contains(&id))))
    }
}
