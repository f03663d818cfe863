//! A leader falls silent while its connections stay open: clients find the new leader.

use super::super::{Client, Fleet, MuxOptions, Options, RequestResult as Outcome};
use super::*;
use crate::api::{self, Op, Refusal, Reply, Request};
use crate::types::{ClusterId, DiskId, Index, NodeId, Position, SessionId, Term};
use crate::wire::client::{put_reply_frame, read_request_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{VERSION_MAX, Welcome};
use bytes::{Bytes, BytesMut};
use std::io::Write;
use std::net::{TcpListener, TcpStream as Blocking};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn id(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

/// Three simulated nodes. The leader executes every request, without elections or heartbeats.
struct Nodes {
    addresses: Vec<String>,
    leader: AtomicU64,
    /// The node that accepts connections and requests and never replies; 0 for none.
    frozen_node: AtomicU64,
}

impl Nodes {
    fn start() -> Arc<Nodes> {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let nodes = Arc::new(Nodes { addresses, leader: AtomicU64::new(1), frozen_node: AtomicU64::new(0) });
        for (listener, node_number) in listeners.into_iter().zip(1..) {
            let nodes = nodes.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let nodes = nodes.clone();
                    std::thread::spawn(move || nodes.serve(node_number, stream.unwrap()));
                }
            });
        }
        nodes
    }

    /// Freezes the leader, and makes the node `successor` the new leader.
    fn freeze(&self, successor: u64) {
        self.frozen_node.store(self.leader.swap(successor, Ordering::SeqCst), Ordering::SeqCst);
    }

    fn serve(&self, node_number: u64, mut stream: Blocking) {
        let (mut reader, mut input, mut output) = (FrameReader::default(), BytesMut::new(), BytesMut::new());
        let (mut read_buffer, mut greeted) = ([0; 4096], false);
        while let Ok(n @ 1..) = stream.read(&mut read_buffer) {
            input.extend_from_slice(&read_buffer[..n]);
            while let Some(frame) = reader.next(&mut input).unwrap() {
                if !greeted {
                    greeted = true;
                    Welcome {
                        version: VERSION_MAX,
                        cluster: ClusterId(1),
                        node: id(node_number),
                        disk: DiskId(node_number),
                        log_state: Default::default(),
                    }
                    .put(&mut output);
                    continue;
                }
                let received_request = read_request_frame(frame).unwrap();
                put_reply_frame(&mut output, received_request.id, &self.reply(node_number, received_request.request));
            }
            if self.frozen_node.load(Ordering::SeqCst) == node_number {
                output.clear();
            }
            stream.write_all(&output).unwrap();
            output.clear();
        }
    }

    fn reply(&self, node_number: u64, request: Request) -> Reply {
        let leader = self.leader.load(Ordering::SeqCst);
        if leader != node_number {
            let address = Some(self.addresses[leader as usize - 1].clone());
            return Reply::Refused(Refusal::NotLeader { leader: Some(id(leader)), address, term: Term(1) });
        }
        let position = Position::new(Index(node_number), Term(1));
        match request {
            Request::Propose { op } => {
                let outcome = match Op::decode(op).unwrap() {
                    Op::Open { .. } => api::Outcome::Opened { session: SessionId(1) },
                    Op::Execute { command, .. } => api::Outcome::Executed { answer: command, duplicate: false },
                    Op::Close { .. } | Op::Tick => api::Outcome::Closed,
                };
                Reply::Done { position, outcome }
            }
            _ => Reply::Answer { applied: Index(node_number), answer: Bytes::new() },
        }
    }
}

/// A timeout that no test reaches, so that a client moves only because of a leader query.
const NEVER: Duration = Duration::from_secs(3600);
/// A test fails after this long without the expected event; it is far longer than necessary.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn connection_moves_to_new_leader_when_old_one_is_silent() {
    let nodes = Nodes::start();
    let options = MuxOptions { node_timeout: NEVER, ..MuxOptions::new(4) };
    let mut fleet = Fleet::new(&nodes.addresses, 1, options).unwrap();
    let execute = |fleet: &mut Fleet, tag: u64| {
        let (mut done, start) = (Vec::new(), Instant::now());
        while !fleet[0].has_room() {
            fleet.poll(Duration::from_millis(10), |_, _, completion| done.push(completion)).unwrap();
        }
        fleet[0].execute(Bytes::from_static(b"command"), tag);
        while done.is_empty() {
            assert!(start.elapsed() < TEST_TIMEOUT, "the client contacts no other node");
            fleet.poll(Duration::from_millis(10), |_, _, completion| done.push(completion)).unwrap();
        }
        done.remove(0)
    };
    let executing_node = |result: &Outcome| match result {
        Outcome::Executed { position, .. } => position.index.0,
        result => panic!("{result:?}"),
    };
    assert_eq!(executing_node(&execute(&mut fleet, 1).result), 1);
    nodes.freeze(3);
    let completion = execute(&mut fleet, 2);
    assert_eq!(executing_node(&completion.result), 3);
    assert!(completion.retries > 0, "the command is retried with its number");
}

#[test]
fn blocking_client_moves_to_new_leader_when_old_one_is_silent() {
    let nodes = Nodes::start();
    let options = Options { timeout: TEST_TIMEOUT, node_timeout: NEVER, ..Options::default() };
    let mut client = Client::with_options(nodes.addresses.clone(), options.clone());
    assert_eq!(client.execute(b"command").unwrap().position.index, Index(1));
    nodes.freeze(2);
    assert_eq!(client.execute(b"command").unwrap().position.index, Index(2));
    // A client that dials the silent node first does not wait for its welcome.
    for _ in 0..8 {
        let mut new_client = Client::with_options(nodes.addresses.clone(), options.clone());
        assert_eq!(new_client.execute(b"command").unwrap().position.index, Index(2));
    }
}
