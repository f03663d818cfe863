//! All connections of a node: received bytes become events for the node, and the node's actions become bytes to send.

mod client_slots;
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
mod session_closing;
mod sweeper;

use super::conn::{ConnPhase, ReadOutcome};
use super::failure::ConnectionFailure;
use super::memory_pressure::{GUARANTEED_CONN_BYTES, MemoryPressure};
use super::options::Options;
use super::protocol_counters::ProtocolCounters;
use super::role::{DecodedFrame, Role};
use super::stream;
use super::waker::Waker;
pub use crate::admission::Identity;
use crate::api::{Refusal, Reply, Request};
use crate::codec::Malformed;
use crate::node::event::{Caller, Event};
use crate::secure::Stream;
use crate::types::{Membership, NodeId, Position, Time};
use crate::wire::WireError;
use crate::wire::client::NumberedRequest;
use crate::wire::peer::PeerFrame;
use connections::Connections;
use gateway_kind::GatewayKind;
use gateway_state::{Gateways, HTTP_LISTENER_TOKEN, REDIS_LISTENER_TOKEN};
use listener::{AcceptOutcome, Listener};
use membership_view::MembershipView;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Poll, Token};
use peer_links::PeerLinks;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

const LISTENER_TOKEN: Token = Token(usize::MAX);
const WAKER_TOKEN: Token = Token(usize::MAX - 1);
/// The poll token for one event source of the caller, such as signals; see [`Net::registry`].
pub const EXTERNAL_SOURCE_TOKEN: Token = Token(usize::MAX - 2);

/// All connections of a node, with the poll that watches their sockets.
pub struct Net {
    membership: MembershipView,
    options: Options,
    poll: Poll,
    poll_events: Events,
    waker: Waker,
    listener: Option<Listener>,
    connections: Connections,
    peer_links: PeerLinks,
    gateways: Gateways,
    protocol_counters: ProtocolCounters,
    /// The buffer that every read from a socket fills first, shared by all connections.
    read_buffer: Box<[u8]>,
    /// Whether the node is stopping, so that new requests are refused.
    stopping: bool,
    /// Whether the event source under [`EXTERNAL_SOURCE_TOKEN`] was ready since [`Net::external_source_ready`] was last
    /// called.
    external_source_ready: bool,
    events: Vec<Event>,
}

impl Net {
    /// Registers the listener of node `me` with a new poll. Peers are dialed after [`Net::set_members`] has named them.
    ///
    /// `addresses` are configured addresses of members, which are dialed in addition to those in the membership.
    pub fn open(
        me: Identity,
        listener: TcpListener,
        addresses: BTreeMap<NodeId, String>,
        options: Options,
    ) -> io::Result<Net> {
        let poll = Poll::new()?;
        let waker = Waker::new(mio::Waker::new(poll.registry(), WAKER_TOKEN)?);
        let listener = Listener::register(poll.registry(), LISTENER_TOKEN, listener)?;
        Ok(Net {
            membership: MembershipView::new(me, (options.machine_kind, options.versions), addresses),
            peer_links: PeerLinks::new(me.node, &options, waker.clone()),
            connections: Connections::new(options.clients_memory_bytes_max),
            options,
            poll,
            poll_events: Events::with_capacity(1024),
            waker,
            listener: Some(listener),
            gateways: Gateways::default(),
            protocol_counters: ProtocolCounters::default(),
            read_buffer: vec![0; 256 << 10].into(),
            stopping: false,
            external_source_ready: false,
            events: Vec::new(),
        })
    }

    /// The address of the native listener; `None` after [`Net::stop_listening`].
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.address().ok())
    }

    /// The handle with which other threads wake the event loop.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The registry of the poll, for an event source of the caller under the token [`EXTERNAL_SOURCE_TOKEN`].
    pub fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Whether the event source under [`EXTERNAL_SOURCE_TOKEN`] was ready since the last call.
    pub fn external_source_ready(&mut self) -> bool {
        std::mem::take(&mut self.external_source_ready)
    }

    /// The number of client requests that are not answered yet.
    pub fn unanswered_requests(&self) -> usize {
        self.connections.iter().map(|conn| conn.unanswered_requests).sum()
    }

    /// The number of bytes that wait to be written to clients, without those to peers.
    pub fn unwritten_bytes(&self) -> usize {
        let client_connections =
            self.connections.iter().filter(|conn| matches!(conn.role, Role::Client(_) | Role::GatewayClient(_)));
        client_connections.map(|conn| conn.output.pending_bytes()).sum()
    }

    /// Closes all listeners, and refuses new requests from now on. Connections stay open.
    pub fn stop_listening(&mut self) {
        self.stopping = true;
        self.gateways.stop_listening(self.poll.registry());
        if let Some(listener) = self.listener.take() {
            listener.close(self.poll.registry());
        }
    }

    /// Sets the members, by the configuration at position `config_position`. The node keeps a link to each member, and
    /// for a while to each former member, which has to learn of its removal. A node without a configuration keeps links
    /// to its configured addresses.
    pub fn set_members(&mut self, now: Time, membership: &Membership, config_position: Position) {
        let added_peers = self.membership.set_members(now, membership, config_position);
        added_peers.into_iter().for_each(|id| self.disconnect_peer(now, id));
        self.update_links(now);
        self.connections.schedule_sweep(now);
        self.membership.warn_of_listed_address(membership);
    }

    /// The name of this node's state machine, for the status.
    pub fn machine_kind(&self) -> &'static str {
        self.options.machine_kind
    }

    /// Sets the default listen address, for a node whose listen address was not configured. A warning is logged if the
    /// membership lists the node at another address.
    pub fn set_default_listen_address(&mut self, default_address: String) {
        self.membership.set_default_listen_address(default_address);
    }

    /// Closes both connections with a peer that was added again, or was removed a while ago. The peer must send its
    /// disk id again before any further message of the peer counts for quorums.
    fn disconnect_peer(&mut self, now: Time, peer: NodeId) {
        for token in self.peer_links.connections_of(peer) {
            self.close(now, token);
        }
    }

    /// Sets the links to all members, recent former members, and connected peers outside the configuration.
    fn update_links(&mut self, now: Time) {
        for token in self.peer_links.set_peers(self.membership.addresses_to_dial()) {
            self.close(now, token);
        }
    }

    /// The address of a member, as `HOST:PORT`: the one in use, or the next one to dial. `None` if the node knows none.
    pub fn address_of(&self, member: NodeId) -> Option<&str> {
        if member == self.membership.me().node {
            return self.membership.own_address();
        }
        self.peer_links.get(member).map(|link| link.address())
    }

    /// The reason why a peer that dials this node is rejected, as part of a sentence; `None` if the peer is not
    /// rejected.
    pub fn rejection_reason(&self, now: Time, peer: NodeId) -> Option<&str> {
        self.membership.rejection_reason(now, peer)
    }

    /// When [`Net::poll_io`] is due even without an event.
    pub fn deadline(&self) -> Time {
        if self.connections.has_pending_reads() {
            return Time::ZERO;
        }
        let accept_deadline = self.listener.as_ref().map_or(Time::NEVER, Listener::deadline);
        self.peer_links
            .deadline()
            .min(self.connections.next_sweep_at())
            .min(accept_deadline)
            .min(self.gateways.deadline())
    }

    /// Waits for poll events, at most for `timeout`, and marks the sockets that are ready. Returns whether there were
    /// any events.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        match self.poll.poll(&mut self.poll_events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        }
        let mut any_event = false;
        for event in &self.poll_events {
            any_event = true;
            match event.token() {
                LISTENER_TOKEN => self.listener.iter_mut().for_each(Listener::mark_accept_pending),
                REDIS_LISTENER_TOKEN => self.gateways.mark_accept_pending(GatewayKind::Redis),
                HTTP_LISTENER_TOKEN => self.gateways.mark_accept_pending(GatewayKind::Http),
                WAKER_TOKEN => {}
                EXTERNAL_SOURCE_TOKEN => self.external_source_ready = true,
                token => {
                    let Some(mut conn) = self.connections.get_mut(token) else { continue };
                    let remote_closed = event.is_read_closed() || event.is_write_closed() || event.is_error();
                    if event.is_readable() || remote_closed {
                        conn.mark_readable(remote_closed);
                        conn.schedule_read();
                    }
                    if event.is_writable() || remote_closed {
                        conn.write_blocked = false;
                        conn.schedule_write();
                    }
                }
            }
        }
        Ok(any_event)
    }

    /// Accepts connections, reads from ready sockets, and dials peers that are due. [`Net::take_events`] returns the
    /// resulting events.
    pub fn poll_io(&mut self, now: Time) {
        self.accept(now);
        self.accept_at_gateways(now);
        for token in self.connections.take_read_queue() {
            self.read_connection(now, token);
        }
        self.pump_scheduled(now);
        while let Some((peer, addresses)) = self.peer_links.take_lookup_result() {
            self.dial_resolved(now, peer, addresses);
        }
        while let Some(peer) = self.peer_links.next_to_dial(now) {
            self.dial(now, peer);
        }
        if self.connections.next_sweep_at() <= now {
            self.sweep(now);
        }
    }

    /// Whether [`Net::take_events`] would return events. A write can cause an event too, if the connection is closed.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether a lookup on another thread has ended. The event loop checks this once more before it sleeps.
    pub fn has_lookup_result(&mut self) -> bool {
        self.peer_links.has_lookup_result()
    }

    /// Moves all events since the last call to the end of `into`, in order.
    pub fn take_events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// Accepts waiting connections, a limited number before the accepted ones are read. If too many are in handshake,
    /// the oldest of these is closed. A peer or client that sends its hello at once is therefore accepted, however many
    /// connections send nothing.
    fn accept(&mut self, now: Time) {
        for _ in 0..self.options.handshakes_max.div_ceil(4) {
            let Some(listener) = &mut self.listener else { return };
            let stream = match listener.accept(now) {
                AcceptOutcome::Stream(stream) => stream,
                AcceptOutcome::Aborted => continue,
                AcceptOutcome::NonePending => return,
                AcceptOutcome::Failed(error) => {
                    let node = self.membership.me().node.get();
                    log::warn!(node; "cannot accept a connection: {error}; retrying soon");
                    return;
                }
            };
            let _best_effort = stream::tune_inbound(&stream);
            let stream = Stream::accepted(self.options.keys.as_ref(), stream);
            let _dropped_on_error = stream.and_then(|stream| self.insert_connection(now, stream, Role::Handshaking));
            if self.connections.handshaking_count() > self.options.handshakes_max
                && let Some(oldest) = self.connections.oldest_handshake()
            {
                self.close(now, oldest);
            }
        }
    }

    fn insert_connection(&mut self, now: Time, stream: Stream<TcpStream>, role: Role) -> io::Result<Token> {
        self.connections.insert(self.poll.registry(), now, stream, role)
    }

    fn read_connection(&mut self, now: Time, token: Token) {
        let Some(mut conn) = self.connections.get_mut(token) else { return };
        conn.in_read_queue = false;
        let mut reads_left = self.options.read_budget_bytes / self.read_buffer.len();
        loop {
            let Some(mut conn) = self.connections.get_mut(token) else { return };
            if !conn.has_input() || conn.is_read_suspended(&self.options, conn.pressure()) {
                return;
            }
            if reads_left == 0 {
                return conn.schedule_read();
            }
            reads_left -= 1;
            // Buffered input is processed before more is read.
            let read_bytes_max = if conn.pressure() == MemoryPressure::OverBound {
                GUARANTEED_CONN_BYTES
            } else {
                self.read_buffer.len()
            };
            let read_outcome = if conn.has_unprocessed_input {
                Ok(ReadOutcome::More)
            } else {
                conn.fill_input(&mut self.read_buffer[..read_bytes_max])
            };
            let read_outcome = match read_outcome {
                Ok(read_outcome) => read_outcome,
                Err(error) => {
                    self.log_socket_error(now, token, &error);
                    return self.close(now, token);
                }
            };
            conn.last_read_at = now;
            if conn.phase() == ConnPhase::Draining {
                conn.input().clear();
                conn.has_unprocessed_input = false;
            } else if let Err(error) = self.process_frames(now, token) {
                if self.connections.get_mut(token).is_some_and(|conn| matches!(conn.role, Role::Client(_))) {
                    self.protocol_counters.count_malformed_message();
                }
                self.log_failure(now, token, ConnectionFailure::of_protocol(&error, self.options.keys.is_some()));
                return self.close(now, token);
            }
            if let Some(mut conn) = self.connections.get_mut(token) {
                conn.count_memory();
            }
            match read_outcome {
                ReadOutcome::More => {}
                ReadOutcome::WouldBlock => return,
                ReadOutcome::EndOfStream => {
                    self.log_unexpected_close(now, token);
                    return self.handle_end_of_stream(now, token);
                }
            }
        }
    }

    /// Processes the complete frames of the input until reading is suspended. One read may contain thousands of
    /// requests.
    fn process_frames(&mut self, now: Time, token: Token) -> Result<(), WireError> {
        loop {
            // Processing the previous frame may have closed the connection.
            let Some(mut conn) = self.connections.get_mut(token) else { return Ok(()) };
            if matches!(conn.role, Role::GatewayClient(_)) {
                self.process_gateway_input(now, token);
                return Ok(());
            }
            conn.has_unprocessed_input = conn.is_read_suspended(&self.options, conn.pressure());
            if conn.phase() != ConnPhase::Open || conn.has_unprocessed_input {
                return Ok(());
            }
            let Some(frame) = conn.next_frame()? else {
                conn.update_frame_timeout(now);
                self.connections.schedule_sweep(now);
                return Ok(());
            };
            match (frame, conn.role) {
                (DecodedFrame::Request(numbered_request), Role::Client(number)) => {
                    if conn.is_operator && matches!(numbered_request.request, Request::Propose { .. }) {
                        return Err(Malformed("a proposal on an operator connection").into());
                    }
                    conn.unanswered_requests += 1;
                    self.handle_request(token, number, numbered_request);
                }
                (DecodedFrame::Peer(frame), Role::InboundPeer(peer)) => self.handle_peer_frame(peer, frame)?,
                (DecodedFrame::Hello(hello), _) => self.handle_hello(now, token, &hello),
                (DecodedFrame::Welcome(welcome), Role::Connecting(peer)) => {
                    self.handle_welcome(now, token, peer, &welcome)?
                }
                (DecodedFrame::Request(_) | DecodedFrame::Peer(_) | DecodedFrame::Welcome(_), _) => {
                    unreachable!("a connection decodes only the frames of its role")
                }
            }
        }
    }

    fn handle_request(&mut self, token: Token, number: u64, numbered_request: NumberedRequest) {
        let NumberedRequest { id, forward, request } = numbered_request;
        self.protocol_counters.count_request(&request);
        if self.stopping && !matches!(request, Request::Status) {
            return self.reply(token, id, &Reply::Refused(Refusal::Stopping));
        }
        self.events.push(Event::Request { from: Caller::Client(number), id, forward, request });
    }

    fn handle_peer_frame(&mut self, peer: NodeId, frame: PeerFrame) -> Result<(), WireError> {
        self.events.push(match frame {
            PeerFrame::Raft(envelope) if envelope.from != peer || envelope.to != self.membership.me().node => {
                return Err(Malformed("a message from another node than the peer").into());
            }
            PeerFrame::Raft(envelope) => Event::Peer(envelope),
            PeerFrame::Forward { id, request } => {
                Event::Request { from: Caller::Peer(peer), id, forward: false, request }
            }
            PeerFrame::Answer { id, reply } => Event::ForwardAnswered { from: peer, id, reply },
        });
        Ok(())
    }

    /// Writes pending messages to peers only, before [`Net::flush`] writes to all connections: entries for followers
    /// must not wait for other work of the event loop.
    pub fn flush_peers(&mut self, now: Time) {
        for i in 0..self.connections.write_queue().len() {
            let token = self.connections.write_queue()[i];
            if let Some(mut conn) = self.connections.get_mut(token)
                && matches!(conn.role, Role::OutboundPeer(_))
                && let Err(error) = conn.write()
            {
                self.log_socket_error(now, token, &error);
                self.close(now, token);
            }
        }
    }

    /// Writes pending output to all connections, and resumes reading where the written output allows it.
    pub fn flush(&mut self, now: Time) {
        for token in self.connections.take_write_queue() {
            let Some(mut conn) = self.connections.get_mut(token) else { continue };
            conn.in_write_queue = false;
            let was_suspended = conn.has_input() && !conn.in_read_queue;
            let pressure = conn.pressure();
            let had_backlog = conn.gateway.is_some() && conn.has_output_backlog(&self.options, pressure);
            let write_result = conn.write();
            conn.count_memory();
            let must_close = write_result.is_err()
                || (matches!(conn.role, Role::Client(_) | Role::GatewayClient(_))
                    && conn.output.pending_bytes() > self.options.client_output_bytes_max);
            if must_close {
                if let Err(error) = write_result {
                    self.log_socket_error(now, token, &error);
                }
                self.close(now, token);
                continue;
            }
            if conn.phase() >= ConnPhase::Closing && conn.has_written_all() {
                self.begin_close(now, token);
                continue;
            }
            if had_backlog && !conn.has_output_backlog(&self.options, pressure) {
                // The client's requests were delayed until the client reads its replies.
                self.gateways.schedule_pump(token);
            }
            if was_suspended && !conn.is_read_suspended(&self.options, pressure) {
                // Reading was suspended until the client reads its replies.
                conn.schedule_read();
            }
        }
        self.resume_suspended();
    }
}

#[cfg(test)]
mod tests;
