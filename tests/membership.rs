//! A cluster whose members change under load: real processes, and clients that are given the founders' addresses only.
//!
//! `scripts/membership.sh` makes each phase longer (`DRAVE_MEMBERS_SECONDS`) and prints the latencies of each.

use drave::api::{RoleName, Status};
use drave::client::{Fleet, MuxOptions, RequestResult};
use drave::machine::{Answer, Command};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{BackgroundProgram, ChildGuard, Cluster, run, wait_until};

mod support;

const CLIENT_COUNT: usize = 8;
const KEY_COUNT: u64 = 4;

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Everything that the clients observed, over all phases.
#[derive(Default)]
struct ClientObservations {
    /// Latency of each command, with the phase in which its response arrived.
    latencies: Vec<(usize, Duration)>,
    /// The value of each key after each acknowledged increment.
    values: BTreeMap<u64, Vec<i64>>,
    retries: u64,
    /// A description of each wrong or missing response, and of each failed poll.
    violations: Vec<String>,
}

/// Clients that increment counters a few hundred times a second, until `stop` is set.
struct CountingClients {
    phase_number: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<ClientObservations>,
    phase_names: Vec<&'static str>,
}

impl CountingClients {
    fn start(endpoints: &[String]) -> CountingClients {
        let (phase_number, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let fleet = Fleet::new(endpoints, CLIENT_COUNT, MuxOptions::new(1)).unwrap();
        let (shared_phase, shared_stop) = (Arc::clone(&phase_number), Arc::clone(&stop));
        let thread = std::thread::spawn(move || run_counting_clients(fleet, &shared_phase, &shared_stop));
        CountingClients { phase_number, stop, thread, phase_names: vec!["steady"] }
    }

    /// Waits until the current phase has lasted `DRAVE_MEMBERS_SECONDS`, and begins the phase of this name.
    fn begin_phase(&mut self, name: &'static str) {
        std::thread::sleep(Duration::from_secs(env_number("DRAVE_MEMBERS_SECONDS", 1)));
        self.phase_names.push(name);
        self.phase_number.store(self.phase_names.len() - 1, Ordering::Relaxed);
    }

    /// Stops the clients and checks the results: the increments of each key returned 1, 2, 3 and so on, each number
    /// once, and every command was applied.
    fn finish_and_check(self, logs: impl FnOnce() -> String) {
        self.stop.store(true, Ordering::Relaxed);
        let results = self.thread.join().unwrap();
        for (n, name) in self.phase_names.iter().enumerate() {
            let mut latencies: Vec<Duration> =
                results.latencies.iter().filter(|(phase, _)| *phase == n).map(|(_, wait)| *wait).collect();
            latencies.sort();
            let percentile = |per_mille: usize| {
                latencies.get(latencies.len() * per_mille / 1000).or(latencies.last()).copied().unwrap_or_default()
            };
            let to_ms = |wait: Duration| wait.as_secs_f64() * 1e3;
            let (p50, p99, max) = (to_ms(percentile(500)), to_ms(percentile(990)), to_ms(percentile(1000)));
            eprintln!("{name:<28} {:>6} p50 {p50:>7.2} p99 {p99:>8.2} max {max:>8.2} ms", latencies.len());
        }
        eprintln!("{} commands, {} retries", results.latencies.len(), results.retries);
        assert_eq!(results.violations, [""; 0], "{}", logs());
        for (key, mut values) in results.values {
            values.sort_unstable();
            let expected_values = 1..=values.len() as i64;
            assert!(
                values.iter().copied().eq(expected_values),
                "the increments of key {key} did not return each value exactly once: {values:?}"
            );
        }
    }
}

fn run_counting_clients(mut fleet: Fleet, phase_number: &AtomicUsize, stop: &AtomicBool) -> ClientObservations {
    let mut results = ClientObservations::default();
    // The command in flight on each connection: its start, its key, and the highest known value of that key at the
    // start.
    let mut in_flight: Vec<Option<(Instant, u64, i64)>> = vec![None; CLIENT_COUNT];
    let mut next_start_times = [Instant::now(); CLIENT_COUNT];
    let mut highest_values: BTreeMap<u64, i64> = BTreeMap::new();
    let mut started_commands = 0;
    let mut response_deadline = None;
    loop {
        let now = Instant::now();
        let is_stopping = stop.load(Ordering::Relaxed);
        for n in (0..CLIENT_COUNT).filter(|_| !is_stopping) {
            if in_flight[n].is_none() && next_start_times[n] <= now && fleet[n].has_room() {
                started_commands += 1;
                let key = started_commands % KEY_COUNT;
                fleet[n].execute(Command::Incr { key: &key.to_le_bytes(), by: 1 }.encode(), key);
                in_flight[n] = Some((now, key, highest_values.get(&key).copied().unwrap_or(0)));
            }
        }
        if is_stopping && in_flight.iter().all(Option::is_none) {
            return results;
        }
        if is_stopping && *response_deadline.get_or_insert(now + support::WAIT_TIMEOUT) < now {
            results.violations.push(format!("these commands were never answered: {in_flight:?}"));
            return results;
        }
        let poll_result = fleet.poll(Duration::from_millis(2), |_, n, completion| {
            let Some((started, key, known_before)) = in_flight[n].take() else {
                return results.violations.push(format!("response without a request: {completion:?}"));
            };
            next_start_times[n] = Instant::now() + Duration::from_millis(10);
            results.retries += u64::from(completion.retries);
            results.latencies.push((phase_number.load(Ordering::Relaxed), started.elapsed()));
            let RequestResult::Executed { answer, .. } = &completion.result else {
                return results.violations.push(format!("{completion:?}"));
            };
            match Answer::decode(answer.clone()) {
                Ok(Answer::Number(value)) => {
                    if value <= known_before {
                        results.violations.push(format!(
                            "key {key}: an increment returned {value}, but {known_before} was known before"
                        ));
                    }
                    highest_values.entry(key).and_modify(|high| *high = value.max(*high)).or_insert(value);
                    results.values.entry(key).or_default().push(value);
                }
                other => results.violations.push(format!("{other:?}")),
            }
        });
        if let Err(error) = poll_result {
            results.violations.push(error.to_string());
            return results;
        }
    }
}

/// Status of the leader; `None` during an election, or if the leader does not answer.
fn leader_status(cluster: &Cluster) -> Option<Status> {
    cluster.leader_among(0..cluster.len()).and_then(|leader| cluster.status(leader))
}

/// The voters, unless a change is under way.
fn voters(status: &Status) -> Option<Vec<u64>> {
    let is_settled = status.members.iter().all(|member| ["voter", "learner"].contains(&member.kind.as_str()));
    let voters = status.members.iter().filter(|member| member.kind == "voter").map(|member| member.node);
    is_settled.then(|| voters.collect())
}

fn wait_for_voters(cluster: &Cluster, expected: &[u64]) {
    let has_voters = || leader_status(cluster).filter(|status| voters(status).as_deref() == Some(expected)).map(|_| ());
    wait_until(&format!("the voters are {expected:?}"), has_voters, || cluster.logs());
}

fn run_successfully(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.run(&[args, &["--timeout", "20s"]].concat());
    assert_eq!(output.code, Some(0), "{args:?}: {output:?}\n{}", cluster.logs());
    output.out
}

/// Reserves the addresses of eight nodes, and starts the first three, which found a cluster.
fn three_founders_of_eight() -> Cluster {
    let mut cluster = Cluster::prepare(8);
    cluster.founder_count = 3;
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster
}

/// The members of a cluster change without an interruption: clients notice nothing but their own retries.
#[test]
fn replacing_all_members_under_load_applies_commands_once() {
    let mut cluster = three_founders_of_eight();
    let mut clients = CountingClients::start(&cluster.addresses[..3]);
    clients.begin_phase("three voters become five");
    (3..5).for_each(|n| cluster.spawn(n));
    wait_for_voters(&cluster, &[1, 2, 3, 4, 5]);
    clients.begin_phase("five voters become three");
    run_successfully(&cluster, &["member", "voters", "1,2,3"]);
    wait_for_voters(&cluster, &[1, 2, 3]);
    (3..5).for_each(|n| assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs()));
    clients.begin_phase("all members are replaced");
    for (old, new) in [(1, 6), (2, 7), (3, 8)] {
        let new_member = format!("{new}={}", cluster.addresses[new - 1]);
        run_successfully(&cluster, &["member", "replace", &old.to_string(), &new_member]);
        cluster.spawn(new - 1);
        let is_voter =
            || leader_status(&cluster).filter(|s| voters(s).is_some_and(|v| v.contains(&(new as u64)))).map(|_| ());
        wait_until("the new node is a voter", is_voter, || cluster.logs());
        assert_eq!(cluster.stop(old - 1), Some(0), "{}", cluster.logs());
    }
    wait_for_voters(&cluster, &[6, 7, 8]);
    clients.begin_phase("the leader is removed");
    let leader = cluster.wait_for_leader();
    run_successfully(&cluster, &["member", "remove", &(leader + 1).to_string()]);
    run_successfully(&cluster, &["member", "add", &format!("{}={}", leader + 1, cluster.addresses[leader])]);
    wait_for_voters(&cluster, &[6, 7, 8]);
    clients.begin_phase("leader killed in a change");
    kill_leader_between_joint_and_final(&mut cluster);
    clients.begin_phase("leadership is transferred");
    for _ in 0..5 {
        let leader = cluster.wait_for_leader();
        let output = cluster.run(&["transfer", "--timeout", "10s"]);
        assert_eq!(output.code, Some(0), "{output:?}\n{}", cluster.logs());
        wait_until(
            "another node leads",
            || Some(cluster.wait_for_leader()).filter(|now| *now != leader),
            || cluster.logs(),
        );
    }
    clients.begin_phase("the leader is stopped");
    let leader = cluster.wait_for_leader();
    assert_eq!(cluster.stop(leader), Some(0), "{}", cluster.logs());
    cluster.spawn(leader);
    clients.begin_phase("steady again");
    clients.begin_phase("end");
    clients.finish_and_check(|| cluster.logs());
    cluster.expect_no_deaths();
}

/// Requests a change that makes two stopped learners voters, so that the change cannot be committed. Then kills the
/// leader and resumes the learners. The next leader must complete the change or abort it.
fn kill_leader_between_joint_and_final(cluster: &mut Cluster) {
    for n in 3..5 {
        run_successfully(cluster, &["member", "add", "--learner", &format!("{}={}", n + 1, cluster.addresses[n])]);
        cluster.spawn(n);
    }
    let learners_caught_up = || {
        let status = leader_status(cluster)?;
        let caught_up = |n: u64| status.peers.iter().any(|peer| peer.node == n && peer.matched >= status.commit);
        (caught_up(4) && caught_up(5)).then_some(())
    };
    wait_until("the learners have caught up", learners_caught_up, || cluster.logs());
    let leader = cluster.wait_for_leader();
    (3..5).for_each(|n| cluster.signal(n, Signal::STOP));
    let new_voter_ids = format!("4,5,{}", leader + 1);
    // The request goes to the leader directly. A client that tries a stopped node first would be too late: a learner
    // that is silent for an election timeout cannot become a voter, and the leader aborts the change at once.
    let endpoint = &cluster.addresses[leader];
    let args = ["member", "voters", &new_voter_ids, "--force", "--timeout", "20s", "--endpoints", endpoint];
    let change_command =
        BackgroundProgram::start(cluster.directory.path(), "change", &mut cluster.drave_command(&args));
    let is_joint = || cluster.status(leader).filter(|status| voters(status).is_none()).map(|_| ());
    wait_until("the change is in progress", is_joint, || cluster.logs());
    cluster.kill(leader);
    (3..5).for_each(|n| cluster.signal(n, Signal::CONT));
    cluster.spawn(leader);
    let voters_after_change = || leader_status(cluster).and_then(|status| voters(&status));
    let voters = wait_until("the change has ended", voters_after_change, || cluster.logs());
    let new_voters: Vec<u64> = vec![4, 5, leader as u64 + 1];
    assert!(voters == [6, 7, 8] || voters == new_voters, "{voters:?}");
    // The change may succeed, be rejected because it was aborted, or have an unknown outcome.
    let output = change_command.wait_with_output();
    assert!([Some(0), Some(1), Some(4)].contains(&output.code), "{output:?}");
}

/// A leader that receives SIGTERM transfers its leadership first: no request fails.
#[test]
fn stopping_the_leader_under_load_fails_no_request() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    let rate = env_number("DRAVE_MEMBERS_RATE", 1000).to_string();
    let args = ["bench", "put", "--clients", "8", "--inflight", "64", "--rate", &rate, "--warmup", "0s"];
    let more_args = ["--duration", "5s", "--timeout", "20s", "-o", "json"];
    let bench = BackgroundProgram::start(
        cluster.directory.path(),
        "load",
        &mut cluster.drave_command(&[&args[..], &more_args].concat()),
    );
    let commit_before = cluster.status(leader).unwrap().commit;
    let commits_advance = || cluster.status(leader).filter(|status| status.commit > commit_before + 500).map(|_| ());
    wait_until("the leader commits writes", commits_advance, || cluster.logs());
    assert_eq!(cluster.stop(leader), Some(0), "{}", cluster.logs());
    let output = bench.wait_with_output();
    assert_eq!(output.code, Some(0), "{output:?}\n{}", cluster.logs());
    let report = output.json();
    eprintln!(
        "SIGTERM under {rate}/s: longest gap {} ms, longest wait {} us",
        report["longest_gap_ms"], report["max_us"]
    );
    assert_eq!((&report["errors"], &report["unknown"]), (&0.into(), &0.into()), "{report}");
    assert!(cluster.logs().contains("transfers the leadership to"), "{}", cluster.logs());
}

/// A node with its old id and an emptied directory is no voter. The leader logs the commands that
/// make it a voter again, and these commands work.
#[test]
fn node_with_deleted_directory_is_no_voter_until_re_added() {
    let mut cluster = three_founders_of_eight();
    let leader = cluster.wait_for_leader();
    let (emptied_node, other_node) = ((leader + 1) % 3, (leader + 2) % 3);
    run_successfully(&cluster, &["put", "lunch", "noodles"]);
    let all_disks_known =
        || leader_status(&cluster).filter(|s| s.members.iter().all(|m| !m.disk.is_empty())).map(|_| ());
    wait_until("all disks are known", all_disks_known, || cluster.logs());
    let read_log =
        |cluster: &Cluster, n: usize| std::fs::read_to_string(cluster.data_dir(n).with_extension("log")).unwrap();
    cluster.kill(emptied_node);
    std::fs::remove_dir_all(cluster.data_dir(emptied_node)).unwrap();
    cluster.spawn(emptied_node);
    let emptied_node_id = (emptied_node + 1).to_string();
    let advice = [format!("drave member remove {emptied_node_id}"), format!("drave member add {emptied_node_id}=")];
    let leader_logs_advice = || advice.iter().all(|line| read_log(&cluster, leader).contains(line)).then_some(());
    wait_until("the leader logs the advice", leader_logs_advice, || cluster.logs());
    let node_logs_mismatch =
        || read_log(&cluster, emptied_node).contains("another disk than this node had").then_some(());
    wait_until("the node logs the mismatch", node_logs_mismatch, || cluster.logs());
    // The emptied node does not count towards the quorum of a commit.
    cluster.signal(other_node, Signal::STOP);
    let output = cluster.run(&["put", "lunch", "nothing", "--timeout", "1s"]);
    assert!([Some(3), Some(4)].contains(&output.code), "{output:?}");
    cluster.signal(other_node, Signal::CONT);
    run_successfully(&cluster, &["put", "lunch", "soup"]);
    // The emptied node cannot join as a new node either.
    cluster.kill(emptied_node);
    std::fs::remove_dir_all(cluster.data_dir(emptied_node)).unwrap();
    cluster.founder_count = emptied_node;
    let output = run(&mut cluster.serve_command(emptied_node));
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.err.contains("member remove") && output.err.contains("member add"), "{output:?}");
    // The advised commands, run one directly after the other, make the node a voter again.
    run_successfully(&cluster, &["member", "remove", &emptied_node_id]);
    run_successfully(&cluster, &["member", "add", &format!("{emptied_node_id}={}", cluster.addresses[emptied_node])]);
    cluster.spawn(emptied_node);
    wait_for_voters(&cluster, &[1, 2, 3]);
    cluster.signal(other_node, Signal::STOP);
    run_successfully(&cluster, &["put", "lunch", "rice"]);
    cluster.signal(other_node, Signal::CONT);
    assert_eq!(run_successfully(&cluster, &["get", "lunch"]).trim(), "rice");
    assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
    cluster.expect_no_deaths();
}

/// A copied directory runs in a second process: the other nodes ignore this process. Its log and the logs of the
/// other nodes report this.
#[test]
fn copied_directory_does_not_become_a_second_voter() {
    let mut cluster = three_founders_of_eight();
    let leader = cluster.wait_for_leader();
    let copied_node = (leader + 1) % 3;
    run_successfully(&cluster, &["put", "lunch", "noodles"]);
    cluster.kill(copied_node);
    let copy_path = cluster.directory.path().join("copy");
    let copy_status =
        std::process::Command::new("cp").arg("-r").arg(cluster.data_dir(copied_node)).arg(&copy_path).status().unwrap();
    assert!(copy_status.success());
    cluster.spawn(copied_node);
    // The original has acknowledged entries since its restart, so it is the one that the leader accepts.
    run_successfully(&cluster, &["put", "lunch", "soup"]);
    let original_caught_up = || leader_status(&cluster)?.peers.iter().all(|peer| peer.lag == 0).then_some(());
    wait_until("the original has caught up", original_caught_up, || cluster.logs());
    let (id, copy_address) = ((copied_node + 1).to_string(), cluster.addresses[7].clone());
    let copy_log_path = cluster.directory.path().join("copy.log");
    let mut copy_process =
        support::drave_command(&["serve", "--id", &id, "--peers", &cluster.peers(), "--listen", &copy_address]);
    copy_process
        .args(&cluster.extra_args)
        .arg("--data")
        .arg(&copy_path)
        .stderr(std::fs::File::create(&copy_log_path).unwrap());
    let copy_process = ChildGuard::start(&mut copy_process);
    let copy_log = || std::fs::read_to_string(&copy_log_path).unwrap();
    let copy_is_refused = || copy_log().contains("another process runs under this identity").then_some(());
    wait_until("the copy is refused", copy_is_refused, copy_log);
    let peers_warn = || cluster.logs().contains("a second process connects as").then_some(());
    wait_until("the other nodes warn of the copy", peers_warn, || cluster.logs());
    for n in 0..20 {
        run_successfully(&cluster, &["put", "lunch", &n.to_string()]);
    }
    let status = drave::client::Client::connect([copy_address.clone()]).status(&copy_address).unwrap();
    assert!(status.commit < leader_status(&cluster).unwrap().commit, "the copy receives no entries");
    assert_ne!(status.role, RoleName::Leader);
    drop(copy_process);
    assert_eq!(run_successfully(&cluster, &["get", "lunch"]).trim(), "19");
    assert!(!(cluster.logs() + &copy_log()).contains("panicked"), "{}", cluster.logs());
    cluster.expect_no_deaths();
}

/// A linearizable read through a follower appends no entry to any log.
#[test]
fn linearizable_read_at_follower_appends_no_entry() {
    let cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    run_successfully(&cluster, &["put", "lunch", "noodles"]);
    cluster.wait_for_convergence();
    let last_index = cluster.status(leader).unwrap().last;
    for n in (0..3).filter(|n| *n != leader) {
        let output = cluster.run(&["get", "lunch", "--endpoints", &cluster.addresses[n]]);
        assert_eq!((output.code, output.out.trim()), (Some(0), "noodles"), "{output:?}");
    }
    let now = cluster.status(leader).unwrap();
    assert_eq!((now.last, now.role), (last_index, RoleName::Leader), "{}", cluster.logs());
}
