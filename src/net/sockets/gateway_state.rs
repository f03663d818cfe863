//! The state shared by all gateway connections: listeners, counts of clients, sessions, and scheduled pumps. A pump of
//! a connection writes its due replies, and sends its due requests to the node.

use super::gateway_kind::GatewayKind;
use super::listener::{AcceptOutcome, Listener};
use super::session_closing::SessionCloser;
use crate::api::{Op, Reply, Request};
use crate::gateway::{http, redis};
use crate::limits::{MEMBERS_MAX, SESSION_WINDOW_MAX};
use crate::node::event::{Caller, Event};
use crate::types::{Membership, NodeId, SessionId, Time};
use mio::net::TcpListener;
use mio::{Registry, Token};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

/// The poll token of the Redis gateway's listener.
pub const REDIS_LISTENER_TOKEN: Token = Token(usize::MAX - 3);
/// The poll token of the HTTP gateway's listener.
pub const HTTP_LISTENER_TOKEN: Token = Token(usize::MAX - 4);
/// The caller of the gateways' requests that open and close sessions. It is not the number of a connection, because a
/// connection may be closed before its session is open.
pub const SESSION_CALLER: Caller = Caller::Client(u64::MAX - 1);

/// The gateways of a node, and the state shared by their connections.
#[derive(Debug, Default)]
pub struct Gateways {
    listeners: BTreeMap<GatewayKind, Listener>,
    /// The number of connected clients of each gateway.
    client_counts: BTreeMap<GatewayKind, usize>,
    /// The number of probes among the clients of the HTTP gateway.
    probe_count: usize,
    /// The number of the last request to open or close a session.
    last_request_number: u64,
    /// The connections whose sessions are being opened, by the number of the request that opens each.
    sessions_opening: BTreeMap<u64, Token>,
    session_closer: SessionCloser,
    /// Connections that may have replies to write or requests to send. A connection may be queued several times.
    pump_queue: Vec<Token>,
    /// When connections are to be pumped without an event, to retry a request; absent if no retry waits.
    pump_deadlines: BTreeMap<Token, Time>,
    /// Options of the Redis gateway, and the addresses of the peers' gateways.
    pub redis: RedisGateway,
    /// Options of the HTTP gateway, as set when it was opened or by a reload of the password.
    pub http_options: http::gateway::Options,
}

/// The state shared by all Redis connections.
#[derive(Debug, Default)]
pub struct RedisGateway {
    /// Options of the gateway, as set when it was opened or by a reload of the password.
    pub options: redis::gateway::Options,
    /// The address of each peer's Redis gateway as the peer announced it; empty if the peer has none.
    announced_addresses: BTreeMap<NodeId, String>,
}

impl Gateways {
    /// Opens a gateway on a listening socket. Returns the address of the socket.
    pub fn open(&mut self, registry: &Registry, kind: GatewayKind, socket: TcpListener) -> io::Result<SocketAddr> {
        let token = match kind {
            GatewayKind::Redis => REDIS_LISTENER_TOKEN,
            GatewayKind::Http => HTTP_LISTENER_TOKEN,
        };
        let listener = Listener::register(registry, token, socket)?;
        let address = listener.address()?;
        self.listeners.insert(kind, listener);
        Ok(address)
    }

    /// Stops listening at all gateways. Their clients stay connected.
    pub fn stop_listening(&mut self, registry: &Registry) {
        std::mem::take(&mut self.listeners).into_values().for_each(|listener| listener.close(registry));
    }

    /// The address that a gateway listens on; `None` if the gateway is not open.
    pub fn address(&self, kind: GatewayKind) -> Option<SocketAddr> {
        self.listeners.get(&kind).and_then(|listener| listener.address().ok())
    }

    /// Records that the poll reported connections to be accepted at a gateway.
    pub fn mark_accept_pending(&mut self, kind: GatewayKind) {
        if let Some(listener) = self.listeners.get_mut(&kind) {
            listener.mark_accept_pending();
        }
    }

    /// Accepts a connection at a gateway, if one waits.
    pub fn accept(&mut self, now: Time, kind: GatewayKind) -> AcceptOutcome {
        self.listeners.get_mut(&kind).map_or(AcceptOutcome::NonePending, |listener| listener.accept(now))
    }

    /// When a client is to be accepted, a connection pumped, or a session closed, even without an event.
    pub fn deadline(&self) -> Time {
        let accept_deadline = self.listeners.values().map(Listener::deadline).min().unwrap_or(Time::NEVER);
        let pump_deadline = if self.pump_queue.is_empty() { Time::NEVER } else { Time::ZERO };
        let session_close_deadline = self.session_closer.deadline();
        let timed_pump_deadline = self.pump_deadlines.values().copied().min().unwrap_or(Time::NEVER);
        accept_deadline.min(pump_deadline).min(session_close_deadline).min(timed_pump_deadline)
    }

    /// The number of clients connected to a gateway, including probes.
    pub fn client_count(&self, kind: GatewayKind) -> usize {
        self.client_counts.get(&kind).copied().unwrap_or(0)
    }

    /// The number of probes among the clients of the HTTP gateway.
    pub fn probe_count(&self) -> usize {
        self.probe_count
    }

    /// Counts an accepted client as connected.
    pub fn add_client(&mut self, kind: GatewayKind, is_probe: bool) {
        *self.client_counts.entry(kind).or_default() += 1;
        self.probe_count += usize::from(is_probe);
    }

    /// Subtracts a client whose connection was closed.
    pub fn remove_client(&mut self, kind: GatewayKind, is_probe: bool) {
        if let Some(client_count) = self.client_counts.get_mut(&kind) {
            *client_count -= 1;
        }
        self.probe_count -= usize::from(is_probe);
    }

    /// Schedules a pump of a connection, which may have replies to write or requests to send.
    pub fn schedule_pump(&mut self, token: Token) {
        self.pump_queue.push(token);
    }

    /// Sets when a connection is to be pumped without an event; [`Time::NEVER`] for no such pump.
    pub fn set_pump_deadline(&mut self, token: Token, at: Time) {
        match at {
            Time::NEVER => drop(self.pump_deadlines.remove(&token)),
            at => drop(self.pump_deadlines.insert(token, at)),
        }
    }

    /// Takes the connections to be pumped now, each once: the queued ones and those whose deadline has passed.
    pub fn take_pump_queue(&mut self, now: Time) -> Vec<Token> {
        if self.pump_deadlines.values().any(|at| *at <= now) {
            let due_connections = self.pump_deadlines.extract_if(.., |_, at| *at <= now);
            self.pump_queue.extend(due_connections.map(|(token, _)| token));
        }
        let mut pump_queue = std::mem::take(&mut self.pump_queue);
        pump_queue.sort_unstable();
        pump_queue.dedup();
        pump_queue
    }

    /// Gives the buffer of [`Gateways::take_pump_queue`] back for reuse. No pump schedules another pump, so the queue
    /// is usually empty here.
    pub fn recycle_pump_queue(&mut self, mut pump_queue: Vec<Token>) {
        pump_queue.clear();
        if self.pump_queue.is_empty() {
            self.pump_queue = pump_queue;
        }
    }

    /// Creates a request that opens a session for a connection.
    pub fn open_session_request(&mut self, token: Token) -> Event {
        let event = self.session_op_request(&Op::Open { window: SESSION_WINDOW_MAX, ordered: true });
        self.sessions_opening.insert(self.last_request_number, token);
        event
    }

    /// Creates a request that closes the session of a closed connection.
    pub fn close_session_request(&mut self, session: SessionId) -> Event {
        let event = self.session_op_request(&Op::Close { session });
        self.session_closer.record_close_request(self.last_request_number, session);
        event
    }

    /// Takes the sessions whose close was refused and is to be requested again now.
    pub fn session_closes_due(&mut self, now: Time) -> Vec<SessionId> {
        self.session_closer.take_due_closes(now)
    }

    /// Takes the connection for which the request `request_number` opens a session. `None` if that request closes one.
    pub fn take_session_opener(&mut self, request_number: u64) -> Option<Token> {
        self.sessions_opening.remove(&request_number)
    }

    /// Handles the reply to the request `request_number`, which closes a session.
    pub fn handle_session_close_reply(&mut self, now: Time, request_number: u64, reply: &Reply) {
        self.session_closer.handle_reply(now, request_number, reply);
    }

    fn session_op_request(&mut self, op: &Op) -> Event {
        self.last_request_number += 1;
        let request = Request::Propose { op: op.encode() };
        Event::Request { from: SESSION_CALLER, id: self.last_request_number, forward: true, request }
    }
}

impl RedisGateway {
    /// Records the address of a peer's Redis gateway, as announced in the peer's hello; empty if the peer has none.
    pub fn set_peer_address(&mut self, peer: NodeId, address: &str, members: &Membership) {
        if self.announced_addresses.len() >= 2 * MEMBERS_MAX {
            self.announced_addresses.retain(|id, _| members.members.contains_key(id));
        }
        self.announced_addresses.insert(peer, address.to_owned());
    }

    /// The address of a peer's Redis gateway as the peer announced it, empty if the peer has none. `None` if the peer
    /// has not connected yet.
    pub fn peer_address(&self, peer: NodeId) -> Option<&String> {
        self.announced_addresses.get(&peer)
    }
}
