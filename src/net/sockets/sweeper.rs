//! Closes connections, and sweeps over all of them for timeouts and stalled clients.

use super::Net;
use super::gateway_kind::GatewayKind;
use crate::net::failure::ConnectionFailure;
use crate::net::gateway_connection::GatewayConnection;
use crate::net::memory_pressure::MemoryPressure;
use crate::net::role::Role;
use crate::node::event::{Caller, Event};
use crate::types::Time;
use mio::Token;

impl Net {
    /// Closes connections that have timed out, frees the buffers of idle ones, and forgets former members that have had
    /// time to learn of their removal.
    pub(super) fn sweep(&mut self, now: Time) {
        let sweep_result = self.connections.sweep(now, &self.options);
        self.close_stalled(now);
        let mut needs_another_sweep =
            sweep_result.needs_another_sweep || self.connections.client_memory().pressure() > MemoryPressure::None;
        let forgotten_members = self.membership.forget_former_members(now);
        if !forgotten_members.is_empty() {
            forgotten_members.into_iter().for_each(|peer| self.disconnect_peer(now, peer));
            self.update_links(now);
        }
        needs_another_sweep |= self.membership.has_former_members();
        self.connections.reschedule_sweep(now, needs_another_sweep);
        for token in sweep_result.timed_out {
            if matches!(self.connections.get_mut(token).map(|conn| conn.role), Some(Role::Connecting(_))) {
                self.log_failure(now, token, ConnectionFailure::no_answer());
            }
            self.close(now, token);
        }
    }

    /// If clients hold more memory than the bound, closes stalled connections until clients hold at most half of the
    /// bound. The connections that hold most are closed first.
    fn close_stalled(&mut self, now: Time) {
        let mut stalled_connections = self.connections.find_stalled_connections();
        let memory_before = *self.connections.client_memory();
        if memory_before.pressure() < MemoryPressure::OverBound {
            return;
        }
        let mut closed_count = 0;
        while self.connections.client_memory().held_bytes() > memory_before.max_bytes() / 2
            && let Some((_, token)) = stalled_connections.pop()
        {
            self.close(now, token);
            closed_count += 1;
        }
        if closed_count > 0 {
            let [before, after, max] =
                [memory_before.held_bytes(), self.connections.client_memory().held_bytes(), memory_before.max_bytes()]
                    .map(|bytes| bytes >> 20);
            log::warn!(
                node = self.membership.me().node.get();
                "clients held {before} MiB of this node's memory, mostly replies that they do not read; at most {max} \
                 MiB are allowed: {closed_count} stalled connections were closed, and {after} MiB are held now"
            );
        }
        self.resume_suspended();
    }

    /// Resumes the connections that were suspended under memory pressure, if the pressure is lower now.
    pub(super) fn resume_suspended(&mut self) {
        let gateways = &mut self.gateways;
        self.connections.resume_suspended_reads(&self.options, |token| gateways.schedule_pump(token));
    }

    /// Closes a connection, removes all references to it, and reports the loss to the node. Does nothing if the
    /// connection was closed before.
    pub(super) fn close(&mut self, now: Time, token: Token) {
        let Some(conn) = self.connections.remove(self.poll.registry(), now, token) else { return };
        match conn.role {
            Role::Handshaking => {}
            Role::Client(number) | Role::GatewayClient(number) => {
                if let Some(gateway) = &conn.gateway {
                    self.gateways.remove_client(GatewayKind::of(gateway), gateway.is_probe());
                }
                self.events.push(Event::CallerGone(Caller::Client(number)));
                if let Some(session) = conn.gateway.as_ref().and_then(GatewayConnection::session) {
                    self.close_session(session);
                }
            }
            Role::InboundPeer(peer) => {
                if self.peer_links.record_inbound_closed(peer, token) {
                    self.events.extend([Event::PeerLost(peer), Event::PeerInboundClosed(peer)]);
                    if self.membership.record_disconnected(peer) {
                        self.update_links(now);
                    }
                }
            }
            Role::Connecting(peer) => self.peer_links.record_dial_closed(now, peer),
            Role::OutboundPeer(peer) => {
                self.peer_links.record_outbound_closed(now, peer, conn.output.sent_bytes());
                self.events.push(Event::PeerLost(peer));
            }
        }
    }
}
