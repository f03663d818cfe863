//! The blocking client's protocol, driven step by step without sockets.

use super::*;
use crate::types::{Index, Position, Term};

const POSITION: Position = Position::new(Index(9), Term(1));

fn protocol(endpoints: &[&str]) -> CallProtocol {
    let endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
    CallProtocol::new(endpoints, Options::default(), Time::ZERO, 1)
}

fn done_reply(outcome: Outcome) -> Reply {
    Reply::Done { position: POSITION, outcome }
}

fn executed_outcome() -> Outcome {
    Outcome::Executed { answer: Bytes::from_static(b"a"), duplicate: false }
}

/// Executes the protocol's steps until a request was sent, and returns it. Pauses take no time.
fn run_until_sent(protocol: &mut CallProtocol, now: &mut Time) -> Request {
    loop {
        match protocol.next_step(*now) {
            CallStep::Pause { until } => *now = until,
            CallStep::Dial { endpoint, .. } => protocol.dial_succeeded(endpoint, NodeId::new(1)),
            CallStep::Send { request, .. } => {
                protocol.request_sent(*now);
                return request;
            }
            step => panic!("the protocol sends no request: {step:?}"),
        }
    }
}

/// A protocol with a session, which has sent a command.
fn protocol_after_sending(now: &mut Time) -> CallProtocol {
    let mut protocol = protocol(&["n1:1"]);
    protocol.start_command(*now, Bytes::from_static(b"c"));
    let Request::Propose { op } = run_until_sent(&mut protocol, now) else { panic!("the session is opened first") };
    assert_eq!(Op::decode(op), Ok(Op::Open { window: 1, ordered: false }));
    protocol.reply_received(*now, done_reply(Outcome::Opened { session: SessionId(7) }));
    assert_eq!(session_and_seq(&run_until_sent(&mut protocol, now)), (7, 1));
    protocol
}

fn session_and_seq(request: &Request) -> (u64, u64) {
    let Request::Propose { op } = request else { panic!("a command is expected: {request:?}") };
    let Ok(Op::Execute { session, seq, .. }) = Op::decode(op.clone()) else {
        panic!("an Execute operation is expected")
    };
    (session.0, seq)
}

fn exit_code(protocol: &mut CallProtocol, now: Time) -> i32 {
    match protocol.next_step(now) {
        CallStep::Done(Err(error)) => error.exit_code(),
        step => panic!("the call has not failed: {step:?}"),
    }
}

#[test]
fn command_is_retried_with_its_number_until_answered() {
    let mut now = Time::ZERO;
    let mut protocol = protocol_after_sending(&mut now);
    protocol.connection_lost(now, "the connection is lost");
    assert!(!protocol.is_connected());
    assert_eq!(session_and_seq(&run_until_sent(&mut protocol, &mut now)), (7, 1));
    protocol.reply_received(now, Reply::Unknown);
    assert_eq!(session_and_seq(&run_until_sent(&mut protocol, &mut now)), (7, 1));
    protocol.reply_received(now, done_reply(executed_outcome()));
    assert_eq!(protocol.next_step(now), CallStep::Done(Ok(done_reply(executed_outcome()))));
}

/// Nodes may differ in their size limits, so an earlier attempt may have been accepted (exit code 4). Otherwise nothing
/// was applied (exit code 2).
#[test]
fn outcome_of_oversized_command_is_unknown_after_lost_attempt() {
    for (uncertain, code) in [(false, 2), (true, 4)] {
        let mut now = Time::ZERO;
        let mut protocol = protocol_after_sending(&mut now);
        if uncertain {
            protocol.connection_lost(now, "the connection is lost");
            run_until_sent(&mut protocol, &mut now);
        }
        protocol.reply_received(now, Reply::Refused(Refusal::TooLarge { bytes: 9, limit: 8 }));
        assert_eq!(exit_code(&mut protocol, now), code);
    }
}

/// If the session expires, a command that was sent has an unknown outcome. A command that every node refused is sent in
/// the next session.
#[test]
fn expired_session_is_replaced_unless_command_is_in_doubt() {
    let mut now = Time::ZERO;
    let mut refused_protocol = protocol_after_sending(&mut now);
    refused_protocol.reply_received(now, Reply::Refused(Refusal::Busy));
    assert_eq!(session_and_seq(&run_until_sent(&mut refused_protocol, &mut now)), (7, 1));
    refused_protocol.reply_received(now, done_reply(Outcome::SessionExpired));
    let Request::Propose { op } = run_until_sent(&mut refused_protocol, &mut now) else {
        panic!("the session is opened first")
    };
    assert!(matches!(Op::decode(op), Ok(Op::Open { .. })));
    refused_protocol.reply_received(now, done_reply(Outcome::Opened { session: SessionId(8) }));
    assert_eq!(session_and_seq(&run_until_sent(&mut refused_protocol, &mut now)), (8, 1));

    let mut uncertain_protocol = protocol_after_sending(&mut now);
    uncertain_protocol.connection_lost(now, "the connection is lost");
    run_until_sent(&mut uncertain_protocol, &mut now);
    uncertain_protocol.reply_received(now, done_reply(Outcome::SessionExpired));
    assert!(matches!(uncertain_protocol.next_step(now), CallStep::Done(Err(ClientError::SessionExpired))));
    assert_eq!(uncertain_protocol.session(), None);
}

#[test]
fn error_of_an_attempt_that_the_deadline_cut_short_hides_no_earlier_one() {
    let (mut now, deadline) = (Time::ZERO, Time::ZERO + Options::default().timeout);
    let mut protocol = protocol(&["n1:1"]);
    protocol.start_command(now, Bytes::new());
    let error = loop {
        match protocol.next_step(now) {
            CallStep::Pause { until } => now = until,
            CallStep::Dial { endpoint, until } if until < deadline => {
                protocol.dial_failed(now, &endpoint, "refused: another state machine");
            }
            CallStep::Dial { endpoint, until } => {
                now = until;
                protocol.dial_failed(now, &endpoint, "no welcome in time");
            }
            CallStep::Done(Err(error)) => break error,
            step => panic!("the node was not reached: {step:?}"),
        }
    };
    assert_eq!(error.to_string(), "n1:1: refused: another state machine");
}

#[test]
fn outcome_at_timeout_is_unknown_only_if_a_request_was_sent() {
    let mut now = Time::ZERO;
    let mut unreachable_protocol = protocol(&["n1:1"]);
    unreachable_protocol.start_command(now, Bytes::new());
    let exit_code_at_timeout = loop {
        match unreachable_protocol.next_step(now) {
            CallStep::Pause { until } => now = until,
            CallStep::Dial { endpoint, .. } => unreachable_protocol.dial_failed(now, &endpoint, "connection refused"),
            CallStep::Done(result) => break result.unwrap_err().exit_code(),
            step => panic!("{step:?}"),
        }
    };
    assert_eq!((exit_code_at_timeout, now), (3, Time::ZERO + Options::default().timeout));

    now = Time::ZERO;
    let mut protocol = protocol_after_sending(&mut now);
    protocol.connection_lost(now, "the connection is lost");
    assert_eq!(exit_code(&mut protocol, now + Options::default().timeout), 4);
}

#[test]
fn client_leaves_silent_node_only_for_another_leader() {
    let (mut now, mut protocol) = (Time::ZERO, protocol(&["n1:1", "n2:1"]));
    protocol.start_request(now, Request::Status);
    run_until_sent(&mut protocol, &mut now);
    let CallStep::Wait { until } = protocol.next_step(now) else { panic!("the client waits for the answer") };
    assert_eq!(until, now + Options::default().leader_query_delay);
    now = until;
    protocol.reply_timed_out(now, "no answer in time");
    let refusal_naming = |leader| {
        let refusal = Refusal::NotLeader { leader: NodeId::new(leader), address: Some("n3:1".into()), term: Term(1) };
        Some((NodeId::new(2), Reply::Refused(refusal)))
    };
    assert!(matches!(protocol.next_step(now), CallStep::QueryOtherNode { .. }));
    protocol.other_node_answered(now, refusal_naming(1));
    let CallStep::Wait { until } = protocol.next_step(now) else {
        panic!("the node is still the leader: the client waits for its answer")
    };
    assert_eq!(until, now + 2 * Options::default().leader_query_delay);
    now = until;
    protocol.reply_timed_out(now, "no answer in time");
    assert!(matches!(protocol.next_step(now), CallStep::QueryOtherNode { .. }));
    protocol.other_node_answered(now, refusal_naming(3));
    assert!(protocol.is_uncertain() && !protocol.is_connected());
    let CallStep::Pause { until } = protocol.next_step(now) else {
        panic!("the client pauses before it connects again")
    };
    assert!(matches!(protocol.next_step(until), CallStep::Dial { endpoint, .. } if endpoint == "n3:1"));
}
