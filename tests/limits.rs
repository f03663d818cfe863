//! Limits of a node in this process: pipelines with more requests than one turn of the event loop processes, and the
//! number of connections.

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
use support::{WAIT_TIMEOUT, reserve_ports, wait_until};

/// A single-node cluster whose timers do not fire during a test.
struct Node {
    handle: Handle,
    native_address: String,
    redis_address: SocketAddr,
    http_address: SocketAddr,
    thread: JoinHandle<Result<(), ServerError>>,
    _directory: tempfile::TempDir,
}

impl Node {
    fn start() -> Node {
        Node::start_with(|_| {})
    }

    fn start_with(configure: impl FnOnce(&mut Config)) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let (id, port) = (NodeId::new(1).unwrap(), reserve_ports(3));
        let address = |n: u16| format!("127.0.0.1:{}", port + n);
        let mut config = Config::new(id, BTreeMap::from([(id, address(0))]), directory.path().join("data"));
        (config.segment_bytes, config.reserve_bytes) = (4 << 20, 0);
        (config.resp, config.http) = (BindAddress::At(address(1)), BindAddress::At(address(2)));
        // With a heartbeat every 50 ms, an event loop that wrongly waits for its next timer would only be slow. With a
        // heartbeat every hour, the test would time out.
        let hour = Duration::from_secs(3600);
        (config.consensus.heartbeat, config.consensus.election_min) = (hour, 2 * hour);
        config.consensus.election_max = 3 * hour;
        configure(&mut config);
        let server = Server::open(config, Kv::default()).unwrap();
        let [redis_address, http_address] = [0, 1].map(|gateway| server.gateways()[gateway].1);
        let handle = server.handle();
        let thread = std::thread::spawn(move || server.run());
        wait_until("the node leads", || handle.leadership().leads.then_some(()), String::new);
        Node { handle, native_address: address(0), redis_address, http_address, thread, _directory: directory }
    }

    fn stop(self) {
        self.handle.stop();
        self.thread.join().unwrap().unwrap();
    }
}

/// Sends all requests at once, and reads until `expected_count` responses equal to `response` have arrived.
fn send_pipelined(address: SocketAddr, requests: Vec<u8>, response: &[u8], expected_count: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || writer.write_all(&requests));
    let (mut received, mut buffer, mut unread) = (0, vec![0; 64 << 10], Vec::new());
    while received < expected_count {
        let read_length =
            stream.read(&mut buffer).unwrap_or_else(|error| panic!("{received} of {expected_count} answers: {error}"));
        assert!(read_length > 0, "closed after {received} of {expected_count} answers");
        unread.extend_from_slice(&buffer[..read_length]);
        let mut consumed_bytes = 0;
        while let Some(offset) = unread[consumed_bytes..].windows(response.len()).position(|window| window == response)
        {
            (received, consumed_bytes) = (received + 1, consumed_bytes + offset + response.len());
        }
        unread.drain(..consumed_bytes);
    }
    writer.join().unwrap().unwrap();
}

#[test]
fn pipeline_longer_than_one_event_loop_turn_continues_without_a_timer() {
    const READ_COUNT: usize = 20_000;
    let node = Node::start();
    send_pipelined(node.redis_address, b"SET v 0123456789\r\n".to_vec(), b"+OK\r\n", 1);
    let value_reply = b"$10\r\n0123456789\r\n";
    send_pipelined(node.redis_address, b"GET v\r\n".repeat(READ_COUNT), value_reply, READ_COUNT);
    // After READONLY, the node answers reads from its own state at once, as a follower does.
    let local_requests = [b"READONLY\r\n".to_vec(), b"GET v\r\n".repeat(READ_COUNT)].concat();
    send_pipelined(node.redis_address, local_requests, value_reply, READ_COUNT);
    send_pipelined(node.redis_address, b"SET w 0\r\nGET v\r\n".repeat(READ_COUNT / 10), value_reply, READ_COUNT / 10);
    let get_request = b"GET /kv/v HTTP/1.1\r\nHost: localhost\r\n\r\n";
    send_pipelined(node.http_address, get_request.repeat(READ_COUNT / 10), b"0123456789", READ_COUNT / 10);
    node.stop();
}

#[test]
fn operator_connects_when_native_client_slots_are_full() {
    let node = Node::start_with(|config| config.net.clients_max = 16);
    let wait_deadline = || deadline(WAIT_TIMEOUT);
    let mut clients = Vec::new();
    let refusal = loop {
        match Connection::dial(&node.native_address, None, wait_deadline()) {
            Ok(client) => clients.push(client),
            Err(refusal) => break refusal.to_string(),
        }
    };
    assert!(refusal.contains("too many connections"), "{refusal}");
    assert_eq!(clients.len(), 13, "one slot is reserved for operators, and one for each gateway");
    assert_eq!(Client::connect([node.native_address.clone()]).status(&node.native_address).unwrap().node, 1);
    let mut operator = Connection::dial_operator(&node.native_address, None, wait_deadline()).unwrap();
    assert!(operator.call(&Request::Status, wait_deadline()).is_ok());
    let op = Op::Open { window: 1, ordered: false }.encode();
    assert!(operator.call(&Request::Propose { op }, wait_deadline()).is_err(), "the operator slot is not for clients");
    node.stop();
}
