//! How a simulated process applies entries and answers queries. The world checks each applied entry.

use super::applier_input::ApplierInput;
use super::checks::Checks;
use super::host::Process;
use super::order::OrderChecks;
use super::values::ValueHistory;
use super::violation::Result;
use crate::apply::Report;
use crate::node::Event;
use crate::types::{NodeId, Time};

/// The records of a world that every applied entry is checked against and added to.
pub(super) struct ApplyRecords<'a> {
    pub(super) checks: &'a mut Checks,
    pub(super) value_history: &'a mut ValueHistory,
    pub(super) order_checks: &'a mut OrderChecks,
}

impl Process {
    /// Applies the entries and answers the queries among `inputs` in order, and reports the results to the node.
    /// `local_time` is the time on the machine's clock.
    pub(super) fn handle_applier_inputs(
        &mut self,
        at: NodeId,
        local_time: Time,
        inputs: impl IntoIterator<Item = ApplierInput>,
        mut records: ApplyRecords<'_>,
    ) -> Result<()> {
        inputs.into_iter().try_for_each(|input| self.handle_applier_input(at, local_time, input, &mut records))
    }

    fn handle_applier_input(
        &mut self,
        at: NodeId,
        local_time: Time,
        input: ApplierInput,
        records: &mut ApplyRecords<'_>,
    ) -> Result<()> {
        match input {
            ApplierInput::Entries(entries) => {
                let mut batch_report = self.applier.apply(&[]);
                // Entries are applied one by one, so that the states of two nodes can be compared at every index even
                // if the nodes apply the entries in different batches.
                for entry in &entries {
                    let mut report = self.applier.apply(std::slice::from_ref(entry));
                    records.checks.check_applied(at, entry, report.digest)?;
                    records.value_history.record_applied(entry, |query| self.applier.query(entry.time, query));
                    records.order_checks.check_applied(entry, report.outcomes.first().map(|(_, outcome)| outcome))?;
                    batch_report.outcomes.append(&mut report.outcomes);
                    batch_report = Report { outcomes: batch_report.outcomes, ..report };
                }
                self.node.handle(local_time, Event::Applied(batch_report));
            }
            ApplierInput::Query(ticket, query, time) => {
                let (applied, answer) = (self.applier.applied(), self.applier.query(time, &query));
                self.node.handle(local_time, Event::Queried { ticket, applied, answer });
            }
        }
        Ok(())
    }
}
