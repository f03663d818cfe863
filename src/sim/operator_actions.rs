//! Connects the operator to the world: shows the cluster to the operator, executes the operator's actions, and delivers
//! the replies to its requests.

use super::checks;
use super::disk::Crash;
use super::event::SimEvent;
use super::host::Host;
use super::operator::{ClusterView, MachineView, OPERATOR_CLIENT, Operator, OperatorAction};
use super::world::World;
use crate::api::Reply;
use crate::node::Event;
use crate::types::NodeId;
use rand::RngExt;
use std::time::Duration;

impl World {
    /// Runs the operator's next action, and schedules the one after it.
    pub(super) fn run_operator(&mut self) -> checks::Result<()> {
        let profile = self.scenario.operator.clone();
        let Some(average) = profile.interval else { return Ok(()) };
        let interval = Operator::draw_interval(average, self.faults_over, &mut self.rng);
        self.schedule_after(interval, SimEvent::OperatorTurn);
        self.update_awaiting_removals();
        self.operator.abandon_late_request(self.now, profile.reply_timeout);
        if !self.operator.is_free(self.now) {
            return Ok(());
        }
        let view = self.cluster_view();
        match self.operator.next_action(&view, &profile, &mut self.rng) {
            Some(action) => self.execute_operator_action(action),
            None => Ok(()),
        }
    }

    fn cluster_view(&self) -> ClusterView {
        let rafts = self.hosts.values().filter_map(|host| host.process.as_ref()).map(|process| process.node.raft());
        let latest_leader = rafts.filter(|raft| raft.leads()).max_by_key(|raft| raft.term());
        let membership =
            latest_leader.map_or_else(|| self.checks.configurations.latest_committed(), |raft| raft.membership());
        let view_machine = |(id, host): (&NodeId, &Host)| {
            let view = MachineView {
                disk_id: host.disk_id,
                is_leader: host.process.as_ref().is_some_and(|process| process.node.raft().leads()),
                was_wiped: host.was_wiped,
                awaiting_removal: host.awaiting_removal,
                refused_start: host.refused_start,
                is_damaged: self.is_damaged(*id),
                may_be_wiped: self.may_be_wiped(*id),
            };
            (*id, view)
        };
        ClusterView {
            now: self.now,
            faults_over: self.faults_over,
            membership: membership.clone(),
            machines: self.hosts.iter().map(view_machine).collect(),
        }
    }

    fn execute_operator_action(&mut self, action: OperatorAction) -> checks::Result<()> {
        match action {
            OperatorAction::Send(attempt) => {
                self.trace_line(|| format!("the operator sends {}: {:?}", attempt.to, attempt.request));
                self.send_request(OPERATOR_CLIENT, attempt);
            }
            OperatorAction::Wipe(at) => self.wipe_machine(at),
            OperatorAction::ReplaceDisk(at) => {
                self.replaced_disks += 1;
                self.wipe_machine(at);
            }
            OperatorAction::Stop { at, delay } => {
                let incarnation = self.hosts[&at].incarnation;
                self.trace_line(|| format!("{at} receives the signal to stop"));
                self.schedule_after(delay, SimEvent::ProcessEnd { at, incarnation });
                return self.deliver_event(at, Event::Stopping);
            }
        }
        Ok(())
    }

    /// Ends a process that has received the signal to shut down. The machine starts again within a second.
    pub(super) fn end_process(&mut self, at: NodeId) -> checks::Result<()> {
        self.crash(at, Crash::Kill);
        let delay = Duration::from_millis(self.rng.random_range(1..1000));
        self.schedule_after(delay, SimEvent::ProcessStart { at });
        Ok(())
    }

    /// Delivers a reply to the operator, and sends the operator's next attempt if there is one.
    pub(super) fn answer_operator(&mut self, id: u64, reply: Reply) -> checks::Result<()> {
        if let Some(attempt) = self.operator.receive_reply(id, reply, &mut self.rng)? {
            self.send_request(OPERATOR_CLIENT, attempt);
        }
        Ok(())
    }

    /// Whether the operator waits for an answer, or still has to add a machine that has lost its disk. Either may lead
    /// to the election of another leader.
    pub(super) fn operator_has_work(&self) -> bool {
        let members = &self.checks.configurations.latest_committed().members;
        let awaits_addition =
            |(id, host): (&NodeId, &Host)| host.was_wiped && !host.refused_start && !members.contains_key(id);
        self.operator.is_waiting() || self.hosts.iter().any(awaits_addition)
    }
}
