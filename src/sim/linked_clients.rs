//! Simulated clients over connections, with the protocols of the product's own clients.

use super::checks;
use super::linked_client::LinkedClient;
use super::world::World;
use crate::types::Time;
use rand::RngExt;
use std::time::Duration;

enum ClientEvent<'a> {
    /// A wake-up is due.
    Wakes,
    /// Bytes arrived on that connection.
    Receives(u64, &'a [u8]),
    /// That connection has ended.
    Loses(u64),
}

impl World {
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
