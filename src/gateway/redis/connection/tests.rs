//! When a connection sends requests, and how it handles the answers: by example, without a socket.

use super::*;
use crate::api::{Op, Outcome, Refusal, Request};
use crate::gateway::redis::dispatch::{RequestContext, handle_reply};
use crate::gateway::redis::gateway::{ClusterView, Follower, Options};
use crate::pipeline::{COMMANDS_MAX, PATIENCE, READS_MAX, RETRY_INTERVAL};
use crate::types::{ClusterId, Index, NodeId, Position, SessionId, Term};
use crate::wire::resp::Bounds;
use std::time::Duration;

/// A connection, with its output.
struct Client {
    talk: RedisConnection,
    now: Time,
    out: BytesMut,
    rests: bool,
}

fn scene() -> ClusterView {
    let node = NodeId::new(1).unwrap();
    ClusterView {
        node,
        cluster: ClusterId(7),
        leader: Some(node),
        places: Vec::new(),
        voters: 1,
        follower: Follower::Forward,
        port: 7501,
        clients: 1,
        clients_max: 10,
        accepted: 1,
        commands: 0,
    }
}

impl Client {
    fn new() -> Client {
        let guest = ClientState { known: true, ..ClientState::default() };
        let now = Time::ZERO + Duration::from_secs(1);
        Client { talk: RedisConnection::new(guest), now, out: BytesMut::new(), rests: false }
    }

    /// A client with an open session of that number.
    fn in_session(id: u64) -> Client {
        let mut client = Client::new();
        client.talk.pipeline.opened(client.now, Ok(SessionId(id)));
        client
    }

    /// Sends lines. Returns the requests that the connection then sends.
    fn say(&mut self, lines: &str) -> Vec<NodeRequest> {
        let mut input = BytesMut::from(lines.as_bytes());
        while let Some(words) = self.talk.reader.next(&mut input, Bounds::KNOWN).unwrap() {
            let options = Options::default();
            let setting = RequestContext { now: self.now, options: &options, scene: &scene, stopping: false };
            assert!(handle_reply(&mut self.talk, &words, &mut self.out, &setting));
        }
        self.pump()
    }

    fn pump(&mut self) -> Vec<NodeRequest> {
        let mut wants = Vec::new();
        self.talk.pump(self.now, &mut self.out, self.rests, &mut wants);
        wants
    }

    /// Passes an answer of the node to the connection. Returns the requests that the connection then sends.
    fn handle_reply(&mut self, number: u64, reply: Reply) -> Vec<NodeRequest> {
        self.talk.handle_reply(number, reply);
        self.pump()
    }

    fn later(&mut self, by: Duration) -> Vec<NodeRequest> {
        self.now = self.now + by;
        self.pump()
    }

    fn take_output(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out).to_vec()).unwrap()
    }
}

fn done(answer: &Answer) -> Reply {
    let outcome = Outcome::Executed { answer: answer.encode(), duplicate: false };
    Reply::Done { position: Position::new(Index(9), Term(1)), outcome }
}

fn answered(answer: &Answer) -> Reply {
    Reply::Answer { applied: Index(9), answer: answer.encode() }
}

type Asked = (u64, Option<(u64, u64, u64)>);

/// The requests: their numbers, and for writes the session, the sequence number, and the first outstanding number.
fn asked(wants: &[NodeRequest]) -> Vec<Asked> {
    let one = |want: &NodeRequest| match want {
        NodeRequest::Session => panic!("a session was requested"),
        NodeRequest::Answer(number, Request::Propose { op }) => match Op::decode(op.clone()).unwrap() {
            Op::Execute { session, seq, first_outstanding: lowest, .. } => (*number, Some((session.0, seq, lowest))),
            other => panic!("{other:?}"),
        },
        NodeRequest::Answer(number, _) => (*number, None),
    };
    wants.iter().map(one).collect()
}

#[test]
fn first_write_opens_a_session() {
    let mut client = Client::new();
    assert_eq!(asked(&client.say("GET k\r\n")), [(0, None)]);
    assert_eq!(client.say("SET k v\r\n").len(), 0, "a write waits for the reads before it");
    let wants = client.handle_reply(0, answered(&Answer::Value(None)));
    assert!(matches!(wants[..], [NodeRequest::Session]));
    assert_eq!(client.say("SET k w\r\n").len(), 0);
    client.talk.pipeline.opened(client.now, Ok(SessionId(5)));
    assert_eq!(asked(&client.pump()), [(1, Some((5, 1, 1))), (2, Some((5, 2, 1)))]);
    assert_eq!(client.take_output(), "$-1\r\n");
}

#[test]
fn replies_keep_order_and_reads_wait_for_writes() {
    let mut client = Client::in_session(5);
    let wants = client.say("SET a 1\r\nSET b 2\r\nPING\r\nGET a\r\nGET b\r\nSET a 3\r\n");
    assert_eq!(asked(&wants), [(0, Some((5, 1, 1))), (1, Some((5, 2, 1)))]);
    assert_eq!(client.handle_reply(1, done(&Answer::Done)).len(), 0);
    assert_eq!(client.take_output(), "");
    assert_eq!(asked(&client.handle_reply(0, done(&Answer::Done))), [(3, None), (4, None)]);
    assert_eq!(client.take_output(), "+OK\r\n+OK\r\n+PONG\r\n");
    assert_eq!(client.handle_reply(4, answered(&Answer::Value(None))).len(), 0);
    assert_eq!(asked(&client.handle_reply(3, answered(&Answer::Value(None)))), [(5, Some((5, 3, 3)))]);
    assert_eq!(client.take_output(), "$-1\r\n$-1\r\n");
}

#[test]
fn lost_writes_are_retried_once_all_are_answered() {
    let mut client = Client::in_session(5);
    client.say("INCR n\r\nINCR n\r\n");
    assert_eq!(client.handle_reply(0, Reply::Unknown).len(), 0);
    assert_eq!(client.say("INCR n\r\n").len(), 0, "no write overtakes one that may be retried");
    assert_eq!(client.handle_reply(1, Reply::Refused(Refusal::Busy)).len(), 0);
    assert!(client.talk.pipeline.deadline() > client.now, "the retry is due later");
    let again = client.later(RETRY_INTERVAL);
    assert_eq!(asked(&again), [(0, Some((5, 1, 1))), (1, Some((5, 2, 1))), (2, Some((5, 3, 1)))]);
    for number in 0..3 {
        client.handle_reply(number, done(&Answer::Number(number as i64 + 1)));
    }
    assert_eq!(client.take_output(), ":1\r\n:2\r\n:3\r\n");
    assert_eq!(client.talk.pipeline.deadline(), Time::NEVER);
}

fn outcome(outcome: Outcome) -> Reply {
    Reply::Done { position: Position::new(Index(9), Term(1)), outcome }
}

/// A leadership transfer: the first write is lost, and the cluster executes none behind it.
#[test]
fn writes_after_a_lost_one_are_retried_in_order() {
    let mut client = Client::in_session(5);
    client.say("SET k a\r\nSET k b\r\nSET k c\r\nSET k d\r\n");
    client.handle_reply(0, Reply::Unknown);
    client.handle_reply(1, Reply::Refused(Refusal::Busy));
    client.handle_reply(2, outcome(Outcome::OutOfOrder));
    assert_eq!(client.handle_reply(3, outcome(Outcome::OutOfOrder)).len(), 0);
    let again = [(0, Some((5, 1, 1))), (1, Some((5, 2, 1))), (2, Some((5, 3, 1))), (3, Some((5, 4, 1)))];
    assert_eq!(asked(&client.later(RETRY_INTERVAL)), again);
    (0..4).for_each(|number| drop(client.handle_reply(number, done(&Answer::Done))));
    assert_eq!(client.take_output(), "+OK\r\n+OK\r\n+OK\r\n+OK\r\n");
}

#[test]
fn next_write_skips_an_abandoned_number() {
    let mut client = Client::in_session(5);
    client.say("SET k a\r\n");
    client.handle_reply(0, Reply::Unknown);
    assert_eq!(asked(&client.later(RETRY_INTERVAL)), [(0, Some((5, 1, 1)))]);
    // With an attempt that may be in a log, a missing leader is waited for: only the same number reveals its outcome.
    client.handle_reply(0, Reply::Refused(Refusal::NoLeader));
    assert_eq!(asked(&client.later(RETRY_INTERVAL)), [(0, Some((5, 1, 1)))]);
    client.handle_reply(0, Reply::Refused(Refusal::NoLeader));
    assert_eq!(client.later(PATIENCE).len(), 0);
    assert_eq!(client.take_output(), "-TIMEOUT outcome unknown\r\n");
    assert_eq!(asked(&client.say("SET k b\r\n")), [(1, Some((5, 2, 2)))]);
}

/// The second write is too large, which leaves a gap until the first is answered.
#[test]
fn rejected_number_is_skipped_after_earlier_answers() {
    let mut client = Client::in_session(5);
    client.say("SET k a\r\nSET k b\r\nSET k c\r\n");
    client.handle_reply(1, Reply::Refused(Refusal::TooLarge { bytes: 9, limit: 8 }));
    client.handle_reply(2, outcome(Outcome::OutOfOrder));
    client.handle_reply(0, done(&Answer::Done));
    assert_eq!(asked(&client.later(RETRY_INTERVAL)), [(2, Some((5, 3, 3)))]);
}

/// The third write was refused and never proposed in the expired session. It must not keep its number there, or the
/// writes behind it would be executed first, in the next session.
#[test]
fn expired_session_is_abandoned_by_all_its_writes() {
    let mut client = Client::in_session(5);
    client.say("SET k a\r\nSET k b\r\nSET k c\r\n");
    client.handle_reply(0, outcome(Outcome::SessionExpired));
    client.handle_reply(1, Reply::Unknown);
    client.handle_reply(2, Reply::Refused(Refusal::Busy));
    assert!(matches!(client.later(RETRY_INTERVAL)[..], [NodeRequest::Session]));
    client.say("SET k d\r\n");
    client.talk.pipeline.opened(client.now, Ok(SessionId(6)));
    assert_eq!(asked(&client.pump()), [(0, Some((6, 1, 1))), (2, Some((6, 2, 1))), (3, Some((6, 3, 1)))]);
}

#[test]
fn timeout_reports_the_outcome_if_known() {
    for (first, told) in [
        (Reply::Unknown, "-TIMEOUT outcome unknown\r\n"),
        (Reply::Refused(Refusal::Stopping), "-CLUSTERDOWN the node is stopping\r\n"),
    ] {
        let mut client = Client::in_session(5);
        client.say("SET k v\r\n");
        client.handle_reply(0, first);
        for _ in 0..3 {
            assert_eq!(asked(&client.later(PATIENCE / 4)), [(0, Some((5, 1, 1)))]);
            client.handle_reply(0, Reply::Refused(Refusal::Stopping));
        }
        assert_eq!(client.later(PATIENCE).len(), 0);
        assert_eq!(client.take_output(), told);
    }
    let mut client = Client::in_session(5);
    client.say("SET k v\r\nGET k\r\n");
    assert_eq!(asked(&client.handle_reply(0, Reply::Refused(Refusal::NoLeader))), [(1, None)]);
    client.handle_reply(1, Reply::Refused(Refusal::NoLeader));
    assert_eq!(client.take_output(), "-CLUSTERDOWN No Raft leader\r\n-CLUSTERDOWN No Raft leader\r\n");
}

#[test]
fn unapplied_write_moves_to_a_new_session() {
    let lapsed = || Reply::Done { position: Position::new(Index(9), Term(1)), outcome: Outcome::SessionExpired };
    let mut client = Client::in_session(5);
    client.say("SET a 1\r\nSET b 2\r\n");
    client.handle_reply(0, Reply::Unknown);
    client.handle_reply(1, Reply::Refused(Refusal::Busy));
    client.later(RETRY_INTERVAL);
    client.handle_reply(0, lapsed());
    client.handle_reply(1, lapsed());
    assert!(matches!(client.later(RETRY_INTERVAL)[..], [NodeRequest::Session]));
    assert_eq!(client.take_output(), "-TIMEOUT outcome unknown\r\n", "the first write may have been applied");
    client.talk.pipeline.opened(client.now, Ok(SessionId(6)));
    assert_eq!(asked(&client.pump()), [(1, Some((6, 1, 1)))]);
    client.handle_reply(1, done(&Answer::Done));
    assert_eq!(client.take_output(), "+OK\r\n");
}

#[test]
fn write_fails_unapplied_if_no_session_opens() {
    let mut client = Client::new();
    assert!(matches!(client.say("SET a 1\r\n")[..], [NodeRequest::Session]));
    client.talk.pipeline.opened(client.now, Err(Some(Refusal::Busy)));
    assert!(matches!(client.later(RETRY_INTERVAL)[..], [NodeRequest::Session]));
    client.talk.pipeline.opened(client.now, Err(Some(Refusal::NoLeader)));
    assert_eq!(client.later(RETRY_INTERVAL).len(), 0);
    assert_eq!(client.take_output(), "-CLUSTERDOWN No Raft leader\r\n");
}

#[test]
fn stalled_client_sends_nothing_and_its_queue_is_bounded() {
    let mut client = Client::in_session(5);
    client.rests = true;
    assert_eq!(client.say(&"GET k\r\n".repeat(COMMANDS_MAX)).len(), 0);
    assert!(client.talk.pipeline.is_full());
    client.rests = false;
    assert_eq!(client.pump().len(), READS_MAX, "each reply may be long, so few reads are in flight");
    let mut client = Client::in_session(5);
    let large = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{}\r\n", "x".repeat(1_000_000));
    assert_eq!(client.say(&large.repeat(4)).len(), 4);
    assert!(!client.talk.pipeline.is_full());
    client.say(&large);
    assert!(client.talk.pipeline.is_full());
}

#[test]
fn oversized_transaction_is_discarded() {
    let mut client = Client::in_session(5);
    let large = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{}\r\n", "x".repeat(1_000_000));
    client.say(&format!("MULTI\r\n{}", large.repeat(9)));
    assert!(client.talk.block.as_ref().is_some_and(|block| block.spoiled && block.commands.is_empty()));
    client.take_output();
    assert_eq!(client.say("EXEC\r\n").len(), 0);
    assert_eq!(client.take_output(), "-EXECABORT Transaction discarded because of previous errors.\r\n");
}

#[test]
fn reply_uses_protocol_version_of_its_request() {
    let mut client = Client::in_session(5);
    client.say("GET a\r\nHELLO 3\r\nGET b\r\n");
    client.handle_reply(0, answered(&Answer::Value(None)));
    client.handle_reply(2, answered(&Answer::Value(None)));
    let told = client.take_output();
    assert!(told.starts_with("$-1\r\n%7\r\n") && told.ends_with("_\r\n"), "{told}");
}
