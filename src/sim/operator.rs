//! The operator, a simulated administrator: adds, removes, promotes and moves members, requests arbitrary sets of
//! voters, aborts changes, transfers leadership, restarts nodes in an orderly way, and repairs nodes that have lost
//! their disks. The operator sends its requests as any client does, follows redirects to the leader, and ignores
//! refusals.
//!
//! The operator only decides, from a `ClusterView`. The world executes its actions.

use super::clients::RequestAttempt;
use super::operator_profile::{OperatorProfile, REPLY_TIMEOUT};
use super::violation::Result;
use crate::api::{Refusal, Reply, Request};
use crate::types::{Change, DiskId, Membership, NodeId, PendingRole, Time};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The operator's client number.
pub const OPERATOR_CLIENT: u64 = 0;

/// How often one request is sent at most, including the attempts that follow a redirect to the leader.
const ATTEMPTS_MAX: u32 = 4;

/// The time between two repairs by the operator after the faults.
const REPAIR_INTERVAL: Duration = Duration::from_millis(200);

/// The cluster as the operator sees it.
#[derive(Clone, Debug)]
pub(super) struct ClusterView {
    pub(super) now: Time,
    /// Whether no more faults are injected. The operator then only repairs the cluster.
    pub(super) faults_over: bool,
    /// The membership that the leader with the highest term uses; without a leader, the latest committed membership.
    pub(super) membership: Membership,
    /// All machines, whether their nodes are members or not.
    pub(super) machines: BTreeMap<NodeId, MachineView>,
}

/// One machine as the operator sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineView {
    pub(super) disk_id: DiskId,
    /// Whether the machine's node is a leader of any term.
    pub(super) is_leader: bool,
    /// Whether the machine's disk was emptied at least once.
    pub(super) was_wiped: bool,
    /// Whether the machine's disk was emptied, and its node is still a member under the former disk id.
    pub(super) awaiting_removal: bool,
    /// Whether the machine's last process refused to start because of damage to its files.
    pub(super) refused_start: bool,
    /// Whether the machine's disk may hold other data than its process has written.
    pub(super) is_damaged: bool,
    /// Whether the cluster survives the loss of the data on the machine's disk.
    pub(super) may_be_wiped: bool,
}

/// A decision of the operator, for the world to execute.
#[derive(Clone, Debug)]
pub(super) enum OperatorAction {
    /// Send a new request.
    Send(RequestAttempt),
    /// Empty the disk of a machine: its data is lost.
    Wipe(NodeId),
    /// Replace the disk of a machine that does not start because of damage.
    ReplaceDisk(NodeId),
    /// Signal a leader's process to shut down: the leader transfers leadership, and its process ends after `delay`.
    Stop { at: NodeId, delay: Duration },
}

/// A request of the operator that is not answered yet.
#[derive(Clone, Debug)]
struct OperatorRequest {
    /// The number of the latest attempt. Replies to earlier attempts are ignored.
    last_attempt: u64,
    begun_at: Time,
    /// How often the request was sent.
    attempts: u32,
    request: Request,
}

/// The state of the operator: its request in progress, and counts of its requests and wipes.
#[derive(Clone, Debug, Default)]
pub(super) struct Operator {
    /// How many attempts the operator has made, over all requests. This is also the number of the last attempt.
    attempts_made: u64,
    /// The request that is not answered yet.
    pending_request: Option<OperatorRequest>,
    /// The time until which the operator does nothing, since an operator does not learn at once that a disk is lost.
    idle_until: Time,
    /// How many disks the operator has wiped.
    wiped_disks: u64,
}

impl Operator {
    /// Draws the time until the operator acts next. While faults are injected, `average` is the average of these times.
    pub(super) fn draw_interval(average: Duration, faults_over: bool, rng: &mut SmallRng) -> Duration {
        if faults_over {
            REPAIR_INTERVAL
        } else {
            Duration::from_nanos(rng.random_range(1..=2 * average.as_nanos() as u64))
        }
    }

    /// Whether the operator waits for an answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending_request.is_some()
    }

    /// Whether the operator may act: no request of it is unanswered, and `idle_until` has passed.
    pub(super) fn is_free(&self, now: Time) -> bool {
        !self.is_waiting() && self.idle_until <= now
    }

    /// Abandons the request in progress if it has been unanswered for longer than `timeout`.
    pub(super) fn abandon_late_request(&mut self, now: Time, timeout: Duration) {
        self.pending_request.take_if(|pending| now - pending.begun_at > timeout);
    }

    /// Decides on the next action; often there is none.
    pub(super) fn next_action(
        &mut self,
        view: &ClusterView,
        profile: &OperatorProfile,
        rng: &mut SmallRng,
    ) -> Option<OperatorAction> {
        if view.faults_over {
            return self.next_repair(view, profile, rng);
        }
        match rng.random_range(0..20) {
            0 | 1 if profile.transfers_leadership => {
                let to = draw_id(&view.membership.voters, rng).filter(|_| rng.random());
                self.begin_request(Request::Transfer { to }, view, rng)
            }
            2 | 3 if profile.transfers_leadership => draw_stop(view, rng),
            4 | 5 if self.wiped_disks < profile.wipes_max => {
                let at = draw_id(&view.ids(), rng).filter(|at| view.machines[at].may_be_wiped)?;
                self.wiped_disks += 1;
                self.idle_until = view.now + REPLY_TIMEOUT;
                Some(OperatorAction::Wipe(at))
            }
            6..=8 if view.find_machine(|_, machine| machine.awaiting_removal || machine.refused_start).is_some() => {
                self.next_repair(view, profile, rng)
            }
            _ => {
                let change = draw_change(view, profile, rng).filter(|change| view.can_repair_after(change))?;
                let force = rng.random_range(0..100) < profile.forced_percent;
                self.begin_request(Request::Change { change, force }, view, rng)
            }
        }
    }

    /// The next repair, if one is needed: replaces the disk of a machine that does not start because of damage, or
    /// removes a member that has lost its disk. After the faults, a machine that has lost its disk is also added again.
    fn next_repair(
        &mut self,
        view: &ClusterView,
        profile: &OperatorProfile,
        rng: &mut SmallRng,
    ) -> Option<OperatorAction> {
        if let Some(at) = view.find_machine(|_, machine| machine.refused_start && machine.may_be_wiped) {
            self.idle_until = view.now + REPLY_TIMEOUT;
            return Some(OperatorAction::ReplaceDisk(at));
        }
        let is_member = |id: NodeId| view.membership.members.contains_key(&id);
        let wiped_member = view.find_machine(|id, machine| machine.awaiting_removal && is_member(id));
        let wiped_outsider = view.find_machine(|id, machine| machine.was_wiped && !is_member(id));
        let change = match (wiped_member, wiped_outsider) {
            (Some(id), _) => Change::Remove(id),
            (None, Some(id)) if view.faults_over => draw_addition(id, view, profile, rng),
            _ => return None,
        };
        self.begin_request(Request::Change { change, force: false }, view, rng)
    }

    /// Begins a request. Its first attempt goes to a random node.
    fn begin_request(&mut self, request: Request, view: &ClusterView, rng: &mut SmallRng) -> Option<OperatorAction> {
        let to = draw_id(&view.ids(), rng)?;
        self.pending_request = Some(OperatorRequest { last_attempt: 0, begun_at: view.now, attempts: 0, request });
        self.next_attempt(to, rng).map(OperatorAction::Send)
    }

    /// The next attempt of the request in progress.
    fn next_attempt(&mut self, to: NodeId, rng: &mut SmallRng) -> Option<RequestAttempt> {
        let forward = rng.random();
        let pending = self.pending_request.as_mut()?;
        self.attempts_made += 1;
        pending.last_attempt = self.attempts_made;
        pending.attempts += 1;
        Some(RequestAttempt { to, id: pending.last_attempt, forward, request: pending.request.clone() })
    }

    /// Handles a reply. If the reply redirects to the leader, returns the next attempt, up to [`ATTEMPTS_MAX`] times.
    /// The error describes a reply that no correct node sends.
    pub(super) fn receive_reply(
        &mut self,
        id: u64,
        reply: Reply,
        rng: &mut SmallRng,
    ) -> Result<Option<RequestAttempt>> {
        let Some(pending) = self.pending_request.as_ref().filter(|pending| pending.last_attempt == id) else {
            return Ok(None);
        };
        let may_retry = pending.attempts < ATTEMPTS_MAX;
        match reply {
            Reply::Refused(Refusal::NotLeader { leader: Some(leader), .. }) if may_retry => {
                Ok(self.next_attempt(leader, rng))
            }
            Reply::Changed { .. } | Reply::Transferred { .. } | Reply::Refused(_) | Reply::Unknown => {
                self.pending_request = None;
                Ok(None)
            }
            other => Err(format!("the operator received the unexpected reply {other:?} to {:?}", pending.request)),
        }
    }
}

impl ClusterView {
    fn ids(&self) -> BTreeSet<NodeId> {
        self.machines.keys().copied().collect()
    }

    /// The first machine for which `matches` returns true.
    fn find_machine(&self, matches: impl Fn(NodeId, &MachineView) -> bool) -> Option<NodeId> {
        self.machines.iter().find(|&(id, machine)| matches(*id, machine)).map(|(id, _)| *id)
    }

    /// Whether the cluster can be repaired after a change: no healthy voter may leave while a damaged member stays.
    /// Nodes do not notice damage to the files of a running process at once.
    fn can_repair_after(&self, change: &Change) -> bool {
        let removes_a_voter = match change {
            Change::Remove(_) | Change::SetVoters(_) => true,
            Change::Add { pending_role, .. } => matches!(pending_role, PendingRole::Replace(_)),
            Change::Promote(_) | Change::SetAddress { .. } | Change::RaiseFeatureLevel(_) | Change::Abort => false,
        };
        !removes_a_voter || !self.machines.values().any(|machine| machine.is_damaged)
    }
}

fn draw_id(ids: &BTreeSet<NodeId>, rng: &mut SmallRng) -> Option<NodeId> {
    (!ids.is_empty()).then(|| rng.random_range(0..ids.len())).and_then(|nth| ids.iter().nth(nth).copied())
}

/// Draws a leader to shut down.
fn draw_stop(view: &ClusterView, rng: &mut SmallRng) -> Option<OperatorAction> {
    let leaders = view.machines.iter().filter(|(_, machine)| machine.is_leader);
    let leaders: BTreeSet<NodeId> = leaders.map(|(id, _)| *id).collect();
    let at = draw_id(&leaders, rng)?;
    Some(OperatorAction::Stop { at, delay: Duration::from_millis(rng.random_range(1..400)) })
}

/// Draws a change of the current members.
fn draw_change(view: &ClusterView, profile: &OperatorProfile, rng: &mut SmallRng) -> Option<Change> {
    let membership = &view.membership;
    let members: BTreeSet<NodeId> = membership.ids().collect();
    let learners: BTreeSet<NodeId> = membership.ids().filter(|id| !membership.is_voter(*id)).collect();
    let addable_machines =
        view.machines.iter().filter(|(id, machine)| !members.contains(id) && !machine.awaiting_removal);
    let addable_machines: BTreeSet<NodeId> = addable_machines.map(|(id, _)| *id).collect();
    Some(match rng.random_range(0..16) {
        0..5 => {
            let id = draw_id(&addable_machines, rng)?;
            draw_addition(id, view, profile, rng)
        }
        5..8 => Change::Remove(draw_id(&members, rng)?),
        8 | 9 => Change::Promote(draw_id(&learners, rng)?),
        10..13 if profile.arbitrary_voters => Change::SetVoters(members.into_iter().filter(|_| rng.random()).collect()),
        13 | 14 => {
            let id = draw_id(&members, rng)?;
            Change::SetAddress { id, address: format!("{id}:{}", rng.random_range(1..5)) }
        }
        _ => Change::Abort,
    })
}

/// Draws the change that adds a machine: its role, and whether the change names its disk.
fn draw_addition(id: NodeId, view: &ClusterView, profile: &OperatorProfile, rng: &mut SmallRng) -> Change {
    let pending_role = match rng.random_range(0..8) {
        0 | 1 => PendingRole::Unchanged,
        2 | 3 => draw_id(&view.membership.voters, rng).map_or(PendingRole::Promote, PendingRole::Replace),
        _ => PendingRole::Promote,
    };
    // If the operator wipes disks, the machine may have another disk by the time it becomes a member.
    let names_disk = profile.wipes_max == 0 && rng.random();
    let disk: Option<DiskId> = names_disk.then(|| view.machines[&id].disk_id);
    Change::Add { id, address: format!("{id}:1"), disk, pending_role }
}
