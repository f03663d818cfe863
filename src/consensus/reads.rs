//! Linearizable reads on the leader: each read waits until a round of heartbeats confirms the leader (thesis §6.4).
//!
//! ```text
//! read ──> unsent ──── begin_round: round 8, commit index 41 ────> in_flight ──── quorum answers round ≥ 8 ────> out
//!            ▲                                                       │
//!            └── reads that arrive while round 8 is under way        └── wait for the next round, 9
//! ```
//!
//! Without a round, a leader that does not know that it was deposed would answer from an old state. A round of
//! heartbeats that begins after the read arrived shows that a quorum still followed the leader then, so no other leader
//! had committed an entry when the read arrived.
//!
//! A lease would need no round, but would rely on the clocks of several machines and on the scheduling of this process,
//! which fails for a paused process (etcd 0.4, consul#54, tikv#964).

use super::message::Round;
use crate::types::{Index, NodeId};
use std::collections::VecDeque;

/// The number of a read, assigned by the core. No number is used twice in one run of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadId(pub u64);

/// The node that requested a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadRequester {
    /// This node: a client's read on the leader.
    Own(ReadId),
    /// A follower, with the number of its read index request.
    Peer(NodeId, u64),
}

/// Reads on the leader, each waiting for a round that began after the read arrived.
///
/// Round numbers increase and are never used twice, so that a late answer to an earlier round confirms no later round.
/// All reads between two rounds share the next one.
#[derive(Clone, Debug, Default)]
pub struct LeaderReads {
    /// Reads that arrived since the last round began: they share the next round.
    unsent_reads: Vec<ReadRequester>,
    /// The rounds under way, each with the commit index at its start and its reads. Rounds ascend.
    // The commit index at the start of the round is enough. The commit index at its confirmation may be higher, and
    // would only make the reads wait longer.
    rounds_in_flight: VecDeque<(Round, Index, Vec<ReadRequester>)>,
}

impl LeaderReads {
    /// The number of reads that wait for a round to begin or to be confirmed.
    pub fn waiting_count(&self) -> usize {
        self.unsent_reads.len() + self.rounds_in_flight.iter().map(|(_, _, reads)| reads.len()).sum::<usize>()
    }

    /// Adds a read to the next round.
    ///
    /// A read never joins a round under way: followers may have answered its heartbeats before the read arrived, and
    /// elected another leader since.
    pub fn push(&mut self, read: ReadRequester) {
        self.unsent_reads.push(read);
    }

    /// Starts the round after `latest` for the unsent reads. Returns false if there are none.
    pub fn begin_round(&mut self, latest: &mut Round, commit: Index) -> bool {
        if self.unsent_reads.is_empty() {
            return false;
        }
        *latest = Round(latest.0 + 1);
        self.rounds_in_flight.push_back((*latest, commit, std::mem::take(&mut self.unsent_reads)));
        true
    }

    /// Moves the reads of every confirmed round to `out`, each with the index that must be applied first.
    pub fn take_confirmed_reads(
        &mut self,
        is_confirmed: impl Fn(Round) -> bool,
        out: &mut Vec<(ReadRequester, Index)>,
    ) {
        // A confirmed round also confirms the earlier rounds: its voters recognized this leader after the earlier
        // rounds began.
        let Some(last) = self.rounds_in_flight.iter().rposition(|(round, _, _)| is_confirmed(*round)) else { return };
        for (_, index, reads) in self.rounds_in_flight.drain(..=last) {
            out.extend(reads.into_iter().map(|read| (read, index)));
        }
    }

    /// Removes all reads when this node stops leading or transfers the leadership. Returns the reads of this node;
    /// reads of followers time out on the followers.
    pub fn abandon_all_reads(&mut self) -> Vec<ReadId> {
        let mut reads = std::mem::take(&mut self.unsent_reads);
        reads.extend(self.rounds_in_flight.drain(..).flat_map(|(_, _, reads)| reads));
        let own_read_id = |requester| match requester {
            ReadRequester::Own(read) => Some(read),
            ReadRequester::Peer(..) => None,
        };
        reads.into_iter().filter_map(own_read_id).collect()
    }

    /// Whether no read waits for a round to begin or to be confirmed.
    pub fn is_empty(&self) -> bool {
        self.unsent_reads.is_empty() && self.rounds_in_flight.is_empty()
    }

    /// Panics if an invariant of the rounds is violated: `latest` is the latest round of this process, `commit` the
    /// commit index, and `term_start` the leader's first entry. Called after every step ([`super::invariants`]).
    pub(super) fn check_invariants(&self, latest: Round, commit: Index, term_start: Index) {
        let (front, back) = (self.rounds_in_flight.front(), self.rounds_in_flight.back());
        // If a round number were used twice, an answer to the earlier round would confirm the later one
        // (etcd-io/etcd#20418).
        assert!(back.is_none_or(|(round, ..)| *round <= latest), "no round in flight is later than the latest round");
        assert!(
            back.is_none_or(|(_, index, _)| *index <= commit),
            "the read index of a round is at most the commit index"
        );
        // A new leader's commit index may be behind that of the previous leader until its own first entry is committed.
        assert!(
            front.is_none_or(|(_, index, _)| *index >= term_start),
            "the read index of a round is at or above the leader's first entry (§8)"
        );
        debug_assert!(
            self.rounds_in_flight.iter().is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
            "rounds in flight ascend by number and by read index"
        );
        debug_assert!(
            self.rounds_in_flight.iter().all(|(.., reads)| !reads.is_empty()),
            "every round in flight has a read"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_waits_for_a_round_that_began_after_it() {
        let (mut reads, mut round) = (LeaderReads::default(), Round(7));
        let mut out = Vec::new();
        reads.push(ReadRequester::Own(ReadId(1)));
        assert!(reads.begin_round(&mut round, Index(5)));
        let first_round = round;
        reads.push(ReadRequester::Own(ReadId(2)));
        reads.push(ReadRequester::Peer(NodeId::new(7).unwrap(), 3));
        reads.take_confirmed_reads(|round| round <= first_round, &mut out);
        assert_eq!(out, [(ReadRequester::Own(ReadId(1)), Index(5))]);
        assert!(reads.begin_round(&mut round, Index(6)));
        assert!(round > first_round, "a round number is never reused");
        out.clear();
        reads.take_confirmed_reads(|round| round <= first_round, &mut out);
        assert_eq!(out, [], "a late answer to the first round confirms nothing");
        assert_eq!(reads.abandon_all_reads(), [ReadId(2)]);
        assert!(!reads.begin_round(&mut round, Index(7)));
    }
}
