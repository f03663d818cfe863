//! Real processes whose nodes were moved to another address or removed, and what they log and reply.

use drave::api::{RoleName, Status};
use rustix::process::Signal;
use support::{Cluster, wait_until};

mod support;

fn run_successfully(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.run(&[args, &["--timeout", "20s"]].concat());
    assert_eq!(output.code, Some(0), "{args:?}: {output:?}\n{}", cluster.logs());
    output.out
}

fn leader_status(cluster: &Cluster) -> Option<Status> {
    cluster.leader_among(0..cluster.len()).and_then(|leader| cluster.status(leader))
}

fn read_log(cluster: &Cluster, n: usize) -> String {
    std::fs::read_to_string(cluster.data_dir(n).with_extension("log")).unwrap()
}

/// Three nodes, of which a follower was removed and has learned of it.
fn cluster_with_removed_node() -> (Cluster, usize) {
    let cluster = Cluster::start(3);
    let removed_node = (cluster.wait_for_leader() + 1) % 3;
    run_successfully(&cluster, &["put", "lunch", "noodles"]);
    // The node that receives the request may be the removed node, which may be removed before it can confirm the
    // change.
    let try_remove = || {
        let output = cluster.run(&["member", "remove", &(removed_node + 1).to_string(), "--timeout", "20s"]);
        (output.code == Some(0) || output.err.contains("is not a member")).then_some(())
    };
    wait_until("the node is removed", try_remove, || cluster.logs());
    let status_after_removal =
        || cluster.status(removed_node).filter(|status| status.role == RoleName::Outside && status.leader.is_none());
    wait_until(
        "the node knows its removal and follows no leader",
        || status_after_removal().map(|_| ()),
        || cluster.logs(),
    );
    (cluster, removed_node)
}

/// The removed node responds at once with the addresses of the members, and the client continues there, although it was
/// given no other address.
#[test]
fn client_of_removed_node_is_redirected_to_the_members() {
    let (cluster, removed_node) = cluster_with_removed_node();
    let args_with_timeout = |timeout| {
        ["get", "lunch", "--endpoints", &cluster.addresses[removed_node], "--timeout", timeout].map(String::from)
    };
    let get_lunch = |timeout| {
        let args = args_with_timeout(timeout);
        cluster.run(&args.each_ref().map(String::as_str))
    };
    let output = get_lunch("20s");
    assert_eq!((output.code, output.out.trim()), (Some(0), "noodles"), "{output:?}\n{}", cluster.logs());
    // With the members stopped, the client reports the rejection of the removed node.
    let remaining_nodes: Vec<usize> = (0..3).filter(|n| *n != removed_node).collect();
    remaining_nodes.iter().for_each(|n| cluster.signal(*n, Signal::STOP));
    let output = get_lunch("1s");
    assert_eq!(output.code, Some(3), "{output:?}");
    let expected_error = format!("n{} is not a member of the cluster", removed_node + 1);
    assert!(output.err.contains(&expected_error) && output.err.contains("nothing was applied"), "{output:?}");
    assert!(output.err.contains("drave member add"), "{output:?}");
    remaining_nodes.iter().for_each(|n| cluster.signal(*n, Signal::CONT));
}

/// etcd#13196 and #13466: removed members came back with a restart. The log decides the membership; `--peers` only says
/// where to look.
#[test]
fn removed_node_stays_removed_despite_its_peers_option() {
    let (mut cluster, removed_node) = cluster_with_removed_node();
    (0..3).for_each(|n| assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs()));
    // The nodes start with all three named as founders in `--peers`, as before.
    (0..3).for_each(|n| cluster.spawn(n));
    run_successfully(&cluster, &["put", "lunch", "soup"]);
    let status = wait_until("a leader", || leader_status(&cluster), || cluster.logs());
    let member_ids: Vec<u64> = status.members.iter().map(|member| member.node).collect();
    let expected_members: Vec<u64> = (1..=3).filter(|id| *id != removed_node as u64 + 1).collect();
    assert_eq!(member_ids, expected_members, "{}", cluster.logs());
    // The removed node has not stored its removal, and queries the other nodes. It still redirects clients at once.
    let output = cluster.run(&["get", "lunch", "--endpoints", &cluster.addresses[removed_node], "--timeout", "20s"]);
    assert_eq!((output.code, output.out.trim()), (Some(0), "soup"), "{output:?}\n{}", cluster.logs());
    assert_ne!(cluster.status(removed_node).map(|status| status.role), Some(RoleName::Leader), "{}", cluster.logs());
    cluster.expect_no_deaths();
}

/// A node that was moved while it was stopped, and is started with its old flags, logs the flags that it needs. With
/// these flags the node joins again.
#[test]
fn node_moved_while_stopped_logs_its_new_listen_address() {
    let mut cluster = Cluster::prepare(4);
    cluster.founder_count = 3;
    (0..3).for_each(|n| cluster.spawn(n));
    let moved_node = (cluster.wait_for_leader() + 1) % 3;
    assert_eq!(cluster.stop(moved_node), Some(0), "{}", cluster.logs());
    let new_address = cluster.addresses[3].clone();
    run_successfully(&cluster, &["member", "update", &format!("{}={new_address}", moved_node + 1)]);
    cluster.spawn(moved_node);
    let advice = format!("start it with --listen {new_address}");
    wait_until(
        "the node logs the advice",
        || read_log(&cluster, moved_node).contains(&advice).then_some(()),
        || cluster.logs(),
    );
    assert_eq!(cluster.stop(moved_node), Some(0), "{}", cluster.logs());
    cluster.extra_args.extend(["--listen".to_owned(), new_address.clone()]);
    cluster.spawn(moved_node);
    let client = drave::client::Client::connect([new_address.clone()]);
    let follows_leader = || client.status(&new_address).ok().filter(|status| status.leader.is_some()).map(|_| ());
    wait_until("the moved node follows a leader", follows_leader, || cluster.logs());
    assert_eq!(read_log(&cluster, moved_node).matches(&advice).count(), 1, "{}", cluster.logs());
}

/// Exit codes of member verbs that change nothing: 1 with the reason; 2 for invalid arguments; 3 without a leader.
#[test]
fn member_command_that_changes_nothing_reports_why() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let expect_error = |args: &[&str], code: i32, reason: &str| {
        let output = cluster.run(args);
        assert!(output.code == Some(code) && output.err.contains(reason), "{args:?}: {output:?}\n{}", cluster.logs());
    };
    expect_error(&["member", "remove", "9"], 1, "n9 is not a member");
    expect_error(&["member", "remove", "x"], 2, "a node's id is a number");
    expect_error(&["member", "abort"], 1, "no change is in progress");
    expect_error(&["transfer", "9"], 1, "n9 is not a voter");
    let followers: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    followers.iter().for_each(|n| cluster.signal(*n, Signal::STOP));
    let add_learner_args = ["member", "add", "9=127.0.0.1:9", "--learner", "--timeout", "1s"];
    expect_error(&add_learner_args, 3, "nothing was applied");
    expect_error(&["transfer", "--timeout", "1s"], 3, "nothing was applied");
    followers.iter().for_each(|n| cluster.signal(*n, Signal::CONT));
    let status = wait_until("a leader", || leader_status(&cluster), || cluster.logs());
    assert_eq!(status.members.len(), 3, "nothing was changed: {status:?}");
}
