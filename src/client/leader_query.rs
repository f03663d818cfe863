//! The socket of a leader query: a client that waits for a silent node asks another node which one leads.
//!
//! The connections of a frozen or partitioned node stay open, so nothing tells the client that the node no longer
//! leads. The other nodes know the new leader soon after an election timeout. [`MuxProtocol`] decides when to send
//! which request.

use super::dialing;
use super::mux_protocol::MuxProtocol;
use crate::secure::{Keys, Stream};
use crate::types::Time;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read};

/// A connection to a node other than the silent one, over which the client asks for the leader.
pub struct LeaderQuery {
    stream: Stream<TcpStream>,
}

impl LeaderQuery {
    /// Starts to dial `endpoint`, and registers the socket under `token`.
    pub fn dial(endpoint: &str, keys: Option<&Keys>, token: Token, registry: &Registry) -> io::Result<LeaderQuery> {
        let address = dialing::resolve_one(endpoint, true)?;
        let socket = TcpStream::connect(address)?;
        let _best_effort = socket.set_nodelay(true);
        let mut stream = Stream::dialed(keys, socket, endpoint)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(LeaderQuery { stream })
    }

    /// Deregisters the socket and closes the connection.
    pub fn close(mut self, registry: &Registry) {
        let _ignored = registry.deregister(&mut self.stream);
    }

    /// Reads and writes as much as possible without blocking, as long as the protocol needs the connection.
    pub fn read_and_write(&mut self, now: Time, read_buffer: &mut [u8], protocol: &mut MuxProtocol) -> io::Result<()> {
        loop {
            let n = match self.stream.read(read_buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if would_block(&error) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match protocol.leader_response_received(now, &read_buffer[..n]) {
                Ok(None) => {}
                Ok(Some(leader)) => {
                    log::debug!("{} does not answer, and {leader} is the leader now", protocol.endpoint())
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            }
            if protocol.leader_query().is_none() {
                return Ok(());
            }
        }
        match protocol.leader_query() {
            Some(leader_query) => self.stream.write_pending(leader_query.output()),
            None => Ok(()),
        }
    }
}

/// Whether a read failed only because no bytes have arrived, or the socket is not connected yet. An event follows.
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests;
