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

    let output_on_running_node = run_recover(&cluster, 0, &["--accept-data-loss"]);
    assert_ne!(output_on_running_node.code, Some(0), "{output_on_running_node:?}");
    assert!(output_on_running_node.err.contains("in use by another process"), "{output_on_running_node:?}");
    assert!(
        output_on_running_node.err.contains("stop it first") && !output_on_running_node.err.contains("--data"),
        "{output_on_running_node:?}"
    );

    (0..3).for_each(|n| cluster.kill(n));
    [1, 2].into_iter().for_each(|n| std::fs::remove_dir_all(cluster.data_dir(n)).unwrap());
    let output_without_consent = run_recover(&cluster, 0, &[]);
    assert_eq!(output_without_consent.code, Some(1), "{output_without_consent:?}");
    assert!(
        output_without_consent.out.contains("lost for good: all that n2, n3 acknowledged after"),
        "{output_without_consent:?}"
    );
    assert!(output_without_consent.err.contains("nothing was changed"), "{output_without_consent:?}");

    let recover_output = run_recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(recover_output.code, Some(0), "{recover_output:?}");
    assert!(recover_output.out.contains("n1 alone is a new cluster"), "{recover_output:?}");
    let former_data_dir = cluster.data_dir(0).join("before-recover");
    let dump_output = run(support::drave_command(&["dump"]).arg(&former_data_dir));
    assert!(dump_output.out.contains("\"lunch\""), "the former log is kept: {dump_output:?}");
    let diff_output = run(support::drave_command(&["diff"]).arg(&former_data_dir).arg(cluster.data_dir(0)));
    assert!(diff_output.err.contains("only logs of one cluster can be compared"), "{diff_output:?}");
    assert!(
        diff_output.err.contains("holds a new cluster since") && diff_output.err.contains("before-recover)"),
        "{diff_output:?}"
    );
    let repeated_output = run_recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(repeated_output.code, Some(1), "{repeated_output:?}");
    assert!(repeated_output.err.contains("a cluster of its own already"), "{repeated_output:?}");

    cluster.spawn(0);
    let serves_lunch = || (cluster.run(&["get", "lunch"]).out == "noodles").then_some(());
    wait_until("the recovered node serves its data", serves_lunch, || cluster.logs());
    assert_eq!(cluster.run(&["put", "lunch", "soup"]).code, Some(0), "{}", cluster.logs());
    let applied_index = cluster.status(0).map(|status| status.applied);
    assert!(applied_index > Some(1_000_000_000_000), "no index is assigned twice: {applied_index:?}");
    let check_output = run(support::drave_command(&["check"]).arg(cluster.data_dir(0)));
    assert_eq!(check_output.code, Some(0), "{check_output:?}");

    // The other nodes join with empty directories and become voters again.
    cluster.founder_count = 1;
    for n in [1, 2] {
        cluster.spawn(n);
        let voter_count = |status: &Status| status.members.iter().filter(|member| member.kind == "voter").count();
        let is_voter = || cluster.status(0).filter(|status| voter_count(status) > n).map(|_| ());
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
    let recover_output = run_recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(recover_output.code, Some(0), "{recover_output:?}");
    cluster.spawn(0);
    let run_at_node =
        |n: usize, args: &[&str]| run(cluster.drave_command(args).env("DRAVE_ENDPOINTS", &cluster.addresses[n]));
    let accepts_write =
        |n: usize, value: &str| (run_at_node(n, &["put", "lunch", value]).code == Some(0)).then_some(());
    wait_until("the recovered node accepts writes", || accepts_write(0, "soup"), || cluster.logs());
    wait_until("the other two nodes accept writes", || accepts_write(1, "bread"), || cluster.logs());
    assert_eq!(
        (run_at_node(0, &["get", "lunch"]).out, run_at_node(2, &["get", "lunch"]).out),
        ("soup".into(), "bread".into())
    );
    let other_cluster_is_logged = || cluster.logs().contains("another cluster").then_some(());
    wait_until("a node logs the other cluster", other_cluster_is_logged, || cluster.logs());
    cluster.expect_no_deaths();
}
