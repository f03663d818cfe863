//! The kinds of gateways.

use crate::net::counting::Gateway;
use crate::net::gateway_connection::GatewayConnection;

/// The kind of a gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GatewayKind {
    /// The Redis gateway.
    Redis,
    /// The HTTP gateway.
    Http,
}

impl GatewayKind {
    /// The gateway, as counted in metrics.
    pub(super) fn gateway(self) -> Gateway {
        match self {
            GatewayKind::Redis => Gateway::Redis,
            GatewayKind::Http => Gateway::Http,
        }
    }

    /// The gateway of a connection.
    pub fn of(gateway: &GatewayConnection) -> GatewayKind {
        match gateway {
            GatewayConnection::Redis(_) => GatewayKind::Redis,
            GatewayConnection::Http(_) => GatewayKind::Http,
        }
    }
}
