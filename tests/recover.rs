//! `drave recover`: a majority is lost for good, and one node continues with the data it holds.

use drave::api::Status;
use support::{Cluster, run, until};

mod support;

fn recover(cluster: &Cluster, n: usize, words: &[&str]) -> support::Said {
    run(support::drave(&[&["recover"], words].concat()).arg(cluster.data(n)))
}

/// sebadob/hiqlite#98: the cluster could not start when the most advanced node was gone for good.
#[test]
fn last_node_recovers_alone_with_accept_data_loss() {
    let mut cluster = Cluster::start(3);
    cluster.leader();
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    let all = || (0..3).all(|n| cluster.status(n).is_some_and(|status| status.applied >= 3)).then_some(());
    until("all nodes applied the put", all, || cluster.logs());

    let running = recover(&cluster, 0, &["--accept-data-loss"]);
    assert_ne!(running.code, Some(0), "{running:?}");
    assert!(running.err.contains("in use by another process"), "{running:?}");
    assert!(running.err.contains("stop it first") && !running.err.contains("--data"), "{running:?}");

    (0..3).for_each(|n| cluster.kill(n));
    [1, 2].into_iter().for_each(|n| std::fs::remove_dir_all(cluster.data(n)).unwrap());
    let before = recover(&cluster, 0, &[]);
    assert_eq!(before.code, Some(1), "{before:?}");
    assert!(before.out.contains("lost for good: all that n2, n3 acknowledged after"), "{before:?}");
    assert!(before.err.contains("nothing was changed"), "{before:?}");

    let done = recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("n1 alone is a new cluster"), "{done:?}");
    let former = cluster.data(0).join("before-recover");
    let dumped = run(support::drave(&["dump"]).arg(&former));
    assert!(dumped.out.contains("\"lunch\""), "the former log is kept: {dumped:?}");
    let diff = run(support::drave(&["diff"]).arg(&former).arg(cluster.data(0)));
    assert!(diff.err.contains("only logs of one cluster can be compared"), "{diff:?}");
    assert!(diff.err.contains("holds a new cluster since") && diff.err.contains("before-recover)"), "{diff:?}");
    let again = recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("a cluster of its own already"), "{again:?}");

    cluster.spawn(0);
    let lunch = || (cluster.run(&["get", "lunch"]).out == "noodles").then_some(());
    until("the recovered node serves its data", lunch, || cluster.logs());
    assert_eq!(cluster.run(&["put", "lunch", "soup"]).code, Some(0), "{}", cluster.logs());
    let index = cluster.status(0).map(|status| status.applied);
    assert!(index > Some(1_000_000_000_000), "no index is assigned twice: {index:?}");
    let checked = run(support::drave(&["check"]).arg(cluster.data(0)));
    assert_eq!(checked.code, Some(0), "{checked:?}");

    // The other nodes join with empty directories and become voters again.
    cluster.founders = 1;
    for n in [1, 2] {
        cluster.spawn(n);
        let voters = |status: &Status| status.members.iter().filter(|member| member.kind == "voter").count();
        let rises = || cluster.status(0).filter(|status| voters(status) > n).map(|_| ());
        until("the joined node is a voter", rises, || cluster.logs());
    }
    cluster.expect_no_deaths();
    cluster.agree();
}

/// F15: the "lost" majority was only partitioned, and continues. The recovered node and the other nodes never accept
/// each other as members of one cluster, and each side logs this.
#[test]
fn recovered_node_and_partitioned_majority_stay_apart() {
    let mut cluster = Cluster::start(3);
    cluster.leader();
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    cluster.agree();
    cluster.kill(0);
    let done = recover(&cluster, 0, &["--accept-data-loss"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    cluster.spawn(0);
    let ask = |n: usize, words: &[&str]| run(cluster.drave(words).env("DRAVE_ENDPOINTS", &cluster.addresses[n]));
    let serves = |n: usize, dish: &str| (ask(n, &["put", "lunch", dish]).code == Some(0)).then_some(());
    until("the recovered node accepts writes", || serves(0, "soup"), || cluster.logs());
    until("the other two nodes accept writes", || serves(1, "bread"), || cluster.logs());
    assert_eq!((ask(0, &["get", "lunch"]).out, ask(2, &["get", "lunch"]).out), ("soup".into(), "bread".into()));
    let said = || cluster.logs().contains("another cluster").then_some(());
    until("a node logs the other cluster", said, || cluster.logs());
    cluster.expect_no_deaths();
}
