//! Holds back what the disk has not yet earned.

use super::message::{Envelope, Message};
use crate::types::{Term, WriteId};
use std::collections::VecDeque;

/// How many messages wait at most. A disk that stands still must not fill the memory: what is beyond
/// it is dropped, as a network may drop anything.
const HELD_MAX: usize = 4096;

/// Messages that wait for a write.
///
/// Invariant: nothing that promises durable state leaves before that state is durable.
///
/// Writes are numbered and the journal keeps their order, so one number says it all.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    held: VecDeque<(WriteId, Envelope)>,
}

impl Gate {
    /// Keeps a message until that write is durable. Of the answers to a leader's beats only the latest
    /// is kept: it says what the others said.
    pub fn hold(&mut self, after: WriteId, envelope: Envelope) {
        let heard = |message: &Message| matches!(message, Message::HeartbeatResponse { .. });
        if heard(&envelope.message) {
            self.held.retain(|(_, before)| before.to != envelope.to || !heard(&before.message));
        }
        if self.held.len() < HELD_MAX {
            self.held.push_back((after, envelope));
        }
    }

    /// Lets out what needed no more than this.
    pub fn open(&mut self, durable: WriteId, out: &mut Vec<Envelope>) {
        for (after, envelope) in std::mem::take(&mut self.held) {
            if after <= durable {
                out.push(envelope);
            } else {
                self.held.push_back((after, envelope));
            }
        }
    }

    /// The term has moved on: what speaks for an earlier one is of no use to anyone.
    pub fn forget_before(&mut self, term: Term) {
        self.held.retain(|(_, envelope)| envelope.term >= term);
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Origin, Round};
    use super::super::room::Room;
    use super::*;
    use crate::types::{Index, NodeId};

    fn envelope(message: Message) -> Envelope {
        let id = |n| NodeId::new(n).expect("not nobody");
        Envelope { from: id(1), to: id(2), term: Term(3), origin: Origin::default(), message }
    }

    #[test]
    fn a_disk_that_stands_still_does_not_fill_the_memory() {
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
