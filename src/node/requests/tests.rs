//! The tables of waiting requests: their bounds, deadlines and callers.

use super::*;

fn position(index: u64, term: u64) -> Position {
    Position::new(Index(index), Term(term))
}

#[test]
fn proposal_applied_in_another_term_is_answered_unknown() {
    let mut proposals = Proposals::default();
    let caller = Caller::Client(9);
    proposals.push(position(812, 3), caller, 44);
    proposals.push(position(813, 3), caller, 45);
    let mut out = Vec::new();
    proposals.answer_applied(position(812, 4), Outcome::Closed, false, &mut out);
    assert_eq!(out, [(caller, 44, Reply::Unknown)]);
    out.clear();
    proposals.answer_applied(position(813, 3), Outcome::Closed, false, &mut out);
    assert_eq!(out, [(caller, 45, Reply::Done { position: position(813, 3), outcome: Outcome::Closed })]);
}

#[test]
fn parked_requests_are_bounded_and_expire() {
    let mut parked = ParkedRequests::default();
    let client_request = |id, deadline| ClientRequest {
        from: Caller::Client(1),
        id,
        forward: false,
        deadline: Time(deadline),
        request: Request::Propose { op: Bytes::from_static(b"12345") },
    };
    parked.push(client_request(1, 20), 2, 100).unwrap();
    parked.push(client_request(2, 10), 2, 100).unwrap();
    assert_eq!(parked.push(client_request(3, 30), 2, 100).unwrap_err().1, Refusal::Busy);
    assert_eq!(parked.deadline(), Time(10));
    assert_eq!(parked.take_expired(Time(10)).iter().map(|client_request| client_request.id).collect::<Vec<_>>(), [2]);
    assert_eq!(parked.push(client_request(3, 30), 9, 9).unwrap_err().1, Refusal::Busy);
    parked.push(client_request(3, 30), 9, 10).unwrap();
    parked.forget(Caller::Client(1));
    assert!(parked.is_empty());
}

/// A balancer dies and ten thousand callers disconnect at once. Each caller's requests are looked up directly: a
/// walk over all waiting requests took seconds.
#[test]
fn disconnected_caller_drops_only_its_own_requests() {
    const CALLERS: u64 = 10_000;
    let (mut parked, mut linearizable, mut forwarded) =
        (ParkedRequests::default(), LinearizableReads::default(), ForwardedRequests::with_ids_after(u64::MAX - 5));
    let client_request = |from, id| ClientRequest {
        from: Caller::Client(from),
        id,
        forward: true,
        deadline: Time(id),
        request: Request::Propose { op: Bytes::from_static(b"12345") },
    };
    let mut read_count = 0;
    for id in 0..6 {
        for from in 0..CALLERS {
            parked.push(client_request(from, id), usize::MAX, u64::MAX).unwrap();
            forwarded.push(NodeId::new(1).unwrap(), client_request(from, id));
            read_count += 1;
            linearizable.push(ReadId(read_count), client_request(from, id));
            linearizable.confirm(ReadId(read_count), Index(read_count));
        }
    }
    for from in 1..CALLERS {
        let caller = Caller::Client(from);
        assert_eq!(parked.by_caller.0.range((caller, 0)..).take_while(|(other, _)| *other == caller).count(), 6);
        parked.forget(caller);
        linearizable.forget(caller);
        forwarded.forget(caller);
    }
    assert_eq!((parked.len(), parked.bytes, parked.by_caller.0.len(), parked.deadlines.len()), (6, 30, 6, 6));
    assert_eq!((linearizable.len(), linearizable.bytes(), linearizable.by_caller.0.len()), (6, 30, 6));
    assert_eq!((forwarded.len(), forwarded.bytes(), forwarded.by_caller.0.len()), (6, 30, 6));
    assert_eq!(parked.deadline(), Time(0));
    assert_eq!(
        parked.take_expired(Time(2)).iter().map(|client_request| client_request.id).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let remaining_reads: Vec<u64> = std::iter::from_fn(|| linearizable.take_ready(Index(u64::MAX)))
        .map(|client_request| client_request.id)
        .collect();
    assert_eq!(remaining_reads, [0, 1, 2, 3, 4, 5], "in the order of their read rounds");
    assert_eq!((linearizable.bytes(), linearizable.confirmed.len()), (0, 0));
    assert_eq!(parked.take_all().map(|client_request| client_request.id).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!((parked.len(), parked.bytes, parked.by_caller.0.len()), (0, 0, 0));
    assert_eq!(forwarded.take_misrouted(None).len(), 6);
    assert_eq!((forwarded.bytes(), forwarded.by_caller.0.len()), (0, 0));
}
