//! The blocking client's protocol, step by step, without sockets.

use super::*;
use crate::types::{Index, Position, Term};

const ANSWERED: Position = Position::new(Index(9), Term(1));

fn protocol(endpoints: &[&str]) -> CallProtocol {
    let endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
    CallProtocol::new(endpoints, Options::default(), Time::ZERO, 1)
}

fn done(outcome: Outcome) -> Reply {
    Reply::Done { position: ANSWERED, outcome }
}

fn executed() -> Outcome {
    Outcome::Executed { answer: Bytes::from_static(b"a"), duplicate: false }
}

/// Executes the protocol's steps until a request was sent, and returns it. Pauses take no time.
fn sent(protocol: &mut CallProtocol, now: &mut Time) -> Request {
    loop {
        match protocol.step(*now) {
            Step::Pause { until } => *now = until,
            Step::Dial { endpoint, .. } => protocol.dialed(endpoint, NodeId::new(1)),
            Step::Send { request, .. } => {
                protocol.sent(*now);
                return request;
            }
            step => panic!("the protocol sends no request: {step:?}"),
        }
    }
}

/// A protocol with a session, which has sent a command.
fn executing(now: &mut Time) -> CallProtocol {
    let mut protocol = protocol(&["n1:1"]);
    protocol.execute(*now, Bytes::from_static(b"c"));
    let Request::Propose { op } = sent(&mut protocol, now) else { panic!("the session is opened first") };
    assert_eq!(Op::decode(op), Ok(Op::Open { window: 1, ordered: false }));
    protocol.answered(*now, done(Outcome::Opened { session: SessionId(7) }));
    assert_eq!(number(&sent(&mut protocol, now)), (7, 1));
    protocol
}

fn number(request: &Request) -> (u64, u64) {
    let Request::Propose { op } = request else { panic!("a command is expected: {request:?}") };
    let Ok(Op::Execute { session, seq, .. }) = Op::decode(op.clone()) else {
        panic!("an Execute operation is expected")
    };
    (session.0, seq)
}

fn exit_code(protocol: &mut CallProtocol, now: Time) -> i32 {
    match protocol.step(now) {
        Step::Done(Err(error)) => error.exit_code(),
        step => panic!("the call has not failed: {step:?}"),
    }
}

#[test]
fn command_is_retried_with_its_number_until_answered() {
    let mut now = Time::ZERO;
    let mut protocol = executing(&mut now);
    protocol.lost(now, "the connection is lost");
    assert!(!protocol.is_connected());
    assert_eq!(number(&sent(&mut protocol, &mut now)), (7, 1));
    protocol.answered(now, Reply::Unknown);
    assert_eq!(number(&sent(&mut protocol, &mut now)), (7, 1));
    protocol.answered(now, done(executed()));
    assert_eq!(protocol.step(now), Step::Done(Ok(done(executed()))));
}

/// Nodes may differ in their size limits. Without doubt nothing was applied: 2.
#[test]
fn oversized_command_after_lost_attempt_is_unknown() {
    for (uncertain, code) in [(false, 2), (true, 4)] {
        let mut now = Time::ZERO;
        let mut protocol = executing(&mut now);
        if uncertain {
            protocol.lost(now, "the connection is lost");
            sent(&mut protocol, &mut now);
        }
        protocol.answered(now, Reply::Refused(Refusal::TooLarge { bytes: 9, limit: 8 }));
        assert_eq!(exit_code(&mut protocol, now), code);
    }
}

/// An expired session makes a doubtful command unknown; a rejected command continues in the next session.
#[test]
fn expired_session_is_replaced_unless_command_is_in_doubt() {
    let mut now = Time::ZERO;
    let mut certain = executing(&mut now);
    certain.answered(now, Reply::Refused(Refusal::Busy));
    assert_eq!(number(&sent(&mut certain, &mut now)), (7, 1));
    certain.answered(now, done(Outcome::SessionExpired));
    let Request::Propose { op } = sent(&mut certain, &mut now) else { panic!("the session is opened first") };
    assert!(matches!(Op::decode(op), Ok(Op::Open { .. })));
    certain.answered(now, done(Outcome::Opened { session: SessionId(8) }));
    assert_eq!(number(&sent(&mut certain, &mut now)), (8, 1));

    let mut doubtful = executing(&mut now);
    doubtful.lost(now, "the connection is lost");
    sent(&mut doubtful, &mut now);
    doubtful.answered(now, done(Outcome::SessionExpired));
    assert!(matches!(doubtful.step(now), Step::Done(Err(ClientError::SessionExpired))));
    assert_eq!(doubtful.session(), None);
}

#[test]
fn timeout_is_unknown_only_if_a_request_was_sent() {
    let mut now = Time::ZERO;
    let mut unreached = protocol(&["n1:1"]);
    unreached.execute(now, Bytes::new());
    let code = loop {
        match unreached.step(now) {
            Step::Pause { until } => now = until,
            Step::Dial { endpoint, .. } => unreached.not_dialed(now, &endpoint, "connection refused"),
            Step::Done(result) => break result.unwrap_err().exit_code(),
            step => panic!("{step:?}"),
        }
    };
    assert_eq!((code, now), (3, Time::ZERO + Options::default().timeout));

    now = Time::ZERO;
    let mut protocol = executing(&mut now);
    protocol.lost(now, "the connection is lost");
    assert_eq!(exit_code(&mut protocol, now + Options::default().timeout), 4);
}

#[test]
fn silent_node_is_left_only_for_another_leader() {
    let (mut now, mut protocol) = (Time::ZERO, protocol(&["n1:1", "n2:1"]));
    protocol.ask(now, Request::Status);
    sent(&mut protocol, &mut now);
    let Step::Wait { until } = protocol.step(now) else { panic!("the client waits for the answer") };
    assert_eq!(until, now + Options::default().doubt);
    now = until;
    protocol.late(now, "no answer in time");
    let other = |leader| {
        let refusal = Refusal::NotLeader { leader: NodeId::new(leader), address: Some("n3:1".into()), term: Term(1) };
        Some((NodeId::new(2), Reply::Refused(refusal)))
    };
    assert!(matches!(protocol.step(now), Step::Consult { .. }));
    protocol.consulted(now, other(1));
    let Step::Wait { until } = protocol.step(now) else {
        panic!("the node is still the leader: the client waits for its answer")
    };
    assert_eq!(until, now + 2 * Options::default().doubt);
    now = until;
    protocol.late(now, "no answer in time");
    assert!(matches!(protocol.step(now), Step::Consult { .. }));
    protocol.consulted(now, other(3));
    assert!(protocol.is_uncertain() && !protocol.is_connected());
    let Step::Pause { until } = protocol.step(now) else { panic!("the client pauses before it connects again") };
    assert!(matches!(protocol.step(until), Step::Dial { endpoint, .. } if endpoint == "n3:1"));
}
