//! Read rounds: which nodes have confirmed the leader, and since when (thesis §6.4).
//!
//! ```text
//! read ──> gathering ──── begin: round 8, commit index 41 ────> asking ──── quorum answers round ≥ 8 ────> out
//!             ▲                                                    │
//!             └── reads that arrive while round 8 is under way     └── wait for the next round, 9
//! ```
//!
//! A leader that was deposed without its knowledge would answer from an old state. One round of heartbeats after the
//! arrival of the read shows that a quorum still followed it then, and any later leader can have committed nothing
//! before that.
//!
//! There is no lease, which would save the round: a lease trusts the clocks of several machines and the promptness of
//! this one, and a paused process has neither (etcd 0.4, consul#54, tikv#964).

use super::message::Round;
use crate::types::{Index, NodeId};
use std::collections::VecDeque;

/// The number of a read, assigned by the core. No number is used twice while the process lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadId(pub u64);

/// The node that requested a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadRequester {
    /// This node's own.
    Own(ReadId),
    /// A follower, with its number for the read.
    Peer(NodeId, u64),
}

/// Reads that wait to be linearizable: each waits for a round that began after it arrived.
///
/// Round numbers grow and are never used twice, so that a late answer to an earlier round confirms nothing. All reads
/// between two rounds share the next one.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// Reads that arrived since the last round began.
    gathering: Vec<ReadRequester>,
    /// Reads in a round, with the commit index at its start. Rounds ascend.
    // The index is taken when the round begins. An index from the arrival of the read would do too, one from its
    // confirmation would only make it wait longer.
    asking: VecDeque<(Round, Index, Vec<ReadRequester>)>,
}

impl Reads {
    /// The number of waiting reads.
    pub fn waiting(&self) -> usize {
        self.gathering.len() + self.asking.iter().map(|(_, _, reads)| reads.len()).sum::<usize>()
    }

    /// Adds a read to the next round.
    ///
    /// Never to a round under way: its heartbeats may have been answered before the read arrived, by followers that
    /// have elected another leader since.
    pub fn push(&mut self, read: ReadRequester) {
        self.gathering.push(read);
    }

    /// Starts the round after `latest` for the gathered reads. Returns whether there were any.
    pub fn begin(&mut self, latest: &mut Round, commit: Index) -> bool {
        if self.gathering.is_empty() {
            return false;
        }
        *latest = Round(latest.0 + 1);
        self.asking.push_back((*latest, commit, std::mem::take(&mut self.gathering)));
        true
    }

    /// Moves the reads of every confirmed round to `out`, each with the index that it needs.
    pub fn confirmed(&mut self, confirmed: impl Fn(Round) -> bool, out: &mut Vec<(ReadRequester, Index)>) {
        // A later round confirms the earlier ones: its voters recognized this leader after those began.
        let Some(last) = self.asking.iter().rposition(|(round, _, _)| confirmed(*round)) else { return };
        for (_, index, reads) in self.asking.drain(..=last) {
            out.extend(reads.into_iter().map(|read| (read, index)));
        }
    }

    /// Removes all reads and returns this node's own: it no longer leads, or is about to stop. A follower notices by
    /// itself.
    pub fn abandon(&mut self) -> Vec<ReadId> {
        let mut all = std::mem::take(&mut self.gathering);
        all.extend(self.asking.drain(..).flat_map(|(_, _, reads)| reads));
        let own = |asker| match asker {
            ReadRequester::Own(read) => Some(read),
            ReadRequester::Peer(..) => None,
        };
        all.into_iter().filter_map(own).collect()
    }

    /// Whether no read waits.
    pub fn is_empty(&self) -> bool {
        self.gathering.is_empty() && self.asking.is_empty()
    }

    /// Panics if an invariant of the rounds is violated: `latest` is the latest round of this process, `commit` the
    /// commit index, and `term_start` the leader's first entry. Called after every step ([`super::invariants`]).
    pub(super) fn check(&self, latest: Round, commit: Index, term_start: Index) {
        let (front, back) = (self.asking.front(), self.asking.back());
        // Otherwise that number would be given again, and an answer to one round would confirm the other
        // (etcd-io/etcd#20418).
        assert!(back.is_none_or(|(round, ..)| *round <= latest), "the number of a round is never used again");
        assert!(back.is_none_or(|(_, index, _)| *index <= commit), "a read waits for committed entries only");
        // A new leader's commit index may be behind that of the last one.
        assert!(front.is_none_or(|(_, index, _)| *index >= term_start), "reads wait for the leader's no-op (§8)");
        debug_assert!(self.asking.iter().is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "rounds ascend");
        debug_assert!(self.asking.iter().all(|(.., reads)| !reads.is_empty()), "a round has reads");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_waits_for_a_round_that_began_after_it() {
        let (mut reads, mut round) = (Reads::default(), Round(7));
        let mut out = Vec::new();
        reads.push(ReadRequester::Own(ReadId(1)));
        assert!(reads.begin(&mut round, Index(5)));
        let first = round;
        reads.push(ReadRequester::Own(ReadId(2)));
        reads.push(ReadRequester::Peer(NodeId::new(7).unwrap(), 3));
        reads.confirmed(|round| round <= first, &mut out);
        assert_eq!(out, [(ReadRequester::Own(ReadId(1)), Index(5))]);
        assert!(reads.begin(&mut round, Index(6)));
        assert!(round > first, "a round number is never reused");
        out.clear();
        reads.confirmed(|round| round <= first, &mut out);
        assert_eq!(out, [], "a late answer to the first round confirms nothing");
        assert_eq!(reads.abandon(), [ReadId(2)]);
        assert!(!reads.begin(&mut round, Index(7)));
    }
}
