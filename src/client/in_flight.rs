//! The requests in flight on a multiplexed connection: commands by session number, and queries.

use crate::api::{Consistency, Op, Request};
use crate::types::SessionId;
use bytes::Bytes;
use slab::Slab;
use std::collections::VecDeque;

/// A command or query to the state machine.
#[derive(Debug)]
enum RequestBody {
    /// A command, after its sequence number in the session.
    Command(u64, Bytes),
    Query(Bytes, Consistency),
}

/// A request that has no final reply yet. Its key in the slab is its id on the wire.
#[derive(Debug)]
struct InFlightRequest {
    /// The number that the caller gave the request.
    tag: u64,
    /// How often the request was sent again.
    retries: u32,
    body: RequestBody,
    /// Whether the request was sent over the current connection and has no reply yet.
    is_sent: bool,
    /// Whether an earlier attempt may be in a log, so that the request may be executed.
    may_be_in_log: bool,
}

/// The requests of one connection that are in flight or to be sent again.
#[derive(Debug)]
pub struct InFlightRequests {
    requests: Slab<InFlightRequest>,
    /// For each command number from `first_outstanding` on: whether the command has finished.
    finished_flags: VecDeque<bool>,
    /// The lowest number of a command that has not finished.
    first_outstanding: u64,
}

impl InFlightRequests {
    /// An empty set with memory for `capacity` requests.
    pub fn with_capacity(capacity: usize) -> InFlightRequests {
        InFlightRequests {
            requests: Slab::with_capacity(capacity),
            finished_flags: VecDeque::new(),
            first_outstanding: 1,
        }
    }

    /// The number of requests in flight.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether no request is in flight.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether a request with that key is in flight.
    pub fn contains(&self, key: usize) -> bool {
        self.requests.contains(key)
    }

    /// The number of commands from the first outstanding one to the newest, finished or not. The window of the session
    /// limits this number.
    pub fn window_len(&self) -> usize {
        self.finished_flags.len()
    }

    /// Restarts the sequence numbers of commands at 1, for a new session.
    pub fn restart_numbering(&mut self) {
        self.first_outstanding = 1;
        self.finished_flags.clear();
    }

    /// Adds a command under the next number; returns its key.
    pub fn push_command(&mut self, tag: u64, command: Bytes) -> usize {
        let seq = self.first_outstanding + self.finished_flags.len() as u64;
        self.finished_flags.push_back(false);
        self.push(tag, RequestBody::Command(seq, command))
    }

    /// Adds a query; returns its key.
    pub fn push_query(&mut self, tag: u64, query: Bytes, consistency: Consistency) -> usize {
        self.push(tag, RequestBody::Query(query, consistency))
    }

    fn push(&mut self, tag: u64, body: RequestBody) -> usize {
        self.requests.insert(InFlightRequest { tag, retries: 0, body, is_sent: false, may_be_in_log: false })
    }

    /// Marks the request with that key as sent, and returns the request to send; `None` if the request has finished.
    /// `is_retry` adds one to its count of retries.
    pub fn mark_sent(&mut self, key: usize, session: SessionId, is_retry: bool) -> Option<Request> {
        let first_outstanding = self.first_outstanding;
        let request = self.requests.get_mut(key)?;
        request.retries += u32::from(is_retry);
        request.is_sent = true;
        Some(match &request.body {
            RequestBody::Command(seq, command) => Request::Propose {
                op: Op::Execute { session, seq: *seq, first_outstanding, command: command.clone() }.encode(),
            },
            RequestBody::Query(query, consistency) => {
                Request::Query { query: query.clone(), consistency: *consistency }
            }
        })
    }

    /// Sorts keys into the order in which their commands were started, queries first: an ordered session executes no
    /// command out of order. Keys of finished requests are removed.
    pub fn in_order(&self, mut keys: Vec<usize>) -> Vec<usize> {
        keys.retain(|key| self.requests.contains(*key));
        keys.sort_by_key(|key| match self.requests[*key].body {
            RequestBody::Command(seq, _) => seq,
            RequestBody::Query(..) => 0,
        });
        keys
    }

    /// The keys of all requests, in the order of [`InFlightRequests::in_order`].
    pub fn all_in_order(&self) -> Vec<usize> {
        self.in_order(self.requests.iter().map(|(key, _)| key).collect())
    }

    /// The keys of all commands in flight, in ascending order.
    pub fn command_keys(&self) -> Vec<usize> {
        let commands = self.requests.iter().filter(|(_, request)| matches!(request.body, RequestBody::Command(..)));
        commands.map(|(key, _)| key).collect()
    }

    /// Records a reply, which ends this attempt; `is_unknown` if the reply leaves the outcome open. Returns whether
    /// this attempt or an earlier one may be in a log.
    pub fn record_reply(&mut self, key: usize, is_unknown: bool) -> bool {
        let request = &mut self.requests[key];
        request.is_sent = false;
        request.may_be_in_log |= is_unknown;
        request.may_be_in_log
    }

    /// Records that the connection was lost: requests that were sent may be in a log.
    pub fn record_lost_connection(&mut self) {
        for (_, request) in &mut self.requests {
            request.may_be_in_log |= std::mem::take(&mut request.is_sent);
        }
    }

    /// Removes a finished request. Returns its tag and its number of retries.
    pub fn finish(&mut self, key: usize) -> (u64, u32) {
        let InFlightRequest { tag, retries, body, .. } = self.requests.remove(key);
        if let RequestBody::Command(seq, _) = body {
            self.finished_flags[(seq - self.first_outstanding) as usize] = true;
            while self.finished_flags.front() == Some(&true) {
                self.finished_flags.pop_front();
                self.first_outstanding += 1;
            }
        }
        (tag, retries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq_and_first_outstanding(request: Option<Request>) -> (u64, u64) {
        let Some(Request::Propose { op }) = request else { panic!("a command is expected: {request:?}") };
        let Ok(Op::Execute { seq, first_outstanding, .. }) = Op::decode(op) else {
            panic!("an Execute operation is expected")
        };
        (seq, first_outstanding)
    }

    #[test]
    fn retries_keep_order_and_advance_first_outstanding() {
        let mut in_flight = InFlightRequests::with_capacity(4);
        let keys: Vec<usize> = (0..3).map(|tag| in_flight.push_command(tag, Bytes::new())).collect();
        in_flight.finish(keys[0]);
        // The slab reuses the key of the finished first command for the fourth.
        let fourth_key = in_flight.push_command(3, Bytes::new());
        assert_eq!(fourth_key, keys[0]);
        assert_eq!(in_flight.all_in_order(), [keys[1], keys[2], fourth_key]);
        assert_eq!(seq_and_first_outstanding(in_flight.mark_sent(fourth_key, SessionId(7), true)), (4, 2));
        in_flight.finish(keys[1]);
        assert_eq!(seq_and_first_outstanding(in_flight.mark_sent(fourth_key, SessionId(7), true)), (4, 3));
        assert_eq!(in_flight.finish(fourth_key), (3, 2));
    }

    #[test]
    fn outcome_is_unknown_after_a_lost_attempt_only() {
        let mut in_flight = InFlightRequests::with_capacity(4);
        let key = in_flight.push_command(0, Bytes::new());
        in_flight.mark_sent(key, SessionId(7), false);
        assert!(!in_flight.record_reply(key, false));
        in_flight.record_lost_connection();
        assert!(!in_flight.record_reply(key, false), "the last attempt was refused, and no other was sent");
        in_flight.mark_sent(key, SessionId(7), true);
        in_flight.record_lost_connection();
        assert!(in_flight.record_reply(key, false));
    }
}
