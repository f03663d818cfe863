//! Three nodes started in any order, at any moment, elect one leader, and only one per term.
//!
//! `DRAVE_STARTS` is the number of starts. If it is set, elections must also be fast; `--nocapture` shows the times.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::{Cluster, wait_until};

mod support;

/// Upper bound of the default election timeout of `serve`.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

/// Starts a cluster. Returns the time from the start of its second node until there was a leader, and the term.
fn start_in_random_order(rng: &mut StdRng) -> (Duration, u64) {
    let mut cluster = Cluster::prepare(3);
    let mut order = [0, 1, 2];
    order.shuffle(rng);
    let mut second_node_started = Instant::now();
    for (nth, n) in order.into_iter().enumerate() {
        cluster.spawn(n);
        if nth == 1 {
            second_node_started = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..=50)));
    }
    cluster.wait_for_leader();
    let elapsed = second_node_started.elapsed();
    let all_nodes_follow_one_leader = || {
        let statuses: Vec<_> = (0..3).filter_map(|n| cluster.status(n)).collect();
        let all_know_leader = statuses.len() == 3 && statuses.iter().all(|status| status.leader.is_some());
        let all_nodes_follow_one_leader =
            statuses.windows(2).all(|two| (two[0].term, two[0].leader) == (two[1].term, two[1].leader));
        (all_know_leader && all_nodes_follow_one_leader).then(|| statuses[0].term)
    };
    let term = wait_until("all nodes follow the same leader", all_nodes_follow_one_leader, || cluster.logs());
    expect_one_leader_a_term(&cluster.logs());
    (elapsed, term)
}

/// Asserts from the logs of all nodes that no two of them led the same term.
fn expect_one_leader_a_term(logs: &str) {
    let mut leaders = BTreeMap::new();
    for line in logs.lines().filter(|line| line.contains("] leads term ") && !line.contains("no more")) {
        let term = line.split("] leads term ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        assert_eq!(leaders.insert(term, line), None, "two leaders in term {term}\n{logs}");
    }
    assert!(!leaders.is_empty(), "no node has logged that it leads\n{logs}");
}

#[test]
fn start_in_any_order_elects_one_leader() {
    let requested_starts: Option<usize> = std::env::var("DRAVE_STARTS").ok().map(|text| text.parse().unwrap());
    let start_count = requested_starts.unwrap_or(20);
    let mut rng = StdRng::seed_from_u64(7);
    let (mut times, terms): (Vec<_>, Vec<_>) = (0..start_count).map(|_| start_in_random_order(&mut rng)).unzip();
    times.sort_unstable();
    let percentile = |percent: usize| times[(times.len() - 1) * percent / 100];
    let first_term_count = terms.iter().filter(|term| **term == 1).count();
    let late_count = times.iter().filter(|time| **time > 5 * ELECTION_TIMEOUT).count();
    eprintln!(
        "{start_count} starts: leader after {:?} (p50) {:?} (p90) {:?} (longest); {first_term_count} in term 1; \
         {late_count} late",
        percentile(50),
        percentile(90),
        percentile(100)
    );
    // Only with `DRAVE_STARTS` is the machine assumed to be otherwise idle. Even then some elections may be late, but
    // not half of them.
    assert!(requested_starts.is_none() || percentile(50) <= 5 * ELECTION_TIMEOUT, "{times:?}");
}
