//! The connections between simulated nodes. Each node dials each of its peers, both identify themselves with the frames
//! of the product, and the product's [`Admission`](crate::admission::Admission) decides whether a connection is
//! accepted.

use super::checks;
use super::event::SimEvent;
use super::host::Incoming;
use super::network::{Packet, Tier};
use super::peer_connection::{End, Inbound, LinkState, Outbound};
use super::world::World;
use crate::admission::HelloContext;
use crate::node::{Caller, Event};
use crate::types::{DiskId, Membership, Mutant, NodeId};
use crate::wire::frame::{Frame, FrameKind, FrameReader};
use crate::wire::hello::{CallerKind, Hello, VERSION_MAX, Welcome};
use crate::wire::peer::PeerFrame;
use crate::wire::reason::Reason;
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use std::collections::btree_map::Entry;
use std::time::Duration;

/// A peer that has not answered for this long is dialed again.
const DIAL_PATIENCE: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to dial a peer.
const DIAL_PAUSE_MAX_MS: u64 = 100;

impl World {
    /// Breaks both connections between two nodes; both nodes notice.
    pub(super) fn relink(&mut self, one: NodeId, other: NodeId) {
        for (from, to) in [(one, other), (other, one)] {
            self.close_later(from, to, End::Outbound);
            self.close_later(to, from, End::Inbound);
            self.network.break_link(from, to);
        }
    }

    /// Schedules that a node notices the end of its current connection with a peer.
    fn close_later(&mut self, at: NodeId, peer: NodeId, end: End) {
        let run = match end {
            End::Outbound => self.network.run(at, peer),
            End::Inbound => self.network.run(peer, at),
        };
        let delay = Duration::from_micros(self.rng.random_range(50..2000));
        self.later(delay, SimEvent::Closed { at, peer, end, run });
    }

    /// A process has ended, and the kernel closes its connections.
    pub(super) fn close_all(&mut self, at: NodeId) {
        for peer in self.others(at) {
            self.close_later(peer, at, End::Outbound);
            self.close_later(peer, at, End::Inbound);
        }
    }

    /// A node notices that a connection with a peer is closed.
    pub(super) fn closed(&mut self, at: NodeId, peer: NodeId, end: End, run: u64) -> checks::Result<()> {
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        let was_up = match end {
            End::Outbound => {
                let link = up.outbound.get(&peer).filter(|link| link.run() == Some(run));
                let Some(state) = link.map(|link| link.state) else { return Ok(()) };
                self.retry_later(at, peer);
                matches!(state, LinkState::Up(_))
            }
            End::Inbound => {
                // A peer that has dialed again has abandoned its earlier connection.
                if up.inbound.get(&peer).is_none_or(|inbound| inbound.run > run) {
                    return Ok(());
                }
                up.inbound.remove(&peer);
                if up.admission.gone(peer) {
                    self.keeps_links(at);
                }
                true
            }
        };
        if was_up { self.handle(at, Event::PeerLost(peer)) } else { Ok(()) }
    }

    /// A connection to a peer broke or failed: it is dialed again after a pause.
    fn retry_later(&mut self, at: NodeId, peer: NodeId) {
        let (now, life) = (self.now, self.hosts[&at].incarnation);
        let Some(link) = self.host(at).up.as_mut().and_then(|up| up.outbound.get_mut(&peer)) else { return };
        link.failures = link.failures.saturating_add(1);
        let longest = (5 << link.failures.min(6)).min(DIAL_PAUSE_MAX_MS);
        let pause = Duration::from_millis(self.rng.random_range(longest / 2..=longest));
        if let Some(link) = self.host(at).up.as_mut().and_then(|up| up.outbound.get_mut(&peer)) {
            link.state = LinkState::Down(now + pause);
        }
        self.later(pause, SimEvent::Dials { at, life, peer });
    }

    /// A node closes its connection to a peer.
    fn close_outbound(&mut self, at: NodeId, peer: NodeId) {
        let link = self.hosts[&at].up.as_ref().and_then(|up| up.outbound.get(&peer));
        if let Some(run) = link.and_then(Outbound::run) {
            let delay = self.network.delay(&mut self.rng);
            self.later(delay, SimEvent::Closed { at: peer, peer: at, end: End::Inbound, run });
        }
    }

    /// Dials a peer if that is due.
    pub(super) fn dials(&mut self, at: NodeId, peer: NodeId) {
        let (now, life) = (self.now, self.hosts[&at].incarnation);
        let Some(up) = &mut self.host(at).up else { return };
        match up.outbound.get(&peer).map(|link| link.state) {
            Some(LinkState::Down(when)) if when <= now => {}
            Some(LinkState::Dialed(_, since)) if since + DIAL_PATIENCE <= now => {
                self.close_outbound(at, peer);
                return self.retry_later(at, peer);
            }
            _ => return,
        }
        self.network.break_link(at, peer);
        let run = self.network.run(at, peer);
        let mut hello = BytesMut::new();
        if let Some(up) = &mut self.host(at).up {
            let own = up.admission.members().address(at).unwrap_or_default().to_owned();
            up.admission.hello(peer, &own).put(&mut hello);
            if let Some(link) = up.outbound.get_mut(&peer) {
                link.state = LinkState::Dialed(run, now);
            }
        }
        self.transmit(at, peer, Packet { bytes: hello.freeze(), once: false });
        self.later(DIAL_PATIENCE, SimEvent::Dials { at, life, peer });
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, said: Packet) {
        let disks = (self.hosts[&from].disk_id, self.hosts[&to].disk_id);
        let run = self.network.run(from, to);
        for arrival in self.network.send(self.now, &mut self.rng, (from, to), said) {
            self.at(arrival.at, SimEvent::Arrives { to, from, disks, run, bytes: arrival.bytes });
        }
    }

    /// Sends a frame to a peer. Without a connection it is lost.
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, frame: &PeerFrame) -> checks::Result<()> {
        let mut bytes = BytesMut::with_capacity(frame.size());
        frame.put(&mut bytes);
        self.fold(&bytes);
        let link = self.hosts[&from].up.as_ref().and_then(|up| up.outbound.get(&to));
        let state = link.map(|link| link.state);
        let Some(LinkState::Up(_)) = state else {
            match frame {
                PeerFrame::Forward { id, .. } => self.follows(from, Event::NotSent { to, id: *id }),
                PeerFrame::Answer { .. } if matches!(state, Some(LinkState::Dialed(..))) => {
                    // The peer waits for this answer. When it is dialed again, it learns that none will come.
                    self.close_outbound(from, to);
                    self.retry_later(from, to);
                }
                PeerFrame::Answer { .. } | PeerFrame::Raft(_) => {}
            }
            return Ok(());
        };
        if self.network.must_redial(from, to) {
            self.relink(from, to);
            return Ok(());
        }
        if let PeerFrame::Raft(envelope) = frame
            && self.calm
        {
            let run = self.network.run(envelope.from, envelope.to);
            self.snapshots.record_sent(envelope, run, self.network.tier())?;
        }
        let once = matches!(frame, PeerFrame::Forward { .. });
        self.transmit(from, to, Packet { bytes: bytes.freeze(), once });
        Ok(())
    }

    /// Handles bytes that reach a node from a peer.
    pub(super) fn arrives(
        &mut self,
        to: NodeId,
        from: NodeId,
        disks: (DiskId, DiskId),
        run: u64,
        bytes: &[u8],
    ) -> checks::Result<()> {
        let tier = self.network.tier();
        if (tier == Tier::Stream && run != self.network.run(from, to)) || disks.1 != self.hosts[&to].disk_id {
            return Ok(());
        }
        let Some(up) = &mut self.host(to).up else {
            self.resets(from, to, run);
            return Ok(());
        };
        let incoming = up.incoming.entry(from).or_default();
        if tier == Tier::Datagram || incoming.run != run {
            *incoming = Incoming { run, ..Default::default() };
        }
        incoming.buffer.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = incoming.reader.next(&mut incoming.buffer).map_err(|error| broken(to, from, error))? {
            frames.push(frame);
        }
        for frame in frames {
            if frame.kind == FrameKind::Hello {
                let hello = Hello::read(frame).map_err(|error| broken(to, from, error))?;
                self.handle_hello(to, from, run, &hello)?;
                continue;
            }
            let Some(up) = &self.hosts[&to].up else { return Ok(()) };
            let speaks = |inbound: &Inbound| match tier {
                Tier::Stream => inbound.run == run,
                // Datagrams are not tied to a connection: one from an earlier connection may arrive late.
                Tier::Datagram => inbound.disk == disks.0,
            };
            if !up.inbound.get(&from).is_some_and(speaks) {
                self.resets(from, to, run);
                return Ok(());
            }
            self.handle_frame(to, from, frame)?;
        }
        Ok(())
    }

    /// Handles a frame on an accepted connection.
    fn handle_frame(&mut self, to: NodeId, from: NodeId, frame: Frame) -> checks::Result<()> {
        let event = match PeerFrame::read(frame).map_err(|error| broken(to, from, error))? {
            PeerFrame::Raft(envelope) => {
                self.checks.record_reminder(to, &envelope.message);
                Event::Peer(envelope)
            }
            PeerFrame::Forward { id, request } => {
                Event::Request { from: Caller::Peer(from), id, forward: false, request }
            }
            PeerFrame::Answer { id, reply } => Event::Answered { from, id, reply },
        };
        self.handle(to, event)
    }

    /// The node does not know the connection on which a peer has sent: the operating system resets it.
    fn resets(&mut self, from: NodeId, to: NodeId, run: u64) {
        if !self.network.is_cut(to, from) {
            let delay = self.network.delay(&mut self.rng);
            self.later(delay, SimEvent::Closed { at: from, peer: to, end: End::Outbound, run });
        }
    }

    /// Handles a peer's hello.
    fn handle_hello(&mut self, at: NodeId, from: NodeId, run: u64, hello: &Hello) -> checks::Result<()> {
        let guarded = !self.scenario.mutants.breaks(Mutant::NoAmnesiaGuard);
        let is_late = run != self.network.run(from, at);
        let (Some(up), CallerKind::Peer { disk, .. }) = (&mut self.host(at).up, hello.caller) else { return Ok(()) };
        if is_late || up.inbound.get(&from).is_some_and(|inbound| inbound.run >= run) {
            return Ok(()); // a duplicate, or from a connection that is gone
        }
        let verdict = match up.admission.check_hello(hello, HelloContext::default()) {
            Err(Reason::Disk | Reason::Log) if !guarded => Ok(VERSION_MAX),
            verdict => verdict,
        };
        let other_log = up.admission.other_log(hello);
        let mut answer = BytesMut::new();
        let mut events: Vec<Event> = other_log.map(|log| Event::OtherLog { peer: from, log }).into_iter().collect();
        match verdict {
            Ok(version) => {
                up.admission.welcome(version).put(&mut answer);
                up.inbound.insert(from, Inbound { run, disk });
                let (met, is_guest) = up.admission.admit(hello);
                events.push(Event::AnswersLost(from));
                events.extend(met.map(|disk| Event::DiskLearned { peer: from, disk }));
                if is_guest {
                    self.keeps_links(at);
                }
                self.dial_now(at, from);
            }
            Err(reason) => reason.put(&mut answer),
        }
        self.trace_line(|| format!("{at} is dialed by {from}: {verdict:?}"));
        if !self.network.is_cut(at, from) {
            let delay = self.network.delay(&mut self.rng);
            self.later(delay, SimEvent::Welcomed { at: from, peer: at, run, bytes: answer.freeze() });
        }
        events.into_iter().try_for_each(|event| self.handle(at, event))
    }

    /// A peer has connected: if the connection to it is down, it is dialed at once.
    fn dial_now(&mut self, at: NodeId, peer: NodeId) {
        let (now, life) = (self.now, self.hosts[&at].incarnation);
        let Some(link) = self.host(at).up.as_mut().and_then(|up| up.outbound.get_mut(&peer)) else { return };
        if matches!(link.state, LinkState::Down(_)) {
            link.state = LinkState::Down(now);
            self.later(Duration::ZERO, SimEvent::Dials { at, life, peer });
        }
    }

    /// Handles the answer of a dialed peer.
    pub(super) fn welcomed(&mut self, at: NodeId, peer: NodeId, run: u64, bytes: Bytes) -> checks::Result<()> {
        let guarded = !self.scenario.mutants.breaks(Mutant::NoAmnesiaGuard);
        let Some(up) = &mut self.host(at).up else { return Ok(()) };
        if !up.outbound.get(&peer).is_some_and(|link| matches!(link.state, LinkState::Dialed(on, _) if on == run)) {
            return Ok(());
        }
        let frame = FrameReader::default().next(&mut BytesMut::from(bytes));
        let frame = frame.map_err(|error| broken(at, peer, error))?.ok_or("an incomplete frame is not a welcome")?;
        let met = match Welcome::read(frame).map(|welcome| up.admission.welcomed(peer, &welcome)) {
            Ok(Ok(met)) => met,
            Ok(Err(_)) if !guarded => None,
            Ok(Err(_)) | Err(_) => {
                self.close_outbound(at, peer);
                self.retry_later(at, peer);
                return Ok(());
            }
        };
        up.outbound.insert(peer, Outbound { state: LinkState::Up(run), failures: 0 });
        met.map_or(Ok(()), |disk| self.handle(at, Event::DiskLearned { peer, disk }))
    }

    /// Updates a node's connections after a change of its membership or leader.
    pub(super) fn arranges(&mut self, at: NodeId) {
        let now = self.now;
        let Some(up) = &mut self.host(at).up else { return };
        let (leader, configured) = (up.node.raft().leader(), up.node.raft().configured_at());
        up.admission.set_leader(leader);
        if up.arranged && configured == up.admission.configured() && up.members == *up.node.membership() {
            let forgotten = up.admission.forget_former_members(now);
            if !forgotten.is_empty() {
                forgotten.into_iter().for_each(|peer| self.drop_peer(at, peer));
                self.keeps_links(at);
            }
            return;
        }
        // A node that is in no cluster was configured with addresses to contact: here, those of all machines.
        let places: Vec<(NodeId, String)> = self.hosts.keys().map(|id| (*id, format!("{id}:1"))).collect();
        let Some(up) = &mut self.host(at).up else { return };
        let membership = up.node.membership().clone();
        let added = up.admission.set_members(now, &membership, configured, || Membership::founding(places));
        (up.arranged, up.members) = (true, membership);
        added.into_iter().for_each(|peer| self.drop_peer(at, peer));
        self.keeps_links(at);
    }

    /// Ends the connections with a peer that was removed and added again, or was removed a while ago.
    fn drop_peer(&mut self, at: NodeId, peer: NodeId) {
        let local = self.hosts[&at].clock.local(self.now);
        self.close_outbound(at, peer);
        let Some(up) = &mut self.host(at).up else { return };
        let inbound = up.inbound.remove(&peer);
        let outbound = up.outbound.remove(&peer);
        if inbound.is_some() {
            up.admission.gone(peer);
        }
        if inbound.is_some() || outbound.is_some_and(|link| matches!(link.state, LinkState::Up(_))) {
            up.node.handle(local, Event::PeerLost(peer));
            let life = self.hosts[&at].incarnation;
            self.later(Duration::from_micros(1), SimEvent::Turns { at, life });
        }
        if let Some(inbound) = inbound {
            self.resets(peer, at, inbound.run);
        }
    }

    /// Ensures an outbound connection to each peer that the node has to reach, and to no other.
    fn keeps_links(&mut self, at: NodeId) {
        let (now, life) = (self.now, self.hosts[&at].incarnation);
        let Some(up) = &mut self.host(at).up else { return };
        let wanted: Vec<NodeId> = up.admission.peers_to_dial().map(|(id, _)| *id).filter(|id| *id != at).collect();
        let gone: Vec<NodeId> = up.outbound.keys().copied().filter(|peer| !wanted.contains(peer)).collect();
        for peer in gone {
            self.close_outbound(at, peer);
            if let Some(up) = &mut self.host(at).up {
                up.outbound.remove(&peer);
            }
        }
        for peer in wanted {
            let Some(up) = &mut self.host(at).up else { return };
            if let Entry::Vacant(vacant) = up.outbound.entry(peer) {
                vacant.insert(Outbound::new(now));
                self.later(Duration::ZERO, SimEvent::Dials { at, life, peer });
            }
        }
    }
}

fn broken(to: NodeId, from: NodeId, error: impl std::fmt::Display) -> String {
    format!("{to} cannot read what {from} sent: {error}")
}
