//! All connections of a node: readiness and bytes become events, and actions become bytes.

mod connections;
mod credentials;
mod failure_log;
mod figures;
mod gateway_kind;
mod gateway_state;
mod gateways;
mod handshake;
mod http;
mod listener;
mod membership_view;
mod memory;
mod peer_links;
mod redis;
mod replying;
mod seats;
mod session_closing;
mod sweeper;

use super::conn::{Filled, Phase};
use super::counting::Counting;
use super::failure::Failure;
use super::options::Options;
use super::pressure::{FEW_BYTES, Pressure};
use super::role::{ClientFrame, Role};
use super::stream;
use super::waker::Waker;
pub use crate::admission::Identity;
use crate::api::{Refusal, Reply, Request};
use crate::codec::Malformed;
use crate::node::event::{Caller, Event};
use crate::secure::Stream;
use crate::types::{Membership, NodeId, Position, Time};
use crate::wire::WireError;
use crate::wire::client::Numbered;
use crate::wire::peer::PeerFrame;
use connections::Connections;
use gateway_kind::GatewayKind;
use gateway_state::{Gateways, HTTP, REDIS};
use listener::{Accepted, Listener};
use membership_view::MembershipView;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Poll, Token};
use peer_links::PeerLinks;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// The token left free for an event source of the caller.
pub const FREE: Token = Token(usize::MAX - 2);

/// All connections of a node.
pub struct Net {
    membership: MembershipView,
    options: Options,
    poll: Poll,
    polled: Events,
    waker: Waker,
    listener: Option<Listener>,
    connections: Connections,
    peers: PeerLinks,
    gateways: Gateways,
    counting: Counting,
    scratch: Box<[u8]>,
    /// Whether new requests are refused because the node is stopping.
    stopping: bool,
    /// Whether the event source under the free token was ready.
    signalled: bool,
    events: Vec<Event>,
}

impl Net {
    /// Creates the sockets of node `me`, with its listener. Peers are dialed once [`Net::set_members`] names them.
    ///
    /// `addresses` are addresses of members to try whatever addresses the membership names.
    pub fn open(
        me: Identity,
        listener: TcpListener,
        addresses: BTreeMap<NodeId, String>,
        options: Options,
    ) -> io::Result<Net> {
        let poll = Poll::new()?;
        let waker = Waker::new(mio::Waker::new(poll.registry(), WAKER)?);
        let listener = Listener::register(poll.registry(), LISTENER, listener)?;
        Ok(Net {
            membership: MembershipView::new(me, options.machine, addresses),
            peers: PeerLinks::new(me.node, &options, waker.clone()),
            connections: Connections::new(options.clients_bytes_max),
            options,
            poll,
            polled: Events::with_capacity(1024),
            waker,
            listener: Some(listener),
            gateways: Gateways::default(),
            counting: Counting::default(),
            scratch: vec![0; 256 << 10].into(),
            stopping: false,
            signalled: false,
            events: Vec::new(),
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.address().ok())
    }

    /// Wakes the event loop from another thread.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The registry for an event source of the caller, under the token [`FREE`].
    pub fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Whether the event source under [`FREE`] was ready since the last call.
    pub fn signalled(&mut self) -> bool {
        std::mem::take(&mut self.signalled)
    }

    /// How many client requests are not answered yet.
    pub fn unanswered(&self) -> usize {
        self.connections.iter().map(|conn| conn.unanswered).sum()
    }

    /// How many bytes wait to be written to clients.
    pub fn unwritten(&self) -> usize {
        let clients =
            self.connections.iter().filter(|conn| matches!(conn.role, Role::Client(_) | Role::GatewayClient(_)));
        clients.map(|conn| conn.lanes.size()).sum()
    }

    /// Stops listening, and refuses new requests.
    pub fn stop_listening(&mut self) {
        self.stopping = true;
        self.gateways.stop_listening(self.poll.registry());
        if let Some(listener) = self.listener.take() {
            listener.close(self.poll.registry());
        }
    }

    /// Keeps a link to each member of the configuration at position `configured`, and for a while to each former
    /// member, which has to learn of its removal. A node without a configuration keeps links to its configured
    /// addresses.
    pub fn set_members(&mut self, now: Time, membership: &Membership, configured: Position) {
        let added = self.membership.set_members(now, membership, configured);
        added.into_iter().for_each(|id| self.disconnect(now, id));
        self.update_links(now);
        self.connections.schedule_sweep(now);
        self.membership.warn_of_address(membership);
    }

    /// The name of the state machine that runs here.
    pub fn machine(&self) -> &'static str {
        self.options.machine
    }

    /// The listen address is a default. If the members expect this node elsewhere, a warning is logged.
    pub fn set_inferred_address(&mut self, listens: String) {
        self.membership.set_inferred_address(listens);
    }

    /// Closes the connections with a peer that was added again, or was removed a while ago. The peer must send its disk
    /// id again before any further message from it counts.
    fn disconnect(&mut self, now: Time, peer: NodeId) {
        for token in self.peers.connections_of(peer) {
            self.close(now, token);
        }
    }

    /// Sets the links to all members, recent former members and configured addresses.
    fn update_links(&mut self, now: Time) {
        for token in self.peers.set(self.membership.addresses_to_dial()) {
            self.close(now, token);
        }
    }

    /// The address of a member, as far as it is known: the last that worked, or the one to be tried now.
    pub fn place(&self, member: NodeId) -> Option<&str> {
        if member == self.membership.me().node {
            return self.membership.own_address();
        }
        self.peers.get(member).map(|link| link.address())
    }

    /// Why messages of a peer that dials this node are not accepted, in words.
    pub fn why_unheard(&self, now: Time, peer: NodeId) -> Option<&str> {
        self.membership.why_unheard(now, peer)
    }

    /// When there is work to do even without an event.
    pub fn deadline(&self) -> Time {
        if self.connections.has_unread() {
            return Time::ZERO;
        }
        let accept = self.listener.as_ref().map_or(Time::NEVER, Listener::deadline);
        self.peers.deadline().min(self.connections.sweep_at()).min(accept).min(self.gateways.deadline())
    }

    /// Waits for events, at most for `timeout`. Returns whether there were any.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        match self.poll.poll(&mut self.polled, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        }
        let mut came = false;
        for event in &self.polled {
            came = true;
            match event.token() {
                LISTENER => self.listener.iter_mut().for_each(Listener::mark_pending),
                REDIS => self.gateways.mark_pending(GatewayKind::Redis),
                HTTP => self.gateways.mark_pending(GatewayKind::Http),
                WAKER => {}
                FREE => self.signalled = true,
                token => {
                    let Some(mut conn) = self.connections.get_mut(token) else { continue };
                    let ends = event.is_read_closed() || event.is_write_closed() || event.is_error();
                    if event.is_readable() || ends {
                        conn.mark_readable(ends);
                        conn.schedule_read();
                    }
                    if event.is_writable() || ends {
                        conn.blocked = false;
                        conn.schedule_write();
                    }
                }
            }
        }
        Ok(came)
    }

    /// Accepts connections, reads from those that are ready, and dials peers that are due. The resulting events are
    /// returned by [`Net::events`].
    pub fn poll_io(&mut self, now: Time) {
        self.accept(now);
        self.accept_at_gateways(now);
        for token in self.connections.take_read_queue() {
            self.read(now, token);
        }
        self.pump_all(now);
        while let Some((peer, found)) = self.peers.take_resolved() {
            self.resolved(now, peer, found);
        }
        while let Some(peer) = self.peers.due(now) {
            self.dial(now, peer);
        }
        if self.connections.sweep_at() <= now {
            self.sweep(now);
        }
    }

    /// Whether there are events to collect. A write can produce one too, when it finds the connection closed.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether another thread has left a result here; checked once more before sleeping.
    pub fn has_mail(&mut self) -> bool {
        self.peers.has_resolved()
    }

    /// Moves all events since the last call into `into`, in order.
    pub fn events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// Accepts waiting connections, a limited number before the accepted ones are read. When too many are in handshake,
    /// the oldest of these is closed. A well-behaved peer or client sends its hello at once, so it gets in however many
    /// connections stay silent.
    fn accept(&mut self, now: Time) {
        for _ in 0..self.options.handshakes_max.div_ceil(4) {
            let Some(listener) = &mut self.listener else { return };
            let stream = match listener.accept(now) {
                Accepted::Stream(stream) => stream,
                Accepted::Aborted => continue,
                Accepted::Nothing => return,
                Accepted::Failed(error) => {
                    let node = self.membership.me().node.get();
                    log::warn!(node; "cannot accept a connection: {error}; retrying soon");
                    return;
                }
            };
            let _if_not_it_is_slower = stream::tune_caller(&stream);
            let stream = Stream::accepted(self.options.keys.as_ref(), stream);
            let _if_not_it_is_dropped = stream.and_then(|stream| self.insert(now, stream, Role::Handshaking));
            if self.connections.handshaking() > self.options.handshakes_max
                && let Some(longest) = self.connections.longest_handshake()
            {
                self.close(now, longest);
            }
        }
    }

    fn insert(&mut self, now: Time, stream: Stream<TcpStream>, role: Role) -> io::Result<Token> {
        self.connections.insert(self.poll.registry(), now, stream, role)
    }

    fn read(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        conn.in_read_queue = false;
        let mut left = self.options.read_bytes / self.scratch.len();
        loop {
            let Some(mut conn) = self.connections.get_mut(token) else { return };
            if !conn.has_more() || conn.is_read_suspended(&self.options, conn.pressure()) {
                return;
            }
            if left == 0 {
                return conn.schedule_read();
            }
            left -= 1;
            // Input that is already buffered is processed before more is read.
            let most = if conn.pressure() == Pressure::Over { FEW_BYTES } else { self.scratch.len() };
            let filled = if conn.unprocessed { Ok(Filled::More) } else { conn.fill(&mut self.scratch[..most]) };
            let filled = match filled {
                Ok(filled) => filled,
                Err(error) => {
                    self.socket_failed(now, token, &error);
                    return self.close(now, token);
                }
            };
            conn.heard_at = now;
            if conn.phase() == Phase::Draining {
                conn.input().clear();
                conn.unprocessed = false;
            } else if let Err(error) = self.process_frames(now, token) {
                if self.connections.get_mut(token).is_some_and(|conn| matches!(conn.role, Role::Client(_))) {
                    self.counting.malformed();
                }
                self.failed(now, token, Failure::of_protocol(&error, self.options.keys.is_some()));
                return self.close(now, token);
            }
            if let Some(mut conn) = self.connections.get_mut(token) {
                conn.count_memory();
            }
            match filled {
                Filled::More => {}
                Filled::Dry => return,
                Filled::End => {
                    self.ended_early(now, token);
                    return self.ended(now, token);
                }
            }
        }
    }

    /// Processes complete frames until the connection has to wait: one read may hold thousands of requests.
    fn process_frames(&mut self, now: Time, token: Token) -> Result<(), WireError> {
        loop {
            // A frame may have closed the connection.
            let Some(mut conn) = self.connections.get_mut(token) else { return Ok(()) };
            if matches!(conn.role, Role::GatewayClient(_)) {
                self.process_gateway_input(now, token);
                return Ok(());
            }
            conn.unprocessed = conn.is_read_suspended(&self.options, conn.pressure());
            if conn.phase() != Phase::Open || conn.unprocessed {
                return Ok(());
            }
            let Some(frame) = conn.next_frame()? else {
                conn.update_frame_timeout(now);
                self.connections.schedule_sweep(now);
                return Ok(());
            };
            match (frame, conn.role) {
                (ClientFrame::Request(asked), Role::Client(number)) => {
                    if conn.is_operator && matches!(asked.request, Request::Propose { .. }) {
                        return Err(Malformed("a proposal on an operator connection").into());
                    }
                    conn.unanswered += 1;
                    self.handle_request(token, number, asked);
                }
                (ClientFrame::Peer(frame), Role::InboundPeer(peer)) => self.peer_frame(peer, frame)?,
                (ClientFrame::Hello(hello), _) => self.handle_hello(now, token, &hello),
                (ClientFrame::Welcome(welcome), Role::Connecting(peer)) => {
                    self.handle_welcome(now, token, peer, &welcome)?
                }
                (ClientFrame::Request(_) | ClientFrame::Peer(_) | ClientFrame::Welcome(_), _) => {
                    unreachable!("a connection decodes only the frames of its role")
                }
            }
        }
    }

    fn handle_request(&mut self, token: Token, number: u64, asked: Numbered) {
        let Numbered { id, forward, request } = asked;
        self.counting.asked(&request);
        if self.stopping && !matches!(request, Request::Status) {
            return self.reply(token, id, &Reply::Refused(Refusal::Stopping));
        }
        self.events.push(Event::Request { from: Caller::Client(number), id, forward, request });
    }

    fn peer_frame(&mut self, peer: NodeId, frame: PeerFrame) -> Result<(), WireError> {
        self.events.push(match frame {
            PeerFrame::Raft(envelope) if envelope.from != peer || envelope.to != self.membership.me().node => {
                return Err(Malformed("a message from another node than the peer").into());
            }
            PeerFrame::Raft(envelope) => Event::Peer(envelope),
            PeerFrame::Forward { id, request } => {
                Event::Request { from: Caller::Peer(peer), id, forward: false, request }
            }
            PeerFrame::Answer { id, reply } => Event::Answered { from: peer, id, reply },
        });
        Ok(())
    }

    /// Writes to the peers with pending messages, before any work that takes longer.
    pub fn flush_peers(&mut self, now: Time) {
        for i in 0..self.connections.write_queue().len() {
            let token = self.connections.write_queue()[i];
            if let Some(mut conn) = self.connections.get_mut(token)
                && matches!(conn.role, Role::OutboundPeer(_))
                && let Err(error) = conn.write()
            {
                self.socket_failed(now, token, &error);
                self.close(now, token);
            }
        }
    }

    /// Writes to every connection with pending output: one write each, unless the output is large.
    pub fn flush(&mut self, now: Time) {
        for token in self.connections.take_write_queue() {
            let Some(mut conn) = self.connections.get_mut(token) else { continue };
            conn.in_write_queue = false;
            let rested = conn.has_more() && !conn.in_read_queue;
            let pressure = conn.pressure();
            let held_back = conn.gateway.is_some() && conn.is_held_back(&self.options, pressure);
            let written = conn.write();
            conn.count_memory();
            let gone = written.is_err()
                || (matches!(conn.role, Role::Client(_) | Role::GatewayClient(_))
                    && conn.lanes.size() > self.options.client_bytes_max);
            if gone {
                if let Err(error) = written {
                    self.socket_failed(now, token, &error);
                }
                self.close(now, token);
                continue;
            }
            if conn.phase() >= Phase::Closing && conn.has_written_all() {
                self.begin_close(now, token);
                continue;
            }
            if held_back && !conn.is_held_back(&self.options, pressure) {
                // Its requests to the node were delayed until the client reads.
                self.gateways.schedule_pump(token);
            }
            if rested && !conn.is_read_suspended(&self.options, pressure) {
                // Reading from it was suspended until the client reads.
                conn.schedule_read();
            }
        }
        self.relieve();
    }
}

#[cfg(test)]
mod tests;
