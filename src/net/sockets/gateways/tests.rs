//! Tests of slow gateway clients. The tests drive the event loop step by step, with a simulated clock.

use super::super::Identity;
use super::super::memory::ClientMemory;
use super::*;
use crate::api::Request;
use crate::gateway::password::Password;
use crate::machine::commands::Answer;
use crate::net::memory_pressure::MemoryPressure;
use crate::net::options::Options;
use crate::types::{ClusterId, DiskId, Index, NodeId};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::net::TcpStream as BlockingStream;
use std::time::{Duration, Instant};

/// A node without its event loop: its connections with both gateways, and its clock.
struct TestNode {
    net: Net,
    now: Time,
}

impl TestNode {
    fn open() -> TestNode {
        let me = Identity {
            node: NodeId::new(1).unwrap(),
            cluster: ClusterId(9),
            disk: DiskId(1),
            run: crate::types::Run { id: 1, starts: 1 },
        };
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut net = Net::open(me, stream::listen(loopback).unwrap(), BTreeMap::new(), Options::default()).unwrap();
        net.open_http(stream::listen(loopback).unwrap(), http::gateway::Options::default()).unwrap();
        net.open_redis(stream::listen(loopback).unwrap(), crate::gateway::redis::gateway::Options::default()).unwrap();
        TestNode { net, now: Time(1) }
    }

    fn dial_http(&mut self) -> BlockingStream {
        self.dial_at(GatewayKind::Http)
    }

    fn dial_at(&mut self, kind: GatewayKind) -> BlockingStream {
        let clients_before = self.net.connections.client_count();
        let client = BlockingStream::connect(self.net.gateways.address(kind).unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        self.run_until("the client is connected", |net| net.connections.client_count() > clients_before);
        client
    }

    /// A client whose socket accepts almost no bytes.
    fn dial_without_reading(&mut self) -> BlockingStream {
        let clients_before = self.net.connections.client_count();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&SockAddr::from(self.net.gateways.address(GatewayKind::Redis).unwrap())).unwrap();
        self.run_until("the client is connected", |net| net.connections.client_count() > clients_before);
        socket.into()
    }

    /// Like `pump`, but also answers every read of the clients with `value`: a few reads at a time, as a node does.
    fn pump_and_answer_reads(&mut self, value: &[u8]) {
        let answer = Answer::Value(Some(value.to_vec().into())).encode();
        self.net.wait(Some(Duration::from_millis(1))).unwrap();
        self.net.poll_io(self.now);
        let mut requests = Vec::new();
        self.net.take_events(&mut requests);
        while !requests.is_empty() {
            for event in requests.drain(..requests.len().min(4)) {
                let Event::Request { from, id, request: Request::Query { .. }, .. } = event else { continue };
                let reply = Reply::Answer { applied: Index(1), answer: answer.clone() };
                self.net.answer(self.now, from, id, reply);
            }
            self.net.pump_scheduled(self.now);
            self.net.take_events(&mut requests);
        }
        self.net.flush(self.now);
        self.now = self.now + Duration::from_millis(1);
    }

    fn pump(&mut self) {
        self.net.wait(Some(Duration::from_millis(1))).unwrap();
        self.net.poll_io(self.now);
        self.net.take_events(&mut Vec::new());
        self.net.flush(self.now);
    }

    /// Advances the time, without any event.
    fn advance_time(&mut self, duration: Duration) {
        self.now = self.now + duration;
        (0..3).for_each(|_| self.pump());
    }

    fn run_until(&mut self, expectation: &str, done: impl Fn(&Net) -> bool) {
        let started = Instant::now();
        while !done(&self.net) {
            assert!(started.elapsed() < Duration::from_secs(20), "not within 20 seconds: {expectation}");
            self.pump();
        }
    }

    /// Sends bytes, and runs the node long enough to read them, unless reading is suspended.
    fn send(&mut self, client: &mut BlockingStream, bytes: &[u8]) {
        client.write_all(bytes).unwrap();
        (0..5).for_each(|_| self.pump());
    }

    fn read_answer(&mut self, client: &mut BlockingStream) -> String {
        let mut buffer = [0; 4096];
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < Duration::from_secs(20), "no answer arrived within 20 seconds");
            self.pump();
            if let Ok(n) = client.read(&mut buffer) {
                return String::from_utf8_lossy(&buffer[..n]).into_owned();
            }
        }
    }
}

const LIVEZ_REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn http_client_without_complete_head_times_out() {
    let options = Options::default();
    let mut node = TestNode::open();
    let _silent_client = node.dial_http();
    node.advance_time(options.idle_timeout);
    assert_eq!(node.net.connections.client_count(), 1);
    node.advance_time(Duration::from_secs(2));
    assert_eq!(node.net.connections.client_count(), 0, "an idle client is disconnected");

    let mut slow_client = node.dial_http();
    node.advance_time(options.idle_timeout / 2);
    node.send(&mut slow_client, b"GET / HT");
    node.advance_time(options.request_head_timeout - Duration::from_secs(1));
    node.send(&mut slow_client, b"TP/1.1\r\n");
    assert_eq!(node.net.connections.client_count(), 1, "the time limit starts with the head");
    node.advance_time(Duration::from_secs(3));
    assert_eq!(node.net.connections.client_count(), 0, "more bytes of the head do not restart the time limit");
}

#[test]
fn http_body_has_own_timeout_and_replies_reset_idle_time() {
    let options = Options::default();
    let mut node = TestNode::open();
    let mut client = node.dial_http();
    for _ in 0..5 {
        node.advance_time(options.idle_timeout - Duration::from_secs(2));
        node.send(&mut client, LIVEZ_REQUEST);
        assert!(node.read_answer(&mut client).ends_with("alive\n"));
    }
    node.send(&mut client, b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nva");
    node.advance_time(options.request_head_timeout + Duration::from_secs(5));
    assert_eq!(node.net.connections.client_count(), 1, "the head is complete, so its time limit is over");
    node.advance_time(options.frame_timeout);
    assert_eq!(node.net.connections.client_count(), 0, "the body took too long");
}

#[test]
fn http_connection_lingers_after_last_response() {
    let options = Options::default();
    let mut node = TestNode::open();
    let mut client = node.dial_http();
    node.send(&mut client, b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n");
    (0..20).for_each(|_| node.send(&mut client, &[7; 10_000]));
    assert!(node.read_answer(&mut client).starts_with("HTTP/1.1 413 "));
    assert_eq!(node.net.connections.client_count(), 1, "the rest of the body is read and discarded");
    node.advance_time(options.linger_timeout + Duration::from_secs(2));
    assert_eq!(node.net.connections.client_count(), 0);

    let mut closing_client = node.dial_http();
    node.send(&mut closing_client, b"GET /livez HTTP/1.0\r\n\r\n");
    assert!(node.read_answer(&mut closing_client).ends_with("alive\n"));
    drop(closing_client);
    node.run_until("the node closes the connection after the client", |net| net.connections.client_count() == 0);
}

#[test]
fn idle_redis_client_stays_but_incomplete_command_times_out() {
    let options = Options::default();
    let mut node = TestNode::open();
    let mut redis = node.dial_at(GatewayKind::Redis);
    node.advance_time(options.frame_timeout * 3);
    assert_eq!(node.net.connections.client_count(), 1, "a Redis client may stay idle");
    // In each round, the first `send` completes one command and begins the next, which the second `send` completes in
    // time.
    for _ in 0..5 {
        node.send(&mut redis, b"*1\r\n$4\r\nPING\r\n*1\r\n");
        assert_eq!(node.read_answer(&mut redis), "+PONG\r\n");
        node.advance_time(options.frame_timeout - Duration::from_secs(2));
        node.send(&mut redis, b"$4\r\nPING\r\n");
        assert_eq!(node.read_answer(&mut redis), "+PONG\r\n");
    }
    node.send(&mut redis, b"*1\r\n");
    node.advance_time(options.frame_timeout + Duration::from_secs(2));
    assert_eq!(node.net.connections.client_count(), 0, "the incomplete command took too long");
}

#[test]
fn unauthenticated_redis_client_times_out() {
    let options = Options::default();
    let mut node = TestNode::open();
    node.net.gateways.redis.options.password = Some(Password::new(b"open sesame"));
    let mut redis = node.dial_at(GatewayKind::Redis);
    node.advance_time(options.idle_timeout / 2);
    node.send(&mut redis, b"AUTH guess\r\n");
    assert!(node.read_answer(&mut redis).starts_with("-WRONGPASS"));
    node.advance_time(options.idle_timeout / 2 + Duration::from_secs(2));
    assert_eq!(node.net.connections.client_count(), 0, "a wrong password does not restart the time limit");

    let mut redis = node.dial_at(GatewayKind::Redis);
    node.send(&mut redis, b"AUTH \"open sesame\"\r\n");
    assert_eq!(node.read_answer(&mut redis), "+OK\r\n");
    node.advance_time(options.idle_timeout * 3);
    assert_eq!(node.net.connections.client_count(), 1);
}

#[test]
fn half_closed_client_receives_its_reply() {
    let mut node = TestNode::open();
    for (kind, request, end) in
        [(GatewayKind::Redis, &b"PING\r\n"[..], "+PONG\r\n"), (GatewayKind::Http, LIVEZ_REQUEST, "alive\n")]
    {
        let mut client = node.dial_at(kind);
        client.write_all(request).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let answer = node.read_answer(&mut client);
        assert!(answer.ends_with(end), "{kind:?}: {answer:?}");
        node.run_until("the connection is closed", |net| net.connections.client_count() == 0);
    }
}

#[test]
fn client_that_never_reads_is_disconnected() {
    let options = Options::default();
    let mut node = TestNode::open();
    let mut client = node.dial_http();
    let page_requests = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let is_suspended =
        |net: &Net| net.connections.iter().any(|conn| conn.has_unprocessed_input && !conn.output.is_empty());
    for _ in 0..1000 {
        if is_suspended(&node.net) {
            break;
        }
        node.send(&mut client, &page_requests);
    }
    assert!(is_suspended(&node.net), "a client with many unread replies is not read from");
    node.advance_time(Duration::from_secs(2));
    node.advance_time(options.idle_timeout - Duration::from_secs(1));
    assert_eq!(node.net.connections.client_count(), 1);
    node.advance_time(Duration::from_secs(3));
    assert_eq!(node.net.connections.client_count(), 0, "the client has read nothing for too long");
}

#[test]
fn node_without_free_client_slot_answers_health_probes() {
    let mut node = TestNode::open();
    node.net.options.clients_max = 1;
    let _only_client = node.dial_at(GatewayKind::Redis);
    let mut probe = node.dial_http();
    node.send(&mut probe, LIVEZ_REQUEST);
    let answer = node.read_answer(&mut probe);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("Connection: close"), "{answer}");
    drop(probe);
    node.run_until("the probe is disconnected", |net| net.connections.client_count() == 1);
    let mut key_request_probe = node.dial_http();
    node.send(&mut key_request_probe, b"GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = node.read_answer(&mut key_request_probe);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1"), "{answer}");
    drop(key_request_probe);
    node.run_until("the probe is disconnected", |net| net.connections.client_count() == 1);

    // A probe may also send other requests about the node, such as `/version`.
    let mut version_probe = node.dial_http();
    node.send(&mut version_probe, b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(node.read_answer(&mut version_probe).starts_with("HTTP/1.1 200 "));
    drop(version_probe);
    node.run_until("the probe is disconnected", |net| net.connections.client_count() == 1);
    assert_eq!(node.net.gateways.probe_count(), 0);

    let _probes: Vec<_> = (0..node.net.options.probes_max).map(|_| node.dial_http()).collect();
    for (kind, refusal) in [(GatewayKind::Redis, "-ERR max number of clients"), (GatewayKind::Http, "HTTP/1.1 503 ")] {
        let mut rejected = BlockingStream::connect(node.net.gateways.address(kind).unwrap()).unwrap();
        rejected.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(node.read_answer(&mut rejected).starts_with(refusal));
    }
}

#[test]
fn each_port_reserves_slots_for_its_clients() {
    let mut node = TestNode::open();
    node.net.options.clients_max = 32;
    let refusal_text = "-ERR max number of clients";
    let redis_clients: Vec<_> = (0..26).map(|_| node.dial_at(GatewayKind::Redis)).collect();
    let mut extra_client = BlockingStream::connect(node.net.gateways.address(GatewayKind::Redis).unwrap()).unwrap();
    extra_client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    assert!(node.read_answer(&mut extra_client).starts_with(refusal_text));
    let _http_clients: Vec<_> = (0..4).map(|_| node.dial_http()).collect();
    assert_eq!(node.net.gateways.probe_count(), 2, "two clients have slots, and two are probes");
    assert!(node.net.has_free_slot(ClientPort::Native) && node.net.has_free_slot(ClientPort::Operators));
    drop(redis_clients);
    node.run_until("the clients are disconnected", |net| net.connections.client_count() == 4);
    assert!(
        node.net.has_free_slot(ClientPort::Gateway(GatewayKind::Redis))
            && node.net.has_free_slot(ClientPort::Gateway(GatewayKind::Http))
    );
}

#[test]
fn memory_of_stalled_clients_is_bounded_in_total() {
    const MEMORY_BYTES_MAX: usize = 4 << 20;
    let mut node = TestNode::open();
    *node.net.connections.client_memory_mut() = ClientMemory::new(MEMORY_BYTES_MAX);
    let (value, started) = (vec![b'v'; 100_000], Instant::now());
    let mut reading_client = node.dial_at(GatewayKind::Redis);
    let mut is_served = |node: &mut TestNode| {
        reading_client.write_all(b"GET k\r\n").unwrap();
        let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
        while received < b"$100000\r\n\r\n".len() + value.len() {
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "only {received} bytes of the reply arrived within 120 seconds, {:?}",
                node.net.connections.client_memory()
            );
            node.pump_and_answer_reads(&value);
            received += reading_client.read(&mut buffer).unwrap_or(0);
        }
    };
    let mut stalled_clients: Vec<BlockingStream> = Vec::new();
    let mut connect_stalled = |node: &mut TestNode, rounds: usize| {
        let mut client = node.dial_without_reading();
        client.write_all(&b"GET k\r\n".repeat(100)).unwrap();
        // The kernel's socket buffers take some megabytes of replies before any remain in the node's memory.
        (0..rounds).for_each(|_| node.pump_and_answer_reads(&value));
        stalled_clients.push(client);
        assert!(stalled_clients.len() < 500, "{:?}", node.net.connections.client_memory());
    };
    while node.net.connections.client_memory().pressure() < MemoryPressure::High {
        connect_stalled(&mut node, 60);
    }
    is_served(&mut node);
    (0..20).for_each(|_| connect_stalled(&mut node, 10));
    is_served(&mut node);
    let held_bytes = node.net.connections.client_memory().held_bytes();
    assert!(
        held_bytes > MEMORY_BYTES_MAX / 2 && held_bytes <= MEMORY_BYTES_MAX,
        "{:?}",
        node.net.connections.client_memory()
    );
    // Stalled connections are closed once the bound is below the bytes that clients hold.
    let memory_bytes_max = held_bytes / 2;
    node.net.connections.client_memory_mut().set_max_bytes(memory_bytes_max);
    node.pump_and_answer_reads(&value);
    // Four sweeps find that the clients in `stalled_clients` read nothing.
    for _ in 0..4 {
        node.advance_time(Duration::from_secs(1));
    }
    assert!(
        node.net.connections.client_memory().held_bytes() <= memory_bytes_max / 2,
        "{:?}",
        node.net.connections.client_memory()
    );
    assert!(node.net.connections.client_count() > 1, "no more connections are closed than necessary");
    is_served(&mut node);
    drop(stalled_clients);
    node.run_until("the clients are disconnected", |net| net.connections.client_count() == 1);
    is_served(&mut node);
    node.advance_time(Duration::from_secs(3));
    assert!(
        node.net.connections.client_memory().held_bytes() < 256 << 10,
        "{:?}",
        node.net.connections.client_memory()
    );
}
