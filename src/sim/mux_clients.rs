//! Simulated clients with several requests in progress on one connection: the protocol of the library's `Mux` over
//! simulated connections.

use super::checks;
use super::mux_client::MuxClient;
use super::tasks::TaskBody;
use super::workload::TaskEnd;
use super::world::World;
use crate::client::mux_protocol::{Completion, RequestResult as CallResult};
use crate::types::Time;

fn to_task_end(result: CallResult) -> TaskEnd {
    match result {
        CallResult::Executed { answer, .. } => TaskEnd::Answered(answer, None),
        CallResult::Answered { applied, answer } => TaskEnd::Answered(answer, Some(applied)),
        CallResult::Refused(_) => TaskEnd::Refused,
        CallResult::Unknown | CallResult::AnswerTooLong { .. } => TaskEnd::Unknown,
    }
}

impl World {
    /// Does everything that is due for a client, as the thread of a `Mux` does: records results, dials nodes, begins
    /// requests and sends them.
    pub(super) fn drive_mux_client(&mut self, mux: &mut MuxClient) -> checks::Result<()> {
        let (now, client) = (self.now, mux.tasks.client);
        self.end_tasks(mux)?;
        if mux.tasks.stopping && mux.tasks.is_done() {
            return Ok(());
        }
        self.close_abandoned_links(mux);
        if let Some(endpoint) = mux.protocol.dial(now) {
            mux.main_link = Some(self.open_link(client, &endpoint)?);
        }
        mux.protocol.handle_timeout(now);
        while mux.protocol.has_room()
            && let Some((tag, body)) = mux.tasks.begin_task(now, &mut self.rng, &mut self.history)
        {
            match body {
                TaskBody::Command(command) => mux.protocol.execute(now, command, tag),
                TaskBody::Query(query, consistency) => mux.protocol.query(now, query, consistency, tag),
            }
        }
        let query_endpoint = mux.protocol.dial_leader_query(now);
        self.close_abandoned_links(mux);
        if let Some(endpoint) = query_endpoint {
            mux.leader_query_link = Some(self.open_link(client, &endpoint)?);
        }
        if let Some(link) = mux.main_link
            && !mux.protocol.output().is_empty()
        {
            self.send_on_link(link, mux.protocol.output().split().freeze());
        }
        if let (Some(link), Some(query)) = (mux.leader_query_link, mux.protocol.leader_query())
            && !query.output().is_empty()
        {
            self.send_on_link(link, query.output().split().freeze());
        }
        let next_task_at =
            if mux.protocol.has_room() && !mux.tasks.stopping { mux.tasks.next_task_at } else { Time::NEVER };
        let wakeup_at = mux.protocol.deadline().map_or(next_task_at, |deadline| deadline.min(next_task_at));
        self.schedule_linked_wakeup(client, wakeup_at);
        Ok(())
    }

    /// Ends the tasks whose requests are completed, and checks their answers.
    fn end_tasks(&mut self, mux: &mut MuxClient) -> checks::Result<()> {
        for Completion { tag, result, .. } in std::mem::take(&mut mux.unrecorded_completions) {
            self.trace_line(|| format!("client {} receives {result:?}", mux.tasks.client));
            mux.tasks.end_task(
                self.now,
                (tag, mux.main_link),
                to_task_end(result),
                (&mut self.history, &self.value_history),
            )?;
        }
        Ok(())
    }

    /// Closes the connections that the client's protocol no longer uses.
    fn close_abandoned_links(&mut self, mux: &mut MuxClient) {
        if !mux.protocol.is_connected()
            && let Some(link) = mux.main_link.take()
        {
            self.close_client_end(link);
        }
        if mux.protocol.leader_query().is_none()
            && let Some(link) = mux.leader_query_link.take()
        {
            self.close_client_end(link);
        }
    }
}
