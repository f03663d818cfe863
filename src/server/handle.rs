//! Requests to a node from inside its own process, and its shutdown.

use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request};
use crate::client::{ClientError, Executed, Queried, Tried, deadline};
use crate::driver::inbox::{InboxSender, LoopMessage};
use crate::driver::leadership::Leadership;
use crate::types::{Position, SessionId};
use bytes::Bytes;
use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The time limit for closing a dropped session; after that it expires by itself.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A handle to a node in the same process, for any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    post: InboxSender,
}

/// The reason why there is no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NoReply {
    /// The node has stopped.
    Stopped,
    /// The timeout has passed.
    Late,
}

/// A session through a handle: each command takes effect once, whatever fails in between. Dropping it closes it,
/// without waiting.
#[derive(Debug)]
pub struct Session {
    handle: Handle,
    id: Option<SessionId>,
    next: u64,
    timeout: Duration,
}

impl Handle {
    pub(super) fn new(post: InboxSender) -> Handle {
        Handle { post }
    }

    /// The leader, as of this node's last loop iteration; none once the node has stopped. Sends no request.
    pub fn leadership(&self) -> Leadership {
        self.post.board().read()
    }

    /// Waits until the leadership differs from `known`, or for that long; returns it.
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
        self.post.board().wait(known, timeout)
    }

    /// Sends a request and waits for its reply; `None` if the node stopped first, or after the timeout. A follower
    /// forwards requests for the leader.
    pub fn ask(&self, request: Request, timeout: Duration) -> Option<Reply> {
        self.try_ask(request, timeout).ok()
    }

    fn try_ask(&self, request: Request, timeout: Duration) -> Result<Reply, NoReply> {
        let (answer, answered) = channel();
        let until = deadline(timeout);
        if !self.post.post(LoopMessage::Request { request, answer, until }) {
            return Err(NoReply::Stopped);
        }
        answered.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Disconnected => NoReply::Stopped,
            RecvTimeoutError::Timeout => NoReply::Late,
        })
    }

    /// Sends a query to the machine.
    pub fn query(&self, query: &[u8], consistency: Consistency, timeout: Duration) -> Result<Queried, ClientError> {
        let request = Request::Query { query: Bytes::copy_from_slice(query), consistency };
        let begun = Instant::now();
        let mut tried = Tried::default();
        while begun.elapsed() < timeout {
            match self.try_ask(request.clone(), timeout.saturating_sub(begun.elapsed())) {
                Ok(Reply::Answer { applied, answer }) => return Ok(Queried { applied, answer }),
                Ok(Reply::Done { position, outcome: Outcome::AnswerTooLong }) => {
                    return Err(ClientError::AnswerTooLong { position });
                }
                Ok(Reply::Refused(why)) => tried.refusal = Some(why),
                Ok(Reply::Unknown) => {}
                Ok(_) => break,
                Err(silence) => {
                    tried.refusal = None;
                    tried.last_error = Some(silence.to_string());
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(ClientError::Refused(Tried { took: begun.elapsed(), ..tried }))
    }

    /// A session, which its first command opens. Each call has that timeout.
    pub fn session(&self, timeout: Duration) -> Session {
        Session { handle: self.clone(), id: None, next: 1, timeout }
    }

    /// Tells the node to accept no new requests, finish those in progress, and stop.
    pub fn stop(&self) {
        // If it is gone, it has stopped.
        let _there_or_gone = self.post.post(LoopMessage::Stop);
    }
}

impl Session {
    /// Executes a command exactly once.
    pub fn execute(&mut self, command: &[u8]) -> Result<Executed, ClientError> {
        let deadline = deadline(self.timeout);
        let session = match self.id {
            Some(id) => id,
            None => match self.put(Op::Open { window: 1, ordered: false }, deadline)?.1 {
                Outcome::Opened { session } => *self.id.insert(session),
                other => return Err(ClientError::UnexpectedReply(Box::new(other))),
            },
        };
        let seq = self.next;
        self.next += 1;
        let op = Op::Execute { session, seq, first_outstanding: seq, command: Bytes::copy_from_slice(command) };
        match self.put(op, deadline)? {
            (position, Outcome::Executed { answer, duplicate }) => Ok(Executed { position, answer, duplicate }),
            (position, Outcome::AnswerTooLong) => Err(ClientError::AnswerTooLong { position }),
            (_, Outcome::SessionExpired) => {
                self.id = None;
                Err(ClientError::SessionExpired)
            }
            (_, other) => Err(ClientError::UnexpectedReply(Box::new(other))),
        }
    }

    /// Commits an operation: retries until its outcome is known or the deadline has passed.
    fn put(&self, op: Op, deadline: Instant) -> Result<(Position, Outcome), ClientError> {
        let request = Request::Propose { op: op.encode() };
        let begun = Instant::now();
        let mut tried = Tried::default();
        let mut uncertain = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            tried.took = begun.elapsed();
            if left.is_zero() {
                return Err(if uncertain { ClientError::Unknown(tried) } else { ClientError::Refused(tried) });
            }
            match self.handle.try_ask(request.clone(), left) {
                Ok(Reply::Done { position, outcome }) => return Ok((position, outcome)),
                Ok(Reply::Refused(refusal @ (Refusal::TooLarge { .. } | Refusal::Malformed))) => {
                    return Err(ClientError::Rejected(refusal));
                }
                Ok(Reply::Refused(refusal)) => tried.refusal = Some(refusal),
                Ok(Reply::Unknown) => uncertain = true,
                Ok(_) => return Err(ClientError::Unknown(tried)),
                Err(silence) => {
                    (tried.took, tried.refusal) = (begun.elapsed(), None);
                    tried.last_error = Some(silence.to_string());
                    return Err(ClientError::Unknown(tried));
                }
            }
            std::thread::sleep(Duration::from_millis(5).min(left));
        }
    }
}

impl Drop for Session {
    /// Closes the session if the node still runs; else it expires by itself.
    fn drop(&mut self) {
        let Some(session) = self.id else { return };
        let request = Request::Propose { op: Op::Close { session }.encode() };
        // Nothing waits for the reply. A follower forwards the request.
        let (answer, _nobody) = channel();
        let _best_effort =
            self.handle.post.post(LoopMessage::Request { request, answer, until: deadline(CLOSE_WITHIN) });
    }
}

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoReply::Stopped => "the node has stopped",
            NoReply::Late => "the node did not answer in time",
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

    /// One of two nodes, alone: a request for the leader waits for a quarter of an hour.
    fn one_of_two(directory: &std::path::Path) -> Server<Kv> {
        let peers = [(1, "127.0.0.1:1"), (2, "127.0.0.1:2")];
        let peers = peers.map(|(n, address)| (NodeId::new(n).unwrap(), address.to_owned()));
        let mut config = Config::new(NodeId::new(1).unwrap(), peers.into(), directory);
        config.listen = Some("127.0.0.1:0".into());
        config.node.parked_for = Duration::from_secs(900);
        config.reactor.grace = Duration::from_secs(900);
        config.segment_bytes = crate::config::SEGMENT_BYTES_MIN;
        Server::open(config, Kv::new()).unwrap()
    }

    #[test]
    fn stopping_node_rejects_requests_and_drops_expired_ones() {
        let directory = tempfile::tempdir().unwrap();
        let server = one_of_two(directory.path());
        let handle = server.handle();
        let node = std::thread::spawn(move || server.run());
        let write = Request::Propose { op: Op::Open { window: 1, ordered: false }.encode() };
        // The timeout passes long before any reply.
        assert_eq!(handle.ask(write.clone(), Duration::from_millis(1)), None);
        // Sent before the stop, and waits for a while.
        let (answer, answered) = channel();
        handle.post.post(LoopMessage::Request {
            request: write,
            answer,
            until: Instant::now() + Duration::from_secs(10),
        });
        let status = || handle.ask(Request::Status, Duration::from_secs(20));
        assert!(matches!(status(), Some(Reply::Status(_))));
        handle.stop();
        let query = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        // The node runs as long as a caller waits, and rejects new requests.
        let refused = handle.ask(query, Duration::from_secs(20));
        assert_eq!(refused, Some(Reply::Refused(Refusal::Stopping)));
        assert!(answered.recv().is_err(), "the request ends without a reply");
        let begun = Instant::now();
        while !node.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the node still waits, without any caller");
            std::thread::sleep(Duration::from_millis(1));
        }
        node.join().unwrap().unwrap();
    }
}
