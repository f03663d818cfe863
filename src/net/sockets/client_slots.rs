//! The limit of connected clients: each client takes one of `clients_max` slots, of which some are reserved for each
//! port.
//!
//! A pool of Redis clients that leaks connections must not lock out the operator who has to investigate the leak. Each
//! open port therefore has reserved slots that clients of other ports cannot take. Native clients cannot take all slots
//! either: some are reserved for operators' commands, which connect as operators if no client slot is free. Peers need
//! no slot.

use super::Net;
use super::gateway_kind::GatewayKind;

/// Each open port reserves the total number of slots, divided by this number.
const RESERVED_SLOTS_DIVISOR: usize = 16;
/// The most slots that are reserved for one open port, however many slots there are.
const RESERVED_SLOTS_MAX: usize = 64;

/// A class of clients with reserved slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientPort {
    /// Clients of the native port.
    Native,
    /// Operators' commands, which connect to the native port.
    Operators,
    /// Clients of a gateway's port.
    Gateway(GatewayKind),
}

impl ClientPort {
    const ALL: [ClientPort; 4] = [
        ClientPort::Native,
        ClientPort::Operators,
        ClientPort::Gateway(GatewayKind::Redis),
        ClientPort::Gateway(GatewayKind::Http),
    ];
}

impl Net {
    /// Whether one more client may connect at a port, without taking a slot that is reserved for another port.
    pub(super) fn has_free_slot(&self, port: ClientPort) -> bool {
        let slots_max = self.options.clients_max;
        let reserved_slots = (slots_max / RESERVED_SLOTS_DIVISOR).min(RESERVED_SLOTS_MAX);
        let other_ports =
            ClientPort::ALL.into_iter().filter(|other_port| *other_port != port && self.is_port_open(*other_port));
        let reserved_free_slots: usize =
            other_ports.map(|other_port| reserved_slots.saturating_sub(self.taken_slots(other_port))).sum();
        ClientPort::ALL.into_iter().map(|port| self.taken_slots(port)).sum::<usize>() + reserved_free_slots < slots_max
    }

    /// The number of slots taken by the clients of a port. A probe takes no slot.
    fn taken_slots(&self, port: ClientPort) -> usize {
        let client_count = |kind| self.gateways.client_count(kind);
        match port {
            ClientPort::Native => {
                self.connections.client_count()
                    - self.connections.operator_count()
                    - client_count(GatewayKind::Redis)
                    - client_count(GatewayKind::Http)
            }
            ClientPort::Operators => self.connections.operator_count(),
            ClientPort::Gateway(GatewayKind::Http) => client_count(GatewayKind::Http) - self.gateways.probe_count(),
            ClientPort::Gateway(GatewayKind::Redis) => client_count(GatewayKind::Redis),
        }
    }

    fn is_port_open(&self, port: ClientPort) -> bool {
        match port {
            ClientPort::Native | ClientPort::Operators => true,
            ClientPort::Gateway(kind) => self.gateways.address(kind).is_some(),
        }
    }
}
