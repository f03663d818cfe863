//! Simulated clients with connections, with the protocols of the product's own clients.

use super::checks;
use super::linked_client::LinkedClient;
use super::world::World;
use crate::types::Time;
use rand::RngExt;
use std::time::Duration;

/// An event for a client with connections.
enum ClientEvent<'a> {
    /// A wake-up is due.
    Wakeup,
    /// Bytes from a node arrived: the number of the connection, and the bytes.
    Bytes(u64, &'a [u8]),
    /// A connection has ended: the number of the connection.
    LinkEnd(u64),
}

impl World {
    /// Wakes a client, which then does what is due.
    pub(super) fn wake_linked_client(&mut self, client: u64) -> checks::Result<()> {
        self.drive_linked_client(client, ClientEvent::Wakeup)
    }

    /// Delivers a node's bytes to a client.
    pub(super) fn deliver_link_bytes(&mut self, client: u64, link: u64, bytes: &[u8]) -> checks::Result<()> {
        self.drive_linked_client(client, ClientEvent::Bytes(link, bytes))
    }

    /// Lets a client notice that a connection has ended.
    pub(super) fn deliver_link_end(&mut self, client: u64, link: u64) -> checks::Result<()> {
        self.drive_linked_client(client, ClientEvent::LinkEnd(link))
    }

    /// Delivers an event to a client, and lets the client do everything that is due after the event.
    fn drive_linked_client(&mut self, client: u64, event: ClientEvent<'_>) -> checks::Result<()> {
        // The client acts one nanosecond after the event: the history must show that a request caused by an answer
        // begins after that answer.
        self.now = Time(self.now.0 + 1);
        let Some(mut linked_client) = self.linked_clients.remove(&client) else { return Ok(()) };
        let outcome = match &mut linked_client {
            LinkedClient::Mux(mux) => {
                match event {
                    ClientEvent::Wakeup => {}
                    ClientEvent::Bytes(link, bytes) => mux.receive(self.now, link, bytes)?,
                    ClientEvent::LinkEnd(link) => mux.handle_link_end(self.now, link, self.rng.random()),
                }
                self.drive_mux_client(mux)
            }
            LinkedClient::Call(call) => {
                match event {
                    ClientEvent::Wakeup => call.wake(self.now),
                    ClientEvent::Bytes(link, bytes) => call.receive(self.now, link, bytes)?,
                    ClientEvent::LinkEnd(link) => call.handle_link_end(self.now, link),
                }
                self.drive_call_client(call)
            }
        };
        self.linked_clients.insert(client, linked_client);
        outcome
    }

    /// Schedules a wake-up of a client at least a microsecond from now, since the event that the client waits for may
    /// happen at the present moment.
    pub(super) fn schedule_linked_wakeup(&mut self, client: u64, when: Time) {
        self.schedule_wakeup(client, when.max(self.now + Duration::from_micros(1)));
    }
}
