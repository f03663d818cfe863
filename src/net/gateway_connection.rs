//! The protocol state of a gateway connection, whichever gateway it belongs to.

use super::options::Options;
use crate::api::{Refusal, Reply};
use crate::gateway::http::connection as http;
use crate::gateway::redis::connection as redis;
use crate::pipeline::{NodeRequest, Tally};
use crate::types::{SessionId, Time};
use bytes::BytesMut;
use std::time::Duration;

/// The protocol state of a gateway connection.
#[derive(Debug)]
pub enum GatewayConnection {
    /// A Redis client.
    Redis(Box<redis::RedisConnection>),
    /// An HTTP client.
    Http(Box<http::HttpConnection>),
}

impl GatewayConnection {
    /// Whether the client is a probe: an HTTP client without a seat, which may make one request about the health of the
    /// node.
    pub fn is_probe(&self) -> bool {
        matches!(self, GatewayConnection::Http(talk) if talk.is_probe())
    }

    /// How many commands wait for their replies.
    pub fn waiting(&self) -> usize {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.waiting(),
            GatewayConnection::Http(talk) => talk.pipeline.waiting(),
        }
    }

    /// Size of the waiting requests, and of the replies behind them, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            GatewayConnection::Redis(talk) => {
                talk.pipeline.bytes() + talk.block.as_ref().map_or(0, |block| block.bytes)
            }
            GatewayConnection::Http(talk) => talk.pipeline.bytes(),
        }
    }

    /// Whether so much is queued that the connection should not be read from.
    pub fn is_full(&self) -> bool {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.is_full(),
            GatewayConnection::Http(talk) => talk.pipeline.is_full(),
        }
    }

    /// Whether no more requests are read. The connection then closes once everything is answered.
    pub fn is_leaving(&self) -> bool {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.leaving,
            GatewayConnection::Http(talk) => talk.pipeline.leaving,
        }
    }

    /// Stops reading requests.
    pub fn leave(&mut self) {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.leaving = true,
            GatewayConnection::Http(talk) => talk.pipeline.leaving = true,
        }
    }

    /// Frees the request queue of an idle connection.
    pub fn rest(&mut self) {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.rest(),
            GatewayConnection::Http(talk) => talk.pipeline.rest(),
        }
    }

    /// Returns the counts since the last call.
    pub fn tally(&mut self) -> Tally {
        std::mem::take(match self {
            GatewayConnection::Redis(talk) => &mut talk.pipeline.tally,
            GatewayConnection::Http(talk) => &mut talk.pipeline.tally,
        })
    }

    /// The session, if one is open.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.session(),
            GatewayConnection::Http(talk) => talk.pipeline.session(),
        }
    }

    /// The session was opened, or was refused for that reason.
    pub fn opened(&mut self, now: Time, opened: Result<SessionId, Option<Refusal>>) {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.opened(now, opened),
            GatewayConnection::Http(talk) => talk.pipeline.opened(now, opened),
        }
    }

    /// When a pump is due even without an event.
    pub fn deadline(&self) -> Time {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.deadline(),
            GatewayConnection::Http(talk) => talk.pipeline.deadline(),
        }
    }

    /// Writes the replies that are due to `out`, and adds the requests to send now to `wants`. `rests` is whether the
    /// client has too much output to read.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, rests: bool, wants: &mut Vec<NodeRequest>) {
        match self {
            GatewayConnection::Redis(talk) => talk.pump(now, out, rests, wants),
            GatewayConnection::Http(talk) => talk.pump(now, out, rests, wants),
        }
    }

    /// Handles the node's answer to the request of that number.
    pub fn handle_reply(&mut self, number: u64, reply: Reply) {
        match self {
            GatewayConnection::Redis(talk) => talk.handle_reply(number, reply),
            GatewayConnection::Http(talk) => talk.handle_reply(number, reply),
        }
    }

    /// The timeout for the client's next input, of which `unread` bytes have arrived. `None` for no timeout.
    pub fn patience(&self, unread: usize, options: &Options) -> Option<Duration> {
        match self {
            GatewayConnection::Redis(talk) if talk.reader.is_midway() => Some(options.frame_patience),
            // An authenticated client may stay idle without limit. A client without the password may not.
            GatewayConnection::Redis(talk) => (!talk.guest.known).then_some(options.idle_patience),
            GatewayConnection::Http(talk) if talk.awaits_body() => Some(options.frame_patience),
            GatewayConnection::Http(_) if unread > 0 => Some(options.head_patience),
            GatewayConnection::Http(talk) => (talk.pipeline.waiting() == 0).then_some(options.idle_patience),
        }
    }

    /// Whether input after the last reply is read and discarded. Closing the socket at once would destroy the reply
    /// before a client that is still sending has read it.
    pub fn lingers(&self) -> bool {
        match self {
            GatewayConnection::Redis(talk) => talk.broken,
            GatewayConnection::Http(_) => true,
        }
    }
}
