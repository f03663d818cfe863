//! Requests that wait: for a log index, a read index, a leader, or another node's answer.

use super::event::Caller;
use crate::api::{Outcome, Refusal, Reply, Request};
use crate::consensus::reads::ReadId;
use crate::limits::ADDRESS_BYTES_MAX;
use crate::types::{Index, NodeId, Position, Term, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One request of one caller.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    /// The caller.
    pub from: Caller,
    /// The caller's id for it.
    pub id: u64,
    /// Whether to forward it to the leader rather than to name the leader.
    pub forward: bool,
    /// The deadline while it waits for a leader.
    pub until: Time,
    /// The request itself.
    pub request: Request,
}

impl ClientRequest {
    /// Size in bytes, without its frame.
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
    pub fn is_write(&self) -> bool {
        matches!(self.request, Request::Propose { .. } | Request::Change { .. })
    }
}

/// Proposals not yet committed and applied, in log order.
#[derive(Clone, Debug, Default)]
pub struct Proposals {
    waiting: VecDeque<(Position, Caller, u64)>,
}

impl Proposals {
    /// Adds a proposal that was appended at `position`.
    pub fn push(&mut self, position: Position, from: Caller, id: u64) {
        self.waiting.push_back((position, from, id));
    }

    /// Answers the proposal that was applied at `at`, and fails every older one.
    ///
    /// A proposal with that index in another term cannot be answered: its entry was dropped, or may yet be committed at
    /// another index. Its caller receives *unknown*, never a wrong outcome.
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
    pub fn pass(&mut self, upto: Index, out: &mut Vec<(Caller, u64, Reply)>) {
        while let Some((_, from, id)) = self.waiting.pop_front_if(|(position, _, _)| position.index <= upto) {
            out.push((from, id, Reply::Unknown));
        }
    }

    /// Answers `reply` to all proposals of earlier terms that are not known to be committed: this node no longer leads,
    /// or leads another term, and they may be applied or not.
    pub fn abandon(&mut self, commit: Index, leads: Option<Term>, reply: &Reply, out: &mut Vec<(Caller, u64, Reply)>) {
        self.waiting.retain(|(position, from, id)| {
            let stays = position.index <= commit || Some(position.term) == leads;
            if !stays {
                out.push((*from, *id, reply.clone()));
            }
            stays
        });
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
#[derive(Clone, Debug)]
struct ByCaller<K>(BTreeSet<(Caller, K)>);

impl<K> Default for ByCaller<K> {
    fn default() -> ByCaller<K> {
        ByCaller(BTreeSet::new())
    }
}

impl<K: Ord + Copy> ByCaller<K> {
    fn insert(&mut self, caller: Caller, key: K) {
        self.0.insert((caller, key));
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
        Ok(())
    }

    /// Takes all of them, oldest first.
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

    /// Takes the requests whose deadline has passed.
    pub fn expired(&mut self, now: Time) -> Vec<ClientRequest> {
        // Forwarded requests that are parked again keep their deadlines, so the oldest deadline need not be first.
        let due = self.deadlines.iter().take_while(|(until, _)| *until <= now);
        let mut due: Vec<u64> = due.map(|(_, number)| *number).collect();
        due.sort_unstable();
        due.into_iter().filter_map(|number| self.remove(number)).collect()
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
#[derive(Clone, Debug, Default)]
pub struct LinearizableReads {
    waiting: BTreeMap<ReadId, ClientRequest>,
    /// Reads whose round is confirmed, in order of their rounds. Reads of callers that are gone are no longer in
    /// `waiting`.
    confirmed: VecDeque<(Index, ReadId)>,
    by_caller: ByCaller<ReadId>,
    bytes: u64,
}

impl LinearizableReads {
    /// Adds a read that waits for its round.
    pub fn push(&mut self, read: ReadId, asked: ClientRequest) {
        self.bytes += asked.bytes();
        self.by_caller.insert(asked.from, read);
        self.waiting.insert(read, asked);
    }

    /// Bytes of all waiting reads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records that the round of `read` is confirmed: the read needs every entry up to `index`.
    pub fn confirm(&mut self, read: ReadId, index: Index) {
        if self.waiting.contains_key(&read) {
            self.confirmed.push_back((index, read));
        }
    }

    /// Removes a read whose round failed, and returns its request.
    pub fn lose(&mut self, read: ReadId) -> Option<ClientRequest> {
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
        // Rounds are confirmed in order, so their read indexes never decrease.
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
            self.lose(read);
        }
    }
}

/// Requests forwarded to a leader. Bounded by [`super::Options::forwarded`], and in bytes.
///
/// Their ids start at a random number: a leader may answer late a request that an earlier run of this process
/// forwarded, and such an answer must match no request.
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

    /// Adds a request forwarded to `to`, and returns its id.
    pub fn push(&mut self, to: NodeId, asked: ClientRequest) -> u64 {
        self.given = self.given.wrapping_add(1);
        self.bytes += asked.bytes();
        self.by_caller.insert(asked.from, self.given);
        self.waiting.insert(self.given, (to, asked));
        self.given
    }

    /// Bytes of all forwarded requests.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes the request that the node `from` answered, and returns it.
    pub fn answered(&mut self, from: NodeId, id: u64) -> Option<ClientRequest> {
        self.waiting.get(&id).filter(|(to, _)| *to == from)?;
        self.remove(id)
    }

    fn remove(&mut self, id: u64) -> Option<ClientRequest> {
        let (_, asked) = self.waiting.remove(&id)?;
        self.bytes -= asked.bytes();
        self.by_caller.remove(asked.from, id);
        Some(asked)
    }

    /// Takes all requests forwarded to a node other than `leader`: no answer can be expected.
    pub fn misrouted(&mut self, leader: Option<NodeId>) -> Vec<ClientRequest> {
        self.take(|to| Some(to) != leader)
    }

    /// Takes all requests forwarded to `peer`.
    pub fn lost(&mut self, peer: NodeId) -> Vec<ClientRequest> {
        self.take(|to| to == peer)
    }

    fn take(&mut self, gone: impl Fn(NodeId) -> bool) -> Vec<ClientRequest> {
        let ids: Vec<u64> = self.waiting.iter().filter(|(_, (to, _))| gone(*to)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Drops all requests of a caller that is gone.
    pub fn forget(&mut self, caller: Caller) {
        for id in self.by_caller.take(caller, 0) {
            self.remove(id);
        }
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

/// Queries submitted to the applier and not yet answered, and local queries, which wait only for the next turn.
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
    }

    /// Takes all local queries.
    pub fn take_local(&mut self) -> Vec<ClientRequest> {
        self.bytes -= self.local.iter().map(ClientRequest::bytes).sum::<u64>();
        std::mem::take(&mut self.local)
    }

    /// Adds a query of `bytes` bytes submitted to the applier, and returns its ticket.
    pub fn push(&mut self, from: Caller, id: u64, bytes: u64) -> u64 {
        self.given += 1;
        self.bytes += bytes;
        self.waiting.insert(self.given, (from, id, bytes));
        self.given
    }

    /// Bytes of all queries that wait for the turn or the applier.
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

    /// Removes the query that the applier answered, and returns its caller and id.
    pub fn answered(&mut self, ticket: u64) -> Option<(Caller, u64)> {
        let (from, id, bytes) = self.waiting.remove(&ticket)?;
        self.bytes -= bytes;
        Some((from, id))
    }
}

/// The query bytes of a request, if it is a query.
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
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> Position {
        Position::new(Index(index), Term(term))
    }

    #[test]
    fn proposal_applied_in_another_term_is_unknown() {
        let mut proposals = Proposals::default();
        let caller = Caller::Client(9);
        proposals.push(at(812, 3), caller, 44);
        proposals.push(at(813, 3), caller, 45);
        let mut out = Vec::new();
        proposals.settle(at(812, 4), Outcome::Closed, false, &mut out);
        assert_eq!(out, [(caller, 44, Reply::Unknown)]);
        out.clear();
        proposals.settle(at(813, 3), Outcome::Closed, false, &mut out);
        assert_eq!(out, [(caller, 45, Reply::Done { position: at(813, 3), outcome: Outcome::Closed })]);
    }

    #[test]
    fn parked_requests_are_bounded_and_expire() {
        let mut parked = Parked::default();
        let asked = |id, until| ClientRequest {
            from: Caller::Client(1),
            id,
            forward: false,
            until: Time(until),
            request: Request::Propose { op: Bytes::from_static(b"12345") },
        };
        parked.push(asked(1, 20), 2, 100).unwrap();
        parked.push(asked(2, 10), 2, 100).unwrap();
        assert_eq!(parked.push(asked(3, 30), 2, 100).unwrap_err().1, Refusal::Busy);
        assert_eq!(parked.deadline(), Time(10));
        assert_eq!(parked.expired(Time(10)).iter().map(|asked| asked.id).collect::<Vec<_>>(), [2]);
        assert_eq!(parked.push(asked(3, 30), 9, 9).unwrap_err().1, Refusal::Busy);
        parked.push(asked(3, 30), 9, 10).unwrap();
        parked.forget(Caller::Client(1));
        assert!(parked.is_empty());
    }

    /// A balancer dies and ten thousand callers disconnect at once. Each caller's requests are looked up directly: a
    /// walk over all waiting requests took seconds.
    #[test]
    fn disconnected_caller_drops_only_its_own_requests() {
        const CALLERS: u64 = 10_000;
        let (mut parked, mut reading, mut forwarded) =
            (Parked::default(), LinearizableReads::default(), Forwarded::after(u64::MAX - 5));
        let asked = |from, id| ClientRequest {
            from: Caller::Client(from),
            id,
            forward: true,
            until: Time(id),
            request: Request::Propose { op: Bytes::from_static(b"12345") },
        };
        let mut reads = 0;
        for id in 0..6 {
            for from in 0..CALLERS {
                parked.push(asked(from, id), usize::MAX, u64::MAX).unwrap();
                forwarded.push(NodeId::new(1).unwrap(), asked(from, id));
                reads += 1;
                reading.push(ReadId(reads), asked(from, id));
                reading.confirm(ReadId(reads), Index(reads));
            }
        }
        for from in 1..CALLERS {
            let caller = Caller::Client(from);
            assert_eq!(parked.by_caller.0.range((caller, 0)..).take_while(|(other, _)| *other == caller).count(), 6);
            parked.forget(caller);
            reading.forget(caller);
            forwarded.forget(caller);
        }
        assert_eq!((parked.len(), parked.bytes, parked.by_caller.0.len(), parked.deadlines.len()), (6, 30, 6, 6));
        assert_eq!((reading.len(), reading.bytes(), reading.by_caller.0.len()), (6, 30, 6));
        assert_eq!((forwarded.len(), forwarded.bytes(), forwarded.by_caller.0.len()), (6, 30, 6));
        assert_eq!(parked.deadline(), Time(0));
        assert_eq!(parked.expired(Time(2)).iter().map(|asked| asked.id).collect::<Vec<_>>(), [0, 1, 2]);
        let left: Vec<u64> = std::iter::from_fn(|| reading.next(Index(u64::MAX))).map(|asked| asked.id).collect();
        assert_eq!(left, [0, 1, 2, 3, 4, 5], "in the order of their read rounds");
        assert_eq!((reading.bytes(), reading.confirmed.len()), (0, 0));
        assert_eq!(parked.take().map(|asked| asked.id).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!((parked.len(), parked.bytes, parked.by_caller.0.len()), (0, 0, 0));
        assert_eq!(forwarded.misrouted(None).len(), 6);
        assert_eq!((forwarded.bytes(), forwarded.by_caller.0.len()), (0, 0));
    }
}
