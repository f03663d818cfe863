//! Three nodes of our own on loopback, to do harm to.

use super::proxy::Proxy;
use crate::api::{RoleName, Status};
use crate::cli::children;
use crate::cli::failure::CliError;
use crate::client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// How many nodes.
const NODES: u64 = 3;
/// How long a cluster may take to be whole again.
const WHOLE: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// A follower that is no further behind than this has caught up: writes go on meanwhile.
const LAG: u64 = 2_000;

/// Three child processes in a temporary directory, which go with it.
pub struct Trio {
    dir: PathBuf,
    /// Where clients and nodes reach each.
    pub endpoints: Vec<String>,
    /// Where each listens.
    listens: Vec<String>,
    children: Vec<Option<Child>>,
    /// What all traffic goes through, if it is to be cut.
    pub proxy: Option<Proxy>,
}

fn io(what: &str) -> impl Fn(std::io::Error) -> CliError + '_ {
    move |error| CliError { what: format!("{what}: {error}"), code: 74 }
}

/// Ports that nobody listens at. They lie below those that systems give to whoever dials, or a node that
/// is started again could find its own taken.
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

impl Trio {
    /// Starts them; behind a proxy if they are to be cut off from one another.
    pub fn start(name: &str, proxied: bool) -> Result<Trio, CliError> {
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
        let mut trio = Trio { dir, endpoints, listens, children, proxy };
        (1..=NODES).try_for_each(|id| trio.spawn(id))?;
        trio.whole()?;
        Ok(trio)
    }

    /// Starts a node that is not running.
    pub fn spawn(&mut self, id: u64) -> Result<(), CliError> {
        let peers: Vec<String> = self.endpoints.iter().zip(1..).map(|(at, id)| format!("{id}={at}")).collect();
        let mut command = children::serve(id, &peers.join(","), &self.dir.join(format!("n{id}")))?;
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

    /// Waits for the end of a node that was told to end.
    pub fn bury(&mut self, id: u64) -> Result<(), CliError> {
        match self.children[id as usize - 1].take() {
            Some(mut child) => child.wait().map(|_how| ()).map_err(io("wait")),
            None => Ok(()),
        }
    }

    /// Who leads, and who follows.
    pub fn roles(&self) -> Result<(u64, Vec<u64>), CliError> {
        let statuses = self.statuses();
        let leader = statuses.iter().filter(|status| status.role == RoleName::Leader).max_by_key(|status| status.term);
        let none = || CliError { what: format!("no leader answers\n  {}", self.where_logs_are()), code: 3 };
        let leader = leader.ok_or_else(none)?.node;
        Ok((leader, (1..=NODES).filter(|id| *id != leader).collect()))
    }

    /// Where to look why something went wrong, in words: the directory stays where it is then.
    pub fn where_logs_are(&self) -> String {
        format!("its data and logs stay in {}", self.dir.display())
    }

    fn statuses(&self) -> Vec<Status> {
        let soon = Duration::from_millis(500);
        let client =
            Client::with(self.endpoints.clone(), Options { timeout: soon, patience: soon, ..Options::default() });
        self.endpoints.iter().filter_map(|endpoint| client.status(endpoint).ok()).collect()
    }

    /// Waits until one leads, all follow it, and nobody is far behind.
    pub fn whole(&self) -> Result<(), CliError> {
        let begun = Instant::now();
        while !is_whole(&self.statuses()) {
            if begun.elapsed() > WHOLE {
                let what = format!("the cluster is not whole after {WHOLE:?}\n  {}", self.where_logs_are());
                return Err(CliError { what, code: 3 });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Stops all of them and removes what they wrote.
    pub fn finish(mut self) -> Result<(), CliError> {
        for id in 1..=NODES {
            self.signal(id, Signal::TERM)?;
        }
        (1..=NODES).try_for_each(|id| self.bury(id))?;
        std::fs::remove_dir_all(&self.dir).map_err(io(&self.dir.display().to_string()))
    }
}

fn is_whole(statuses: &[Status]) -> bool {
    let mut leaders = statuses.iter().filter(|status| status.role == RoleName::Leader);
    let (Some(leader), None) = (leaders.next(), leaders.next()) else { return false };
    let follow = statuses.iter().all(|status| status.leader == Some(leader.node) && status.term == leader.term);
    let near = leader.peers.iter().all(|peer| peer.stage == "stream" && peer.lag <= LAG);
    statuses.len() as u64 == NODES && follow && near && leader.peers.len() as u64 == NODES - 1
}

impl Drop for Trio {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // One that is gone already is what we want. A frozen one is killed as well.
            let _gone = (child.kill(), child.wait());
        }
    }
}
