//! Who waits for what: an index, a read, a leader, or another node's answer.

use super::event::Caller;
use crate::api::{Outcome, Refusal, Reply, Request};
use crate::consensus::reads::ReadId;
use crate::limits::ADDRESS_BYTES_MAX;
use crate::types::{Index, NodeId, Position, Term, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One question of one caller.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    /// Who asks.
    pub from: Caller,
    /// Its number for it.
    pub id: u64,
    /// Whether to pass it on rather than to say where to ask.
    pub forward: bool,
    /// Until when it may wait for a leader.
    pub until: Time,
    /// What is asked.
    pub request: Request,
}

impl ClientRequest {
    /// How large it is, without its frame.
    pub fn bytes(&self) -> u64 {
        match &self.request {
            Request::Propose { op } => op.len() as u64,
            Request::Query { query, .. } => query.len() as u64,
            Request::Status | Request::Snapshot | Request::ReadSnapshot { .. } => 0,
            Request::Transfer { .. } | Request::LogLevel(_) => 0,
            Request::Change { .. } => ADDRESS_BYTES_MAX as u64,
        }
    }

    /// Whether asking again, elsewhere, could do something twice.
    pub fn is_write(&self) -> bool {
        matches!(self.request, Request::Propose { .. } | Request::Change { .. })
    }
}

/// Proposals on their way to being committed and applied, in the order of the log.
#[derive(Clone, Debug, Default)]
pub struct Proposals {
    waiting: VecDeque<(Position, Caller, u64)>,
}

impl Proposals {
    /// A proposal has its place.
    pub fn push(&mut self, position: Position, from: Caller, id: u64) {
        self.waiting.push_back((position, from, id));
    }

    /// What was applied at that position; whoever waited for it there, and what to tell them.
    ///
    /// Whoever waited for that index in another term waits in vain: what it proposed was dropped,
    /// or may yet come elsewhere. It is told *unknown*, never a lie.
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

    /// Everything up to there was applied: whoever still waits for any of it waits in vain.
    pub fn pass(&mut self, upto: Index, out: &mut Vec<(Caller, u64, Reply)>) {
        while let Some((_, from, id)) = self.waiting.pop_front_if(|(position, _, _)| position.index <= upto) {
            out.push((from, id, Reply::Unknown));
        }
    }

    /// This node leads no more, or another term: all of earlier terms that is not known to be committed
    /// may happen, or not.
    pub fn abandon(&mut self, commit: Index, leads: Option<Term>, reply: &Reply, out: &mut Vec<(Caller, u64, Reply)>) {
        self.waiting.retain(|(position, from, id)| {
            let stays = position.index <= commit || Some(position.term) == leads;
            if !stays {
                out.push((*from, *id, reply.clone()));
            }
            stays
        });
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Which of the requests that wait are whose: of a caller that goes, only its own are looked at. Many go at once when
/// a balancer dies.
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

    /// Takes the keys of that caller, which lie from `first` on.
    fn take(&mut self, caller: Caller, first: K) -> Vec<K> {
        let of_caller = self.0.range((caller, first)..).take_while(|(other, _)| *other == caller);
        let keys: Vec<K> = of_caller.map(|(_, key)| *key).collect();
        keys.iter().for_each(|key| self.remove(caller, *key));
        keys
    }
}

/// Requests that wait for a leader to be found, oldest first. Bounded in number and bytes.
#[derive(Clone, Debug, Default)]
pub struct Parked {
    given: u64,
    waiting: BTreeMap<u64, ClientRequest>,
    by_caller: ByCaller<u64>,
    deadlines: BTreeSet<(Time, u64)>,
    bytes: u64,
}

impl Parked {
    /// Lets it wait, or refuses it for want of room.
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

    /// Takes all of them, the oldest first.
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

    /// Takes those who have waited long enough.
    pub fn expired(&mut self, now: Time) -> Vec<ClientRequest> {
        // Requests that came back from elsewhere keep their deadlines, so the oldest need not be first.
        let due = self.deadlines.iter().take_while(|(until, _)| *until <= now);
        let mut due: Vec<u64> = due.map(|(_, number)| *number).collect();
        due.sort_unstable();
        due.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// When the next has waited long enough.
    pub fn deadline(&self) -> Time {
        self.deadlines.first().map_or(Time::NEVER, |(until, _)| *until)
    }

    /// Nobody waits for that caller's answers any more.
    pub fn forget(&mut self, caller: Caller) {
        for number in self.by_caller.take(caller, 0) {
            self.remove(number);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Linearizable reads: first waiting for their round, then for the applier to come so far.
#[derive(Clone, Debug, Default)]
pub struct LinearizableReads {
    waiting: BTreeMap<ReadId, ClientRequest>,
    /// Those whose round is confirmed, in order. Whose caller has gone since is not in `waiting`.
    confirmed: VecDeque<(Index, ReadId)>,
    by_caller: ByCaller<ReadId>,
    bytes: u64,
}

impl LinearizableReads {
    /// A read waits for its round.
    pub fn push(&mut self, read: ReadId, asked: ClientRequest) {
        self.bytes += asked.bytes();
        self.by_caller.insert(asked.from, read);
        self.waiting.insert(read, asked);
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its round is confirmed: it needs everything up to `index`.
    pub fn confirm(&mut self, read: ReadId, index: Index) {
        if self.waiting.contains_key(&read) {
            self.confirmed.push_back((index, read));
        }
    }

    /// Its round came to nothing.
    pub fn lose(&mut self, read: ReadId) -> Option<ClientRequest> {
        let lost = self.waiting.remove(&read)?;
        self.bytes -= lost.bytes();
        self.by_caller.remove(lost.from, read);
        Some(lost)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next read that needs no more than what the applier was given.
    pub fn next(&mut self, fed: Index) -> Option<ClientRequest> {
        // Rounds are confirmed in order, and so their indexes never fall.
        while let Some((_, read)) = self.confirmed.pop_front_if(|(index, _)| *index <= fed) {
            if let Some(asked) = self.lose(read) {
                return Some(asked);
            }
        }
        None
    }

    /// Nobody waits for that caller's answers any more.
    pub fn forget(&mut self, caller: Caller) {
        for read in self.by_caller.take(caller, ReadId(0)) {
            self.lose(read);
        }
    }
}

/// Requests passed on to a leader. Bounded by [`super::Options::forwarded`], and in bytes.
///
/// Their numbers begin at chance: a leader may answer, late, what an earlier run of this process
/// passed on, and that must be the answer to nothing.
#[derive(Clone, Debug)]
pub struct Forwarded {
    given: u64,
    waiting: BTreeMap<u64, (NodeId, ClientRequest)>,
    by_caller: ByCaller<u64>,
    bytes: u64,
}

impl Forwarded {
    /// None yet; the first will have the number after this one.
    pub fn after(number: u64) -> Forwarded {
        Forwarded { given: number, waiting: BTreeMap::new(), by_caller: ByCaller::default(), bytes: 0 }
    }

    /// Passed on to `to`, under the number that is returned.
    pub fn push(&mut self, to: NodeId, asked: ClientRequest) -> u64 {
        self.given = self.given.wrapping_add(1);
        self.bytes += asked.bytes();
        self.by_caller.insert(asked.from, self.given);
        self.waiting.insert(self.given, (to, asked));
        self.given
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// That node answered; whose question it was.
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

    /// Takes those that were passed on to anybody but `leader`: no answer can be waited for.
    pub fn misrouted(&mut self, leader: Option<NodeId>) -> Vec<ClientRequest> {
        self.take(|to| Some(to) != leader)
    }

    /// Takes those that were passed on to `peer`.
    pub fn lost(&mut self, peer: NodeId) -> Vec<ClientRequest> {
        self.take(|to| to == peer)
    }

    fn take(&mut self, gone: impl Fn(NodeId) -> bool) -> Vec<ClientRequest> {
        let ids: Vec<u64> = self.waiting.iter().filter(|(_, (to, _))| gone(*to)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Nobody waits for that caller's answers any more.
    pub fn forget(&mut self, caller: Caller) {
        for id in self.by_caller.take(caller, 0) {
            self.remove(id);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Queries given to the applier and not yet answered; and local ones, which wait for the turn and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Queries {
    local: Vec<ClientRequest>,
    given: u64,
    waiting: BTreeMap<u64, (Caller, u64, u64)>,
    bytes: u64,
}

impl Queries {
    /// A local query, to be given to the applier at the turn.
    pub fn push_local(&mut self, asked: ClientRequest) {
        self.bytes += asked.bytes();
        self.local.push(asked);
    }

    /// Takes the local ones.
    pub fn take_local(&mut self) -> Vec<ClientRequest> {
        self.bytes -= self.local.iter().map(ClientRequest::bytes).sum::<u64>();
        std::mem::take(&mut self.local)
    }

    /// A query of so many bytes, given to the applier under the number that is returned.
    pub fn push(&mut self, from: Caller, id: u64, bytes: u64) -> u64 {
        self.given += 1;
        self.bytes += bytes;
        self.waiting.insert(self.given, (from, id, bytes));
        self.given
    }

    /// How many bytes wait for the turn, or for the applier.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The applier answered; who asked.
    pub fn answered(&mut self, ticket: u64) -> Option<(Caller, u64)> {
        let (from, id, bytes) = self.waiting.remove(&ticket)?;
        self.bytes -= bytes;
        Some((from, id))
    }
}

/// The query of a request that is one.
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
    fn whoever_waits_for_an_index_of_another_term_is_told_unknown() {
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

    /// A balancer dies, and ten thousand callers are gone at once. Each is looked up by itself: what waits of others is
    /// not walked, which took seconds.
    #[test]
    fn of_a_caller_that_goes_only_its_own_requests_are_dropped() {
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
        assert_eq!(left, [0, 1, 2, 3, 4, 5], "in the order of their rounds");
        assert_eq!((reading.bytes(), reading.confirmed.len()), (0, 0));
        assert_eq!(parked.take().map(|asked| asked.id).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!((parked.len(), parked.bytes, parked.by_caller.0.len()), (0, 0, 0));
        assert_eq!(forwarded.misrouted(None).len(), 6);
        assert_eq!((forwarded.bytes(), forwarded.by_caller.0.len()), (0, 0));
    }
}
