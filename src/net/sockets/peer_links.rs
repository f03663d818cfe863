//! The inbound and outbound connection of each peer: their tokens, the bytes sent on them, and why they failed.

use super::connections::Connections;
use crate::net::conn::Conn;
use crate::net::failure::{ConnectionFailure, RecentLogLines};
use crate::net::links::{OutboundLink, OutboundLinks};
use crate::net::options::Options;
use crate::net::resolver::Resolver;
use crate::net::role::Role;
use crate::net::waker::Waker;
use crate::types::{NodeId, Time};
use crate::wire::reason::HelloRejection;
use mio::Token;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Maximum different lines logged within a minute about inbound connections. The number is small, because anyone who
/// connects influences the text of these lines.
const INBOUND_LOG_LINES_MAX: usize = 32;
/// Maximum different lines logged within a minute about outbound connections.
const OUTBOUND_LOG_LINES_MAX: usize = 256;
/// A peer counts as responding if anything was received from it within this time.
const CONTACT_AGE_MAX: Duration = Duration::from_secs(2);

/// The inbound and outbound connection of each peer.
pub struct PeerLinks {
    me: NodeId,
    links: OutboundLinks,
    resolver: Resolver,
    /// The inbound connection of each peer; absent if the peer is not connected.
    inbound_connections: BTreeMap<NodeId, Token>,
    /// The bytes that were sent to each peer on connections that are closed now.
    sent_bytes_on_closed: BTreeMap<NodeId, u64>,
    /// The cause of the last failure to reach each peer, in one or two words; removed once the peer is connected.
    failure_causes: BTreeMap<NodeId, &'static str>,
    /// The lines logged about outbound connections within the last minute.
    outbound_log_lines: RecentLogLines,
    /// The lines logged about inbound connections within the last minute.
    inbound_log_lines: RecentLogLines,
}

impl PeerLinks {
    /// Creates the links of node `me`, without a peer yet. Lookup threads wake the event loop with `waker`.
    pub fn new(me: NodeId, options: &Options, waker: Waker) -> PeerLinks {
        PeerLinks {
            me,
            links: OutboundLinks::new(me, options),
            resolver: Resolver::new(waker),
            inbound_connections: BTreeMap::new(),
            sent_bytes_on_closed: BTreeMap::new(),
            failure_causes: BTreeMap::new(),
            outbound_log_lines: RecentLogLines::new(OUTBOUND_LOG_LINES_MAX),
            inbound_log_lines: RecentLogLines::new(INBOUND_LOG_LINES_MAX),
        }
    }

    /// The outbound link to a peer; `None` if the peer has no known address.
    pub fn get(&self, peer: NodeId) -> Option<&OutboundLink> {
        self.links.get(peer)
    }

    /// The outbound connection to a peer; `None` unless the peer has accepted it.
    pub fn outbound_connection(&self, peer: NodeId) -> Option<Token> {
        self.links.connection(peer)
    }

    /// The inbound connection of a peer; `None` if the peer is not connected.
    pub fn inbound_connection(&self, peer: NodeId) -> Option<Token> {
        self.inbound_connections.get(&peer).copied()
    }

    /// The number of peers with an inbound connection.
    #[cfg(test)]
    pub fn inbound_count(&self) -> usize {
        self.inbound_connections.len()
    }

    /// Both connections of a peer: the inbound one, and the outbound one even if the peer has not accepted it yet.
    pub fn connections_of(&self, peer: NodeId) -> impl Iterator<Item = Token> + use<> {
        self.inbound_connection(peer).into_iter().chain(self.links.get(peer).and_then(OutboundLink::token))
    }

    /// When the next link is due to be dialed; never if no link is down.
    pub fn deadline(&self) -> Time {
        self.links.next_dial_at()
    }

    /// A peer whose link is due to be dialed; `None` if no dial is due.
    pub fn next_to_dial(&self, now: Time) -> Option<NodeId> {
        self.links.next_peer_to_dial(now)
    }

    /// Sets the peers to dial and their addresses. Returns the connections of removed links, for the caller to close.
    pub fn set_peers(&mut self, addresses_by_peer: BTreeMap<NodeId, Vec<String>>) -> Vec<Token> {
        self.links.set_peers(addresses_by_peer)
    }

    /// Resolves the next address of a peer. Returns the result if it is known at once, as for an IP address; otherwise
    /// a lookup starts on another thread.
    pub fn resolve(&mut self, peer: NodeId) -> Option<io::Result<Vec<SocketAddr>>> {
        let address = self.links.get(peer)?.address().to_owned();
        match self.resolver.resolve(peer, &address) {
            Ok(Some(address)) => Some(Ok(vec![address])),
            Ok(None) => {
                self.links.mark_resolving(peer);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes the result of a lookup on another thread, with the peer that it is for; `None` if no lookup has ended.
    pub fn take_lookup_result(&mut self) -> Option<(NodeId, io::Result<Vec<SocketAddr>>)> {
        self.resolver.take_result()
    }

    /// Whether a lookup on another thread has ended whose result was not taken yet.
    pub fn has_lookup_result(&mut self) -> bool {
        self.resolver.has_result()
    }

    /// Records the outbound connection on which a peer was dialed.
    pub fn record_dialed(&mut self, peer: NodeId, token: Token) {
        self.links.mark_dialed(peer, token);
    }

    /// Records that a peer accepted an outbound connection: its link is up.
    pub fn record_accepted(&mut self, peer: NodeId, token: Token) {
        self.failure_causes.remove(&peer);
        self.links.mark_up(peer, token);
    }

    /// Records and logs that a peer could not be dialed, and schedules the next attempt.
    pub fn record_dial_failure(&mut self, now: Time, peer: NodeId, failure: ConnectionFailure) {
        self.record_unreachable(now, peer, failure);
        self.links.mark_down(peer, now);
    }

    /// Records the inbound connection of a peer. Returns the connection that it replaces, if there was one.
    pub fn set_inbound_connection(&mut self, peer: NodeId, token: Token) -> Option<Token> {
        self.inbound_connections.insert(peer, token)
    }

    /// Schedules the next dial for now if the link is down. Called when the peer has just connected, and so is
    /// reachable.
    pub fn dial_now(&mut self, now: Time, peer: NodeId) {
        self.links.dial_now(peer, now);
    }

    /// Records that an inbound connection of a peer was closed. Returns false if a newer inbound connection of
    /// the peer had replaced it: then the peer is still connected.
    pub fn record_inbound_closed(&mut self, peer: NodeId, token: Token) -> bool {
        let is_current = self.inbound_connection(peer) == Some(token);
        if is_current {
            self.inbound_connections.remove(&peer);
        }
        is_current
    }

    /// Records that an outbound connection was closed before the peer accepted it, and schedules the next attempt.
    pub fn record_dial_closed(&mut self, now: Time, peer: NodeId) {
        self.links.mark_down(peer, now);
    }

    /// Records that an outbound connection was closed after `sent_bytes` were sent, and schedules the next attempt.
    pub fn record_outbound_closed(&mut self, now: Time, peer: NodeId, sent_bytes: u64) {
        *self.sent_bytes_on_closed.entry(peer).or_default() += sent_bytes;
        self.links.mark_down(peer, now);
    }

    /// The bytes sent to each peer since the start, on open and closed connections, by the peer's id.
    pub fn sent_bytes(&self, connections: &Connections) -> BTreeMap<u64, u64> {
        let mut bytes_by_peer: BTreeMap<u64, u64> =
            self.sent_bytes_on_closed.iter().map(|(peer, bytes)| (peer.get(), *bytes)).collect();
        for (peer, token) in self.links.connections() {
            *bytes_by_peer.entry(peer.get()).or_default() +=
                connections.get(token).map_or(0, |conn| conn.output.sent_bytes());
        }
        bytes_by_peer
    }

    /// Logs that a connection failed, each line at most once a minute. The caller then closes the connection.
    pub fn log_failure(&mut self, now: Time, conn: &Conn, failure: ConnectionFailure) {
        let node = self.me.get();
        match conn.role {
            Role::Connecting(peer) => self.record_unreachable(now, peer, failure),
            Role::OutboundPeer(peer) => {
                let line = format!(
                    "the connection to {peer} at {} was lost: {}",
                    self.link_address(peer),
                    failure.description
                );
                self.failure_causes.insert(peer, failure.short_cause);
                self.log_outbound(now, false, &line);
            }
            // Only TLS errors help an operator: malformed bytes may come from anyone.
            Role::Handshaking if failure.short_cause == "TLS" => {
                let line = format!("a connection from {} failed: {}", host_of(Some(conn)), failure.description);
                self.log_inbound_warning(now, &line);
            }
            Role::Handshaking | Role::Client(_) | Role::GatewayClient(_) => {
                log::debug!(node; "a connection is closed: {}", failure.description);
            }
            Role::InboundPeer(peer) => {
                log::debug!(node; "the connection from {peer} is closed: {}", failure.description)
            }
        }
    }

    /// Logs that the hello of a peer was rejected, with the reason in words. Rejections because of the disk, the log or a second process have log
    /// lines of their own, with advice.
    pub fn log_rejected_peer(
        &mut self,
        now: Time,
        conn: Option<&Conn>,
        peer: NodeId,
        (reason, text): (HelloRejection, &str),
    ) {
        if matches!(
            reason,
            HelloRejection::UnknownDisk | HelloRejection::CopiedDisk | HelloRejection::Log | HelloRejection::Stopping
        ) {
            return;
        }
        let host = host_of(conn);
        self.log_inbound_warning(now, &format!("the connection from {peer} at {host} was rejected: {text}"));
    }

    /// Whether anything was received from a peer recently, and a description of the peer with the problem of its
    /// connections, if there is one.
    pub fn reachability(&self, now: Time, peer: NodeId, connections: &Connections) -> (bool, String) {
        let inbound_conn = self.inbound_connection(peer).and_then(|token| connections.get(token));
        let has_contact = inbound_conn.is_some_and(|conn| now.since(conn.last_read_at) < CONTACT_AGE_MAX);
        let link_is_up = self.links.connection(peer).is_some();
        let cause = self.failure_causes.get(&peer).copied().unwrap_or("not connected");
        let description = match (has_contact, link_is_up) {
            (true, true) => peer.to_string(),
            (true, false) => format!("{peer} (cannot be reached: {cause})"),
            (false, true) => format!("{peer} (silent)"),
            (false, false) => format!("{peer} ({cause})"),
        };
        (has_contact, description)
    }

    fn record_unreachable(&mut self, now: Time, peer: NodeId, failure: ConnectionFailure) {
        self.failure_causes.insert(peer, failure.short_cause);
        let line = format!("cannot reach {peer} at {}: {}", self.link_address(peer), failure.description);
        self.log_outbound(now, failure.needs_operator, &line);
    }

    fn link_address(&self, peer: NodeId) -> &str {
        self.links.get(peer).map_or("an unknown address", OutboundLink::address)
    }

    fn log_inbound_warning(&mut self, now: Time, line: &str) {
        if self.inbound_log_lines.record_if_new(now, line) {
            log::warn!(node = self.me.get(); "{line}");
        }
    }

    fn log_outbound(&mut self, now: Time, is_warning: bool, line: &str) {
        if self.outbound_log_lines.record_if_new(now, line) {
            let level = if is_warning { log::Level::Warn } else { log::Level::Info };
            log::log!(level, node = self.me.get(); "{line}");
        }
    }
}

/// The IP address of the other side, without the port. The port differs for each attempt, and the rate limit of log
/// lines compares the text.
fn host_of(conn: Option<&Conn>) -> String {
    let address = conn.and_then(|conn| conn.stream.socket().peer_addr().ok());
    address.map_or("an unknown address".to_owned(), |address| address.ip().to_string())
}
