//! Membership changes and leadership transfers on simulated Raft cores: §6 of the paper, chapters 3.10 and 4 of the
//! thesis, and bugs of other systems. Only a test advances the clock.

use super::cluster::{Cluster, command, id, ms};
use drave::api::{Refusal, RoleName};
use drave::consensus::message::{Message, VoteKind};
use drave::consensus::note::Note;
use drave::types::*;
use std::collections::BTreeSet;
use std::time::Duration;

fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().map(|n| id(*n)).collect()
}

fn add(n: u64, pending_role: PendingRole) -> Change {
    Change::Add { id: id(n), address: format!("h{n}:1"), disk: None, pending_role }
}

fn voters(cluster: &Cluster, node: NodeId) -> BTreeSet<NodeId> {
    cluster.raft(node).membership().voters.clone()
}

/// Whether the configuration of `node` has exactly `expected_voters`, is not joint, and is committed.
fn has_committed_voters(cluster: &Cluster, node: NodeId, expected_voters: &[u64]) -> bool {
    let raft = cluster.raft(node);
    !raft.membership().is_joint()
        && voters(cluster, node) == ids(expected_voters)
        && raft.log().commit() >= raft.configuration_index()
}

/// A cluster of n voters and its leader.
fn cluster_with_leader(n: u64) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(n);
    let leader = cluster.elect();
    cluster.run(ms(50));
    (cluster, leader)
}

/// Like `cluster_with_leader`, with `mutants` on all nodes.
fn cluster_with_mutants(n: u64, mutants: Mutants) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(n);
    cluster.options.mutants = mutants;
    cluster.ids().into_iter().for_each(|node| cluster.start(node));
    let leader = cluster.elect();
    cluster.run(ms(50));
    (cluster, leader)
}

/// Three voters, and the nodes from 4 to `last_learner` as learners.
fn cluster_with_learners(last_learner: u64, mutants: Mutants) -> (Cluster, NodeId) {
    let (mut cluster, leader) = cluster_with_mutants(3, mutants);
    for n in 4..=last_learner {
        cluster.start_new_node(n);
        cluster.change_membership(leader, add(n, PendingRole::Unchanged)).unwrap();
        cluster.run(ms(300));
    }
    (cluster, leader)
}

fn any_node_except(cluster: &Cluster, excluded: &[NodeId]) -> NodeId {
    cluster.ids().into_iter().find(|node| !excluded.contains(node)).unwrap()
}

/// "New servers […] join the cluster as non-voting members" (§6), and are promoted automatically: etcd-io/etcd#15107,
/// requested for seven years. The change is joint: both configurations are in every log.
#[test]
fn new_member_is_promoted_automatically() {
    let (mut cluster, leader) = cluster_with_leader(3);
    for n in 0..100 {
        cluster.propose(leader, &n.to_string());
    }
    let n4 = cluster.start_new_node(4);
    cluster.change_membership(leader, add(4, PendingRole::Promote)).unwrap();
    cluster.run_until("n4 is a learner", |c| c.raft(n4).role() == RoleName::Learner);
    cluster.run_until("n4 is promoted", |c| (1..=4).all(|n| has_committed_voters(c, id(n), &[1, 2, 3, 4])));
    let is_joint_entry = |entry: &Entry| matches!(&entry.payload, Payload::Membership(m) if m.is_joint());
    assert!(cluster.ids().iter().all(|node| cluster.hosts[node].log.iter().filter(|e| is_joint_entry(e)).count() == 1));
    assert_eq!(cluster.raft(n4).role(), RoleName::Follower);
}

/// A learner without a pending role stays a learner, receives every entry, and has no vote: eBay/HomeStore#764 (a
/// learner became leader).
#[test]
fn permanent_learner_never_votes_or_leads() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let n4 = cluster.start_new_node(4);
    cluster.change_membership(leader, add(4, PendingRole::Unchanged)).unwrap();
    cluster.run(ms(2000));
    assert_eq!(cluster.raft(n4).role(), RoleName::Learner);
    assert_eq!(cluster.raft(n4).log().last(), cluster.raft(leader).log().last());
    // The learner does not campaign after the leader has crashed.
    cluster.crash(leader);
    cluster.run(ms(3000));
    assert_eq!(cluster.raft(n4).role(), RoleName::Learner);
}

/// Copies on learners do not count: with one voter of three left, nothing commits.
#[test]
fn copies_on_learners_do_not_count_for_commit() {
    let learners_commit = |mutants: Mutants| {
        let (mut cluster, leader) = cluster_with_learners(5, mutants);
        let other_voters: Vec<NodeId> = (1..=3).map(id).filter(|node| *node != leader).collect();
        other_voters.iter().for_each(|node| cluster.isolate(*node));
        let position = cluster.propose(leader, "with learners alone");
        cluster.run(ms(100));
        cluster.raft(leader).log().commit() >= position.index
    };
    assert!(!learners_commit(Mutants::NONE));
    assert!(learners_commit(Mutants::only(Mutant::LearnersCount)), "the mutant breaks the rule");
}

/// "Cluster configurations are stored and communicated using special entries […]; a server always uses the latest
/// configuration in its log, regardless of whether the entry is committed" (§6): while the joint configuration is in
/// use, majorities of both halves are needed. RedisLabs/redisraft#28 and #44; and etcd#7625 and #5004, where a
/// configuration counted when it was applied.
#[test]
fn joint_configuration_needs_both_majorities() {
    // Either all old voters but the leader are isolated, or all new voters: the other half alone is no quorum.
    let change_commits = |mutants: Mutants, isolated_voters: &dyn Fn(NodeId) -> Vec<NodeId>| {
        let (mut cluster, leader) = cluster_with_learners(6, mutants);
        isolated_voters(leader).iter().for_each(|node| cluster.isolate(*node));
        let change_position = cluster.change_membership(leader, Change::SetVoters(ids(&[4, 5, 6]))).unwrap();
        cluster.run(ms(100));
        let is_committed = cluster.raft(leader).log().commit() >= change_position.index;
        if mutants == Mutants::NONE {
            assert!(cluster.raft(leader).membership().is_joint());
            cluster.heal();
            cluster.run_until("the change completes", |c| (4..=6).all(|n| has_committed_voters(c, id(n), &[4, 5, 6])));
        }
        is_committed
    };
    let old_voters_but_leader = |leader: NodeId| (1..=3).map(id).filter(|node| *node != leader).collect::<Vec<_>>();
    let new_voters = |_: NodeId| (4..=6).map(id).collect::<Vec<_>>();
    assert!(!change_commits(Mutants::NONE, &old_voters_but_leader));
    assert!(!change_commits(Mutants::NONE, &new_voters));
    for mutant in [Mutant::JointByNewHalf, Mutant::ChangeWithoutJoint] {
        assert!(change_commits(Mutants::only(mutant), &old_voters_but_leader), "{mutant}");
    }
    assert!(
        change_commits(Mutants::only(Mutant::ConfigAtCommit), &new_voters),
        "a configuration is in force as soon as it is in the log"
    );
}

/// "One change at a time": the next change is refused until the previous change is committed (thesis §4.1;
/// redpanda#17675: two promotions at once).
#[test]
fn second_change_is_rejected_until_the_first_commits() {
    let (mut cluster, leader) = cluster_with_leader(3);
    cluster.start_new_node(4);
    cluster.change_membership(leader, add(4, PendingRole::Unchanged)).unwrap();
    let change_result = cluster.change_membership(leader, add(5, PendingRole::Unchanged));
    assert!(matches!(change_result, Err(Refusal::ChangeInProgress { .. })), "{change_result:?}");
    cluster.run(ms(100));
    cluster.change_membership(leader, add(5, PendingRole::Unchanged)).unwrap();

    let (mut stacking, leader) = cluster_with_mutants(3, Mutants::only(Mutant::StackChanges));
    stacking.change_membership(leader, add(4, PendingRole::Unchanged)).unwrap();
    stacking.change_membership(leader, add(5, PendingRole::Unchanged)).expect("the mutant breaks the rule");
}

/// Ongaro 2015 (copycat#23, braft#182, openraft#2051): a leader that has not committed an entry of its own term may not
/// know of a committed change, so it begins no change.
#[test]
fn change_waits_for_the_leaders_first_commit() {
    let first_change_is_refused = |mutants: Mutants| {
        let mut cluster = Cluster::new(3);
        cluster.options.mutants = mutants;
        cluster.ids().into_iter().for_each(|node| cluster.start(node));
        cluster.hosts.values_mut().for_each(|host| host.sync_delay = ms(40));
        let leader = cluster.elect();
        let is_refused = cluster.change_membership(leader, add(4, PendingRole::Unchanged)).is_err();
        cluster.run(ms(300));
        if is_refused {
            cluster.change_membership(leader, add(4, PendingRole::Unchanged)).unwrap();
        }
        is_refused
    };
    assert!(first_change_is_refused(Mutants::NONE));
    let mutants = Mutants::only(Mutant::ChangeBeforeNoop);
    let (mut cluster, _) = cluster_with_mutants(3, mutants);
    // The configuration that the next leader finds is committed, and the first entry of that leader's own term is not.
    cluster.hosts.values_mut().for_each(|host| host.sync_delay = ms(40));
    let first_leader = cluster.leader().unwrap();
    cluster.crash(first_leader);
    cluster.run_until("another node leads", |c| c.leader().is_some());
    let leader = cluster.leader().unwrap();
    cluster.change_membership(leader, add(4, PendingRole::Unchanged)).expect("the mutant breaks the rule");
}

/// "The leader […] is not part of the new configuration. In this case, the leader steps down once it has committed the
/// C-new log entry" (§6), counting majorities without itself; and another node leads a moment later.
#[test]
fn removed_leader_steps_down_once_removal_is_committed() {
    let (mut cluster, leader) = cluster_with_leader(3);
    cluster.change_membership(leader, Change::Remove(leader)).unwrap();
    let removal_time = cluster.now;
    cluster.run_until("another node leads", |c| c.leader().is_some_and(|l| l != leader));
    let leaderless_time = cluster.now - removal_time;
    assert!(leaderless_time < ms(50), "the removed leader transferred its leadership after {leaderless_time:?}");
    cluster.run(ms(3000));
    assert_eq!(cluster.raft(leader).role(), RoleName::Outside);
    let new_leader = cluster.leader().unwrap();
    let position = cluster.propose(new_leader, "without the removed leader");
    cluster.run(ms(50));
    assert!(cluster.raft(new_leader).log().commit() >= position.index);
}

/// databendlabs/openraft#2091: the leader to be removed loses its leadership before C-new is committed, and the only
/// complete log is on a server that is about to leave. That server still campaigns (thesis §4.2.2).
#[test]
fn removing_one_of_two_voters_never_loses_the_leader() {
    let removal_completes = |mutants: Mutants, on_disk: bool| {
        let mut cluster = Cluster::new(2);
        cluster.options.mutants = mutants;
        cluster.ids().into_iter().for_each(|node| cluster.start(node));
        let leader = cluster.elect();
        cluster.run(ms(50));
        let other_voter = any_node_except(&cluster, &[leader]);
        cluster.change_membership(leader, Change::Remove(leader)).unwrap();
        // When both nodes restart, C-new is in the leader's log only: on its disk if `on_disk` is set, otherwise
        // unsynced.
        cluster.broken_links.insert((leader, other_voter));
        cluster.run_until("the leader has appended C-new", |c| !c.raft(leader).membership().is_voter(leader));
        cluster.run(ms(if on_disk { 5 } else { 0 }));
        cluster.crash(leader);
        cluster.crash(other_voter);
        cluster.heal();
        cluster.start(leader);
        cluster.start(other_voter);
        cluster.run(ms(5000));
        cluster.leader() == Some(other_voter) && has_committed_voters(&cluster, other_voter, &[other_voter.get()])
    };
    assert!(removal_completes(Mutants::NONE, false));
    assert!(removal_completes(Mutants::NONE, true));
    assert!(!removal_completes(Mutants::only(Mutant::CampaignOnlyIfListed), true), "the mutant breaks the rule");
}

/// hashicorp/raft#524: a removed server livelocks the cluster. Here the removed node is notified and stays passive, and
/// the term does not change.
#[test]
fn removed_member_is_notified_and_stays_passive() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let removed_node = any_node_except(&cluster, &[leader]);
    cluster.change_membership(leader, Change::Remove(removed_node)).unwrap();
    cluster.run_until("the removed node knows of its removal", |c| c.raft(removed_node).role() == RoleName::Outside);
    assert!(cluster.hosts[&removed_node].notes.iter().any(|note| {
        matches!(note, Note::NotMember { node, .. } if *node == removed_node)
            && note.to_string().contains("drave member add")
    }));
    cluster.run_until("the removed node is notified", |c| {
        c.hosts[&leader]
            .notes
            .iter()
            .any(|note| matches!(note, Note::MemberRemoved { peer, notified: true } if *peer == removed_node))
    });
    let term = cluster.highest_term();
    cluster.run(Duration::from_secs(60));
    assert_eq!((cluster.highest_term(), cluster.leader()), (term, Some(leader)));
}

/// A node that was isolated when it was removed reconnects, and does not disturb the cluster (logcabin#56, etcd#9333).
#[test]
fn member_removed_while_isolated_causes_no_election() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let removed_node = any_node_except(&cluster, &[leader]);
    cluster.isolate(removed_node);
    cluster.change_membership(leader, Change::Remove(removed_node)).unwrap();
    cluster.run(Duration::from_secs(10));
    assert_eq!(cluster.leader(), Some(leader));
    let term = cluster.raft(leader).term();
    cluster.heal();
    cluster.run(Duration::from_secs(60));
    assert_eq!((cluster.raft(leader).term(), cluster.leader()), (term, Some(leader)));
}

/// raft-rs#192: the new half has no quorum, and the joint configuration can neither be committed nor left. The leader
/// that began the change reverts the change automatically.
#[test]
fn change_with_unresponsive_new_voters_is_reverted() {
    let change_is_reverted = |mutants: Mutants| {
        let (mut cluster, leader) = cluster_with_learners(6, mutants);
        (4..=6).for_each(|n| cluster.crash(id(n)));
        cluster.run(ms(1000));
        let set_voters_change = Change::SetVoters(ids(&[4, 5, 6]));
        let change_result = cluster.change_membership(leader, set_voters_change.clone());
        assert!(matches!(change_result, Err(Refusal::UnsafeChange { .. })), "{change_result:?}");
        cluster.reconfigure(leader, set_voters_change, true).unwrap();
        cluster.run(ms(5000));
        (1..=3).all(|n| has_committed_voters(&cluster, id(n), &[1, 2, 3])) && cluster.leader() == Some(leader)
    };
    assert!(change_is_reverted(Mutants::NONE), "the change is reverted and the leader does not change");
    assert!(!change_is_reverted(Mutants::only(Mutant::NeverTakeBack)), "the mutant breaks the rule");
}

/// canonical/raft#250, sofa-jraft#1: truncating an entry also reverts its configuration.
#[test]
fn configuration_rolls_back_with_the_log() {
    let configuration_rolls_back = |mutants: Mutants| {
        let (mut cluster, leader) = cluster_with_mutants(3, mutants);
        cluster.isolate(leader);
        cluster.change_membership(leader, add(4, PendingRole::Unchanged)).unwrap();
        assert!(
            cluster.raft(leader).membership().members.contains_key(&id(4)),
            "the configuration is in force at once"
        );
        let new_leader = |c: &Cluster| c.leader().filter(|l| *l != leader);
        cluster.run_until("another node leads", |c| new_leader(c).is_some());
        let next_leader = new_leader(&cluster).unwrap();
        cluster.propose(next_leader, "at the index of the change");
        cluster.heal();
        cluster.run(ms(1000));
        !cluster.raft(leader).membership().members.contains_key(&id(4))
    };
    assert!(configuration_rolls_back(Mutants::NONE));
    assert!(!configuration_rolls_back(Mutants::only(Mutant::KeepDroppedConfig)), "the mutant breaks the rule");
}

/// openraft#1808: a snapshot replaces a log that holds a newer configuration which was never committed.
#[test]
fn snapshot_replaces_the_configuration() {
    let adopts_snapshot_configuration = |mutants: Mutants| {
        let (mut cluster, leader) = cluster_with_mutants(3, mutants);
        cluster.isolate(leader);
        cluster.change_membership(leader, add(4, PendingRole::Unchanged)).unwrap();
        cluster.run_until("another node leads", |c| c.leader().is_some_and(|l| l != leader));
        let term = Term(cluster.highest_term());
        cluster.crash(leader);
        cluster.start(leader);
        let membership = Membership::founding([(id(1), String::new()), (id(2), String::new()), (id(5), String::new())]);
        let base = SnapshotPoint {
            position: Position::new(Index(900), term),
            configured: Index(4),
            membership: membership.clone(),
        };
        let now = cluster.now;
        // A heartbeat of a later leader arrives before that leader's snapshot.
        let heartbeat = Message::Heartbeat { commit: Index::ZERO, round: Default::default(), time: ClusterTime(0) };
        let later_leader = any_node_except(&cluster, &[leader]);
        let heartbeat = cluster.envelope(later_leader, leader, term, heartbeat);
        cluster.raft_mut(leader).receive(now, heartbeat);
        cluster.raft_mut(leader).install_snapshot(now, base, ClusterTime(0));
        *cluster.raft(leader).membership() == membership
    };
    assert!(adopts_snapshot_configuration(Mutants::NONE));
    assert!(!adopts_snapshot_configuration(Mutants::only(Mutant::KeepStaleConfig)), "the mutant breaks the rule");
}

/// A command aborts a stalled change: if the leader itself began the change, the revert needs only the old majority.
#[test]
fn abort_command_reverts_the_change() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let n4 = cluster.start_new_node(4);
    cluster.change_membership(leader, add(4, PendingRole::Unchanged)).unwrap();
    cluster.run(ms(300));
    assert!(
        matches!(cluster.change_membership(leader, Change::Abort), Err(Refusal::InvalidChange { .. })),
        "no change is in progress"
    );
    // The new quorum is 3 of 4, and one of the old voters is crashed: without the new voter the change stalls.
    let crashed_node = any_node_except(&cluster, &[leader, n4]);
    cluster.crash(crashed_node);
    cluster.isolate(n4);
    cluster.change_membership(leader, Change::Promote(n4)).unwrap();
    cluster.run(ms(20));
    assert!(cluster.raft(leader).membership().is_joint());
    cluster.change_membership(leader, Change::Abort).unwrap();
    cluster.run_until("the old configuration is committed", |c| has_committed_voters(c, leader, &[1, 2, 3]));
}

/// The leader crashes between the joint and the final configuration: the next leader completes the change.
#[test]
fn next_leader_completes_an_interrupted_change() {
    for delay in 0..8 {
        let (mut cluster, leader) = cluster_with_leader(5);
        let removed_nodes: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != leader).take(2).collect();
        let remaining_voters: Vec<u64> = (1..=5).filter(|n| !removed_nodes.contains(&id(*n))).collect();
        cluster.change_membership(leader, Change::SetVoters(ids(&remaining_voters))).unwrap();
        cluster.run(ms(delay));
        cluster.crash(leader);
        cluster.run(ms(2000));
        let next_leader = cluster.leader().expect("a leader");
        let is_joint_entry = |entry: &Entry| matches!(&entry.payload, Payload::Membership(m) if m.is_joint());
        let expected_voters = if cluster.hosts[&next_leader].log.iter().any(is_joint_entry) {
            remaining_voters
        } else {
            (1..=5).collect()
        };
        assert!(
            has_committed_voters(&cluster, next_leader, &expected_voters),
            "after {delay} ms: {}",
            cluster.raft(next_leader).membership()
        );
    }
}

/// A new leader that finds another leader's joint configuration reverts the change only with the same two majorities:
/// another leader, of which this one does not know, may have appended the new configuration.
#[test]
fn abort_of_earlier_leaders_change_needs_both_majorities() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let n4 = cluster.start_new_node(4);
    let n5 = cluster.start_new_node(5);
    for node in [n4, n5] {
        cluster.change_membership(leader, add(node.get(), PendingRole::Unchanged)).unwrap();
        cluster.run(ms(300));
    }
    cluster.change_membership(leader, Change::SetVoters(ids(&[1, 2, 3, 4, 5]))).unwrap();
    // The joint configuration reaches every node, and no response reaches the leader.
    for other in cluster.ids() {
        cluster.broken_links.insert((other, leader));
    }
    cluster.run(ms(10));
    cluster.crash(leader);
    cluster.heal();
    // All disks are slow: the new leader's first entry is not committed for a while.
    cluster.hosts.values_mut().for_each(|host| host.sync_delay = ms(60));
    cluster.run_until("another node leads", |c| c.leader().is_some());
    let next_leader = cluster.leader().unwrap();
    assert!(cluster.raft(next_leader).membership().is_joint());
    cluster.change_membership(next_leader, Change::Abort).unwrap();
    let configuration = cluster.raft(next_leader).membership();
    assert!(configuration.is_joint() && configuration.voters == ids(&[1, 2, 3]), "{configuration}");
    let second_abort = cluster.change_membership(next_leader, Change::Abort);
    assert!(matches!(second_abort, Err(Refusal::InvalidChange { .. })), "a second abort is rejected: {second_abort:?}");
    cluster.run_until("the old configuration is committed", |c| has_committed_voters(c, next_leader, &[1, 2, 3]));
}

/// tikv#1468: one voter replaces another in one change.
#[test]
fn replacement_is_one_automatic_change() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let replaced_node = any_node_except(&cluster, &[leader]);
    cluster.start_new_node(4);
    cluster.change_membership(leader, add(4, PendingRole::Replace(replaced_node))).unwrap();
    let expected_voters: Vec<u64> = (1..=4).filter(|n| id(*n) != replaced_node).collect();
    cluster.run_until("the replacement completes", |c| has_committed_voters(c, leader, &expected_voters));
    let voter_counts = cluster.hosts[&leader].log.iter().filter_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some((membership.voters.len(), membership.outgoing.len())),
        _ => None,
    });
    assert!(
        voter_counts.clone().all(|(new, old)| new == 3 && (old == 0 || old == 3)),
        "{:?}",
        voter_counts.collect::<Vec<_>>()
    );
}

/// Unsafe changes are rejected with the reason, unless forced. f-rustrated/EastGuard#150 and nexi-lab/nexus#4214: a
/// node that became a voter before it was running counted for the quorum, and nothing more was committed.
#[test]
fn unsafe_change_is_rejected_unless_forced() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != leader).collect();
    cluster.isolate(others[0]);
    cluster.run(ms(1000));
    // Two of three voters respond. Without the responding follower, one of the two remaining voters would respond.
    let change_result = cluster.change_membership(leader, Change::Remove(others[1]));
    assert!(
        matches!(&change_result, Err(Refusal::UnsafeChange { why }) if why.contains("1 of the 2")),
        "{change_result:?}"
    );
    // A learner that has never responded is not promoted.
    cluster.change_membership(leader, add(9, PendingRole::Unchanged)).unwrap();
    cluster.run(ms(1000));
    let change_result = cluster.change_membership(leader, Change::Promote(id(9)));
    assert!(
        matches!(&change_result, Err(Refusal::UnsafeChange { why }) if why.contains("does not answer")),
        "{change_result:?}"
    );
    assert!(matches!(
        cluster.change_membership(leader, Change::SetVoters(ids(&[]))),
        Err(Refusal::InvalidChange { .. })
    ));
    // Removing the member that does not answer is allowed.
    cluster.change_membership(leader, Change::Remove(others[0])).unwrap();
    cluster.run_until("the removal completes", |c| has_committed_voters(c, leader, &[leader.get(), others[1].get()]));
}

/// Thesis §3.10: the leader accepts no new requests, brings the target up to date, and makes it campaign at once. No
/// election timeout passes, and no voting rule is skipped.
#[test]
fn leadership_is_transferred_in_few_round_trips() {
    for n in [2, 3, 5] {
        let (mut cluster, leader) = cluster_with_leader(n);
        let target = any_node_except(&cluster, &[leader]);
        let position = cluster.propose(leader, "before");
        assert_eq!(cluster.transfer(leader, Some(target)), Ok(target));
        let now = cluster.now;
        assert_eq!(cluster.raft_mut(leader).propose(now, command("meanwhile")), Err(Refusal::Busy));
        assert_eq!(cluster.raft_mut(leader).read(), Err(Refusal::Busy));
        let transfer_time = cluster.now;
        cluster.run_until("the target leads", |c| c.raft(target).leads());
        assert!(cluster.now - transfer_time < ms(20), "the transfer took {:?}", cluster.now - transfer_time);
        assert!(cluster.raft(target).log().last().index > position.index);
        cluster.run(ms(50));
        assert!(cluster.raft(target).log().commit() >= position.index);
    }
}

/// The transfer target does not take over: the leader resumes within an election timeout.
#[test]
fn failed_transfer_is_aborted() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let target = any_node_except(&cluster, &[leader]);
    cluster.isolate(target);
    assert_eq!(cluster.transfer(leader, Some(target)), Ok(target));
    cluster.run(ms(160));
    assert!(cluster.raft(leader).leads() && cluster.raft(leader).transfer_target().is_none());
    assert!(cluster.hosts[&leader].notes.iter().any(|note| matches!(note, Note::TransferTimedOut { .. })));
    cluster.propose(leader, "after the transfer");
    // By now the leader knows that the target does not respond. Another follower responds.
    cluster.run(ms(400));
    assert!(matches!(cluster.transfer(leader, Some(target)), Err(Refusal::InvalidChange { .. })));
    let other_follower = any_node_except(&cluster, &[leader, target]);
    assert_eq!(cluster.transfer(leader, None), Ok(other_follower));
    cluster.run_until("the target leads", |c| c.raft(other_follower).leads());
}

/// cowsql ad19f79a: a transfer target must still be elected, by voters whose logs are not ahead of its own.
#[test]
fn transfer_target_needs_an_up_to_date_log() {
    let lagging_target_gets_vote = |mutants: Mutants| {
        let mut cluster = Cluster::new(3);
        cluster.options.mutants = mutants;
        cluster.ids().into_iter().for_each(|node| cluster.start(node));
        let leader = cluster.elect();
        cluster.run(ms(50));
        let others: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != leader).collect();
        let lagging_node = others[0];
        // The target lacks a committed entry.
        cluster.isolate(lagging_node);
        let position = cluster.propose(leader, "committed");
        cluster.run(ms(50));
        assert!(cluster.raft(leader).log().commit() >= position.index);
        cluster.crash(leader);
        cluster.heal();
        let last = cluster.raft(lagging_node).log().last();
        let term = Term(cluster.highest_term() + 1);
        let message = Message::RequestVote { last, kind: VoteKind::Transfer };
        let envelope = cluster.envelope(lagging_node, others[1], term, message);
        let now = cluster.now;
        cluster.raft_mut(others[1]).receive(now, envelope);
        cluster.process_ready(others[1]);
        cluster.raft(others[1]).vote() == Some(Vote::new(lagging_node, None))
    };
    assert!(!lagging_target_gets_vote(Mutants::NONE));
    assert!(lagging_target_gets_vote(Mutants::only(Mutant::HandoverBypassesVote)), "the mutant breaks the rule");
}

/// Reads that wait when a transfer begins fail, and no read is answered during the transfer (openraft 1ef3e574).
#[test]
fn leader_answers_no_reads_during_transfer() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let target = any_node_except(&cluster, &[leader]);
    let read = cluster.read(leader);
    cluster.transfer(leader, Some(target)).unwrap();
    assert_eq!(cluster.hosts[&leader].lost_reads, [read]);
    cluster.run_until("the target leads", |c| c.raft(target).leads());
    assert!(cluster.hosts[&leader].confirmed_reads.is_empty());
}

/// Thesis §6.4: a follower serves a linearizable read after one round trip to the leader, without a log entry.
#[test]
fn follower_read_needs_no_log_entry() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let follower = any_node_except(&cluster, &[leader]);
    let position = cluster.propose(leader, "x");
    cluster.run(ms(20));
    let last = cluster.raft(leader).log().last();
    let read = cluster.read(follower);
    let read_time = cluster.now;
    cluster
        .run_until("the read may be answered", |c| c.hosts[&follower].confirmed_reads.iter().any(|(r, _)| *r == read));
    assert!(cluster.now - read_time <= ms(5), "the read took {:?}", cluster.now - read_time);
    assert!(cluster.hosts[&follower].confirmed_reads.iter().all(|(_, index)| *index >= position.index));
    assert_eq!(cluster.raft(leader).log().last(), last, "no entry was appended");
}

/// A leader that does not know that it was deposed answers no reads of its follower: no quorum confirms the leader.
#[test]
fn follower_of_a_deposed_leader_answers_no_stale_read() {
    let (mut cluster, leader) = cluster_with_leader(5);
    let follower = any_node_except(&cluster, &[leader]);
    // The network is partitioned: the leader and this follower are on one side, the three other nodes on the other.
    for node in cluster.ids().into_iter().filter(|node| *node != leader && *node != follower) {
        for minority_node in [leader, follower] {
            cluster.broken_links.insert((node, minority_node));
            cluster.broken_links.insert((minority_node, node));
        }
    }
    let read = cluster.read(follower);
    cluster.run(ms(1500));
    assert!(cluster.hosts[&follower].confirmed_reads.is_empty());
    assert!(cluster.hosts[&follower].lost_reads.contains(&read), "the read on the follower fails");
}

/// qdrant/qdrant#1235, etcd#10951: a voter restarts with an empty disk under its old id. Before the restart, that voter
/// held a committed entry that the third node lacks. The votes of these two nodes must not elect a leader that lacks
/// the entry.
#[test]
fn emptied_voter_does_not_elect_a_leader_that_lacks_its_entry() {
    let entry_is_lost = |mutants: Mutants| {
        let mut cluster = Cluster::new(3);
        cluster.options.mutants = mutants;
        cluster.ids().into_iter().for_each(|node| cluster.start(node));
        let leader = cluster.elect();
        cluster.run(ms(50));
        let entry_holder = any_node_except(&cluster, &[leader]);
        let lagging_node = any_node_except(&cluster, &[leader, entry_holder]);
        cluster.isolate(lagging_node);
        let position = cluster.propose(leader, "acknowledged");
        cluster.run(ms(20));
        assert!(cluster.raft(leader).log().commit() >= position.index);
        cluster.crash(leader);
        cluster.wipe(entry_holder);
        cluster.heal();
        cluster.run(ms(5000));
        cluster.leader().is_some_and(|l| cluster.raft(l).log().last().index < position.index || l == lagging_node)
    };
    assert!(!entry_is_lost(Mutants::NONE));
    assert!(entry_is_lost(Mutants::only(Mutant::NoAmnesiaGuard)), "the mutant breaks the rule");
}

/// A member is removed, and added again with an empty disk before it was notified of the removal. Its earlier
/// acknowledgments do not count, and it is sent the whole log. (A leader that kept the progress of the former member
/// never sent the first entries.)
#[test]
fn member_re_added_on_another_disk_receives_the_whole_log() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let re_added_node = any_node_except(&cluster, &[leader]);
    cluster.propose(leader, "before");
    cluster.run(ms(50));
    cluster.crash(re_added_node);
    cluster.change_membership(leader, Change::Remove(re_added_node)).unwrap();
    cluster.run_until("the member is removed", |c| !c.raft(leader).membership().members.contains_key(&re_added_node));
    cluster.run_until("the removal is committed", |c| {
        c.raft(leader).log().commit() >= c.raft(leader).configuration_index()
    });
    cluster.change_membership(leader, add(re_added_node.get(), PendingRole::Promote)).unwrap();
    let matched = cluster.raft(leader).progress().find(|(id, _)| *id == re_added_node).unwrap().1.matched;
    assert_eq!(matched, Index::ZERO, "a new member has matched nothing");
    cluster.start_new_node(re_added_node.get());
    cluster.run_until("the member is promoted", |c| has_committed_voters(c, leader, &[1, 2, 3]));
    assert_eq!(cluster.raft(re_added_node).log().last(), cluster.raft(leader).log().last());
}

/// Acknowledgments from one disk do not count once the member presents another disk.
#[test]
fn acknowledgments_of_another_disk_do_not_count() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let other = any_node_except(&cluster, &[leader]);
    let matched = |c: &Cluster| c.raft(leader).progress().find(|(id, _)| *id == other).unwrap().1.matched;
    cluster.raft_mut(leader).learn_disk_id(other, DiskId(5));
    cluster.run_until("the follower acknowledges again", |c| matched(c) > Index::ZERO);
    cluster
        .run_until("the configuration names the disk", |c| c.raft(leader).membership().disk(other) == Some(DiskId(5)));
    // Another disk under the same id, presented on a connection or in a message, does not change the matched index.
    let matched_before = matched(&cluster);
    cluster.raft_mut(leader).learn_disk_id(other, DiskId(6));
    let term = Term(cluster.highest_term());
    let mut envelope =
        cluster.envelope(other, leader, term, Message::AppendResponse { matched: matched_before.next() });
    envelope.origin.disk = Some(DiskId(6));
    let now = cluster.now;
    cluster.raft_mut(leader).receive(now, envelope);
    assert_eq!(matched(&cluster), matched_before);
}

/// Nodes with empty disks begin no second log while a node that holds the first log is running.
#[test]
fn nodes_with_emptied_disks_begin_no_second_log() {
    for n in 1..20 {
        let (mut cluster, leader) = cluster_with_leader(3);
        cluster.propose(leader, "kept");
        cluster.run(ms(20 + n));
        for node in cluster.ids().into_iter().filter(|node| *node != leader) {
            cluster.wipe(node);
        }
        cluster.crash(leader);
        cluster.start(leader);
        cluster.run(ms(3000));
        let last = cluster.raft(leader).log().last().index;
        assert!(cluster.leader() == Some(leader) && last > Index(2), "the node that holds the log leads");
    }
}

/// If one of three founders is down, the other two begin the log after the founding wait.
#[test]
fn majority_founds_the_cluster_while_one_founder_is_down() {
    let mut cluster = Cluster::new(3);
    cluster.crash(id(3));
    cluster.elect();
    cluster.start(id(3));
    cluster.run_until("n3 follows", |c| c.raft(id(3)).leader().is_some());
}

/// The disk ids that peers presented to the leader are recorded in the configuration, so every node knows them from
/// then on.
#[test]
fn configuration_records_disk_ids() {
    let mut cluster = Cluster::new(3);
    for node in cluster.ids() {
        for peer in cluster.ids().into_iter().filter(|peer| *peer != node) {
            cluster.raft_mut(node).learn_disk_id(peer, DiskId(peer.get() * 11));
        }
    }
    let leader = cluster.elect();
    cluster.run(ms(100));
    let other = any_node_except(&cluster, &[leader]);
    let membership = cluster.raft(other).membership();
    let followers = membership.members.iter().filter(|(id, _)| **id != leader);
    assert!(followers.clone().count() == 2 && followers.clone().all(|(id, m)| m.disk == Some(DiskId(id.get() * 11))));
    assert_eq!(membership.disk(other), Some(DiskId(other.get() * 11)));
}

/// One change replaces any set of voters by any other set (§6), in 200 random rounds.
#[test]
fn any_voter_set_changes_to_any_other() {
    let (mut cluster, leader) = cluster_with_leader(3);
    for n in 4..=7 {
        cluster.start_new_node(n);
        cluster.change_membership(leader, add(n, PendingRole::Unchanged)).unwrap();
        cluster.run(ms(300));
    }
    let mut seed = 7u64;
    for round in 0..200 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let new_voters: BTreeSet<NodeId> = (1..=7).filter(|n| seed >> (33 + n) & 1 == 1).map(id).collect();
        let leader = cluster.elect_among_members();
        let members = &cluster.raft(leader).membership().members;
        // A node that was removed is added again before the voters are changed.
        if let Some(former_member) = (1..=7).map(id).find(|node| !members.contains_key(node)) {
            cluster.change_membership(leader, add(former_member.get(), PendingRole::Unchanged)).unwrap();
            cluster.run(ms(400));
        } else if !new_voters.is_empty() && new_voters != voters(&cluster, leader) {
            cluster.change_membership(leader, Change::SetVoters(new_voters.clone())).unwrap();
            cluster.run_until("the change is complete", |c| {
                c.leader()
                    .is_some_and(|l| c.raft(l).membership().voters == new_voters && !c.raft(l).membership().is_joint())
            });
            cluster.run(ms(400));
        }
        let leader = cluster.elect_among_members();
        let position = cluster.propose(leader, &round.to_string());
        cluster.run_until("the entry commits", |c| c.raft(leader).log().commit() >= position.index);
    }
}

/// A follower that is being sent a snapshot is rejected as transfer target: the leader would reject requests for an
/// election timeout, and the transfer would fail.
#[test]
fn leadership_is_not_transferred_during_snapshot_install() {
    let (mut cluster, leader) = cluster_with_leader(3);
    cluster.run(ms(50));
    let target = any_node_except(&cluster, &[leader]);
    cluster.isolate(target);
    let last = (0..5).map(|_| cluster.propose(leader, "compacted")).last().unwrap();
    cluster.run_until("the entries are committed", |c| c.raft(leader).log().commit() >= last.index);
    cluster.raft_mut(leader).compact(last.index);
    cluster.heal();
    let is_receiving_snapshot = |c: &Cluster| {
        c.raft(leader).progress().any(|(id, progress)| id == target && progress.state_name() == "snapshot")
    };
    cluster.run_until("the follower is sent a snapshot", is_receiving_snapshot);
    let transfer_result = cluster.transfer(leader, Some(target));
    assert!(
        matches!(&transfer_result, Err(Refusal::InvalidChange { why }) if why.contains("being sent a snapshot")),
        "{transfer_result:?}"
    );
    assert_eq!(cluster.raft(leader).transfer_target(), None);
    let other_follower = any_node_except(&cluster, &[leader, target]);
    assert_eq!(cluster.transfer(leader, None), Ok(other_follower));
}
