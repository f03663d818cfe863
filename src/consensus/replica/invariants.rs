//! Invariants of a node's state in any role: which state is written, which is durable, and which messages wait for
//! writes.
//!
//! A change of state passes through four stages, and an error between two stages would show only after a power failure:
//!
//! ```text
//! append_entry, record_vote,   unwritten, hard_state_changed,        in memory only
//! install_snapshot             unwritten_base
//!   │ ready                    issued_writes, by number               given to the journal
//!   │ handle_persisted         durable_write, log.durable()           survives a power failure
//!   ▼ gate, ack_index          ready_messages                         visible to other nodes
//! ```
//!
//! So the numbers of the writes, the indexes of the log and the messages that wait are compared with each other here,
//! after every step. Input of a peer, a client or the disk is not asserted but validated where it arrives.

use super::Replica;

impl Replica {
    /// Panics if an invariant of the replica is violated; `leads` is whether this node leads.
    pub(in crate::consensus) fn check_invariants(&self, leads: bool) {
        self.log.check_invariants();
        self.configs.check_invariants(self.log.base().index);
        self.clock.check_invariants(self.term(), leads);
        self.gate.check_invariants(self.durable_write, self.term());
        self.check_terms();
        self.check_writes();
        self.check_entries();
    }

    /// Checks the term and the vote, and the writes that make them durable.
    fn check_terms(&self) {
        assert!(self.log.last().term <= self.term(), "the term of the last entry is at most the node's term (§5.1)");
        assert!(self.recovered_term <= self.term(), "the term is at least the term at the start of the process (§5.1)");
        // If the term were in no write, the messages of this term would be held forever.
        let term_is_in_write = self.term_write < self.next_write || self.hard_state_changed;
        assert!(term_is_in_write, "the term is in a write that was issued, or is in the next one (§5.1)");
        let vote_is_in_write = self.vote_write < self.next_write || self.hard_state_changed;
        assert!(vote_is_in_write, "the vote is in a write that was issued, or is in the next one (§5.2)");
    }

    /// Checks the writes that the journal has not reported durable.
    fn check_writes(&self) {
        let last_issued_write = self.last_issued_write();
        assert!(self.durable_write <= last_issued_write, "the journal reports only issued writes as durable");
        // There is one record for each write number. Otherwise the report of one write would advance the durable index
        // to the end of another write.
        assert_eq!(
            self.issued_writes.len() as u64,
            last_issued_write.0 - self.durable_write.0,
            "each issued write that is not durable has one entry in the list of pending writes"
        );
        let oldest_write_id = self.issued_writes.front().map(|write| write.id);
        assert!(
            oldest_write_id.is_none_or(|id| id == self.durable_write.next()),
            "the oldest issued write follows the durable write"
        );
        // A truncation lowers the end of each issued write: the report of a write proves nothing about entries that
        // replace its own entries (ra#637).
        let last_log_end = self.issued_writes.back().map(|write| write.log_end);
        assert!(
            last_log_end.is_none_or(|end| end <= self.log.last().index),
            "the newest issued write ends within the log"
        );
        let log_ends = self.issued_writes.iter().map(|write| write.log_end);
        debug_assert!(log_ends.is_sorted(), "no issued write ends before the write that was issued before it");
    }

    /// Checks the entries that are in no write yet, and the base of the log.
    fn check_entries(&self) {
        if let (Some(first), Some(last)) = (self.unwritten_entries.first(), self.unwritten_entries.last()) {
            let (from, upto) = (first.position.index, last.position.index);
            assert_eq!(last.position, self.log.last(), "the last unwritten entry is the last entry of the log");
            assert_eq!(
                self.unwritten_entries.len() as u64,
                upto.0 - from.0 + 1,
                "the unwritten entries have consecutive indexes"
            );
            assert!(from > self.log.durable(), "the first unwritten entry is above the durable index");
        }
        let base = self.log.base();
        let starts_at_base = self.unwritten_base.as_ref().is_none_or(|base_point| base_point.position == base);
        assert!(starts_at_base, "the unwritten base is the base of the log (Figure 13)");
        // Until the journal has recorded the new base, a restarted node recovers the log from before the snapshot.
        let has_pending_write = self.unwritten_base.is_some() || !self.issued_writes.is_empty();
        assert!(
            self.log.durable() >= base.index || has_pending_write,
            "the base is durable, or a write that contains it is pending"
        );
    }
}
