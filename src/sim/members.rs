//! Machines that lose their disks: which of them may, and what happens to them after that.

use super::disk::Crash;
use super::event::SimEvent;
use super::host::Host;
use super::world::World;
use crate::consensus::quorum::decides;
use crate::types::{Member, Membership, NodeId, PendingRole};
use rand::RngExt;
use std::time::Duration;

impl World {
    /// Whether a machine may lose its disk without a loss that nothing could prevent: the remaining nodes that hold
    /// data must have a quorum by every configuration that may be in use, and by that of the founders, with which the
    /// machine would start again. (When a log begins, a node that holds nothing yet cannot be told from one that holds
    /// nothing any more.) A machine that founded the cluster alone does not start again as a founder: it is started as
    /// a joining node.
    pub(super) fn may_be_wiped(&self, at: NodeId) -> bool {
        let configurations = &self.checks.configurations;
        let founding = self.scenario.founding();
        let goes_on = |membership: &Membership| self.holds_without(at, membership);
        // While a machine is being added, it is open by which disk id it will be known.
        let belongs = configurations.latest().members.contains_key(&at);
        let comes = configurations.in_use().iter().any(|membership| membership.members.contains_key(&at)) && !belongs;
        let founds = founding.voters.len() == 1 || goes_on(&founding);
        // A member about to be promoted may become a voter in the same moment.
        let rises =
            configurations.latest().members.get(&at).is_some_and(|member| member.pending_role != PendingRole::Stays);
        !self.hosts[&at].wiped && !comes && !rises && founds && configurations.in_use().into_iter().all(goes_on)
    }

    /// Whether the nodes other than `at` that hold all they ever held have a quorum. A node whose log does not name its
    /// disk yet has no vote.
    pub(super) fn holds_without(&self, at: NodeId, membership: &Membership) -> bool {
        let is_whole = |id: NodeId| {
            let host = &self.hosts[&id];
            let is_named = self.checks.configurations.of(id).disk(id) == Some(host.disk_id);
            id != at
                && is_named
                && !host.wiped
                && !self.is_damaged(id)
                && !self.checks.has_empty_log(id)
                && !self.checks.has_ghost(id)
        };
        decides(membership, is_whole)
    }

    /// A machine loses everything on its disk, and starts again as it did at first.
    pub(super) fn wipe(&mut self, at: NodeId) {
        self.crash(at, Crash::Kill);
        self.trace_line(|| format!("{at} loses its disk"));
        self.host(at).wipe();
        self.snapshots.clear_damage(at);
        self.checks.wiped(at);
        if self.scenario.nodes == 1 {
            self.checks.configurations.joins(at);
            self.host(at).founder = false;
        }
        self.faults += 1;
        let delay = Duration::from_millis(self.rng.random_range(1..1000));
        self.later(delay, SimEvent::Starts { at });
    }

    /// A wiped machine that is in no configuration that may be in use is no voter under its former disk: it may come
    /// back as an unknown node.
    pub(super) fn forget_former_voters(&mut self) {
        let in_use = self.checks.configurations.in_use();
        // A learner whose disk id was not recorded yet may lose its disk, and be recorded with its new one.
        let named = |(id, host): &(&NodeId, &Host)| {
            let mut known = in_use.iter().filter_map(|membership| membership.members.get(id)).peekable();
            known.peek().is_some() && known.all(|member| member.disk == Some(host.disk_id))
        };
        // It was added while the last messages of its former disk were in flight, and is known by that disk now. Its
        // log tells the operator, who removes it once more.
        let misnamed = |(id, host): &(&NodeId, &Host)| {
            let mut known = in_use.iter().filter_map(|membership| membership.members.get(id)).peekable();
            let is_other = |member: &Member| member.disk.is_some_and(|disk| disk != host.disk_id);
            host.wiped && known.peek().is_some() && known.all(is_other)
        };
        let misnamed: Vec<NodeId> = self.hosts.iter().filter(misnamed).map(|(id, _)| *id).collect();
        let named: Vec<NodeId> =
            self.hosts.iter().filter(|(_, host)| host.awaiting_removal).filter(named).map(|(id, _)| *id).collect();
        let gone = |id: &NodeId| !in_use.iter().any(|membership| membership.members.contains_key(id));
        let forgiven: Vec<NodeId> =
            self.hosts.iter().filter(|(id, host)| host.awaiting_removal && gone(id)).map(|(id, _)| *id).collect();
        named.into_iter().for_each(|id| self.host(id).awaiting_removal = false);
        misnamed.into_iter().for_each(|id| self.host(id).awaiting_removal = true);
        for id in forgiven {
            // It discards the cluster that it founded on its own, and joins anew.
            self.wipe(id);
            self.checks.configurations.joins(id);
            let host = self.host(id);
            (host.founder, host.awaiting_removal) = (false, false);
        }
    }
}
