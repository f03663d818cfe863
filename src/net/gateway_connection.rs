//! The protocol state of a Redis or HTTP connection, behind one interface for the sockets.

use super::options::Options;
use crate::api::{Refusal, Reply};
use crate::gateway::http::connection as http;
use crate::gateway::redis::connection as redis;
use crate::pipeline::{NodeRequest, RequestTally};
use crate::types::{SessionId, Time};
use bytes::BytesMut;
use std::time::Duration;

/// The protocol state of a connection to a gateway: parser, client state, and requests in progress.
#[derive(Debug)]
pub enum GatewayConnection {
    /// A connection of a Redis client, boxed to keep [`Conn`](super::conn::Conn) small.
    Redis(Box<redis::RedisConnection>),
    /// A connection of an HTTP client, boxed to keep [`Conn`](super::conn::Conn) small.
    Http(Box<http::HttpConnection>),
}

impl GatewayConnection {
    /// Whether the client is a probe: an HTTP client that connected while the maximum number of clients was connected.
    /// It may send one request about the node.
    pub fn is_probe(&self) -> bool {
        matches!(self, GatewayConnection::Http(http) if http.is_probe())
    }

    /// The number of requests that were received and are not answered yet.
    pub fn pending_requests(&self) -> usize {
        match self {
            GatewayConnection::Redis(redis) => redis.pipeline.queued_commands(),
            GatewayConnection::Http(http) => http.pipeline.queued_commands(),
        }
    }

    /// The memory of the queued requests in bytes, including replies that are ready but must follow the replies to
    /// earlier requests, and the commands of an open transaction.
    pub fn queued_bytes(&self) -> usize {
        match self {
            GatewayConnection::Redis(redis) => {
                redis.pipeline.bytes() + redis.transaction.as_ref().map_or(0, |transaction| transaction.memory_bytes)
            }
            GatewayConnection::Http(http) => http.pipeline.bytes(),
        }
    }

    /// Whether the queue of requests is full, by number or bytes, so that the connection is not read from.
    pub fn is_queue_full(&self) -> bool {
        match self {
            GatewayConnection::Redis(redis) => redis.pipeline.is_full(),
            GatewayConnection::Http(http) => http.pipeline.is_full(),
        }
    }

    /// Whether no further request is read. The connection then closes once every request is answered.
    pub fn is_closing(&self) -> bool {
        match self {
            GatewayConnection::Redis(redis) => redis.pipeline.closes_when_empty,
            GatewayConnection::Http(http) => http.pipeline.closes_when_empty,
        }
    }

    /// Reads no further request. The connection closes once every request is answered.
    pub fn stop_reading(&mut self) {
        match self {
            GatewayConnection::Redis(redis) => redis.pipeline.closes_when_empty = true,
            GatewayConnection::Http(http) => http.pipeline.closes_when_empty = true,
        }
    }

    /// Frees the memory of the request queue, if the queue is empty.
    pub fn free_idle_queue(&mut self) {
        match self {
            GatewayConnection::Redis(redis) => redis.pipeline.free_empty_queue(),
            GatewayConnection::Http(http) => http.pipeline.free_empty_queue(),
        }
    }

    /// Returns the counts of requests and failures since the last call, and resets them.
    pub fn take_tally(&mut self) -> RequestTally {
        std::mem::take(match self {
            GatewayConnection::Redis(redis) => &mut redis.pipeline.tally,
            GatewayConnection::Http(http) => &mut http.pipeline.tally,
        })
    }

    /// The id of the connection's session; `None` until the first write has opened one.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            GatewayConnection::Redis(redis) => redis.pipeline.session(),
            GatewayConnection::Http(http) => http.pipeline.session(),
        }
    }

    /// Handles the result of opening a session. An error without a refusal means an unknown outcome.
    pub fn handle_session_opened(&mut self, now: Time, session_result: Result<SessionId, Option<Refusal>>) {
        match self {
            GatewayConnection::Redis(redis) => redis.pipeline.handle_session_opened(now, session_result),
            GatewayConnection::Http(http) => http.pipeline.handle_session_opened(now, session_result),
        }
    }

    /// When [`GatewayConnection::pump`] is due even without an event, to retry a request; never if no retry waits.
    pub fn next_pump_at(&self) -> Time {
        match self {
            GatewayConnection::Redis(redis) => redis.pipeline.deadline(),
            GatewayConnection::Http(http) => http.pipeline.deadline(),
        }
    }

    /// Appends the replies that are due now to the output `out`, and the requests for the node to `requests`. If the
    /// client has too much unread output (`output_full`), no request is appended.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, output_full: bool, requests: &mut Vec<NodeRequest>) {
        match self {
            GatewayConnection::Redis(redis) => redis.pump(now, out, output_full, requests),
            GatewayConnection::Http(http) => http.pump(now, out, output_full, requests),
        }
    }

    /// Passes the node's reply to the request with the number `number` on to the protocol state.
    pub fn handle_reply(&mut self, number: u64, reply: Reply) {
        match self {
            GatewayConnection::Redis(redis) => redis.handle_reply(number, reply),
            GatewayConnection::Http(http) => http.handle_reply(number, reply),
        }
    }

    /// The timeout for the client's next input, of which `buffered_bytes` bytes have arrived; `None` for no timeout.
    pub fn input_timeout(&self, buffered_bytes: usize, options: &Options) -> Option<Duration> {
        match self {
            GatewayConnection::Redis(redis) if redis.reader.has_partial_command() => Some(options.frame_timeout),
            // An authenticated client may stay idle without limit. A client without the password may not.
            GatewayConnection::Redis(redis) => (!redis.client.is_authenticated).then_some(options.idle_timeout),
            GatewayConnection::Http(http) if http.awaits_body() => Some(options.frame_timeout),
            GatewayConnection::Http(_) if buffered_bytes > 0 => Some(options.request_head_timeout),
            GatewayConnection::Http(http) => (http.pipeline.queued_commands() == 0).then_some(options.idle_timeout),
        }
    }

    /// Whether input after the last reply is read and discarded before the socket is closed. If a socket with unread
    /// input is closed, the kernel sends a reset, and the client may lose the reply.
    pub fn discards_input_before_close(&self) -> bool {
        match self {
            GatewayConnection::Redis(redis) => redis.input_malformed,
            GatewayConnection::Http(_) => true,
        }
    }
}
