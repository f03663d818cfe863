//! A cluster of three child processes on loopback, for fault injection.

use super::proxy::Proxy;
use crate::remote::failure::CliError;
use crate::remote::process;
use drave::api::{RoleName, Status};
use drave::client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

const NODES: u64 = 3;
/// How long the cluster may take to become healthy.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often its status is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A follower at most this many entries behind counts as caught up: writes continue meanwhile.
const LAG: u64 = 2_000;

/// Three child processes with their data in a temporary directory. They are killed when this is dropped.
pub struct TestCluster {
    dir: PathBuf,
    /// The address of each node for clients and peers.
    pub endpoints: Vec<String>,
    /// The address that each node listens on.
    listens: Vec<String>,
    children: Vec<Option<Child>>,
    /// The proxy for all traffic, if nodes are to be isolated.
    pub proxy: Option<Proxy>,
}

fn io(what: &str) -> impl Fn(std::io::Error) -> CliError + '_ {
    move |error| CliError { what: format!("{what}: {error}"), code: 74 }
}

/// Listeners on unused ports below the ephemeral range: otherwise an outgoing connection could occupy the port of a
/// node that is about to restart.
fn ports(count: usize) -> Result<Vec<TcpListener>, CliError> {
    let mut free = Vec::with_capacity(count);
    for _ in 0..1000 {
        let port = rand::random_range(16_000..32_000);
        free.extend(TcpListener::bind(("127.0.0.1", port)));
        if free.len() == count {
            return Ok(free);
        }
    }
    Err(CliError { what: "no free ports on loopback\n  tried a thousand from 16000 to 32000".to_owned(), code: 74 })
}

fn address(listener: &TcpListener) -> Result<String, CliError> {
    listener.local_addr().map(|address| address.to_string()).map_err(io("loopback"))
}

impl TestCluster {
    /// Starts the nodes, behind a proxy if they are to be isolated, and waits until the cluster is healthy.
    pub fn start(name: &str, proxied: bool) -> Result<TestCluster, CliError> {
        let dir = std::env::temp_dir().join(format!("drave-failover-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(io(&dir.display().to_string()))?;
        let own = ports(NODES as usize)?;
        let listens: Vec<String> = own.iter().map(address).collect::<Result<_, _>>()?;
        let (endpoints, proxy) = match proxied {
            false => (listens.clone(), None),
            true => {
                let doors = ports(NODES as usize)?;
                let endpoints = doors.iter().map(address).collect::<Result<_, _>>()?;
                (endpoints, Some(Proxy::start(doors, &listens)?))
            }
        };
        drop(own);
        let children = (0..NODES).map(|_| None).collect();
        let mut trio = TestCluster { dir, endpoints, listens, children, proxy };
        (1..=NODES).try_for_each(|id| trio.spawn(id))?;
        trio.wait_healthy()?;
        Ok(trio)
    }

    /// Starts a node that is not running.
    pub fn spawn(&mut self, id: u64) -> Result<(), CliError> {
        let peers: Vec<String> = self.endpoints.iter().zip(1..).map(|(at, id)| format!("{id}={at}")).collect();
        let mut command = process::serve(id, &peers.join(","), &self.dir.join(format!("n{id}")))?;
        command.args(["--listen", &self.listens[id as usize - 1]]);
        let path = self.dir.join(format!("n{id}.log"));
        let log = File::options().create(true).append(true).open(&path).map_err(io(&path.display().to_string()))?;
        let child = command.stderr(log).spawn().map_err(io("drave serve"))?;
        self.children[id as usize - 1] = Some(child);
        Ok(())
    }

    /// Sends a signal to a node.
    pub fn signal(&self, id: u64, signal: Signal) -> Result<(), CliError> {
        let pid = self.children[id as usize - 1].as_ref().and_then(|child| Pid::from_raw(child.id() as i32));
        let gone = || CliError { what: format!("n{id} is not running"), code: 70 };
        kill_process(pid.ok_or_else(gone)?, signal).map_err(|error| io("signal")(error.into()))
    }

    /// Waits for the exit of a node that was signaled to stop.
    pub fn wait_exit(&mut self, id: u64) -> Result<(), CliError> {
        match self.children[id as usize - 1].take() {
            Some(mut child) => child.wait().map(|_how| ()).map_err(io("wait")),
            None => Ok(()),
        }
    }

    /// The leader and its followers.
    pub fn roles(&self) -> Result<(u64, Vec<u64>), CliError> {
        let statuses = self.statuses();
        let leader = statuses.iter().filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term);
        let none = || CliError { what: format!("no leader answers\n  {}", self.where_logs_are()), code: 3 };
        let leader = leader.ok_or_else(none)?.node;
        Ok((leader, (1..=NODES).filter(|id| *id != leader).collect()))
    }

    /// A phrase for error messages that names the directory with the data and logs, which is kept after a failure.
    pub fn where_logs_are(&self) -> String {
        format!("its data and logs stay in {}", self.dir.display())
    }

    fn statuses(&self) -> Vec<Status> {
        let soon = Duration::from_millis(500);
        let client =
            Client::with(self.endpoints.clone(), Options { timeout: soon, patience: soon, ..Options::default() });
        self.endpoints.iter().filter_map(|endpoint| client.status(endpoint).ok()).collect()
    }

    /// Waits until there is one leader, all nodes follow it, and no follower is far behind.
    pub fn wait_healthy(&self) -> Result<(), CliError> {
        let begun = Instant::now();
        while !is_healthy(&self.statuses()) {
            if begun.elapsed() > HEALTHY_TIMEOUT {
                let what = format!("the cluster is not healthy after {HEALTHY_TIMEOUT:?}\n  {}", self.where_logs_are());
                return Err(CliError { what, code: 3 });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Stops all nodes and removes their directory.
    pub fn finish(mut self) -> Result<(), CliError> {
        for id in 1..=NODES {
            self.signal(id, Signal::TERM)?;
        }
        (1..=NODES).try_for_each(|id| self.wait_exit(id))?;
        std::fs::remove_dir_all(&self.dir).map_err(io(&self.dir.display().to_string()))
    }
}

fn is_healthy(statuses: &[Status]) -> bool {
    let mut leaders = statuses.iter().filter(|status| status.role == RoleName::Leader);
    let (Some(leader), None) = (leaders.next(), leaders.next()) else { return false };
    let follow = statuses.iter().all(|status| status.leader == Some(leader.node) && status.term == leader.term);
    let near = leader.peers.iter().all(|peer| peer.stage == "stream" && peer.lag <= LAG);
    statuses.len() as u64 == NODES && follow && near && leader.peers.len() as u64 == NODES - 1
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // A node that has exited already is fine. SIGKILL ends a frozen one as well.
            let _gone = (child.kill(), child.wait());
        }
    }
}
