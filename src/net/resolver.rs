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
}

/// An address found, or why none was.
pub type Found = (NodeId, io::Result<SocketAddr>);

impl Resolver {
    /// One that wakes that reactor when it has found something.
    pub fn new(waker: Waker) -> Resolver {
        let (answer, answers) = channel();
        Resolver { waker, ask: None, answers, answer }
    }

    /// The address, if the name is one already; else looks for it, and [`Resolver::found`] has it later.
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

    /// The next answer, if there is one.
    pub fn found(&mut self) -> Option<Found> {
        self.answers.try_recv().ok()
    }
}
