//! The state machine of each simulated node: it processes its inputs at once or after a delay, in order.

use super::applier_input::ApplierInput;
use super::checks;
use super::event::SimEvent;
use super::host::Process;
use super::world::World;
use crate::apply::Report;
use crate::node::Event;
use crate::types::{NodeId, Time};
use rand::RngExt;
use std::time::Duration;

impl World {
    /// Gives the state machine an input. Returns whether it was processed at once.
    pub(super) fn gives(&mut self, at: NodeId, local: Time, given: ApplierInput) -> checks::Result<bool> {
        let most = self.scenario.apply.as_nanos() as u64;
        let delay = Duration::from_nanos(if most == 0 { 0 } else { self.rng.random_range(0..=most) });
        let Some(Process { given: waiting, .. }) = &mut self.host(at).up else { return Ok(false) };
        if delay == Duration::ZERO && waiting.is_empty() {
            return self.does(at, local, given);
        }
        waiting.push_back(given);
        if waiting.len() == 1 {
            let life = self.hosts[&at].incarnation;
            self.later(delay, SimEvent::Applies { at, life });
        }
        Ok(false)
    }

    /// The state machine finishes its first pending input, and the queries right behind it.
    pub(super) fn applies(&mut self, at: NodeId) -> checks::Result<()> {
        let local = self.hosts[&at].clock.local(self.now);
        let mut next = self.host(at).up.as_mut().and_then(|up| up.given.pop_front());
        while let Some(given) = next {
            self.does(at, local, given)?;
            let query = |given: &mut ApplierInput| matches!(given, ApplierInput::Query(..));
            next = self.host(at).up.as_mut().and_then(|up| up.given.pop_front_if(query));
        }
        if self.hosts[&at].up.as_ref().is_some_and(|up| !up.given.is_empty()) {
            let life = self.hosts[&at].incarnation;
            let delay = Duration::from_nanos(self.rng.random_range(0..=self.scenario.apply.as_nanos() as u64));
            self.later(delay, SimEvent::Applies { at, life });
        }
        self.turn(at)
    }

    /// Processes all pending inputs before the state machine is replaced by a snapshot.
    pub(super) fn applies_all(&mut self, at: NodeId) -> checks::Result<()> {
        let local = self.hosts[&at].clock.local(self.now);
        while let Some(given) = self.host(at).up.as_mut().and_then(|up| up.given.pop_front()) {
            self.does(at, local, given)?;
        }
        Ok(())
    }

    fn does(&mut self, at: NodeId, local: Time, given: ApplierInput) -> checks::Result<bool> {
        let Some(up) = &mut self.hosts.get_mut(&at).expect("every node has a host").up else { return Ok(false) };
        match given {
            ApplierInput::Entries(entries) => {
                let mut whole = up.applier.apply(&[]);
                // One by one, so that states can be compared at every index, whatever the batches are.
                for entry in &entries {
                    let mut report = up.applier.apply(std::slice::from_ref(entry));
                    self.checks.applied(at, entry, report.digest)?;
                    self.values.applied(entry, |query| up.applier.query(entry.time, query));
                    self.pipelines.order.applied(entry, report.outcomes.first().map(|(_, outcome)| outcome))?;
                    whole.outcomes.append(&mut report.outcomes);
                    whole = Report { outcomes: whole.outcomes, ..report };
                }
                up.node.handle(local, Event::Applied(whole));
            }
            ApplierInput::Query(ticket, query, time) => {
                let (applied, answer) = (up.applier.applied(), up.applier.query(time, &query));
                up.node.handle(local, Event::Queried { ticket, applied, answer });
            }
        }
        Ok(true)
    }
}
