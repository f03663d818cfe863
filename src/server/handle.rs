//! Asking a node from inside its own process, and stopping it.

use crate::api::{Consistency, Op, Outcome, Refusal, Reply, Request};
use crate::client::{ClientError, Executed, Queried, Tried};
use crate::net::inbox::{Letter, Post};
use crate::types::{Position, SessionId};
use bytes::Bytes;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A way to a node in the same process, for any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    post: Post,
}

/// A session through a handle: each command takes effect once, whatever breaks in between.
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

    /// Asks, and waits for the answer; nothing if the node stopped before it had one. A follower
    /// passes on what concerns the leader.
    pub fn ask(&self, request: Request, timeout: Duration) -> Option<Reply> {
        let (answer, answered) = channel();
        self.post.post(Letter::Ask { request, answer }).then_some(())?;
        answered.recv_timeout(timeout).ok()
    }

    /// Asks the machine something.
    pub fn query(&self, query: &[u8], consistency: Consistency, timeout: Duration) -> Result<Queried, ClientError> {
        let request = Request::Query { query: Bytes::copy_from_slice(query), consistency };
        let begun = Instant::now();
        let mut refusal = None;
        while begun.elapsed() < timeout {
            match self.ask(request.clone(), timeout.saturating_sub(begun.elapsed())) {
                Some(Reply::Answer { applied, answer }) => return Ok(Queried { applied, answer }),
                Some(Reply::Refused(why)) => refusal = Some(why),
                Some(Reply::Unknown) => {}
                Some(Reply::Done { .. } | Reply::Status(_)) | None => break,
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(ClientError::Refused(Tried { took: begun.elapsed(), refusal, ..Tried::default() }))
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
        let deadline = Instant::now() + self.timeout;
        let session = match self.id {
            Some(id) => id,
            None => match self.put(Op::Open { window: 1 }, deadline)?.1 {
                Outcome::Opened { session } => *self.id.insert(session),
                other => return Err(ClientError::Strange(Box::new(other))),
            },
        };
        let seq = self.next;
        self.next += 1;
        let op = Op::Execute { session, seq, lowest: seq, command: Bytes::copy_from_slice(command) };
        match self.put(op, deadline)? {
            (position, Outcome::Executed { answer, duplicate }) => Ok(Executed { position, answer, duplicate }),
            (_, Outcome::Lapsed) => {
                self.id = None;
                Err(ClientError::Lapsed)
            }
            (_, other) => Err(ClientError::Strange(Box::new(other))),
        }
    }

    /// Puts an operation through the log: asks until it is known what came of it, or time is up.
    fn put(&self, op: Op, deadline: Instant) -> Result<(Position, Outcome), ClientError> {
        let request = Request::Propose { op: op.encode() };
        let mut tried = Tried::default();
        let mut uncertain = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(if uncertain { ClientError::Unknown(tried) } else { ClientError::Refused(tried) });
            }
            match self.handle.ask(request.clone(), left) {
                Some(Reply::Done { position, outcome }) => return Ok((position, outcome)),
                Some(Reply::Refused(refusal @ (Refusal::TooLarge { .. } | Refusal::Malformed))) => {
                    return Err(ClientError::Never(refusal));
                }
                Some(Reply::Refused(refusal)) => tried.refusal = Some(refusal),
                Some(Reply::Unknown) => uncertain = true,
                // No answer: the node stopped, or time is up.
                Some(Reply::Answer { .. } | Reply::Status(_)) | None => {
                    return Err(ClientError::Unknown(tried));
                }
            }
            std::thread::sleep(Duration::from_millis(5).min(left));
        }
    }
}
