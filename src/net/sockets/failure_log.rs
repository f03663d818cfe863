//! Logs failed connections. [`PeerLinks`](super::peer_links::PeerLinks) limits the rate of the lines.

use super::Net;
use crate::net::failure::ConnectionFailure;
use crate::net::role::Role;
use crate::types::{NodeId, Time};
use mio::Token;
use std::io;

impl Net {
    /// Logs that a connection failed. The caller then closes the connection.
    pub(super) fn log_failure(&mut self, now: Time, token: Token, failure: ConnectionFailure) {
        if let Some(conn) = self.connections.get(token) {
            self.peer_links.log_failure(now, conn, failure);
        }
    }

    /// Logs that a connection failed with an error of its socket. The caller then closes the connection.
    pub(super) fn log_socket_error(&mut self, now: Time, token: Token, error: &io::Error) {
        self.log_failure(now, token, ConnectionFailure::of_socket(error));
    }

    /// Logs that the other side closed an outbound connection. Clients and inbound peers may close at any time, which
    /// is not logged.
    pub(super) fn log_unexpected_close(&mut self, now: Time, token: Token) {
        match self.connections.get(token).map(|conn| conn.role) {
            Some(Role::Connecting(_)) => {
                self.log_failure(now, token, ConnectionFailure::closed_early(self.options.keys.is_some()))
            }
            Some(Role::OutboundPeer(_)) => self.log_failure(now, token, ConnectionFailure::closed()),
            _ => {}
        }
    }

    /// Whether anything was received from a peer recently, and a description of the peer with the problem of its
    /// connections, if there is one.
    pub fn reachability(&self, now: Time, peer: NodeId) -> (bool, String) {
        self.peer_links.reachability(now, peer, &self.connections)
    }
}
