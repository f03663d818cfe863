//! Members that were moved or removed, and the resulting messages: real processes.

use drave::api::{RoleName, Status};
use rustix::process::Signal;
use support::{Cluster, until};

mod support;

fn run_ok(cluster: &Cluster, words: &[&str]) -> String {
    let said = cluster.run(&[words, &["--timeout", "20s"]].concat());
    assert_eq!(said.code, Some(0), "{words:?}: {said:?}\n{}", cluster.logs());
    said.out
}

fn leader_status(cluster: &Cluster) -> Option<Status> {
    cluster.leader_of(0..cluster.len()).and_then(|leader| cluster.status(leader))
}

fn log_of(cluster: &Cluster, n: usize) -> String {
    std::fs::read_to_string(cluster.data(n).with_extension("log")).unwrap()
}

/// Three nodes, of which a follower was removed and has learned of it.
fn cluster_with_removed_node() -> (Cluster, usize) {
    let cluster = Cluster::start(3);
    let gone = (cluster.leader() + 1) % 3;
    run_ok(&cluster, &["put", "lunch", "noodles"]);
    // The node that received the request may be removed before it can confirm.
    let removed = || {
        let said = cluster.run(&["member", "remove", &(gone + 1).to_string(), "--timeout", "20s"]);
        (said.code == Some(0) || said.err.contains("is not a member")).then_some(())
    };
    until("the node is removed", removed, || cluster.logs());
    let knows = || cluster.status(gone).filter(|status| status.role == RoleName::Outside && status.leader.is_none());
    until("the node knows its removal and follows no leader", || knows().map(|_| ()), || cluster.logs());
    (cluster, gone)
}

/// The removed node responds at once with the addresses of the members, and the client continues there, although it was
/// given no other address.
#[test]
fn client_of_removed_node_is_redirected_to_the_members() {
    let (cluster, gone) = cluster_with_removed_node();
    let ask =
        |timeout| ["get", "lunch", "--endpoints", &cluster.addresses[gone], "--timeout", timeout].map(String::from);
    let get = |timeout| {
        let words = ask(timeout);
        cluster.run(&words.each_ref().map(String::as_str))
    };
    let said = get("20s");
    assert_eq!((said.code, said.out.trim()), (Some(0), "noodles"), "{said:?}\n{}", cluster.logs());
    // With the members stopped, the client reports the rejection of the removed node.
    let others: Vec<usize> = (0..3).filter(|n| *n != gone).collect();
    others.iter().for_each(|n| cluster.signal(*n, Signal::STOP));
    let said = get("1s");
    assert_eq!(said.code, Some(3), "{said:?}");
    let removed = format!("n{} is not a member of the cluster", gone + 1);
    assert!(said.err.contains(&removed) && said.err.contains("nothing was applied"), "{said:?}");
    assert!(said.err.contains("drave member add"), "{said:?}");
    others.iter().for_each(|n| cluster.signal(*n, Signal::CONT));
}

/// etcd#13196 and #13466: removed members came back with a restart. The log decides the membership; `--peers` only says
/// where to look.
#[test]
fn removed_node_stays_removed_despite_its_peers_option() {
    let (mut cluster, gone) = cluster_with_removed_node();
    (0..3).for_each(|n| assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs()));
    // All three are named as founders, as before.
    (0..3).for_each(|n| cluster.spawn(n));
    run_ok(&cluster, &["put", "lunch", "soup"]);
    let status = until("a leader", || leader_status(&cluster), || cluster.logs());
    let members: Vec<u64> = status.members.iter().map(|member| member.node).collect();
    let expected: Vec<u64> = (1..=3).filter(|id| *id != gone as u64 + 1).collect();
    assert_eq!(members, expected, "{}", cluster.logs());
    // The removed node does not know this durably and queries the other nodes, but redirects clients at once.
    let said = cluster.run(&["get", "lunch", "--endpoints", &cluster.addresses[gone], "--timeout", "20s"]);
    assert_eq!((said.code, said.out.trim()), (Some(0), "soup"), "{said:?}\n{}", cluster.logs());
    assert_ne!(cluster.status(gone).map(|status| status.role), Some(RoleName::Leader), "{}", cluster.logs());
    cluster.expect_no_deaths();
}

/// A node that was moved while it was stopped, and is started with its old flags, logs the flags it needs. With those
/// it joins again.
#[test]
fn node_moved_while_stopped_logs_its_new_listen_address() {
    let mut cluster = Cluster::prepare(4);
    cluster.founders = 3;
    (0..3).for_each(|n| cluster.spawn(n));
    let moved = (cluster.leader() + 1) % 3;
    assert_eq!(cluster.stop(moved), Some(0), "{}", cluster.logs());
    let new = cluster.addresses[3].clone();
    run_ok(&cluster, &["member", "update", &format!("{}={new}", moved + 1)]);
    cluster.spawn(moved);
    let advice = format!("start it with --listen {new}");
    until("the node logs the advice", || log_of(&cluster, moved).contains(&advice).then_some(()), || cluster.logs());
    assert_eq!(cluster.stop(moved), Some(0), "{}", cluster.logs());
    cluster.words.extend(["--listen".to_owned(), new.clone()]);
    cluster.spawn(moved);
    let client = drave::client::Client::connect([new.clone()]);
    let found = || client.status(&new).ok().filter(|status| status.leader.is_some()).map(|_| ());
    until("the moved node follows a leader", found, || cluster.logs());
    assert_eq!(log_of(&cluster, moved).matches(&advice).count(), 1, "{}", cluster.logs());
}

/// Exit codes of member verbs that change nothing: 1 with the reason; 2 for invalid arguments; 3 without a leader.
#[test]
fn member_command_that_changes_nothing_reports_why() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let refused = |words: &[&str], code: i32, why: &str| {
        let said = cluster.run(words);
        assert!(said.code == Some(code) && said.err.contains(why), "{words:?}: {said:?}\n{}", cluster.logs());
    };
    refused(&["member", "remove", "9"], 1, "n9 is not a member");
    refused(&["member", "remove", "x"], 2, "a node's id is a number");
    refused(&["member", "abort"], 1, "no change is in progress");
    refused(&["transfer", "9"], 1, "n9 is not a voter");
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    others.iter().for_each(|n| cluster.signal(*n, Signal::STOP));
    let add = ["member", "add", "9=127.0.0.1:9", "--learner", "--timeout", "1s"];
    refused(&add, 3, "nothing was applied");
    refused(&["transfer", "--timeout", "1s"], 3, "nothing was applied");
    others.iter().for_each(|n| cluster.signal(*n, Signal::CONT));
    let status = until("a leader", || leader_status(&cluster), || cluster.logs());
    assert_eq!(status.members.len(), 3, "nothing was changed: {status:?}");
}
