//! Resolves an endpoint to the address to dial.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// An address of `host:port`: the first one at first, a random one on later attempts, since a name may have several
/// addresses of which only one responds.
pub fn address(endpoint: &str, again: bool) -> io::Result<SocketAddr> {
    let found: Vec<SocketAddr> = endpoint.to_socket_addrs()?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found[if again { rand::random_range(0..found.len()) } else { 0 }])
}
