//! Queries: which ones the applier can answer now, and how its answers become replies.
//!
//! A linearizable read needs a leader only for its read index (thesis §6.4). The state that answers it is this node's
//! own, on a follower too, so that reads are spread over all nodes and the leader sends one index per read, not an
//! answer.

use super::Node;
use crate::api::{Outcome, Reply};
use crate::limits::ANSWER_BYTES_MAX;
use crate::node::event::Action;
use crate::node::requests::{self, ClientRequest};
use crate::types::{Index, Mutant, Position, Time};
use bytes::Bytes;

impl Node {
    /// Whether further reads are refused: the reads that wait for a heartbeat round, for the next call of `turn` or for
    /// the applier have reached their limit in bytes. One limit holds for all of them: a read passes from one wait to
    /// the next, and must not be refused in between.
    pub(super) fn is_read_limit_reached(&self) -> bool {
        self.linearizable_reads.bytes() + self.queries.bytes() >= self.options.waiting_read_bytes_max
    }

    /// Submits the queries that are due. The applier works in order: a query sees every entry that was submitted before
    /// it. So a read waits until the entries up to its index are submitted, not until they are applied: waiting for the
    /// applier's report would delay the query by another call of `turn`.
    pub(super) fn submit_queries(&mut self, now: Time, actions: &mut Vec<Action>) {
        // Local reads come first: they need not reflect recent writes, so they wait for no read index.
        let mut due_queries = self.queries.take_local();
        let submits_reads_early = self.options.mutants.breaks(Mutant::ReadBeforeApplied);
        let upto = if submits_reads_early { self.raft.log().last().index } else { self.submitted_to_apply };
        while let Some(client_request) = self.linearizable_reads.take_ready(upto) {
            due_queries.push(client_request);
        }
        // The cluster time serves to compute remaining times to live. Only entries decide whether a key has expired.
        let time = self.raft.cluster_time(now);
        for ClientRequest { from, id, request, .. } in due_queries {
            if let Some(query) = requests::query_of(request) {
                let ticket = self.queries.push_submitted(from, id, query.len() as u64);
                actions.push(Action::Query { ticket, query, time });
            }
        }
    }

    /// The reply to a query. An answer too long for a frame is replaced by [`Outcome::AnswerTooLong`]: otherwise the
    /// client would lose its connection and retry at each node, with the same result.
    pub(super) fn query_reply(&self, applied: Index, answer: Bytes) -> Reply {
        let names_later_entry = self.options.mutants.breaks(Mutant::ReadNamesLaterEntry);
        let applied = if names_later_entry { applied.next() } else { applied };
        if answer.len() as u64 <= ANSWER_BYTES_MAX {
            return Reply::Answer { applied, answer };
        }
        // The term is unknown if the entry was compacted meanwhile.
        let position = Position::new(applied, self.raft.log().term(applied).unwrap_or_default());
        Reply::Done { position, outcome: Outcome::AnswerTooLong }
    }
}
