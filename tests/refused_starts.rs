//! A start that fails changes nothing, reports its cause, and succeeds once the cause is removed.

use drave::api::Status;
use lossy_proxy::LossyProxy;
use std::net::TcpListener;
use support::{BackgroundProgram, Cluster, ProgramOutput, run, wait_until};

#[path = "support/lossy_proxy.rs"]
mod lossy_proxy;
mod support;

/// The ids of the members, as node `n` knows them.
fn member_ids(cluster: &Cluster, n: usize) -> Vec<u64> {
    cluster.status(n).map(|status| status.members.iter().map(|member| member.node).collect()).unwrap_or_default()
}

fn expect_refusal(output: &ProgramOutput, code: i32, text: &str) {
    assert_eq!(output.code, Some(code), "{output:?}");
    assert!(output.err.contains(text), "{output:?}");
}

/// A single-node cluster in which the addresses of `address_count` nodes are reserved.
fn single_node_cluster(address_count: u16) -> Cluster {
    let mut cluster = Cluster::prepare(address_count);
    cluster.founder_count = 1;
    cluster.spawn(0);
    cluster.wait_for_leader();
    cluster
}

/// As in rqlite/rqlite#1010: a start that failed had already founded the cluster, and the corrected list of peers was
/// ignored.
#[test]
fn start_with_port_in_use_founds_nothing() {
    let mut cluster = Cluster::prepare(3);
    let port_holder = TcpListener::bind(&cluster.addresses[0]).unwrap();
    cluster.founder_count = 1;
    expect_refusal(&run(&mut cluster.serve_command(0)), 75, "Address already in use");
    assert!(!cluster.data_dir(0).exists(), "nothing was changed");
    drop(port_holder);
    cluster.founder_count = 3;
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    wait_until(
        "all three nodes are members",
        || (member_ids(&cluster, 0) == [1, 2, 3]).then_some(()),
        || cluster.logs(),
    );
}

#[test]
fn start_with_gateway_port_in_use_founds_nothing() {
    let cluster = Cluster::prepare(2);
    let _port_holder = TcpListener::bind(&cluster.addresses[1]).unwrap();
    for gateway in ["--http", "--resp"] {
        let mut serve_command =
            support::drave_command(&["serve", "--id", "1", "--peers", &format!("1={}", cluster.addresses[0])]);
        let output = run(serve_command.args([gateway, &cluster.addresses[1]]).arg("--data").arg(cluster.data_dir(0)));
        expect_refusal(&output, 75, "in use");
        assert!(output.err.trim_end().ends_with(&format!("listen elsewhere: {gateway}")), "{output:?}");
        assert!(!cluster.data_dir(0).exists(), "nothing was changed");
    }
}

#[test]
fn start_without_valid_founders_creates_nothing() {
    let cluster = Cluster::prepare(2);
    let serve = |args: &[&str]| {
        run(support::drave_command(&["serve", "--id", "5"]).args(args).arg("--data").arg(cluster.data_dir(0)))
    };
    expect_refusal(
        &serve(&["--peers", &cluster.peers()]),
        78,
        "node 5 is not in the list of peers. Nothing was changed",
    );
    assert!(!cluster.data_dir(0).exists(), "nothing was changed");
    std::fs::create_dir(cluster.data_dir(0)).unwrap();
    expect_refusal(&serve(&["--listen", &cluster.addresses[0]]), 78, "is empty: name the founding members");
    assert_eq!(std::fs::read_dir(cluster.data_dir(0)).unwrap().count(), 0, "nothing was changed");
}

/// A node that is added again reads in its log that it was once removed.
#[test]
fn re_added_node_does_not_warn_of_its_past_removal() {
    let mut cluster = single_node_cluster(2);
    cluster.spawn(1);
    wait_until("node 2 is a member", || (member_ids(&cluster, 0) == [1, 2]).then_some(()), || cluster.logs());
    let try_remove = || (cluster.run(&["member", "remove", "2", "--force"]).code == Some(0)).then_some(());
    wait_until("node 2 is removed", try_remove, || cluster.logs());
    let log_path = cluster.data_dir(1).with_extension("log");
    let has_warned =
        || std::fs::read_to_string(&log_path).unwrap().contains("stop it; or, to add it again").then_some(());
    wait_until("node 2 warns that it was removed", has_warned, || cluster.logs());
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.data_dir(1)).unwrap();
    std::fs::remove_file(&log_path).unwrap();
    let add_output = cluster.run(&["member", "add", &format!("2={}", cluster.addresses[1])]);
    assert_eq!(add_output.code, Some(0), "{add_output:?}");
    cluster.spawn(1);
    cluster.wait_for_convergence();
    let log = std::fs::read_to_string(&log_path).unwrap();
    assert!(!log.contains("stop it"), "{log}");
    assert!(log.contains("according to its log so far"), "{log}");
}

/// As in block/ftl#4444 and scylladb/scylladb#18850: other nodes remembered the first step of a failed join, and
/// rejected the second attempt.
#[test]
fn refused_join_adds_no_member_and_can_be_retried() {
    let mut cluster = single_node_cluster(2);
    let plain_file = cluster.directory.path().join("file");
    std::fs::write(&plain_file, "").unwrap();
    let try_join = |cluster: &Cluster, data: &std::path::Path| {
        let mut serve =
            support::drave_command(&["serve", "--id", "2", "--join", &cluster.addresses[0], "--http", "off"]);
        serve.args(["--resp", "off", "--listen", &cluster.addresses[1], "--data"]).arg(data);
        run(&mut serve)
    };
    expect_refusal(&try_join(&cluster, &plain_file.join("n2")), 78, "cannot create");
    let occupied_port = TcpListener::bind(&cluster.addresses[1]).unwrap();
    expect_refusal(&try_join(&cluster, &cluster.data_dir(1)), 75, "cannot listen");
    drop(occupied_port);
    assert_eq!(member_ids(&cluster, 0), [1], "{}", cluster.logs());
    // A join with the address of another member is rejected.
    let mut serve = support::drave_command(&["serve", "--id", "2", "--join", &cluster.addresses[0]]);
    serve.args(["--listen", &cluster.addresses[0], "--data"]).arg(cluster.data_dir(1));
    expect_refusal(&run(&mut serve), 78, "has the address");
    assert_eq!(member_ids(&cluster, 0), [1], "{}", cluster.logs());
    cluster.spawn(1);
    let voter_count = |status: &Status| status.members.iter().filter(|member| member.kind == "voter").count();
    wait_until("node 2 is a voter", || cluster.status(0).filter(|status| voter_count(status) == 2), || cluster.logs());
}

/// Kills the joining node at twelve moments in the first 165 ms of its starts. The last start must join.
#[test]
fn killed_join_can_be_retried() {
    let mut cluster = single_node_cluster(2);
    for round in 0..12 {
        cluster.spawn(1);
        std::thread::sleep(std::time::Duration::from_millis(round * 15));
        cluster.kill(1);
    }
    cluster.spawn(1);
    let voter_count = |status: &Status| status.members.iter().filter(|member| member.kind == "voter").count();
    wait_until("node 2 is a voter", || cluster.status(0).filter(|status| voter_count(status) == 2), || cluster.logs());
    cluster.expect_no_deaths();
}

/// A single-node cluster, at the address of a proxy that loses the response to node 2's request to become a member; and
/// node 2, which has just sent that request.
fn join_with_lost_response() -> (Cluster, LossyProxy, BackgroundProgram) {
    let mut cluster = Cluster::prepare(2);
    let proxy = LossyProxy::start(&cluster.addresses[0], &cluster.addresses[1]);
    cluster.founder_count = 1;
    cluster.extra_args =
        vec!["--listen".to_owned(), std::mem::replace(&mut cluster.addresses[0], proxy.address.clone())];
    cluster.spawn(0);
    cluster.wait_for_leader();
    let mut serve =
        support::drave_command(&["serve", "--id", "2", "--join", &proxy.address, "--http", "off", "--resp", "off"]);
    serve.args(["--listen", &cluster.addresses[1], "--data"]).arg(cluster.data_dir(1));
    let joining_node = BackgroundProgram::start(cluster.directory.path(), "join", &mut serve);
    proxy.response_lost.recv_timeout(support::WAIT_TIMEOUT).unwrap();
    (cluster, proxy, joining_node)
}

fn is_voter(cluster: &Cluster, id: u64) -> bool {
    let has_voter = |status: &Status| status.members.iter().any(|member| member.node == id && member.kind == "voter");
    cluster.status(0).is_some_and(|status| has_voter(&status))
}

#[test]
fn join_with_lost_response_finds_that_it_has_joined() {
    let (cluster, proxy, mut join) = join_with_lost_response();
    proxy.close_permit.send(()).unwrap();
    wait_until("node 2 is a voter", || is_voter(&cluster, 2).then_some(()), || cluster.logs());
    assert!(join.is_running());
    let log = std::fs::read_to_string(cluster.directory.path().join("join.err")).unwrap();
    // Node 2 has repeated its request, or has found itself in the membership.
    assert!(log.contains("joined as a learner"), "{log}");
}

#[test]
fn join_with_unknown_outcome_exits_with_75_and_can_be_repeated() {
    let (mut cluster, proxy, join) = join_with_lost_response();
    cluster.kill(0);
    proxy.close_permit.send(()).unwrap();
    let output = join.wait_with_output();
    expect_refusal(&output, 75, "outcome unknown: n2 may have joined");
    assert!(output.err.contains("run the same command again"), "{output:?}");
    cluster.spawn(0);
    cluster.extra_args.clear();
    cluster.spawn(1);
    wait_until("node 2 is a voter", || is_voter(&cluster, 2).then_some(()), || cluster.logs());
}

#[test]
fn duplicate_or_undialable_address_is_rejected() {
    let mut cluster = single_node_cluster(3);
    cluster.spawn(1);
    wait_until("node 2 is a member", || (member_ids(&cluster, 0) == [1, 2]).then_some(()), || cluster.logs());
    for address in
        [&*cluster.addresses[0], "0.0.0.0:7401", "[::]:7401", "127.0.0.1:0", "a b:7401", "::1:7404", "nowhere"]
    {
        let add_output = cluster.run(&["member", "add", &format!("3={address}")]);
        assert!(matches!(add_output.code, Some(1 | 2)), "{address}: {add_output:?}");
        let update_output = cluster.run(&["member", "update", &format!("2={address}")]);
        assert!(matches!(update_output.code, Some(1 | 2)), "{address}: {update_output:?}");
        let serve_output =
            run(support::drave_command(&["serve", "--id", "3", "--peers", &format!("3={address}"), "--data"])
                .arg(cluster.data_dir(2)));
        assert!(
            address == cluster.addresses[0] || matches!(serve_output.code, Some(2 | 78)),
            "{address}: {serve_output:?}"
        );
    }
    assert_eq!(member_ids(&cluster, 0), [1, 2]);
    assert!(!cluster.data_dir(2).exists());
    // A node with `--peers` starts regardless of the addresses in the membership.
    cluster.kill(1);
    cluster.spawn(1);
    wait_until(
        "node 2 follows node 1",
        || cluster.status(1).filter(|status| status.leader == Some(1)),
        || cluster.logs(),
    );
}

#[test]
fn peers_that_differ_from_the_membership_are_logged() {
    let mut cluster = single_node_cluster(2);
    cluster.kill(0);
    cluster.founder_count = 2;
    cluster.spawn(0);
    wait_until(
        "node 1 logs the difference",
        || cluster.logs().contains("n2 is not a member").then_some(()),
        || cluster.logs(),
    );
}

/// As in rqlite/rqlite#1010: an identity file that was missing for a moment was written anew, and the log beside it was
/// lost.
#[test]
fn missing_identity_is_reported_and_rebuilt_from_the_log() {
    let mut cluster = single_node_cluster(1);
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    assert_eq!(cluster.stop(0), Some(0));
    let (identity, moved_identity) = (cluster.data_dir(0).join("identity"), cluster.directory.path().join("away"));
    std::fs::rename(&identity, &moved_identity).unwrap();
    expect_refusal(&run(cluster.serve_command(0).arg("--no-repair")), 5, "the file is missing, and");
    assert!(!identity.exists(), "nothing was changed");
    // A start with `--join` does not write a new identity file either.
    let join_arguments = ["serve", "--no-repair", "--id", "1", "--join", &cluster.addresses[0], "--data"];
    let mut join = support::drave_command(&join_arguments);
    expect_refusal(&run(join.arg(cluster.data_dir(0))), 5, "the file is missing, and");
    assert!(!identity.exists(), "nothing was changed");
    std::os::unix::fs::symlink(cluster.directory.path().join("nowhere"), &identity).unwrap();
    expect_refusal(&run(cluster.serve_command(0).arg("--no-repair")), 5, "the file is missing, and");
    std::fs::remove_file(&identity).unwrap();
    let recover_output = run(support::drave_command(&["recover", "--identity"]).arg(cluster.data_dir(0)));
    assert_eq!(recover_output.code, Some(0), "{recover_output:?}");
    let repeated_output = run(support::drave_command(&["recover", "--identity"]).arg(cluster.data_dir(0)));
    expect_refusal(&repeated_output, 1, "nothing is missing");
    let identity_bytes = |path: &std::path::Path| std::fs::read(path).unwrap()[..40].to_vec();
    assert_eq!(identity_bytes(&identity), identity_bytes(&moved_identity), "node, cluster and disk are the same");
    cluster.spawn(0);
    wait_until(
        "the node serves",
        || (cluster.run(&["get", "lunch"]).out == "noodles").then_some(()),
        || cluster.logs(),
    );
}

#[test]
fn damage_report_names_the_directory() {
    let mut cluster = single_node_cluster(1);
    assert_eq!(cluster.run(&["put", "k", "v"]).code, Some(0));
    cluster.kill(0);
    std::fs::write(cluster.data_dir(0).join("identity"), b"nothing that is one").unwrap();
    let output = run(cluster.serve_command(0).arg("--no-repair"));
    assert_eq!(output.code, Some(5), "{output:?}");
    assert!(output.err.contains(&format!("error: in {}: ", cluster.data_dir(0).display())), "{output:?}");
}
