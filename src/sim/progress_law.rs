//! The progress law during faults: a healthy majority that is connected commits within bounded time.
//!
//! A node is *fit* while its process runs, its disk has free space and answers in time, and nothing on it is damaged or
//! lost. A pair of nodes is *apart* while messages cannot pass in one of the two directions. The law is applied to
//! windows of time. If the fit nodes that were never apart during a whole window form a quorum of every configuration
//! in use, then an entry must have been committed in that window, or a leader that a majority follows must have had
//! none to commit. Machines outside that majority may be in any state: a node that is cut off, frozen or slow must not
//! hold up the others. Also, a fit member with a fit leader receives the committed entries: its log grows in every
//! window, or lacks nothing. A node that is being sent a snapshot is not fit: how long that takes depends on its size.

use super::checks;
use super::host::{Host, Process};
use super::world::World;
use crate::consensus::quorum::decides;
use crate::disk::Disk;
use crate::types::{Index, Membership, NodeId, Time};
use std::time::Duration;

/// If more than this percentage of messages is lost, no bound is worth checking: the candidate of a majority that
/// cannot spare a vote needs eight messages in a row. At exactly this percentage, windows are twice as long.
const JUDGED_LOSS: u32 = 10;

/// The interval between two inspections of the nodes.
const LOOKS: Duration = Duration::from_millis(50);

impl World {
    /// Inspects the nodes at intervals, and checks the window that ends now.
    pub(super) fn watch_progress(&mut self) -> checks::Result<()> {
        let loss = self.scenario.weather.loss;
        if self.calm || self.now < self.progress.next || loss > JUDGED_LOSS || !self.scenario.weather.is_timely() {
            return Ok(());
        }
        self.progress.next = self.now + LOOKS;
        self.note_unfit();
        let in_use: Vec<Membership> = self.checks.configurations.in_use().into_iter().cloned().collect();
        if self.progress.in_use != in_use {
            (self.progress.in_use, self.progress.in_use_since) = (in_use, self.now);
        }
        let committed = self.checks.committed();
        if committed != self.progress.committed || self.has_nothing_to_commit() {
            (self.progress.committed, self.progress.progressed) = (committed, self.now);
        }
        self.note_logs(committed);
        let window = self.scenario.leaderless() * if loss == JUDGED_LOSS { 2 } else { 1 };
        let since = Time(self.now.0.saturating_sub(window.as_nanos() as u64));
        if since.0 > 0
            && let Some(node) = self.progress.starved_since(since)
        {
            return Err(format!("no progress: the log of {node} has not grown for {window:?}{}", self.standing()));
        }
        let (is_counted, has_progressed) = (self.progress.judged_at > since, self.progress.progressed > since);
        if since.0 == 0 || self.progress.in_use_since > since || (is_counted && has_progressed) {
            return Ok(());
        }
        let Some(majority) = self.progress.majority_since(since) else { return Ok(()) };
        // Every window is checked; the counted ones do not overlap.
        if !is_counted {
            (self.progress.judged, self.progress.judged_at) = (self.progress.judged + 1, self.now);
        }
        if has_progressed {
            return Ok(());
        }
        Err(format!("no progress: {majority:?} are healthy and committed nothing for {window:?}{}", self.standing()))
    }

    /// Records the leader, and which logs grow.
    fn note_logs(&mut self, committed: usize) {
        let processes = self.hosts.values().filter_map(|host| host.up.as_ref());
        let leading = processes.map(|up| up.node.raft()).filter(|raft| raft.leads());
        let leader = leading.map(|raft| (raft.term(), raft.id())).max();
        if leader != self.progress.leader {
            (self.progress.leader, self.progress.leads_since) = (leader, self.now);
        }
        for id in self.hosts.keys() {
            let held = self.checks.durable(*id);
            let (before, grew) = self.progress.logs.entry(*id).or_default();
            if held != *before || held >= committed {
                (*before, *grew) = (held, self.now);
            }
        }
    }

    /// Records which nodes are not fit and which pairs are apart at this moment.
    pub(super) fn note_unfit(&mut self) {
        let now = self.now;
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        for one in &ids {
            if !self.is_fit(&self.hosts[one]) {
                self.progress.unfit_until(*one, now);
            }
            for other in ids.iter().filter(|other| self.network.is_cut(*one, **other)) {
                self.progress.apart.insert((*one, *other), now);
                self.progress.apart.insert((*other, *one), now);
            }
        }
    }

    /// Whether a node can take part in elections and replication at this moment.
    fn is_fit(&self, host: &Host) -> bool {
        let damaged = host.damaged || host.awaiting_removal || self.snapshots.damaged_index(host.id).is_some();
        let is_full = host.disk.free().is_ok_and(|free| free < u64::MAX);
        let is_slow = !host.stall.is_zero() || self.scenario.is_slow(host.id, self.now - Time::ZERO);
        let runs = host.up.is_some() && host.paused <= self.now && !host.has_stopped();
        // A founder whose disk id no leader has recorded may have lost its disk: its vote does not count.
        let member = self.checks.configurations.latest().members.get(&host.id);
        let is_named = member.is_some_and(|member| member.disk == Some(host.disk_id));
        runs && !damaged
            && !is_full
            && !is_slow
            && is_named
            && !self.lacks_snapshot(host.id)
            && self.can_recover(host.id)
    }

    /// Whether a leader's log begins behind the end of this node's log.
    fn lacks_snapshot(&self, node: NodeId) -> bool {
        let held = Index(self.checks.durable(node) as u64);
        let processes = self.hosts.values().filter_map(|host| host.up.as_ref());
        processes.map(|up| up.node.raft()).any(|raft| raft.leads() && raft.log().base().index > held)
    }

    /// Whether every other running node holds all the entries that an older copy of this node's disk lacks. Otherwise
    /// this node rightly votes for none of them.
    fn can_recover(&self, node: NodeId) -> bool {
        let others = self.hosts.values().filter(|host| host.id != node && host.up.is_some());
        others.map(|host| host.id).all(|other| self.checks.covers_ghost(node, other))
    }

    /// Whether a majority follows a leader that has committed its whole log.
    fn has_nothing_to_commit(&self) -> bool {
        let latest = self.checks.configurations.latest();
        let committed = Index(self.checks.committed() as u64);
        let process = |id: NodeId| self.hosts.get(&id).and_then(|host| host.up.as_ref());
        let is_done = |up: &&Process| {
            let (raft, log) = (up.node.raft(), up.node.raft().log());
            raft.leads() && log.last().index == committed && log.commit() == committed
        };
        let follows = |id: NodeId, leader: NodeId| {
            id == leader || process(id).is_some_and(|up| up.node.raft().leader() == Some(leader))
        };
        let mut done = self.hosts.values().filter_map(|host| host.up.as_ref()).filter(is_done);
        done.any(|up| decides(latest, |id| follows(id, up.node.raft().id())))
    }
}
