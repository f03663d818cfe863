//! Tests of the model: observations and the resulting events.

use super::*;
use drave::api::{DiskStatus, LogStatus, MemberStatus, PeerStatus, StageStatus};

/// The status of a node, in a cluster of three led by n1.
pub fn status(node: u64, role: RoleName, term: u64, commit: u64) -> Status {
    let member = |node| MemberStatus {
        node,
        kind: "voter".into(),
        address: format!("127.0.0.1:740{node}"),
        ..MemberStatus::default()
    };
    let peer = |node| PeerStatus { node, stage: "stream".into(), matched: commit - 3, lag: 3, ..PeerStatus::default() };
    let others = (1..=3).filter(|other| *other != node);
    Status {
        node,
        cluster: "6f2c91aa".into(),
        role,
        term,
        leader: Some(1),
        commit,
        applied: commit - 1,
        last: commit + 2,
        durable: commit + 1,
        digest: String::new(),
        sessions: 0,
        membership: "voters=1,2,3".into(),
        peers: if role == RoleName::Leader { others.map(peer).collect() } else { Vec::new() },
        disk: DiskStatus { sync_p99_us: 310.0, ..DiskStatus::default() },
        fsync: true,
        in_memory: false,
        low_space: false,
        cpu_ns: 0,
        uptime_ms: 1000,
        stages: StageStatus::default(),
        version: String::new(),
        elections: std::collections::BTreeMap::new(),
        members: (1..=3).map(member).collect(),
        hands_over: 0,
        log: LogStatus { bytes: 70_000, ..LogStatus::default() },
        ..Status::default()
    }
}

/// A model of three child processes without any status yet.
pub fn three() -> Model {
    Model::new("drave demo", "/tmp/d".into(), (1..=3).map(|id| (Some(id), format!("127.0.0.1:740{id}"))))
}

pub fn looked(node: u64, found: PollResult) -> Observation {
    Observation::Looked { endpoint: format!("127.0.0.1:740{node}"), found }
}

pub fn answers(status: Status) -> Observation {
    looked(status.node, PollResult::Answer(Box::new(status)))
}

pub fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A model of three nodes led by n1 in term 2, observed at this second; earlier events are dropped.
pub fn led(second: u64) -> Model {
    let mut model = three();
    for id in 1..=3 {
        model.update(at(second), Observation::Process { node: id, process: Process::Runs });
        let role = if id == 1 { RoleName::Leader } else { RoleName::Follower };
        model.update(at(second), answers(status(id, role, 2, 1000)));
    }
    model.events.clear();
    model
}

/// The events since the last call.
fn drain_events(model: &mut Model) -> Vec<String> {
    model.events.drain(..).map(|event| event.told.text).collect()
}

#[test]
fn new_leader_is_reported_once() {
    let mut model = three();
    model.update(at(1), answers(status(1, RoleName::Leader, 2, 10)));
    assert_eq!(drain_events(&mut model), ["n1 leads term 2"]);
    model.update(at(2), answers(status(1, RoleName::Leader, 2, 20)));
    model.update(at(2), answers(status(2, RoleName::Follower, 2, 20)));
    assert_eq!(drain_events(&mut model), [""; 0]);
    // The frozen old leader still considers itself leader; the higher term of the new leader decides.
    model.update(at(3), answers(status(2, RoleName::Leader, 3, 21)));
    assert_eq!(drain_events(&mut model), ["n2 leads term 3, after n1"]);
    assert_eq!(model.leader().unwrap().node, 2);
    model.update(at(4), answers(status(1, RoleName::Leader, 2, 20)));
    assert_eq!(drain_events(&mut model), [""; 0], "a leader of an earlier term is ignored");
}

#[test]
fn lost_and_regained_leader_is_reported() {
    let mut model = led(1);
    model.update(at(2), looked(1, PollResult::Silence));
    assert_eq!(drain_events(&mut model), ["n1 is silent: frozen, cut off, or very slow", "no leader; n1 led term 2"]);
    model.update(at(3), looked(1, PollResult::Silence));
    assert_eq!(drain_events(&mut model), [""; 0]);
    model.update(at(4), answers(status(1, RoleName::Leader, 2, 1000)));
    assert_eq!(drain_events(&mut model), ["n1 answers", "n1 still leads term 2"]);
}

#[test]
fn new_term_without_leader_is_reported() {
    let mut model = led(1);
    model.update(at(2), answers(status(2, RoleName::Candidate, 3, 1000)));
    assert_eq!(drain_events(&mut model), ["term 3 begins"]);
    model.update(at(3), answers(status(2, RoleName::Leader, 3, 1001)));
    assert_eq!(drain_events(&mut model), ["n2 leads term 3, after n1"]);
}

#[test]
fn child_process_state_is_reported_instead_of_silence() {
    let mut model = led(1);
    let process = |process| Observation::Process { node: 1, process };
    model.update(at(2), process(Process::Frozen));
    model.update(at(3), looked(1, PollResult::Silence));
    assert_eq!(drain_events(&mut model), ["n1 is frozen (SIGSTOP) and does not answer", "no leader; n1 led term 2"]);
    model.update(at(4), process(Process::Runs));
    model.update(at(4), answers(status(1, RoleName::Follower, 3, 1000)));
    assert_eq!(drain_events(&mut model), ["n1 runs again (SIGCONT)", "n1 answers", "term 3 begins"]);
    model.update(at(5), process(Process::Returns { seconds: 3 }));
    model.update(at(5), looked(1, PollResult::Nobody));
    model.update(at(6), process(Process::Returns { seconds: 2 }));
    assert_eq!(drain_events(&mut model), ["n1 died, and restarts in 3 s"]);
    model.update(at(8), process(Process::Runs));
    model.update(at(9), process(Process::Away));
    model.update(at(9), process(Process::Away));
    assert_eq!(drain_events(&mut model), ["n1 is started", "n1 died; press 1 to start it"]);
}

#[test]
fn node_down_and_restart_are_reported() {
    let mut model = Model::new("drave top", String::new(), [(None, "127.0.0.1:7401".to_owned())]);
    model.update(at(1), looked(1, PollResult::Nobody));
    model.update(at(2), looked(1, PollResult::Nobody));
    assert_eq!(drain_events(&mut model), ["127.0.0.1:7401 is down: nothing listens at 127.0.0.1:7401"]);
    model.update(at(3), answers(status(1, RoleName::Leader, 1, 5)));
    assert_eq!(drain_events(&mut model), ["n1 answers", "n1 leads term 1"]);
    let mut anew = status(1, RoleName::Leader, 1, 5);
    anew.uptime_ms = 1;
    model.update(at(4), answers(anew));
    assert_eq!(drain_events(&mut model), ["n1 was restarted"]);
}

#[test]
fn snapshot_and_disk_space_changes_are_reported() {
    let mut model = led(1);
    let mut now = status(2, RoleName::Follower, 2, 1000);
    now.log = LogStatus { snapshot: 900, snapshot_bytes: 4096, lacks_room: true, ..now.log };
    now.low_space = true;
    model.update(at(2), answers(now.clone()));
    model.update(at(3), answers(now.clone()));
    let expected =
        ["n2 has a snapshot up to 900, 4.0 KiB", "n2 has no disk space for a snapshot", "n2 is low on disk space"];
    assert_eq!(drain_events(&mut model), expected);
    now.low_space = false;
    model.update(at(4), answers(now));
    assert_eq!(drain_events(&mut model), ["n2 has enough disk space again"]);
}

#[test]
fn nodes_follow_membership_changes() {
    let mut model = Model::new("drave top", String::new(), [(None, "127.0.0.1:7401".to_owned())]);
    // As long as no leader is known, a follower's member list is used.
    model.update(at(1), answers(status(1, RoleName::Follower, 1, 5)));
    assert_eq!(model.endpoints(), ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]);
    model.update(at(1), answers(status(1, RoleName::Leader, 1, 5)));
    drain_events(&mut model);
    let mut now = status(1, RoleName::Leader, 1, 6);
    now.members.remove(2);
    now.membership = "voters=1,2".into();
    model.update(at(2), answers(now));
    assert_eq!(model.endpoints(), ["127.0.0.1:7401", "127.0.0.1:7402"]);
    assert_eq!(drain_events(&mut model), ["the members are now voters=1,2"]);
    // A status response that was in flight when the node left.
    model.update(at(3), answers(status(3, RoleName::Outside, 1, 5)));
    assert_eq!(model.nodes.len(), 2);
}

#[test]
fn given_endpoints_stay_and_members_are_bounded() {
    let mut model =
        Model::new("drave top", String::new(), [(None, "a:1".to_owned()), (None, "127.0.0.1:7401".to_owned())]);
    let mut now = status(1, RoleName::Leader, 1, 5);
    let many = (1..).map(|node| MemberStatus { node, address: format!("b:{node}"), ..MemberStatus::default() });
    now.members = many.take(3 * MEMBERS_MAX).collect();
    model.update(at(1), answers(now));
    assert!(model.endpoints().contains(&"a:1".to_owned()));
    assert_eq!(model.nodes.len(), 1 + MEMBERS_MAX);
}

#[test]
fn commit_rate_uses_time_between_responses() {
    let mut model = three();
    let half = Duration::from_millis(500);
    model.update(at(1), answers(status(1, RoleName::Leader, 1, 1_000_000)));
    model.tick(at(1));
    assert_eq!(model.commits().count(), 0, "entries committed before the first status do not count");
    // Half a second between the status responses, a whole second between the computations.
    model.update(at(1) + half, answers(status(1, RoleName::Leader, 1, 1_000_050)));
    model.tick(at(2));
    // No new commits.
    model.tick(at(3));
    // A node that is behind does not lower the commit index.
    model.update(at(3), answers(status(2, RoleName::Follower, 1, 999_000)));
    model.update(at(3) + half, answers(status(1, RoleName::Leader, 1, 1_000_450)));
    model.tick(at(4));
    model.tick(at(4));
    assert_eq!(model.commits().collect::<Vec<_>>(), [100, 0, 200]);
}

#[test]
fn events_and_commit_rates_are_bounded() {
    let mut model = led(0);
    for n in 0..2 * (EVENTS_MAX + SECONDS_MAX) as u64 {
        model.update(at(n), Observation::Told(EventText::new(Severity::Plain, n.to_string())));
        model.update(at(n), answers(status(1, RoleName::Leader, 2, 1000 + n)));
        model.tick(at(n));
    }
    assert_eq!((model.events.len(), model.commits().count()), (EVENTS_MAX, SECONDS_MAX));
    assert_eq!(model.events.back().unwrap().told.text, (2 * (EVENTS_MAX + SECONDS_MAX) - 1).to_string());
}
