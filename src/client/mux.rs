//! One connection with many requests in flight: for a benchmark or a proxy.
//!
//! Nothing here blocks except name resolution. Requests gather in one buffer until [`Mux::drive`] sends them with one
//! write; replies arrive in any order. Commands take effect in the order in which they are started, since the session
//! is ordered; between two connections there is no order. When the connection is lost, or the leader moves, the same
//! requests are sent again under the same numbers. When a node is silent, the client soon asks another node for the
//! leader, and dials the new leader as soon as that node names one.
//!
//! [`MuxProtocol`] decides what is sent, and interprets replies; this module has the sockets.

use super::clock::Clock;
use super::dialing;
use super::leader_query::LeaderQuery;
use super::mux_protocol::{Completion, MuxOptions, MuxProtocol};
use crate::api::Consistency;
use crate::secure::Stream;
use crate::types::Time;
use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};
use std::time::Instant;

/// The events of a connection's socket since the last call of [`Mux::drive`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Readiness {
    /// The socket has no event: it is not read.
    #[default]
    NoEvent,
    /// The socket may be readable: it is read until no bytes are left.
    Readable,
    /// The node has closed the connection. The socket may have bytes that arrived before.
    Closed,
}

/// One connection with many requests in flight.
pub struct Mux {
    protocol: MuxProtocol,
    clock: Clock,
    stream_token: Token,
    stream: Option<Stream<TcpStream>>,
    leader_query: Option<LeaderQuery>,
    leader_query_token: Token,
    has_dialed: bool,
}

impl Mux {
    /// Creates a connection that looks for the leader among these endpoints. It dials the endpoint after the one with
    /// index `start_after` first. The first token is for the connection, the second for leader queries.
    pub fn new(endpoints: Vec<String>, start_after: usize, tokens: [Token; 2], options: MuxOptions) -> Mux {
        let clock = Clock::start();
        let protocol = MuxProtocol::new(endpoints, start_after, options, clock.now(), rand::random());
        Mux {
            protocol,
            clock,
            stream_token: tokens[0],
            stream: None,
            leader_query: None,
            leader_query_token: tokens[1],
            has_dialed: false,
        }
    }

    /// Whether another request may be started now: there is a connection, and neither the limit of requests in flight
    /// nor the session's window is reached.
    pub fn has_room(&self) -> bool {
        self.protocol.has_room()
    }

    /// The number of requests in flight.
    pub fn in_flight_count(&self) -> usize {
        self.protocol.in_flight_count()
    }

    /// The time of the first rejection for lack of disk space since a request last finished; `None` without one.
    pub fn disk_full_since(&self) -> Option<Instant> {
        self.protocol.disk_full_since().map(|since| self.clock.instant_at(since))
    }

    /// Whether there is a connection with a session, so that commands can be sent.
    pub fn is_up(&self) -> bool {
        self.protocol.is_up()
    }

    /// Starts a command, whose [`Completion`] will carry `tag`. Panics unless [`Mux::has_room`].
    pub fn execute(&mut self, command: Bytes, tag: u64) {
        self.protocol.execute(self.clock.now(), command, tag);
    }

    /// Starts a query, whose [`Completion`] will carry `tag`. Panics unless [`Mux::has_room`].
    pub fn query(&mut self, query: Bytes, consistency: Consistency, tag: u64) {
        self.protocol.query(self.clock.now(), query, consistency, tag);
    }

    /// When [`Mux::drive`] is due even without an event.
    pub fn deadline(&self) -> Option<Instant> {
        self.protocol.deadline().map(|deadline| self.clock.instant_at(deadline))
    }

    /// Dials if there is no connection, reads if the socket may be readable, and writes the gathered requests; never
    /// blocks. `read_buffer` holds the bytes of one read at a time. Finished requests go to `completions`.
    pub fn drive(
        &mut self,
        now: Instant,
        readiness: Readiness,
        read_buffer: &mut [u8],
        registry: &Registry,
        completions: &mut Vec<Completion>,
    ) {
        let now = self.clock.time_at(now);
        if let Some(endpoint) = self.protocol.dial(now)
            && let Err(error) = self.dial(&endpoint, registry)
        {
            log::debug!("cannot connect: {error}");
            self.protocol.connection_lost(now, false);
        }
        if readiness > Readiness::NoEvent && self.stream.is_some() {
            self.read(now, readiness, read_buffer, registry, completions);
        }
        self.protocol.handle_timeout(now);
        self.drop_ended_sockets(registry);
        self.run_leader_query(now, read_buffer, registry);
        self.drop_ended_sockets(registry);
        if let Some(stream) = &mut self.stream
            && stream.write_pending(self.protocol.output()).is_err()
        {
            self.protocol.connection_lost(now, false);
            self.drop_ended_sockets(registry);
        }
    }

    fn dial(&mut self, endpoint: &str, registry: &Registry) -> io::Result<()> {
        let address = dialing::resolve_one(endpoint, std::mem::replace(&mut self.has_dialed, true))?;
        let socket = TcpStream::connect(address)?;
        let _best_effort = socket.set_nodelay(true);
        let mut stream = Stream::dialed(self.protocol.options().keys.as_ref(), socket, endpoint)?;
        registry.register(&mut stream, self.stream_token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Drops the sockets of connections that the protocol has ended.
    fn drop_ended_sockets(&mut self, registry: &Registry) {
        if !self.protocol.is_connected()
            && let Some(mut stream) = self.stream.take()
        {
            let _ignored = registry.deregister(&mut stream);
        }
        if self.protocol.leader_query().is_none()
            && let Some(leader_query) = self.leader_query.take()
        {
            leader_query.close(registry);
        }
    }

    /// Asks another node for the leader while the connected node is silent.
    fn run_leader_query(&mut self, now: Time, read_buffer: &mut [u8], registry: &Registry) {
        let endpoint = self.protocol.dial_leader_query(now);
        self.drop_ended_sockets(registry);
        if let Some(endpoint) = endpoint {
            match LeaderQuery::dial(&endpoint, self.protocol.options().keys.as_ref(), self.leader_query_token, registry)
            {
                Ok(leader_query) => self.leader_query = Some(leader_query),
                Err(error) => {
                    log::debug!("cannot connect to {endpoint}: {error}");
                    self.protocol.leader_query_lost(now);
                }
            }
        }
        if let Some(leader_query) = &mut self.leader_query
            && let Err(error) = leader_query.read_and_write(now, read_buffer, &mut self.protocol)
        {
            log::debug!("cannot ask another node for the leader: {error}");
            self.protocol.leader_query_lost(now);
        }
    }

    fn read(
        &mut self,
        now: Time,
        readiness: Readiness,
        read_buffer: &mut [u8],
        registry: &Registry,
        completions: &mut Vec<Completion>,
    ) {
        loop {
            let Some(stream) = &mut self.stream else { return };
            let n = match stream.read(read_buffer) {
                Ok(0) => {
                    self.protocol.connection_lost(now, true);
                    return self.drop_ended_sockets(registry);
                }
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.protocol.connection_lost(now, false);
                    return self.drop_ended_sockets(registry);
                }
            };
            if let Err(error) = self.protocol.receive(now, &read_buffer[..n], completions) {
                log::debug!("the node violates the protocol or rejects the connection: {error}");
            }
            self.drop_ended_sockets(registry);
            let is_drained = self.stream.as_ref().is_none_or(Stream::short_read_empties_socket);
            if n < read_buffer.len() && readiness == Readiness::Readable && is_drained {
                // After a short read, the socket is empty, and more bytes come with a new event. But if the node has
                // closed the connection, there is no new event, so its end must be read now.
                return;
            }
        }
    }
}
