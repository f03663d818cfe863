//! Limits under load, with a node in this process: a pipeline longer than one turn of the event loop processes.

mod support;

use drave::api::{Op, Request};
use drave::client::{Client, Connection, deadline};
use drave::config::{BindAddress, Config};
use drave::machine::Kv;
use drave::server::ServerError;
use drave::server::{Handle, Server};
use drave::types::NodeId;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;
use support::{PATIENCE, ports, until};

/// A single-node cluster whose timers do not fire during a test.
struct Node {
    handle: Handle,
    native: String,
    redis: SocketAddr,
    http: SocketAddr,
    thread: JoinHandle<Result<(), ServerError>>,
    _directory: tempfile::TempDir,
}

impl Node {
    fn start() -> Node {
        Node::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Config)) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let (id, port) = (NodeId::new(1).unwrap(), ports(3));
        let place = |n: u16| format!("127.0.0.1:{}", port + n);
        let mut config = Config::new(id, BTreeMap::from([(id, place(0))]), directory.path().join("data"));
        (config.segment_bytes, config.reserve_bytes) = (4 << 20, 0);
        (config.resp, config.http) = (BindAddress::At(place(1)), BindAddress::At(place(2)));
        // With a heartbeat every 50 ms, a loop that wrongly waits for its next timer would only be slow.
        let hour = Duration::from_secs(3600);
        (config.consensus.heartbeat, config.consensus.election_min) = (hour, 2 * hour);
        config.consensus.election_max = 3 * hour;
        change(&mut config);
        let server = Server::open(config, Kv::default()).unwrap();
        let [redis, http] = [0, 1].map(|gateway| server.doors()[gateway].1);
        let handle = server.handle();
        let thread = std::thread::spawn(move || server.run());
        until("the node leads", || handle.leadership().leads.then_some(()), String::new);
        Node { handle, native: place(0), redis, http, thread, _directory: directory }
    }

    fn stop(self) {
        self.handle.stop();
        self.thread.join().unwrap().unwrap();
    }
}

/// Sends all requests at once, and reads until `answers` responses have arrived.
fn pipeline(address: SocketAddr, requests: Vec<u8>, answer: &[u8], answers: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || writer.write_all(&requests));
    let (mut came, mut buffer, mut left) = (0, vec![0; 64 << 10], Vec::new());
    while came < answers {
        let n = stream.read(&mut buffer).unwrap_or_else(|error| panic!("{came} of {answers} answers: {error}"));
        assert!(n > 0, "closed after {came} of {answers} answers");
        left.extend_from_slice(&buffer[..n]);
        let mut read = 0;
        while let Some(at) = left[read..].windows(answer.len()).position(|window| window == answer) {
            (came, read) = (came + 1, read + at + answer.len());
        }
        left.drain(..read);
    }
    writer.join().unwrap().unwrap();
}

#[test]
fn pipeline_longer_than_a_turn_continues_without_a_timer() {
    const READS: usize = 20_000;
    let node = Node::start();
    pipeline(node.redis, b"SET v 0123456789\r\n".to_vec(), b"+OK\r\n", 1);
    let value = b"$10\r\n0123456789\r\n";
    pipeline(node.redis, b"GET v\r\n".repeat(READS), value, READS);
    // The node answers these locally, as a follower does.
    let local = [b"READONLY\r\n".to_vec(), b"GET v\r\n".repeat(READS)].concat();
    pipeline(node.redis, local, value, READS);
    pipeline(node.redis, b"SET w 0\r\nGET v\r\n".repeat(READS / 10), value, READS / 10);
    let get = b"GET /kv/v HTTP/1.1\r\nHost: localhost\r\n\r\n";
    pipeline(node.http, get.repeat(READS / 10), b"0123456789", READS / 10);
    node.stop();
}

#[test]
fn operator_connects_when_native_client_slots_are_full() {
    let node = Node::start_with(|config| config.net.clients_max = 16);
    let soon = || deadline(PATIENCE);
    let mut clients = Vec::new();
    let refused = loop {
        match Connection::dial(&node.native, None, soon()) {
            Ok(client) => clients.push(client),
            Err(refused) => break refused.to_string(),
        }
    };
    assert!(refused.contains("too many connections"), "{refused}");
    assert_eq!(clients.len(), 13, "one slot is reserved for operators, and one for each gateway");
    assert_eq!(Client::connect([node.native.clone()]).status(&node.native).unwrap().node, 1);
    let mut operator = Connection::dial_operator(&node.native, None, soon()).unwrap();
    assert!(operator.call(&Request::Status, soon()).is_ok());
    let op = Op::Open { window: 1, ordered: false }.encode();
    assert!(operator.call(&Request::Propose { op }, soon()).is_err(), "the operator slot is not for clients");
    node.stop();
}
