//! Invariants of a node's state in any role: what is written, what is durable, and what waits for it.
//!
//! A change passes through four places, and an error between two of them is silent until a power failure:
//!
//! ```text
//! take, record_vote, restore     unwritten, hard_state_changed, restarted     in memory only
//!   │ ready                      issued, under the number next_write          given to the journal
//!   │ persisted                  durable, log.durable()                       survives a power failure
//!   ▼ gate, ack_index            out                                          visible to other nodes
//! ```
//!
//! So the numbers of the writes, the indexes of the log and the messages that wait are compared with each other here,
//! after every step. What a peer, a client or the disk can send is not asserted but validated where it arrives.

use super::Replica;

impl Replica {
    /// Panics if an invariant is violated; `leads` is whether this node leads.
    pub(in crate::consensus) fn check(&self, leads: bool) {
        self.log.check();
        self.configs.check(self.log.base().index);
        self.clock.check(self.term(), leads);
        self.gate.check(self.durable, self.term());
        self.check_terms();
        self.check_writes();
        self.check_entries();
    }

    /// Term and vote, and the writes that make them durable.
    fn check_terms(&self) {
        assert!(self.log.last().term <= self.term(), "no entry has a later term than the node that holds it (§5.1)");
        assert!(self.recovered_term <= self.term(), "the term never goes back (§5.1)");
        // A node whose term is in no write would wait for it forever, and send nothing in this term.
        let in_write = self.term_write < self.next_write || self.hard_state_changed;
        assert!(in_write, "the term is in a write that was issued, or is in the next one (§5.1)");
        let in_write = self.vote_write < self.next_write || self.hard_state_changed;
        assert!(in_write, "the vote is in a write that was issued, or is in the next one (§5.2)");
    }

    /// The writes that the journal has not reported durable.
    fn check_writes(&self) {
        let issued = self.last_issued();
        assert!(self.durable <= issued, "the journal reports only writes that it was given");
        // One entry for each number: a second report of a write, or a report out of order, would advance the durable
        // index by the end of another write.
        assert_eq!(self.issued.len() as u64, issued.0 - self.durable.0, "each write under way is awaited once");
        let oldest = self.issued.front().map(|write| write.id);
        assert!(oldest.is_none_or(|id| id == self.durable.next()), "writes become durable in their order");
        // A truncation lowers the end of each write under way: its report says nothing about the entries that took the
        // place of those it contains (ra#637).
        let end = self.issued.back().map(|write| write.last);
        assert!(end.is_none_or(|end| end <= self.log.last().index), "no write makes more durable than the log holds");
        let ends = self.issued.iter().map(|write| write.last);
        debug_assert!(ends.is_sorted(), "a later write makes at least as much durable");
    }

    /// The entries that are in no write yet, and the base of the log.
    fn check_entries(&self) {
        if let (Some(first), Some(last)) = (self.unwritten.first(), self.unwritten.last()) {
            let (from, upto) = (first.position.index, last.position.index);
            assert_eq!(last.position, self.log.last(), "the entries that are not written yet end the log");
            assert_eq!(self.unwritten.len() as u64, upto.0 - from.0 + 1, "entries are written without a gap");
            assert!(from > self.log.durable(), "no entry is durable before it is in a write");
        }
        let base = self.log.base();
        let adopted = self.restarted.as_ref().is_none_or(|restarted| restarted.position == base);
        assert!(adopted, "the log begins at the snapshot that the next write adopts (Figure 13)");
        // Until the journal has adopted an installed snapshot, a restart finds the log from before it.
        let adopting = self.restarted.is_some() || !self.issued.is_empty();
        assert!(self.log.durable() >= base.index || adopting, "the base is durable, or a write adopts it");
    }
}
