//! `drave recover`: a majority is lost for good, and one node continues with the data it holds.

use drave::api::Status;
use support::{Cluster, run, wait_until};

mod support;

fn run_recover(cluster: &Cluster, n: usize, args: &[&str]) -> support::ProgramOutput {
    run(support::drave_command(&[&["recover"], args].concat()).arg(cluster.data_dir(n)))
}

/// sebadob/hiqlite#98: the cluster could not start when the most advanced node was gone for good.
#[test]
fn last_node_recovers_alone_with_accept_data_loss() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    let all_applied = || (0..3).all(|n| cluster.status(n).is_some_and(|status| status.applied >= 3)).then_some(());
    wait_until("all nodes applied the put", all_applied, || cluster.logs());

    let on_running_node = run_recover(&cluster, 0, &["--accept-data-loss"]);
    assert_ne!(on_running_node.code, Some(0), "{on_running_node:?}");
    assert!(on_running_node.err.contains("in use by another process"), "{on_running_node:?}");
    assert!(
        on_running_node.err.contains("stop it first") && !on_running_node.err.contains("--data"),
        "{on_running_node:?}"
    );

    (0..3).for_each(|n| cluster.kill(n));
    [1, 2].into_iter().for_each(|n| std::fs::remove_dir_all(cluster.data_dir(n)).unwrap());
    let without_consent = run_recover(&cluster, 0, &[]);
    assert_eq!(without_consent.code, Some(1), "{without_consent:?}");
    assert!(without_consent.out.contains("lost for good: all that n2, n3 acknowledged after"), "{without_consent:?}");
    assert!(without_consent.err.contains("nothing was changed"), "{without_consent:?}");

    let recovered = run_recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(recovered.code, Some(0), "{recovered:?}");
    assert!(recovered.out.contains("n1 alone is a new cluster"), "{recovered:?}");
    let former_data = cluster.data_dir(0).join("before-recover");
    let dump = run(support::drave_command(&["dump"]).arg(&former_data));
    assert!(dump.out.contains("\"lunch\""), "the former log is kept: {dump:?}");
    let diff = run(support::drave_command(&["diff"]).arg(&former_data).arg(cluster.data_dir(0)));
    assert!(diff.err.contains("only logs of one cluster can be compared"), "{diff:?}");
    assert!(diff.err.contains("holds a new cluster since") && diff.err.contains("before-recover)"), "{diff:?}");
    let repeated = run_recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(repeated.code, Some(1), "{repeated:?}");
    assert!(repeated.err.contains("a cluster of its own already"), "{repeated:?}");

    cluster.spawn(0);
    let serves_lunch = || (cluster.run(&["get", "lunch"]).out == "noodles").then_some(());
    wait_until("the recovered node serves its data", serves_lunch, || cluster.logs());
    assert_eq!(cluster.run(&["put", "lunch", "soup"]).code, Some(0), "{}", cluster.logs());
    let index = cluster.status(0).map(|status| status.applied);
    assert!(index > Some(1_000_000_000_000), "no index is assigned twice: {index:?}");
    let check = run(support::drave_command(&["check"]).arg(cluster.data_dir(0)));
    assert_eq!(check.code, Some(0), "{check:?}");

    // The other nodes join with empty directories and become voters again.
    cluster.founder_count = 1;
    for n in [1, 2] {
        cluster.spawn(n);
        let voters = |status: &Status| status.members.iter().filter(|member| member.kind == "voter").count();
        let is_voter = || cluster.status(0).filter(|status| voters(status) > n).map(|_| ());
        wait_until("the joined node is a voter", is_voter, || cluster.logs());
    }
    cluster.expect_no_deaths();
    cluster.wait_for_convergence();
}

/// The majority that seemed lost was only partitioned, and continues. The recovered node and the other nodes never
/// accept each other as members of one cluster, and a node logs this.
#[test]
fn recovered_node_and_partitioned_majority_reject_each_other() {
    let mut cluster = Cluster::start(3);
    cluster.wait_for_leader();
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    cluster.wait_for_convergence();
    cluster.kill(0);
    let recovered = run_recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(recovered.code, Some(0), "{recovered:?}");
    cluster.spawn(0);
    let run_at =
        |n: usize, args: &[&str]| run(cluster.drave_command(args).env("DRAVE_ENDPOINTS", &cluster.addresses[n]));
    let accepts_write = |n: usize, value: &str| (run_at(n, &["put", "lunch", value]).code == Some(0)).then_some(());
    wait_until("the recovered node accepts writes", || accepts_write(0, "soup"), || cluster.logs());
    wait_until("the other two nodes accept writes", || accepts_write(1, "bread"), || cluster.logs());
    assert_eq!((run_at(0, &["get", "lunch"]).out, run_at(2, &["get", "lunch"]).out), ("soup".into(), "bread".into()));
    let other_cluster_logged = || cluster.logs().contains("another cluster").then_some(());
    wait_until("a node logs the other cluster", other_cluster_logged, || cluster.logs());
    cluster.expect_no_deaths();
}
