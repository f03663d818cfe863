//! The clients' requests and replies on their way through the simulated world.

use super::checks;
use super::clients::Asking;
use super::event::SimEvent;
use super::linked_client::FIRST_LINKED;
use super::operator::OPERATOR;
use super::world::World;
use crate::node::{Caller, Event};
use crate::types::{NodeId, Time};
use crate::wire::client::{put_request_frame, read_reply_frame, read_request_frame};
use crate::wire::frame::{Frame, FrameReader};
use bytes::{Bytes, BytesMut};

impl World {
    pub(super) fn receive_request(&mut self, to: NodeId, client: u64, bytes: Bytes) -> checks::Result<()> {
        let numbered = read_request_frame(whole(bytes)?).map_err(|error| format!("a request: {error}"))?;
        let from = Caller::Client(client);
        self.handle(to, Event::Request { from, id: numbered.id, forward: numbered.forward, request: numbered.request })
    }

    pub(super) fn receive_reply(&mut self, client: u64, bytes: Bytes) -> checks::Result<()> {
        let (id, reply) = read_reply_frame(whole(bytes)?).map_err(|error| format!("a reply: {error}"))?;
        if client == OPERATOR {
            return self.answer_operator(id, reply);
        }
        let who = self.clients.get_mut(&client).expect("replies go to clients");
        self.now = Time(self.now.0 + 1);
        who.receive(self.now, id, reply, &mut self.rng, &mut self.history)?;
        self.wakes(client)
    }

    pub(super) fn wakes(&mut self, client: u64) -> checks::Result<()> {
        if client >= FIRST_LINKED {
            return self.wakes_linked(client);
        }
        let now = self.now;
        let who = self.clients.get_mut(&client).expect("only clients are woken");
        let before = who.deadline();
        let asking = if before <= now { who.wake(now, &mut self.rng, &mut self.history) } else { Vec::new() };
        let deadline = who.deadline();
        if deadline != Time::NEVER {
            // At least a little later: an awaited reply may arrive at the same moment.
            self.wake_at(client, deadline.max(Time(now.0 + 1000)));
        }
        asking.into_iter().for_each(|asking| self.send_request(client, asking));
        Ok(())
    }

    /// Sends a client's request.
    pub(super) fn send_request(&mut self, client: u64, asking: Asking) {
        let Asking { to, id, forward, request } = asking;
        let mut bytes = BytesMut::new();
        put_request_frame(&mut bytes, id, forward, &request);
        let delay = self.network.delay(&mut self.rng);
        self.later(delay, SimEvent::Asked { to, client, bytes: bytes.freeze() });
    }

    pub(super) fn wake_at(&mut self, client: u64, when: Time) {
        if when != Time::NEVER && self.wakes.get(&client).is_none_or(|wake| when < *wake) {
            self.wakes.insert(client, when);
            self.at(when, SimEvent::Wakes { client, when });
        }
    }
}

/// Decodes bytes that must be exactly one frame.
fn whole(bytes: Bytes) -> checks::Result<Frame> {
    let frame = FrameReader::default().next(&mut BytesMut::from(bytes)).map_err(|error| error.to_string())?;
    frame.ok_or_else(|| "an incomplete frame between client and node".to_owned())
}
