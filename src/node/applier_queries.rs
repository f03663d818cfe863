//! Queries that wait for the applier: the last wait of every read, and the only wait of a local read.
//!
//! A query leaves the node with a ticket, not with its caller: the applier knows no callers, and answers in the order
//! of submission. The ticket is a number of this node's own, so an answer is accepted if a query with its ticket still
//! waits.
//!
//! No ticket is used twice while the process lives. A restored machine may replace the old one between a query and its
//! answer. The queries then stay queued, and are answered from the restored state, which includes later entries.

use super::event::Caller;
use super::requests::{ClientRequest, is_sum_of};
use std::collections::BTreeMap;

/// Queries submitted to the applier and not yet answered, and local queries, which wait only for the next call of
/// `Node::turn`.
///
/// Local queries promise nothing about recent writes, so they wait for no heartbeat round. They wait for `turn` because
/// only `turn` submits work to the applier, in order.
///
/// A query of a caller that is gone stays until the applier answers it: it cannot be removed from the applier's queue,
/// and its bytes are in memory until then. So there is no index by caller, and the driver drops the answer.
///
/// Invariant: `bytes` is the sum of the sizes of local and submitted queries.
#[derive(Clone, Debug, Default)]
pub struct ApplierQueries {
    local_queries: Vec<ClientRequest>,
    last_ticket: u64,
    /// The submitted queries by ticket: the caller, its id for the request, and the size of the query in bytes.
    submitted_queries: BTreeMap<u64, (Caller, u64, u64)>,
    bytes: u64,
}

impl ApplierQueries {
    /// Adds a local query, to be submitted to the applier at the next call of `turn`.
    pub fn push_local(&mut self, client_request: ClientRequest) {
        self.bytes += client_request.bytes();
        self.local_queries.push(client_request);
        self.check();
    }

    /// Takes all local queries. Their bytes no longer count here until [`ApplierQueries::push_submitted`] adds them
    /// again.
    pub fn take_local(&mut self) -> Vec<ClientRequest> {
        self.bytes -= self.local_queries.iter().map(ClientRequest::bytes).sum::<u64>();
        let local_queries = std::mem::take(&mut self.local_queries);
        self.check();
        local_queries
    }

    /// Adds a query of `bytes` bytes submitted to the applier, and returns its ticket. The action contains the query
    /// itself. This table stores the caller, for the answer, and the size, because the memory is still in use.
    pub fn push_submitted(&mut self, from: Caller, id: u64, bytes: u64) -> u64 {
        self.last_ticket += 1;
        self.bytes += bytes;
        self.submitted_queries.insert(self.last_ticket, (from, id, bytes));
        self.check();
        self.last_ticket
    }

    /// Bytes of all queries that wait for `turn` or for the applier. The node adds the bytes of reads that wait for a
    /// heartbeat round: one limit holds for the total.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of queries submitted to the applier and not yet answered.
    pub fn len(&self) -> usize {
        self.submitted_queries.len()
    }

    /// Whether the applier has answered all queries submitted to it.
    pub fn is_empty(&self) -> bool {
        self.submitted_queries.is_empty()
    }

    /// Removes the query that the applier answered, and returns its caller and id. The answer ends the query: only
    /// this function subtracts its bytes.
    pub fn take_answered(&mut self, ticket: u64) -> Option<(Caller, u64)> {
        let (from, id, bytes) = self.submitted_queries.remove(&ticket)?;
        self.bytes -= bytes;
        self.check();
        Some((from, id))
    }

    /// Panics if the counter of bytes contradicts the queries.
    fn check(&self) {
        let query_count = self.submitted_queries.len() + self.local_queries.len();
        assert!(query_count > 0 || self.bytes == 0, "the counter of waiting query bytes is zero when no query waits");
        let submitted_sizes = self.submitted_queries.values().map(|(.., bytes)| *bytes);
        let sizes = submitted_sizes.chain(self.local_queries.iter().map(ClientRequest::bytes));
        debug_assert!(
            is_sum_of(self.bytes, query_count, sizes),
            "the counter of waiting query bytes equals the sum over the waiting queries"
        );
    }
}
