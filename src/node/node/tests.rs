//! A follower's requests: it answers reads itself, and requests that it forwards may get lost. Also a node that is not
//! a member.

use super::*;
use crate::api::Op;
use crate::consensus::Options as RaftOptions;
use crate::consensus::message::{Envelope, Message, Origin, Round};
use crate::sim::disk::SimDisk;
use crate::types::{ClusterId, ClusterTime, DiskId, Membership, Position, SnapshotPoint};
use crate::wal::{Journal, Options as WalOptions};
use bytes::Bytes;

const LEADER: NodeId = NodeId::new(2).unwrap();
const CLIENT: Caller = Caller::Client(7);

/// Starts node `n` of a cluster with the members 1, 2 and 3 (another `n` is not a member). It follows no leader. Also
/// returns the simulated time.
fn start_node(n: u64) -> (Node, Time) {
    let node_id = NodeId::new(n).unwrap();
    let membership = Membership::founding([1, 2, 3].map(|n| (NodeId::new(n).unwrap(), format!("n{n}:1"))));
    let founding_point = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
    let options = WalOptions { segment_bytes: 4096, ..WalOptions::new(node_id, ClusterId(7), DiskId(9)) };
    let (_journal, recovered) = Journal::open(SimDisk::new(), options, Some(&founding_point)).unwrap();
    let now = Time::ZERO + std::time::Duration::from_secs(1);
    let nothing_applied = ApplierReport {
        upto: Index::ZERO,
        time: ClusterTime(0),
        outcomes: Vec::new(),
        digest: 0,
        sessions: 0,
        duplicates: 0,
        next_deadline: None,
    };
    let node_start = NodeStart {
        now,
        disk: None,
        applied: nothing_applied,
        snapshot: None,
        random: 5,
        prefetch: Prefetch::default(),
    };
    (super::super::start(node_id, recovered, RaftOptions::default(), Options::default(), node_start), now)
}

/// A node that follows a leader, and the simulated time.
fn follower() -> (Node, Time) {
    let (mut node, now) = start_node(1);
    receive(&mut node, now, Message::Heartbeat { commit: Index::ZERO, round: Round(1), time: ClusterTime(0) });
    turn(&mut node, now);
    assert_eq!(node.raft().leader(), Some(LEADER));
    (node, now)
}

fn receive(node: &mut Node, now: Time, message: Message) {
    node.handle(
        now,
        Event::Peer(Envelope { from: LEADER, to: node.raft().id(), term: Term(1), origin: Origin::default(), message }),
    );
}

fn turn(node: &mut Node, now: Time) -> Vec<Action> {
    let mut actions = Vec::new();
    node.turn(now, &mut actions);
    actions
}

/// Sends a write that is to be forwarded, and returns its id.
fn forward_write(node: &mut Node, now: Time) -> u64 {
    let request = Request::Propose { op: Op::Open { window: 1, ordered: false }.encode() };
    node.handle(now, Event::Request { from: CLIENT, id: 44, forward: true, request });
    let forward_id = |action| match action {
        Action::Forward { to: LEADER, id, .. } => Some(id),
        _ => None,
    };
    turn(node, now).into_iter().find_map(forward_id).unwrap()
}

/// The reply to request 44 of the client, if the node sends it in the next turn.
fn take_reply(node: &mut Node, now: Time) -> Option<Reply> {
    let reply = |action| match action {
        Action::Reply { to: CLIENT, id: 44, reply } => Some(reply),
        _ => None,
    };
    turn(node, now).into_iter().find_map(reply)
}

#[test]
fn unsent_forwarded_request_is_refused_as_busy() {
    let (mut node, now) = follower();
    let (sent, stuck) = (forward_write(&mut node, now), forward_write(&mut node, now));
    node.handle(now, Event::ForwardNotSent { to: LEADER, id: stuck });
    assert_eq!(take_reply(&mut node, now), Some(Reply::Refused(Refusal::Busy)));
    assert_eq!((node.raft().leader(), node.waiting_requests()), (Some(LEADER), 1));
    // The request that was sent is still answered.
    node.handle(now, Event::ForwardAnswered { from: LEADER, id: sent, reply: Reply::Unknown });
    assert_eq!((take_reply(&mut node, now), node.waiting_requests()), (Some(Reply::Unknown), 0));
}

/// Between two calls of `Node::turn` the node receives a request, the first message of a new leader, and another
/// request of the same caller.
#[test]
fn parked_request_is_forwarded_before_later_requests() {
    let (mut node, now) = start_node(1);
    let request = |window| Request::Propose { op: Op::Open { window, ordered: true }.encode() };
    node.handle(now, Event::Request { from: CLIENT, id: 44, forward: true, request: request(1) });
    receive(&mut node, now, Message::Heartbeat { commit: Index::ZERO, round: Round(1), time: ClusterTime(0) });
    node.handle(now, Event::Request { from: CLIENT, id: 45, forward: true, request: request(2) });
    let forwarded_requests: Vec<Request> = turn(&mut node, now)
        .into_iter()
        .filter_map(|action| match action {
            Action::Forward { to: LEADER, request, .. } => Some(request),
            _ => None,
        })
        .collect();
    assert_eq!(forwarded_requests, [request(1), request(2)]);
}

#[test]
fn forwarded_request_with_lost_reply_is_answered_unknown() {
    let (mut node, now) = follower();
    forward_write(&mut node, now);
    node.handle(now, Event::AnswersLost(NodeId::new(3).unwrap()));
    assert_eq!(take_reply(&mut node, now), None);
    node.handle(now, Event::AnswersLost(LEADER));
    assert_eq!(take_reply(&mut node, now), Some(Reply::Unknown));
    assert_eq!((node.raft().leader(), node.waiting_requests()), (Some(LEADER), 0));
}

/// `/readyz` compares the applied index with `goal`: a node that has applied every entry of its own log may lack most
/// entries of the leader's log.
#[test]
fn empty_follower_learns_leader_commit_from_heartbeat() {
    let (mut node, now) = follower();
    receive(&mut node, now, Message::Heartbeat { commit: Index(30_000), round: Round(2), time: ClusterTime(0) });
    let status = node.status(now);
    assert_eq!((status.commit, status.applied, status.goal), (0, 0, 30_000), "a node commits only held entries");
    receive(&mut node, now, Message::Heartbeat { commit: Index::ZERO, round: Round(3), time: ClusterTime(0) });
    assert_eq!(node.status(now).goal, 30_000, "the goal never decreases");
}

/// A leader change is a leader with another id; a leader that is lost and found again does not count.
#[test]
fn same_leader_after_an_absence_is_no_leader_change() {
    let mut stats = Stats::default();
    for leader in [Some(LEADER), None, Some(LEADER), None] {
        stats.record_leader(leader);
    }
    assert_eq!(stats.counters.leader_changes, 1);
    stats.record_leader(NodeId::new(3));
    assert_eq!(stats.counters.leader_changes, 2);
}

/// Thesis §6.4: the leader only provides a read index, and appends nothing for it; the answer comes from the follower's
/// own machine, even if the request allowed forwarding.
#[test]
fn follower_answers_linearizable_read_itself() {
    let (mut node, now) = start_node(1);
    receive(&mut node, now, Message::Heartbeat { commit: Index::ZERO, round: Round(1), time: ClusterTime(0) });
    let write_id = turn(&mut node, now).into_iter().find_map(|action| match action {
        Action::Write(write) => Some(write.id),
        _ => None,
    });
    // The follower sends nothing in a term before that term is durable.
    let write_id = write_id.expect("the term is written");
    let report = Report {
        last_durable: write_id,
        sealed_segments: Vec::new(),
        entry_count: 0,
        written_bytes: 0,
        sync_duration: Default::default(),
        room_bytes: u64::MAX,
    };
    node.handle(now, Event::Journal(report));
    turn(&mut node, now);
    let request = Request::Query { query: Bytes::from_static(b"lunch"), consistency: Consistency::Linearizable };
    node.handle(now, Event::Request { from: CLIENT, id: 44, forward: true, request });
    let actions = turn(&mut node, now);
    let [Action::Send(Envelope { to: LEADER, message: Message::ReadIndexRequest { number }, .. })] = actions[..] else {
        panic!("the follower requests a read index and nothing else: {actions:?}");
    };
    receive(&mut node, now, Message::ReadIndexResponse { number, index: Index::ZERO });
    let [Action::Query { ticket, ref query, .. }] = turn(&mut node, now)[..] else {
        panic!("the follower queries its own machine")
    };
    assert_eq!(query, "lunch");
    let answer = Bytes::from_static(b"noodles");
    // No further message of the leader is needed: it may be down by now.
    node.handle(now, Event::Queried { ticket, applied: Index::ZERO, answer: answer.clone() });
    assert_eq!(take_reply(&mut node, now), Some(Reply::Answer { applied: Index::ZERO, answer }));
    assert_eq!(node.waiting_requests(), 0);
}

#[test]
fn non_member_rejects_with_addresses_of_members() {
    let (mut node, now) = start_node(4);
    let members = vec!["n1:1".to_owned(), "n2:1".to_owned(), "n3:1".to_owned()];
    let not_member_reply = Reply::Refused(Refusal::NotMember { node: NodeId::new(4).unwrap(), members });
    let read_request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
    for request in [
        read_request,
        Request::Propose { op: Op::Open { window: 1, ordered: false }.encode() },
        Request::Transfer { to: None },
    ] {
        node.handle(now, Event::Request { from: CLIENT, id: 44, forward: true, request });
        assert_eq!(take_reply(&mut node, now), Some(not_member_reply.clone()));
    }
    // A member parks the request until there is a leader.
    let (mut node, now) = start_node(3);
    let request = Request::Query { query: Bytes::new(), consistency: Consistency::Linearizable };
    node.handle(now, Event::Request { from: CLIENT, id: 44, forward: true, request });
    assert_eq!((take_reply(&mut node, now), node.waiting_requests()), (None, 1));
}

/// Local reads wait for the applier, which may be busy: their bytes count against the same limit as linearizable reads.
#[test]
fn local_reads_are_bounded_in_bytes() {
    let (mut node, now) = start_node(1);
    node.options.waiting_read_bytes_max = 10;
    let read = |id| Event::Request {
        from: CLIENT,
        id,
        forward: true,
        request: Request::Query { query: Bytes::from_static(b"lunch"), consistency: Consistency::Local },
    };
    for id in [41, 42, 44] {
        node.handle(now, read(id));
    }
    assert_eq!(take_reply(&mut node, now), Some(Reply::Refused(Refusal::Busy)));
    // The earlier reads were submitted to the applier, which has not answered.
    node.handle(now, read(44));
    assert_eq!(take_reply(&mut node, now), Some(Reply::Refused(Refusal::Busy)));
    node.handle(now, Event::Queried { ticket: 1, applied: Index::ZERO, answer: Bytes::new() });
    node.handle(now, read(44));
    assert_eq!(take_reply(&mut node, now), None);
}
