//! Simulated clients with one request in progress: the protocol of the blocking `Client` over simulated connections.

use super::checks;
use super::tasks::Body;
use super::workload::{TaskClient, TaskEnd};
use super::world::World;
use crate::api::{Outcome, Reply, Request};
use crate::client::call_protocol::{CallProtocol, Step};
use crate::client::{ClientError, Options};
use crate::types::{NodeId, Time};
use crate::wire::WireError;
use crate::wire::client::{put_request_frame, read_reply_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{Hello, Welcome};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// A connection of a blocking client.
#[derive(Debug, Default)]
struct Connection {
    link: u64,
    reader: FrameReader,
    input: BytesMut,
    /// The node that has welcomed the client.
    node: Option<NodeId>,
    /// The number of the last request.
    asked: u64,
    /// Replies that were received and not handled yet.
    replies: VecDeque<(u64, Reply)>,
    ended: bool,
}

/// One client.
pub struct CallClient {
    /// Its tasks.
    pub asker: TaskClient,
    protocol: CallProtocol,
    main: Option<Connection>,
    second: Option<Connection>,
    /// The task of the call in progress.
    tag: Option<u64>,
    /// Its current step: an action to begin, or a wait.
    step: Option<Step>,
}

impl Connection {
    /// Reads received bytes. The error describes bytes that no correct node sends.
    fn receives(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.input.extend_from_slice(bytes);
        while let Some(frame) = self.reader.next(&mut self.input)? {
            if self.node.is_none() {
                self.node = Some(Welcome::read(frame)?.node);
            } else {
                self.replies.push_back(read_reply_frame(frame)?);
            }
        }
        Ok(())
    }

    /// The reply to the last request, if it was received.
    fn reply(&mut self) -> Option<Reply> {
        let at = self.replies.iter().position(|(id, _)| *id == self.asked)?;
        let (_, reply) = self.replies.drain(..=at).next_back()?;
        Some(reply)
    }
}

impl CallClient {
    /// A client with default timeouts.
    pub fn new(asker: TaskClient, endpoints: Vec<String>, seed: u64) -> CallClient {
        let protocol = CallProtocol::new(endpoints, Options::default(), Time::ZERO, seed);
        CallClient { asker, protocol, main: None, second: None, tag: None, step: None }
    }

    fn on(&mut self, link: u64) -> Option<&mut Connection> {
        self.main.iter_mut().chain(&mut self.second).find(|connection| connection.link == link)
    }

    /// Handles bytes received on a connection. The error describes bytes that no correct node sends.
    pub fn receives(&mut self, now: Time, link: u64, bytes: &[u8]) -> checks::Result<()> {
        let Some(connection) = self.on(link) else { return Ok(()) };
        match connection.receives(bytes) {
            Ok(()) => {}
            Err(WireError::Refused(_)) => connection.ended = true,
            Err(error) => return Err(format!("client {} cannot decode its input: {error}", self.asker.client)),
        }
        self.looks(now);
        Ok(())
    }

    /// Handles the end of a connection.
    pub fn loses(&mut self, now: Time, link: u64) {
        if let Some(connection) = self.on(link) {
            connection.ended = true;
            self.looks(now);
        }
    }

    /// Handles a wake-up.
    pub fn wakes(&mut self, now: Time) {
        self.looks(now);
    }

    /// Checks whether the awaited event has happened, can no longer happen, or has timed out.
    fn looks(&mut self, now: Time) {
        let Some(step) = self.step.take() else { return };
        let (main, second) = (self.main.as_mut(), self.second.as_mut());
        match &step {
            Step::Dial { endpoint, until } => match main.map(|main| (main.node, main.ended)) {
                Some((Some(node), _)) => return self.protocol.dialed(endpoint.clone(), Some(node)),
                Some((None, false)) if now < *until => {}
                _ => return self.protocol.not_dialed(now, endpoint, "no welcome"),
            },
            Step::Wait { until } => match main.map(|main| (main.reply(), main.ended)) {
                Some((Some(reply), _)) => return self.protocol.answered(now, reply),
                Some((None, false)) if now < *until => {}
                Some((None, false)) => return self.protocol.late(now, "no answer in time"),
                _ => return self.protocol.lost(now, "the connection is lost"),
            },
            Step::Look { until } => match main.map(|main| (main.reply(), main.ended)) {
                Some((Some(Reply::Status(status)), _)) => return self.protocol.looked(now, Some(&status)),
                Some((None, false)) if now < *until => {}
                _ => return self.protocol.looked(now, None),
            },
            Step::Consult { until, .. } => match second.map(|second| (second.reply(), second.node, second.ended)) {
                Some((Some(reply), node, _)) => return self.protocol.consulted(now, Some((node, reply))),
                Some((None, _, false)) if now < *until => {}
                _ => return self.protocol.consulted(now, None),
            },
            Step::Pause { until } if now >= *until => return,
            Step::Pause { .. } | Step::Send { .. } | Step::Done(_) => {}
        }
        self.step = Some(step);
    }
}

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
