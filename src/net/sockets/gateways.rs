//! The gateways' sockets: accept Redis and HTTP clients, pass their requests to the node, and pass the node's replies
//! back.

use super::closing::Closing;
use super::gateway_kind::GatewayKind;
use super::seats::Port;
use super::{Net, REST};
use crate::api::{Op, Outcome, Reply, Request};
use crate::limits::SESSION_WINDOW_MAX;
use crate::net::conn::{Conn, Phase};
use crate::net::dialect::Role;
use crate::net::gateway_connection::GatewayConnection;
use crate::net::http;
use crate::net::resp::connection::RedisConnection;
use crate::net::resp::local::ClientState;
use crate::net::stream;
use crate::node::event::{Caller, Event};
use crate::pipeline::NodeRequest;
use crate::secure::Stream;
use crate::types::{SessionId, Time};
use bytes::BytesMut;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};

/// The token of the Redis gateway's listener.
pub const REDIS: Token = Token(usize::MAX - 3);
/// The token of the HTTP gateway's listener.
pub const HTTP: Token = Token(usize::MAX - 4);
/// The caller id for requests that open and close sessions: a connection may be closed before its session is open.
pub const DOOR: Caller = Caller::Client(u64::MAX - 1);
/// Maximum clients accepted before the accepted ones are read.
const ACCEPTS: usize = 64;

/// The listener of one gateway.
#[derive(Debug)]
struct GatewayListener {
    listener: TcpListener,
    /// Whether connections may be waiting to be accepted, and from when on they are accepted.
    callers: bool,
    accept_at: Time,
}

/// State shared by all gateway connections.
#[derive(Debug, Default)]
pub struct Doors {
    entrances: BTreeMap<GatewayKind, GatewayListener>,
    /// Connected clients of each gateway.
    pub inside: BTreeMap<GatewayKind, usize>,
    /// How many clients of the HTTP gateway are probes.
    pub probes: usize,
    /// The number of the last request to open or close a session; and the connections whose sessions are being opened.
    asked: u64,
    opening: BTreeMap<u64, Token>,
    closing: Closing,
    /// Connections that may have replies to write or requests to send.
    pumps: Vec<Token>,
    /// Connections with a deadline, and when it is due.
    wakes: BTreeMap<Token, Time>,
}

impl Doors {
    /// When there is work to do even without an event.
    pub fn deadline(&self) -> Time {
        let knocked = self.entrances.values().filter(|entrance| entrance.callers);
        let accept = knocked.map(|entrance| entrance.accept_at).min().unwrap_or(Time::NEVER);
        let pump = if self.pumps.is_empty() { Time::NEVER } else { Time::ZERO };
        let close = self.closing.deadline();
        accept.min(pump).min(close).min(self.wakes.values().copied().min().unwrap_or(Time::NEVER))
    }

    /// Marks that connections wait to be accepted at that gateway.
    pub fn knocked(&mut self, door: GatewayKind) {
        if let Some(entrance) = self.entrances.get_mut(&door) {
            entrance.callers = true;
        }
    }

    /// Schedules a pump of that connection: it may have replies to write or requests to send.
    pub fn pump_soon(&mut self, token: Token) {
        self.pumps.push(token);
    }

    /// The address that a gateway listens on, if it is open.
    pub fn address(&self, door: GatewayKind) -> Option<SocketAddr> {
        self.entrances.get(&door).and_then(|entrance| entrance.listener.local_addr().ok())
    }
}

impl Net {
    /// Opens a gateway. Returns its address.
    pub(super) fn open_door(&mut self, door: GatewayKind, mut listener: TcpListener) -> io::Result<SocketAddr> {
        let token = match door {
            GatewayKind::Redis => REDIS,
            GatewayKind::Http => HTTP,
        };
        self.poll.registry().register(&mut listener, token, Interest::READABLE)?;
        let address = listener.local_addr()?;
        self.gateways.entrances.insert(door, GatewayListener { listener, callers: false, accept_at: Time::ZERO });
        Ok(address)
    }

    /// Stops listening at all gateways.
    pub(super) fn close_doors(&mut self) {
        for mut entrance in std::mem::take(&mut self.gateways.entrances).into_values() {
            let _either_way_it_is_dropped = self.poll.registry().deregister(&mut entrance.listener);
        }
    }

    pub(super) fn accept_at_doors(&mut self, now: Time) {
        for door in [GatewayKind::Redis, GatewayKind::Http] {
            self.accept_at(now, door);
        }
    }

    fn accept_at(&mut self, now: Time, door: GatewayKind) {
        for _ in 0..ACCEPTS {
            let entrance = self.gateways.entrances.get_mut(&door);
            let Some(entrance) = entrance.filter(|entrance| entrance.callers && entrance.accept_at <= now) else {
                return;
            };
            match entrance.listener.accept() {
                Ok((stream, _)) => self.admit(now, door, stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => entrance.callers = false,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::warn!(node = self.membership.me().node.get(); "cannot accept a client: {error}; retrying soon");
                    entrance.accept_at = now + REST;
                }
            }
        }
    }

    fn admit(&mut self, now: Time, door: GatewayKind, socket: TcpStream) {
        let _if_not_it_is_slower = stream::tune_caller(&socket);
        let Ok(mut stream) = Stream::accepted(self.options.keys.as_ref(), socket) else { return };
        // When no seat is free, an HTTP client is still accepted as a probe, to get the health of the node.
        let probes = !self.has_seat(Port::Gateway(door));
        if probes && (door != GatewayKind::Http || self.gateways.probes >= self.options.probes_max) {
            self.counting.turned_away(door.gateway());
            let _told_or_not = stream.write(match door {
                GatewayKind::Redis => b"-ERR max number of clients reached\r\n".as_slice(),
                GatewayKind::Http => http::response::FULL,
            });
            return;
        }
        let Ok(token) = self.insert(now, stream, Role::GatewayClient(0)) else { return };
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        conn.become_gateway_client();
        let speech = match door {
            GatewayKind::Redis => {
                let known = self.redis.options.password.is_none();
                GatewayConnection::Redis(Box::new(RedisConnection::new(ClientState {
                    id: token.0 as i64,
                    known,
                    ..ClientState::default()
                })))
            }
            GatewayKind::Http => GatewayConnection::Http(Box::new(http::connection::HttpConnection::new(probes))),
        };
        put_back(now, &mut conn, speech, BytesMut::new(), &self.options);
        self.counting.accepted(door.gateway());
        *self.gateways.inside.entry(door).or_default() += 1;
        self.gateways.probes += usize::from(probes);
    }

    /// Processes complete requests until the connection has to wait.
    pub(super) fn converse(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let Some(mut speech) = conn.gateway.take() else { return };
        let mut out = std::mem::take(conn.lanes.ready());
        let goes_on = match &mut speech {
            GatewayConnection::Redis(talk) => self.converse_redis(now, token, talk, &mut out),
            GatewayConnection::Http(talk) => self.converse_http(now, token, talk, &mut out),
        };
        self.counting.add(GatewayKind::of(&speech).gateway(), speech.tally());
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        if !out.is_empty() {
            conn.schedule_write();
        }
        put_back(now, &mut conn, speech, out, &self.options);
        self.connections.schedule_sweep(now);
        if goes_on { self.pump(now, token) } else { self.close(now, token) }
    }

    /// Handles the end of the client's stream. The client may still read, so its requests are answered and the replies
    /// written.
    pub(super) fn ended(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let has_unwritten = !conn.has_written_all() && conn.phase() != Phase::Draining;
        match &mut conn.gateway {
            Some(speech) if speech.waiting() > 0 => {
                speech.leave();
                conn.readable = false;
            }
            Some(speech) if has_unwritten => {
                speech.leave();
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
        self.gateways.closing.due(now).into_iter().for_each(|session| self.close_session(session));
        if self.gateways.wakes.values().any(|at| *at <= now) {
            let due = self.gateways.wakes.extract_if(.., |_, at| *at <= now);
            let due: Vec<Token> = due.map(|(token, _)| token).collect();
            self.gateways.pumps.extend(due);
        }
        let mut pumps = std::mem::take(&mut self.gateways.pumps);
        pumps.sort_unstable();
        pumps.dedup();
        pumps.drain(..).for_each(|token| self.pump(now, token));
        // A pump schedules no further pump. The answers to its requests do so later, so the buffer can be reused.
        if self.gateways.pumps.is_empty() {
            self.gateways.pumps = pumps;
        }
    }

    fn pump(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        let Some(mut speech) = conn.gateway.take() else { return };
        let rests = conn.is_held_back(&self.options, conn.pressure());
        let mut out = std::mem::take(conn.lanes.ready());
        let before = out.len();
        let mut wants = Vec::new();
        speech.pump(now, &mut out, rests, &mut wants);
        self.counting.add(GatewayKind::of(&speech).gateway(), speech.tally());
        match speech.deadline() {
            Time::NEVER => drop(self.gateways.wakes.remove(&token)),
            at => drop(self.gateways.wakes.insert(token, at)),
        }
        let leaves = speech.is_leaving() && speech.waiting() == 0;
        let says = out.len() > before;
        put_back(now, &mut conn, speech, out, &self.options);
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
                NodeRequest::Session => {
                    let event = self.door(&Op::Open { window: SESSION_WINDOW_MAX, ordered: true });
                    self.gateways.opening.insert(self.gateways.asked, token);
                    event
                }
            };
            self.events.push(event);
        }
    }

    /// A request that opens or closes a session.
    fn door(&mut self, op: &Op) -> Event {
        self.gateways.asked += 1;
        Event::Request {
            from: DOOR,
            id: self.gateways.asked,
            forward: true,
            request: Request::Propose { op: op.encode() },
        }
    }

    /// Closes the session of a connection that has ended.
    pub(super) fn close_session(&mut self, session: SessionId) {
        let event = self.door(&Op::Close { session });
        self.gateways.closing.asked(self.gateways.asked, session);
        self.events.push(event);
    }

    /// Handles the reply to a request that opened or closed a session.
    pub(super) fn door_heard(&mut self, now: Time, id: u64, reply: Reply) {
        let Some(token) = self.gateways.opening.remove(&id) else {
            return self.gateways.closing.answered(now, id, &reply);
        };
        let opened = match reply {
            Reply::Done { outcome: Outcome::Opened { session }, .. } => Ok(session),
            Reply::Refused(refusal) => Err(Some(refusal)),
            // If the session was opened all the same, it expires by itself.
            _ => Err(None),
        };
        match (self.connections.gateway_mut(token), opened) {
            (Some(speech), opened) => {
                speech.opened(now, opened);
                self.gateways.pump_soon(token);
            }
            (None, Ok(session)) => self.close_session(session),
            (None, Err(_)) => {}
        }
    }

    /// Passes a reply to the gateway connection that sent the request. Returns the reply if it is not a gateway
    /// connection.
    pub(super) fn guest_heard(&mut self, token: Token, id: u64, reply: Reply) -> Option<Reply> {
        let speech = self.connections.gateway_mut(token);
        let Some(speech) = speech else { return Some(reply) };
        speech.hear(id, reply);
        self.gateways.pump_soon(token);
        None
    }
}

fn put_back(now: Time, conn: &mut Conn, speech: GatewayConnection, out: BytesMut, options: &crate::net::Options) {
    conn.unanswered = speech.waiting();
    let unread = conn.input().len();
    let patience = match conn.unprocessed {
        false => speech.patience(unread, options),
        // The client has to read its output before more input is processed.
        true if !out.is_empty() => Some(options.idle_patience),
        // The client waits for this node, so no timeout runs.
        true => None,
    };
    if conn.phase() != Phase::Draining {
        conn.wait_for(now, patience);
    }
    conn.gateway = Some(speech);
    *conn.lanes.ready() = out;
}

#[cfg(test)]
mod tests;
