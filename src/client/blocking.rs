//! A blocking client: session, redirect, retry.
//!
//! [`CallProtocol`] routes requests and interprets replies; this module has the socket and the sleep.

use super::call_protocol::{CallProtocol, Options, Step, nothing_applied};
use super::clock::Clock;
use super::connection::{Connection, deadline};
use super::error::{ClientError, Tried};
use crate::api::{Consistency, LogLevelInForce, LogLevelRequest, Op, Outcome, Refusal, Reply, Request, Status};
use crate::types::{Change, Index, NodeId, Position, Time};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A command that took effect, exactly once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    /// The position of the entry whose application returned this answer.
    pub position: Position,
    /// The machine's first answer.
    pub answer: Bytes,
    /// Whether an earlier attempt of this client had already taken effect.
    pub duplicate: bool,
}

/// The answer to a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queried {
    /// The last index that the machine had applied.
    pub applied: Index,
    /// The machine's answer.
    pub answer: Bytes,
}

/// A blocking client of a cluster, with one call at a time.
///
/// Writes use a session, which the first write opens. A write is sent again under the same number until its outcome is
/// known or the timeout has passed: it never takes effect twice.
pub struct Client {
    protocol: CallProtocol,
    clock: Clock,
    /// To the node that replied last.
    connection: Option<Connection>,
    /// The id of the outstanding request.
    waits_for: u64,
}

impl Client {
    /// A client of the cluster with those `host:port` endpoints. Does not dial yet.
    pub fn connect<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Client {
        Client::with(endpoints, Options::default())
    }

    /// Like [`Client::connect`], with other options.
    pub fn with<E: Into<String>>(endpoints: impl IntoIterator<Item = E>, options: Options) -> Client {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let clock = Clock::start();
        let protocol = CallProtocol::new(endpoints, options, clock.now(), rand::random());
        Client { protocol, clock, connection: None, waits_for: 0 }
    }

    /// The endpoints that it was created with.
    pub fn endpoints(&self) -> &[String] {
        self.protocol.known().given()
    }

    pub(super) fn options(&self) -> &Options {
        self.protocol.options()
    }

    /// Executes a command exactly once.
    pub fn execute(&mut self, command: &[u8]) -> Result<Executed, ClientError> {
        self.protocol.execute(self.clock.now(), Bytes::copy_from_slice(command));
        match self.finish()? {
            Reply::Done { position, outcome: Outcome::Executed { answer, duplicate } } => {
                Ok(Executed { position, answer, duplicate })
            }
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Sends a query to the machine.
    pub fn query(&mut self, query: &[u8], consistency: Consistency) -> Result<Queried, ClientError> {
        let query = Bytes::copy_from_slice(query);
        match self.ask(Request::Query { query, consistency }).map_err(nothing_applied)? {
            Reply::Answer { applied, answer } => Ok(Queried { applied, answer }),
            Reply::Done { position, outcome: Outcome::AnswerTooLong } => Err(ClientError::AnswerTooLong { position }),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// The status of that node alone, without retries.
    pub fn status(&self, endpoint: &str) -> Result<Status, ClientError> {
        match self.ask_one(endpoint, &Request::Status)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Makes one node take a snapshot and waits until it is durable: returns its position and its size in bytes.
    pub fn snapshot(&self, endpoint: &str) -> Result<(Position, u64), ClientError> {
        match self.ask_one(endpoint, &Request::Snapshot)? {
            Reply::Snapshot { position, bytes } => Ok((position, bytes)),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Reads or changes the log level of one node; returns the resulting level.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotOffered`] if the node's process does not allow changes of its log level.
    pub fn log_level(&self, endpoint: &str, request: LogLevelRequest) -> Result<LogLevelInForce, ClientError> {
        match self.ask_one(endpoint, &Request::LogLevel(request))? {
            Reply::LogLevel(level) => Ok(level),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Changes the members of the cluster; returns the position of the new configuration. Waits for a change in
    /// progress.
    pub fn change(&mut self, change: &Change, force: bool) -> Result<Position, ClientError> {
        let request = Request::Change { change: change.clone(), force };
        // An abort of the change in progress need not wait until reads are possible.
        let reply = if *change == Change::Abort {
            self.ask(request)
        } else {
            self.find_leader()?;
            self.protocol.ask_next(self.clock.now(), request);
            self.finish()
        };
        let reply = reply.map_err(|error| match error {
            // This client's own earlier attempt may be why nothing is left to do.
            ClientError::Rejected(refusal @ Refusal::InvalidChange { .. }) if self.protocol.is_uncertain() => {
                self.protocol.give_up_for(self.clock.now(), refusal)
            }
            error => error,
        });
        match reply? {
            Reply::Changed { position } => Ok(position),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Waits for a leader. Without one, a node holds requests: after a timeout the client could not tell whether the
    /// change was made, although nothing was.
    fn find_leader(&mut self) -> Result<(), ClientError> {
        let nothing = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        self.ask(nothing).map(|_| ()).map_err(nothing_applied)
    }

    /// Transfers leadership to that node or the best placed one; returns the leader.
    pub fn transfer(&mut self, to: Option<NodeId>) -> Result<NodeId, ClientError> {
        match self.ask(Request::Transfer { to }).map_err(nothing_applied)? {
            Reply::Transferred { to } => Ok(to),
            _ => Err(ClientError::UnexpectedReply(Box::new(Outcome::Malformed))),
        }
    }

    /// Sends a request that changes no replicated state to that node alone, once.
    fn ask_one(&self, endpoint: &str, request: &Request) -> Result<Reply, ClientError> {
        let options = self.protocol.options();
        let (begun, until) = (Instant::now(), deadline(options.timeout));
        let mut tried = Tried { endpoints: vec![endpoint.to_owned()], ..Tried::default() };
        let by_then = until.min(deadline(options.patience));
        let dialled = Connection::dial_operator(endpoint, options.keys.as_ref(), by_then);
        match dialled.and_then(|mut connection| connection.call(request, until)) {
            Ok(Reply::Refused(refusal)) => tried.refusal = Some(refusal),
            Ok(reply) => return Ok(reply),
            Err(trouble) => tried.last_error = Some(format!("{endpoint}: {trouble}")),
        }
        tried.took = begun.elapsed();
        Err(ClientError::Refused(tried))
    }

    /// Sends a request, with retries until the timeout.
    fn ask(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.protocol.ask(self.clock.now(), request);
        self.finish()
    }

    /// Executes the protocol's steps until the call has finished.
    fn finish(&mut self) -> Result<Reply, ClientError> {
        loop {
            let step = self.protocol.step(self.clock.now());
            if !self.protocol.is_connected() {
                self.connection = None;
            }
            match step {
                Step::Done(result) => return result,
                Step::Pause { until } => {
                    std::thread::sleep(self.clock.instant(until).saturating_duration_since(Instant::now()));
                }
                Step::Dial { endpoint, until } => self.dial(endpoint, until),
                Step::Consult { endpoint, request, until } => {
                    let answer = self.consult(&endpoint, &request, until);
                    self.protocol.consulted(self.clock.now(), answer);
                }
                Step::Send { .. } | Step::Wait { .. } | Step::Look { .. } => self.converse(step),
            }
            if let Some(status) = self.connection.as_mut().and_then(Connection::take_news) {
                self.protocol.learn_members(&status);
            }
        }
    }

    fn dial(&mut self, endpoint: String, until: Time) {
        let until = self.clock.instant(until);
        let options = self.protocol.options();
        let dialed = if options.operator {
            Connection::dial_operator(&endpoint, options.keys.as_ref(), until)
        } else {
            Connection::dial_machine(&endpoint, options.keys.as_ref(), options.machine, until)
        };
        match dialed {
            Ok(connection) => {
                self.protocol.dialed(endpoint, connection.node());
                self.connection = Some(connection);
            }
            Err(trouble) => self.protocol.not_dialed(self.clock.now(), &endpoint, &trouble.to_string()),
        }
    }

    /// Executes a step that uses the current connection.
    fn converse(&mut self, step: Step) {
        let Some(connection) = &mut self.connection else {
            return self.protocol.lost(self.clock.now(), "the connection is lost");
        };
        match step {
            Step::Send { request, until } => match connection.ask(&request, self.clock.instant(until)) {
                Ok(id) => {
                    self.waits_for = id;
                    self.protocol.sent(self.clock.now());
                }
                Err(trouble) => self.protocol.lost(self.clock.now(), &trouble.to_string()),
            },
            Step::Wait { until } => match connection.answer(self.waits_for, self.clock.instant(until)) {
                Ok(reply) => self.protocol.answered(self.clock.now(), reply),
                Err(trouble) if trouble.is_late() => self.protocol.late(self.clock.now(), &trouble.to_string()),
                Err(trouble) => self.protocol.lost(self.clock.now(), &trouble.to_string()),
            },
            Step::Look { until } => {
                let status = match connection.call(&Request::Status, self.clock.instant(until)) {
                    Ok(Reply::Status(status)) => Some(status),
                    _ => None,
                };
                self.protocol.looked(self.clock.now(), status.as_deref());
            }
            Step::Dial { .. } | Step::Consult { .. } | Step::Pause { .. } | Step::Done(_) => {}
        }
    }

    /// Sends a request to another node, over a separate connection.
    fn consult(&self, endpoint: &str, request: &Request, until: Time) -> Option<(Option<NodeId>, Reply)> {
        let until = self.clock.instant(until);
        let mut connection = Connection::dial(endpoint, self.protocol.options().keys.as_ref(), until).ok()?;
        let reply = connection.call(request, until).ok()?;
        Some((connection.node(), reply))
    }
}

impl Drop for Client {
    /// Closes the session if that can be sent at once; otherwise it expires by itself.
    fn drop(&mut self) {
        if let (Some(connection), Some(session)) = (&mut self.connection, self.protocol.session()) {
            let op = Op::Close { session }.encode();
            let soon = Instant::now() + Duration::from_millis(20);
            let _best_effort = connection.send_only(&Request::Propose { op }, soon);
        }
    }
}

#[cfg(test)]
mod tests;
