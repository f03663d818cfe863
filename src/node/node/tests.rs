//! What a follower does with what it passed on, when the way there or back is broken.

use super::*;
use crate::api::Op;
use crate::consensus::Options as RaftOptions;
use crate::consensus::message::Round;
use crate::sim::disk::SimDisk;
use crate::types::{Base, ClusterId, DiskId, Position};
use crate::wal::{Journal, Options as WalOptions};

const LEADER: NodeId = NodeId::new(2).unwrap();
const CLIENT: Caller = Caller::Client(7);

/// A node that follows another, and its time.
fn follower() -> (Node, Time) {
    let me = NodeId::new(1).unwrap();
    let membership = Membership::founding([1, 2, 3].map(|n| (NodeId::new(n).unwrap(), format!("n{n}:1"))));
    let founding = Base { position: Position::ZERO, configured: Index::ZERO, membership };
    let options = WalOptions { segment_bytes: 4096, ..WalOptions::new(me, ClusterId(7), DiskId(9)) };
    let (_journal, recovered) = Journal::open(SimDisk::new(), options, Some(&founding)).unwrap();
    let now = Time::ZERO + std::time::Duration::from_secs(1);
    let nothing = Applied { upto: Index::ZERO, outcomes: Vec::new(), digest: 0, sessions: 0, duplicates: 0, due: None };
    let begun = Begun { now, disk: None, applied: nothing, kept: None, chance: 5, beforehand: Beforehand::default() };
    let mut node = super::super::start(me, recovered, RaftOptions::default(), Options::default(), begun);
    let beat = Message::Beat { commit: Index::ZERO, round: Round(1) };
    node.handle(now, Event::Peer(Envelope { from: LEADER, to: me, term: Term(1), message: beat }));
    turn(&mut node, now);
    assert_eq!(node.raft().leader(), Some(LEADER));
    (node, now)
}

fn turn(node: &mut Node, now: Time) -> Vec<Action> {
    let mut actions = Vec::new();
    node.turn(now, &mut actions);
    actions
}

/// Asks for a write that is to be passed on; the number under which it is.
fn pass_on(node: &mut Node, now: Time) -> u64 {
    let request = Request::Propose { op: Op::Open { window: 1 }.encode() };
    node.handle(now, Event::Request { from: CLIENT, id: 44, forward: true, request });
    let forwarded = |action| match action {
        Action::Forward { to: LEADER, id, .. } => Some(id),
        _ => None,
    };
    turn(node, now).into_iter().find_map(forwarded).unwrap()
}

fn reply(node: &mut Node, now: Time) -> Option<Reply> {
    let reply = |action| match action {
        Action::Reply { to: CLIENT, id: 44, reply } => Some(reply),
        _ => None,
    };
    turn(node, now).into_iter().find_map(reply)
}

#[test]
fn what_was_not_sent_has_not_happened_and_costs_nobody_the_leader() {
    let (mut node, now) = follower();
    let (sent, stuck) = (pass_on(&mut node, now), pass_on(&mut node, now));
    node.handle(now, Event::NotSent { to: LEADER, id: stuck });
    assert_eq!(reply(&mut node, now), Some(Reply::Refused(Refusal::Busy)));
    assert_eq!((node.raft().leader(), node.held()), (Some(LEADER), 1));
    // The other is under way, and is answered.
    node.handle(now, Event::Answered { from: LEADER, id: sent, reply: Reply::Unknown });
    assert_eq!((reply(&mut node, now), node.held()), (Some(Reply::Unknown), 0));
}

#[test]
fn answers_that_were_lost_are_not_waited_for() {
    let (mut node, now) = follower();
    pass_on(&mut node, now);
    node.handle(now, Event::AnswersLost(NodeId::new(3).unwrap()));
    assert_eq!(reply(&mut node, now), None);
    node.handle(now, Event::AnswersLost(LEADER));
    assert_eq!(reply(&mut node, now), Some(Reply::Unknown));
    assert_eq!((node.raft().leader(), node.held()), (Some(LEADER), 0));
}
