//! The live view in a pseudo-terminal: its display, its keys, and the state it leaves behind.

use rustix::process::Signal;
use std::process::Command;
use support::{Cluster, drave, ports, until};
use terminal::Terminal;

mod support;
#[path = "support/terminal.rs"]
mod terminal;

/// A demo in a terminal.
struct Demo {
    directory: tempfile::TempDir,
    base: u16,
    terminal: Terminal,
}

impl Demo {
    fn start(columns: u16, rows: u16) -> Demo {
        let (directory, base) = (tempfile::tempdir().unwrap(), ports(3));
        let mut command = drave(&["demo", "--base-port", &base.to_string(), "--dir"]);
        command.arg(directory.path().join("data")).env("TMPDIR", directory.path());
        let terminal = Terminal::start(&mut command, columns, rows);
        let demo = Demo { directory, base, terminal };
        demo.leader();
        demo
    }

    /// Waits until there is a leader. Returns its id and its term.
    fn leader(&self) -> (u64, u64) {
        self.leader_after(0)
    }

    /// Waits until there is a leader of a term later than `term`.
    fn leader_after(&self, term: u64) -> (u64, u64) {
        let leads = || {
            let text = self.terminal.text();
            let (before, after) = text.lines().next()?.split_once(" leads term ")?;
            let node = before.rsplit_once('n')?.1.parse().ok()?;
            let now: u64 = after.split_once(' ')?.0.parse().ok()?;
            (now > term).then_some((node, now))
        };
        until("a leader of a later term", leads, || self.terminal.text())
    }

    /// Waits until the row of a node shows `state`.
    fn state(&self, node: u64, state: &str) {
        let row = |line: &str| line.starts_with(&format!("n{node} ")) && line.contains(state);
        self.terminal.line(&format!("n{node} {state}"), row);
    }

    fn event(&self, event: &str) {
        self.terminal.line(event, |line| line.contains(event));
    }

    /// The process ids of all nodes, from the demo's state file.
    fn pids(&self) -> Vec<i64> {
        let path = self.directory.path().join(format!("drave-demo-{}.json", self.base));
        let register: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        register["pids"].as_object().unwrap().values().map(|pid| pid.as_i64().unwrap()).collect()
    }
}

/// Whether a process is running and not a zombie.
fn is_running(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn expect_no_process(pids: &[i64]) {
    assert_eq!(pids.len(), 3);
    let gone = || (!pids.iter().any(|pid| is_running(*pid))).then_some(());
    until("all nodes of the demo have exited", gone, || format!("{pids:?}"));
}

#[test]
fn keys_kill_freeze_thaw_and_start_nodes() {
    let mut demo = Demo::start(80, 24);
    (1..=3).for_each(|node| demo.state(node, "runs"));
    let (first, term) = demo.leader();
    demo.terminal.press("k");
    demo.event(&format!("kill -9 of n{first}, leader of term {term}"));
    let (second, term) = demo.leader_after(term);
    assert_ne!(first, second);
    // The demo restarts the node by itself.
    demo.event(&format!("n{first} is started"));

    demo.terminal.press("z");
    demo.event(&format!("SIGSTOP of n{second}, leader of term {term}"));
    demo.state(second, "frozen");
    let (third, term) = demo.leader_after(term);
    assert_ne!(second, third);
    demo.terminal.press("z");
    demo.state(second, "runs");

    demo.terminal.press(&third.to_string());
    demo.state(third, &format!("dead, press {third}"));
    demo.leader_after(term);
    demo.terminal.press(&third.to_string());
    demo.state(third, "runs");
    demo.terminal.press("9");
    demo.event("there is no n9");

    let pids = demo.pids();
    demo.terminal.press("q");
    assert_eq!(demo.terminal.end(), Some(0));
    expect_no_process(&pids);
}

#[test]
fn keys_transfer_snapshot_and_switch_load() {
    let mut demo = Demo::start(120, 40);
    (1..=3).for_each(|node| demo.state(node, "runs"));
    let (first, term) = demo.leader();
    demo.terminal.press("b");
    demo.terminal.line("a load with latencies", |line| line.starts_with("load ") && line.contains(" · p99 "));
    demo.terminal.press("t");
    let (second, _) = demo.leader_after(term);
    assert_ne!(first, second);
    demo.terminal.press("s");
    for node in 1..=3 {
        demo.event(&format!("n{node} has a snapshot up to "));
    }
    demo.terminal.press("b");
    demo.terminal.line("the load is off", |line| line.starts_with("load off: "));
    let endpoints = (demo.base..demo.base + 3).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let left = support::run(drave(&["scan", "demo/", "--endpoints"]).arg(endpoints));
    assert_eq!((left.code, left.out.as_str()), (Some(0), ""), "the load removes its counters: {left:?}");
    demo.terminal.press("\x03");
    assert_eq!(demo.terminal.end(), Some(0));
}

#[test]
fn resized_terminal_is_redrawn() {
    let mut demo = Demo::start(120, 40);
    demo.terminal.line("addresses", |line| line.starts_with("node ") && line.contains(" address "));
    demo.terminal.resize(60, 16);
    let titles = |line: &str| line.starts_with("node ") && line.contains(" state") && !line.contains("address");
    demo.terminal.line("fewer columns", titles);
    demo.terminal.resize(80, 24);
    demo.terminal.line("all rows", |line| line.contains(" fsync p99 "));
    demo.terminal.press("q");
    assert_eq!(demo.terminal.end(), Some(0));
}

#[test]
fn signal_ends_view_and_all_nodes_even_frozen_ones() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut demo = Demo::start(80, 24);
        let (leader, _) = demo.leader();
        let pids = demo.pids();
        demo.terminal.press("z");
        demo.state(leader, "frozen");
        demo.terminal.program.signal(signal);
        assert_eq!(demo.terminal.end(), Some(0), "{signal:?}: {}", demo.terminal.text());
        expect_no_process(&pids);
    }
}

#[test]
fn killed_demo_leaves_no_node_running() {
    let demo = Demo::start(80, 24);
    let (leader, _) = demo.leader();
    let pids = demo.pids();
    demo.terminal.press("z");
    demo.state(leader, "frozen");
    demo.terminal.program.signal(Signal::KILL);
    expect_no_process(&pids);
}

#[test]
fn closed_terminal_ends_demo() {
    let demo = Demo::start(80, 24);
    // Wait for the view: before that, the closed terminal ends the demo as it ends any program.
    demo.leader();
    let pids = demo.pids();
    let mut program = demo.terminal.close();
    assert!(program.end(String::new).code().is_some(), "the demo exits by itself, not by a signal");
    expect_no_process(&pids);
}

#[test]
fn top_changes_cluster_only_on_second_key_press() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    // A follower: the view finds the other nodes through its response.
    let one = cluster.addresses[(leader + 1) % 3].clone();
    let mut command = drave(&["top", "--endpoints", &one]);
    let mut terminal = Terminal::start(&mut command, 80, 24);
    for node in 1..=3 {
        terminal.line("all members, though one was named", |line| {
            line.starts_with(&format!("n{node} ")) && line.ends_with("answers")
        });
    }
    terminal.press("k1zt");
    terminal.line("the view asks for a second press", |line| line.ends_with("press t again: transfer"));
    assert!(!terminal.text().contains("leader transfer"));
    terminal.press("t");
    terminal.line("another node leads", |line| line.contains(&format!(", after n{}", leader + 1)));
    cluster.expect_no_deaths();
    cluster.kill(leader);
    terminal.line("down", |line| line.starts_with(&format!("n{} ", leader + 1)) && line.ends_with("down"));
    terminal.press("q");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn top_without_terminal_fails() {
    let said = support::run(&mut drave(&["top"]));
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
    assert!(said.err.contains("drave status --watch"), "{said:?}");
}

/// The program's own code: a library has no view.
#[path = "../src/bin/drave/tui/terminal.rs"]
#[expect(dead_code, reason = "only the restoring of the terminal is tested")]
mod view_terminal;

/// If set, this test program panics inside a view. The test below runs it so in a terminal.
const PANIC: &str = "DRAVE_TEST_PANIC_IN_A_VIEW";

#[test]
fn panic_restores_terminal_and_is_visible() {
    let name = "panic_restores_terminal_and_is_visible";
    if std::env::var_os(PANIC).is_some() {
        let _screen = view_terminal::Screen::open().unwrap();
        // Panics on a detached thread with the screen still open: the panic must end the process.
        std::thread::spawn(|| panic!("on purpose")).join().unwrap_err();
        std::process::abort();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(PANIC, "1");
    let mut terminal = Terminal::start(&mut command, 80, 24);
    assert_eq!(terminal.end(), None, "the panic aborts the process");
    terminal.line("the panic message", |line| line.contains("on purpose"));
    assert!(terminal.is_restored(), "{}", terminal.text());
}

#[test]
fn plain_demo_prints_lines() {
    let (directory, base) = (tempfile::tempdir().unwrap(), ports(1));
    let mut command = drave(&["demo", "--plain", "--nodes", "1", "--base-port", &base.to_string(), "--dir"]);
    command.arg(directory.path().join("data")).env("TMPDIR", directory.path());
    let mut terminal = Terminal::start(&mut command, 120, 40);
    terminal.line("a prefixed line", |line| line.starts_with("n1 | "));
    assert!(!terminal.screen.lock().unwrap().screen().alternate_screen());
    terminal.press("\x03");
    assert_eq!(terminal.end(), Some(0));
}
