//! The live view of `demo` and `top` in a pseudoterminal: its display, its keys, and the terminal and processes that it
//! leaves behind.

use rustix::process::Signal;
use std::process::Command;
use support::{Cluster, drave_command, reserve_ports, wait_until};
use terminal::Terminal;

mod support;
#[path = "support/terminal.rs"]
mod terminal;

/// A running demo in a pseudoterminal.
struct Demo {
    directory: tempfile::TempDir,
    base_port: u16,
    terminal: Terminal,
}

impl Demo {
    fn start(columns: u16, rows: u16) -> Demo {
        let (directory, base_port) = (tempfile::tempdir().unwrap(), reserve_ports(3));
        let mut command = drave_command(&["demo", "--base-port", &base_port.to_string(), "--dir"]);
        command.arg(directory.path().join("data")).env("TMPDIR", directory.path());
        let terminal = Terminal::start(&mut command, columns, rows);
        let demo = Demo { directory, base_port, terminal };
        demo.wait_for_leader();
        demo
    }

    /// Waits until there is a leader. Returns its id and its term.
    fn wait_for_leader(&self) -> (u64, u64) {
        self.wait_for_leader_after(0)
    }

    /// Waits until there is a leader of a term later than `term`.
    fn wait_for_leader_after(&self, term: u64) -> (u64, u64) {
        let later_leader = || {
            let text = self.terminal.screen_text();
            let (before, after) = text.lines().next()?.split_once(" leads term ")?;
            let node = before.rsplit_once('n')?.1.parse().ok()?;
            let later_term: u64 = after.split_once(' ')?.0.parse().ok()?;
            (later_term > term).then_some((node, later_term))
        };
        wait_until("a leader of a later term", later_leader, || self.terminal.screen_text())
    }

    /// Waits until the row of a node shows `state`.
    fn wait_for_state(&self, node: u64, state: &str) {
        let shows_state = |line: &str| line.starts_with(&format!("n{node} ")) && line.contains(state);
        self.terminal.wait_for_line(&format!("n{node} {state}"), shows_state);
    }

    fn wait_for_event(&self, event: &str) {
        self.terminal.wait_for_line(event, |line| line.contains(event));
    }

    /// The process ids of all nodes, from the demo's state file.
    fn node_pids(&self) -> Vec<i64> {
        let path = self.directory.path().join(format!("drave-demo-{}.json", self.base_port));
        let state_file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        state_file["pids"].as_object().unwrap().values().map(|pid| pid.as_i64().unwrap()).collect()
    }
}

/// Whether a process is running and not a zombie.
fn is_running(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn expect_no_process(pids: &[i64]) {
    assert_eq!(pids.len(), 3);
    let none_running = || (!pids.iter().any(|pid| is_running(*pid))).then_some(());
    wait_until("all nodes of the demo have exited", none_running, || format!("{pids:?}"));
}

#[test]
fn keys_kill_freeze_thaw_and_start_nodes() {
    let mut demo = Demo::start(80, 24);
    (1..=3).for_each(|node| demo.wait_for_state(node, "runs"));
    let (first, term) = demo.wait_for_leader();
    demo.terminal.press("k");
    demo.wait_for_event(&format!("kill -9 of n{first}, leader of term {term}"));
    let (second, term) = demo.wait_for_leader_after(term);
    assert_ne!(first, second);
    // The demo restarts the node by itself.
    demo.wait_for_event(&format!("n{first} is started"));

    demo.terminal.press("z");
    demo.wait_for_event(&format!("SIGSTOP of n{second}, leader of term {term}"));
    demo.wait_for_state(second, "frozen");
    let (third, term) = demo.wait_for_leader_after(term);
    assert_ne!(second, third);
    demo.terminal.press("z");
    demo.wait_for_state(second, "runs");

    demo.terminal.press(&third.to_string());
    demo.wait_for_state(third, &format!("dead, press {third}"));
    demo.wait_for_leader_after(term);
    demo.terminal.press(&third.to_string());
    demo.wait_for_state(third, "runs");
    demo.terminal.press("9");
    demo.wait_for_event("there is no n9");

    let pids = demo.node_pids();
    demo.terminal.press("q");
    assert_eq!(demo.terminal.wait_for_exit(), Some(0));
    expect_no_process(&pids);
}

#[test]
fn keys_transfer_leadership_take_snapshots_and_switch_load() {
    let mut demo = Demo::start(120, 40);
    (1..=3).for_each(|node| demo.wait_for_state(node, "runs"));
    let (first, term) = demo.wait_for_leader();
    demo.terminal.press("b");
    demo.terminal.wait_for_line("a load with latencies", |line| line.starts_with("load ") && line.contains(" · p99 "));
    demo.terminal.press("t");
    let (second, _) = demo.wait_for_leader_after(term);
    assert_ne!(first, second);
    demo.terminal.press("s");
    for node in 1..=3 {
        demo.wait_for_event(&format!("n{node} has a snapshot up to "));
    }
    demo.terminal.press("b");
    demo.terminal.wait_for_line("the load is off", |line| line.starts_with("load off: "));
    let endpoints =
        (demo.base_port..demo.base_port + 3).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let scan_output = support::run(drave_command(&["scan", "demo/", "--endpoints"]).arg(endpoints));
    assert_eq!(
        (scan_output.code, scan_output.out.as_str()),
        (Some(0), ""),
        "the load removes its counters: {scan_output:?}"
    );
    demo.terminal.press("\x03");
    assert_eq!(demo.terminal.wait_for_exit(), Some(0));
}

#[test]
fn resized_terminal_is_redrawn() {
    let mut demo = Demo::start(120, 40);
    demo.terminal.wait_for_line("addresses", |line| line.starts_with("node ") && line.contains(" address "));
    demo.terminal.resize(60, 16);
    let has_fewer_columns =
        |line: &str| line.starts_with("node ") && line.contains(" state") && !line.contains("address");
    demo.terminal.wait_for_line("fewer columns", has_fewer_columns);
    demo.terminal.resize(80, 24);
    demo.terminal.wait_for_line("all rows", |line| line.contains(" fsync p99 "));
    demo.terminal.press("q");
    assert_eq!(demo.terminal.wait_for_exit(), Some(0));
}

#[test]
fn signal_ends_view_and_all_nodes_even_frozen_ones() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut demo = Demo::start(80, 24);
        let (leader, _) = demo.wait_for_leader();
        let pids = demo.node_pids();
        demo.terminal.press("z");
        demo.wait_for_state(leader, "frozen");
        demo.terminal.program.signal(signal);
        assert_eq!(demo.terminal.wait_for_exit(), Some(0), "{signal:?}: {}", demo.terminal.screen_text());
        expect_no_process(&pids);
    }
}

#[test]
fn killed_demo_leaves_no_node_running() {
    let demo = Demo::start(80, 24);
    let (leader, _) = demo.wait_for_leader();
    let pids = demo.node_pids();
    demo.terminal.press("z");
    demo.wait_for_state(leader, "frozen");
    demo.terminal.program.signal(Signal::KILL);
    expect_no_process(&pids);
}

#[test]
fn closed_terminal_ends_demo() {
    let demo = Demo::start(80, 24);
    // Wait until the view is shown: before that, a closed terminal ends the demo by SIGHUP, like any program.
    demo.wait_for_leader();
    let pids = demo.node_pids();
    let mut program = demo.terminal.close();
    assert!(program.wait(String::new).code().is_some(), "the demo exits by itself, not by a signal");
    expect_no_process(&pids);
}

#[test]
fn top_changes_cluster_only_on_second_key_press() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_for_leader();
    // The view is given a follower's address, and finds the other nodes through the follower's response.
    let follower_address = cluster.addresses[(leader + 1) % 3].clone();
    let mut command = drave_command(&["top", "--endpoints", &follower_address]);
    let mut terminal = Terminal::start(&mut command, 80, 24);
    for node in 1..=3 {
        terminal.wait_for_line("all members, though one was named", |line| {
            line.starts_with(&format!("n{node} ")) && line.ends_with("answers")
        });
    }
    terminal.press("k1zt");
    terminal.wait_for_line("the view asks for a second press", |line| line.ends_with("press t again: transfer"));
    assert!(!terminal.screen_text().contains("leader transfer"));
    terminal.press("t");
    terminal.wait_for_line("another node leads", |line| line.contains(&format!(", after n{}", leader + 1)));
    cluster.expect_no_deaths();
    cluster.kill(leader);
    terminal.wait_for_line("down", |line| line.starts_with(&format!("n{} ", leader + 1)) && line.ends_with("down"));
    terminal.press("q");
    assert_eq!(terminal.wait_for_exit(), Some(0));
}

#[test]
fn top_without_terminal_fails() {
    let output = support::run(&mut drave_command(&["top"]));
    assert_eq!((output.code, output.out.as_str()), (Some(2), ""), "{output:?}");
    assert!(output.err.contains("drave status --watch"), "{output:?}");
}

/// The program's code for the terminal, which is not part of the library.
#[path = "../src/bin/drave/tui/terminal.rs"]
#[expect(dead_code, reason = "only the restoring of the terminal is tested")]
mod view_terminal;

/// If this variable is set, the test below panics inside a view. The test runs itself with this variable in a
/// pseudoterminal.
const PANIC_VARIABLE: &str = "DRAVE_TEST_PANIC_IN_A_VIEW";

#[test]
fn panic_restores_terminal_and_is_visible() {
    let test_name = "panic_restores_terminal_and_is_visible";
    if std::env::var_os(PANIC_VARIABLE).is_some() {
        let _screen = view_terminal::Screen::open().unwrap();
        // Panics on a detached thread with the screen still open: the panic must end the process.
        std::thread::spawn(|| panic!("on purpose")).join().unwrap_err();
        std::process::abort();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test_name, "--nocapture"]).env(PANIC_VARIABLE, "1");
    let mut terminal = Terminal::start(&mut command, 80, 24);
    assert_eq!(terminal.wait_for_exit(), None, "the panic aborts the process");
    terminal.wait_for_line("the panic message", |line| line.contains("on purpose"));
    assert!(terminal.is_restored(), "{}", terminal.screen_text());
}

#[test]
fn plain_demo_prints_lines() {
    let (directory, base_port) = (tempfile::tempdir().unwrap(), reserve_ports(1));
    let mut command =
        drave_command(&["demo", "--plain", "--nodes", "1", "--base-port", &base_port.to_string(), "--dir"]);
    command.arg(directory.path().join("data")).env("TMPDIR", directory.path());
    let mut terminal = Terminal::start(&mut command, 120, 40);
    terminal.wait_for_line("a prefixed line", |line| line.starts_with("n1 | "));
    assert!(!terminal.screen.lock().unwrap().screen().alternate_screen());
    terminal.press("\x03");
    assert_eq!(terminal.wait_for_exit(), Some(0));
}
