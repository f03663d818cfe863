//! Ends connections: those that have timed out, and all others.

use super::gateway_kind::GatewayKind;
use super::{KEY_MASK, Net, SWEEP, find};
use crate::net::dialect::Role;
use crate::net::failure::Failure;
use crate::net::gateway_connection::GatewayConnection;
use crate::net::pressure::Pressure;
use crate::node::event::{Caller, Event};
use crate::types::Time;
use mio::Token;

impl Net {
    /// Closes connections that have timed out, and frees the buffers of idle ones.
    pub(super) fn sweep(&mut self, now: Time) {
        let mut overdue = Vec::new();
        let mut again = false;
        for (_, conn) in &mut self.conns {
            conn.extend_timeout(now, &self.options);
            if conn.is_overdue(now, &self.options) {
                overdue.push(conn.token);
            }
            if !std::mem::take(&mut conn.used) {
                conn.lanes.rest();
                conn.gateway.as_mut().map(GatewayConnection::rest);
            } else {
                again = true;
            }
            again |= conn.waiting_since.is_some();
        }
        self.sweep_memory(now);
        again |= self.memory.pressure() > Pressure::None;
        let forgotten = self.admission.forget_former_members(now);
        if !forgotten.is_empty() {
            forgotten.into_iter().for_each(|peer| self.disconnect(now, peer));
            self.update_links(now);
        }
        again |= self.admission.has_former_members();
        self.sweep_at = if again { now + SWEEP } else { Time::NEVER };
        for token in overdue {
            if matches!(find(&mut self.conns, token).map(|conn| conn.role), Some(Role::Connecting(_))) {
                self.failed(now, token, Failure::no_answer());
            }
            self.close(now, token);
        }
    }

    pub(super) fn close(&mut self, now: Time, token: Token) {
        if find(&mut self.conns, token).is_none() {
            return;
        }
        self.gateways.probes -= usize::from(self.is_probe(token));
        let mut conn = self.conns.remove(token.0 & KEY_MASK);
        self.look_over(now);
        self.memory.forget(conn.held);
        let _either_way_it_is_dropped = self.poll.registry().deregister(&mut conn.stream);
        match conn.role {
            Role::Handshaking => self.handshaking.retain(|stranger| *stranger != token),
            Role::Client(number) | Role::GatewayClient(number) => {
                self.clients -= 1;
                self.operators -= usize::from(conn.is_operator);
                let door = conn.gateway.as_ref().map(GatewayKind::of);
                if let Some(inside) = door.and_then(|door| self.gateways.inside.get_mut(&door)) {
                    *inside -= 1;
                }
                self.events.push(Event::CallerGone(Caller::Client(number)));
                if let Some(session) = conn.gateway.as_ref().and_then(GatewayConnection::session) {
                    self.close_session(session);
                }
            }
            Role::InboundPeer(peer) => {
                // Only for the peer's current connection. The end of one that was replaced means nothing.
                if self.inbound_peers.get(&peer).is_some_and(|speaker| *speaker == token) {
                    self.inbound_peers.remove(&peer);
                    self.events.push(Event::PeerLost(peer));
                    if self.admission.gone(peer) {
                        self.update_links(now);
                    }
                }
            }
            Role::Connecting(peer) => self.links.fell(peer, now),
            Role::OutboundPeer(peer) => {
                *self.sent.entry(peer).or_default() += conn.lanes.sent();
                self.links.fell(peer, now);
                self.events.push(Event::PeerLost(peer));
            }
        }
    }
}
