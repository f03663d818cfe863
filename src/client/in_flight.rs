//! The requests in flight on a multiplexed connection: commands by session number, and queries.

use crate::api::{Consistency, Op, Request};
use crate::types::SessionId;
use bytes::Bytes;
use slab::Slab;
use std::collections::VecDeque;

/// A request to the state machine.
#[derive(Debug)]
enum Call {
    /// A command and its number in the session.
    Command(u64, Bytes),
    Query(Bytes, Consistency),
}

/// A request without a reply. Its key in the slab is its id on the wire.
#[derive(Debug)]
struct InFlightRequest {
    tag: u64,
    retries: u32,
    call: Call,
    /// Whether it was sent over the current connection and has no reply yet.
    is_sent: bool,
    /// Whether an attempt may be in a log.
    doubt: bool,
}

/// Requests in flight or to be sent again.
#[derive(Debug)]
pub struct InFlight {
    pending: Slab<InFlightRequest>,
    /// For each number from `lowest` on: whether it has a reply.
    numbers: VecDeque<bool>,
    lowest: u64,
}

impl InFlight {
    /// An empty set with room for that many.
    pub fn with_capacity(capacity: usize) -> InFlight {
        InFlight { pending: Slab::with_capacity(capacity), numbers: VecDeque::new(), lowest: 1 }
    }

    /// The number of requests in flight.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether no request is in flight.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether there is a request with that key.
    pub fn contains(&self, key: usize) -> bool {
        self.pending.contains(key)
    }

    /// How many numbers lie between the lowest outstanding one and the next.
    pub fn window(&self) -> usize {
        self.numbers.len()
    }

    /// Restarts the numbers at 1, for a new session.
    pub fn renumber(&mut self) {
        self.lowest = 1;
        self.numbers.clear();
    }

    /// Adds a command under the next number; returns its key.
    pub fn push_command(&mut self, tag: u64, command: Bytes) -> usize {
        let seq = self.lowest + self.numbers.len() as u64;
        self.numbers.push_back(false);
        self.push(tag, Call::Command(seq, command))
    }

    /// Adds a query; returns its key.
    pub fn push_query(&mut self, tag: u64, query: Bytes, consistency: Consistency) -> usize {
        self.push(tag, Call::Query(query, consistency))
    }

    fn push(&mut self, tag: u64, call: Call) -> usize {
        self.pending.insert(InFlightRequest { tag, retries: 0, call, is_sent: false, doubt: false })
    }

    /// The request to send for that key; `again` counts a retry.
    pub fn send(&mut self, key: usize, session: SessionId, again: bool) -> Option<Request> {
        let lowest = self.lowest;
        let pending = self.pending.get_mut(key)?;
        pending.retries += u32::from(again);
        pending.is_sent = true;
        Some(match &pending.call {
            Call::Command(seq, command) => Request::Propose {
                op: Op::Execute { session, seq: *seq, first_outstanding: lowest, command: command.clone() }.encode(),
            },
            Call::Query(query, consistency) => Request::Query { query: query.clone(), consistency: *consistency },
        })
    }

    /// Sorts those keys into the order in which commands were started: an ordered session executes no command out of
    /// order.
    pub fn in_order(&self, mut keys: Vec<usize>) -> Vec<usize> {
        keys.retain(|key| self.pending.contains(*key));
        keys.sort_by_key(|key| match self.pending[*key].call {
            Call::Command(seq, _) => seq,
            Call::Query(..) => 0,
        });
        keys
    }

    /// All keys, in that order.
    pub fn all(&self) -> Vec<usize> {
        self.in_order(self.pending.iter().map(|(key, _)| key).collect())
    }

    /// The keys of all commands.
    pub fn commands(&self) -> Vec<usize> {
        let commands = self.pending.iter().filter(|(_, pending)| matches!(pending.call, Call::Command(..)));
        commands.map(|(key, _)| key).collect()
    }

    /// Records a reply, which ends this attempt; `unknown` if its outcome is unknown. Returns whether this attempt or
    /// an earlier one may be in a log.
    pub fn answered(&mut self, key: usize, unknown: bool) -> bool {
        let pending = &mut self.pending[key];
        pending.is_sent = false;
        pending.doubt |= unknown;
        pending.doubt
    }

    /// The connection is lost: requests that were sent may be in a log.
    pub fn lost(&mut self) {
        for (_, pending) in &mut self.pending {
            pending.doubt |= std::mem::take(&mut pending.is_sent);
        }
    }

    /// Removes a request; returns its tag and its number of retries.
    pub fn finish(&mut self, key: usize) -> (u64, u32) {
        let InFlightRequest { tag, retries, call, .. } = self.pending.remove(key);
        if let Call::Command(seq, _) = call {
            self.numbers[(seq - self.lowest) as usize] = true;
            while self.numbers.front() == Some(&true) {
                self.numbers.pop_front();
                self.lowest += 1;
            }
        }
        (tag, retries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowest(request: Option<Request>) -> (u64, u64) {
        let Some(Request::Propose { op }) = request else { panic!("a command is expected: {request:?}") };
        let Ok(Op::Execute { seq, first_outstanding: lowest, .. }) = Op::decode(op) else {
            panic!("an Execute operation is expected")
        };
        (seq, lowest)
    }

    #[test]
    fn retries_keep_order_and_advance_first_outstanding() {
        let mut flight = InFlight::with_capacity(4);
        let keys: Vec<usize> = (0..3).map(|tag| flight.push_command(tag, Bytes::new())).collect();
        flight.finish(keys[0]);
        // The slab gives the first key to the fourth command.
        let fourth = flight.push_command(3, Bytes::new());
        assert_eq!(fourth, keys[0]);
        assert_eq!(flight.all(), [keys[1], keys[2], fourth]);
        assert_eq!(lowest(flight.send(fourth, SessionId(7), true)), (4, 2));
        flight.finish(keys[1]);
        assert_eq!(lowest(flight.send(fourth, SessionId(7), true)), (4, 3));
        assert_eq!(flight.finish(fourth), (3, 2));
    }

    #[test]
    fn outcome_is_unknown_after_a_lost_attempt_only() {
        let mut flight = InFlight::with_capacity(4);
        let key = flight.push_command(0, Bytes::new());
        flight.send(key, SessionId(7), false);
        assert!(!flight.answered(key, false));
        flight.lost();
        assert!(!flight.answered(key, false), "the last attempt was refused, and no other was sent");
        flight.send(key, SessionId(7), true);
        flight.lost();
        assert!(flight.answered(key, false));
    }
}
