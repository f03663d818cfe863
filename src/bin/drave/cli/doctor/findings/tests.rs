//! The findings for healthy and unhealthy clusters.

use super::*;
use drave::api::figures::Counters;
use drave::api::{DiskStatus, MemberStatus, PeerStatus, TimingStatus};
use std::time::Duration;

fn healthy_status(node: u64) -> Status {
    Status {
        node,
        role: if node == 1 { RoleName::Leader } else { RoleName::Follower },
        term: 3,
        applied: 90,
        digest: "7".into(),
        membership: "voters=1,2,3".into(),
        disk: DiskStatus { syncs: 900, sync_p50_us: 300.0, sync_p99_us: 2000.0, ..DiskStatus::default() },
        fsync: true,
        file_system: "ext4".into(),
        uptime_ms: 3_600_000,
        timing: TimingStatus { heartbeat_ms: 50.0, election_min_ms: 150.0, election_max_ms: 300.0 },
        version: "0.1.0 (release)".into(),
        members: (1..=3).map(|node| MemberStatus { node, kind: "voter".into(), ..Default::default() }).collect(),
        peers: (2..=3).map(|node| PeerStatus { node, stage: "stream".into(), ..Default::default() }).collect(),
        ..Status::default()
    }
}

fn node_report(status: Status) -> NodeReport {
    let mut round_trips = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
    round_trips.record(400).unwrap();
    NodeReport { endpoint: format!("h:{}", status.node), status: Ok(status), round_trips }
}

/// The findings that are not `PASS` for three nodes, which are healthy until `change` modifies them.
fn problems(change: impl FnOnce(&mut Vec<NodeReport>)) -> Vec<(Level, String)> {
    let mut nodes: Vec<NodeReport> = (1..=3).map(|id| node_report(healthy_status(id))).collect();
    change(&mut nodes);
    let problems = examine(&nodes).into_iter().filter(|finding| finding.level != Level::Pass);
    problems.map(|finding| (finding.level, finding.subject)).collect()
}

fn status_mut(node: &mut NodeReport) -> &mut Status {
    node.status.as_mut().unwrap()
}

#[test]
fn healthy_cluster_passes_all_checks() {
    assert_eq!(problems(|_| {}), []);
}

#[test]
fn follower_that_lost_and_recovered_entries_causes_warning() {
    let mut leader = healthy_status(1);
    leader.peers[1].losses = 1;
    let findings = examine(&[node_report(leader), node_report(healthy_status(2)), node_report(healthy_status(3))]);
    let problems: Vec<&Finding> = findings.iter().filter(|finding| finding.level != Level::Pass).collect();
    let [finding] = problems[..] else { panic!("{}", problems.len()) };
    assert_eq!((finding.level, finding.subject.as_str()), (Level::Warn, "n3 in step"));
    assert!(finding.result.contains("had lost acknowledged entries"), "{}", finding.result);
}

#[test]
fn each_problem_causes_its_own_finding_only() {
    let single_finding = |level, subject: &str| vec![(level, subject.to_owned())];
    assert_eq!(problems(|nodes| status_mut(&mut nodes[1]).fsync = false), single_finding(Level::Fail, "n2 fsync"));
    assert_eq!(
        problems(|nodes| status_mut(&mut nodes[1]).disk.sync_p50_us = 4.0),
        single_finding(Level::Warn, "n2 fsync")
    );
    assert_eq!(
        problems(|nodes| status_mut(&mut nodes[2]).file_system = "nfs".into()),
        single_finding(Level::Warn, "n3 file system")
    );
    assert_eq!(problems(|nodes| status_mut(&mut nodes[2]).low_space = true), single_finding(Level::Fail, "n3 room"));
    assert_eq!(
        problems(|nodes| status_mut(&mut nodes[2]).log.lacks_room = true),
        single_finding(Level::Warn, "n3 room")
    );
    let found_damage = |nodes: &mut Vec<NodeReport>| status_mut(&mut nodes[1]).scrub.found = 1;
    assert_eq!(problems(found_damage), single_finding(Level::Warn, "n2 files"), "also if the file is mended");
    assert_eq!(problems(|nodes| status_mut(&mut nodes[2]).digest = "8".into()), single_finding(Level::Fail, "states"));
    assert_eq!(
        problems(|nodes| status_mut(&mut nodes[2]).version = "0.2.0 (release)".into()),
        single_finding(Level::Warn, "version")
    );
    assert_eq!(
        problems(|nodes| status_mut(&mut nodes[0]).peers[1].lag = LAG_ENTRIES_MAX + 1),
        single_finding(Level::Warn, "n3 in step")
    );
    let slow_sync = |nodes: &mut Vec<NodeReport>| status_mut(&mut nodes[1]).disk.sync_p99_us = 20_000.0;
    assert_eq!(problems(slow_sync), single_finding(Level::Warn, "broadcast ≪ election"));
    let very_slow_sync = |nodes: &mut Vec<NodeReport>| status_mut(&mut nodes[1]).disk.sync_p99_us = 80_000.0;
    assert_eq!(problems(very_slow_sync), single_finding(Level::Fail, "broadcast ≪ election"));
    let few_samples = |nodes: &mut Vec<NodeReport>| {
        status_mut(&mut nodes[1]).disk = DiskStatus { syncs: 3, ..DiskStatus::default() };
        status_mut(&mut nodes[0]).uptime_ms = 5000;
        nodes.iter_mut().for_each(|node| status_mut(node).uptime_ms = 5000);
        status_mut(&mut nodes[1]).elections = [("timeout".to_owned(), 2)].into();
    };
    assert_eq!(problems(few_samples), [], "too few syncs and elections cause no warning");
    let with_former_address = |address: &'static str| {
        move |nodes: &mut Vec<NodeReport>| {
            status_mut(&mut nodes[0])
                .members
                .iter_mut()
                .for_each(|member| member.address = format!("h:{}", member.node));
            let round_trips = nodes[0].round_trips.clone();
            nodes.push(NodeReport { endpoint: address.to_owned(), status: Err("refused".to_owned()), round_trips });
        }
    };
    assert_eq!(
        problems(with_former_address("old:1")),
        single_finding(Level::Warn, "old:1"),
        "an unreachable former address is only a warning"
    );
    let with_missing_node = |nodes: &mut Vec<NodeReport>| {
        with_former_address("old:1")(nodes);
        nodes.remove(2);
    };
    assert!(problems(with_missing_node).contains(&(Level::Fail, "old:1".to_owned())));
    let many_elections =
        |nodes: &mut Vec<NodeReport>| status_mut(&mut nodes[1]).elections = [("timeout".to_owned(), 100)].into();
    assert_eq!(problems(many_elections), single_finding(Level::Warn, "election ≪ MTBF"));
    let many_transfers =
        |nodes: &mut Vec<NodeReport>| status_mut(&mut nodes[1]).elections = [("transfer".to_owned(), 100)].into();
    assert_eq!(problems(many_transfers), []);
}

#[test]
fn certificates_that_expire_soon_are_reported() {
    let now = Duration::from_secs(1_800_000_000);
    let findings = |own, authority| {
        let status = Status { certificate_expires: own, authority_expires: authority, ..healthy_status(2) };
        check_certificates(&[&status], now)
            .into_iter()
            .map(|finding| (finding.level, finding.subject))
            .collect::<Vec<_>>()
    };
    let expiry_in_days = |days: u64| Some(1_800_000_000 + days * 86_400);
    assert_eq!(findings(None, None), [], "a node without TLS has no certificate");
    let (own, authority) = ("n2 certificate".to_owned(), "n2 authority".to_owned());
    assert_eq!(findings(expiry_in_days(15), expiry_in_days(3)), [(Level::Pass, own.clone()), (Level::Warn, authority)]);
    assert_eq!(findings(Some(1_799_999_999), None), [(Level::Fail, own)]);
}

/// Heartbeat round trips of a leader to another member, each in milliseconds.
fn round_trip_buckets(ms: impl IntoIterator<Item = u64>) -> Buckets {
    let mut buckets = Buckets::of_durations();
    ms.into_iter().for_each(|ms| buckets.record_duration(Duration::from_millis(ms)));
    buckets
}

#[test]
fn election_timeout_is_compared_with_the_leaders_round_trips() {
    let far_from_client = |nodes: &mut Vec<NodeReport>| {
        for node in nodes {
            node.round_trips.record(400_000).unwrap();
        }
    };
    assert_eq!(problems(far_from_client), []);
    let far_from_leader = |node: u64, ms: u64| {
        move |nodes: &mut Vec<NodeReport>| {
            let round_trip_ns = [(2, round_trip_buckets([1])), (node, round_trip_buckets([ms]))].into();
            status_mut(&mut nodes[0]).figures = Counters { round_trip_ns, ..Counters::default() };
            status_mut(&mut nodes[0]).members.push(MemberStatus {
                node: 4,
                kind: "learner".into(),
                ..Default::default()
            });
        }
    };
    let election_finding = |level| vec![(level, "broadcast ≪ election".to_owned())];
    assert_eq!(problems(far_from_leader(3, 5)), []);
    assert_eq!(problems(far_from_leader(3, 20)), election_finding(Level::Warn));
    assert_eq!(problems(far_from_leader(3, 100)), election_finding(Level::Fail));
    assert_eq!(problems(far_from_leader(4, 100)), [], "a learner deposes no leader");
}

#[test]
fn quantile_is_interpolated_between_bucket_bounds() {
    let quantile_ms = |buckets: &Buckets, q| quantile(buckets, q).map(|ns| (ns / 1e4).round() / 100.0);
    assert_eq!(quantile_ms(&round_trip_buckets([]), 0.99), None);
    // All samples are in the bucket from 5 to 10 ms, whose middle is 7.5 ms.
    assert_eq!(quantile_ms(&round_trip_buckets([7, 7, 7, 7]), 0.5), Some(7.5));
    assert_eq!(quantile_ms(&round_trip_buckets([1; 99].into_iter().chain([60_000])), 0.99), Some(1.0));
    assert_eq!(
        quantile_ms(&round_trip_buckets([60_000]), 0.99),
        Some(10_000.0),
        "a sample above all bounds counts as the last bound"
    );
    assert_eq!(
        quantile(&Buckets { bounds: vec![5], ..Buckets::default() }, 0.99),
        None,
        "buckets without samples have no quantile"
    );
}

#[test]
fn voters_that_tolerate_no_failure_are_reported() {
    let third_node_down = |nodes: &mut Vec<NodeReport>| nodes[2].status = Err("refused".into());
    assert_eq!(problems(third_node_down), [(Level::Fail, "h:3".to_owned()), (Level::Fail, "voters".to_owned())]);
    let four_voters = |nodes: &mut Vec<NodeReport>| {
        let mut fourth = healthy_status(4);
        fourth.role = RoleName::Follower;
        nodes.push(node_report(fourth));
        status_mut(&mut nodes[0]).members.push(MemberStatus { node: 4, kind: "voter".into(), ..Default::default() });
    };
    assert_eq!(problems(four_voters), [(Level::Warn, "voters".to_owned())]);
    let single_voter = |nodes: &mut Vec<NodeReport>| {
        nodes.truncate(1);
        status_mut(&mut nodes[0]).members.truncate(1);
        status_mut(&mut nodes[0]).peers.clear();
    };
    assert_eq!(problems(single_voter), [(Level::Warn, "voters".to_owned())]);
    let two_voters = |nodes: &mut Vec<NodeReport>| {
        nodes.truncate(2);
        status_mut(&mut nodes[0]).members.truncate(2);
        status_mut(&mut nodes[0]).peers.truncate(1);
    };
    assert_eq!(problems(two_voters), [(Level::Warn, "voters".to_owned())], "a quorum of two voters is both of them");
    let one_of_two_down = |nodes: &mut Vec<NodeReport>| {
        two_voters(nodes);
        nodes[1].status = Err("refused".into());
    };
    assert_eq!(problems(one_of_two_down), [(Level::Fail, "h:2".to_owned()), (Level::Fail, "voters".to_owned())]);
    assert_eq!(
        problems(|nodes| status_mut(&mut nodes[0]).role = RoleName::Follower),
        [(Level::Fail, "leader".to_owned())]
    );
}

#[test]
fn joint_configuration_needs_both_majorities() {
    let joint_cluster = |kinds: &'static [&str], answering: &'static [u64]| {
        move |nodes: &mut Vec<NodeReport>| {
            let kinds_and_ids = kinds.iter().zip(1..);
            let to_member =
                |(kind, node): (&&str, u64)| MemberStatus { node, kind: (*kind).into(), ..Default::default() };
            let mut leader = healthy_status(1);
            leader.members = kinds_and_ids.map(to_member).collect();
            leader.membership = "voters=… outgoing=…".into();
            *nodes = answering
                .iter()
                .map(|id| node_report(if *id == 1 { leader.clone() } else { healthy_status(*id) }))
                .collect();
        }
    };
    let change_in_progress_warning = || (Level::Warn, "membership".to_owned());
    let failed_check = |subject: &str| (Level::Fail, subject.to_owned());
    // The voters change from n1, n2, n3 to n1, n4, n5. If n1, n2, n3 answer, only one of the new voters does.
    let two_voters_replaced = &["voter", "outgoing", "outgoing", "incoming", "incoming"];
    assert_eq!(problems(joint_cluster(two_voters_replaced, &[1, 2, 3, 4, 5])), [change_in_progress_warning()]);
    assert_eq!(
        problems(joint_cluster(two_voters_replaced, &[1, 2, 3])),
        [failed_check("new voters"), change_in_progress_warning()]
    );
    assert_eq!(
        problems(joint_cluster(two_voters_replaced, &[1, 4, 5])),
        [failed_check("old voters"), change_in_progress_warning()]
    );
    // The voters change from n1, n2, n3 to n1, n2, n3, n4. While n3 is down, the old voters tolerate no further
    // failure, and neither do the new ones.
    let one_voter_added = &["voter", "voter", "voter", "incoming"];
    let even_voters_warning = (Level::Warn, "new voters".to_owned());
    assert_eq!(
        problems(joint_cluster(one_voter_added, &[1, 2, 3, 4])),
        [even_voters_warning, change_in_progress_warning()]
    );
    assert_eq!(
        problems(joint_cluster(one_voter_added, &[1, 2, 4])),
        [failed_check("new voters"), failed_check("old voters"), change_in_progress_warning()]
    );
}
