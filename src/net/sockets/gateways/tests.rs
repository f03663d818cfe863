//! Slow clients of the gateways, on event loops that the tests run by hand.

use super::super::Identity;
use super::super::memory::Memory;
use super::*;
use crate::api::Request;
use crate::gateway::password::Password;
use crate::machine::commands::Answer;
use crate::net::options::Options;
use crate::net::pressure::Pressure;
use crate::types::{ClusterId, DiskId, Index, NodeId};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::net::TcpStream as Blocking;
use std::time::{Duration, Instant};

/// A node's sockets with its HTTP gateway, and its clock.
struct Pumped {
    net: Net,
    now: Time,
}

impl Pumped {
    fn open() -> Pumped {
        let me = Identity {
            node: NodeId::new(1).unwrap(),
            cluster: ClusterId(9),
            disk: DiskId(1),
            run: crate::types::Run { id: 1, starts: 1 },
        };
        let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut net = Net::open(me, stream::listen(here).unwrap(), BTreeMap::new(), Options::default()).unwrap();
        net.open_http(stream::listen(here).unwrap(), http::gateway::Options::default()).unwrap();
        net.open_redis(stream::listen(here).unwrap(), crate::gateway::redis::gateway::Options::default()).unwrap();
        Pumped { net, now: Time(1) }
    }

    fn dial(&mut self) -> Blocking {
        self.dial_at(GatewayKind::Http)
    }

    fn dial_at(&mut self, kind: GatewayKind) -> Blocking {
        let before = self.net.connections.clients();
        let caller = Blocking::connect(self.net.gateways.address(kind).unwrap()).unwrap();
        caller.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        self.until("the client is connected", |net| net.connections.clients() > before);
        caller
    }

    /// A client whose socket accepts almost no bytes.
    fn dial_without_reading(&mut self) -> Blocking {
        let before = self.net.connections.clients();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&SockAddr::from(self.net.gateways.address(GatewayKind::Redis).unwrap())).unwrap();
        self.until("the client is connected", |net| net.connections.clients() > before);
        socket.into()
    }

    /// Like `pump`, but also answers each read with that value, a few at a time, as a node does.
    fn serve(&mut self, value: &[u8]) {
        let answer = Answer::Value(Some(value.to_vec().into())).encode();
        self.net.wait(Some(Duration::from_millis(1))).unwrap();
        self.net.poll_io(self.now);
        let mut asked = Vec::new();
        self.net.events(&mut asked);
        while !asked.is_empty() {
            for event in asked.drain(..asked.len().min(4)) {
                let Event::Request { from, id, request: Request::Query { .. }, .. } = event else { continue };
                let reply = Reply::Answer { applied: Index(1), answer: answer.clone() };
                self.net.answer(self.now, from, id, reply);
            }
            self.net.pump_all(self.now);
            self.net.events(&mut asked);
        }
        self.net.flush(self.now);
        self.now = self.now + Duration::from_millis(1);
    }

    fn pump(&mut self) {
        self.net.wait(Some(Duration::from_millis(1))).unwrap();
        self.net.poll_io(self.now);
        self.net.events(&mut Vec::new());
        self.net.flush(self.now);
    }

    /// Advances the time, without any event.
    fn skip(&mut self, duration: Duration) {
        self.now = self.now + duration;
        (0..3).for_each(|_| self.pump());
    }

    fn until(&mut self, what: &str, done: impl Fn(&Net) -> bool) {
        let begun = Instant::now();
        while !done(&self.net) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
            self.pump();
        }
    }

    /// Sends bytes, and runs the node long enough to read them, unless reading is suspended.
    fn send(&mut self, caller: &mut Blocking, bytes: &[u8]) {
        caller.write_all(bytes).unwrap();
        (0..5).for_each(|_| self.pump());
    }

    fn answer(&mut self, caller: &mut Blocking) -> String {
        let mut buffer = [0; 4096];
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(20), "an answer");
            self.pump();
            if let Ok(n) = caller.read(&mut buffer) {
                return String::from_utf8_lossy(&buffer[..n]).into_owned();
            }
        }
    }
}

const ASK: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn http_client_without_complete_head_times_out() {
    let options = Options::default();
    let mut node = Pumped::open();
    let _silent = node.dial();
    node.skip(options.idle_patience);
    assert_eq!(node.net.connections.clients(), 1);
    node.skip(Duration::from_secs(2));
    assert_eq!(node.net.connections.clients(), 0, "an idle client is disconnected");

    let mut slow = node.dial();
    node.skip(options.idle_patience / 2);
    node.send(&mut slow, b"GET / HT");
    node.skip(options.head_patience - Duration::from_secs(1));
    node.send(&mut slow, b"TP/1.1\r\n");
    assert_eq!(node.net.connections.clients(), 1, "the time limit starts with the head");
    node.skip(Duration::from_secs(3));
    assert_eq!(node.net.connections.clients(), 0, "more bytes of the head do not restart the time limit");
}

#[test]
fn http_body_has_own_timeout_and_replies_reset_idle_time() {
    let options = Options::default();
    let mut node = Pumped::open();
    let mut caller = node.dial();
    for _ in 0..5 {
        node.skip(options.idle_patience - Duration::from_secs(2));
        node.send(&mut caller, ASK);
        assert!(node.answer(&mut caller).ends_with("alive\n"));
    }
    node.send(&mut caller, b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nva");
    node.skip(options.head_patience + Duration::from_secs(5));
    assert_eq!(node.net.connections.clients(), 1, "the head is complete, so its time limit is over");
    node.skip(options.frame_patience);
    assert_eq!(node.net.connections.clients(), 0, "the body took too long");
}

#[test]
fn http_connection_lingers_after_last_response() {
    let options = Options::default();
    let mut node = Pumped::open();
    let mut caller = node.dial();
    node.send(&mut caller, b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n");
    (0..20).for_each(|_| node.send(&mut caller, &[7; 10_000]));
    assert!(node.answer(&mut caller).starts_with("HTTP/1.1 413 "));
    assert_eq!(node.net.connections.clients(), 1, "the rest of the body is read and discarded");
    node.skip(options.linger + Duration::from_secs(2));
    assert_eq!(node.net.connections.clients(), 0);

    let mut polite = node.dial();
    node.send(&mut polite, b"GET /livez HTTP/1.0\r\n\r\n");
    assert!(node.answer(&mut polite).ends_with("alive\n"));
    drop(polite);
    node.until("the node closes the connection after the client", |net| net.connections.clients() == 0);
}

#[test]
fn idle_redis_client_stays_incomplete_command_times_out() {
    let options = Options::default();
    let mut node = Pumped::open();
    let mut redis = node.dial_at(GatewayKind::Redis);
    node.skip(options.frame_patience * 3);
    assert_eq!(node.net.connections.clients(), 1, "a Redis client may stay idle");
    // The input always ends in the middle of a command, with more behind it.
    for _ in 0..5 {
        node.send(&mut redis, b"*1\r\n$4\r\nPING\r\n*1\r\n");
        assert_eq!(node.answer(&mut redis), "+PONG\r\n");
        node.skip(options.frame_patience - Duration::from_secs(2));
        node.send(&mut redis, b"$4\r\nPING\r\n");
        assert_eq!(node.answer(&mut redis), "+PONG\r\n");
    }
    node.send(&mut redis, b"*1\r\n");
    node.skip(options.frame_patience + Duration::from_secs(2));
    assert_eq!(node.net.connections.clients(), 0, "the incomplete command took too long");
}

#[test]
fn unauthenticated_redis_client_times_out() {
    let options = Options::default();
    let mut node = Pumped::open();
    node.net.gateways.redis.options.password = Some(Password::new(b"open sesame"));
    let mut redis = node.dial_at(GatewayKind::Redis);
    node.skip(options.idle_patience / 2);
    node.send(&mut redis, b"AUTH guess\r\n");
    assert!(node.answer(&mut redis).starts_with("-WRONGPASS"));
    node.skip(options.idle_patience / 2 + Duration::from_secs(2));
    assert_eq!(node.net.connections.clients(), 0, "a wrong password does not restart the time limit");

    let mut redis = node.dial_at(GatewayKind::Redis);
    node.send(&mut redis, b"AUTH \"open sesame\"\r\n");
    assert_eq!(node.answer(&mut redis), "+OK\r\n");
    node.skip(options.idle_patience * 3);
    assert_eq!(node.net.connections.clients(), 1);
}

#[test]
fn half_closed_client_receives_its_reply() {
    let mut node = Pumped::open();
    for (kind, question, end) in
        [(GatewayKind::Redis, &b"PING\r\n"[..], "+PONG\r\n"), (GatewayKind::Http, ASK, "alive\n")]
    {
        let mut caller = node.dial_at(kind);
        caller.write_all(question).unwrap();
        caller.shutdown(Shutdown::Write).unwrap();
        let answer = node.answer(&mut caller);
        assert!(answer.ends_with(end), "{kind:?}: {answer:?}");
        node.until("the connection is closed", |net| net.connections.clients() == 0);
    }
}

#[test]
fn client_that_never_reads_is_disconnected() {
    let options = Options::default();
    let mut node = Pumped::open();
    let mut deaf = node.dial();
    let ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let unheard = |net: &Net| net.connections.iter().any(|conn| conn.unprocessed && !conn.lanes.is_empty());
    for _ in 0..1000 {
        if unheard(&node.net) {
            break;
        }
        node.send(&mut deaf, &ask);
    }
    assert!(unheard(&node.net), "a client with many unread replies is not read from");
    node.skip(Duration::from_secs(2));
    node.skip(options.idle_patience - Duration::from_secs(1));
    assert_eq!(node.net.connections.clients(), 1);
    node.skip(Duration::from_secs(3));
    assert_eq!(node.net.connections.clients(), 0, "the client has read nothing for too long");
}

#[test]
fn full_node_still_answers_health_probes() {
    let mut node = Pumped::open();
    node.net.options.clients_max = 1;
    let _one = node.dial_at(GatewayKind::Redis);
    let mut probe = node.dial();
    node.send(&mut probe, ASK);
    let answer = node.answer(&mut probe);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("Connection: close"), "{answer}");
    drop(probe);
    node.until("the probe is disconnected", |net| net.connections.clients() == 1);
    let mut more = node.dial();
    node.send(&mut more, b"GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = node.answer(&mut more);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1"), "{answer}");
    drop(more);
    node.until("the probe is disconnected", |net| net.connections.clients() == 1);

    // An operator's tools request more than a load balancer does.
    let mut operator = node.dial();
    node.send(&mut operator, b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(node.answer(&mut operator).starts_with("HTTP/1.1 200 "));
    drop(operator);
    node.until("the probe is disconnected", |net| net.connections.clients() == 1);
    assert_eq!(node.net.gateways.probes(), 0);

    let _probes: Vec<_> = (0..node.net.options.probes_max).map(|_| node.dial()).collect();
    for (kind, refusal) in [(GatewayKind::Redis, "-ERR max number of clients"), (GatewayKind::Http, "HTTP/1.1 503 ")] {
        let mut another = Blocking::connect(node.net.gateways.address(kind).unwrap()).unwrap();
        another.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(node.answer(&mut another).starts_with(refusal));
    }
}

#[test]
fn each_port_reserves_seats_for_its_clients() {
    let mut node = Pumped::open();
    node.net.options.clients_max = 32;
    let refused = "-ERR max number of clients";
    let redis: Vec<_> = (0..26).map(|_| node.dial_at(GatewayKind::Redis)).collect();
    let mut more = Blocking::connect(node.net.gateways.address(GatewayKind::Redis).unwrap()).unwrap();
    more.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    assert!(node.answer(&mut more).starts_with(refused));
    let _http: Vec<_> = (0..4).map(|_| node.dial()).collect();
    assert_eq!(node.net.gateways.probes(), 2, "two clients have seats, and two are probes");
    assert!(node.net.has_seat(Port::Native) && node.net.has_seat(Port::Operators));
    drop(redis);
    node.until("the clients are disconnected", |net| net.connections.clients() == 4);
    assert!(
        node.net.has_seat(Port::Gateway(GatewayKind::Redis)) && node.net.has_seat(Port::Gateway(GatewayKind::Http))
    );
}

#[test]
fn memory_of_stalled_clients_is_bounded_in_total() {
    const MAX: usize = 4 << 20;
    let mut node = Pumped::open();
    *node.net.connections.memory_mut() = Memory::new(MAX);
    let (value, begun) = (vec![b'v'; 100_000], Instant::now());
    let mut reader = node.dial_at(GatewayKind::Redis);
    let mut is_served = |node: &mut Pumped| {
        reader.write_all(b"GET k\r\n").unwrap();
        let (mut came, mut buffer) = (0, vec![0; 64 << 10]);
        while came < b"$100000\r\n\r\n".len() + value.len() {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "only {came} bytes of the reply, {:?}",
                node.net.connections.memory()
            );
            node.serve(&value);
            came += reader.read(&mut buffer).unwrap_or(0);
        }
    };
    let mut deaf: Vec<Blocking> = Vec::new();
    let mut another = |node: &mut Pumped, serves: usize| {
        let mut another = node.dial_without_reading();
        another.write_all(&b"GET k\r\n".repeat(100)).unwrap();
        // The system's own buffers hold some megabytes before the node holds anything.
        (0..serves).for_each(|_| node.serve(&value));
        deaf.push(another);
        assert!(deaf.len() < 500, "{:?}", node.net.connections.memory());
    };
    while node.net.connections.memory().pressure() < Pressure::High {
        another(&mut node, 60);
    }
    is_served(&mut node);
    (0..20).for_each(|_| another(&mut node, 10));
    is_served(&mut node);
    let held = node.net.connections.memory().held();
    assert!(held > MAX / 2 && held <= MAX, "{:?}", node.net.connections.memory());
    // With a bound below what is held, stalled connections are closed.
    let max = held / 2;
    node.net.connections.memory_mut().set_max(max);
    node.serve(&value);
    // They have time to read, and do not.
    for _ in 0..4 {
        node.skip(Duration::from_secs(1));
    }
    assert!(node.net.connections.memory().held() <= max / 2, "{:?}", node.net.connections.memory());
    assert!(node.net.connections.clients() > 1, "no more connections are closed than necessary");
    is_served(&mut node);
    drop(deaf);
    node.until("the clients are disconnected", |net| net.connections.clients() == 1);
    is_served(&mut node);
    node.skip(Duration::from_secs(3));
    assert!(node.net.connections.memory().held() < 256 << 10, "{:?}", node.net.connections.memory());
}
