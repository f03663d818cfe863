//! Requests that wait: for a log index, a read index, a leader, or another node's answer.
//!
//! Each wait ends for another reason, so each has a table of its own:
//!
//! ```text
//!   a write   at the leader       Proposals           until its index is applied, or its term is lost
//!   a read    anywhere            LinearizableReads   until its round is confirmed and its index is submitted
//!   a query   at the applier      Queries             until the applier answers
//!   a request without a leader    Parked              until a leader is known, or its deadline
//!   a request of another leader   Forwarded           until that leader answers, or the link to it breaks
//! ```
//!
//! A request is in one table at a time, and moves as the node learns more: a parked write becomes a proposal, a lost
//! read becomes a parked one. The tables decide nothing: [`super::node::Node`] calls them from its events and its turn,
//! and turns what they return into replies.
//!
//! Everything here is memory that clients fill, so every table is bounded: in bytes, because one request may be as
//! large as an entry; and in number where requests of few bytes would cost more in tree nodes than in payload. A bound
//! is checked before a request is added, and the refusal is *busy*, which promises that the request had no effect. The
//! sums are kept as requests come and go, since a walk at each request would make a full table slow exactly when it is
//! full. A sum that drifted would refuse requests forever, or never again, and no test of one request would show it:
//! hence the laws in each `check`.

use super::event::Caller;
use crate::api::{Outcome, Refusal, Reply, Request};
use crate::consensus::reads::ReadId;
use crate::limits::ADDRESS_BYTES_MAX;
use crate::types::{Index, NodeId, Position, Term, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many requests a table may hold for its sums to be counted again after each change, in builds with debug
/// assertions. A wrong sum is wrong from the first request on; a count of all of a large table would make each test of
/// many callers quadratic.
const COUNTED_MAX: usize = 64;

/// Whether a running sum of bytes is the sum of a table's requests, as far as that is cheap to know.
pub(super) fn sum_is_right(sum: u64, len: usize, sizes: impl Iterator<Item = u64>) -> bool {
    len > COUNTED_MAX || sum == sizes.sum::<u64>()
}

/// One request of one caller.
///
/// It is kept whole while it waits, not only as a ticket: a read whose round failed, or a request whose leader refused
/// it without effect, is handled again from the start, perhaps by another path.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    /// The caller.
    pub from: Caller,
    /// The caller's id for it.
    pub id: u64,
    /// Whether to forward it to the leader rather than to name the leader.
    pub forward: bool,
    /// The deadline while it waits for a leader. It is set once, when the request arrives: a request that is parked,
    /// forwarded, refused and parked again must not wait anew each time, or it would outlive its client's patience.
    pub until: Time,
    /// The request itself.
    pub request: Request,
}

impl ClientRequest {
    /// Size in bytes, without its frame.
    ///
    /// The size must not change while the request waits: a table adds it on entry and subtracts it on exit. A change
    /// counts as the longest address it may name, as an estimate that needs no walk; requests that never wait in a
    /// table that counts bytes are free.
    pub fn bytes(&self) -> u64 {
        match &self.request {
            Request::Propose { op } => op.len() as u64,
            Request::Query { query, .. } => query.len() as u64,
            Request::Status | Request::Snapshot | Request::ReadSnapshot { .. } => 0,
            Request::Transfer { .. } | Request::LogLevel(_) => 0,
            Request::Change { .. } => ADDRESS_BYTES_MAX as u64,
        }
    }

    /// Whether a retry on another node could apply it twice.
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
/// be truncated, and another leader's entry take its index. A client answered by index would be told of another
/// client's outcome (the switch `answer-by-index` reproduces it).
///
/// Invariant: indexes ascend. Settling reads only the front, so a proposal behind a later one would wait until that one
/// is applied, and then be answered *unknown* though its outcome was known.
#[derive(Clone, Debug, Default)]
pub struct Proposals {
    waiting: VecDeque<(Position, Caller, u64)>,
}

impl Proposals {
    /// Adds a proposal that was appended at `position`.
    ///
    /// Positions ascend although the log may shrink: it shrinks only under another leader, and before this node leads
    /// again [`Proposals::abandon`] has removed all proposals that are not committed.
    pub fn push(&mut self, position: Position, from: Caller, id: u64) {
        let follows = self.last().is_none_or(|last| last.index < position.index);
        assert!(follows, "proposals wait in log order: a leader only appends to its log (§5.3)");
        self.waiting.push_back((position, from, id));
    }

    /// Answers the proposal that was applied at `at`, and fails every older one.
    ///
    /// A proposal with that index in another term cannot be answered: its entry was dropped, or may yet be committed at
    /// another index. Its caller receives *unknown*, never a wrong outcome.
    ///
    /// An older proposal that is still here had no outcome of its own, so it is not the entry that was applied at its
    /// index either. `by_index` breaks the rule for a test.
    pub fn settle(&mut self, at: Position, outcome: Outcome, by_index: bool, out: &mut Vec<(Caller, u64, Reply)>) {
        while let Some((position, from, id)) = self.waiting.front().copied()
            && position.index <= at.index
        {
            self.waiting.pop_front();
            let ours = position == at || (by_index && position.index == at.index);
            let outcome = outcome.clone();
            let reply = if ours { Reply::Done { position: at, outcome } } else { Reply::Unknown };
            out.push((from, id, reply));
        }
    }

    /// Answers *unknown* to every remaining proposal up to `upto`: all of these indexes were applied.
    ///
    /// A batch that ends in a leader's no-op has no outcome at its last index, and a snapshot that replaces the machine
    /// has none at all. Without this call a proposal there would wait for an outcome that never comes.
    pub fn pass(&mut self, upto: Index, out: &mut Vec<(Caller, u64, Reply)>) {
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
    /// a command that is applied yet (the switch `unknown-as-refused`).
    pub fn abandon(&mut self, commit: Index, leads: Option<Term>, reply: &Reply, out: &mut Vec<(Caller, u64, Reply)>) {
        self.waiting.retain(|(position, from, id)| {
            let stays = position.index <= commit || Some(position.term) == leads;
            if !stays {
                out.push((*from, *id, reply.clone()));
            }
            stays
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

/// Waiting requests by caller. When a caller disconnects only its own requests are visited: many callers disconnect at
/// once when a balancer dies.
///
/// An ordered set of pairs, not a map of lists: one caller's keys are a range of it, a single key is removed without a
/// search through a list, and a caller without requests takes no room.
#[derive(Clone, Debug)]
struct ByCaller<K>(BTreeSet<(Caller, K)>);

impl<K> Default for ByCaller<K> {
    fn default() -> ByCaller<K> {
        ByCaller(BTreeSet::new())
    }
}

impl<K: Ord + Copy> ByCaller<K> {
    fn insert(&mut self, caller: Caller, key: K) {
        let is_new = self.0.insert((caller, key));
        assert!(is_new, "a number is given to one waiting request only");
    }

    fn remove(&mut self, caller: Caller, key: K) {
        self.0.remove(&(caller, key));
    }

    /// Takes the keys of that caller from `first` on.
    fn take(&mut self, caller: Caller, first: K) -> Vec<K> {
        let of_caller = self.0.range((caller, first)..).take_while(|(other, _)| *other == caller);
        let keys: Vec<K> = of_caller.map(|(_, key)| *key).collect();
        keys.iter().for_each(|key| self.remove(caller, *key));
        keys
    }
}

/// Requests that wait for a leader, oldest first. Bounded in number and bytes.
///
/// An election takes a few hundred milliseconds. A refusal at once would make each of them visible to every client; a
/// wait without a deadline would hide from clients that a majority is down.
///
/// The requests leave in the order of their arrival, because a caller's later request must not overtake its earlier
/// one. Their deadlines have another order, hence a second index: a request that was forwarded first and is parked
/// again keeps its deadline, and is younger here than requests with later ones.
///
/// Invariants: each request is listed once by caller and once by deadline; `bytes` is the sum of their sizes.
#[derive(Clone, Debug, Default)]
pub struct Parked {
    given: u64,
    waiting: BTreeMap<u64, ClientRequest>,
    by_caller: ByCaller<u64>,
    deadlines: BTreeSet<(Time, u64)>,
    bytes: u64,
}

impl Parked {
    /// Parks a request, or refuses it as busy when a bound is reached.
    ///
    /// The refused request comes back to the node, which counts the failure and answers the caller. It is boxed because
    /// a `Result` is as large as its error, and nearly every call succeeds.
    pub fn push(
        &mut self,
        asked: ClientRequest,
        most: usize,
        most_bytes: u64,
    ) -> Result<(), Box<(ClientRequest, Refusal)>> {
        if self.waiting.len() >= most || self.bytes + asked.bytes() > most_bytes {
            return Err(Box::new((asked, Refusal::Busy)));
        }
        self.given += 1;
        self.bytes += asked.bytes();
        self.by_caller.insert(asked.from, self.given);
        self.deadlines.insert((asked.until, self.given));
        self.waiting.insert(self.given, asked);
        self.check();
        Ok(())
    }

    /// Takes all of them, oldest first.
    ///
    /// The table is empty before the first one is handled: handling a request may park it again, or park others behind
    /// it, and those belong to the next round. The numbers go on, so that requests parked again come after all of
    /// these.
    pub fn take(&mut self) -> impl Iterator<Item = ClientRequest> + use<> {
        let given = self.given;
        std::mem::replace(self, Parked { given, ..Parked::default() }).waiting.into_values()
    }

    fn remove(&mut self, number: u64) -> Option<ClientRequest> {
        let asked = self.waiting.remove(&number)?;
        self.bytes -= asked.bytes();
        self.by_caller.remove(asked.from, number);
        self.deadlines.remove(&(asked.until, number));
        Some(asked)
    }

    /// Takes the requests whose deadline has passed, in the order of their arrival: the replies of one caller keep the
    /// order of its requests.
    pub fn expired(&mut self, now: Time) -> Vec<ClientRequest> {
        // Forwarded requests that are parked again keep their deadlines, so the oldest deadline need not be first.
        let due = self.deadlines.iter().take_while(|(until, _)| *until <= now);
        let mut due: Vec<u64> = due.map(|(_, number)| *number).collect();
        due.sort_unstable();
        let expired = due.into_iter().filter_map(|number| self.remove(number)).collect();
        self.check();
        expired
    }

    /// The earliest deadline.
    pub fn deadline(&self) -> Time {
        self.deadlines.first().map_or(Time::NEVER, |(until, _)| *until)
    }

    /// Drops all requests of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        for number in self.by_caller.take(caller, 0) {
            self.remove(number);
        }
        self.check();
    }

    /// Panics if the indexes or the sum disagree with the requests.
    fn check(&self) {
        let len = self.waiting.len();
        assert_eq!(self.by_caller.0.len(), len, "each parked request is listed once by its caller");
        assert_eq!(self.deadlines.len(), len, "each parked request has one deadline: without it, it waits forever");
        assert!(len > 0 || self.bytes == 0, "parked requests that are gone take no bytes of the limit");
        let sizes = self.waiting.values().map(ClientRequest::bytes);
        debug_assert!(sum_is_right(self.bytes, len, sizes), "the parked bytes are those of the parked requests");
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
/// commit index at the start of the round; the state that holds it is recent enough. The second wait ends when the
/// entries are *submitted*, not when they are applied: the applier works in order, so a query submitted behind them
/// sees them.
///
/// A read appends nothing to the log, so a cluster of readers writes nothing to its disks.
///
/// Invariants: each waiting read is listed once by its caller; `bytes` is the sum of their sizes.
#[derive(Clone, Debug, Default)]
pub struct LinearizableReads {
    waiting: BTreeMap<ReadId, ClientRequest>,
    /// Reads whose round is confirmed, in order of their rounds. Reads of callers that are gone are no longer in
    /// `waiting`. They stay here until their turn comes: a removal from the middle would be a walk for each of them.
    confirmed: VecDeque<(Index, ReadId)>,
    by_caller: ByCaller<ReadId>,
    bytes: u64,
}

impl LinearizableReads {
    /// Adds a read that waits for its round.
    pub fn push(&mut self, read: ReadId, asked: ClientRequest) {
        let is_later = self.waiting.last_key_value().is_none_or(|(latest, _)| *latest < read);
        assert!(is_later, "the core gives no number to two reads: a late round would answer the wrong one");
        self.bytes += asked.bytes();
        self.by_caller.insert(asked.from, read);
        self.waiting.insert(read, asked);
        self.check();
    }

    /// Bytes of all waiting reads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records that the round of `read` is confirmed: the read needs every entry up to `index`. A read whose caller is
    /// gone is unknown here, and is dropped: the core does not learn of callers.
    pub fn confirm(&mut self, read: ReadId, index: Index) {
        if self.waiting.contains_key(&read) {
            self.confirmed.push_back((index, read));
        }
    }

    /// Removes a read whose round failed, and returns its request.
    ///
    /// The caller of this function retries it. That is always safe: a read leaves no trace.
    pub fn lose(&mut self, read: ReadId) -> Option<ClientRequest> {
        let lost = self.remove(read);
        self.check();
        lost
    }

    fn remove(&mut self, read: ReadId) -> Option<ClientRequest> {
        let lost = self.waiting.remove(&read)?;
        self.bytes -= lost.bytes();
        self.by_caller.remove(lost.from, read);
        Some(lost)
    }

    /// Number of waiting reads.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no read waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next read whose read index is at most `fed`, the last index submitted to the applier.
    pub fn next(&mut self, fed: Index) -> Option<ClientRequest> {
        // Rounds are confirmed in order, so their read indexes never decrease under one leader. After a change of
        // leader a lower one may stand behind a higher one; it then waits longer than it needs, and misses nothing.
        while let Some((_, read)) = self.confirmed.pop_front_if(|(index, _)| *index <= fed) {
            if let Some(asked) = self.lose(read) {
                return Some(asked);
            }
        }
        None
    }

    /// Drops all reads of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        for read in self.by_caller.take(caller, ReadId(0)) {
            self.remove(read);
        }
        self.check();
    }

    /// Panics if the index or the sum disagree with the reads.
    fn check(&self) {
        let len = self.waiting.len();
        assert_eq!(self.by_caller.0.len(), len, "each waiting read is listed once by its caller");
        assert!(len > 0 || self.bytes == 0, "reads that are gone take no bytes of the limit");
        let sizes = self.waiting.values().map(ClientRequest::bytes);
        debug_assert!(sum_is_right(self.bytes, len, sizes), "the bytes of reads are those of the waiting reads");
    }
}

/// Requests forwarded to a leader. A follower forwards, rather than redirect, for clients that ask for it: those behind
/// a balancer reach any node, and cannot choose another. Bounded by [`super::Options::forwarded`], and in bytes.
///
/// Their ids start at a random number: a leader may answer late a request that an earlier run of this process
/// forwarded, and such an answer must match no request.
///
/// A request is known by its id *and* by the node it was sent to. An answer of another node is not an answer to it:
/// that node may answer a request of an earlier run, or be at fault.
///
/// Invariants: each request is listed once by its caller; `bytes` is the sum of their sizes.
#[derive(Clone, Debug)]
pub struct Forwarded {
    given: u64,
    waiting: BTreeMap<u64, (NodeId, ClientRequest)>,
    by_caller: ByCaller<u64>,
    bytes: u64,
}

impl Forwarded {
    /// Creates an empty set; the first request will have the id after `number`.
    pub fn after(number: u64) -> Forwarded {
        Forwarded { given: number, waiting: BTreeMap::new(), by_caller: ByCaller::default(), bytes: 0 }
    }

    /// Adds a request forwarded to `to`, and returns its id. The ids wrap: they start anywhere.
    pub fn push(&mut self, to: NodeId, asked: ClientRequest) -> u64 {
        self.given = self.given.wrapping_add(1);
        self.bytes += asked.bytes();
        self.by_caller.insert(asked.from, self.given);
        let before = self.waiting.insert(self.given, (to, asked));
        assert!(before.is_none(), "the id of a forwarded request names no other unanswered one");
        self.check();
        self.given
    }

    /// Bytes of all forwarded requests.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes the request that the node `from` answered, and returns it.
    ///
    /// `None` is no error: the caller is gone, the leader changed and the request was answered *unknown*, or the answer
    /// is for an earlier run of this process. A peer decides what arrives here, so nothing is asserted about it.
    pub fn answered(&mut self, from: NodeId, id: u64) -> Option<ClientRequest> {
        self.waiting.get(&id).filter(|(to, _)| *to == from)?;
        let asked = self.remove(id);
        self.check();
        asked
    }

    fn remove(&mut self, id: u64) -> Option<ClientRequest> {
        let (_, asked) = self.waiting.remove(&id)?;
        self.bytes -= asked.bytes();
        self.by_caller.remove(asked.from, id);
        Some(asked)
    }

    /// Takes all requests forwarded to a node other than `leader`: no answer can be expected. A deposed leader may
    /// still answer, but it may also be the one that is cut off, and waiting for it is what clients would notice.
    pub fn misrouted(&mut self, leader: Option<NodeId>) -> Vec<ClientRequest> {
        self.take(|to| Some(to) != leader)
    }

    /// Takes all requests forwarded to `peer`, because the connection that carried them or their answers broke. Each
    /// may have arrived or not: frames that the kernel accepted say nothing about the other side.
    pub fn lost(&mut self, peer: NodeId) -> Vec<ClientRequest> {
        self.take(|to| to == peer)
    }

    fn take(&mut self, gone: impl Fn(NodeId) -> bool) -> Vec<ClientRequest> {
        let ids: Vec<u64> = self.waiting.iter().filter(|(_, (to, _))| gone(*to)).map(|(id, _)| *id).collect();
        let taken = ids.into_iter().filter_map(|id| self.remove(id)).collect();
        self.check();
        taken
    }

    /// Drops all requests of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        for id in self.by_caller.take(caller, 0) {
            self.remove(id);
        }
        self.check();
    }

    /// Panics if the index or the sum disagree with the requests.
    fn check(&self) {
        let len = self.waiting.len();
        assert_eq!(self.by_caller.0.len(), len, "each forwarded request is listed once by its caller");
        assert!(len > 0 || self.bytes == 0, "forwarded requests that are gone take no bytes of the limit");
        let sizes = self.waiting.values().map(|(_, asked)| asked.bytes());
        debug_assert!(sum_is_right(self.bytes, len, sizes), "the forwarded bytes are those of the waiting requests");
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

/// The query bytes of a request, if it is a query. The kinds are listed one by one, so that a new kind of request must
/// be decided here.
pub fn query_of(request: Request) -> Option<Bytes> {
    match request {
        Request::Query { query, .. } => Some(query),
        Request::Propose { .. }
        | Request::Status
        | Request::Snapshot
        | Request::ReadSnapshot { .. }
        | Request::Change { .. }
        | Request::Transfer { .. }
        | Request::LogLevel(_) => None,
    }
}

#[cfg(test)]
mod tests;
