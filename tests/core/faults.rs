//! Faults of one node in a cluster of three or five: the other nodes make progress. Also elections, transfers and
//! membership changes around such faults.

use super::cluster::{Cluster, command, id, ms};
use drave::api::Refusal;
use drave::consensus::message::{Message, VoteKind};
use drave::types::*;
use std::collections::BTreeSet;

/// The fault that a test injects into one node.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Healthy,
    Crashed,
    Isolated,
    /// The node receives no messages.
    Deaf,
    /// All messages that the node sends are lost.
    Mute,
    SlowDisk,
}

fn inject_fault(cluster: &mut Cluster, node: NodeId, fault: Fault) {
    let other_nodes: Vec<NodeId> = cluster.ids().into_iter().filter(|other| *other != node).collect();
    match fault {
        Fault::Healthy => {}
        Fault::Crashed => cluster.crash(node),
        Fault::Isolated => cluster.isolate(node),
        Fault::Deaf => cluster.broken_links.extend(other_nodes.into_iter().map(|other| (other, node))),
        Fault::Mute => cluster.broken_links.extend(other_nodes.into_iter().map(|other| (node, other))),
        Fault::SlowDisk => cluster.hosts.get_mut(&node).unwrap().sync_delay = ms(10_000),
    }
}

/// Returns how many entries commit when ten thousand entries are proposed to the current leader, one each millisecond.
/// The fault is injected into the first leader if `leader_is_faulty` is set, otherwise into a follower.
fn count_commits(node_count: u64, leader_is_faulty: bool, fault: Fault) -> u64 {
    let mut cluster = Cluster::new(node_count);
    let leader = cluster.elect();
    cluster.run(ms(50));
    let faulty_node = cluster.ids().into_iter().find(|node| (*node == leader) == leader_is_faulty).unwrap();
    inject_fault(&mut cluster, faulty_node, fault);
    for _ in 0..10_000 {
        let now = cluster.now;
        if let Some(current_leader) = cluster.leader() {
            // The result does not matter: a refused client would retry.
            let _result = cluster.raft_mut(current_leader).propose(now, command("x"));
            cluster.process_ready(current_leader);
        }
        cluster.run(ms(1));
    }
    let commits = cluster.hosts.values().filter_map(|host| host.raft.as_ref()).map(|raft| raft.log().commit().0);
    commits.max().unwrap()
}

/// tigerbeetle#2739: the failure of a single node slowed down the cluster by orders of magnitude until the node was
/// repaired. Here a fault of the leader costs one election, and at least 90 % of the entries that commit without a
/// fault still commit. With a fault of a follower, at least 99 % do.
#[test]
fn fault_of_one_node_does_not_stop_commits() {
    for node_count in [3, 5] {
        let fault_free_commits = count_commits(node_count, true, Fault::Healthy);
        assert!(fault_free_commits > 9_900, "{fault_free_commits} of 10,000 entries commit without a fault");
        for fault in [Fault::Crashed, Fault::Isolated, Fault::Deaf, Fault::Mute, Fault::SlowDisk] {
            for leader_is_faulty in [false, true] {
                let faulty_commits = count_commits(node_count, leader_is_faulty, fault);
                let expected_min =
                    if leader_is_faulty { fault_free_commits * 9 / 10 } else { fault_free_commits * 99 / 100 };
                assert!(
                    faulty_commits >= expected_min,
                    "{node_count} nodes, {fault:?} (leader: {leader_is_faulty}): {faulty_commits} of \
                     {fault_free_commits} entries commit"
                );
            }
        }
    }
}

/// Redis-Raft, as Jepsen found it ("island"), and nats-server#7545: a leader that was cut off makes itself the only
/// voter and commits entries alone, and the other nodes elect another leader. Here the change needs the majority that
/// the leader cannot reach.
#[test]
fn isolated_leader_cannot_commit_a_change() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(50));
    cluster.isolate(leader);
    let sole_voter_change = Change::SetVoters(BTreeSet::from([leader]));
    cluster.reconfigure(leader, sole_voter_change, true).expect("a forced change is accepted");
    let change_index = cluster.raft(leader).configuration_index();
    cluster.run(ms(5000));
    assert!(cluster.raft(leader).log().commit() < change_index && !cluster.raft(leader).leads());
    let new_leader = cluster.leader().expect("the other nodes elect a leader");
    let position = cluster.propose(new_leader, "without the isolated node");
    cluster.run(ms(50));
    assert!(cluster.raft(new_leader).log().commit() >= position.index);
    cluster.heal();
    cluster.run_until("the old leader follows", |c| c.raft(leader).log().last() == c.raft(new_leader).log().last());
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
    let last = Position::new(Index(cluster.raft(voter).log().last().index.0 + 5), Term(cluster.highest_term()));
    let (stranger, now) = (id(7), cluster.now);
    let term = Term(cluster.highest_term() + 1);
    let message = Message::RequestVote { last, kind: VoteKind::Vote };
    let envelope = cluster.envelope(stranger, voter, term, message);
    cluster.raft_mut(voter).receive(now, envelope);
    cluster.process_ready(voter);
    assert_eq!((cluster.raft(voter).vote(), cluster.raft(voter).term()), (Some(Vote::new(stranger, None)), term));
}

/// canonical/raft#250 and sofa-jraft#1, with a snapshot: the configuration before the truncated one is in no log entry
/// any more, because a snapshot has replaced those entries.
#[test]
fn configuration_rolls_back_to_that_of_the_snapshot() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.start_new_node(4);
    let add_change = |n: u64| Change::Add {
        id: id(n),
        address: format!("h{n}:1"),
        disk: None,
        pending_role: PendingRole::Unchanged,
    };
    cluster.run(ms(50));
    cluster.change_membership(leader, add_change(4)).unwrap();
    cluster.run_until("the configuration is committed", |c| {
        c.raft(leader).log().commit() >= c.raft(leader).configuration_index()
    });
    cluster.propose(leader, "after the change");
    cluster.run(ms(50));
    let committed_configuration = cluster.raft(leader).membership().clone();
    let commit = cluster.raft(leader).log().commit();
    cluster.raft_mut(leader).compact(commit);
    assert!(cluster.raft(leader).configuration_index() < cluster.raft(leader).log().base().index);
    cluster.isolate(leader);
    cluster.change_membership(leader, add_change(5)).unwrap();
    assert_ne!(*cluster.raft(leader).membership(), committed_configuration);
    // The next leader sends another entry at the index of the uncommitted configuration.
    let (term, now) = (Term(cluster.highest_term() + 1), cluster.now);
    let prev = cluster.raft(leader).log().last_at_or_below(Position::new(commit, Term(cluster.highest_term())));
    let conflicting_entry = drave::codec::entry(Position::new(prev.index.next(), term), ClusterTime(0), Payload::Noop);
    let message = Message::AppendEntries { prev, commit, probe_number: 0, entries: vec![conflicting_entry] };
    let next_leader = cluster.ids().into_iter().find(|node| *node != leader).unwrap();
    let envelope = cluster.envelope(next_leader, leader, term, message);
    cluster.raft_mut(leader).receive(now, envelope);
    cluster.process_ready(leader);
    assert_eq!(*cluster.raft(leader).membership(), committed_configuration);
}

/// A leader sends none of its damaged entries: a follower that needs one gets a snapshot. Other followers get the entries
/// after the damage as before.
#[test]
fn follower_that_needs_a_damaged_entry_gets_a_snapshot() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(50));
    let [lagging, other] = [0, 1].map(|n| cluster.ids().into_iter().filter(|node| *node != leader).nth(n).unwrap());
    cluster.isolate(lagging);
    let last = (0..5).map(|_| cluster.propose(leader, "damaged")).last().unwrap();
    cluster.run_until("the entries are committed", |c| c.raft(leader).log().commit() >= last.index);
    cluster.raft_mut(leader).stop_reading_up_to(last.index.prev());
    let entries_sent = cluster.entries_sent[&lagging];
    cluster.heal();
    let state_of = |c: &Cluster, node| {
        c.raft(leader).progress().find(|(id, _)| *id == node).map(|(_, progress)| progress.state_name())
    };
    cluster.run_until("the follower is sent a snapshot", |c| state_of(c, lagging) == Some("snapshot"));
    let next = cluster.propose(leader, "intact");
    cluster.run_until("the next entry is committed", |c| c.raft(leader).log().commit() >= next.index);
    assert_eq!((state_of(&cluster, other), cluster.entries_sent[&lagging]), (Some("stream"), entries_sent));
}

/// Right after an election a leader has received messages only from the voters that elected it. It chooses none of the
/// other nodes as transfer target.
#[test]
fn transfer_target_has_responded_in_this_term() {
    let mut cluster = Cluster::new(5);
    let first_leader = cluster.elect();
    cluster.run(ms(50));
    let crashed_follower = cluster.ids().into_iter().find(|node| *node != first_leader).unwrap();
    cluster.crash(crashed_follower);
    cluster.crash(first_leader);
    cluster.run_until("another node leads", |c| c.leader().is_some());
    let leader = cluster.leader().unwrap();
    for crashed in [crashed_follower, first_leader] {
        let transfer_result = cluster.transfer(leader, Some(crashed));
        assert!(
            matches!(&transfer_result, Err(Refusal::InvalidChange { why }) if why.contains("does not answer")),
            "{transfer_result:?}"
        );
    }
    let target = cluster.transfer(leader, None).expect("a voter that elected the leader is a transfer target");
    assert!(![crashed_follower, first_leader, leader].contains(&target));
    cluster.run_until("the target leads", |c| c.raft(target).leads());
}

/// An entry that fits on no majority of the disks could neither be committed nor removed, and all later entries would
/// wait. So the leader rejects the command, and sends no follower more entries than fit on its disk.
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
    let report_room = |cluster: &mut Cluster, node: NodeId, bytes: u64| {
        cluster.raft_mut(node).set_room(bytes);
        cluster.run(ms(100));
    };
    let has_room_for_command =
        |cluster: &Cluster, bytes, frees| cluster.raft(leader).has_room_for(cluster.now, bytes, frees);

    report_room(&mut cluster, others[0], 5000);
    assert!(has_room_for_command(&cluster, 1 << 20, false), "a majority has room");
    for _ in 0..40 {
        cluster.propose(leader, &"x".repeat(200));
    }
    cluster.run(ms(200));
    let last_index = |cluster: &Cluster, node: NodeId| cluster.raft(node).log().last().index;
    assert_eq!(last_index(&cluster, others[1]), last_index(&cluster, leader));
    assert!(last_index(&cluster, others[0]) < last_index(&cluster, leader), "a follower is sent only what fits");
    assert!(last_index(&cluster, others[0]) > Index(10), "a follower is sent all that fits");

    report_room(&mut cluster, others[1], 5000);
    assert!(
        !has_room_for_command(&cluster, 4000, false) && has_room_for_command(&cluster, 3900, false),
        "the reserve is kept free"
    );
    assert!(
        !has_room_for_command(&cluster, 4500, true) && has_room_for_command(&cluster, 4400, true),
        "half of the reserve is kept free from commands that free space"
    );
    report_room(&mut cluster, leader, 1000);
    assert!(!has_room_for_command(&cluster, 1, false), "the leader's own disk must have room");
    report_room(&mut cluster, leader, 1 << 40);
    cluster.crash(others[1]);
    cluster.run(ms(400));
    assert!(!has_room_for_command(&cluster, 1, false), "a silent follower does not count");

    cluster.start(others[1]);
    report_room(&mut cluster, others[0], 1 << 40);
    assert_eq!(
        last_index(&cluster, others[0]),
        last_index(&cluster, leader),
        "a follower with room is sent all entries"
    );
}
