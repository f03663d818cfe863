//! One node of three or five has a fault, and the others make progress; and an isolated node changes nothing.

use super::cluster::{Cluster, command, id, ms};
use drave::api::Refusal;
use drave::consensus::message::{Message, VoteKind};
use drave::types::*;
use std::collections::BTreeSet;

/// The fault of a node.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    Crashed,
    Isolated,
    Deaf,
    Mute,
    SlowDisk,
}

fn inject_fault(cluster: &mut Cluster, node: NodeId, fault: Fault) {
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|other| *other != node).collect();
    match fault {
        Fault::Nothing => {}
        Fault::Crashed => cluster.crash(node),
        Fault::Isolated => cluster.isolate(node),
        Fault::Deaf => cluster.cut.extend(others.into_iter().map(|other| (other, node))),
        Fault::Mute => cluster.cut.extend(others.into_iter().map(|other| (node, other))),
        Fault::SlowDisk => cluster.hosts.get_mut(&node).unwrap().disk_delay = ms(10_000),
    }
}

/// How many entries are committed when ten thousand are proposed to the current leader, one each millisecond.
fn committed(nodes: u64, of_leader: bool, fault: Fault) -> u64 {
    let mut cluster = Cluster::new(nodes);
    let leader = cluster.elect();
    cluster.run(ms(50));
    let victim = cluster.ids().into_iter().find(|node| (*node == leader) == of_leader).unwrap();
    inject_fault(&mut cluster, victim, fault);
    for _ in 0..10_000 {
        let now = cluster.now;
        if let Some(leads) = cluster.leader() {
            // Refused or not: a refused client would retry.
            let _taken_or_not = cluster.core(leads).propose(now, command("x"));
            cluster.process_ready(leads);
        }
        cluster.run(ms(1));
    }
    let commits = cluster.hosts.values().filter_map(|host| host.raft.as_ref()).map(|raft| raft.log().commit().0);
    commits.max().unwrap()
}

/// tigerbeetle#2739: the failure of a single node slowed down everything by orders of magnitude, for as long as it
/// lasted. Here it costs one election if that node was the leader, and next to nothing otherwise: the others commit
/// nine tenths of the entries that they commit without faults.
#[test]
fn fault_of_one_node_does_not_stop_commits() {
    for nodes in [3, 5] {
        let well = committed(nodes, true, Fault::Nothing);
        assert!(well > 9_900, "{well}");
        for fault in [Fault::Crashed, Fault::Isolated, Fault::Deaf, Fault::Mute, Fault::SlowDisk] {
            for of_leader in [false, true] {
                let with = committed(nodes, of_leader, fault);
                let least = if of_leader { well * 9 / 10 } else { well * 99 / 100 };
                assert!(with >= least, "{nodes} nodes, {fault:?}, of the leader: {of_leader}: {with} of {well}");
            }
        }
    }
}

/// Redis-Raft, as Jepsen found it ("island"), and nats-server#7545: a leader that was cut off makes itself the only
/// voter and commits entries alone, and the others elect another leader. Here it needs the majority that it cannot
/// reach.
#[test]
fn isolated_leader_cannot_commit_a_change() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(50));
    cluster.isolate(leader);
    let alone = Change::Voters(BTreeSet::from([leader]));
    cluster.force(leader, alone, true).expect("a forced change is accepted");
    let began = cluster.raft(leader).configured();
    cluster.run(ms(5000));
    assert!(cluster.raft(leader).log().commit() < began && !cluster.raft(leader).leads());
    let rest = cluster.leader().expect("a leader of the other nodes");
    let position = cluster.propose(rest, "without it");
    cluster.run(ms(50));
    assert!(cluster.raft(rest).log().commit() >= position.index);
    cluster.heal();
    cluster.until("the old leader follows", |c| c.raft(leader).log().last() == c.raft(rest).log().last());
    assert_eq!(cluster.raft(leader).membership().voters, BTreeSet::from([id(1), id(2), id(3)]));
}

/// cowsql#150 and camunda#57386: a node checked candidates against its own view of the membership, and a cluster whose
/// nodes knew different configurations never had a leader again. Here a vote depends on the candidate's log.
#[test]
fn vote_does_not_depend_on_the_voters_membership_view() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(50));
    let voter = cluster.ids().into_iter().find(|node| *node != leader).unwrap();
    cluster.isolate(voter);
    cluster.run(ms(1000));
    let last = Position::new(Index(cluster.raft(voter).log().last().index.0 + 5), Term(cluster.term()));
    let (stranger, now) = (id(7), cluster.now);
    let term = Term(cluster.term() + 1);
    let message = Message::RequestVote { last, ask: VoteKind::Vote };
    let envelope = cluster.envelope(stranger, voter, term, message);
    cluster.core(voter).receive(now, envelope);
    cluster.process_ready(voter);
    assert_eq!((cluster.raft(voter).vote(), cluster.raft(voter).term()), (Some(Vote::new(stranger, None)), term));
}

/// canonical/raft#250 and sofa-jraft#1, the other half: the configuration before the truncated one is in no entry any
/// more, because a snapshot has replaced those entries.
#[test]
fn configuration_rolls_back_to_that_of_the_snapshot() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.join(4);
    let add = |n: u64| Change::Add { id: id(n), address: format!("h{n}:1"), disk: None, prospect: PendingRole::Stays };
    cluster.run(ms(50));
    cluster.change(leader, add(4)).unwrap();
    cluster.until("the configuration is committed", |c| c.raft(leader).log().commit() >= c.raft(leader).configured());
    cluster.propose(leader, "behind it");
    cluster.run(ms(50));
    let settled = cluster.raft(leader).membership().clone();
    let upto = cluster.raft(leader).log().commit();
    cluster.core(leader).compact(upto);
    assert!(cluster.raft(leader).configured() < cluster.raft(leader).log().base().index);
    cluster.isolate(leader);
    cluster.change(leader, add(5)).unwrap();
    assert_ne!(*cluster.raft(leader).membership(), settled);
    // The next leader writes another entry there.
    let (term, now) = (Term(cluster.term() + 1), cluster.now);
    let prev = cluster.raft(leader).log().at_or_below(Position::new(upto, Term(cluster.term())));
    let entry = drave::codec::entry(Position::new(prev.index.next(), term), ClusterTime(0), Payload::Noop);
    let message = Message::AppendEntries { prev, commit: upto, probe: 0, entries: vec![entry] };
    let from = cluster.ids().into_iter().find(|node| *node != leader).unwrap();
    let envelope = cluster.envelope(from, leader, term, message);
    cluster.core(leader).receive(now, envelope);
    cluster.process_ready(leader);
    assert_eq!(*cluster.raft(leader).membership(), settled);
}

/// Right after an election a leader has received messages from its voters only: it chooses none of the other nodes as
/// transfer target, and waits for none of them.
#[test]
fn transfer_target_has_responded_in_this_term() {
    let mut cluster = Cluster::new(5);
    let first = cluster.elect();
    cluster.run(ms(50));
    let dead = cluster.ids().into_iter().find(|node| *node != first).unwrap();
    cluster.crash(dead);
    cluster.crash(first);
    cluster.until("another node leads", |c| c.leader().is_some());
    let leader = cluster.leader().unwrap();
    for gone in [dead, first] {
        let refused = cluster.transfer(leader, Some(gone));
        assert!(
            matches!(&refused, Err(Refusal::InvalidChange { why }) if why.contains("does not answer")),
            "{refused:?}"
        );
    }
    let to = cluster.transfer(leader, None).expect("a voter that granted its vote");
    assert!(![dead, first, leader].contains(&to));
    cluster.until("the target leads", |c| c.raft(to).leads());
}

/// An entry that fits on no majority of the disks could neither be committed nor aborted, and all entries behind it
/// would wait. So the leader rejects it, and sends no follower more than its disk can take.
#[test]
fn leader_accepts_and_sends_only_entries_that_fit_the_disks() {
    let mut cluster = Cluster::new(3);
    cluster.options.reserve_bytes = 1000;
    for node in cluster.ids() {
        cluster.crash(node);
        cluster.start(node);
    }
    let leader = cluster.elect();
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != leader).collect();
    let says = |cluster: &mut Cluster, node: NodeId, bytes: u64| {
        cluster.core(node).set_room(bytes);
        cluster.run(ms(100));
    };
    let admits = |cluster: &Cluster, bytes, frees| cluster.raft(leader).has_room_for(cluster.now, bytes, frees);

    says(&mut cluster, others[0], 5000);
    assert!(admits(&cluster, 1 << 20, false), "a majority has room");
    for _ in 0..40 {
        cluster.propose(leader, &"x".repeat(200));
    }
    cluster.run(ms(200));
    let held = |cluster: &Cluster, node: NodeId| cluster.raft(node).log().last().index;
    assert_eq!(held(&cluster, others[1]), held(&cluster, leader));
    assert!(held(&cluster, others[0]) < held(&cluster, leader), "a follower is sent only what fits");
    assert!(held(&cluster, others[0]) > Index(10), "a follower is sent all that fits");

    says(&mut cluster, others[1], 5000);
    assert!(!admits(&cluster, 4000, false) && admits(&cluster, 3900, false), "the reserve is kept free");
    assert!(
        !admits(&cluster, 4500, true) && admits(&cluster, 4400, true),
        "half of the reserve from commands that free room"
    );
    says(&mut cluster, leader, 1000);
    assert!(!admits(&cluster, 1, false), "the leader's own disk must have room");
    says(&mut cluster, leader, 1 << 40);
    cluster.crash(others[1]);
    cluster.run(ms(400));
    assert!(!admits(&cluster, 1, false), "a silent follower does not count");

    cluster.start(others[1]);
    says(&mut cluster, others[0], 1 << 40);
    assert_eq!(held(&cluster, others[0]), held(&cluster, leader), "with room, all entries are sent");
}
