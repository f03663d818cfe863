//! The nodes of a demo, one child process each: start, supervision, fault injection and stop.

use super::register::{Register, io};
use crate::remote::failure::CliError;
use crate::remote::process;
use crate::tui::node::Process;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a dead node stays down: long enough to see the other nodes continue without it.
pub const DOWN: Duration = Duration::from_secs(3);
/// Number of last log lines in the error about a node that exited and is not restarted.
const LAST_LINES: usize = 5;

/// The destination of the nodes' log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// The standard error of this process, each line prefixed with the name of its node.
    Passed,
    /// A file beside the data of each node.
    Kept,
}

/// The state of a node's process.
enum NodeProcess {
    /// The process exists.
    Taken {
        child: Child,
        /// Whether it is stopped by a signal, from the demo or from elsewhere.
        frozen: bool,
        /// Whether it is not restarted after its death.
        to_stay_away: bool,
    },
    /// The process died, and is restarted at this time.
    Returns(Instant),
    /// The process was killed or never started, and is started on request.
    Empty,
}

/// The nodes of a demo. The thread that starts them must stay alive, because the nodes end with it.
pub struct Nodes {
    dir: PathBuf,
    peers: String,
    base_port: u16,
    words: LogTarget,
    seats: BTreeMap<u64, NodeProcess>,
    /// Threads that copy the nodes' log lines until the end of each pipe.
    readers: Vec<JoinHandle<()>>,
    register: Register,
}

/// The death of a node that is restarted later, or stays down as requested.
pub struct Death {
    /// The id of the node.
    pub node: u64,
    pub status: ExitStatus,
}

/// Prints a line to standard error and ignores failures: the terminal may be gone, and the nodes must still be stopped.
pub fn print_line(line: &str) {
    let _nobody_may_read = writeln!(std::io::stderr(), "{line}");
}

impl Nodes {
    /// `count` nodes at consecutive ports from `base_port`, with their data in `dir`. None runs yet.
    pub fn new(count: u16, base_port: u16, dir: PathBuf, words: LogTarget) -> Nodes {
        let endpoints: Vec<String> = (0..count).map(|n| format!("127.0.0.1:{}", base_port.saturating_add(n))).collect();
        let peers = endpoints.iter().zip(1..).map(|(at, id)| format!("{id}={at}")).collect::<Vec<_>>().join(",");
        let seats = (1..=u64::from(count)).map(|id| (id, NodeProcess::Empty)).collect();
        let register = Register { endpoints, pids: BTreeMap::new() };
        Nodes { dir, peers, base_port, words, seats, readers: Vec::new(), register }
    }

    /// The endpoints of the nodes, node 1 first.
    pub fn endpoints(&self) -> &[String] {
        &self.register.endpoints
    }

    pub fn start_all(&mut self) -> Result<(), CliError> {
        let ids: Vec<u64> = self.seats.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.start(id))
    }

    fn start(&mut self, id: u64) -> Result<(), CliError> {
        let mut command = process::serve(id, &self.peers, &self.dir.join(format!("n{id}")))?;
        match self.words {
            LogTarget::Passed => command.stderr(Stdio::piped()),
            LogTarget::Kept => {
                let path = self.log(id);
                command.stderr(File::options().create(true).append(true).open(&path).map_err(|e| io(&path, &e))?)
            }
        };
        let mut child = command.spawn().map_err(|error| io(Path::new("drave serve"), &error))?;
        if let Some(stderr) = child.stderr.take() {
            // The readers of nodes that died have finished.
            self.readers.retain(|reader| !reader.is_finished());
            self.readers.push(std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    print_line(&format!("n{id} | {line}"));
                }
            }));
        }
        self.register.pids.insert(id, child.id() as i32);
        self.seats.insert(id, NodeProcess::Taken { child, frozen: false, to_stay_away: false });
        self.register.write(self.base_port)
    }

    fn log(&self, id: u64) -> PathBuf {
        self.dir.join(format!("n{id}.log"))
    }

    /// Checks which nodes died, were frozen or continued, and restarts those that are due. Returns the deaths since the
    /// last call, or an error if a node exited with a code that a restart would repeat.
    pub fn supervise(&mut self) -> Result<Vec<Death>, CliError> {
        let mut deaths = Vec::new();
        let mut for_good = None;
        for (id, seat) in &mut self.seats {
            let NodeProcess::Taken { child, frozen, to_stay_away } = seat else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                if let Some(code) = status.code().filter(|code| matches!(code, 2 | 5 | 70 | 74 | 75 | 78)) {
                    for_good = Some((*id, code));
                }
                *seat = if *to_stay_away { NodeProcess::Empty } else { NodeProcess::Returns(Instant::now() + DOWN) };
                deaths.push(Death { node: *id, status });
                continue;
            }
            let options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
            while let Ok(Some(change)) = waitid(WaitId::Pid(Pid::from_child(child)), options) {
                *frozen = change.stopped();
            }
        }
        if let Some((id, code)) = for_good {
            return Err(self.ended(id, code));
        }
        let now = Instant::now();
        let due = |seat: &NodeProcess| matches!(seat, NodeProcess::Returns(at) if *at <= now);
        let due: Vec<u64> = self.seats.iter().filter(|(_, seat)| due(seat)).map(|(id, _)| *id).collect();
        due.into_iter().try_for_each(|id| self.start(id))?;
        Ok(deaths)
    }

    /// The error for a node that exited by itself.
    fn ended(&self, id: u64, code: i32) -> CliError {
        let log = self.log(id);
        let what = match self.words {
            LogTarget::Passed => format!("n{id} ended with exit code {code}; see above"),
            LogTarget::Kept => {
                let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let text = text.unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ");
                format!("n{id} ended with exit code {code}; the end of {}:\n  {last}", log.display())
            }
        };
        CliError { what, code }
    }

    /// The state of each node's process.
    pub fn processes(&self) -> Vec<(u64, Process)> {
        let now = Instant::now();
        let process = |seat: &NodeProcess| match seat {
            NodeProcess::Taken { frozen: false, .. } => Process::Runs,
            NodeProcess::Taken { frozen: true, .. } => Process::Frozen,
            // The remaining seconds, rounded up.
            NodeProcess::Returns(at) => {
                Process::Returns { seconds: at.saturating_duration_since(now).as_millis().div_ceil(1000) as u64 }
            }
            NodeProcess::Empty => Process::Away,
        };
        self.seats.iter().map(|(id, seat)| (*id, process(seat))).collect()
    }

    /// The id of a frozen node, if any.
    pub fn frozen(&self) -> Option<u64> {
        let frozen = |seat: &NodeProcess| matches!(seat, NodeProcess::Taken { frozen: true, .. });
        self.seats.iter().find(|(_, seat)| frozen(seat)).map(|(id, _)| *id)
    }

    /// Sends a signal to a node; returns whether its process is alive. A dead process accepts signals until it is
    /// reaped, so that its state is checked first.
    pub fn signal(&self, id: u64, signal: Signal) -> bool {
        match self.seats.get(&id) {
            Some(NodeProcess::Taken { child, .. }) => {
                let pid = Pid::from_child(child);
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                let is_dead = matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)));
                !is_dead && kill_process(pid, signal).is_ok()
            }
            _ => false,
        }
    }

    /// Kills a running node with SIGKILL, which then stays down, or starts a node that does not run. Returns `None` if
    /// there is no such node, else whether it was killed.
    pub fn kill_or_start(&mut self, id: u64) -> Result<Option<bool>, CliError> {
        match self.seats.get_mut(&id) {
            None => Ok(None),
            Some(NodeProcess::Taken { to_stay_away, .. }) => {
                *to_stay_away = true;
                Ok(Some(self.signal(id, Signal::KILL)))
            }
            Some(NodeProcess::Returns(_) | NodeProcess::Empty) => self.start(id).map(|()| Some(false)),
        }
    }

    /// Stops all nodes with SIGTERM, including frozen ones.
    pub fn stop(mut self) {
        for id in self.seats.keys() {
            // A node that has exited already is fine.
            let _gone = (self.signal(*id, Signal::TERM), self.signal(*id, Signal::CONT));
        }
        for (id, seat) in &mut self.seats {
            let NodeProcess::Taken { child, .. } = seat else { continue };
            match child.wait() {
                Ok(status) => print_line(&format!("n{id} stopped ({status})")),
                Err(error) => print_line(&format!("n{id}: {error}")),
            }
        }
        // The last log lines of a node explain why it exited.
        self.readers.drain(..).for_each(|reader| _ = reader.join());
        Register::remove(self.base_port);
        print_line(&format!("the data stays in {}", self.dir.display()));
    }
}
