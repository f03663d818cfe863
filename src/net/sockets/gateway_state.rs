//! The state shared by all gateway connections: listeners, counts of clients, sessions, and scheduled pumps.

use super::gateway_kind::GatewayKind;
use super::listener::{Accepted, Listener};
use super::session_closing::SessionClosing;
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

/// The token of the Redis gateway's listener.
pub const REDIS: Token = Token(usize::MAX - 3);
/// The token of the HTTP gateway's listener.
pub const HTTP: Token = Token(usize::MAX - 4);
/// The caller id for requests that open and close sessions: a connection may be closed before its session is open.
pub const SESSION_CALLER: Caller = Caller::Client(u64::MAX - 1);

/// The gateways of a node, and the state shared by their connections.
#[derive(Debug, Default)]
pub struct Gateways {
    listeners: BTreeMap<GatewayKind, Listener>,
    /// Connected clients of each gateway.
    clients: BTreeMap<GatewayKind, usize>,
    /// How many clients of the HTTP gateway are probes.
    probes: usize,
    /// The number of the last request to open or close a session.
    last_request: u64,
    /// The connections whose sessions are being opened, by the number of the request.
    opening: BTreeMap<u64, Token>,
    closing: SessionClosing,
    /// Connections that may have replies to write or requests to send.
    pumps: Vec<Token>,
    /// Connections with a deadline, and when it is due.
    wakes: BTreeMap<Token, Time>,
    /// The Redis gateway.
    pub redis: RedisGateway,
    /// Options of the HTTP gateway.
    pub http: http::gateway::Options,
}

/// The state shared by all Redis connections.
#[derive(Debug, Default)]
pub struct RedisGateway {
    /// Options of the gateway.
    pub options: redis::gateway::Options,
    /// The address of each peer's Redis gateway as the peer announced it; empty if it has none.
    addresses: BTreeMap<NodeId, String>,
}

impl Gateways {
    /// Opens a gateway. Returns its address.
    pub fn open(&mut self, registry: &Registry, kind: GatewayKind, socket: TcpListener) -> io::Result<SocketAddr> {
        let token = match kind {
            GatewayKind::Redis => REDIS,
            GatewayKind::Http => HTTP,
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

    /// The address that a gateway listens on, if it is open.
    pub fn address(&self, kind: GatewayKind) -> Option<SocketAddr> {
        self.listeners.get(&kind).and_then(|listener| listener.address().ok())
    }

    /// Marks that connections wait to be accepted at that gateway.
    pub fn mark_pending(&mut self, kind: GatewayKind) {
        if let Some(listener) = self.listeners.get_mut(&kind) {
            listener.mark_pending();
        }
    }

    /// Accepts a connection at that gateway, if one waits.
    pub fn accept(&mut self, now: Time, kind: GatewayKind) -> Accepted {
        self.listeners.get_mut(&kind).map_or(Accepted::Nothing, |listener| listener.accept(now))
    }

    /// When there is work to do even without an event.
    pub fn deadline(&self) -> Time {
        let accept = self.listeners.values().map(Listener::deadline).min().unwrap_or(Time::NEVER);
        let pump = if self.pumps.is_empty() { Time::NEVER } else { Time::ZERO };
        let close = self.closing.deadline();
        accept.min(pump).min(close).min(self.wakes.values().copied().min().unwrap_or(Time::NEVER))
    }

    /// How many clients are connected to that gateway.
    pub fn clients(&self, kind: GatewayKind) -> usize {
        self.clients.get(&kind).copied().unwrap_or(0)
    }

    /// How many clients of the HTTP gateway are probes.
    pub fn probes(&self) -> usize {
        self.probes
    }

    /// Counts a client that was accepted.
    pub fn client_accepted(&mut self, kind: GatewayKind, is_probe: bool) {
        *self.clients.entry(kind).or_default() += 1;
        self.probes += usize::from(is_probe);
    }

    /// Counts the end of a client's connection.
    pub fn client_closed(&mut self, kind: GatewayKind, is_probe: bool) {
        if let Some(clients) = self.clients.get_mut(&kind) {
            *clients -= 1;
        }
        self.probes -= usize::from(is_probe);
    }

    /// Schedules a pump of that connection: it may have replies to write or requests to send.
    pub fn schedule_pump(&mut self, token: Token) {
        self.pumps.push(token);
    }

    /// Schedules the next pump of that connection that is due without an event, or none.
    pub fn set_wake(&mut self, token: Token, at: Time) {
        match at {
            Time::NEVER => drop(self.wakes.remove(&token)),
            at => drop(self.wakes.insert(token, at)),
        }
    }

    /// Takes the connections to be pumped now, each once.
    pub fn take_pumps(&mut self, now: Time) -> Vec<Token> {
        if self.wakes.values().any(|at| *at <= now) {
            let due = self.wakes.extract_if(.., |_, at| *at <= now);
            self.pumps.extend(due.map(|(token, _)| token));
        }
        let mut pumps = std::mem::take(&mut self.pumps);
        pumps.sort_unstable();
        pumps.dedup();
        pumps
    }

    /// Returns the buffer of [`Gateways::take_pumps`] for reuse. A pump schedules no further pump; the answers to its
    /// requests do so later.
    pub fn reuse_pumps(&mut self, mut pumps: Vec<Token>) {
        pumps.clear();
        if self.pumps.is_empty() {
            self.pumps = pumps;
        }
    }

    /// A request that opens a session for that connection.
    pub fn request_session(&mut self, token: Token) -> Event {
        let event = self.session_request(&Op::Open { window: SESSION_WINDOW_MAX, ordered: true });
        self.opening.insert(self.last_request, token);
        event
    }

    /// A request that closes the session of a connection that has ended.
    pub fn request_session_close(&mut self, session: SessionId) -> Event {
        let event = self.session_request(&Op::Close { session });
        self.closing.asked(self.last_request, session);
        event
    }

    /// The sessions whose close was refused and is to be requested again now.
    pub fn session_closes_due(&mut self, now: Time) -> Vec<SessionId> {
        self.closing.due(now)
    }

    /// The connection for which the request of that number opens a session. It is forgotten.
    pub fn take_opening(&mut self, id: u64) -> Option<Token> {
        self.opening.remove(&id)
    }

    /// Handles the reply to the request of that number, which closes a session.
    pub fn session_close_answered(&mut self, now: Time, id: u64, reply: &Reply) {
        self.closing.answered(now, id, reply);
    }

    fn session_request(&mut self, op: &Op) -> Event {
        self.last_request += 1;
        let request = Request::Propose { op: op.encode() };
        Event::Request { from: SESSION_CALLER, id: self.last_request, forward: true, request }
    }
}

impl RedisGateway {
    /// Records the address of a peer's Redis gateway; empty if it has none.
    pub fn set_peer_address(&mut self, peer: NodeId, address: &str, members: &Membership) {
        if self.addresses.len() >= 2 * MEMBERS_MAX {
            self.addresses.retain(|id, _| members.members.contains_key(id));
        }
        self.addresses.insert(peer, address.to_owned());
    }

    /// The address of a peer's Redis gateway as the peer announced it; empty if it has none.
    pub fn peer_address(&self, peer: NodeId) -> Option<&String> {
        self.addresses.get(&peer)
    }
}
