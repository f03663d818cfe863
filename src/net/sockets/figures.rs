//! The sockets' part of the node's statistics.

use super::Net;
use super::gateway_kind::GatewayKind;
use crate::api::figures::Counters;

impl Net {
    /// Adds the statistics of the sockets.
    pub fn complete(&self, figures: &mut Counters) {
        figures.sent_bytes = self.peers.sent_bytes(&self.connections);
        // Connections are not counted one by one: there may be ten thousand, and each may request the status.
        let [redis, http] = [GatewayKind::Redis, GatewayKind::Http].map(|kind| self.gateways.clients(kind));
        let (native, unknown) = (self.connections.clients() - redis - http, self.connections.handshaking());
        let peers = self.connections.len() - self.connections.clients() - unknown;
        let all = [("native", native), ("redis", redis), ("http", http), ("peer", peers), ("unknown", unknown)];
        figures.gateways = self.counting.figures();
        figures.connections = all.map(|(door, count)| (door.to_owned(), count as u64)).into();
    }
}
