//! A simulated client with one request in progress.

use super::checks;
use super::workload::TaskClient;
use crate::api::Reply;
use crate::client::Options;
use crate::client::call_protocol::{CallProtocol, CallStep};
use crate::types::{NodeId, Time};
use crate::wire::WireError;
use crate::wire::client::read_reply_frame;
use crate::wire::frame::FrameReader;
use crate::wire::hello::Welcome;
use bytes::BytesMut;
use std::collections::VecDeque;

/// One connection of a client that waits for each reply before its next request.
#[derive(Debug, Default)]
pub(super) struct CallConnection {
    /// The number of the connection in `ClientLinks`.
    pub(super) link: u64,
    pub(super) reader: FrameReader,
    /// Bytes received after the last complete frame.
    pub(super) received_bytes: BytesMut,
    /// The node whose welcome was received; `None` until the welcome arrives.
    pub(super) node: Option<NodeId>,
    /// The id of the last request sent. Ids count up from 1 on each connection.
    pub(super) last_request_id: u64,
    /// Replies that were received and not handled yet, each with the id of its request.
    pub(super) replies: VecDeque<(u64, Reply)>,
    /// Whether the node has closed the connection or rejected the client.
    pub(super) is_closed: bool,
}

/// A client with one request in progress, like the library's blocking `Client`.
pub struct CallClient {
    pub tasks: TaskClient,
    pub(super) protocol: CallProtocol,
    /// The connection on which the client sends its requests.
    pub(super) main_connection: Option<CallConnection>,
    /// The connection on which the client asks another node which node is the leader.
    pub(super) leader_query_connection: Option<CallConnection>,
    /// The tag of the task whose call is in progress.
    pub(super) task_tag: Option<u64>,
    /// The step of the protocol that waits for an event; `None` if the next step can begin.
    pub(super) pending_step: Option<CallStep>,
}

impl CallConnection {
    /// Reads received bytes. The error describes bytes that no correct node sends.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.received_bytes.extend_from_slice(bytes);
        while let Some(frame) = self.reader.next(&mut self.received_bytes)? {
            if self.node.is_none() {
                self.node = Some(Welcome::read(frame)?.node);
            } else {
                self.replies.push_back(read_reply_frame(frame)?);
            }
        }
        Ok(())
    }

    /// Removes and returns the reply to the last request, if it was received. Also removes all replies that were
    /// received before it.
    fn take_last_reply(&mut self) -> Option<Reply> {
        let last_position = self.replies.iter().position(|(id, _)| *id == self.last_request_id)?;
        let (_, reply) = self.replies.drain(..=last_position).next_back()?;
        Some(reply)
    }
}

impl CallClient {
    /// A client with default timeouts.
    pub fn new(tasks: TaskClient, endpoints: Vec<String>, seed: u64) -> CallClient {
        let protocol = CallProtocol::new(endpoints, Options::default(), Time::ZERO, seed);
        CallClient {
            tasks,
            protocol,
            main_connection: None,
            leader_query_connection: None,
            task_tag: None,
            pending_step: None,
        }
    }

    fn connection_mut(&mut self, link: u64) -> Option<&mut CallConnection> {
        self.main_connection
            .iter_mut()
            .chain(&mut self.leader_query_connection)
            .find(|connection| connection.link == link)
    }

    /// Handles bytes received on a connection. The error describes bytes that no correct node sends.
    pub fn receive(&mut self, now: Time, link: u64, bytes: &[u8]) -> checks::Result<()> {
        let Some(connection) = self.connection_mut(link) else { return Ok(()) };
        match connection.receive(bytes) {
            Ok(()) => {}
            Err(WireError::Refused(_)) => connection.is_closed = true,
            Err(error) => {
                return Err(format!("client {} cannot decode the bytes that a node sent: {error}", self.tasks.client));
            }
        }
        self.check_pending_step(now);
        Ok(())
    }

    /// Marks a connection as closed, and checks whether the pending step waited for this.
    pub fn handle_link_end(&mut self, now: Time, link: u64) {
        if let Some(connection) = self.connection_mut(link) {
            connection.is_closed = true;
            self.check_pending_step(now);
        }
    }

    /// Handles a wake-up: the event that the pending step waits for may have timed out.
    pub fn wake(&mut self, now: Time) {
        self.check_pending_step(now);
    }

    /// Checks whether the event that the pending step waits for has happened, can no longer happen, or has timed out.
    pub(super) fn check_pending_step(&mut self, now: Time) {
        let Some(step) = self.pending_step.take() else { return };
        let (main, second) = (self.main_connection.as_mut(), self.leader_query_connection.as_mut());
        match &step {
            CallStep::Dial { endpoint, until } => match main.map(|main| (main.node, main.is_closed)) {
                Some((Some(node), _)) => return self.protocol.dial_succeeded(endpoint.clone(), Some(node)),
                Some((None, false)) if now < *until => {}
                _ => return self.protocol.dial_failed(now, endpoint, "no welcome"),
            },
            CallStep::Wait { until } => match main.map(|main| (main.take_last_reply(), main.is_closed)) {
                Some((Some(reply), _)) => return self.protocol.reply_received(now, reply),
                Some((None, false)) if now < *until => {}
                Some((None, false)) => return self.protocol.reply_timed_out(now, "no answer in time"),
                _ => return self.protocol.connection_lost(now, "the connection is lost"),
            },
            CallStep::ReadStatus { until } => match main.map(|main| (main.take_last_reply(), main.is_closed)) {
                Some((Some(Reply::Status(status)), _)) => return self.protocol.status_received(now, Some(&status)),
                Some((None, false)) if now < *until => {}
                _ => return self.protocol.status_received(now, None),
            },
            CallStep::QueryOtherNode { until, .. } => {
                match second.map(|second| (second.take_last_reply(), second.node, second.is_closed)) {
                    Some((Some(reply), node, _)) => return self.protocol.other_node_answered(now, Some((node, reply))),
                    Some((None, _, false)) if now < *until => {}
                    _ => return self.protocol.other_node_answered(now, None),
                }
            }
            CallStep::Pause { until } if now >= *until => return,
            CallStep::Pause { .. } | CallStep::Send { .. } | CallStep::Done(_) => {}
        }
        self.pending_step = Some(step);
    }
}
