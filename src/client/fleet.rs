//! Many connections driven from one thread.

use super::mux::{Mux, Readiness};
use super::mux_protocol::{Completion, MuxOptions};
use mio::{Events, Poll, Token};
use std::io;
use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

/// Many connections driven from one thread: start requests on any of them, then call [`Fleet::turn`].
pub struct Fleet {
    poll: Poll,
    events: Events,
    muxes: Vec<Mux>,
    heard: Vec<Readiness>,
    scratch: Vec<u8>,
    done: Vec<Completion>,
}

impl Fleet {
    /// Creates that many connections to that cluster, each with its own session.
    pub fn new(endpoints: &[String], connections: usize, options: MuxOptions) -> io::Result<Fleet> {
        let mux = |n| Mux::new(endpoints.to_vec(), n, [Token(n), Token(connections + n)], options.clone());
        Ok(Fleet {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            muxes: (0..connections).map(mux).collect(),
            heard: vec![Readiness::Nothing; connections],
            scratch: vec![0; 128 << 10],
            done: Vec::new(),
        })
    }

    /// The number of connections.
    pub fn len(&self) -> usize {
        self.muxes.len()
    }

    /// Whether there are no connections.
    pub fn is_empty(&self) -> bool {
        self.muxes.is_empty()
    }

    /// Sends all requests started since the last turn, waits up to `timeout` for replies, and passes finished requests
    /// to `done`, with the index of the connection.
    pub fn turn(&mut self, timeout: Duration, mut done: impl FnMut(&mut Mux, usize, Completion)) -> io::Result<()> {
        self.work(&mut done);
        let now = Instant::now();
        let due = self.muxes.iter().filter_map(Mux::deadline).min();
        let timeout = due.map_or(timeout, |due| timeout.min(due.saturating_duration_since(now)));
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let ends = event.is_read_closed() || event.is_write_closed() || event.is_error();
            let heard = match (ends, event.is_readable()) {
                (true, _) => Readiness::End,
                (false, true) => Readiness::Bytes,
                (false, false) => Readiness::Nothing,
            };
            // Higher tokens are of leader queries, which are checked on each turn.
            if let Some(known) = self.heard.get_mut(event.token().0) {
                *known = heard.max(*known);
            }
        }
        self.work(&mut done);
        Ok(())
    }

    fn work(&mut self, done: &mut impl FnMut(&mut Mux, usize, Completion)) {
        let now = Instant::now();
        for (n, mux) in self.muxes.iter_mut().enumerate() {
            let heard = std::mem::take(&mut self.heard[n]);
            mux.work(now, heard, &mut self.scratch, self.poll.registry(), &mut self.done);
            for completion in self.done.drain(..) {
                done(mux, n, completion);
            }
        }
    }
}

impl Index<usize> for Fleet {
    type Output = Mux;

    fn index(&self, n: usize) -> &Mux {
        &self.muxes[n]
    }
}

impl IndexMut<usize> for Fleet {
    fn index_mut(&mut self, n: usize) -> &mut Mux {
        &mut self.muxes[n]
    }
}
