//! A blocking connection to one node: one request after the other, without retries.

use crate::api::{Reply, Request, Status};
use crate::secure::{Keys, Stream};
use crate::types::NodeId;
use crate::wire::WireError;
use crate::wire::client::{STATUS_UPDATE_ID, put_request_frame, read_reply_frame};
use crate::wire::frame::{Frame, FrameReader};
use crate::wire::hello::{CLIENT_VERSION_MIN, Hello, Welcome};
use crate::wire::reason::HelloRejection;
use bytes::BytesMut;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// A blocking connection to one node, without redirects: the caller has to retry and to find the leader.
pub struct Connection {
    stream: Stream<TcpStream>,
    reader: FrameReader,
    input: BytesMut,
    output: BytesMut,
    read_buffer: Box<[u8]>,
    /// The id of the next request.
    next_id: u64,
    node: Option<NodeId>,
    /// The negotiated protocol version.
    version: u16,
    /// The last status that the node sent on its own.
    status_update: Option<Box<Status>>,
}

/// Why a call on one connection has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Dialing, writing or reading failed, or the deadline passed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The node violated the protocol, or rejected the connection.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The node uses an older version of the protocol, without this kind of request. Nothing was sent.
    #[error("the node runs an older version of drave, which does not know this request")]
    UnsupportedRequest,
}

impl CallError {
    /// Whether the error is a timeout, after which the caller may wait for the reply again.
    pub fn is_timeout(&self) -> bool {
        matches!(self, CallError::Io(error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

impl Connection {
    /// Dials a node and waits for its welcome; with TLS if `keys` are given.
    pub fn dial(endpoint: &str, keys: Option<&Keys>, deadline: Instant) -> Result<Connection, CallError> {
        Connection::dial_with(endpoint, keys, &Hello::client(), deadline)
    }

    /// Like [`Connection::dial`], but if the node has its maximum number of clients, uses a connection reserved for
    /// operators. Nothing can be proposed over such a connection.
    pub fn dial_operator(endpoint: &str, keys: Option<&Keys>, deadline: Instant) -> Result<Connection, CallError> {
        match Connection::dial(endpoint, keys, deadline) {
            Err(CallError::Wire(WireError::Refused(HelloRejection::TooManyConnections))) => {
                Connection::dial_with(endpoint, keys, &Hello::operator(), deadline)
            }
            dialed => dialed,
        }
    }

    /// Like [`Connection::dial`], for commands of the state machine `machine_kind`: a node that runs another kind
    /// rejects the connection.
    pub fn dial_for_machine_kind(
        endpoint: &str,
        keys: Option<&Keys>,
        machine_kind: &str,
        deadline: Instant,
    ) -> Result<Connection, CallError> {
        Connection::dial_with(endpoint, keys, &Hello::client().with_machine_kind(machine_kind), deadline)
    }

    fn dial_with(
        endpoint: &str,
        keys: Option<&Keys>,
        hello: &Hello,
        deadline: Instant,
    ) -> Result<Connection, CallError> {
        let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        for address in endpoint.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, time_left(deadline)?) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    let stream = Stream::dialed(keys, socket, endpoint)?;
                    return Connection::handshake(stream, keys.is_some(), hello, deadline);
                }
                Err(error) => last_error = error,
            }
        }
        Err(last_error.into())
    }

    fn handshake(
        stream: Stream<TcpStream>,
        encrypted: bool,
        hello: &Hello,
        deadline: Instant,
    ) -> Result<Connection, CallError> {
        let mut connection = Connection {
            stream,
            reader: FrameReader::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            read_buffer: vec![0; 16 << 10].into(),
            next_id: 1,
            node: None,
            version: 0,
            status_update: None,
        };
        match connection.exchange_hello(hello, deadline) {
            Ok(()) => Ok(connection),
            Err(error) => Err(match detect_other_protocol(&error, encrypted) {
                Some(explanation) => io::Error::new(io::ErrorKind::InvalidData, explanation).into(),
                None => error,
            }),
        }
    }

    fn exchange_hello(&mut self, hello: &Hello, deadline: Instant) -> Result<(), CallError> {
        hello.put(&mut self.output);
        self.send(deadline)?;
        let welcome = Welcome::read(self.receive(deadline)?)?;
        self.node = Some(welcome.node);
        self.version = welcome.version;
        Ok(())
    }

    /// The id of the node at the other end, from its welcome.
    pub fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// Takes the last status that the node sent on its own, which it does when the members have changed.
    pub fn take_status_update(&mut self) -> Option<Box<Status>> {
        self.status_update.take()
    }

    /// Sends a request and waits for its reply.
    pub fn call(&mut self, request: &Request, deadline: Instant) -> Result<Reply, CallError> {
        let id = self.send_request(request, deadline)?;
        self.wait_for_reply(id, deadline)
    }

    /// Sends a request; returns its id, which the reply will carry.
    ///
    /// # Errors
    ///
    /// [`CallError::UnsupportedRequest`] if the node does not support this request.
    pub fn send_request(&mut self, request: &Request, deadline: Instant) -> Result<u64, CallError> {
        if self.version < oldest_version_with(request) {
            return Err(CallError::UnsupportedRequest);
        }
        let id = self.next_id;
        self.next_id += 1;
        put_request_frame(&mut self.output, id, false, request);
        self.send(deadline)?;
        Ok(id)
    }

    /// Waits for the reply with that id until the deadline. After a timeout the caller may wait for the reply again.
    /// Replies to earlier requests are discarded.
    pub fn wait_for_reply(&mut self, id: u64, deadline: Instant) -> Result<Reply, CallError> {
        loop {
            match read_reply_frame(self.receive(deadline)?)? {
                (STATUS_UPDATE_ID, Reply::Status(status)) => self.status_update = Some(status),
                (reply_id, reply) if reply_id == id => return Ok(reply),
                _ => {}
            }
        }
    }

    /// Waits for the next reply to any request until the deadline.
    pub fn wait_for_any_reply(&mut self, deadline: Instant) -> Result<Reply, CallError> {
        loop {
            match read_reply_frame(self.receive(deadline)?)? {
                (STATUS_UPDATE_ID, Reply::Status(status)) => self.status_update = Some(status),
                (_, reply) => return Ok(reply),
            }
        }
    }

    /// Sends a request, whose reply is never read: for the last request on a connection.
    pub fn send_without_reply(&mut self, request: &Request, deadline: Instant) -> Result<(), CallError> {
        put_request_frame(&mut self.output, self.next_id, false, request);
        self.next_id += 1;
        self.send(deadline)
    }

    fn send(&mut self, deadline: Instant) -> Result<(), CallError> {
        self.stream.socket().set_write_timeout(Some(time_left(deadline)?))?;
        let result = self.stream.write_all(&self.output).and_then(|()| self.stream.flush());
        self.output.clear();
        Ok(result?)
    }

    fn receive(&mut self, deadline: Instant) -> Result<Frame, CallError> {
        loop {
            if let Some(frame) = self.reader.next(&mut self.input)? {
                return Ok(frame);
            }
            self.stream.socket().set_read_timeout(Some(time_left(deadline)?))?;
            match self.stream.read(&mut self.read_buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => self.input.extend_from_slice(&self.read_buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The error of a read timeout differs between systems.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(timed_out().into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Explains a failed handshake if the first bytes that the port sent are of another protocol; `None` if they are not.
fn detect_other_protocol(error: &CallError, encrypted: bool) -> Option<&'static str> {
    match error {
        CallError::Wire(WireError::TooLong { length, .. }) if !encrypted => {
            match length.to_le_bytes() {
                [b'H', b'T', b'T', b'P', ..] => {
                    Some("the port speaks HTTP: use that of nodes and native clients, by default 200 lower")
                }
                [b'-' | b'+' | b'$', ..] => Some(
                    "the port speaks the Redis protocol: use that of nodes and native clients, by default 100 lower",
                ),
                // A TLS alert: the peer received no handshake.
                [21, 3, ..] => Some("the port speaks TLS: see --tls-ca"),
                _ => None,
            }
        }
        CallError::Io(error) if encrypted && error.kind() == io::ErrorKind::UnexpectedEof => {
            Some("the node closed the connection during the TLS handshake: does it use TLS? if not, leave out --tls-ca")
        }
        CallError::Io(error) if !encrypted => {
            let closed_by_node = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
            closed_by_node.then_some("the node closed the connection before it answered: does it use TLS? see --tls-ca")
        }
        CallError::Io(error) if error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("corrupt") => {
            Some("the port does not speak TLS: leave out --tls-ca")
        }
        _ => None,
    }
}

/// The instant at which a timeout that starts now expires. Longer timeouts count as 30 years, which every clock can
/// represent.
pub fn deadline(timeout: Duration) -> Instant {
    const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    Instant::now() + timeout.min(TIMEOUT_MAX)
}

/// The time until the deadline; an error if it has passed.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() { Err(timed_out()) } else { Ok(remaining) }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// The oldest version of the protocol that has this request.
fn oldest_version_with(request: &Request) -> u16 {
    match request {
        Request::LogLevel(_) => 8,
        _ => CLIENT_VERSION_MIN,
    }
}
