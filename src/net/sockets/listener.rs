//! A listening socket in the poll, which pauses when the system has no resources to accept connections.

use crate::types::Time;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a listener pauses after `accept` has failed, as when the process has no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket. The poll reports waiting connections only once (edge-triggered), so the listener remembers the
/// report until no connection waits.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// Whether connections may be waiting to be accepted.
    accept_pending: bool,
    /// When the listener accepts connections again. The time is in the past unless the listener pauses.
    resume_at: Time,
}

/// The result of one attempt to accept a connection.
#[derive(Debug)]
pub enum AcceptOutcome {
    /// A connection was accepted.
    Stream(TcpStream),
    /// The other side has closed a waiting connection, or a signal interrupted the call. More connections may wait.
    Aborted,
    /// No connection waits, or the listener pauses.
    NonePending,
    /// The system cannot accept connections, as without a free file descriptor. The listener pauses.
    Failed(io::Error),
}

impl Listener {
    /// Registers a listening socket with the poll.
    pub fn register(registry: &Registry, token: Token, mut socket: TcpListener) -> io::Result<Listener> {
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Listener { socket, accept_pending: false, resume_at: Time::ZERO })
    }

    /// Closes the socket. Connections that wait to be accepted are reset.
    pub fn close(mut self, registry: &Registry) {
        let _best_effort = registry.deregister(&mut self.socket);
    }

    /// The address that the socket listens on.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Records that the poll reported connections to be accepted.
    pub fn mark_accept_pending(&mut self) {
        self.accept_pending = true;
    }

    /// When connections are to be accepted; never if none waits.
    pub fn deadline(&self) -> Time {
        if self.accept_pending { self.resume_at } else { Time::NEVER }
    }

    /// Accepts a connection, if one waits and the listener does not pause.
    pub fn accept(&mut self, now: Time) -> AcceptOutcome {
        if self.deadline() > now {
            return AcceptOutcome::NonePending;
        }
        match self.socket.accept() {
            Ok((stream, _)) => AcceptOutcome::Stream(stream),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    self.accept_pending = false;
                    AcceptOutcome::NonePending
                }
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => AcceptOutcome::Aborted,
                _ => {
                    self.resume_at = now + ACCEPT_PAUSE;
                    AcceptOutcome::Failed(error)
                }
            },
        }
    }
}
