//! Resolves host names on separate threads: a lookup may take seconds, and the event loop must not block.

use super::waker::Waker;
use crate::types::NodeId;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Maximum lookups at once. Each lookup has a thread, so that one unresponsive name server delays no other lookup. A
/// link beyond the maximum counts as failed, and is dialed a little later.
const LOOKUPS_MAX: usize = 32;

/// Maximum addresses used of one host name; further addresses are ignored.
const ADDRESSES_PER_NAME_MAX: usize = 16;

/// Resolves the host names of peers. IP addresses are parsed at once, without a thread.
#[derive(Debug)]
pub struct Resolver {
    waker: Waker,
    results: Receiver<LookupResult>,
    result_sender: Sender<LookupResult>,
    /// A result that [`Resolver::has_result`] received, and [`Resolver::take_result`] will return.
    pending_result: Option<LookupResult>,
    /// Each lookup thread holds a clone: the number of clones is the number of running lookups.
    running_lookups: Arc<()>,
}

/// A peer, and either the addresses of its host name, at least one, or the error of the lookup.
pub type LookupResult = (NodeId, io::Result<Vec<SocketAddr>>);

impl Resolver {
    /// Creates a resolver. Its threads wake the event loop when they have a result.
    pub fn new(waker: Waker) -> Resolver {
        let (result_sender, results) = channel();
        Resolver { waker, results, result_sender, pending_result: None, running_lookups: Arc::default() }
    }

    /// Returns the address if `name` is an IP address with a port. Otherwise starts a lookup, whose result
    /// [`Resolver::take_result`] returns later.
    ///
    /// # Errors
    ///
    /// Too many lookups are running, or the system cannot start a thread.
    pub fn resolve(&mut self, peer: NodeId, name: &str) -> io::Result<Option<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(Some(address));
        }
        if Arc::strong_count(&self.running_lookups) > LOOKUPS_MAX {
            return Err(io::Error::other("too many host names are being looked up"));
        }
        let (result_sender, waker, name) = (self.result_sender.clone(), self.waker.clone(), name.to_owned());
        let running_lookups = self.running_lookups.clone();
        std::thread::Builder::new().name("resolver".into()).spawn(move || {
            let result = look_up_addresses(&name);
            // The count drops before the result is sent, since the receiver may start another lookup at once.
            drop(running_lookups);
            if result_sender.send((peer, result)).is_ok() {
                waker.wake();
            }
        })?;
        Ok(None)
    }

    /// Whether a lookup has ended whose result was not taken yet.
    pub fn has_result(&mut self) -> bool {
        if self.pending_result.is_none() {
            self.pending_result = self.results.try_recv().ok();
        }
        self.pending_result.is_some()
    }

    /// Takes the result of a lookup; `None` if no lookup has ended.
    pub fn take_result(&mut self) -> Option<LookupResult> {
        self.pending_result.take().or_else(|| self.results.try_recv().ok())
    }
}

fn look_up_addresses(name: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> = name.to_socket_addrs()?.take(ADDRESSES_PER_NAME_MAX).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn lookup_result_is_announced_until_it_is_taken() {
        let poll = mio::Poll::new().unwrap();
        let mut resolver = Resolver::new(Waker::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap()));
        let peer = NodeId::new(2).unwrap();
        assert!(!resolver.has_result());
        // `none` is not a port number, so the lookup thread rejects the name without a query to a name server.
        assert!(matches!(resolver.resolve(peer, "localhost:none"), Ok(None)));
        let started_at = Instant::now();
        // The test polls, as the event loop does before it sleeps: the waker is not marked as sleeping, so the lookup
        // thread sends no wake-up.
        while !resolver.has_result() {
            assert!(started_at.elapsed() < Duration::from_secs(20), "the lookup has not ended within 20 seconds");
            std::thread::yield_now();
        }
        assert!(resolver.has_result());
        assert!(matches!(resolver.take_result(), Some((resolved, Err(_))) if resolved == peer));
        assert!(!resolver.has_result() && resolver.take_result().is_none());
    }
}
