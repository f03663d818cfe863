//! Simulated clients over connections, with the protocols of the product's own clients.

use super::call_clients::CallClient;
use super::checks;
use super::mux_clients::MuxClient;
use super::workload::{Load, TaskClient};
use super::world::World;
use crate::types::{NodeId, Time};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::time::Duration;

/// Client numbers from here on are clients over connections.
pub const FIRST_LINKED: u64 = 1 << 20;

/// A client over connections.
pub enum LinkedClient {
    /// With several requests in progress, like `Mux`.
    Mux(MuxClient),
    /// With one request in progress, like `Client`.
    Call(CallClient),
}

impl LinkedClient {
    /// All such clients of a world, with their numbers.
    pub fn all(load: &Load, nodes: &[NodeId], rng: &mut SmallRng) -> Vec<(u64, LinkedClient)> {
        let endpoints: Vec<String> = nodes.iter().map(|id| format!("{id}:1")).collect();
        let mut all = Vec::new();
        for n in 0..load.muxes + load.callers {
            let (client, seed) = (FIRST_LINKED + n, rng.random());
            let asker = TaskClient::new(client, load.clone());
            let one = if n < load.muxes {
                LinkedClient::Mux(MuxClient::new(asker, endpoints.clone(), load.outstanding, seed))
            } else {
                LinkedClient::Call(CallClient::new(asker, endpoints.clone(), seed))
            };
            all.push((client, one));
        }
        all
    }

    fn asker(&self) -> &TaskClient {
        match self {
            LinkedClient::Mux(mux) => &mux.asker,
            LinkedClient::Call(call) => &call.asker,
        }
    }

    /// Whether it waits for no answers.
    pub fn is_done(&self) -> bool {
        self.asker().is_done()
    }

    /// It begins nothing new.
    pub fn stop(&mut self) {
        match self {
            LinkedClient::Mux(mux) => mux.asker.stopping = true,
            LinkedClient::Call(call) => call.asker.stopping = true,
        }
    }
}

/// An event for a client.
enum ClientEvent<'a> {
    /// A wake-up is due.
    Wakes,
    /// Bytes arrived on that connection.
    Receives(u64, &'a [u8]),
    /// That connection has ended.
    Loses(u64),
}

impl World {
    /// Wakes a client.
    pub(super) fn wakes_linked(&mut self, client: u64) -> checks::Result<()> {
        self.tell_linked(client, ClientEvent::Wakes)
    }

    /// A node's bytes reach a client.
    pub(super) fn client_receives(&mut self, client: u64, link: u64, bytes: &[u8]) -> checks::Result<()> {
        self.tell_linked(client, ClientEvent::Receives(link, bytes))
    }

    /// A client notices that a connection has ended.
    pub(super) fn client_loses(&mut self, client: u64, link: u64) -> checks::Result<()> {
        self.tell_linked(client, ClientEvent::Loses(link))
    }

    fn tell_linked(&mut self, client: u64, told: ClientEvent<'_>) -> checks::Result<()> {
        // A request that an answer causes begins after that answer.
        self.now = Time(self.now.0 + 1);
        let Some(mut one) = self.linked.remove(&client) else { return Ok(()) };
        let done = match &mut one {
            LinkedClient::Mux(mux) => {
                match told {
                    ClientEvent::Wakes => {}
                    ClientEvent::Receives(link, bytes) => mux.receives(self.now, link, bytes)?,
                    ClientEvent::Loses(link) => mux.loses(self.now, link, self.rng.random()),
                }
                self.drive_mux(mux)
            }
            LinkedClient::Call(call) => {
                match told {
                    ClientEvent::Wakes => call.wakes(self.now),
                    ClientEvent::Receives(link, bytes) => call.receives(self.now, link, bytes)?,
                    ClientEvent::Loses(link) => call.loses(self.now, link),
                }
                self.drive_call(call)
            }
        };
        self.linked.insert(client, one);
        done
    }

    /// Schedules a wake-up, at least a little later: an awaited event may happen at the same moment.
    pub(super) fn wake_linked(&mut self, client: u64, when: Time) {
        self.wake_at(client, when.max(self.now + Duration::from_micros(1)));
    }
}
