//! The operator, a simulated administrator: adds, removes, promotes and moves members, requests arbitrary sets of
//! voters, aborts changes, transfers leadership, restarts nodes in an orderly way, and repairs nodes that have lost
//! their disks. It sends its requests as any client does, follows redirects to the leader, and ignores refusals.

use super::checks;
use super::clients::Asking;
use super::disk::Crash;
use super::event::SimEvent;
use super::governance::PATIENCE;
use super::host::Host;
use super::operator_state::PendingRequest;
use super::world::World;
use crate::api::{Refusal, Reply, Request};
use crate::node::Event;
use crate::types::{Change, DiskId, Membership, NodeId, PendingRole};
use rand::RngExt;
use std::collections::BTreeSet;
use std::time::Duration;

/// The operator's client number.
pub const OPERATOR: u64 = 0;

/// How often a request is sent before the operator abandons it.
const ATTEMPTS: u32 = 4;

/// How often it looks for machines that have lost their disks, in calm.
const MENDS_EVERY: Duration = Duration::from_millis(200);

impl World {
    /// Runs the operator's next action.
    pub(super) fn governs(&mut self) -> checks::Result<()> {
        let Some(every) = self.scenario.governance.every else { return Ok(()) };
        let next = if self.calm { MENDS_EVERY } else { self.some_of(every) };
        self.later(next, SimEvent::Governs);
        self.forget_former_voters();
        let now = self.now;
        let patience = self.scenario.governance.patience;
        self.operator.pending.take_if(|pending| now - pending.since > patience);
        if self.operator.is_waiting() || self.operator.waits > now {
            return Ok(());
        }
        match self.calm {
            true => self.mend(),
            false => return self.goes_about(),
        }
        Ok(())
    }

    fn some_of(&mut self, every: Duration) -> Duration {
        Duration::from_nanos(self.rng.random_range(1..=2 * every.as_nanos() as u64))
    }

    /// The configuration of the leader with the highest term; without a leader, the latest committed one.
    fn members(&self) -> Membership {
        let leaders = self.hosts.values().filter_map(|host| host.up.as_ref()).map(|up| up.node.raft());
        let latest = leaders.filter(|raft| raft.leads()).max_by_key(|raft| raft.term());
        latest.map_or_else(|| self.checks.configurations.latest().clone(), |raft| raft.membership().clone())
    }

    fn goes_about(&mut self) -> checks::Result<()> {
        let governance = self.scenario.governance.clone();
        match self.rng.random_range(0..20) {
            0 | 1 if governance.transfers => {
                let to = self.any_of(&self.members().voters);
                let to = to.filter(|_| self.rng.random());
                self.ask_operator(Request::Transfer { to });
            }
            2 | 3 if governance.transfers => return self.ends_soon(),
            4 | 5 if self.operator.wiped < governance.wipes => {
                let all: BTreeSet<NodeId> = self.hosts.keys().copied().collect();
                if let Some(at) = self.any_of(&all).filter(|at| self.may_be_wiped(*at)) {
                    self.operator.wiped += 1;
                    self.operator.waits = self.now + PATIENCE;
                    self.wipe(at);
                }
            }
            6..=8 if self.hosts.values().any(|host| host.awaiting_removal || host.refused_start) => self.mend(),
            _ => {
                let Some(change) = self.change().filter(|change| self.can_be_mended(change)) else { return Ok(()) };
                let force = self.rng.random_range(0..100) < governance.forced;
                self.ask_operator(Request::Change { change, force });
            }
        }
        Ok(())
    }

    /// A random change of the current members.
    fn change(&mut self) -> Option<Change> {
        let membership = self.members();
        let members: BTreeSet<NodeId> = membership.ids().collect();
        let learners: BTreeSet<NodeId> = membership.ids().filter(|id| !membership.is_voter(*id)).collect();
        let strangers: BTreeSet<NodeId> = self
            .hosts
            .iter()
            .filter(|(id, host)| !members.contains(id) && !host.awaiting_removal)
            .map(|(id, _)| *id)
            .collect();
        Some(match self.rng.random_range(0..16) {
            0..5 => {
                let id = self.any_of(&strangers)?;
                self.add(id, &membership)
            }
            5..8 => Change::Remove(self.any_of(&members)?),
            8 | 9 => Change::Promote(self.any_of(&learners)?),
            10..13 if self.scenario.governance.at_will => {
                Change::Voters(members.into_iter().filter(|_| self.rng.random()).collect())
            }
            13 | 14 => {
                let id = self.any_of(&members)?;
                Change::Move { id, address: format!("{id}:{}", self.rng.random_range(1..5)) }
            }
            _ => Change::Abort,
        })
    }

    fn add(&mut self, id: NodeId, membership: &Membership) -> Change {
        let prospect = match self.rng.random_range(0..8) {
            0 | 1 => PendingRole::Stays,
            2 | 3 => self.any_of(&membership.voters).map_or(PendingRole::Promote, PendingRole::Replace),
            _ => PendingRole::Promote,
        };
        // Where disks are lost, the machine may have another disk by the time it is a member.
        let known = self.scenario.governance.wipes == 0 && self.rng.random();
        let disk: Option<DiskId> = known.then(|| self.hosts[&id].disk_id);
        Change::Add { id, address: format!("{id}:1"), disk, prospect }
    }

    fn any_of(&mut self, ids: &BTreeSet<NodeId>) -> Option<NodeId> {
        (!ids.is_empty()).then(|| self.rng.random_range(0..ids.len())).and_then(|nth| ids.iter().nth(nth).copied())
    }

    /// Whether the members that remain after a change can do without the damaged ones. Damage beneath a running process
    /// is not known yet, and nothing repairs a cluster in which a healthy member has to leave and a damaged one has to
    /// stay.
    fn can_be_mended(&self, change: &Change) -> bool {
        let leaves = match change {
            Change::Remove(_) | Change::Voters(_) => true,
            Change::Add { prospect, .. } => matches!(prospect, PendingRole::Replace(_)),
            Change::Promote(_) | Change::Move { .. } | Change::Abort => false,
        };
        !leaves || !self.hosts.keys().any(|id| self.is_damaged(*id))
    }

    /// Replaces the disk of a machine that does not start because of damage. A member that has lost its disk is
    /// removed. After that it may be added again like any other, which the operator does in calm.
    fn mend(&mut self) {
        let damaged = self.hosts.iter().find(|(id, host)| host.refused_start && self.may_be_wiped(**id));
        if let Some(at) = damaged.map(|(id, _)| *id) {
            self.operator.waits = self.now + PATIENCE;
            self.replaced += 1;
            self.wipe(at);
            return;
        }
        let membership = self.members();
        let forgot = self.hosts.iter().find(|(id, host)| host.awaiting_removal && membership.members.contains_key(id));
        let outside = self.hosts.iter().find(|(id, host)| host.wiped && !membership.members.contains_key(id));
        let change = match (forgot.map(|(id, _)| *id), outside.map(|(id, _)| *id)) {
            (Some(id), _) => Change::Remove(id),
            (None, Some(id)) if self.calm => self.add(id, &membership),
            _ => return,
        };
        self.ask_operator(Request::Change { change, force: false });
    }

    /// Whether the operator waits for an answer, or has yet to add a machine that has lost its disk: the result may be
    /// another leader.
    pub(super) fn still_governs(&self) -> bool {
        let members = &self.checks.configurations.latest().members;
        let outside = |(id, host): (&NodeId, &Host)| host.wiped && !host.refused_start && !members.contains_key(id);
        self.operator.is_waiting() || self.hosts.iter().any(outside)
    }

    /// Tells a leader's process to shut down: it transfers leadership, then ends.
    fn ends_soon(&mut self) -> checks::Result<()> {
        let leaders = self.hosts.iter().filter(|(_, host)| host.up.as_ref().is_some_and(|up| up.node.raft().leads()));
        let leaders: BTreeSet<NodeId> = leaders.map(|(id, _)| *id).collect();
        let Some(at) = self.any_of(&leaders) else { return Ok(()) };
        let life = self.hosts[&at].incarnation;
        let delay = Duration::from_millis(self.rng.random_range(1..400));
        self.trace_line(|| format!("{at} receives the signal to stop"));
        self.later(delay, SimEvent::Ends { at, life });
        self.handle(at, Event::Stopping)
    }

    pub(super) fn ends(&mut self, at: NodeId) -> checks::Result<()> {
        self.crash(at, Crash::Kill);
        let delay = Duration::from_millis(self.rng.random_range(1..1000));
        self.later(delay, SimEvent::Starts { at });
        Ok(())
    }

    fn ask_operator(&mut self, request: Request) {
        let all: BTreeSet<NodeId> = self.hosts.keys().copied().collect();
        let Some(to) = self.any_of(&all) else { return };
        self.trace_line(|| format!("the operator sends {to}: {request:?}"));
        self.operator.pending = Some(PendingRequest { id: 0, since: self.now, attempts: 0, request });
        self.try_operator(to);
    }

    fn try_operator(&mut self, to: NodeId) {
        let forward = self.rng.random();
        let Some(pending) = &mut self.operator.pending else { return };
        self.operator.asked += 1;
        pending.id = self.operator.asked;
        pending.attempts += 1;
        let asking = Asking { to, id: pending.id, forward, request: pending.request.clone() };
        self.send_request(OPERATOR, asking);
    }

    /// The operator receives a reply. It follows a redirect to the leader a few times.
    pub(super) fn answers_operator(&mut self, id: u64, reply: Reply) -> checks::Result<()> {
        let Some(pending) = self.operator.pending.as_ref().filter(|pending| pending.id == id) else { return Ok(()) };
        let again = pending.attempts < ATTEMPTS;
        match reply {
            Reply::Refused(Refusal::NotLeader { leader: Some(leader), .. }) if again => self.try_operator(leader),
            Reply::Changed { .. } | Reply::Transferred { .. } | Reply::Refused(_) | Reply::Unknown => {
                self.operator.pending = None;
            }
            other => return Err(format!("the operator received {other:?} for {:?}", pending.request)),
        }
        Ok(())
    }
}
