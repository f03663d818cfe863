//! Tests of when a Redis connection sends requests to the node, and how it handles the replies, without a socket.

use super::*;
use crate::api::{Op, Outcome, Refusal, Request};
use crate::gateway::redis::dispatch::{RequestContext, handle_command};
use crate::gateway::redis::gateway::{ClusterView, FollowerPolicy, Options};
use crate::pipeline::{QUEUED_COMMANDS_MAX, READS_IN_FLIGHT_MAX, RETRY_INTERVAL, RETRY_TIMEOUT};
use crate::types::{ClusterId, Index, NodeId, Position, SessionId, Term};
use crate::wire::resp::CommandLimits;
use std::time::Duration;

/// A client's connection without a socket: its state, its clock, and its output.
struct Client {
    connection: RedisConnection,
    now: Time,
    out: BytesMut,
    output_full: bool,
}

fn cluster_view() -> ClusterView {
    let node = NodeId::new(1).unwrap();
    ClusterView {
        node,
        cluster: ClusterId(7),
        leader: Some(node),
        members: Vec::new(),
        voter_count: 1,
        follower_policy: FollowerPolicy::Forward,
        port: 7501,
        client_count: 1,
        clients_max: 10,
        accepted_clients: 1,
        received_commands: 0,
    }
}

impl Client {
    fn new() -> Client {
        let client = ClientState { is_authenticated: true, ..ClientState::default() };
        let now = Time::ZERO + Duration::from_secs(1);
        Client { connection: RedisConnection::new(client), now, out: BytesMut::new(), output_full: false }
    }

    /// A client with an open session whose id is `id`.
    fn in_session(id: u64) -> Client {
        let mut client = Client::new();
        client.connection.pipeline.handle_session_opened(client.now, Ok(SessionId(id)));
        client
    }

    /// Passes lines with inline commands to the connection. Returns the requests that the connection then sends.
    fn send_lines(&mut self, lines: &str) -> Vec<NodeRequest> {
        let mut input = BytesMut::from(lines.as_bytes());
        while let Some(args) = self.connection.reader.next(&mut input, CommandLimits::AUTHENTICATED).unwrap() {
            let options = Options::default();
            let context =
                RequestContext { now: self.now, options: &options, cluster_view: &cluster_view, stopping: false };
            assert!(handle_command(&mut self.connection, &args, &mut self.out, &context));
        }
        self.pump()
    }

    fn pump(&mut self) -> Vec<NodeRequest> {
        let mut requests = Vec::new();
        self.connection.pump(self.now, &mut self.out, self.output_full, &mut requests);
        requests
    }

    /// Passes an answer of the node to the connection. Returns the requests that the connection then sends.
    fn handle_reply(&mut self, number: u64, reply: Reply) -> Vec<NodeRequest> {
        self.connection.handle_reply(number, reply);
        self.pump()
    }

    fn pump_after(&mut self, duration: Duration) -> Vec<NodeRequest> {
        self.now = self.now + duration;
        self.pump()
    }

    fn take_output(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out).to_vec()).unwrap()
    }
}

fn executed_reply(answer: &Answer) -> Reply {
    let outcome = Outcome::Executed { answer: answer.encode(), duplicate: false };
    Reply::Done { position: Position::new(Index(9), Term(1)), outcome }
}

fn query_reply(answer: &Answer) -> Reply {
    Reply::Answer { applied: Index(9), answer: answer.encode() }
}

/// The number of a request, and for a write its session, its sequence number, and the first outstanding number.
type SentRequest = (u64, Option<(u64, u64, u64)>);

/// The numbers of requests, as [`SentRequest`]. None of the requests may open a session.
fn sent_requests(requests: &[NodeRequest]) -> Vec<SentRequest> {
    let to_sent_request = |request: &NodeRequest| match request {
        NodeRequest::OpenSession => panic!("a new session is requested, and none is expected"),
        NodeRequest::Send(number, Request::Propose { op }) => match Op::decode(op.clone()).unwrap() {
            Op::Execute { session, seq, first_outstanding, .. } => (*number, Some((session.0, seq, first_outstanding))),
            other => panic!("{other:?}"),
        },
        NodeRequest::Send(number, _) => (*number, None),
    };
    requests.iter().map(to_sent_request).collect()
}

#[test]
fn first_write_opens_a_session() {
    let mut client = Client::new();
    assert_eq!(sent_requests(&client.send_lines("GET k\r\n")), [(0, None)]);
    assert_eq!(client.send_lines("SET k v\r\n").len(), 0, "a write waits for the reads before it");
    let requests = client.handle_reply(0, query_reply(&Answer::Value(None)));
    assert!(matches!(requests[..], [NodeRequest::OpenSession]));
    assert_eq!(client.send_lines("SET k w\r\n").len(), 0);
    client.connection.pipeline.handle_session_opened(client.now, Ok(SessionId(5)));
    assert_eq!(sent_requests(&client.pump()), [(1, Some((5, 1, 1))), (2, Some((5, 2, 1)))]);
    assert_eq!(client.take_output(), "$-1\r\n");
}

#[test]
fn replies_keep_order_and_reads_wait_for_writes() {
    let mut client = Client::in_session(5);
    let requests = client.send_lines("SET a 1\r\nSET b 2\r\nPING\r\nGET a\r\nGET b\r\nSET a 3\r\n");
    assert_eq!(sent_requests(&requests), [(0, Some((5, 1, 1))), (1, Some((5, 2, 1)))]);
    assert_eq!(client.handle_reply(1, executed_reply(&Answer::Done)).len(), 0);
    assert_eq!(client.take_output(), "");
    assert_eq!(sent_requests(&client.handle_reply(0, executed_reply(&Answer::Done))), [(3, None), (4, None)]);
    assert_eq!(client.take_output(), "+OK\r\n+OK\r\n+PONG\r\n");
    assert_eq!(client.handle_reply(4, query_reply(&Answer::Value(None))).len(), 0);
    assert_eq!(sent_requests(&client.handle_reply(3, query_reply(&Answer::Value(None)))), [(5, Some((5, 3, 3)))]);
    assert_eq!(client.take_output(), "$-1\r\n$-1\r\n");
}

#[test]
fn lost_writes_are_retried_after_every_write_is_answered() {
    let mut client = Client::in_session(5);
    client.send_lines("INCR n\r\nINCR n\r\n");
    assert_eq!(client.handle_reply(0, Reply::Unknown).len(), 0);
    assert_eq!(client.send_lines("INCR n\r\n").len(), 0, "no write overtakes one that may be retried");
    assert_eq!(client.handle_reply(1, Reply::Refused(Refusal::Busy)).len(), 0);
    assert!(client.connection.pipeline.deadline() > client.now, "the retry is due later");
    let retried_requests = client.pump_after(RETRY_INTERVAL);
    assert_eq!(sent_requests(&retried_requests), [(0, Some((5, 1, 1))), (1, Some((5, 2, 1))), (2, Some((5, 3, 1)))]);
    for number in 0..3 {
        client.handle_reply(number, executed_reply(&Answer::Number(number as i64 + 1)));
    }
    assert_eq!(client.take_output(), ":1\r\n:2\r\n:3\r\n");
    assert_eq!(client.connection.pipeline.deadline(), Time::NEVER);
}

fn outcome_reply(outcome: Outcome) -> Reply {
    Reply::Done { position: Position::new(Index(9), Term(1)), outcome }
}

/// A leadership transfer: the first write is lost, so the cluster executes no later write of the session.
#[test]
fn writes_after_a_lost_one_are_retried_in_order() {
    let mut client = Client::in_session(5);
    client.send_lines("SET k a\r\nSET k b\r\nSET k c\r\nSET k d\r\n");
    client.handle_reply(0, Reply::Unknown);
    client.handle_reply(1, Reply::Refused(Refusal::Busy));
    client.handle_reply(2, outcome_reply(Outcome::OutOfOrder));
    assert_eq!(client.handle_reply(3, outcome_reply(Outcome::OutOfOrder)).len(), 0);
    let retried = [(0, Some((5, 1, 1))), (1, Some((5, 2, 1))), (2, Some((5, 3, 1))), (3, Some((5, 4, 1)))];
    assert_eq!(sent_requests(&client.pump_after(RETRY_INTERVAL)), retried);
    (0..4).for_each(|number| drop(client.handle_reply(number, executed_reply(&Answer::Done))));
    assert_eq!(client.take_output(), "+OK\r\n+OK\r\n+OK\r\n+OK\r\n");
}

#[test]
fn next_write_skips_an_abandoned_sequence_number() {
    let mut client = Client::in_session(5);
    client.send_lines("SET k a\r\n");
    client.handle_reply(0, Reply::Unknown);
    assert_eq!(sent_requests(&client.pump_after(RETRY_INTERVAL)), [(0, Some((5, 1, 1)))]);
    // An earlier attempt of the write may be in a log, so the connection waits for a leader: only a retry with the same
    // sequence number reveals the outcome.
    client.handle_reply(0, Reply::Refused(Refusal::NoLeader));
    assert_eq!(sent_requests(&client.pump_after(RETRY_INTERVAL)), [(0, Some((5, 1, 1)))]);
    client.handle_reply(0, Reply::Refused(Refusal::NoLeader));
    assert_eq!(client.pump_after(RETRY_TIMEOUT).len(), 0);
    assert_eq!(client.take_output(), "-TIMEOUT outcome unknown\r\n");
    assert_eq!(sent_requests(&client.send_lines("SET k b\r\n")), [(1, Some((5, 2, 2)))]);
}

/// The second write is rejected as too large. The third write skips the sequence number of the second, but only
/// once the first write is answered.
#[test]
fn rejected_sequence_number_is_skipped_after_earlier_answers() {
    let mut client = Client::in_session(5);
    client.send_lines("SET k a\r\nSET k b\r\nSET k c\r\n");
    client.handle_reply(1, Reply::Refused(Refusal::TooLarge { bytes: 9, limit: 8 }));
    client.handle_reply(2, outcome_reply(Outcome::OutOfOrder));
    client.handle_reply(0, executed_reply(&Answer::Done));
    assert_eq!(sent_requests(&client.pump_after(RETRY_INTERVAL)), [(2, Some((5, 3, 3)))]);
}

/// The third write was refused and never proposed in the expired session. It must get a new sequence number in the next
/// session, or later writes would be executed before it.
#[test]
fn expired_session_is_abandoned_by_all_its_writes() {
    let mut client = Client::in_session(5);
    client.send_lines("SET k a\r\nSET k b\r\nSET k c\r\n");
    client.handle_reply(0, outcome_reply(Outcome::SessionExpired));
    client.handle_reply(1, Reply::Unknown);
    client.handle_reply(2, Reply::Refused(Refusal::Busy));
    assert!(matches!(client.pump_after(RETRY_INTERVAL)[..], [NodeRequest::OpenSession]));
    client.send_lines("SET k d\r\n");
    client.connection.pipeline.handle_session_opened(client.now, Ok(SessionId(6)));
    assert_eq!(sent_requests(&client.pump()), [(0, Some((6, 1, 1))), (2, Some((6, 2, 1))), (3, Some((6, 3, 1)))]);
}

#[test]
fn timeout_reports_the_outcome_if_known() {
    for (first, expected) in [
        (Reply::Unknown, "-TIMEOUT outcome unknown\r\n"),
        (Reply::Refused(Refusal::Stopping), "-CLUSTERDOWN the node is stopping\r\n"),
    ] {
        let mut client = Client::in_session(5);
        client.send_lines("SET k v\r\n");
        client.handle_reply(0, first);
        for _ in 0..3 {
            assert_eq!(sent_requests(&client.pump_after(RETRY_TIMEOUT / 4)), [(0, Some((5, 1, 1)))]);
            client.handle_reply(0, Reply::Refused(Refusal::Stopping));
        }
        assert_eq!(client.pump_after(RETRY_TIMEOUT).len(), 0);
        assert_eq!(client.take_output(), expected);
    }
    let mut client = Client::in_session(5);
    client.send_lines("SET k v\r\nGET k\r\n");
    assert_eq!(sent_requests(&client.handle_reply(0, Reply::Refused(Refusal::NoLeader))), [(1, None)]);
    client.handle_reply(1, Reply::Refused(Refusal::NoLeader));
    assert_eq!(client.take_output(), "-CLUSTERDOWN No Raft leader\r\n-CLUSTERDOWN No Raft leader\r\n");
}

#[test]
fn unapplied_write_moves_to_a_new_session() {
    let session_expired =
        || Reply::Done { position: Position::new(Index(9), Term(1)), outcome: Outcome::SessionExpired };
    let mut client = Client::in_session(5);
    client.send_lines("SET a 1\r\nSET b 2\r\n");
    client.handle_reply(0, Reply::Unknown);
    client.handle_reply(1, Reply::Refused(Refusal::Busy));
    client.pump_after(RETRY_INTERVAL);
    client.handle_reply(0, session_expired());
    client.handle_reply(1, session_expired());
    assert!(matches!(client.pump_after(RETRY_INTERVAL)[..], [NodeRequest::OpenSession]));
    assert_eq!(client.take_output(), "-TIMEOUT outcome unknown\r\n", "the first write may have been applied");
    client.connection.pipeline.handle_session_opened(client.now, Ok(SessionId(6)));
    assert_eq!(sent_requests(&client.pump()), [(1, Some((6, 1, 1)))]);
    client.handle_reply(1, executed_reply(&Answer::Done));
    assert_eq!(client.take_output(), "+OK\r\n");
}

#[test]
fn write_fails_unapplied_if_no_session_opens() {
    let mut client = Client::new();
    assert!(matches!(client.send_lines("SET a 1\r\n")[..], [NodeRequest::OpenSession]));
    client.connection.pipeline.handle_session_opened(client.now, Err(Some(Refusal::Busy)));
    assert!(matches!(client.pump_after(RETRY_INTERVAL)[..], [NodeRequest::OpenSession]));
    client.connection.pipeline.handle_session_opened(client.now, Err(Some(Refusal::NoLeader)));
    assert_eq!(client.pump_after(RETRY_INTERVAL).len(), 0);
    assert_eq!(client.take_output(), "-CLUSTERDOWN No Raft leader\r\n");
}

#[test]
fn stalled_client_sends_nothing_and_its_queue_is_bounded() {
    let mut client = Client::in_session(5);
    client.output_full = true;
    assert_eq!(client.send_lines(&"GET k\r\n".repeat(QUEUED_COMMANDS_MAX)).len(), 0);
    assert!(client.connection.pipeline.is_full());
    client.output_full = false;
    assert_eq!(client.pump().len(), READS_IN_FLIGHT_MAX, "each reply may be long, so few reads are in flight");
    let mut client = Client::in_session(5);
    let large_set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{}\r\n", "x".repeat(1_000_000));
    assert_eq!(client.send_lines(&large_set.repeat(4)).len(), 4);
    assert!(!client.connection.pipeline.is_full());
    client.send_lines(&large_set);
    assert!(client.connection.pipeline.is_full());
}

#[test]
fn oversized_transaction_is_discarded() {
    let mut client = Client::in_session(5);
    let large_set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{}\r\n", "x".repeat(1_000_000));
    client.send_lines(&format!("MULTI\r\n{}", large_set.repeat(9)));
    assert!(
        client
            .connection
            .transaction
            .as_ref()
            .is_some_and(|transaction| transaction.has_errors && transaction.commands.is_empty())
    );
    client.take_output();
    assert_eq!(client.send_lines("EXEC\r\n").len(), 0);
    assert_eq!(client.take_output(), "-EXECABORT Transaction discarded because of previous errors.\r\n");
}

#[test]
fn reply_uses_protocol_version_of_its_request() {
    let mut client = Client::in_session(5);
    client.send_lines("GET a\r\nHELLO 3\r\nGET b\r\n");
    client.handle_reply(0, query_reply(&Answer::Value(None)));
    client.handle_reply(2, query_reply(&Answer::Value(None)));
    let output = client.take_output();
    assert!(output.starts_with("$-1\r\n%7\r\n") && output.ends_with("_\r\n"), "{output}");
}
