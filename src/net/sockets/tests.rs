//! Tests of connections between nodes and clients on loopback. The tests drive the event loops step by step, with a
//! simulated clock.

use super::super::conn::Conn;
use super::super::links::LinkState;
use super::*;
use crate::api::{Consistency, Op};
use crate::codec;
use crate::consensus::message::{Envelope, Message, Origin, Round};
use crate::types::{ClusterId, ClusterTime, DiskId, Entry, Index, Payload, Position, Run, Term};
use crate::wire::client::{put_request_frame, read_reply_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{CLIENT_VERSION_MIN, Hello, VERSION_MAX, Welcome};
use crate::wire::reason::HelloRejection;
use bytes::{Bytes, BytesMut};
use std::io::{Read, Write};
use std::net::TcpStream as BlockingStream;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

const CLUSTER: ClusterId = ClusterId(9);

fn run_with_id(id: u64) -> Run {
    Run { id, starts: 1 }
}

fn id(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

/// A node without its event loop: its connections, the events that they produced, and its clock.
struct TestNode {
    net: Net,
    events: Vec<Event>,
    now: Time,
}

impl TestNode {
    fn open(n: u64, options: Options) -> TestNode {
        TestNode::open_at(n, n, "127.0.0.1:0".parse().unwrap(), options).unwrap()
    }

    fn open_at(n: u64, disk: u64, listen: SocketAddr, options: Options) -> io::Result<TestNode> {
        let me = Identity { node: id(n), cluster: CLUSTER, disk: DiskId(disk), run: run_with_id(n) };
        let net = Net::open(me, stream::listen(listen)?, BTreeMap::new(), options)?;
        Ok(TestNode { net, events: Vec::new(), now: Time(1) })
    }

    /// Opens a node at a port below the ephemeral range, so that the port is still free after it was closed.
    fn open_below_ephemeral_ports(n: u64) -> TestNode {
        static NEXT_PORT_OFFSET: AtomicU16 = AtomicU16::new(0);
        let first_port_offset = (std::process::id() as u16).wrapping_mul(16);
        let open = |port_offset| {
            let port = 10_000 + first_port_offset.wrapping_add(port_offset) % 2_000;
            TestNode::open_at(n, n, ([127, 0, 0, 1], port).into(), Options::default()).ok()
        };
        std::iter::repeat_with(|| NEXT_PORT_OFFSET.fetch_add(1, Ordering::Relaxed)).find_map(open).unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.net.address().unwrap()
    }

    fn pump(&mut self) {
        self.net.wait(Some(Duration::from_millis(1))).unwrap();
        self.now = self.now + Duration::from_millis(1);
        self.net.poll_io(self.now);
        self.net.take_events(&mut self.events);
        self.net.flush(self.now);
    }

    /// Advances the time, without any event.
    fn advance_time(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.pump();
    }

    fn lost_peers(&self) -> Vec<NodeId> {
        let lost_peer = |event: &Event| match event {
            Event::PeerLost(peer) => Some(*peer),
            _ => None,
        };
        self.events.iter().filter_map(lost_peer).collect()
    }

    fn received_messages(&self) -> Vec<&Message> {
        let message_of = |event| match event {
            &Event::Peer(Envelope { ref message, .. }) => Some(message),
            _ => None,
        };
        self.events.iter().filter_map(message_of).collect()
    }

    fn request_count(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Request { .. })).count()
    }
}

fn pump_until(nodes: &mut [TestNode], expectation: &str, done: impl Fn(&[TestNode]) -> bool) {
    let started = Instant::now();
    while !done(nodes) {
        assert!(started.elapsed() < Duration::from_secs(20), "not within 20 seconds: {expectation}");
        nodes.iter_mut().for_each(TestNode::pump);
    }
}

/// Two nodes whose links to each other are up.
fn linked_pair() -> Vec<TestNode> {
    let mut nodes = vec![TestNode::open_below_ephemeral_ports(1), TestNode::open_below_ephemeral_ports(2)];
    let members = Membership::founding((1..).map(id).zip(nodes.iter().map(|node| node.address().to_string())));
    for node in &mut nodes {
        node.net.set_members(node.now, &members, Position::ZERO);
    }
    pump_until(&mut nodes, "links come up", are_linked);
    nodes
}

fn are_linked(nodes: &[TestNode]) -> bool {
    nodes[0].net.peer_links.outbound_connection(id(2)).is_some()
        && nodes[1].net.peer_links.outbound_connection(id(1)).is_some()
        && nodes.iter().all(|node| node.net.peer_links.inbound_count() == 1)
}

fn envelope(from: u64, message: Message) -> Envelope {
    Envelope { from: id(from), to: id(3 - from), term: Term(1), origin: Origin::default(), message }
}

fn heartbeat() -> Message {
    Message::Heartbeat { commit: Index(0), round: Round(1), time: ClusterTime(0) }
}

fn append(bytes: usize) -> Message {
    let payload = Payload::Opaque(Bytes::from(vec![7; bytes]));
    let entry: Entry = codec::entry(Position::new(Index(1), Term(1)), ClusterTime(0), payload);
    Message::AppendEntries { prev: Position::ZERO, commit: Index(0), probe_number: 0, entries: vec![entry] }
}

/// async-raft#103, RedisLabs/raft#53: an append so large that the election timeout expired while a heartbeat waited
/// behind it.
#[test]
fn heartbeat_overtakes_large_append() {
    let mut nodes = linked_pair();
    nodes[0].net.send(envelope(1, append(1 << 20)));
    nodes[0].net.send(envelope(1, append(2)));
    nodes[0].net.send(envelope(1, heartbeat()));
    pump_until(&mut nodes, "three messages", |nodes| nodes[1].received_messages().len() == 3);
    assert_eq!(nodes[1].received_messages(), [&heartbeat(), &append(1 << 20), &append(2)]);
    nodes[1].net.send(envelope(2, heartbeat()));
    pump_until(&mut nodes, "a message in the other direction", |nodes| nodes[0].received_messages().len() == 1);
    assert!(nodes.iter().all(|node| node.lost_peers().is_empty()));
}

#[test]
fn stopped_peer_is_lost_at_once_and_reconnects() {
    let mut nodes = linked_pair();
    let address = nodes[1].address();
    drop(nodes.pop());
    pump_until(&mut nodes, "both connections with node 2 are lost", |nodes| nodes[0].lost_peers() == [id(2), id(2)]);
    nodes.push(TestNode::open_at(2, 2, address, Options::default()).unwrap());
    let members = nodes[0].net.membership.members().clone();
    nodes[1].net.set_members(Time(1), &members, Position::ZERO);
    pump_until(&mut nodes, "links come up again", are_linked);
}

#[test]
fn peer_with_new_disk_id_is_rejected() {
    let mut nodes = linked_pair();
    let address = nodes[1].address();
    drop(nodes.pop());
    pump_until(&mut nodes, "both connections with node 2 are lost", |nodes| nodes[0].lost_peers() == [id(2), id(2)]);
    // The peer's directory was emptied: its hello is the same except for the disk id.
    nodes.push(TestNode::open_at(2, 22, address, Options::default()).unwrap());
    let members = nodes[0].net.membership.members().clone();
    nodes[1].net.set_members(Time(1), &members, Position::ZERO);
    let dial_failures = |nodes: &[TestNode]| {
        let dial_failures_of =
            |n: usize, peer| nodes[n].net.peer_links.get(id(peer)).map_or(0, |link| link.failures_since_up);
        (dial_failures_of(0, 2), dial_failures_of(1, 1))
    };
    let failures_before = dial_failures(&nodes);
    pump_until(&mut nodes, "both nodes dial each other and fail", |nodes| {
        let failures_now = dial_failures(nodes);
        failures_now.0 > failures_before.0 + 2 && failures_now.1 > failures_before.1 + 2
    });
    assert!(
        nodes[0].net.peer_links.outbound_connection(id(2)).is_none() && nodes[0].net.peer_links.inbound_count() == 0
    );
    assert!(nodes[1].net.peer_links.outbound_connection(id(1)).is_none() && nodes[1].received_messages().is_empty());
}

#[test]
fn replaced_connection_reports_no_lost_peer() {
    let mut nodes = linked_pair();
    // Node 2 dials once more, as after a restart that node 1 has not noticed.
    let inbound_before = nodes[0].net.peer_links.inbound_connection(id(2)).unwrap();
    nodes[0].events.clear();
    let mut second_connection =
        TestClient::dial(nodes[0].address(), &Hello::peer(CLUSTER, id(2), DiskId(2), run_with_id(2), id(1)));
    // Only node 1 runs: node 2 would dial again and so replace the connection.
    second_connection.pump_until_welcome(&mut nodes[..1]).unwrap();
    let inbound = nodes[0].net.peer_links.inbound_connection(id(2)).unwrap();
    assert_ne!(inbound, inbound_before);
    let inbound_connections: Vec<_> =
        nodes[0].net.connections.iter().filter(|conn| conn.role == Role::InboundPeer(id(2))).collect();
    assert!(matches!(inbound_connections[..], [conn] if conn.token == inbound), "{inbound_connections:?}");
    // No `PeerLost` among the events.
    let is_expected = |event: &Event| match event {
        Event::AnswersLost(peer) | Event::PeerDiskLearned { peer, .. } | Event::PeerVersionsLearned { peer, .. } => {
            *peer == id(2)
        }
        _ => false,
    };
    assert!(nodes[0].events.len() == 3 && nodes[0].events.iter().all(is_expected), "{:?}", nodes[0].events);
    // The replaced link is dialed again, and replaces the new connection in turn.
    pump_until(&mut nodes, "links come up again", |nodes| {
        are_linked(nodes) && nodes[0].net.peer_links.inbound_connection(id(2)).unwrap() != inbound
    });
}

#[test]
fn answer_without_link_is_reported_lost() {
    let mut nodes = linked_pair();
    nodes[0].events.clear();
    // The link of node 2 breaks. Node 2 answers a request of node 1 before it has dialed again.
    let outbound_connection = nodes[1].net.peer_links.outbound_connection(id(1)).unwrap();
    let now = nodes[1].now;
    nodes[1].net.close(now, outbound_connection);
    nodes[1].net.answer(now, Caller::Peer(id(1)), 7, Reply::Unknown);
    pump_until(&mut nodes, "links come up again", are_linked);
    assert!(nodes[0].events.iter().any(|event| matches!(event, Event::AnswersLost(peer) if *peer == id(2))));
    // Node 2 has dialed again and received no welcome yet, although node 1 may have accepted the new connection
    // already.
    let inbound_before = nodes[0].net.peer_links.inbound_connection(id(2)).unwrap();
    let outbound_connection = nodes[1].net.peer_links.outbound_connection(id(1)).unwrap();
    nodes[1].net.close(now, outbound_connection);
    let dialed = |nodes: &[TestNode]| {
        nodes[1].net.peer_links.get(id(1)).is_some_and(|link| matches!(link.state, LinkState::Dialed(_)))
    };
    pump_until(&mut nodes[..], "node 2 dials again", dialed);
    pump_until(&mut nodes[..1], "node 1 receives the hello of node 2", |nodes| {
        nodes[0].net.peer_links.inbound_connection(id(2)).is_some_and(|inbound| inbound != inbound_before)
    });
    nodes[0].events.clear();
    let now = nodes[1].now;
    nodes[1].net.answer(now, Caller::Peer(id(1)), 8, Reply::Unknown);
    pump_until(&mut nodes, "the answer is reported lost", |nodes| {
        nodes[0].events.iter().any(|event| matches!(event, Event::AnswersLost(_) | Event::PeerLost(_)))
    });
}

#[test]
fn forward_without_link_is_reported_not_sent() {
    let mut nodes = [TestNode::open(1, Options::default())];
    let members = Membership::founding([(id(1), "a:1".into()), (id(2), "127.0.0.1:1".into())]);
    nodes[0].net.set_members(Time(1), &members, Position::ZERO);
    nodes[0].net.forward(id(2), 5, Request::Status);
    nodes[0].pump();
    assert!(
        matches!(nodes[0].events[..], [Event::ForwardNotSent { to, id: 5 }] if to == id(2)),
        "{:?}",
        nodes[0].events
    );
}

#[test]
fn message_with_foreign_sender_closes_connection() {
    let mut nodes = linked_pair();
    nodes[0].net.send(Envelope { from: id(7), ..envelope(1, heartbeat()) });
    pump_until(&mut nodes, "the connection is closed", |nodes| nodes[1].lost_peers() == [id(1)]);
    assert!(nodes[1].received_messages().is_empty());
}

/// A peer or client whose socket and frames the test handles itself.
struct TestClient {
    stream: BlockingStream,
    reader: FrameReader,
    input: BytesMut,
}

impl TestClient {
    fn connect(address: SocketAddr) -> TestClient {
        let stream = BlockingStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        TestClient { stream, reader: FrameReader::default(), input: BytesMut::new() }
    }

    fn dial(address: SocketAddr, hello: &Hello) -> TestClient {
        let mut client = TestClient::connect(address);
        let mut out = BytesMut::new();
        hello.put(&mut out);
        client.stream.write_all(&out).unwrap();
        client
    }

    /// A frame, if one has arrived; an error once the connection is closed.
    fn receive(&mut self) -> Result<Option<crate::wire::frame::Frame>, ()> {
        let mut read_buffer = [0; 65536];
        match self.stream.read(&mut read_buffer) {
            Ok(0) => return self.reader.next(&mut self.input).unwrap().map(Some).ok_or(()),
            Ok(n) => self.input.extend_from_slice(&read_buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(()),
        }
        Ok(self.reader.next(&mut self.input).unwrap())
    }

    fn pump_until_welcome(&mut self, nodes: &mut [TestNode]) -> Result<Welcome, WireError> {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < Duration::from_secs(20), "no welcome within 20 seconds");
            nodes.iter_mut().for_each(TestNode::pump);
            if let Ok(Some(frame)) = self.receive() {
                return Welcome::read(frame);
            }
        }
    }

    fn accepted_client(nodes: &mut [TestNode]) -> TestClient {
        let mut client = TestClient::dial(nodes[0].address(), &Hello::client());
        client.pump_until_welcome(nodes).unwrap();
        client
    }

    /// Whether the end of the stream has arrived.
    fn is_closed(&mut self) -> bool {
        matches!(self.receive(), Err(()))
    }

    /// Runs the nodes until the end of the stream arrives, a moment after the node has closed the connection.
    fn pump_until_closed(&mut self, nodes: &mut [TestNode]) {
        let started = Instant::now();
        while !self.is_closed() {
            assert!(started.elapsed() < Duration::from_secs(20), "the connection is not closed within 20 seconds");
            nodes.iter_mut().for_each(TestNode::pump);
        }
    }
}

fn query_frame(id: u64) -> BytesMut {
    let mut out = BytesMut::new();
    let request = Request::Query { query: Bytes::from(vec![1; 1000]), consistency: Consistency::Local };
    put_request_frame(&mut out, id, false, &request);
    out
}

#[test]
fn rejected_handshake_states_the_reason() {
    let mut nodes = vec![TestNode::open(1, Options { clients_max: 1, ..Options::default() })];
    let members = Membership::founding([(id(1), "a:1".into()), (id(2), "127.0.0.1:1".into())]);
    nodes[0].net.set_members(Time(1), &members, Position::ZERO);
    nodes[0].net.set_leader(Some(id(1)));
    let peer_hello =
        |cluster, node, target| Hello::peer(ClusterId(cluster), id(node), DiskId(1), run_with_id(1), id(target));
    let mut handshake = |hello: Hello| {
        let mut caller = TestClient::dial(nodes[0].address(), &hello);
        (caller.pump_until_welcome(&mut nodes), caller)
    };
    let rejected_with = |reason| Err(WireError::Refused(reason));
    assert_eq!(handshake(peer_hello(8, 2, 1)).0, rejected_with(HelloRejection::Cluster));
    assert_eq!(handshake(peer_hello(9, 2, 3)).0, rejected_with(HelloRejection::WrongNode));
    assert_eq!(handshake(peer_hello(9, 3, 1)).0, rejected_with(HelloRejection::NotMember));
    assert_eq!(handshake(peer_hello(9, 1, 1)).0, rejected_with(HelloRejection::SameNodeId));
    assert_eq!(
        handshake(Hello { version_min: 9, version_max: 10, ..Hello::client() }).0,
        Err(WireError::NoCommonVersion { min: CLIENT_VERSION_MIN, max: VERSION_MAX })
    );
    let (first, _connected) = handshake(Hello::client());
    assert_eq!(first.unwrap().node, id(1));
    assert_eq!(handshake(Hello::client()).0, rejected_with(HelloRejection::TooManyConnections));
    // A peer is accepted although the maximum number of clients is connected. A second process with its id is then
    // rejected.
    assert!(handshake(peer_hello(9, 2, 1)).0.is_ok());
    assert_eq!(
        handshake(Hello::peer(CLUSTER, id(2), DiskId(5), run_with_id(2), id(1))).0,
        rejected_with(HelloRejection::UnknownDisk)
    );
    let (welcome, _connected) = handshake(peer_hello(9, 2, 1));
    assert!(welcome.is_ok());
    // The peer is connected, and another process has its identity, which means a copy of its disk.
    assert_eq!(
        handshake(Hello::peer(CLUSTER, id(2), DiskId(1), run_with_id(7), id(1))).0,
        rejected_with(HelloRejection::CopiedDisk)
    );
}

#[test]
fn peer_must_have_the_disk_id_in_the_membership() {
    let mut nodes = vec![TestNode::open(1, Options::default())];
    let mut members = Membership::founding([(id(1), "a:1".into()), (id(2), "127.0.0.1:1".into())]);
    members.members.get_mut(&id(2)).unwrap().disk = Some(DiskId(77));
    nodes[0].net.set_members(Time(1), &members, Position::ZERO);
    let mut handshake = |disk| {
        let hello = Hello::peer(CLUSTER, id(2), DiskId(disk), run_with_id(1), id(1));
        TestClient::dial(nodes[0].address(), &hello).pump_until_welcome(&mut nodes)
    };
    assert_eq!(handshake(5), Err(WireError::Refused(HelloRejection::UnknownDisk)));
    assert!(handshake(77).is_ok());
}

/// A peer was removed and added again on another disk while this node was cut off: one snapshot carries both changes.
/// Found by the simulator.
#[test]
fn peer_readded_unnoticed_may_have_new_disk_id() {
    let mut nodes = vec![TestNode::open(1, Options::default())];
    let mut members = Membership::founding([(id(1), "a:1".into()), (id(2), "127.0.0.1:1".into())]);
    let handshake = |nodes: &mut Vec<TestNode>, disk| {
        let hello = Hello::peer(CLUSTER, id(2), DiskId(disk), run_with_id(1), id(1));
        TestClient::dial(nodes[0].address(), &hello).pump_until_welcome(nodes).is_ok()
    };
    for named in [None, Some(DiskId(77))] {
        members.members.get_mut(&id(2)).unwrap().disk = named;
        nodes[0].net.set_members(Time(1), &members, Position::ZERO);
        assert!(handshake(&mut nodes, 77), "the membership confirms the disk id that the peer had");
    }
    members.members.get_mut(&id(2)).unwrap().disk = None;
    nodes[0].net.set_members(Time(1), &members, Position::ZERO);
    assert!(handshake(&mut nodes, 5));
    assert!(!handshake(&mut nodes, 77), "the peer is now known by the other disk id");
}

/// Two voters with an old configuration were cut off, while other voters were added and one of the new ones became
/// leader. The two must accept the new leader's messages and answer them, both before they follow the leader and when a
/// link breaks while they follow it. The simulator found both cases.
#[test]
fn node_accepts_leader_outside_its_configuration() {
    [None, Some(id(2))].into_iter().for_each(expect_unknown_leader_accepted);
}

fn expect_unknown_leader_accepted(followed: Option<NodeId>) {
    let mut nodes = vec![TestNode::open_below_ephemeral_ports(1), TestNode::open_below_ephemeral_ports(2)];
    nodes[0].net.set_leader(followed);
    let addresses: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    nodes[0].net.set_members(Time(1), &Membership::founding([(id(1), addresses[0].clone())]), Position::ZERO);
    nodes[1].net.set_members(Time(1), &Membership::founding((1..).map(id).zip(addresses)), Position::ZERO);
    pump_until(&mut nodes, "links come up", are_linked);
    nodes[1].net.send(envelope(2, heartbeat()));
    pump_until(&mut nodes, "node 1 receives the heartbeat", |nodes| nodes[0].received_messages() == [&heartbeat()]);
    nodes[0].net.send(envelope(1, heartbeat()));
    pump_until(&mut nodes, "node 2 receives the answer", |nodes| nodes[1].received_messages() == [&heartbeat()]);
    // Once node 2 is stopped, node 1 also removes its link to node 2.
    nodes.truncate(1);
    pump_until(&mut nodes, "node 1 removes its link to node 2", |nodes| nodes[0].net.peer_links.get(id(2)).is_none());
}

#[test]
fn incomplete_input_times_out_but_idle_client_stays() {
    let mut nodes = vec![TestNode::open(1, Options::default())];
    let mut silent_client = TestClient::connect(nodes[0].address());
    let mut interrupted_client = TestClient::accepted_client(&mut nodes);
    let mut idle_client = TestClient::accepted_client(&mut nodes);
    interrupted_client.stream.write_all(&query_frame(1)[..50]).unwrap();
    let is_waiting = |conn: &Conn| matches!(conn.role, Role::Client(_)) && conn.timeout_started_at.is_some();
    pump_until(&mut nodes, "half of a request is received", |nodes| nodes[0].net.connections.iter().any(&is_waiting));
    assert_eq!(nodes[0].net.connections.handshaking_count(), 1);
    nodes[0].advance_time(Duration::from_secs(4));
    assert!(!silent_client.is_closed());
    nodes[0].advance_time(Duration::from_secs(2));
    silent_client.pump_until_closed(&mut nodes);
    assert!(!interrupted_client.is_closed());
    (0..30).for_each(|_| nodes[0].advance_time(Duration::from_secs(1)));
    interrupted_client.pump_until_closed(&mut nodes);
    assert!(!idle_client.is_closed());
    assert_eq!(nodes[0].net.connections.client_count(), 1);
    // The client is idle: no buffer is kept for it, and no sweep is due.
    assert_eq!(nodes[0].net.deadline(), Time::NEVER);
    idle_client.stream.write_all(&query_frame(1)).unwrap();
    pump_until(&mut nodes, "a request", |nodes| nodes[0].request_count() == 1);
}

#[test]
fn malformed_input_closes_only_its_connection() {
    let mut nodes = vec![TestNode::open(1, Options::default())];
    let mut http_client = TestClient::connect(nodes[0].address());
    http_client.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut client_without_hello = TestClient::connect(nodes[0].address());
    client_without_hello.stream.write_all(&query_frame(1)).unwrap();
    let mut client = TestClient::accepted_client(&mut nodes);
    let malformed_op = Request::Propose { op: Bytes::from_static(b"\xff") };
    let mut out = BytesMut::new();
    put_request_frame(&mut out, 1, false, &malformed_op);
    client.stream.write_all(&out).unwrap();
    [&mut http_client, &mut client_without_hello, &mut client]
        .into_iter()
        .for_each(|caller| caller.pump_until_closed(&mut nodes));
    assert_eq!((nodes[0].request_count(), nodes[0].net.connections.len()), (0, 0));
}

#[test]
fn client_with_unread_replies_is_not_read_from() {
    let mut nodes = vec![TestNode::open(1, Options { client_output_bytes_max: 1 << 30, ..Options::default() })];
    let mut client = TestClient::accepted_client(&mut nodes);
    let answer = Bytes::from(vec![9; 100_000]);
    let (mut sent_count, mut answered_count) = (0, 0);
    let mut unsent_bytes = BytesMut::new();
    for _ in 0..3000 {
        if unsent_bytes.is_empty() && sent_count < 20_000 {
            unsent_bytes = query_frame(sent_count);
            sent_count += 1;
        }
        if let Ok(n) = client.stream.write(&unsent_bytes) {
            bytes::Buf::advance(&mut unsent_bytes, n);
        }
        nodes[0].pump();
        answer_all(&mut nodes[0], &mut answered_count, &answer);
    }
    let net = &nodes[0].net;
    assert!(net.unwritten_bytes() < 16 << 20, "{} bytes wait for the client", net.unwritten_bytes());
    assert!(answered_count < sent_count, "the node stops reading from a client that does not read its replies");
    // Once the client reads its replies, the node reads and answers the remaining requests.
    let mut received_count = 0;
    let started = Instant::now();
    while received_count < sent_count - 1 {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "only {received_count} of {sent_count} replies within 30 seconds"
        );
        if let Some(frame) = client.receive().unwrap() {
            read_reply_frame(frame).unwrap();
            received_count += 1;
        } else {
            nodes[0].pump();
            answer_all(&mut nodes[0], &mut answered_count, &answer);
        }
    }
}

fn answer_all(node: &mut TestNode, answered_count: &mut u64, answer: &Bytes) {
    for event in std::mem::take(&mut node.events) {
        if let Event::Request { from, id, .. } = event {
            *answered_count += 1;
            node.net.answer(node.now, from, id, Reply::Answer { applied: Index(1), answer: answer.clone() });
        }
    }
    node.net.flush(node.now);
}

#[test]
fn client_with_too_many_requests_is_not_read_from() {
    let mut nodes = vec![TestNode::open(1, Options { client_requests_max: 10, ..Options::default() })];
    let client = TestClient::accepted_client(&mut nodes);
    client.stream.set_nonblocking(false).unwrap();
    let mut open_op = BytesMut::new();
    for id in 0..20_000 {
        put_request_frame(
            &mut open_op,
            id,
            false,
            &Request::Propose { op: Op::Open { window: 1, ordered: false }.encode() },
        );
    }
    let writer = {
        let mut stream = client.stream.try_clone().unwrap();
        std::thread::spawn(move || stream.write_all(&open_op).unwrap())
    };
    (0..200).for_each(|_| nodes[0].pump());
    let request_count = nodes[0].request_count();
    assert!(request_count < 20_000, "reading stops after one read beyond the limit");
    let mut answered_count = 0;
    let started = Instant::now();
    while answered_count < 20_000 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "only {answered_count} requests answered within 20 seconds"
        );
        answer_all(&mut nodes[0], &mut answered_count, &Bytes::new());
        nodes[0].pump();
    }
    writer.join().unwrap();
}

#[test]
fn silent_connections_do_not_block_clients() {
    let mut nodes = vec![TestNode::open(1, Options { handshakes_max: 8, ..Options::default() })];
    let _silent_connections: Vec<_> = (0..50).map(|_| TestClient::connect(nodes[0].address())).collect();
    pump_until(&mut nodes, "all connections are accepted", |nodes| nodes[0].net.connections.inserted_count() == 50);
    assert_eq!(nodes[0].net.connections.len(), 8);
    assert_eq!(nodes[0].net.connections.handshaking_count(), 8);
    let mut client = TestClient::dial(nodes[0].address(), &Hello::client());
    client.pump_until_welcome(&mut nodes).unwrap();
    assert_eq!(nodes[0].net.connections.client_count(), 1);
}

#[test]
fn stopping_node_rejects_requests() {
    let mut nodes = vec![TestNode::open(1, Options::default())];
    let mut client = TestClient::accepted_client(&mut nodes);
    nodes[0].net.stop_listening();
    client.stream.write_all(&query_frame(5)).unwrap();
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < Duration::from_secs(20), "no reply within 20 seconds");
        nodes[0].pump();
        if let Some(frame) = client.receive().unwrap() {
            assert_eq!(read_reply_frame(frame), Ok((5, Reply::Refused(Refusal::Stopping))));
            break;
        }
    }
    assert_eq!(nodes[0].request_count(), 0);
}
