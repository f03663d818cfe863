//! The clients without connections: the network delivers each of their requests and replies separately, after a delay.

use super::checks;
use super::clients::RequestAttempt;
use super::event::SimEvent;
use super::linked_client::FIRST_LINKED_CLIENT;
use super::operator::OPERATOR_CLIENT;
use super::upgrades::UPGRADE_CLIENT;
use super::world::World;
use crate::node::{Caller, Event};
use crate::types::{NodeId, Time};
use crate::wire::client::{put_request_frame, read_reply_frame, read_request_frame};
use crate::wire::frame::{Frame, FrameReader};
use bytes::{Bytes, BytesMut};

impl World {
    /// Delivers a client's request to a node.
    pub(super) fn receive_request(&mut self, to: NodeId, client: u64, bytes: Bytes) -> checks::Result<()> {
        let frame = read_request_frame(decode_frame(bytes)?)
            .map_err(|error| format!("the request frame of a client cannot be decoded: {error}"))?;
        let from = Caller::Client(client);
        self.deliver_event(to, Event::Request { from, id: frame.id, forward: frame.forward, request: frame.request })
    }

    /// Delivers a node's reply to a client, or to the operator.
    pub(super) fn receive_reply(&mut self, client: u64, bytes: Bytes) -> checks::Result<()> {
        let (id, reply) = read_reply_frame(decode_frame(bytes)?)
            .map_err(|error| format!("the reply frame of a node cannot be decoded: {error}"))?;
        if client == UPGRADE_CLIENT {
            return Ok(());
        }
        if client == OPERATOR_CLIENT {
            return self.answer_operator(id, reply);
        }
        let client_state = self.clients.get_mut(&client).expect("a reply goes to a client that exists");
        self.now = Time(self.now.0 + 1);
        client_state.receive(self.now, id, reply, &mut self.rng, &mut self.history)?;
        self.wake_client(client)
    }

    /// Lets a client send the requests that are due, and schedules the client's next wake-up.
    pub(super) fn wake_client(&mut self, client: u64) -> checks::Result<()> {
        if client >= FIRST_LINKED_CLIENT {
            return self.wake_linked_client(client);
        }
        let now = self.now;
        let client_state = self.clients.get_mut(&client).expect("a wake-up is for a client that exists");
        let due_at = client_state.deadline();
        let attempts =
            if due_at <= now { client_state.wake(now, &mut self.rng, &mut self.history) } else { Vec::new() };
        let deadline = client_state.deadline();
        if deadline != Time::NEVER {
            // The wake-up is at least a microsecond away, since the reply that the client waits for may arrive at the
            // same moment.
            self.schedule_wakeup(client, deadline.max(Time(now.0 + 1000)));
        }
        attempts.into_iter().for_each(|attempt| self.send_request(client, attempt));
        Ok(())
    }

    /// Sends a client's request. It arrives after a network delay, and is never lost.
    pub(super) fn send_request(&mut self, client: u64, attempt: RequestAttempt) {
        let RequestAttempt { to, id, forward, request } = attempt;
        let mut bytes = BytesMut::new();
        put_request_frame(&mut bytes, id, forward, &request);
        let delay = self.network.delay(&mut self.rng);
        self.schedule_after(delay, SimEvent::ClientRequest { to, client, bytes: bytes.freeze() });
    }

    /// Schedules a wake-up of a client at `when`, unless an earlier one is scheduled.
    pub(super) fn schedule_wakeup(&mut self, client: u64, when: Time) {
        if when != Time::NEVER && self.wakeups.get(&client).is_none_or(|wake| when < *wake) {
            self.wakeups.insert(client, when);
            self.schedule_at(when, SimEvent::ClientWakeup { client, when });
        }
    }
}

/// Decodes bytes that must be exactly one frame.
fn decode_frame(bytes: Bytes) -> checks::Result<Frame> {
    let frame = FrameReader::default().next(&mut BytesMut::from(bytes)).map_err(|error| error.to_string())?;
    frame.ok_or_else(|| "the bytes between a client and a node are an incomplete frame".to_owned())
}
