//! One connection with many things under way on it: what a benchmark or a proxy wants.
//!
//! Nothing here blocks but the resolution of names. What is asked gathers in one buffer until
//! [`Mux::work`] sends it with one write; replies come back in any order. Its commands take effect in the order in
//! which they are asked: its session is ordered. Those of two connections have no order. When the connection is
//! lost, or the leader moves, the same things are asked again under the same numbers. A node that
//! falls silent is doubted soon, and left as soon as another says that somebody else leads.
//!
//! What is sent and what an answer means is [`MuxProtocol`]'s; here are its sockets.

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

/// What the poll says of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Readiness {
    /// Nothing new.
    #[default]
    Nothing,
    /// There may be something to read.
    Bytes,
    /// There may be something to read, and then nothing ever.
    End,
}

/// One connection with many things under way on it.
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
    /// A connection that will look for the leader among those endpoints, beginning with the one of
    /// that number. The first token is the connection's, the second that of who is asked besides.
    pub fn new(endpoints: Vec<String>, begin: usize, tokens: [Token; 2], options: MuxOptions) -> Mux {
        let clock = Clock::start();
        let protocol = MuxProtocol::new(endpoints, begin, options, clock.now(), rand::random());
        Mux { protocol, clock, token: tokens[0], stream: None, scout: None, scout_token: tokens[1], has_dialed: false }
    }

    /// Whether one more thing may be asked now.
    pub fn has_room(&self) -> bool {
        self.protocol.has_room()
    }

    /// How many things are under way.
    pub fn under_way(&self) -> usize {
        self.protocol.under_way()
    }

    /// Since when all that it asks is turned away for want of room.
    pub fn full_since(&self) -> Option<Instant> {
        self.protocol.full_since().map(|since| self.clock.instant(since))
    }

    /// Whether commands can be taken.
    pub fn is_up(&self) -> bool {
        self.protocol.is_up()
    }

    /// Asks for a command to be executed. There must be room.
    pub fn execute(&mut self, command: Bytes, tag: u64) {
        self.protocol.execute(self.clock.now(), command, tag);
    }

    /// Asks the machine something. There must be room.
    pub fn query(&mut self, query: Bytes, consistency: Consistency, tag: u64) {
        self.protocol.query(self.clock.now(), query, consistency, tag);
    }

    /// When [`Mux::work`] next has something to do by itself.
    pub fn deadline(&self) -> Option<Instant> {
        self.protocol.deadline().map(|deadline| self.clock.instant(deadline))
    }

    /// Does what is due: dials, reads if there may be something, writes what has gathered. What is
    /// finished goes to `done`.
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
            log::debug!("cannot dial: {error}");
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
            && stream.pour(self.protocol.output()).is_err()
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

    /// Drops the sockets of connections that are none any more.
    fn drop_lost(&mut self, registry: &Registry) {
        if !self.protocol.is_connected()
            && let Some(mut stream) = self.stream.take()
        {
            let _either_way_it_is_dropped = registry.deregister(&mut stream);
        }
        if self.protocol.scout().is_none()
            && let Some(scout) = self.scout.take()
        {
            scout.recall(registry);
        }
    }

    /// Asks another node who leads, as long as this one is silent.
    fn doubt(&mut self, now: Time, scratch: &mut [u8], registry: &Registry) {
        let due = self.protocol.second_opinion(now);
        self.drop_lost(registry);
        if let Some(endpoint) = due {
            match Scout::dial(&endpoint, self.protocol.options().keys.as_ref(), self.scout_token, registry) {
                Ok(scout) => self.scout = Some(scout),
                Err(error) => {
                    log::debug!("cannot dial {endpoint}: {error}");
                    self.protocol.scout_lost(now);
                }
            }
        }
        if let Some(scout) = &mut self.scout
            && let Err(error) = scout.work(now, scratch, &mut self.protocol)
        {
            log::debug!("a second opinion cannot be had: {error}");
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
                log::debug!("a node that breaks the protocol or refuses us: {error}");
            }
            self.drop_lost(registry);
            let dry = self.stream.as_ref().is_none_or(Stream::tells_when_dry);
            if n < scratch.len() && heard == Readiness::Bytes && dry {
                // Less than asked for: all there was has been read, and what comes now is a new event.
                // Not so for an end that was announced already: it is there to be read.
                return;
            }
        }
    }
}
