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
use support::{ports, until};

const PATIENCE: Duration = Duration::from_secs(20);

/// A state machine that counts its commands. Its response has as many bytes as the command or query requests; the
/// response to `term` is the term of the entry.
#[derive(Default)]
struct Talker {
    applied: u64,
    frozen: Option<u64>,
}

impl Talker {
    fn answer(asked: &[u8]) -> Bytes {
        let bytes = asked.try_into().map_or(0, u64::from_le_bytes);
        vec![7; bytes as usize].into()
    }
}

impl StateMachine for Talker {
    fn kind(&self) -> &'static str {
        "talker 1"
    }

    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes {
        self.applied += 1;
        match command {
            b"term" => Bytes::copy_from_slice(&context.term.0.to_le_bytes()),
            command => Talker::answer(command),
        }
    }

    fn query(&self, _time: ClusterTime, query: &[u8]) -> Bytes {
        match query {
            b"applied" => Bytes::copy_from_slice(&self.applied.to_le_bytes()),
            query => Talker::answer(query),
        }
    }

    fn digest(&self) -> u64 {
        self.applied
    }

    fn freeze(&mut self) {
        self.frozen = Some(self.applied);
    }

    fn next_chunk(&mut self, _bytes: usize) -> Option<Bytes> {
        self.frozen.take().map(|applied| Bytes::copy_from_slice(&applied.to_le_bytes()))
    }

    fn end_snapshot(&mut self) {
        self.frozen = None;
    }

    fn empty(&self) -> Talker {
        Talker::default()
    }

    fn restore(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        self.applied = u64::from_le_bytes(piece.try_into().map_err(|_| Malformed("not a count"))?);
        Ok(())
    }
}

/// A node of the test cluster, running in this process.
struct Node {
    handle: Handle,
    thread: JoinHandle<Result<(), ServerError>>,
}

fn start(id: u64, port: u16, of: u64, directory: &Path) -> Node {
    let named = |id: u64| (NodeId::new(id).unwrap(), format!("127.0.0.1:{}", port + id as u16 - 1));
    let (node, _) = named(id);
    let mut config = Config::new(node, (1..=of).map(named).collect(), directory.join(id.to_string()));
    (config.segment_bytes, config.reserve_bytes) = (4 << 20, 0);
    let server = Server::open(config, Talker::default()).unwrap();
    Node { handle: server.handle(), thread: std::thread::spawn(move || server.run()) }
}

impl Node {
    fn applied(&self) -> u64 {
        let answer = self.handle.query(b"applied", Consistency::Linearizable, PATIENCE).unwrap().answer;
        u64::from_le_bytes(answer[..].try_into().unwrap())
    }

    fn sessions(&self) -> u64 {
        match self.handle.ask(Request::Status, PATIENCE) {
            Some(Reply::Status(status)) => status.sessions,
            other => panic!("{other:?}"),
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

fn bytes(bytes: u64) -> Vec<u8> {
    bytes.to_le_bytes().to_vec()
}

#[test]
fn waiting_threads_learn_of_leadership_changes() {
    let (directory, port) = (tempfile::tempdir().unwrap(), ports(3));
    let mut nodes: Vec<Node> = (1..=3).map(|id| start(id, port, 3, directory.path())).collect();
    let said = |nodes: &[Node]| format!("{:?}", nodes.iter().map(|node| node.handle.leadership()).collect::<Vec<_>>());
    let one_leads = |nodes: &[Node]| nodes.iter().position(Node::leads);
    let first = until("a node leads", || one_leads(&nodes), || said(&nodes));
    let leadership = nodes[first].handle.leadership();
    assert!(leadership.term >= Term(1) && leadership.leader == NodeId::new(first as u64 + 1), "{leadership:?}");
    let answer = nodes[first].handle.session(PATIENCE).execute(b"term").unwrap().answer;
    assert_eq!(answer, bytes(leadership.term.0), "the state machine sees the leader's term");

    // A waiting thread learns of the end of the leadership, at the latest when the node stops.
    let handle = nodes[first].handle.clone();
    let waits = std::thread::spawn(move || {
        let mut known = leadership;
        while known.leads {
            known = handle.wait_for_leadership(&known, PATIENCE);
        }
        known
    });
    let stopped = nodes.remove(first).stop();
    assert!(!waits.join().unwrap().leads);
    assert_eq!(
        (stopped.leadership().leads, stopped.leadership().leader),
        (false, None),
        "a stopped node knows no leader"
    );
    let second = until("another node leads", || one_leads(&nodes), || said(&nodes));
    assert!(nodes[second].handle.leadership().term > leadership.term);
    nodes.into_iter().for_each(|node| drop(node.stop()));
}

/// In an earlier version, 500 dropped sessions stayed open.
#[test]
fn dropped_sessions_are_closed() {
    let (directory, port) = (tempfile::tempdir().unwrap(), ports(1));
    let node = start(1, port, 1, directory.path());
    for _ in 0..50 {
        node.handle.session(PATIENCE).execute(b"").unwrap();
    }
    let closed = || (node.sessions() == 0).then_some(());
    until("all sessions are closed", closed, || node.sessions().to_string());
    assert_eq!(node.applied(), 50);
    node.stop();
}

#[test]
fn too_long_answer_is_an_error_and_its_command_executes() {
    let (directory, port) = (tempfile::tempdir().unwrap(), ports(1));
    let node = start(1, port, 1, directory.path());
    let too_long = bytes(ANSWER_BYTES_MAX + 1);
    let mut session = node.handle.session(PATIENCE);
    let mut client = Client::connect(vec![format!("127.0.0.1:{port}")]);
    for round in 1..=3 {
        let answers = [session.execute(&too_long), client.execute(&too_long)];
        for answer in answers {
            assert!(matches!(answer, Err(ClientError::AnswerTooLong { .. })), "{answer:?}");
        }
        // The session remains usable.
        assert_eq!(session.execute(&bytes(5)).unwrap().answer.len(), 5);
        assert_eq!(node.applied(), 3 * round);
    }
    // Also far beyond the maximum length of a frame.
    for query in [too_long, bytes(16 << 20)] {
        let answers = [
            node.handle.query(&query, Consistency::Linearizable, PATIENCE),
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
    let (directory, port) = (tempfile::tempdir().unwrap(), ports(1));
    let node = start(1, port, 1, directory.path());
    let mut session = node.handle.session(PATIENCE);
    session.execute(b"").unwrap();
    let handle = node.stop();
    let unknown = session.execute(b"").unwrap_err();
    assert_eq!(unknown.to_string(), "outcome unknown: the node has stopped");
    let refused = handle.query(b"applied", Consistency::Linearizable, PATIENCE).unwrap_err();
    assert_eq!(refused.to_string(), "the node has stopped");
    assert!(matches!((unknown, refused), (ClientError::Unknown(_), ClientError::Refused(_))));
}

/// In an earlier version, `drave put` wrote key-value commands into the log of another state machine.
#[test]
fn commands_for_another_state_machine_are_rejected() {
    let (directory, port) = (tempfile::tempdir().unwrap(), ports(1));
    let node = start(1, port, 1, directory.path());
    let client = |machine| {
        let options = Options { machine, timeout: Duration::from_secs(2), ..Options::default() };
        Client::with([format!("127.0.0.1:{port}")], options)
    };
    assert!(client("talker 1").execute(b"").is_ok());
    assert!(client("").execute(b"").is_ok(), "a client without a state machine name is accepted");
    for other in ["talker 2", KIND] {
        let refused = client(other).execute(b"").unwrap_err();
        assert!(matches!(refused, ClientError::Refused(_)) && refused.to_string().contains("another state machine"));
    }
    assert_eq!(node.applied(), 2);
    match node.handle.ask(Request::Status, PATIENCE) {
        Some(Reply::Status(status)) => assert_eq!(status.machine, "talker 1"),
        other => panic!("{other:?}"),
    }
    let drave = |words: &[&str]| {
        let endpoint = format!("127.0.0.1:{port}");
        let words = [words, &["--endpoints", &endpoint, "--timeout", "2s"]].concat();
        std::process::Command::new(env!("CARGO_BIN_EXE_drave")).args(words).output().unwrap()
    };
    let put = drave(&["put", "a", "b"]);
    assert_eq!(put.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&put.stderr).contains("another state machine"), "{put:?}");
    assert_eq!(drave(&["status"]).status.code(), Some(0), "status needs no particular state machine");
    assert_eq!(node.applied(), 2);
    node.stop();
}
