//! Reads on a follower: the leader provides the read index, and the follower serves the read.
//!
//! ```text
//! client ──> follower: read          leader
//!            push, next_request ───> ReadIndexRequest 71: joins its next round of heartbeats
//!            <────────────────────── ReadIndexResponse 71, index 41: a quorum confirmed the leader
//!            serve the read once entry 41 is applied
//! ```
//!
//! The answer serves all reads that arrived before the request was sent, however late the answer arrives. A leader that
//! was deposed meanwhile gets no quorum for its round, and never answers.

use super::reads::ReadId;
use crate::types::{Index, NodeId, Term, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// Linearizable reads that wait for the leader's read index (thesis §6.4): one round trip, and no log entry.
///
/// All reads that arrive between two requests share the next request. Request numbers are never used twice, not even
/// after a restart, so that a late answer matches no request. The unanswered requests to a leader fail when its
/// leadership ends.
#[derive(Clone, Debug)]
pub struct FollowerReads {
    /// The number of the last request. The first number is random, so that no answer to a request of an earlier process
    /// of this node matches a request of this process.
    last_request_number: u64,
    /// The leader that receives all requests, and its term.
    leader: Option<(NodeId, Term)>,
    unsent_reads: Vec<ReadId>,
    /// The number, time of sending and reads of each unanswered request, in ascending order of the numbers.
    requests_in_flight: VecDeque<(u64, Time, Vec<ReadId>)>,
}

impl FollowerReads {
    /// Creates an empty queue whose first request has the number after `number`.
    pub fn with_last_request_number(number: u64) -> FollowerReads {
        FollowerReads {
            last_request_number: number,
            leader: None,
            unsent_reads: Vec::new(),
            requests_in_flight: VecDeque::new(),
        }
    }

    /// The number of reads whose request is unsent or unanswered.
    pub fn waiting_count(&self) -> usize {
        self.unsent_reads.len() + self.requests_in_flight.iter().map(|(_, _, reads)| reads.len()).sum::<usize>()
    }

    /// Adds a read to the next request.
    pub fn push(&mut self, read: ReadId) {
        self.unsent_reads.push(read);
    }

    /// Sets the leader to send requests to. Reads that wait for another leader, or of another term, move to `lost`.
    ///
    /// The reads fail and are not sent again: the driver knows whether the client still waits, and may prefer to
    /// redirect it.
    pub fn follow_leader(&mut self, leader: Option<(NodeId, Term)>, lost: &mut Vec<ReadId>) {
        if self.leader != leader {
            self.leader = leader;
            lost.append(&mut self.unsent_reads);
            lost.extend(self.requests_in_flight.drain(..).flat_map(|(_, _, reads)| reads));
        }
    }

    /// Creates a request for the unsent reads. Returns the leader to which the request is sent, and the number of the
    /// request; `None` if there are no unsent reads or no leader.
    pub fn next_request(&mut self, now: Time) -> Option<(NodeId, u64)> {
        let (leader, _) = self.leader?;
        if self.unsent_reads.is_empty() {
            return None;
        }
        // The number may wrap around, because it starts at random. A process sends far too few requests to use a number
        // twice.
        self.last_request_number = self.last_request_number.wrapping_add(1);
        self.requests_in_flight.push_back((self.last_request_number, now, std::mem::take(&mut self.unsent_reads)));
        Some((leader, self.last_request_number))
    }

    /// Moves the answered reads to `out`, each with its read index. The answer also serves the reads of earlier
    /// requests.
    pub fn handle_response(&mut self, from: NodeId, number: u64, index: Index, out: &mut Vec<(ReadId, Index)>) {
        if self.leader.is_none_or(|(leader, _)| leader != from) {
            return;
        }
        let Some(position) = self.requests_in_flight.iter().position(|(sent, ..)| *sent == number) else { return };
        let reads = self.requests_in_flight.drain(..=position).flat_map(|(_, _, reads)| reads);
        out.extend(reads.map(|read| (read, index)));
    }

    /// When the oldest unanswered request times out; [`Time::NEVER`] if every request is answered.
    pub fn deadline(&self, timeout: Duration) -> Time {
        self.requests_in_flight.front().map_or(Time::NEVER, |(_, sent_at, _)| *sent_at + timeout)
    }

    /// Moves the reads of requests older than `timeout` to `lost`.
    ///
    /// Neither node sends a request or an answer twice. If a request or its answer is lost, the reads fail here, and
    /// their clients receive an error after which they may retry.
    pub fn fail_overdue_reads(&mut self, now: Time, timeout: Duration, lost: &mut Vec<ReadId>) {
        while let Some((.., reads)) =
            self.requests_in_flight.pop_front_if(|(_, sent_at, _)| now.since(*sent_at) >= timeout)
        {
            lost.extend(reads);
        }
    }

    /// Panics if an invariant of the requests is violated. Called after every step ([`super::raft`]).
    pub(super) fn check_invariants(&self) {
        // The answer of an earlier leader proves nothing about entries that a later leader has committed.
        assert!(
            self.requests_in_flight.is_empty() || self.leader.is_some(),
            "requests are in flight only while a leader is known"
        );
        let newest_number = self.requests_in_flight.back().map(|(number, ..)| *number);
        assert!(
            newest_number.is_none_or(|number| number == self.last_request_number),
            "the newest request in flight has the last request number"
        );
        debug_assert!(
            self.requests_in_flight.iter().all(|(.., reads)| !reads.is_empty()),
            "every request in flight has a read"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[test]
    fn only_a_response_with_a_matching_number_confirms_reads() {
        let mut reads = FollowerReads::with_last_request_number(70);
        let (mut lost, mut out) = (Vec::new(), Vec::new());
        reads.push(ReadId(1));
        assert_eq!(reads.next_request(Time(0)), None, "no request is sent without a leader");
        reads.follow_leader(Some((id(2), Term(3))), &mut lost);
        assert_eq!(std::mem::take(&mut lost), [ReadId(1)], "a read without a leader is lost");
        reads.push(ReadId(2));
        assert_eq!(reads.next_request(Time(0)), Some((id(2), 71)));
        reads.push(ReadId(3));
        assert_eq!(reads.next_request(Time(5)), Some((id(2), 72)));
        reads.handle_response(id(9), 72, Index(4), &mut out);
        reads.handle_response(id(2), 70, Index(4), &mut out);
        assert_eq!(out, []);
        reads.handle_response(id(2), 72, Index(4), &mut out);
        assert_eq!(out, [(ReadId(2), Index(4)), (ReadId(3), Index(4))]);
        reads.push(ReadId(4));
        assert_eq!(reads.next_request(Time(10)), Some((id(2), 73)));
        assert_eq!(reads.deadline(Duration::from_nanos(90)), Time(100));
        reads.fail_overdue_reads(Time(99), Duration::from_nanos(90), &mut lost);
        assert_eq!(lost, []);
        reads.fail_overdue_reads(Time(100), Duration::from_nanos(90), &mut lost);
        assert_eq!((lost, reads.waiting_count()), (vec![ReadId(4)], 0));
    }
}
