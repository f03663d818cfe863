//! Holds back messages until the disk state that they rely on is durable.
//!
//! The core does not wait for the disk and the driver does not have to know which message depends on which bytes: a
//! message comes in with the number of a write, and leaves when the journal has reported that number. `Replica::post`
//! is the only one to put messages in, and `Replica::persisted` the only one to let them out.
//!
//! What waits here is a vote, a vote request and a promise. Acknowledgments of entries do not: a follower computes them
//! from its durable index when it sends them, so that one message covers all writes that have completed by then.
//! Neither do heartbeats, except while a new term is not durable yet.

use super::message::{Envelope, Message};
use crate::types::{Term, WriteId};
use std::collections::VecDeque;

/// The most messages that wait. A disk that stalls must not fill the memory: further messages are dropped, as a network
/// may drop any message.
const HELD_MAX: usize = 4096;

/// Messages that wait for a write.
///
/// Invariant: no message that promises durable state leaves before that state is durable.
///
/// Writes are numbered and the journal keeps their order, so one number is enough.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    held: VecDeque<(WriteId, Envelope)>,
}

impl Gate {
    /// Holds a message until that write is durable. Of the responses to a leader's heartbeats only the latest is kept:
    /// it covers the earlier ones.
    pub fn hold(&mut self, after: WriteId, envelope: Envelope) {
        // A leader sends heartbeats for as long as the disk stalls, and each is answered: without this the gate would
        // hold nothing else.
        let heard = |message: &Message| matches!(message, Message::HeartbeatResponse { .. });
        if heard(&envelope.message) {
            self.held.retain(|(_, before)| before.to != envelope.to || !heard(&before.message));
        }
        // The latest message is dropped and not the oldest: the oldest is the vote that an election waits for.
        if self.held.len() < HELD_MAX {
            self.held.push_back((after, envelope));
        }
    }

    /// Releases the messages that wait for this write or an earlier one.
    ///
    /// All are looked at, because the numbers do not ascend: a message that needs the term only is held by a smaller
    /// number than a promise before it.
    pub fn open(&mut self, durable: WriteId, out: &mut Vec<Envelope>) {
        for (after, envelope) in std::mem::take(&mut self.held) {
            if after <= durable {
                out.push(envelope);
            } else {
                self.held.push_back((after, envelope));
            }
        }
    }

    /// Drops messages of earlier terms: they are of no use.
    ///
    /// A vote of an earlier term would be dropped by its receiver, but it would still have to wait, and to fill the
    /// gate, for a disk that may be stalled.
    pub fn forget_before(&mut self, term: Term) {
        self.held.retain(|(_, envelope)| envelope.term >= term);
    }

    /// Panics if an invariant of the gate is violated. Called after every step ([`super::invariants`]).
    pub(super) fn check(&self, durable: WriteId, term: Term) {
        assert!(self.held.len() <= HELD_MAX, "a stalled disk does not fill the memory with messages");
        // Nothing but the next report of the journal opens the gate: a message left behind might never leave.
        debug_assert!(self.held.iter().all(|(after, _)| *after > durable), "no message waits for a durable write");
        // A vote released in a later term would be counted for another election (§5.2).
        debug_assert!(self.held.iter().all(|(_, envelope)| envelope.term == term), "only this term's messages wait");
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Origin, Round};
    use super::super::room::Room;
    use super::*;
    use crate::types::{Index, NodeId};

    fn envelope(message: Message) -> Envelope {
        let id = |n| NodeId::new(n).expect("not zero");
        Envelope { from: id(1), to: id(2), term: Term(3), origin: Origin::default(), message }
    }

    #[test]
    fn stalled_disk_does_not_fill_memory_with_messages() {
        let mut gate = Gate::default();
        let heard =
            |round| envelope(Message::HeartbeatResponse { round: Round(round), seen: Index(0), room: Room::AMPLE });
        let appended = |matched| envelope(Message::AppendResponse { matched: Index(matched) });
        for n in 0..10_000 {
            gate.hold(WriteId(1), heard(n));
        }
        let mut out = Vec::new();
        gate.open(WriteId(1), &mut out);
        assert_eq!(out, [heard(9999)]);
        for n in 0..10_000 {
            gate.hold(WriteId(2 + n % 2), appended(n));
        }
        out.clear();
        gate.open(WriteId(2), &mut out);
        assert_eq!((out.len(), gate.held.len()), (HELD_MAX / 2, HELD_MAX / 2));
    }
}
