//! The progress law during faults: a healthy majority that is connected commits within bounded time.
//!
//! A node is *healthy* while its process runs, its disk has free space and answers in time, and none of its data is
//! damaged or lost. A pair of nodes is *disconnected* while messages cannot pass in one of the two directions. The law
//! is applied to windows of time. Suppose that the nodes which were healthy and connected during a whole window form a
//! quorum of every configuration in use. Then an entry must have been committed in that window, or a leader that a
//! majority follows must have had no entry to commit. The machines outside that majority may be in any state: a node
//! that is disconnected, paused or slow must not delay the others. Also, a healthy member with a healthy leader
//! receives the committed entries: its log grows in every window, or lacks no committed entry. A node that is being
//! sent a snapshot does not count as healthy, since the time this takes depends on the size of the snapshot.

use super::checks;
use super::host::{Host, Process};
use super::world::World;
use crate::consensus::quorum::decides;
use crate::disk::Disk;
use crate::types::{Index, Membership, NodeId, Position, Time};
use std::time::Duration;

/// The percentage of lost messages above which progress is not checked: a candidate that needs every vote of its
/// majority must get eight messages through in a row. At exactly this percentage, windows are twice as long.
const LOSS_PERCENT_MAX: u32 = 10;

/// The interval between two inspections of the nodes.
const INSPECTION_INTERVAL: Duration = Duration::from_millis(50);

impl World {
    /// Inspects the nodes at intervals while faults are injected, and checks the window that ends now.
    pub(super) fn check_progress(&mut self) -> checks::Result<()> {
        let loss_percent = self.scenario.network.loss_percent;
        if self.faults_over
            || self.now < self.progress.next_inspection_at
            || loss_percent > LOSS_PERCENT_MAX
            || !self.scenario.network.is_timely()
        {
            return Ok(());
        }
        self.progress.next_inspection_at = self.now + INSPECTION_INTERVAL;
        self.record_unhealthy_nodes();
        let configurations_in_use: Vec<Membership> = self.checks.configurations.in_use().into_iter().cloned().collect();
        if self.progress.memberships_in_use != configurations_in_use {
            (self.progress.memberships_in_use, self.progress.in_use_since) = (configurations_in_use, self.now);
        }
        let committed_count = self.checks.committed_len();
        if committed_count != self.progress.committed_count || self.has_nothing_to_commit() {
            (self.progress.committed_count, self.progress.last_progress_at) = (committed_count, self.now);
        }
        self.record_log_growth(committed_count);
        let window = self.scenario.progress_limit() * if loss_percent == LOSS_PERCENT_MAX { 2 } else { 1 };
        let window_start = Time(self.now.0.saturating_sub(window.as_nanos() as u64));
        if window_start.0 > 0
            && let Some(node) = self.progress.starved_member_since(window_start)
        {
            return Err(format!(
                "no progress: the log of {node} has not grown for {window:?}{}",
                self.describe_nodes()
            ));
        }
        let (is_counted, has_progressed) =
            (self.progress.last_window_end > window_start, self.progress.last_progress_at > window_start);
        if window_start.0 == 0 || self.progress.in_use_since > window_start || (is_counted && has_progressed) {
            return Ok(());
        }
        let Some(majority) = self.progress.healthy_majority_since(window_start) else { return Ok(()) };
        // Every window is checked, but only windows that do not overlap are counted.
        if !is_counted {
            (self.progress.windows_checked, self.progress.last_window_end) =
                (self.progress.windows_checked + 1, self.now);
        }
        if has_progressed {
            return Ok(());
        }
        Err(format!(
            "no progress: the healthy majority {majority:?} has committed nothing for {window:?}{}",
            self.describe_nodes()
        ))
    }

    /// Records the leader with the highest term, and which logs have grown.
    fn record_log_growth(&mut self, committed_count: usize) {
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        let leaders = processes.map(|process| process.node.raft()).filter(|raft| raft.leads());
        let leader = leaders.map(|raft| (raft.term(), raft.id())).max();
        if leader != self.progress.leader {
            (self.progress.leader, self.progress.leader_since) = (leader, self.now);
        }
        for id in self.hosts.keys() {
            let durable_len = self.checks.durable_len(*id);
            let (last_length, grown_at) = self.progress.log_lengths.entry(*id).or_default();
            if durable_len != *last_length || durable_len >= committed_count {
                (*last_length, *grown_at) = (durable_len, self.now);
            }
        }
    }

    /// Records which nodes are not healthy, and which pairs of nodes are disconnected, at this moment.
    pub(super) fn record_unhealthy_nodes(&mut self) {
        let now = self.now;
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        for one in &ids {
            if !self.is_healthy(&self.hosts[one]) {
                self.progress.mark_unhealthy_until(*one, now);
            }
            for other in ids.iter().filter(|other| self.network.is_cut(*one, **other)) {
                self.progress.last_disconnected_times.insert((*one, *other), now);
                self.progress.last_disconnected_times.insert((*other, *one), now);
            }
        }
    }

    /// Whether a node can take part in elections and replication at this moment.
    fn is_healthy(&self, host: &Host) -> bool {
        let has_damage =
            host.has_damaged_file || host.awaiting_removal || self.snapshots.damaged_index(host.id).is_some();
        let is_full = host.disk.free_bytes().is_ok_and(|free| free < u64::MAX);
        let is_slow = !host.sync_stall.is_zero() || self.scenario.has_slow_disk(host.id, self.now - Time::ZERO);
        let is_running_now = host.process.is_some() && host.paused_until <= self.now && !host.disk_has_stopped();
        // If no leader has recorded the disk id of a founder, the founder may have lost its disk. Its vote then does
        // not count.
        let member = self.checks.configurations.latest_committed().members.get(&host.id);
        let is_disk_recorded = member.is_some_and(|member| member.disk == Some(host.disk_id));
        is_running_now
            && !has_damage
            && !is_full
            && !is_slow
            && is_disk_recorded
            && !self.needs_snapshot(host.id)
            && self.can_vote(host.id)
    }

    /// Whether a leader's log begins after the end of this node's log, so that the node needs a snapshot.
    fn needs_snapshot(&self, node: NodeId) -> bool {
        let last_durable_index = Index(self.checks.durable_len(node) as u64);
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        processes
            .map(|process| process.node.raft())
            .any(|raft| raft.leads() && raft.log().base().index > last_durable_index)
    }

    /// Whether every other running node holds all the entries that this node's disk has lost or may have lost.
    /// Otherwise this node must not vote for a node that lacks these entries.
    fn can_vote(&self, node: NodeId) -> bool {
        let process = |id: NodeId| self.hosts.get(&id).and_then(|host| host.process.as_ref());
        let promised_position = process(node).map_or(Position::ZERO, |process| process.node.raft().promised_position());
        let reaches_promised_position = |other: &Process| other.node.raft().log().last() >= promised_position;
        let other_nodes = self.hosts.keys().filter(|id| **id != node);
        other_nodes
            .filter_map(|id| process(*id).map(|process| (*id, process)))
            .all(|(id, process)| reaches_promised_position(process) && self.checks.covers_lost_log(node, id))
    }

    /// Whether a majority follows a leader that has committed its whole log.
    fn has_nothing_to_commit(&self) -> bool {
        let latest_membership = self.checks.configurations.latest_committed();
        let last_committed_index = Index(self.checks.committed_len() as u64);
        let process = |id: NodeId| self.hosts.get(&id).and_then(|host| host.process.as_ref());
        let has_committed_all = |process: &&Process| {
            let (raft, log) = (process.node.raft(), process.node.raft().log());
            raft.leads() && log.last().index == last_committed_index && log.commit() == last_committed_index
        };
        let follows = |id: NodeId, leader: NodeId| {
            id == leader || process(id).is_some_and(|process| process.node.raft().leader() == Some(leader))
        };
        let mut leaders = self.hosts.values().filter_map(|host| host.process.as_ref()).filter(has_committed_all);
        leaders.any(|process| decides(latest_membership, |id| follows(id, process.node.raft().id())))
    }
}
