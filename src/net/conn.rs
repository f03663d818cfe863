//! One connection of a node: its socket, its unprocessed input, its unwritten output, and its timeout.

use super::gateway_connection::GatewayConnection;
use super::lanes::{OutputLanes, WriteOutcome};
use super::memory_pressure::{GUARANTEED_CONN_BYTES, MemoryPressure};
use super::options::Options;
use super::role::{self, DecodedFrame, Role};
use crate::secure::Stream;
use crate::types::Time;
use crate::wire::WireError;
use crate::wire::frame::FrameReader;
use bytes::BytesMut;
use mio::Token;
use mio::net::TcpStream;
use std::io::{self, Read, Write};
use std::time::Duration;

/// The life of a connection after its handshake, in order: a connection never returns to an earlier phase. The
/// handshake itself is part of the [`Role`], which decides the frames that may be received.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ConnPhase {
    /// Input is processed, and output is written.
    Open,
    /// No further input is processed. The connection ends once all output is written.
    Closing,
    /// All output is written, and further input is discarded until the client closes its end.
    Draining,
}

/// A connection to a peer or a client, inbound or outbound.
#[derive(Debug)]
pub struct Conn {
    /// The socket, with or without TLS.
    pub stream: Stream<TcpStream>,
    /// The token of the socket in the poll. It is never reused, so a late event cannot reach another connection.
    pub token: Token,
    /// What the connection is used for, and by which peer or client.
    pub role: Role,
    /// The version of the protocol that the handshake has agreed on; 0 before.
    pub version: u16,
    /// The current phase. It moves forward only, through [`Conn::close_after_output`] and [`Conn::drain`].
    phase: ConnPhase,
    /// Output that the socket has not accepted yet.
    pub output: OutputLanes,
    /// Client requests that were accepted and are not answered yet.
    pub unanswered_requests: usize,
    /// When bytes were last read from the socket; before the first read, when the connection was created.
    pub last_read_at: Time,
    /// When the running timeout started: for a hello, for the rest of a frame, or for a gateway client's next input.
    /// `None` while no timeout runs.
    pub timeout_started_at: Option<Time>,
    /// Whether the socket may have bytes to read. The poll reports new bytes only once (edge-triggered), so the flag
    /// stays set until a read finds the socket empty.
    pub readable: bool,
    /// Whether the input may contain complete frames or requests, left there because reading was suspended.
    pub has_unprocessed_input: bool,
    /// Whether the socket's send buffer is full. The poll reports when the socket accepts bytes again.
    pub write_blocked: bool,
    /// Whether the connection is in the write queue, so that it is queued only once.
    pub in_write_queue: bool,
    /// Whether the connection is in the read queue, so that it is queued only once.
    pub in_read_queue: bool,
    /// Whether the socket was read or written since the last sweep. The sweep frees the buffers of unused connections.
    pub used_since_sweep: bool,
    /// Whether the poll reported that the other side has closed. Bytes that arrived before are still read.
    remote_closed: bool,
    /// The protocol state of a gateway connection; `None` for other connections.
    pub gateway: Option<GatewayConnection>,
    /// Whether an operator's command opened the connection. Such a connection takes one of the slots that are reserved
    /// for operators, and must not propose writes.
    pub is_operator: bool,
    /// The part of the connection in the memory count of all clients, in bytes; 0 for a peer, which is not counted.
    pub counted_memory_bytes: usize,
    /// The total bytes that the socket had accepted by the last sweep, to measure the progress since.
    pub sent_bytes_at_last_sweep: u64,
    /// The number of consecutive sweeps in which the socket accepted almost no bytes.
    pub stalled_sweeps: u8,
    /// The duration of the timeout that started at `timeout_started_at`; `None` for the default of the role.
    timeout: Option<Duration>,
    reader: FrameReader,
    input: BytesMut,
}

/// The result of one read from a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadOutcome {
    /// Bytes were read, and the socket may have more.
    More,
    /// The socket is empty for now. Bytes may have been read before.
    WouldBlock,
    /// The other side has closed its sending direction.
    EndOfStream,
}

impl Conn {
    /// Creates a connection, and starts the timeout for its first frame.
    pub fn new(stream: Stream<TcpStream>, token: Token, role: Role, now: Time) -> Conn {
        Conn {
            stream,
            token,
            role,
            version: 0,
            phase: ConnPhase::Open,
            output: OutputLanes::default(),
            unanswered_requests: 0,
            last_read_at: now,
            timeout_started_at: Some(now),
            readable: false,
            has_unprocessed_input: false,
            write_blocked: false,
            in_write_queue: false,
            in_read_queue: false,
            used_since_sweep: true,
            remote_closed: false,
            gateway: None,
            is_operator: false,
            counted_memory_bytes: 0,
            sent_bytes_at_last_sweep: 0,
            stalled_sweeps: 0,
            timeout: None,
            reader: FrameReader::default(),
            input: BytesMut::new(),
        }
    }

    /// The phase of the connection's life. It starts as [`ConnPhase::Open`], and never goes back.
    pub fn phase(&self) -> ConnPhase {
        self.phase
    }

    /// Processes no further input, and ends the connection once all output is written.
    pub fn close_after_output(&mut self) {
        self.phase = self.phase.max(ConnPhase::Closing);
    }

    /// Discards further input until the client closes its end. It is called after all output is written.
    pub fn drain(&mut self) {
        debug_assert!(
            self.phase == ConnPhase::Closing,
            "a connection starts to drain while it is closing, after its last output"
        );
        self.phase = ConnPhase::Draining;
    }

    /// Records that the poll reported input. `remote_closed` is whether the other side has closed or the socket failed.
    pub fn mark_readable(&mut self, remote_closed: bool) {
        self.readable = true;
        self.remote_closed |= remote_closed;
    }

    /// Whether the socket may have bytes to read, or the buffered input may contain requests to process.
    pub fn has_input(&self) -> bool {
        self.readable || self.has_unprocessed_input
    }

    /// Whether reading is suspended: the client has too much unread output or too many requests in progress, or all
    /// clients together hold too much memory.
    pub fn is_read_suspended(&self, options: &Options, pressure: MemoryPressure) -> bool {
        let over_limit = || self.has_output_backlog(options, pressure) || self.exceeds_memory_share(pressure);
        match (self.role, &self.gateway) {
            (Role::GatewayClient(_), _) if self.phase == ConnPhase::Draining => false,
            // A closing connection is not read from: further requests would fill memory until its last answer.
            (Role::GatewayClient(_), Some(gateway)) => gateway.is_closing() || gateway.is_queue_full() || over_limit(),
            (Role::Client(_), _) => self.unanswered_requests > options.client_requests_max || over_limit(),
            _ => false,
        }
    }

    /// Whether the client has so much unread output that no further request of the client is passed to the node. Under
    /// memory pressure the limit is lower.
    pub fn has_output_backlog(&self, options: &Options, pressure: MemoryPressure) -> bool {
        let backlog_max =
            if pressure == MemoryPressure::None { options.client_output_pause_bytes } else { GUARANTEED_CONN_BYTES };
        self.output.pending_bytes() > backlog_max
    }

    /// Whether the connection holds more than its share of the memory for all clients. Under high pressure only queued
    /// requests count; above the bound, incomplete input and output count too.
    fn exceeds_memory_share(&self, pressure: MemoryPressure) -> bool {
        match pressure {
            MemoryPressure::None => false,
            MemoryPressure::High => {
                self.gateway.as_ref().map_or(0, GatewayConnection::queued_bytes) > 4 * GUARANTEED_CONN_BYTES
            }
            MemoryPressure::OverBound => self.counted_memory_bytes > GUARANTEED_CONN_BYTES,
        }
    }

    /// The memory of the connection in bytes: output, queued requests, and incomplete input.
    pub fn memory_bytes(&self) -> usize {
        let gateway_bytes = self.gateway.as_ref().map_or(0, GatewayConnection::queued_bytes);
        self.output.allocated_bytes() + self.input.len() + self.reader.allocated_bytes() + gateway_bytes
    }

    /// Appends the bytes of one read to the input. Bytes that arrive while the input is empty are copied to an
    /// allocation of their exact size, because entries remain slices of that allocation as long as they are in memory.
    pub fn fill_input(&mut self, read_buffer: &mut [u8]) -> io::Result<ReadOutcome> {
        let n = match self.stream.read(read_buffer) {
            Ok(0) => return Ok(ReadOutcome::EndOfStream),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(ReadOutcome::WouldBlock);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(ReadOutcome::More),
            Err(error) => return Err(error),
        };
        self.used_since_sweep = true;
        if self.input.is_empty() {
            self.input = BytesMut::from(&read_buffer[..n]);
        } else {
            self.input.extend_from_slice(&read_buffer[..n]);
        }
        if n < read_buffer.len() && !self.remote_closed && self.stream.short_read_empties_socket() {
            // The read returned fewer bytes than the buffer holds, so the socket is empty. The poll reports the next
            // bytes.
            self.readable = false;
            return Ok(ReadOutcome::WouldBlock);
        }
        Ok(ReadOutcome::More)
    }

    /// Decodes the next complete frame of the input; `None` if the input has none. A frame that the role may not
    /// receive is an error.
    pub fn next_frame(&mut self) -> Result<Option<DecodedFrame>, WireError> {
        let Some(frame) = self.reader.next(&mut self.input)? else { return Ok(None) };
        if self.role != Role::Handshaking {
            // The timeout is for one frame. A new one starts if the next frame is incomplete.
            self.timeout_started_at = None;
        }
        role::decode_frame(self.role, self.version, frame).map(Some)
    }

    /// The unprocessed input of a gateway connection. An empty buffer keeps no memory allocated.
    pub fn input(&mut self) -> &mut BytesMut {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        &mut self.input
    }

    /// Starts a timeout of this duration, unless one of the same duration runs already. `None` stops the timeout.
    pub fn set_timeout(&mut self, now: Time, timeout: Option<Duration>) {
        if self.timeout != timeout || timeout.is_none() {
            self.timeout_started_at = timeout.map(|_| now);
            self.timeout = timeout;
        }
    }

    /// Starts or stops the timeout for the rest of a frame. Called after all complete frames were processed.
    pub fn update_frame_timeout(&mut self, now: Time) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        let has_partial_frame = !self.input.is_empty() || self.reader.has_partial_frame();
        let in_handshake = matches!(self.role, Role::Handshaking | Role::Connecting(_));
        self.timeout_started_at =
            if has_partial_frame || in_handshake { self.timeout_started_at.or(Some(now)) } else { None };
    }

    /// Restarts the idle timeout if output remains and the socket was used since the last sweep: a client that still
    /// reads its output is not idle.
    pub fn extend_idle_timeout(&mut self, now: Time, options: &Options) {
        if self.used_since_sweep && !self.output.is_empty() && self.timeout == Some(options.idle_timeout) {
            self.timeout_started_at = Some(now);
        }
    }

    /// Whether the running timeout has expired. If no duration was set for it, the role determines the duration.
    pub fn is_timed_out(&self, now: Time, options: &Options) -> bool {
        let timeout = match self.role {
            Role::Handshaking => options.hello_timeout,
            Role::Connecting(_) => options.dial_timeout,
            Role::InboundPeer(_) | Role::Client(_) | Role::GatewayClient(_) | Role::OutboundPeer(_) => {
                options.frame_timeout
            }
        };
        let timeout = self.timeout.unwrap_or(timeout);
        self.timeout_started_at.is_some_and(|since| now.since(since) > timeout)
    }

    /// Writes as much output as the socket accepts.
    pub fn write(&mut self) -> io::Result<()> {
        if self.write_blocked {
            return Ok(());
        }
        self.used_since_sweep = true;
        match self.output.write(&mut self.stream) {
            Ok(WriteOutcome::Complete) => self.flush(),
            Ok(WriteOutcome::Partial) => {
                self.write_blocked = true;
                Ok(())
            }
            // The socket is not connected yet. The poll reports when it is writable.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.write_blocked = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the TLS records that the socket did not accept before. Without TLS there are none.
    fn flush(&mut self) -> io::Result<()> {
        match self.stream.flush() {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                self.write_blocked = true;
                Ok(())
            }
            flushed => flushed,
        }
    }

    /// Frees the buffers of a connection that was not used since the last sweep.
    pub fn free_idle_buffers(&mut self) {
        self.output.free_buffers();
        self.gateway.as_mut().map(GatewayConnection::free_idle_queue);
    }

    /// Whether all output has been written to the socket, including encrypted bytes in the TLS session.
    pub fn has_written_all(&self) -> bool {
        self.output.is_empty() && !self.stream.has_unsent_bytes()
    }
}
