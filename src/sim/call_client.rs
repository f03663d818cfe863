//! A simulated client with one request in progress.

use super::checks;
use super::workload::TaskClient;
use crate::api::Reply;
use crate::client::Options;
use crate::client::call_protocol::{CallProtocol, Step};
use crate::types::{NodeId, Time};
use crate::wire::WireError;
use crate::wire::client::read_reply_frame;
use crate::wire::frame::FrameReader;
use crate::wire::hello::Welcome;
use bytes::BytesMut;
use std::collections::VecDeque;

/// A connection of a blocking client.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) link: u64,
    pub(super) reader: FrameReader,
    pub(super) input: BytesMut,
    /// The node that has welcomed the client.
    pub(super) node: Option<NodeId>,
    /// The number of the last request.
    pub(super) asked: u64,
    /// Replies that were received and not handled yet.
    pub(super) replies: VecDeque<(u64, Reply)>,
    pub(super) ended: bool,
}

pub struct CallClient {
    pub asker: TaskClient,
    pub(super) protocol: CallProtocol,
    pub(super) main: Option<Connection>,
    pub(super) second: Option<Connection>,
    /// The task of the call in progress.
    pub(super) tag: Option<u64>,
    /// Its current step: an action to begin, or a wait.
    pub(super) step: Option<Step>,
}

impl Connection {
    /// Reads received bytes. The error describes bytes that no correct node sends.
    fn receives(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.input.extend_from_slice(bytes);
        while let Some(frame) = self.reader.next(&mut self.input)? {
            if self.node.is_none() {
                self.node = Some(Welcome::read(frame)?.node);
            } else {
                self.replies.push_back(read_reply_frame(frame)?);
            }
        }
        Ok(())
    }

    /// The reply to the last request, if it was received.
    fn reply(&mut self) -> Option<Reply> {
        let at = self.replies.iter().position(|(id, _)| *id == self.asked)?;
        let (_, reply) = self.replies.drain(..=at).next_back()?;
        Some(reply)
    }
}

impl CallClient {
    /// A client with default timeouts.
    pub fn new(asker: TaskClient, endpoints: Vec<String>, seed: u64) -> CallClient {
        let protocol = CallProtocol::new(endpoints, Options::default(), Time::ZERO, seed);
        CallClient { asker, protocol, main: None, second: None, tag: None, step: None }
    }

    fn on(&mut self, link: u64) -> Option<&mut Connection> {
        self.main.iter_mut().chain(&mut self.second).find(|connection| connection.link == link)
    }

    /// Handles bytes received on a connection. The error describes bytes that no correct node sends.
    pub fn receives(&mut self, now: Time, link: u64, bytes: &[u8]) -> checks::Result<()> {
        let Some(connection) = self.on(link) else { return Ok(()) };
        match connection.receives(bytes) {
            Ok(()) => {}
            Err(WireError::Refused(_)) => connection.ended = true,
            Err(error) => return Err(format!("client {} cannot decode its input: {error}", self.asker.client)),
        }
        self.looks(now);
        Ok(())
    }

    /// Handles the end of a connection.
    pub fn loses(&mut self, now: Time, link: u64) {
        if let Some(connection) = self.on(link) {
            connection.ended = true;
            self.looks(now);
        }
    }

    /// Handles a wake-up.
    pub fn wakes(&mut self, now: Time) {
        self.looks(now);
    }

    /// Checks whether the awaited event has happened, can no longer happen, or has timed out.
    pub(super) fn looks(&mut self, now: Time) {
        let Some(step) = self.step.take() else { return };
        let (main, second) = (self.main.as_mut(), self.second.as_mut());
        match &step {
            Step::Dial { endpoint, until } => match main.map(|main| (main.node, main.ended)) {
                Some((Some(node), _)) => return self.protocol.dialed(endpoint.clone(), Some(node)),
                Some((None, false)) if now < *until => {}
                _ => return self.protocol.not_dialed(now, endpoint, "no welcome"),
            },
            Step::Wait { until } => match main.map(|main| (main.reply(), main.ended)) {
                Some((Some(reply), _)) => return self.protocol.answered(now, reply),
                Some((None, false)) if now < *until => {}
                Some((None, false)) => return self.protocol.late(now, "no answer in time"),
                _ => return self.protocol.lost(now, "the connection is lost"),
            },
            Step::Look { until } => match main.map(|main| (main.reply(), main.ended)) {
                Some((Some(Reply::Status(status)), _)) => return self.protocol.looked(now, Some(&status)),
                Some((None, false)) if now < *until => {}
                _ => return self.protocol.looked(now, None),
            },
            Step::Consult { until, .. } => match second.map(|second| (second.reply(), second.node, second.ended)) {
                Some((Some(reply), node, _)) => return self.protocol.consulted(now, Some((node, reply))),
                Some((None, _, false)) if now < *until => {}
                _ => return self.protocol.consulted(now, None),
            },
            Step::Pause { until } if now >= *until => return,
            Step::Pause { .. } | Step::Send { .. } | Step::Done(_) => {}
        }
        self.step = Some(step);
    }
}
