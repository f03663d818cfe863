//! The tables of waiting requests: their bounds, deadlines and callers.

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
