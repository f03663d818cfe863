//! Reports failed connections to the part that logs them.

use super::Net;
use crate::net::failure::Failure;
use crate::net::role::Role;
use crate::types::{NodeId, Time};
use mio::Token;
use std::io;

impl Net {
    /// Logs that a connection failed. The caller then closes it.
    pub(super) fn failed(&mut self, now: Time, token: Token, failure: Failure) {
        if let Some(conn) = self.connections.get(token) {
            self.peers.failed(now, conn, failure);
        }
    }

    /// Logs that a connection failed with a socket error.
    pub(super) fn socket_failed(&mut self, now: Time, token: Token, error: &io::Error) {
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

    /// Whether a peer was heard recently, and a description of the peer with the fault of its connections.
    pub fn reach(&self, now: Time, peer: NodeId) -> (bool, String) {
        self.peers.reach(now, peer, &self.connections)
    }
}
