//! Drives many multiplexed connections from one thread.

use super::mux::{Mux, Readiness};
use super::mux_protocol::{Completion, MuxOptions};
use mio::{Events, Poll, Token};
use std::io;
use std::ops::{Index, IndexMut};
use std::time::{Duration, Instant};

/// Many connections driven from one thread. The caller starts requests on any connection, then calls [`Fleet::poll`].
pub struct Fleet {
    poll: Poll,
    events: Events,
    muxes: Vec<Mux>,
    readiness: Vec<Readiness>,
    read_buffer: Vec<u8>,
    completions: Vec<Completion>,
}

impl Fleet {
    /// Creates `connections` connections to that cluster, each with its own session. The first call of [`Fleet::poll`]
    /// dials.
    pub fn new(endpoints: &[String], connections: usize, options: MuxOptions) -> io::Result<Fleet> {
        let new_mux = |n| Mux::new(endpoints.to_vec(), n, [Token(n), Token(connections + n)], options.clone());
        Ok(Fleet {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            muxes: (0..connections).map(new_mux).collect(),
            readiness: vec![Readiness::NoEvent; connections],
            read_buffer: vec![0; 128 << 10],
            completions: Vec::new(),
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

    /// Sends all requests started since the last call, waits up to `timeout` for replies, and passes each finished
    /// request to `on_completion`, with its connection and the index of the connection.
    pub fn poll(
        &mut self,
        timeout: Duration,
        mut on_completion: impl FnMut(&mut Mux, usize, Completion),
    ) -> io::Result<()> {
        self.drive_all(&mut on_completion);
        let now = Instant::now();
        let deadline = self.muxes.iter().filter_map(Mux::deadline).min();
        let timeout = deadline.map_or(timeout, |deadline| timeout.min(deadline.saturating_duration_since(now)));
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let is_closed = event.is_read_closed() || event.is_write_closed() || event.is_error();
            let event_readiness = match (is_closed, event.is_readable()) {
                (true, _) => Readiness::Closed,
                (false, true) => Readiness::Readable,
                (false, false) => Readiness::NoEvent,
            };
            // Higher tokens belong to leader queries, whose sockets are read in each call anyway.
            if let Some(readiness) = self.readiness.get_mut(event.token().0) {
                *readiness = event_readiness.max(*readiness);
            }
        }
        self.drive_all(&mut on_completion);
        Ok(())
    }

    fn drive_all(&mut self, on_completion: &mut impl FnMut(&mut Mux, usize, Completion)) {
        let now = Instant::now();
        for (n, mux) in self.muxes.iter_mut().enumerate() {
            let readiness = std::mem::take(&mut self.readiness[n]);
            mux.drive(now, readiness, &mut self.read_buffer, self.poll.registry(), &mut self.completions);
            for completion in self.completions.drain(..) {
                on_completion(mux, n, completion);
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
