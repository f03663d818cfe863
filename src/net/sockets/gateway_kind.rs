//! Which gateway accepted a client: the Redis gateway or the HTTP gateway.

use crate::net::gateway_connection::GatewayConnection;
use crate::net::protocol_counters::ClientProtocol;

/// A gateway, which accepts clients of a protocol other than drave's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GatewayKind {
    /// Accepts Redis clients, on its own port.
    Redis,
    /// Accepts HTTP clients, on its own port.
    Http,
}

impl GatewayKind {
    /// The protocol under which the gateway is counted in metrics.
    pub(super) fn protocol(self) -> ClientProtocol {
        match self {
            GatewayKind::Redis => ClientProtocol::Redis,
            GatewayKind::Http => ClientProtocol::Http,
        }
    }

    /// The gateway that accepted a connection.
    pub fn of(gateway: &GatewayConnection) -> GatewayKind {
        match gateway {
            GatewayConnection::Redis(_) => GatewayKind::Redis,
            GatewayConnection::Http(_) => GatewayKind::Http,
        }
    }
}
