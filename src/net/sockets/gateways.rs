//! Redis and HTTP connections: accepts clients, passes their requests to the node, and writes the node's replies.

use super::Net;
use super::client_slots::ClientPort;
use super::gateway_kind::GatewayKind;
use super::listener::AcceptOutcome;
use crate::api::{Outcome, Reply};
use crate::gateway::http;
use crate::gateway::redis::connection::RedisConnection;
use crate::gateway::redis::local::ClientState;
use crate::net::conn::{Conn, ConnPhase};
use crate::net::gateway_connection::GatewayConnection;
use crate::net::role::Role;
use crate::net::stream;
use crate::node::event::{Caller, Event};
use crate::pipeline::NodeRequest;
use crate::secure::Stream;
use crate::types::{SessionId, Time};
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpStream;
use std::io::Write;
use std::net::Shutdown;

/// Maximum clients accepted at a gateway before the accepted ones are read.
const ACCEPTS_PER_ROUND_MAX: usize = 64;

impl Net {
    /// Accepts waiting clients at all gateways.
    pub(super) fn accept_at_gateways(&mut self, now: Time) {
        for kind in [GatewayKind::Redis, GatewayKind::Http] {
            self.accept_at_gateway(now, kind);
        }
    }

    fn accept_at_gateway(&mut self, now: Time, kind: GatewayKind) {
        for _ in 0..ACCEPTS_PER_ROUND_MAX {
            match self.gateways.accept(now, kind) {
                AcceptOutcome::Stream(stream) => self.admit_client(now, kind, stream),
                AcceptOutcome::Aborted => {}
                AcceptOutcome::NonePending => return,
                AcceptOutcome::Failed(error) => {
                    let node = self.membership.me().node.get();
                    log::warn!(node; "cannot accept a client: {error}; retrying soon");
                    return;
                }
            }
        }
    }

    fn admit_client(&mut self, now: Time, kind: GatewayKind, socket: TcpStream) {
        let _best_effort = stream::tune_inbound(&socket);
        let Ok(mut stream) = Stream::accepted(self.options.keys.as_ref(), socket) else { return };
        // If no slot is free, an HTTP client is still accepted as a probe, which may request the node's health.
        let is_probe = !self.has_free_slot(ClientPort::Gateway(kind));
        if is_probe && (kind != GatewayKind::Http || self.gateways.probe_count() >= self.options.probes_max) {
            self.protocol_counters.count_rejected_client(kind.protocol());
            let _best_effort = stream.write(match kind {
                GatewayKind::Redis => b"-ERR max number of clients reached\r\n".as_slice(),
                GatewayKind::Http => http::response::TOO_MANY_CLIENTS,
            });
            return;
        }
        let Ok(token) = self.insert_connection(now, stream, Role::GatewayClient(0)) else { return };
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        conn.become_gateway_client();
        let gateway = match kind {
            GatewayKind::Redis => {
                let is_authenticated = self.gateways.redis.options.password.is_none();
                GatewayConnection::Redis(Box::new(RedisConnection::new(ClientState {
                    id: token.0 as i64,
                    is_authenticated,
                    ..ClientState::default()
                })))
            }
            GatewayKind::Http => GatewayConnection::Http(Box::new(http::connection::HttpConnection::new(is_probe))),
        };
        restore_gateway_state(now, &mut conn, gateway, BytesMut::new(), &self.options);
        self.protocol_counters.count_accepted_client(kind.protocol());
        self.gateways.add_client(kind, is_probe);
    }

    /// Processes the complete requests of the input until reading is suspended, and then pumps the connection.
    pub(super) fn process_gateway_input(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let Some(mut gateway) = conn.gateway.take() else { return };
        let mut out = std::mem::take(conn.output.ready_buffer());
        let stays_open = match &mut gateway {
            GatewayConnection::Redis(redis) => self.process_redis_input(now, token, redis, &mut out),
            GatewayConnection::Http(http) => self.process_http_input(now, token, http, &mut out),
        };
        self.protocol_counters.add_tally(GatewayKind::of(&gateway).protocol(), gateway.take_tally());
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        if !out.is_empty() {
            conn.schedule_write();
        }
        restore_gateway_state(now, &mut conn, gateway, out, &self.options);
        self.connections.schedule_sweep(now);
        if stays_open { self.pump_connection(now, token) } else { self.close(now, token) }
    }

    /// Handles the end of a connection's input. A gateway client may still read, so its requests are answered and the
    /// replies written. Any other connection is closed.
    pub(super) fn handle_end_of_stream(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let has_unwritten_output = !conn.has_written_all() && conn.phase() != ConnPhase::Draining;
        match &mut conn.gateway {
            Some(gateway) if gateway.pending_requests() > 0 => {
                gateway.stop_reading();
                conn.readable = false;
            }
            Some(gateway) if has_unwritten_output => {
                gateway.stop_reading();
                conn.readable = false;
                conn.close_after_output();
                // The timeout restarts while the client reads, so the connection stays open that long.
                conn.set_timeout(now, Some(self.options.idle_timeout));
                conn.schedule_write();
                self.connections.schedule_sweep(now);
            }
            _ => self.close(now, token),
        }
    }

    /// Closes a connection after all output is written. If the kernel could drop output that the client has not read,
    /// the connection is only shut down for writing, and waits for the client to close, up to a timeout.
    pub(super) fn begin_close(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        if conn.phase() == ConnPhase::Draining {
            return;
        }
        let discards_input = conn.gateway.as_ref().is_some_and(GatewayConnection::discards_input_before_close);
        if !discards_input || conn.stream.socket().shutdown(Shutdown::Write).is_err() {
            return self.close(now, token);
        }
        conn.drain();
        conn.set_timeout(now, Some(self.options.linger_timeout));
        // Reading may have been suspended. It resumes now, to discard the input.
        conn.schedule_read();
        self.connections.schedule_sweep(now);
    }

    /// Pumps all scheduled connections: writes their due replies, and sends their due requests to the node. Also
    /// retries the refused closes of sessions.
    pub fn pump_scheduled(&mut self, now: Time) {
        self.gateways.session_closes_due(now).into_iter().for_each(|session| self.close_session(session));
        let tokens = self.gateways.take_pump_queue(now);
        tokens.iter().for_each(|token| self.pump_connection(now, *token));
        self.gateways.recycle_pump_queue(tokens);
    }

    fn pump_connection(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let Some(mut gateway) = conn.gateway.take() else { return };
        let output_full = conn.has_output_backlog(&self.options, conn.pressure());
        let mut out = std::mem::take(conn.output.ready_buffer());
        let length_before = out.len();
        let mut requests = Vec::new();
        gateway.pump(now, &mut out, output_full, &mut requests);
        self.protocol_counters.add_tally(GatewayKind::of(&gateway).protocol(), gateway.take_tally());
        self.gateways.set_pump_deadline(token, gateway.next_pump_at());
        let all_answered = gateway.is_closing() && gateway.pending_requests() == 0;
        let has_new_output = out.len() > length_before;
        restore_gateway_state(now, &mut conn, gateway, out, &self.options);
        conn.count_memory();
        if all_answered {
            conn.close_after_output();
        }
        if all_answered || has_new_output {
            conn.schedule_write();
        }
        self.connections.schedule_sweep(now);
        let caller = Caller::Client(token.0 as u64);
        for request in requests {
            let event = match request {
                NodeRequest::Send(id, request) => Event::Request { from: caller, id, forward: true, request },
                NodeRequest::OpenSession => self.gateways.open_session_request(token),
            };
            self.events.push(event);
        }
    }

    /// Sends the cluster a request to close a session, because the connection of the session was closed.
    pub(super) fn close_session(&mut self, session: SessionId) {
        let event = self.gateways.close_session_request(session);
        self.events.push(event);
    }

    /// Handles the reply to a request that opened or closed a session.
    pub(super) fn handle_session_reply(&mut self, now: Time, id: u64, reply: Reply) {
        let Some(token) = self.gateways.take_session_opener(id) else {
            return self.gateways.handle_session_close_reply(now, id, &reply);
        };
        let session_result = match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => Ok(session),
            Reply::Refused(refusal) => Err(Some(refusal)),
            // The outcome is unknown: the session may have been opened. Then it expires unused.
            _ => Err(None),
        };
        match (self.connections.gateway_mut(token), session_result) {
            (Some(gateway), session_result) => {
                gateway.handle_session_opened(now, session_result);
                self.gateways.schedule_pump(token);
            }
            (None, Ok(session)) => self.close_session(session),
            (None, Err(_)) => {}
        }
    }

    /// Passes a reply to the gateway connection that sent the request. Returns the reply if the connection is not one
    /// of a gateway, or is closed.
    pub(super) fn reply_to_gateway(&mut self, token: Token, id: u64, reply: Reply) -> Option<Reply> {
        let gateway = self.connections.gateway_mut(token);
        let Some(gateway) = gateway else { return Some(reply) };
        gateway.handle_reply(id, reply);
        self.gateways.schedule_pump(token);
        None
    }
}

/// Puts the protocol state and the output, which were taken for processing, back into the connection, and sets the
/// timeout for the client's next input.
fn restore_gateway_state(
    now: Time,
    conn: &mut Conn,
    gateway: GatewayConnection,
    out: BytesMut,
    options: &crate::net::Options,
) {
    conn.unanswered_requests = gateway.pending_requests();
    let buffered_bytes = conn.input().len();
    let timeout = match conn.has_unprocessed_input {
        false => gateway.input_timeout(buffered_bytes, options),
        // The client has to read its output before more input is processed.
        true if !out.is_empty() => Some(options.idle_timeout),
        // The client waits for this node, so no timeout runs.
        true => None,
    };
    if conn.phase() != ConnPhase::Draining {
        conn.set_timeout(now, timeout);
    }
    conn.gateway = Some(gateway);
    *conn.output.ready_buffer() = out;
}

#[cfg(test)]
mod tests;
