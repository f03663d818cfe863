//! Holds back what the disk has not yet earned.

use super::message::Envelope;
use crate::types::{Term, WriteId};
use std::collections::VecDeque;

/// Messages that wait for a write.
///
/// Invariant: nothing that promises durable state leaves before that state is durable.
///
/// Writes are numbered and the journal keeps their order, so one number says it all. Bounded by
/// what one term's election can say: a handful of messages a peer, dropped when the term moves on.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    held: VecDeque<(WriteId, Envelope)>,
}

impl Gate {
    /// Keeps a message until that write is durable.
    pub fn hold(&mut self, after: WriteId, envelope: Envelope) {
        self.held.push_back((after, envelope));
    }

    /// Lets out what needed no more than this.
    pub fn open(&mut self, durable: WriteId, out: &mut Vec<Envelope>) {
        let mut i = 0;
        while i < self.held.len() {
            if self.held[i].0 <= durable {
                let (_, envelope) = self.held.remove(i).expect("the index is within");
                out.push(envelope);
            } else {
                i += 1;
            }
        }
    }

    /// The term has moved on: what speaks for an earlier one is of no use to anyone.
    pub fn forget_before(&mut self, term: Term) {
        self.held.retain(|(_, envelope)| envelope.term >= term);
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
