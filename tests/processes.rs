//! Real processes: three nodes on loopback, killed and stopped, and what clients may rely on.

use drave::api::{Consistency, RoleName, Status};
use drave::client::{Client, Options};
use drave::machine::{Answer, Command as Do, Query};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A cluster of child processes in a directory that goes with it.
struct Cluster {
    directory: tempfile::TempDir,
    addresses: Vec<String>,
    nodes: Vec<Option<Child>>,
}

impl Cluster {
    fn start(nodes: usize) -> Cluster {
        // Ports that were free a moment ago.
        let held: Vec<_> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        drop(held);
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Cluster { directory, addresses, nodes: (0..nodes).map(|_| None).collect() };
        (0..nodes).for_each(|n| cluster.spawn(n));
        cluster
    }

    fn data(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("n{}", n + 1))
    }

    fn spawn(&mut self, n: usize) {
        let peers: Vec<_> = self.addresses.iter().enumerate().map(|(n, a)| format!("{}={a}", n + 1)).collect();
        let log = std::fs::File::options().create(true).append(true).open(self.data(n).with_extension("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_drave"))
            .args(["serve", "--id", &(n + 1).to_string(), "--peers", &peers.join(","), "--segment-size", "4MiB"])
            .arg("--data")
            .arg(self.data(n))
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.nodes[n] = Some(child);
    }

    /// kill -9.
    fn kill(&mut self, n: usize) {
        let mut child = self.nodes[n].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    fn stop(&mut self, n: usize) -> Option<i32> {
        let mut child = self.nodes[n].take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap().code()
    }

    fn client(&self) -> Client {
        let options = Options { timeout: Duration::from_secs(20), ..Options::default() };
        Client::with(self.addresses.clone(), options)
    }

    fn status(&self, n: usize) -> Option<Status> {
        self.client().status(&self.addresses[n]).ok()
    }

    fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let leads = |n: &usize| {
                self.nodes[*n].is_some() && self.status(*n).is_some_and(|status| status.role == RoleName::Leader)
            };
            if let Some(n) = (0..self.nodes.len()).find(leads) {
                return n;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no leader\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until all have applied the same, and says what they all hold.
    fn agree(&self) -> String {
        let begun = Instant::now();
        loop {
            let all: Vec<_> = (0..self.nodes.len()).filter_map(|n| self.status(n)).collect();
            let same = all.windows(2).all(|two| two[0].applied == two[1].applied);
            if all.len() == self.nodes.len() && same {
                assert!(all.windows(2).all(|two| two[0].digest == two[1].digest), "{all:#?}");
                return all[0].digest.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "they do not come to agree\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn logs(&self) -> String {
        let read = |n| std::fs::read_to_string(self.data(n).with_extension("log")).unwrap_or_default();
        (0..self.nodes.len()).map(read).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _it_may_be_gone = child.kill();
            let _it_may_be_gone = child.wait();
        }
    }
}

fn incr(client: &mut Client) -> i64 {
    let executed = client.execute(&Do::Incr { key: b"n", by: 1 }.encode()).unwrap();
    match Answer::decode(executed.answer) {
        Ok(Answer::Number(number)) => number,
        other => panic!("{other:?}"),
    }
}

#[test]
fn kills_of_the_leader_lose_nothing_and_double_nothing() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    let mut expected = 0;
    for round in 0..4 {
        for _ in 0..50 {
            expected += 1;
            assert_eq!(incr(&mut client), expected, "round {round}\n{}", cluster.logs());
        }
        let leader = cluster.leader();
        cluster.kill(leader);
        for _ in 0..50 {
            expected += 1;
            assert_eq!(incr(&mut client), expected, "round {round}\n{}", cluster.logs());
        }
        cluster.spawn(leader);
    }
    let query = Query::Get { key: b"n" }.encode();
    let queried = client.query(&query, Consistency::Linearizable).unwrap();
    let Ok(Answer::Value(Some(value))) = Answer::decode(queried.answer) else { panic!("a value") };
    assert_eq!(value, expected.to_string());
    drop(client);
    cluster.agree();
}

#[test]
fn all_killed_at_once_come_back_with_what_they_promised() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    for n in 1..=100 {
        assert_eq!(incr(&mut client), n);
    }
    (0..3).for_each(|n| cluster.kill(n));
    (0..3).for_each(|n| cluster.spawn(n));
    assert_eq!(incr(&mut client), 101, "{}", cluster.logs());
}

#[test]
fn a_node_that_is_asked_to_stop_exits_in_order_and_the_others_go_on() {
    let mut cluster = Cluster::start(3);
    let mut client = cluster.client();
    assert_eq!(incr(&mut client), 1);
    let leader = cluster.leader();
    assert_eq!(cluster.stop(leader), Some(0), "{}", cluster.logs());
    let begun = Instant::now();
    assert_eq!(incr(&mut client), 2);
    assert!(begun.elapsed() < Duration::from_secs(5));
    cluster.spawn(leader);
    drop(client);
    cluster.agree();
}

#[test]
fn one_node_is_a_cluster_and_keeps_its_directory_to_itself() {
    let mut cluster = Cluster::start(1);
    let mut client = cluster.client();
    assert_eq!(incr(&mut client), 1);
    let serve = |id: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_drave"))
            .args(["serve", "--id", id, "--peers", "1=127.0.0.1:1,2=127.0.0.1:2", "--data"])
            .arg(cluster.data(0))
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = serve("1");
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("in use"), "{said}");
    assert_eq!(cluster.stop(0), Some(0));
    let out = Command::new(env!("CARGO_BIN_EXE_drave"))
        .args(["serve", "--id", "2", "--peers", "1=127.0.0.1:1,2=127.0.0.1:2", "--data"])
        .arg(cluster.data(0))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(78), "{said}");
    assert!(said.contains("belongs to node 1"), "{said}");
    cluster.spawn(0);
    assert_eq!(incr(&mut client), 2);
}
