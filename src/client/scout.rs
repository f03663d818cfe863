//! The socket of a leader query: a client that waits for a silent node asks another one for the leader.
//!
//! A frozen or partitioned node does not report that, and its connections stay open. The other nodes know within an
//! election timeout. [`MuxProtocol`] decides when to send which request.

use super::dialing;
use super::mux_protocol::MuxProtocol;
use crate::secure::{Keys, Stream};
use crate::types::Time;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};

/// A connection for a leader query.
pub struct Scout {
    stream: Stream<TcpStream>,
}

impl Scout {
    /// Dials.
    pub fn dial(endpoint: &str, keys: Option<&Keys>, token: Token, registry: &Registry) -> io::Result<Scout> {
        let address = dialing::address(endpoint, true)?;
        let socket = TcpStream::connect(address)?;
        let _if_not_it_is_slower = socket.set_nodelay(true);
        let mut stream = Stream::dialed(keys, socket, endpoint)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Scout { stream })
    }

    /// Closes the connection.
    pub fn close(mut self, registry: &Registry) {
        let _either_way_it_is_dropped = registry.deregister(&mut self.stream);
    }

    /// Reads and writes as much as possible, as long as the protocol needs the connection.
    pub fn work(&mut self, now: Time, scratch: &mut [u8], protocol: &mut MuxProtocol) -> io::Result<()> {
        loop {
            let n = match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if waits(&error) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match protocol.scout_received(now, &scratch[..n]) {
                Ok(None) => {}
                Ok(Some(leader)) => {
                    log::debug!("{} does not answer, and {leader} is the leader now", protocol.endpoint())
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            }
            if protocol.scout().is_none() {
                return Ok(());
            }
        }
        match protocol.scout() {
            Some(scout) => self.stream.write_pending(scout.output()),
            None => Ok(()),
        }
    }
}

/// Nothing to read, or not connected yet: an event follows.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests;
