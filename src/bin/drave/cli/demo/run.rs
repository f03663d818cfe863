//! `drave demo`: a real cluster on this machine, one process per node, as a live view or as log lines.

use super::nodes::{DemoNodes, LogTarget, NodeDeath, RESTART_DELAY, print_to_stderr};
use super::registry::io_error;
use crate::remote::cluster::{ClusterArgs, Output};
use crate::remote::failure::CliError;
use crate::remote::interrupt;
use crate::remote::tls::Tls;
use crate::tui::app::{View, ViewConfig};
use crate::tui::event_log::Severity;
use crate::tui::keys::{KeyAction, NodeControl};
use crate::tui::terminal;
use clap::Args;
use rustix::process::Signal;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The pause between two checks for dead nodes, if no live view is shown.
const SUPERVISION_INTERVAL: Duration = Duration::from_millis(50);

/// Runs a real cluster on this machine, one process a node.
#[derive(Args, Debug)]
pub struct Demo {
    /// The number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// The directory for the nodes' data; default: a new temporary directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints lines instead of a live view; the default without a terminal
    #[arg(long)]
    plain: bool,
    /// The first node's port; the other nodes use the ports after it
    #[arg(long, default_value_t = 7401)]
    base_port: u16,
}

/// `drave demo`: runs until a signal or the user stops it.
pub fn run(args: &Demo) -> Result<(), CliError> {
    if args.base_port.checked_add(args.nodes - 1).is_none() {
        let message = format!("{} nodes from port {} on need ports above 65535", args.nodes, args.base_port);
        return Err(CliError { message: format!("{message}\n  use a lower port: --base-port 7401"), code: 2 });
    }
    let shows_view = !args.plain && terminal::is_interactive();
    let stop =
        interrupt::stop_flag(if shows_view { interrupt::LIVE_VIEW_SIGNALS } else { interrupt::LINE_OUTPUT_SIGNALS })?;
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("drave-demo-{}", std::process::id())),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| io_error(&dir, &error))?;
    let log_target = if shows_view { LogTarget::Files } else { LogTarget::Stderr };
    let mut nodes = DemoNodes::new(args.nodes, args.base_port, dir.clone(), log_target);
    let outcome = nodes.start_all_nodes().and_then(|()| match shows_view {
        true => run_live_view(&mut nodes, &dir.display().to_string(), &stop),
        false => {
            print_welcome(&nodes, args, &dir.display().to_string());
            supervise_and_print_deaths(&mut nodes, &stop)
        }
    });
    nodes.stop_all_nodes();
    outcome
}

fn print_welcome(nodes: &DemoNodes, args: &Demo, dir: &str) {
    let endpoints = nodes.endpoints();
    print_to_stderr(&format!(
        "{} nodes at {} · data in {dir} · Ctrl-C stops them",
        endpoints.len(),
        endpoints.join(", ")
    ));
    let endpoints_option = match (args.base_port, args.nodes) {
        (7401, 3) => String::new(),
        _ => format!(" --endpoints {}", endpoints.join(",")),
    };
    print_to_stderr(&format!(
        "try in another terminal: drave put lunch noodles{endpoints_option} · drave status{endpoints_option}"
    ));
}

/// Restarts dead nodes, and prints a line for each death, until `stop` is set.
fn supervise_and_print_deaths(nodes: &mut DemoNodes, stop: &AtomicBool) -> Result<(), CliError> {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(SUPERVISION_INTERVAL);
        for NodeDeath { node, exit_status } in nodes.supervise()? {
            print_to_stderr(&format!("n{node} died ({exit_status}); it starts again in {} s", RESTART_DELAY.as_secs()));
        }
    }
    Ok(())
}

fn run_live_view(nodes: &mut DemoNodes, dir: &str, stop: &AtomicBool) -> Result<(), CliError> {
    let cluster = ClusterArgs {
        endpoints: nodes.endpoints().to_vec(),
        timeout: Duration::from_secs(5),
        output: Output::Text,
        tls: Tls::default(),
    };
    let config = ViewConfig {
        title: "drave demo",
        location: dir.to_owned(),
        cluster,
        are_endpoints_numbered: true,
        control: NodeControl::ChildProcesses,
    };
    let mut view = View::open(config)?;
    let outcome = run_view_loop(nodes, &mut view, stop);
    // Restores the terminal before the caller prints an error, so that the error is readable.
    view.close();
    outcome
}

fn run_view_loop(nodes: &mut DemoNodes, view: &mut View, stop: &AtomicBool) -> Result<(), CliError> {
    while !stop.load(Ordering::Relaxed) {
        // `record_process` appends an event for each death. The exit status is a second event, unless it is SIGKILL.
        let deaths = nodes.supervise()?.into_iter();
        for NodeDeath { node, exit_status } in
            deaths.filter(|death| death.exit_status.signal() != Some(Signal::KILL.as_raw()))
        {
            view.append_event(Severity::Plain, format!("n{node} ended: {exit_status}"));
        }
        nodes.process_states().into_iter().for_each(|(node, process)| view.record_process(node, process));
        for action in view.update_and_draw()? {
            match action {
                KeyAction::Quit => return Ok(()),
                KeyAction::KillLeader => kill_leader(nodes, view),
                KeyAction::KillOrStart(id) => kill_or_start(nodes, view, id)?,
                KeyAction::FreezeOrThaw => freeze_or_thaw(nodes, view),
                // `update_and_draw` has performed these actions already.
                KeyAction::TransferLeadership | KeyAction::ToggleLoad | KeyAction::TakeSnapshots => {}
            }
        }
    }
    Ok(())
}

/// The id of the leader, and its name and term as text; `None` if no leader is known.
fn leader_and_description(view: &View) -> Option<(u64, String)> {
    view.model().leader().map(|leader| (leader.node, format!("n{}, leader of term {}", leader.node, leader.term)))
}

fn kill_leader(nodes: &DemoNodes, view: &mut View) {
    match leader_and_description(view) {
        Some((id, description)) if nodes.send_signal(id, Signal::KILL) => {
            view.append_event(Severity::Plain, format!("kill -9 of {description}"))
        }
        _ => view.append_event(Severity::Plain, "there is no leader to kill now"),
    }
}

fn kill_or_start(nodes: &mut DemoNodes, view: &mut View, id: u64) -> Result<(), CliError> {
    match nodes.kill_or_start(id)? {
        Some(true) => view.append_event(Severity::Plain, format!("kill -9 of n{id}")),
        // The node was started: `record_process` appends an event for that.
        Some(false) => {}
        None => view.append_event(Severity::Plain, format!("there is no n{id}")),
    }
    Ok(())
}

/// Continues the frozen node, if there is one; otherwise freezes the leader.
fn freeze_or_thaw(nodes: &DemoNodes, view: &mut View) {
    if let Some(id) = nodes.frozen_node() {
        nodes.send_signal(id, Signal::CONT);
        return;
    }
    match leader_and_description(view) {
        Some((id, description)) if nodes.send_signal(id, Signal::STOP) => {
            view.append_event(Severity::Plain, format!("SIGSTOP of {description}"))
        }
        _ => view.append_event(Severity::Plain, "there is no leader to freeze now"),
    }
}
