//! Resolves host names on threads of their own: it may take seconds, and the event loop must not block.

use super::waker::Waker;
use crate::types::NodeId;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Maximum names resolved at once. Each has a thread, so that one unresponsive name server delays no other name. A link
/// beyond the maximum is dialed a little later.
const LOOK_UPS_MAX: usize = 32;

/// Maximum addresses tried for a name.
const ADDRESSES_MAX: usize = 16;

/// Resolves host names. A cluster of literal addresses needs no thread for it.
#[derive(Debug)]
pub struct Resolver {
    waker: Waker,
    answers: Receiver<Resolved>,
    answer: Sender<Resolved>,
    /// A result that was received by a check for results.
    next: Option<Resolved>,
    /// Each resolving thread holds a clone, so that they can be counted.
    under_way: Arc<()>,
}

/// A peer with the addresses of its name, at least one, or the error.
pub type Resolved = (NodeId, io::Result<Vec<SocketAddr>>);

impl Resolver {
    /// A resolver that wakes the event loop when it has a result.
    pub fn new(waker: Waker) -> Resolver {
        let (answer, answers) = channel();
        Resolver { waker, answers, answer, next: None, under_way: Arc::default() }
    }

    /// Returns the address if the name is one. Otherwise starts to resolve it; [`Resolver::take`] returns the result
    /// later.
    pub fn resolve(&mut self, peer: NodeId, name: &str) -> io::Result<Option<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(Some(address));
        }
        if Arc::strong_count(&self.under_way) > LOOK_UPS_MAX {
            return Err(io::Error::other("too many names are being looked up"));
        }
        let (answer, waker, name) = (self.answer.clone(), self.waker.clone(), name.to_owned());
        let under_way = self.under_way.clone();
        std::thread::Builder::new().name("resolver".into()).spawn(move || {
            let found = look_up(&name);
            // Dropped before the result is sent, since its receiver may resolve another name at once.
            drop(under_way);
            if answer.send((peer, found)).is_ok() {
                waker.wake();
            }
        })?;
        Ok(None)
    }

    /// Whether there is a result.
    pub fn has_found(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.answers.try_recv().ok();
        }
        self.next.is_some()
    }

    /// The next result, if there is one.
    pub fn take(&mut self) -> Option<Resolved> {
        self.next.take().or_else(|| self.answers.try_recv().ok())
    }
}

fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> = name.to_socket_addrs()?.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn result_is_visible_without_being_taken() {
        let poll = mio::Poll::new().unwrap();
        let mut resolver = Resolver::new(Waker::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap()));
        let peer = NodeId::new(2).unwrap();
        assert!(!resolver.has_found());
        // No name has such a port: it is rejected on the other thread, without a query to any server.
        assert!(matches!(resolver.resolve(peer, "localhost:none"), Ok(None)));
        let begun = Instant::now();
        // The event loop checks like this before it sleeps: it is not marked as sleeping yet, so it gets no wake-up.
        while !resolver.has_found() {
            assert!(begun.elapsed() < Duration::from_secs(20), "no answer");
            std::thread::yield_now();
        }
        assert!(resolver.has_found());
        assert!(matches!(resolver.take(), Some((found, Err(_))) if found == peer));
        assert!(!resolver.has_found() && resolver.take().is_none());
    }
}
