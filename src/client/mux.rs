//! One connection with many requests in flight: for a benchmark or a proxy.
//!
//! Nothing here blocks except name resolution. Requests gather in one buffer until [`Mux::work`] sends them with one
//! write; replies arrive in any order. Commands take effect in the order in which they are started, since the session
//! is ordered; between two connections there is no order. When the connection is lost, or the leader moves, the same
//! requests are sent again under the same numbers. When a node is silent, the client soon queries another one, and
//! leaves as soon as that one names another leader.
//!
//! [`MuxProtocol`] decides what is sent and interprets replies; this module has the sockets.

use super::clock::Clock;
use super::dialing;
use super::mux_protocol::{Completion, MuxOptions, MuxProtocol};
use super::scout::Scout;
use crate::api::Consistency;
use crate::secure::Stream;
use crate::types::Time;
use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};
use std::time::Instant;

/// The events of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Readiness {
    /// None.
    #[default]
    Nothing,
    /// The socket may be readable.
    Bytes,
    /// The socket may be readable, and its end follows.
    End,
}

/// One connection with many requests in flight.
pub struct Mux {
    protocol: MuxProtocol,
    clock: Clock,
    token: Token,
    stream: Option<Stream<TcpStream>>,
    scout: Option<Scout>,
    scout_token: Token,
    has_dialed: bool,
}

impl Mux {
    /// Creates a connection that looks for the leader among those endpoints, starting after the one with index `begin`.
    /// The first token is for the connection, the second for leader queries.
    pub fn new(endpoints: Vec<String>, begin: usize, tokens: [Token; 2], options: MuxOptions) -> Mux {
        let clock = Clock::start();
        let protocol = MuxProtocol::new(endpoints, begin, options, clock.now(), rand::random());
        Mux { protocol, clock, token: tokens[0], stream: None, scout: None, scout_token: tokens[1], has_dialed: false }
    }

    /// Whether another request may be started now.
    pub fn has_room(&self) -> bool {
        self.protocol.has_room()
    }

    /// The number of requests in flight.
    pub fn under_way(&self) -> usize {
        self.protocol.under_way()
    }

    /// Since when every write has been rejected for lack of disk space.
    pub fn full_since(&self) -> Option<Instant> {
        self.protocol.full_since().map(|since| self.clock.instant(since))
    }

    /// Whether commands can be sent.
    pub fn is_up(&self) -> bool {
        self.protocol.is_up()
    }

    /// Starts a command. Panics if there is no room.
    pub fn execute(&mut self, command: Bytes, tag: u64) {
        self.protocol.execute(self.clock.now(), command, tag);
    }

    /// Starts a query. Panics if there is no room.
    pub fn query(&mut self, query: Bytes, consistency: Consistency, tag: u64) {
        self.protocol.query(self.clock.now(), query, consistency, tag);
    }

    /// When [`Mux::work`] is due even without an event.
    pub fn deadline(&self) -> Option<Instant> {
        self.protocol.deadline().map(|deadline| self.clock.instant(deadline))
    }

    /// Does what is due: dials, reads if the socket may be readable, writes the gathered requests. Finished requests go
    /// to `done`.
    pub fn work(
        &mut self,
        now: Instant,
        heard: Readiness,
        scratch: &mut [u8],
        registry: &Registry,
        done: &mut Vec<Completion>,
    ) {
        let now = self.clock.time(now);
        if let Some(endpoint) = self.protocol.dial(now)
            && let Err(error) = self.dial(&endpoint, registry)
        {
            log::debug!("cannot connect: {error}");
            self.protocol.lost(now, false);
        }
        if heard > Readiness::Nothing && self.stream.is_some() {
            self.read(now, heard, scratch, registry, done);
        }
        self.protocol.wake(now);
        self.drop_lost(registry);
        self.doubt(now, scratch, registry);
        self.drop_lost(registry);
        if let Some(stream) = &mut self.stream
            && stream.write_pending(self.protocol.output()).is_err()
        {
            self.protocol.lost(now, false);
            self.drop_lost(registry);
        }
    }

    fn dial(&mut self, endpoint: &str, registry: &Registry) -> io::Result<()> {
        let address = dialing::address(endpoint, std::mem::replace(&mut self.has_dialed, true))?;
        let socket = TcpStream::connect(address)?;
        let _if_not_it_is_slower = socket.set_nodelay(true);
        let mut stream = Stream::dialed(self.protocol.options().keys.as_ref(), socket, endpoint)?;
        registry.register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Drops the sockets of connections that the protocol has ended.
    fn drop_lost(&mut self, registry: &Registry) {
        if !self.protocol.is_connected()
            && let Some(mut stream) = self.stream.take()
        {
            let _either_way_it_is_dropped = registry.deregister(&mut stream);
        }
        if self.protocol.scout().is_none()
            && let Some(scout) = self.scout.take()
        {
            scout.close(registry);
        }
    }

    /// Queries another node for the leader, while this one is silent.
    fn doubt(&mut self, now: Time, scratch: &mut [u8], registry: &Registry) {
        let due = self.protocol.second_opinion(now);
        self.drop_lost(registry);
        if let Some(endpoint) = due {
            match Scout::dial(&endpoint, self.protocol.options().keys.as_ref(), self.scout_token, registry) {
                Ok(scout) => self.scout = Some(scout),
                Err(error) => {
                    log::debug!("cannot connect to {endpoint}: {error}");
                    self.protocol.scout_lost(now);
                }
            }
        }
        if let Some(scout) = &mut self.scout
            && let Err(error) = scout.work(now, scratch, &mut self.protocol)
        {
            log::debug!("cannot ask another node for the leader: {error}");
            self.protocol.scout_lost(now);
        }
    }

    fn read(
        &mut self,
        now: Time,
        heard: Readiness,
        scratch: &mut [u8],
        registry: &Registry,
        done: &mut Vec<Completion>,
    ) {
        loop {
            let Some(stream) = &mut self.stream else { return };
            let n = match stream.read(scratch) {
                Ok(0) => {
                    self.protocol.lost(now, true);
                    return self.drop_lost(registry);
                }
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.protocol.lost(now, false);
                    return self.drop_lost(registry);
                }
            };
            if let Err(error) = self.protocol.receive(now, &scratch[..n], done) {
                log::debug!("the node violates the protocol or rejects the connection: {error}");
            }
            self.drop_lost(registry);
            let dry = self.stream.as_ref().is_none_or(Stream::tells_when_dry);
            if n < scratch.len() && heard == Readiness::Bytes && dry {
                // A short read: all that was there has been read, and more arrives with a new event. An end that was
                // announced already has no new event, so it must be read now.
                return;
            }
        }
    }
}
