//! The gateways' sockets: accept Redis and HTTP clients, pass their requests to the node, and pass the node's replies
//! back.

use super::Net;
use super::gateway_kind::GatewayKind;
use super::listener::Accepted;
use super::seats::Port;
use crate::api::{Outcome, Reply};
use crate::gateway::http;
use crate::gateway::redis::connection::RedisConnection;
use crate::gateway::redis::local::ClientState;
use crate::net::conn::{Conn, Phase};
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

/// Maximum clients accepted before the accepted ones are read.
const ACCEPTS: usize = 64;

impl Net {
    /// Accepts waiting clients of the gateways.
    pub(super) fn accept_at_gateways(&mut self, now: Time) {
        for kind in [GatewayKind::Redis, GatewayKind::Http] {
            self.accept_at(now, kind);
        }
    }

    fn accept_at(&mut self, now: Time, kind: GatewayKind) {
        for _ in 0..ACCEPTS {
            match self.gateways.accept(now, kind) {
                Accepted::Stream(stream) => self.admit(now, kind, stream),
                Accepted::Aborted => {}
                Accepted::Nothing => return,
                Accepted::Failed(error) => {
                    let node = self.membership.me().node.get();
                    log::warn!(node; "cannot accept a client: {error}; retrying soon");
                    return;
                }
            }
        }
    }

    fn admit(&mut self, now: Time, kind: GatewayKind, socket: TcpStream) {
        let _if_not_it_is_slower = stream::tune_caller(&socket);
        let Ok(mut stream) = Stream::accepted(self.options.keys.as_ref(), socket) else { return };
        // When no seat is free, an HTTP client is still accepted as a probe, to get the health of the node.
        let probes = !self.has_seat(Port::Gateway(kind));
        if probes && (kind != GatewayKind::Http || self.gateways.probes() >= self.options.probes_max) {
            self.counting.turned_away(kind.gateway());
            let _told_or_not = stream.write(match kind {
                GatewayKind::Redis => b"-ERR max number of clients reached\r\n".as_slice(),
                GatewayKind::Http => http::response::FULL,
            });
            return;
        }
        let Ok(token) = self.insert(now, stream, Role::GatewayClient(0)) else { return };
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        conn.become_gateway_client();
        let gateway = match kind {
            GatewayKind::Redis => {
                let known = self.gateways.redis.options.password.is_none();
                GatewayConnection::Redis(Box::new(RedisConnection::new(ClientState {
                    id: token.0 as i64,
                    known,
                    ..ClientState::default()
                })))
            }
            GatewayKind::Http => GatewayConnection::Http(Box::new(http::connection::HttpConnection::new(probes))),
        };
        put_back(now, &mut conn, gateway, BytesMut::new(), &self.options);
        self.counting.accepted(kind.gateway());
        self.gateways.client_accepted(kind, probes);
    }

    /// Processes complete requests until the connection has to wait.
    pub(super) fn process_gateway_input(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let Some(mut gateway) = conn.gateway.take() else { return };
        let mut out = std::mem::take(conn.lanes.ready());
        let goes_on = match &mut gateway {
            GatewayConnection::Redis(talk) => self.process_redis_input(now, token, talk, &mut out),
            GatewayConnection::Http(talk) => self.process_http_input(now, token, talk, &mut out),
        };
        self.counting.add(GatewayKind::of(&gateway).gateway(), gateway.tally());
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        if !out.is_empty() {
            conn.schedule_write();
        }
        put_back(now, &mut conn, gateway, out, &self.options);
        self.connections.schedule_sweep(now);
        if goes_on { self.pump(now, token) } else { self.close(now, token) }
    }

    /// Handles the end of the client's stream. The client may still read, so its requests are answered and the replies
    /// written.
    pub(super) fn ended(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let has_unwritten = !conn.has_written_all() && conn.phase() != Phase::Draining;
        match &mut conn.gateway {
            Some(gateway) if gateway.waiting() > 0 => {
                gateway.leave();
                conn.readable = false;
            }
            Some(gateway) if has_unwritten => {
                gateway.leave();
                conn.readable = false;
                conn.close_after_output();
                // It stays open as long as the client reads.
                conn.wait_for(now, Some(self.options.idle_patience));
                conn.schedule_write();
                self.connections.schedule_sweep(now);
            }
            _ => self.close(now, token),
        }
    }

    /// Closes a connection after all output is written. Where closing at once could lose output that the client has not
    /// read, the connection first waits for the client to close, up to a timeout.
    pub(super) fn begin_close(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        if conn.phase() == Phase::Draining {
            return;
        }
        let lingers = conn.gateway.as_ref().is_some_and(GatewayConnection::lingers);
        if !lingers || conn.stream.socket().shutdown(Shutdown::Write).is_err() {
            return self.close(now, token);
        }
        conn.drain();
        conn.wait_for(now, Some(self.options.linger));
        // Reading may have been suspended. It resumes now, and the input is discarded.
        conn.schedule_read();
        self.connections.schedule_sweep(now);
    }

    /// Writes due replies and sends due requests on all connections that are scheduled for it.
    pub fn pump_all(&mut self, now: Time) {
        self.gateways.session_closes_due(now).into_iter().for_each(|session| self.close_session(session));
        let pumps = self.gateways.take_pumps(now);
        pumps.iter().for_each(|token| self.pump(now, *token));
        self.gateways.reuse_pumps(pumps);
    }

    fn pump(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let Some(mut gateway) = conn.gateway.take() else { return };
        let rests = conn.is_held_back(&self.options, conn.pressure());
        let mut out = std::mem::take(conn.lanes.ready());
        let before = out.len();
        let mut wants = Vec::new();
        gateway.pump(now, &mut out, rests, &mut wants);
        self.counting.add(GatewayKind::of(&gateway).gateway(), gateway.tally());
        self.gateways.set_wake(token, gateway.deadline());
        let leaves = gateway.is_leaving() && gateway.waiting() == 0;
        let says = out.len() > before;
        put_back(now, &mut conn, gateway, out, &self.options);
        conn.count_memory();
        if leaves {
            conn.close_after_output();
        }
        if leaves || says {
            conn.schedule_write();
        }
        self.connections.schedule_sweep(now);
        let from = Caller::Client(token.0 as u64);
        for want in wants {
            let event = match want {
                NodeRequest::Answer(id, request) => Event::Request { from, id, forward: true, request },
                NodeRequest::Session => self.gateways.request_session(token),
            };
            self.events.push(event);
        }
    }

    /// Closes the session of a connection that has ended.
    pub(super) fn close_session(&mut self, session: SessionId) {
        let event = self.gateways.request_session_close(session);
        self.events.push(event);
    }

    /// Handles the reply to a request that opened or closed a session.
    pub(super) fn session_answered(&mut self, now: Time, id: u64, reply: Reply) {
        let Some(token) = self.gateways.take_opening(id) else {
            return self.gateways.session_close_answered(now, id, &reply);
        };
        let opened = match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => Ok(session),
            Reply::Refused(refusal) => Err(Some(refusal)),
            // If the session was opened all the same, it expires by itself.
            _ => Err(None),
        };
        match (self.connections.gateway_mut(token), opened) {
            (Some(gateway), opened) => {
                gateway.opened(now, opened);
                self.gateways.schedule_pump(token);
            }
            (None, Ok(session)) => self.close_session(session),
            (None, Err(_)) => {}
        }
    }

    /// Passes a reply to the gateway connection that sent the request. Returns the reply if it is not a gateway
    /// connection.
    pub(super) fn answer_gateway(&mut self, token: Token, id: u64, reply: Reply) -> Option<Reply> {
        let gateway = self.connections.gateway_mut(token);
        let Some(gateway) = gateway else { return Some(reply) };
        gateway.handle_reply(id, reply);
        self.gateways.schedule_pump(token);
        None
    }
}

fn put_back(now: Time, conn: &mut Conn, gateway: GatewayConnection, out: BytesMut, options: &crate::net::Options) {
    conn.unanswered = gateway.waiting();
    let unread = conn.input().len();
    let patience = match conn.unprocessed {
        false => gateway.patience(unread, options),
        // The client has to read its output before more input is processed.
        true if !out.is_empty() => Some(options.idle_patience),
        // The client waits for this node, so no timeout runs.
        true => None,
    };
    if conn.phase() != Phase::Draining {
        conn.wait_for(now, patience);
    }
    conn.gateway = Some(gateway);
    *conn.lanes.ready() = out;
}

#[cfg(test)]
mod tests;
