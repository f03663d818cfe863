//! Who comes in, and whom we dial: the first words on every connection.

use super::{Identity, Net, find, touch};
use crate::codec::Malformed;
use crate::net::dialect::Role;
use crate::net::stream;
use crate::node::event::Event;
use crate::types::{NodeId, Time};
use crate::wire::WireError;
use crate::wire::hello::{Hello, VERSION_MAX, Welcome, Who};
use crate::wire::reason::Reason;
use mio::Token;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;

impl Net {
    /// Someone says who it is.
    pub(super) fn greeted(&mut self, now: Time, token: Token, hello: &Hello) {
        let verdict = self.judge(hello);
        let Some(conn) = find(&mut self.conns, token) else { return };
        touch(&mut self.touched, conn);
        let version = match verdict {
            Ok(version) => version,
            Err(reason) => {
                if let (Reason::Disk, Who::Peer { node, disk }) = (reason, hello.caller)
                    && let Some(known) = self.disks.other(node, disk)
                {
                    self.disks.warn(now, self.me.node, node, known, disk);
                }
                reason.put(conn.lanes.ready());
                conn.farewell = true;
                return;
            }
        };
        let Identity { node, cluster, disk } = self.me;
        Welcome { version, cluster, node, disk }.put(conn.lanes.ready());
        self.strangers.retain(|stranger| *stranger != token);
        match hello.caller {
            Who::Client => {
                self.clients += 1;
                conn.role = Role::Client(token.0 as u64);
            }
            Who::Peer { node: peer, disk } => {
                self.disks.meet(peer, disk);
                conn.role = Role::Speaker(peer);
                let before = self.speakers.insert(peer, token);
                if let Some(before) = before {
                    // It dialed again before we saw its old connection end.
                    self.close(now, before);
                }
                // What it answered until it dialed, it said to a connection that nobody heard the end of.
                self.events.push(Event::AnswersLost(peer));
                self.links.hurry(peer, now);
            }
        }
    }

    fn judge(&self, hello: &Hello) -> Result<u16, Reason> {
        let version = hello.version().ok_or(Reason::Version)?;
        debug_assert!(version <= VERSION_MAX);
        if hello.cluster.is_some_and(|cluster| cluster != self.me.cluster) {
            return Err(Reason::Cluster);
        }
        if hello.target.is_some_and(|target| target != self.me.node) {
            return Err(Reason::Target);
        }
        if self.stopping {
            return Err(Reason::Stopping);
        }
        match hello.caller {
            Who::Peer { node, .. } if node == self.me.node => Err(Reason::Double),
            Who::Peer { node, .. } if !self.members.members.contains_key(&node) => Err(Reason::Stranger),
            Who::Peer { .. } if hello.cluster.is_none() => Err(Reason::Cluster),
            Who::Peer { node, disk } if self.disks.other(node, disk).is_some() => Err(Reason::Disk),
            Who::Client if self.clients >= self.options.clients_max => Err(Reason::Full),
            Who::Peer { .. } | Who::Client => Ok(version),
        }
    }

    pub(super) fn dial(&mut self, now: Time, peer: NodeId) {
        let Some(link) = self.links.get(peer) else { return };
        let address = link.address.clone();
        match self.resolver.resolve(peer, &address) {
            Ok(Some(address)) => self.resolved(now, peer, Ok(address)),
            Ok(None) => self.links.resolving(peer),
            Err(error) => self.resolved(now, peer, Err(error)),
        }
    }

    pub(super) fn resolved(&mut self, now: Time, peer: NodeId, found: io::Result<SocketAddr>) {
        let dialed = found.and_then(TcpStream::connect).and_then(|stream| {
            let _if_not_it_is_slower = stream::tune_peer(&stream, &self.options);
            self.insert(now, stream, Role::Dialed(peer))
        });
        match dialed {
            Ok(token) => {
                self.links.dialed(peer, token);
                let Some(conn) = find(&mut self.conns, token) else { return };
                Hello::peer(self.me.cluster, self.me.node, self.me.disk, peer).put(conn.lanes.ready());
                touch(&mut self.touched, conn);
            }
            Err(error) => {
                log::debug!(node = self.me.node.get(); "cannot dial {peer}: {error}");
                self.links.fell(peer, now);
            }
        }
    }

    pub(super) fn welcomed(
        &mut self,
        now: Time,
        token: Token,
        peer: NodeId,
        welcome: &Welcome,
    ) -> Result<(), WireError> {
        if welcome.node != peer || welcome.cluster != self.me.cluster {
            return Err(Malformed("another node than was dialed").into());
        }
        if let Some(known) = self.disks.other(peer, welcome.disk) {
            self.disks.warn(now, self.me.node, peer, known, welcome.disk);
            return Err(Malformed("another disk than this node had").into());
        }
        self.disks.meet(peer, welcome.disk);
        if let Some(conn) = find(&mut self.conns, token) {
            conn.role = Role::Listener(peer);
        }
        self.links.answered(peer, token);
        Ok(())
    }
}
