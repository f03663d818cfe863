//! Real processes on loopback: a cluster of nodes in its own directory, and other programs. All processes end when the
//! test that started them ends or fails.
#![allow(dead_code, reason = "each test file uses only some of these helpers")]

use drave::api::{RoleName, Status};
use drave::client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The time after which [`wait_until`] fails its test: far longer than any awaited event takes, even while two other
/// programs keep one core busy each.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

/// A command that runs the `drave` program with these arguments. The process is killed when the thread that started it
/// ends.
pub fn drave_command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drave"));
    command.args(args).stdin(Stdio::null());
    // SAFETY: between fork and exec only one async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
    command
}

/// Reserves `count` consecutive free ports, at most 8, and returns the first of them.
///
/// The ports are below those that the system assigns to outgoing connections, so that a restarted node does not find
/// its own port taken. A file that is locked until this process ends reserves the block of ports against other test
/// runs.
pub fn reserve_ports(count: u16) -> u16 {
    static ATTEMPTS: AtomicU16 = AtomicU16::new(0);
    const FIRST_PORT: u16 = 12_000;
    const PORTS_PER_BLOCK: u16 = 8;
    const BLOCK_COUNT: u16 = 2_500;
    assert!(count <= PORTS_PER_BLOCK);
    let process_id = std::process::id() as u16;
    loop {
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        assert!(attempt < 2 * BLOCK_COUNT, "every block of ports is taken");
        let block = process_id.wrapping_mul(8).wrapping_add(attempt) % BLOCK_COUNT;
        let base_port = FIRST_PORT + block * PORTS_PER_BLOCK;
        let lock_path = std::env::temp_dir().join(format!("drave-test-ports-{base_port}"));
        // The open fails if another user owns a file of that name; that block is skipped.
        let Ok(lock) = File::options().create(true).append(true).open(lock_path) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let listeners: Vec<_> =
            (base_port..base_port + count).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
        if listeners.len() == usize::from(count) {
            // The file stays open until the process ends: closing it would release the lock.
            std::mem::forget(lock);
            return base_port;
        }
    }
}

/// Waits until `condition` returns a value, and returns that value.
///
/// After [`WAIT_TIMEOUT`] it panics with `event`, which names the awaited event, and with the text of `details`.
pub fn wait_until<T>(event: &str, mut condition: impl FnMut() -> Option<T>, details: impl FnOnce() -> String) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            started.elapsed() < WAIT_TIMEOUT,
            "{event}: this did not happen within {WAIT_TIMEOUT:?}\n{}",
            details()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child process that is killed with SIGKILL when this guard is dropped.
pub struct ChildGuard(pub Child);

impl ChildGuard {
    pub fn start(command: &mut Command) -> ChildGuard {
        ChildGuard(command.spawn().unwrap())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the process has ended. After [`WAIT_TIMEOUT`] the test fails with the text of `details`.
    pub fn wait(&mut self, details: impl FnOnce() -> String) -> ExitStatus {
        wait_until("the process ends", || self.0.try_wait().unwrap(), details)
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // An error means that the process has ended already.
        let _already_ended = self.0.kill();
        let _already_ended = self.0.wait();
    }
}

/// The exit code and the output of a program that has ended.
#[derive(Debug)]
pub struct ProgramOutput {
    /// `None` if a signal ended the program.
    pub code: Option<i32>,
    /// Standard output, with invalid UTF-8 replaced.
    pub out: String,
    /// Standard error, with invalid UTF-8 replaced.
    pub err: String,
}

impl ProgramOutput {
    /// The standard output, parsed as one JSON value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a program until it ends, and captures its output.
pub fn run(command: &mut Command) -> ProgramOutput {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    ProgramOutput { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A program that runs in the background of a test, with its standard output and standard error in files.
pub struct BackgroundProgram {
    process: ChildGuard,
    out_path: PathBuf,
    err_path: PathBuf,
}

impl BackgroundProgram {
    /// Starts the program. The files of its output are `{name}.out` and `{name}.err` in `directory`.
    pub fn start(directory: &Path, name: &str, command: &mut Command) -> BackgroundProgram {
        let (out_path, err_path) = (directory.join(format!("{name}.out")), directory.join(format!("{name}.err")));
        command.stdout(File::create(&out_path).unwrap()).stderr(File::create(&err_path).unwrap());
        BackgroundProgram { process: ChildGuard::start(command), out_path, err_path }
    }

    pub fn is_running(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_none()
    }

    /// Waits until the program has ended, and reads its output from the files.
    pub fn wait_with_output(mut self) -> ProgramOutput {
        let code = self.process.wait(|| std::fs::read_to_string(&self.err_path).unwrap_or_default()).code();
        let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        ProgramOutput { code, out: text(&self.out_path), err: text(&self.err_path) }
    }
}

/// A cluster of child processes. Dropping the value kills the processes and removes the cluster's directory.
///
/// The methods count nodes from 0: node `n` has the id `n + 1`.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    /// The native address of each node.
    pub addresses: Vec<String>,
    /// Arguments that every node is started with, besides those of [`Cluster::serve_command`].
    pub extra_args: Vec<String>,
    /// The Redis address of each node. Redis is off at a node that has none here.
    pub redis_addresses: Vec<String>,
    /// The HTTP address of each node. HTTP is off at a node that has none here.
    pub http_addresses: Vec<String>,
    /// The first `founder_count` nodes found the cluster with `--peers`; the other nodes join it with `--join`.
    pub founder_count: usize,
    /// The nodes that run the next version of the program, from their next start on.
    pub next_version_nodes: BTreeSet<usize>,
    /// A page of a file that the disk of a node cannot read, from the node's next start on: the file, and the offset.
    pub unreadable_pages: BTreeMap<usize, (PathBuf, usize)>,
    /// The process of each node; `None` while the node is not running.
    processes: Vec<Option<ChildGuard>>,
}

impl Cluster {
    /// Starts all nodes. There is no leader yet.
    pub fn start(nodes: u16) -> Cluster {
        let mut cluster = Cluster::prepare(nodes);
        (0..nodes.into()).for_each(|n| cluster.spawn(n));
        cluster
    }

    /// Reserves the ports and the directory of a cluster whose nodes are not running yet.
    pub fn prepare(nodes: u16) -> Cluster {
        let base_port = reserve_ports(nodes);
        Cluster {
            directory: tempfile::tempdir().unwrap(),
            addresses: (base_port..base_port + nodes).map(|port| format!("127.0.0.1:{port}")).collect(),
            extra_args: ["--segment-size", "4MiB", "--reserve", "4MiB"].map(str::to_owned).into(),
            redis_addresses: Vec::new(),
            http_addresses: Vec::new(),
            founder_count: nodes.into(),
            next_version_nodes: BTreeSet::new(),
            unreadable_pages: BTreeMap::new(),
            processes: (0..nodes).map(|_| None).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// The data directory of a node. The log of the node is beside it, with the extension `log`.
    pub fn data_dir(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("n{}", n + 1))
    }

    /// The value of `--peers`: the id and address of each founder.
    pub fn peers(&self) -> String {
        let founders = &self.addresses[..self.founder_count];
        let peers = founders.iter().zip(1..).map(|(address, id)| format!("{id}={address}"));
        peers.collect::<Vec<_>>().join(",")
    }

    /// The command that runs a node in its own directory, at its own addresses.
    pub fn serve_command(&self, n: usize) -> Command {
        let mut command = drave_command(&["serve", "--id", &(n + 1).to_string()]);
        if n < self.founder_count {
            command.args(["--peers", &self.peers()]);
        } else {
            let other_addresses: Vec<_> =
                self.addresses.iter().filter(|other| **other != self.addresses[n]).cloned().collect();
            command.args(["--join", &other_addresses.join(","), "--listen", &self.addresses[n]]);
        }
        command.args(["--resp", self.redis_addresses.get(n).map_or("off", String::as_str)]);
        command.args(["--http", self.http_addresses.get(n).map_or("off", String::as_str)]);
        command.args(&self.extra_args).arg("--data").arg(self.data_dir(n));
        if self.next_version_nodes.contains(&n) {
            command.env("DRAVE_NEXT_VERSION", "1");
        }
        if let Some((file, offset)) = self.unreadable_pages.get(&n) {
            command.env("LD_PRELOAD", unreadable_page_library());
            command.env("UNREADABLE_PAGE", format!("{}@{offset}", file.display()));
        }
        command
    }

    /// Starts a node. The node appends to the log file of its earlier runs.
    pub fn spawn(&mut self, n: usize) {
        let log = File::options().create(true).append(true).open(self.data_dir(n).with_extension("log")).unwrap();
        self.processes[n] = Some(ChildGuard::start(self.serve_command(n).stderr(log).stdout(Stdio::null())));
    }

    /// Whether the node was started, and neither killed nor stopped since.
    pub fn is_running(&self, n: usize) -> bool {
        self.processes[n].is_some()
    }

    pub fn pid(&self, n: usize) -> Pid {
        self.processes[n].as_ref().unwrap().pid()
    }

    pub fn signal(&self, n: usize, signal: Signal) {
        self.processes[n].as_ref().unwrap().signal(signal);
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, n: usize) {
        drop(self.processes[n].take().unwrap());
    }

    /// Stops a node with SIGTERM. Returns its exit code, or `None` if a signal ended it.
    pub fn stop(&mut self, n: usize) -> Option<i32> {
        let mut node = self.processes[n].take().unwrap();
        node.signal(Signal::TERM);
        node.wait(|| self.logs()).code()
    }

    /// The exit code of a node that has ended by itself; `None` while it runs.
    pub fn exit_code(&mut self, n: usize) -> Option<i32> {
        let status = self.processes[n].as_mut()?.0.try_wait().unwrap()?;
        Some(status.code().expect("no signal ended the node"))
    }

    /// Waits until a node ends by itself. Returns its exit code, or `None` if a signal ended it.
    pub fn wait_for_exit(&mut self, n: usize) -> Option<i32> {
        let mut process = self.processes[n].take().unwrap();
        process.wait(|| self.logs()).code()
    }

    /// Asserts that no node has ended by itself.
    pub fn expect_no_deaths(&mut self) {
        let exit_status = |node: &mut Option<ChildGuard>| node.as_mut().and_then(|node| node.0.try_wait().unwrap());
        let ended_nodes: Vec<_> =
            self.processes.iter_mut().enumerate().filter_map(|(n, node)| Some((n, exit_status(node)?))).collect();
        assert!(ended_nodes.is_empty(), "nodes ended by themselves, counted from 0: {ended_nodes:?}\n{}", self.logs());
    }

    /// A client of all nodes, whose requests time out after 20 s.
    pub fn client(&self) -> Client {
        self.client_with_timeout(Duration::from_secs(20))
    }

    fn client_with_timeout(&self, timeout: Duration) -> Client {
        Client::with_options(self.addresses.clone(), Options { timeout, ..Options::default() })
    }

    /// The status of a node, if it answers within half a second.
    pub fn status(&self, n: usize) -> Option<Status> {
        self.client_with_timeout(Duration::from_millis(500)).status(&self.addresses[n]).ok()
    }

    /// The leader of the highest term, among those of the given nodes that answer. A node that was paused may still
    /// report itself as the leader of an older term.
    pub fn leader_among(&self, nodes: impl Iterator<Item = usize>) -> Option<usize> {
        let statuses = nodes.filter(|n| self.is_running(*n)).filter_map(|n| Some((n, self.status(n)?)));
        let leaders = statuses.filter(|(_, status)| status.role == RoleName::Leader);
        leaders.max_by_key(|(_, status)| status.term).map(|(n, _)| n)
    }

    /// Waits until there is a leader, and returns its number, counted from 0.
    pub fn wait_for_leader(&self) -> usize {
        wait_until("a leader", || self.leader_among(0..self.len()), || self.logs())
    }

    /// Waits until all nodes have applied the same index, and asserts that their states are equal. Returns the digest
    /// of the state.
    pub fn wait_for_convergence(&self) -> String {
        let have_applied_same_index = || {
            let statuses: Vec<_> = (0..self.len()).filter_map(|n| self.status(n)).collect();
            let is_same = statuses.windows(2).all(|pair| pair[0].applied == pair[1].applied);
            (statuses.len() == self.len() && is_same).then_some(statuses)
        };
        let statuses = wait_until("all nodes applied the same index", have_applied_same_index, || self.logs());
        assert!(statuses.windows(2).all(|pair| pair[0].digest == pair[1].digest), "{statuses:#?}");
        statuses[0].digest.clone()
    }

    /// A command that runs the program with this cluster as its endpoints.
    pub fn drave_command(&self, args: &[&str]) -> Command {
        let mut command = drave_command(args);
        command.env("DRAVE_ENDPOINTS", self.addresses.join(","));
        command
    }

    /// Runs a subcommand against this cluster until it ends.
    pub fn run(&self, args: &[&str]) -> ProgramOutput {
        run(&mut self.drave_command(args))
    }

    /// The logs of all nodes, one after the other, including those of earlier runs.
    pub fn logs(&self) -> String {
        let read_log = |n| std::fs::read_to_string(self.data_dir(n).with_extension("log")).unwrap_or_default();
        (0..self.len()).map(read_log).collect()
    }
}

/// The library that makes a page unreadable for a process, built when it is needed first.
fn unreadable_page_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("unreadable-page-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/unreadable_page.rs");
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut command = Command::new(compiler);
        command.args(["--edition", "2024", "--crate-type", "cdylib", "-o"]).arg(&library).arg(source);
        assert!(command.status().unwrap().success(), "{source} is compiled");
        library
    })
}

/// Starts a cluster with Redis gateways and with `args` for every node, and waits for a leader. Returns the addresses
/// of the gateways as well.
pub fn cluster_with_redis(nodes: u16, args: &[&str]) -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::prepare(nodes);
    let base_port = reserve_ports(nodes);
    let addresses: Vec<String> = (base_port..base_port + nodes).map(|port| format!("127.0.0.1:{port}")).collect();
    cluster.extra_args.extend(args.iter().map(|arg| (*arg).to_owned()));
    cluster.redis_addresses.clone_from(&addresses);
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    (cluster, addresses)
}

/// Like [`cluster_with_redis`], with three nodes and each Redis gateway at its default port: the native port plus 100.
pub fn cluster_with_default_redis_ports(args: &[&str]) -> Cluster {
    let with_free_ports = || {
        let mut cluster = Cluster::prepare(3);
        let native_ports =
            cluster.addresses.iter().map(|address| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap());
        cluster.redis_addresses = native_ports.map(|port| format!("127.0.0.1:{}", port + 100)).collect();
        cluster.redis_addresses.iter().all(|address| TcpListener::bind(address).is_ok()).then_some(cluster)
    };
    let mut cluster = wait_until("free ports for Redis", with_free_ports, String::new);
    cluster.extra_args.extend(args.iter().map(|arg| (*arg).to_owned()));
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster
}

/// A command for a program of another project, usually a client. If the program is not installed, prints this and
/// returns `None`, so that the test passes without a check; with `DRAVE_MUST_HAVE_CLIENTS=1` the test fails instead.
pub fn command_if_installed(program: &str) -> Option<Command> {
    let is_installed =
        std::env::split_paths(&std::env::var_os("PATH")?).any(|directory| directory.join(program).is_file());
    if !is_installed {
        let is_required = std::env::var("DRAVE_MUST_HAVE_CLIENTS").is_ok_and(|value| value == "1");
        assert!(!is_required, "{program} is not installed");
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
