//! How a simulated process applies entries and answers queries, under the checks of the world.

use super::applier_input::ApplierInput;
use super::checks::Checks;
use super::host::Process;
use super::order::Order;
use super::values::Values;
use super::violation::Result;
use crate::apply::Report;
use crate::node::Event;
use crate::types::{NodeId, Time};

/// The records of a world that every applied entry is checked against and added to.
pub(super) struct ApplyRecords<'a> {
    pub(super) checks: &'a mut Checks,
    pub(super) values: &'a mut Values,
    pub(super) order: &'a mut Order,
}

impl Process {
    /// Processes inputs of the state machine in order, and reports the results to the node. `local` is the time on the
    /// machine's clock.
    pub(super) fn process_inputs(
        &mut self,
        at: NodeId,
        local: Time,
        inputs: impl IntoIterator<Item = ApplierInput>,
        mut records: ApplyRecords<'_>,
    ) -> Result<()> {
        inputs.into_iter().try_for_each(|input| self.process_input(at, local, input, &mut records))
    }

    fn process_input(
        &mut self,
        at: NodeId,
        local: Time,
        input: ApplierInput,
        records: &mut ApplyRecords<'_>,
    ) -> Result<()> {
        match input {
            ApplierInput::Entries(entries) => {
                let mut whole = self.applier.apply(&[]);
                // One by one, so that states can be compared at every index, whatever the batches are.
                for entry in &entries {
                    let mut report = self.applier.apply(std::slice::from_ref(entry));
                    records.checks.applied(at, entry, report.digest)?;
                    records.values.applied(entry, |query| self.applier.query(entry.time, query));
                    records.order.applied(entry, report.outcomes.first().map(|(_, outcome)| outcome))?;
                    whole.outcomes.append(&mut report.outcomes);
                    whole = Report { outcomes: whole.outcomes, ..report };
                }
                self.node.handle(local, Event::Applied(whole));
            }
            ApplierInput::Query(ticket, query, time) => {
                let (applied, answer) = (self.applier.applied(), self.applier.query(time, &query));
                self.node.handle(local, Event::Queried { ticket, applied, answer });
            }
        }
        Ok(())
    }
}
