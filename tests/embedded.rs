//! An embedded node: leadership, closed sessions, responses over the limit, and calls after the node has stopped.

mod support;

use bytes::Bytes;
use drave::api::{Consistency, Reply, Request};
use drave::client::{Client, ClientError, Options};
use drave::codec::Malformed;
use drave::config::Config;
use drave::limits::ANSWER_BYTES_MAX;
use drave::machine::{Context, KIND, StateMachine};
use drave::server::ServerError;
use drave::server::{Handle, Server};
use drave::types::{ClusterTime, NodeId, Term};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;
use support::{reserve_ports, wait_until};

const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A state machine that counts its commands. Its response has as many bytes as the command or query requests; the
/// response to `term` is the term of the entry.
#[derive(Default)]
struct SizedResponder {
    applied_count: u64,
    frozen_count: Option<u64>,
}

impl SizedResponder {
    fn respond(request: &[u8]) -> Bytes {
        let response_bytes = request.try_into().map_or(0, u64::from_le_bytes);
        vec![7; response_bytes as usize].into()
    }
}

impl StateMachine for SizedResponder {
    fn kind(&self) -> &'static str {
        "responder 1"
    }

    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes {
        self.applied_count += 1;
        match command {
            b"term" => Bytes::copy_from_slice(&context.term.0.to_le_bytes()),
            command => SizedResponder::respond(command),
        }
    }

    fn query(&self, _time: ClusterTime, query: &[u8]) -> Bytes {
        match query {
            b"applied" => Bytes::copy_from_slice(&self.applied_count.to_le_bytes()),
            query => SizedResponder::respond(query),
        }
    }

    fn digest(&self) -> u64 {
        self.applied_count
    }

    fn freeze(&mut self) {
        self.frozen_count = Some(self.applied_count);
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        self.frozen_count.take().map(|applied| Bytes::copy_from_slice(&applied.to_le_bytes()))
    }

    fn end_snapshot(&mut self) {
        self.frozen_count = None;
    }

    fn empty(&self) -> SizedResponder {
        SizedResponder::default()
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        self.applied_count = u64::from_le_bytes(chunk.try_into().map_err(|_| Malformed("not a count"))?);
        Ok(())
    }
}

/// A node of the test cluster, running in this process.
struct Node {
    handle: Handle,
    thread: JoinHandle<Result<(), ServerError>>,
}

fn start_node(id: u64, port: u16, node_count: u64, directory: &Path) -> Node {
    let id_and_address = |id: u64| (NodeId::new(id).unwrap(), format!("127.0.0.1:{}", port + id as u16 - 1));
    let (node, _) = id_and_address(id);
    let mut config = Config::new(node, (1..=node_count).map(id_and_address).collect(), directory.join(id.to_string()));
    (config.segment_bytes, config.reserve_bytes) = (4 << 20, 0);
    let server = Server::open(config, SizedResponder::default()).unwrap();
    Node { handle: server.handle(), thread: std::thread::spawn(move || server.run()) }
}

impl Node {
    fn applied_count(&self) -> u64 {
        let answer = self.handle.query(b"applied", Consistency::Linearizable, CALL_TIMEOUT).unwrap().answer;
        u64::from_le_bytes(answer[..].try_into().unwrap())
    }

    fn session_count(&self) -> u64 {
        match self.handle.ask(Request::Status, CALL_TIMEOUT) {
            Some(Reply::Status(status)) => status.sessions,
            unexpected => panic!("{unexpected:?}"),
        }
    }

    fn leads(&self) -> bool {
        self.handle.leadership().leads
    }

    fn stop(self) -> Handle {
        self.handle.stop();
        self.thread.join().unwrap().unwrap();
        self.handle
    }
}

fn encode_u64(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

#[test]
fn waiting_threads_learn_of_leadership_changes() {
    let (directory, port) = (tempfile::tempdir().unwrap(), reserve_ports(3));
    let mut nodes: Vec<Node> = (1..=3).map(|id| start_node(id, port, 3, directory.path())).collect();
    let describe_leaderships =
        |nodes: &[Node]| format!("{:?}", nodes.iter().map(|node| node.handle.leadership()).collect::<Vec<_>>());
    let leader_position = |nodes: &[Node]| nodes.iter().position(Node::leads);
    let first_leader = wait_until("a node leads", || leader_position(&nodes), || describe_leaderships(&nodes));
    let leadership = nodes[first_leader].handle.leadership();
    assert!(leadership.term >= Term(1) && leadership.leader == NodeId::new(first_leader as u64 + 1), "{leadership:?}");
    let answer = nodes[first_leader].handle.session(CALL_TIMEOUT).execute(b"term").unwrap().answer;
    assert_eq!(answer, encode_u64(leadership.term.0), "the state machine sees the leader's term");

    // A waiting thread learns of the end of the leadership, at the latest when the node stops.
    let handle = nodes[first_leader].handle.clone();
    let waiter = std::thread::spawn(move || {
        let mut latest_leadership = leadership;
        while latest_leadership.leads {
            latest_leadership = handle.wait_for_leadership(&latest_leadership, CALL_TIMEOUT);
        }
        latest_leadership
    });
    let stopped_handle = nodes.remove(first_leader).stop();
    assert!(!waiter.join().unwrap().leads);
    assert_eq!(
        (stopped_handle.leadership().leads, stopped_handle.leadership().leader),
        (false, None),
        "a stopped node knows no leader"
    );
    let second_leader = wait_until("another node leads", || leader_position(&nodes), || describe_leaderships(&nodes));
    assert!(nodes[second_leader].handle.leadership().term > leadership.term);
    nodes.into_iter().for_each(|node| drop(node.stop()));
}

/// In an earlier version, dropped sessions stayed open.
#[test]
fn dropped_sessions_are_closed() {
    let (directory, port) = (tempfile::tempdir().unwrap(), reserve_ports(1));
    let node = start_node(1, port, 1, directory.path());
    for _ in 0..50 {
        node.handle.session(CALL_TIMEOUT).execute(b"").unwrap();
    }
    let all_sessions_closed = || (node.session_count() == 0).then_some(());
    wait_until("all sessions are closed", all_sessions_closed, || node.session_count().to_string());
    assert_eq!(node.applied_count(), 50);
    node.stop();
}

#[test]
fn too_long_answer_is_an_error_and_its_command_executes() {
    let (directory, port) = (tempfile::tempdir().unwrap(), reserve_ports(1));
    let node = start_node(1, port, 1, directory.path());
    let too_long_request = encode_u64(ANSWER_BYTES_MAX + 1);
    let mut session = node.handle.session(CALL_TIMEOUT);
    let mut client = Client::connect(vec![format!("127.0.0.1:{port}")]);
    for round in 1..=3 {
        let answers = [session.execute(&too_long_request), client.execute(&too_long_request)];
        for answer in answers {
            assert!(matches!(answer, Err(ClientError::AnswerTooLong { .. })), "{answer:?}");
        }
        // The session remains usable after an answer over the limit.
        assert_eq!(session.execute(&encode_u64(5)).unwrap().answer.len(), 5);
        assert_eq!(node.applied_count(), 3 * round);
    }
    // The second response would also be far longer than the maximum length of a frame.
    for query in [too_long_request, encode_u64(16 << 20)] {
        let answers = [
            node.handle.query(&query, Consistency::Linearizable, CALL_TIMEOUT),
            client.query(&query, Consistency::Linearizable),
            client.query(&query, Consistency::Local),
        ];
        for answer in answers {
            assert!(matches!(answer, Err(ClientError::AnswerTooLong { .. })), "{answer:?}");
        }
    }
    drop((session, client));
    node.stop();
}

#[test]
fn calls_to_a_stopped_node_fail_as_stopped() {
    let (directory, port) = (tempfile::tempdir().unwrap(), reserve_ports(1));
    let node = start_node(1, port, 1, directory.path());
    let mut session = node.handle.session(CALL_TIMEOUT);
    session.execute(b"").unwrap();
    let handle = node.stop();
    let unknown_error = session.execute(b"").unwrap_err();
    assert_eq!(unknown_error.to_string(), "outcome unknown: the node has stopped");
    let refused_error = handle.query(b"applied", Consistency::Linearizable, CALL_TIMEOUT).unwrap_err();
    assert_eq!(refused_error.to_string(), "the node has stopped");
    assert!(matches!((unknown_error, refused_error), (ClientError::Unknown(_), ClientError::Refused(_))));
}

/// In an earlier version, `drave put` wrote key-value commands into the log of another state machine.
#[test]
fn commands_for_another_state_machine_are_rejected() {
    let (directory, port) = (tempfile::tempdir().unwrap(), reserve_ports(1));
    let node = start_node(1, port, 1, directory.path());
    let client = |machine_kind, timeout| {
        let options = Options { machine_kind, timeout, ..Options::default() };
        Client::with_options([format!("127.0.0.1:{port}")], options)
    };
    client("responder 1", CALL_TIMEOUT).execute(b"").unwrap();
    // A client without a state machine name is accepted.
    client("", CALL_TIMEOUT).execute(b"").unwrap();
    for other in ["responder 2", KIND] {
        let error = client(other, Duration::from_secs(2)).execute(b"").unwrap_err();
        assert!(
            matches!(error, ClientError::Refused(_)) && error.to_string().contains("another state machine"),
            "{error:?}"
        );
    }
    assert_eq!(node.applied_count(), 2);
    match node.handle.ask(Request::Status, CALL_TIMEOUT) {
        Some(Reply::Status(status)) => assert_eq!(status.machine, "responder 1"),
        unexpected => panic!("{unexpected:?}"),
    }
    let run_drave = |args: &[&str]| {
        let endpoint = format!("127.0.0.1:{port}");
        let args = [args, &["--endpoints", &endpoint, "--timeout", "2s"]].concat();
        std::process::Command::new(env!("CARGO_BIN_EXE_drave")).args(args).output().unwrap()
    };
    let put_output = run_drave(&["put", "a", "b"]);
    assert_eq!(put_output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&put_output.stderr).contains("another state machine"), "{put_output:?}");
    assert_eq!(run_drave(&["status"]).status.code(), Some(0), "the status command works with any state machine");
    assert_eq!(node.applied_count(), 2);
    node.stop();
}
