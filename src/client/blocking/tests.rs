//! Clients of nodes that close connections, reject and redirect requests, and report unknown outcomes.

use super::super::{Completion, Fleet, MuxOptions};
use super::*;
use crate::apply::applier::Applier;
use crate::codec;
use crate::machine::commands::{Answer, Command};
use crate::machine::kv::Kv;
use crate::types::{ClusterId, ClusterTime, DiskId, NodeId, Payload, Term};
use crate::wire::client::{put_reply_frame, read_request_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{Hello, VERSION_MAX, Welcome};
use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The state that all nodes of a simulated cluster share: whichever node replies, the command is applied here.
struct Cluster {
    applier: Applier<Kv>,
    addresses: Vec<String>,
    rng: StdRng,
    /// The percentage of requests for which a fault is injected.
    fault_percent: u32,
}

/// What a node does with a request: it replies, or closes the connection.
enum NodeReaction {
    Reply(Reply),
    CloseConnection,
}

impl Cluster {
    fn start(nodes: usize, fault_percent: u32) -> (Arc<Mutex<Cluster>>, Vec<String>) {
        let listeners: Vec<_> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let cluster = Arc::new(Mutex::new(Cluster {
            applier: Applier::new(Kv::new()),
            addresses: addresses.clone(),
            rng: StdRng::seed_from_u64(7),
            fault_percent,
        }));
        for listener in listeners {
            let cluster = Arc::clone(&cluster);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let cluster = Arc::clone(&cluster);
                    std::thread::spawn(move || serve(stream.unwrap(), &cluster));
                }
            });
        }
        (cluster, addresses)
    }

    fn respond(&mut self, request: Request) -> NodeReaction {
        if self.rng.random_range(0..100) >= self.fault_percent {
            return NodeReaction::Reply(self.execute(request));
        }
        match self.rng.random_range(0..8) {
            0 => NodeReaction::CloseConnection,
            1 => {
                self.execute(request);
                NodeReaction::CloseConnection
            }
            2 => {
                self.execute(request);
                NodeReaction::Reply(Reply::Unknown)
            }
            3 => NodeReaction::Reply(Reply::Unknown),
            4 => NodeReaction::Reply(Reply::Refused(Refusal::Busy)),
            5 => NodeReaction::Reply(Reply::Refused(Refusal::NoLeader)),
            n => {
                let other_address = self.addresses[self.rng.random_range(0..self.addresses.len())].clone();
                let address = (n == 6).then_some(other_address);
                let leader = address.as_ref().and(NodeId::new(1));
                NodeReaction::Reply(Reply::Refused(Refusal::NotLeader { leader, address, term: Term(1) }))
            }
        }
    }

    fn execute(&mut self, request: Request) -> Reply {
        match request {
            Request::Propose { op } => {
                let position = Position::new(self.applier.applied().next(), Term(1));
                let entry = codec::entry(position, ClusterTime(0), Payload::Opaque(op));
                let outcome = self.applier.apply(&[entry]).outcomes.remove(0).1;
                Reply::Done { position, outcome }
            }
            Request::Query { query, .. } => {
                Reply::Answer { applied: self.applier.applied(), answer: self.applier.query(ClusterTime(0), &query) }
            }
            Request::Status
            | Request::Snapshot
            | Request::ReadSnapshot { .. }
            | Request::Change { .. }
            | Request::Transfer { .. }
            | Request::LogLevel(_)
            | Request::Scrub => Reply::Unknown,
        }
    }
}

fn serve(mut stream: TcpStream, cluster: &Mutex<Cluster>) {
    let (mut reader, mut input, mut output) = (FrameReader::default(), BytesMut::new(), BytesMut::new());
    let mut read_buffer = [0; 4096];
    let mut hello_received = false;
    loop {
        while let Some(frame) = reader.next(&mut input).unwrap() {
            if !hello_received {
                Hello::read(frame).unwrap();
                let node = NodeId::new(1).unwrap();
                Welcome {
                    version: VERSION_MAX,
                    cluster: ClusterId(1),
                    node,
                    disk: DiskId(1),
                    log_state: Default::default(),
                }
                .put(&mut output);
                hello_received = true;
                continue;
            }
            let received_request = read_request_frame(frame).unwrap();
            match cluster.lock().unwrap().respond(received_request.request) {
                NodeReaction::Reply(reply) => put_reply_frame(&mut output, received_request.id, &reply),
                NodeReaction::CloseConnection => return,
            }
        }
        if stream.write_all(&output).is_err() {
            return;
        }
        output.clear();
        match stream.read(&mut read_buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => input.extend_from_slice(&read_buffer[..n]),
        }
    }
}

fn incr_command() -> Bytes {
    Command::Incr { key: b"n", by: 1 }.encode()
}

#[test]
fn command_takes_effect_once_despite_failures() {
    let (cluster, addresses) = Cluster::start(3, 40);
    let options = Options { timeout: Duration::from_secs(60), ..Options::default() };
    let mut client = Client::with_options(addresses, options);
    for n in 1..=200 {
        let command_result = client.execute(&incr_command()).unwrap();
        assert_eq!(Answer::decode(command_result.answer), Ok(Answer::Number(n)));
    }
    assert_eq!(cluster.lock().unwrap().applier.machine().get(b"n"), Some(&b"200"[..]));
    let query = crate::machine::commands::Query::Get { key: b"n" }.encode();
    let query_result = client.query(&query, Consistency::Linearizable).unwrap();
    assert_eq!(Answer::decode(query_result.answer), Ok(Answer::Value(Some(Bytes::from_static(b"200")))));
}

#[test]
fn call_to_unreachable_cluster_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let options = Options { timeout: Duration::from_millis(100), ..Options::default() };
    let error = Client::with_options([address.clone()], options).execute(&incr_command()).unwrap_err();
    let ClientError::Refused(attempts) = &error else { panic!("{error:?}") };
    assert_eq!((&attempts.endpoints, error.exit_code()), (&vec![address], 3));
}

#[test]
fn missing_answer_is_an_unknown_outcome() {
    let (cluster, addresses) = Cluster::start(1, 0);
    let options = Options { timeout: Duration::from_secs(3), ..Options::default() };
    let mut client = Client::with_options(addresses, options);
    client.execute(&incr_command()).unwrap();
    let cluster_lock = cluster.lock().unwrap();
    let error = client.execute(&incr_command()).unwrap_err();
    assert!(matches!(error, ClientError::Unknown(_)), "{error:?}");
    assert_eq!(error.exit_code(), 4);
    drop(cluster_lock);
}

/// Without a leader the change is not sent, so nothing was changed (exit code 3). A change that was accepted may still
/// be made (exit code 4).
#[test]
fn change_is_refused_without_leader_and_unknown_without_reply() {
    let (cluster, addresses) = Cluster::start(1, 0);
    let options = Options { timeout: Duration::from_millis(500), ..Options::default() };
    let change = Change::Remove(NodeId::new(1).unwrap());
    let exit_code_of_change =
        || Client::with_options(addresses.clone(), options.clone()).change(&change, false).unwrap_err().exit_code();
    let cluster_lock = cluster.lock().unwrap();
    assert_eq!(exit_code_of_change(), 3);
    drop(cluster_lock);
    assert_eq!(exit_code_of_change(), 4);
}

#[test]
fn fleet_executes_each_command_once() {
    let (cluster, addresses) = Cluster::start(3, 5);
    let mut fleet = Fleet::new(&addresses, 4, MuxOptions::new(16)).unwrap();
    let (mut started, mut finished) = (0u64, Vec::new());
    let start = Instant::now();
    while finished.len() < 2000 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "only {} of 2000 commands finished within 60 seconds",
            finished.len()
        );
        for n in 0..fleet.len() {
            while fleet[n].has_room() && started < 2000 {
                fleet[n].execute(incr_command(), started);
                started += 1;
            }
        }
        let on_done = |_: &mut _, n, completion: Completion| finished.push((n, completion));
        fleet.poll(Duration::from_millis(50), on_done).unwrap();
    }
    finished.sort_by_key(|(_, completion)| completion.tag);
    assert!(finished.iter().map(|(_, completion)| completion.tag).eq(0..2000));
    assert!(finished.iter().any(|(_, done)| done.retries > 0));
    // On each connection, commands take effect in the order in which they were started.
    let mut last_number_by_connection = [0; 4];
    for (n, completion) in finished {
        let super::super::RequestResult::Executed { answer, .. } = completion.result else { panic!("{completion:?}") };
        let Ok(Answer::Number(number)) = Answer::decode(answer) else { panic!("an increment returns a number") };
        let last_number = std::mem::replace(&mut last_number_by_connection[n], number);
        assert!(number > last_number, "connection {n} returned {number} after {last_number}");
    }
    assert_eq!(cluster.lock().unwrap().applier.machine().get(b"n"), Some(&b"2000"[..]));
}
