//! Laws that hold at the end of each turn, whatever events came before it.
//!
//! They are the seams between the parts of the node: each part checks itself, and none of them sees the others. The
//! main one is an order of indexes,
//!
//! ```text
//!   log start  ≤  snapshot  ≤  applied  ≤  submitted  ≤  commit  ≤  last
//! ```
//!
//! and each `≤` is a promise to someone. A log that starts after the snapshot has a gap that no restart can fill. A
//! snapshot beyond the applied state holds entries that this machine never executed. A machine beyond the commit index
//! has executed an entry that may yet be truncated (§5.3). The last one is the core's own law
//! (`consensus/invariants.rs`).
//!
//! Events are input, their contents above all: a peer or a client can send anything at any time, and nothing here
//! depends on it. The laws are about what this node did with them. Each is checked in constant time, or in one step a
//! follower, since a turn may handle a single request; a violation panics before the driver
//! executes any action of the turn.

use super::Node;
use crate::types::Mutant;

impl Node {
    /// Panics if a law is violated: the actions of this turn could lose or contradict an acknowledged entry.
    pub(super) fn check(&self) {
        self.check_order();
        self.check_waiting();
        self.compaction.check();
        self.snapshot_sender.check();
        self.snapshot_reads.check();
    }

    /// Log start, snapshot, machine and commit index are in order.
    fn check_order(&self) {
        let log = self.raft.log();
        let (snapshot, applied, submitted) = (self.compaction.upto(), self.applied.upto, self.submitted_to_apply);
        // Without a snapshot the log starts at its beginning. The switch `damaged-is-empty` starts without the
        // snapshot.
        let starts = log.base().index <= snapshot || self.options.mutants.breaks(Mutant::DamagedIsEmpty);
        assert!(starts, "the log begins no later than the snapshot ends: no entry is lost between them (§7)");
        assert!(snapshot <= applied, "a snapshot holds only entries that this machine has applied (§7)");
        assert!(applied <= submitted, "the applier applies only entries that were submitted to it");
        assert!(submitted <= log.commit(), "only committed entries are submitted to the machine (§5.3)");
        let busy = self.applying.is_some();
        assert_eq!(busy, applied < submitted, "one batch at a time is applied, and its report ends it");
    }

    /// What waits here still waits for something that can happen, and within the limits.
    fn check_waiting(&self) {
        if let (Some(first), Some(last)) = (self.proposals.first(), self.proposals.last()) {
            let waits = first.index > self.applied.upto;
            assert!(waits, "a proposal whose index is applied has been answered: no outcome comes for it again");
            // With the switch `answer-by-index`, proposals of a lost term stay.
            let held = last.index <= self.raft.log().last().index || self.options.mutants.breaks(Mutant::AnswerByIndex);
            assert!(held, "a proposal that the log has lost was answered when this node lost its term (§5.4)");
        }
        assert!(self.parked.len() <= self.options.parked, "parked requests keep within their limit");
        assert!(self.forwarded.len() <= self.options.forwarded, "forwarded requests keep within their limit");
    }
}
