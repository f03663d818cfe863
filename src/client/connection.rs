//! One blocking connection to one node.

use crate::api::{Reply, Request, Status};
use crate::secure::{Keys, Stream};
use crate::types::NodeId;
use crate::wire::WireError;
use crate::wire::client::{NEWS, put_request_frame, read_reply_frame};
use crate::wire::frame::{Frame, FrameReader};
use crate::wire::hello::{Hello, VERSION_MIN, Welcome};
use crate::wire::reason::Reason;
use bytes::BytesMut;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// One blocking connection to one node.
pub struct Connection {
    stream: Stream<TcpStream>,
    reader: FrameReader,
    input: BytesMut,
    output: BytesMut,
    scratch: Box<[u8]>,
    next: u64,
    node: Option<NodeId>,
    /// The negotiated protocol version.
    version: u16,
    news: Option<Box<Status>>,
}

/// The reason why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The node broke the protocol, or rejected the connection.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The node speaks an older version of the protocol, which lacks this request: nothing was sent.
    #[error("the node runs an older version of drave, which does not know this request")]
    Older,
}

impl CallError {
    /// Whether the only failure was a timeout.
    pub fn is_late(&self) -> bool {
        matches!(self, CallError::Io(error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

impl Connection {
    /// Dials and sends hello; over TLS, if there are keys.
    pub fn dial(endpoint: &str, keys: Option<&Keys>, deadline: Instant) -> Result<Connection, CallError> {
        Connection::dial_with(endpoint, keys, &Hello::client(), deadline)
    }

    /// Like [`Connection::dial`], but may use a slot for operators if no client slot is free. Nothing can be proposed
    /// then.
    pub fn dial_operator(endpoint: &str, keys: Option<&Keys>, deadline: Instant) -> Result<Connection, CallError> {
        match Connection::dial(endpoint, keys, deadline) {
            Err(CallError::Wire(WireError::Refused(Reason::Full))) => {
                Connection::dial_with(endpoint, keys, &Hello::operator(), deadline)
            }
            dialed => dialed,
        }
    }

    /// Like [`Connection::dial`], for commands of that state machine: a node with another kind rejects the connection.
    pub fn dial_machine(
        endpoint: &str,
        keys: Option<&Keys>,
        machine: &str,
        deadline: Instant,
    ) -> Result<Connection, CallError> {
        Connection::dial_with(endpoint, keys, &Hello::client().of_machine(machine), deadline)
    }

    fn dial_with(
        endpoint: &str,
        keys: Option<&Keys>,
        hello: &Hello,
        deadline: Instant,
    ) -> Result<Connection, CallError> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in endpoint.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, left(deadline)?) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    let stream = Stream::dialed(keys, socket, endpoint)?;
                    return Connection::greet(stream, keys.is_some(), hello, deadline);
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    fn greet(
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
            scratch: vec![0; 16 << 10].into(),
            next: 1,
            node: None,
            version: 0,
            news: None,
        };
        match connection.hello(hello, deadline) {
            Ok(()) => Ok(connection),
            Err(trouble) => Err(match other_protocol(&trouble, encrypted) {
                Some(what) => io::Error::new(io::ErrorKind::InvalidData, what).into(),
                None => trouble,
            }),
        }
    }

    fn hello(&mut self, hello: &Hello, deadline: Instant) -> Result<(), CallError> {
        hello.put(&mut self.output);
        self.send(deadline)?;
        let welcome = Welcome::read(self.receive(deadline)?)?;
        self.node = Some(welcome.node);
        self.version = welcome.version;
        Ok(())
    }

    /// The node at the other end.
    pub fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// Takes the status that the node sent on its own, because the members have changed.
    pub fn take_news(&mut self) -> Option<Box<Status>> {
        self.news.take()
    }

    /// Sends a request and waits for its reply.
    pub fn call(&mut self, request: &Request, deadline: Instant) -> Result<Reply, CallError> {
        let id = self.ask(request, deadline)?;
        self.answer(id, deadline)
    }

    /// Sends a request; returns its id, which the reply will carry.
    ///
    /// # Errors
    ///
    /// [`CallError::Older`] if the node does not support this request.
    pub fn ask(&mut self, request: &Request, deadline: Instant) -> Result<u64, CallError> {
        if self.version < first_version_with(request) {
            return Err(CallError::Older);
        }
        let id = self.next;
        self.next += 1;
        put_request_frame(&mut self.output, id, false, request);
        self.send(deadline)?;
        Ok(id)
    }

    /// Waits for the reply with that id until the deadline; after [`CallError::is_late`] the caller may wait for it
    /// again. Replies to earlier requests are discarded.
    pub fn answer(&mut self, id: u64, deadline: Instant) -> Result<Reply, CallError> {
        loop {
            match read_reply_frame(self.receive(deadline)?)? {
                (NEWS, Reply::Status(status)) => self.news = Some(status),
                (answered, reply) if answered == id => return Ok(reply),
                _ => {}
            }
        }
    }

    /// Waits for the next reply to any request until the deadline.
    pub fn next_answer(&mut self, deadline: Instant) -> Result<Reply, CallError> {
        loop {
            match read_reply_frame(self.receive(deadline)?)? {
                (NEWS, Reply::Status(status)) => self.news = Some(status),
                (_, reply) => return Ok(reply),
            }
        }
    }

    /// Sends a request; no reply is awaited.
    pub fn send_only(&mut self, request: &Request, deadline: Instant) -> Result<(), CallError> {
        put_request_frame(&mut self.output, self.next, false, request);
        self.next += 1;
        self.send(deadline)
    }

    fn send(&mut self, deadline: Instant) -> Result<(), CallError> {
        self.stream.socket().set_write_timeout(Some(left(deadline)?))?;
        let sent = self.stream.write_all(&self.output).and_then(|()| self.stream.flush());
        self.output.clear();
        Ok(sent?)
    }

    fn receive(&mut self, deadline: Instant) -> Result<Frame, CallError> {
        loop {
            if let Some(frame) = self.reader.next(&mut self.input)? {
                return Ok(frame);
            }
            self.stream.socket().set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(&mut self.scratch) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => self.input.extend_from_slice(&self.scratch[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The error of a read timeout differs between systems.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(timed_out().into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The protocol of a port that does not answer a hello like a node, as far as its first bytes show.
fn other_protocol(trouble: &CallError, encrypted: bool) -> Option<&'static str> {
    match trouble {
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
            let closed = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
            closed.then_some("the node closed the connection before it answered: does it use TLS? see --tls-ca")
        }
        CallError::Io(error) if error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("corrupt") => {
            Some("the port does not speak TLS: leave out --tls-ca")
        }
        _ => None,
    }
}

/// The instant that long from now, limited to what a clock can certainly represent.
pub fn deadline(timeout: Duration) -> Instant {
    const LATEST: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    Instant::now() + timeout.min(LATEST)
}

/// The time until then; an error if it has passed.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(timed_out()) } else { Ok(left) }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// The first version of the protocol that has this request.
fn first_version_with(request: &Request) -> u16 {
    match request {
        Request::LogLevel(_) => 8,
        _ => VERSION_MIN,
    }
}
