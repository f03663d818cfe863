//! A cluster whose members change under load: real processes, and clients that are given the founders' addresses only.
//!
//! `scripts/membership.sh` makes each phase longer (`DRAVE_MEMBERS_SECONDS`) and prints the latencies of each.

use drave::api::{RoleName, Status};
use drave::client::{Fleet, MuxOptions, Result as RequestResult};
use drave::machine::{Answer, Command};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{Beside, Cluster, Guarded, run, until};

mod support;

const CLIENTS: usize = 8;
const KEYS: u64 = 4;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Results that the clients observed.
#[derive(Default)]
struct Record {
    /// Latency of each command, with the phase in which its response arrived.
    waits: Vec<(usize, Duration)>,
    /// The value of each key after each acknowledged increment.
    values: BTreeMap<u64, Vec<i64>>,
    retries: u64,
    /// Every violation seen.
    wrong: Vec<String>,
}

/// Clients that increment counters a few hundred times a second, until `stop` is set.
struct Counting {
    phase: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Record>,
    phases: Vec<&'static str>,
}

impl Counting {
    fn start(endpoints: &[String]) -> Counting {
        let (phase, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let fleet = Fleet::new(endpoints, CLIENTS, MuxOptions::new(1)).unwrap();
        let (at, end) = (Arc::clone(&phase), Arc::clone(&stop));
        let thread = std::thread::spawn(move || count(fleet, &at, &end));
        Counting { phase, stop, thread, phases: vec!["steady"] }
    }

    /// Ends the current phase and begins the one named `what`.
    fn enter(&mut self, what: &'static str) {
        std::thread::sleep(Duration::from_secs(number("DRAVE_MEMBERS_SECONDS", 1)));
        self.phases.push(what);
        self.phase.store(self.phases.len() - 1, Ordering::Relaxed);
    }

    /// Stops the clients and checks the results: every number was returned exactly once, none is missing, and every
    /// command was applied.
    fn end(self, why: impl FnOnce() -> String) {
        self.stop.store(true, Ordering::Relaxed);
        let record = self.thread.join().unwrap();
        for (n, name) in self.phases.iter().enumerate() {
            let mut waits: Vec<Duration> =
                record.waits.iter().filter(|(phase, _)| *phase == n).map(|(_, wait)| *wait).collect();
            waits.sort();
            let at = |share: usize| waits.get(waits.len() * share / 1000).or(waits.last()).copied().unwrap_or_default();
            let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
            let (p50, p99, max) = (ms(at(500)), ms(at(990)), ms(at(1000)));
            eprintln!("{name:<28} {:>6} p50 {p50:>7.2} p99 {p99:>8.2} max {max:>8.2} ms", waits.len());
        }
        eprintln!("{} commands, {} retries", record.waits.len(), record.retries);
        assert_eq!(record.wrong, [""; 0], "{}", why());
        for (key, mut values) in record.values {
            values.sort_unstable();
            let all = 1..=values.len() as i64;
            assert!(values.iter().copied().eq(all), "key {key}: not each value exactly once: {values:?}");
        }
    }
}

fn count(mut fleet: Fleet, phase: &AtomicUsize, stop: &AtomicBool) -> Record {
    let mut record = Record::default();
    // The command in flight on each connection: its start, its key, and the highest known value of that key at the
    // start.
    let mut under_way: Vec<Option<(Instant, u64, i64)>> = vec![None; CLIENTS];
    let mut next = [Instant::now(); CLIENTS];
    let mut highest: BTreeMap<u64, i64> = BTreeMap::new();
    let mut asked = 0;
    let mut give_up = None;
    loop {
        let now = Instant::now();
        let stops = stop.load(Ordering::Relaxed);
        for n in (0..CLIENTS).filter(|_| !stops) {
            if under_way[n].is_none() && next[n] <= now && fleet[n].has_room() {
                asked += 1;
                let key = asked % KEYS;
                fleet[n].execute(Command::Incr { key: &key.to_le_bytes(), by: 1 }.encode(), key);
                under_way[n] = Some((now, key, highest.get(&key).copied().unwrap_or(0)));
            }
        }
        if stops && under_way.iter().all(Option::is_none) {
            return record;
        }
        if stops && *give_up.get_or_insert(now + support::PATIENCE) < now {
            record.wrong.push(format!("never answered: {under_way:?}"));
            return record;
        }
        let turned = fleet.turn(Duration::from_millis(2), |_, n, done| {
            let Some((begun, key, floor)) = under_way[n].take() else {
                return record.wrong.push(format!("response without a request: {done:?}"));
            };
            next[n] = Instant::now() + Duration::from_millis(10);
            record.retries += u64::from(done.retries);
            record.waits.push((phase.load(Ordering::Relaxed), begun.elapsed()));
            let RequestResult::Executed { answer, .. } = &done.result else {
                return record.wrong.push(format!("{done:?}"));
            };
            match Answer::decode(answer.clone()) {
                Ok(Answer::Number(value)) => {
                    if value <= floor {
                        record.wrong.push(format!("key {key}: {value} after {floor} was answered"));
                    }
                    highest.entry(key).and_modify(|high| *high = value.max(*high)).or_insert(value);
                    record.values.entry(key).or_default().push(value);
                }
                other => record.wrong.push(format!("{other:?}")),
            }
        });
        if let Err(error) = turned {
            record.wrong.push(error.to_string());
            return record;
        }
    }
}

/// Status of the leader, if there is one.
fn leader_status(cluster: &Cluster) -> Option<Status> {
    cluster.leader_of(0..cluster.len()).and_then(|leader| cluster.status(leader))
}

/// The voters, unless a change is under way.
fn voters(status: &Status) -> Option<Vec<u64>> {
    let settled = status.members.iter().all(|member| ["voter", "learner"].contains(&member.kind.as_str()));
    let voters = status.members.iter().filter(|member| member.kind == "voter").map(|member| member.node);
    settled.then(|| voters.collect())
}

fn until_voters(cluster: &Cluster, expected: &[u64]) {
    let there = || leader_status(cluster).filter(|status| voters(status).as_deref() == Some(expected)).map(|_| ());
    until(&format!("the voters are {expected:?}"), there, || cluster.logs());
}

fn run_ok(cluster: &Cluster, words: &[&str]) -> String {
    let said = cluster.run(&[words, &["--timeout", "20s"]].concat());
    assert_eq!(said.code, Some(0), "{words:?}: {said:?}\n{}", cluster.logs());
    said.out
}

/// Eight addresses; three of the nodes found a cluster.
fn three_founders_of_eight() -> Cluster {
    let mut cluster = Cluster::prepare(8);
    cluster.founders = 3;
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    cluster
}

/// "The members of a cluster change without stopping": clients see nothing beyond their own retries.
#[test]
fn replacing_all_members_under_load_applies_commands_once() {
    let mut cluster = three_founders_of_eight();
    let mut counting = Counting::start(&cluster.addresses[..3]);
    counting.enter("three become five");
    (3..5).for_each(|n| cluster.spawn(n));
    until_voters(&cluster, &[1, 2, 3, 4, 5]);
    counting.enter("five become three");
    run_ok(&cluster, &["member", "voters", "1,2,3"]);
    until_voters(&cluster, &[1, 2, 3]);
    (3..5).for_each(|n| assert_eq!(cluster.stop(n), Some(0), "{}", cluster.logs()));
    counting.enter("all are replaced");
    for (old, new) in [(1, 6), (2, 7), (3, 8)] {
        let place = format!("{new}={}", cluster.addresses[new - 1]);
        run_ok(&cluster, &["member", "replace", &old.to_string(), &place]);
        cluster.spawn(new - 1);
        let there =
            || leader_status(&cluster).filter(|s| voters(s).is_some_and(|v| v.contains(&(new as u64)))).map(|_| ());
        until("the new node is a voter", there, || cluster.logs());
        assert_eq!(cluster.stop(old - 1), Some(0), "{}", cluster.logs());
    }
    until_voters(&cluster, &[6, 7, 8]);
    counting.enter("the leader is removed");
    let leader = cluster.leader();
    run_ok(&cluster, &["member", "remove", &(leader + 1).to_string()]);
    run_ok(&cluster, &["member", "add", &format!("{}={}", leader + 1, cluster.addresses[leader])]);
    until_voters(&cluster, &[6, 7, 8]);
    counting.enter("leader killed in a change");
    kill_leader_between_joint_and_final(&mut cluster);
    counting.enter("leadership is transferred");
    for _ in 0..5 {
        let leader = cluster.leader();
        let said = cluster.run(&["transfer", "--timeout", "10s"]);
        assert_eq!(said.code, Some(0), "{said:?}\n{}", cluster.logs());
        until("another node leads", || Some(cluster.leader()).filter(|now| *now != leader), || cluster.logs());
    }
    counting.enter("the leader is stopped");
    let leader = cluster.leader();
    assert_eq!(cluster.stop(leader), Some(0), "{}", cluster.logs());
    cluster.spawn(leader);
    counting.enter("steady again");
    counting.enter("end");
    counting.end(|| cluster.logs());
    cluster.expect_no_deaths();
}

/// Two stopped learners are to become voters, so the change cannot be committed. Then its leader is killed and the
/// learners continue. The next leader completes the change or aborts it.
fn kill_leader_between_joint_and_final(cluster: &mut Cluster) {
    for n in 3..5 {
        run_ok(cluster, &["member", "add", "--learner", &format!("{}={}", n + 1, cluster.addresses[n])]);
        cluster.spawn(n);
    }
    let learn = || {
        let leading = leader_status(cluster)?;
        let caught_up = |n: u64| leading.peers.iter().any(|peer| peer.node == n && peer.matched >= leading.commit);
        (caught_up(4) && caught_up(5)).then_some(())
    };
    until("the learners have caught up", learn, || cluster.logs());
    let leader = cluster.leader();
    (3..5).for_each(|n| cluster.signal(n, Signal::STOP));
    let ids = format!("4,5,{}", leader + 1);
    // The request goes to the leader directly. A client that tries a stopped node first would be too late: a learner
    // that is silent for an election timeout cannot become a voter, and the leader aborts the change at once.
    let at = &cluster.addresses[leader];
    let words = ["member", "voters", &ids, "--force", "--timeout", "20s", "--endpoints", at];
    let change = Beside::start(cluster.directory.path(), "change", &mut cluster.drave(&words));
    let joint = || cluster.status(leader).filter(|status| voters(status).is_none()).map(|_| ());
    until("the change is in progress", joint, || cluster.logs());
    cluster.kill(leader);
    (3..5).for_each(|n| cluster.signal(n, Signal::CONT));
    cluster.spawn(leader);
    let settled = || leader_status(cluster).and_then(|status| voters(&status));
    let voters = until("the change has ended", settled, || cluster.logs());
    let new: Vec<u64> = vec![4, 5, leader as u64 + 1];
    assert!(voters == [6, 7, 8] || voters == new, "{voters:?}");
    // Done, rejected because it was aborted, or unknown.
    let said = change.end();
    assert!([Some(0), Some(1), Some(4)].contains(&said.code), "{said:?}");
}

/// A leader that receives SIGTERM transfers its leadership first: no request fails.
#[test]
fn stopping_the_leader_under_load_fails_no_request() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let rate = number("DRAVE_MEMBERS_RATE", 1000).to_string();
    let words = ["bench", "put", "--clients", "8", "--inflight", "64", "--rate", &rate, "--warmup", "0s"];
    let more = ["--duration", "5s", "--timeout", "20s", "-o", "json"];
    let bench = Beside::start(cluster.directory.path(), "load", &mut cluster.drave(&[&words[..], &more].concat()));
    let before = cluster.status(leader).unwrap().commit;
    let flows = || cluster.status(leader).filter(|status| status.commit > before + 500).map(|_| ());
    until("the leader commits writes", flows, || cluster.logs());
    assert_eq!(cluster.stop(leader), Some(0), "{}", cluster.logs());
    let said = bench.end();
    assert_eq!(said.code, Some(0), "{said:?}\n{}", cluster.logs());
    let figures = said.json();
    eprintln!(
        "SIGTERM under {rate}/s: longest gap {} ms, longest wait {} us",
        figures["longest_gap_ms"], figures["max_us"]
    );
    assert_eq!((&figures["errors"], &figures["unknown"]), (&0.into(), &0.into()), "{figures}");
    assert!(cluster.logs().contains("transfers the leadership to"), "{}", cluster.logs());
}

/// A node with its old id and an emptied directory is no voter. Both sides log the remedy, and the remedy works.
#[test]
fn node_with_deleted_directory_is_no_voter_until_re_added() {
    let mut cluster = three_founders_of_eight();
    let leader = cluster.leader();
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    run_ok(&cluster, &["put", "lunch", "noodles"]);
    let named = || leader_status(&cluster).filter(|s| s.members.iter().all(|m| !m.disk.is_empty())).map(|_| ());
    until("all disks are known", named, || cluster.logs());
    let log = |cluster: &Cluster, n: usize| std::fs::read_to_string(cluster.data(n).with_extension("log")).unwrap();
    cluster.kill(lost);
    std::fs::remove_dir_all(cluster.data(lost)).unwrap();
    cluster.spawn(lost);
    let id = (lost + 1).to_string();
    let advice = [format!("drave member remove {id}"), format!("drave member add {id}=")];
    let told = || advice.iter().all(|line| log(&cluster, leader).contains(line)).then_some(());
    until("the leader logs the advice", told, || cluster.logs());
    let says = || log(&cluster, lost).contains("another disk than this node had").then_some(());
    until("the node logs the mismatch", says, || cluster.logs());
    // It does not count towards the quorum of a commit.
    cluster.signal(other, Signal::STOP);
    let said = cluster.run(&["put", "lunch", "nothing", "--timeout", "1s"]);
    assert!([Some(3), Some(4)].contains(&said.code), "{said:?}");
    cluster.signal(other, Signal::CONT);
    run_ok(&cluster, &["put", "lunch", "soup"]);
    // It cannot join as a new node either.
    cluster.kill(lost);
    std::fs::remove_dir_all(cluster.data(lost)).unwrap();
    cluster.founders = lost;
    let said = run(&mut cluster.serve(lost));
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("member remove") && said.err.contains("member add"), "{said:?}");
    // The advised commands mend it, run one directly after the other.
    run_ok(&cluster, &["member", "remove", &id]);
    run_ok(&cluster, &["member", "add", &format!("{id}={}", cluster.addresses[lost])]);
    cluster.spawn(lost);
    until_voters(&cluster, &[1, 2, 3]);
    cluster.signal(other, Signal::STOP);
    run_ok(&cluster, &["put", "lunch", "rice"]);
    cluster.signal(other, Signal::CONT);
    assert_eq!(run_ok(&cluster, &["get", "lunch"]).trim(), "rice");
    assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
    cluster.expect_no_deaths();
}

/// A copied directory runs in a second process: the other nodes ignore it, and both sides log this.
#[test]
fn copied_directory_does_not_become_a_second_voter() {
    let mut cluster = three_founders_of_eight();
    let leader = cluster.leader();
    let twice = (leader + 1) % 3;
    run_ok(&cluster, &["put", "lunch", "noodles"]);
    cluster.kill(twice);
    let copy = cluster.directory.path().join("copy");
    let copied = std::process::Command::new("cp").arg("-r").arg(cluster.data(twice)).arg(&copy).status().unwrap();
    assert!(copied.success());
    cluster.spawn(twice);
    // The original has acknowledged entries since its restart, so it is the one that the leader accepts.
    run_ok(&cluster, &["put", "lunch", "soup"]);
    let back = || leader_status(&cluster)?.peers.iter().all(|peer| peer.lag == 0).then_some(());
    until("the original has caught up", back, || cluster.logs());
    let (id, elsewhere) = ((twice + 1).to_string(), cluster.addresses[7].clone());
    let log = cluster.directory.path().join("copy.log");
    let mut twin = support::drave(&["serve", "--id", &id, "--peers", &cluster.peers(), "--listen", &elsewhere]);
    twin.args(&cluster.words).arg("--data").arg(&copy).stderr(std::fs::File::create(&log).unwrap());
    let twin = Guarded::start(&mut twin);
    let said = || std::fs::read_to_string(&log).unwrap();
    let refused = || said().contains("another process runs under this identity").then_some(());
    until("the copy is refused", refused, said);
    let warned = || cluster.logs().contains("a second process connects as").then_some(());
    until("the other nodes warn of it", warned, || cluster.logs());
    for n in 0..20 {
        run_ok(&cluster, &["put", "lunch", &n.to_string()]);
    }
    let status = drave::client::Client::connect([elsewhere.clone()]).status(&elsewhere).unwrap();
    assert!(status.commit < leader_status(&cluster).unwrap().commit, "the copy receives no entries");
    assert_ne!(status.role, RoleName::Leader);
    drop(twin);
    assert_eq!(run_ok(&cluster, &["get", "lunch"]).trim(), "19");
    assert!(!(cluster.logs() + &said()).contains("panicked"), "{}", cluster.logs());
    cluster.expect_no_deaths();
}

/// A linearizable read through a follower appends no entry to any log.
#[test]
fn linearizable_read_at_follower_appends_no_entry() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    run_ok(&cluster, &["put", "lunch", "noodles"]);
    cluster.agree();
    let last = cluster.status(leader).unwrap().last;
    for n in (0..3).filter(|n| *n != leader) {
        let said = cluster.run(&["get", "lunch", "--endpoints", &cluster.addresses[n]]);
        assert_eq!((said.code, said.out.trim()), (Some(0), "noodles"), "{said:?}");
    }
    let now = cluster.status(leader).unwrap();
    assert_eq!((now.last, now.role), (last, RoleName::Leader), "{}", cluster.logs());
}
