//! Turns names into addresses, on a thread of its own: it may take seconds, and the reactor has none.

use super::waker::Waker;
use crate::types::NodeId;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Turns names into addresses.
///
/// The thread begins with the first name; a cluster of literal addresses never has it.
#[derive(Debug)]
pub struct Resolver {
    waker: Waker,
    ask: Option<Sender<(NodeId, String)>>,
    answers: Receiver<Found>,
    answer: Sender<Found>,
    /// One that was found while only looking whether there is any.
    next: Option<Found>,
}

/// An address found, or why none was.
pub type Found = (NodeId, io::Result<SocketAddr>);

impl Resolver {
    /// One that wakes that reactor when it has found something.
    pub fn new(waker: Waker) -> Resolver {
        let (answer, answers) = channel();
        Resolver { waker, ask: None, answers, answer, next: None }
    }

    /// The address, if the name is one already; else looks for it, and [`Resolver::take`] has it later.
    pub fn resolve(&mut self, peer: NodeId, name: &str) -> io::Result<Option<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(Some(address));
        }
        let ask = match &self.ask {
            Some(ask) => ask,
            None => self.ask.insert(self.spawn()?),
        };
        match ask.send((peer, name.to_owned())) {
            Ok(()) => Ok(None),
            Err(_) => Err(io::Error::other("the thread that resolves names is gone")),
        }
    }

    fn spawn(&self) -> io::Result<Sender<(NodeId, String)>> {
        let (ask, asked) = channel::<(NodeId, String)>();
        let (answer, waker) = (self.answer.clone(), self.waker.clone());
        std::thread::Builder::new().name("resolver".into()).spawn(move || {
            for (peer, name) in asked {
                let found = name.to_socket_addrs().and_then(|mut found| {
                    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
                });
                if answer.send((peer, found)).is_err() {
                    return;
                }
                waker.wake();
            }
        })?;
        Ok(ask)
    }

    /// Whether there is an answer.
    pub fn has_found(&mut self) -> bool {
        if self.next.is_none() {
            self.next = self.answers.try_recv().ok();
        }
        self.next.is_some()
    }

    /// The next answer, if there is one.
    pub fn take(&mut self) -> Option<Found> {
        self.next.take().or_else(|| self.answers.try_recv().ok())
    }
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
