//! Calm: after the last fault, the world must come to rest.

use super::clients::Client;
use super::event::SimEvent;
use super::host::Process;
use super::linked_client::LinkedClient;
use super::world::World;
use crate::consensus::quorum::decides;
use crate::types::{Index, Member, NodeId, PendingRole, Term, Time};
use std::time::Duration;

impl World {
    /// Ends all faults: machines are started, and clients finish what they have begun.
    pub(super) fn heal(&mut self) {
        self.calm = true;
        self.network.heal();
        for at in self.hosts.keys().copied().collect::<Vec<_>>() {
            let host = self.host(at);
            host.disk.set_capacity(None);
            host.disk.clear_faults();
            host.snapshot_disk.clear_faults();
            host.stall = Duration::ZERO;
            self.goes_on(at);
            self.later(Duration::from_millis(100), SimEvent::Starts { at });
        }
    }

    /// Resumes a paused process: its postponed events happen now.
    fn goes_on(&mut self, at: NodeId) {
        let when = std::mem::take(&mut self.host(at).paused);
        let off = |((due, _), happens): &(&(Time, u64), &SimEvent)| *due == when && happens.place() == Some(at);
        let off: Vec<_> = self.queue.iter().filter(off).map(|(key, _)| *key).collect();
        for key in off {
            if let Some(happens) = self.queue.remove(&key) {
                self.at(self.now, happens);
            }
        }
    }

    /// The clients begin nothing new.
    pub(super) fn stop_clients(&mut self) {
        for client in self.clients.values_mut() {
            client.stopping = true;
        }
        self.linked.values_mut().for_each(LinkedClient::stop);
        self.pipelines.stopping = true;
    }

    /// Whether there is a leader that is one of the latest voters.
    pub(super) fn has_leader(&self) -> bool {
        let voters = self.checks.configurations.latest();
        let leads = |up: &Process| up.node.raft().leads() && voters.is_voter(up.node.raft().id());
        self.hosts.values().filter_map(|host| host.up.as_ref()).any(leads)
    }

    /// Whether the remaining nodes have no quorum for the one reason without a remedy: a voter whose disk id no leader
    /// has ever recorded may have lost its disk and been filled again, so it does not count while other voters are lost
    /// for good.
    pub(super) fn needs_the_lost(&self) -> bool {
        let voters = self.checks.configurations.latest();
        let up = || self.hosts.values().filter_map(|host| host.up.as_ref());
        let is_named = |id: NodeId| {
            let names =
                |up: &Process| up.node.membership().members.get(&id).is_some_and(|member| member.disk.is_some());
            up().any(names)
        };
        let counts = |up: &Process| is_named(up.node.raft().id());
        let firm = |id: NodeId| self.hosts.get(&id).and_then(|host| host.up.as_ref()).is_some_and(counts);
        let lost = self.hosts.iter().any(|(id, host)| host.refused_start && voters.is_voter(*id));
        lost && !decides(voters, firm)
    }

    /// The highest term of any node.
    pub(super) fn highest_term(&self) -> Term {
        self.hosts
            .values()
            .filter_map(|host| host.up.as_ref())
            .map(|up| up.node.raft().term())
            .max()
            .unwrap_or_default()
    }

    /// Whether all clients have their answers, no change of members is in progress, all running members have the same
    /// state, and all logs are compacted as far as they should be.
    pub(super) fn is_at_rest(&self) -> bool {
        let state = |up: &Process| (up.applier.applied(), up.applier.digest(), up.node.raft().log().commit());
        let members = self.checks.configurations.latest();
        let of_them = self.hosts.iter().filter(|(id, _)| members.members.contains_key(id));
        let mut states = of_them.filter_map(|(_, host)| host.up.as_ref()).map(state);
        let first = states.next();
        let all_alike = states.all(|state| Some(state) == first);
        let tidy = self.hosts.values().filter_map(|host| host.up.as_ref()).all(|up| up.is_compacted(&self.scenario));
        let all_up = self.hosts.values().all(|host| host.up.is_some() || host.refused_start);
        let complete = first.is_some_and(|(applied, _, _)| applied >= Index(self.checks.committed() as u64));
        all_up
            && all_alike
            && complete
            && tidy
            && self.has_leader()
            && self.is_settled()
            && self.clients.values().all(Client::is_done)
            && self.linked.values().all(LinkedClient::is_done)
            && self.connections_are_done()
    }

    /// Whether the members need no further change, and the operator knows that.
    fn is_settled(&self) -> bool {
        let latest = self.checks.configurations.latest();
        if self.scenario.governance.every.is_some() && self.operator_has_work() {
            return false;
        }
        let waits = |(id, member): (&NodeId, &Member)| {
            member.pending_role != PendingRole::Stays && !self.hosts[id].refused_start
        };
        let waits = latest.members.iter().any(waits);
        !latest.is_joint() && !waits && !self.hosts.values().any(|host| host.awaiting_removal)
    }

    /// Describes the state of every node, to explain why the world does not come to rest.
    pub(super) fn standing(&self) -> String {
        let mut out = String::new();
        for host in self.hosts.values() {
            match &host.up {
                None => out.push_str(&format!(
                    "\n  {} is down{}",
                    host.id,
                    if host.refused_start { " for good" } else { "" }
                )),
                Some(up) => {
                    let (raft, log) = (up.node.raft(), up.node.raft().log());
                    let (role, term, commit, last) = (raft.role(), raft.term(), log.commit(), log.last());
                    let (applied, base) = (up.applier.applied(), log.base());
                    let snapshot = up.node.snapshot().map_or(Index::ZERO, |kept| kept.position.index);
                    out.push_str(&format!(
                        "\n  {} {role} of term {term}, commit {commit}, last {last}, applied {applied}, snapshot \
                         {snapshot}, log from {base}, {}{}{}",
                        host.id,
                        raft.membership(),
                        if host.awaiting_removal { ", awaiting removal" } else { "" },
                        if up.is_compacted(&self.scenario) { "" } else { ", with a log that it should compact" },
                    ));
                }
            }
        }
        out.push_str(&format!("\n  committed: {}", self.checks.configurations.latest()));
        let linked = self.linked.values().filter(|client| !client.is_done()).count();
        let waiting = linked + self.clients.values().filter(|client| !client.is_done()).count();
        out.push_str(&format!("\n  {waiting} clients wait"));
        out
    }
}
