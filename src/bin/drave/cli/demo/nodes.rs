//! The nodes of a demo, one child process each: start, supervision, fault injection and stop.

use super::registry::{DemoRegistry, io_error};
use crate::remote::failure::CliError;
use crate::remote::process;
use crate::tui::node::ProcessState;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The time from the death of a node to its restart: long enough for the user to see the other nodes continue.
pub const RESTART_DELAY: Duration = Duration::from_secs(3);
/// The number of log lines that the error about a node shows, if the node exited and is not restarted.
const ERROR_LOG_LINES_MAX: usize = 5;

/// The destination of the nodes' log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// The standard error of this process, each line prefixed with the name of its node.
    Stderr,
    /// One file for each node, such as `n1.log`, in the directory of the demo.
    Files,
}

/// The process of a node, as the last supervision found it.
enum NodeProcess {
    /// The process exists. It may be stopped by a signal.
    Alive {
        child: Child,
        /// Whether the process is stopped by SIGSTOP, from the demo or from elsewhere.
        is_frozen: bool,
        /// Whether the process is not restarted after its death, because the user killed it.
        stays_down_after_death: bool,
    },
    /// The process died, and is restarted at this time.
    RestartsAt(Instant),
    /// The process was killed or never started, and is started on request.
    Down,
}

/// The nodes of a demo. The thread that starts them must stay alive, because the nodes end with it.
pub struct DemoNodes {
    data_directory: PathBuf,
    /// The value of `--peers`, the same for all nodes.
    peers_option: String,
    base_port: u16,
    log_target: LogTarget,
    processes: BTreeMap<u64, NodeProcess>,
    /// Threads that copy the nodes' log lines until the end of each pipe.
    log_reader_threads: Vec<JoinHandle<()>>,
    registry: DemoRegistry,
}

/// The death of a node that is restarted later, or stays down as requested.
pub struct NodeDeath {
    /// The id of the node, from 1.
    pub node: u64,
    pub exit_status: ExitStatus,
}

/// Prints a line to standard error and ignores failures: the terminal may be gone, and the nodes must still be stopped.
pub fn print_to_stderr(line: &str) {
    let _stderr_may_be_closed = writeln!(std::io::stderr(), "{line}");
}

impl DemoNodes {
    /// Describes `count` nodes at consecutive ports from `base_port`, with their data in `data_directory`. No node runs
    /// yet.
    pub fn new(count: u16, base_port: u16, data_directory: PathBuf, log_target: LogTarget) -> DemoNodes {
        let endpoints: Vec<String> = (0..count).map(|n| format!("127.0.0.1:{}", base_port.saturating_add(n))).collect();
        let peers_option =
            endpoints.iter().zip(1..).map(|(endpoint, id)| format!("{id}={endpoint}")).collect::<Vec<_>>().join(",");
        let processes = (1..=u64::from(count)).map(|id| (id, NodeProcess::Down)).collect();
        let registry = DemoRegistry { endpoints, pids: BTreeMap::new() };
        DemoNodes {
            data_directory,
            peers_option,
            base_port,
            log_target,
            processes,
            log_reader_threads: Vec::new(),
            registry,
        }
    }

    /// The endpoints of the nodes, node 1 first.
    pub fn endpoints(&self) -> &[String] {
        &self.registry.endpoints
    }

    pub fn start_all_nodes(&mut self) -> Result<(), CliError> {
        let ids: Vec<u64> = self.processes.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.start_node(id))
    }

    /// Starts a node that is not running, and records its process id in the registry.
    fn start_node(&mut self, id: u64) -> Result<(), CliError> {
        let mut command = process::serve_command(id, &self.peers_option, &self.data_directory.join(format!("n{id}")))?;
        match self.log_target {
            LogTarget::Stderr => command.stderr(Stdio::piped()),
            LogTarget::Files => {
                let path = self.log_path(id);
                command.stderr(File::options().create(true).append(true).open(&path).map_err(|e| io_error(&path, &e))?)
            }
        };
        let mut child = command.spawn().map_err(|error| io_error(Path::new("drave serve"), &error))?;
        if let Some(stderr) = child.stderr.take() {
            // Drops the handles of finished threads, whose nodes have died.
            self.log_reader_threads.retain(|reader| !reader.is_finished());
            self.log_reader_threads.push(std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    print_to_stderr(&format!("n{id} | {line}"));
                }
            }));
        }
        self.registry.pids.insert(id, child.id() as i32);
        self.processes.insert(id, NodeProcess::Alive { child, is_frozen: false, stays_down_after_death: false });
        self.registry.write(self.base_port)
    }

    fn log_path(&self, id: u64) -> PathBuf {
        self.data_directory.join(format!("n{id}.log"))
    }

    /// Checks which nodes died, were frozen or continued, and restarts dead nodes after [`RESTART_DELAY`]. Returns the
    /// deaths since the last call, or an error if a node exited with a code that a restart would not change.
    pub fn supervise(&mut self) -> Result<Vec<NodeDeath>, CliError> {
        let mut deaths = Vec::new();
        let mut fatal_id_and_code: Option<(u64, i32)> = None;
        for (id, state) in &mut self.processes {
            let NodeProcess::Alive { child, is_frozen, stays_down_after_death } = state else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                if let Some(code) = status.code().filter(|code| matches!(code, 2 | 5 | 70 | 74 | 75 | 78)) {
                    fatal_id_and_code = Some((*id, code));
                }
                *state = if *stays_down_after_death {
                    NodeProcess::Down
                } else {
                    NodeProcess::RestartsAt(Instant::now() + RESTART_DELAY)
                };
                deaths.push(NodeDeath { node: *id, exit_status: status });
                continue;
            }
            let wait_options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
            while let Ok(Some(change)) = waitid(WaitId::Pid(Pid::from_child(child)), wait_options) {
                *is_frozen = change.stopped();
            }
        }
        if let Some((id, code)) = fatal_id_and_code {
            return Err(self.fatal_exit_error(id, code));
        }
        let now = Instant::now();
        let is_restart_due = |state: &NodeProcess| matches!(state, NodeProcess::RestartsAt(at) if *at <= now);
        let ids_to_restart: Vec<u64> =
            self.processes.iter().filter(|(_, state)| is_restart_due(state)).map(|(id, _)| *id).collect();
        ids_to_restart.into_iter().try_for_each(|id| self.start_node(id))?;
        Ok(deaths)
    }

    /// The error for a node that exited with `code`, which a restart would not change.
    fn fatal_exit_error(&self, id: u64, code: i32) -> CliError {
        let log_path = self.log_path(id);
        let message = match self.log_target {
            LogTarget::Stderr => format!("n{id} ended with exit code {code}; see above"),
            LogTarget::Files => {
                let text = std::fs::read(&log_path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let text = text.unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last_lines = lines[lines.len().saturating_sub(ERROR_LOG_LINES_MAX)..].join("\n  ");
                format!("n{id} ended with exit code {code}; the end of {}:\n  {last_lines}", log_path.display())
            }
        };
        CliError { message, code }
    }

    /// The node ids, and the state of each node's process for the live view.
    pub fn process_states(&self) -> Vec<(u64, ProcessState)> {
        let now = Instant::now();
        let state_for_view = |state: &NodeProcess| match state {
            NodeProcess::Alive { is_frozen: false, .. } => ProcessState::Running,
            NodeProcess::Alive { is_frozen: true, .. } => ProcessState::Frozen,
            // Rounded up, so that the last second is shown as 1.
            NodeProcess::RestartsAt(at) => ProcessState::Restarting {
                seconds: at.saturating_duration_since(now).as_millis().div_ceil(1000) as u64,
            },
            NodeProcess::Down => ProcessState::Down,
        };
        self.processes.iter().map(|(id, state)| (*id, state_for_view(state))).collect()
    }

    /// The lowest id of a frozen node; `None` if no node is frozen.
    pub fn frozen_node(&self) -> Option<u64> {
        let is_process_frozen = |state: &NodeProcess| matches!(state, NodeProcess::Alive { is_frozen: true, .. });
        self.processes.iter().find(|(_, state)| is_process_frozen(state)).map(|(id, _)| *id)
    }

    /// Sends a signal to a node; returns whether its process is alive. A dead process accepts signals until it is
    /// reaped, so the state of the process is checked first.
    pub fn send_signal(&self, id: u64, signal: Signal) -> bool {
        match self.processes.get(&id) {
            Some(NodeProcess::Alive { child, .. }) => {
                let pid = Pid::from_child(child);
                let wait_options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                let is_dead = matches!(waitid(WaitId::Pid(pid), wait_options), Ok(Some(_)));
                !is_dead && kill_process(pid, signal).is_ok()
            }
            _ => false,
        }
    }

    /// Kills a running node with SIGKILL, or starts a node that does not run. A killed node stays down. Returns `None`
    /// if there is no such node, else whether the node was killed.
    pub fn kill_or_start(&mut self, id: u64) -> Result<Option<bool>, CliError> {
        match self.processes.get_mut(&id) {
            None => Ok(None),
            Some(NodeProcess::Alive { stays_down_after_death, .. }) => {
                *stays_down_after_death = true;
                Ok(Some(self.send_signal(id, Signal::KILL)))
            }
            Some(NodeProcess::RestartsAt(_) | NodeProcess::Down) => self.start_node(id).map(|()| Some(false)),
        }
    }

    /// Stops all nodes with SIGTERM. Frozen nodes are continued, so that they receive it.
    pub fn stop_all_nodes(mut self) {
        for id in self.processes.keys() {
            // The signals fail if the node has exited already, which does no harm.
            let _may_have_exited = (self.send_signal(*id, Signal::TERM), self.send_signal(*id, Signal::CONT));
        }
        for (id, state) in &mut self.processes {
            let NodeProcess::Alive { child, .. } = state else { continue };
            match child.wait() {
                Ok(status) => print_to_stderr(&format!("n{id} stopped ({status})")),
                Err(error) => print_to_stderr(&format!("n{id}: {error}")),
            }
        }
        // Waits until all log lines are printed: the last ones of a node explain why it exited.
        self.log_reader_threads.drain(..).for_each(|reader| _ = reader.join());
        DemoRegistry::remove(self.base_port);
        print_to_stderr(&format!("the data stays in {}", self.data_directory.display()));
    }
}
