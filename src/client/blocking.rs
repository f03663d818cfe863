//! A blocking client: session, redirect, retry.
//!
//! Where a request is sent and what an answer means is [`CallProtocol`]'s; here are its socket and its sleep.

use super::call_protocol::{CallProtocol, Options, Step, nothing_applied};
use super::clock::Clock;
use super::connection::{Connection, deadline};
use super::error::{ClientError, Tried};
use crate::api::{Consistency, LogLevelInForce, LogLevelRequest, Op, Outcome, Refusal, Reply, Request, Status};
use crate::types::{Change, Index, NodeId, Position, Time};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A command that took effect, once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Where in the log the entry is that brought this answer.
    pub position: Position,
    /// The machine's first answer.
    pub answer: Bytes,
    /// Whether an earlier attempt of ours had already taken effect.
    pub duplicate: bool,
}

/// The answer to a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queried {
    /// The machine had applied everything up to here.
    pub applied: Index,
    /// What it says.
    pub answer: Bytes,
}

/// A blocking client of a cluster, with one thing under way at a time.
///
/// Writes go through a session, opened with the first of them. A write is asked again under the same
/// number until it is known what came of it, or until time is up: it never takes effect twice.
pub struct Client {
    protocol: CallProtocol,
    clock: Clock,
    /// To the node that answered last.
    connection: Option<Connection>,
    /// The number of the request that is waited for.
    waits_for: u64,
}

impl Client {
    /// A client of the cluster that answers at those `host:port`s. Dials nobody yet.
    pub fn connect<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Client {
        Client::with(endpoints, Options::default())
    }

    /// The same, with another patience.
    pub fn with<E: Into<String>>(endpoints: impl IntoIterator<Item = E>, options: Options) -> Client {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let clock = Clock::start();
        let protocol = CallProtocol::new(endpoints, options, clock.now(), rand::random());
        Client { protocol, clock, connection: None, waits_for: 0 }
    }

    /// The endpoints it was given.
    pub fn endpoints(&self) -> &[String] {
        self.protocol.known().given()
    }

    /// How patient it is, and with which keys it dials.
    pub(super) fn options(&self) -> &Options {
        self.protocol.options()
    }

    /// Executes a command, once.
    pub fn execute(&mut self, command: &[u8]) -> Result<Executed, ClientError> {
        self.protocol.execute(self.clock.now(), Bytes::copy_from_slice(command));
        match self.finish()? {
            Reply::Done { position, outcome: Outcome::Executed { answer, duplicate } } => {
                Ok(Executed { position, answer, duplicate })
            }
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Asks the machine something.
    pub fn query(&mut self, query: &[u8], consistency: Consistency) -> Result<Queried, ClientError> {
        let query = Bytes::copy_from_slice(query);
        match self.ask(Request::Query { query, consistency }).map_err(nothing_applied)? {
            Reply::Answer { applied, answer } => Ok(Queried { applied, answer }),
            Reply::Done { position, outcome: Outcome::AnswerTooLong } => Err(ClientError::AnswerTooLong { position }),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// How that node is: this one only, and once.
    pub fn status(&self, endpoint: &str) -> Result<Status, ClientError> {
        match self.ask_one(endpoint, &Request::Status)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Lets one node take a snapshot, and waits until it is durable: the position it stands for, and how
    /// many bytes it has.
    pub fn snapshot(&self, endpoint: &str) -> Result<(Position, u64), ClientError> {
        match self.ask_one(endpoint, &Request::Snapshot)? {
            Reply::Snapshot { position, bytes } => Ok((position, bytes)),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Reads or changes the level of one node's log; the level that holds then.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotOffered`] if the process that runs the node lets nobody change its log.
    pub fn log_level(&self, endpoint: &str, request: LogLevelRequest) -> Result<LogLevelInForce, ClientError> {
        match self.ask_one(endpoint, &Request::LogLevel(request))? {
            Reply::LogLevel(level) => Ok(level),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Changes the members of the cluster; the configuration that holds then. One that is under way is waited for.
    pub fn change(&mut self, change: &Change, force: bool) -> Result<Position, ClientError> {
        let request = Request::Change { change: change.clone(), force };
        // One that is to end what is under way need not wait until reads are answered.
        let reply = if *change == Change::Abort {
            self.ask(request)
        } else {
            self.find_leader()?;
            self.protocol.ask_next(self.clock.now(), request);
            self.finish()
        };
        let reply = reply.map_err(|error| match error {
            // It may be our own earlier attempt that leaves nothing to do.
            ClientError::Never(refusal @ Refusal::InvalidChange { .. }) if self.protocol.is_uncertain() => {
                self.protocol.give_up_for(self.clock.now(), refusal)
            }
            error => error,
        });
        match reply? {
            Reply::Changed { position } => Ok(position),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Waits until somebody leads. While nobody does, a node keeps what it is asked until somebody might: who gives up
    /// then does not know whether it was done, and nothing was.
    fn find_leader(&mut self) -> Result<(), ClientError> {
        let nothing = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        self.ask(nothing).map(|_| ()).map_err(nothing_applied)
    }

    /// Lets that node lead, or whoever is best placed; who does then.
    pub fn transfer(&mut self, to: Option<NodeId>) -> Result<NodeId, ClientError> {
        match self.ask(Request::Transfer { to }).map_err(nothing_applied)? {
            Reply::Transferred { to } => Ok(to),
            _ => Err(ClientError::Strange(Box::new(Outcome::Malformed))),
        }
    }

    /// Asks that node and no other, once, what changes nothing that is replicated.
    fn ask_one(&self, endpoint: &str, request: &Request) -> Result<Reply, ClientError> {
        let options = self.protocol.options();
        let (begun, until) = (Instant::now(), deadline(options.timeout));
        let mut tried = Tried { endpoints: vec![endpoint.to_owned()], ..Tried::default() };
        let by_then = until.min(deadline(options.patience));
        let dialled = Connection::dial_operator(endpoint, options.keys.as_ref(), by_then);
        match dialled.and_then(|mut connection| connection.call(request, until)) {
            Ok(Reply::Refused(refusal)) => tried.refusal = Some(refusal),
            Ok(reply) => return Ok(reply),
            Err(trouble) => tried.trouble = Some(format!("{endpoint}: {trouble}")),
        }
        tried.took = begun.elapsed();
        Err(ClientError::Refused(tried))
    }

    /// Asks until somebody answers, or time is up.
    fn ask(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.protocol.ask(self.clock.now(), request);
        self.finish()
    }

    /// Does what the protocol says until the call is over.
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

    /// Does what concerns the connection there is.
    fn converse(&mut self, step: Step) {
        let Some(connection) = &mut self.connection else {
            return self.protocol.lost(self.clock.now(), "the connection is gone");
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

    /// Asks another node, over a connection of its own.
    fn consult(&self, endpoint: &str, request: &Request, until: Time) -> Option<(Option<NodeId>, Reply)> {
        let until = self.clock.instant(until);
        let mut connection = Connection::dial(endpoint, self.protocol.options().keys.as_ref(), until).ok()?;
        let reply = connection.call(request, until).ok()?;
        Some((connection.node(), reply))
    }
}

impl Drop for Client {
    /// Closes the session, if that can be said at once; else it lapses by itself.
    fn drop(&mut self) {
        if let (Some(connection), Some(session)) = (&mut self.connection, self.protocol.session()) {
            let op = Op::Close { session }.encode();
            let soon = Instant::now() + Duration::from_millis(20);
            let _best_effort = connection.tell(&Request::Propose { op }, soon);
        }
    }
}

#[cfg(test)]
mod tests;
