//! The end of the faults, and the check that the world then comes to rest.

use super::clients::Client;
use super::event::SimEvent;
use super::host::{Host, Process};
use super::linked_client::LinkedClient;
use super::world::World;
use crate::consensus::Raft;
use crate::consensus::quorum::decides;
use crate::types::{Index, Member, NodeId, PendingRole, Term, Time};
use std::time::Duration;

impl World {
    /// Ends all faults, resumes paused processes, and starts the machines that are down.
    pub(super) fn end_faults(&mut self) {
        self.faults_over = true;
        self.network.heal();
        for at in self.hosts.keys().copied().collect::<Vec<_>>() {
            let host = self.host(at);
            host.disk.set_capacity(None);
            host.disk.clear_faults();
            host.snapshot_disk.clear_faults();
            host.sync_stall = Duration::ZERO;
            self.resume_process(at);
            self.schedule_after(Duration::from_millis(100), SimEvent::ProcessStart { at });
        }
    }

    /// Resumes a paused process, and moves the process's postponed events to the present.
    fn resume_process(&mut self, at: NodeId) {
        let paused_until = std::mem::take(&mut self.host(at).paused_until);
        let is_postponed = |((due, _), event): &(&(Time, u64), &SimEvent)| {
            *due == paused_until && event.postponing_machine() == Some(at)
        };
        let postponed_keys: Vec<_> = self.queue.iter().filter(is_postponed).map(|(key, _)| *key).collect();
        for key in postponed_keys {
            if let Some(event) = self.queue.remove(&key) {
                self.schedule_at(self.now, event);
            }
        }
    }

    /// Lets the clients finish their outstanding requests and begin no others.
    pub(super) fn stop_clients(&mut self) {
        for client in self.clients.values_mut() {
            client.stopping = true;
        }
        self.linked_clients.values_mut().for_each(LinkedClient::stop);
        self.pipelines.stopping = true;
    }

    /// Whether a voter of the latest committed configuration is a leader.
    pub(super) fn has_leader(&self) -> bool {
        let latest_membership = self.checks.configurations.latest_committed();
        let is_leading_voter =
            |process: &Process| process.node.raft().leads() && latest_membership.is_voter(process.node.raft().id());
        self.hosts.values().filter_map(|host| host.process.as_ref()).any(is_leading_voter)
    }

    /// Whether some voters are lost for good, and the running nodes cannot elect a leader without them.
    ///
    /// A voter is lost if its machine refuses to start, or if it has lost entries and may vote for no running node. A node
    /// may vote only for logs that reach the position that it has promised, and only if its own log names its disk: it may
    /// have lost its disk and have received its data again. A candidate counts only voters whose disks its log names.
    pub(super) fn has_lost_quorum(&self) -> bool {
        if self.scenario.fault_weights.rot_pair > 0 {
            // An intact copy of each entry is left, so the nodes must get all of them back.
            return false;
        }
        let latest_membership = self.checks.configurations.latest_committed();
        let processes = || self.hosts.values().filter_map(|host| host.process.as_ref());
        let process = |id: NodeId| self.hosts.get(&id).and_then(|host| host.process.as_ref());
        let names_disk = |log_owner: &Process, id: NodeId| {
            self.hosts.get(&id).is_some_and(|host| log_owner.node.membership().disk(id) == Some(host.disk_id))
        };
        let may_vote_for = |voter: &Process, candidate: &Process| {
            let (id, raft, log_end) = (voter.node.raft().id(), voter.node.raft(), candidate.node.raft().log().last());
            names_disk(voter, id)
                && names_disk(candidate, id)
                && raft.log().last().max(raft.promised_position()) <= log_end
        };
        // By its own configuration, which may be newer than the latest committed one.
        let can_be_elected = |candidate: &Process| {
            let membership = candidate.node.membership();
            membership.is_voter(candidate.node.raft().id())
                && may_vote_for(candidate, candidate)
                && decides(membership, |id| process(id).is_some_and(|voter| may_vote_for(voter, candidate)))
        };
        let has_lost_entries = |raft: &Raft| raft.promised_position() > raft.log().last();
        let is_lost_voter = |(id, host): (&NodeId, &Host)| {
            let votes_for_none = |voter: &Process| {
                has_lost_entries(voter.node.raft()) && !processes().any(|candidate| may_vote_for(voter, candidate))
            };
            latest_membership.is_voter(*id) && (host.refused_start || host.process.as_ref().is_some_and(votes_for_none))
        };
        self.hosts.iter().any(is_lost_voter) && !processes().any(can_be_elected)
    }

    /// The highest term of any running node.
    pub(super) fn highest_term(&self) -> Term {
        self.hosts
            .values()
            .filter_map(|host| host.process.as_ref())
            .map(|process| process.node.raft().term())
            .max()
            .unwrap_or_default()
    }

    /// Whether all clients have received their answers, no membership change is in progress, all running members have
    /// the same state, and all logs are compacted as far as the options require.
    pub(super) fn is_at_rest(&self) -> bool {
        let state_of = |process: &Process| {
            (process.applier.applied(), process.applier.digest(), process.node.raft().log().commit())
        };
        let membership = self.checks.configurations.latest_committed();
        let member_hosts = self.hosts.iter().filter(|(id, _)| membership.members.contains_key(id));
        let mut states = member_hosts.filter_map(|(_, host)| host.process.as_ref()).map(state_of);
        let first_state = states.next();
        let states_are_equal = states.all(|state| Some(state) == first_state);
        let logs_are_compacted = self
            .hosts
            .values()
            .filter_map(|host| host.process.as_ref())
            .all(|process| process.is_compacted(&self.scenario));
        let machines_run_or_refuse = self.hosts.values().all(|host| host.process.is_some() || host.refused_start);
        let all_entries_are_applied =
            first_state.is_some_and(|(applied, _, _)| applied >= Index(self.checks.committed_len() as u64));
        // A node that checks its files regularly mends all damage that it can find while it runs.
        let files_are_mended = self.scenario.node.scrub_interval.is_none() || self.hosts.values().all(Host::is_mended);
        machines_run_or_refuse
            && files_are_mended
            && states_are_equal
            && all_entries_are_applied
            && logs_are_compacted
            && self.has_leader()
            && self.members_are_settled()
            && self.upgrade_is_finished()
            && self.clients.values().all(Client::is_done)
            && self.linked_clients.values().all(LinkedClient::is_done)
            && self.pipelines_are_done()
    }

    /// Whether no membership change is in progress or pending, and the operator has nothing left to do.
    fn members_are_settled(&self) -> bool {
        let latest_membership = self.checks.configurations.latest_committed();
        if self.scenario.operator.interval.is_some() && self.operator_has_work() {
            return false;
        }
        let awaits_role = |(id, member): (&NodeId, &Member)| {
            member.pending_role != PendingRole::Unchanged && !self.hosts[id].refused_start
        };
        let has_pending_role = latest_membership.members.iter().any(awaits_role);
        !latest_membership.is_joint() && !has_pending_role && !self.hosts.values().any(|host| host.awaiting_removal)
    }

    /// Describes the state of every node, to explain why the world does not come to rest.
    pub(super) fn describe_nodes(&self) -> String {
        let mut out = String::new();
        for host in self.hosts.values() {
            match &host.process {
                None => out.push_str(&format!(
                    "\n  {} is down{}",
                    host.id,
                    if host.refused_start { " for good" } else { "" }
                )),
                Some(process) => {
                    let (raft, log) = (process.node.raft(), process.node.raft().log());
                    let (role, term, commit, last) = (raft.role(), raft.term(), log.commit(), log.last());
                    let (applied, base) = (process.applier.applied(), log.base());
                    let snapshot_index = process.node.snapshot().map_or(Index::ZERO, |durable| durable.position.index);
                    out.push_str(&format!(
                        "\n  {} {role} of term {term}, commit {commit}, last {last}, applied {applied}, snapshot \
                         {snapshot_index}, log from {base}, {}{}{}",
                        host.id,
                        raft.membership(),
                        if host.awaiting_removal { ", awaiting removal" } else { "" },
                        if process.is_compacted(&self.scenario) { "" } else { ", with a log that it should compact" },
                    ));
                }
            }
        }
        out.push_str(&format!("\n  committed: {}", self.checks.configurations.latest_committed()));
        let waiting_linked_count = self.linked_clients.values().filter(|client| !client.is_done()).count();
        let waiting_count = waiting_linked_count + self.clients.values().filter(|client| !client.is_done()).count();
        out.push_str(&format!("\n  {waiting_count} clients wait"));
        out
    }
}
