//! The protocol of a leader query, without its socket: a client asks a second node which node leads.
//!
//! The request is an empty read: a follower names its leader at once, a node without a leader answers when there is
//! one, and the leader itself answers without an entry in the log.

use crate::api::{Consistency, Refusal, Reply, Request};
use crate::types::{NodeId, Time};
use crate::wire::WireError;
use crate::wire::client::{STATUS_UPDATE_ID, put_request_frame, read_reply_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{Hello, Welcome};
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// The first pause after a reply that names as the leader the node that this client finds silent. The pause doubles
/// with each such reply.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause before the query is sent again.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(400);

/// The state of a leader query after the bytes received so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaderQueryResult {
    /// No reply yet.
    Pending,
    /// The id of the leader, and its address.
    Leader(NodeId, String),
    /// The node refused the query without naming a leader. The connection is of no further use.
    NoLeaderNamed,
}

/// The state of a connection over which the client asks a second node for the leader, without the socket.
#[derive(Debug)]
pub struct LeaderQueryProtocol {
    endpoint: String,
    /// The id of the node at the other end; `None` before its welcome.
    node: Option<NodeId>,
    output: BytesMut,
    input: BytesMut,
    reader: FrameReader,
    /// The time after which this client gives up on a node that has sent no welcome.
    welcome_deadline: Time,
    /// When to send the query again, after a reply that named as the leader the node that this client finds silent.
    retry_at: Option<Time>,
    /// The pause before the next query if the node names the silent node again.
    retry_pause: Duration,
}

impl LeaderQueryProtocol {
    /// A new connection to that endpoint; the node must send its welcome by `welcome_deadline`.
    pub fn new(endpoint: String, welcome_deadline: Time) -> LeaderQueryProtocol {
        let mut output = BytesMut::new();
        Hello::client().put(&mut output);
        let (input, reader) = (BytesMut::new(), FrameReader::default());
        LeaderQueryProtocol {
            endpoint,
            node: None,
            output,
            input,
            reader,
            welcome_deadline,
            retry_at: None,
            retry_pause: FIRST_RETRY_PAUSE,
        }
    }

    /// When [`LeaderQueryProtocol::handle_timeout`] is due.
    pub fn deadline(&self) -> Option<Time> {
        if self.node.is_none() { Some(self.welcome_deadline) } else { self.retry_at }
    }

    /// Schedules another query. Called if the node named as the leader the node that this client finds silent.
    pub fn schedule_retry(&mut self, now: Time) {
        self.retry_at = Some(now + self.retry_pause);
        self.retry_pause = (self.retry_pause * 2).min(RETRY_PAUSE_MAX);
    }

    /// Sends the next query, if it is due.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.retry_at.is_some_and(|retry_at| retry_at <= now) {
            self.retry_at = None;
            self.put_query();
        }
    }

    /// Whether the node has failed to welcome the client in time.
    pub fn is_overdue(&self, now: Time) -> bool {
        self.node.is_none() && self.welcome_deadline <= now
    }

    /// The bytes that the driver should send to the node.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    fn put_query(&mut self) {
        let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        put_request_frame(&mut self.output, 0, false, &request);
    }

    /// Handles bytes received from the node, and returns the state of the query after them.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<LeaderQueryResult, WireError> {
        self.input.extend_from_slice(bytes);
        while let Some(frame) = self.reader.next(&mut self.input)? {
            let Some(node) = self.node else {
                self.node = Some(Welcome::read(frame)?.node);
                self.put_query();
                continue;
            };
            let (id, reply) = read_reply_frame(frame)?;
            if id == STATUS_UPDATE_ID {
                continue;
            }
            return Ok(match reply {
                Reply::Refused(Refusal::NotLeader { leader: Some(leader), address: Some(address), .. }) => {
                    LeaderQueryResult::Leader(leader, address)
                }
                Reply::Answer { .. } => LeaderQueryResult::Leader(node, self.endpoint.clone()),
                _ => LeaderQueryResult::NoLeaderNamed,
            });
        }
        Ok(LeaderQueryResult::Pending)
    }
}
