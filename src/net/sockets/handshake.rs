//! Handshakes of inbound and outbound connections.

use super::Net;
use super::seats::Port;
use crate::admission::HelloContext;
use crate::net::counting::Gateway;
use crate::net::failure::Failure;
use crate::net::role::Role;
use crate::net::stream;
use crate::node::event::Event;
use crate::secure::Stream;
use crate::types::{DiskId, NodeId, Time};
use crate::wire::WireError;
use crate::wire::hello::{CallerKind, Hello, Welcome};
use crate::wire::reason::Reason;
use mio::Token;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;

impl Net {
    /// Handles the hello of an inbound connection: accepts or rejects the caller.
    pub(super) fn handle_hello(&mut self, now: Time, token: Token, hello: &Hello) {
        let proven = self.connections.get_mut(token).is_some_and(|conn| conn.stream.is_proven());
        let context = HelloContext {
            unproven: self.options.keys.is_some() && !proven,
            stopping: self.stopping,
            full: !self.has_seat(if hello.caller == CallerKind::Operator { Port::Operators } else { Port::Native }),
        };
        let verdict = self.membership.check_hello(now, hello, context);
        if let (Some(log), CallerKind::Peer { node: peer, .. }) = (self.membership.other_log(hello), hello.caller) {
            self.events.push(Event::OtherLog { peer, log });
        }
        if let (Err(reason), CallerKind::Peer { node, .. }) = (verdict, hello.caller) {
            self.peers.log_rejected_peer(now, self.connections.get(token), node, reason);
        }
        if let (Err(Reason::Full), CallerKind::Client | CallerKind::Operator) = (verdict, hello.caller) {
            self.counting.turned_away(Gateway::Native);
        }
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        conn.schedule_write();
        let version = match verdict {
            Ok(version) => version,
            Err(reason) => {
                reason.put(conn.lanes.ready());
                conn.close_after_output();
                return;
            }
        };
        self.membership.welcome(version).put(conn.lanes.ready());
        match hello.caller {
            CallerKind::Client | CallerKind::Operator => {
                conn.become_client(hello.caller == CallerKind::Operator);
                self.counting.accepted(Gateway::Native);
            }
            CallerKind::Peer { node: peer, disk, run, .. } => {
                conn.become_inbound_peer(peer);
                let _if_not_it_takes_longer = stream::tune_inbound_peer(conn.stream.socket());
                if let Some(before) = self.peers.set_inbound(peer, token) {
                    // The peer reconnected before this node noticed the end of its old connection.
                    self.close(now, before);
                }
                // Replies that the peer sent on its old connection may have been lost.
                self.events.push(Event::AnswersLost(peer));
                let (met, is_guest) = self.membership.admit(now, hello, peer, (disk, run));
                self.gateways.redis.set_peer_address(peer, &hello.redis, self.membership.members());
                self.learn_disk(peer, met);
                if is_guest {
                    self.update_links(now);
                }
                self.peers.hurry(now, peer);
            }
        }
    }

    /// Sets the leader that the node follows; itself if it leads. A node that follows a leader knows the current
    /// members, or will in a moment. A node without a leader may be dialed by a leader that it does not know.
    pub fn set_leader(&mut self, leader: Option<NodeId>) {
        self.membership.set_leader(leader);
    }

    /// Reports to the node the disk id of a peer. From then on the peer's messages count.
    fn learn_disk(&mut self, peer: NodeId, disk: Option<DiskId>) {
        self.events.extend(disk.map(|disk| Event::DiskLearned { peer, disk }));
    }

    /// Dials a peer, or begins to resolve its address.
    pub(super) fn dial(&mut self, now: Time, peer: NodeId) {
        if let Some(found) = self.peers.resolve(peer) {
            self.resolved(now, peer, found);
        }
    }

    /// Dials a peer at one of the addresses found, or logs why there is none.
    pub(super) fn resolved(&mut self, now: Time, peer: NodeId, found: io::Result<Vec<SocketAddr>>) {
        let Some(link) = self.peers.get(peer) else { return };
        let name = link.address().to_owned();
        let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let found = match found.and_then(|found| link.pick(&found).ok_or_else(nowhere)) {
            Ok(found) => found,
            Err(error) => {
                return self.peers.dial_failed(now, peer, Failure::of_name(&error));
            }
        };
        let dialed = TcpStream::connect(found).and_then(|socket| {
            let _if_not_it_is_slower = stream::tune_peer(&socket, &self.options);
            let stream = Stream::dialed(self.options.keys.as_ref(), socket, &name)?;
            self.insert(now, stream, Role::Connecting(peer))
        });
        match dialed {
            Ok(token) => {
                self.peers.dialed(peer, token);
                let hello = self.membership.hello(peer).with_redis(self.redis_address());
                let Some(mut conn) = self.connections.get_mut(token) else { return };
                hello.put(conn.lanes.ready());
                conn.schedule_write();
            }
            Err(error) => self.peers.dial_failed(now, peer, Failure::of_socket(&error)),
        }
    }

    /// Handles the welcome of a peer that this node dialed.
    pub(super) fn handle_welcome(
        &mut self,
        now: Time,
        token: Token,
        peer: NodeId,
        welcome: &Welcome,
    ) -> Result<(), WireError> {
        let met = self.membership.welcomed(now, peer, welcome)?;
        self.learn_disk(peer, met);
        if let Some(mut conn) = self.connections.get_mut(token) {
            conn.role = Role::OutboundPeer(peer);
        }
        self.peers.accepted(peer, token);
        Ok(())
    }
}
