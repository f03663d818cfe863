//! Reads on a follower: the leader provides the read index, and the follower serves the read.
//!
//! ```text
//! client ──> follower: read          leader
//!            push, ask 71 ─────────> ReadIndexRequest 71: joins its next round of heartbeats
//!            <────────────────────── ReadIndexResponse 71, index 41: a quorum has confirmed it
//!            serve the read once entry 41 is applied
//! ```
//!
//! The answer is good for all reads that arrived before the request was sent, however late it comes. A leader that was
//! deposed meanwhile gets no quorum for its round, and never answers.

use super::reads::ReadId;
use crate::types::{Index, NodeId, Term, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// Linearizable reads that wait for the leader's read index (thesis §6.4): one round trip, and no log entry.
///
/// All reads gathered between two requests share a request. Request numbers are never used twice, not even after a
/// restart, so that a late answer matches no request. The requests of one leadership fail when it ends.
#[derive(Clone, Debug)]
pub struct FollowerReads {
    // It starts at random, as a restarted process must not take an answer to the last one for its own.
    given: u64,
    of: Option<(NodeId, Term)>,
    gathering: Vec<ReadId>,
    asked: VecDeque<(u64, Time, Vec<ReadId>)>,
}

impl FollowerReads {
    /// Without reads; the first request has the number after `number`.
    pub fn after(number: u64) -> FollowerReads {
        FollowerReads { given: number, of: None, gathering: Vec::new(), asked: VecDeque::new() }
    }

    /// The number of waiting reads.
    pub fn waiting(&self) -> usize {
        self.gathering.len() + self.asked.iter().map(|(_, _, reads)| reads.len()).sum::<usize>()
    }

    /// Adds a read to the next request.
    pub fn push(&mut self, read: ReadId) {
        self.gathering.push(read);
    }

    /// Follows that leader, or none: requests to another leader fail.
    ///
    /// They fail and are not sent again: the driver knows whether the client still waits, and may prefer to redirect
    /// it.
    pub fn follow(&mut self, of: Option<(NodeId, Term)>, lost: &mut Vec<ReadId>) {
        if self.of != of {
            self.of = of;
            lost.append(&mut self.gathering);
            lost.extend(self.asked.drain(..).flat_map(|(_, _, reads)| reads));
        }
    }

    /// Creates the request for the gathered reads. Returns its receiver and number.
    pub fn ask(&mut self, now: Time) -> Option<(NodeId, u64)> {
        let (leader, _) = self.of?;
        if self.gathering.is_empty() {
            return None;
        }
        // It may wrap, because it starts anywhere. Two equal numbers are then still apart by more requests than a
        // process lives to send.
        self.given = self.given.wrapping_add(1);
        self.asked.push_back((self.given, now, std::mem::take(&mut self.gathering)));
        Some((leader, self.given))
    }

    /// Handles the leader's answer. It answers earlier requests too, because they were sent before.
    pub fn answered(&mut self, from: NodeId, number: u64, index: Index, out: &mut Vec<(ReadId, Index)>) {
        if self.of.is_none_or(|(leader, _)| leader != from) {
            return;
        }
        let Some(at) = self.asked.iter().position(|(asked, ..)| *asked == number) else { return };
        let reads = self.asked.drain(..=at).flat_map(|(_, _, reads)| reads);
        out.extend(reads.map(|read| (read, index)));
    }

    /// When the oldest request, or its answer, counts as lost.
    pub fn deadline(&self, patience: Duration) -> Time {
        self.asked.front().map_or(Time::NEVER, |(_, asked, _)| *asked + patience)
    }

    /// Moves the reads of requests older than `patience` to `lost`.
    ///
    /// Neither side repeats a message. A lost request is noticed here, and the client gets an error that it may retry.
    pub fn overdue(&mut self, now: Time, patience: Duration, lost: &mut Vec<ReadId>) {
        while let Some((.., reads)) = self.asked.pop_front_if(|(_, asked, _)| now.since(*asked) >= patience) {
            lost.extend(reads);
        }
    }

    /// Panics if an invariant of the requests is violated. Called after every step ([`super::raft`]).
    pub(super) fn check(&self) {
        // The answer of an earlier leader proves nothing about the entries that a later one has committed.
        assert!(self.asked.is_empty() || self.of.is_some(), "every request is to the leader of this term");
        let latest = self.asked.back().map(|(number, ..)| *number);
        assert!(latest.is_none_or(|number| number == self.given), "the number of a request is never used again");
        debug_assert!(self.asked.iter().all(|(.., reads)| !reads.is_empty()), "a request has reads");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::new(n).unwrap()
    }

    #[test]
    fn read_index_accepts_only_the_matching_response() {
        let mut inquiries = FollowerReads::after(70);
        let (mut lost, mut out) = (Vec::new(), Vec::new());
        inquiries.push(ReadId(1));
        assert_eq!(inquiries.ask(Time(0)), None, "no leader to ask");
        inquiries.follow(Some((id(2), Term(3))), &mut lost);
        assert_eq!(std::mem::take(&mut lost), [ReadId(1)], "a read without a leader is lost");
        inquiries.push(ReadId(2));
        assert_eq!(inquiries.ask(Time(0)), Some((id(2), 71)));
        inquiries.push(ReadId(3));
        assert_eq!(inquiries.ask(Time(5)), Some((id(2), 72)));
        inquiries.answered(id(9), 72, Index(4), &mut out);
        inquiries.answered(id(2), 70, Index(4), &mut out);
        assert_eq!(out, []);
        inquiries.answered(id(2), 72, Index(4), &mut out);
        assert_eq!(out, [(ReadId(2), Index(4)), (ReadId(3), Index(4))]);
        inquiries.push(ReadId(4));
        assert_eq!(inquiries.ask(Time(10)), Some((id(2), 73)));
        assert_eq!(inquiries.deadline(Duration::from_nanos(90)), Time(100));
        inquiries.overdue(Time(99), Duration::from_nanos(90), &mut lost);
        assert_eq!(lost, []);
        inquiries.overdue(Time(100), Duration::from_nanos(90), &mut lost);
        assert_eq!((lost, inquiries.waiting()), (vec![ReadId(4)], 0));
    }
}
