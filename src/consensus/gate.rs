//! The durability gate: holds back messages until the state that they rely on is durable.
//!
//! The core does not wait for the disk, and the driver does not have to know which message depends on which write. The
//! gate holds each message with the number of a write, and releases it when the journal has reported that write
//! durable. Only `Replica::send_or_hold` holds messages, and only `Replica::handle_persisted` releases them.
//!
//! Votes, vote requests and promises of positions wait in the gate. Acknowledgments of entries do not wait: a follower
//! computes them from its durable index when it sends them, so that one message covers all completed writes. Heartbeats
//! wait only while a new term is not durable yet.

use super::message::{Envelope, Message};
use crate::types::{Term, WriteId};
use std::collections::VecDeque;

/// The maximum number of held messages. Further messages are dropped, as a network may drop any message, so that a
/// stalled disk does not fill the memory.
const HELD_MESSAGES_MAX: usize = 4096;

/// Messages that wait until a write is durable.
///
/// Invariant: a message that promises durable state is not sent before that state is durable.
///
/// Writes are numbered and become durable in order, so one number per message is enough.
#[derive(Clone, Debug, Default)]
pub struct DurabilityGate {
    /// The messages in the order of arrival, each with the write that must be durable first.
    held_messages: VecDeque<(WriteId, Envelope)>,
}

impl DurabilityGate {
    /// Holds a message until `write` is durable. Of the heartbeat responses to one leader only the latest is kept: its
    /// round confirms the earlier rounds too.
    pub fn hold(&mut self, write: WriteId, envelope: Envelope) {
        // A leader sends heartbeats while the disk stalls, and each is answered: otherwise the gate would fill with
        // heartbeat responses.
        let is_heartbeat_response = |message: &Message| matches!(message, Message::HeartbeatResponse { .. });
        if is_heartbeat_response(&envelope.message) {
            self.held_messages.retain(|(_, held)| held.to != envelope.to || !is_heartbeat_response(&held.message));
        }
        // A full gate drops the new message and not the oldest: the oldest may be the vote that an election waits for.
        if self.held_messages.len() < HELD_MESSAGES_MAX {
            self.held_messages.push_back((write, envelope));
        }
    }

    /// Moves the messages that wait for `durable` or an earlier write to `out`.
    ///
    /// All messages are checked, because their write numbers do not ascend: a message that relies only on the term may
    /// have a lower number than a message held before it.
    pub fn release(&mut self, durable: WriteId, out: &mut Vec<Envelope>) {
        for (write, envelope) in std::mem::take(&mut self.held_messages) {
            if write <= durable {
                out.push(envelope);
            } else {
                self.held_messages.push_back((write, envelope));
            }
        }
    }

    /// Drops the held messages of terms before `term`: their receivers would ignore them, and they would fill the gate
    /// while the disk is stalled.
    pub fn drop_messages_before_term(&mut self, term: Term) {
        self.held_messages.retain(|(_, envelope)| envelope.term >= term);
    }

    /// Panics if an invariant of the gate is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check_invariants(&self, durable: WriteId, term: Term) {
        assert!(self.held_messages.len() <= HELD_MESSAGES_MAX, "at most HELD_MESSAGES_MAX messages are held");
        // Messages are released only when the journal reports a write durable: a message that is held for a write which
        // is durable already might never be sent.
        debug_assert!(
            self.held_messages.iter().all(|(write, _)| *write > durable),
            "every held message waits for a write that is not durable yet"
        );
        // A vote released in a later term would be counted for another election (§5.2).
        debug_assert!(
            self.held_messages.iter().all(|(_, envelope)| envelope.term == term),
            "every held message is of the current term"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk_room::DiskRoom;
    use super::super::message::{Origin, Round};
    use super::*;
    use crate::types::{Index, NodeId};

    fn envelope(message: Message) -> Envelope {
        let id = |n| NodeId::new(n).expect("not zero");
        Envelope { from: id(1), to: id(2), term: Term(3), origin: Origin::default(), message }
    }

    #[test]
    fn gate_bounds_messages_held_for_a_stalled_disk() {
        let mut gate = DurabilityGate::default();
        let heartbeat_response = |round| {
            envelope(Message::HeartbeatResponse {
                round: Round(round),
                matched_prefix: Index(0),
                room: DiskRoom::AMPLE,
            })
        };
        let append_response = |matched| envelope(Message::AppendResponse { matched: Index(matched) });
        for n in 0..10_000 {
            gate.hold(WriteId(1), heartbeat_response(n));
        }
        let mut out = Vec::new();
        gate.release(WriteId(1), &mut out);
        assert_eq!(out, [heartbeat_response(9999)]);
        for n in 0..10_000 {
            gate.hold(WriteId(2 + n % 2), append_response(n));
        }
        out.clear();
        gate.release(WriteId(2), &mut out);
        assert_eq!((out.len(), gate.held_messages.len()), (HELD_MESSAGES_MAX / 2, HELD_MESSAGES_MAX / 2));
    }
}
