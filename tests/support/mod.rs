//! Real processes on loopback: a cluster of nodes in its own directory, and other programs. All processes end when the
//! test that started them ends or fails.
#![allow(dead_code, reason = "each test uses only some of it")]

use drave::api::{RoleName, Status};
use drave::client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The time after which a wait fails its test: far longer than anything takes, even with two other programs that each
/// keep a core busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A command that runs the program with these arguments; it is killed with the thread that starts it.
pub fn drave(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drave"));
    command.args(words).stdin(Stdio::null());
    // SAFETY: between fork and exec only one async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
    command
}

/// Returns the first of `count` consecutive free ports. They are below the ports that the system assigns to outgoing
/// connections, so that a restarted node does not find its own port taken. A file that is locked until this process
/// ends reserves their block against other test runs.
pub fn ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const BLOCK: u16 = 8;
    const BLOCKS: u16 = 2_500;
    assert!(count <= BLOCK);
    let first = std::process::id() as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(step < 2 * BLOCKS, "every block of ports is taken");
        let block = first.wrapping_mul(8).wrapping_add(step) % BLOCKS;
        let base = FIRST + block * BLOCK;
        let lock = std::env::temp_dir().join(format!("drave-test-ports-{base}"));
        // The open fails if another user owns a file of that name; that block is skipped.
        let Ok(lock) = File::options().create(true).append(true).open(lock) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let listeners: Vec<_> =
            (base..base + count).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
        if listeners.len() == usize::from(count) {
            // Kept open for the life of the process: closing the file releases the lock.
            std::mem::forget(lock);
            return base;
        }
    }
}

/// Waits until `condition` returns a value, and returns it. After `PATIENCE` it panics with the text of `details`.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>, details: impl FnOnce() -> String) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", details());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that is killed at the end of its test.
pub struct Guarded(pub Child);

impl Guarded {
    pub fn start(command: &mut Command) -> Guarded {
        Guarded(command.spawn().unwrap())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the process to end.
    pub fn end(&mut self, details: impl FnOnce() -> String) -> ExitStatus {
        until("a process ends", || self.0.try_wait().unwrap(), details)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // An error means that the process has ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// The output and exit code of a program.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The output, parsed as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a program until it ends.
pub fn run(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A program that runs during the test and writes to files.
pub struct Beside {
    process: Guarded,
    out: PathBuf,
    err: PathBuf,
}

impl Beside {
    pub fn start(directory: &Path, name: &str, command: &mut Command) -> Beside {
        let (out, err) = (directory.join(format!("{name}.out")), directory.join(format!("{name}.err")));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        Beside { process: Guarded::start(command), out, err }
    }

    pub fn is_running(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_none()
    }

    /// Waits for the program to end.
    pub fn end(mut self) -> Said {
        let code = self.process.end(|| std::fs::read_to_string(&self.err).unwrap_or_default()).code();
        let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        Said { code, out: text(&self.out), err: text(&self.err) }
    }
}

/// A cluster of child processes in a directory that is removed with it.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    pub addresses: Vec<String>,
    /// Additional arguments of each node.
    pub words: Vec<String>,
    /// The Redis address of each node; without one, Redis is off.
    pub doors: Vec<String>,
    /// The HTTP address of each node; without one, HTTP is off.
    pub webs: Vec<String>,
    /// The number of founding nodes, which are the first ones. The other nodes join the cluster.
    pub founders: usize,
    nodes: Vec<Option<Guarded>>,
}

impl Cluster {
    /// A cluster of running nodes.
    pub fn start(nodes: u16) -> Cluster {
        let mut cluster = Cluster::prepare(nodes);
        (0..nodes.into()).for_each(|n| cluster.spawn(n));
        cluster
    }

    /// A cluster of nodes that are not running yet.
    pub fn prepare(nodes: u16) -> Cluster {
        let base = ports(nodes);
        Cluster {
            directory: tempfile::tempdir().unwrap(),
            addresses: (base..base + nodes).map(|port| format!("127.0.0.1:{port}")).collect(),
            words: ["--segment-size", "4MiB", "--reserve", "4MiB"].map(str::to_owned).into(),
            doors: Vec::new(),
            webs: Vec::new(),
            founders: nodes.into(),
            nodes: (0..nodes).map(|_| None).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn data(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("n{}", n + 1))
    }

    /// The value of `--peers`.
    pub fn peers(&self) -> String {
        let founders = &self.addresses[..self.founders];
        let peers = founders.iter().zip(1..).map(|(address, id)| format!("{id}={address}"));
        peers.collect::<Vec<_>>().join(",")
    }

    /// The command that runs a node.
    pub fn serve(&self, n: usize) -> Command {
        let mut command = drave(&["serve", "--id", &(n + 1).to_string()]);
        if n < self.founders {
            command.args(["--peers", &self.peers()]);
        } else {
            let others: Vec<_> = self.addresses.iter().filter(|other| **other != self.addresses[n]).cloned().collect();
            command.args(["--join", &others.join(","), "--listen", &self.addresses[n]]);
        }
        command.args(["--resp", self.doors.get(n).map_or("off", String::as_str)]);
        command.args(["--http", self.webs.get(n).map_or("off", String::as_str)]);
        command.args(&self.words).arg("--data").arg(self.data(n));
        command
    }

    pub fn spawn(&mut self, n: usize) {
        let log = File::options().create(true).append(true).open(self.data(n).with_extension("log")).unwrap();
        self.nodes[n] = Some(Guarded::start(self.serve(n).stderr(log).stdout(Stdio::null())));
    }

    pub fn is_running(&self, n: usize) -> bool {
        self.nodes[n].is_some()
    }

    pub fn pid(&self, n: usize) -> Pid {
        self.nodes[n].as_ref().unwrap().pid()
    }

    pub fn signal(&self, n: usize, signal: Signal) {
        self.nodes[n].as_ref().unwrap().signal(signal);
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, n: usize) {
        drop(self.nodes[n].take().unwrap());
    }

    /// Stops a node with SIGTERM. Returns its exit code.
    pub fn stop(&mut self, n: usize) -> Option<i32> {
        let mut node = self.nodes[n].take().unwrap();
        node.signal(Signal::TERM);
        node.end(|| self.logs()).code()
    }

    /// Fails if a node has ended by itself.
    pub fn expect_no_deaths(&mut self) {
        let ended = |node: &mut Option<Guarded>| node.as_mut().and_then(|node| node.0.try_wait().unwrap());
        let ended: Vec<_> = self.nodes.iter_mut().enumerate().filter_map(|(n, node)| Some((n, ended(node)?))).collect();
        assert!(ended.is_empty(), "nodes ended by themselves, counted from 0: {ended:?}\n{}", self.logs());
    }

    pub fn client(&self) -> Client {
        self.client_with_timeout(Duration::from_secs(20))
    }

    fn client_with_timeout(&self, timeout: Duration) -> Client {
        Client::with(self.addresses.clone(), Options { timeout, ..Options::default() })
    }

    /// The status of a node, if it answers soon.
    pub fn status(&self, n: usize) -> Option<Status> {
        self.client_with_timeout(Duration::from_millis(500)).status(&self.addresses[n]).ok()
    }

    /// The leader of the highest term, among those of the given nodes that answer.
    pub fn leader_of(&self, nodes: impl Iterator<Item = usize>) -> Option<usize> {
        let statuses = nodes.filter(|n| self.is_running(*n)).filter_map(|n| Some((n, self.status(n)?)));
        let leaders = statuses.filter(|(_, status)| status.role == RoleName::Leader);
        leaders.max_by_key(|(_, status)| status.term).map(|(n, _)| n)
    }

    /// Waits for a leader.
    pub fn leader(&self) -> usize {
        until("a leader", || self.leader_of(0..self.len()), || self.logs())
    }

    /// Waits until all nodes have applied the same index, and returns the digest of their state.
    pub fn agree(&self) -> String {
        let same_index = || {
            let all: Vec<_> = (0..self.len()).filter_map(|n| self.status(n)).collect();
            let same = all.windows(2).all(|two| two[0].applied == two[1].applied);
            (all.len() == self.len() && same).then_some(all)
        };
        let all = until("all nodes applied the same index", same_index, || self.logs());
        assert!(all.windows(2).all(|two| two[0].digest == two[1].digest), "{all:#?}");
        all[0].digest.clone()
    }

    /// A command that runs the program with this cluster as its endpoints.
    pub fn drave(&self, words: &[&str]) -> Command {
        let mut command = drave(words);
        command.env("DRAVE_ENDPOINTS", self.addresses.join(","));
        command
    }

    /// Runs a subcommand against this cluster.
    pub fn run(&self, words: &[&str]) -> Said {
        run(&mut self.drave(words))
    }

    /// The logs of all nodes.
    pub fn logs(&self) -> String {
        let read = |n| std::fs::read_to_string(self.data(n).with_extension("log")).unwrap_or_default();
        (0..self.len()).map(read).collect()
    }
}

/// A running cluster with Redis gateways, and their addresses.
pub fn doors(nodes: u16, words: &[&str]) -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::prepare(nodes);
    let base = ports(nodes);
    let doors: Vec<String> = (base..base + nodes).map(|port| format!("127.0.0.1:{port}")).collect();
    cluster.words.extend(words.iter().map(|word| (*word).to_owned()));
    cluster.doors.clone_from(&doors);
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.leader();
    (cluster, doors)
}

/// Like [`doors`], with each Redis gateway at its default port: the native port plus 100. Returns the running cluster.
pub fn cluster_with_default_redis_ports(words: &[&str]) -> Cluster {
    let free = || {
        let mut cluster = Cluster::prepare(3);
        let native =
            cluster.addresses.iter().map(|address| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap());
        cluster.doors = native.map(|port| format!("127.0.0.1:{}", port + 100)).collect();
        cluster.doors.iter().all(|door| TcpListener::bind(door).is_ok()).then_some(cluster)
    };
    let mut cluster = until("free ports for Redis", free, String::new);
    cluster.words.extend(words.iter().map(|word| (*word).to_owned()));
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    cluster
}

/// A command for an installed program of another project, usually a client. If it is missing, the test
/// prints that and skips; with `DRAVE_MUST_HAVE_CLIENTS=1` it fails.
pub fn installed(program: &str) -> Option<Command> {
    let found = std::env::split_paths(&std::env::var_os("PATH")?).any(|directory| directory.join(program).is_file());
    if !found {
        let must = std::env::var("DRAVE_MUST_HAVE_CLIENTS").is_ok_and(|set| set == "1");
        assert!(!must, "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
        return None;
    }
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    // SAFETY: between fork and exec only one async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
    Some(command)
}
