//! One connection: what is read and not yet understood, what is said and not yet written.

use super::dialect::{self, ClientFrame, Role};
use super::gateway_connection::GatewayConnection;
use super::lanes::{Lanes, Written};
use super::options::Options;
use super::pressure::{FEW_BYTES, Pressure};
use crate::secure::Stream;
use crate::types::Time;
use crate::wire::WireError;
use crate::wire::frame::FrameReader;
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpStream;
use std::io::{self, Read, Write};
use std::time::Duration;

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// The socket, with TLS on it or without.
    pub stream: Stream<TcpStream>,
    /// Its own, never used again.
    pub token: Token,
    /// Who is at the other end.
    pub role: Role,
    /// What waits to be written.
    pub lanes: Lanes,
    /// Requests that were taken on and are not answered.
    pub asked: usize,
    /// When anything was read of it last.
    pub heard_at: Time,
    /// Since when the rest of a frame, or a hello, is waited for.
    pub awaits: Option<Time>,
    /// Whether there may be something to read: the system says so once.
    pub readable: bool,
    /// Whether frames that came are left where they are, because it rests.
    pub unheard: bool,
    /// Whether the socket takes no more: the system says when it does.
    pub blocked: bool,
    /// Whether it stands in the list of those to be written to.
    pub touched: bool,
    /// Whether it stands in the list of those to be read from.
    pub listed: bool,
    /// It is closed once everything is written.
    pub farewell: bool,
    /// Whether anything came or went since the last sweep.
    pub used: bool,
    /// Whether the other side's end was announced: it is read up to there.
    ends: bool,
    /// What is said on it, if it came through a door.
    pub speech: Option<GatewayConnection>,
    /// Whether it is an operator's, with a seat kept for those.
    pub is_operator: bool,
    /// All is said, and what still comes is dropped.
    pub lingers: bool,
    /// How many bytes it holds, as they were counted last, if it is a client's.
    pub held: usize,
    /// How many bytes the socket had taken at the last sweep.
    pub sent_before: u64,
    /// In how many sweeps in a row the socket took next to nothing.
    pub stalls: u8,
    /// How long is waited for what `awaits` says, if whoever waits has a mind of its own about that.
    patience: Option<Duration>,
    reader: FrameReader,
    input: BytesMut,
}

/// What came of reading once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// Something, and there may be more.
    More,
    /// Something or nothing, and there is no more for now.
    Dry,
    /// The other side has said its last.
    End,
}

impl Conn {
    /// A connection with somebody, from whom a hello is awaited.
    pub fn new(stream: Stream<TcpStream>, token: Token, role: Role, now: Time) -> Conn {
        Conn {
            stream,
            token,
            role,
            lanes: Lanes::default(),
            asked: 0,
            heard_at: now,
            awaits: Some(now),
            readable: false,
            unheard: false,
            blocked: false,
            touched: false,
            listed: false,
            farewell: false,
            used: true,
            ends: false,
            speech: None,
            is_operator: false,
            lingers: false,
            held: 0,
            sent_before: 0,
            stalls: 0,
            patience: None,
            reader: FrameReader::default(),
            input: BytesMut::new(),
        }
    }

    /// The system says that there is something to read, and perhaps that it is the last.
    pub fn mark_readable(&mut self, ends: bool) {
        self.readable = true;
        self.ends |= ends;
    }

    /// Whether there may be something to read, or to hear of what was read.
    pub fn has_more(&self) -> bool {
        self.readable || self.unheard
    }

    /// Whether it must not be read from: its caller has too much to read, or too much under way.
    pub fn rests(&self, options: &Options, pressure: Pressure) -> bool {
        let waits = || self.is_held_back(options, pressure) || self.is_crowded(pressure);
        match (self.role, &self.speech) {
            (Role::Guest(_), _) if self.lingers => false,
            // Who is leaving is not heard any more, and must not fill our memory until it is answered.
            (Role::Guest(_), Some(speech)) => speech.is_leaving() || speech.is_full() || waits(),
            (Role::Client(_), _) => self.asked > options.client_requests_max || waits(),
            _ => false,
        }
    }

    /// Whether its client has to read before more is asked for it.
    pub fn is_held_back(&self, options: &Options, pressure: Pressure) -> bool {
        let mark = if pressure == Pressure::None { options.client_bytes_mark } else { FEW_BYTES };
        self.lanes.size() > mark
    }

    /// Whether it holds so much of what clients may hold together that it must wait before it sends more. Requests that
    /// wait for their answers count first; what has not come whole, only where there is no room for the rest of it.
    fn is_crowded(&self, pressure: Pressure) -> bool {
        match pressure {
            Pressure::None => false,
            Pressure::High => self.speech.as_ref().map_or(0, GatewayConnection::bytes) > 4 * FEW_BYTES,
            Pressure::Over => self.held > FEW_BYTES,
        }
    }

    /// How many bytes it holds: to be written, waiting for answers, or not yet whole.
    pub fn weigh(&self) -> usize {
        let speech = self.speech.as_ref().map_or(0, GatewayConnection::bytes);
        self.lanes.held() + self.input.len() + self.reader.held() + speech
    }

    /// Reads once. What comes of an exact size is kept in an allocation of that size, of which long
    /// entries will be slices for as long as they are in memory.
    pub fn fill(&mut self, scratch: &mut [u8]) -> io::Result<Filled> {
        let n = match self.stream.read(scratch) {
            Ok(0) => return Ok(Filled::End),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(Filled::Dry);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Filled::More),
            Err(error) => return Err(error),
        };
        self.used = true;
        if self.input.is_empty() {
            self.input = BytesMut::from(&scratch[..n]);
        } else {
            self.input.extend_from_slice(&scratch[..n]);
        }
        if n < scratch.len() && !self.ends && self.stream.tells_when_dry() {
            // Less than asked for: that was all, and what comes now is announced again.
            self.readable = false;
            return Ok(Filled::Dry);
        }
        Ok(Filled::More)
    }

    /// What the next whole frame says, if there is one.
    pub fn said(&mut self) -> Result<Option<ClientFrame>, WireError> {
        let Some(frame) = self.reader.next(&mut self.input)? else { return Ok(None) };
        if self.role != Role::Handshaking {
            // It has kept its word: patience begins anew.
            self.awaits = None;
        }
        dialect::read(self.role, frame).map(Some)
    }

    /// What came through a door and was not heard yet. It holds no memory when nothing is there.
    pub fn input(&mut self) -> &mut BytesMut {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        &mut self.input
    }

    /// Something is waited for, for so long from now on, unless it is already; or nothing is.
    pub fn wait_for(&mut self, now: Time, patience: Option<Duration>) {
        if self.patience != patience || patience.is_none() {
            self.awaits = patience.map(|_| now);
            self.patience = patience;
        }
    }

    /// Notes since when the rest of something is waited for, after all that came was read.
    pub fn settle(&mut self, now: Time) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        let midway = !self.input.is_empty() || self.reader.is_midway();
        let greeting = matches!(self.role, Role::Handshaking | Role::Connecting(_));
        self.awaits = if midway || greeting { self.awaits.or(Some(now)) } else { None };
    }

    /// Whoever still takes what was said is not idle: the time in which something should be asked begins anew.
    pub fn extend_timeout(&mut self, now: Time, options: &Options) {
        if self.used && !self.lanes.is_empty() && self.patience == Some(options.idle_patience) {
            self.awaits = Some(now);
        }
    }

    /// Whether what is waited for should have come by now.
    pub fn is_overdue(&self, now: Time, options: &Options) -> bool {
        let patience = match self.role {
            Role::Handshaking => options.hello_patience,
            Role::Connecting(_) => options.dial_patience,
            Role::InboundPeer(_) | Role::Client(_) | Role::Guest(_) | Role::OutboundPeer(_) => options.frame_patience,
        };
        let patience = self.patience.unwrap_or(patience);
        self.awaits.is_some_and(|since| now.since(since) > patience)
    }

    /// Writes what the socket takes.
    pub fn write(&mut self) -> io::Result<()> {
        if self.blocked {
            return Ok(());
        }
        self.used = true;
        match self.lanes.write(&mut self.stream) {
            Ok(Written::All) => self.flush(),
            Ok(Written::Some) => {
                self.blocked = true;
                Ok(())
            }
            // Not connected yet: the system says when it is.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.blocked = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes what was taken for encryption and did not fit the socket.
    fn flush(&mut self) -> io::Result<()> {
        match self.stream.flush() {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                self.blocked = true;
                Ok(())
            }
            flushed => flushed,
        }
    }

    /// Whether all that was said has left.
    pub fn is_all_said(&self) -> bool {
        self.lanes.is_empty() && !self.stream.has_unsent()
    }
}
