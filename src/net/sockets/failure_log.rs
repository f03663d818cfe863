//! Logs failed connections between nodes: each cause at most once a minute.

use super::Net;
use crate::net::dialect::Role;
use crate::net::failure::Failure;
use crate::net::links::Link;
use crate::types::{NodeId, Time};
use crate::wire::reason::Reason;
use mio::Token;
use std::io;
use std::time::Duration;

/// Maximum different lines logged within a minute about inbound connections. The caller influences their text.
pub const CALLER_LINES: usize = 32;
/// Maximum different lines logged within a minute about dialed peers.
pub const PEER_LINES: usize = 256;
/// A peer counts as heard if anything was received from it within this time.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

impl Net {
    /// Logs that a connection failed. The caller then closes it.
    pub(super) fn failed(&mut self, now: Time, token: Token, failure: Failure) {
        let Some(conn) = self.connections.get(token) else { return };
        let node = self.me.node.get();
        match conn.role {
            Role::Connecting(peer) => self.unreachable(now, peer, failure),
            Role::OutboundPeer(peer) => {
                let line = format!("the connection to {peer} at {} was lost: {}", self.dialed_at(peer), failure.text);
                self.causes.insert(peer, failure.word);
                self.log_once(now, false, &line);
            }
            // Only TLS errors are of use to an operator: malformed bytes may come from anywhere.
            Role::Handshaking if failure.word == "TLS" => {
                // The port is left out: it differs for each attempt.
                let from = conn.stream.socket().peer_addr().map(|address| address.ip().to_string());
                let from = from.as_deref().unwrap_or("an unknown address");
                let line = format!("a connection from {from} failed: {}", failure.text);
                self.warn_of_caller(now, &line);
            }
            Role::Handshaking | Role::Client(_) | Role::GatewayClient(_) => {
                log::debug!(node; "a connection is closed: {}", failure.text);
            }
            Role::InboundPeer(peer) => log::debug!(node; "the connection from {peer} is closed: {}", failure.text),
        }
    }

    /// Logs that a connection failed with a socket error.
    pub(super) fn broke(&mut self, now: Time, token: Token, error: &io::Error) {
        self.failed(now, token, Failure::of_socket(error));
    }

    /// Logs that the other side closed the connection, if its role makes that unexpected.
    pub(super) fn ended_early(&mut self, now: Time, token: Token) {
        match self.connections.get(token).map(|conn| conn.role) {
            Some(Role::Connecting(_)) => self.failed(now, token, Failure::closed_early(self.options.keys.is_some())),
            Some(Role::OutboundPeer(_)) => self.failed(now, token, Failure::closed()),
            _ => {}
        }
    }

    /// Logs that a peer cannot be reached.
    pub(super) fn unreachable(&mut self, now: Time, peer: NodeId, failure: Failure) {
        self.causes.insert(peer, failure.word);
        let line = format!("cannot reach {peer} at {}: {}", self.dialed_at(peer), failure.text);
        self.log_once(now, failure.is_lasting, &line);
    }

    /// Logs that an inbound peer was rejected. Rejections because of a disk or a log have log lines of their own, with
    /// advice.
    pub(super) fn log_rejected_peer(&mut self, now: Time, token: Token, peer: NodeId, reason: Reason) {
        if matches!(reason, Reason::Disk | Reason::Twin | Reason::Log | Reason::Stopping) {
            return;
        }
        let from = self.connections.get(token).and_then(|conn| conn.stream.socket().peer_addr().ok());
        let from = from.map_or("an unknown address".to_owned(), |address| address.ip().to_string());
        self.warn_of_caller(now, &format!("the connection from {peer} at {from} was rejected: {reason}"));
    }

    fn dialed_at(&self, peer: NodeId) -> &str {
        self.links.get(peer).map_or("an unknown address", Link::address)
    }

    fn warn_of_caller(&mut self, now: Time, line: &str) {
        if self.said_of_callers.is_new(now, line) {
            log::warn!(node = self.me.node.get(); "{line}");
        }
    }

    fn log_once(&mut self, now: Time, warns: bool, line: &str) {
        if self.said.is_new(now, line) {
            let level = if warns { log::Level::Warn } else { log::Level::Info };
            log::log!(level, node = self.me.node.get(); "{line}");
        }
    }

    /// Whether a peer was heard recently, and a description of the peer with the fault of its connections.
    pub fn reach(&self, now: Time, peer: NodeId) -> (bool, String) {
        let speaker = self.inbound_peers.get(&peer).and_then(|token| self.connections.get(*token));
        let is_heard = speaker.is_some_and(|conn| now.since(conn.heard_at) < HEARD_WITHIN);
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
}
