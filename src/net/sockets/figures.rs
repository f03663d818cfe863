//! The network layer's part of the node's statistics.

use super::Net;
use super::gateway_kind::GatewayKind;
use crate::api::figures::Counters;

impl Net {
    /// Adds the counts of connections, of clients and requests by protocol, and of bytes sent to each peer.
    pub fn add_network_counters(&self, figures: &mut Counters) {
        figures.sent_bytes = self.peer_links.sent_bytes(&self.connections);
        // Connections are not counted one by one: there may be ten thousand, and each may request the status.
        let [redis, http] = [GatewayKind::Redis, GatewayKind::Http].map(|kind| self.gateways.client_count(kind));
        let (native, handshaking) =
            (self.connections.client_count() - redis - http, self.connections.handshaking_count());
        let peer_connections = self.connections.len() - self.connections.client_count() - handshaking;
        let connections_by_kind = [
            ("native", native),
            ("redis", redis),
            ("http", http),
            ("peer", peer_connections),
            ("unknown", handshaking),
        ];
        figures.gateways = self.protocol_counters.figures();
        figures.connections = connections_by_kind.map(|(kind, count)| (kind.to_owned(), count as u64)).into();
    }
}
