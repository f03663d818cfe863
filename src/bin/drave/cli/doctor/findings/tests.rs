//! The findings for healthy and unhealthy clusters.

use super::*;
use drave::api::figures::Counters;
use drave::api::{DiskStatus, MemberStatus, PeerStatus, TimingStatus};
use std::time::Duration;

fn status(node: u64) -> Status {
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

fn node(status: Status) -> Node {
    let mut trips = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
    trips.record(400).unwrap();
    Node { endpoint: format!("h:{}", status.node), status: Ok(status), trips }
}

/// The findings that are not `PASS`, for three healthy nodes after `ails` has changed them.
fn problems(ails: impl FnOnce(&mut Vec<Node>)) -> Vec<(Level, String)> {
    let mut nodes: Vec<Node> = (1..=3).map(|id| node(status(id))).collect();
    ails(&mut nodes);
    let odd = examine(&nodes).into_iter().filter(|finding| finding.level != Level::Pass);
    odd.map(|finding| (finding.level, finding.what)).collect()
}

fn of(node: &mut Node) -> &mut Status {
    node.status.as_mut().unwrap()
}

#[test]
fn healthy_cluster_has_no_findings() {
    assert_eq!(problems(|_| {}), []);
}

#[test]
fn follower_that_recovered_from_a_loss_is_a_warning() {
    let mut leader = status(1);
    leader.peers[1].losses = 1;
    let findings = examine(&[node(leader), node(status(2)), node(status(3))]);
    let odd: Vec<&Finding> = findings.iter().filter(|finding| finding.level != Level::Pass).collect();
    let [finding] = odd[..] else { panic!("{}", odd.len()) };
    assert_eq!((finding.level, finding.what.as_str()), (Level::Warn, "n3 in step"));
    assert!(finding.found.contains("had lost acknowledged entries"), "{}", finding.found);
}

#[test]
fn each_problem_causes_its_own_finding_only() {
    let one = |level, what: &str| vec![(level, what.to_owned())];
    assert_eq!(problems(|nodes| of(&mut nodes[1]).fsync = false), one(Level::Fail, "n2 fsync"));
    assert_eq!(problems(|nodes| of(&mut nodes[1]).disk.sync_p50_us = 4.0), one(Level::Warn, "n2 fsync"));
    assert_eq!(problems(|nodes| of(&mut nodes[2]).file_system = "nfs".into()), one(Level::Warn, "n3 file system"));
    assert_eq!(problems(|nodes| of(&mut nodes[2]).low_space = true), one(Level::Fail, "n3 room"));
    assert_eq!(problems(|nodes| of(&mut nodes[2]).log.lacks_room = true), one(Level::Warn, "n3 room"));
    assert_eq!(problems(|nodes| of(&mut nodes[2]).digest = "8".into()), one(Level::Fail, "states"));
    assert_eq!(problems(|nodes| of(&mut nodes[2]).version = "0.2.0 (release)".into()), one(Level::Warn, "version"));
    assert_eq!(problems(|nodes| of(&mut nodes[0]).peers[1].lag = LAGS + 1), one(Level::Warn, "n3 in step"));
    let tight = |nodes: &mut Vec<Node>| of(&mut nodes[1]).disk.sync_p99_us = 20_000.0;
    assert_eq!(problems(tight), one(Level::Warn, "broadcast ≪ election"));
    let hopeless = |nodes: &mut Vec<Node>| of(&mut nodes[1]).disk.sync_p99_us = 80_000.0;
    assert_eq!(problems(hopeless), one(Level::Fail, "broadcast ≪ election"));
    let few = |nodes: &mut Vec<Node>| {
        of(&mut nodes[1]).disk = DiskStatus { syncs: 3, ..DiskStatus::default() };
        of(&mut nodes[0]).uptime_ms = 5000;
        nodes.iter_mut().for_each(|node| of(node).uptime_ms = 5000);
        of(&mut nodes[1]).elections = [("timeout".to_owned(), 2)].into();
    };
    assert_eq!(problems(few), [], "too few samples to judge");
    let moved = |address: &'static str| {
        move |nodes: &mut Vec<Node>| {
            of(&mut nodes[0]).members.iter_mut().for_each(|member| member.address = format!("h:{}", member.node));
            let trips = nodes[0].trips.clone();
            nodes.push(Node { endpoint: address.to_owned(), status: Err("refused".to_owned()), trips });
        }
    };
    assert_eq!(problems(moved("old:1")), one(Level::Warn, "old:1"), "a former address of a member");
    let gone = |nodes: &mut Vec<Node>| {
        moved("old:1")(nodes);
        nodes.remove(2);
    };
    assert!(problems(gone).contains(&(Level::Fail, "old:1".to_owned())));
    let restless = |nodes: &mut Vec<Node>| of(&mut nodes[1]).elections = [("timeout".to_owned(), 100)].into();
    assert_eq!(problems(restless), one(Level::Warn, "election ≪ MTBF"));
    let handed_over = |nodes: &mut Vec<Node>| of(&mut nodes[1]).elections = [("transfer".to_owned(), 100)].into();
    assert_eq!(problems(handed_over), []);
}

#[test]
fn certificates_that_expire_soon_are_found() {
    let now = Duration::from_secs(1_800_000_000);
    let of = |own, authority| {
        let status = Status { certificate_expires: own, authority_expires: authority, ..status(2) };
        certificates(&[&status], now).into_iter().map(|finding| (finding.level, finding.what)).collect::<Vec<_>>()
    };
    let in_days = |days: u64| Some(1_800_000_000 + days * 86_400);
    assert_eq!(of(None, None), [], "nothing is encrypted");
    let (own, authority) = ("n2 certificate".to_owned(), "n2 authority".to_owned());
    assert_eq!(of(in_days(15), in_days(3)), [(Level::Pass, own.clone()), (Level::Warn, authority)]);
    assert_eq!(of(Some(1_799_999_999), None), [(Level::Fail, own)]);
}

/// Round trips of a leader to another member.
fn trips(ms: impl IntoIterator<Item = u64>) -> Buckets {
    let mut trips = Buckets::of_durations();
    ms.into_iter().for_each(|ms| trips.took(Duration::from_millis(ms)));
    trips
}

#[test]
fn election_timeout_is_compared_with_the_leaders_round_trips() {
    let far_from_here = |nodes: &mut Vec<Node>| {
        for node in nodes {
            node.trips.record(400_000).unwrap();
        }
    };
    assert_eq!(problems(far_from_here), []);
    let far_from_the_leader = |node: u64, ms: u64| {
        move |nodes: &mut Vec<Node>| {
            let round_trip_ns = [(2, trips([1])), (node, trips([ms]))].into();
            of(&mut nodes[0]).figures = Counters { round_trip_ns, ..Counters::default() };
            of(&mut nodes[0]).members.push(MemberStatus { node: 4, kind: "learner".into(), ..Default::default() });
        }
    };
    let one = |level| vec![(level, "broadcast ≪ election".to_owned())];
    assert_eq!(problems(far_from_the_leader(3, 5)), []);
    assert_eq!(problems(far_from_the_leader(3, 20)), one(Level::Warn));
    assert_eq!(problems(far_from_the_leader(3, 100)), one(Level::Fail));
    assert_eq!(problems(far_from_the_leader(4, 100)), [], "a learner deposes no leader");
}

#[test]
fn quantile_is_interpolated_between_bucket_bounds() {
    let ms = |buckets: &Buckets, part| quantile(buckets, part).map(|ns| (ns / 1e4).round() / 100.0);
    assert_eq!(ms(&trips([]), 0.99), None);
    // Between 5 and 10 ms: as many below as above.
    assert_eq!(ms(&trips([7, 7, 7, 7]), 0.5), Some(7.5));
    assert_eq!(ms(&trips([1; 99].into_iter().chain([60_000])), 0.99), Some(1.0));
    assert_eq!(ms(&trips([60_000]), 0.99), Some(10_000.0), "above all bounds");
    assert_eq!(quantile(&Buckets { bounds: vec![5], ..Buckets::default() }, 0.99), None, "buckets without counts");
}

#[test]
fn voters_that_tolerate_no_failure_are_found() {
    let gone = |nodes: &mut Vec<Node>| nodes[2].status = Err("refused".into());
    assert_eq!(problems(gone), [(Level::Fail, "h:3".to_owned()), (Level::Fail, "voters".to_owned())]);
    let even = |nodes: &mut Vec<Node>| {
        let mut fourth = status(4);
        fourth.role = RoleName::Follower;
        nodes.push(node(fourth));
        of(&mut nodes[0]).members.push(MemberStatus { node: 4, kind: "voter".into(), ..Default::default() });
    };
    assert_eq!(problems(even), [(Level::Warn, "voters".to_owned())]);
    let alone = |nodes: &mut Vec<Node>| {
        nodes.truncate(1);
        of(&mut nodes[0]).members.truncate(1);
        of(&mut nodes[0]).peers.clear();
    };
    assert_eq!(problems(alone), [(Level::Warn, "voters".to_owned())]);
    let two = |nodes: &mut Vec<Node>| {
        nodes.truncate(2);
        of(&mut nodes[0]).members.truncate(2);
        of(&mut nodes[0]).peers.truncate(1);
    };
    assert_eq!(problems(two), [(Level::Warn, "voters".to_owned())], "both answer");
    let one_of_two = |nodes: &mut Vec<Node>| {
        two(nodes);
        nodes[1].status = Err("refused".into());
    };
    assert_eq!(problems(one_of_two), [(Level::Fail, "h:2".to_owned()), (Level::Fail, "voters".to_owned())]);
    assert_eq!(problems(|nodes| of(&mut nodes[0]).role = RoleName::Follower), [(Level::Fail, "leader".to_owned())]);
}

#[test]
fn joint_configuration_needs_both_majorities() {
    let change = |kinds: &'static [&str], answer: &'static [u64]| {
        move |nodes: &mut Vec<Node>| {
            let members = kinds.iter().zip(1..);
            let member = |(kind, node): (&&str, u64)| MemberStatus { node, kind: (*kind).into(), ..Default::default() };
            let mut leader = status(1);
            leader.members = members.map(member).collect();
            leader.membership = "voters=… outgoing=…".into();
            *nodes = answer.iter().map(|id| node(if *id == 1 { leader.clone() } else { status(*id) })).collect();
        }
    };
    let under_way = || (Level::Warn, "membership".to_owned());
    let fail = |what: &str| (Level::Fail, what.to_owned());
    // From 1, 2 and 3 to 1, 4 and 5: three of five answer, but of the new voters only one.
    let replaced = &["voter", "outgoing", "outgoing", "incoming", "incoming"];
    assert_eq!(problems(change(replaced, &[1, 2, 3, 4, 5])), [under_way()]);
    assert_eq!(problems(change(replaced, &[1, 2, 3])), [fail("new voters"), under_way()]);
    assert_eq!(problems(change(replaced, &[1, 4, 5])), [fail("old voters"), under_way()]);
    // From 1, 2 and 3 to these and 4: without 3, one more failure is one too many for either half.
    let grown = &["voter", "voter", "voter", "incoming"];
    let even = (Level::Warn, "new voters".to_owned());
    assert_eq!(problems(change(grown, &[1, 2, 3, 4])), [even, under_way()]);
    assert_eq!(problems(change(grown, &[1, 2, 4])), [fail("new voters"), fail("old voters"), under_way()]);
}
