//! Simulated clients with one request in progress: the protocol of the blocking `Client` over simulated connections.

use super::call_client::{CallClient, Connection};
use super::checks;
use super::tasks::Body;
use super::workload::TaskEnd;
use super::world::World;
use crate::api::{Outcome, Reply, Request};
use crate::client::ClientError;
use crate::client::call_protocol::Step;
use crate::wire::client::put_request_frame;
use crate::wire::hello::Hello;
use bytes::{Bytes, BytesMut};

/// Converts a call's result to a task's end. The error describes an answer that no correct cluster gives.
fn ending(result: Result<Reply, ClientError>) -> checks::Result<TaskEnd> {
    Ok(match result {
        Ok(Reply::Done { outcome: Outcome::Executed { answer, .. }, .. }) => TaskEnd::Answered(answer, None),
        Ok(Reply::Answer { applied, answer }) => TaskEnd::Answered(answer, Some(applied)),
        Ok(reply) => return Err(format!("a client receives {reply:?}")),
        Err(ClientError::Refused(_) | ClientError::Rejected(_)) => TaskEnd::Refused,
        Err(ClientError::Unknown(_) | ClientError::SessionExpired) => TaskEnd::Unknown,
        Err(error @ (ClientError::UnexpectedReply(_) | ClientError::AnswerTooLong { .. })) => {
            return Err(error.to_string());
        }
    })
}

impl World {
    /// Executes the protocol's steps until one has to wait, as `Client` does.
    pub(super) fn drive_call(&mut self, call: &mut CallClient) -> checks::Result<()> {
        let (now, client) = (self.now, call.asker.client);
        while call.step.is_none() {
            if call.tag.is_none() {
                match call.asker.begin(now, &mut self.rng, &mut self.history) {
                    None if call.asker.stopping => return Ok(()),
                    None => {
                        self.wake_linked(client, call.asker.next_at);
                        return Ok(());
                    }
                    Some((tag, Body::Command(command))) => {
                        call.tag = Some(tag);
                        call.protocol.execute(now, command);
                    }
                    Some((tag, Body::Query(query, consistency))) => {
                        call.tag = Some(tag);
                        call.protocol.ask(now, Request::Query { query, consistency });
                    }
                }
            }
            let step = call.protocol.step(now);
            self.close_left(call);
            self.takes_step(call, step)?;
            call.looks(now);
        }
        if let Some(
            Step::Dial { until, .. }
            | Step::Wait { until }
            | Step::Look { until }
            | Step::Consult { until, .. }
            | Step::Pause { until },
        ) = call.step
        {
            self.wake_linked(client, until);
        }
        Ok(())
    }

    /// Begins the protocol's next step.
    fn takes_step(&mut self, call: &mut CallClient, step: Step) -> checks::Result<()> {
        match &step {
            Step::Dial { endpoint, .. } => call.main = Some(self.connect(call, endpoint)?),
            Step::Send { request, .. } => {
                if let Some(main) = &mut call.main {
                    self.ask_on(main, request);
                }
                call.protocol.sent(self.now);
                return Ok(());
            }
            Step::Look { .. } => {
                if let Some(main) = &mut call.main {
                    self.ask_on(main, &Request::Status);
                }
            }
            Step::Consult { endpoint, request, .. } => {
                // The product sends the request only after the welcome; sending both at once here saves a step.
                let mut second = self.connect(call, endpoint)?;
                self.ask_on(&mut second, request);
                call.second = Some(second);
            }
            Step::Done(result) => {
                self.trace_line(|| format!("client {} receives {result:?}", call.asker.client));
                let tag = call.tag.take().unwrap_or_default();
                let link = call.main.as_ref().map(|main| main.link);
                let (ending, seen) = (ending(result.clone())?, (&mut self.history, &self.values));
                return call.asker.ends(self.now, (tag, link), ending, seen);
            }
            Step::Wait { .. } | Step::Pause { .. } => {}
        }
        call.step = Some(step);
        Ok(())
    }

    fn connect(&mut self, call: &CallClient, endpoint: &str) -> checks::Result<Connection> {
        let link = self.open_link(call.asker.client, endpoint)?;
        let mut hello = BytesMut::new();
        Hello::client().put(&mut hello);
        self.send_on_link(link, hello.freeze());
        Ok(Connection { link, ..Connection::default() })
    }

    fn ask_on(&mut self, connection: &mut Connection, request: &Request) {
        connection.asked += 1;
        let mut bytes = BytesMut::new();
        put_request_frame(&mut bytes, connection.asked, false, request);
        self.send_on_link(connection.link, Bytes::from(bytes));
    }

    /// Closes connections that the protocol has abandoned.
    fn close_left(&mut self, call: &mut CallClient) {
        if !call.protocol.is_connected()
            && let Some(main) = call.main.take()
        {
            self.close_link(main.link);
        }
        if let Some(second) = call.second.take() {
            self.close_link(second.link);
        }
    }
}
