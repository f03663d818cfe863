//! Queries: which ones the applier can answer now, and how its answers become replies.
//!
//! A linearizable read needs a leader only for its read index (thesis §6.4). The state that answers it is this node's
//! own, on a follower too, so that reads are spread over all nodes and the leader pays a number per read, not an
//! answer.

use super::Node;
use crate::api::{Outcome, Reply};
use crate::limits::ANSWER_BYTES_MAX;
use crate::node::event::Action;
use crate::node::requests::{self, ClientRequest};
use crate::types::{Index, Mutant, Position, Time};
use bytes::Bytes;

impl Node {
    /// Whether further reads are refused: the reads that wait for a heartbeat round, for the turn or for the applier
    /// have reached their limit in bytes. One limit for all of them: a read passes from one wait to the next, and must
    /// not be refused in the middle.
    pub(super) fn reads_are_full(&self) -> bool {
        self.linearizable_reads.bytes() + self.queries.bytes() >= self.options.reading_bytes
    }

    /// Submits the queries that are due. The applier works in order: a query sees every entry that was submitted before
    /// it. So a read waits until the entries up to its index are submitted, not until they are applied: waiting for the
    /// report would cost a turn more.
    pub(super) fn query(&mut self, now: Time, actions: &mut Vec<Action>) {
        // Local reads first: they promise nothing about recent writes, and have waited since the same wake-up.
        let mut due = self.queries.take_local();
        let early = self.options.mutants.breaks(Mutant::ReadBeforeApplied);
        let upto = if early { self.raft.log().last().index } else { self.submitted_to_apply };
        while let Some(asked) = self.linearizable_reads.next(upto) {
            due.push(asked);
        }
        // For remaining times to live. Whether a key has expired is for the entries alone to decide.
        let time = self.raft.cluster_time(now);
        for ClientRequest { from, id, request, .. } in due {
            if let Some(query) = requests::query_of(request) {
                let ticket = self.queries.push(from, id, query.len() as u64);
                actions.push(Action::Query { ticket, query, time });
            }
        }
    }

    /// The reply to a query. An answer too long for a frame is replaced by a notice: otherwise the client would lose
    /// its connection and retry elsewhere, with the same result at each node.
    pub(super) fn query_reply(&self, applied: Index, answer: Bytes) -> Reply {
        let early = self.options.mutants.breaks(Mutant::ReadNamesLaterEntry);
        let applied = if early { applied.next() } else { applied };
        if answer.len() as u64 <= ANSWER_BYTES_MAX {
            return Reply::Answer { applied, answer };
        }
        // The term is unknown if the entry was compacted meanwhile.
        let position = Position::new(applied, self.raft.log().term(applied).unwrap_or_default());
        Reply::Done { position, outcome: Outcome::AnswerTooLong }
    }
}
