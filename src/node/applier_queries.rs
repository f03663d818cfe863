//! Queries at the applier: the last wait of every read, and the only one of a local read.
//!
//! A query leaves the node with a ticket, not with its caller: the applier knows no callers, and answers in the order
//! of submission. The ticket is this node's own number, so an answer needs no check but whether the ticket still waits.
//!
//! Tickets are never given twice while the process lives. A restored machine may take the old one's place between a
//! query and its answer. The queue of queries stays, and the answer then comes from a later state, which is as good.

use super::event::Caller;
use super::requests::{ClientRequest, sum_is_right};
use std::collections::BTreeMap;

/// Queries submitted to the applier and not yet answered, and local queries, which wait only for the next turn.
///
/// Local queries promise nothing about recent writes, so they wait for no round. They wait for the turn because
/// everything submitted to the applier leaves in a turn, in order.
///
/// A query of a caller that is gone stays until the applier answers it: it cannot be taken back from the applier's
/// queue, and its bytes are in memory until then. So there is no index by caller, and the driver drops the answer.
///
/// Invariant: `bytes` is the sum of the sizes of both.
#[derive(Clone, Debug, Default)]
pub struct Queries {
    local: Vec<ClientRequest>,
    given: u64,
    waiting: BTreeMap<u64, (Caller, u64, u64)>,
    bytes: u64,
}

impl Queries {
    /// Adds a local query, to be submitted to the applier at the next turn.
    pub fn push_local(&mut self, asked: ClientRequest) {
        self.bytes += asked.bytes();
        self.local.push(asked);
        self.check();
    }

    /// Takes all local queries. Their bytes leave with them, and come back with [`Queries::push`].
    pub fn take_local(&mut self) -> Vec<ClientRequest> {
        self.bytes -= self.local.iter().map(ClientRequest::bytes).sum::<u64>();
        let local = std::mem::take(&mut self.local);
        self.check();
        local
    }

    /// Adds a query of `bytes` bytes submitted to the applier, and returns its ticket. The query itself leaves with the
    /// action: this table keeps what the answer needs, and the size, because the memory is still in use.
    pub fn push(&mut self, from: Caller, id: u64, bytes: u64) -> u64 {
        self.given += 1;
        self.bytes += bytes;
        self.waiting.insert(self.given, (from, id, bytes));
        self.check();
        self.given
    }

    /// Bytes of all queries that wait for the turn or the applier. The node adds those of reads that wait for a round:
    /// the limit is on all three.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of queries submitted to the applier.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no query is submitted to the applier.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Removes the query that the applier answered, and returns its caller and id. One answer ends it: its bytes are
    /// given back here and nowhere else.
    pub fn answered(&mut self, ticket: u64) -> Option<(Caller, u64)> {
        let (from, id, bytes) = self.waiting.remove(&ticket)?;
        self.bytes -= bytes;
        self.check();
        Some((from, id))
    }

    /// Panics if the sum disagrees with the queries.
    fn check(&self) {
        let len = self.waiting.len() + self.local.len();
        assert!(len > 0 || self.bytes == 0, "queries that are answered take no bytes of the limit on reads");
        let submitted = self.waiting.values().map(|(.., bytes)| *bytes);
        let sizes = submitted.chain(self.local.iter().map(ClientRequest::bytes));
        debug_assert!(sum_is_right(self.bytes, len, sizes), "the bytes of queries are those of the waiting queries");
    }
}
