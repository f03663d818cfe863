//! A listening socket of the event loop.

use crate::types::Time;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a listener pauses when `accept` fails, as when the process has no more file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket. The system reports waiting connections once (edge-triggered), so the listener remembers that.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// Whether connections may be waiting to be accepted, and from when on they are accepted.
    is_pending: bool,
    accept_at: Time,
}

/// The result of one attempt to accept a connection.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Stream(TcpStream),
    /// The other side has ended a waiting connection, or a signal interrupted the call. More connections may wait.
    Aborted,
    /// No connection waits, or the listener pauses.
    Nothing,
    /// The system has no resources for a connection. The listener pauses.
    Failed(io::Error),
}

impl Listener {
    /// Registers a socket that listens already.
    pub fn register(registry: &Registry, token: Token, mut socket: TcpListener) -> io::Result<Listener> {
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Listener { socket, is_pending: false, accept_at: Time::ZERO })
    }

    /// Stops listening.
    pub fn close(mut self, registry: &Registry) {
        let _either_way_it_is_dropped = registry.deregister(&mut self.socket);
    }

    /// The address that it listens on.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Marks that connections wait to be accepted.
    pub fn mark_pending(&mut self) {
        self.is_pending = true;
    }

    /// When connections are to be accepted.
    pub fn deadline(&self) -> Time {
        if self.is_pending { self.accept_at } else { Time::NEVER }
    }

    /// Accepts a connection, if one waits.
    pub fn accept(&mut self, now: Time) -> Accepted {
        if self.deadline() > now {
            return Accepted::Nothing;
        }
        match self.socket.accept() {
            Ok((stream, _)) => Accepted::Stream(stream),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    self.is_pending = false;
                    Accepted::Nothing
                }
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => Accepted::Aborted,
                _ => {
                    self.accept_at = now + PAUSE;
                    Accepted::Failed(error)
                }
            },
        }
    }
}
