//! Turns names into addresses, on threads of their own: it may take seconds, and the reactor has none.

use super::waker::Waker;
use crate::types::NodeId;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// So many names are looked up at once. Each has a thread, so that one whose server does not answer holds up no other;
/// links whose names would be too many are dialed a little later.
const LOOK_UPS_MAX: usize = 32;

/// So many addresses of a name are tried.
const ADDRESSES_MAX: usize = 16;

/// Turns names into addresses. A cluster of literal addresses never has a thread for it.
#[derive(Debug)]
pub struct Resolver {
    waker: Waker,
    answers: Receiver<Resolved>,
    answer: Sender<Resolved>,
    /// One that was found while only looking whether there is any.
    next: Option<Resolved>,
    /// Each thread that looks up a name has one more of it.
    under_way: Arc<()>,
}

/// The addresses that a peer's name was found to have, at least one; or why there are none.
pub type Resolved = (NodeId, io::Result<Vec<SocketAddr>>);

impl Resolver {
    /// One that wakes that reactor when it has found something.
    pub fn new(waker: Waker) -> Resolver {
        let (answer, answers) = channel();
        Resolver { waker, answers, answer, next: None, under_way: Arc::default() }
    }

    /// The address, if the name is one already; else looks for it, and [`Resolver::take`] has it later.
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
            // Before the answer is there: who hears it may ask again.
            drop(under_way);
            if answer.send((peer, found)).is_ok() {
                waker.wake();
            }
        })?;
        Ok(None)
    }

    /// Whether there is an answer.
    pub fn has_found(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.answers.try_recv().ok();
        }
        self.next.is_some()
    }

    /// The next answer, if there is one.
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
    fn an_answer_is_seen_before_it_is_taken() {
        let poll = mio::Poll::new().unwrap();
        let mut resolver = Resolver::new(Waker::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap()));
        let peer = NodeId::new(2).unwrap();
        assert!(!resolver.has_found());
        // No name has a port like that: it is not asked of anybody, and refused on the other thread.
        assert!(matches!(resolver.resolve(peer, "localhost:none"), Ok(None)));
        let begun = Instant::now();
        // The reactor looks so before it sleeps: it had not said yet that it would, and nobody woke it.
        while !resolver.has_found() {
            assert!(begun.elapsed() < Duration::from_secs(20), "no answer");
            std::thread::yield_now();
        }
        assert!(resolver.has_found());
        assert!(matches!(resolver.take(), Some((found, Err(_))) if found == peer));
        assert!(!resolver.has_found() && resolver.take().is_none());
    }
}
