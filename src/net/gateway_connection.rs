//! What is said on a connection that came through a door, whichever it was.

use super::http::connection as http;
use super::options::Options;
use super::resp::connection as resp;
use crate::api::{Refusal, Reply};
use crate::pipeline::{NodeRequest, Tally};
use crate::types::{SessionId, Time};
use bytes::BytesMut;
use std::time::Duration;

/// What is said on a connection that came through a door.
#[derive(Debug)]
pub enum GatewayConnection {
    /// By a Redis client.
    Redis(Box<resp::RedisConnection>),
    /// By an HTTP client.
    Http(Box<http::HttpConnection>),
}

impl GatewayConnection {
    /// How many commands wait for their answers.
    pub fn waiting(&self) -> usize {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.waiting(),
            GatewayConnection::Http(talk) => talk.pipeline.waiting(),
        }
    }

    /// How many bytes its requests hold, and the answers that wait for others before them.
    pub fn bytes(&self) -> usize {
        match self {
            GatewayConnection::Redis(talk) => {
                talk.pipeline.bytes() + talk.block.as_ref().map_or(0, |block| block.bytes)
            }
            GatewayConnection::Http(talk) => talk.pipeline.bytes(),
        }
    }

    /// Whether so much waits that nothing more should be read.
    pub fn is_full(&self) -> bool {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.is_full(),
            GatewayConnection::Http(talk) => talk.pipeline.is_full(),
        }
    }

    /// Whether nothing more is heard: it closes when everything is answered.
    pub fn is_leaving(&self) -> bool {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.leaving,
            GatewayConnection::Http(talk) => talk.pipeline.leaving,
        }
    }

    /// Nothing more is heard.
    pub fn leave(&mut self) {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.leaving = true,
            GatewayConnection::Http(talk) => talk.pipeline.leaving = true,
        }
    }

    /// It is idle: what its commands waited in is let go.
    pub fn rest(&mut self) {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.rest(),
            GatewayConnection::Http(talk) => talk.pipeline.rest(),
        }
    }

    /// What was asked since this was last taken.
    pub fn tally(&mut self) -> Tally {
        std::mem::take(match self {
            GatewayConnection::Redis(talk) => &mut talk.pipeline.tally,
            GatewayConnection::Http(talk) => &mut talk.pipeline.tally,
        })
    }

    /// Its session, if one is open.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.session(),
            GatewayConnection::Http(talk) => talk.pipeline.session(),
        }
    }

    /// The session is open, or was refused for that reason.
    pub fn opened(&mut self, now: Time, opened: Result<SessionId, Option<Refusal>>) {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.opened(now, opened),
            GatewayConnection::Http(talk) => talk.pipeline.opened(now, opened),
        }
    }

    /// When it wants to be pumped even if nothing comes.
    pub fn deadline(&self) -> Time {
        match self {
            GatewayConnection::Redis(talk) => talk.pipeline.deadline(),
            GatewayConnection::Http(talk) => talk.pipeline.deadline(),
        }
    }

    /// Says what is due, and what is wanted of the node now. `rests` is whether the client has too much to read.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, rests: bool, wants: &mut Vec<NodeRequest>) {
        match self {
            GatewayConnection::Redis(talk) => talk.pump(now, out, rests, wants),
            GatewayConnection::Http(talk) => talk.pump(now, out, rests, wants),
        }
    }

    /// The node answers what was asked under that number.
    pub fn hear(&mut self, number: u64, reply: Reply) {
        match self {
            GatewayConnection::Redis(talk) => talk.hear(number, reply),
            GatewayConnection::Http(talk) => talk.hear(number, reply),
        }
    }

    /// How long to wait for what the client has to say next, `unread` bytes of which are here; for ever, if
    /// nothing is said.
    pub fn patience(&self, unread: usize, options: &Options) -> Option<Duration> {
        match self {
            GatewayConnection::Redis(talk) if talk.reader.is_midway() => Some(options.frame_patience),
            // Who is let in may stay for as long as it likes; who has not said the password may not.
            GatewayConnection::Redis(talk) => (!talk.guest.known).then_some(options.idle_patience),
            GatewayConnection::Http(talk) if talk.awaits_body() => Some(options.frame_patience),
            GatewayConnection::Http(_) if unread > 0 => Some(options.head_patience),
            GatewayConnection::Http(talk) => (talk.pipeline.waiting() == 0).then_some(options.idle_patience),
        }
    }

    /// Whether what it says after its last word is read and dropped: to close before would take the answer
    /// back from whoever is still sending.
    pub fn lingers(&self) -> bool {
        match self {
            GatewayConnection::Redis(talk) => talk.broken,
            GatewayConnection::Http(_) => true,
        }
    }
}
