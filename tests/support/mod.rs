//! Real processes on loopback: a cluster of nodes in a directory of its own, and programs beside it.
//! Whatever a test starts is gone when the test is, however it ends.
#![allow(dead_code, reason = "each test uses its part of it")]

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

/// After this long without what should come, a test fails. Far more than anything takes, also where two other programs
/// each keep a core busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The program, to be run with those words; killed with the thread that starts it.
pub fn drave(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drave"));
    command.args(words).stdin(Stdio::null());
    // SAFETY: between fork and exec only one async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
    command
}

/// That many ports in a row that nobody listens at. They lie below those that the system gives to
/// whoever dials, or a node that is started again could find its own taken; and a file, locked until
/// this process ends, keeps their block from every other run of a test.
pub fn ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const BLOCK: u16 = 8;
    const BLOCKS: u16 = 2_500;
    assert!(count <= BLOCK);
    let begin = std::process::id() as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(step < 2 * BLOCKS, "every block of ports is taken");
        let block = begin.wrapping_mul(8).wrapping_add(step) % BLOCKS;
        let base = FIRST + block * BLOCK;
        let lock = std::env::temp_dir().join(format!("drave-test-ports-{base}"));
        // Whoever else may not write there has its own files of that name.
        let Ok(lock) = File::options().create(true).append(true).open(lock) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let held: Vec<_> =
            (base..base + count).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
        if held.len() == usize::from(count) {
            // Held for the life of the process: closing it would let go of the lock.
            std::mem::forget(lock);
            return base;
        }
    }
}

/// Waits until something holds, and hands it over; fails with what `why` says if it never does.
pub fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>, why: impl FnOnce() -> String) -> T {
    let begun = Instant::now();
    loop {
        if let Some(held) = holds() {
            return held;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", why());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that does not outlive its test.
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

    /// Waits for its end.
    pub fn end(&mut self, why: impl FnOnce() -> String) -> ExitStatus {
        until("a process ends", || self.0.try_wait().unwrap(), why)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _it_may_be_gone = self.0.kill();
        let _it_may_be_gone = self.0.wait();
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Its output, read as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A program that runs beside the test and writes to files.
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

    /// Waits for its end.
    pub fn end(mut self) -> Said {
        let code = self.process.end(|| std::fs::read_to_string(&self.err).unwrap_or_default()).code();
        let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        Said { code, out: text(&self.out), err: text(&self.err) }
    }
}

/// A cluster of child processes in a directory that goes with it.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    pub addresses: Vec<String>,
    /// What each is started with, beside what it must be.
    pub words: Vec<String>,
    /// Where each lets Redis clients in; nowhere if it is not named here.
    pub doors: Vec<String>,
    /// Where each lets HTTP clients in; nowhere if it is not named here.
    pub webs: Vec<String>,
    /// So many of them, the first, found the cluster; the others join it.
    pub founders: usize,
    nodes: Vec<Option<Guarded>>,
}

impl Cluster {
    /// So many nodes, all running.
    pub fn start(nodes: u16) -> Cluster {
        let mut cluster = Cluster::prepare(nodes);
        (0..nodes.into()).for_each(|n| cluster.spawn(n));
        cluster
    }

    /// So many nodes, none of them running.
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

    /// What `--peers` says.
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

    /// kill -9.
    pub fn kill(&mut self, n: usize) {
        drop(self.nodes[n].take().unwrap());
    }

    /// SIGTERM; the exit code.
    pub fn stop(&mut self, n: usize) -> Option<i32> {
        let mut node = self.nodes[n].take().unwrap();
        node.signal(Signal::TERM);
        node.end(|| self.logs()).code()
    }

    /// Fails if a node has ended that nobody ended.
    pub fn expect_no_deaths(&mut self) {
        let ended = |node: &mut Option<Guarded>| node.as_mut().and_then(|node| node.0.try_wait().unwrap());
        let ended: Vec<_> = self.nodes.iter_mut().enumerate().filter_map(|(n, node)| Some((n, ended(node)?))).collect();
        assert!(ended.is_empty(), "ended by themselves, counted from 0: {ended:?}\n{}", self.logs());
    }

    pub fn client(&self) -> Client {
        self.patient_client(Duration::from_secs(20))
    }

    fn patient_client(&self, timeout: Duration) -> Client {
        Client::with(self.addresses.clone(), Options { timeout, ..Options::default() })
    }

    /// How a node is, if it says so soon.
    pub fn status(&self, n: usize) -> Option<Status> {
        self.patient_client(Duration::from_millis(500)).status(&self.addresses[n]).ok()
    }

    /// Who leads the latest term, of those asked that answer.
    pub fn leader_of(&self, asked: impl Iterator<Item = usize>) -> Option<usize> {
        let statuses = asked.filter(|n| self.is_running(*n)).filter_map(|n| Some((n, self.status(n)?)));
        let leaders = statuses.filter(|(_, status)| status.role == RoleName::Leader);
        leaders.max_by_key(|(_, status)| status.term).map(|(n, _)| n)
    }

    /// Waits for a leader.
    pub fn leader(&self) -> usize {
        until("a leader", || self.leader_of(0..self.len()), || self.logs())
    }

    /// Waits until all have applied the same, and says what they all hold.
    pub fn agree(&self) -> String {
        let agreed = || {
            let all: Vec<_> = (0..self.len()).filter_map(|n| self.status(n)).collect();
            let same = all.windows(2).all(|two| two[0].applied == two[1].applied);
            (all.len() == self.len() && same).then_some(all)
        };
        let all = until("all applied the same", agreed, || self.logs());
        assert!(all.windows(2).all(|two| two[0].digest == two[1].digest), "{all:#?}");
        all[0].digest.clone()
    }

    /// The program, with this cluster to talk to.
    pub fn drave(&self, words: &[&str]) -> Command {
        let mut command = drave(words);
        command.env("DRAVE_ENDPOINTS", self.addresses.join(","));
        command
    }

    /// Runs a verb against this cluster.
    pub fn run(&self, words: &[&str]) -> Said {
        run(&mut self.drave(words))
    }

    /// What all nodes logged.
    pub fn logs(&self) -> String {
        let read = |n| std::fs::read_to_string(self.data(n).with_extension("log")).unwrap_or_default();
        (0..self.len()).map(read).collect()
    }
}

/// A cluster with Redis doors, and where they are.
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

/// The same with each door where members are said to have it: a hundred above the native port.
pub fn doors_beside(words: &[&str]) -> Cluster {
    let free = || {
        let mut cluster = Cluster::prepare(3);
        let native =
            cluster.addresses.iter().map(|address| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap());
        cluster.doors = native.map(|port| format!("127.0.0.1:{}", port + 100)).collect();
        cluster.doors.iter().all(|door| TcpListener::bind(door).is_ok()).then_some(cluster)
    };
    let mut cluster = until("ports for doors", free, String::new);
    cluster.words.extend(words.iter().map(|word| (*word).to_owned()));
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    cluster
}

/// A program of somebody else's, a client mostly, that has to be installed. Where it is not, a test says so and
/// sees nothing; with `DRAVE_MUST_HAVE_CLIENTS=1` it fails.
pub fn installed(program: &str) -> Option<Command> {
    let found = std::env::split_paths(&std::env::var_os("PATH")?).any(|place| place.join(program).is_file());
    if !found {
        let must = std::env::var("DRAVE_MUST_HAVE_CLIENTS").is_ok_and(|set| set == "1");
        assert!(!must, "{program} is not installed");
        eprintln!("not run: {program} is not installed");
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
