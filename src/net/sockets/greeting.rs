//! Who comes in, and whom we dial: the first words on every connection.

use super::{Identity, Net, find, touch};
use crate::codec::Malformed;
use crate::consensus::message::Origin;
use crate::consensus::peer_class::{Introduction, PeerClass, Refused, Standpoint, classify_peer};
use crate::limits::MEMBERS_MAX;
use crate::net::dialect::Role;
use crate::net::stream;
use crate::node::event::Event;
use crate::secure::Stream;
use crate::types::{DiskId, Member, NodeId, Time};
use crate::wire::WireError;
use crate::wire::hello::{Hello, Holds, VERSION_MAX, Welcome, Who};
use crate::wire::reason::Reason;
use mio::Token;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;

impl Net {
    /// Someone says who it is.
    pub(super) fn greeted(&mut self, now: Time, token: Token, hello: &Hello) {
        let proven = find(&mut self.conns, token).is_some_and(|conn| conn.stream.is_proven());
        let verdict = self.judge(hello, proven);
        self.learn_log(now, hello);
        match (verdict, hello.caller) {
            (Err(Reason::Disk), Who::Peer { node, disk, .. }) => self.warn_of_disk(now, node, disk),
            (Err(Reason::Twin), Who::Peer { node, .. }) => self.disks.warn_of_twin(now, self.me.node, node),
            _ => {}
        }
        let Some(conn) = find(&mut self.conns, token) else { return };
        touch(&mut self.touched, conn);
        let version = match verdict {
            Ok(version) => version,
            Err(reason) => {
                reason.put(conn.lanes.ready());
                conn.farewell = true;
                return;
            }
        };
        let Identity { node, cluster, disk, .. } = self.me;
        let holds = self.holds();
        let Some(conn) = find(&mut self.conns, token) else { return };
        Welcome { version, cluster, node, disk, holds }.put(conn.lanes.ready());
        self.strangers.retain(|stranger| *stranger != token);
        match hello.caller {
            Who::Client => {
                self.clients += 1;
                conn.role = Role::Client(token.0 as u64);
            }
            Who::Peer { node: peer, disk, run, holds } => {
                conn.role = Role::Speaker(peer);
                let _if_not_it_takes_longer = stream::tune_speaker(conn.stream.socket());
                if let Some((before, _)) = self.speakers.insert(peer, (token, run.id)) {
                    // It dialed again before we saw its old connection end.
                    self.close(now, before);
                }
                // What it answered until it dialed, it said to a connection that nobody heard the end of.
                self.events.push(Event::AnswersLost(peer));
                self.disks.met_run(now, self.me.node, peer, (disk, run));
                self.meet(peer, disk, holds);
                if !self.members.members.contains_key(&peer) {
                    self.guests.insert(peer, Member::at(hello.address.clone()));
                    self.link(now);
                }
                self.links.hurry(peer, now);
            }
        }
    }

    fn judge(&self, hello: &Hello, proven: bool) -> Result<u16, Reason> {
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
            Who::Peer { .. } if self.options.keys.is_some() && !proven => Err(Reason::Unproven),
            Who::Peer { node, .. } if node == self.me.node => Err(Reason::Double),
            Who::Peer { node, .. } if !self.members.members.contains_key(&node) && !self.takes_guest(node) => {
                Err(Reason::Stranger)
            }
            Who::Peer { .. } if hello.cluster.is_none() => Err(Reason::Cluster),
            Who::Peer { node, disk, holds, .. } => match self.class_of(node, disk, holds) {
                PeerClass::Refused(Refused::Disk { .. }) => Err(Reason::Disk),
                PeerClass::Refused(Refused::Log { .. } | Refused::NoLog) => Err(Reason::Log),
                PeerClass::Full | PeerClass::LeaderOnly => self.judge_run(version, hello.caller),
            },
            Who::Client if self.clients >= self.options.clients_max => Err(Reason::Full),
            Who::Client => Ok(version),
        }
    }

    /// A peer that speaks on a connection that is open, and now another process says that it is that peer.
    fn judge_run(&self, version: u16, caller: Who) -> Result<u16, Reason> {
        match caller {
            Who::Peer { node, run, .. } if self.speakers.get(&node).is_some_and(|(_, known)| *known != run.id) => {
                Err(Reason::Twin)
            }
            Who::Peer { .. } | Who::Client => Ok(version),
        }
    }

    /// What this node holds, as it says to peers.
    fn holds(&self) -> Holds {
        Holds { log: self.members.agreed_log(), configured: self.configured }
    }

    /// A peer that means this node holds a log: the node learns of it, if it holds another or none.
    fn learn_log(&mut self, now: Time, hello: &Hello) {
        let Who::Peer { node: peer, holds: Holds { log: Some(log), .. }, .. } = hello.caller else { return };
        if hello.target == Some(self.me.node) && self.members.agreed_log() != Some(log) {
            if let Some(ours) = self.members.agreed_log() {
                self.disks.warn_of_log(now, self.me.node, peer, (ours, log));
            }
            self.events.push(Event::OtherLog { peer, log });
        }
    }

    /// Whom the node follows, if anyone; itself if it leads. Who follows somebody knows the members as they are, or
    /// will in a moment; who does not may be looked for by a leader that it has never heard of.
    pub fn set_leader(&mut self, leader: Option<NodeId>) {
        self.leader = leader;
    }

    /// Whether strangers of our own cluster are let in: our configuration may be an old one, and a leader of a
    /// newer one must be able to find us (votes and entries go by the sender's view, §6). Not while we follow
    /// somebody else: then whoever is a stranger was removed, and is told so.
    fn takes_guest(&self, peer: NodeId) -> bool {
        self.leader.is_none_or(|leader| leader == peer) && self.guests.len() < MEMBERS_MAX
    }

    /// A member came with that disk, and stays with it; unless it is known by another, and only heard as a leader.
    fn meet(&mut self, peer: NodeId, disk: DiskId, holds: Holds) {
        if self.class_of(peer, disk, holds) != PeerClass::Full {
            return;
        }
        if self.members.members.contains_key(&peer) {
            self.disks.meet(peer, disk);
        }
        self.events.push(Event::Met { peer, disk });
    }

    /// What the words of a peer are good for that comes with that disk and holds that. Where the membership names no
    /// disk for it, it is known by the one it came with before.
    fn class_of(&self, peer: NodeId, disk: DiskId, holds: Holds) -> PeerClass {
        let ours = Standpoint { membership: &self.members, configured: self.configured };
        let origin = Origin { disk: Some(disk), log: holds.log };
        let introduction = Introduction { node: peer, origin, configured: Some(holds.configured) };
        classify_peer(ours, self.disks.known(peer), &introduction)
    }

    fn warn_of_disk(&mut self, now: Time, peer: NodeId, disk: DiskId) {
        if let Some(known) = self.members.disk(peer).or(self.disks.known(peer)) {
            self.disks.warn(now, self.me.node, peer, known, disk);
        }
    }

    pub(super) fn dial(&mut self, now: Time, peer: NodeId) {
        let Some(link) = self.links.get(peer) else { return };
        let address = link.address().to_owned();
        match self.resolver.resolve(peer, &address) {
            Ok(Some(address)) => self.resolved(now, peer, Ok(address)),
            Ok(None) => self.links.resolving(peer),
            Err(error) => self.resolved(now, peer, Err(error)),
        }
    }

    pub(super) fn resolved(&mut self, now: Time, peer: NodeId, found: io::Result<SocketAddr>) {
        let name = self.links.get(peer).map(|link| link.address().to_owned()).unwrap_or_default();
        let dialed = found.and_then(TcpStream::connect).and_then(|socket| {
            let _if_not_it_is_slower = stream::tune_peer(&socket, &self.options);
            let stream = Stream::dialed(self.options.keys.as_ref(), socket, &name)?;
            self.insert(now, stream, Role::Dialed(peer))
        });
        match dialed {
            Ok(token) => {
                self.links.dialed(peer, token);
                let own = self.place(self.me.node).unwrap_or_default().to_owned();
                let holds = self.holds();
                let Some(conn) = find(&mut self.conns, token) else { return };
                let Identity { node, cluster, disk, run } = self.me;
                Hello::peer(cluster, node, disk, run, peer).at(&own).holding(holds).put(conn.lanes.ready());
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
        match self.class_of(peer, welcome.disk, welcome.holds) {
            PeerClass::Full | PeerClass::LeaderOnly => {}
            PeerClass::Refused(Refused::Disk { .. }) => {
                self.warn_of_disk(now, peer, welcome.disk);
                return Err(Malformed("another disk than this node had").into());
            }
            PeerClass::Refused(Refused::Log { .. } | Refused::NoLog) => {
                return Err(Malformed("a node of another log").into());
            }
        }
        self.meet(peer, welcome.disk, welcome.holds);
        if let Some(conn) = find(&mut self.conns, token) {
            conn.role = Role::Listener(peer);
        }
        self.links.answered(peer, token);
        Ok(())
    }
}
