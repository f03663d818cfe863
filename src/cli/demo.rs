//! `drave demo`: a real cluster on this machine, one process a node; and `drave kill`, for it.

use super::children;
use super::cluster::Cluster;
use super::trouble::Trouble;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a node that died stays down: long enough to see the others go on without it.
const DOWN: Duration = Duration::from_secs(3);

/// Runs a real cluster on this machine, one process a node.
#[derive(Args, Debug)]
pub struct Demo {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// Where they keep everything; a fresh temporary directory if it is not given
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Lines instead of a live view
    #[arg(long)]
    plain: bool,
    /// The first node's port; the others follow
    #[arg(long, default_value_t = 7401)]
    base_port: u16,
}

/// Kills a node of a demo, as `kill -9` does.
#[derive(Args, Debug)]
pub struct Kill {
    /// leader, or a node's number
    who: String,
    /// The demo's first port
    #[arg(long, default_value_t = 7401)]
    base_port: u16,
}

/// Who runs where: written by the demo, read by `drave kill`.
#[derive(Serialize, Deserialize, Debug, Default)]
struct Register {
    endpoints: Vec<String>,
    pids: BTreeMap<u64, i32>,
}

impl Register {
    fn path(base_port: u16) -> PathBuf {
        std::env::temp_dir().join(format!("drave-demo-{base_port}.json"))
    }

    fn write(&self, base_port: u16) -> Result<(), Trouble> {
        let path = Register::path(base_port);
        let text = serde_json::to_vec(self).map_err(|error| io(&path, &error))?;
        std::fs::write(&path, text).map_err(|error| io(&path, &error))
    }

    fn read(base_port: u16) -> Result<Register, Trouble> {
        let path = Register::path(base_port);
        let none =
            || Trouble { what: format!("no demo runs at port {base_port}\n  start one with: drave demo"), code: 3 };
        let text = std::fs::read(&path).map_err(|_| none())?;
        serde_json::from_slice(&text).map_err(|_| none())
    }
}

fn io(path: &Path, error: &dyn std::fmt::Display) -> Trouble {
    Trouble { what: format!("{}: {error}", path.display()), code: 74 }
}

/// The running demo.
struct Running {
    dir: PathBuf,
    peers: String,
    base_port: u16,
    children: BTreeMap<u64, Child>,
    down: BTreeMap<u64, Instant>,
    /// They pass on what the nodes say, to its end.
    readers: Vec<JoinHandle<()>>,
    register: Register,
}

/// `drave demo`: until it is told to stop.
pub fn run(args: &Demo) -> Result<(), Trouble> {
    if args.base_port.checked_add(args.nodes - 1).is_none() {
        let what = format!("{} nodes from port {} on: there are none beyond 65535", args.nodes, args.base_port);
        return Err(Trouble { what: format!("{what}\n  begin lower: --base-port 7401"), code: 2 });
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|error| io(Path::new("signals"), &error))?;
    }
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("drave-demo-{}", std::process::id())),
    };
    std::fs::create_dir_all(&dir).map_err(|error| io(&dir, &error))?;
    let endpoint = |id: u16| format!("127.0.0.1:{}", args.base_port + id - 1);
    let endpoints: Vec<String> = (1..=args.nodes).map(endpoint).collect();
    let peers = endpoints.iter().zip(1..).map(|(at, id)| format!("{id}={at}")).collect::<Vec<_>>().join(",");
    let register = Register { endpoints, pids: BTreeMap::new() };
    let mut running = Running {
        dir,
        peers,
        base_port: args.base_port,
        children: BTreeMap::new(),
        down: BTreeMap::new(),
        readers: Vec::new(),
        register,
    };
    let started = (1..=u64::from(args.nodes)).try_for_each(|id| running.start(id));
    let outcome = started.and_then(|()| {
        running.welcome();
        running.watch(&stop)
    });
    running.stop();
    outcome
}

impl Running {
    /// Starts one node as a process of its own, and passes on what it says.
    fn start(&mut self, id: u64) -> Result<(), Trouble> {
        let mut command = children::serve(id, &self.peers, &self.dir.join(format!("n{id}")))?;
        command.stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| io(Path::new("drave serve"), &error))?;
        if let Some(stderr) = child.stderr.take() {
            self.readers.push(std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    eprintln!("n{id} | {line}");
                }
            }));
        }
        self.register.pids.insert(id, child.id() as i32);
        self.register.write(self.base_port)?;
        self.children.insert(id, child);
        Ok(())
    }

    fn welcome(&self) {
        let (nodes, dir) = (self.children.len(), self.dir.display());
        eprintln!("{nodes} nodes at {} · data in {dir} · Ctrl-C stops them", self.register.endpoints.join(", "));
        let endpoints = match self.base_port {
            7401 if nodes == 3 => String::new(),
            _ => format!(" --endpoints {}", self.register.endpoints.join(",")),
        };
        eprintln!("try in another terminal: drave put lunch noodles{endpoints} · drave status{endpoints}");
    }

    /// Starts again what dies, until told to stop.
    fn watch(&mut self, stop: &AtomicBool) -> Result<(), Trouble> {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            for (id, child) in &mut self.children {
                if let Ok(Some(status)) = child.try_wait() {
                    if let Some(code) = status.code().filter(|code| matches!(code, 2 | 5 | 70 | 74 | 78)) {
                        return Err(Trouble { what: format!("n{id} ended with exit code {code}; see above"), code });
                    }
                    eprintln!("n{id} died ({status}); it starts again in {} s", DOWN.as_secs());
                    self.down.insert(*id, Instant::now() + DOWN);
                }
            }
            self.children.retain(|id, _| !self.down.contains_key(id));
            let due: Vec<u64> = self.down.iter().filter(|(_, at)| Instant::now() >= **at).map(|(id, _)| *id).collect();
            for id in due {
                self.down.remove(&id);
                self.start(id)?;
            }
        }
        Ok(())
    }

    /// Stops all nodes, the gentle way.
    fn stop(&mut self) {
        for child in self.children.values() {
            if let Some(pid) = Pid::from_raw(child.id() as i32) {
                // One that is gone already is what we want.
                let _gone = kill_process(pid, Signal::TERM);
            }
        }
        for (id, child) in &mut self.children {
            match child.wait() {
                Ok(status) => eprintln!("n{id} stopped ({status})"),
                Err(error) => eprintln!("n{id}: {error}"),
            }
        }
        // The last words of a node say why it ended.
        self.readers.drain(..).for_each(|reader| _ = reader.join());
        // Whoever reads it next finds no demo, which is true.
        let _gone = std::fs::remove_file(Register::path(self.base_port));
        eprintln!("the data stays in {}", self.dir.display());
    }
}

/// `drave kill`: SIGKILL, for a node of a demo and nothing else.
pub fn kill(args: &Kill) -> Result<(), Trouble> {
    let register = Register::read(args.base_port)?;
    let cluster = Cluster {
        endpoints: register.endpoints.clone(),
        timeout: Duration::from_secs(3),
        output: super::cluster::Output::Text,
        tls: Default::default(),
    };
    let client = cluster.client();
    let statuses = register.endpoints.iter().filter_map(|endpoint| client.status(endpoint).ok());
    let leader = statuses.filter(|s| s.role == crate::api::RoleName::Leader).max_by_key(|s| s.term);
    let id = match args.who.as_str() {
        "leader" => match &leader {
            Some(leader) => leader.node,
            None => {
                return Err(Trouble {
                    what: "there is no leader to kill just now\n  try again in a moment, or name one: drave kill 1"
                        .to_owned(),
                    code: 3,
                });
            }
        },
        who => match who.trim_start_matches('n').parse() {
            Ok(id) => id,
            Err(_) => {
                return Err(Trouble {
                    what: format!(
                        "{who:?} is neither leader nor a node's number\n  such as: drave kill leader · drave kill 2"
                    ),
                    code: 2,
                });
            }
        },
    };
    let gone =
        || Trouble { what: format!("no demo node {id} runs at port {}\n  see: drave status", args.base_port), code: 3 };
    let pid = register.pids.get(&id).copied().ok_or_else(gone)?;
    // A number may have been given to another process since: only a node of drave is killed.
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| gone())?;
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    if words.get(1) != Some(&&b"serve"[..]) {
        return Err(gone());
    }
    let pid = Pid::from_raw(pid).ok_or_else(gone)?;
    kill_process(pid, Signal::KILL).map_err(|error| Trouble { what: format!("n{id}: {error}"), code: 74 })?;
    match leader.filter(|leader| leader.node == id) {
        Some(leader) => println!("killed n{id} (was leader of term {})", leader.term),
        None => println!("killed n{id}"),
    }
    Ok(())
}
