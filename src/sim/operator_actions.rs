//! The operator in the world: shows it the cluster, executes its actions, and delivers the replies to its requests.

use super::checks;
use super::disk::Crash;
use super::event::SimEvent;
use super::host::Host;
use super::operator::{ClusterView, MachineView, OPERATOR, Operator, OperatorAction};
use super::world::World;
use crate::api::Reply;
use crate::node::Event;
use crate::types::NodeId;
use rand::RngExt;
use std::time::Duration;

impl World {
    /// Runs the operator's next action, and schedules the one after it.
    pub(super) fn run_operator(&mut self) -> checks::Result<()> {
        let governance = self.scenario.governance.clone();
        let Some(every) = governance.every else { return Ok(()) };
        let interval = Operator::draw_interval(every, self.calm, &mut self.rng);
        self.later(interval, SimEvent::Governs);
        self.forget_former_voters();
        self.operator.abandon_late_request(self.now, governance.patience);
        if !self.operator.is_free(self.now) {
            return Ok(());
        }
        let view = self.cluster_view();
        match self.operator.next_action(&view, &governance, &mut self.rng) {
            Some(action) => self.execute_operator_action(action),
            None => Ok(()),
        }
    }

    fn cluster_view(&self) -> ClusterView {
        let leaders = self.hosts.values().filter_map(|host| host.up.as_ref()).map(|up| up.node.raft());
        let latest = leaders.filter(|raft| raft.leads()).max_by_key(|raft| raft.term());
        let membership = latest.map_or_else(|| self.checks.configurations.latest(), |raft| raft.membership());
        let machine = |(id, host): (&NodeId, &Host)| {
            let view = MachineView {
                disk_id: host.disk_id,
                leads: host.up.as_ref().is_some_and(|up| up.node.raft().leads()),
                wiped: host.wiped,
                awaiting_removal: host.awaiting_removal,
                refused_start: host.refused_start,
                is_damaged: self.is_damaged(*id),
                may_be_wiped: self.may_be_wiped(*id),
            };
            (*id, view)
        };
        ClusterView {
            now: self.now,
            calm: self.calm,
            membership: membership.clone(),
            machines: self.hosts.iter().map(machine).collect(),
        }
    }

    fn execute_operator_action(&mut self, action: OperatorAction) -> checks::Result<()> {
        match action {
            OperatorAction::Send(asking) => {
                self.trace_line(|| format!("the operator sends {}: {:?}", asking.to, asking.request));
                self.send_request(OPERATOR, asking);
            }
            OperatorAction::Wipe(at) => self.wipe(at),
            OperatorAction::ReplaceDisk(at) => {
                self.replaced += 1;
                self.wipe(at);
            }
            OperatorAction::Stop { at, delay } => {
                let life = self.hosts[&at].incarnation;
                self.trace_line(|| format!("{at} receives the signal to stop"));
                self.later(delay, SimEvent::Ends { at, life });
                return self.handle(at, Event::Stopping);
            }
        }
        Ok(())
    }

    /// Ends a process that was told to shut down. It starts again later.
    pub(super) fn end_process(&mut self, at: NodeId) -> checks::Result<()> {
        self.crash(at, Crash::Kill);
        let delay = Duration::from_millis(self.rng.random_range(1..1000));
        self.later(delay, SimEvent::Starts { at });
        Ok(())
    }

    /// Delivers a reply to the operator, and sends its next attempt if there is one.
    pub(super) fn answer_operator(&mut self, id: u64, reply: Reply) -> checks::Result<()> {
        if let Some(asking) = self.operator.receive_reply(id, reply, &mut self.rng)? {
            self.send_request(OPERATOR, asking);
        }
        Ok(())
    }

    /// Whether the operator waits for an answer, or has yet to add a machine that has lost its disk: the result may be
    /// another leader.
    pub(super) fn operator_has_work(&self) -> bool {
        let members = &self.checks.configurations.latest().members;
        let outside = |(id, host): (&NodeId, &Host)| host.wiped && !host.refused_start && !members.contains_key(id);
        self.operator.is_waiting() || self.hosts.iter().any(outside)
    }
}
