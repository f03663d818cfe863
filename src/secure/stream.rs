//! A socket, or a socket with TLS on it.

use super::keys::Keys;
use bytes::{Buf, BytesMut};
use mio::event::Source;
use mio::{Interest, Registry, Token};
#[cfg(feature = "tls")]
use rustls::Connection;
use std::io::{self, Read, Write};

/// A socket, or a socket with TLS on it, that blocks or does not as the socket does.
#[derive(Debug)]
pub struct Stream<S> {
    socket: S,
    #[cfg(feature = "tls")]
    session: Option<Box<Connection>>,
}

impl<S> Stream<S> {
    /// As it is.
    pub fn plain(socket: S) -> Stream<S> {
        Stream {
            socket,
            #[cfg(feature = "tls")]
            session: None,
        }
    }

    /// The socket, for what is tuned on it.
    pub fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S: Read + Write> Stream<S> {
    /// Somebody came in: with TLS, if there are keys.
    pub fn accepted(keys: Option<&Keys>, socket: S) -> io::Result<Stream<S>> {
        match keys {
            None => Ok(Stream::plain(socket)),
            Some(keys) => keys.accept(socket),
        }
    }

    /// Writes what the socket takes of that. The rest stays where it is until the next time, or is kept here if it is
    /// encrypted already; that a socket is not connected yet is no error.
    pub fn pour(&mut self, output: &mut BytesMut) -> io::Result<()> {
        let waits = |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected);
        while !output.is_empty() {
            match self.write(output) {
                Ok(n) => output.advance(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if output.is_empty() {
            output.clear();
        }
        match self.flush() {
            Err(error) if waits(&error) => Ok(()),
            flushed => flushed,
        }
    }

    /// We have dialed that `host:port`: with TLS, if there are keys.
    pub fn dialed(keys: Option<&Keys>, socket: S, endpoint: &str) -> io::Result<Stream<S>> {
        match keys {
            None => Ok(Stream::plain(socket)),
            Some(keys) => keys.dial(socket, endpoint),
        }
    }
}

#[cfg(not(feature = "tls"))]
impl<S: Read + Write> Stream<S> {
    /// Whether a read that brought less than was asked for has emptied the socket.
    pub fn tells_when_dry(&self) -> bool {
        true
    }

    /// Whether the other side has proved who it is.
    pub fn is_proven(&self) -> bool {
        false
    }

    /// Whether something was taken and could not be written yet.
    pub fn has_unsent(&self) -> bool {
        false
    }
}

#[cfg(not(feature = "tls"))]
impl<S: Read> Read for Stream<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.socket.read(out)
    }
}

#[cfg(not(feature = "tls"))]
impl<S: Write> Write for Stream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

#[cfg(feature = "tls")]
impl<S: Read + Write> Stream<S> {
    /// With that session on it, of which nothing is said yet.
    pub(super) fn secure(socket: S, session: Connection) -> Stream<S> {
        Stream { socket, session: Some(Box::new(session)) }
    }

    /// Whether a read that brought less than was asked for has emptied the socket.
    pub fn tells_when_dry(&self) -> bool {
        self.session.is_none()
    }

    /// Whether the other side has shown a certificate that an authority of ours vouches for.
    pub fn is_proven(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.peer_certificates().is_some())
    }

    /// Whether something was taken and could not be written yet.
    pub fn has_unsent(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wants_write())
    }
}

/// Writes what the session has to say; false if the socket does not take all of it now.
#[cfg(feature = "tls")]
fn send<S: Write>(session: &mut Connection, socket: &mut S) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(socket) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Not yet connected is not yet writable.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(feature = "tls")]
impl<S: Read + Write> Read for Stream<S> {
    /// An end without a farewell is an end like any other: what is said here says itself where it ends.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Stream { socket, session: Some(session) } = self else { return self.socket.read(out) };
        loop {
            match session.reader().read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                came => return came,
            }
            if session.read_tls(socket)? == 0 {
                return Ok(0);
            }
            let understood = session.process_new_packets();
            // An answer of the handshake, or what it waited for, or why we do not understand.
            send(session, socket)?;
            understood.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

#[cfg(feature = "tls")]
impl<S: Read + Write> Write for Stream<S> {
    /// Takes what the session has room for; what the socket does not take yet is kept for [`Write::flush`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Stream { socket, session: Some(session) } = self else { return self.socket.write(bytes) };
        let taken = session.writer().write(bytes)?;
        let all = send(session, socket)?;
        if taken == 0 && !bytes.is_empty() {
            if !all {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            return session.writer().write(bytes);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let Stream { socket, session: Some(session) } = self else { return self.socket.flush() };
        if send(session, socket)? { socket.flush() } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

impl<S: Source> Source for Stream<S> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests;
