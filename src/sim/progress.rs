//! The record of which nodes of a cluster were healthy, and when entries were last committed.

use crate::consensus::quorum::decides;
use crate::types::{Membership, NodeId, Term, Time};
use std::collections::BTreeMap;

/// The observations from which `progress_law` checks each window of time.
#[derive(Debug, Default)]
pub struct Progress {
    /// The time of the next inspection of the nodes.
    pub(super) next_inspection_at: Time,
    /// The last time at which each node was not healthy. The time may be in the future.
    pub(super) last_unhealthy_times: BTreeMap<NodeId, Time>,
    /// The last time at which each pair of nodes was disconnected, in both orders of the pair.
    pub(super) last_disconnected_times: BTreeMap<(NodeId, NodeId), Time>,
    /// The configurations in use at the last inspection.
    pub(super) memberships_in_use: Vec<Membership>,
    /// The time since which `memberships_in_use` has not changed.
    pub(super) in_use_since: Time,
    /// How many entries were committed at the last inspection.
    pub(super) committed_count: usize,
    /// The last time at which an entry was committed, or at which there was no entry to commit.
    pub(super) last_progress_at: Time,
    /// The term and the node of the leader with the highest term; `None` if no node is a leader.
    pub(super) leader: Option<(Term, NodeId)>,
    /// Since when `leader` has been the present leader.
    pub(super) leader_since: Time,
    /// The length of each node's durable log, and the last time at which the log changed or held all committed entries.
    pub(super) log_lengths: BTreeMap<NodeId, (usize, Time)>,
    /// How many windows had a healthy majority and were checked, counting only windows that do not overlap.
    pub(super) windows_checked: u64,
    /// When the last counted window ended.
    pub(super) last_window_end: Time,
}

impl Progress {
    /// How many windows had a healthy majority and were checked, counting only windows that do not overlap.
    pub fn windows_checked(&self) -> u64 {
        self.windows_checked
    }

    /// Records that a node is not healthy until the time `until`.
    pub fn mark_unhealthy_until(&mut self, node: NodeId, until: Time) {
        let last_unhealthy_time = self.last_unhealthy_times.entry(node).or_default();
        *last_unhealthy_time = until.max(*last_unhealthy_time);
    }

    /// Whether both nodes were healthy, and never disconnected from each other, since the time `since`.
    fn are_healthy_and_connected_since(&self, first: NodeId, second: NodeId, since: Time) -> bool {
        let disturbance_times = [
            self.last_unhealthy_times.get(&first),
            self.last_unhealthy_times.get(&second),
            self.last_disconnected_times.get(&(first, second)),
        ];
        disturbance_times.into_iter().flatten().all(|until| *until <= since)
    }

    /// A member whose log has not grown since the time `since` and lacks committed entries, although the member and its
    /// leader were healthy and connected all the time; `None` if there is none.
    pub(super) fn starved_member_since(&self, since: Time) -> Option<NodeId> {
        let (_, leader) = self.leader.filter(|_| self.leader_since <= since)?;
        let is_stuck = |id: &NodeId| self.log_lengths.get(id).is_some_and(|(_, grown_at)| *grown_at <= since);
        let mut members = self.memberships_in_use.iter().flat_map(Membership::ids);
        members.find(|id| is_stuck(id) && self.are_healthy_and_connected_since(leader, *id, since))
    }

    /// Nodes that form a quorum of every configuration in use, and were healthy and connected since the time `since`;
    /// `None` if there are none.
    pub(super) fn healthy_majority_since(&self, since: Time) -> Option<Vec<NodeId>> {
        let is_healthy = |id: &NodeId| self.last_unhealthy_times.get(id).is_none_or(|until| *until <= since);
        let mut ids: Vec<NodeId> =
            self.memberships_in_use.iter().flat_map(Membership::all_voters).filter(is_healthy).collect();
        ids.sort();
        ids.dedup();
        let subset = |mask: u32| ids.iter().enumerate().filter(move |(nth, _)| mask >> nth & 1 == 1).map(|(_, id)| *id);
        let are_connected = |first: NodeId, second: NodeId| {
            self.last_disconnected_times.get(&(first, second)).is_none_or(|until| *until <= since)
        };
        (1..1u32 << ids.len())
            .map(|mask| subset(mask).collect::<Vec<NodeId>>())
            .filter(|set| set.iter().all(|first| set.iter().all(|second| are_connected(*first, *second))))
            .find(|set| self.memberships_in_use.iter().all(|membership| decides(membership, |id| set.contains(&id))))
    }
}
