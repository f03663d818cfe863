//! Nodes and clients on loopback, well-behaved and not, whose event loops the tests run by hand.

use super::super::conn::Conn;
use super::super::links::LinkState;
use super::*;
use crate::api::{Consistency, Op};
use crate::codec;
use crate::consensus::message::{Envelope, Message, Origin, Round};
use crate::types::{ClusterId, ClusterTime, DiskId, Entry, Index, Payload, Position, Run, Term};
use crate::wire::client::{put_request_frame, read_reply_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{Hello, Welcome};
use crate::wire::reason::Reason;
use bytes::{Bytes, BytesMut};
use std::io::{Read, Write};
use std::net::TcpStream as Blocking;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

const CLUSTER: ClusterId = ClusterId(9);

fn run(id: u64) -> Run {
    Run { id, starts: 1 }
}

fn id(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

/// A node's sockets, and the events that they produced.
struct Pumped {
    net: Net,
    came: Vec<Event>,
    now: Time,
}

impl Pumped {
    fn open(n: u64, options: Options) -> Pumped {
        Pumped::open_at(n, n, "127.0.0.1:0".parse().unwrap(), options).unwrap()
    }

    fn open_at(n: u64, disk: u64, listen: SocketAddr, options: Options) -> io::Result<Pumped> {
        let me = Identity { node: id(n), cluster: CLUSTER, disk: DiskId(disk), run: run(n) };
        let net = Net::open(me, stream::listen(listen)?, BTreeMap::new(), options)?;
        Ok(Pumped { net, came: Vec::new(), now: Time(1) })
    }

    /// Opens a node at a port below the ephemeral range, so that the port is still free after it was closed.
    fn open_below(n: u64) -> Pumped {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let begin = (std::process::id() as u16).wrapping_mul(16);
        let open = |step| {
            let port = 10_000 + begin.wrapping_add(step) % 2_000;
            Pumped::open_at(n, n, ([127, 0, 0, 1], port).into(), Options::default()).ok()
        };
        std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).find_map(open).unwrap()
    }

    fn address(&self) -> SocketAddr {
        self.net.address().unwrap()
    }

    fn pump(&mut self) {
        self.net.wait(Some(Duration::from_millis(1))).unwrap();
        self.now = self.now + Duration::from_millis(1);
        self.net.poll_io(self.now);
        self.net.events(&mut self.came);
        self.net.flush(self.now);
    }

    /// Advances the time, without any event.
    fn skip(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.pump();
    }

    fn lost(&self) -> Vec<NodeId> {
        let lost = |event: &Event| match event {
            Event::PeerLost(peer) => Some(*peer),
            _ => None,
        };
        self.came.iter().filter_map(lost).collect()
    }

    fn heard(&self) -> Vec<&Message> {
        let heard = |event| match event {
            &Event::Peer(Envelope { ref message, .. }) => Some(message),
            _ => None,
        };
        self.came.iter().filter_map(heard).collect()
    }

    fn request_count(&self) -> usize {
        self.came.iter().filter(|event| matches!(event, Event::Request { .. })).count()
    }
}

fn pump_until(nodes: &mut [Pumped], what: &str, done: impl Fn(&[Pumped]) -> bool) {
    let begun = Instant::now();
    while !done(nodes) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        nodes.iter_mut().for_each(Pumped::pump);
    }
}

/// Two nodes that know each other.
fn pair() -> Vec<Pumped> {
    let mut nodes = vec![Pumped::open_below(1), Pumped::open_below(2)];
    let members = Membership::founding((1..).map(id).zip(nodes.iter().map(|node| node.address().to_string())));
    for node in &mut nodes {
        node.net.set_members(node.now, &members, Position::ZERO);
    }
    pump_until(&mut nodes, "links come up", linked);
    nodes
}

fn linked(nodes: &[Pumped]) -> bool {
    nodes[0].net.peers.up(id(2)).is_some()
        && nodes[1].net.peers.up(id(1)).is_some()
        && nodes.iter().all(|node| node.net.peers.inbound_count() == 1)
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
    Message::AppendEntries { prev: Position::ZERO, commit: Index(0), probe: 0, entries: vec![entry] }
}

/// async-raft#103, RedisLabs/raft#53: an append so large that the election timeout expired while a heartbeat waited
/// behind it.
#[test]
fn heartbeat_overtakes_large_append() {
    let mut nodes = pair();
    nodes[0].net.send(envelope(1, append(1 << 20)));
    nodes[0].net.send(envelope(1, append(2)));
    nodes[0].net.send(envelope(1, heartbeat()));
    pump_until(&mut nodes, "three messages", |nodes| nodes[1].heard().len() == 3);
    assert_eq!(nodes[1].heard(), [&heartbeat(), &append(1 << 20), &append(2)]);
    nodes[1].net.send(envelope(2, heartbeat()));
    pump_until(&mut nodes, "a message in the other direction", |nodes| nodes[0].heard().len() == 1);
    assert!(nodes.iter().all(|node| node.lost().is_empty()));
}

#[test]
fn stopped_peer_is_lost_at_once_and_reconnects() {
    let mut nodes = pair();
    let address = nodes[1].address();
    drop(nodes.pop());
    pump_until(&mut nodes, "both its connections are lost", |nodes| nodes[0].lost() == [id(2), id(2)]);
    nodes.push(Pumped::open_at(2, 2, address, Options::default()).unwrap());
    let members = nodes[0].net.membership.members().clone();
    nodes[1].net.set_members(Time(1), &members, Position::ZERO);
    pump_until(&mut nodes, "links come up again", linked);
}

#[test]
fn peer_with_new_disk_id_is_rejected() {
    let mut nodes = pair();
    let address = nodes[1].address();
    drop(nodes.pop());
    pump_until(&mut nodes, "both its connections are lost", |nodes| nodes[0].lost() == [id(2), id(2)]);
    // The peer's directory was emptied: its hello is the same except for the disk id.
    nodes.push(Pumped::open_at(2, 22, address, Options::default()).unwrap());
    let members = nodes[0].net.membership.members().clone();
    nodes[1].net.set_members(Time(1), &members, Position::ZERO);
    let failures = |nodes: &[Pumped]| {
        let failed = |n: usize, peer| nodes[n].net.peers.get(id(peer)).map_or(0, |link| link.failures);
        (failed(0, 2), failed(1, 1))
    };
    let before = failures(&nodes);
    pump_until(&mut nodes, "both nodes dial each other and fail", |nodes| {
        let now = failures(nodes);
        now.0 > before.0 + 2 && now.1 > before.1 + 2
    });
    assert!(nodes[0].net.peers.up(id(2)).is_none() && nodes[0].net.peers.inbound_count() == 0);
    assert!(nodes[1].net.peers.up(id(1)).is_none() && nodes[1].heard().is_empty());
}

#[test]
fn replaced_connection_reports_no_lost_peer() {
    let mut nodes = pair();
    // The peer dials once more, as after a restart that this node has not noticed.
    let before = nodes[0].net.peers.inbound(id(2)).unwrap();
    nodes[0].came.clear();
    let mut second = Plain::dial(nodes[0].address(), &Hello::peer(CLUSTER, id(2), DiskId(2), run(2), id(1)));
    // Only the dialed node runs: the other one would dial again and so replace the connection.
    second.pump_welcome(&mut nodes[..1]).unwrap();
    let inbound = nodes[0].net.peers.inbound(id(2)).unwrap();
    assert_ne!(inbound, before);
    let speaking: Vec<_> =
        nodes[0].net.connections.iter().filter(|conn| conn.role == Role::InboundPeer(id(2))).collect();
    assert!(matches!(speaking[..], [conn] if conn.token == inbound), "{speaking:?}");
    // The only events are that answers may be lost, and which disk the peer has.
    let told =
        |event: &Event| matches!(event, Event::AnswersLost(peer) | Event::DiskLearned { peer, .. } if *peer == id(2));
    assert!(nodes[0].came.len() == 2 && nodes[0].came.iter().all(told), "{:?}", nodes[0].came);
    // The replaced link is dialed again, and replaces the new connection in turn.
    pump_until(&mut nodes, "links come up again", |nodes| {
        linked(nodes) && nodes[0].net.peers.inbound(id(2)).unwrap() != inbound
    });
}

#[test]
fn answer_without_link_is_reported_lost() {
    let mut nodes = pair();
    nodes[0].came.clear();
    // The answering node's link breaks, and it answers before it has dialed again.
    let link = nodes[1].net.peers.up(id(1)).unwrap();
    let now = nodes[1].now;
    nodes[1].net.close(now, link);
    nodes[1].net.answer(now, Caller::Peer(id(1)), 7, Reply::Unknown);
    pump_until(&mut nodes, "links come up again", linked);
    assert!(nodes[0].came.iter().any(|event| matches!(event, Event::AnswersLost(peer) if *peer == id(2))));
    // It has dialed again and is not accepted yet: the other node may have accepted the new connection already.
    let before = nodes[0].net.peers.inbound(id(2)).unwrap();
    let link = nodes[1].net.peers.up(id(1)).unwrap();
    nodes[1].net.close(now, link);
    let dialed =
        |nodes: &[Pumped]| nodes[1].net.peers.get(id(1)).is_some_and(|link| matches!(link.state, LinkState::Dialed(_)));
    pump_until(&mut nodes[..], "the node dials again", dialed);
    pump_until(&mut nodes[..1], "its hello is received", |nodes| {
        nodes[0].net.peers.inbound(id(2)).is_some_and(|inbound| inbound != before)
    });
    nodes[0].came.clear();
    let now = nodes[1].now;
    nodes[1].net.answer(now, Caller::Peer(id(1)), 8, Reply::Unknown);
    pump_until(&mut nodes, "the answer is reported lost", |nodes| {
        nodes[0].came.iter().any(|event| matches!(event, Event::AnswersLost(_) | Event::PeerLost(_)))
    });
}

#[test]
fn forward_without_link_is_reported_not_sent() {
    let mut nodes = [Pumped::open(1, Options::default())];
    let members = Membership::founding([(id(1), "a:1".into()), (id(2), "127.0.0.1:1".into())]);
    nodes[0].net.set_members(Time(1), &members, Position::ZERO);
    nodes[0].net.forward(id(2), 5, Request::Status);
    nodes[0].pump();
    assert!(matches!(nodes[0].came[..], [Event::NotSent { to, id: 5 }] if to == id(2)), "{:?}", nodes[0].came);
}

#[test]
fn message_with_foreign_sender_closes_connection() {
    let mut nodes = pair();
    nodes[0].net.send(Envelope { from: id(7), ..envelope(1, heartbeat()) });
    pump_until(&mut nodes, "the connection is closed", |nodes| nodes[1].lost() == [id(1)]);
    assert!(nodes[1].heard().is_empty());
}

/// A client with a plain blocking socket.
struct Plain {
    stream: Blocking,
    reader: FrameReader,
    input: BytesMut,
}

impl Plain {
    fn connect(address: SocketAddr) -> Plain {
        let stream = Blocking::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        Plain { stream, reader: FrameReader::default(), input: BytesMut::new() }
    }

    fn dial(address: SocketAddr, hello: &Hello) -> Plain {
        let mut caller = Plain::connect(address);
        let mut out = BytesMut::new();
        hello.put(&mut out);
        caller.stream.write_all(&out).unwrap();
        caller
    }

    /// A frame, if one has arrived; an error once the connection is closed.
    fn receive(&mut self) -> Result<Option<crate::wire::frame::Frame>, ()> {
        let mut scratch = [0; 65536];
        match self.stream.read(&mut scratch) {
            Ok(0) => return self.reader.next(&mut self.input).unwrap().map(Some).ok_or(()),
            Ok(n) => self.input.extend_from_slice(&scratch[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(()),
        }
        Ok(self.reader.next(&mut self.input).unwrap())
    }

    fn pump_welcome(&mut self, nodes: &mut [Pumped]) -> Result<Welcome, WireError> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(20), "no welcome");
            nodes.iter_mut().for_each(Pumped::pump);
            if let Ok(Some(frame)) = self.receive() {
                return Welcome::read(frame);
            }
        }
    }

    fn client(nodes: &mut [Pumped]) -> Plain {
        let mut caller = Plain::dial(nodes[0].address(), &Hello::client());
        caller.pump_welcome(nodes).unwrap();
        caller
    }

    /// Whether the end of the stream has arrived.
    fn is_closed(&mut self) -> bool {
        matches!(self.receive(), Err(()))
    }

    /// Runs the nodes until the end of the stream arrives, a moment after the node has closed the connection.
    fn pump_closed(&mut self, nodes: &mut [Pumped]) {
        let begun = Instant::now();
        while !self.is_closed() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the connection is not closed");
            nodes.iter_mut().for_each(Pumped::pump);
        }
    }
}

fn query(id: u64) -> BytesMut {
    let mut out = BytesMut::new();
    let request = Request::Query { query: Bytes::from(vec![1; 1000]), consistency: Consistency::Local };
    put_request_frame(&mut out, id, false, &request);
    out
}

#[test]
fn rejected_handshake_states_the_reason() {
    let mut nodes = vec![Pumped::open(1, Options { clients_max: 1, ..Options::default() })];
    let members = Membership::founding([(id(1), "a:1".into()), (id(2), "127.0.0.1:1".into())]);
    nodes[0].net.set_members(Time(1), &members, Position::ZERO);
    nodes[0].net.set_leader(Some(id(1)));
    let peer = |cluster, node, target| Hello::peer(ClusterId(cluster), id(node), DiskId(1), run(1), id(target));
    let mut greet = |hello: Hello| {
        let mut caller = Plain::dial(nodes[0].address(), &hello);
        (caller.pump_welcome(&mut nodes), caller)
    };
    let refused = |reason| Err(WireError::Refused(reason));
    assert_eq!(greet(peer(8, 2, 1)).0, refused(Reason::Cluster));
    assert_eq!(greet(peer(9, 2, 3)).0, refused(Reason::Target));
    assert_eq!(greet(peer(9, 3, 1)).0, refused(Reason::Stranger));
    assert_eq!(greet(peer(9, 1, 1)).0, refused(Reason::Double));
    assert_eq!(greet(Hello { version_min: 9, version_max: 10, ..Hello::client() }).0, refused(Reason::Version));
    let (first, _stays) = greet(Hello::client());
    assert_eq!(first.unwrap().node, id(1));
    assert_eq!(greet(Hello::client()).0, refused(Reason::Full));
    // A peer is accepted however many clients there are, and then no second process under its id.
    assert!(greet(peer(9, 2, 1)).0.is_ok());
    assert_eq!(greet(Hello::peer(CLUSTER, id(2), DiskId(5), run(2), id(1))).0, refused(Reason::Disk));
    let (welcome, _speaks) = greet(peer(9, 2, 1));
    assert!(welcome.is_ok());
    // The peer is connected, and another process has its identity, which means a copy of its disk.
    assert_eq!(greet(Hello::peer(CLUSTER, id(2), DiskId(1), run(7), id(1))).0, refused(Reason::Twin));
}

#[test]
fn peer_must_have_the_disk_id_in_the_membership() {
    let mut nodes = vec![Pumped::open(1, Options::default())];
    let mut members = Membership::founding([(id(1), "a:1".into()), (id(2), "127.0.0.1:1".into())]);
    members.members.get_mut(&id(2)).unwrap().disk = Some(DiskId(77));
    nodes[0].net.set_members(Time(1), &members, Position::ZERO);
    let mut greet = |disk| {
        let hello = Hello::peer(CLUSTER, id(2), DiskId(disk), run(1), id(1));
        Plain::dial(nodes[0].address(), &hello).pump_welcome(&mut nodes)
    };
    assert_eq!(greet(5), Err(WireError::Refused(Reason::Disk)));
    assert!(greet(77).is_ok());
}

/// A peer was removed and added again on another disk while this node was cut off: one snapshot carries both changes.
/// Found by the simulator.
#[test]
fn peer_readded_unnoticed_may_have_new_disk_id() {
    let mut nodes = vec![Pumped::open(1, Options::default())];
    let mut members = Membership::founding([(id(1), "a:1".into()), (id(2), "127.0.0.1:1".into())]);
    let greet = |nodes: &mut Vec<Pumped>, disk| {
        let hello = Hello::peer(CLUSTER, id(2), DiskId(disk), run(1), id(1));
        Plain::dial(nodes[0].address(), &hello).pump_welcome(nodes).is_ok()
    };
    for named in [None, Some(DiskId(77))] {
        members.members.get_mut(&id(2)).unwrap().disk = named;
        nodes[0].net.set_members(Time(1), &members, Position::ZERO);
        assert!(greet(&mut nodes, 77), "the membership confirms the disk id that the peer had");
    }
    members.members.get_mut(&id(2)).unwrap().disk = None;
    nodes[0].net.set_members(Time(1), &members, Position::ZERO);
    assert!(greet(&mut nodes, 5));
    assert!(!greet(&mut nodes, 77), "the peer is now known by the other disk id");
}

/// Two voters with an old configuration were cut off while others were added and one of those became leader. They must
/// accept its messages and answer it, both before they follow it and when its link breaks while they do. Both cases
/// were found by the simulator.
#[test]
fn node_without_other_leader_accepts_unknown_leader() {
    [None, Some(id(2))].into_iter().for_each(expect_unknown_leader_accepted);
}

fn expect_unknown_leader_accepted(followed: Option<NodeId>) {
    let mut nodes = vec![Pumped::open_below(1), Pumped::open_below(2)];
    nodes[0].net.set_leader(followed);
    let addresses: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    nodes[0].net.set_members(Time(1), &Membership::founding([(id(1), addresses[0].clone())]), Position::ZERO);
    nodes[1].net.set_members(Time(1), &Membership::founding((1..).map(id).zip(addresses)), Position::ZERO);
    pump_until(&mut nodes, "links come up", linked);
    nodes[1].net.send(envelope(2, heartbeat()));
    pump_until(&mut nodes, "its heartbeat is received", |nodes| nodes[0].heard() == [&heartbeat()]);
    nodes[0].net.send(envelope(1, heartbeat()));
    pump_until(&mut nodes, "the answer is received", |nodes| nodes[1].heard() == [&heartbeat()]);
    // Once that node is gone, the link to it is removed too.
    nodes.truncate(1);
    pump_until(&mut nodes, "the link to it is removed", |nodes| nodes[0].net.peers.get(id(2)).is_none());
}

#[test]
fn silent_or_stalled_connection_closes_idle_client_stays() {
    let mut nodes = vec![Pumped::open(1, Options::default())];
    let mut silent = Plain::connect(nodes[0].address());
    let mut half = Plain::client(&mut nodes);
    let mut idle = Plain::client(&mut nodes);
    half.stream.write_all(&query(1)[..50]).unwrap();
    let waits = |conn: &Conn| matches!(conn.role, Role::Client(_)) && conn.waiting_since.is_some();
    pump_until(&mut nodes, "half a request", |nodes| nodes[0].net.connections.iter().any(&waits));
    assert_eq!(nodes[0].net.connections.handshaking(), 1);
    nodes[0].skip(Duration::from_secs(4));
    assert!(!silent.is_closed());
    nodes[0].skip(Duration::from_secs(2));
    silent.pump_closed(&mut nodes);
    assert!(!half.is_closed());
    (0..30).for_each(|_| nodes[0].skip(Duration::from_secs(1)));
    half.pump_closed(&mut nodes);
    assert!(!idle.is_closed());
    assert_eq!(nodes[0].net.connections.clients(), 1);
    // The client is idle: no buffer is kept for it, and no sweep is due.
    assert_eq!(nodes[0].net.deadline(), Time::NEVER);
    idle.stream.write_all(&query(1)).unwrap();
    pump_until(&mut nodes, "a request", |nodes| nodes[0].request_count() == 1);
}

#[test]
fn malformed_input_closes_only_its_connection() {
    let mut nodes = vec![Pumped::open(1, Options::default())];
    let mut http = Plain::connect(nodes[0].address());
    http.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut early = Plain::connect(nodes[0].address());
    early.stream.write_all(&query(1)).unwrap();
    let mut client = Plain::client(&mut nodes);
    let bad = Request::Propose { op: Bytes::from_static(b"\xff") };
    let mut out = BytesMut::new();
    put_request_frame(&mut out, 1, false, &bad);
    client.stream.write_all(&out).unwrap();
    [&mut http, &mut early, &mut client].into_iter().for_each(|caller| caller.pump_closed(&mut nodes));
    assert_eq!((nodes[0].request_count(), nodes[0].net.connections.len()), (0, 0));
}

#[test]
fn client_with_unread_replies_is_not_read_from() {
    let mut nodes = vec![Pumped::open(1, Options { client_bytes_max: 1 << 30, ..Options::default() })];
    let mut client = Plain::client(&mut nodes);
    let answer = Bytes::from(vec![9; 100_000]);
    let (mut sent, mut answered) = (0, 0);
    let mut pending = BytesMut::new();
    for _ in 0..3000 {
        if pending.is_empty() && sent < 20_000 {
            pending = query(sent);
            sent += 1;
        }
        if let Ok(n) = client.stream.write(&pending) {
            bytes::Buf::advance(&mut pending, n);
        }
        nodes[0].pump();
        answer_all(&mut nodes[0], &mut answered, &answer);
    }
    let node = &nodes[0].net;
    assert!(node.unwritten() < 16 << 20, "{} bytes wait for the client", node.unwritten());
    assert!(answered < sent, "the client was not read from");
    // Once the client reads, requests are served again.
    let mut came = 0;
    let begun = Instant::now();
    while came < sent - 1 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{came} of {sent} replies");
        if let Some(frame) = client.receive().unwrap() {
            read_reply_frame(frame).unwrap();
            came += 1;
        } else {
            nodes[0].pump();
            answer_all(&mut nodes[0], &mut answered, &answer);
        }
    }
}

fn answer_all(node: &mut Pumped, answered: &mut u64, answer: &Bytes) {
    for event in std::mem::take(&mut node.came) {
        if let Event::Request { from, id, .. } = event {
            *answered += 1;
            node.net.answer(node.now, from, id, Reply::Answer { applied: Index(1), answer: answer.clone() });
        }
    }
    node.net.flush(node.now);
}

#[test]
fn client_with_too_many_requests_is_not_read_from() {
    let mut nodes = vec![Pumped::open(1, Options { client_requests_max: 10, ..Options::default() })];
    let client = Plain::client(&mut nodes);
    client.stream.set_nonblocking(false).unwrap();
    let mut open = BytesMut::new();
    for id in 0..20_000 {
        put_request_frame(
            &mut open,
            id,
            false,
            &Request::Propose { op: Op::Open { window: 1, ordered: false }.encode() },
        );
    }
    let writer = {
        let mut stream = client.stream.try_clone().unwrap();
        std::thread::spawn(move || stream.write_all(&open).unwrap())
    };
    (0..200).for_each(|_| nodes[0].pump());
    let before = nodes[0].request_count();
    assert!(before < 20_000, "reading stops after one read beyond the limit");
    let mut answered = 0;
    let begun = Instant::now();
    while answered < 20_000 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{answered} answered");
        answer_all(&mut nodes[0], &mut answered, &Bytes::new());
        nodes[0].pump();
    }
    writer.join().unwrap();
}

#[test]
fn silent_connections_do_not_block_clients() {
    let mut nodes = vec![Pumped::open(1, Options { handshakes_max: 8, ..Options::default() })];
    let _silent: Vec<_> = (0..50).map(|_| Plain::connect(nodes[0].address())).collect();
    pump_until(&mut nodes, "all connections are accepted", |nodes| nodes[0].net.connections.inserted() == 50);
    assert_eq!(nodes[0].net.connections.len(), 8);
    assert_eq!(nodes[0].net.connections.handshaking(), 8);
    let mut client = Plain::dial(nodes[0].address(), &Hello::client());
    client.pump_welcome(&mut nodes).unwrap();
    assert_eq!(nodes[0].net.connections.clients(), 1);
}

#[test]
fn stopping_node_rejects_requests() {
    let mut nodes = vec![Pumped::open(1, Options::default())];
    let mut client = Plain::client(&mut nodes);
    nodes[0].net.stop_listening();
    client.stream.write_all(&query(5)).unwrap();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(20), "no reply");
        nodes[0].pump();
        if let Some(frame) = client.receive().unwrap() {
            assert_eq!(read_reply_frame(frame), Ok((5, Reply::Refused(Refusal::Stopping))));
            break;
        }
    }
    assert_eq!(nodes[0].request_count(), 0);
}
