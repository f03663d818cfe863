//! The operator, a simulated administrator: adds, removes, promotes and moves members, requests arbitrary sets of
//! voters, aborts changes, transfers leadership, restarts nodes in an orderly way, and repairs nodes that have lost
//! their disks. It sends its requests as any client does, follows redirects to the leader, and ignores refusals.
//!
//! The operator only decides, from a [`ClusterView`]. The world executes its actions.

use super::clients::Asking;
use super::governance::{Governance, PATIENCE};
use super::violation::Result;
use crate::api::{Refusal, Reply, Request};
use crate::types::{Change, DiskId, Membership, NodeId, PendingRole, Time};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The operator's client number.
pub const OPERATOR: u64 = 0;

/// How often a request is sent before the operator abandons it.
const ATTEMPTS: u32 = 4;

/// How often the operator looks for machines that have lost their disks, in calm.
const REPAIR_INTERVAL: Duration = Duration::from_millis(200);

/// The cluster as the operator sees it.
#[derive(Clone, Debug)]
pub(super) struct ClusterView {
    pub(super) now: Time,
    /// Whether fault injection has ended: the operator then only repairs.
    pub(super) calm: bool,
    /// The members by the leader with the highest term; without a leader, by the latest committed configuration.
    pub(super) membership: Membership,
    /// All machines, whether their nodes are members or not.
    pub(super) machines: BTreeMap<NodeId, MachineView>,
}

/// One machine as the operator sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineView {
    pub(super) disk_id: DiskId,
    /// Whether its node is a leader, of whatever term.
    pub(super) leads: bool,
    /// Whether its disk was emptied at least once.
    pub(super) wiped: bool,
    /// Whether its disk was emptied, and its node is still a member under the former disk id.
    pub(super) awaiting_removal: bool,
    /// Whether its last process refused to start, because of damage to its disk.
    pub(super) refused_start: bool,
    /// Whether its disk may hold other data than was written to it.
    pub(super) is_damaged: bool,
    /// Whether the cluster can do without the data on its disk.
    pub(super) may_be_wiped: bool,
}

/// An action that the world executes for the operator.
#[derive(Clone, Debug)]
pub(super) enum OperatorAction {
    /// Sends a new request.
    Send(Asking),
    /// Empties the disk of a machine: its data is lost.
    Wipe(NodeId),
    /// Replaces the disk of a machine that does not start because of damage.
    ReplaceDisk(NodeId),
    /// Tells a leader's process to shut down: it transfers leadership, and ends after `delay`.
    Stop { at: NodeId, delay: Duration },
}

/// A request in progress.
#[derive(Clone, Debug)]
struct OperatorRequest {
    /// The operator's number for the latest attempt.
    id: u64,
    since: Time,
    attempts: u32,
    request: Request,
}

/// The state of the operator.
#[derive(Clone, Debug, Default)]
pub(super) struct Operator {
    /// How many attempts it has made, over all requests.
    attempts: u64,
    pending: Option<OperatorRequest>,
    /// It does nothing before this time: a machine's loss of its disk is not known at once.
    idle_until: Time,
    /// How many disks it has wiped.
    wipes: u64,
}

impl Operator {
    /// Draws the time until the operator acts next. `every` is the average during faults.
    pub(super) fn draw_interval(every: Duration, calm: bool, rng: &mut SmallRng) -> Duration {
        if calm { REPAIR_INTERVAL } else { Duration::from_nanos(rng.random_range(1..=2 * every.as_nanos() as u64)) }
    }

    /// Whether it waits for an answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether it may act now.
    pub(super) fn is_free(&self, now: Time) -> bool {
        !self.is_waiting() && self.idle_until <= now
    }

    /// Abandons the request in progress if it has had no answer for longer than `patience`.
    pub(super) fn abandon_late_request(&mut self, now: Time, patience: Duration) {
        self.pending.take_if(|pending| now - pending.since > patience);
    }

    /// Decides on the next action; often there is none.
    pub(super) fn next_action(
        &mut self,
        view: &ClusterView,
        governance: &Governance,
        rng: &mut SmallRng,
    ) -> Option<OperatorAction> {
        if view.calm {
            return self.repair(view, governance, rng);
        }
        match rng.random_range(0..20) {
            0 | 1 if governance.transfers => {
                let to = draw_id(&view.membership.voters, rng).filter(|_| rng.random());
                self.begin_request(Request::Transfer { to }, view, rng)
            }
            2 | 3 if governance.transfers => draw_stop(view, rng),
            4 | 5 if self.wipes < governance.wipes => {
                let at = draw_id(&view.ids(), rng).filter(|at| view.machines[at].may_be_wiped)?;
                self.wipes += 1;
                self.idle_until = view.now + PATIENCE;
                Some(OperatorAction::Wipe(at))
            }
            6..=8 if view.find(|_, machine| machine.awaiting_removal || machine.refused_start).is_some() => {
                self.repair(view, governance, rng)
            }
            _ => {
                let change = draw_change(view, governance, rng).filter(|change| view.can_repair_after(change))?;
                let force = rng.random_range(0..100) < governance.forced;
                self.begin_request(Request::Change { change, force }, view, rng)
            }
        }
    }

    /// Replaces the disk of a machine that does not start because of damage. A member that has lost its disk is
    /// removed. After that it may be added again like any other, which the operator does in calm.
    fn repair(&mut self, view: &ClusterView, governance: &Governance, rng: &mut SmallRng) -> Option<OperatorAction> {
        if let Some(at) = view.find(|_, machine| machine.refused_start && machine.may_be_wiped) {
            self.idle_until = view.now + PATIENCE;
            return Some(OperatorAction::ReplaceDisk(at));
        }
        let is_member = |id: NodeId| view.membership.members.contains_key(&id);
        let wiped_member = view.find(|id, machine| machine.awaiting_removal && is_member(id));
        let wiped_outsider = view.find(|id, machine| machine.wiped && !is_member(id));
        let change = match (wiped_member, wiped_outsider) {
            (Some(id), _) => Change::Remove(id),
            (None, Some(id)) if view.calm => draw_addition(id, view, governance, rng),
            _ => return None,
        };
        self.begin_request(Request::Change { change, force: false }, view, rng)
    }

    fn begin_request(&mut self, request: Request, view: &ClusterView, rng: &mut SmallRng) -> Option<OperatorAction> {
        let to = draw_id(&view.ids(), rng)?;
        self.pending = Some(OperatorRequest { id: 0, since: view.now, attempts: 0, request });
        self.next_attempt(to, rng).map(OperatorAction::Send)
    }

    fn next_attempt(&mut self, to: NodeId, rng: &mut SmallRng) -> Option<Asking> {
        let forward = rng.random();
        let pending = self.pending.as_mut()?;
        self.attempts += 1;
        pending.id = self.attempts;
        pending.attempts += 1;
        Some(Asking { to, id: pending.id, forward, request: pending.request.clone() })
    }

    /// Handles a reply. A redirect to the leader is followed a few times: then the next attempt is returned. The error
    /// describes a reply that no correct node sends.
    pub(super) fn receive_reply(&mut self, id: u64, reply: Reply, rng: &mut SmallRng) -> Result<Option<Asking>> {
        let Some(pending) = self.pending.as_ref().filter(|pending| pending.id == id) else { return Ok(None) };
        let again = pending.attempts < ATTEMPTS;
        match reply {
            Reply::Refused(Refusal::NotLeader { leader: Some(leader), .. }) if again => {
                Ok(self.next_attempt(leader, rng))
            }
            Reply::Changed { .. } | Reply::Transferred { .. } | Reply::Refused(_) | Reply::Unknown => {
                self.pending = None;
                Ok(None)
            }
            other => Err(format!("the operator received {other:?} for {:?}", pending.request)),
        }
    }
}

impl ClusterView {
    fn ids(&self) -> BTreeSet<NodeId> {
        self.machines.keys().copied().collect()
    }

    /// The first machine with that property.
    fn find(&self, has: impl Fn(NodeId, &MachineView) -> bool) -> Option<NodeId> {
        self.machines.iter().find(|&(id, machine)| has(*id, machine)).map(|(id, _)| *id)
    }

    /// Whether the members that remain after a change can do without the damaged ones. Damage beneath a running process
    /// is not known yet, and nothing repairs a cluster in which a healthy member has to leave and a damaged one has to
    /// stay.
    fn can_repair_after(&self, change: &Change) -> bool {
        let leaves = match change {
            Change::Remove(_) | Change::Voters(_) => true,
            Change::Add { prospect, .. } => matches!(prospect, PendingRole::Replace(_)),
            Change::Promote(_) | Change::Move { .. } | Change::Abort => false,
        };
        !leaves || !self.machines.values().any(|machine| machine.is_damaged)
    }
}

fn draw_id(ids: &BTreeSet<NodeId>, rng: &mut SmallRng) -> Option<NodeId> {
    (!ids.is_empty()).then(|| rng.random_range(0..ids.len())).and_then(|nth| ids.iter().nth(nth).copied())
}

/// Draws a leader to shut down.
fn draw_stop(view: &ClusterView, rng: &mut SmallRng) -> Option<OperatorAction> {
    let leaders = view.machines.iter().filter(|(_, machine)| machine.leads);
    let leaders: BTreeSet<NodeId> = leaders.map(|(id, _)| *id).collect();
    let at = draw_id(&leaders, rng)?;
    Some(OperatorAction::Stop { at, delay: Duration::from_millis(rng.random_range(1..400)) })
}

/// Draws a change of the current members.
fn draw_change(view: &ClusterView, governance: &Governance, rng: &mut SmallRng) -> Option<Change> {
    let membership = &view.membership;
    let members: BTreeSet<NodeId> = membership.ids().collect();
    let learners: BTreeSet<NodeId> = membership.ids().filter(|id| !membership.is_voter(*id)).collect();
    let addable = view.machines.iter().filter(|(id, machine)| !members.contains(id) && !machine.awaiting_removal);
    let addable: BTreeSet<NodeId> = addable.map(|(id, _)| *id).collect();
    Some(match rng.random_range(0..16) {
        0..5 => {
            let id = draw_id(&addable, rng)?;
            draw_addition(id, view, governance, rng)
        }
        5..8 => Change::Remove(draw_id(&members, rng)?),
        8 | 9 => Change::Promote(draw_id(&learners, rng)?),
        10..13 if governance.at_will => Change::Voters(members.into_iter().filter(|_| rng.random()).collect()),
        13 | 14 => {
            let id = draw_id(&members, rng)?;
            Change::Move { id, address: format!("{id}:{}", rng.random_range(1..5)) }
        }
        _ => Change::Abort,
    })
}

/// Draws how a machine is added.
fn draw_addition(id: NodeId, view: &ClusterView, governance: &Governance, rng: &mut SmallRng) -> Change {
    let prospect = match rng.random_range(0..8) {
        0 | 1 => PendingRole::Stays,
        2 | 3 => draw_id(&view.membership.voters, rng).map_or(PendingRole::Promote, PendingRole::Replace),
        _ => PendingRole::Promote,
    };
    // Where disks are lost, the machine may have another disk by the time it is a member.
    let known = governance.wipes == 0 && rng.random();
    let disk: Option<DiskId> = known.then(|| view.machines[&id].disk_id);
    Change::Add { id, address: format!("{id}:1"), disk, prospect }
}
