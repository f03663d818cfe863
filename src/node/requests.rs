//! Requests that wait: for a log index, a read index, a leader, or another node's answer.
//!
//! Each kind of wait ends for another reason, so each has a table of its own:
//!
//! ```text
//!   a write   at the leader       Proposals           until its index is applied, or its term is lost
//!   a read    anywhere            LinearizableReads   until its round is confirmed and its read index submitted
//!   a query   at the applier      ApplierQueries      until the applier answers
//!   a request without a leader    ParkedRequests      until a leader is known, or its deadline
//!   a request of another leader   ForwardedRequests   until that leader answers, or the link to it breaks
//! ```
//!
//! A request is in one table at a time, and moves as the node learns more: a parked write becomes a proposal, a lost
//! read becomes a parked one. The tables decide nothing: [`super::node::Node`] calls them from `handle` and `turn`, and
//! converts what they return to replies.
//!
//! Everything here is memory that clients fill, so every table is bounded: in bytes, because one request may be as
//! large as an entry; and in number where requests of few bytes would cost more in tree nodes than in payload. A bound
//! is checked before a request is added, and the refusal is *busy*, which promises that the request had no effect. The
//! sums are updated as requests come and go, since computing them by a walk at each request would be slowest exactly
//! when a table is full. A wrong sum would refuse requests forever, or never, and no test of a single request would
//! show it: hence the assertions in each `check`.

use super::event::Caller;
use crate::api::{Outcome, Refusal, Reply, Request};
use crate::consensus::reads::ReadId;
use crate::limits::ADDRESS_BYTES_MAX;
use crate::types::{Index, NodeId, Position, Term, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The largest table whose sums are checked against its requests after each change, in builds with debug assertions. A
/// wrong sum is wrong from the first request on; checking a large table at each change would make tests of many callers
/// quadratic.
const CHECKED_TABLE_LENGTH_MAX: usize = 64;

/// Whether `sum` is the sum of `sizes`, the sizes of a table's `len` requests. A large table is not checked.
pub(super) fn is_sum_of(sum: u64, len: usize, sizes: impl Iterator<Item = u64>) -> bool {
    len > CHECKED_TABLE_LENGTH_MAX || sum == sizes.sum::<u64>()
}

/// One request of one caller.
///
/// The whole request is stored while it waits, not only a ticket: a read whose round failed, or a request whose leader
/// refused it without effect, is handled again from the start, perhaps by another path.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    /// The caller, which receives the answer.
    pub from: Caller,
    /// The caller's id for the request.
    pub id: u64,
    /// Whether to forward the request to the leader rather than to name the leader.
    pub forward: bool,
    /// The deadline while the request waits for a leader. It is set once, when the request arrives: a request that is
    /// parked, forwarded, refused and parked again must not wait anew each time, or its client would time out first.
    pub deadline: Time,
    /// The decoded request of a client, or of a peer for its client.
    pub request: Request,
}

impl ClientRequest {
    /// The size of the operation or query in bytes, without the frame that carried it.
    ///
    /// The size must not change while the request waits: a table adds it on entry and subtracts it on exit. A
    /// membership change counts as `ADDRESS_BYTES_MAX`, an estimate that never changes. Requests that never wait in a
    /// table that counts bytes count as zero.
    pub fn bytes(&self) -> u64 {
        match &self.request {
            Request::Propose { op } => op.len() as u64,
            Request::Query { query, .. } => query.len() as u64,
            Request::Status | Request::Snapshot | Request::ReadSnapshot { .. } => 0,
            Request::Transfer { .. } | Request::LogLevel(_) | Request::Scrub => 0,
            Request::Change { .. } => ADDRESS_BYTES_MAX as u64,
        }
    }

    /// Whether a retry on another node could apply the request twice.
    ///
    /// Such a request is never repeated by a node once an attempt may be in a log; its caller receives *unknown*. A
    /// client's session would suppress the second execution of a command, but a membership change has no session, and
    /// not every caller of an operation retries under the same number. A transfer is not a write: a second one finds
    /// the target leading, and does nothing.
    pub fn is_write(&self) -> bool {
        matches!(self.request, Request::Propose { .. } | Request::Change { .. })
    }
}

/// Proposals not yet committed and applied, in log order.
///
/// A proposal is known by its *position*, index and term. The index alone is not enough: a deposed leader's entry may
/// be truncated, and another leader's entry take its index. A client answered by index would receive another client's
/// outcome (the mutant `answer-by-index` reproduces that).
///
/// Invariant: indexes ascend. Proposals are answered from the front, so a proposal behind a later one would wait until
/// that one is applied, and then be answered *unknown* though its outcome was known.
#[derive(Clone, Debug, Default)]
pub struct Proposals {
    waiting: VecDeque<(Position, Caller, u64)>,
}

impl Proposals {
    /// Adds a proposal that was appended at `position`.
    ///
    /// Positions ascend although the log may shrink: it shrinks only under another leader, and before this node leads
    /// again, [`Proposals::answer_uncommitted`] has removed all proposals that are not committed.
    pub fn push(&mut self, position: Position, from: Caller, id: u64) {
        let is_later = self.last().is_none_or(|last| last.index < position.index);
        assert!(is_later, "proposals wait in log order: a leader only appends to its log (§5.3)");
        self.waiting.push_back((position, from, id));
    }

    /// Answers the proposal that was applied at `at`, and fails every older one.
    ///
    /// A proposal with that index in another term cannot be answered: its entry was dropped, or may yet be committed at
    /// another index. Its caller receives *unknown*, never a wrong outcome.
    ///
    /// An older proposal that is still here had no outcome of its own, so it is not the entry that was applied at its
    /// index either. `by_index` breaks the rule for a test.
    pub fn answer_applied(
        &mut self,
        at: Position,
        outcome: Outcome,
        by_index: bool,
        out: &mut Vec<(Caller, u64, Reply)>,
    ) {
        while let Some((position, from, id)) = self.waiting.front().copied()
            && position.index <= at.index
        {
            self.waiting.pop_front();
            let is_applied = position == at || (by_index && position.index == at.index);
            let outcome = outcome.clone();
            let reply = if is_applied { Reply::Done { position: at, outcome } } else { Reply::Unknown };
            out.push((from, id, reply));
        }
    }

    /// Answers *unknown* to every remaining proposal up to `upto`: all of these indexes were applied.
    ///
    /// A batch that ends in a leader's no-op has no outcome at its last index, and a snapshot that replaces the machine
    /// has none at all. Without this call a proposal there would wait for an outcome that never comes.
    pub fn fail_up_to(&mut self, upto: Index, out: &mut Vec<(Caller, u64, Reply)>) {
        while let Some((_, from, id)) = self.waiting.pop_front_if(|(position, _, _)| position.index <= upto) {
            out.push((from, id, Reply::Unknown));
        }
    }

    /// Answers `reply` to all proposals of earlier terms that are not known to be committed: this node no longer leads,
    /// or leads another term, and they may be applied or not.
    ///
    /// Committed ones stay: they are applied here under their own positions, whichever node leads, and their callers
    /// can be given the outcome. Callers of the others cannot wait: the next leader may commit the entries, or truncate
    /// them, and this node may never learn which. *Refused* would be wrong for the same reason: the client would repeat
    /// a command that may still be applied (the mutant `unknown-as-refused`).
    pub fn answer_uncommitted(
        &mut self,
        commit: Index,
        led_term: Option<Term>,
        reply: &Reply,
        out: &mut Vec<(Caller, u64, Reply)>,
    ) {
        self.waiting.retain(|(position, from, id)| {
            let is_kept = position.index <= commit || Some(position.term) == led_term;
            if !is_kept {
                out.push((*from, *id, reply.clone()));
            }
            is_kept
        });
    }

    /// The position of the oldest waiting proposal.
    pub(super) fn first(&self) -> Option<Position> {
        self.waiting.front().map(|(position, ..)| *position)
    }

    /// The position of the latest waiting proposal.
    pub(super) fn last(&self) -> Option<Position> {
        self.waiting.back().map(|(position, ..)| *position)
    }

    /// Number of waiting proposals.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no proposal waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// An index of waiting requests by caller. When a caller disconnects only its own requests are visited: many callers
/// disconnect at once when a balancer dies.
///
/// An ordered set of pairs, not a map of lists: one caller's keys are a range of it, a single key is removed without a
/// search through a list, and a caller without requests takes no room.
#[derive(Clone, Debug)]
struct KeysByCaller<K>(BTreeSet<(Caller, K)>);

impl<K> Default for KeysByCaller<K> {
    fn default() -> KeysByCaller<K> {
        KeysByCaller(BTreeSet::new())
    }
}

impl<K: Ord + Copy> KeysByCaller<K> {
    fn insert(&mut self, caller: Caller, key: K) {
        let is_new = self.0.insert((caller, key));
        assert!(is_new, "no two waiting requests of one caller have the same number");
    }

    fn remove(&mut self, caller: Caller, key: K) {
        self.0.remove(&(caller, key));
    }

    /// Removes and returns the keys of `caller` that are not less than `first`.
    fn take_keys(&mut self, caller: Caller, first: K) -> Vec<K> {
        let pairs_of_caller = self.0.range((caller, first)..).take_while(|(other, _)| *other == caller);
        let keys: Vec<K> = pairs_of_caller.map(|(_, key)| *key).collect();
        keys.iter().for_each(|key| self.remove(caller, *key));
        keys
    }
}

/// Requests that wait for a leader, oldest first. Bounded in number and bytes.
///
/// An election takes a few hundred milliseconds. An immediate refusal would make each election visible to every client;
/// a wait without a deadline would hide from clients that a majority is down.
///
/// The requests leave in the order of their arrival, because a caller's later request must not overtake its earlier
/// one. Their deadlines have another order, hence a second index: a request that was forwarded first and is parked
/// again keeps its deadline, but is queued behind requests with later deadlines.
///
/// Invariants: each request is listed once by caller and once by deadline; `bytes` is the sum of their sizes.
#[derive(Clone, Debug, Default)]
pub struct ParkedRequests {
    last_number: u64,
    waiting: BTreeMap<u64, ClientRequest>,
    by_caller: KeysByCaller<u64>,
    deadlines: BTreeSet<(Time, u64)>,
    bytes: u64,
}

impl ParkedRequests {
    /// Parks a request, or refuses it as busy when `count_max` or `bytes_max` is reached.
    ///
    /// The refused request comes back to the node, which counts the failure and answers the caller. It is boxed because
    /// a `Result` is as large as its error, and nearly every call succeeds.
    pub fn push(
        &mut self,
        client_request: ClientRequest,
        count_max: usize,
        bytes_max: u64,
    ) -> Result<(), Box<(ClientRequest, Refusal)>> {
        if self.waiting.len() >= count_max || self.bytes + client_request.bytes() > bytes_max {
            return Err(Box::new((client_request, Refusal::Busy)));
        }
        self.last_number += 1;
        self.bytes += client_request.bytes();
        self.by_caller.insert(client_request.from, self.last_number);
        self.deadlines.insert((client_request.deadline, self.last_number));
        self.waiting.insert(self.last_number, client_request);
        self.check();
        Ok(())
    }

    /// Takes all parked requests, oldest first.
    ///
    /// The table is empty before the first one is handled: handling a request may park it again, or park others behind
    /// it, and those wait for the next call. Arrival numbers are not reused, so that requests parked again come after
    /// all of these.
    pub fn take_all(&mut self) -> impl Iterator<Item = ClientRequest> + use<> {
        let last_number = self.last_number;
        std::mem::replace(self, ParkedRequests { last_number, ..ParkedRequests::default() }).waiting.into_values()
    }

    fn remove(&mut self, number: u64) -> Option<ClientRequest> {
        let client_request = self.waiting.remove(&number)?;
        self.bytes -= client_request.bytes();
        self.by_caller.remove(client_request.from, number);
        self.deadlines.remove(&(client_request.deadline, number));
        Some(client_request)
    }

    /// Takes the requests whose deadline has passed, in the order of their arrival: the replies of one caller keep the
    /// order of its requests.
    pub fn take_expired(&mut self, now: Time) -> Vec<ClientRequest> {
        // Forwarded requests that are parked again keep their deadlines, so the oldest deadline need not be first.
        let due = self.deadlines.iter().take_while(|(until, _)| *until <= now);
        let mut due: Vec<u64> = due.map(|(_, number)| *number).collect();
        due.sort_unstable();
        let expired = due.into_iter().filter_map(|number| self.remove(number)).collect();
        self.check();
        expired
    }

    /// The earliest deadline of a parked request; `NEVER` if none is parked.
    pub fn deadline(&self) -> Time {
        self.deadlines.first().map_or(Time::NEVER, |(until, _)| *until)
    }

    /// Drops all requests of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        for number in self.by_caller.take_keys(caller, 0) {
            self.remove(number);
        }
        self.check();
    }

    /// Panics if the indexes or the counter of bytes contradict the requests.
    fn check(&self) {
        let len = self.waiting.len();
        assert_eq!(self.by_caller.0.len(), len, "each parked request is listed once in the index by caller");
        assert_eq!(
            self.deadlines.len(),
            len,
            "each parked request is listed once by its deadline: one without a deadline would wait forever"
        );
        assert!(len > 0 || self.bytes == 0, "the counter of parked bytes is zero when no request is parked");
        let sizes = self.waiting.values().map(ClientRequest::bytes);
        debug_assert!(
            is_sum_of(self.bytes, len, sizes),
            "the counter of parked bytes equals the sum over the parked requests"
        );
    }

    /// Number of parked requests.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request is parked.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Linearizable reads: each waits for its heartbeat round, then for its read index to be submitted to the applier.
///
/// Thesis §6.4 in two steps. The round shows that this node (or, for a follower, its leader) was still the leader after
/// the read arrived, so that no later leader can have committed a write that the read misses. The read index is the
/// commit index at the start of the round; a state that includes it is recent enough. The second wait ends when the
/// entries are *submitted*, not when they are applied: the applier works in order, so a query submitted behind them
/// sees them.
///
/// A read appends nothing to the log, so a cluster of readers writes nothing to its disks.
///
/// Invariants: each waiting read is listed once by its caller; `bytes` is the sum of their sizes.
#[derive(Clone, Debug, Default)]
pub struct LinearizableReads {
    waiting: BTreeMap<ReadId, ClientRequest>,
    /// Reads whose heartbeat round is confirmed, in the order of their rounds. Reads of callers that are gone are no
    /// longer in `waiting`. Those reads stay in this queue until they reach its front: a removal from the middle would
    /// be a walk for each of them.
    confirmed: VecDeque<(Index, ReadId)>,
    by_caller: KeysByCaller<ReadId>,
    bytes: u64,
}

impl LinearizableReads {
    /// Adds a read that waits for its heartbeat round.
    pub fn push(&mut self, read: ReadId, client_request: ClientRequest) {
        let is_later = self.waiting.last_key_value().is_none_or(|(latest, _)| *latest < read);
        assert!(is_later, "the core numbers reads in ascending order, so that no two reads share a number");
        self.bytes += client_request.bytes();
        self.by_caller.insert(client_request.from, read);
        self.waiting.insert(read, client_request);
        self.check();
    }

    /// Bytes of all waiting reads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records that the heartbeat round of `read` is confirmed: the read needs every entry up to `index`. A read whose
    /// caller is gone is unknown here, and is dropped: the core does not learn of callers.
    pub fn confirm(&mut self, read: ReadId, index: Index) {
        if self.waiting.contains_key(&read) {
            self.confirmed.push_back((index, read));
        }
    }

    /// Removes a read whose round failed, and returns its request.
    ///
    /// The caller of this function retries the read, which is always safe: a read leaves no trace.
    pub fn take_failed(&mut self, read: ReadId) -> Option<ClientRequest> {
        let failed = self.remove(read);
        self.check();
        failed
    }

    fn remove(&mut self, read: ReadId) -> Option<ClientRequest> {
        let failed = self.waiting.remove(&read)?;
        self.bytes -= failed.bytes();
        self.by_caller.remove(failed.from, read);
        Some(failed)
    }

    /// Number of waiting reads.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no read waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next read whose read index is at most `submitted`, the last index submitted to the applier.
    pub fn take_ready(&mut self, submitted: Index) -> Option<ClientRequest> {
        // Rounds are confirmed in order, so their read indexes never decrease under one leader. After a change of
        // leader a lower read index may be queued behind a higher one; that read then waits longer than necessary,
        // which is safe.
        while let Some((_, read)) = self.confirmed.pop_front_if(|(index, _)| *index <= submitted) {
            if let Some(client_request) = self.take_failed(read) {
                return Some(client_request);
            }
        }
        None
    }

    /// Drops all reads of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        for read in self.by_caller.take_keys(caller, ReadId(0)) {
            self.remove(read);
        }
        self.check();
    }

    /// Panics if the index by caller or the counter of bytes contradicts the reads.
    fn check(&self) {
        let len = self.waiting.len();
        assert_eq!(self.by_caller.0.len(), len, "each waiting read is listed once in the index by caller");
        assert!(len > 0 || self.bytes == 0, "the counter of waiting read bytes is zero when no read waits");
        let sizes = self.waiting.values().map(ClientRequest::bytes);
        debug_assert!(
            is_sum_of(self.bytes, len, sizes),
            "the counter of waiting read bytes equals the sum over the waiting reads"
        );
    }
}

/// Requests forwarded to a leader. A follower forwards, rather than redirects, for clients that request it: clients
/// behind a balancer reach any node, and cannot choose another. Bounded in number by
/// [`super::Options::forwarded_requests_max`], and in bytes.
///
/// Their ids start at a random number: a leader may answer late a request that an earlier run of this process
/// forwarded, and such an answer must match no request.
///
/// A request is known by its id *and* by the node it was sent to. An answer of another node is not an answer to it:
/// that node may answer a request of an earlier run, or be at fault.
///
/// Invariants: each request is listed once by its caller; `bytes` is the sum of their sizes.
#[derive(Clone, Debug)]
pub struct ForwardedRequests {
    last_number: u64,
    waiting: BTreeMap<u64, (NodeId, ClientRequest)>,
    by_caller: KeysByCaller<u64>,
    bytes: u64,
}

impl ForwardedRequests {
    /// Creates an empty table; the first request gets the id after `number`.
    pub fn with_ids_after(number: u64) -> ForwardedRequests {
        ForwardedRequests {
            last_number: number,
            waiting: BTreeMap::new(),
            by_caller: KeysByCaller::default(),
            bytes: 0,
        }
    }

    /// Adds a request forwarded to `to`, and returns its id. The ids may wrap around, since the first one is random.
    pub fn push(&mut self, to: NodeId, client_request: ClientRequest) -> u64 {
        self.last_number = self.last_number.wrapping_add(1);
        self.bytes += client_request.bytes();
        self.by_caller.insert(client_request.from, self.last_number);
        let replaced = self.waiting.insert(self.last_number, (to, client_request));
        assert!(replaced.is_none(), "no two unanswered forwarded requests have the same id");
        self.check();
        self.last_number
    }

    /// Bytes of all forwarded requests.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes the request that the node `from` answered, and returns it.
    ///
    /// `None` is no error: the caller is gone, the leader changed and the request was answered *unknown*, or the answer
    /// is for an earlier run of this process. A peer decides what arrives here, so nothing is asserted about it.
    pub fn take_answered(&mut self, from: NodeId, id: u64) -> Option<ClientRequest> {
        self.waiting.get(&id).filter(|(to, _)| *to == from)?;
        let client_request = self.remove(id);
        self.check();
        client_request
    }

    fn remove(&mut self, id: u64) -> Option<ClientRequest> {
        let (_, client_request) = self.waiting.remove(&id)?;
        self.bytes -= client_request.bytes();
        self.by_caller.remove(client_request.from, id);
        Some(client_request)
    }

    /// Takes all requests forwarded to a node other than `leader`: no answer can be expected. A deposed leader may
    /// still answer, but it may also be cut off, and its clients would wait in vain.
    pub fn take_misrouted(&mut self, leader: Option<NodeId>) -> Vec<ClientRequest> {
        self.take_forwarded_to(|to| Some(to) != leader)
    }

    /// Takes all requests forwarded to `peer`, because the connection that carried them or their answers broke. Each
    /// may have arrived or not: that the kernel accepted a frame does not show that the peer received it.
    pub fn take_lost(&mut self, peer: NodeId) -> Vec<ClientRequest> {
        self.take_forwarded_to(|to| to == peer)
    }

    fn take_forwarded_to(&mut self, matches_node: impl Fn(NodeId) -> bool) -> Vec<ClientRequest> {
        let ids: Vec<u64> = self.waiting.iter().filter(|(_, (to, _))| matches_node(*to)).map(|(id, _)| *id).collect();
        let taken = ids.into_iter().filter_map(|id| self.remove(id)).collect();
        self.check();
        taken
    }

    /// Drops all requests of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        for id in self.by_caller.take_keys(caller, 0) {
            self.remove(id);
        }
        self.check();
    }

    /// Panics if the index by caller or the counter of bytes contradicts the requests.
    fn check(&self) {
        let len = self.waiting.len();
        assert_eq!(self.by_caller.0.len(), len, "each forwarded request is listed once in the index by caller");
        assert!(len > 0 || self.bytes == 0, "the counter of forwarded bytes is zero when no request is forwarded");
        let sizes = self.waiting.values().map(|(_, client_request)| client_request.bytes());
        debug_assert!(
            is_sum_of(self.bytes, len, sizes),
            "the counter of forwarded bytes equals the sum over the forwarded requests"
        );
    }

    /// Number of forwarded requests.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request is forwarded.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The query bytes of a request, if it is a query. The match has no wildcard arm, so that a new kind of request must be
/// added here.
pub fn query_of(request: Request) -> Option<Bytes> {
    match request {
        Request::Query { query, .. } => Some(query),
        Request::Propose { .. }
        | Request::Status
        | Request::Snapshot
        | Request::ReadSnapshot { .. }
        | Request::Change { .. }
        | Request::Transfer { .. }
        | Request::LogLevel(_)
        | Request::Scrub => None,
    }
}

#[cfg(test)]
mod tests;
