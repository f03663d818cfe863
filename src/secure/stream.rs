//! A socket, or a socket with TLS on it.

use super::keys::Keys;
use bytes::{Buf, BytesMut};
use mio::event::Source;
use mio::{Interest, Registry, Token};
#[cfg(feature = "tls")]
use rustls::Connection;
use std::io::{self, Read, Write};

/// A socket, or a socket with TLS on it. It blocks exactly if the socket does.
#[derive(Debug)]
pub struct Stream<S> {
    socket: S,
    #[cfg(feature = "tls")]
    session: Option<Box<Connection>>,
}

impl<S> Stream<S> {
    /// Creates a stream without TLS.
    pub fn plain(socket: S) -> Stream<S> {
        Stream {
            socket,
            #[cfg(feature = "tls")]
            session: None,
        }
    }

    /// The socket, to set its options.
    pub fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S: Read + Write> Stream<S> {
    /// Creates a stream on an accepted socket: with TLS, if there are keys.
    pub fn accepted(keys: Option<&Keys>, socket: S) -> io::Result<Stream<S>> {
        match keys {
            None => Ok(Stream::plain(socket)),
            Some(keys) => keys.accept(socket),
        }
    }

    /// Writes as much of `output` as the socket accepts. The rest stays in `output`, or in the TLS session if it is
    /// already encrypted. A socket that is not connected yet is not an error.
    pub fn write_pending(&mut self, output: &mut BytesMut) -> io::Result<()> {
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

    /// Creates a stream on a socket dialed to `host:port`: with TLS, if there are keys.
    pub fn dialed(keys: Option<&Keys>, socket: S, endpoint: &str) -> io::Result<Stream<S>> {
        match keys {
            None => Ok(Stream::plain(socket)),
            Some(keys) => keys.dial(socket, endpoint),
        }
    }
}

#[cfg(feature = "tls")]
impl Keys {
    /// Starts a TLS session on an accepted socket, as the server.
    pub fn accept<S: Read + Write>(&self, socket: S) -> io::Result<Stream<S>> {
        Ok(Stream::secure(socket, self.server_session()?.into()))
    }

    /// Starts a TLS session on a socket dialed to `host:port`. The certificate must name that host.
    pub fn dial<S: Read + Write>(&self, socket: S, endpoint: &str) -> io::Result<Stream<S>> {
        Ok(Stream::secure(socket, self.client_session(endpoint)?.into()))
    }
}

#[cfg(not(feature = "tls"))]
impl Keys {
    /// Cannot be called: there is no value.
    pub fn accept<S: Read + Write>(&self, _: S) -> io::Result<Stream<S>> {
        match *self {}
    }

    /// Cannot be called: there is no value.
    pub fn dial<S: Read + Write>(&self, _: S, _: &str) -> io::Result<Stream<S>> {
        match *self {}
    }
}

#[cfg(not(feature = "tls"))]
impl<S: Read + Write> Stream<S> {
    /// Whether a read of fewer bytes than requested has emptied the socket.
    pub fn tells_when_dry(&self) -> bool {
        true
    }

    /// Whether the peer has presented a trusted certificate.
    pub fn is_proven(&self) -> bool {
        false
    }

    /// Whether accepted bytes are not yet written to the socket.
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
    /// Creates a stream with a TLS session whose handshake has not begun.
    fn secure(socket: S, session: Connection) -> Stream<S> {
        Stream { socket, session: Some(Box::new(session)) }
    }

    /// Whether a read of fewer bytes than requested has emptied the socket.
    pub fn tells_when_dry(&self) -> bool {
        self.session.is_none()
    }

    /// Whether the peer has presented a certificate of a trusted authority.
    pub fn is_proven(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.peer_certificates().is_some())
    }

    /// Whether accepted bytes are not yet written to the socket.
    pub fn has_unsent(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wants_write())
    }
}

/// Writes the session's pending TLS records; false if the socket does not accept all of them now.
#[cfg(feature = "tls")]
fn send<S: Write>(session: &mut Connection, socket: &mut S) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(socket) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A socket that is not connected yet is not writable yet.
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
    /// An end without a TLS `close_notify` is a normal end: the protocols on top delimit their messages themselves.
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
            // A reply of the handshake, pending data, or the alert for a protocol error.
            send(session, socket)?;
            understood.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

#[cfg(feature = "tls")]
impl<S: Read + Write> Write for Stream<S> {
    /// Accepts as many bytes as the session has room for. Records that the socket does not accept yet are kept for
    /// [`Write::flush`].
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
