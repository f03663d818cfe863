//! A start that fails changes nothing, reports its cause, and succeeds once the cause is removed.

use drave::api::Status;
use lost_answer::LostAnswer;
use std::net::TcpListener;
use support::{Beside, Cluster, Said, run, until};

#[path = "support/lost_answer.rs"]
mod lost_answer;
mod support;

/// The ids of the members, as node `n` knows them.
fn members(cluster: &Cluster, n: usize) -> Vec<u64> {
    cluster.status(n).map(|status| status.members.iter().map(|member| member.node).collect()).unwrap_or_default()
}

fn refused(said: &Said, code: i32, words: &str) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert!(said.err.contains(words), "{said:?}");
}

/// A single-node cluster at the first of `nodes` addresses.
fn single_node(nodes: u16) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    cluster.founders = 1;
    cluster.spawn(0);
    cluster.leader();
    cluster
}

/// As in rqlite/rqlite#1010: a start that failed had already founded the cluster, and the corrected list of peers was
/// ignored.
#[test]
fn start_with_port_in_use_founds_nothing() {
    let mut cluster = Cluster::prepare(3);
    let taken = TcpListener::bind(&cluster.addresses[0]).unwrap();
    cluster.founders = 1;
    refused(&run(&mut cluster.serve(0)), 75, "Address already in use");
    assert!(!cluster.data(0).exists(), "nothing was changed");
    drop(taken);
    cluster.founders = 3;
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    until("all three nodes are members", || (members(&cluster, 0) == [1, 2, 3]).then_some(()), || cluster.logs());
}

#[test]
fn start_with_gateway_port_in_use_founds_nothing() {
    let cluster = Cluster::prepare(2);
    let _taken = TcpListener::bind(&cluster.addresses[1]).unwrap();
    for gateway in ["--http", "--resp"] {
        let mut serve = support::drave(&["serve", "--id", "1", "--peers", &format!("1={}", cluster.addresses[0])]);
        let said = run(serve.args([gateway, &cluster.addresses[1]]).arg("--data").arg(cluster.data(0)));
        refused(&said, 75, "in use");
        assert!(said.err.trim_end().ends_with(&format!("listen elsewhere: {gateway}")), "{said:?}");
        assert!(!cluster.data(0).exists(), "nothing was changed");
    }
}

#[test]
fn start_without_valid_founders_creates_nothing() {
    let cluster = Cluster::prepare(2);
    let serve =
        |words: &[&str]| run(support::drave(&["serve", "--id", "5"]).args(words).arg("--data").arg(cluster.data(0)));
    refused(&serve(&["--peers", &cluster.peers()]), 78, "node 5 is not in the list of peers. Nothing was changed");
    assert!(!cluster.data(0).exists(), "nothing was changed");
    std::fs::create_dir(cluster.data(0)).unwrap();
    refused(&serve(&["--listen", &cluster.addresses[0]]), 78, "is empty: name the founding members");
    assert_eq!(std::fs::read_dir(cluster.data(0)).unwrap().count(), 0, "nothing was changed");
}

/// A node that is added again reads in its log that it was once removed.
#[test]
fn re_added_node_does_not_warn_of_its_past_removal() {
    let mut cluster = single_node(2);
    cluster.spawn(1);
    until("node 2 is a member", || (members(&cluster, 0) == [1, 2]).then_some(()), || cluster.logs());
    let remove = || (cluster.run(&["member", "remove", "2", "--force"]).code == Some(0)).then_some(());
    until("node 2 is removed", remove, || cluster.logs());
    let log = cluster.data(1).with_extension("log");
    let warned = || std::fs::read_to_string(&log).unwrap().contains("stop it; or, to add it again").then_some(());
    until("node 2 warns that it was removed", warned, || cluster.logs());
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.data(1)).unwrap();
    std::fs::remove_file(&log).unwrap();
    let added = cluster.run(&["member", "add", &format!("2={}", cluster.addresses[1])]);
    assert_eq!(added.code, Some(0), "{added:?}");
    cluster.spawn(1);
    cluster.agree();
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(!log.contains("stop it"), "{log}");
    assert!(log.contains("according to its log so far"), "{log}");
}

/// As in block/ftl#4444 and scylladb/scylladb#18850: other nodes remembered the first step of a failed join, and
/// rejected the second attempt.
#[test]
fn refused_join_adds_no_member_and_can_be_retried() {
    let mut cluster = single_node(2);
    let file = cluster.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let join = |cluster: &Cluster, data: &std::path::Path| {
        let mut serve = support::drave(&["serve", "--id", "2", "--join", &cluster.addresses[0], "--http", "off"]);
        serve.args(["--resp", "off", "--listen", &cluster.addresses[1], "--data"]).arg(data);
        run(&mut serve)
    };
    refused(&join(&cluster, &file.join("n2")), 78, "cannot create");
    let taken = TcpListener::bind(&cluster.addresses[1]).unwrap();
    refused(&join(&cluster, &cluster.data(1)), 75, "cannot listen");
    drop(taken);
    assert_eq!(members(&cluster, 0), [1], "{}", cluster.logs());
    // With the address of another member.
    let mut serve = support::drave(&["serve", "--id", "2", "--join", &cluster.addresses[0]]);
    serve.args(["--listen", &cluster.addresses[0], "--data"]).arg(cluster.data(1));
    refused(&run(&mut serve), 78, "has the address");
    assert_eq!(members(&cluster, 0), [1], "{}", cluster.logs());
    cluster.spawn(1);
    let voters = |status: &Status| status.members.iter().filter(|member| member.kind == "voter").count();
    until("node 2 is a voter", || cluster.status(0).filter(|status| voters(status) == 2), || cluster.logs());
}

/// Kills the joining node again and again at moments in the first 165 ms of its start; in the end it joins.
#[test]
fn killed_join_can_be_retried() {
    let mut cluster = single_node(2);
    for round in 0..12 {
        cluster.spawn(1);
        std::thread::sleep(std::time::Duration::from_millis(round * 15));
        cluster.kill(1);
    }
    cluster.spawn(1);
    let voters = |status: &Status| status.members.iter().filter(|member| member.kind == "voter").count();
    until("node 2 is a voter", || cluster.status(0).filter(|status| voters(status) == 2), || cluster.logs());
    cluster.expect_no_deaths();
}

/// A single-node cluster, at the address of a proxy that loses the answer to node 2's request to become a member; and
/// node 2, which has just sent that request.
fn join_with_lost_answer() -> (Cluster, LostAnswer, Beside) {
    let mut cluster = Cluster::prepare(2);
    let proxy = LostAnswer::before(&cluster.addresses[0], &cluster.addresses[1]);
    cluster.founders = 1;
    cluster.words = vec!["--listen".to_owned(), std::mem::replace(&mut cluster.addresses[0], proxy.address.clone())];
    cluster.spawn(0);
    cluster.leader();
    let mut serve = support::drave(&["serve", "--id", "2", "--join", &proxy.address, "--http", "off", "--resp", "off"]);
    serve.args(["--listen", &cluster.addresses[1], "--data"]).arg(cluster.data(1));
    let join = Beside::start(cluster.directory.path(), "join", &mut serve);
    proxy.answered.recv_timeout(support::PATIENCE).unwrap();
    (cluster, proxy, join)
}

fn is_voter(cluster: &Cluster, id: u64) -> bool {
    let is_it = |status: &Status| status.members.iter().any(|member| member.node == id && member.kind == "voter");
    cluster.status(0).is_some_and(|status| is_it(&status))
}

#[test]
fn join_with_lost_answer_finds_that_it_has_joined() {
    let (cluster, proxy, mut join) = join_with_lost_answer();
    proxy.close.send(()).unwrap();
    until("node 2 is a voter", || is_voter(&cluster, 2).then_some(()), || cluster.logs());
    assert!(join.is_running());
    let log = std::fs::read_to_string(cluster.directory.path().join("join.err")).unwrap();
    // The client has repeated its request, or looked at the membership.
    assert!(log.contains("joined as a learner"), "{log}");
}

#[test]
fn join_with_unknown_outcome_exits_with_75_and_can_be_repeated() {
    let (mut cluster, proxy, join) = join_with_lost_answer();
    cluster.kill(0);
    proxy.close.send(()).unwrap();
    let said = join.end();
    refused(&said, 75, "outcome unknown: n2 may have joined");
    assert!(said.err.contains("run the same command again"), "{said:?}");
    cluster.spawn(0);
    cluster.words.clear();
    cluster.spawn(1);
    until("node 2 is a voter", || is_voter(&cluster, 2).then_some(()), || cluster.logs());
}

#[test]
fn duplicate_or_undialable_address_is_rejected() {
    let mut cluster = single_node(3);
    cluster.spawn(1);
    until("node 2 is a member", || (members(&cluster, 0) == [1, 2]).then_some(()), || cluster.logs());
    for address in
        [&*cluster.addresses[0], "0.0.0.0:7401", "[::]:7401", "127.0.0.1:0", "a b:7401", "::1:7404", "nowhere"]
    {
        let added = cluster.run(&["member", "add", &format!("3={address}")]);
        assert!(matches!(added.code, Some(1 | 2)), "{address}: {added:?}");
        let moved = cluster.run(&["member", "update", &format!("2={address}")]);
        assert!(matches!(moved.code, Some(1 | 2)), "{address}: {moved:?}");
        let founded =
            run(support::drave(&["serve", "--id", "3", "--peers", &format!("3={address}"), "--data"])
                .arg(cluster.data(2)));
        assert!(address == cluster.addresses[0] || matches!(founded.code, Some(2 | 78)), "{address}: {founded:?}");
    }
    assert_eq!(members(&cluster, 0), [1, 2]);
    assert!(!cluster.data(2).exists());
    // A node with `--peers` starts regardless of the addresses in the membership.
    cluster.kill(1);
    cluster.spawn(1);
    until("node 2 follows node 1", || cluster.status(1).filter(|status| status.leader == Some(1)), || cluster.logs());
}

#[test]
fn peers_that_differ_from_the_membership_are_logged() {
    let mut cluster = single_node(2);
    cluster.kill(0);
    cluster.founders = 2;
    cluster.spawn(0);
    until(
        "node 1 logs the difference",
        || cluster.logs().contains("n2 is not a member").then_some(()),
        || cluster.logs(),
    );
}

/// As in rqlite/rqlite#1010: an identity file that was missing for a moment was written anew, and the log beside it was
/// lost.
#[test]
fn missing_identity_is_reported_and_rebuilt_from_the_log() {
    let mut cluster = single_node(1);
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    assert_eq!(cluster.stop(0), Some(0));
    let (identity, away) = (cluster.data(0).join("identity"), cluster.directory.path().join("away"));
    std::fs::rename(&identity, &away).unwrap();
    refused(&run(&mut cluster.serve(0)), 5, "the file is missing, and");
    assert!(!identity.exists(), "nothing was changed");
    // A join does not write a new identity beside the log either.
    let mut join = support::drave(&["serve", "--id", "1", "--join", &cluster.addresses[0], "--data"]);
    refused(&run(join.arg(cluster.data(0))), 5, "the file is missing, and");
    assert!(!identity.exists(), "nothing was changed");
    std::os::unix::fs::symlink(cluster.directory.path().join("nowhere"), &identity).unwrap();
    refused(&run(&mut cluster.serve(0)), 5, "the file is missing, and");
    std::fs::remove_file(&identity).unwrap();
    let restored = run(support::drave(&["recover", "--identity"]).arg(cluster.data(0)));
    assert_eq!(restored.code, Some(0), "{restored:?}");
    let again = run(support::drave(&["recover", "--identity"]).arg(cluster.data(0)));
    refused(&again, 1, "nothing is missing");
    let same = |path: &std::path::Path| std::fs::read(path).unwrap()[..40].to_vec();
    assert_eq!(same(&identity), same(&away), "node, cluster and disk are the same");
    cluster.spawn(0);
    until("the node serves", || (cluster.run(&["get", "lunch"]).out == "noodles").then_some(()), || cluster.logs());
}

#[test]
fn damage_report_names_the_directory() {
    let mut cluster = single_node(1);
    assert_eq!(cluster.run(&["put", "k", "v"]).code, Some(0));
    cluster.kill(0);
    std::fs::write(cluster.data(0).join("identity"), b"nothing that is one").unwrap();
    let said = run(&mut cluster.serve(0));
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.err.contains(&format!("error: in {}: ", cluster.data(0).display())), "{said:?}");
}
