//! Membership changes and leadership transfers on bare Raft cores: §6 of the paper, chapters 3.10 and 4 of the thesis,
//! and the issues in which real systems failed. The clock moves only on request.

use super::cluster::{Cluster, command, id, ms};
use drave::api::{Refusal, RoleName};
use drave::consensus::message::{Message, VoteKind};
use drave::consensus::note::Note;
use drave::types::*;
use std::collections::BTreeSet;
use std::time::Duration;

fn ids(all: &[u64]) -> BTreeSet<NodeId> {
    all.iter().map(|n| id(*n)).collect()
}

fn add(n: u64, prospect: PendingRole) -> Change {
    Change::Add { id: id(n), address: format!("h{n}:1"), disk: None, prospect }
}

fn voters(cluster: &Cluster, node: NodeId) -> BTreeSet<NodeId> {
    cluster.raft(node).membership().voters.clone()
}

/// Whether that node's configuration has exactly these voters, is not joint, and is committed.
fn is_settled(cluster: &Cluster, node: NodeId, all: &[u64]) -> bool {
    let raft = cluster.raft(node);
    !raft.membership().is_joint() && voters(cluster, node) == ids(all) && raft.log().commit() >= raft.configured()
}

fn cluster_with_leader(n: u64) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(n);
    let leader = cluster.elect();
    cluster.run(ms(50));
    (cluster, leader)
}

/// Like `cluster_with_leader`, with a rule broken.
fn cluster_with_mutants(n: u64, mutants: Mutants) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(n);
    cluster.options.mutants = mutants;
    cluster.ids().into_iter().for_each(|node| cluster.start(node));
    let leader = cluster.elect();
    cluster.run(ms(50));
    (cluster, leader)
}

/// Three voters, and the nodes from 4 to `last` as learners.
fn with_learners(last: u64, mutants: Mutants) -> (Cluster, NodeId) {
    let (mut cluster, leader) = cluster_with_mutants(3, mutants);
    for n in 4..=last {
        cluster.join(n);
        cluster.change(leader, add(n, PendingRole::Stays)).unwrap();
        cluster.run(ms(300));
    }
    (cluster, leader)
}

fn another(cluster: &Cluster, than: &[NodeId]) -> NodeId {
    cluster.ids().into_iter().find(|node| !than.contains(node)).unwrap()
}

/// "New servers […] join the cluster as non-voting members" (§6), and are promoted automatically: etcd-io/etcd#15107,
/// requested for seven years. The change is joint: both configurations are in every log.
#[test]
fn new_member_is_promoted_automatically() {
    let (mut cluster, leader) = cluster_with_leader(3);
    for n in 0..100 {
        cluster.propose(leader, &n.to_string());
    }
    let four = cluster.join(4);
    cluster.change(leader, add(4, PendingRole::Promote)).unwrap();
    cluster.until("n4 is a learner", |c| c.raft(four).role() == RoleName::Learner);
    cluster.until("n4 is promoted", |c| (1..=4).all(|n| is_settled(c, id(n), &[1, 2, 3, 4])));
    let joint = |entry: &Entry| matches!(&entry.payload, Payload::Membership(m) if m.is_joint());
    assert!(cluster.ids().iter().all(|node| cluster.hosts[node].log.iter().filter(|e| joint(e)).count() == 1));
    assert_eq!(cluster.raft(four).role(), RoleName::Follower);
}

/// A learner that is to stay one does, receives every entry, and has no vote: eBay/HomeStore#764 (a learner became
/// leader).
#[test]
fn permanent_learner_never_votes_or_leads() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let four = cluster.join(4);
    cluster.change(leader, add(4, PendingRole::Stays)).unwrap();
    cluster.run(ms(2000));
    assert_eq!(cluster.raft(four).role(), RoleName::Learner);
    assert_eq!(cluster.raft(four).log().last(), cluster.raft(leader).log().last());
    // Nor does it campaign when the leader is gone.
    cluster.crash(leader);
    cluster.run(ms(3000));
    assert_eq!(cluster.raft(four).role(), RoleName::Learner);
}

/// Copies on learners do not count: with one voter left nothing commits.
#[test]
fn copies_on_learners_do_not_count_for_commit() {
    let commits = |mutants: Mutants| {
        let (mut cluster, leader) = with_learners(5, mutants);
        let others: Vec<NodeId> = (1..=3).map(id).filter(|node| *node != leader).collect();
        others.iter().for_each(|node| cluster.isolate(*node));
        let position = cluster.propose(leader, "with learners alone");
        cluster.run(ms(100));
        cluster.raft(leader).log().commit() >= position.index
    };
    assert!(!commits(Mutants::NONE));
    assert!(commits(Mutants::only(Mutant::LearnersCount)), "the mutant breaks the rule");
}

/// "Cluster configurations are stored and communicated using special entries […]; a server always uses the latest
/// configuration in its log, regardless of whether the entry is committed" (§6): while the joint configuration is in
/// use, majorities of both halves are needed. RedisLabs/redisraft#28 and #44; and etcd#7625 and #5004, where a
/// configuration counted when it was applied.
#[test]
fn joint_configuration_needs_both_majorities() {
    // All old voters but the leader are cut off: the new voters and the leader are no quorum.
    let decides = |mutants: Mutants, away: &dyn Fn(NodeId) -> Vec<NodeId>| {
        let (mut cluster, leader) = with_learners(6, mutants);
        away(leader).iter().for_each(|node| cluster.isolate(*node));
        let began = cluster.change(leader, Change::Voters(ids(&[4, 5, 6]))).unwrap();
        cluster.run(ms(100));
        let decided = cluster.raft(leader).log().commit() >= began.index;
        if mutants == Mutants::NONE {
            assert!(cluster.raft(leader).membership().is_joint());
            cluster.heal();
            cluster.until("the change completes", |c| (4..=6).all(|n| is_settled(c, id(n), &[4, 5, 6])));
        }
        decided
    };
    let old = |leader: NodeId| (1..=3).map(id).filter(|node| *node != leader).collect::<Vec<_>>();
    let new = |_: NodeId| (4..=6).map(id).collect::<Vec<_>>();
    assert!(!decides(Mutants::NONE, &old));
    assert!(!decides(Mutants::NONE, &new));
    for mutant in [Mutant::JointByNewHalf, Mutant::ChangeWithoutJoint] {
        assert!(decides(Mutants::only(mutant), &old), "{mutant}");
    }
    assert!(
        decides(Mutants::only(Mutant::ConfigAtCommit), &new),
        "a configuration is in force as soon as it is in the log"
    );
}

/// "One change at a time": the next change is refused until the one before is committed (thesis §4.1; redpanda#17675:
/// two promotions at once).
#[test]
fn second_change_is_rejected_until_the_first_commits() {
    let (mut cluster, leader) = cluster_with_leader(3);
    cluster.join(4);
    cluster.change(leader, add(4, PendingRole::Stays)).unwrap();
    let refused = cluster.change(leader, add(5, PendingRole::Stays));
    assert!(matches!(refused, Err(Refusal::Changing { .. })), "{refused:?}");
    cluster.run(ms(100));
    cluster.change(leader, add(5, PendingRole::Stays)).unwrap();

    let (mut stacks, leader) = cluster_with_mutants(3, Mutants::only(Mutant::StackChanges));
    stacks.change(leader, add(4, PendingRole::Stays)).unwrap();
    stacks.change(leader, add(5, PendingRole::Stays)).expect("the mutant breaks the rule");
}

/// Ongaro 2015 (copycat#23, braft#182, openraft#2051): a leader that has not committed an entry of its own term may not
/// know of a committed change, so it begins none.
#[test]
fn change_waits_for_the_leaders_first_commit() {
    let refuses = |mutants: Mutants| {
        let mut cluster = Cluster::new(3);
        cluster.options.mutants = mutants;
        cluster.ids().into_iter().for_each(|node| cluster.start(node));
        cluster.hosts.values_mut().for_each(|host| host.disk_delay = ms(40));
        let leader = cluster.elect();
        let refused = cluster.change(leader, add(4, PendingRole::Stays)).is_err();
        cluster.run(ms(300));
        if refused {
            cluster.change(leader, add(4, PendingRole::Stays)).unwrap();
        }
        refused
    };
    assert!(refuses(Mutants::NONE));
    let both = Mutants::only(Mutant::ChangeBeforeNoop);
    let (mut second, _) = cluster_with_mutants(3, both);
    // The next leader finds a committed configuration, and its own first entry is not committed.
    second.hosts.values_mut().for_each(|host| host.disk_delay = ms(40));
    let first = second.leader().unwrap();
    second.crash(first);
    second.until("another node leads", |c| c.leader().is_some());
    let leader = second.leader().unwrap();
    second.change(leader, add(4, PendingRole::Stays)).expect("the mutant breaks the rule");
}

/// "The leader […] is not part of the new configuration. In this case, the leader steps down once it has committed the
/// C-new log entry" (§6), counting majorities without itself; and another node leads a moment later.
#[test]
fn removed_leader_steps_down_once_removal_is_committed() {
    let (mut cluster, leader) = cluster_with_leader(3);
    cluster.change(leader, Change::Remove(leader)).unwrap();
    let began = cluster.now;
    cluster.until("another node leads", |c| c.leader().is_some_and(|l| l != leader));
    assert!(cluster.now - began < ms(50), "the leader transferred its leadership: {:?}", cluster.now - began);
    cluster.run(ms(3000));
    assert_eq!(cluster.raft(leader).role(), RoleName::Outside);
    let led_since = cluster.leader().unwrap();
    let position = cluster.propose(led_since, "without it");
    cluster.run(ms(50));
    assert!(cluster.raft(led_since).log().commit() >= position.index);
}

/// databendlabs/openraft#2091: the leader to be removed loses its leadership before C-new is committed, and the only
/// complete log is on a server that is about to leave. That server still campaigns (thesis §4.2.2).
#[test]
fn removing_one_of_two_voters_never_loses_the_leader() {
    let ends = |mutants: Mutants, on_disk: bool| {
        let mut cluster = Cluster::new(2);
        cluster.options.mutants = mutants;
        cluster.ids().into_iter().for_each(|node| cluster.start(node));
        let leader = cluster.elect();
        cluster.run(ms(50));
        let other = another(&cluster, &[leader]);
        cluster.change(leader, Change::Remove(leader)).unwrap();
        // C-new is in the leader's log alone when both nodes restart; on its disk, or not.
        cluster.cut.insert((leader, other));
        cluster.until("the leader has appended C-new", |c| !c.raft(leader).membership().is_voter(leader));
        cluster.run(ms(if on_disk { 5 } else { 0 }));
        cluster.crash(leader);
        cluster.crash(other);
        cluster.heal();
        cluster.start(leader);
        cluster.start(other);
        cluster.run(ms(5000));
        cluster.leader() == Some(other) && is_settled(&cluster, other, &[other.get()])
    };
    assert!(ends(Mutants::NONE, false));
    assert!(ends(Mutants::NONE, true));
    assert!(!ends(Mutants::only(Mutant::CampaignOnlyIfListed), true), "the mutant breaks the rule");
}

/// hashicorp/raft#524: a removed server livelocks the cluster. Here it is notified and goes quiet, and the term stays.
#[test]
fn removed_member_is_notified_and_stays_passive() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let gone = another(&cluster, &[leader]);
    cluster.change(leader, Change::Remove(gone)).unwrap();
    cluster.until("the removed node knows", |c| c.raft(gone).role() == RoleName::Outside);
    assert!(cluster.hosts[&gone].notes.iter().any(|note| {
        matches!(note, Note::Outside { me, .. } if *me == gone) && note.to_string().contains("drave member add")
    }));
    cluster.until("the removed node is notified", |c| {
        c.hosts[&leader]
            .notes
            .iter()
            .any(|note| matches!(note, Note::MemberRemoved { peer, told: true } if *peer == gone))
    });
    let term = cluster.term();
    cluster.run(Duration::from_secs(60));
    assert_eq!((cluster.term(), cluster.leader()), (term, Some(leader)));
}

/// A node that was away when it was removed comes back, and does not disturb the cluster either (logcabin#56,
/// etcd#9333).
#[test]
fn member_removed_while_away_causes_no_election() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let gone = another(&cluster, &[leader]);
    cluster.isolate(gone);
    cluster.change(leader, Change::Remove(gone)).unwrap();
    cluster.run(Duration::from_secs(10));
    assert_eq!(cluster.leader(), Some(leader));
    let term = cluster.raft(leader).term();
    cluster.heal();
    cluster.run(Duration::from_secs(60));
    assert_eq!((cluster.raft(leader).term(), cluster.leader()), (term, Some(leader)));
}

/// raft-rs#192: the new half has no quorum, and the joint configuration can neither be committed nor left. The leader
/// that began the change aborts it by itself.
#[test]
fn change_with_unresponsive_new_voters_is_reverted() {
    let goes_on = |mutants: Mutants| {
        let (mut cluster, leader) = with_learners(6, mutants);
        (4..=6).for_each(|n| cluster.crash(id(n)));
        cluster.run(ms(1000));
        let voters = Change::Voters(ids(&[4, 5, 6]));
        let refused = cluster.change(leader, voters.clone());
        assert!(matches!(refused, Err(Refusal::UnsafeChange { .. })), "{refused:?}");
        cluster.force(leader, voters, true).unwrap();
        cluster.run(ms(5000));
        (1..=3).all(|n| is_settled(&cluster, id(n), &[1, 2, 3])) && cluster.leader() == Some(leader)
    };
    assert!(goes_on(Mutants::NONE), "the leader stays");
    assert!(!goes_on(Mutants::only(Mutant::NeverTakeBack)), "the mutant breaks the rule");
}

/// canonical/raft#250, sofa-jraft#1: truncating an entry also reverts its configuration.
#[test]
fn configuration_rolls_back_with_the_log() {
    let rolls_back = |mutants: Mutants| {
        let (mut cluster, leader) = cluster_with_mutants(3, mutants);
        cluster.isolate(leader);
        cluster.change(leader, add(4, PendingRole::Stays)).unwrap();
        assert!(
            cluster.raft(leader).membership().members.contains_key(&id(4)),
            "the configuration is in force at once"
        );
        let rest = |c: &Cluster| c.leader().filter(|l| *l != leader);
        cluster.until("another node leads", |c| rest(c).is_some());
        let next = rest(&cluster).unwrap();
        cluster.propose(next, "in its place");
        cluster.heal();
        cluster.run(ms(1000));
        !cluster.raft(leader).membership().members.contains_key(&id(4))
    };
    assert!(rolls_back(Mutants::NONE));
    assert!(!rolls_back(Mutants::only(Mutant::KeepDroppedConfig)), "the mutant breaks the rule");
}

/// openraft#1808: a snapshot replaces a log that holds a newer configuration which was never committed.
#[test]
fn snapshot_replaces_the_configuration() {
    let is_its = |mutants: Mutants| {
        let (mut cluster, leader) = cluster_with_mutants(3, mutants);
        cluster.isolate(leader);
        cluster.change(leader, add(4, PendingRole::Stays)).unwrap();
        cluster.until("another node leads", |c| c.leader().is_some_and(|l| l != leader));
        let term = Term(cluster.term());
        cluster.crash(leader);
        cluster.start(leader);
        let membership = Membership::founding([(id(1), String::new()), (id(2), String::new()), (id(5), String::new())]);
        let base = SnapshotPoint {
            position: Position::new(Index(900), term),
            configured: Index(4),
            membership: membership.clone(),
        };
        let now = cluster.now;
        // A message from a later leader arrives before its snapshot.
        let beat = Message::Heartbeat { commit: Index::ZERO, round: Default::default(), time: ClusterTime(0) };
        let from = another(&cluster, &[leader]);
        let beat = cluster.envelope(from, leader, term, beat);
        cluster.core(leader).receive(now, beat);
        cluster.core(leader).restored(now, base, ClusterTime(0));
        *cluster.raft(leader).membership() == membership
    };
    assert!(is_its(Mutants::NONE));
    assert!(!is_its(Mutants::only(Mutant::KeepStaleConfig)), "the mutant breaks the rule");
}

/// A stalled change is aborted by a command: the leader that began it needs the old majority alone.
#[test]
fn abort_command_reverts_the_change() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let four = cluster.join(4);
    cluster.change(leader, add(4, PendingRole::Stays)).unwrap();
    cluster.run(ms(300));
    assert!(
        matches!(cluster.change(leader, Change::Abort), Err(Refusal::InvalidChange { .. })),
        "no change is in progress"
    );
    // The new quorum is 3 of 4, and one of the old voters is away: without the new voter the change stalls.
    let away = another(&cluster, &[leader, four]);
    cluster.crash(away);
    cluster.isolate(four);
    cluster.change(leader, Change::Promote(four)).unwrap();
    cluster.run(ms(20));
    assert!(cluster.raft(leader).membership().is_joint());
    cluster.change(leader, Change::Abort).unwrap();
    cluster.until("the old configuration is committed", |c| is_settled(c, leader, &[1, 2, 3]));
}

/// The leader crashes between the joint and the final configuration: the next leader completes the change.
#[test]
fn next_leader_completes_an_interrupted_change() {
    for delay in 0..8 {
        let (mut cluster, leader) = cluster_with_leader(5);
        let gone: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != leader).take(2).collect();
        let rest: Vec<u64> = (1..=5).filter(|n| !gone.contains(&id(*n))).collect();
        cluster.change(leader, Change::Voters(ids(&rest))).unwrap();
        cluster.run(ms(delay));
        cluster.crash(leader);
        cluster.run(ms(2000));
        let next = cluster.leader().expect("a leader");
        let joint = |entry: &Entry| matches!(&entry.payload, Payload::Membership(m) if m.is_joint());
        let expected = if cluster.hosts[&next].log.iter().any(joint) { rest } else { (1..=5).collect() };
        assert!(is_settled(&cluster, next, &expected), "after {delay} ms: {}", cluster.raft(next).membership());
    }
}

/// A new leader that finds another leader's joint configuration aborts it by the same two majorities, and not before
/// both agree: another leader may have gone on to the new configuration unseen.
#[test]
fn abort_of_earlier_leaders_change_needs_both_majorities() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let four = cluster.join(4);
    let five = cluster.join(5);
    for node in [four, five] {
        cluster.change(leader, add(node.get(), PendingRole::Stays)).unwrap();
        cluster.run(ms(300));
    }
    cluster.change(leader, Change::Voters(ids(&[1, 2, 3, 4, 5]))).unwrap();
    // The change reaches every node, and no response comes back.
    for other in cluster.ids() {
        cluster.cut.insert((other, leader));
    }
    cluster.run(ms(10));
    cluster.crash(leader);
    cluster.heal();
    // All disks are slow: the new leader's first entry is not committed for a while.
    cluster.hosts.values_mut().for_each(|host| host.disk_delay = ms(60));
    cluster.until("another node leads", |c| c.leader().is_some());
    let next = cluster.leader().unwrap();
    assert!(cluster.raft(next).membership().is_joint());
    cluster.change(next, Change::Abort).unwrap();
    let turned = cluster.raft(next).membership();
    assert!(turned.is_joint() && turned.voters == ids(&[1, 2, 3]), "{turned}");
    let again = cluster.change(next, Change::Abort);
    assert!(matches!(again, Err(Refusal::InvalidChange { .. })), "a second abort is rejected: {again:?}");
    cluster.until("the old configuration is committed", |c| is_settled(c, next, &[1, 2, 3]));
}

/// tikv#1468: one voter replaces another in one change.
#[test]
fn replacement_is_one_automatic_change() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let old = another(&cluster, &[leader]);
    cluster.join(4);
    cluster.change(leader, add(4, PendingRole::Replace(old))).unwrap();
    let expected: Vec<u64> = (1..=4).filter(|n| id(*n) != old).collect();
    cluster.until("the replacement completes", |c| is_settled(c, leader, &expected));
    let sizes = cluster.hosts[&leader].log.iter().filter_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some((membership.voters.len(), membership.outgoing.len())),
        _ => None,
    });
    assert!(sizes.clone().all(|(new, old)| new == 3 && (old == 0 || old == 3)), "{:?}", sizes.collect::<Vec<_>>());
}

/// Dangerous requests are refused with the reason, unless forced. f-rustrated/EastGuard#150 and nexi-lab/nexus#4214: a
/// node that became a voter before it was running counted for the quorum, and nothing more was committed.
#[test]
fn unsafe_change_is_rejected_unless_forced() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != leader).collect();
    cluster.isolate(others[0]);
    cluster.run(ms(1000));
    // Two of three answer; without the second one, one of two would.
    let refused = cluster.change(leader, Change::Remove(others[1]));
    assert!(matches!(&refused, Err(Refusal::UnsafeChange { why }) if why.contains("1 of the 2")), "{refused:?}");
    // A learner that has never answered.
    cluster.change(leader, add(9, PendingRole::Stays)).unwrap();
    cluster.run(ms(1000));
    let refused = cluster.change(leader, Change::Promote(id(9)));
    assert!(matches!(&refused, Err(Refusal::UnsafeChange { why }) if why.contains("does not answer")), "{refused:?}");
    assert!(matches!(cluster.change(leader, Change::Voters(ids(&[]))), Err(Refusal::InvalidChange { .. })));
    // Removing the member that does not answer is allowed.
    cluster.change(leader, Change::Remove(others[0])).unwrap();
    cluster.until("the removal completes", |c| is_settled(c, leader, &[leader.get(), others[1].get()]));
}

/// Thesis §3.10: the leader accepts no new requests, brings the target up to date, and tells it to campaign at once. No
/// election timeout passes, and no voting rule is skipped.
#[test]
fn leadership_is_transferred_in_few_round_trips() {
    for n in [2, 3, 5] {
        let (mut cluster, leader) = cluster_with_leader(n);
        let to = another(&cluster, &[leader]);
        let position = cluster.propose(leader, "before");
        assert_eq!(cluster.transfer(leader, Some(to)), Ok(to));
        let now = cluster.now;
        assert_eq!(cluster.core(leader).propose(now, command("meanwhile")), Err(Refusal::Busy));
        assert_eq!(cluster.core(leader).read(), Err(Refusal::Busy));
        let began = cluster.now;
        cluster.until("the target leads", |c| c.raft(to).leads());
        assert!(cluster.now - began < ms(20), "took {:?}", cluster.now - began);
        assert!(cluster.raft(to).log().last().index > position.index);
        cluster.run(ms(50));
        assert!(cluster.raft(to).log().commit() >= position.index);
    }
}

/// The transfer target does not take over: the leader resumes within an election timeout.
#[test]
fn failed_transfer_is_aborted() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let to = another(&cluster, &[leader]);
    cluster.isolate(to);
    assert_eq!(cluster.transfer(leader, Some(to)), Ok(to));
    cluster.run(ms(160));
    assert!(cluster.raft(leader).leads() && cluster.raft(leader).transfer_target().is_none());
    assert!(cluster.hosts[&leader].notes.iter().any(|note| matches!(note, Note::TransferTimedOut { .. })));
    cluster.propose(leader, "after the transfer");
    // By now the leader knows that the target does not answer; another follower does.
    cluster.run(ms(400));
    assert!(matches!(cluster.transfer(leader, Some(to)), Err(Refusal::InvalidChange { .. })));
    let third = another(&cluster, &[leader, to]);
    assert_eq!(cluster.transfer(leader, None), Ok(third));
    cluster.until("the target leads", |c| c.raft(third).leads());
}

/// cowsql ad19f79a: a transfer target must still be elected, by voters whose logs are not ahead of its own.
#[test]
fn transfer_target_needs_an_up_to_date_log() {
    let elected = |mutants: Mutants| {
        let mut cluster = Cluster::new(3);
        cluster.options.mutants = mutants;
        cluster.ids().into_iter().for_each(|node| cluster.start(node));
        let leader = cluster.elect();
        cluster.run(ms(50));
        let others: Vec<NodeId> = cluster.ids().into_iter().filter(|node| *node != leader).collect();
        let behind = others[0];
        // It lacks a committed entry.
        cluster.isolate(behind);
        let position = cluster.propose(leader, "committed");
        cluster.run(ms(50));
        assert!(cluster.raft(leader).log().commit() >= position.index);
        cluster.crash(leader);
        cluster.heal();
        let last = cluster.raft(behind).log().last();
        let term = Term(cluster.term() + 1);
        let message = Message::RequestVote { last, ask: VoteKind::Transfer };
        let envelope = cluster.envelope(behind, others[1], term, message);
        let now = cluster.now;
        cluster.core(others[1]).receive(now, envelope);
        cluster.process_ready(others[1]);
        cluster.raft(others[1]).vote() == Some(Vote::new(behind, None))
    };
    assert!(!elected(Mutants::NONE));
    assert!(elected(Mutants::only(Mutant::HandoverBypassesVote)), "the mutant breaks the rule");
}

/// Reads that wait when a transfer begins are dropped, and none is answered during the transfer (openraft 1ef3e574).
#[test]
fn leader_answers_no_reads_during_transfer() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let to = another(&cluster, &[leader]);
    let read = cluster.read(leader);
    cluster.transfer(leader, Some(to)).unwrap();
    assert_eq!(cluster.hosts[&leader].reads_lost, [read]);
    cluster.until("the target leads", |c| c.raft(to).leads());
    assert!(cluster.hosts[&leader].reads.is_empty());
}

/// Thesis §6.4: a follower answers linearizable reads itself: one round trip, and no log entry.
#[test]
fn follower_read_needs_no_log_entry() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let follower = another(&cluster, &[leader]);
    let position = cluster.propose(leader, "x");
    cluster.run(ms(20));
    let last = cluster.raft(leader).log().last();
    let read = cluster.read(follower);
    let began = cluster.now;
    cluster.until("the read may be answered", |c| c.hosts[&follower].reads.iter().any(|(r, _)| *r == read));
    assert!(cluster.now - began <= ms(5), "took {:?}", cluster.now - began);
    assert!(cluster.hosts[&follower].reads.iter().all(|(_, index)| *index >= position.index));
    assert_eq!(cluster.raft(leader).log().last(), last, "no entry was appended");
}

/// A leader that was deposed without noticing does not answer its follower's reads: no quorum confirms it.
#[test]
fn follower_of_a_deposed_leader_answers_no_stale_read() {
    let (mut cluster, leader) = cluster_with_leader(5);
    let with = another(&cluster, &[leader]);
    // Two nodes on one side, three on the other.
    for node in cluster.ids().into_iter().filter(|node| *node != leader && *node != with) {
        for old in [leader, with] {
            cluster.cut.insert((node, old));
            cluster.cut.insert((old, node));
        }
    }
    let read = cluster.read(with);
    cluster.run(ms(1500));
    assert!(cluster.hosts[&with].reads.is_empty());
    assert!(cluster.hosts[&with].reads_lost.contains(&read), "the follower drops the read");
}

/// qdrant/qdrant#1235, etcd#10951: a voter comes back with an empty disk under its old id. It held an entry that the
/// third node lacks: their two votes must not elect a log without that entry.
#[test]
fn emptied_voter_does_not_elect_a_log_without_its_entry() {
    let lost = |mutants: Mutants| {
        let mut cluster = Cluster::new(3);
        cluster.options.mutants = mutants;
        cluster.ids().into_iter().for_each(|node| cluster.start(node));
        let leader = cluster.elect();
        cluster.run(ms(50));
        let holder = another(&cluster, &[leader]);
        let behind = another(&cluster, &[leader, holder]);
        cluster.isolate(behind);
        let position = cluster.propose(leader, "acknowledged");
        cluster.run(ms(20));
        assert!(cluster.raft(leader).log().commit() >= position.index);
        cluster.crash(leader);
        cluster.wipe(holder);
        cluster.heal();
        cluster.run(ms(5000));
        cluster.leader().is_some_and(|l| cluster.raft(l).log().last().index < position.index || l == behind)
    };
    assert!(!lost(Mutants::NONE));
    assert!(lost(Mutants::only(Mutant::NoAmnesiaGuard)), "without the guard the entry is lost");
}

/// A member is removed, and added again with an empty disk before it could be notified. Its earlier acknowledgments
/// count for nothing, and it is sent the whole log. (Without that, the leader took it for the former member, and it was
/// stuck forever.)
#[test]
fn member_re_added_on_another_disk_receives_the_whole_log() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let lost = another(&cluster, &[leader]);
    cluster.propose(leader, "before");
    cluster.run(ms(50));
    cluster.crash(lost);
    cluster.change(leader, Change::Remove(lost)).unwrap();
    cluster.until("the member is removed", |c| !c.raft(leader).membership().members.contains_key(&lost));
    cluster.until("the removal is committed", |c| c.raft(leader).log().commit() >= c.raft(leader).configured());
    cluster.change(leader, add(lost.get(), PendingRole::Promote)).unwrap();
    let matched = cluster.raft(leader).progress().find(|(id, _)| *id == lost).unwrap().1.matched;
    assert_eq!(matched, Index::ZERO, "a new member has matched nothing");
    cluster.join(lost.get());
    cluster.until("the member is promoted", |c| is_settled(c, leader, &[1, 2, 3]));
    assert_eq!(cluster.raft(lost).log().last(), cluster.raft(leader).log().last());
}

/// Acknowledgments from one disk count for nothing once the member comes with another disk.
#[test]
fn acknowledgments_of_another_disk_do_not_count() {
    let (mut cluster, leader) = cluster_with_leader(3);
    let other = another(&cluster, &[leader]);
    let matched = |c: &Cluster| c.raft(leader).progress().find(|(id, _)| *id == other).unwrap().1.matched;
    cluster.core(leader).learn_disk_id(other, DiskId(5));
    cluster.until("the follower acknowledges again", |c| matched(c) > Index::ZERO);
    cluster.until("the configuration names the disk", |c| c.raft(leader).membership().disk(other) == Some(DiskId(5)));
    // Another disk under the same id, over a connection or in a message, changes and acknowledges nothing.
    let before = matched(&cluster);
    cluster.core(leader).learn_disk_id(other, DiskId(6));
    let term = Term(cluster.term());
    let mut envelope = cluster.envelope(other, leader, term, Message::AppendResponse { matched: before.next() });
    envelope.origin.disk = Some(DiskId(6));
    let now = cluster.now;
    cluster.core(leader).receive(now, envelope);
    assert_eq!(matched(&cluster), before);
}

/// A log begins once: a node that holds nothing does not begin it again while a node that holds it is running.
#[test]
fn emptied_nodes_do_not_begin_a_second_log() {
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

/// If a node is missing at the founding, the others begin after an election timeout; with all nodes present, at once.
#[test]
fn cluster_is_founded_without_a_minority() {
    let mut cluster = Cluster::new(3);
    cluster.crash(id(3));
    cluster.elect();
    cluster.start(id(3));
    cluster.until("n3 follows", |c| c.raft(id(3)).leader().is_some());
}

/// The disk ids that a leader has met are recorded in the configuration, so every node knows them from then on.
#[test]
fn configuration_records_disk_ids() {
    let mut cluster = Cluster::new(3);
    for node in cluster.ids() {
        for peer in cluster.ids().into_iter().filter(|peer| *peer != node) {
            cluster.core(node).learn_disk_id(peer, DiskId(peer.get() * 11));
        }
    }
    let leader = cluster.elect();
    cluster.run(ms(100));
    let other = another(&cluster, &[leader]);
    let membership = cluster.raft(other).membership();
    let named = membership.members.iter().filter(|(id, _)| **id != leader);
    assert!(named.clone().count() == 2 && named.clone().all(|(id, m)| m.disk == Some(DiskId(id.get() * 11))));
    assert_eq!(membership.disk(other), Some(DiskId(other.get() * 11)));
}

/// Any set of voters becomes any other in one change (§6), a few hundred times, under any leader.
#[test]
fn any_voter_set_changes_to_any_other() {
    let (mut cluster, leader) = cluster_with_leader(3);
    for n in 4..=7 {
        cluster.join(n);
        cluster.change(leader, add(n, PendingRole::Stays)).unwrap();
        cluster.run(ms(300));
    }
    let mut seed = 7u64;
    for round in 0..200 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wanted: BTreeSet<NodeId> = (1..=7).filter(|n| seed >> (33 + n) & 1 == 1).map(id).collect();
        let leader = cluster.elect_among_members();
        let members = &cluster.raft(leader).membership().members;
        // A member that has left is added again first.
        if let Some(gone) = (1..=7).map(id).find(|node| !members.contains_key(node)) {
            cluster.change(leader, add(gone.get(), PendingRole::Stays)).unwrap();
            cluster.run(ms(400));
        } else if !wanted.is_empty() && wanted != voters(&cluster, leader) {
            cluster.change(leader, Change::Voters(wanted.clone())).unwrap();
            cluster.until("the change is complete", |c| {
                c.leader()
                    .is_some_and(|l| c.raft(l).membership().voters == wanted && !c.raft(l).membership().is_joint())
            });
            cluster.run(ms(400));
        }
        let leader = cluster.elect_among_members();
        let position = cluster.propose(leader, &round.to_string());
        cluster.until("the entry commits", |c| c.raft(leader).log().commit() >= position.index);
    }
}

/// The leader would wait an election timeout for it, accept no requests meanwhile, and then resume.
#[test]
fn leadership_is_not_transferred_during_snapshot_install() {
    let (mut cluster, leader) = cluster_with_leader(3);
    cluster.run(ms(50));
    let to = another(&cluster, &[leader]);
    cluster.isolate(to);
    let last = (0..5).map(|_| cluster.propose(leader, "behind it")).last().unwrap();
    cluster.until("the entries are committed", |c| c.raft(leader).log().commit() >= last.index);
    cluster.core(leader).compact(last.index);
    cluster.heal();
    let is_sent = |c: &Cluster| c.raft(leader).progress().any(|(id, of)| id == to && of.stage_name() == "snapshot");
    cluster.until("the follower is sent a snapshot", is_sent);
    let refused = cluster.transfer(leader, Some(to));
    assert!(
        matches!(&refused, Err(Refusal::InvalidChange { why }) if why.contains("being sent a snapshot")),
        "{refused:?}"
    );
    assert_eq!(cluster.raft(leader).transfer_target(), None);
    let third = another(&cluster, &[leader, to]);
    assert_eq!(cluster.transfer(leader, None), Ok(third));
}
