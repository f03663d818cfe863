//! Ends connections: those that have timed out, and all others.

use super::Net;
use super::gateway_kind::GatewayKind;
use crate::net::failure::Failure;
use crate::net::gateway_connection::GatewayConnection;
use crate::net::pressure::Pressure;
use crate::net::role::Role;
use crate::node::event::{Caller, Event};
use crate::types::Time;
use mio::Token;

impl Net {
    /// Closes connections that have timed out, and frees the buffers of idle ones.
    pub(super) fn sweep(&mut self, now: Time) {
        let swept = self.connections.sweep(now, &self.options);
        self.sweep_memory(now);
        let mut again = swept.again || self.connections.memory().pressure() > Pressure::None;
        let forgotten = self.membership.forget_former_members(now);
        if !forgotten.is_empty() {
            forgotten.into_iter().for_each(|peer| self.disconnect(now, peer));
            self.update_links(now);
        }
        again |= self.membership.has_former_members();
        self.connections.reschedule_sweep(now, again);
        for token in swept.overdue {
            if matches!(self.connections.get_mut(token).map(|conn| conn.role), Some(Role::Connecting(_))) {
                self.failed(now, token, Failure::no_answer());
            }
            self.close(now, token);
        }
    }

    /// Closes stalled connections if clients hold more memory than they may, those that hold most first, until at most
    /// half of the bound is held.
    fn sweep_memory(&mut self, now: Time) {
        let mut stalled = self.connections.find_stalled();
        let memory = *self.connections.memory();
        if memory.pressure() < Pressure::Over {
            return;
        }
        let mut closed = 0;
        while self.connections.memory().held() > memory.max() / 2
            && let Some((_, token)) = stalled.pop()
        {
            self.close(now, token);
            closed += 1;
        }
        if closed > 0 {
            let [before, after, max] =
                [memory.held(), self.connections.memory().held(), memory.max()].map(|bytes| bytes >> 20);
            log::warn!(
                node = self.membership.me().node.get();
                "clients held {before} MiB of this node's memory, mostly replies that they do not read; at most {max} \
                 MiB are allowed: {closed} stalled connections were closed, and {after} MiB are held now"
            );
        }
        self.relieve();
    }

    /// Resumes the connections that waited because clients held too much memory, if they hold less now.
    pub(super) fn relieve(&mut self) {
        let gateways = &mut self.gateways;
        self.connections.relieve(&self.options, |token| gateways.schedule_pump(token));
    }

    /// Closes a connection: the node and the parts that refer to the connection forget it.
    pub(super) fn close(&mut self, now: Time, token: Token) {
        let Some(conn) = self.connections.remove(self.poll.registry(), now, token) else { return };
        match conn.role {
            Role::Handshaking => {}
            Role::Client(number) | Role::GatewayClient(number) => {
                if let Some(gateway) = &conn.gateway {
                    self.gateways.client_closed(GatewayKind::of(gateway), gateway.is_probe());
                }
                self.events.push(Event::CallerGone(Caller::Client(number)));
                if let Some(session) = conn.gateway.as_ref().and_then(GatewayConnection::session) {
                    self.close_session(session);
                }
            }
            Role::InboundPeer(peer) => {
                if self.peers.inbound_closed(peer, token) {
                    self.events.push(Event::PeerLost(peer));
                    if self.membership.gone(peer) {
                        self.update_links(now);
                    }
                }
            }
            Role::Connecting(peer) => self.peers.dial_ended(now, peer),
            Role::OutboundPeer(peer) => {
                self.peers.outbound_closed(now, peer, conn.lanes.sent());
                self.events.push(Event::PeerLost(peer));
            }
        }
    }
}
