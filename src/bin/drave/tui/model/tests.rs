//! Tests of the model: the events that observations cause, and the bounds of its size.

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
        versions: Default::default(),
        elections: std::collections::BTreeMap::new(),
        members: (1..=3).map(member).collect(),
        hands_over: 0,
        log: LogStatus { bytes: 70_000, ..LogStatus::default() },
        ..Status::default()
    }
}

/// A model of three child processes without any status yet.
pub fn three_node_model() -> Model {
    Model::new("drave demo", "/tmp/d".into(), (1..=3).map(|id| (Some(id), format!("127.0.0.1:740{id}"))))
}

/// A status request to this node with this result.
pub fn poll_observation(node: u64, poll_result: PollResult) -> Observation {
    Observation::StatusPolled { endpoint: format!("127.0.0.1:740{node}"), poll_result }
}

/// A status request that a node answered with this status.
pub fn answer_observation(status: Status) -> Observation {
    poll_observation(status.node, PollResult::Answer(Box::new(status)))
}

pub fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A model of three nodes led by n1 in term 2, observed at this second; earlier events are dropped.
pub fn model_with_leader(second: u64) -> Model {
    let mut model = three_node_model();
    for id in 1..=3 {
        model.update(at(second), Observation::ProcessChecked { node: id, process: ProcessState::Running });
        let role = if id == 1 { RoleName::Leader } else { RoleName::Follower };
        model.update(at(second), answer_observation(status(id, role, 2, 1000)));
    }
    model.events.clear();
    model
}

/// Removes and returns the texts of all events.
fn drain_events(model: &mut Model) -> Vec<String> {
    model.events.drain(..).map(|event| event.description.text).collect()
}

#[test]
fn new_leader_is_reported_once() {
    let mut model = three_node_model();
    model.update(at(1), answer_observation(status(1, RoleName::Leader, 2, 10)));
    assert_eq!(drain_events(&mut model), ["n1 leads term 2"]);
    model.update(at(2), answer_observation(status(1, RoleName::Leader, 2, 20)));
    model.update(at(2), answer_observation(status(2, RoleName::Follower, 2, 20)));
    assert_eq!(drain_events(&mut model), [""; 0]);
    // The frozen old leader still considers itself leader; the higher term of the new leader decides.
    model.update(at(3), answer_observation(status(2, RoleName::Leader, 3, 21)));
    assert_eq!(drain_events(&mut model), ["n2 leads term 3, after n1"]);
    assert_eq!(model.leader().unwrap().node, 2);
    model.update(at(4), answer_observation(status(1, RoleName::Leader, 2, 20)));
    assert_eq!(drain_events(&mut model), [""; 0], "a leader of an earlier term is ignored");
}

#[test]
fn lost_and_regained_leader_is_reported() {
    let mut model = model_with_leader(1);
    model.update(at(2), poll_observation(1, PollResult::NoAnswer));
    assert_eq!(drain_events(&mut model), ["n1 is silent: frozen, cut off, or very slow", "no leader; n1 led term 2"]);
    model.update(at(3), poll_observation(1, PollResult::NoAnswer));
    assert_eq!(drain_events(&mut model), [""; 0]);
    model.update(at(4), answer_observation(status(1, RoleName::Leader, 2, 1000)));
    assert_eq!(drain_events(&mut model), ["n1 answers", "n1 still leads term 2"]);
}

#[test]
fn new_term_without_leader_is_reported() {
    let mut model = model_with_leader(1);
    model.update(at(2), answer_observation(status(2, RoleName::Candidate, 3, 1000)));
    assert_eq!(drain_events(&mut model), ["term 3 begins"]);
    model.update(at(3), answer_observation(status(2, RoleName::Leader, 3, 1001)));
    assert_eq!(drain_events(&mut model), ["n2 leads term 3, after n1"]);
}

#[test]
fn child_process_state_is_reported_instead_of_silence() {
    let mut model = model_with_leader(1);
    let process_observation = |process| Observation::ProcessChecked { node: 1, process };
    model.update(at(2), process_observation(ProcessState::Frozen));
    model.update(at(3), poll_observation(1, PollResult::NoAnswer));
    assert_eq!(drain_events(&mut model), ["n1 is frozen (SIGSTOP) and does not answer", "no leader; n1 led term 2"]);
    model.update(at(4), process_observation(ProcessState::Running));
    model.update(at(4), answer_observation(status(1, RoleName::Follower, 3, 1000)));
    assert_eq!(drain_events(&mut model), ["n1 runs again (SIGCONT)", "n1 answers", "term 3 begins"]);
    model.update(at(5), process_observation(ProcessState::Restarting { seconds: 3 }));
    model.update(at(5), poll_observation(1, PollResult::NotListening));
    model.update(at(6), process_observation(ProcessState::Restarting { seconds: 2 }));
    assert_eq!(drain_events(&mut model), ["n1 died, and restarts in 3 s"]);
    model.update(at(8), process_observation(ProcessState::Running));
    model.update(at(9), process_observation(ProcessState::Down));
    model.update(at(9), process_observation(ProcessState::Down));
    assert_eq!(drain_events(&mut model), ["n1 is started", "n1 died; press 1 to start it"]);
}

#[test]
fn node_down_and_restart_are_reported() {
    let mut model = Model::new("drave top", String::new(), [(None, "127.0.0.1:7401".to_owned())]);
    model.update(at(1), poll_observation(1, PollResult::NotListening));
    model.update(at(2), poll_observation(1, PollResult::NotListening));
    assert_eq!(drain_events(&mut model), ["127.0.0.1:7401 is down: nothing listens at 127.0.0.1:7401"]);
    model.update(at(3), answer_observation(status(1, RoleName::Leader, 1, 5)));
    assert_eq!(drain_events(&mut model), ["n1 answers", "n1 leads term 1"]);
    let mut restarted_status = status(1, RoleName::Leader, 1, 5);
    restarted_status.uptime_ms = 1;
    model.update(at(4), answer_observation(restarted_status));
    assert_eq!(drain_events(&mut model), ["n1 was restarted"]);
}

#[test]
fn snapshot_and_disk_space_changes_are_reported() {
    let mut model = model_with_leader(1);
    let mut new_status = status(2, RoleName::Follower, 2, 1000);
    new_status.log = LogStatus { snapshot: 900, snapshot_bytes: 4096, lacks_room: true, ..new_status.log };
    new_status.low_space = true;
    model.update(at(2), answer_observation(new_status.clone()));
    model.update(at(3), answer_observation(new_status.clone()));
    let expected =
        ["n2 has a snapshot up to 900, 4.0 KiB", "n2 has no disk space for a snapshot", "n2 is low on disk space"];
    assert_eq!(drain_events(&mut model), expected);
    new_status.low_space = false;
    model.update(at(4), answer_observation(new_status));
    assert_eq!(drain_events(&mut model), ["n2 has enough disk space again"]);
}

#[test]
fn node_list_follows_membership_changes() {
    let mut model = Model::new("drave top", String::new(), [(None, "127.0.0.1:7401".to_owned())]);
    // While no leader is known, the model takes the members from a follower's status.
    model.update(at(1), answer_observation(status(1, RoleName::Follower, 1, 5)));
    assert_eq!(model.endpoints(), ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]);
    model.update(at(1), answer_observation(status(1, RoleName::Leader, 1, 5)));
    drain_events(&mut model);
    let mut new_status = status(1, RoleName::Leader, 1, 6);
    new_status.members.remove(2);
    new_status.membership = "voters=1,2".into();
    model.update(at(2), answer_observation(new_status));
    assert_eq!(model.endpoints(), ["127.0.0.1:7401", "127.0.0.1:7402"]);
    assert_eq!(drain_events(&mut model), ["the members are now voters=1,2"]);
    // A late status response of the removed node does not add the node again.
    model.update(at(3), answer_observation(status(3, RoleName::Outside, 1, 5)));
    assert_eq!(model.nodes.len(), 2);
}

#[test]
fn initial_endpoints_stay_and_members_are_bounded() {
    let mut model =
        Model::new("drave top", String::new(), [(None, "a:1".to_owned()), (None, "127.0.0.1:7401".to_owned())]);
    let mut new_status = status(1, RoleName::Leader, 1, 5);
    let many_members = (1..).map(|node| MemberStatus { node, address: format!("b:{node}"), ..MemberStatus::default() });
    new_status.members = many_members.take(3 * MEMBERS_MAX).collect();
    model.update(at(1), answer_observation(new_status));
    assert!(model.endpoints().contains(&"a:1".to_owned()));
    assert_eq!(model.nodes.len(), 1 + MEMBERS_MAX);
}

#[test]
fn commit_rate_uses_time_between_responses() {
    let mut model = three_node_model();
    let half_second = Duration::from_millis(500);
    model.update(at(1), answer_observation(status(1, RoleName::Leader, 1, 1_000_000)));
    model.tick(at(1));
    assert_eq!(model.commit_rates().count(), 0, "entries committed before the first status do not count");
    // 50 commits between two responses half a second apart are 100 commits per second, although the rate is computed
    // after a whole second.
    model.update(at(1) + half_second, answer_observation(status(1, RoleName::Leader, 1, 1_000_050)));
    model.tick(at(2));
    // No commits in this second.
    model.tick(at(3));
    // The lower commit index of a lagging node does not change the rate.
    model.update(at(3), answer_observation(status(2, RoleName::Follower, 1, 999_000)));
    model.update(at(3) + half_second, answer_observation(status(1, RoleName::Leader, 1, 1_000_450)));
    model.tick(at(4));
    model.tick(at(4));
    assert_eq!(model.commit_rates().collect::<Vec<_>>(), [100, 0, 200]);
}

#[test]
fn events_and_commit_rates_are_bounded() {
    let mut model = model_with_leader(0);
    for n in 0..2 * (EVENTS_MAX + COMMIT_RATES_MAX) as u64 {
        model.update(at(n), Observation::Event(EventText::new(Severity::Plain, n.to_string())));
        model.update(at(n), answer_observation(status(1, RoleName::Leader, 2, 1000 + n)));
        model.tick(at(n));
    }
    assert_eq!((model.events.len(), model.commit_rates().count()), (EVENTS_MAX, COMMIT_RATES_MAX));
    assert_eq!(model.events.back().unwrap().description.text, (2 * (EVENTS_MAX + COMMIT_RATES_MAX) - 1).to_string());
}
