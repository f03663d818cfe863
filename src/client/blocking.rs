//! A blocking client of a cluster: it opens a session, follows redirects to the leader, and retries.
//!
//! [`CallProtocol`] makes these decisions. This module provides the socket and the sleep.

use super::call_protocol::{CallProtocol, CallStep, Options, unknown_as_refused};
use super::clock::Clock;
use super::connection::{Connection, deadline};
use super::error::{ClientError, FailedAttempts};
use crate::api::{Consistency, LogLevelInForce, LogLevelRequest, Op, Outcome, Refusal, Reply, Request, Status};
use crate::types::{Change, Index, NodeId, Position, Time};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// The result of a command that took effect, exactly once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandResult {
    /// The position of the entry whose application returned this answer.
    pub position: Position,
    /// The state machine's answer when the command was executed.
    pub answer: Bytes,
    /// Whether an earlier attempt to send the command had already taken effect.
    pub duplicate: bool,
}

/// The answer to a query, and the state that it was computed from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueryResult {
    /// The index of the last entry that the state machine had applied when it answered.
    pub applied: Index,
    /// The state machine's answer.
    pub answer: Bytes,
}

/// A blocking client of a cluster, with one call at a time.
///
/// Writes use a session, which the first write opens. A write is sent again under the same number until its outcome is
/// known or the timeout has passed: it never takes effect twice.
pub struct Client {
    protocol: CallProtocol,
    clock: Clock,
    /// The current connection, to the node that replied last.
    connection: Option<Connection>,
    /// The id of the request that was last sent over `connection`: the client waits for its reply.
    outstanding_request_id: u64,
}

impl Client {
    /// Creates a client of the cluster with these `host:port` endpoints. The first call dials.
    pub fn connect<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Client {
        Client::with_options(endpoints, Options::default())
    }

    /// Like [`Client::connect`], with other options.
    pub fn with_options<E: Into<String>>(endpoints: impl IntoIterator<Item = E>, options: Options) -> Client {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let clock = Clock::start();
        let protocol = CallProtocol::new(endpoints, options, clock.now(), rand::random());
        Client { protocol, clock, connection: None, outstanding_request_id: 0 }
    }

    /// The endpoints that the client was created with.
    pub fn endpoints(&self) -> &[String] {
        self.protocol.known_endpoints().initial()
    }

    pub(super) fn options(&self) -> &Options {
        self.protocol.options()
    }

    /// Executes a command exactly once.
    pub fn execute(&mut self, command: &[u8]) -> Result<CommandResult, ClientError> {
        self.protocol.start_command(self.clock.now(), Bytes::copy_from_slice(command));
        match self.run_call()? {
            Reply::Done { position, outcome: Outcome::Executed { answer, duplicate } } => {
                Ok(CommandResult { position, answer, duplicate })
            }
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Sends a query to the state machine. A linearizable query sees all writes acknowledged before; a local one may be
    /// answered from stale state.
    pub fn query(&mut self, query: &[u8], consistency: Consistency) -> Result<QueryResult, ClientError> {
        let query = Bytes::copy_from_slice(query);
        match self.call(Request::Query { query, consistency }).map_err(unknown_as_refused)? {
            Reply::Answer { applied, answer } => Ok(QueryResult { applied, answer }),
            Reply::Done { position, outcome: Outcome::AnswerTooLong } => Err(ClientError::AnswerTooLong { position }),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Requests the status of the node at `endpoint`, without retries.
    pub fn status(&self, endpoint: &str) -> Result<Status, ClientError> {
        match self.call_node(endpoint, &Request::Status)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Makes one node check all its files. Returns the node's status at once: the pass has ended when its status reports
    /// that the pass with this number, or a later one, has ended.
    pub fn scrub(&self, endpoint: &str) -> Result<Status, ClientError> {
        match self.call_node(endpoint, &Request::Scrub)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Makes one node take a snapshot, and waits until the snapshot is durable. Returns the position of the last entry
    /// in the snapshot, and the size of the snapshot in bytes.
    pub fn snapshot(&self, endpoint: &str) -> Result<(Position, u64), ClientError> {
        match self.call_node(endpoint, &Request::Snapshot)? {
            Reply::Snapshot { position, bytes } => Ok((position, bytes)),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Reads or changes the log level of one node; returns the resulting level.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotSupported`] if the node's process does not allow changes of its log level.
    pub fn log_level(&self, endpoint: &str, request: LogLevelRequest) -> Result<LogLevelInForce, ClientError> {
        match self.call_node(endpoint, &Request::LogLevel(request))? {
            Reply::LogLevel(level) => Ok(level),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Changes the members of the cluster; returns the position of the new configuration. Waits for a change in
    /// progress.
    pub fn change(&mut self, change: &Change, force: bool) -> Result<Position, ClientError> {
        let request = Request::Change { change: change.clone(), force };
        // An abort is sent without the read that waits for a leader, since reads may be impossible until the change in
        // progress is aborted.
        let reply = if *change == Change::Abort {
            self.call(request)
        } else {
            self.wait_for_leader()?;
            self.protocol.continue_with_request(self.clock.now(), request);
            self.run_call()
        };
        let reply = reply.map_err(|error| match error {
            // An earlier attempt of this call may have made the change, which is then no longer valid.
            ClientError::Rejected(refusal @ Refusal::InvalidChange { .. }) if self.protocol.is_uncertain() => {
                self.protocol.fail_with_refusal(self.clock.now(), refusal)
            }
            error => error,
        });
        match reply? {
            Reply::Changed { position } => Ok(position),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Waits until there is a leader. A node without a leader holds requests back, so a change sent to it would have an
    /// unknown outcome after a timeout, although nothing was changed.
    fn wait_for_leader(&mut self) -> Result<(), ClientError> {
        let empty_read = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        self.call(empty_read).map(|_| ()).map_err(unknown_as_refused)
    }

    /// Transfers leadership to the node `to`; with `None` the leader chooses the node. Returns the new leader.
    pub fn transfer_leadership(&mut self, to: Option<NodeId>) -> Result<NodeId, ClientError> {
        match self.call(Request::Transfer { to }).map_err(unknown_as_refused)? {
            Reply::Transferred { to } => Ok(to),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Sends a request once, to the node at `endpoint`. The request must change no replicated state.
    fn call_node(&self, endpoint: &str, request: &Request) -> Result<Reply, ClientError> {
        let options = self.protocol.options();
        let (started_at, until) = (Instant::now(), deadline(options.timeout));
        let mut failures = FailedAttempts { endpoints: vec![endpoint.to_owned()], ..FailedAttempts::default() };
        let dial_deadline = until.min(deadline(options.node_timeout));
        let dial_result = Connection::dial_operator(endpoint, options.keys.as_ref(), dial_deadline);
        match dial_result.and_then(|mut connection| connection.call(request, until)) {
            Ok(Reply::Refused(refusal)) => failures.refusal = Some(refusal),
            Ok(reply) => return Ok(reply),
            Err(error) => failures.last_error = Some(format!("{endpoint}: {error}")),
        }
        failures.duration = started_at.elapsed();
        Err(ClientError::Refused(failures))
    }

    /// Sends a request to the cluster, with retries until the timeout.
    fn call(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.protocol.start_request(self.clock.now(), request);
        self.run_call()
    }

    /// Executes the protocol's steps until the call has finished.
    fn run_call(&mut self) -> Result<Reply, ClientError> {
        loop {
            let step = self.protocol.next_step(self.clock.now());
            if !self.protocol.is_connected() {
                self.connection = None;
            }
            match step {
                CallStep::Done(result) => return result,
                CallStep::Pause { until } => {
                    std::thread::sleep(self.clock.instant_at(until).saturating_duration_since(Instant::now()));
                }
                CallStep::Dial { endpoint, until } => self.dial(endpoint, until),
                CallStep::QueryOtherNode { endpoint, request, until } => {
                    let node_and_reply = self.query_other_node(&endpoint, &request, until);
                    self.protocol.other_node_answered(self.clock.now(), node_and_reply);
                }
                CallStep::Send { .. } | CallStep::Wait { .. } | CallStep::ReadStatus { .. } => {
                    self.execute_on_connection(step);
                }
            }
            if let Some(status) = self.connection.as_mut().and_then(Connection::take_status_update) {
                self.protocol.learn_members(&status);
            }
        }
    }

    fn dial(&mut self, endpoint: String, until: Time) {
        let deadline = self.clock.instant_at(until);
        let options = self.protocol.options();
        let dial_result = if options.is_operator {
            Connection::dial_operator(&endpoint, options.keys.as_ref(), deadline)
        } else {
            Connection::dial_for_machine_kind(&endpoint, options.keys.as_ref(), options.machine_kind, deadline)
        };
        match dial_result {
            Ok(connection) => {
                self.protocol.dial_succeeded(endpoint, connection.node());
                self.connection = Some(connection);
            }
            Err(error) => self.protocol.dial_failed(self.clock.now(), &endpoint, &error.to_string()),
        }
    }

    /// Executes a step that uses the current connection.
    fn execute_on_connection(&mut self, step: CallStep) {
        let Some(connection) = &mut self.connection else {
            return self.protocol.connection_lost(self.clock.now(), "the connection is lost");
        };
        match step {
            CallStep::Send { request, until } => {
                match connection.send_request(&request, self.clock.instant_at(until)) {
                    Ok(id) => {
                        self.outstanding_request_id = id;
                        self.protocol.request_sent(self.clock.now());
                    }
                    Err(error) => self.protocol.connection_lost(self.clock.now(), &error.to_string()),
                }
            }
            CallStep::Wait { until } => match connection
                .wait_for_reply(self.outstanding_request_id, self.clock.instant_at(until))
            {
                Ok(reply) => self.protocol.reply_received(self.clock.now(), reply),
                Err(error) if error.is_timeout() => self.protocol.reply_timed_out(self.clock.now(), &error.to_string()),
                Err(error) => self.protocol.connection_lost(self.clock.now(), &error.to_string()),
            },
            CallStep::ReadStatus { until } => {
                let status = match connection.call(&Request::Status, self.clock.instant_at(until)) {
                    Ok(Reply::Status(status)) => Some(status),
                    _ => None,
                };
                self.protocol.status_received(self.clock.now(), status.as_deref());
            }
            CallStep::Dial { .. } | CallStep::QueryOtherNode { .. } | CallStep::Pause { .. } | CallStep::Done(_) => {}
        }
    }

    /// Sends a request to another node, over a separate connection. Returns the id in the node's welcome, and the
    /// reply; `None` if no reply arrived until the deadline.
    fn query_other_node(&self, endpoint: &str, request: &Request, until: Time) -> Option<(Option<NodeId>, Reply)> {
        let until = self.clock.instant_at(until);
        let mut connection = Connection::dial(endpoint, self.protocol.options().keys.as_ref(), until).ok()?;
        let reply = connection.call(request, until).ok()?;
        Some((connection.node(), reply))
    }
}

impl Drop for Client {
    /// Sends the close of the session, if the socket accepts it within 20 ms; otherwise the session expires by itself.
    fn drop(&mut self) {
        if let (Some(connection), Some(session)) = (&mut self.connection, self.protocol.session()) {
            let op = Op::Close { session }.encode();
            let close_deadline = Instant::now() + Duration::from_millis(20);
            let _best_effort = connection.send_without_reply(&Request::Propose { op }, close_deadline);
        }
    }
}

#[cfg(test)]
mod tests;
