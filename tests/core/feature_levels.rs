//! The feature level of a cluster: who holds a raise back, and when a raised level counts.

use super::cluster::{Cluster, id, ms};
use drave::api::Refusal;
use drave::types::*;

const PRESENT: Versions = Versions { protocol_max: 8, feature_level_max: 1 };
const NEXT: Versions = Versions { protocol_max: 9, feature_level_max: 2 };

/// A cluster of n nodes of the next version, and its leader, to which no member has announced its versions.
fn cluster_of_next_version(n: u64) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(n);
    cluster.options.versions = NEXT;
    cluster.ids().into_iter().for_each(|node| cluster.start(node));
    let leader = cluster.elect();
    cluster.run(ms(50));
    (cluster, leader)
}

fn followers(cluster: &Cluster, leader: NodeId) -> Vec<NodeId> {
    cluster.ids().into_iter().filter(|node| *node != leader).collect()
}

/// The reason why the leader refuses to raise the level to `level`, even if it is forced.
fn refusal(cluster: &mut Cluster, leader: NodeId, level: u16) -> String {
    match cluster.reconfigure(leader, Change::RaiseFeatureLevel(level), true) {
        Err(Refusal::InvalidChange { why }) => why,
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn level_is_raised_once_every_member_announces_it() {
    let (mut cluster, leader) = cluster_of_next_version(3);
    let followers = followers(&cluster, leader);
    let why = refusal(&mut cluster, leader, 2);
    assert!(followers.iter().all(|node| why.contains(&format!("{node} has not announced its versions"))), "{why}");
    cluster.raft_mut(leader).learn_versions(followers[0], NEXT);
    cluster.raft_mut(leader).learn_versions(followers[1], PRESENT);
    let why = refusal(&mut cluster, leader, 2);
    assert!(why.ends_with(&format!("yet: {} runs a program that knows up to level 1", followers[1])), "{why}");
    cluster.raft_mut(leader).learn_versions(followers[1], NEXT);
    // A leader does not raise the level beyond what its own program knows.
    assert!(refusal(&mut cluster, leader, 3).contains(&format!("{leader} runs a program that knows up to level 2")));
    let position = cluster.change_membership(leader, Change::RaiseFeatureLevel(2)).unwrap();
    assert_eq!(cluster.raft(leader).membership().feature_level, 2);
    assert_eq!(cluster.raft(leader).feature_level(), 1, "the level counts once it is committed");
    cluster.run_until("the raise is committed", |c| c.raft(leader).log().commit() >= position.index);
    assert_eq!(cluster.raft(leader).feature_level(), 2);
    assert_eq!(refusal(&mut cluster, leader, 2), "the cluster has feature level 2 already");
    assert_eq!(refusal(&mut cluster, leader, 1), "the cluster has feature level 2 already", "it is never lowered");
}

#[test]
fn silent_member_holds_the_raise_back() {
    let (mut cluster, leader) = cluster_of_next_version(3);
    let followers = followers(&cluster, leader);
    followers.iter().for_each(|node| cluster.raft_mut(leader).learn_versions(*node, NEXT));
    cluster.crash(followers[0]);
    cluster.run(ms(600));
    let why = refusal(&mut cluster, leader, 2);
    assert!(why.ends_with(&format!("yet: {} does not answer", followers[0])), "{why}");
}

/// It may come back with the present version.
#[test]
fn disconnected_member_holds_the_raise_back() {
    let (mut cluster, leader) = cluster_of_next_version(3);
    let followers = followers(&cluster, leader);
    followers.iter().for_each(|node| cluster.raft_mut(leader).learn_versions(*node, NEXT));
    cluster.raft_mut(leader).forget_versions(followers[0]);
    let why = refusal(&mut cluster, leader, 2);
    assert!(why.ends_with(&format!("yet: {} has not announced its versions yet", followers[0])), "{why}");
    cluster.raft_mut(leader).learn_versions(followers[0], NEXT);
    cluster.change_membership(leader, Change::RaiseFeatureLevel(2)).unwrap();
}

/// Learners count too: the node would stop at the entry that raises the level.
#[test]
fn learner_of_the_present_version_holds_the_raise_back() {
    let (mut cluster, leader) = cluster_of_next_version(3);
    cluster.start_new_node(4);
    let add = Change::Add { id: id(4), address: "h4:1".into(), disk: None, pending_role: PendingRole::Unchanged };
    cluster.change_membership(leader, add).unwrap();
    cluster.run(ms(300));
    followers(&cluster, leader).into_iter().for_each(|node| cluster.raft_mut(leader).learn_versions(node, NEXT));
    cluster.raft_mut(leader).learn_versions(id(4), PRESENT);
    assert!(refusal(&mut cluster, leader, 2).contains(&format!("{} runs a program", id(4))));
    cluster.raft_mut(leader).learn_versions(id(4), NEXT);
    cluster.change_membership(leader, Change::RaiseFeatureLevel(2)).unwrap();
}

/// While a change is in progress, the level is not raised: there is one change at a time.
#[test]
fn level_is_not_raised_during_another_change() {
    let (mut cluster, leader) = cluster_of_next_version(3);
    followers(&cluster, leader).into_iter().for_each(|node| cluster.raft_mut(leader).learn_versions(node, NEXT));
    let new_address = Change::SetAddress { id: leader, address: "elsewhere:1".into() };
    cluster.change_membership(leader, new_address).unwrap();
    let outcome = cluster.change_membership(leader, Change::RaiseFeatureLevel(2));
    assert!(matches!(outcome, Err(Refusal::ChangeInProgress { .. })), "{outcome:?}");
}
