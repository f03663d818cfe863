//! Machines that lose their disks: which machines may lose a disk, and how their nodes start again with empty disks.

use super::disk::Crash;
use super::event::SimEvent;
use super::host::Host;
use super::world::World;
use crate::consensus::quorum::decides;
use crate::types::{Member, Membership, NodeId, PendingRole};
use rand::RngExt;
use std::time::Duration;

impl World {
    /// Whether a machine may lose its disk now. No protocol survives the loss of the disks of a majority.
    ///
    /// The other nodes that hold data must form a quorum of every configuration that may be in use. They must also form
    /// a quorum of the founding configuration, with which the wiped machine starts again: before the first entry, a
    /// node that has never held data cannot be distinguished from a node that has lost its data. A machine that founded
    /// the cluster alone starts again as a joining node instead.
    pub(super) fn may_be_wiped(&self, at: NodeId) -> bool {
        let configurations = &self.checks.configurations;
        let founding_membership = self.scenario.founding_membership();
        let keeps_quorum = |membership: &Membership| self.has_quorum_without(at, membership);
        // A machine that is being added must keep its disk: which disk id the configuration records is not decided yet.
        let is_member = configurations.latest_committed().members.contains_key(&at);
        let is_being_added =
            configurations.in_use().iter().any(|membership| membership.members.contains_key(&at)) && !is_member;
        let may_found_again = founding_membership.voters.len() == 1 || keeps_quorum(&founding_membership);
        // A member with a pending promotion may become a voter at the moment of the loss.
        let may_become_voter = configurations
            .latest_committed()
            .members
            .get(&at)
            .is_some_and(|member| member.pending_role != PendingRole::Unchanged);
        !self.hosts[&at].was_wiped
            && !is_being_added
            && !may_become_voter
            && may_found_again
            && configurations.in_use().into_iter().all(keeps_quorum)
    }

    /// Whether the nodes other than `at` that have lost no data form a quorum of this configuration. A node is not
    /// counted while the configuration in its own log does not name its disk.
    pub(super) fn has_quorum_without(&self, at: NodeId, membership: &Membership) -> bool {
        let holds_its_data = |id: NodeId| {
            let host = &self.hosts[&id];
            let is_disk_recorded = self.checks.configurations.membership(id).disk(id) == Some(host.disk_id);
            id != at
                && is_disk_recorded
                && !host.was_wiped
                && !self.is_damaged(id)
                && !self.checks.has_empty_log(id)
                && !self.checks.lacks_lost_entries(id)
        };
        decides(membership, holds_its_data)
    }

    /// Replaces the disk of a machine by an empty one. The machine starts again within a second, as a machine that has
    /// never run.
    pub(super) fn wipe_machine(&mut self, at: NodeId) {
        self.crash(at, Crash::Kill);
        self.trace_line(|| format!("{at} loses its disk"));
        self.host(at).wipe();
        self.snapshots.clear_damage(at);
        self.checks.record_wipe(at);
        if self.scenario.nodes == 1 {
            self.checks.configurations.remove_founder(at);
            self.host(at).is_founder = false;
        }
        self.faults += 1;
        let delay = Duration::from_millis(self.rng.random_range(1..1000));
        self.schedule_after(delay, SimEvent::ProcessStart { at });
    }

    /// Updates `Host::awaiting_removal` of the wiped machines. A wiped machine that awaited its removal, and is no
    /// longer in any configuration that may be in use, starts again as a new node.
    pub(super) fn update_awaiting_removals(&mut self) {
        let configurations_in_use = self.checks.configurations.in_use();
        // A learner may lose its disk before its disk id is recorded. The configuration then records the new disk id.
        let has_recorded_disk = |(id, host): &(&NodeId, &Host)| {
            let mut members =
                configurations_in_use.iter().filter_map(|membership| membership.members.get(id)).peekable();
            members.peek().is_some() && members.all(|member| member.disk == Some(host.disk_id))
        };
        // A machine that was added while messages of its former disk were in flight may be recorded with the id of the
        // former disk. The node logs this, and the operator then removes the node once more.
        let has_misrecorded_disk = |(id, host): &(&NodeId, &Host)| {
            let mut members =
                configurations_in_use.iter().filter_map(|membership| membership.members.get(id)).peekable();
            let names_other_disk = |member: &Member| member.disk.is_some_and(|disk| disk != host.disk_id);
            host.was_wiped && members.peek().is_some() && members.all(names_other_disk)
        };
        let nodes_with_misrecorded_disk: Vec<NodeId> =
            self.hosts.iter().filter(has_misrecorded_disk).map(|(id, _)| *id).collect();
        let nodes_with_recorded_disk: Vec<NodeId> = self
            .hosts
            .iter()
            .filter(|(_, host)| host.awaiting_removal)
            .filter(has_recorded_disk)
            .map(|(id, _)| *id)
            .collect();
        let is_outside_configurations =
            |id: &NodeId| !configurations_in_use.iter().any(|membership| membership.members.contains_key(id));
        let removed_nodes: Vec<NodeId> = self
            .hosts
            .iter()
            .filter(|(id, host)| host.awaiting_removal && is_outside_configurations(id))
            .map(|(id, _)| *id)
            .collect();
        nodes_with_recorded_disk.into_iter().for_each(|id| self.host(id).awaiting_removal = false);
        nodes_with_misrecorded_disk.into_iter().for_each(|id| self.host(id).awaiting_removal = true);
        for id in removed_nodes {
            // The wiped machine may have founded a cluster of its own. It discards that cluster, and joins as a new
            // node.
            self.wipe_machine(id);
            self.checks.configurations.remove_founder(id);
            let host = self.host(id);
            (host.is_founder, host.awaiting_removal) = (false, false);
        }
    }
}
