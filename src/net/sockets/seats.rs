//! Seats: how many clients may be connected, and how many seats are reserved for each port.
//!
//! A pool of Redis clients that leaks connections must not lock out the operator who has to investigate it. Each open
//! port therefore has reserved seats that clients of other ports cannot take. Native clients cannot take all seats
//! either: some are reserved for operators' commands, which identify themselves when there is no seat for clients.
//! Peers need no seat.

use super::Net;
use super::gateway_kind::GatewayKind;

/// One in this many seats is reserved for each port.
const KEPT_IN: usize = 16;
/// Maximum seats reserved for each port.
const KEPT_MAX: usize = 64;

/// A port that clients connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// The native port.
    Native,
    /// The native port, for operators' commands.
    Operators,
    /// A gateway's port.
    Gateway(GatewayKind),
}

impl Port {
    const ALL: [Port; 4] =
        [Port::Native, Port::Operators, Port::Gateway(GatewayKind::Redis), Port::Gateway(GatewayKind::Http)];
}

impl Net {
    /// Whether one more client may connect at that port.
    pub(super) fn has_seat(&self, port: Port) -> bool {
        let max = self.options.clients_max;
        let kept = (max / KEPT_IN).min(KEPT_MAX);
        let others = Port::ALL.into_iter().filter(|other| *other != port && self.is_open(*other));
        let kept_free: usize = others.map(|other| kept.saturating_sub(self.seated(other))).sum();
        Port::ALL.into_iter().map(|port| self.seated(port)).sum::<usize>() + kept_free < max
    }

    /// How many clients have a seat at that port. A probe has none.
    fn seated(&self, port: Port) -> usize {
        let clients = |kind| self.gateways.clients(kind);
        match port {
            Port::Native => {
                self.connections.clients()
                    - self.connections.operators()
                    - clients(GatewayKind::Redis)
                    - clients(GatewayKind::Http)
            }
            Port::Operators => self.connections.operators(),
            Port::Gateway(GatewayKind::Http) => clients(GatewayKind::Http) - self.gateways.probes(),
            Port::Gateway(GatewayKind::Redis) => clients(GatewayKind::Redis),
        }
    }

    fn is_open(&self, port: Port) -> bool {
        match port {
            Port::Native | Port::Operators => true,
            Port::Gateway(kind) => self.gateways.address(kind).is_some(),
        }
    }
}
