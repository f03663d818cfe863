//! One connection: its socket, its input that is not processed yet, and its output that is not written yet.

use super::gateway_connection::GatewayConnection;
use super::lanes::{Lanes, Written};
use super::options::Options;
use super::pressure::{FEW_BYTES, Pressure};
use super::role::{self, ClientFrame, Role};
use crate::secure::Stream;
use crate::types::Time;
use crate::wire::WireError;
use crate::wire::frame::FrameReader;
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpStream;
use std::io::{self, Read, Write};
use std::time::Duration;

/// How far the end of a connection has come. The handshake is part of the [`Role`], because each side of it may receive
/// other frames. The order of the variants is the order in time: a connection never returns to an earlier phase.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Input is processed.
    Open,
    /// No further input is processed. The connection ends once all output is written.
    Closing,
    /// All output is written, and further input is discarded until the client closes its end.
    Draining,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// The socket, with or without TLS.
    pub stream: Stream<TcpStream>,
    /// Its poll token, never reused.
    pub token: Token,
    /// What the connection is used for, and by which peer or client.
    pub role: Role,
    /// Whether input is processed, or how far the connection has ended.
    phase: Phase,
    /// Output that is not written yet.
    pub lanes: Lanes,
    /// Client requests that were accepted and are not answered yet.
    pub unanswered: usize,
    /// When bytes were last read from it.
    pub heard_at: Time,
    /// Since when the connection waits for the rest of a frame, or for a hello; `None` if it waits for neither.
    pub waiting_since: Option<Time>,
    /// Whether there may be bytes to read. The system reports this once (edge-triggered).
    pub readable: bool,
    /// Whether complete frames are left in the input because reading is suspended.
    pub unprocessed: bool,
    /// Whether the socket accepts no more bytes. The system reports when it does again.
    pub blocked: bool,
    /// Whether it is in the queue of connections to be written to.
    pub in_write_queue: bool,
    /// Whether it is in the queue of connections to be read from.
    pub in_read_queue: bool,
    /// Whether anything was read or written since the last sweep.
    pub used: bool,
    /// Whether the system reported that the other side has closed. Reading continues up to the end of the stream.
    ends: bool,
    /// The protocol state of a gateway connection; `None` for other connections.
    pub gateway: Option<GatewayConnection>,
    /// Whether it is an operator's connection, which takes one of the seats kept for operators.
    pub is_operator: bool,
    /// How many bytes a client's connection held when they were last counted.
    pub held: usize,
    /// How many bytes the socket had accepted by the last sweep.
    pub sent_before: u64,
    /// In how many sweeps in a row the socket accepted almost nothing.
    pub stalls: u8,
    /// The timeout for `waiting_since`, where it is not the default of the role.
    patience: Option<Duration>,
    reader: FrameReader,
    input: BytesMut,
}

/// The result of one read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// Bytes were read, and there may be more.
    More,
    /// There is no more to read for now, whether or not bytes were read.
    Dry,
    /// The other side has closed its end.
    End,
}

impl Conn {
    /// A new connection, which waits for a hello.
    pub fn new(stream: Stream<TcpStream>, token: Token, role: Role, now: Time) -> Conn {
        Conn {
            stream,
            token,
            role,
            phase: Phase::Open,
            lanes: Lanes::default(),
            unanswered: 0,
            heard_at: now,
            waiting_since: Some(now),
            readable: false,
            unprocessed: false,
            blocked: false,
            in_write_queue: false,
            in_read_queue: false,
            used: true,
            ends: false,
            gateway: None,
            is_operator: false,
            held: 0,
            sent_before: 0,
            stalls: 0,
            patience: None,
            reader: FrameReader::default(),
            input: BytesMut::new(),
        }
    }

    /// Whether input is processed, or how far the connection has ended.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Processes no further input, and ends the connection once all output is written.
    pub fn close_after_output(&mut self) {
        self.phase = self.phase.max(Phase::Closing);
    }

    /// Discards further input until the client closes its end. All output must be written.
    pub fn drain(&mut self) {
        debug_assert!(self.phase == Phase::Closing, "a connection drains once, after its last output");
        self.phase = Phase::Draining;
    }

    /// Marks that the system reported input, and with `ends` that the other side has closed or the socket failed.
    pub fn mark_readable(&mut self, ends: bool) {
        self.readable = true;
        self.ends |= ends;
    }

    /// Whether there may be bytes to read, or input to process.
    pub fn has_more(&self) -> bool {
        self.readable || self.unprocessed
    }

    /// Whether reading from it is suspended: its client has too much output to read, or too many requests in progress.
    pub fn is_read_suspended(&self, options: &Options, pressure: Pressure) -> bool {
        let waits = || self.is_held_back(options, pressure) || self.is_crowded(pressure);
        match (self.role, &self.gateway) {
            (Role::GatewayClient(_), _) if self.phase == Phase::Draining => false,
            // A connection that is closing is not read from, and must not fill memory until its last answer.
            (Role::GatewayClient(_), Some(gateway)) => gateway.is_leaving() || gateway.is_full() || waits(),
            (Role::Client(_), _) => self.unanswered > options.client_requests_max || waits(),
            _ => false,
        }
    }

    /// Whether its client has so much output to read that no more is requested for it.
    pub fn is_held_back(&self, options: &Options, pressure: Pressure) -> bool {
        let mark = if pressure == Pressure::None { options.client_bytes_mark } else { FEW_BYTES };
        self.lanes.size() > mark
    }

    /// Whether it holds so much of the memory for all clients that it must not be read from. Under high pressure only
    /// requests that wait for answers count. Above the bound, incomplete input counts too.
    fn is_crowded(&self, pressure: Pressure) -> bool {
        match pressure {
            Pressure::None => false,
            Pressure::High => self.gateway.as_ref().map_or(0, GatewayConnection::bytes) > 4 * FEW_BYTES,
            Pressure::Over => self.held > FEW_BYTES,
        }
    }

    /// How many bytes it holds: output, requests that wait for answers, and incomplete input.
    pub fn memory_use(&self) -> usize {
        let gateway = self.gateway.as_ref().map_or(0, GatewayConnection::bytes);
        self.lanes.held() + self.input.len() + self.reader.held() + gateway
    }

    /// Reads once into the input. Bytes that arrive while the input is empty are kept in an allocation of their exact
    /// size: large entries remain slices of it for as long as they are in memory.
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
            // A short read: nothing is left, and the system reports new input again.
            self.readable = false;
            return Ok(Filled::Dry);
        }
        Ok(Filled::More)
    }

    /// Decodes the next complete frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<ClientFrame>, WireError> {
        let Some(frame) = self.reader.next(&mut self.input)? else { return Ok(None) };
        if self.role != Role::Handshaking {
            // A complete frame arrived, so the timeout starts anew.
            self.waiting_since = None;
        }
        role::read(self.role, frame).map(Some)
    }

    /// Input of a gateway connection that is not processed yet. It holds no memory while it is empty.
    pub fn input(&mut self) -> &mut BytesMut {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        &mut self.input
    }

    /// Starts the timeout `patience` now, unless the same one runs already. `None` stops it.
    pub fn wait_for(&mut self, now: Time, patience: Option<Duration>) {
        if self.patience != patience || patience.is_none() {
            self.waiting_since = patience.map(|_| now);
            self.patience = patience;
        }
    }

    /// Starts or stops the timeout for the rest of a frame, after all input was processed.
    pub fn update_frame_timeout(&mut self, now: Time) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        let midway = !self.input.is_empty() || self.reader.is_midway();
        let greeting = matches!(self.role, Role::Handshaking | Role::Connecting(_));
        self.waiting_since = if midway || greeting { self.waiting_since.or(Some(now)) } else { None };
    }

    /// A client that still reads its output is not idle: its idle timeout starts anew.
    pub fn extend_timeout(&mut self, now: Time, options: &Options) {
        if self.used && !self.lanes.is_empty() && self.patience == Some(options.idle_patience) {
            self.waiting_since = Some(now);
        }
    }

    /// Whether the timeout has expired.
    pub fn is_overdue(&self, now: Time, options: &Options) -> bool {
        let patience = match self.role {
            Role::Handshaking => options.hello_patience,
            Role::Connecting(_) => options.dial_patience,
            Role::InboundPeer(_) | Role::Client(_) | Role::GatewayClient(_) | Role::OutboundPeer(_) => {
                options.frame_patience
            }
        };
        let patience = self.patience.unwrap_or(patience);
        self.waiting_since.is_some_and(|since| now.since(since) > patience)
    }

    /// Writes as much output as the socket accepts.
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
            // Not connected yet; the system reports when it is.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.blocked = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes encrypted bytes that the socket did not accept before.
    fn flush(&mut self) -> io::Result<()> {
        match self.stream.flush() {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                self.blocked = true;
                Ok(())
            }
            flushed => flushed,
        }
    }

    /// Frees the buffers of a connection that was not used since the last sweep.
    pub fn free_idle_buffers(&mut self) {
        self.lanes.rest();
        self.gateway.as_mut().map(GatewayConnection::rest);
    }

    /// Whether all output has been written to the socket.
    pub fn has_written_all(&self) -> bool {
        self.lanes.is_empty() && !self.stream.has_unsent()
    }
}
