//! Simulated clients with one request in progress: the protocol of the library's blocking `Client` over simulated
//! connections.

use super::call_client::{CallClient, CallConnection};
use super::checks;
use super::tasks::TaskBody;
use super::workload::TaskEnd;
use super::world::World;
use crate::api::{Outcome, Reply, Request};
use crate::client::ClientError;
use crate::client::call_protocol::CallStep;
use crate::wire::client::put_request_frame;
use crate::wire::hello::Hello;
use bytes::{Bytes, BytesMut};

/// Converts a call's result to a task's end. The error describes an answer that no correct cluster gives.
fn to_task_end(result: Result<Reply, ClientError>) -> checks::Result<TaskEnd> {
    Ok(match result {
        Ok(Reply::Done { outcome: Outcome::Executed { answer, .. }, .. }) => TaskEnd::Answered(answer, None),
        Ok(Reply::Answer { applied, answer }) => TaskEnd::Answered(answer, Some(applied)),
        Ok(reply) => return Err(format!("a client receives the unexpected reply {reply:?}")),
        Err(ClientError::Refused(_) | ClientError::Rejected(_)) => TaskEnd::Refused,
        Err(ClientError::Unknown(_) | ClientError::SessionExpired) => TaskEnd::Unknown,
        Err(error @ (ClientError::UnexpectedReply(_) | ClientError::AnswerTooLong { .. })) => {
            return Err(error.to_string());
        }
    })
}

impl World {
    /// Executes steps of the client's protocol, as the blocking `Client` does, until a step has to wait for an event.
    pub(super) fn drive_call_client(&mut self, call: &mut CallClient) -> checks::Result<()> {
        let (now, client) = (self.now, call.tasks.client);
        while call.pending_step.is_none() {
            if call.task_tag.is_none() {
                match call.tasks.begin_task(now, &mut self.rng, &mut self.history) {
                    None if call.tasks.stopping => return Ok(()),
                    None => {
                        self.schedule_linked_wakeup(client, call.tasks.next_task_at);
                        return Ok(());
                    }
                    Some((tag, TaskBody::Command(command))) => {
                        call.task_tag = Some(tag);
                        call.protocol.start_command(now, command);
                    }
                    Some((tag, TaskBody::Query(query, consistency))) => {
                        call.task_tag = Some(tag);
                        call.protocol.start_request(now, Request::Query { query, consistency });
                    }
                }
            }
            let step = call.protocol.next_step(now);
            self.close_abandoned_connections(call);
            self.begin_step(call, step)?;
            call.check_pending_step(now);
        }
        if let Some(
            CallStep::Dial { until, .. }
            | CallStep::Wait { until }
            | CallStep::ReadStatus { until }
            | CallStep::QueryOtherNode { until, .. }
            | CallStep::Pause { until },
        ) = call.pending_step
        {
            self.schedule_linked_wakeup(client, until);
        }
        Ok(())
    }

    /// Begins a step of the protocol: connects, sends, or ends the task in progress.
    fn begin_step(&mut self, call: &mut CallClient, step: CallStep) -> checks::Result<()> {
        match &step {
            CallStep::Dial { endpoint, .. } => call.main_connection = Some(self.connect_call_client(call, endpoint)?),
            CallStep::Send { request, .. } => {
                if let Some(main) = &mut call.main_connection {
                    self.send_call_request(main, request);
                }
                call.protocol.request_sent(self.now);
                return Ok(());
            }
            CallStep::ReadStatus { .. } => {
                if let Some(main) = &mut call.main_connection {
                    self.send_call_request(main, &Request::Status);
                }
            }
            CallStep::QueryOtherNode { endpoint, request, .. } => {
                // The blocking `Client` sends the request only after the node's welcome. Here the request is sent right
                // after the hello, which saves the wait for the welcome.
                let mut leader_query_connection = self.connect_call_client(call, endpoint)?;
                self.send_call_request(&mut leader_query_connection, request);
                call.leader_query_connection = Some(leader_query_connection);
            }
            CallStep::Done(result) => {
                self.trace_line(|| format!("client {} receives {result:?}", call.tasks.client));
                let tag = call.task_tag.take().unwrap_or_default();
                let link = call.main_connection.as_ref().map(|main| main.link);
                let (end, records) = (to_task_end(result.clone())?, (&mut self.history, &self.value_history));
                return call.tasks.end_task(self.now, (tag, link), end, records);
            }
            CallStep::Wait { .. } | CallStep::Pause { .. } => {}
        }
        call.pending_step = Some(step);
        Ok(())
    }

    fn connect_call_client(&mut self, call: &CallClient, endpoint: &str) -> checks::Result<CallConnection> {
        let link = self.open_link(call.tasks.client, endpoint)?;
        let mut hello = BytesMut::new();
        Hello::client().put(&mut hello);
        self.send_on_link(link, hello.freeze());
        Ok(CallConnection { link, ..CallConnection::default() })
    }

    fn send_call_request(&mut self, connection: &mut CallConnection, request: &Request) {
        connection.last_request_id += 1;
        let mut bytes = BytesMut::new();
        put_request_frame(&mut bytes, connection.last_request_id, false, request);
        self.send_on_link(connection.link, Bytes::from(bytes));
    }

    /// Closes the connections that the client's protocol no longer uses.
    fn close_abandoned_connections(&mut self, call: &mut CallClient) {
        if !call.protocol.is_connected()
            && let Some(main) = call.main_connection.take()
        {
            self.close_client_end(main.link);
        }
        if let Some(connection) = call.leader_query_connection.take() {
            self.close_client_end(connection.link);
        }
    }
}
