//! Which address of an endpoint is dialed.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// An address of `host:port`: the first one the first time, any of them when that did not answer, for a name may have
/// several and an answer at one of them alone.
pub fn address(endpoint: &str, again: bool) -> io::Result<SocketAddr> {
    let found: Vec<SocketAddr> = endpoint.to_socket_addrs()?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found[if again { rand::random_range(0..found.len()) } else { 0 }])
}
