//! Invariants that hold at the end of each call of `Node::turn`, whatever events came before it.
//!
//! These invariants concern several parts of the node at once: each part checks only its own state. The main invariant
//! is an order of indexes,
//!
//! ```text
//!   log start  ≤  snapshot  ≤  applied  ≤  submitted  ≤  commit  ≤  last
//! ```
//!
//! and each `≤` prevents a loss or a contradiction. A log that starts after the snapshot has a gap that no restart can
//! fill. A snapshot beyond the applied state holds entries that this machine never executed. A machine beyond the
//! commit index has executed an entry that may yet be truncated (§5.3). The last `≤` is checked by the core
//! (`consensus/invariants.rs`).
//!
//! Events are input: a peer or a client can send anything at any time, and no invariant depends on their contents. The
//! invariants are about what this node did with the events. Each is checked in constant time, or in a time proportional
//! to the number of followers, since `turn` may be called for a single request. A violation panics before the driver
//! executes any action that this call of `turn` requested.

use super::Node;
use crate::types::Mutant;

impl Node {
    /// Panics if an invariant is violated: the requested actions could lose or contradict an acknowledged entry.
    pub(super) fn check_invariants(&self) {
        self.check_index_order();
        self.check_waiting_requests();
        self.compaction.check();
        self.snapshot_sender.check();
        self.snapshot_reads.check();
    }

    /// Checks that log start ≤ snapshot ≤ applied ≤ submitted ≤ commit.
    fn check_index_order(&self) {
        let log = self.raft.log();
        let (snapshot, applied, submitted) =
            (self.compaction.snapshot_index(), self.applier_report.upto, self.submitted_to_apply);
        // Without a snapshot the log starts at index 0. The mutant `damaged-is-empty` starts without the snapshot.
        let log_reaches_snapshot = log.base().index <= snapshot || self.options.mutants.breaks(Mutant::DamagedIsEmpty);
        assert!(
            log_reaches_snapshot,
            "the log begins no later than the snapshot ends: no entry is lost between them (§7)"
        );
        assert!(snapshot <= applied, "a snapshot holds only entries that this machine has applied (§7)");
        assert!(applied <= submitted, "the applier applies only entries that were submitted to it");
        assert!(submitted <= log.commit(), "only committed entries are submitted to the machine (§5.3)");
        let is_applying = self.applying_since.is_some();
        assert_eq!(
            is_applying,
            applied < submitted,
            "a batch is being applied exactly while submitted entries are not yet applied"
        );
    }

    /// Checks that each waiting proposal can still be answered, and that the tables of waiting requests are within
    /// their limits.
    fn check_waiting_requests(&self) {
        if let (Some(first), Some(last)) = (self.proposals.first(), self.proposals.last()) {
            let is_unapplied = first.index > self.applier_report.upto;
            assert!(is_unapplied, "no waiting proposal has an applied index: no outcome would come for it any more");
            // With the mutant `answer-by-index`, proposals of a lost term stay.
            let is_in_log =
                last.index <= self.raft.log().last().index || self.options.mutants.breaks(Mutant::AnswerByIndex);
            assert!(
                is_in_log,
                "no waiting proposal lies beyond the log: the loss of the leadership answers such proposals (§5.4)"
            );
        }
        assert!(
            self.parked_requests.len() <= self.options.parked_requests_max,
            "the number of parked requests is within its limit"
        );
        assert!(
            self.forwarded_requests.len() <= self.options.forwarded_requests_max,
            "the number of forwarded requests is within its limit"
        );
    }
}
