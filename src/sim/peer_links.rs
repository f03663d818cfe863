//! The connections between simulated nodes. Each node dials each of its peers, and both identify themselves with the
//! same frames as real nodes. [`Admission`](crate::admission::Admission) decides whether a connection is accepted.

use super::checks;
use super::event::SimEvent;
use super::host::ReceiveBuffer;
use super::network::{LinkKind, Packet};
use super::peer_connection::{ConnectionEnd, InboundConnection, LinkState, OutboundConnection};
use super::world::World;
use crate::admission::HelloContext;
use crate::node::{Caller, Event};
use crate::types::{DiskId, Membership, Mutant, NodeId, Versions};
use crate::wire::frame::{Frame, FrameKind, FrameReader};
use crate::wire::hello::{CallerKind, Hello, Welcome};
use crate::wire::peer::PeerFrame;
use crate::wire::reason::HelloRejection;
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use std::collections::btree_map::Entry;
use std::time::Duration;

/// How long a dialed peer may take to answer before it is dialed again.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to dial a peer, in milliseconds.
const REDIAL_PAUSE_MAX_MS: u64 = 100;

impl World {
    /// Breaks both connections between two nodes; both nodes notice.
    pub(super) fn reset_connections(&mut self, one: NodeId, other: NodeId) {
        for (from, to) in [(one, other), (other, one)] {
            self.schedule_close(from, to, ConnectionEnd::Outbound);
            self.schedule_close(to, from, ConnectionEnd::Inbound);
            self.network.break_link(from, to);
        }
    }

    /// Schedules the event that a node notices the end of its current connection with a peer.
    fn schedule_close(&mut self, at: NodeId, peer: NodeId, end: ConnectionEnd) {
        let generation = match end {
            ConnectionEnd::Outbound => self.network.generation(at, peer),
            ConnectionEnd::Inbound => self.network.generation(peer, at),
        };
        let delay = Duration::from_micros(self.rng.random_range(50..2000));
        self.schedule_after(delay, SimEvent::PeerClosed { at, peer, end, generation });
    }

    /// Closes all connections of a process that has ended, as the kernel does. The peers notice.
    pub(super) fn close_peer_connections(&mut self, at: NodeId) {
        for peer in self.other_nodes(at) {
            self.schedule_close(peer, at, ConnectionEnd::Outbound);
            self.schedule_close(peer, at, ConnectionEnd::Inbound);
        }
    }

    /// Handles the end of a connection with a peer: dials again if the connection was outbound, and reports the loss to
    /// the node.
    pub(super) fn handle_close(
        &mut self,
        at: NodeId,
        peer: NodeId,
        end: ConnectionEnd,
        generation: u64,
    ) -> checks::Result<()> {
        let Some(process) = &mut self.host(at).process else { return Ok(()) };
        let was_up = match end {
            ConnectionEnd::Outbound => {
                let link = process.outbound_connections.get(&peer).filter(|link| link.generation() == Some(generation));
                let Some(state) = link.map(|link| link.state) else { return Ok(()) };
                self.schedule_redial(at, peer);
                matches!(state, LinkState::Up(..))
            }
            ConnectionEnd::Inbound => {
                // A peer that has dialed again has abandoned its earlier connection.
                if process.inbound_connections.get(&peer).is_none_or(|inbound| inbound.generation > generation) {
                    return Ok(());
                }
                process.inbound_connections.remove(&peer);
                if process.admission.handle_disconnect(peer) {
                    self.update_outbound_connections(at);
                }
                self.deliver_event(at, Event::PeerInboundClosed(peer))?;
                true
            }
        };
        if was_up { self.deliver_event(at, Event::PeerLost(peer)) } else { Ok(()) }
    }

    /// Marks the connection to a peer as down, and dials it again after a pause that grows with each failure.
    fn schedule_redial(&mut self, at: NodeId, peer: NodeId) {
        let (now, incarnation) = (self.now, self.hosts[&at].incarnation);
        let Some(link) = self.host(at).process.as_mut().and_then(|process| process.outbound_connections.get_mut(&peer))
        else {
            return;
        };
        link.failures = link.failures.saturating_add(1);
        let longest_pause_ms = (5 << link.failures.min(6)).min(REDIAL_PAUSE_MAX_MS);
        let pause = Duration::from_millis(self.rng.random_range(longest_pause_ms / 2..=longest_pause_ms));
        if let Some(link) =
            self.host(at).process.as_mut().and_then(|process| process.outbound_connections.get_mut(&peer))
        {
            link.state = LinkState::Down(now + pause);
        }
        self.schedule_after(pause, SimEvent::DialPeer { at, incarnation, peer });
    }

    /// Closes a node's outbound connection to a peer. The peer notices after a network delay.
    fn close_outbound_connection(&mut self, at: NodeId, peer: NodeId) {
        let link = self.hosts[&at].process.as_ref().and_then(|process| process.outbound_connections.get(&peer));
        if let Some(generation) = link.and_then(OutboundConnection::generation) {
            let delay = self.network.delay(&mut self.rng);
            self.schedule_after(
                delay,
                SimEvent::PeerClosed { at: peer, peer: at, end: ConnectionEnd::Inbound, generation },
            );
        }
    }

    /// Dials a peer if the connection is down and the pause is over. If a dialed peer has not answered in time,
    /// schedules another dial.
    pub(super) fn dial_peer(&mut self, at: NodeId, peer: NodeId) {
        let (now, incarnation) = (self.now, self.hosts[&at].incarnation);
        let Some(process) = &mut self.host(at).process else { return };
        match process.outbound_connections.get(&peer).map(|link| link.state) {
            Some(LinkState::Down(when)) if when <= now => {}
            Some(LinkState::Dialed(_, since)) if since + WELCOME_TIMEOUT <= now => {
                self.close_outbound_connection(at, peer);
                return self.schedule_redial(at, peer);
            }
            _ => return,
        }
        self.network.break_link(at, peer);
        let generation = self.network.generation(at, peer);
        let mut hello = BytesMut::new();
        if let Some(process) = &mut self.host(at).process {
            let own_address = process.admission.members().address(at).unwrap_or_default().to_owned();
            process.admission.build_hello(peer, &own_address).put(&mut hello);
            if let Some(link) = process.outbound_connections.get_mut(&peer) {
                link.state = LinkState::Dialed(generation, now);
            }
        }
        self.transmit(at, peer, Packet { bytes: hello.freeze(), at_most_once: false });
        self.schedule_after(WELCOME_TIMEOUT, SimEvent::DialPeer { at, incarnation, peer });
    }

    /// Sends a packet over the network, with the disk ids that both machines have now.
    fn transmit(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        let disks = (self.hosts[&from].disk_id, self.hosts[&to].disk_id);
        let generation = self.network.generation(from, to);
        for arrival in self.network.send(self.now, &mut self.rng, (from, to), packet) {
            self.schedule_at(arrival.at, SimEvent::PeerBytes { to, from, disks, generation, bytes: arrival.bytes });
        }
    }

    /// Sends a frame to a peer. Without a connection the frame is lost; if it is a forwarded request, the sending node
    /// is notified.
    pub(super) fn send_frame(&mut self, from: NodeId, to: NodeId, frame: &PeerFrame) -> checks::Result<()> {
        let link = self.hosts[&from].process.as_ref().and_then(|process| process.outbound_connections.get(&to));
        let state = link.map(|link| link.state);
        let connection_version = match state {
            Some(LinkState::Up(_, version)) => Some(version),
            _ => None,
        };
        let version =
            frame.version_on(connection_version.unwrap_or(Versions::COMPILED.protocol_max), self.scenario.mutants);
        let mut bytes = BytesMut::with_capacity(frame.size());
        if let Some(version) = version {
            frame.put(version, &mut bytes);
        }
        self.fold_into_hash(&bytes);
        if connection_version.is_none() || version.is_none() {
            match frame {
                PeerFrame::Forward { id, .. } => self.schedule_node_event(from, Event::ForwardNotSent { to, id: *id }),
                PeerFrame::Answer { .. } if matches!(state, Some(LinkState::Dialed(..))) => {
                    // The peer waits for this answer, which is lost. The connection is closed and dialed again, so that
                    // the peer notices the loss.
                    self.close_outbound_connection(from, to);
                    self.schedule_redial(from, to);
                }
                PeerFrame::Answer { .. } | PeerFrame::Raft(_) => {}
            }
            return Ok(());
        }
        if self.network.must_redial(from, to) {
            self.reset_connections(from, to);
            return Ok(());
        }
        if let PeerFrame::Raft(envelope) = frame
            && self.faults_over
        {
            let generation = self.network.generation(envelope.from, envelope.to);
            self.snapshots.record_sent_chunk(envelope, generation, self.network.link_kind())?;
        }
        let at_most_once = matches!(frame, PeerFrame::Forward { .. });
        self.transmit(from, to, Packet { bytes: bytes.freeze(), at_most_once });
        Ok(())
    }

    /// Handles bytes that reach a node from a peer. Bytes of an earlier connection are ignored.
    pub(super) fn receive_peer_bytes(
        &mut self,
        to: NodeId,
        from: NodeId,
        disks: (DiskId, DiskId),
        generation: u64,
        bytes: &[u8],
    ) -> checks::Result<()> {
        let link_kind = self.network.link_kind();
        if (link_kind == LinkKind::Stream && generation != self.network.generation(from, to))
            || disks.1 != self.hosts[&to].disk_id
        {
            return Ok(());
        }
        let Some(process) = &mut self.host(to).process else {
            self.send_reset(from, to, generation);
            return Ok(());
        };
        let receive_buffer = process.receive_buffers.entry(from).or_default();
        if link_kind == LinkKind::Datagram || receive_buffer.generation != generation {
            *receive_buffer = ReceiveBuffer { generation, ..Default::default() };
        }
        receive_buffer.buffer.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) =
            receive_buffer.reader.next(&mut receive_buffer.buffer).map_err(|error| decode_error(to, from, error))?
        {
            frames.push(frame);
        }
        for frame in frames {
            if frame.kind == FrameKind::Hello {
                let hello = Hello::read(frame).map_err(|error| decode_error(to, from, error))?;
                self.handle_hello(to, from, generation, &hello)?;
                continue;
            }
            let Some(process) = &self.hosts[&to].process else { return Ok(()) };
            // A datagram may come from an earlier connection, of an earlier version: only the present one is checked.
            let version = process.inbound_connections.get(&from).map_or(0, |inbound| inbound.version);
            let is_accepted = |inbound: &InboundConnection| match link_kind {
                LinkKind::Stream => inbound.generation == generation,
                // Datagrams are not tied to a connection: one from an earlier connection may arrive late.
                LinkKind::Datagram => inbound.disk == disks.0,
            };
            if !process.inbound_connections.get(&from).is_some_and(is_accepted) {
                self.send_reset(from, to, generation);
                return Ok(());
            }
            self.handle_frame(to, from, version, frame)?;
        }
        Ok(())
    }

    /// Handles a frame on an accepted connection of that version of the protocol.
    fn handle_frame(&mut self, to: NodeId, from: NodeId, version: u16, frame: Frame) -> checks::Result<()> {
        let event = match PeerFrame::read(frame, version).map_err(|error| decode_error(to, from, error))? {
            PeerFrame::Raft(envelope) => {
                self.checks.record_learned_claims(to, &envelope.message);
                Event::Peer(envelope)
            }
            PeerFrame::Forward { id, request } => {
                Event::Request { from: Caller::Peer(from), id, forward: false, request }
            }
            PeerFrame::Answer { id, reply } => Event::ForwardAnswered { from, id, reply },
        };
        self.deliver_event(to, event)
    }

    /// Resets a connection on which a peer has sent without being accepted. The peer notices after a network delay.
    fn send_reset(&mut self, from: NodeId, to: NodeId, generation: u64) {
        if !self.network.is_cut(to, from) {
            let delay = self.network.delay(&mut self.rng);
            self.schedule_after(
                delay,
                SimEvent::PeerClosed { at: from, peer: to, end: ConnectionEnd::Outbound, generation },
            );
        }
    }

    /// Accepts or rejects a peer that has dialed this node, and sends the answer to the peer.
    fn handle_hello(&mut self, at: NodeId, from: NodeId, generation: u64, hello: &Hello) -> checks::Result<()> {
        let checks_disk_id = !self.scenario.mutants.breaks(Mutant::NoAmnesiaGuard);
        let local_time = self.hosts[&at].clock.local_time(self.now);
        let is_from_earlier_link = generation != self.network.generation(from, at);
        let (Some(process), CallerKind::Peer { disk, feature_level_max, .. }) =
            (&mut self.host(at).process, hello.caller)
        else {
            return Ok(());
        };
        if is_from_earlier_link
            || process.inbound_connections.get(&from).is_some_and(|inbound| inbound.generation >= generation)
        {
            return Ok(()); // a duplicate hello, or a hello of an earlier connection
        }
        let verdict = match process.admission.check_hello(hello, HelloContext::default()) {
            Err(HelloRejection::UnknownDisk | HelloRejection::Log) if !checks_disk_id => {
                hello.common_version(process.admission.versions().protocol_max).ok_or(HelloRejection::Version)
            }
            verdict => verdict,
        };
        let differing_log = process.admission.differing_log(hello);
        let mut answer = BytesMut::new();
        let mut events: Vec<Event> =
            differing_log.map(|log| Event::PeerLogDiffers { peer: from, log }).into_iter().collect();
        match verdict {
            Ok(version) => {
                process.admission.build_welcome(version).put(&mut answer);
                process
                    .inbound_connections
                    .insert(from, InboundConnection { generation, disk, version, feature_level_max });
                let (learned_disk_id, is_unconfigured) = process.admission.admit(hello);
                if let Some(versions) = hello.versions() {
                    process.node.handle(local_time, Event::PeerVersionsLearned { peer: from, versions });
                }
                events.push(Event::AnswersLost(from));
                events.extend(learned_disk_id.map(|disk| Event::PeerDiskLearned { peer: from, disk }));
                if is_unconfigured {
                    self.update_outbound_connections(at);
                }
                self.dial_now(at, from);
            }
            Err(reason) => reason.put(hello, process.admission.versions().protocol_max, &mut answer),
        }
        self.trace_line(|| format!("{at} is dialed by {from}: {verdict:?}"));
        if !self.network.is_cut(at, from) {
            let delay = self.network.delay(&mut self.rng);
            self.schedule_after(
                delay,
                SimEvent::PeerWelcome { at: from, peer: at, generation, bytes: answer.freeze() },
            );
        }
        events.into_iter().try_for_each(|event| self.deliver_event(at, event))
    }

    /// Dials a peer at once if the connection to it is down: the peer has just connected, so it can be reached.
    fn dial_now(&mut self, at: NodeId, peer: NodeId) {
        let (now, incarnation) = (self.now, self.hosts[&at].incarnation);
        let Some(link) = self.host(at).process.as_mut().and_then(|process| process.outbound_connections.get_mut(&peer))
        else {
            return;
        };
        if matches!(link.state, LinkState::Down(_)) {
            link.state = LinkState::Down(now);
            self.schedule_after(Duration::ZERO, SimEvent::DialPeer { at, incarnation, peer });
        }
    }

    /// Handles the answer of a dialed peer: marks the connection as up if the peer accepts, or dials again later.
    pub(super) fn handle_welcome(
        &mut self,
        at: NodeId,
        peer: NodeId,
        generation: u64,
        bytes: Bytes,
    ) -> checks::Result<()> {
        let checks_disk_id = !self.scenario.mutants.breaks(Mutant::NoAmnesiaGuard);
        let Some(process) = &mut self.host(at).process else { return Ok(()) };
        if !process
            .outbound_connections
            .get(&peer)
            .is_some_and(|link| matches!(link.state, LinkState::Dialed(dialed, _) if dialed == generation))
        {
            return Ok(());
        }
        let frame = FrameReader::default().next(&mut BytesMut::from(bytes));
        let frame = frame
            .map_err(|error| decode_error(at, peer, error))?
            .ok_or("the welcome frame of a dialed peer is incomplete")?;
        let accepted =
            Welcome::read(frame).map(|welcome| (process.admission.handle_welcome(peer, &welcome), welcome.version));
        let (learned_disk_id, version) = match accepted {
            Ok((Ok(learned_disk_id), version)) => (learned_disk_id, version),
            Ok((Err(_), version)) if !checks_disk_id => (None, version),
            Ok((Err(_), _)) | Err(_) => {
                self.close_outbound_connection(at, peer);
                self.schedule_redial(at, peer);
                return Ok(());
            }
        };
        process
            .outbound_connections
            .insert(peer, OutboundConnection { state: LinkState::Up(generation, version), failures: 0 });
        learned_disk_id.map_or(Ok(()), |disk| self.deliver_event(at, Event::PeerDiskLearned { peer, disk }))
    }

    /// Updates a node's connections after a change of its membership or leader.
    pub(super) fn update_peer_links(&mut self, at: NodeId) {
        let now = self.now;
        let Some(process) = &mut self.host(at).process else { return };
        let (leader, configured) = (process.node.raft().leader(), process.node.raft().configuration_position());
        process.admission.set_leader(leader);
        if process.has_adjusted_connections
            && configured == process.admission.configuration_position()
            && process.linked_membership == *process.node.membership()
        {
            let former_peers = process.admission.forget_former_members(now);
            if !former_peers.is_empty() {
                former_peers.into_iter().for_each(|peer| self.drop_peer(at, peer));
                self.update_outbound_connections(at);
            }
            return;
        }
        // A node that is not in a cluster yet dials its configured addresses: here, those of all machines.
        let addresses: Vec<(NodeId, String)> = self.hosts.keys().map(|id| (*id, format!("{id}:1"))).collect();
        let Some(process) = &mut self.host(at).process else { return };
        let membership = process.node.membership().clone();
        let readded_peers =
            process.admission.set_members(now, &membership, configured, || Membership::founding(addresses));
        (process.has_adjusted_connections, process.linked_membership) = (true, membership);
        readded_peers.into_iter().for_each(|peer| self.drop_peer(at, peer));
        self.update_outbound_connections(at);
    }

    /// Ends the connections with a peer that was removed and added again, or that was removed some time ago.
    fn drop_peer(&mut self, at: NodeId, peer: NodeId) {
        let local_time = self.hosts[&at].clock.local_time(self.now);
        self.close_outbound_connection(at, peer);
        let Some(process) = &mut self.host(at).process else { return };
        let inbound_connection = process.inbound_connections.remove(&peer);
        let outbound_connection = process.outbound_connections.remove(&peer);
        if inbound_connection.is_some() {
            process.admission.handle_disconnect(peer);
            process.node.handle(local_time, Event::PeerInboundClosed(peer));
        }
        if inbound_connection.is_some()
            || outbound_connection.is_some_and(|link| matches!(link.state, LinkState::Up(..)))
        {
            process.node.handle(local_time, Event::PeerLost(peer));
            let incarnation = self.hosts[&at].incarnation;
            self.schedule_after(Duration::from_micros(1), SimEvent::NodeTurn { at, incarnation });
        }
        if let Some(inbound_connection) = inbound_connection {
            self.send_reset(peer, at, inbound_connection.generation);
        }
    }

    /// Ensures that there is an outbound connection to each peer that the node has to dial, and to no other node.
    fn update_outbound_connections(&mut self, at: NodeId) {
        let (now, incarnation) = (self.now, self.hosts[&at].incarnation);
        let Some(process) = &mut self.host(at).process else { return };
        let peers_to_dial: Vec<NodeId> =
            process.admission.peers_to_dial().map(|(id, _)| *id).filter(|id| *id != at).collect();
        let peers_to_close: Vec<NodeId> =
            process.outbound_connections.keys().copied().filter(|peer| !peers_to_dial.contains(peer)).collect();
        for peer in peers_to_close {
            self.close_outbound_connection(at, peer);
            if let Some(process) = &mut self.host(at).process {
                process.outbound_connections.remove(&peer);
            }
        }
        for peer in peers_to_dial {
            let Some(process) = &mut self.host(at).process else { return };
            if let Entry::Vacant(vacant) = process.outbound_connections.entry(peer) {
                vacant.insert(OutboundConnection::new(now));
                self.schedule_after(Duration::ZERO, SimEvent::DialPeer { at, incarnation, peer });
            }
        }
    }
}

/// Describes the violation that a node sent bytes which its peer cannot decode.
fn decode_error(to: NodeId, from: NodeId, error: impl std::fmt::Display) -> String {
    format!("{to} cannot decode the bytes that {from} sent: {error}")
}
