//! The protocol of a second opinion, without its socket: what is sent, and what an answer means.
//!
//! What is asked of another node is a read of nothing: a follower names its leader at once, a node without a leader
//! answers when there is one, and the leader itself answers without an entry in the log.

use crate::api::{Consistency, Refusal, Reply, Request};
use crate::types::{NodeId, Time};
use crate::wire::WireError;
use crate::wire::client::{NEWS, put_request_frame, read_reply_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{Hello, Welcome};
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// After an answer that names the leader known before, the node is asked again after this long, then after twice that.
const AGAIN: Duration = Duration::from_millis(50);
/// The longest pause between two requests.
const AGAIN_MAX: Duration = Duration::from_millis(400);

/// What an answer means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Word {
    /// Nothing yet.
    Nothing,
    /// That node leads, and is reached there.
    Leads(NodeId, String),
    /// This one is of no use.
    Gone,
}

/// A connection that asks who leads, without its socket.
#[derive(Debug)]
pub struct ScoutProtocol {
    endpoint: String,
    /// The node that was reached.
    node: Option<NodeId>,
    output: BytesMut,
    input: BytesMut,
    reader: FrameReader,
    /// The node must have welcomed the client by then.
    greeted_by: Time,
    /// When to ask once more, if there was an answer.
    again: Option<Time>,
    pause: Duration,
}

impl ScoutProtocol {
    /// A new connection to that endpoint; without a welcome by `greeted_by` it is of no use.
    pub fn new(endpoint: String, greeted_by: Time) -> ScoutProtocol {
        let mut output = BytesMut::new();
        Hello::client().put(&mut output);
        let (input, reader) = (BytesMut::new(), FrameReader::default());
        ScoutProtocol { endpoint, node: None, output, input, reader, greeted_by, again: None, pause: AGAIN }
    }

    /// When there is something to do even if nothing comes.
    pub fn deadline(&self) -> Option<Time> {
        if self.node.is_none() { Some(self.greeted_by) } else { self.again }
    }

    /// The leader that was named was known before: the node is asked again a little later.
    pub fn ask_again(&mut self, now: Time) {
        self.again = Some(now + self.pause);
        self.pause = (self.pause * 2).min(AGAIN_MAX);
    }

    /// Asks once more, if that is due.
    pub fn wake(&mut self, now: Time) {
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            self.ask();
        }
    }

    /// Whether the node should have welcomed the client by now, and has not.
    pub fn is_overdue(&self, now: Time) -> bool {
        self.node.is_none() && self.greeted_by <= now
    }

    /// The bytes to be sent.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    fn ask(&mut self) {
        let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
        put_request_frame(&mut self.output, 0, false, &request);
    }

    /// Bytes of the node have come.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Word, WireError> {
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
                    Word::Leads(leader, address)
                }
                Reply::Answer { .. } => Word::Leads(node, self.endpoint.clone()),
                _ => Word::Gone,
            });
        }
        Ok(Word::Nothing)
    }
}
