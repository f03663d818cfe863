//! A byte stream on a socket, with or without TLS.

use super::keys::Keys;
use bytes::{Buf, BytesMut};
use mio::event::Source;
use mio::{Interest, Registry, Token};
#[cfg(feature = "tls")]
use rustls::Connection;
use std::io::{self, Read, Write};

/// A socket with or without TLS. Reads and writes block if and only if the socket is blocking.
#[derive(Debug)]
pub struct Stream<S> {
    socket: S,
    #[cfg(feature = "tls")]
    /// The TLS session; `None` without encryption.
    tls_session: Option<Box<Connection>>,
}

impl<S> Stream<S> {
    /// Creates a stream without TLS.
    pub fn plain(socket: S) -> Stream<S> {
        Stream {
            socket,
            #[cfg(feature = "tls")]
            tls_session: None,
        }
    }

    /// The socket, for its options and addresses. Bytes read from it or written to it directly would corrupt a TLS
    /// session.
    pub fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S: Read + Write> Stream<S> {
    /// Creates a stream on an accepted socket, with TLS if `keys` are given.
    pub fn accepted(keys: Option<&Keys>, socket: S) -> io::Result<Stream<S>> {
        match keys {
            None => Ok(Stream::plain(socket)),
            Some(keys) => keys.accept(socket),
        }
    }

    /// Writes as much of `output` as the socket accepts. The other bytes stay in `output`, or in the TLS session if
    /// they are encrypted already. A socket that is not connected yet accepts no bytes, which is no error.
    pub fn write_pending(&mut self, output: &mut BytesMut) -> io::Result<()> {
        let is_not_ready =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected);
        while !output.is_empty() {
            match self.write(output) {
                Ok(n) => output.advance(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_not_ready(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if output.is_empty() {
            output.clear();
        }
        match self.flush() {
            Err(error) if is_not_ready(&error) => Ok(()),
            flushed => flushed,
        }
    }

    /// Creates a stream on a socket that was dialed to `endpoint`, as `HOST:PORT`; with TLS if `keys` are given.
    pub fn dialed(keys: Option<&Keys>, socket: S, endpoint: &str) -> io::Result<Stream<S>> {
        match keys {
            None => Ok(Stream::plain(socket)),
            Some(keys) => keys.dial(socket, endpoint),
        }
    }
}

#[cfg(feature = "tls")]
impl Keys {
    /// Creates a stream with the server side of a TLS session on an accepted socket.
    pub fn accept<S: Read + Write>(&self, socket: S) -> io::Result<Stream<S>> {
        Ok(Stream::with_tls(socket, self.server_session()?.into()))
    }

    /// Creates a stream with the client side of a TLS session on a socket dialed to `endpoint`, as `HOST:PORT`. The
    /// server's certificate must name that host.
    pub fn dial<S: Read + Write>(&self, socket: S, endpoint: &str) -> io::Result<Stream<S>> {
        Ok(Stream::with_tls(socket, self.client_session(endpoint)?.into()))
    }
}

#[cfg(not(feature = "tls"))]
impl Keys {
    /// Cannot be called, since the type has no values.
    pub fn accept<S: Read + Write>(&self, _: S) -> io::Result<Stream<S>> {
        match *self {}
    }

    /// Cannot be called, since the type has no values.
    pub fn dial<S: Read + Write>(&self, _: S, _: &str) -> io::Result<Stream<S>> {
        match *self {}
    }
}

#[cfg(not(feature = "tls"))]
impl<S: Read + Write> Stream<S> {
    /// Whether a read of fewer bytes than requested has emptied the socket.
    pub fn short_read_empties_socket(&self) -> bool {
        true
    }

    /// Whether the other side has presented a certificate of a trusted authority. Never without TLS.
    pub fn has_trusted_certificate(&self) -> bool {
        false
    }

    /// Whether the stream has accepted bytes that are not written to the socket yet. Never without TLS.
    pub fn has_unsent_bytes(&self) -> bool {
        false
    }
}

#[cfg(not(feature = "tls"))]
impl<S: Read> Read for Stream<S> {
    fn read(&mut self, read_buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(read_buffer)
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
    fn with_tls(socket: S, tls_session: Connection) -> Stream<S> {
        Stream { socket, tls_session: Some(Box::new(tls_session)) }
    }

    /// Whether a read of fewer bytes than requested has emptied the socket.
    pub fn short_read_empties_socket(&self) -> bool {
        self.tls_session.is_none()
    }

    /// Whether the other side has presented a certificate of a trusted authority.
    pub fn has_trusted_certificate(&self) -> bool {
        self.tls_session.as_ref().is_some_and(|tls_session| tls_session.peer_certificates().is_some())
    }

    /// Whether the stream has accepted bytes that are not written to the socket yet: pending TLS records.
    pub fn has_unsent_bytes(&self) -> bool {
        self.tls_session.as_ref().is_some_and(|tls_session| tls_session.wants_write())
    }
}

/// Writes the pending TLS records of a session. Returns false if the socket does not accept all of them now.
#[cfg(feature = "tls")]
fn write_records<S: Write>(tls_session: &mut Connection, socket: &mut S) -> io::Result<bool> {
    while tls_session.wants_write() {
        match tls_session.write_tls(socket) {
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
    /// Reads decrypted bytes. An end of the stream without a TLS `close_notify` is a normal end, since the protocols
    /// above delimit their messages themselves.
    fn read(&mut self, read_buffer: &mut [u8]) -> io::Result<usize> {
        let Stream { socket, tls_session: Some(tls_session) } = self else { return self.socket.read(read_buffer) };
        loop {
            match tls_session.reader().read(read_buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if tls_session.read_tls(socket)? == 0 {
                return Ok(0);
            }
            let packet_result = tls_session.process_new_packets();
            // The session may have records to send: a reply of the handshake, pending data, or the alert for a
            // protocol error.
            write_records(tls_session, socket)?;
            packet_result.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

#[cfg(feature = "tls")]
impl<S: Read + Write> Write for Stream<S> {
    /// Encrypts as many bytes as the session has room for. Records that the socket does not accept now are kept until
    /// [`Write::flush`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Stream { socket, tls_session: Some(tls_session) } = self else { return self.socket.write(bytes) };
        let accepted_bytes = tls_session.writer().write(bytes)?;
        let all_written = write_records(tls_session, socket)?;
        if accepted_bytes == 0 && !bytes.is_empty() {
            if !all_written {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            return tls_session.writer().write(bytes);
        }
        Ok(accepted_bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let Stream { socket, tls_session: Some(tls_session) } = self else { return self.socket.flush() };
        if write_records(tls_session, socket)? { socket.flush() } else { Err(io::ErrorKind::WouldBlock.into()) }
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
