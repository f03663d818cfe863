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

const NODE_COUNT: u64 = 3;
/// How long the cluster may take to become healthy.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval at which the nodes' status is polled until the cluster is healthy.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A follower at most this many entries behind the leader counts as caught up: writes continue during the check.
const CAUGHT_UP_LAG_MAX: u64 = 2_000;

/// Three child processes with their data in a temporary directory. They are killed when this value is dropped.
pub struct TestCluster {
    data_directory: PathBuf,
    /// The address at which clients and peers reach each node: that of its proxy, if there is one.
    pub endpoints: Vec<String>,
    /// The address that each node listens on.
    listen_addresses: Vec<String>,
    node_processes: Vec<Option<Child>>,
    /// The proxy for all traffic, if nodes are to be isolated.
    pub proxy: Option<Proxy>,
}

fn io_error(context: &str) -> impl Fn(std::io::Error) -> CliError + '_ {
    move |error| CliError { message: format!("{context}: {error}"), code: 74 }
}

/// Listeners on unused ports below the ephemeral range: otherwise an outgoing connection could occupy the port of a
/// node that is about to restart.
fn bind_free_ports(count: usize) -> Result<Vec<TcpListener>, CliError> {
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..1000 {
        let port = rand::random_range(16_000..32_000);
        listeners.extend(TcpListener::bind(("127.0.0.1", port)));
        if listeners.len() == count {
            return Ok(listeners);
        }
    }
    Err(CliError { message: "no free ports on loopback\n  tried a thousand from 16000 to 32000".to_owned(), code: 74 })
}

fn local_address(listener: &TcpListener) -> Result<String, CliError> {
    listener.local_addr().map(|address| address.to_string()).map_err(io_error("loopback"))
}

impl TestCluster {
    /// Starts the nodes, behind a proxy if they are to be isolated, and waits until the cluster is healthy.
    pub fn start(name: &str, is_proxied: bool) -> Result<TestCluster, CliError> {
        let data_directory = std::env::temp_dir().join(format!("drave-failover-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&data_directory).map_err(io_error(&data_directory.display().to_string()))?;
        let node_listeners = bind_free_ports(NODE_COUNT as usize)?;
        let listen_addresses: Vec<String> = node_listeners.iter().map(local_address).collect::<Result<_, _>>()?;
        let (endpoints, proxy) = match is_proxied {
            false => (listen_addresses.clone(), None),
            true => {
                let proxy_listeners = bind_free_ports(NODE_COUNT as usize)?;
                let endpoints = proxy_listeners.iter().map(local_address).collect::<Result<_, _>>()?;
                (endpoints, Some(Proxy::start(proxy_listeners, &listen_addresses)?))
            }
        };
        drop(node_listeners);
        let node_processes = (0..NODE_COUNT).map(|_| None).collect();
        let mut cluster = TestCluster { data_directory, endpoints, listen_addresses, node_processes, proxy };
        (1..=NODE_COUNT).try_for_each(|id| cluster.spawn_node(id))?;
        cluster.wait_until_healthy()?;
        Ok(cluster)
    }

    /// Starts a node that is not running.
    pub fn spawn_node(&mut self, id: u64) -> Result<(), CliError> {
        let peers: Vec<String> =
            self.endpoints.iter().zip(1..).map(|(address, id)| format!("{id}={address}")).collect();
        let mut command = process::serve_command(id, &peers.join(","), &self.data_directory.join(format!("n{id}")))?;
        command.args(["--listen", &self.listen_addresses[id as usize - 1]]);
        let log_path = self.data_directory.join(format!("n{id}.log"));
        let log_file = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(io_error(&log_path.display().to_string()))?;
        let child = command.stderr(log_file).spawn().map_err(io_error("drave serve"))?;
        self.node_processes[id as usize - 1] = Some(child);
        Ok(())
    }

    /// Sends a signal to a node; fails if its process was waited for already.
    pub fn send_signal(&self, id: u64, signal: Signal) -> Result<(), CliError> {
        let pid = self.node_processes[id as usize - 1].as_ref().and_then(|child| Pid::from_raw(child.id() as i32));
        let not_running_error = || CliError { message: format!("n{id} is not running"), code: 70 };
        kill_process(pid.ok_or_else(not_running_error)?, signal).map_err(|error| io_error("signal")(error.into()))
    }

    /// Waits for the exit of a node that was signaled to stop.
    pub fn wait_for_exit(&mut self, id: u64) -> Result<(), CliError> {
        match self.node_processes[id as usize - 1].take() {
            Some(mut child) => child.wait().map(|_status| ()).map_err(io_error("wait")),
            None => Ok(()),
        }
    }

    /// The id of the leader, and the ids of the two followers.
    pub fn leader_and_followers(&self) -> Result<(u64, Vec<u64>), CliError> {
        let statuses = self.statuses();
        let leader = statuses.iter().filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term);
        let no_leader_error = || CliError { message: format!("no leader answers\n  {}", self.logs_hint()), code: 3 };
        let leader = leader.ok_or_else(no_leader_error)?.node;
        Ok((leader, (1..=NODE_COUNT).filter(|id| *id != leader).collect()))
    }

    /// A phrase for error messages that names the directory with the data and logs, which is kept after a failure.
    pub fn logs_hint(&self) -> String {
        format!("its data and logs stay in {}", self.data_directory.display())
    }

    fn statuses(&self) -> Vec<Status> {
        let request_timeout = Duration::from_millis(500);
        let client = Client::with_options(
            self.endpoints.clone(),
            Options { timeout: request_timeout, node_timeout: request_timeout, ..Options::default() },
        );
        self.endpoints.iter().filter_map(|endpoint| client.status(endpoint).ok()).collect()
    }

    /// Waits until there is one leader, all nodes follow it, and no follower is far behind.
    pub fn wait_until_healthy(&self) -> Result<(), CliError> {
        let began = Instant::now();
        while !is_healthy(&self.statuses()) {
            if began.elapsed() > HEALTHY_TIMEOUT {
                let message = format!("the cluster is not healthy after {HEALTHY_TIMEOUT:?}\n  {}", self.logs_hint());
                return Err(CliError { message, code: 3 });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Stops all nodes and removes their directory.
    pub fn stop_and_remove(mut self) -> Result<(), CliError> {
        for id in 1..=NODE_COUNT {
            self.send_signal(id, Signal::TERM)?;
        }
        (1..=NODE_COUNT).try_for_each(|id| self.wait_for_exit(id))?;
        std::fs::remove_dir_all(&self.data_directory).map_err(io_error(&self.data_directory.display().to_string()))
    }
}

fn is_healthy(statuses: &[Status]) -> bool {
    let mut leaders = statuses.iter().filter(|status| status.role == RoleName::Leader);
    let (Some(leader), None) = (leaders.next(), leaders.next()) else { return false };
    let all_follow_leader =
        statuses.iter().all(|status| status.leader == Some(leader.node) && status.term == leader.term);
    let all_caught_up = leader.peers.iter().all(|peer| peer.stage == "stream" && peer.lag <= CAUGHT_UP_LAG_MAX);
    statuses.len() as u64 == NODE_COUNT
        && all_follow_leader
        && all_caught_up
        && leader.peers.len() as u64 == NODE_COUNT - 1
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for child in self.node_processes.iter_mut().flatten() {
            // A node that has exited already is no error. SIGKILL ends a frozen node as well.
            let _may_have_exited = (child.kill(), child.wait());
        }
    }
}
