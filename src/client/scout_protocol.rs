//! The protocol of a leader query, without its socket: a client asks a second node for the leader.
//!
//! The request is an empty read: a follower names its leader at once, a node without a leader answers when there is
//! one, and the leader itself answers without an entry in the log.

use crate::api::{Consistency, Refusal, Reply, Request};
use crate::types::{NodeId, Time};
use crate::wire::WireError;
use crate::wire::client::{NEWS, put_request_frame, read_reply_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{Hello, Welcome};
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// The pause after a reply that names the same leader as before; it doubles each time.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// The longest pause between two requests.
const AGAIN_MAX: Duration = Duration::from_millis(400);

/// What a node replied when it was asked for the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaderAnswer {
    /// No reply yet.
    Pending,
    /// That node is the leader, at that address.
    Leader(NodeId, String),
    /// A refusal that names no leader: the connection is of no use.
    Useless,
}

/// A connection for a leader query, without its socket.
#[derive(Debug)]
pub struct ScoutProtocol {
    endpoint: String,
    /// The node at the other end.
    node: Option<NodeId>,
    output: BytesMut,
    input: BytesMut,
    reader: FrameReader,
    /// The deadline of the node's welcome.
    greeted_by: Time,
    /// When to send the next request, after a reply.
    again: Option<Time>,
    pause: Duration,
}

impl ScoutProtocol {
    /// A new connection to that endpoint; without a welcome by `greeted_by` it is useless.
    pub fn new(endpoint: String, greeted_by: Time) -> ScoutProtocol {
        let mut output = BytesMut::new();
        Hello::client().put(&mut output);
        let (input, reader) = (BytesMut::new(), FrameReader::default());
        ScoutProtocol { endpoint, node: None, output, input, reader, greeted_by, again: None, pause: RETRY_INTERVAL }
    }

    /// When [`ScoutProtocol::wake`] is due.
    pub fn deadline(&self) -> Option<Time> {
        if self.node.is_none() { Some(self.greeted_by) } else { self.again }
    }

    /// Schedules another request: the node named the same leader as before.
    pub fn ask_again(&mut self, now: Time) {
        self.again = Some(now + self.pause);
        self.pause = (self.pause * 2).min(AGAIN_MAX);
    }

    /// Sends the next request, if it is due.
    pub fn wake(&mut self, now: Time) {
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            self.ask();
        }
    }

    /// Whether the node has failed to welcome the client in time.
    pub fn is_overdue(&self, now: Time) -> bool {
        self.node.is_none() && self.greeted_by <= now
    }

    /// The bytes to send.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    fn ask(&mut self) {
        let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        put_request_frame(&mut self.output, 0, false, &request);
    }

    /// Handles bytes of the node.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<LeaderAnswer, WireError> {
        self.input.extend_from_slice(bytes);
        while let Some(frame) = self.reader.next(&mut self.input)? {
            let Some(node) = self.node else {
                self.node = Some(Welcome::read(frame)?.node);
                self.ask();
                continue;
            };
            let (number, reply) = read_reply_frame(frame)?;
            if number == NEWS {
                continue;
            }
            return Ok(match reply {
                Reply::Refused(Refusal::NotLeader { leader: Some(leader), address: Some(address), .. }) => {
                    LeaderAnswer::Leader(leader, address)
                }
                Reply::Answer { .. } => LeaderAnswer::Leader(node, self.endpoint.clone()),
                _ => LeaderAnswer::Useless,
            });
        }
        Ok(LeaderAnswer::Pending)
    }
}
