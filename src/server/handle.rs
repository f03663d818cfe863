//! Requests to a node from inside its own process, and its shutdown.

use crate::api::{Consistency, Op, Outcome, Reply, Request};
use crate::client::{ClientError, CommandResult, FailedAttempts, QueryResult, deadline};
use crate::driver::inbox::{InboxSender, LoopMessage};
use crate::driver::leadership::Leadership;
use crate::types::{Position, SessionId};
use bytes::Bytes;
use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The time limit for closing a dropped session. A session that is not closed by then expires later.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A handle to a node in the same process, for any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: InboxSender,
}

/// The reason why a request got no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NoReply {
    /// The node stopped before it replied.
    Stopped,
    /// The timeout passed before the node replied.
    TimedOut,
}

/// A client session of a program that embeds the node: each command takes effect once, even if nodes or connections
/// fail and it is retried. The session is closed when it is dropped, without waiting.
#[derive(Debug)]
pub struct Session {
    handle: Handle,
    id: Option<SessionId>,
    next_seq: u64,
    timeout: Duration,
}

impl Handle {
    pub(super) fn new(inbox: InboxSender) -> Handle {
        Handle { inbox }
    }

    /// The leader, as of the last iteration of this node's event loop; none once the node has stopped. No request is
    /// sent.
    pub fn leadership(&self) -> Leadership {
        self.inbox.leadership_cell().read()
    }

    /// Waits until the leadership differs from `known`, at most for `timeout`. Returns the current leadership.
    ///
    /// ```no_run
    /// # use drave::server::Handle;
    /// # use std::time::Duration;
    /// # fn follow(handle: &Handle) {
    /// let mut known = handle.leadership();
    /// loop {
    ///     known = handle.wait_for_leadership(&known, Duration::from_secs(60));
    ///     println!("term {}: leads: {}", known.term, known.leads);
    /// }
    /// # }
    /// ```
    pub fn wait_for_leadership(&self, known: &Leadership, timeout: Duration) -> Leadership {
        self.inbox.leadership_cell().wait(known, timeout)
    }

    /// Sends a request and waits for its reply; `None` if the node stopped first, or after the timeout. A follower
    /// forwards requests for the leader.
    pub fn ask(&self, request: Request, timeout: Duration) -> Option<Reply> {
        self.try_ask(request, timeout).ok()
    }

    fn try_ask(&self, request: Request, timeout: Duration) -> Result<Reply, NoReply> {
        let (answer, answered) = channel();
        let deadline = deadline(timeout);
        if !self.inbox.send(LoopMessage::Request { request, answer, deadline }) {
            return Err(NoReply::Stopped);
        }
        answered.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Disconnected => NoReply::Stopped,
            RecvTimeoutError::Timeout => NoReply::TimedOut,
        })
    }

    /// Queries the state machine, and retries after a refusal until the timeout.
    pub fn query(&self, query: &[u8], consistency: Consistency, timeout: Duration) -> Result<QueryResult, ClientError> {
        let request = Request::Query { query: Bytes::copy_from_slice(query), consistency };
        let started_at = Instant::now();
        let mut attempts = FailedAttempts::default();
        while started_at.elapsed() < timeout {
            match self.try_ask(request.clone(), timeout.saturating_sub(started_at.elapsed())) {
                Ok(Reply::Answer { applied, answer }) => return Ok(QueryResult { applied, answer }),
                Ok(Reply::Done { position, outcome: Outcome::AnswerTooLong }) => {
                    return Err(ClientError::AnswerTooLong { position });
                }
                Ok(Reply::Refused(why)) => attempts.refusal = Some(why),
                Ok(Reply::Unknown) => {}
                Ok(_) => break,
                Err(no_reply) => {
                    attempts.refusal = None;
                    attempts.last_error = Some(no_reply.to_string());
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(ClientError::Refused(FailedAttempts { duration: started_at.elapsed(), ..attempts }))
    }

    /// Creates a session, which its first command opens. Each call of the session has the timeout `timeout`.
    pub fn session(&self, timeout: Duration) -> Session {
        Session { handle: self.clone(), id: None, next_seq: 1, timeout }
    }

    /// Tells the node to accept no new requests, finish those in progress, and stop.
    pub fn stop(&self) {
        // If the event loop has ended, the node has stopped already.
        let _loop_may_have_ended = self.inbox.send(LoopMessage::Stop);
    }
}

impl Session {
    /// Executes a command exactly once, and returns the state machine's answer.
    pub fn execute(&mut self, command: &[u8]) -> Result<CommandResult, ClientError> {
        let deadline = deadline(self.timeout);
        let session = match self.id {
            Some(id) => id,
            None => match self.commit_op(Op::Open { window: 1, ordered: false }, deadline)?.1 {
                Outcome::Opened { session } => *self.id.insert(session),
                other => return Err(ClientError::UnexpectedReply(Box::new(other))),
            },
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        let op = Op::Execute { session, seq, first_outstanding: seq, command: Bytes::copy_from_slice(command) };
        match self.commit_op(op, deadline)? {
            (position, Outcome::Executed { answer, duplicate }) => Ok(CommandResult { position, answer, duplicate }),
            (position, Outcome::AnswerTooLong) => Err(ClientError::AnswerTooLong { position }),
            (_, Outcome::SessionExpired) => {
                self.id = None;
                Err(ClientError::SessionExpired)
            }
            (_, other) => Err(ClientError::UnexpectedReply(Box::new(other))),
        }
    }

    /// Commits an operation: retries until its outcome is known or the deadline has passed.
    fn commit_op(&self, op: Op, deadline: Instant) -> Result<(Position, Outcome), ClientError> {
        let request = Request::Propose { op: op.encode() };
        let started_at = Instant::now();
        let mut attempts = FailedAttempts::default();
        let mut maybe_executed = false;
        loop {
            let time_left = deadline.saturating_duration_since(Instant::now());
            attempts.duration = started_at.elapsed();
            if time_left.is_zero() {
                return Err(if maybe_executed {
                    ClientError::Unknown(attempts)
                } else {
                    ClientError::Refused(attempts)
                });
            }
            match self.handle.try_ask(request.clone(), time_left) {
                Ok(Reply::Done { position, outcome }) => return Ok((position, outcome)),
                // An earlier attempt may have been accepted by a later leader.
                Ok(Reply::Refused(refusal)) if refusal.rejects_command() => {
                    attempts.refusal = Some(refusal.clone());
                    return Err(if maybe_executed {
                        ClientError::Unknown(attempts)
                    } else {
                        ClientError::Rejected(refusal)
                    });
                }
                Ok(Reply::Refused(refusal)) => attempts.refusal = Some(refusal),
                Ok(Reply::Unknown) => maybe_executed = true,
                Ok(_) => return Err(ClientError::Unknown(attempts)),
                Err(no_reply) => {
                    (attempts.duration, attempts.refusal) = (started_at.elapsed(), None);
                    attempts.last_error = Some(no_reply.to_string());
                    return Err(ClientError::Unknown(attempts));
                }
            }
            std::thread::sleep(Duration::from_millis(5).min(time_left));
        }
    }
}

impl Drop for Session {
    /// Closes the session if the node still runs; otherwise the session expires.
    fn drop(&mut self) {
        let Some(session) = self.id else { return };
        let request = Request::Propose { op: Op::Close { session }.encode() };
        // The reply is not awaited. A follower forwards the request to the leader.
        let (answer, _unread) = channel();
        let _loop_may_have_ended =
            self.handle.inbox.send(LoopMessage::Request { request, answer, deadline: deadline(CLOSE_TIMEOUT) });
    }
}

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoReply::Stopped => "the node has stopped",
            NoReply::TimedOut => "the node did not answer in time",
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{Consistency, Op, Refusal, Reply, Request};
    use crate::config::Config;
    use crate::driver::inbox::LoopMessage;
    use crate::machine::Kv;
    use crate::server::Server;
    use crate::types::NodeId;
    use bytes::Bytes;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    /// Starts one of two nodes, without the other: a request for the leader waits for a quarter of an hour.
    fn start_one_of_two_nodes(directory: &std::path::Path) -> Server<Kv> {
        let peers = [(1, "127.0.0.1:1"), (2, "127.0.0.1:2")];
        let peers = peers.map(|(n, address)| (NodeId::new(n).unwrap(), address.to_owned()));
        let mut config = Config::new(NodeId::new(1).unwrap(), peers.into(), directory);
        config.listen = Some("127.0.0.1:0".into());
        config.node.park_timeout = Duration::from_secs(900);
        config.reactor.stop_grace_period = Duration::from_secs(900);
        config.segment_bytes = crate::config::SEGMENT_BYTES_MIN;
        Server::open(config, Kv::new()).unwrap()
    }

    #[test]
    fn stopping_node_rejects_requests_and_drops_expired_ones() {
        let directory = tempfile::tempdir().unwrap();
        let server = start_one_of_two_nodes(directory.path());
        let handle = server.handle();
        let server_thread = std::thread::spawn(move || server.run());
        let write = Request::Propose { op: Op::Open { window: 1, ordered: false }.encode() };
        // The timeout passes long before any reply.
        assert_eq!(handle.ask(write.clone(), Duration::from_millis(1)), None);
        // This request is sent before the stop, and its sender waits for ten seconds.
        let (answer, answered) = channel();
        handle.inbox.send(LoopMessage::Request {
            request: write,
            answer,
            deadline: Instant::now() + Duration::from_secs(10),
        });
        let status = || handle.ask(Request::Status, Duration::from_secs(20));
        assert!(matches!(status(), Some(Reply::Status(_))));
        handle.stop();
        let query = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        // The node runs as long as a caller waits, and rejects new requests.
        let reply = handle.ask(query, Duration::from_secs(20));
        assert_eq!(reply, Some(Reply::Refused(Refusal::Stopping)));
        assert!(answered.recv().is_err(), "the request ends without a reply");
        let started_at = Instant::now();
        while !server_thread.is_finished() {
            assert!(started_at.elapsed() < Duration::from_secs(60), "the node still waits, without any caller");
            std::thread::sleep(Duration::from_millis(1));
        }
        server_thread.join().unwrap().unwrap();
    }
}
