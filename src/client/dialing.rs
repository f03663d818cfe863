//! Resolves an endpoint to the address to dial.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// Resolves `host:port` to one address: the first on the first attempt, a random one on later attempts, since a name
/// may have several addresses of which only one responds.
pub fn resolve_one(endpoint: &str, is_retry: bool) -> io::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = endpoint.to_socket_addrs()?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host name has no address"));
    }
    Ok(addresses[if is_retry { rand::random_range(0..addresses.len()) } else { 0 }])
}
