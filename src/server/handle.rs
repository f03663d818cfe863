//! Asking a node from inside its own process, and stopping it.

use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request};
use crate::client::{ClientError, Executed, Queried, Tried, deadline};
use crate::net::inbox::{Letter, Post};
use crate::net::leadership::Leadership;
use crate::types::{Position, SessionId};
use bytes::Bytes;
use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A session that is dropped is closed within that time, or lapses by itself.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A way to a node in the same process, for any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    post: Post,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Silence {
    /// The node has stopped.
    Stopped,
    /// Not in time.
    Late,
}

/// A session through a handle: each command takes effect once, whatever breaks in between. It is closed when it is
/// dropped, without waiting for that.
#[derive(Debug)]
pub struct Session {
    handle: Handle,
    id: Option<SessionId>,
    next: u64,
    timeout: Duration,
}

impl Handle {
    pub(super) fn new(post: Post) -> Handle {
        Handle { post }
    }

    /// Who leads, as this node saw it at its last turn; nobody once it has stopped. Asks nobody.
    pub fn leadership(&self) -> Leadership {
        self.post.board().read()
    }

    /// Waits until who leads is another than is `known`, or for that long; who leads then.
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

    /// Asks, and waits for the answer; nothing if the node stopped before it had one. A follower
    /// passes on what concerns the leader.
    pub fn ask(&self, request: Request, timeout: Duration) -> Option<Reply> {
        self.try_ask(request, timeout).ok()
    }

    fn try_ask(&self, request: Request, timeout: Duration) -> Result<Reply, Silence> {
        let (answer, answered) = channel();
        let until = deadline(timeout);
        if !self.post.post(Letter::Ask { request, answer, until }) {
            return Err(Silence::Stopped);
        }
        answered.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Disconnected => Silence::Stopped,
            RecvTimeoutError::Timeout => Silence::Late,
        })
    }

    /// Asks the machine something.
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
                    tried.trouble = Some(silence.to_string());
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(ClientError::Refused(Tried { took: begun.elapsed(), ..tried }))
    }

    /// A session, opened with its first command. Each call may last that long.
    pub fn session(&self, timeout: Duration) -> Session {
        Session { handle: self.clone(), id: None, next: 1, timeout }
    }

    /// Tells the node to take no new work, finish what is under way, and stop.
    pub fn stop(&self) {
        // If it is gone already, it has stopped.
        let _there_or_gone = self.post.post(Letter::Stop);
    }
}

impl Session {
    /// Executes a command, once.
    pub fn execute(&mut self, command: &[u8]) -> Result<Executed, ClientError> {
        let deadline = deadline(self.timeout);
        let session = match self.id {
            Some(id) => id,
            None => match self.put(Op::Open { window: 1, ordered: false }, deadline)?.1 {
                Outcome::Opened { session } => *self.id.insert(session),
                other => return Err(ClientError::Strange(Box::new(other))),
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
            (_, other) => Err(ClientError::Strange(Box::new(other))),
        }
    }

    /// Puts an operation through the log: asks until it is known what came of it, or time is up.
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
                    return Err(ClientError::Never(refusal));
                }
                Ok(Reply::Refused(refusal)) => tried.refusal = Some(refusal),
                Ok(Reply::Unknown) => uncertain = true,
                Ok(_) => return Err(ClientError::Unknown(tried)),
                Err(silence) => {
                    (tried.took, tried.refusal) = (begun.elapsed(), None);
                    tried.trouble = Some(silence.to_string());
                    return Err(ClientError::Unknown(tried));
                }
            }
            std::thread::sleep(Duration::from_millis(5).min(left));
        }
    }
}

impl Drop for Session {
    /// Closes the session, if the node still runs; else it lapses by itself.
    fn drop(&mut self) {
        let Some(session) = self.id else { return };
        let request = Request::Propose { op: Op::Close { session }.encode() };
        // Nobody waits for the answer. A follower passes it on.
        let (answer, _nobody) = channel();
        let _best_effort = self.handle.post.post(Letter::Ask { request, answer, until: deadline(CLOSE_WITHIN) });
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Silence::Stopped => "the node has stopped",
            Silence::Late => "the node did not answer in time",
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{Consistency, Op, Refusal, Reply, Request};
    use crate::config::Config;
    use crate::machine::Kv;
    use crate::net::inbox::Letter;
    use crate::server::Server;
    use crate::types::NodeId;
    use bytes::Bytes;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    /// One of two nodes, alone: whatever concerns the leader waits for a quarter of an hour.
    fn lonely(directory: &std::path::Path) -> Server<Kv> {
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
    fn a_node_that_stops_takes_no_new_work_and_waits_for_nobody_who_gave_up() {
        let directory = tempfile::tempdir().unwrap();
        let server = lonely(directory.path());
        let handle = server.handle();
        let node = std::thread::spawn(move || server.run());
        let write = Request::Propose { op: Op::Open { window: 1, ordered: false }.encode() };
        // Gives up long before it could be answered.
        assert_eq!(handle.ask(write.clone(), Duration::from_millis(1)), None);
        // Asked before it is told to stop, and waits for a while.
        let (answer, answered) = channel();
        handle.post.post(Letter::Ask { request: write, answer, until: Instant::now() + Duration::from_secs(10) });
        let status = || handle.ask(Request::Status, Duration::from_secs(20));
        assert!(matches!(status(), Some(Reply::Status(_))));
        handle.stop();
        let query = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        // It is there for as long as somebody waits, and refuses.
        let refused = handle.ask(query, Duration::from_secs(20));
        assert_eq!(refused, Some(Reply::Refused(Refusal::Stopping)));
        assert!(answered.recv().is_err(), "it was not answered, and in the end nobody would answer it");
        let begun = Instant::now();
        while !node.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it waits for whom nobody knows");
            std::thread::sleep(Duration::from_millis(1));
        }
        node.join().unwrap().unwrap();
    }
}
