//! The connections to and from each peer, as far as they concern the peer: which there are, how many bytes they
//! carried, and why they failed.

use super::connections::Connections;
use crate::net::conn::Conn;
use crate::net::failure::{Failure, RecentLines};
use crate::net::links::{Link, Links};
use crate::net::options::Options;
use crate::net::resolver::Resolver;
use crate::net::role::Role;
use crate::net::waker::Waker;
use crate::types::{NodeId, Time};
use crate::wire::reason::Reason;
use mio::Token;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Maximum different lines logged within a minute about inbound connections. The caller influences their text.
const INBOUND_LINES: usize = 32;
/// Maximum different lines logged within a minute about dialed peers.
const OUTBOUND_LINES: usize = 256;
/// A peer counts as heard if anything was received from it within this time.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// The connections to and from each peer.
pub struct PeerLinks {
    me: NodeId,
    links: Links,
    resolver: Resolver,
    /// The inbound connection of each peer.
    inbound: BTreeMap<NodeId, Token>,
    /// Bytes written to each peer on connections that are closed.
    sent: BTreeMap<NodeId, u64>,
    /// Why the last attempt to reach each peer failed, in a word or two; removed once the peer is connected.
    causes: BTreeMap<NodeId, &'static str>,
    /// Lines logged about failed connections to peers, to avoid repeating them.
    outbound_lines: RecentLines,
    /// Lines logged about failed inbound connections.
    inbound_lines: RecentLines,
}

impl PeerLinks {
    /// No links of node `me`. Threads that resolve names wake the event loop.
    pub fn new(me: NodeId, options: &Options, waker: Waker) -> PeerLinks {
        PeerLinks {
            me,
            links: Links::new(me, options),
            resolver: Resolver::new(waker),
            inbound: BTreeMap::new(),
            sent: BTreeMap::new(),
            causes: BTreeMap::new(),
            outbound_lines: RecentLines::at_most(OUTBOUND_LINES),
            inbound_lines: RecentLines::at_most(INBOUND_LINES),
        }
    }

    /// The outbound link to a peer, if there is one.
    pub fn get(&self, peer: NodeId) -> Option<&Link> {
        self.links.get(peer)
    }

    /// The outbound connection to a peer, if the peer has accepted it.
    pub fn up(&self, peer: NodeId) -> Option<Token> {
        self.links.up(peer)
    }

    /// The inbound connection of a peer.
    pub fn inbound(&self, peer: NodeId) -> Option<Token> {
        self.inbound.get(&peer).copied()
    }

    /// How many peers have an inbound connection.
    #[cfg(test)]
    pub fn inbound_count(&self) -> usize {
        self.inbound.len()
    }

    /// The inbound connection of a peer, and the outbound one whether or not the peer has accepted it.
    pub fn connections_of(&self, peer: NodeId) -> impl Iterator<Item = Token> + use<> {
        self.inbound(peer).into_iter().chain(self.links.get(peer).and_then(Link::token))
    }

    /// When the next link is due to be dialed.
    pub fn deadline(&self) -> Time {
        self.links.deadline()
    }

    /// A peer whose link is due to be dialed, if there is one.
    pub fn due(&self, now: Time) -> Option<NodeId> {
        self.links.due(now)
    }

    /// Keeps exactly one link to each of these peers. Returns the connections that are to be closed.
    pub fn set(&mut self, wanted: BTreeMap<NodeId, Vec<String>>) -> Vec<Token> {
        self.links.set(wanted)
    }

    /// Begins to resolve the next address of a peer. Returns the result if it is known at once.
    pub fn resolve(&mut self, peer: NodeId) -> Option<io::Result<Vec<SocketAddr>>> {
        let address = self.links.get(peer)?.address().to_owned();
        match self.resolver.resolve(peer, &address) {
            Ok(Some(address)) => Some(Ok(vec![address])),
            Ok(None) => {
                self.links.resolving(peer);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// A name that was resolved on another thread, with the peer that it belongs to.
    pub fn take_resolved(&mut self) -> Option<(NodeId, io::Result<Vec<SocketAddr>>)> {
        self.resolver.take()
    }

    /// Whether a name was resolved on another thread since the last check.
    pub fn has_resolved(&mut self) -> bool {
        self.resolver.has_found()
    }

    /// Records the outbound connection on which a peer was dialed.
    pub fn dialed(&mut self, peer: NodeId, token: Token) {
        self.links.dialed(peer, token);
    }

    /// Records that a peer accepted an outbound connection.
    pub fn accepted(&mut self, peer: NodeId, token: Token) {
        self.causes.remove(&peer);
        self.links.answered(peer, token);
    }

    /// Records that an attempt to dial a peer failed, logs it, and schedules the next attempt.
    pub fn dial_failed(&mut self, now: Time, peer: NodeId, failure: Failure) {
        self.unreachable(now, peer, failure);
        self.links.fell(peer, now);
    }

    /// Records the inbound connection of a peer. Returns the one that it replaces.
    pub fn set_inbound(&mut self, peer: NodeId, token: Token) -> Option<Token> {
        self.inbound.insert(peer, token)
    }

    /// Dials a peer at once if its link is down, because the peer has just connected.
    pub fn hurry(&mut self, now: Time, peer: NodeId) {
        self.links.hurry(peer, now);
    }

    /// Records the end of an inbound connection. Returns false if a newer one had replaced it: then its end means
    /// nothing.
    pub fn inbound_closed(&mut self, peer: NodeId, token: Token) -> bool {
        let is_current = self.inbound(peer) == Some(token);
        if is_current {
            self.inbound.remove(&peer);
        }
        is_current
    }

    /// Records the end of an outbound connection that the peer had not accepted, and schedules the next attempt.
    pub fn dial_ended(&mut self, now: Time, peer: NodeId) {
        self.links.fell(peer, now);
    }

    /// Records the end of an outbound connection on which `sent` bytes were written, and schedules the next attempt.
    pub fn outbound_closed(&mut self, now: Time, peer: NodeId, sent: u64) {
        *self.sent.entry(peer).or_default() += sent;
        self.links.fell(peer, now);
    }

    /// Bytes written to each peer, by the peer's id.
    pub fn sent_bytes(&self, connections: &Connections) -> BTreeMap<u64, u64> {
        let mut all: BTreeMap<u64, u64> = self.sent.iter().map(|(peer, bytes)| (peer.get(), *bytes)).collect();
        for (peer, token) in self.links.all_up() {
            *all.entry(peer.get()).or_default() += connections.get(token).map_or(0, |conn| conn.lanes.sent());
        }
        all
    }

    /// Logs that a connection failed: each cause at most once a minute. The caller then closes it.
    pub fn failed(&mut self, now: Time, conn: &Conn, failure: Failure) {
        let node = self.me.get();
        match conn.role {
            Role::Connecting(peer) => self.unreachable(now, peer, failure),
            Role::OutboundPeer(peer) => {
                let line = format!("the connection to {peer} at {} was lost: {}", self.dialed_at(peer), failure.text);
                self.causes.insert(peer, failure.word);
                self.log_outbound(now, false, &line);
            }
            // Only TLS errors are of use to an operator: malformed bytes may come from anywhere.
            Role::Handshaking if failure.word == "TLS" => {
                let line = format!("a connection from {} failed: {}", host_of(Some(conn)), failure.text);
                self.warn_of_inbound(now, &line);
            }
            Role::Handshaking | Role::Client(_) | Role::GatewayClient(_) => {
                log::debug!(node; "a connection is closed: {}", failure.text);
            }
            Role::InboundPeer(peer) => log::debug!(node; "the connection from {peer} is closed: {}", failure.text),
        }
    }

    /// Logs that an inbound peer was rejected. Rejections because of a disk or a log have log lines of their own, with
    /// advice.
    pub fn log_rejected_peer(&mut self, now: Time, conn: Option<&Conn>, peer: NodeId, reason: Reason) {
        if matches!(reason, Reason::Disk | Reason::Twin | Reason::Log | Reason::Stopping) {
            return;
        }
        let from = host_of(conn);
        self.warn_of_inbound(now, &format!("the connection from {peer} at {from} was rejected: {reason}"));
    }

    /// Whether a peer was heard recently, and a description of the peer with the fault of its connections.
    pub fn reach(&self, now: Time, peer: NodeId, connections: &Connections) -> (bool, String) {
        let inbound = self.inbound(peer).and_then(|token| connections.get(token));
        let is_heard = inbound.is_some_and(|conn| now.since(conn.heard_at) < HEARD_WITHIN);
        let is_up = self.links.up(peer).is_some();
        let cause = self.causes.get(&peer).copied().unwrap_or("not connected");
        let words = match (is_heard, is_up) {
            (true, true) => peer.to_string(),
            (true, false) => format!("{peer} (cannot be reached: {cause})"),
            (false, true) => format!("{peer} (silent)"),
            (false, false) => format!("{peer} ({cause})"),
        };
        (is_heard, words)
    }

    fn unreachable(&mut self, now: Time, peer: NodeId, failure: Failure) {
        self.causes.insert(peer, failure.word);
        let line = format!("cannot reach {peer} at {}: {}", self.dialed_at(peer), failure.text);
        self.log_outbound(now, failure.is_lasting, &line);
    }

    fn dialed_at(&self, peer: NodeId) -> &str {
        self.links.get(peer).map_or("an unknown address", Link::address)
    }

    fn warn_of_inbound(&mut self, now: Time, line: &str) {
        if self.inbound_lines.is_new(now, line) {
            log::warn!(node = self.me.get(); "{line}");
        }
    }

    fn log_outbound(&mut self, now: Time, warns: bool, line: &str) {
        if self.outbound_lines.is_new(now, line) {
            let level = if warns { log::Level::Warn } else { log::Level::Info };
            log::log!(level, node = self.me.get(); "{line}");
        }
    }
}

/// The address of the other side without its port, which differs for each attempt.
fn host_of(conn: Option<&Conn>) -> String {
    let address = conn.and_then(|conn| conn.stream.socket().peer_addr().ok());
    address.map_or("an unknown address".to_owned(), |address| address.ip().to_string())
}
