//! Handshakes: the hello of inbound connections, and the dial and welcome of outbound ones.

use super::Net;
use super::client_slots::ClientPort;
use crate::admission::HelloContext;
use crate::net::failure::ConnectionFailure;
use crate::net::protocol_counters::ClientProtocol;
use crate::net::role::Role;
use crate::net::stream;
use crate::node::event::Event;
use crate::secure::Stream;
use crate::types::{DiskId, NodeId, Time};
use crate::wire::WireError;
use crate::wire::hello::{CallerKind, Hello, Welcome};
use crate::wire::reason::HelloRejection;
use mio::Token;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;

impl Net {
    /// Handles the hello of an inbound connection: accepts the peer or client with a welcome, or rejects it with a
    /// reason.
    pub(super) fn handle_hello(&mut self, now: Time, token: Token, hello: &Hello) {
        let has_certificate = self.connections.get_mut(token).is_some_and(|conn| conn.stream.has_trusted_certificate());
        let context = HelloContext {
            identity_unproven: self.options.keys.is_some() && !has_certificate,
            node_is_stopping: self.stopping,
            client_limit_reached: !self.has_free_slot(if hello.caller == CallerKind::Operator {
                ClientPort::Operators
            } else {
                ClientPort::Native
            }),
        };
        let verdict = self.membership.check_hello(now, hello, context);
        if let (Some(log), CallerKind::Peer { node: peer, .. }) =
            (self.membership.differing_log_id(hello), hello.caller)
        {
            self.events.push(Event::PeerLogDiffers { peer, log });
        }
        if let (Err(reason), CallerKind::Peer { node, .. }) = (verdict, hello.caller) {
            let reason_text = match reason {
                HelloRejection::Version => hello.describe_version_mismatch(self.options.versions.protocol_max),
                _ => reason.to_string(),
            };
            self.peer_links.log_rejected_peer(now, self.connections.get(token), node, (reason, &reason_text));
        }
        if let (Err(HelloRejection::TooManyConnections), CallerKind::Client | CallerKind::Operator) =
            (verdict, hello.caller)
        {
            self.protocol_counters.count_rejected_client(ClientProtocol::Native);
        }
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        conn.schedule_write();
        let version = match verdict {
            Ok(version) => version,
            Err(reason) => {
                reason.put(hello, self.options.versions.protocol_max, conn.output.ready_buffer());
                conn.close_after_output();
                return;
            }
        };
        self.membership.build_welcome(version).put(conn.output.ready_buffer());
        conn.version = version;
        match hello.caller {
            CallerKind::Client | CallerKind::Operator => {
                conn.become_client(hello.caller == CallerKind::Operator);
                self.protocol_counters.count_accepted_client(ClientProtocol::Native);
            }
            CallerKind::Peer { node: peer, disk, run, .. } => {
                self.events.extend(hello.versions().map(|versions| Event::PeerVersionsLearned { peer, versions }));
                conn.become_inbound_peer(peer);
                let _best_effort = stream::tune_inbound_peer(conn.stream.socket());
                if let Some(replaced) = self.peer_links.set_inbound_connection(peer, token) {
                    // The peer reconnected before this node noticed the end of its old connection.
                    self.close(now, replaced);
                }
                // Replies that the peer sent on its old connection may have been lost.
                self.events.push(Event::AnswersLost(peer));
                let (learned_disk, dials_changed) = self.membership.admit(now, hello, peer, (disk, run));
                self.gateways.redis.set_peer_address(peer, &hello.redis_address, self.membership.members());
                self.report_disk(peer, learned_disk);
                if dials_changed {
                    self.update_links(now);
                }
                self.peer_links.dial_now(now, peer);
            }
        }
    }

    /// Sets the leader that this node follows; the node itself if it leads. A node that follows a leader knows the
    /// current members, or will soon, and rejects peers that are not members. A node without a leader accepts them too:
    /// one of them may be a leader that it does not know.
    pub fn set_leader(&mut self, leader: Option<NodeId>) {
        self.membership.set_leader(leader);
    }

    /// Reports the disk id of a peer to the node, which from then on counts the peer's messages for quorums.
    fn report_disk(&mut self, peer: NodeId, disk: Option<DiskId>) {
        self.events.extend(disk.map(|disk| Event::PeerDiskLearned { peer, disk }));
    }

    /// Dials a peer whose address is an IP address, or starts to resolve its host name.
    pub(super) fn dial(&mut self, now: Time, peer: NodeId) {
        if let Some(addresses) = self.peer_links.resolve(peer) {
            self.dial_resolved(now, peer, addresses);
        }
    }

    /// Dials a peer at one of its resolved addresses, or logs why its host name could not be resolved.
    pub(super) fn dial_resolved(&mut self, now: Time, peer: NodeId, addresses: io::Result<Vec<SocketAddr>>) {
        let Some(link) = self.peer_links.get(peer) else { return };
        let name = link.address().to_owned();
        let no_address_error = || io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        let address = match addresses.and_then(|addresses| link.select_address(&addresses).ok_or_else(no_address_error))
        {
            Ok(address) => address,
            Err(error) => {
                return self.peer_links.record_dial_failure(now, peer, ConnectionFailure::of_name_lookup(&error));
            }
        };
        let dial_result = TcpStream::connect(address).and_then(|socket| {
            let _best_effort = stream::tune_outbound_peer(&socket, &self.options);
            let stream = Stream::dialed(self.options.keys.as_ref(), socket, &name)?;
            self.insert_connection(now, stream, Role::Connecting(peer))
        });
        match dial_result {
            Ok(token) => {
                self.peer_links.record_dialed(peer, token);
                let hello = self.membership.build_hello_to(peer).with_redis_address(self.redis_address());
                let Some(mut conn) = self.connections.get_mut(token) else { return };
                hello.put(conn.output.ready_buffer());
                conn.schedule_write();
            }
            Err(error) => self.peer_links.record_dial_failure(now, peer, ConnectionFailure::of_socket(&error)),
        }
    }

    /// Handles the welcome of a peer that this node dialed: the link is up, unless another node answered.
    pub(super) fn handle_welcome(
        &mut self,
        now: Time,
        token: Token,
        peer: NodeId,
        welcome: &Welcome,
    ) -> Result<(), WireError> {
        let learned_disk = self.membership.check_welcome(now, peer, welcome)?;
        self.report_disk(peer, learned_disk);
        if let Some(mut conn) = self.connections.get_mut(token) {
            (conn.role, conn.version) = (Role::OutboundPeer(peer), welcome.version);
        }
        self.peer_links.record_accepted(peer, token);
        Ok(())
    }
}
